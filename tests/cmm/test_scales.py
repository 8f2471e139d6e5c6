"""Scales and intercepts against a general optimiser on the posterior written out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import log_softmax

from skfewshot.cmm._gaussian import (
    find_scales,
    gaussian_start,
    leave_out,
    newcomer_cosines,
)
from skfewshot.cmm._scales import (
    LeftOut,
    find_intercepts,
    find_newcomer_intercept,
    find_weight,
)

seeds = st.integers(0, 2**16)
few = settings(max_examples=8)


def make_left_out(seed=0, n_classes=4, n_rows=12, skill=(0.1, 0.5), weight=1.0):
    """Cosines that favour the own class by `skill`; the last row has no other of it."""
    rng = np.random.default_rng(seed)
    y = np.append(rng.integers(0, n_classes - 1, n_rows - 1), n_classes - 1)
    own = np.eye(n_classes)[y]
    frozen = 0.2 + 0.05 * rng.normal(size=own.shape) + rng.uniform(0, skill[0]) * own
    mapped = 0.25 * rng.normal(size=own.shape) + rng.uniform(0, skill[1]) * own
    weight = weight * rng.uniform(0.3, 3.0, n_rows)
    spare = np.bincount(y, minlength=n_classes)[y] > 1
    return LeftOut(
        rows=torch.arange(n_rows),
        **{
            name: torch.tensor(part)
            for name, part in {
                "frozen": frozen,
                "mapped": mapped,
                "y": y,
                "weight": weight,
                "spare": spare,
            }.items()
        },
    )


def log_loss(logits, y, weight):
    own = log_softmax(logits, axis=1)[np.arange(len(y)), y]
    return -(weight * own).sum()


def least(function, start):
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}
    return minimize(function, start, method="Nelder-Mead", options=options).x


def reference_weight(left_out, *, logit_scale=30.0, text_seen=False, alpha=None):
    """Modes of the posteriors, one unknown or two at a time."""
    _, frozen, mapped, y, weight, spare = (part.numpy() for part in left_out)
    z0, z1 = logit_scale * frozen, 20 * mapped
    judges = weight * spare
    sure = judges if text_seen else np.where(spare, weight, 0.1 * weight)

    def loss(log_ratio, log_sharpness, by):
        share = 1 / (1 + math.exp(-log_ratio))
        logits = math.exp(log_sharpness) * ((1 - share) * z0 + share * z1)
        return log_loss(logits, y, by)

    log_ratio = 0.0
    if not text_seen:

        def of_texts(b):
            return log_loss(math.exp(b[0]) * z0, y, weight) + (b[0] / 0.5) ** 2 / 2

        (b,) = least(of_texts, [0.0])
        surprise = log_loss(math.exp(b) * z0, y, weight) / weight.sum()
        log_ratio = math.log(np.clip(surprise / 1.5 / math.exp(b), 0.1, 10))
    if alpha is not None:
        log_ratio = math.log(logit_scale / 20 * alpha)
    elif judges.sum():

        def of_both(x):
            prior = (x - [log_ratio, math.log(1.2)]) / [0.5, 0.3]
            return loss(*x, judges) + prior @ prior / 2

        log_ratio = least(of_both, [log_ratio, math.log(1.2)])[0]

    def of_sharpness(b):
        prior = (b[0] - math.log(1.2)) / 0.3
        return loss(log_ratio, b[0], sure) + prior**2 / 2

    (b,) = least(of_sharpness, [math.log(1.2)])
    ratio = math.exp(log_ratio)
    found = 20 / logit_scale * ratio
    return found, (1 + ratio) / (1 + found) / math.exp(b)


def check_weight(left_out, rtol, text_seen=False, alpha=None, logit_scale=30.0):
    given_ = {"text_seen": text_seen, "alpha": alpha, "logit_scale": logit_scale}
    expected = reference_weight(left_out, **given_)
    assert_allclose(find_weight(left_out, **given_), expected, rtol=rtol)


@given(seed=seeds, n_classes=st.integers(2, 6), text_seen=st.booleans())
@few
def test_weight_and_temperature_are_the_modes_of_the_posteriors(
    seed, n_classes, text_seen
):
    check_weight(make_left_out(seed, n_classes), 0.005, text_seen)


@pytest.mark.parametrize("weight", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("logit_scale", [5.0, 100.0])
def test_priors_hold_where_rows_count_for_little(weight, logit_scale):
    """A heavy row alone, and light ones: each prior's spread is felt somewhere."""
    for seed in range(2):
        left_out = make_left_out(seed, weight=weight, skill=(0.4, 1.0))
        check_weight(left_out, 0.005, logit_scale=logit_scale)
        check_weight(left_out, 0.005, logit_scale=logit_scale, text_seen=True)


@pytest.mark.parametrize("weight", [0.05, 0.3, 1.0, 10.0])
def test_without_spare_rows_the_texts_alone_say_how_far_to_trust_them(weight):
    for seed in range(2):
        left_out = make_left_out(seed, weight=weight)
        left_out = left_out._replace(spare=torch.zeros(12, dtype=torch.bool))
        check_weight(left_out, 0.003)
        mirrored = left_out._replace(mapped=-left_out.mapped)
        one, other = (
            find_weight(each, logit_scale=30.0, text_seen=False, alpha=None)
            for each in (left_out, mirrored)
        )
        assert one[0] == other[0]
        assert one[1] != other[1]
        # Where the texts know the support, all is what is expected of it.
        alpha, temperature = find_weight(
            left_out, logit_scale=30.0, text_seen=True, alpha=None
        )
        assert alpha == pytest.approx(20 / 30)
        assert temperature == pytest.approx(2 / (1 + 20 / 30) / 1.2)


@pytest.mark.parametrize("is_right, bound", [(1.0, 0.1), (-1.0, 10.0)])
def test_texts_are_trusted_within_bounds(is_right, bound):
    own = np.eye(4)[np.arange(4)]
    left_out = make_left_out(n_rows=4)._replace(
        frozen=torch.tensor(is_right * own),
        y=torch.arange(4),
        spare=torch.zeros(4, dtype=torch.bool),
    )
    alpha, _ = find_weight(left_out, logit_scale=30.0, text_seen=False, alpha=None)
    assert alpha == pytest.approx(20 / 30 * bound)


@pytest.mark.parametrize("seed, n_classes", [(327, 3), (143, 2), (235, 3), (3223, 3)])
@pytest.mark.parametrize("text_seen", [False, True])
def test_a_support_that_contradicts_its_texts_is_settled_too(
    seed, n_classes, text_seen
):
    check_weight(make_left_out(seed, n_classes), 0.003, text_seen)


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 7.0])
@pytest.mark.parametrize("text_seen", [False, True])
def test_a_given_alpha_is_kept_and_its_temperature_found(alpha, text_seen):
    left_out = make_left_out(3)
    check_weight(left_out, 0.003, text_seen, alpha)
    found, _ = find_weight(left_out, logit_scale=30.0, text_seen=text_seen, alpha=alpha)
    assert found == pytest.approx(alpha, rel=1e-12)


def test_images_that_tell_and_texts_that_do_not_raise_alpha():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 20)
    frozen, mapped = 0.05 * rng.normal(size=(2, 100, 5))
    own = np.eye(5)[y]
    images_tell = frozen, 5 * mapped + 0.5 * own
    texts_tell = frozen + 0.2 * own, 5 * mapped
    found = []
    for parts in (images_tell, texts_tell):
        frozen, mapped = map(torch.tensor, parts)
        ones = torch.ones(100, dtype=torch.float64)
        left_out = LeftOut(
            torch.arange(100), frozen, mapped, torch.tensor(y), ones, ones > 0
        )
        found.append(find_weight(left_out, logit_scale=30, text_seen=False, alpha=None))
    assert found[0][0] > 10 * found[1][0]


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1e-6, 1e6])
@pytest.mark.parametrize("logit_scale", [1e-3, 1e4])
def test_extreme_weights_are_finite(logit_scale, weight):
    dtype = torch.float32
    y = torch.arange(4).repeat_interleave(3)
    right = torch.eye(4, dtype=dtype)[y]
    ones = torch.ones(12, dtype=dtype)
    signs = [(1, 1), (-1, -1), (1, -1), (0, 0)]
    for text_seen in (False, True):
        for of_frozen, of_mapped in signs:
            left_out = LeftOut(
                *(torch.arange(12), of_frozen * right, of_mapped * right, y),
                *(weight * ones, ones > 0),
            )
            for alpha in (None, 1e3):
                found = find_weight(
                    left_out, logit_scale=logit_scale, text_seen=text_seen, alpha=alpha
                )
                assert all(0 < number < math.inf for number in found)


# Intercepts.


def make_logits(seed=0, n_classes=5, n_rows=20):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n_rows)
    logits = 2 * rng.normal(size=(n_rows, n_classes)) + 2 * np.eye(n_classes)[y]
    return logits + rng.normal(size=n_classes), y, rng.uniform(0.3, 3.0, n_rows)


def intercepts(logits, y, weight, text_penalty=10.0, dtype=torch.float64):
    return find_intercepts(
        torch.tensor(logits, dtype=dtype),
        torch.tensor(y),
        torch.tensor(weight, dtype=dtype),
        text_penalty,
    ).numpy()


def even_weights(y, weight):
    """Weights of the same sum, the same for each class."""
    counts = np.bincount(y, weights=weight)
    return weight * counts.sum() / (counts > 0).sum() / counts[y]


def reference_intercepts(logits, y, weight, text_penalty):
    even = even_weights(y, weight)

    def function(b):
        return log_loss(logits + b, y, even) + text_penalty / 2.5 / 2 * b @ b

    return minimize(function, np.zeros(logits.shape[1]), tol=1e-8).x


@given(
    seed=seeds,
    n_classes=st.integers(2, 8),
    n_rows=st.integers(1, 60),
    text_penalty=st.floats(0.3, 100.0),
)
@few
def test_intercepts_are_the_mode_of_the_posterior(
    seed, n_classes, n_rows, text_penalty
):
    problem = make_logits(seed, n_classes, n_rows)
    expected = reference_intercepts(*problem, text_penalty)
    assert_allclose(intercepts(*problem, text_penalty), expected, atol=0.03)


def test_intercepts_of_many_rows_add_up_to_zero_as_at_the_maximum():
    problem = make_logits(n_classes=8, n_rows=400)
    found = intercepts(*problem)
    assert abs(found.sum()) < 1e-6
    assert_allclose(found, reference_intercepts(*problem, 10.0), atol=0.03)


def test_names_said_too_readily_are_held_back():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 50)
    eager = np.array([1.5, 0.0, 0.0, -1.5])
    logits = 2 * np.eye(4)[y] + rng.normal(size=(200, 4)) + eager
    assert_allclose(intercepts(logits, y, np.ones(200), 0.01), -eager, atol=0.4)


def test_unequal_classes_are_no_preference():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [300, 10])
    is_wrong = rng.random((310, 1)) < 0.2
    logits = np.where(is_wrong, 1 - np.eye(2)[y], np.eye(2)[y])
    assert np.abs(intercepts(logits, y, np.ones(310), 1.0)).max() < 0.3


def test_no_penalty_is_a_hundredth():
    logits, y, weight = make_logits()
    # Rows of little weight, so that the prior is felt.
    problem = logits, y, 0.01 * weight
    expected = reference_intercepts(*problem, 0.01)
    for text_penalty in (0.0, 1e-3, 0.01):
        assert_allclose(intercepts(*problem, text_penalty), expected, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text_penalty", [0.0, 1e30, math.inf])
@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_extreme_intercepts_are_finite(weight, text_penalty, dtype):
    y = np.arange(4).repeat(2)
    right = np.eye(4)[y]
    for logits in (1e4 * right, -1e4 * right, 0 * right, 1e4 * right[::-1]):
        found = intercepts(logits, y, np.full(8, weight), text_penalty, dtype)
        assert np.isfinite(found).all()
        if text_penalty > 1e20:
            assert np.abs(found).max() < 1e-6


# The intercept of classes without images.


def newcomer_intercept(logits, newcomers, y, weight, dtype=torch.float64):
    return find_newcomer_intercept(
        torch.tensor(logits, dtype=dtype),
        torch.tensor(newcomers, dtype=dtype),
        torch.tensor(y),
        torch.tensor(weight, dtype=dtype),
    )


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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_newcomers_are_finite(dtype):
    y = np.arange(4).repeat(2)
    right = 1e4 * np.eye(4)[y]
    for logits in (right, -right, 0 * right):
        for newcomers in (right, -right, 0 * right):
            for weight in (1e-6, 1e6):
                found = newcomer_intercept(
                    logits, newcomers, y, np.full(8, weight), dtype
                )
                assert abs(found) <= 10


# Which rows are left out, and all of it together.


@pytest.mark.parametrize("text_seen", [False, True])
def test_rows_left_out_by_loops(make_support, text_seen):
    support = make_support(text_seen=text_seen)
    F, y, weight, text = (
        part.numpy()
        for part in (support.features, support.y, support.weight, support.text)
    )
    found = leave_out(support, gaussian_start(support, map_penalty=1, text_penalty=10))
    assert found.rows.tolist() == list(range(11))
    assert found.y.tolist() == y.tolist()
    assert found.spare.tolist() == [(y == label).sum() > 1 for label in y]
    assert not found.spare.all()
    for i, f in enumerate(F):
        expected = text @ f
        if text_seen:
            # The mean of its class without itself.
            others = (y == y[i]) & (np.arange(11) != i)
            mean = weight[others] @ F[others]
            expected[y[i]] = f @ mean / max(np.linalg.norm(mean), 1e-12)
        kept = np.ones(4, dtype=bool)
        # Where a row was all of its class, only rounding errors are left.
        kept[y[i]] = not text_seen or bool(found.spare[i])
        assert_allclose(found.frozen[i].numpy()[kept], expected[kept], atol=1e-9)


@pytest.mark.parametrize("share, is_spare", [(0.9985, True), (0.9995, False)])
def test_a_row_that_is_nearly_all_of_its_class_is_alone(make_support, share, is_spare):
    support = make_support(n_rows=3, n_classes=2)
    y = torch.tensor([0, 0, 1])
    weight = torch.tensor([share, 1 - share, 1.0], dtype=torch.float64)
    support = replace(support, y=y, weight=weight)
    start = gaussian_start(support, map_penalty=1, text_penalty=10)
    assert leave_out(support, start).spare.tolist() == [is_spare, True, False]


def many_rows(make_support, n_classes, n_rows, dtype=torch.float64):
    """As many rows as that in a plane."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % n_classes
    support = make_support(n_classes=n_classes, n_rows=n_classes, d=2)
    text = support.text.numpy()
    F = text[y] + 0.5 * rng.normal(size=(n_rows, 2))
    return replace(
        support,
        features=torch.tensor(F / np.linalg.norm(F, axis=1, keepdims=True)).to(dtype),
        y=torch.tensor(y),
        weight=torch.ones(n_rows, dtype=dtype),
        text=torch.tensor(text).to(dtype),
    )


@pytest.mark.parametrize(
    "n_classes, n_rows, step",
    [(3, 4096, 1), (3, 4097, 2), (3, 8193, 3), (2049, 4095, 2), (8193, 1025, 2)],
)
def test_so_many_rows_are_left_out(make_support, n_classes, n_rows, step):
    n_rows = max(n_rows, n_classes) if n_classes < 1000 else n_rows
    support = many_rows(make_support, n_classes, n_rows, torch.float32)
    start = gaussian_start(support, map_penalty=math.inf, text_penalty=10)
    left_out = leave_out(support, start)
    assert left_out.rows.tolist() == list(range(0, n_rows, step))


def scales_of(support, start, left_out, alpha, text_penalty):
    """What `find_scales` is to find, of some of the rows left out."""
    n = len(left_out.y)
    some = left_out.some(slice(None, None, math.ceil(n / 1024)))
    alpha, temperature = find_weight(
        some, logit_scale=30.0, text_seen=support.text_seen, alpha=alpha
    )
    scale = 30 / temperature / (1 + alpha)
    logits = scale * (left_out.frozen + alpha * left_out.mapped)
    intercept = find_intercepts(logits, left_out.y, left_out.weight, text_penalty)
    spare = torch.nonzero(left_out.spare)[:, 0]
    spare = spare[:: math.ceil(len(spare) / 1024)]
    newcomers = newcomer_cosines(start, support.features[left_out.rows[spare]])
    newcomers = scale * (left_out.frozen[spare] + alpha * newcomers)
    level = find_newcomer_intercept(
        *(logits[spare] + intercept, newcomers),
        *(left_out.y[spare], left_out.weight[spare]),
    )
    return alpha, temperature, intercept, 0.0 if support.text_seen else level


@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.7])
@pytest.mark.parametrize("n_rows", [11, 1024, 2049])
def test_the_scales_are_those_of_so_many_rows(make_support, n_rows, alpha, text_seen):
    support = make_support(logit_scale=30.0)
    if n_rows > 11:
        support = many_rows(make_support, 4, n_rows)
    support = replace(support, text_seen=text_seen)
    start = gaussian_start(support, map_penalty=1.0, text_penalty=5.0)
    found = find_scales(support, start, alpha=alpha, text_penalty=5.0)
    left_out = leave_out(support, start)
    assert len(left_out.y) == n_rows
    expected = scales_of(support, start, left_out, alpha, 5.0)
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    assert (found.newcomer != 0) == (not text_seen)


def test_without_spare_rows_newcomers_are_like_any_class(make_support):
    support = make_support(n_rows=4)
    start = gaussian_start(support, map_penalty=1.0, text_penalty=5.0)
    scales = find_scales(support, start, alpha=None, text_penalty=5.0)
    assert scales.newcomer == 0
    assert scales.intercept.abs().max() > 0.01


def test_an_alpha_of_zero_finds_nothing(make_support):
    support = make_support()
    start = gaussian_start(support, map_penalty=1.0, text_penalty=5.0)
    scales = find_scales(support, start, alpha=0.0, text_penalty=5.0)
    assert scales.alpha == 0
    assert scales.temperature == 1
    assert scales.newcomer == 0
    assert scales.intercept.tolist() == [0.0] * 4
