"""The multi-label classifier in the tools of scikit-learn that take several labels."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    cross_val_predict,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
from skfewshot.datasets import make_scenes
from skfewshot.metrics import mean_average_precision_scorer
from skfewshot.model_selection import MultilabelStratifiedKFold

KINDS = ["striped star", "plain heart", "spotted ring", "checked square"]
FOLDS = MultilabelStratifiedKFold(2)


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(24, kinds=KINDS, random_state=0)


@pytest.fixture(scope="module")
def Y(scenes):
    return scenes.labels


@pytest.fixture(scope="module")
def tokens(scenes):
    return CLIPFeaturizer("tiny", output="tokens").transform(scenes.images)


@pytest.fixture(scope="module")
def X(scenes):
    """One embedding an image."""
    return CLIPFeaturizer("tiny").transform(scenes.images)


def make_model(**params):
    return MultiLabelPrototypeClassifier(label_names=KINDS, **params)


@pytest.mark.parametrize("rows", ["tokens", "X"])
def test_searches(request, Y, rows):
    X = request.getfixturevalue(rows)
    grid = {"text_weight": [0.3, 0.6, 0.9]}
    options = {"scoring": mean_average_precision_scorer, "error_score": "raise"}
    for search in (
        GridSearchCV(make_model(), grid, cv=FOLDS, **options),
        HalvingGridSearchCV(
            make_model(), grid, cv=FOLDS, min_resources=12, factor=2, **options
        ),
    ):
        search.fit(X, Y)
        assert search.best_estimator_.prototype_source_ == "embedding"
        assert search.best_score_ > 0.7


@pytest.mark.parametrize("library", [pd, pl])
def test_columns_name_the_labels(tokens, Y, library):
    """Through a search too; of cross_val_predict, probabilities want label_names."""
    frame = pd.DataFrame(Y, columns=KINDS)
    frame = frame if library is pd else pl.DataFrame(Y, schema=KINDS)
    search = GridSearchCV(
        MultiLabelPrototypeClassifier(),
        {"n_select": [5]},
        scoring=mean_average_precision_scorer,
        cv=FOLDS,
        error_score="raise",
    ).fit(tokens, frame)
    assert search.best_estimator_.prototype_source_ == "embedding"
    assert_array_equal(search.best_estimator_.classes_, KINDS)
    by_name = cross_val_predict(
        make_model(), tokens, frame, cv=FOLDS, method="predict_proba"
    )
    assert by_name.shape == Y.shape
    with pytest.warns(UserWarning, match="label_names was not given"):
        cross_val_predict(
            MultiLabelPrototypeClassifier(),
            tokens,
            frame,
            cv=FOLDS,
            method="predict_proba",
        )


@pytest.mark.parametrize("dtype", ["boolean", "Int64", "bool[pyarrow]", "float32"])
def test_missing_indicators_are_unknown(tokens, Y, dtype):
    frame = pd.DataFrame(Y, columns=KINDS).astype(dtype)
    model = MultiLabelPrototypeClassifier().fit(tokens, frame)
    assert model.prototype_source_ == "embedding"
    whole = model.decision_function(tokens)
    frame.iloc[3, 1] = None
    partial = Y.astype(float)
    partial[3, 1] = np.nan
    found = model.fit(tokens, frame).decision_function(tokens)
    same = pd.DataFrame(partial, columns=KINDS)
    other = MultiLabelPrototypeClassifier().fit(tokens, same)
    assert_array_equal(found, other.decision_function(tokens))
    assert np.abs(found - whole).max() > 0


def test_curves_and_several_scorers(tokens, Y):
    scoring = {"map": mean_average_precision_scorer, "f1": "f1_macro"}
    scores = cross_validate(
        make_model(), tokens, Y, cv=FOLDS, scoring=scoring, error_score="raise"
    )
    assert min(scores["test_map"].mean(), scores["test_f1"].mean()) > 0.7
    options = {"cv": FOLDS, "scoring": mean_average_precision_scorer}
    by_penalty = validation_curve(
        make_model(),
        tokens,
        Y,
        param_name="n_select",
        param_range=[1, 5],
        error_score="raise",
        **options,
    )
    by_size = learning_curve(
        make_model(), tokens, Y, train_sizes=[0.7, 1.0], error_score="raise", **options
    )
    assert min(by_penalty[1].min(), by_size[2].min()) > 0.5


def test_permutation_importance_of_embeddings(X, Y):
    def brier(model, X, Y):
        return -np.square(model.predict_proba(X) - Y).mean()

    found = permutation_importance(
        make_model().fit(X, Y), X, Y, scoring=brier, n_repeats=1, random_state=0
    )
    assert found.importances.shape == (X.shape[1], 1)
    assert np.abs(found.importances).max() > 0


def test_frozen(scenes, tokens, Y):
    fitted = make_model().fit(tokens, Y)
    frozen = FrozenEstimator(fitted)
    pipeline = make_pipeline(CLIPFeaturizer("tiny", output="tokens"), frozen)
    pipeline.fit(scenes.images[:2], Y[:2])
    assert_array_equal(
        pipeline.predict_proba(scenes.images), fitted.predict_proba(tokens)
    )


def test_stacking(X, Y):
    models = [("a", make_model()), ("b", make_model(text_weight=0.3))]
    final = MultiLabelPrototypeClassifier(label_features=None)
    model = StackingClassifier(models, final_estimator=final, cv=KFold(2))
    assert model.fit(X, Y).predict(X).shape == Y.shape


def test_tools_for_one_label_say_so(X, Y):
    with pytest.raises(ValueError, match="y should be a 1d array"):
        CalibratedClassifierCV(make_model(), cv=2).fit(X, Y)


@pytest.mark.parametrize("library", [pd, pl])
def test_weights_in_a_column(tokens, Y, library):
    weight = np.linspace(0.1, 2, 24)
    expected = make_model().fit(tokens, Y, sample_weight=weight)
    model = make_model().fit(tokens, Y, sample_weight=library.Series(weight))
    assert model.slope_ == expected.slope_
