"""The loss of both forms of CMM, ours and the published one, and the minimiser of ours.

With ``v = norm(f W + b)``, ``P = norm(T)`` and weighted means over the support::

    cross-entropy(s / tau (f T0' + alpha v P') / (1 + alpha) + a, y)
    + triplet_weight * mean max(0, |v - P_y| - |v - P_neg| + margin)
    + sum of penalty * |unknown - its start|^2

is the loss of cross-modal mapping (arXiv 2412.20110), where *neg* is the nearest wrong
class. Dividing by 1 + alpha, the intercepts a, the penalties and rounding the kinks of
the triplet loss are ours. As published, tau is 1 / (1 + alpha), which undoes the
division, and the kinks are sharp.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

# The least of a squared distance, or added to it, under a root: a row that lies on its
# prototype (class means at one shot) would otherwise divide by zero.
_DISTANCE_EPS = 1e-6
# Widths, in distance on the unit sphere, over which the triplet loss is rounded. Both
# are small beside the distances of CLIP images to texts, which are 1.2 and more.
_NEAREST_SOFTNESS = 0.02
_HINGE_ROUNDING = 0.05
# Iterations over which progress is judged: one poor direction may make one short step
# far from the minimum.
_WINDOW = 5

#: After an iteration: its number, the loss, and what gives the unknowns so far.
OnIteration = Callable[[int, float, Callable[[], "Solution"]], bool]


class Settings(NamedTuple):
    """The parameters of the estimator that its solvers read; `alpha` None is found."""

    alpha: float | None
    triplet_weight: float
    margin: float
    map_penalty: float
    text_penalty: float
    max_iter: int
    tol: float
    learning_rate: float


class Unknown(NamedTuple):
    """A block of numbers that the loss is minimised over."""

    #: Where it starts.
    start: Tensor
    #: Of its squared distance from there; infinite keeps it there.
    penalty: float


class Scales(NamedTuple):
    """What logits ``s / tau (f T0' + alpha v T') / (1 + alpha) + a`` need."""

    alpha: float
    temperature: float
    #: Of each class, shape (C,).
    intercept: Tensor
    #: Of classes without rows.
    newcomer: float


class Solution(NamedTuple):
    """What predictions need: ``v = norm(f map + map_intercept)`` and its prototypes.

    Attributes
    ----------
    map, text_map : tensors of shape (d, d)
    map_intercept, text_map_intercept : tensors of shape (d,)
        The prototype of a class without rows is
        ``norm((t text_map + text_map_intercept) map)``.
    text : tensor of shape (C, d)
        Prototypes of any length.
    scales : Scales
        Weight, temperature and intercepts.
    loss_curve : list of float
        The loss before the first iteration, and after each one.
    converged : bool
        Whether it settled, as opposed to `max_iter` or a callback that stopped it.
    """

    map: Tensor
    map_intercept: Tensor
    text_map: Tensor
    text_map_intercept: Tensor
    text: Tensor
    scales: Scales
    loss_curve: list[float]
    converged: bool

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.loss_curve) - 1


@dataclass(frozen=True)
class Loss:
    """The loss of a support, without penalties, as a sum over some rows at a time.

    Attributes
    ----------
    frozen : tensor of shape (N, C)
        The logits ``s / tau f T0' / (1 + alpha)``.
    mapped : callable
        ``mapped(rows, values)`` gives the rows, mapped to unit norm.
    y : int64 tensor of shape (N,)
    row_weight : tensor of shape (N,)
        Adds up to one.
    alpha : float
    scale : float
        ``s / tau``.
    triplet_weight, margin : float
    sharp : bool, default=False
        Whether the triplet loss has kinks, as published, or is rounded.
    """

    frozen: Tensor
    mapped: Callable[[slice | Tensor, Mapping[str, Tensor]], Tensor]
    y: Tensor
    row_weight: Tensor
    alpha: float
    scale: float
    triplet_weight: float
    margin: float
    sharp: bool = False

    def of_rows(self, rows: slice | Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return what some rows, a slice or their indices, add to the loss.

        `values` has the prototypes ``text`` and may have ``intercept``; what it holds
        of a map is for `mapped`.
        """
        cosines = self.mapped(rows, values) @ normalize(values["text"]).T
        scale = self.scale / (1 + self.alpha) * self.alpha
        logits = torch.add(self.frozen[rows], cosines, alpha=scale)
        if "intercept" in values:
            logits = logits + values["intercept"]
        y = self.y[rows]
        losses = cross_entropy(logits, y, reduction="none")
        if self.triplet_weight:
            hinge = sharp_triplet if self.sharp else triplet
            losses = losses + self.triplet_weight * hinge(cosines, y, self.margin)
        return self.row_weight[rows] @ losses


def weighted_entropy(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of the cross-entropy of the rows."""
    return weight @ cross_entropy(logits, y, reduction="none")


def mix(z0: Tensor, z1: Tensor, log_ratio: Tensor, log_sharpness: Tensor) -> Tensor:
    """Logits ``exp(b) (z0 + exp(a) z1) / (1 + exp(a))`` of log ratio a, sharpness b."""
    share = torch.sigmoid(log_ratio)
    return log_sharpness.exp() * ((1 - share) * z0 + share * z1)


def triplet(cosines: Tensor, y: Tensor, margin: float) -> Tensor:
    """Triplet loss of each row, ``max(0, |v - p_y| - |v - p_neg| + margin)``.

    Distances of unit vectors follow from their cosine, ``|v - p|^2 = 2 - 2 v.p``. Both
    kinks are rounded: the nearest distance is a soft minimum of temperature
    ``_NEAREST_SOFTNESS``, and the hinge is a parabola within ``_HINGE_ROUNDING`` of
    zero. On the kinks, where the sharp loss has its minimum more often than not, a
    quasi-Newton method stalls at a place that depends on rounding errors.

    Parameters
    ----------
    cosines : tensor of shape (n, C)
        Of each mapped row to each prototype.
    y : int64 tensor of shape (n,)
    margin : float

    Returns
    -------
    tensor of shape (n,)
    """
    at_y = y[:, None]
    # In few passes over (n, C) numbers: half of a squared distance, then minus the
    # distance in units of the softness.
    halves = torch.rsub(cosines, 1 + _DISTANCE_EPS / 2).clamp_min(_DISTANCE_EPS / 2)
    nearness = halves.sqrt() * -(2**0.5 / _NEAREST_SOFTNESS)
    to_true = nearness.gather(1, at_y)[:, 0]
    to_wrong = torch.logsumexp(nearness.scatter(1, at_y, -torch.inf), dim=1)
    violation = _NEAREST_SOFTNESS * (to_wrong - to_true) + margin
    slope = ((violation + _HINGE_ROUNDING) / (2 * _HINGE_ROUNDING)).clamp(0, 1)
    return torch.where(slope < 1, _HINGE_ROUNDING * slope.square(), violation)


def sharp_triplet(cosines: Tensor, y: Tensor, margin: float) -> Tensor:
    """Triplet loss of each row as published, with its kinks; see :func:`triplet`."""
    at_y = y[:, None]
    # A row on its prototype gets no direction from it, instead of one without end.
    distances = (2 - 2 * cosines).clamp_min(_DISTANCE_EPS).sqrt()
    to_true = distances.gather(1, at_y)[:, 0]
    to_wrong = distances.scatter(1, at_y, torch.inf).amin(dim=1)
    return (to_true - to_wrong + margin).clamp_min(0)


def minimise(
    parts: Callable[[Tensor], Iterable[Tensor]],
    start: Tensor,
    *,
    max_iter: int,
    tol: float,
    ftol: float = 0.0,
    on_step: Callable[[int, float, Tensor], bool] | None = None,
) -> tuple[Tensor, list[float], bool]:
    """Minimise a sum of tensors by SciPy's L-BFGS, with gradients by autograd.

    Parameters
    ----------
    parts : callable
        ``parts(x)`` gives, one after the other, scalar tensors that add up to the loss.
    start : tensor of shape (p,)
    max_iter : int
        Most iterations.
    tol : float
        Stop once five iterations lowered the loss by less than `tol` times the loss
        each, on average.
    ftol : float, default=0
        Stop too once an iteration lowered the loss by less than `ftol` times the loss,
        or times 1 if that is more.
    on_step : callable, default=None
        ``on_step(iteration, loss, x)`` after each iteration; True stops.

    Returns
    -------
    x : tensor of shape (p,)
    loss_curve : list of float
        The loss before the first iteration, and after each one.
    converged : bool
        Whether the loss settled, as opposed to `max_iter` or a callback that stopped.

    Raises
    ------
    ValueError
        If the loss is not finite at the start.
    """
    curve: list[float] = []
    stopped = False

    def tensor(x: np.ndarray) -> Tensor:
        return torch.tensor(x, dtype=start.dtype, device=start.device)

    def begin(value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"The loss is {value} before the first step; a parameter is too large."
            )
        curve.append(value)

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _differentiate(parts, tensor(x))
        if not curve:
            begin(value)
        return value, gradient.cpu().numpy().astype(np.float64)

    def after(intermediate_result: OptimizeResult) -> None:
        nonlocal stopped
        curve.append(float(intermediate_result.fun))
        if on_step is not None:
            x = tensor(intermediate_result.x)
            stopped = bool(on_step(len(curve) - 1, curve[-1], x))
        if stopped or _is_settled(curve, tol):
            raise StopIteration

    if not len(start) or not max_iter:
        # SciPy would do one iteration where none is asked for.
        begin(float(sum(part.detach() for part in parts(start))))
        return start, curve, not len(start)
    # The gradient is in units that are not ours to compare with a number.
    options = {"maxiter": max_iter, "maxfun": 10**6, "ftol": ftol, "gtol": 0}
    found = minimize(
        value_and_gradient,
        start.cpu().numpy().astype(np.float64),
        jac=True,
        method="L-BFGS-B",
        callback=after,
        options=options,
    )
    # Where no step lowers the loss by more than rounding errors, there is the minimum.
    spent = len(curve) > max_iter and not _is_settled(curve, tol)
    return tensor(found.x), curve, not (stopped or spent)


def _differentiate(
    parts: Callable[[Tensor], Iterable[Tensor]], x: Tensor
) -> tuple[float, Tensor]:
    """Return a sum of tensors and its gradient; each goes before the next one comes."""
    x.requires_grad_()
    value = torch.zeros((), dtype=x.dtype, device=x.device)
    for part in parts(x):
        part.backward()
        value += part.detach()
    assert x.grad is not None
    return float(value), x.grad


def _is_settled(curve: list[float], tol: float) -> bool:
    """Say whether the loss falls no more."""
    if len(curve) <= _WINDOW:
        return False
    return curve[-_WINDOW - 1] - curve[-1] <= tol * _WINDOW * abs(curve[-1])


def minimise_loss(
    loss: Loss,
    unknowns: Mapping[str, Unknown],
    solution: Callable[..., Solution],
    settings: Settings,
    chunk_size: int,
    on_iteration: OnIteration | None,
) -> Solution:
    """Minimise the penalised loss over the unknowns, in chunks of rows.

    ``solution(values, loss_curve, converged)`` puts together what is returned. The
    minimiser sees each unknown in units in which its penalty has a curvature below one,
    so that a unit step suits any penalty.
    """
    free = {k: u for k, u in unknowns.items() if not math.isinf(u.penalty)}
    fixed = {k: u.start for k, u in unknowns.items() if k not in free}
    units = {k: (1 + 2 * u.penalty) ** -0.5 for k, u in free.items()}
    sizes = [u.start.numel() for u in free.values()]

    def blocks(x: Tensor) -> dict[str, Tensor]:
        return dict(zip(free, x.split(sizes), strict=True)) if free else {}

    def values(x: Tensor) -> dict[str, Tensor]:
        moved = {
            k: free[k].start + units[k] * part.view_as(free[k].start)
            for k, part in blocks(x).items()
        }
        return fixed | moved

    def parts(x: Tensor) -> Iterator[Tensor]:
        for first in range(0, len(loss.y), chunk_size):
            value = loss.of_rows(slice(first, first + chunk_size), values(x))
            if first == 0:
                for k, part in blocks(x).items():
                    value = value + free[k].penalty * units[k] ** 2 * part.dot(part)
            yield value

    def on_step(iteration: int, value: float, x: Tensor) -> bool:
        # What is so far has no curve of its own: it is given with it.
        return on_iteration is not None and on_iteration(
            iteration, value, lambda: solution(values(x), [], False)
        )

    x, curve, converged = minimise(
        parts,
        loss.row_weight.new_zeros(sum(sizes)),
        max_iter=settings.max_iter,
        tol=settings.tol,
        on_step=on_step,
    )
    return solution(values(x), curve, converged)
