"""Rows without labels in searches, cross-validation, pipelines and curves by shots."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.semi_supervised import SelfTrainingClassifier

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import make_object_images
from skfewshot.display import ShotCurveDisplay
from skfewshot.model_selection import (
    MultilabelStratifiedKFold,
    SemiSupervisedSplit,
    shot_curve,
)

KINDS = ["striped star", "plain heart", "spotted ring"]


@pytest.fixture(scope="module")
def data(make_task):
    """Eight rows of each of three classes, three of each without a label, and texts."""
    X, y, text = make_task(3, 8)
    order = np.random.default_rng(0).permutation(24)
    X, y = X[order], y[order].astype(float)
    for label in range(3):
        y[np.flatnonzero(y == label)[:3]] = np.nan
    return X, y, text


@pytest.fixture(scope="module")
def pictures():
    """Images of three kinds, and their names, a third of which is missing."""
    images, names = make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)
    names = np.array(names, dtype=object)
    names[::3] = None
    return list(images), names


def pairs(splitter, *args):
    return [(a.tolist(), b.tolist()) for a, b in splitter.split(*args)]


@pytest.mark.parametrize(
    "cv",
    [
        3,
        StratifiedKFold(3, shuffle=True, random_state=0),
        ShuffleSplit(4, test_size=0.3, random_state=0),
        LeaveOneOut(),
        GroupKFold(3),
    ],
    ids=str,
)
def test_labelled_rows_are_split_and_the_others_taught_by(data, cv):
    X, y, _ = data
    known = np.flatnonzero(~np.isnan(y))
    groups = np.arange(24)
    splitter = SemiSupervisedSplit(cv)
    inner = StratifiedKFold(3) if cv == 3 else cv
    by_group = groups if isinstance(cv, GroupKFold) else None
    args = X, y, by_group
    expected = [
        (np.sort([*known[train], *np.flatnonzero(np.isnan(y))]).tolist(), known[test])
        for train, test in inner.split(
            X[known], y[known], None if by_group is None else groups[known]
        )
    ]
    found = pairs(splitter, *args)
    assert found == [(train, test.tolist()) for train, test in expected]
    assert splitter.get_n_splits(*args) == len(found)


@pytest.mark.parametrize(
    "convert",
    [
        lambda y: [None if np.isnan(label) else int(label) for label in y],
        lambda y: pd.Series(y).astype("Int64"),
        lambda y: np.where(np.isnan(y), -1, y).astype(int),
        lambda y: np.array(
            [None if np.isnan(label) else "abc"[int(label)] for label in y], object
        ),
        lambda y: np.where(np.isnan(y), None, y),
        lambda y: pd.Series(y, index=np.arange(24)[::-1]),
    ],
)
def test_forms_of_labels(data, convert):
    X, y, _ = data
    splitter = SemiSupervisedSplit(3, unlabeled=-1)
    assert pairs(splitter, X, convert(y)) == pairs(splitter, X, y)
    model = CMMClassifier(text_features=None, unlabeled=-1)
    scores = cross_val_score(model, X, convert(y), cv=splitter, error_score="raise")
    assert scores.tolist() == cross_val_score(model, X, y, cv=splitter).tolist()


def test_without_missing_labels_it_is_the_splitter_itself(data):
    X, y = data[0], np.nan_to_num(data[1], nan=2)
    assert pairs(SemiSupervisedSplit(4), X, y) == pairs(StratifiedKFold(4), X, y)
    Y = np.eye(3, dtype=int)[y.astype(int)]
    found = pairs(SemiSupervisedSplit(2), X, csr_array(Y))
    assert found == pairs(MultilabelStratifiedKFold(2), X, Y)
    assert found == pairs(SemiSupervisedSplit(2), X, Y)


def test_several_labels(data):
    Y = np.eye(3)[np.nan_to_num(data[1]).astype(int)]
    Y[[0, 5]], Y[7, 1] = np.nan, np.nan
    for train, test in SemiSupervisedSplit(3).split(data[0], Y):
        assert np.isin([0, 5, 7], train).all()
        assert not np.isin([0, 5, 7], test).any()
    found = pairs(SemiSupervisedSplit(3), data[0], Y)
    labels = np.where(np.isnan(Y), None, Y)
    assert pairs(SemiSupervisedSplit(3), data[0], labels) == found
    assert pairs(SemiSupervisedSplit(3), data[0], labels.tolist()) == found


@given(st.integers(0, 2**20))
def test_groups_that_are_scored_do_not_teach(seed):
    rng = np.random.default_rng(seed)
    groups, y = rng.integers(0, 8, 60), rng.integers(0, 3, 60).astype(float)
    y[rng.random(60) < 0.4] = np.nan
    X = np.zeros((60, 1))
    bare = np.isnan(y)
    for cv in (GroupKFold(3), LeaveOneGroupOut()):
        for train, test in SemiSupervisedSplit(cv).split(X, y, groups):
            assert not bare[test].any()
            tested = np.isin(groups, groups[test])
            assert not tested[train].any()
            assert np.isin(np.flatnonzero(bare & ~tested), train).all()


@pytest.mark.parametrize(
    ("cv", "error"), [("five", TypeError), ([([0], [1])], TypeError), (1, ValueError)]
)
def test_what_does_not_split(cv, error):
    with pytest.raises(error, match="cv must be"):
        SemiSupervisedSplit(cv)


def test_bad_labels(data):
    X, y, _ = data
    with pytest.raises(ValueError, match="got None"):
        next(SemiSupervisedSplit(2).split(X, None))
    with pytest.raises(ValueError, match="All 24 labels of y are missing"):
        next(SemiSupervisedSplit(2).split(X, y * np.nan))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        next(SemiSupervisedSplit(2).split(X, y[:5]))
    with pytest.raises(ValueError, match="n_splits=9"):
        next(SemiSupervisedSplit(9).split(X, y))


def test_cross_val_predict_is_refused(data):
    """Its answer would have no row for what is never tested."""
    X, y, _ = data
    with pytest.raises(ValueError, match="partitions"):
        cross_val_predict(CMMClassifier(), X, y, cv=SemiSupervisedSplit(2))


class Spy(ClassifierMixin, BaseEstimator):
    """Keeps what it is fitted on, and the rows that it is scored on."""

    def __init__(self, alpha=1.0, unlabeled=None):
        self.alpha = alpha
        self.unlabeled = unlabeled

    def fit(self, X, y, sample_weight=None, groups=None):
        self.classes_ = np.array([0.0, 1.0, 2.0])
        self.fitted_ = X, np.asarray(y), sample_weight, groups
        return self

    def score(self, X, y):
        assert not np.isnan(y).any()
        return len(self.fitted_[1]) + 100 * np.isnan(self.fitted_[1]).sum()


def test_search_and_validation(data):
    X, y, text = data
    search = GridSearchCV(Spy(), {"alpha": [0.0, 1.0]}, cv=SemiSupervisedSplit(3))
    weight = np.linspace(1, 2, 24)
    with pytest.warns(UserWarning, match=r"Spy\.score does not support sample_weight"):
        search.fit(X, y, sample_weight=weight)
    assert search.cv_results_["mean_test_score"].tolist() == [919, 919]
    assert len(search.best_estimator_.fitted_[1]) == 24
    found = cross_validate(
        CMMClassifier(text),
        X,
        y,
        cv=SemiSupervisedSplit(3),
        scoring=["accuracy", "neg_log_loss"],
        params={"sample_weight": weight},
        return_indices=True,
        error_score="raise",
    )
    assert np.isfinite(found["test_neg_log_loss"]).all()
    models = GridSearchCV(
        CMMClassifier(text), {"alpha": ["auto", 1.0]}, cv=SemiSupervisedSplit(3)
    )
    nested = cross_val_score(models, X, y, cv=SemiSupervisedSplit(2), n_jobs=1)
    assert ((0 <= nested) & (nested <= 1)).all()


def test_metadata_routing(data):
    X, y, text = data
    groups, weight = np.arange(24), np.linspace(1, 2, 24)
    with sklearn.config_context(enable_metadata_routing=True):
        model = CMMClassifier(text).set_score_request(sample_weight=True)
        model.set_fit_request(sample_weight=True, groups=True)
        pipeline = make_pipeline(Normalizer(), model)
        search = GridSearchCV(
            pipeline,
            {"cmmclassifier__alpha": ["auto"]},
            cv=SemiSupervisedSplit(GroupKFold(3)),
            error_score="raise",
        )
        search.fit(X, y, groups=groups, sample_weight=weight)
    assert np.isfinite(search.best_score_)
    by_hand = CMMClassifier(text).fit(X, y, weight, groups=groups)
    assert_allclose(search.predict_proba(X), by_hand.predict_proba(X))


def test_pipeline_from_images(pictures):
    images, names = pictures
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier())
    model.fit(images, names)
    assert model.classes_.tolist() == sorted(KINDS)
    assert model[-1].prototype_source_ == "embedding"
    X = CLIPFeaturizer("tiny").fit_transform(images)
    expected = CMMClassifier().fit(X, names)
    assert_array_equal(model.predict_proba(images), expected.predict_proba(X))
    cv = SemiSupervisedSplit(StratifiedKFold(3))
    scores = cross_val_score(model, images, names, cv=cv, error_score="raise")
    assert scores.shape == (3,)


def test_clone_pickle_and_output(data):
    X, y, text = data
    model = CMMClassifier(text, unlabeled=-1)
    assert clone(model).unlabeled == -1
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(12)])
    model.set_output(transform="pandas").fit(frame, pd.Series(y))
    assert list(model.transform(frame).index) == list(range(24))
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    splitter = pickle.loads(pickle.dumps(SemiSupervisedSplit(3, unlabeled=-1)))
    assert repr(splitter) == "SemiSupervisedSplit(cv=3, unlabeled=-1)"


# Curves by shots


@pytest.mark.parametrize("mark", [None, -1])
def test_curve(data, mark):
    X, y, _ = data
    labels = y if mark is None else np.where(np.isnan(y), mark, y).astype(int)
    options = {"shots": (1, 2), "n_repeats": 2, "cv": 3, "random_state": 0}
    result = shot_curve(
        CMMClassifier(text_features=None, unlabeled=mark),
        X,
        labels,
        compare_unlabeled=True,
        **options,
    )
    bare, known = np.isnan(y), ~np.isnan(y)
    assert result.test_scores.shape == result.labeled_test_scores.shape == (2, 6)
    alone = shot_curve(CMMClassifier(text_features=None), X[known], y[known], **options)
    where = np.flatnonzero(known)
    for place in range(2):
        for draw in range(6):
            support = result.support_indices[place][draw]
            assert_array_equal(support, where[alone.support_indices[place][draw]])
            pool = result.unlabeled_indices[draw]
            assert_array_equal(pool, np.flatnonzero(bare))
            test = result.test_indices[draw]
            rows = np.union1d(support, pool)
            model = CMMClassifier(text_features=None).fit(X[rows], y[rows])
            assert result.test_scores[place, draw] == model.score(X[test], y[test])
    assert_array_equal(result.labeled_test_scores, alone.test_scores)


def test_curve_of_scikit_learns_own(data):
    X, y, _ = data
    labels = np.where(np.isnan(y), -1, y).astype(int)
    model = SelfTrainingClassifier(LogisticRegression())
    options = {"shots": [2], "cv": 2, "random_state": 0, "error_score": "raise"}
    result = shot_curve(model, X, labels, unlabeled=-1, **options)
    rows = np.union1d(result.support_indices[0][0], result.unlabeled_indices[0])
    test = result.test_indices[0]
    expected = model.fit(X[rows], labels[rows]).score(X[test], labels[test])
    assert result.test_scores[0, 0] == expected


def test_curve_of_pipelines_images_and_groups(pictures):
    images, names = pictures
    names = np.where(names == None, "", names)  # noqa: E711
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier(unlabeled=""))
    groups = np.arange(18) // 2
    result = shot_curve(
        model,
        images,
        names,
        groups=groups,
        cv=SemiSupervisedSplit(GroupKFold(3), unlabeled=""),
        shots=[1],
        error_score="raise",
    )
    for pool, test in zip(result.unlabeled_indices, result.test_indices, strict=True):
        assert len(pool) > 0
        assert not np.isin(groups[pool], groups[test]).any()


def test_curve_of_splits_by_hand(data):
    X, y, _ = data
    known, bare = np.flatnonzero(~np.isnan(y)), np.flatnonzero(np.isnan(y))
    model = CMMClassifier(text_features=None)
    # What rows without a label teach is for the splits to say.
    splits = [(np.r_[known[4:], bare[:2]], known[:4]), (known[4:], known[:4])]
    result = shot_curve(model, X, y, shots=[1], cv=splits)
    assert [pool.tolist() for pool in result.unlabeled_indices] == [
        bare[:2].tolist(),
        [],
    ]
    with pytest.raises(ValueError, match="out of tests; split 0 tests 1"):
        shot_curve(model, X, y, shots=[1], cv=[(known[4:], np.r_[known[:4], bare[0]])])
    with pytest.raises(ValueError, match="compare_unlabeled=True, but all rows"):
        shot_curve(model, X, np.nan_to_num(y), shots=[1], compare_unlabeled=True)
    with pytest.raises(ValueError, match="All 24 labels"):
        shot_curve(model, X, y * np.nan, shots=[1])


def test_display_draws_both(data):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    X, y, _ = data
    display = ShotCurveDisplay.from_estimator(
        CMMClassifier(text_features=None),
        X,
        y,
        shots=(1, 2),
        cv=2,
        random_state=0,
        compare_unlabeled=True,
    )
    names = display.ax_.get_legend_handles_labels()[1]
    assert names == [
        "CMMClassifier, unlabelled images too",
        "CMMClassifier, labelled images alone",
    ]
    assert display.labeled_display_.ax_ is display.ax_
    assert display.test_scores.shape == display.labeled_display_.test_scores.shape
    pyplot.close(display.figure_)
