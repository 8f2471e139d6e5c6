"""Scikit-learn's common checks on every estimator, with no expected failure."""

import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)

# What is trained for a number of epochs learns these small tasks in fewer.
ESTIMATORS = [
    CMMClassifier(),
    ZeroShotClassifier(),
    TipAdapterClassifier(),
    GaussianDiscriminantClassifier(),
    LPPlusPlusClassifier(max_iter=30),
    CLAPClassifier(max_iter=20),
    TaskResClassifier(max_iter=20),
    ProKeRClassifier(),
    MultiLabelPrototypeClassifier(),
]
#: Others of these, for the whole suite.
VARIANTS = [
    CMMClassifier(text_features=None, alpha=2.0, class_weight="balanced"),
    CMMClassifier(solver="paper"),
    TipAdapterClassifier(train_keys=True, max_iter=10),
    GaussianDiscriminantClassifier(alpha=1.0),
    TaskResClassifier(batch_size=None, class_weight="balanced", max_iter=20),
    ProKeRClassifier(beta=5.5, regularization=1.0, amplitude=30, residual="cosine"),
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
#: Pipeline fits its steps in place, so these fail whatever the steps are; scikit-learn
#: lists them for its own pipelines.
PIPELINE = make_pipeline(StandardScaler(), CMMClassifier())
PIPELINE_OWN = {"check_dont_overwrite_parameters", "check_estimators_overwrite_params"}


#: They set `max_iter` to 1000.
LONG = {"check_class_weight_classifiers"}


def is_long(estimator, check):
    return check.func.__name__ in LONG and hasattr(estimator, "device")


def checks_of(estimators, *marks, without=()):
    """Return (estimator, check) for all checks, with marks and names of their own."""
    return [
        pytest.param(
            estimator,
            check,
            id=f"{type(estimator).__name__}-{number}-{check.func.__name__}",
            marks=(*marks, pytest.mark.slow) if is_long(estimator, check) else marks,
        )
        for number, estimator in enumerate(estimators)
        for _, check in estimator_checks_generator(estimator)
        if check.func.__name__ not in without
    ]


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        *checks_of(ESTIMATORS),
        *checks_of(VARIANTS, pytest.mark.slow),
        *checks_of([PIPELINE], pytest.mark.slow, without=PIPELINE_OWN),
    ],
)
def test_estimator(estimator, check):
    check(clone(estimator))
