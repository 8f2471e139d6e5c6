"""Scikit-learn's common checks on every estimator, with no expected failure."""

import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    estimator_checks_generator,
    parametrize_with_checks,
)

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    CMMClassifierCV,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)

ESTIMATORS = [
    CMMClassifier(),
    CMMClassifier(text_features=None, alpha=2.0, class_weight="balanced"),
    CMMClassifier(chunk_size=7, triplet_weight=0.0),
    CMMClassifierCV(map_penalties=(1.0, 0.1), text_penalties=(10.0,)),
    CMMClassifierCV(
        alphas=("auto", 1.0), map_penalties=(1.0,), text_penalties=(10.0,), cv=2
    ),
    ZeroShotClassifier(),
    TipAdapterClassifier(),
    TipAdapterClassifier(train_keys=True),
    GaussianDiscriminantClassifier(),
    GaussianDiscriminantClassifier(alpha=1.0),
    LPPlusPlusClassifier(),
    CLAPClassifier(),
    TaskResClassifier(),
    TaskResClassifier(batch_size=None, class_weight="balanced"),
    ProKeRClassifier(),
    ProKeRClassifier(beta=5.5, regularization=1.0, amplitude=30, residual="cosine"),
    MultiLabelPrototypeClassifier(),
    MultiLabelPrototypeClassifier(
        label_features=None,
        selection="lcm_paper",
        pooling="agreement",
        query_scoring="both",
        threshold="cardinality",
    ),
    MultiLabelPrototypeClassifier(
        selection="none", n_select=1, query_scoring="global", threshold=0.3
    ),
]


@parametrize_with_checks(ESTIMATORS)
def test_estimator(estimator, check):
    check(estimator)


PIPELINE = make_pipeline(StandardScaler(), CMMClassifier())
#: Pipeline fits its steps in place, so these fail whatever the steps are; scikit-learn
#: lists them for its own pipelines.
PIPELINE_OWN = {"check_dont_overwrite_parameters", "check_estimators_overwrite_params"}
PIPELINE_CHECKS = [
    check
    for _, check in estimator_checks_generator(PIPELINE)
    if check.func.__name__ not in PIPELINE_OWN
]


@pytest.mark.parametrize("check", PIPELINE_CHECKS, ids=str)
def test_pipeline(check):
    check(clone(PIPELINE))
