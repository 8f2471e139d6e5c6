"""What left-out rows tell against a general optimiser on the posterior written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from skfewshot.cmm._scales import (
    LeftOut,
    find_intercepts,
    find_newcomer_intercept,
    find_weights,
    trust_labels,
    trust_texts,
    without_own_say,
)

seeds = st.integers(0, 2**16)
few = settings(max_examples=8)
WEIGHTS = [1e-9, 1.0, 1e9]


def as_tensors(*arrays, dtype=torch.float64):
    return [
        torch.tensor(a) if a.dtype.kind in "ib" else torch.tensor(a, dtype=dtype)
        for a in map(np.asarray, arrays)
    ]


def make_logits(seed=0, n_classes=5, n_rows=20, skill=2.0):
    """Logits that favour the own class; every class has a row."""
    rng = np.random.default_rng(seed)
    n_rows = max(n_rows, n_classes)
    y = np.append(np.arange(n_classes), rng.integers(0, n_classes, n_rows - n_classes))
    logits = 2 * rng.normal(size=(n_rows, n_classes)) + skill * np.eye(n_classes)[y]
    return logits + rng.normal(size=n_classes), y, rng.uniform(0.3, 3.0, n_rows)


def row_losses(logits, y):
    return -log_softmax(logits, axis=1)[np.arange(len(y)), y]


def least(function, start):
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}
    return minimize(function, start, method="Nelder-Mead", options=options).x


# The trust in texts.


def reference_trust(logits, y, weight):
    n_classes = logits.shape[1]
    factor = min(1.0, 5 / logits.std(axis=1, ddof=1).mean())
    counts = np.bincount(y, weight)

    def losses(x):
        rows = row_losses(factor * math.exp(0.5 * x[0]) * logits, y)
        return np.bincount(y, weight * rows) / counts

    def odds(x):
        return np.minimum(counts, 16) ** 0.5 * (0.95 * np.log(n_classes) - losses(x))

    def loss(x):
        """A text is right, or what it says is as good as by chance."""
        wrong = expit(-2 + 3 * x[1])
        return -np.log(wrong + (1 - wrong) * np.exp(odds(x))).sum() + x @ x / 2

    x = least(loss, [0.0, 0.0])
    trust = expit(odds(x) - (-2 + 3 * x[1]))
    surprise = trust @ losses(x) / trust.sum()
    return trust, factor * math.exp(0.5 * x[0]), surprise


@given(
    seed=seeds,
    n_classes=st.integers(2, 8),
    n_rows=st.integers(1, 60),
    size=st.sampled_from([0.3, 1.0, 5.0]),
)
@few
def test_trust_in_texts_is_the_mode_of_the_posterior(seed, n_classes, n_rows, size):
    logits, y, weight = make_logits(seed, n_classes, n_rows)
    problem = size * logits, y, weight
    trust, factor, surprise = trust_texts(*as_tensors(*problem))
    expected = reference_trust(*problem)
    assert_allclose(trust, expected[0], atol=0.03)
    assert_allclose([factor, surprise], expected[1:], rtol=0.03)


@pytest.mark.parametrize("n_classes", [4, 20])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_wrong_texts_are_told_from_right_ones(n_classes, share):
    rng = np.random.default_rng(0)
    is_wrong = np.arange(n_classes) < share * n_classes
    of_text = np.arange(n_classes)
    of_text[is_wrong] = np.roll(of_text[is_wrong], 1)
    if is_wrong.sum() == 1:
        is_wrong[:] = False
    y = np.repeat(np.arange(n_classes), 4)
    logits = 8 * np.eye(n_classes)[y] + rng.normal(size=(len(y), n_classes))
    trust, _, _ = trust_texts(*as_tensors(logits[:, of_text], y, np.ones(len(y))))
    trust = trust.numpy()
    assert (trust[is_wrong] < 0.1).all()
    if share < 1:
        assert (trust[~is_wrong] > 0.9).all()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_extreme_trust_is_finite(weight, n_classes, sign):
    y = np.arange(n_classes).repeat(2)
    logits = sign * 1e4 * np.eye(n_classes)[y]
    problem = as_tensors(logits, y, np.full(len(y), weight), dtype=torch.float32)
    trust, factor, surprise = trust_texts(*problem)
    assert ((trust >= 0) & (trust <= 1)).all()
    assert 0 < factor < math.inf
    assert 0 <= surprise < math.inf


# The trust in labels.


def reference_labels(logits, y, judged):
    p = np.exp(-row_losses(logits, y))
    wrong = (1 - p) / (logits.shape[1] - 1)

    def loss(x):
        share = expit(-4 + 1.5 * x[0])
        rows = np.log((1 - share) * p + share * wrong)
        return -rows[judged].sum() + x[0] ** 2 / 2

    share = expit(-4 + 1.5 * least(loss, [0.0])[0])
    right = (1 - share) * p
    return np.where(judged, right / (right + share * wrong), 1)


@given(seed=seeds, n_classes=st.integers(2, 8), n_rows=st.integers(1, 60))
@few
def test_trust_in_labels_is_the_mode_of_the_posterior(seed, n_classes, n_rows):
    logits, y, _ = make_logits(seed, n_classes, n_rows)
    judged = np.random.default_rng(seed).random(len(y)) < 0.8
    found = trust_labels(*as_tensors(logits, y, judged))
    assert_allclose(found, reference_labels(logits, y, judged), atol=0.02)


@pytest.mark.parametrize("n_classes", [2, 10])
def test_planted_wrong_labels_are_found(n_classes):
    rng = np.random.default_rng(0)
    right = np.arange(20 * n_classes) % n_classes
    y = right.copy()
    y[::11] = (y[::11] + 1) % n_classes
    logits = 6 * np.eye(n_classes)[right] + rng.normal(size=(len(y), n_classes))
    trust = trust_labels(*as_tensors(logits, y, np.ones(len(y), bool))).numpy()
    assert (trust[y != right] < 0.5).mean() > 0.85
    assert (trust[y == right] > 0.9).mean() > 0.95


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_extreme_labels_are_finite(n_classes, sign):
    y = np.arange(n_classes).repeat(2)
    problem = as_tensors(
        sign * 1e4 * np.eye(n_classes)[y], y, y >= 0, dtype=torch.float32
    )
    trust = trust_labels(*problem)
    assert ((trust >= 0) & (trust <= 1)).all()


# The weights of texts and images.


def make_left_out(seed=0, n_classes=4, n_rows=12, skill=(3.0, 0.5), weight=1.0):
    """What favours the own class by `skill`; the last row has no other of it."""
    rng = np.random.default_rng(seed)
    y = np.append(rng.integers(0, n_classes - 1, n_rows - 1), n_classes - 1)
    own = np.eye(n_classes)[y]
    frozen = rng.normal(size=own.shape) + rng.uniform(0, skill[0]) * own
    mapped = 0.25 * rng.normal(size=own.shape) + rng.uniform(0, skill[1]) * own
    weight = weight * rng.uniform(0.3, 3.0, n_rows)
    others = np.bincount(y, weight)[y] - weight
    others[np.bincount(y)[y] == 1] = 0
    return LeftOut(*as_tensors(np.arange(n_rows), frozen, mapped, y, weight, others))


def medians(n_classes, shots, trust, surprise, text_penalty):
    """Of the priors, as the Notes of the classifier have them."""
    g = (text_penalty * shots) ** 0.2
    g *= (min(max(surprise, 0.2), 0.8) / 0.8) ** (0.35 * trust)
    few = min(1, 25 / 24 * (1 - 1 / n_classes)) ** min(1, max(0, shots - 1))
    return 0.78 / g, 9 * few * g * (1 + 0.45 * (1 - trust))


def reference_weights(left_out, ratio, **given_):
    _, frozen, mapped, y, weight, others = (part.numpy() for part in left_out)
    text, image = medians(frozen.shape[1], **given_)
    judges = weight * (others > 0)

    def weights(x):
        a = text * math.exp(0.5 * x[0])
        return a, image * math.exp(0.4 * x[1]) if ratio is None else ratio * a

    def loss(x):
        a, b = weights(x)
        return judges @ row_losses(a * frozen + b * mapped, y) + x @ x / 2

    x = least(loss, [0.0, 0.0])
    return *weights(x), loss(x)


@given(
    seed=seeds,
    n_classes=st.integers(2, 6),
    size=st.sampled_from([0.05, 1.0, 20.0]),
    ratio=st.sampled_from([None, 0.3, 10.0]),
    trust=st.floats(0, 1),
    surprise=st.floats(0, 2),
    shots=st.floats(0.5, 20),
    text_penalty=st.sampled_from([1.0, 10.0]),
)
@few
def test_weights_are_the_mode_of_the_posterior(seed, n_classes, size, ratio, **given_):
    left_out = make_left_out(seed, n_classes, weight=size)
    found = find_weights(left_out, ratio=ratio, **given_)
    expected = reference_weights(left_out, ratio, **given_)
    assert_allclose(found, expected, rtol=0.02)


def test_without_rows_to_spare_the_medians_are_taken():
    given_ = {"shots": 1.0, "trust": 0.5, "surprise": 0.5, "text_penalty": 3.0}
    left_out = make_left_out()
    left_out = left_out._replace(others=0 * left_out.others)
    found = find_weights(left_out, ratio=None, **given_)
    n_classes = left_out.frozen.shape[1]
    assert_allclose(found, (*medians(n_classes, **given_), 0), rtol=1e-6)


def test_images_that_tell_weigh_more_than_texts_that_do_not():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 20)
    frozen, mapped = rng.normal(size=(2, 100, 5))
    own, ones = np.eye(5)[y], np.ones(100)
    given_ = {"shots": 20.0, "trust": 1.0, "surprise": 0.8, "text_penalty": 3.0}
    found = []
    for parts in ((frozen, mapped + 3 * own), (frozen + 3 * own, mapped)):
        parts = as_tensors(np.arange(100), parts[0], parts[1] / 20, y, ones, 19 * ones)
        found.append(find_weights(LeftOut(*parts), ratio=None, **given_))
    images, texts = (weights.image / weights.text for weights in found)
    assert images > 4 * texts


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1), (0, 0)])
def test_extreme_weights_are_finite(weight, n_classes, signs):
    y = np.arange(n_classes).repeat(2)
    own, many = np.eye(n_classes)[y], np.full(2 * n_classes, weight)
    parts = np.arange(len(y)), signs[0] * 1e3 * own, signs[1] * own, y, many, many
    for ratio in (None, 1e-6, 1e6):
        found = find_weights(
            LeftOut(*as_tensors(*parts, dtype=torch.float32)),
            shots=2 * weight,
            trust=1.0,
            surprise=0.5,
            text_penalty=10.0,
            ratio=ratio,
        )
        assert all(0 <= number < math.inf for number in found)
        assert found.text > 0 and found.image > 0


# Intercepts.


def even_weights(y, weight):
    """Weights of the same sum, the same for each class of a row or more."""
    counts = np.bincount(y, weights=weight)
    even = weight / counts[y] * np.minimum(counts, 1)[y]
    return even * weight.sum() / even.sum()


def reference_intercepts(logits, y, even):
    def function(b):
        return even @ row_losses(logits + b, y) + b @ b / 2

    return minimize(function, np.zeros(logits.shape[1]), tol=1e-8).x


@given(seed=seeds, n_classes=st.integers(2, 8), n_rows=st.integers(1, 60))
@few
def test_intercepts_are_the_mode_of_the_posterior(seed, n_classes, n_rows):
    logits, y, weight = make_logits(seed, n_classes, n_rows)
    expected = reference_intercepts(logits, y, even_weights(y, weight))
    found = find_intercepts(*as_tensors(logits, y, weight))
    assert_allclose(found, expected, atol=0.03)


def test_intercepts_of_no_rows_and_of_classes_without_any():
    logits, y, weight = as_tensors(*make_logits())
    assert not find_intercepts(logits[:0], y[:0], weight[:0]).any()
    some = y > 1
    found = find_intercepts(logits[some], y[some], weight[some])
    assert torch.isfinite(found).all()
    assert not found[:2].any()
    assert found[2:].all()


def test_names_said_too_readily_are_held_back():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 50)
    eager = np.array([1.5, 0.0, 0.0, -1.5])
    logits = 2 * np.eye(4)[y] + rng.normal(size=(200, 4)) + eager
    found = find_intercepts(*as_tensors(logits, y, np.ones(200)))
    assert_allclose(found, -eager, atol=0.4)


def test_unequal_classes_are_no_preference():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [300, 10])
    is_wrong = rng.random((310, 1)) < 0.2
    logits = np.where(is_wrong, 1 - np.eye(2)[y], np.eye(2)[y])
    found = find_intercepts(*as_tensors(logits, y, np.ones(310)))
    assert found.abs().max() < 0.3


@given(seed=seeds, n_classes=st.integers(2, 6), n_rows=st.integers(30, 80))
@few
def test_own_say_is_what_a_row_adds_to_the_intercepts(seed, n_classes, n_rows):
    """To first order: most of the gap to intercepts found without the row is closed."""
    logits, y, weight = make_logits(seed, n_classes, n_rows)
    # Two rows of a class at least.
    twice = np.append(np.arange(len(y)), np.arange(n_classes))
    logits, y, weight = logits[twice], y[twice], weight[twice]
    logits += np.random.default_rng(seed).normal(size=logits.shape)
    even = even_weights(y, weight)
    with_own = logits + reference_intercepts(logits, y, even)
    found = without_own_say(*as_tensors(with_own, y, weight)).numpy()
    before, after = [], []
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        others = even_weights(y[kept], weight[kept])
        refitted = reference_intercepts(logits[kept], y[kept], others)
        before.append(np.abs(with_own[i] - logits[i] - refitted).max())
        after.append(np.abs(found[i] - logits[i] - refitted).max())
    assert np.mean(after) < 0.4 * np.mean(before)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_extreme_intercepts_are_finite(weight, n_classes):
    y = np.arange(n_classes).repeat(2)
    right = np.eye(n_classes)[y]
    for logits in (1e4 * right, -1e4 * right, 0 * right, 1e4 * right[::-1]):
        problem = as_tensors(logits, y, np.full(len(y), weight), dtype=torch.float32)
        found = find_intercepts(*problem)
        assert torch.isfinite(found).all()
        assert found.abs().max() <= 10
        without = without_own_say(problem[0] + found, *problem[1:])
        assert torch.isfinite(without).all()
        assert without.dtype == torch.float32


# The intercept of classes without images.


def newcomer_intercept(*arrays, dtype=torch.float64):
    return find_newcomer_intercept(*as_tensors(*arrays, dtype=dtype))


@given(
    seed=seeds,
    n_classes=st.integers(2, 6),
    handicap=st.floats(-4.0, 4.0),
    size=st.sampled_from([0.02, 1.0]),
)
@few
def test_the_intercept_of_newcomers_is_the_most_likely(seed, n_classes, handicap, size):
    logits, y, weight = make_logits(seed, n_classes, 12)
    weight = size * weight
    rng = np.random.default_rng(seed)
    newcomers = logits - handicap + 0.5 * rng.normal(size=logits.shape)
    even = even_weights(y, weight)

    def loss(a):
        """Each class in turn is a newcomer among the others as they are."""
        total = 0.0
        for i, label in enumerate(y):
            for c in range(n_classes):
                others = np.log(np.exp(np.delete(logits[i], c)).sum())
                sign = 1 if c == label else -1
                gap = sign * (newcomers[i, c] + a[0] - others)
                total += even[i] * np.logaddexp(0, -gap)
        return total + a[0] ** 2 / 2

    expected = minimize(loss, [0.0], tol=1e-8).x[0]
    found = newcomer_intercept(logits, newcomers, y, weight)
    assert found == pytest.approx(np.clip(expected, -10, 10), abs=0.02)


@pytest.mark.parametrize("handicap", [-4.0, 0.5, 5.0])
def test_a_handicap_that_all_newcomers_have_is_made_good(handicap):
    logits, y, weight = make_logits()
    # Many rows, beside which the prior counts for nothing.
    found = newcomer_intercept(logits, logits - handicap, y, 1e4 * weight)
    assert found == pytest.approx(handicap, abs=0.02)
    few_rows = newcomer_intercept(logits, logits - handicap, y, weight)
    assert 0.02 < few_rows * np.sign(handicap) <= abs(handicap) + 0.02


@pytest.mark.parametrize("handicap, found", [(9.0, 9), (30.0, 10), (-30.0, -10)])
def test_the_intercept_of_newcomers_is_at_most_ten(handicap, found):
    logits, y, weight = make_logits()
    level = newcomer_intercept(logits, logits - handicap, y, 1e6 * weight)
    assert level == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_extreme_newcomers_are_finite(weight, n_classes):
    y = np.arange(n_classes).repeat(2)
    right = 1e4 * np.eye(n_classes)[y]
    for logits in (right, -right, 0 * right):
        for newcomers in (right, -right, 0 * right):
            problem = logits, newcomers, y, np.full(len(y), weight)
            assert abs(newcomer_intercept(*problem, dtype=torch.float32)) <= 10
