"""The losses of prototypes that are trained."""

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from skfewshot._support import Support


def mean_cross_entropy(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy of the rows, a 0-d tensor."""
    losses = cross_entropy(logits, y, reduction="none")
    return (losses * weight).sum() / weight.sum()


def prototype_loss(
    support: Support, rows: Any, prototypes: Tensor, intercept: Tensor | None
) -> Tensor:
    """Mean cross-entropy of some rows for the logits ``s (cos(f, w_c) + b_c)``.

    Parameters
    ----------
    support : Support
        In tensors.
    rows : slice or index tensor
    prototypes : tensor of shape (C, d)
        Of any length.
    intercept : tensor of shape (C,) or None

    Returns
    -------
    0-d tensor
    """
    cosines = support.features[rows] @ normalize(prototypes).T
    if intercept is not None:
        cosines = cosines + intercept
    logits = support.logit_scale * cosines
    return mean_cross_entropy(logits, support.y[rows], support.weight[rows])


def first_intercept(support: Support) -> dict[str, Tensor]:
    """Return what to train beside prototypes: an intercept where there is no text."""
    if not support.text_seen:
        return {}
    return {"intercept": support.text.new_zeros(len(support.text))}
