"""Scores by shots: nested supports, nothing scored that was learned from, any input."""

import itertools
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from numpy.testing import assert_array_equal
from PIL import Image
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier, MultiLabelPrototypeClassifier
from skfewshot.datasets import make_object_images
from skfewshot.metrics import mean_average_precision_scorer
from skfewshot.model_selection import MultilabelStratifiedKFold, shot_curve

SCARCE = "ignore:Labels with fewer positive images"
SHOTS = (1, 2, 4)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog", "emu"], [10, 14, 20])[rng.permutation(44)]
    X = (
        rng.normal(size=(44, 5))
        + 2 * np.eye(3, 5)[np.unique(y, return_inverse=True)[1]]
    )
    return X, y


@pytest.fixture(scope="module")
def multilabel():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 6))
    return X, (X[:, :4] > 0.6).astype(int)


def flat(result):
    return np.concatenate([row for few in result.support_indices for row in few])


def random_indicator(n_samples, n_labels, seed):
    rng = np.random.default_rng(seed)
    return (rng.random((n_samples, n_labels)) < rng.uniform(0.1, 0.7)).astype(int)


def check_draws(result, positive):
    """Supports are nested, serve every label, and are never scored on."""
    n_draws = len(result.test_indices)
    assert result.test_scores.shape == (len(result.shots), n_draws)
    for draw, test in enumerate(result.test_indices):
        train = np.setdiff1d(np.arange(len(positive)), test)
        larger = train
        for place in reversed(range(len(result.shots))):
            shots, support = result.shots[place], result.support_indices[place][draw]
            assert (np.diff(support) > 0).all()
            assert np.isin(support, larger).all()
            wanted = np.minimum(positive[train].sum(axis=0), shots)
            assert (positive[support].sum(axis=0) >= wanted).all()
            larger = support


def test_one_class_a_row(data):
    X, y = data
    result = shot_curve(KNeighborsClassifier(1), X, y, shots=SHOTS, random_state=0)
    assert result.shots.tolist() == [1, 2, 4]
    one_hot = y[:, None] == np.unique(y)
    check_draws(result, one_hot)
    for shots, supports in zip(result.shots, result.support_indices, strict=True):
        for support in supports:
            assert one_hot[support].sum(axis=0).tolist() == [shots] * 3
    folds = [test for _, test in StratifiedKFold(5).split(X, y)]
    for test, fold in zip(result.test_indices, folds, strict=True):
        assert_array_equal(test, fold)
    for times in (result.fit_times, result.score_times):
        assert times.shape == (3, 5) and (times > 0).all()


def test_scores_are_those_of_fits_by_hand(data):
    X, y = data
    model = LogisticRegression()
    result = shot_curve(
        model, X, y, shots=SHOTS, n_repeats=2, cv=3, scoring="neg_log_loss"
    )
    assert result.test_scores.shape == (3, 6)
    scorer = sklearn.metrics.get_scorer("neg_log_loss")
    for supports, scores in zip(
        result.support_indices, result.test_scores, strict=True
    ):
        for support, test, score in zip(
            supports, result.test_indices, scores, strict=True
        ):
            fitted = clone(model).fit(X[support], y[support])
            assert score == pytest.approx(scorer(fitted, X[test], y[test]))
    assert not hasattr(model, "coef_")
    # The repeats of a fold have its test rows, and supports of their own.
    first, second = result.test_indices[:2]
    assert_array_equal(first, second)
    assert not np.array_equal(*result.support_indices[1][:2])


@pytest.mark.filterwarnings(SCARCE)
@given(
    st.builds(
        random_indicator, st.integers(10, 60), st.integers(1, 5), st.integers(0, 99)
    ),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 99),
)
@settings(max_examples=25)
def test_any_indicator(Y, shots, seed):
    model = DummyClassifier()
    cv = ShuffleSplit(2, test_size=0.4, random_state=seed)
    Y[:, 0] |= ~Y.any(axis=1)
    result = shot_curve(model, Y, Y, shots=shots, cv=cv, random_state=seed)
    assert result.shots.tolist() == sorted(set(shots))
    check_draws(result, Y == 1)


def test_seeds_pair_estimators_and_leave_the_global_generator_alone(data):
    X, y = data
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"shots": SHOTS, "n_repeats": 2, "cv": 3}

    def supports(estimator, seed, **others):
        result = shot_curve(estimator, X, y, random_state=seed, **options, **others)
        return flat(result), result.test_scores

    nearest, scores = supports(KNeighborsClassifier(1), 0)
    assert_array_equal(supports(DummyClassifier(), 0)[0], nearest)
    assert_array_equal(
        supports(KNeighborsClassifier(1), np.random.RandomState(0))[1], scores
    )
    with parallel_config("threading"):
        parallel, same_scores = supports(KNeighborsClassifier(1), 0, n_jobs=2)
    assert_array_equal(parallel, nearest)
    assert_array_equal(same_scores, scores)
    assert not np.array_equal(supports(KNeighborsClassifier(1), 1)[0], nearest)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_splitters(data):
    X, y = data
    splits = [(np.arange(0, 44, 2), np.arange(1, 44, 2))]
    for cv in (splits, iter(splits), [(np.arange(44) % 2 == 0, np.arange(1, 44, 2))]):
        result = shot_curve(
            KNeighborsClassifier(1), X, y, shots=[2], cv=cv, n_repeats=3
        )
        assert result.test_scores.shape == (1, 3)
        assert all((support % 2 == 0).all() for support in result.support_indices[0])
        assert_array_equal(result.test_indices, [splits[0][1]] * 3)
    cv = StratifiedShuffleSplit(2, test_size=0.5, random_state=0)
    assert (
        shot_curve(KNeighborsClassifier(1), X, y, cv=cv, shots=[1]).test_scores.size
        == 2
    )
    with pytest.raises(ValueError, match="cv must keep .* split 0 has 22 rows on both"):
        shot_curve(KNeighborsClassifier(1), X, y, cv=[(splits[0][0], np.arange(44))])


@pytest.mark.parametrize("routing", [False, True])
def test_groups_stay_on_one_side(data, routing):
    X, y = data
    groups = np.arange(44) % 11
    with sklearn.config_context(enable_metadata_routing=routing):
        result = shot_curve(
            KNeighborsClassifier(1), X, y, groups=groups, cv=GroupKFold(4), shots=SHOTS
        )
    for supports in result.support_indices:
        for support, test in zip(supports, result.test_indices, strict=True):
            assert not set(groups[support]) & set(groups[test])


@pytest.mark.parametrize("form", [np.asarray, csr_matrix, pd.DataFrame, pl.DataFrame])
def test_several_labels_a_row(multilabel, form):
    X, Y = multilabel
    names = {"schema": list("abcd")} if form is pl.DataFrame else {}
    model = KNeighborsClassifier(1)
    result = shot_curve(model, X, form(Y, **names), shots=SHOTS, random_state=0)
    check_draws(result, Y == 1)
    folds = [test for _, test in MultilabelStratifiedKFold(5).split(X, Y)]
    for test, fold in zip(result.test_indices, folds, strict=True):
        assert_array_equal(test, fold)
    expected = shot_curve(model, X, Y, shots=SHOTS, random_state=0)
    assert_array_equal(result.test_scores, expected.test_scores)


def test_our_multi_label_classifier():
    rng = np.random.default_rng(0)
    Y = random_indicator(60, 3, 0)
    tokens = 0.1 * rng.normal(size=(60, 5, 8))
    tokens[:, :, 4] += 1
    for row, label in np.argwhere(Y):
        tokens[row, 1 + label, label] += 3
    tokens[:, 0] = tokens[:, 1:].mean(axis=1)
    result = shot_curve(
        MultiLabelPrototypeClassifier(np.eye(3, 8)),
        tokens,
        Y,
        shots=(1, 5),
        cv=3,
        scoring=mean_average_precision_scorer,
        random_state=0,
    )
    check_draws(result, Y == 1)
    assert result.test_scores.mean() > 0.9


class Recorder(ClassifierMixin, BaseEstimator):
    """Remembers the type of what it was given, and answers the first class."""

    def fit(self, X, y, sample_weight=None):
        Recorder.seen.append((type(X), type(y), sample_weight))
        self.classes_ = np.unique(np.asarray(y))
        return self

    def predict(self, X):
        Recorder.seen.append((type(X), None, None))
        return np.full(len(X), self.classes_[0])


FRAMES = [
    (pd.DataFrame, pd.Series),
    (lambda X: pl.DataFrame(X, schema=list("abcde")), pl.Series),
    (list, list),
    (np.asarray, pd.Categorical),
]


@pytest.mark.parametrize(("frame", "series"), FRAMES)
def test_frames_come_through(data, frame, series):
    X, y = data
    given = frame(X)
    options = {"shots": SHOTS, "cv": 3, "random_state": 0}
    Recorder.seen = []
    found = shot_curve(Recorder(), given, series(y), **options)
    assert {kind for kind, *_ in Recorder.seen} == {type(given)}
    expected = shot_curve(Recorder(), X, y, **options)
    assert_array_equal(found.test_scores, expected.test_scores)


def test_embeddings_keep_their_encoder_and_images_their_pipeline(tmp_path):
    images, names = make_object_images(
        8, kinds=["striped star", "plain heart"], random_state=0, return_X_y=True
    )
    pictures = [Image.fromarray(image) for image in images]
    featurizer = CLIPFeaturizer("tiny", cache=tmp_path)
    options = {"shots": (1, 2), "cv": 2, "random_state": 0}
    with warnings.catch_warnings():
        # Without the encoder, class means would stand in for texts, with a warning.
        warnings.simplefilter("error")
        X = featurizer.fit_transform(pictures)
        features = shot_curve(CMMClassifier(), X, names, **options)
        model = make_pipeline(featurizer, CMMClassifier())
        found = shot_curve(model, pictures, names, **options)
    assert_array_equal(found.test_scores, features.test_scores)
    assert features.test_scores.min() > 0.6


def test_scarce_classes_are_named_once(data):
    X, y = data
    with pytest.warns(UserWarning) as caught:
        result = shot_curve(KNeighborsClassifier(1), X, y, shots=(1, 9, 12), cv=2)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "than shots=12: 'cat' (5), 'dog' (7), 'emu' (10); they get all" in message
    assert caught[0].filename == __file__
    train = np.setdiff1d(np.arange(44), result.test_indices[0])
    assert_array_equal(result.support_indices[2][0], train)


@pytest.mark.parametrize("routing", [False, True])
def test_weights_go_by_row(data, routing):
    X, y = data
    weight = np.arange(44.0)
    Recorder.seen = []
    with sklearn.config_context(enable_metadata_routing=routing):
        model = Recorder()
        if routing:
            model = model.set_fit_request(sample_weight=True)
            model.set_score_request(sample_weight=False)
        result = shot_curve(
            model, X, y, shots=[2, 3], cv=2, params={"sample_weight": weight}
        )
    given = [weight for *_, weight in Recorder.seen if weight is not None]
    supports = itertools.chain.from_iterable(result.support_indices)
    for support, passed in zip(supports, given, strict=True):
        assert_array_equal(passed, weight[support])


class Fragile(DummyClassifier):
    """Cannot learn from three rows."""

    def fit(self, X, y, sample_weight=None):
        if len(X) == 3:
            raise RuntimeError("only three")
        return super().fit(X, y, sample_weight)


def test_fits_that_fail(data):
    X, y = data
    with pytest.warns(FitFailedWarning, match="only three"):
        result = shot_curve(Fragile(), X, y, shots=(1, 2), cv=2)
    assert np.isnan(result.test_scores[0]).all()
    assert np.isfinite(result.test_scores[1]).all()
    with pytest.raises(RuntimeError, match="only three"):
        shot_curve(Fragile(), X, y, shots=(1, 2), cv=2, error_score="raise")


def test_searches_are_estimators_too(data):
    X, y = data
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 2]}, cv=2)
    result = shot_curve(search, X, y, shots=(2, 4), cv=2, random_state=0)
    assert result.test_scores.min() > 0.3


BAD = [
    ({"shots": 4}, ValueError, "shots must be a sequence of ints; got 4"),
    ({"shots": []}, ValueError, r"shots must be a sequence of ints; got \[\]"),
    ({"shots": (0, 1)}, ValueError, r"shots must all be 1 or more; got \(0, 1\)"),
    ({"shots": (0.5, 1)}, TypeError, "shots must hold ints"),
    ({"shots": [True]}, TypeError, "shots must hold ints"),
    ({"shots": "12"}, ValueError, "shots must be a sequence of ints"),
    ({"n_repeats": 0}, ValueError, "n_repeats must be at least 1; got 0"),
    ({"n_repeats": 1.5}, TypeError, "n_repeats must be an int; got 1.5"),
    ({"scoring": ["accuracy"]}, TypeError, "scoring must be one name"),
    ({"scoring": lambda *_: {"a": 1, "b": 2}}, ValueError, "must return one number"),
    ({"scoring": "acuracy"}, ValueError, "acuracy"),
    ({"cv": []}, ValueError, "cv must make at least one split"),
    ({"y": None}, ValueError, "array-like .* got None as y"),
    ({"y": np.linspace(0, 1, 44)}, ValueError, "y must hold class labels.*indicators"),
    ({"y": np.zeros(43)}, ValueError, "inconsistent numbers of samples"),
    ({"y": [{"a"}, {"b"}] * 22}, ValueError, "y holds lists or sets"),
]


@pytest.mark.parametrize(("changed", "error", "message"), BAD)
def test_bad_input(data, changed, error, message):
    X, y = data
    arguments = {"X": X, "y": y, "shots": (1, 2), "cv": 2} | changed
    with pytest.raises(error, match=message):
        shot_curve(KNeighborsClassifier(1), **arguments)
