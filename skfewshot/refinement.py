"""The text features, refined by the loss of cross-modal mapping from a given start."""

from dataclasses import dataclass
from typing import Any

import torch

from skfewshot.lbfgs import minimize
from skfewshot.losses import (
    cross_entropy,
    normalize_rows,
    normalize_rows_backward,
    triplet,
)

# Penalty of a text feature's move, in units of the one that keeps class means near
# their texts: the start already follows the support.
_ANCHOR = 0.3


@dataclass(frozen=True)
class TextProblems:
    """Refinements side by side: G groups of m problems that share a map.

    Attributes
    ----------
    mapped : tensor of shape (G, N, d)
        Unit rows, mapped.
    frozen : tensor of shape (G, N, C)
        Cosines of the rows to the frozen texts.
    y : int64 tensor of shape (G, N)
    weight : tensor of shape (G, N)
        Weights of the rows; 0 for rows that are there to fill up.
    start : tensor of shape (G, C, d)
        Unit prototypes to start from.
    text_penalty : tensor of shape (G,)
    scale, alpha, margin : tensors of shape (G, m)
        Scale of the logits, weight of the mapped ones, margin of the triplet loss.
    triplet_weight : float
    """

    mapped: Any
    frozen: Any
    y: Any
    weight: Any
    start: Any
    text_penalty: Any
    scale: Any
    alpha: Any
    margin: Any
    triplet_weight: float


def refine_texts(problems, *, learning_rate, max_iter, tol, chunk_size, callback=None):
    """Minimise the loss over the prototypes T, with the map as it is.

    With ``v`` the mapped rows, ``P = norm(T)`` and weighted means over the support::

        cross-entropy(scale (frozen + alpha v P') / (1 + alpha), y)
        + triplet_weight * mean max(0, |v - P_y| - |v - P_neg| + margin)
        + 0.3 * text_penalty / n_rows * |T - start|^2

    Parameters
    ----------
    problems : TextProblems
    learning_rate, max_iter, tol, chunk_size
        See :func:`skfewshot.solvers.solve_cmm`.
    callback : callable, default=None
        ``callback(x, loss_curves)``; ``start + unit x`` are the prototypes so far.

    Returns
    -------
    prototypes : tensor of shape (G, m, C, d)
        Unit rows.
    loss_curves : list of list of float
        One for each problem, group by group.
    converged : list of bool
    """
    objective = _TextObjective(problems, chunk_size)
    x = problems.start.new_zeros(
        objective.shape[0] * objective.shape[1], objective.size
    )

    def on_iteration(x, curves):
        return callback(curves, lambda: objective.prototypes(x))

    x, curves, converged = minimize(
        objective,
        x,
        learning_rate=learning_rate,
        max_iter=max_iter,
        tol=tol,
        callback=None if callback is None else on_iteration,
    )
    return objective.prototypes(x), curves, converged


class _TextObjective:
    """The penalised losses and their gradients as a function of a row per problem.

    A row holds T - start in units in which the penalty has a curvature below one, so
    that a unit step suits any penalty and an infinite one freezes the texts.
    """

    def __init__(self, problems, chunk_size):
        self.problems = problems
        n_groups, n_each = problems.scale.shape
        _, n_classes, width = problems.start.shape
        self.shape = (n_groups, n_each, n_classes, width)
        self.size = n_classes * width
        rows = problems.mapped.shape[1]
        self.chunk_size = min(rows, chunk_size)
        total = problems.weight.sum(dim=1, keepdim=True)
        self.row_weight = problems.weight / total
        inverse = total[:, 0] / (_ANCHOR * problems.text_penalty)
        unit = torch.where(inverse > 0, (1 + 2 / inverse).rsqrt(), 0.0)
        self.unit = unit[:, None, None, None]
        self.cost = (1 / (2 + inverse)).repeat_interleave(n_each)
        self.frozen_scale = problems.scale / (1 + problems.alpha)
        self.scale = self.frozen_scale * problems.alpha

    def _texts(self, x):
        return self.problems.start[:, None] + self.unit * x.view(self.shape)

    def prototypes(self, x):
        return normalize_rows(self._texts(x))[0]

    def __call__(self, x):
        prototypes, norms = normalize_rows(self._texts(x))
        loss = self.cost * x.square().sum(dim=1)
        by_prototype = torch.zeros_like(prototypes)
        for start in range(0, self.problems.mapped.shape[1], self.chunk_size):
            part, gradient = self._of_rows(
                slice(start, start + self.chunk_size), prototypes
            )
            loss += part.flatten()
            by_prototype += gradient
        by_text = normalize_rows_backward(by_prototype, prototypes, norms)
        gradient = (self.unit * by_text).view_as(x)
        return loss, gradient.addcmul_(x, 2 * self.cost[:, None])

    def _of_rows(self, rows, prototypes):
        """Loss of some rows of every problem, and its gradient by the prototypes."""
        problems, (n_groups, n_each, n_classes, _) = self.problems, self.shape
        mapped = problems.mapped[:, rows]
        n_rows = mapped.shape[1]
        # One product a group: its problems share the mapped rows.
        stacked = prototypes.flatten(1, 2)
        cosines = (mapped @ stacked.mT).view(n_groups, n_rows, n_each, n_classes)
        cosines = cosines.transpose(1, 2)
        y = problems.y[:, None, rows].expand(n_groups, n_each, n_rows)
        weight = self.row_weight[:, None, rows].expand(n_groups, n_each, n_rows)
        logits = self.scale[..., None, None] * cosines
        logits += self.frozen_scale[..., None, None] * problems.frozen[:, None, rows]
        loss, by_cosine = cross_entropy(logits, y, weight)
        by_cosine.mul_(self.scale[..., None, None])
        if problems.triplet_weight:
            margin = problems.margin[..., None, None]
            hinge, by_distance = triplet(cosines, y, weight, margin)
            loss = loss + problems.triplet_weight * hinge
            by_cosine.add_(by_distance, alpha=problems.triplet_weight)
        by_stacked = by_cosine.transpose(1, 2).reshape(n_groups, n_rows, -1).mT @ mapped
        return loss, by_stacked.view_as(prototypes)
