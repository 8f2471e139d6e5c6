"""Full-batch L-BFGS on one tensor: deterministic, and judged by the loss alone."""

import math

import torch

# Pairs of steps and gradient changes that are remembered.
_HISTORY = 10
# Steps tried in one line search.
_MAX_TRIALS = 60
# Iterations over which progress is judged.
_WINDOW = 5


def minimize(objective, x, *, learning_rate, max_iter, tol, callback=None):
    """Minimise a function by L-BFGS with a weak Wolfe line search.

    The line search is the bisection of Lewis and Overton (2013).

    Parameters
    ----------
    objective : callable
        ``objective(x) -> (float, gradient tensor)``.
    x : tensor of shape (p,)
        Where to start.
    learning_rate, max_iter, tol
        See :func:`skfewshot.solvers.solve_cmm`.
    callback : callable, default=None
        ``callback(x, loss_curve)``, called after each iteration; True stops.

    Returns
    -------
    x : tensor of shape (p,)
    loss_curve : list of float
    converged : bool

    Raises
    ------
    ValueError
        If the function is not finite at `x`.
    """
    loss, gradient = objective(x)
    if not math.isfinite(loss):
        raise ValueError(
            f"The loss is {loss} before the first step; a parameter is too large."
        )
    curve = [loss]
    pairs = []
    while len(curve) <= max_iter:
        direction = _quasi_newton_direction(gradient, pairs)
        found = _line_search(objective, x, loss, gradient, direction, learning_rate)
        if found is None:
            if not pairs:
                # Not even the steepest descent lowers the loss: x is the minimum.
                return x, curve, True
            pairs = []
            continue
        new_x, new_loss, new_gradient = found
        pair = (new_x - x, new_gradient - gradient)
        if float(pair[0] @ pair[1]) > 0:
            pairs = [*pairs[-_HISTORY + 1 :], pair]
        x, loss, gradient = new_x, new_loss, new_gradient
        curve.append(loss)
        stop = callback is not None and callback(x, curve)
        # One poor direction may make one short step far from the minimum, so the
        # decrease is judged over several.
        if len(curve) > _WINDOW and curve[-_WINDOW - 1] - loss <= tol * _WINDOW * abs(
            loss
        ):
            return x, curve, True
        if stop:
            break
    return x, curve, False


def _quasi_newton_direction(gradient, pairs):
    """Two-loop recursion: minus the inverse Hessian estimate times the gradient."""
    q = -gradient
    coefficients = []
    for s, g in reversed(pairs):
        rho = 1 / float(s @ g)
        a = rho * float(s @ q)
        coefficients.append((rho, a))
        q.sub_(g, alpha=a)
    if pairs:
        s, g = pairs[-1]
        q.mul_(float(s @ g) / float(g @ g))
    else:
        q.div_(max(1.0, float(torch.linalg.vector_norm(gradient))))
    for (s, g), (rho, a) in zip(pairs, reversed(coefficients), strict=True):
        q.add_(s, alpha=a - rho * float(g @ q))
    return q


def _line_search(objective, x, loss, gradient, direction, step):
    """Point along the direction that meets the weak Wolfe conditions, or None.

    None says that no step lowers the loss by more than a rounding error.
    """
    slope = float(gradient @ direction)
    rounding = torch.finfo(x.dtype).eps * abs(loss)
    low, high, best = 0.0, float("inf"), None
    for _ in range(_MAX_TRIALS):
        if best is None and not -slope * step > rounding:
            return None
        point = torch.add(x, direction, alpha=step)
        new_loss, new_gradient = objective(point)
        if not new_loss <= loss + 1e-4 * step * slope:
            high = step
        else:
            best = point, new_loss, new_gradient
            if float(new_gradient @ direction) >= 0.9 * slope:
                break
            low = step
        step = 2 * low if high == float("inf") else (low + high) / 2
    return best
