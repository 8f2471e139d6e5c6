"""L-BFGS on problems side by side: each fares as it does alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skfewshot.lbfgs import minimize

SEARCH = {"learning_rate": 1.0, "max_iter": 200, "tol": 1e-9}


def rosenbrock(x, a):
    """A narrow bent valley with its minimum 1 at all ones, narrower for a larger a."""
    rise = a[:, None] * (x[:, 1:] - x[:, :-1] ** 2)
    gap = 1 - x[:, :-1]
    gradient = torch.zeros_like(x)
    gradient[:, 1:] += 2 * a[:, None] * rise
    gradient[:, :-1] += -4 * a[:, None] * rise * x[:, :-1] - 2 * gap
    return (rise**2 + gap**2).sum(dim=1) + 1, gradient


def solve(start, a, **changes):
    return minimize(lambda x: rosenbrock(x, a), start, **(SEARCH | changes))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    difficulty=st.lists(st.floats(0.1, 30.0), min_size=2, max_size=5),
    tol=st.sampled_from([0.0, 1e-9, 1e-2]),
    max_iter=st.sampled_from([1, 7, 60]),
)
def test_problems_side_by_side_are_those_alone(seed, difficulty, tol, max_iter):
    a = torch.tensor(difficulty, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(len(a), 4, generator=generator, dtype=torch.float64)
    x, curves, converged = solve(start, a, tol=tol, max_iter=max_iter)
    for k in range(len(a)):
        one = slice(k, k + 1)
        x1, (curve,), (done,) = solve(start[one], a[one], tol=tol, max_iter=max_iter)
        assert len(curves[k]) == len(curve)
        assert converged[k] == done
        torch.testing.assert_close(
            torch.tensor(curves[k]), torch.tensor(curve), rtol=1e-6, atol=1e-9
        )
        torch.testing.assert_close(x[k], x1[0], rtol=1e-4, atol=1e-5)


def test_each_problem_stops_by_its_own_loss():
    a = torch.tensor([0.1, 30.0], dtype=torch.float64)
    start = torch.tensor([[0.9, 0.9], [-1.2, 1.0]], dtype=torch.float64)
    x, (easy, hard), converged = solve(start, a)
    assert converged == [True, True]
    assert len(easy) < len(hard)
    torch.testing.assert_close(x, torch.ones_like(x), atol=1e-3, rtol=0)
    _, curves, converged = solve(start, a, max_iter=len(easy))
    assert converged == [True, False]
    assert [len(curve) - 1 for curve in curves] == [len(easy) - 1, len(easy)]


def test_one_at_its_minimum_from_the_start_stays_there():
    a = torch.tensor([1.0, 5.0], dtype=torch.float64)
    start = torch.tensor([[1.0, 1.0], [-1.2, 1.0]], dtype=torch.float64)
    x, (still, moving), converged = solve(start, a)
    assert still == [1.0]
    assert torch.equal(x[0], start[0])
    assert len(moving) > 5
    assert converged == [True, True]


def test_all_at_their_minimum_need_no_iteration():
    start = torch.ones(3, 2, dtype=torch.float64)
    x, curves, converged = solve(start, torch.ones(3, dtype=torch.float64))
    assert curves == [[1.0]] * 3
    assert converged == [True] * 3
    assert torch.equal(x, start)


def test_no_iteration_is_made_where_none_is_allowed():
    start = torch.zeros(2, 2, dtype=torch.float64)
    x, curves, converged = solve(start, torch.ones(2).double(), max_iter=0)
    assert torch.equal(x, start)
    assert curves == [[2.0], [2.0]]
    assert converged == [False, False]


def test_losses_fall_and_the_start_is_left_alone():
    start = torch.tensor([[-1.2, 1.0], [3.0, -2.0]], dtype=torch.float64)
    kept = start.clone()
    _, curves, _ = solve(start, torch.tensor([10.0, 1.0], dtype=torch.float64))
    assert torch.equal(start, kept)
    for curve in curves:
        assert curve == sorted(curve, reverse=True)


def test_callback_sees_every_iteration_and_stops_all():
    seen = []

    def callback(x, curves):
        seen.append([len(curve) for curve in curves])
        return len(seen) == 3

    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0]], dtype=torch.float64)
    _, curves, converged = solve(
        start, torch.tensor([10.0, 10.0]).double(), callback=callback
    )
    assert seen == [[2, 2], [3, 3], [4, 4]]
    assert [len(curve) for curve in curves] == [4, 4]
    assert converged == [False, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_start_is_refused(bad):
    def objective(x):
        loss = (x**2).sum(dim=1)
        return torch.where(loss > 1, bad, loss), 2 * x

    with pytest.raises(ValueError, match=f"loss is {bad} before the first step"):
        minimize(objective, torch.tensor([[0.5], [2.0]]), **SEARCH)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_further_on_is_walked_round(bad):
    """With -log(2 - x) - x / 4, undefined from 2 on; its minimum is at -2."""

    def objective(x):
        room = 2 - x[:, 0]
        loss = -torch.log(room.clamp_min(1e-300)) - x[:, 0] / 4
        loss = torch.where(room > 0, loss, bad) + 3
        return loss, 1 / room[:, None] - 0.25

    start = torch.tensor([[1.9], [-20.0]], dtype=torch.float64)
    x, curves, converged = minimize(objective, start, **SEARCH | {"learning_rate": 30})
    torch.testing.assert_close(x, torch.full_like(x, -2.0), atol=1e-3, rtol=0)
    assert converged == [True, True]
    assert all(math.isfinite(value) for curve in curves for value in curve)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_of_problems_do_not_mix(dtype):
    size = torch.tensor([1e-6, 1.0, 1e6], dtype=dtype)

    def objective(x):
        return size * ((x - 3) ** 2).sum(dim=1) + size, 2 * size[:, None] * (x - 3)

    x, _, converged = minimize(
        objective, torch.zeros(3, 5, dtype=dtype), **SEARCH | {"tol": 1e-6}
    )
    assert converged == [True] * 3
    torch.testing.assert_close(x, torch.full_like(x, 3.0), atol=0.01, rtol=0)
