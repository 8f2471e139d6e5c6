"""Prototypes and intercepts, refined by the loss of cross-modal mapping."""

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

# Penalty of an intercept's move in units of that of a prototype's.
_INTERCEPT_PENALTY = 0.1


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
    intercept : tensor of shape (G, m, C)
        Intercepts to start from.
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
    intercept: Any
    text_penalty: Any
    scale: Any
    alpha: Any
    margin: Any
    triplet_weight: float


def refine_texts(problems, *, learning_rate, max_iter, tol, chunk_size, callback=None):
    """Minimise the loss over prototypes T and intercepts b, with the map as it is.

    With ``v`` the mapped rows, ``P = norm(T)`` and weighted means over the support::

        cross-entropy(scale (frozen + alpha v P') / (1 + alpha) + b, y)
        + triplet_weight * mean max(0, |v - P_y| - |v - P_neg| + margin)
        + text_penalty * (|T - start|^2 + |b - intercept|^2 / 10) / n_rows

    Parameters
    ----------
    problems : TextProblems
    learning_rate, max_iter, tol, chunk_size
        See :func:`skfewshot.solvers.solve_cmm`.
    callback : callable, default=None
        ``callback(loss_curves, state)``; ``state()`` gives the prototypes and the
        intercepts so far.

    Returns
    -------
    prototypes : tensor of shape (G, m, C, d)
        Unit rows.
    intercepts : tensor of shape (G, m, C)
    loss_curves : list of list of float
        One for each problem, group by group.
    converged : list of bool
    """
    objective = _TextObjective(problems, chunk_size)
    x = problems.start.new_zeros(
        objective.shape[0] * objective.shape[1], objective.size
    )

    def on_iteration(x, curves):
        return callback(curves, lambda: objective.solution(x))

    x, curves, converged = minimize(
        objective,
        x,
        learning_rate=learning_rate,
        max_iter=max_iter,
        tol=tol,
        callback=None if callback is None else on_iteration,
    )
    return *objective.solution(x), curves, converged


class _TextObjective:
    """The penalised losses and their gradients as a function of a row per problem.

    A row holds T - start and b - intercept in units in which the penalty has a
    curvature below one, so that a unit step suits any penalty and an infinite one
    freezes the texts.
    """

    def __init__(self, problems, chunk_size):
        self.problems = problems
        n_groups, n_each = problems.scale.shape
        _, n_classes, width = problems.start.shape
        self.shape = (n_groups, n_each, n_classes, width)
        self.text_size = n_classes * width
        self.size = self.text_size + n_classes
        rows = problems.mapped.shape[1]
        self.chunk_size = min(rows, chunk_size)
        total = problems.weight.sum(dim=1, keepdim=True)
        self.row_weight = problems.weight / total
        text_unit, text_cost = _scaled(problems.text_penalty / total[:, 0])
        unit, cost = _scaled(_INTERCEPT_PENALTY * problems.text_penalty / total[:, 0])
        self.text_unit = text_unit[:, None, None, None]
        # Nothing is learned where the map has no weight.
        self.unit = (unit[:, None] * (problems.alpha > 0))[..., None]
        costs = torch.cat(
            [
                text_cost[:, None].expand(n_groups, self.text_size),
                cost[:, None].expand(n_groups, n_classes),
            ],
            dim=1,
        )
        self.cost = costs.repeat_interleave(n_each, 0)
        self.frozen_scale = problems.scale / (1 + problems.alpha)
        self.scale = self.frozen_scale * problems.alpha

    def _unpack(self, x):
        moves = x[:, : self.text_size].view(self.shape)
        shifts = self.unit * x[:, self.text_size :].view(self.shape[:3])
        texts = self.problems.start[:, None] + self.text_unit * moves
        return texts, self.problems.intercept + shifts

    def solution(self, x):
        texts, intercepts = self._unpack(x)
        return normalize_rows(texts)[0], intercepts

    def __call__(self, x):
        texts, intercepts = self._unpack(x)
        prototypes, norms = normalize_rows(texts)
        loss = (self.cost * x.square()).sum(dim=1)
        by_prototype = torch.zeros_like(prototypes)
        by_intercept = torch.zeros_like(intercepts)
        for start in range(0, self.problems.mapped.shape[1], self.chunk_size):
            rows = slice(start, start + self.chunk_size)
            part, gradient, shift = self._of_rows(rows, prototypes, intercepts)
            loss += part.flatten()
            by_prototype += gradient
            by_intercept += shift
        by_text = normalize_rows_backward(by_prototype, prototypes, norms)
        gradient = torch.cat(
            [
                (self.text_unit * by_text).view(len(x), -1),
                (self.unit * by_intercept).view(len(x), -1),
            ],
            dim=1,
        )
        return loss, gradient.addcmul_(x, self.cost, value=2)

    def _of_rows(self, rows, prototypes, intercepts):
        """Loss of some rows of every problem, and its gradients."""
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
        logits += intercepts[:, :, None]
        loss, by_cosine = cross_entropy(logits, y, weight)
        by_intercept = by_cosine.sum(dim=2)
        by_cosine.mul_(self.scale[..., None, None])
        if problems.triplet_weight:
            margin = problems.margin[..., None, None]
            hinge, by_distance = triplet(cosines, y, weight, margin)
            loss = loss + problems.triplet_weight * hinge
            by_cosine.add_(by_distance, alpha=problems.triplet_weight)
        by_stacked = by_cosine.transpose(1, 2).reshape(n_groups, n_rows, -1).mT @ mapped
        return loss, by_stacked.view_as(prototypes), by_intercept


def _scaled(penalty):
    """Unit of a block of unknowns, and the penalty on its square in that unit."""
    inverse = 1 / penalty
    unit = torch.where(inverse > 0, (1 + 2 / inverse).rsqrt(), 0.0)
    return unit, 1 / (2 + inverse)
