"""Few-shot supports and folds: every label served, nothing drawn twice."""

import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csc_array, csr_matrix
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.multiclass import OneVsRestClassifier

from skfewshot.metrics import mean_average_precision_scorer
from skfewshot.model_selection import MultilabelStratifiedKFold, sample_support

SCARCE = "ignore:Labels with fewer positive images"


def random_labels(n_samples, n_labels, density, seed):
    """Labels as rare as each other's multiples, as in photographs."""
    rng = np.random.default_rng(seed)
    frequencies = density * rng.uniform(0.1, 1.0, n_labels)
    return (rng.random((n_samples, n_labels)) < frequencies).astype(int)


labels = st.builds(
    random_labels,
    st.integers(1, 40),
    st.integers(1, 6),
    st.floats(0.05, 1.0),
    st.integers(0, 2**32 - 1),
)


@pytest.mark.filterwarnings(SCARCE)
@given(labels, st.integers(1, 5), st.integers(0, 100))
@settings(max_examples=40)
def test_every_label_is_served_and_no_image_is_spare(Y, shots, seed):
    support = sample_support(Y, shots, seed)
    wanted = np.minimum(Y.sum(axis=0), shots)
    served = Y[support].sum(axis=0)
    assert (served >= wanted).all()
    assert support.dtype.kind == "i"
    assert (np.diff(support) > 0).all()
    for image in support:
        assert (served - Y[image] < wanted).any()


@pytest.mark.filterwarnings(SCARCE)
@given(labels, st.integers(0, 100))
@settings(max_examples=50)
def test_containers_of_labels_draw_the_same_support(Y, seed):
    support = sample_support(Y, 2, seed)
    names = [f"label {label}" for label in range(Y.shape[1])]
    for same in (
        Y.astype(bool),
        Y.tolist(),
        csr_matrix(Y),
        csc_array(Y),
        pd.DataFrame(Y, columns=names),
        pl.DataFrame(Y, schema=names),
    ):
        assert_array_equal(sample_support(same, 2, seed), support)


@given(st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=30)
def test_one_class_per_image_gets_exactly_its_shots(shots, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(["cat", "dog", "emu"], 5))
    support = sample_support(y, shots, seed)
    assert np.unique(y[support], return_counts=True)[1].tolist() == [shots] * 3
    one_hot = y[:, None] == np.unique(y)
    assert_array_equal(sample_support(one_hot, shots, seed), support)
    assert_array_equal(sample_support(pd.Series(y), shots, seed), support)


def test_every_image_of_a_class_is_as_likely():
    y = np.repeat([0, 1], [4, 8])
    drawn = np.zeros(12)
    for seed in range(400):
        drawn[sample_support(y, 2, seed)] += 1
    # Four standard deviations of a binomial count.
    assert np.abs(drawn[:4] - 200).max() < 4 * np.sqrt(400 / 4)
    assert np.abs(drawn[4:] - 100).max() < 4 * np.sqrt(400 * 3 / 16)


def test_images_as_useful_as_each_other_are_as_likely_to_be_pruned():
    # Often two of the first three are taken, and then the fourth for the other label.
    Y = np.zeros((8, 2), dtype=int)
    Y[:4, 0] = Y[3:, 1] = 1
    kept = np.zeros(8)
    for seed in range(2000):
        kept[sample_support(Y, 2, seed)] += 1
    # Four standard deviations of a binomial count.
    assert np.abs(kept[:3] - kept[:3].mean()).max() < 4 * np.sqrt(2000 / 4)


def test_images_that_serve_several_labels_save_others():
    # Eight frequent labels ride along with the images of a rare one.
    Y = np.vstack([np.ones((2, 9), dtype=int), np.eye(100, 9, dtype=int)])
    Y[2, 0] = 0
    assert sample_support(Y, 2, random_state=0).tolist() == [0, 1]


def test_supports_are_few_images():
    sizes = [
        len(sample_support(random_labels(500, 20, 0.2, seed), 2, seed))
        for seed in range(10)
    ]
    # 40 at least without sharing: images hold several labels here.
    assert max(sizes) < 36


def test_seeds():
    Y = random_labels(60, 4, 1.0, 0)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    support = sample_support(Y, 3, 0)
    assert_array_equal(sample_support(Y, 3, 0), support)
    assert_array_equal(sample_support(Y, 3, np.random.RandomState(0)), support)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    supports = {tuple(sample_support(Y, 3, seed)) for seed in range(10)}
    assert len(supports) > 5
    assert len(sample_support(Y, 3)) > 0


def test_labels_with_too_few_images_get_all_and_are_named():
    Y = pd.DataFrame(
        {"dog": [1, 1, 1, 1, 0], "emu": [0, 0, 1, 0, 0], "yak": [0, 0, 0, 0, 0]}
    )
    with pytest.warns(
        UserWarning, match=r"than shots=2: 'emu' \(1\), 'yak' \(0\); they"
    ) as caught:
        support = sample_support(Y, 2, 0)
    assert caught[0].filename == __file__
    assert Y.iloc[support].sum().tolist() == [2, 1, 0]
    with pytest.warns(UserWarning, match=r": 1 \(1\), 2 \(0\); they"):
        sample_support(Y.to_numpy(), 2, 0)
    with pytest.warns(UserWarning, match=r": 'b' \(1\); they"):
        assert len(sample_support(["a", "b", "a", "a"], 2, 0)) == 3
    with pytest.warns(UserWarning, match=r"9 \(0\) and 5 more; they"):
        assert sample_support(np.zeros((3, 15)), 1).shape == (0,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_support(Y[["dog"]], 4, 0)


@pytest.mark.parametrize(
    ("shots", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)]
)
def test_bad_shots(shots, error):
    with pytest.raises(error, match=rf"shots must be .* got {shots}"):
        sample_support(np.eye(3), shots)


@pytest.mark.parametrize("shots", [True, "1", None])
def test_shots_of_another_type(shots):
    with pytest.raises(TypeError, match="shots must be an int"):
        sample_support(np.eye(3), shots)


BAD_LABELS = [
    (np.eye(3) * 2, ValueError, "only 0 and 1.* values .*'2.0'"),
    (np.eye(3) * 0.5, ValueError, "only 0 and 1.* values .*'0.5'"),
    (np.full((3, 2), np.nan), ValueError, "contains NaN"),
    (csr_matrix(np.eye(3) * 3), ValueError, "only 0 and 1.* values .*'3.0'"),
    ([[0, 1], [0, 1], [0]], ValueError, "holds lists or sets .*MultiLabelBinarizer"),
    ([{"cat"}, {"cat", "dog"}, set()], ValueError, "MultiLabelBinarizer"),
    (pd.Series([["cat"], ["cat", "dog"], []]), ValueError, "MultiLabelBinarizer"),
    (pd.DataFrame({"a": [1, 0, pd.NA]}), ValueError, r"contains NaN.*\[2\]"),
    (np.zeros((3, 2, 2)), ValueError, "has 3 dimensions; wanted"),
    ([0.5, 1.0, 2.5], ValueError, "must hold class labels.* or indicators"),
    ([0.0, 1.0, np.nan], ValueError, "contains NaN"),
    (["a", None, "b"], ValueError, r"contains NaN or None.*\[1\]"),
    (["a", 1, "b"], TypeError, "mixes strings with 1"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_LABELS)
def test_bad_labels(bad, error, message):
    with pytest.raises(error, match=f"Y .*{message}"):
        sample_support(bad, 1)
    with pytest.raises(error, match=f"y .*{message}"):
        next(MultilabelStratifiedKFold(2).split(np.zeros(3), bad))


@pytest.mark.parametrize("empty", [[], np.zeros((0, 3)), 1])
def test_no_labels(empty):
    with pytest.raises(ValueError, match="Y.* indicator|as Y"):
        sample_support(empty, 1)


def folds_of(cv, y):
    """The fold of each image, after a look that they are a partition."""
    n_samples = len(y) if isinstance(y, list) else y.shape[0]
    folds = np.full(n_samples, -1)
    for fold, (train, test) in enumerate(cv.split(np.zeros(n_samples), y)):
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()
        assert_array_equal(np.sort(np.r_[train, test]), np.arange(n_samples))
        assert (folds[test] == -1).all()
        folds[test] = fold
    assert fold + 1 == cv.get_n_splits()
    assert (folds >= 0).all()
    return folds


def spreads(cv, Y):
    """Between the folds' largest and smallest count of each label, and of images."""
    folds = folds_of(cv, Y)
    counts = np.array([Y[folds == fold].sum(axis=0) for fold in range(cv.n_splits)])
    return np.ptp(counts, axis=0), np.ptp(np.bincount(folds, minlength=cv.n_splits))


@pytest.mark.filterwarnings(SCARCE)
@given(labels, st.integers(2, 5), st.booleans())
@settings(max_examples=40)
def test_folds_are_a_partition_without_an_empty_one(Y, n_splits, shuffle):
    if len(Y) < n_splits:
        Y = np.tile(Y, (n_splits, 1))
    cv = MultilabelStratifiedKFold(n_splits, shuffle=shuffle)
    assert (np.bincount(folds_of(cv, Y)) > 0).sum() == n_splits


@pytest.mark.filterwarnings(SCARCE)
@given(
    st.lists(st.integers(0, 4), min_size=5, max_size=60),
    st.integers(2, 5),
    st.sampled_from([None, 0, 1]),
)
@settings(max_examples=40)
def test_one_class_per_image_is_dealt_evenly(y, n_splits, seed):
    cv = MultilabelStratifiedKFold(
        n_splits, shuffle=seed is not None, random_state=seed
    )
    one_hot = (np.array(y)[:, None] == np.unique(y)).astype(int)
    label_spreads, size_spread = spreads(cv, one_hot)
    assert max(label_spreads) <= 1
    assert size_spread <= 1
    names = np.array(["ant", "bee", "cat", "dog", "emu"])[y]
    for same in (y, names, pd.Series(names), [float(label) for label in y]):
        assert_array_equal(folds_of(cv, same), folds_of(cv, one_hot))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("n_samples", "n_labels", "density"), [(40, 8, 0.3), (200, 20, 0.2), (400, 5, 0.6)]
)
def test_labels_are_spread_closer_than_by_kfold(n_samples, n_labels, density, shuffle):
    ours, plain, sizes = [], [], []
    for seed in range(10):
        Y = random_labels(n_samples, n_labels, density, seed)
        Y = Y[:, Y.sum(axis=0) >= 4]
        label_spreads, size_spread = spreads(
            MultilabelStratifiedKFold(
                4, shuffle=shuffle, random_state=seed if shuffle else None
            ),
            Y,
        )
        ours.append(label_spreads.mean())
        sizes.append(size_spread)
        plain.append(spreads(KFold(4, shuffle=True, random_state=seed), Y)[0].mean())
    assert max(ours) < min(plain)
    assert np.mean(ours) < 0.5 * np.mean(plain)
    assert max(sizes) <= 0.05 * n_samples + 2


def test_equal_label_sets_are_dealt_evenly():
    Y = np.repeat([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]], 8, axis=0)
    label_spreads, size_spread = spreads(MultilabelStratifiedKFold(4), Y)
    assert label_spreads.tolist() == [0, 0, 0]
    assert size_spread == 0


@pytest.mark.filterwarnings(SCARCE)
@given(labels.filter(lambda Y: len(Y) >= 3))
@settings(max_examples=50)
def test_labels_without_positives_change_nothing(Y):
    cv = MultilabelStratifiedKFold(3)
    wider = np.hstack([Y, np.zeros((len(Y), 2), dtype=int)])
    assert_array_equal(folds_of(cv, wider), folds_of(cv, Y))


def test_folds_do_not_depend_on_the_container():
    Y = random_labels(60, 4, 1.0, 0)
    cv = MultilabelStratifiedKFold(4, shuffle=True, random_state=0)
    expected = folds_of(cv, Y)
    for same in (Y.tolist(), csr_matrix(Y), csc_array(Y), pd.DataFrame(Y), Y == 1):
        assert_array_equal(folds_of(cv, same), expected)


def test_seeds_of_folds():
    Y = random_labels(60, 4, 1.0, 0)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for cv in (
        MultilabelStratifiedKFold(4),
        MultilabelStratifiedKFold(4, shuffle=True, random_state=3),
    ):
        assert_array_equal(folds_of(cv, Y), folds_of(cv, Y))
        again = pickle.loads(pickle.dumps(cv))
        assert_array_equal(folds_of(again, Y), folds_of(cv, Y))
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    shuffled = {
        tuple(folds_of(MultilabelStratifiedKFold(4, shuffle=True, random_state=s), Y))
        for s in range(10)
    }
    assert len(shuffled) == 10


def test_scarce_labels_are_named():
    Y = np.zeros((6, 3), dtype=int)
    Y[:, 0], Y[0, 1] = 1, 1
    with pytest.warns(
        UserWarning, match=r"than n_splits=3: 1 \(1\), 2 \(0\); some folds test none"
    ) as caught:
        for _ in MultilabelStratifiedKFold(3).split(Y, Y):
            pass
    assert caught[0].filename == __file__


def test_folds_it_cannot_make():
    cv = MultilabelStratifiedKFold(4)
    with pytest.raises(ValueError, match="stratifies by y; got None"):
        next(cv.split(np.eye(5), None))
    with pytest.raises(ValueError, match="n_splits=4 greater than .* n_samples=3"):
        next(cv.split(np.eye(3), np.eye(3)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        next(cv.split(np.eye(5), np.eye(6)))
    with pytest.raises(ValueError, match="n_splits=1"):
        MultilabelStratifiedKFold(1)
    with pytest.raises(ValueError, match="random_state"):
        MultilabelStratifiedKFold(3, random_state=0)


def test_splitter_looks_like_those_of_scikit_learn():
    cv = MultilabelStratifiedKFold(3, shuffle=True, random_state=0)
    assert repr(cv) == (
        "MultilabelStratifiedKFold(n_splits=3, random_state=0, shuffle=True)"
    )
    ours, theirs = (
        [
            (p.name, p.kind, p.default)
            for p in inspect.signature(kind).parameters.values()
        ]
        for kind in (MultilabelStratifiedKFold, StratifiedKFold)
    )
    assert ours == theirs
    assert repr(clone(cv, safe=False)) == repr(cv)


@pytest.mark.parametrize("routing", [False, True])
def test_search_with_folds_and_scorer(routing):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24, 4))
    Y = (X[:, :3] + 0.5 * rng.normal(size=(24, 3)) > 0.5).astype(int)
    cv = MultilabelStratifiedKFold(3, shuffle=True, random_state=0)
    model = OneVsRestClassifier(LogisticRegression())
    with sklearn.config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            model,
            {"estimator__C": [1e-3, 1.0]},
            scoring=mean_average_precision_scorer,
            cv=cv,
            error_score="raise",
        ).fit(X, Y)
        predicted = cross_val_predict(model, X, Y, cv=cv, method="decision_function")
    by_hand = [
        mean_average_precision_scorer(
            clone(search.best_estimator_).fit(X[train], Y[train]), X[test], Y[test]
        )
        for train, test in cv.split(X, Y)
    ]
    assert search.best_score_ == pytest.approx(np.mean(by_hand))
    for train, test in cv.split(X, Y):
        fitted = clone(model).fit(X[train], Y[train])
        np.testing.assert_allclose(predicted[test], fitted.decision_function(X[test]))
