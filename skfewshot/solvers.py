"""Pure tensor solvers: full-batch minimisation of the cross-modal mapping loss."""

from dataclasses import dataclass

import torch

from skfewshot.losses import (
    cross_entropy,
    normalize_rows,
    normalize_rows_backward,
    triplet,
)

_HISTORY = 10
_MAX_TRIALS = 20


@dataclass
class CMMSolution:
    """Result of :func:`solve_cmm`.

    Attributes
    ----------
    map : tensor of shape (d, d)
        The map W = I + Delta; the mapped feature is ``norm(f W + intercept)``.
    intercept : tensor of shape (d,)
        Zeros unless fitted.
    text : tensor of shape (C, d)
        The refined text features T, *not* normalised: logits use ``norm(T)``.
    loss_curve : list of float
        Penalised loss before the first iteration and after each one.
    n_iter : int
        Iterations done.
    converged : bool
        Whether ``tol`` was reached, as opposed to ``max_iter`` or the callback.
    """

    map: torch.Tensor
    intercept: torch.Tensor
    text: torch.Tensor
    loss_curve: list[float]
    n_iter: int
    converged: bool


def solve_cmm(
    F,
    y,
    T0,
    sample_weight,
    *,
    alpha,
    triplet_weight,
    margin,
    map_penalty,
    text_penalty,
    logit_scale,
    learning_rate,
    max_iter,
    tol,
    fit_intercept=False,
    chunk_size=None,
    callback=None,
):
    """Minimise the cross-modal mapping loss (arXiv 2412.20110) over Delta and T.

    With ``v = norm(f + f Delta)`` and ``P = norm(T)``, weighted means over the
    support, and n the mean weighted rows of the classes that have any::

        cross-entropy(s (f T0' + alpha v P') / (1 + alpha), y)
        + triplet_weight * mean max(0, |v - P_y| - |v - P_neg| + margin)
        + map_penalty / sqrt(n) * |Delta|^2 + text_penalty / sqrt(n) * |T - T0|^2

    Dividing by 1 + alpha and the two penalties are ours, not the paper's: an
    unpenalised map collapses at one shot.

    Parameters
    ----------
    F : tensor of shape (N, d)
        L2-normalised support features.
    y : int64 tensor of shape (N,)
        Class indices in [0, C). A class may have no row.
    T0 : tensor of shape (C, d)
        L2-normalised text features.
    sample_weight : tensor of shape (N,)
        Positive weights. Doubling one equals duplicating its row.
    alpha, triplet_weight, margin, map_penalty, text_penalty, logit_scale : float
        As in the equation. Penalties may be infinite.
    learning_rate : float
        Length of the first step tried along each quasi-Newton direction; the line
        search then shortens or lengthens it. 1 is the full quasi-Newton step.
    max_iter : int
        Upper bound of the L-BFGS iterations.
    tol : float
        Stop when an iteration lowers the loss by less than ``tol`` times the loss.
    fit_intercept : bool, default=False
        Whether to add a constant to the mapped features before they are normalised. It
        is penalised like Delta.
    chunk_size : int, default=None
        Rows handled at once. The gradient is the exact one whatever the chunks.
    callback : callable, default=None
        ``callback(iteration, loss, state)``, called after each iteration; ``state()``
        gives the solution so far. True stops.

    Returns
    -------
    solution : CMMSolution
    """
    width = F.shape[1]
    # A column of ones makes the last row of the map's block the intercept.
    inputs = torch.cat([F, F.new_ones(len(F), 1)], dim=1) if fit_intercept else F
    map_shape = (inputs.shape[1], width)
    map_size = inputs.shape[1] * width
    total = sample_weight.sum()
    shots = float(total) / len(torch.unique(y))
    penalties = (map_penalty / shots**0.5, text_penalty / shots**0.5)
    # In units where each penalty has curvature at most one, a unit step suits both
    # blocks whatever the penalties are, and an infinite one simply freezes its block.
    map_unit, text_unit = ((2 * p + 1) ** -0.5 for p in penalties)
    map_cost, text_cost = (0.5 / (1 + 0.5 / p) if p > 0 else 0.0 for p in penalties)

    def unpack(x):
        return x[:map_size].view(map_shape), x[map_size:].view_as(T0)

    def objective(x):
        delta, shift = unpack(x)
        loss, map_gradient, text_gradient = _data_term(
            F,
            inputs,
            y,
            T0,
            sample_weight / total,
            map_unit * delta,
            T0 + text_unit * shift,
            alpha=alpha,
            triplet_weight=triplet_weight,
            margin=margin,
            logit_scale=logit_scale,
            chunk_size=chunk_size,
        )
        loss += map_cost * float((delta * delta).sum())
        loss += text_cost * float((shift * shift).sum())
        map_gradient.mul_(map_unit).add_(delta, alpha=2 * map_cost)
        text_gradient.mul_(text_unit).add_(shift, alpha=2 * text_cost)
        return loss, torch.cat([map_gradient.ravel(), text_gradient.ravel()])

    def solution(x, curve, converged):
        delta, shift = unpack(x)
        identity = torch.eye(width, dtype=F.dtype, device=F.device)
        return CMMSolution(
            map=identity + map_unit * delta[:width],
            intercept=map_unit * delta[width:].sum(dim=0),
            text=T0 + text_unit * shift,
            loss_curve=curve,
            n_iter=len(curve) - 1,
            converged=converged,
        )

    def on_iteration(x, curve):
        return callback(len(curve) - 1, curve[-1], lambda: solution(x, curve, False))

    return solution(
        *minimize(
            objective,
            F.new_zeros(map_size + T0.numel()),
            learning_rate=learning_rate,
            max_iter=max_iter,
            tol=tol,
            callback=None if callback is None else on_iteration,
        )
    )


def _data_term(
    F,
    inputs,
    y,
    T0,
    row_weight,
    delta,
    text,
    *,
    alpha,
    triplet_weight,
    margin,
    logit_scale,
    chunk_size,
):
    """Data term of the loss, its gradients by Delta and T, added up over chunks."""
    prototypes, text_norms = normalize_rows(text)
    scale = logit_scale / (1 + alpha)
    loss = 0.0
    delta_gradient = torch.zeros_like(delta)
    prototype_gradient = torch.zeros_like(text)
    step = len(F) if chunk_size is None else chunk_size
    for start in range(0, len(F), step):
        rows = slice(start, start + step)
        features, labels, weight = F[rows], y[rows], row_weight[rows]
        mapped, norms = normalize_rows(torch.addmm(features, inputs[rows], delta))
        cosines = mapped @ prototypes.T
        logits = torch.addmm(cosines, features, T0.T, beta=alpha).mul_(scale)
        entropy, gradient = cross_entropy(logits, labels, weight)
        gradient.mul_(alpha * scale)
        hinge, by_cosine = triplet(cosines, labels, weight, margin)
        gradient.add_(by_cosine, alpha=triplet_weight)
        loss += float(entropy) + triplet_weight * float(hinge)
        prototype_gradient.addmm_(gradient.T, mapped)
        by_mapped = normalize_rows_backward(gradient @ prototypes, mapped, norms)
        delta_gradient.addmm_(inputs[rows].T, by_mapped)
    text_gradient = normalize_rows_backward(prototype_gradient, prototypes, text_norms)
    return loss, delta_gradient, text_gradient


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
        See :func:`solve_cmm`.
    callback : callable, default=None
        ``callback(x, loss_curve)``, called after each iteration; True stops.

    Returns
    -------
    x : tensor of shape (p,)
    loss_curve : list of float
    converged : bool
    """
    loss, gradient = objective(x)
    curve = [loss]
    pairs = []
    for _ in range(max_iter):
        direction = _quasi_newton_direction(gradient, pairs)
        found = _line_search(objective, x, loss, gradient, direction, learning_rate)
        if found is None:
            # No step lowers the loss by more than rounding: x is the minimum.
            return x, curve, True
        new_x, new_loss, new_gradient = found
        pair = (new_x - x, new_gradient - gradient)
        if float(pair[0] @ pair[1]) > 0:
            pairs = [*pairs[-_HISTORY + 1 :], pair]
        decrease = loss - new_loss
        x, loss, gradient = new_x, new_loss, new_gradient
        curve.append(loss)
        stop = callback is not None and callback(x, curve)
        if decrease <= tol * max(abs(loss), 1e-12):
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
    """Point along the direction that meets the weak Wolfe conditions, or None."""
    slope = float(gradient @ direction)
    if not slope < 0:
        return None
    low, high, best = 0.0, float("inf"), None
    for _ in range(_MAX_TRIALS):
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
