"""Cross-modal mapping as published: map and texts trained by AdamW, without penalties.

Every epoch takes all rows, in batches. A support of one batch is taken as it is, so
nothing is drawn; a larger one is shuffled by a generator of its own, always the same.
With ``v = norm(f W + b)``, ``P = norm(T)`` and weighted means over the support::

    cross-entropy(s f T0' + alpha s v P', y)
    + triplet_weight * mean max(0, |v - P_y| - |v - P_neg| + margin)

is the loss of cross-modal mapping (arXiv 2412.20110), where *neg* is the nearest wrong
class.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from skfewshot._epochs import train_epochs
from skfewshot._support import Support
from skfewshot.cmm._solution import Solution

#: After an epoch: its number, the loss, and what gives the solution so far.
OnEpoch = Callable[[int, float, Callable[[], Solution]], bool]

# Rows of a step. The public records of the paper do not say: a guess.
_BATCH_SIZE = 256
# What is trained of the map's residual and the texts; an ablation takes one away.
_TRAINED = ("map", "text")
# The least squared distance: a row that lies on its prototype (class means at one shot)
# gets no direction from it, instead of one without end.
_LEAST_DISTANCE = 1e-6


class Settings(NamedTuple):
    """The parameters of the estimator that are read."""

    alpha: float
    triplet_weight: float
    margin: float
    learning_rate: float
    max_iter: int


@dataclass(frozen=True)
class Loss:
    """The loss of a support, as a sum over some rows at a time.

    Attributes
    ----------
    support : Support
        In tensors.
    inputs : tensor of shape (N, k)
        What the map's residual is applied to.
    settings : Settings
    """

    support: Support
    inputs: Tensor
    settings: Settings

    def of_rows(self, rows: slice | Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return what some rows, a slice or their indices, add to the loss.

        `values` has the residual ``map`` and the prototypes ``text``.
        """
        support, settings = self.support, self.settings
        F, y = support.features[rows], support.y[rows]
        mapped = normalize(F + self.inputs[rows] @ values["map"])
        cosines = mapped @ normalize(values["text"]).T
        logits = F @ support.text.T + settings.alpha * cosines
        losses = cross_entropy(support.logit_scale * logits, y, reduction="none")
        if settings.triplet_weight:
            hinge = triplet(cosines, y, settings.margin)
            losses = losses + settings.triplet_weight * hinge
        return support.weight[rows] / support.weight.sum() @ losses

    def of_all(self, values: Mapping[str, Tensor]) -> float:
        """Return the loss of the whole support."""
        starts = range(0, len(self.support.y), _BATCH_SIZE)
        with torch.no_grad():
            parts = [self.of_rows(slice(i, i + _BATCH_SIZE), values) for i in starts]
            value = float(torch.stack(parts).sum())
        if not math.isfinite(value):
            raise ValueError(f"The loss is {value}; a parameter is too large.")
        return value


def triplet(cosines: Tensor, y: Tensor, margin: float) -> Tensor:
    """Triplet loss of each row, ``max(0, |v - p_y| - |v - p_neg| + margin)``.

    Distances of unit vectors follow from their cosine, ``|v - p|^2 = 2 - 2 v.p``.

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
    distances = (2 - 2 * cosines).clamp_min(_LEAST_DISTANCE).sqrt()
    to_true = distances.gather(1, at_y)[:, 0]
    to_wrong = distances.scatter(1, at_y, torch.inf).amin(dim=1)
    return (to_true - to_wrong + margin).clamp_min(0)


def solve_paper(
    support: Support, settings: Settings, on_epoch: OnEpoch | None = None
) -> Solution:
    """Train ``W = I + Delta`` and the texts T, from ``Delta = 0`` and ``T = T0``.

    Parameters
    ----------
    support : Support
        In tensors. Where its texts are class means, the map has a constant b.
    settings : Settings
    on_epoch : callable, default=None
        Called after each epoch; True stops.

    Returns
    -------
    Solution
        With the loss of the whole support before the first epoch and after each one.

    Raises
    ------
    ValueError
        If the loss is not finite.
    """
    F, text = support.features, support.text
    inputs = _inputs(support)
    loss = Loss(support, inputs, settings)
    values = {"map": F.new_zeros(inputs.shape[1], F.shape[1]), "text": text.clone()}
    curve = [loss.of_all(values)]
    least = torch.finfo(F.dtype).tiny

    def of_batch(rows: slice | Tensor) -> Tensor:
        share = (support.weight[rows] / support.weight.sum()).sum().clamp_min(least)
        return loss.of_rows(rows, values) / share

    def after(epoch: int, _loss: float, _state: Callable[[], Any]) -> bool:
        curve.append(loss.of_all(values))
        return on_epoch is not None and on_epoch(
            epoch, curve[-1], lambda: _solution(support, settings, values, [])
        )

    train_epochs(
        of_batch,
        {name: values[name] for name in _TRAINED},
        len(F),
        optimizer=lambda tensors: torch.optim.AdamW(tensors, lr=settings.learning_rate),
        max_iter=settings.max_iter,
        cosine=False,
        batch_size=_BATCH_SIZE,
        random_state=0,
        callback=after,
    )
    return _solution(support, settings, values, curve)


def _inputs(support: Support) -> Tensor:
    """Return what the map's residual is applied to.

    Without text a column of ones makes its last row a constant: such features need not
    have the large common mean of CLIP's, and f and -f could never get the same class.
    """
    F = support.features
    return torch.cat([F, F.new_ones(len(F), 1)], dim=1) if support.text_seen else F


def _solution(
    support: Support,
    settings: Settings,
    values: Mapping[str, Tensor],
    loss_curve: list[float],
) -> Solution:
    """Copy what is trained, which the next epoch would change."""
    residual, text = values["map"].detach(), values["text"].detach().clone()
    width, alpha = text.shape[1], settings.alpha
    identity = torch.eye(width, dtype=text.dtype, device=text.device)
    map_ = identity + residual[:width]
    return Solution(
        map=map_,
        map_intercept=residual[width:].sum(dim=0),
        # Texts stay where they are: what the map does to them is undone.
        text_map=torch.linalg.inv(map_.cpu().double()).to(text.dtype),
        text_map_intercept=text.new_zeros(width),
        prototypes=text,
        frozen=support.text,
        alpha=alpha,
        # Undoes the division by 1 + alpha.
        temperature=1 / (1 + alpha),
        intercept=text.new_zeros(len(text)),
        newcomer=0.0,
        trust=text.new_ones(len(text)),
        loss_curve=loss_curve,
        n_iter=max(len(loss_curve) - 1, 0),
    )
