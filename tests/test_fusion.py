"""Scales and intercepts against a general optimiser on the posterior written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import log_softmax

from skfewshot.fusion import fit_intercepts, fit_newcomer_intercept, fit_scales

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**16)
NAN = math.nan


def make_problem(seed=0, n_classes=4, n_rows=12, skill=(0.1, 0.5)):
    """Cosines that favour the own class by `skill`, labels, weights and what is spare.

    The last row is the only one of its class.
    """
    rng = np.random.default_rng(seed)
    y = np.append(rng.integers(0, n_classes - 1, n_rows - 1), n_classes - 1)
    own = np.eye(n_classes)[y]
    frozen = 0.2 + 0.05 * rng.normal(size=own.shape) + rng.uniform(0, skill[0]) * own
    mapped = 0.25 * rng.normal(size=own.shape) + rng.uniform(0, skill[1]) * own
    weight = rng.uniform(0.3, 3.0, n_rows)
    spare = np.bincount(y, minlength=n_classes)[y] > 1
    return frozen, mapped, y, weight, spare


def tensors(problems, dtype=torch.float64):
    """Stack problems, the shorter ones filled up with rows of weight zero."""
    most = max(len(problem[2]) for problem in problems)

    def filled(part):
        padding = [(0, most - len(part))] + [(0, 0)] * (part.ndim - 1)
        return np.pad(part, padding)

    frozen, mapped, y, weight, spare = (
        torch.tensor(np.stack([filled(part) for part in parts]))
        for parts in zip(*problems, strict=True)
    )
    return frozen.to(dtype), mapped.to(dtype), y, weight.to(dtype), spare


def scales(*problems, alpha=None, logit_scale=30.0, text_seen=False, dtype=None):
    dtype = dtype or torch.float64
    alpha = [NAN] * len(problems) if alpha is None else alpha
    found, temperature = fit_scales(
        *tensors(problems, dtype),
        logit_scale=logit_scale,
        text_seen=text_seen,
        alpha=torch.tensor(alpha, dtype=dtype),
    )
    assert found.dtype == temperature.dtype == dtype
    return found.numpy(), temperature.numpy()


def log_loss(logits, y, weight):
    own = log_softmax(logits, axis=1)[np.arange(len(y)), y]
    return -(weight * own).sum()


def least(function, start):
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}
    return minimize(function, start, method="Nelder-Mead", options=options).x


def reference_scales(
    frozen, mapped, y, weight, spare, *, logit_scale=30.0, text_seen=False, alpha=NAN
):
    """Modes of the posteriors, one unknown or two at a time."""
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
    if not math.isnan(alpha):
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


@given(seed=seeds, n_classes=st.integers(2, 6), text_seen=st.booleans())
@few
def test_scales_are_the_modes_of_the_posteriors(seed, n_classes, text_seen):
    problem = make_problem(seed, n_classes)
    (alpha,), (temperature,) = scales(problem, text_seen=text_seen)
    expected = reference_scales(*problem, text_seen=text_seen)
    assert_allclose([alpha, temperature], expected, rtol=1e-3)


@pytest.mark.parametrize("seed, n_classes", [(327, 3), (143, 2), (235, 3), (3223, 3)])
def test_a_support_that_contradicts_its_texts_is_settled_too(seed, n_classes):
    """By steps that ignore the curvature of the residuals it is not."""
    problem = make_problem(seed, n_classes)
    for text_seen in (False, True):
        found = np.ravel(scales(problem, text_seen=text_seen))
        expected = reference_scales(*problem, text_seen=text_seen)
        assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("given_alpha", [1e-3, 0.2, 7.0])
def test_a_given_alpha_is_kept_and_its_temperature_found(given_alpha):
    for text_seen in (False, True):
        problem = make_problem(3)
        (alpha,), (temperature,) = scales(
            problem, alpha=[given_alpha], text_seen=text_seen
        )
        assert alpha == pytest.approx(given_alpha, rel=1e-12)
        expected = reference_scales(*problem, text_seen=text_seen, alpha=given_alpha)
        assert temperature == pytest.approx(expected[1], rel=1e-3)


def test_an_alpha_of_zero_finds_the_temperature_of_the_texts():
    frozen, mapped, y, weight, _ = make_problem(5)
    problem = frozen, mapped, y, weight, np.ones(len(y), bool)
    (alpha,), (temperature,) = scales(problem, alpha=[0.0])

    def of_sharpness(b):
        prior = (b[0] - math.log(1.2)) / 0.3
        return log_loss(math.exp(b[0]) * 30 * frozen, y, weight) + prior**2 / 2

    assert alpha == 0
    assert temperature == pytest.approx(
        math.exp(-least(of_sharpness, [0])[0]), rel=0.01
    )


@pytest.mark.parametrize("text_seen", [False, True])
def test_problems_side_by_side_are_those_alone_whatever_fills_them_up(text_seen):
    sizes = [(0, 4, 12), (1, 4, 5), (2, 4, 40), (3, 4, 8)]
    problems = [make_problem(*size) for size in sizes]
    problems[3] = *problems[3][:4], np.zeros(8, bool)
    alpha = [NAN, 0.5, NAN, NAN]
    together = scales(*problems, alpha=alpha, text_seen=text_seen)
    for k, problem in enumerate(problems):
        alone = scales(problem, alpha=alpha[k : k + 1], text_seen=text_seen)
        assert_allclose([part[k] for part in together], np.ravel(alone), rtol=1e-10)


def test_without_spare_rows_the_support_does_not_judge_the_images():
    frozen, mapped, y, weight, spare = make_problem(0)
    none = np.zeros_like(spare)
    one = scales((frozen, mapped, y, weight, none))
    other = scales((frozen, -mapped, y, weight, none))
    assert one[0] == other[0]
    assert one[1] != other[1]
    (alpha,), (temperature,) = scales((frozen, mapped, y, weight, none), text_seen=True)
    # Both are what is expected of them.
    assert alpha == pytest.approx(20 / 30)
    assert temperature == pytest.approx(2 / (1 + 20 / 30) / 1.2)


def test_images_that_tell_and_texts_that_do_not_raise_alpha():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 20)
    frozen, mapped = 0.05 * rng.normal(size=(2, 100, 5))
    own = np.eye(5)[y]
    both = y, np.ones(100), np.ones(100, bool)
    images_tell = scales((frozen, 5 * mapped + 0.5 * own, *both))[0]
    texts_tell = scales((frozen + 0.2 * own, 5 * mapped, *both))[0]
    assert images_tell > 10 * texts_tell


@pytest.mark.parametrize("weight", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("logit_scale", [1e-3, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text_seen", [False, True])
def test_extremes_are_finite(text_seen, dtype, logit_scale, weight):
    right = np.eye(4)[np.arange(4).repeat(3)]
    y, spare = np.arange(4).repeat(3), np.ones(12, bool)
    for frozen, mapped in (
        (right, right),
        (-right, -right),
        (right, -right),
        (-right, right),
        (0 * right, 0 * right),
    ):
        alpha, temperature = scales(
            (frozen, mapped, y, np.full(12, weight), spare),
            logit_scale=logit_scale,
            text_seen=text_seen,
            dtype=dtype,
        )
        assert 0 < alpha[0] < math.inf
        assert 0 < temperature[0] < math.inf
        for given_alpha in (0.0, 1e3):
            _, temperature = scales(
                (frozen, mapped, y, np.full(12, weight), spare),
                alpha=[given_alpha],
                logit_scale=logit_scale,
                text_seen=text_seen,
                dtype=dtype,
            )
            assert 0 < temperature[0] < math.inf


# Intercepts.


def make_logits(seed=0, n_classes=5, n_rows=20):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n_rows)
    logits = 2 * rng.normal(size=(n_rows, n_classes)) + 2 * np.eye(n_classes)[y]
    return logits + rng.normal(size=n_classes), y, rng.uniform(0.3, 3.0, n_rows)


def intercepts(logits, y, weight, text_penalty=10.0, dtype=torch.float64):
    return fit_intercepts(
        torch.tensor(logits, dtype=dtype)[None],
        torch.tensor(y)[None],
        torch.tensor(weight, dtype=dtype)[None],
        torch.tensor([text_penalty], dtype=dtype),
    )[0].numpy()


def reference_intercepts(logits, y, weight, text_penalty):
    n_classes = logits.shape[1]
    counts = np.bincount(y, weights=weight, minlength=n_classes)
    even = weight * counts.sum() / (counts > 0).sum() / counts[y]

    def function(b):
        return log_loss(logits + b, y, even) + text_penalty / 2.5 / 2 * b @ b

    return minimize(function, np.zeros(n_classes), tol=1e-8).x


@given(
    seed=seeds,
    n_classes=st.integers(2, 8),
    n_rows=st.integers(1, 60),
    text_penalty=st.floats(1.0, 100.0),
)
@few
def test_intercepts_are_the_mode_of_the_posterior(
    seed, n_classes, n_rows, text_penalty
):
    problem = make_logits(seed, n_classes, n_rows)
    expected = reference_intercepts(*problem, text_penalty)
    assert_allclose(intercepts(*problem, text_penalty), expected, atol=0.03)


def test_intercepts_of_many_rows_add_up_to_zero_as_at_the_maximum():
    problem = make_logits(n_classes=30, n_rows=3000)
    expected = reference_intercepts(*problem, 10.0)
    found = intercepts(*problem)
    assert abs(found.sum()) < 1e-9
    assert_allclose(found, expected, atol=0.03)


def test_names_said_too_readily_are_held_back():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 50)
    eager = np.array([1.5, 0.0, 0.0, -1.5])
    logits = 2 * np.eye(4)[y] + rng.normal(size=(200, 4)) + eager
    found = intercepts(logits, y, np.ones(200), 0.01)
    assert_allclose(found, -eager, atol=0.4)


def test_unequal_classes_are_no_preference():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [300, 10])
    is_wrong = rng.random((310, 1)) < 0.2
    logits = np.where(is_wrong, 1 - np.eye(2)[y], np.eye(2)[y])
    assert np.abs(intercepts(logits, y, np.ones(310), 1.0)).max() < 0.3


def test_intercepts_side_by_side_are_those_alone_whatever_fills_them_up():
    problems = [make_logits(0, 5, 8), make_logits(1, 5, 30), make_logits(2, 5, 3)]
    penalties = [1.0, 10.0, math.inf]
    logits, y, weight = (torch.zeros(3, 30, *shape) for shape in ((5,), (), ()))
    logits, weight, y = logits.double(), weight.double(), y.long()
    for k, problem in enumerate(problems):
        for tensor, part in zip((logits, y, weight), problem, strict=True):
            tensor[k, : len(part)] = torch.tensor(part)
    together = fit_intercepts(logits, y, weight, torch.tensor(penalties).double())
    for k, problem in enumerate(problems):
        alone = intercepts(*problem, penalties[k])
        assert_allclose(together[k], alone, atol=1e-12)
    assert not together[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text_penalty", [0.0, 1e-6, 1e30, math.inf])
@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_extreme_intercepts_are_finite(weight, text_penalty, dtype):
    y = np.arange(4).repeat(2)
    right = np.eye(4)[y]
    for logits in (1e4 * right, -1e4 * right, 0 * right, 1e4 * right[::-1]):
        found = intercepts(logits, y, np.full(8, weight), text_penalty, dtype)
        assert np.abs(found).max() <= 12
        if text_penalty > 1e20:
            assert np.abs(found).max() < 1e-6


# The intercept of classes without images.


def newcomer_intercept(logits, newcomers, y, weight, dtype=torch.float64):
    return fit_newcomer_intercept(
        torch.tensor(logits, dtype=dtype),
        torch.tensor(newcomers, dtype=dtype),
        torch.tensor(y),
        torch.tensor(weight, dtype=dtype),
    )


@given(seed=seeds, n_classes=st.integers(2, 8), handicap=st.floats(-4.0, 4.0))
@few
def test_the_intercept_of_newcomers_is_the_most_likely(seed, n_classes, handicap):
    logits, y, weight = make_logits(seed, n_classes, 30)
    rng = np.random.default_rng(seed)
    newcomers = logits - handicap + 0.5 * rng.normal(size=logits.shape)
    even = weight / np.bincount(y, weights=weight)[y]
    even *= weight.sum() / even.sum()

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


@given(seed=seeds, handicap=st.floats(-5.0, 5.0))
@few
def test_a_handicap_that_all_newcomers_have_is_made_good(seed, handicap):
    logits, y, weight = make_logits(seed)
    # Many rows, beside which the prior counts for nothing.
    found = newcomer_intercept(logits, logits - handicap, y, 1e4 * weight)
    assert found == pytest.approx(handicap, abs=0.02)
    few_rows = newcomer_intercept(logits, logits - handicap, y, weight)
    assert -0.02 <= few_rows * np.sign(handicap) <= abs(handicap) + 0.02


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
