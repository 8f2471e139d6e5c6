"""scikit-learn's searches, curves and folds, with the texts where they should be."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import loguniform
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    StratifiedGroupKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)

from skfewshot import CMMClassifier


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "params"),
    [(HalvingGridSearchCV, {}), (HalvingRandomSearchCV, {"random_state": 0})],
)
@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ({"resource": "n_samples", "min_resources": 8}, [8, 24]),
        ({"resource": "max_iter", "min_resources": 10, "max_resources": 30}, [10, 30]),
    ],
)
def test_halving(support, query, search, params, resource, expected):
    grid = {"alpha": [0.3, 1.0, 3.0], "triplet_weight": [0.0, 0.3, 1.0]}
    solver = "paper" if "max_iter" in resource.values() else "gaussian"
    found = search(
        CMMClassifier(solver=solver, learning_rate=0.01),
        grid,
        cv=2,
        factor=3,
        error_score="raise",
        **params,
        **resource,
    ).fit(support.X, support.names)
    assert found.n_resources_[:2] == expected
    assert found.best_estimator_.prototype_source_ == "embedding"
    assert found.score(query.X, query.names) > 0.8


@pytest.mark.slow
def test_randomized_search(support):
    search = RandomizedSearchCV(
        CMMClassifier(),
        {"alpha": loguniform(0.1, 10)},
        n_iter=3,
        random_state=0,
        error_score="raise",
    ).fit(support.X, support.names)
    assert 0.1 <= search.best_params_["alpha"] <= 10


@pytest.mark.slow
def test_curves_and_several_scorers(support):
    X, y = support.X, support.names
    by_shots = learning_curve(
        CMMClassifier(),
        X,
        y,
        cv=3,
        train_sizes=[0.4, 1.0],
        shuffle=True,
        random_state=0,
    )
    by_alpha = validation_curve(
        CMMClassifier(), X, y, param_name="alpha", param_range=[0.3, 3.0], cv=3
    )
    assert by_shots[2].shape == by_alpha[1].shape == (2, 3)
    assert min(by_shots[2].mean(), by_alpha[1].mean()) > 0.7
    scoring = ["accuracy", "neg_log_loss", "roc_auc_ovr", "f1_macro"]
    scores = cross_validate(
        CMMClassifier(), X, y, cv=3, scoring=scoring, error_score="raise"
    )
    assert all(np.isfinite(scores[f"test_{name}"]).all() for name in scoring)
    score, by_chance, _ = permutation_test_score(
        CMMClassifier(), X, y, cv=3, n_permutations=5, random_state=0
    )
    assert score > by_chance.max()


@pytest.mark.slow
def test_groups(support):
    groups = np.arange(24) // 3
    for folds in (GroupKFold(4), StratifiedGroupKFold(4)):
        scores = cross_val_score(
            CMMClassifier(),
            support.X,
            support.names,
            groups=groups,
            cv=folds,
            error_score="raise",
        )
        assert scores.mean() > 0.7


def test_classes_that_a_fold_lacks_are_predicted_from_their_names(support):
    X, names, codes = support.X, support.names, support.codes
    folds = GroupKFold(3)  # a class is a group
    without = cross_val_predict(CMMClassifier(), X, names, groups=codes, cv=folds)
    assert (without == names).mean() == 0
    with_names = cross_val_predict(
        CMMClassifier(extra_classes=support.classes), X, names, groups=codes, cv=folds
    )
    assert (with_names == names).mean() > 0.5
    numbered = CMMClassifier(extra_classes=[0, 1, 2], class_names=support.classes)
    probabilities = cross_val_predict(
        numbered, X, names, groups=codes, cv=folds, method="predict_proba"
    )
    assert_array_equal(
        np.array(support.classes)[probabilities.argmax(axis=1)], with_names
    )
