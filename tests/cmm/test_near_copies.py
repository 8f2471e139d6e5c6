"""Rows of a class that show nearly the same are put together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot._copies import merge_near_copies, near_copies

D = 64


def photographs(n_classes=6, shots=4, seed=0, spread=1.0):
    """Rows as an encoder gives them: classes that overlap, beside a common vector."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), shots)
    concepts = rng.normal(size=(n_classes, D))
    noise = spread * rng.normal(size=(len(y), D))
    return 4 * rng.normal(size=D) + concepts[y] + noise, y


def again(rows, share=0.05, seed=1):
    """Nearly the same rows, with a share of the squared distance of two of a class."""
    noise = np.random.default_rng(seed).normal(size=rows.shape)
    return rows + np.sqrt(2 * share) * noise


def slowly(F, y):
    """Merge the two groups of a class that are most alike, as long as all of them are.

    Where the usual distance is the spread, as it is in these tests.
    """

    def squared(i, j):
        return ((F[i] - F[j]) ** 2).sum()

    groups = [[i] for i in range(len(y))]
    usual = np.median(
        [
            np.median([squared(i, j) for i in rows for j in rows if i < j])
            for c in np.unique(y)
            if len(rows := np.flatnonzero(y == c)) > 1
        ]
    )
    while True:
        pairs = [
            (max(squared(i, j) for i in a for j in b), a, b)
            for place, a in enumerate(groups)
            for b in groups[:place]
            if y[a[0]] == y[b[0]]
        ]
        widest, a, b = min(pairs, default=(np.inf, [], []))
        if widest >= usual / 6:
            break
        groups = [g for g in groups if g not in (a, b)] + [a + b]
    found = np.empty(len(y), int)
    for group in groups:
        found[group] = min(group)
    return found


def test_copies_are_merged_and_others_are_not(unit):
    X, y = photographs()
    copied = [0, 5, 6]
    F = unit(np.vstack([X, again(X[copied])]))
    labels = np.concatenate([y, y[copied]])
    weight = np.arange(1.0, len(F) + 1)
    features, merged, total, index = merge_near_copies(F, labels, weight)
    is_merged = np.bincount(index) > 1
    assert_array_equal(index, [*range(24), *copied])
    assert_array_equal(merged, y)
    assert_array_equal(np.flatnonzero(is_merged), copied)
    assert_array_equal(total[[0, 5, 6, 7]], [1 + 25, 6 + 26, 7 + 27, 8])
    assert_array_equal(features[~is_merged], F[:24][~is_merged])
    means = weight[copied, None] * F[copied] + weight[24:, None] * F[24:]
    assert_allclose(features[copied], unit(means), atol=1e-12)


@pytest.mark.parametrize("shots", [2, 3, 16])
@pytest.mark.parametrize("common", [0, 10, 100])
def test_a_common_vector_changes_nothing(unit, shots, common):
    X, y = photographs(shots=shots)
    aside = common * np.random.default_rng(3).normal(size=D)
    F = unit(np.vstack([X, again(X[:3])]) + aside)
    group = near_copies(F, np.concatenate([y, y[:3]]))
    assert_array_equal(group[:-3], np.arange(len(y)))
    assert_array_equal(group[-3:], [0, 1, 2])


def test_a_camera_that_stands_still_has_no_copies(unit):
    X, y = photographs(2, 16, spread=2.0)
    F = unit(100 * np.random.default_rng(3).normal(size=D) + X)
    assert (F @ F.T).min() > 0.99
    assert_array_equal(near_copies(F, y), np.arange(32))


@pytest.mark.parametrize("n_classes", [2, 6])
def test_a_support_of_nothing_but_copies(unit, n_classes):
    X, y = photographs(n_classes, 1)
    F = unit(np.vstack([X, *(again(X, 0.02, seed) for seed in range(3))]))
    assert_array_equal(near_copies(F, np.tile(y, 4)), np.tile(y, 4))


def test_one_class_of_nothing_but_copies(unit):
    X, y = photographs(shots=8)
    X[:8] = again(np.tile(X[0], (8, 1)))
    expected = np.arange(len(y))
    expected[:8] = 0
    assert_array_equal(near_copies(unit(X), y), expected)


def test_a_chain_is_not_one_photograph(unit):
    X, y = photographs()
    steps = np.linspace(0, 1, 20)[:, None]
    chain = (1 - steps) * X[0] + steps * X[1]
    F = unit(np.vstack([X, chain]))
    group = near_copies(F, np.concatenate([y, np.zeros(20, int)]))
    assert 3 <= len(np.unique(group[24:])) < 10
    assert group[0] != group[1]


def test_rows_of_two_classes_are_never_merged(unit):
    X, y = photographs()
    F = unit(np.vstack([X, again(X[:1])]))
    assert_array_equal(near_copies(F, np.append(y, 3)), np.arange(25))


def test_large_classes_are_left_alone(unit):
    X, y = photographs(2, 257)
    F = unit(np.vstack([X, again(X[:256])]))
    labels = np.concatenate([y, y[:256]])
    assert_array_equal(near_copies(F, labels), np.arange(770))
    # One row less makes it a class of 512.
    assert len(np.unique(near_copies(F[1:], labels[1:]))) == 769 - 255


@pytest.mark.parametrize("shots", [1, 2])
def test_rows_that_differ_come_back_as_they_are(unit, shots):
    X, y = photographs(shots=shots)
    passed = unit(X).astype(np.float32), y, np.ones(len(y), np.float32)
    *found, index = merge_near_copies(*passed)
    for before, after in zip(passed, found, strict=True):
        assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert_array_equal(index, np.arange(len(y)))


@given(seed=st.integers(0, 2**16), n_rows=st.integers(4, 14))
def test_merging_is_that_of_a_slow_search(unit, seed, n_rows):
    rng = np.random.default_rng(seed)
    # In few dimensions some are near by chance.
    F = unit(rng.normal(size=(n_rows, 3)))
    y = rng.integers(0, 2, n_rows)
    y[:4] = [0, 0, 1, 1]
    found = near_copies(F, y)
    assert_array_equal(found, slowly(F, y))
    order = rng.permutation(n_rows)
    moved, same = near_copies(F[order], 1 - y[order]), found[order]
    assert_array_equal(moved[:, None] == moved, same[:, None] == same)
