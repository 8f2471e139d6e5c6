"""The loss of trained prototypes, as a function that torch differentiates."""

import torch

from skfewshot.losses import normalize_rows


def mean_cross_entropy(logits, y, weight):
    """Weighted mean of the cross-entropy of the rows, a 0-d tensor."""
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    return (losses * weight).sum() / weight.sum()


def prototype_cross_entropy(F, y, weight, prototypes, *, scale, intercept=None):
    """Mean cross-entropy of the logits ``s (cos(f, w_c) + b_c)``.

    Parameters
    ----------
    F : tensor of shape (n, d)
        Unit rows.
    y : int64 tensor of shape (n,)
    weight : tensor of shape (n,)
    prototypes : tensor of shape (C, d)
        Of any length.
    scale : float
    intercept : tensor of shape (C,) or None

    Returns
    -------
    0-d tensor
    """
    cosines = F @ normalize_rows(prototypes)[0].T
    if intercept is not None:
        cosines = cosines + intercept
    return mean_cross_entropy(scale * cosines, y, weight)


def zero_shot_trust(F, y, weight, text, *, scale):
    """Mean zero-shot probability of the true class, over the rows of each class.

    A class without rows keeps its text: 1.

    Returns
    -------
    tensor of shape (C,)
    """
    probability = torch.softmax(scale * F @ text.T, dim=1).gather(1, y[:, None])[:, 0]
    sums = weight.new_zeros(len(text)).index_add_(0, y, weight * probability)
    totals = weight.new_zeros(len(text)).index_add_(0, y, weight)
    return torch.where(totals > 0, sums / totals, torch.ones_like(sums))
