"""The loss of CMM against loops, and its minimiser against SciPy on known functions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der
from scipy.special import log_softmax, logsumexp

from skfewshot.cmm._gaussian import find_scales, gaussian_start, solve_gaussian
from skfewshot.cmm._objective import Settings, minimise, sharp_triplet, triplet

SETTINGS = Settings(
    alpha=None,
    triplet_weight=1.0,
    margin=0.1,
    map_penalty=1.0,
    text_penalty=10.0,
    max_iter=200,
    tol=1e-2,
    learning_rate=1e-3,
)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def arrays(support):
    parts = support.features, support.y, support.weight, support.text
    return tuple(part.numpy() for part in parts)


# The loss.


def reference_triplet(v, prototypes, label, margin, *, is_sharp=False):
    """The loss of one row; the kinks are rounded by .02 and .05."""
    squares = ((v - prototypes) ** 2).sum(axis=1)
    distances = np.sqrt(squares if is_sharp else squares + 1e-6)
    wrong = np.delete(distances, label)
    if is_sharp:
        return max(0.0, distances[label] - wrong.min() + margin)
    violation = distances[label] + 0.02 * logsumexp(-wrong / 0.02) + margin
    if abs(violation) < 0.05:
        return (violation + 0.05) ** 2 / 0.2
    return max(0.0, violation)


def reference_loss(support, frozen, mapped, text, settings_, scales):
    """Cross-entropy and triplet loss by loops; no penalties."""
    _, y, weight, _ = arrays(support)
    alpha, temperature, intercept = scales
    scale, prototypes, total = support.logit_scale / temperature, unit(text), 0.0
    for i, (v, label) in enumerate(zip(unit(mapped), y, strict=True)):
        logits = (frozen[i] + alpha * scale * prototypes @ v) / (1 + alpha) + intercept
        hinge = reference_triplet(v, prototypes, label, settings_.margin)
        loss = -log_softmax(logits)[label] + settings_.triplet_weight * hinge
        total += weight[i] * loss
    return total / weight.sum()


def gaussian_loss(support, settings_):
    """The penalised loss as a function of texts and intercepts, and their start."""
    F, _, weight, text = arrays(support)
    start = gaussian_start(
        support,
        map_penalty=settings_.map_penalty,
        text_penalty=settings_.text_penalty,
    )
    scales = find_scales(
        support, start, alpha=settings_.alpha, text_penalty=settings_.text_penalty
    )
    mapped = (F - start.centre.numpy()) @ start.map.numpy()
    frozen = support.logit_scale / scales.temperature * F @ text.T
    T0, a0 = unit(start.prototypes.numpy()), scales.intercept.numpy()
    penalty = settings_.text_penalty / weight.sum()

    def loss(T, a):
        found = (scales.alpha, scales.temperature, a)
        moved = ((T - T0) ** 2).sum() + ((a - a0) ** 2).sum() / 10
        value = reference_loss(support, frozen, mapped, T, settings_, found)
        return value + penalty * moved

    return loss, T0, a0


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_triplet_by_loops(make_support, margin):
    support = make_support(n_rows=40)
    F, y, _, text = arrays(support)
    found = triplet(torch.tensor(F @ text.T), support.y, margin)
    rows = list(zip(F, y, strict=True))
    expected = [reference_triplet(v, text, label, margin) for v, label in rows]
    assert_allclose(found, expected, atol=1e-9)
    assert max(expected) > 0.05
    sharp = [reference_triplet(v, text, c, margin, is_sharp=True) for v, c in rows]
    assert_allclose(found, sharp, atol=0.03)
    published = sharp_triplet(torch.tensor(F @ text.T), support.y, margin)
    assert_allclose(published, sharp, atol=1e-12)


@pytest.mark.parametrize("triplet", [triplet, sharp_triplet])
def test_triplet_of_a_row_on_its_prototype_is_finite(triplet):
    cosines = torch.tensor([[1.0, 1.0], [1.0, -1.0]], requires_grad=True)
    loss = triplet(cosines, torch.tensor([0, 0]), 0.1)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(cosines.grad).all()
    # Far from the margin it is nothing.
    assert loss[1] == 0
    assert not cosines.grad[1].any()


def test_gradient_of_the_triplet_loss(make_support):
    support = make_support()
    cosines = (support.features @ support.text.T)[:4].requires_grad_()
    y = support.y[:4]
    assert torch.autograd.gradcheck(lambda c: triplet(c, y, 0.1), cosines)


@pytest.mark.parametrize("alpha", [None, 0.7])
@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("triplet_weight, text_penalty", [(0.0, 10.0), (0.7, 1.0)])
def test_gaussian_solver_minimises_the_documented_loss(
    make_support, triplet_weight, text_penalty, text_seen, alpha
):
    support = make_support(text_seen=text_seen)
    settings_ = SETTINGS._replace(
        alpha=alpha, triplet_weight=triplet_weight, text_penalty=text_penalty, tol=1e-9
    )
    found = solve_gaussian(support, settings_, 100)
    loss, T0, a0 = gaussian_loss(support, settings_)
    T, a = found.text.numpy(), found.scales.intercept.numpy()
    assert found.loss_curve[0] == pytest.approx(loss(T0, a0), rel=1e-9)
    least = loss(T, a)
    assert found.loss_curve[-1] == pytest.approx(least, rel=1e-9)
    assert least < 0.99 * found.loss_curve[0]
    check_minimum(loss, [T, a])


def check_minimum(loss, unknowns):
    """Say that no direction leads down: by finite differences."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        ways = [rng.normal(size=part.shape) for part in unknowns]
        size = math.sqrt(sum((way**2).sum() for way in ways))
        up, down = (
            loss(*(p + h * w for p, w in zip(unknowns, ways, strict=True)))
            for h in (1e-5 / size, -1e-5 / size)
        )
        assert abs(up - down) / 2e-5 < 2e-3


@pytest.mark.parametrize("text_seen", [False, True])
def test_chunks_change_nothing(make_support, text_seen):
    support = make_support(n_rows=20, text_seen=text_seen)
    settings_ = SETTINGS._replace(max_iter=5, tol=0.0)
    whole = solve_gaussian(support, settings_, 1000)
    for chunk_size in (1, 7, 20):
        chunked = solve_gaussian(support, settings_, chunk_size)
        assert_allclose(chunked.loss_curve, whole.loss_curve, rtol=1e-6)
        assert_allclose(chunked.text, whole.text, atol=1e-6)


@pytest.mark.parametrize("text_seen", [False, True])
def test_infinite_penalties_freeze(make_support, text_seen):
    support = make_support(n_rows=20, text_seen=text_seen)
    frozen_map = solve_gaussian(support, SETTINGS._replace(map_penalty=math.inf), 100)
    assert torch.equal(frozen_map.map, torch.eye(6, dtype=torch.float64))
    assert not frozen_map.map_intercept.any()
    # The texts still learn.
    assert frozen_map.loss_curve[-1] < frozen_map.loss_curve[0]
    frozen_text = solve_gaussian(support, SETTINGS._replace(text_penalty=math.inf), 100)
    assert not frozen_text.scales.intercept.any()
    both = SETTINGS._replace(map_penalty=math.inf, text_penalty=math.inf)
    both = solve_gaussian(support, both, 100)
    assert len(both.loss_curve) == 1
    assert both.converged
    assert both.n_iter == 0


def test_alpha_zero_learns_no_intercepts(make_support):
    support = make_support()
    found = solve_gaussian(support, SETTINGS._replace(alpha=0.0), 100)
    assert not found.scales.intercept.any()
    assert found.scales.alpha == 0
    still = SETTINGS._replace(alpha=0.0, triplet_weight=0.0)
    assert torch.equal(
        solve_gaussian(support, still, 100).text,
        solve_gaussian(support, still._replace(max_iter=0), 100).text,
    )


def test_callback_sees_each_iteration_and_can_stop(make_support):
    seen = []

    def on_iteration(iteration, loss, state):
        seen.append((iteration, loss, state()))
        return iteration == 3

    settings_ = SETTINGS._replace(tol=0.0)
    found = solve_gaussian(make_support(n_rows=20), settings_, 100, on_iteration)
    assert [iteration for iteration, _, _ in seen] == [1, 2, 3]
    assert [loss for _, loss, _ in seen] == found.loss_curve[1:]
    assert found.n_iter == 3
    assert not found.converged
    assert torch.equal(seen[-1][2].text, found.text)
    assert not torch.equal(seen[0][2].text, found.text)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1e-6, 1e6])
@pytest.mark.parametrize("text_seen", [False, True])
def test_all_is_finite_in_single_precision(make_support, weight, text_seen):
    support = make_support(n_rows=12, text_seen=text_seen, dtype=np.float32)
    support = replace(support, weight=weight * support.weight)
    for alpha in (None, 0.0):
        settings_ = SETTINGS._replace(alpha=alpha, max_iter=20)
        found = solve_gaussian(support, settings_, 100)
        assert math.isfinite(found.loss_curve[-1])
        assert 0 <= found.scales.alpha < 1e6
        assert 1e-3 < found.scales.temperature < 100
        for name in ("map", "map_intercept", "text", "text_map", "text_map_intercept"):
            assert getattr(found, name).dtype == torch.float32
            assert torch.isfinite(getattr(found, name)).all()
        assert torch.isfinite(found.scales.intercept).all()


@pytest.mark.slow
@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("penalties", [(1.0, 10.0), (1.0, 0.0)])
@pytest.mark.parametrize("n_rows", [4, 12])
def test_single_precision_finds_what_double_finds(
    make_support, n_rows, penalties, text_seen
):
    support = make_support(1, n_rows=n_rows, text_seen=text_seen, dtype=np.float32)
    double = replace(
        support,
        features=support.features.double(),
        weight=support.weight.double(),
        text=support.text.double(),
    )
    settings_ = SETTINGS._replace(
        map_penalty=penalties[0], text_penalty=penalties[1], max_iter=0
    )
    single, double = (
        solve_gaussian(each, settings_, 100) for each in (support, double)
    )
    for one, other, rtol in (
        (single.scales.alpha, double.scales.alpha, 0.01),
        (single.scales.temperature, double.scales.temperature, 0.01),
    ):
        assert one == pytest.approx(other, rel=rtol)
    for name in ("map", "text", "loss_curve"):
        assert_allclose(
            getattr(single, name), getattr(double, name), atol=0.02, rtol=0.01
        )
    assert_allclose(single.scales.intercept, double.scales.intercept, atol=0.02)


# When it stops.


def settles_at(curve, tol):
    """The first iteration of five that lowered the loss by too little on average."""
    for k in range(5, len(curve)):
        if (curve[k - 5] - curve[k]) / 5 <= tol * abs(curve[k]):
            return k
    return None


@pytest.mark.parametrize("tol", [0.3, 0.05, 0.003])
def test_settled_is_five_iterations_that_lower_the_loss_by_too_little(tol):
    """A flat valley that a few iterations reach, and many more pass through."""

    def parts(x):
        yield (100 * (x[1:] - x[:-1] ** 2) ** 2).sum()
        yield ((1 - x[:-1]) ** 2).sum() + 1

    start = torch.tensor([-1.2, 1.0, 0.5, 2.0], dtype=torch.float64)
    _, curve, converged = minimise(parts, start, max_iter=300, tol=tol)
    _, longer, _ = minimise(parts, start, max_iter=300, tol=0)
    assert converged
    assert settles_at(longer, tol) == len(curve) - 1
    assert curve == longer[: len(curve)]


@pytest.mark.parametrize("seed", range(3))
def test_minimise_finds_the_minimum_that_scipy_finds(seed):
    start = np.random.default_rng(seed).normal(size=3)

    def parts(x):
        yield (100 * (x[1:] - x[:-1] ** 2) ** 2).sum() + 1
        yield ((1 - x[:-1]) ** 2).sum()

    found, curve, converged = minimise(
        parts, torch.tensor(start), max_iter=200, tol=1e-9
    )
    assert converged
    assert curve[0] == pytest.approx(rosen(start) + 1)
    assert curve == sorted(curve, reverse=True)
    expected = scipy_minimize(rosen, start, jac=rosen_der, tol=1e-12).x
    assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("ftol", [1e-2, 1e-4])
def test_an_iteration_may_be_enough_to_settle(ftol):
    curvature = torch.logspace(-1, 2, 12, dtype=torch.float64)

    def parts(x):
        yield (curvature * (x - 1) ** 2).sum() + 1

    start = torch.zeros(12, dtype=torch.float64)
    _, curve, converged = minimise(parts, start, max_iter=500, tol=0, ftol=ftol)
    assert converged
    falls = -np.diff(curve) / np.maximum(curve[:-1], 1)
    assert falls[-1] <= ftol < falls[:-1].min()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minimise_keeps_the_dtype_and_what_it_is_given(dtype):
    start = torch.zeros(3, dtype=dtype)
    found, _, converged = minimise(
        lambda x: [((x - 3) ** 2).sum() + 1], start, max_iter=50, tol=1e-6
    )
    assert found.dtype == dtype
    assert not start.any()
    assert converged
    assert_allclose(found, 3, atol=1e-3)


def test_minimise_from_the_minimum_stays_there():
    start = torch.ones(2, dtype=torch.float64)
    found, curve, converged = minimise(
        lambda x: [((x - 1) ** 2).sum() + 1], start, max_iter=50, tol=1e-6
    )
    assert torch.equal(found, start)
    assert curve == [1.0]
    assert converged


@pytest.mark.parametrize("max_iter", [0, 1, 4])
def test_minimise_does_so_many_iterations_and_not_more(max_iter):
    def parts(x):
        yield (100 * (x[1:] - x[:-1] ** 2) ** 2).sum() + ((1 - x[:-1]) ** 2).sum() + 1

    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    seen = []
    found, curve, converged = minimise(
        *(parts, start),
        max_iter=max_iter,
        tol=0,
        on_step=lambda iteration, loss, x: seen.append((iteration, loss)),
    )
    assert len(curve) == max_iter + 1
    assert seen == list(enumerate(curve))[1:]
    assert not converged
    assert torch.equal(found, start) == (max_iter == 0)


def test_nothing_to_minimise_is_settled():
    found, curve, converged = minimise(
        lambda x: [x.sum() + 2], torch.zeros(0), max_iter=50, tol=1e-6
    )
    assert (len(found), curve, converged) == (0, [2.0], True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("size, max_iter", [(2, 50), (2, 0), (0, 50)])
def test_a_loss_that_is_not_finite_at_the_start_is_refused(bad, size, max_iter):
    with pytest.raises(ValueError, match=f"loss is {bad} before the first step"):
        minimise(
            lambda x: [x.sum() + bad], torch.ones(size), max_iter=max_iter, tol=1e-6
        )


def test_minimise_survives_a_kink():
    start = torch.tensor([1.0, -0.3], dtype=torch.float64)
    found, curve, _ = minimise(
        lambda x: [x.abs().sum() + 1], start, max_iter=200, tol=1e-6
    )
    assert curve[-1] < 1.05
    assert torch.isfinite(found).all()
