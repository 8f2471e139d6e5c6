"""Loss Change Measurement: its closed form, and whether it finds what was planted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot._rows import unit_rows
from skfewshot.multilabel import loss_change
from skfewshot.multilabel._selection import (
    MASK_RATE,
    MASK_STEPS,
    keep_important,
    mask_importance,
    select,
    select_top,
    selection_scores,
)
from skfewshot.multilabel._tokens import FeatureMap, Support, Tokens

SCALE = 20.0


def scores_of(method, parts, present, intercept, vectors, labels):
    """Score features that only the intercept maps."""
    tokens = Tokens(parts.mean(axis=1), parts, present)
    support = Support(tokens, labels, np.ones(len(labels)))
    feature_map = FeatureMap(-intercept, -intercept)
    return selection_scores(support, feature_map, vectors, method, SCALE)


def make_problem(seed, n=4, n_parts=5, d=7, n_labels=3, padding=True):
    rng = np.random.default_rng(seed)
    present = np.ones((n, n_parts), dtype=bool)
    if padding:
        present[0, 3:] = False
        present[1, 1:] = False
    parts = unit_rows(rng.normal(size=(n, n_parts, d))) * present[:, :, None]
    intercept = 0.2 * rng.normal(size=d)
    vectors = unit_rows(rng.normal(size=(n_labels, d)))
    labels = rng.integers(0, 2, size=(n, n_labels)).astype(float)
    return parts, present, intercept, vectors, labels


def slow_loss(masks, parts, present, intercept, vectors, labels, label):
    """Mean binary cross-entropy of one label, from the masks of all features."""
    total = 0.0
    for j in range(len(parts)):
        mean = np.zeros(parts.shape[2])
        count = 0
        for k in range(parts.shape[1]):
            if present[j, k]:
                mean += masks[j, k] * parts[j, k]
                count += 1
        mapped = mean / count + intercept
        mapped /= np.linalg.norm(mapped)
        logit = SCALE * (1 - np.linalg.norm(mapped - vectors[label]))
        p = 1 / (1 + np.exp(-logit))
        y = labels[j, label]
        total -= y * np.log(p) + (1 - y) * np.log(1 - p)
    return total / len(parts)


def finite_differences(problem, step=1e-5):
    _, present, *_, labels = problem
    slopes = np.zeros((*present.shape, labels.shape[1]))
    for j, k, label in np.ndindex(slopes.shape):
        ends = []
        for sign in (1, -1):
            masks = np.ones(present.shape)
            masks[j, k] += sign * step
            ends.append(slow_loss(masks, *problem, label))
        slopes[j, k, label] = (ends[0] - ends[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_change_is_minus_the_derivative_of_the_loss(seed, padding):
    problem = make_problem(seed, padding=padding)
    found = loss_change(*problem, SCALE)
    assert_allclose(found, -finite_differences(problem), rtol=1e-5, atol=1e-8)
    assert np.abs(found).max() > 1e-3
    assert_array_equal(found[~problem[1]], 0)


def slow_importance(problem, step=1e-5):
    """Train the masks one at a time by differences of the mean loss of all labels."""
    _, present, *_, labels = problem
    n_images, n_labels = labels.shape
    masks, importance = np.ones(present.shape), np.zeros(present.shape)

    def loss(masks):
        losses = [slow_loss(masks, *problem, label) for label in range(n_labels)]
        return np.mean(losses)

    for _ in range(MASK_STEPS):
        slopes = np.zeros(present.shape)
        for j, k in np.argwhere(present):
            nudge = np.zeros(present.shape)
            nudge[j, k] = step
            slopes[j, k] = (loss(masks + nudge) - loss(masks - nudge)) / (2 * step)
        importance = 0.95 * importance + 0.05 * np.abs(masks * slopes)
        for j, k in np.argwhere(present):
            n_parts = present[j].sum()
            masks[j, k] -= MASK_RATE * n_images * n_parts * n_labels * slopes[j, k]
    return importance, masks


@pytest.mark.parametrize("padding", [False, True])
def test_importance_is_that_of_masks_trained_on_the_loss_of_all_labels(padding):
    problem = make_problem(2, n=3, n_parts=4, n_labels=2, padding=padding)
    expected, masks = slow_importance(problem)
    assert np.abs(masks - 1).max() > 0.02
    found = mask_importance(*problem, SCALE)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-8)
    # One mask an image: the scores of all labels are the same.
    scores = scores_of("lcm_paper", *problem)
    kept = keep_important(found, problem[1])
    assert_array_equal(scores, np.where(kept, found, -np.inf)[:, :, None].repeat(2, 2))


def test_features_of_little_importance_are_dropped_but_the_best_of_an_image():
    importance = np.array([[9.0, 5.0, 1.0, 0.0], [0.1, 0.3, 0.2, 8.0]])
    present = np.array([[True] * 4, [True, True, True, False]])
    kept = keep_important(importance, present)
    # The mean of what is there is 15.6 / 7, and the second image has nothing above it.
    expected = [[True, True, False, False], [False, True, False, False]]
    assert_array_equal(kept, expected)
    assert_array_equal(keep_important(0 * importance, present), present)


@settings(max_examples=50)
@given(seed=st.integers(0, 100_000), n_parts=st.integers(4, 8))
def test_published_selection_is_one_for_all_labels_of_an_image(seed, n_parts):
    problem = make_problem(seed, n_parts=n_parts)
    parts, present, intercept, vectors, labels = problem
    support = Support(Tokens(parts.mean(axis=1), parts, present), labels, np.ones(4))
    means = FeatureMap(-intercept, -intercept)
    for n_select in (1, 3):
        found = select(support, means, vectors, "lcm_paper", n_select, SCALE)
        assert found.valid.any(axis=1).all()
        if len(found.valid):
            assert found.valid.any(axis=0).all()
        for image in range(4):
            own = found.images == image
            pairs = zip(found.chosen[own], found.valid[own], strict=True)
            sets = {frozenset(chosen[valid]) for chosen, valid in pairs}
            assert len(sets) == min(own.sum(), 1)
            assert all(present[image, k] for chosen in sets for k in chosen)


@settings(max_examples=50)
@given(seed=st.integers(0, 100_000), n_parts=st.integers(2, 12))
def test_lcm_ranks_by_text_agreement_less_what_the_image_explains(seed, n_parts):
    problem = make_problem(seed, n_parts=n_parts, padding=False)
    parts, _, intercept, vectors, labels = problem
    found = loss_change(*problem, SCALE)
    for j, label in zip(*np.nonzero(labels), strict=True):
        mean = unit_rows(parts[j].mean(axis=0) + intercept)
        against = vectors[label] - (mean @ vectors[label]) * mean
        assert_array_equal(
            np.argsort(found[j, :, label]), np.argsort(parts[j] @ against)
        )


def test_text_and_none_scores():
    parts, present, intercept, vectors, labels = make_problem(3)
    by_text = scores_of("text", parts, present, intercept, vectors, labels)
    for j, k in np.argwhere(present):
        expected = vectors @ unit_rows(parts[j, k] + intercept)
        assert_allclose(by_text[j, k], expected, rtol=1e-12)
    nothing = scores_of("none", parts, present, intercept, vectors, labels)
    assert_array_equal(nothing[present], 0)
    for scores in (by_text, nothing):
        assert np.isneginf(scores[~present]).all()


def test_an_image_whose_mean_vanishes_gives_no_nan():
    parts = np.array([[[1.0, 0.0], [-1.0, 0.0]]])
    found = loss_change(
        parts,
        np.ones((1, 2), dtype=bool),
        np.zeros(2),
        np.array([[0.0, 1.0]]),
        np.ones((1, 1)),
        SCALE,
    )
    assert np.isfinite(found).all()


def test_an_image_that_is_the_label_gives_no_nan():
    vectors = np.eye(3)
    parts = np.repeat(vectors[:1, None], 4, axis=1)
    found = loss_change(
        parts, np.ones((1, 4), dtype=bool), np.zeros(3), vectors, np.eye(1, 3), SCALE
    )
    assert np.isfinite(found).all()


def hit_rate(data, method, n_select=3):
    """Return the share of selected patches that the label fills."""
    tokens, text = (
        unit_rows(data.X[:, 1:]),
        unit_rows(data.text - data.text.mean(axis=0)),
    )
    mean = tokens.mean(axis=(0, 1))
    present = np.ones(tokens.shape[:2], dtype=bool)
    scores = scores_of(method, tokens, present, -mean, text, data.Y.astype(float))
    images, labels = np.nonzero(data.Y)
    chosen, valid = select_top(scores, images, labels, n_select)
    assert valid.all()
    return (data.owner[images[:, None], chosen] == labels[:, None]).mean()


@pytest.mark.parametrize("seed", range(3))
def test_signed_lcm_finds_planted_patches(planted, seed):
    data = planted(60, seed=seed)
    assert hit_rate(data, "lcm") > 0.9
    assert hit_rate(data, "text") > 0.9


def test_select_top_orders_by_score_then_by_index_and_marks_padding():
    inf = np.inf
    scores = np.array(
        [
            [[3.0, 1.0], [5.0, 1.0], [3.0, 1.0], [4.0, 2.0]],
            [[2.0, 7.0], [-inf, -inf], [6.0, -8.0], [-inf, -inf]],
        ]
    )
    images, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    chosen, valid = select_top(scores, images, labels, 3)
    assert_array_equal(chosen[:2], [[1, 3, 0], [3, 0, 1]])
    assert_array_equal(chosen[2:, :2], [[2, 0], [0, 2]])
    assert_array_equal(valid, [[True, True, True]] * 2 + [[True, True, False]] * 2)


@pytest.mark.parametrize("n_select", [None, 4, 100])
def test_select_top_takes_all_there_are(n_select):
    scores = np.random.default_rng(0).normal(size=(2, 4, 1))
    chosen, valid = select_top(scores, np.array([1]), np.array([0]), n_select)
    assert_array_equal(chosen, [np.argsort(-scores[1, :, 0])])
    assert valid.all()


@settings(max_examples=50)
@given(seed=st.integers(0, 100_000), n_select=st.integers(1, 8))
def test_no_feature_that_was_left_out_scores_above_one_that_was_taken(seed, n_select):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(3, 6, 2)).astype(float)
    images, labels = np.array([0, 1, 2, 2]), np.array([1, 0, 0, 1])
    chosen, valid = select_top(scores, images, labels, n_select)
    assert chosen.shape == valid.shape == (4, min(n_select, 6))
    for row, taken in zip(scores[images, :, labels], chosen, strict=True):
        assert len(set(taken)) == len(taken)
        rest = np.delete(row, taken)
        assert rest.size == 0 or rest.max() <= row[taken].min()
        assert (np.diff(row[taken]) <= 0).all()
