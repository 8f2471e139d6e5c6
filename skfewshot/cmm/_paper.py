"""Cross-modal mapping as published: map and texts trained by AdamW, without penalties.

Every epoch takes all rows, in batches. A support of one batch is taken as it is, so
nothing is drawn; a larger one is shuffled by a generator of its own, always the same.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from skfewshot._base import Support
from skfewshot._epochs import train_epochs
from skfewshot.cmm._objective import Loss, OnIteration, Scales, Settings, Solution

# Rows of a step. The public records of the paper do not say: a guess.
_BATCH_SIZE = 256
# What is trained of the map's residual and the texts; an ablation takes one away.
_TRAINED = ("map", "text")


def solve_paper(
    support: Support, settings: Settings, on_iteration: OnIteration | None = None
) -> Solution:
    """Train ``W = I + Delta`` and the texts T, from ``Delta = 0`` and ``T = T0``.

    Parameters
    ----------
    support : Support
        In tensors. Where its texts are class means, the map has a constant b.
    settings : Settings
        Without penalties and `tol`, which are not read. `max_iter` are epochs, and
        `alpha` None is 1.
    on_iteration : callable, default=None
        After each epoch; see :data:`~skfewshot.cmm._objective.OnIteration`.

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
    loss = published_loss(support, inputs, settings)
    values = {"map": F.new_zeros(inputs.shape[1], F.shape[1]), "text": text.clone()}
    curve = [_of_all(loss, values)]
    least = torch.finfo(F.dtype).tiny

    def of_batch(rows: slice | Tensor) -> Tensor:
        share = loss.row_weight[rows].sum().clamp_min(least)
        return loss.of_rows(rows, values) / share

    def solution(loss_curve: list[float]) -> Solution:
        return _solution(values, loss.alpha, loss_curve)

    def after(epoch: int, _loss: float, _state: Callable[[], Any]) -> bool:
        curve.append(_of_all(loss, values))
        return on_iteration is not None and on_iteration(
            epoch, curve[-1], lambda: solution([])
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
    return solution(curve)


def _inputs(support: Support) -> Tensor:
    """Return what the map's residual is applied to.

    Without text a column of ones makes its last row a constant: such features need not
    have the large common mean of CLIP's, and f and -f could never get the same class.
    """
    F = support.features
    return torch.cat([F, F.new_ones(len(F), 1)], dim=1) if support.text_seen else F


def published_loss(support: Support, inputs: Tensor, settings: Settings) -> Loss:
    """Return the loss of the undivided sum of logits and of the sharp triplet loss."""
    F, alpha = support.features, 1.0 if settings.alpha is None else settings.alpha
    return Loss(
        frozen=support.logit_scale * (F @ support.text.T),
        mapped=lambda rows, values: normalize(F[rows] + inputs[rows] @ values["map"]),
        y=support.y,
        row_weight=support.weight / support.weight.sum(),
        alpha=alpha,
        # s / tau for the temperature that undoes the division by 1 + alpha.
        scale=support.logit_scale * (1 + alpha),
        triplet_weight=settings.triplet_weight,
        margin=settings.margin,
        sharp=True,
    )


def _of_all(loss: Loss, values: dict[str, Tensor]) -> float:
    """Return the loss of the whole support."""
    starts = range(0, len(loss.y), _BATCH_SIZE)
    with torch.no_grad():
        parts = [loss.of_rows(slice(i, i + _BATCH_SIZE), values) for i in starts]
        value = float(torch.stack(parts).sum())
    if not math.isfinite(value):
        raise ValueError(f"The loss is {value}; a parameter is too large.")
    return value


def _solution(
    values: dict[str, Tensor], alpha: float, loss_curve: list[float]
) -> Solution:
    """Copy what is trained, which the next epoch would change."""
    residual, text = values["map"].detach(), values["text"].detach().clone()
    width = text.shape[1]
    identity = torch.eye(width, dtype=text.dtype, device=text.device)
    map_ = identity + residual[:width]
    return Solution(
        map=map_,
        map_intercept=residual[width:].sum(dim=0),
        # Texts stay where they are: what the map does to them is undone.
        text_map=torch.linalg.inv(map_.cpu().double()).to(text.dtype),
        text_map_intercept=text.new_zeros(width),
        text=text,
        scales=Scales(alpha, 1 / (1 + alpha), text.new_zeros(len(text)), 0.0),
        loss_curve=loss_curve,
        # A number of epochs is all that was asked for.
        converged=True,
    )
