"""Logits of patches and the pooling of them, against slow and obvious loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot.multilabel import compete
from skfewshot.multilabel._scoring import (
    QUERY_SCORINGS,
    Scorer,
    distance_logits,
    pool_top,
)


def make_evidence(seed, n=4, n_parts=6, n_labels=3):
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(n, n_parts, n_labels))
    present = rng.random((n, n_parts)) < 0.6
    present[np.arange(n), rng.integers(n_parts, size=n)] = True
    return evidence, present


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_distance_logits_are_those_of_the_distances(unit, scale):
    rng = np.random.default_rng(0)
    a, b = unit(rng.normal(size=(5, 9))), unit(rng.normal(size=(4, 9)))
    expected = [[scale * (1 - np.linalg.norm(x - y)) for y in b] for x in a]
    assert_allclose(distance_logits(a @ b.T, scale), expected, rtol=1e-12)


def test_distance_logits_at_the_ends_and_beyond():
    cosine = np.array([-1.0, 0.5, 1.0, 1.0 + 1e-7])
    logits = distance_logits(cosine, 20.0)
    assert_allclose(logits, [-20, 0, 20 * (1 - 1e-3), 20 * (1 - 1e-3)])
    assert distance_logits(cosine.astype(np.float32), 20.0).dtype == np.float32


def test_distance_logits_of_tensors_have_finite_gradients():
    cosine = torch.tensor([-1.0, 0.3, 1.0], requires_grad=True)
    logits = distance_logits(cosine, 20.0)
    assert_allclose(
        logits.detach().numpy(),
        distance_logits(cosine.detach().numpy(), 20.0),
        rtol=1e-6,
    )
    logits.sum().backward()
    assert torch.isfinite(cosine.grad).all()


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    background=st.floats(-20, 20),
    sharpness=st.floats(0.01, 5),
)
def test_compete_gives_the_log_odds_against_all_others(seed, background, sharpness):
    logits, _ = make_evidence(seed)
    found = compete(logits, background, sharpness)
    for j, k in np.ndindex(logits.shape[:2]):
        strength = np.exp(sharpness * logits[j, k])
        for label in range(len(strength)):
            others = np.delete(strength, label).sum() + np.exp(sharpness * background)
            expected = np.log(strength[label] / others)
            assert_allclose(found[j, k, label], expected, rtol=1e-9, atol=1e-9)
    # No two labels can both have a patch.
    assert ((found > 0).sum(axis=2) <= 1).all()
    assert (1 / (1 + np.exp(-found))).sum(axis=2).max() <= 1 + 1e-12


def test_compete_of_one_label_is_against_the_background_alone():
    logits = np.array([[[3.0], [-2.0]]])
    assert_allclose(compete(logits, 1.0, 0.5), 0.5 * (logits - 1.0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compete_keeps_the_dtype_and_does_not_overflow(dtype):
    logits = np.array([[[-1e4, 1e4, 3.0]]], dtype=dtype)
    found = compete(logits, 2.0, 3.0)
    assert found.dtype == dtype
    assert_allclose(found[0, 0], [-6e4, 3e4 - 9, 9 - 3e4], rtol=1e-5)
    close = compete(np.array([[[40.0, 1.0]]], dtype=dtype), 0.0, 1.0)
    assert_allclose(close[0, 0, 0], 40 - np.log(1 + np.e), rtol=1e-6)


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), n_top=st.integers(1, 9))
def test_pool_top_is_the_mean_of_the_largest(seed, n_top):
    evidence, present = make_evidence(seed)
    found = pool_top(evidence, present, n_top)
    for j, label in np.ndindex(found.shape):
        values = sorted(evidence[j, present[j], label], reverse=True)[:n_top]
        assert_allclose(found[j, label], np.mean(values), rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n_top=st.integers(1, 9))
def test_pool_top_does_not_see_the_order_nor_the_padding(seed, n_top):
    evidence, present = make_evidence(seed)
    found = pool_top(evidence, present, n_top)
    order = np.random.default_rng(seed).permutation(evidence.shape[1])
    assert_array_equal(pool_top(evidence[:, order], present[:, order], n_top), found)
    junk = np.where(present[:, :, None], evidence, 1e6)
    assert_array_equal(pool_top(junk, present, n_top), found)


def test_images_are_scored_by_their_scoring():
    cosine, present = make_evidence(0)
    cosine = np.tanh(cosine)
    whole_cosine = np.tanh(np.random.default_rng(1).normal(size=(4, 3)))
    logits, whole = (distance_logits(c, 20.0) for c in (cosine, whole_cosine))
    local = pool_top(logits, present, 2)
    expected = {
        "global": whole,
        "local": local,
        "competitive": pool_top(compete(logits, -3.0, 0.4), present, 2),
        "both": (whole + local) / 2,
    }
    assert set(expected) == set(QUERY_SCORINGS)
    for scoring, value in expected.items():
        scorer = Scorer(20.0, scoring, 2, background=-3.0, sharpness=0.4)
        assert_allclose(scorer.pooled(whole_cosine, cosine, present), value)
