"""The weight of the map beside zero-shot CLIP, and intercepts, by rows left out."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from skfewshot.cmm._objective import minimise, mix, weighted_entropy

# Scale at which mapped cosines make logits as wide as a trained encoder's own. They
# spread alike whatever the encoder, as the map makes all classes equally round.
_MAPPED_SCALE = 20.0
# What a support is expected to say, and how far, in logarithms, it may say otherwise.
# Texts that surprise the support by this many nats are to weigh as much as the images:
_EVEN_SURPRISE = 1.5
# ... and a mixture is more often right than either, so its logits are to be wider.
_SHARPNESS = 1.2
_WEIGHT_SPREAD, _SHARPNESS_SPREAD, _TEXT_SPREAD = 0.5, 0.3, 0.5
_RATIO_BOUNDS = 0.1, 10.0
# Prior variance of the intercepts of the classes, before it is divided by the penalty,
# and the least penalty: classes that no row tells apart have no best intercept.
_INTERCEPT_VARIANCE, _LEAST_PENALTY = 2.5, 0.01
# Weight, in finding the temperature, of a row whose class has no other.
_ALONE = 0.1
_MOST_NEWCOMER_INTERCEPT = 10.0
# The minimiser's.
_MAX_ITER, _FTOL = 50, 1e-5
# Standard deviations of a prior that no likelihood moves beyond. Real supports stay
# below 7; weights of a million rows would find scales that leave nothing to learn.
_MOST_MOVE = 10.0


class LeftOut(NamedTuple):
    """What rows of the support say of the classes when each is left out.

    Attributes
    ----------
    rows : int64 tensor of shape (m,)
        Which rows of the support these are.
    frozen, mapped : tensors of shape (m, C)
        Cosines to the texts, and in the space of the map.
    y : int64 tensor of shape (m,)
    weight : tensor of shape (m,)
    spare : bool tensor of shape (m,)
        Whether the class has other rows.
    """

    rows: Tensor
    frozen: Tensor
    mapped: Tensor
    y: Tensor
    weight: Tensor
    spare: Tensor

    def some(self, rows: slice | Tensor) -> "LeftOut":
        """Return what some of the rows say."""
        return LeftOut(*(part[rows] for part in self))


def find_weight(
    left_out: LeftOut, *, logit_scale: float, text_seen: bool, alpha: float | None
) -> tuple[float, float]:
    """Find the weight of the mapped cosines and the temperature of the mixture.

    The logits are ``s / tau (frozen + alpha mapped) / (1 + alpha)``. Both unknowns
    maximise the likelihood of left-out rows times a log-normal prior.

    Parameters
    ----------
    left_out : LeftOut
        A row whose class has no other is at a disadvantage once it is left out, which
        would tell against the images altogether: such rows tell about the temperature
        alone, and of that little.
    logit_scale : float
        Scale s of the cosines.
    text_seen : bool
        Whether the texts are class means of the support, which know it.
    alpha : float or None
        A positive weight that is to be used.

    Returns
    -------
    alpha, temperature : float
    """
    _, frozen, mapped, y, weight, spare = left_out
    gain = logit_scale / _MAPPED_SCALE
    z0, z1 = logit_scale * frozen, _MAPPED_SCALE * mapped
    log_ratio, log_sharpness = z0.new_tensor(0.0), z0.new_tensor(math.log(_SHARPNESS))
    judges = weight * spare
    sure = judges if text_seen else torch.where(spare, weight, _ALONE * weight)
    if alpha is not None:
        log_ratio = z0.new_tensor(math.log(gain * alpha))
    elif not text_seen:
        # Texts alone. They have not seen the support, so their loss on it tells
        # honestly how far to trust them, once they are as sure as they should be.
        (move,) = _move(
            lambda x: weighted_entropy((_TEXT_SPREAD * x).exp() * z0, y, weight), z0, 1
        )
        sharpness = (_TEXT_SPREAD * move).exp()
        surprise = weighted_entropy(sharpness * z0, y, weight) / weight.sum()
        ratio = surprise / _EVEN_SURPRISE / sharpness
        log_ratio = ratio.clamp(*_RATIO_BOUNDS).log()
    if alpha is None and judges.any():
        prior = log_ratio
        moves = _move(
            lambda x: weighted_entropy(
                mix(
                    z0,
                    z1,
                    prior + _WEIGHT_SPREAD * x[0],
                    log_sharpness + _SHARPNESS_SPREAD * x[1],
                ),
                y,
                judges,
            ),
            *(z0, 2),
        )
        log_ratio = prior + _WEIGHT_SPREAD * moves[0]
    # The temperature once more, by all rows, for the weight that was found.
    (move,) = _move(
        lambda x: weighted_entropy(
            mix(z0, z1, log_ratio, log_sharpness + _SHARPNESS_SPREAD * x[0]), y, sure
        ),
        *(z0, 1),
    )
    sharpness = math.exp(log_sharpness + _SHARPNESS_SPREAD * move)
    odds = math.exp(log_ratio)
    return odds / gain, (1 + odds) / (1 + odds / gain) / sharpness


def find_intercepts(
    logits: Tensor, y: Tensor, weight: Tensor, text_penalty: float
) -> Tensor:
    """Find what to add to the logits of each class, by rows left out.

    Zero-shot CLIP says some names too readily, and others hardly ever. The intercepts
    maximise the likelihood of the left-out rows times a normal prior. Each class has
    the same weight, so that they do not take unequal numbers of rows for a preference.

    Parameters
    ----------
    logits : tensor of shape (m, C)
        Of left-out rows.
    y : int64 tensor of shape (m,)
    weight : tensor of shape (m,)
    text_penalty : float
        Keeps them near zero: the variance of the prior is 2.5 over it.

    Returns
    -------
    tensor of shape (C,)
    """
    spread = (_INTERCEPT_VARIANCE / max(text_penalty, _LEAST_PENALTY)) ** 0.5
    weight = _balanced(weight, y, logits.shape[1])
    return spread * _move(
        lambda x: weighted_entropy(logits + spread * x, y, weight),
        *(logits, logits.shape[1]),
    )


def find_newcomer_intercept(
    logits: Tensor, newcomers: Tensor, y: Tensor, weight: Tensor
) -> float:
    """Find the intercept of classes that have a text but no images.

    Prototypes that follow images attract images more than those that follow texts. The
    support tells how much more: each class in turn takes the place of a newcomer, and
    one intercept for all maximises the likelihood of the rows' labels times a standard
    normal prior.

    Parameters
    ----------
    logits : tensor of shape (m, C)
        Of left-out rows.
    newcomers : tensor of shape (m, C)
        What a class's logits would be, had it no images.
    y : int64 tensor of shape (m,)
    weight : tensor of shape (m,)

    Returns
    -------
    float
    """
    weight = _balanced(weight, y, logits.shape[1])
    p = torch.softmax(logits, dim=1).clamp_max(1 - 1e-6)
    # Above the logit of all other classes together.
    others = torch.logsumexp(logits, dim=1, keepdim=True) + torch.log1p(-p)
    margin = newcomers - others
    own = margin.gather(1, y[:, None])[:, 0]
    (level,) = _move(
        lambda x: weight @ (softplus(margin + x).sum(dim=1) - own - x), logits, 1
    )
    most = _MOST_NEWCOMER_INTERCEPT
    return float(level.clamp(-most, most))


def _balanced(weight: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """Return weights of the same sum that are the same for each class that has any."""
    counts = weight.new_zeros(n_classes).index_add_(0, y, weight)
    shares = weight / counts[y]
    return shares / shares.sum() * weight.sum()


def _move(loss: Callable[[Tensor], Tensor], like: Tensor, size: int) -> Tensor:
    """Return the most likely moves from zero: a loss plus half of their square."""
    start = like.new_zeros(size)
    x, _, _ = minimise(
        lambda x: (loss(x) + x.square().sum() / 2,),
        start,
        max_iter=_MAX_ITER,
        tol=0,
        ftol=_FTOL,
    )
    return x.clamp(-_MOST_MOVE, _MOST_MOVE)
