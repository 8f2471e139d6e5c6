"""The cross-modal mapping loss of a whole support, and its minimisation."""

import math
from dataclasses import dataclass

import torch

from skfewshot.lbfgs import minimize
from skfewshot.losses import (
    cross_entropy,
    normalize_rows,
    normalize_rows_backward,
    triplet,
)


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
    class_intercept : tensor of shape (C,)
        Zeros.
    text_map, text_intercept : tensors of shapes (d, d) and (d,)
        Identity and zeros: texts are prototypes as they are.
    newcomer_intercept : float
        Zero.
    alpha, temperature : float
        As given.
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
    class_intercept: torch.Tensor
    text_map: torch.Tensor
    text_intercept: torch.Tensor
    newcomer_intercept: float
    alpha: float
    temperature: float
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
    temperature=1.0,
    text_from_support=False,
    chunk_size=None,
    callback=None,
):
    """Minimise the cross-modal mapping loss (arXiv 2412.20110) over Delta and T.

    With ``v = norm(f + f Delta)`` and ``P = norm(T)``, weighted means over the
    support, and n the mean weighted rows of the classes that have any::

        cross-entropy(s / tau (f T0' + alpha v P') / (1 + alpha), y)
        + triplet_weight * mean max(0, |v - P_y| - |v - P_neg| + margin)
        + (map_penalty * |Delta|^2 + text_penalty * mean_c |T_c - T0_c|^2) / (n * L0)

    Dividing by 1 + alpha and the two penalties are ours, not the paper's: an
    unpenalised map collapses at one shot. L0 is the cross-entropy of the zero-shot
    logits ``s f T0'`` on the support, so that texts which already explain the images
    are kept and weak ones give way.

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
        Stop when the last five iterations lowered the loss by less than ``tol`` times
        the loss each, on average.
    temperature : float, default=1.0
        tau.
    text_from_support : bool, default=False
        Whether T0 are the class means of this very support. Then a constant is added
        to the mapped features before they are normalised, penalised like Delta; each
        row meets the frozen mean of its class without itself; and L0 is log C, the
        loss of chance.
    chunk_size : int, default=None
        Rows handled at once. The gradient is the exact one whatever the chunks.
    callback : callable, default=None
        ``callback(iteration, loss, state)``, called after each iteration; ``state()``
        gives the solution so far. True stops.

    Returns
    -------
    solution : CMMSolution
    """
    objective = _CMMObjective(
        F,
        y,
        T0,
        sample_weight,
        alpha=alpha,
        triplet_weight=triplet_weight,
        margin=margin,
        map_penalty=map_penalty,
        text_penalty=text_penalty,
        logit_scale=logit_scale / temperature,
        text_from_support=text_from_support,
        chunk_size=chunk_size,
    )

    def solution(x, curve, converged):
        delta, text = objective.unpack(x)
        width = F.shape[1]
        identity = torch.eye(width, dtype=F.dtype, device=F.device)
        return CMMSolution(
            map=identity + delta[:width],
            intercept=delta[width:].sum(dim=0),
            text=text,
            class_intercept=F.new_zeros(len(text)),
            text_map=identity,
            text_intercept=F.new_zeros(width),
            newcomer_intercept=0.0,
            alpha=alpha,
            temperature=temperature,
            loss_curve=curve,
            n_iter=len(curve) - 1,
            converged=converged,
        )

    def on_iteration(x, curves):
        (x,), (curve,) = x, curves
        return callback(len(curve) - 1, curve[-1], lambda: solution(x, curve, False))

    def batched(x):
        loss, gradient = objective(x[0])
        return x.new_tensor([loss]), gradient[None]

    (x,), (curve,), (converged,) = minimize(
        batched,
        F.new_zeros(1, objective.size),
        learning_rate=learning_rate,
        max_iter=max_iter,
        tol=tol,
        callback=None if callback is None else on_iteration,
    )
    return solution(x, curve, converged)


class _CMMObjective:
    """The penalised loss and its gradient as a function of one vector.

    The vector holds Delta and T - T0 in units in which each penalty has a curvature
    below one. So a unit step suits both blocks whatever the penalties are, and an
    infinite penalty simply freezes its block.
    """

    def __init__(
        self,
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
        text_from_support=False,
        chunk_size=None,
    ):
        self.F, self.y, self.T0 = F, y, T0
        self.row_weight = sample_weight / sample_weight.sum()
        self.alpha, self.scale = alpha, logit_scale / (1 + alpha)
        self.triplet_weight, self.margin = triplet_weight, margin
        # A column of ones makes the last row of the map's block the intercept.
        self.inputs = (
            torch.cat([F, F.new_ones(len(F), 1)], 1) if text_from_support else F
        )
        self.map_shape = (self.inputs.shape[1], F.shape[1])
        self.map_size = self.map_shape[0] * self.map_shape[1]
        self.size = self.map_size + T0.numel()
        self.chunk_size = len(F) if chunk_size is None else min(chunk_size, len(F))
        self.own = self._held_out_cosines(sample_weight) if text_from_support else None
        self.frozen = None
        if self.chunk_size == len(F):
            # No larger than the blocks that each evaluation makes anyway.
            self.frozen = self._frozen(slice(None))
        shots = float(sample_weight.sum()) / len(torch.unique(y))
        doubt = self._doubt(logit_scale, seen=text_from_support)
        self.map_unit, self.map_cost = _scaled_penalty(map_penalty, shots * doubt)
        # A mean over the classes: each has but its own share of the mean loss.
        self.text_unit, self.text_cost = _scaled_penalty(
            text_penalty, shots * doubt * len(T0)
        )

    def _doubt(self, logit_scale, *, seen):
        """Cross-entropy of T0 alone, by which the penalties are divided.

        Texts have not seen the support, so their loss on it tells honestly how far to
        trust them. Class means have, and their loss tells nothing: log C is chance.
        """
        if seen:
            return math.log(len(self.T0))
        loss = 0.0
        for start in range(0, len(self.F), self.chunk_size):
            rows = slice(start, start + self.chunk_size)
            logits = self._frozen(rows) * logit_scale
            part, _ = cross_entropy(logits, self.y[rows], self.row_weight[rows])
            loss += float(part)
        return loss

    def _held_out_cosines(self, sample_weight):
        """Cosine of each row to the mean of its class without one copy of the row.

        A row is much nearer to a mean that it is part of than a query will be. At least
        half of the weight of a class is left, so that one row alone is its own mean.
        """
        sums = torch.zeros_like(self.T0)
        sums.index_add_(0, self.y, sample_weight[:, None] * self.F)
        weights = sample_weight.new_zeros(len(self.T0))
        weights.index_add_(0, self.y, sample_weight)
        removed = torch.minimum(sample_weight.clamp_max(1), weights[self.y] / 2)
        means, _ = normalize_rows(sums[self.y] - removed[:, None] * self.F)
        return (self.F * means).sum(dim=1, keepdim=True)

    def _frozen(self, rows):
        """Cosines of one chunk of rows to T0, kept where the chunk is the whole."""
        if self.frozen is not None:
            return self.frozen
        cosines = self.F[rows] @ self.T0.T
        if self.own is not None:
            cosines.scatter_(1, self.y[rows, None], self.own[rows])
        return cosines

    def unpack(self, x):
        """Delta, with the intercept below it, and T."""
        delta = self.map_unit * x[: self.map_size].view(self.map_shape)
        return delta, self.T0 + self.text_unit * x[self.map_size :].view_as(self.T0)

    def __call__(self, x):
        loss, by_delta, by_text = self.data_term(*self.unpack(x))
        map_part, text_part = x[: self.map_size], x[self.map_size :]
        loss += self.map_cost * float(map_part @ map_part)
        loss += self.text_cost * float(text_part @ text_part)
        by_map = by_delta.mul_(self.map_unit).ravel()
        by_map.add_(map_part, alpha=2 * self.map_cost)
        by_shift = by_text.mul_(self.text_unit).ravel()
        by_shift.add_(text_part, alpha=2 * self.text_cost)
        return loss, torch.cat([by_map, by_shift])

    def data_term(self, delta, text):
        """Loss without penalties, and its gradients, added up over the chunks."""
        prototypes, text_norms = normalize_rows(text)
        loss = 0.0
        by_delta, by_prototype = torch.zeros_like(delta), torch.zeros_like(text)
        for start in range(0, len(self.F), self.chunk_size):
            rows = slice(start, start + self.chunk_size)
            inputs = self.inputs[rows]
            mapped, norms = normalize_rows(torch.addmm(self.F[rows], inputs, delta))
            chunk_loss, by_cosine = self._of_cosines(rows, mapped @ prototypes.T)
            loss += chunk_loss
            by_prototype.addmm_(by_cosine.T, mapped)
            by_mapped = by_cosine @ prototypes
            by_delta.addmm_(inputs.T, normalize_rows_backward(by_mapped, mapped, norms))
        return (
            loss,
            by_delta,
            normalize_rows_backward(by_prototype, prototypes, text_norms),
        )

    def _of_cosines(self, rows, cosines):
        """Loss of some rows, and its gradient, given their cosines to norm(T)."""
        y, weight = self.y[rows], self.row_weight[rows]
        logits = torch.add(self._frozen(rows), cosines, alpha=self.alpha)
        logits.mul_(self.scale)
        entropy, by_cosine = cross_entropy(logits, y, weight)
        by_cosine.mul_(self.alpha * self.scale)
        hinge, by_distance = triplet(cosines, y, weight, self.margin)
        by_cosine.add_(by_distance, alpha=self.triplet_weight)
        return float(entropy) + self.triplet_weight * float(hinge), by_cosine


def _scaled_penalty(penalty, divisor):
    """Unit of a block of unknowns, and the penalty on its square in that unit."""
    if penalty == 0:
        return 1.0, 0.0
    inverse = divisor / penalty
    if inverse == 0:
        return 0.0, 0.5
    return (1 + 2 / inverse) ** -0.5, 1 / (2 + inverse)
