"""CMMClassifierCV: the result of GridSearchCV, the folds, and what is left to users."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skfewshot import CMMClassifier, CMMClassifierCV
from skfewshot.classifiers import _search
from skfewshot.classifiers._folds import stratified_folds

GRID = {
    "alpha": ["auto", 0.0, 0.5],
    "map_penalty": [1.0, 0.1],
    "margin": [0.1, 0.3],
    "text_penalty": [3.0, 100.0],
}
SMALL = {"map_penalties": (1.0, 0.1), "text_penalties": (10.0,)}


def make_task(shots=6, n_classes=6, d=24, seed=0, noise=2.2, dtype=np.float64):
    """Images and texts round two directions; `shots` is a number, or one a class."""
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(n_classes, d))
    image_cone, text_cone = rng.normal(size=(2, d))
    y = np.repeat(np.arange(n_classes), shots)
    X = image_cone + concepts[y] + noise * rng.normal(size=(len(y), d))
    text = text_cone + concepts + noise * rng.normal(size=(n_classes, d))
    return X.astype(dtype), y, dict(enumerate(text.astype(dtype)))


def search(text, grid=GRID, **parameters):
    return CMMClassifierCV(
        text,
        alphas=grid["alpha"],
        map_penalties=grid["map_penalty"],
        margins=grid["margin"],
        text_penalties=grid["text_penalty"],
        **parameters,
    )


def assert_same_as_grid_search(ours, theirs, n_test):
    """Compare two searches; in single precision a row may be on the fence."""
    flip = 1.01 / n_test + 1e-12
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    assert ours.n_splits_ == theirs.n_splits_
    for key, expected in theirs.cv_results_.items():
        if key.endswith("_time"):
            continue
        found = ours.cv_results_[key]
        if key.startswith("split"):
            assert_allclose(found, expected, rtol=1e-12, atol=flip, err_msg=key)
        elif key.startswith("param_"):
            assert found.dtype == expected.dtype
            assert_array_equal(found, expected)
        elif np.isinf(n_test) and key != "params":
            assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=key)
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_index_ == theirs.best_index_


def run_both(X, y, text, dtype=np.float64, weight=None, scoring=None, **shared):
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    ours = search(text, cv=folds, scoring=scoring, **shared)
    theirs = GridSearchCV(
        CMMClassifier(text, **shared), GRID, cv=folds, scoring=scoring
    )
    ours.fit(X, y, sample_weight=weight)
    theirs.fit(X, y, sample_weight=weight)
    n_test = min(len(test) for _, test in folds)
    assert_same_as_grid_search(ours, theirs, np.inf if dtype == np.float64 else n_test)
    return ours, theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize(
    ("shots", "is_weighted"), [(6, False), ((9, 3, 4, 12, 5, 7), True)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_result_is_that_of_grid_search(dtype, with_text, shots, is_weighted, seed):
    X, y, text = make_task(shots, dtype=dtype, seed=seed)
    weight = np.random.default_rng(1).integers(0, 3, len(y)) if is_weighted else None
    ours, theirs = run_both(X, y, text if with_text else None, dtype, weight)
    assert len(set(ours.cv_results_["mean_test_score"])) > 2
    best = theirs.best_estimator_
    assert_array_equal(ours.map_, best.map_)
    assert_array_equal(ours.predict_proba(X), best.predict_proba(X))
    assert ours.best_score_ == pytest.approx(theirs.best_score_, abs=0.02)


def accuracy(model, X, y):
    return accuracy_score(y, model.predict(X))


@pytest.mark.parametrize("scoring", ["neg_log_loss", "balanced_accuracy", accuracy])
def test_scores_are_those_of_grid_search_whatever_the_scoring(scoring):
    X, y, text = make_task()
    weight = None if scoring is accuracy else 1 + np.arange(len(y)) % 3
    ours, _ = run_both(
        X, y, text, weight=weight, scoring=scoring, class_weight="balanced"
    )
    assert ours.score(X, y) == get_scorer(scoring)(ours, X, y)


def test_folds_that_lack_a_class_do_not_know_it():
    X, y, text = make_task()
    rows = np.arange(len(y))
    folds = [
        (rows[y != 5], rows[(y == 5) | (rows % 2 == 0)]),
        (rows[rows % 3 > 0], rows[rows % 3 == 0]),
        (rows[y != 2], rows[y == 2]),
    ]
    ours = search(text, cv=folds).fit(X, y)
    theirs = GridSearchCV(CMMClassifier(text), GRID, cv=folds).fit(X, y)
    assert_same_as_grid_search(ours, theirs, np.inf)
    assert_array_equal(ours.cv_results_["split2_test_score"], 0)


def test_an_extra_class_is_one_in_every_fold():
    X, y, text = make_task()
    text[99] = np.ones(24)
    folds = list(StratifiedKFold(3).split(X, y))
    ours = search(text, cv=iter(folds), extra_classes=[99]).fit(X, y)
    model = CMMClassifier(text, extra_classes=[99])
    theirs = GridSearchCV(model, GRID, cv=folds).fit(X, y)
    assert_same_as_grid_search(ours, theirs, np.inf)
    assert ours.predict_proba(X).shape == (len(X), 7)


@pytest.mark.parametrize("limits", [(1, 2**26), (1, 1), (10_000, 30_000)])
def test_batches_do_not_change_the_result(limits, monkeypatch):
    X, y, text = make_task((9, 3, 4, 12, 5, 7))
    whole = search(text, scoring="neg_log_loss").fit(X, y)
    monkeypatch.setattr(_search, "_MOST_ON_CPU", limits[0])
    monkeypatch.setattr(_search, "_MOST_IN_MEMORY", limits[1])
    cut = search(text, scoring="neg_log_loss").fit(X, y)
    assert_allclose(
        cut.cv_results_["mean_test_score"],
        whole.cv_results_["mean_test_score"],
        rtol=1e-9,
    )


def test_own_folds_are_stratified_and_test_each_row_once():
    X, y, text = make_task()
    folds = folds_of(X, y)
    assert len(folds) == 5
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(36))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(36))
        assert np.ptp(np.bincount(y[test])) <= 1
    ours = search(text).fit(X, y)
    theirs = GridSearchCV(CMMClassifier(text), GRID, cv=folds).fit(X, y)
    assert_same_as_grid_search(ours, theirs, np.inf)


def folds_of(X, y, weight=None, n_folds=5):
    weight = np.ones(len(y)) if weight is None else weight
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    return stratified_folds(X, y, weight, n_folds=n_folds, cosine=0.97)


def test_copies_and_near_copies_are_in_one_fold():
    X, y, _ = make_task()
    near = X[:12] + 0.05 * np.random.default_rng(0).normal(size=X[:12].shape)
    X, y = np.concatenate([X, X[6:30], near]), np.concatenate([y, y[6:30], y[:12]])
    photograph = np.concatenate([np.arange(36), np.arange(6, 30), np.arange(12)])
    folds = folds_of(X, y)
    assert len(folds) == 5
    for train, test in folds:
        assert not set(photograph[train]) & set(photograph[test])
        assert len(train) + len(test) == len(y)


def test_folds_do_not_depend_on_the_order_of_rows():
    X, y, _ = make_task((9, 3, 4, 12, 5, 7))
    order = np.random.default_rng(0).permutation(len(y))
    renamed = np.array([3, 5, 0, 1, 4, 2])[y]
    for first, second in zip(
        folds_of(X, y), folds_of(X[order], renamed[order]), strict=True
    ):
        for rows, others in zip(first, second, strict=True):
            assert_array_equal(rows, order[others])


def test_there_are_no_more_folds_than_photographs_of_a_class():
    X, y, text = make_task((3, 6, 6, 6, 6, 6))
    model = CMMClassifierCV(text, **SMALL)
    assert model.fit(X, y).n_splits_ == 3
    assert clone(model).set_params(cv=2).fit(X, y).n_splits_ == 2


def test_a_class_of_one_photograph_is_always_trained_on():
    X, y, text = make_task((1, 6, 6, 1, 6, 6))
    folds = folds_of(X, y)
    assert len(folds) == 5
    for train, test in folds:
        assert {0, 3} <= set(y[train])
        assert not {0, 3} & set(y[test])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CMMClassifierCV(text, **SMALL).fit(X, y).n_splits_ == 5
    scorer = make_scorer(
        log_loss,
        response_method="predict_proba",
        greater_is_better=False,
        labels=range(6),
    )
    model = CMMClassifierCV(text, scoring=scorer, **SMALL).fit(X, y)
    assert -3 < model.best_score_ < 0


@pytest.mark.parametrize("shots", [1, (1, 1, 1, 4, 1, 1)])
def test_one_shot_leaves_the_defaults(shots):
    X, y, text = make_task(shots)
    with pytest.warns(UserWarning, match="Nothing was searched"):
        model = CMMClassifierCV(
            text, map_penalties=(3.0, 1.0), text_penalties=(1, 5, 7)
        ).fit(X, y)
    assert model.n_splits_ == 0
    assert np.isnan(model.best_score_)
    assert model.best_params_ == {
        "alpha": "auto",
        "map_penalty": 1.0,
        "margin": 0.1,
        "text_penalty": 5,
    }
    results = model.cv_results_
    assert results["params"][model.best_index_] == model.best_params_
    assert np.isnan(results["mean_test_score"]).all()
    assert_array_equal(results["rank_test_score"], 1)
    assert not [key for key in results if key.startswith("split")]
    same = CMMClassifier(text, text_penalty=5).fit(X, y)
    assert_array_equal(model.predict_proba(X), same.predict_proba(X))


def test_a_double_weight_is_two_rows_and_the_order_does_not_matter():
    X, y, text = make_task()
    weight = np.random.default_rng(3).integers(0, 4, len(y))
    order = np.random.default_rng(4).permutation(weight.sum())
    weighted = search(text).fit(X, y, sample_weight=weight)
    repeated = search(text).fit(
        np.repeat(X, weight, axis=0)[order], np.repeat(y, weight)[order]
    )
    for key in ("mean_test_score", "rank_test_score", "split1_test_score"):
        assert_array_equal(weighted.cv_results_[key], repeated.cv_results_[key])
    assert_array_equal(weighted.predict_proba(X), repeated.predict_proba(X))


def test_a_scorer_gets_weights_where_it_asks_for_them():
    X, y, text = make_task()
    weight = 1.0 + np.arange(len(y)) % 3
    folds = list(StratifiedKFold(3).split(X, y))

    def scores(**parameters):
        model = CMMClassifierCV(text, cv=folds, **SMALL, **parameters)
        return model.fit(X, y, sample_weight=weight).cv_results_["mean_test_score"]

    weighted = scores()
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score)
        plain = scores(scoring=scorer.set_score_request(sample_weight=False))
        asked = scores(scoring=scorer.set_score_request(sample_weight=True))
    assert_array_equal(asked, weighted)
    assert_array_equal(plain, scores(scoring=accuracy))
    assert (plain != asked).any()


def test_equal_scores_leave_the_first_candidate():
    X, y, text = make_task(noise=0.5)
    model = CMMClassifierCV(text, text_penalties=(10.0, 9.0)).fit(X, y)
    assert model.best_index_ == 0
    assert model.best_params_["text_penalty"] == 10.0


def test_texts_are_encoded_once():
    X, y, text = make_task()
    calls = []

    def encode(names):
        calls.append(names)
        return np.array([text[int(name)] for name in names])

    model = CMMClassifierCV(text_encoder=encode, **SMALL).fit(X, y.astype(str))
    assert calls == [list("012345")]
    assert model.prototype_source_ == "text_encoder"
    given = CMMClassifierCV(text, **SMALL).fit(X, y)
    assert_array_equal(
        model.cv_results_["mean_test_score"], given.cv_results_["mean_test_score"]
    )


def test_clone_pickle_pipeline_and_what_a_fitted_cmm_can():
    X, y, text = make_task(dtype=np.float32)
    model = make_pipeline(
        FunctionTransformer(feature_names_out="one-to-one"),
        CMMClassifierCV(text, **SMALL),
    )
    model = pickle.loads(pickle.dumps(clone(model).fit(X, y)))
    fitted = model[-1]
    assert fitted.transform(X).dtype == np.float32
    assert len(model.get_feature_names_out()) == 24
    assert not hasattr(CMMClassifierCV(), "alpha")
    fitted.add_class(7, np.ones(24))
    assert_array_equal(fitted.classes_, [0, 1, 2, 3, 4, 5, 7])
    assert model.predict_proba(X).shape == (36, 7)


def test_data_frames_and_callbacks():
    X, y, text = make_task()
    plain = CMMClassifierCV(text, **SMALL).fit(X, y)
    monitor = ScoringMonitor(scoring="accuracy")
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(24)])
    model = CMMClassifierCV(text, **SMALL).set_output(transform="pandas")
    model.set_callbacks(monitor).fit(frame, y)
    assert_array_equal(model.map_, plain.map_)
    assert model.best_score_ == plain.best_score_
    assert model.transform(frame).columns[0] == "cmmclassifiercv0"
    # Only the last fit is followed.
    assert len(monitor.get_logs().data_as_pandas) <= model.n_iter_ + 1


def test_no_refit_only_searches():
    X, y, text = make_task()
    model = CMMClassifierCV(text, refit=False, **SMALL).fit(X, y)
    best = CMMClassifierCV(text, **SMALL).fit(X, y)
    assert model.best_params_ == best.best_params_
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_fits_that_do_not_settle_are_counted():
    X, y, text = make_task()
    with pytest.warns(ConvergenceWarning, match="10 of the 10 fits of the search"):
        CMMClassifierCV(text, max_iter=1, refit=False, **SMALL).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alphas": ()}, "alphas is empty"),
        ({"alphas": ("auto", -1)}, "alphas holds -1"),
        ({"alphas": "auto"}, "'alphas' parameter"),
        ({"alphas": 1.0}, "'alphas' parameter"),
        ({"margins": (np.nan,)}, "margins holds nan"),
        ({"map_penalties": (1.0, "auto")}, "map_penalties holds 'auto'"),
        ({"text_penalties": [[1.0]]}, "text_penalties holds"),
        ({"scoring": "beauty"}, "'scoring' parameter"),
        ({"cv": 1}, "'cv' parameter"),
        ({"cv": []}, "gives no splits"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    X, y, text = make_task()
    with pytest.raises(ValueError, match=message):
        CMMClassifierCV(text, **parameters).fit(X, y)
