"""Rows of a class that show nearly the same are put together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot._rows import merge_near_copies

ALIKE = np.cos(np.deg2rad(10))


def on_a_circle(degrees):
    """Unit rows in a plane; two are alike if their angle is below ten degrees."""
    angle = np.deg2rad(degrees)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def test_a_chain_of_near_copies_is_one_row(unit):
    F = on_a_circle([0, 90, 8, 16, 24, 130])
    weight = np.array([1.0, 5.0, 2.0, 3.0, 4.0, 6.0])
    features, y, total = merge_near_copies(F, np.zeros(6, int), weight, cosine=ALIKE)
    chain = [0, 2, 3, 4]
    mean = unit((weight[chain, None] * F[chain]).sum(axis=0))
    assert_allclose(features, [mean, F[1], F[5]], atol=1e-12)
    assert_array_equal(total, [10, 5, 6])
    assert_array_equal(y, [0, 0, 0])


def test_rows_of_two_classes_are_never_merged():
    F = on_a_circle([0, 0, 1, 1, 50])
    y = np.array([1, 0, 1, 0, 0])
    features, labels, total = merge_near_copies(F, y, np.ones(5), cosine=ALIKE)
    assert_allclose(features, on_a_circle([0.5, 0.5, 50]), atol=1e-12)
    assert_array_equal(labels, [1, 0, 0])
    assert_array_equal(total, [2, 2, 1])


def test_rows_that_differ_come_back_as_they_are():
    given_ = on_a_circle([0, 20, 40]), np.array([2, 2, 0]), np.ones(3)
    found = merge_near_copies(*given_, cosine=ALIKE)
    for before, after in zip(given_, found, strict=True):
        assert_array_equal(before, after)


@pytest.mark.parametrize("most, kept", [(5, 2), (3, 2), (2, 4), (1, 5)])
def test_classes_of_more_than_so_many_rows_are_left_alone(most, kept):
    F, y = on_a_circle([0, 1, 2, 100, 101]), np.array([0, 0, 0, 1, 1])
    features, labels, total = merge_near_copies(
        F, y, np.ones(5), cosine=ALIKE, most=most
    )
    assert len(features) == len(labels) == len(total) == kept
    assert total.sum() == 5


@given(seed=st.integers(0, 2**16), n_rows=st.integers(1, 25))
def test_merging_is_that_of_a_slow_search_for_chains(unit, seed, n_rows):
    rng = np.random.default_rng(seed)
    F = on_a_circle(rng.uniform(0, 200, n_rows)).astype(np.float32)
    y, weight = rng.integers(0, 3, n_rows), rng.integers(1, 4, n_rows).astype("f4")
    group = np.arange(n_rows)
    alike = (y[:, None] == y) & (F @ F.T > ALIKE)
    for _ in range(n_rows):
        group = np.where(alike, group, n_rows).min(axis=1)
    features, labels, total = merge_near_copies(F, y, weight, cosine=ALIKE)
    assert features.dtype == total.dtype == np.float32
    firsts = np.unique(group)
    assert_array_equal(labels, y[firsts])
    assert_array_equal(total, [weight[group == first].sum() for first in firsts])
    means = [
        unit((weight[group == first, None] * F[group == first]).sum(axis=0))
        for first in firsts
    ]
    assert_allclose(features, means, atol=1e-5)
