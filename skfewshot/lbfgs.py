"""Full-batch L-BFGS on problems side by side: deterministic, judged by the loss."""

import torch

# Pairs of steps and gradient changes that are remembered.
_HISTORY = 10
# A loss below which there is nothing left to lower.
_LEAST_LOSS = 1e-3
# Steps tried in one line search.
_MAX_TRIALS = 60
# Iterations over which progress is judged.
_WINDOW = 5


def minimize(objective, x, *, learning_rate, max_iter, tol, callback=None):
    """Minimise functions by L-BFGS with a weak Wolfe line search.

    The line search is the bisection of Lewis and Overton (2013). The problems do not
    touch each other: each has its own steps, and stops by its own loss.

    Parameters
    ----------
    objective : callable
        ``objective(x) -> (losses of shape (n_problems,), gradients like x)``.
    x : tensor of shape (n_problems, p)
        Where to start.
    learning_rate, max_iter, tol
        See :func:`skfewshot.solvers.solve_cmm`.
    callback : callable, default=None
        ``callback(x, loss_curves)``, called after each iteration; True stops.

    Returns
    -------
    x : tensor of shape (n_problems, p)
    loss_curves : list of list of float
        For each problem the loss before the first iteration and after each one.
    converged : list of bool

    Raises
    ------
    ValueError
        If a loss is not finite at `x`.
    """
    loss, gradient = objective(x)
    if not torch.isfinite(loss).all():
        bad = float(loss[~torch.isfinite(loss)][0])
        raise ValueError(
            f"The loss is {bad} before the first step; a parameter is too large."
        )
    curves = [[value] for value in loss.tolist()]
    history = _History()
    active = torch.full_like(loss, max_iter > 0, dtype=torch.bool)
    converged = torch.zeros_like(loss, dtype=torch.bool)
    while active.any():
        direction = history.direction(gradient)
        found = _line_search(
            objective, x, loss, gradient, direction, learning_rate, active
        )
        moved, new_x, new_loss, new_gradient = found
        # No step lowers the loss, not even along the steepest descent: the minimum.
        stuck = active & ~moved
        done = stuck & ~history.is_known(active)
        history.forget(stuck)
        history.add(new_x - x, new_gradient - gradient, moved)
        x, loss, gradient = new_x, new_loss, new_gradient
        for problem in torch.nonzero(moved)[:, 0].tolist():
            curves[problem].append(float(loss[problem]))
        stop = moved.any() and callback is not None and callback(x, curves)
        settled = [_is_settled(curve, tol) for curve in curves]
        done |= moved & torch.tensor(settled, device=x.device)
        converged |= done
        spent = [len(curve) > max_iter for curve in curves]
        active &= ~(done | torch.tensor(spent, device=x.device))
        if stop:
            break
    return x, curves, converged.tolist()


def _is_settled(curve, tol):
    """Say whether the loss falls no more.

    One poor direction may make one short step far from the minimum, so the decrease is
    judged over several.
    """
    if len(curve) <= _WINDOW:
        return False
    return curve[-_WINDOW - 1] - curve[-1] <= tol * _WINDOW * abs(curve[-1])


def _dot(a, b):
    return (a * b).sum(dim=1)


class _History:
    """The last steps and gradient changes of each problem, with 1 / (s . g).

    A problem without a usable pair in some iteration has 0 there instead.
    """

    def __init__(self):
        self.pairs = []
        self.scale = None

    def is_known(self, like):
        """Say which problems have a pair."""
        known = torch.zeros_like(like)
        for _, _, rho in self.pairs:
            known |= rho > 0
        return known

    def add(self, step, change, moved):
        product = _dot(step, change)
        usable = moved & (product > 0)
        rho = torch.where(usable, 1 / product, 0.0)
        # s . g / g . g of the latest usable pair scales the inverse Hessian.
        scale = torch.where(usable, product / _dot(change, change), 0.0)
        if self.scale is not None:
            scale = torch.where(usable, scale, self.scale)
        self.scale = scale
        self.pairs = [*self.pairs[-_HISTORY + 1 :], (step, change, rho)]

    def forget(self, problems):
        self.pairs = [
            (step, change, torch.where(problems, 0.0, rho))
            for step, change, rho in self.pairs
        ]
        if self.scale is not None:
            self.scale = torch.where(problems, 0.0, self.scale)

    def direction(self, gradient):
        """Two-loop recursion: minus the inverse Hessian estimate times the gradient."""
        q = -gradient
        coefficients = []
        for step, change, rho in reversed(self.pairs):
            a = rho * _dot(step, q)
            coefficients.append(a)
            q = q.addcmul_(change, -a[:, None])
        first = 1 / torch.linalg.vector_norm(gradient, dim=1).clamp_min(1.0)
        scale = first if self.scale is None else self.scale
        q.mul_(torch.where(scale > 0, scale, first)[:, None])
        for (step, change, rho), a in zip(
            self.pairs, reversed(coefficients), strict=True
        ):
            q.addcmul_(step, (a - rho * _dot(change, q))[:, None])
        return q


def _line_search(objective, x, loss, gradient, direction, learning_rate, active):
    """Points along the directions that meet the weak Wolfe conditions.

    Problems for which no step lowers the loss by more than a rounding error stay where
    they are, and so do those that are not active.
    """
    slope = _dot(gradient, direction)
    rounding = torch.finfo(x.dtype).eps * loss.abs().clamp_min(_LEAST_LOSS)
    step = torch.full_like(loss, learning_rate)
    low, high = torch.zeros_like(loss), torch.full_like(loss, torch.inf)
    moved = torch.zeros_like(active)
    searching = active.clone()
    best_x, best_loss, best_gradient = x, loss, gradient
    for _ in range(_MAX_TRIALS):
        searching &= moved | (-slope * step > rounding)
        if not searching.any():
            break
        point = torch.addcmul(x, direction, step[:, None])
        new_loss, new_gradient = objective(point)
        lower = new_loss <= loss + 1e-4 * step * slope
        better = searching & lower
        gain = torch.where(moved, best_loss - new_loss, torch.inf)
        moved |= better
        best_x = torch.where(better[:, None], point, best_x)
        best_loss = torch.where(better, new_loss, best_loss)
        best_gradient = torch.where(better[:, None], new_gradient, best_gradient)
        found = better & (_dot(new_gradient, direction) >= 0.9 * slope)
        # Or nothing more to be had: on a plateau the slope stays as it is.
        found |= better & (gain <= rounding)
        high = torch.where(lower, high, step)
        low = torch.where(lower, step, low)
        searching &= ~found
        step = torch.where(torch.isinf(high), 2 * low, (low + high) / 2)
    return moved, best_x, best_loss, best_gradient
