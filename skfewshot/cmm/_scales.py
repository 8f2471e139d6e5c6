"""What is found by rows that are left out: trust, weights, temperature, intercepts.

Each unknown is the mode of its posterior: a likelihood of labels, of texts that have
not seen the support or of rows that are left out, times a wide prior.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, softplus

from skfewshot.cmm._gaussian import ALONE_SHARE

# Spread over the classes, a standard deviation, that a trained encoder's own logits
# have: 2 to 5. Wider ones are over-sure.
_MOST_WIDTH = 5.0
# How far, in logarithms, the temperature of the texts may be another.
_TEMPERATURE_SPREAD = 0.5
# The log odds that a text is wrong, and their spread. What a wrong one says is as good
# as chance; a poor one is to be told from it, so it need not be quite that good.
_WRONG_TEXT, _WRONG_TEXT_SPREAD, _CHANCE = -2.0, 3.0, 0.95
# Rows of a class add to the evidence for its text by the root of their number, as they
# are alike, up to so many.
_MOST_EVIDENCE = 16.0
# The log odds that a label is wrong, and their spread.
_WRONG_LABEL, _WRONG_LABEL_SPREAD = -4.0, 1.5
# Scale at which mapped cosines make logits as wide as a trained encoder's own. They
# spread alike whatever the encoder, as the map makes all classes equally round.
_MAPPED_SCALE = 20.0
# Weights of texts and images at one row a class and a text penalty of 1, and the power
# of both by which the one falls and the other grows; and the spreads of their priors.
_TEXT_WEIGHT, _IMAGE_WEIGHT, _WEIGHT_POWER = 0.78, 0.45, 0.2
# Texts that surprise the support by fewer nats than so many have more weight, and
# images less, by this power of the share, down to a bound.
SURPRISE, _LEAST_SURPRISE, _SURPRISE_POWER = 0.8, 0.2, 0.35
# ... of images, more by this share where no text is trusted.
_ALONE = 0.45
# Classes from which on that image weight holds. Prototypes of C classes less their mean
# are at cosines of -1 / (C - 1), so that fewer classes are further apart. Lone images
# are near none of them, and need no less.
_MANY_CLASSES = 25
_TEXT_SPREAD, _IMAGE_SPREAD = 0.5, 0.4
# Standard deviation of the intercepts of the classes.
_INTERCEPT_SPREAD = 1.0
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
        Logits of the texts, as far as they are trusted, and cosines in the space of the
        map.
    y : int64 tensor of shape (m,)
    weight : tensor of shape (m,)
    others : tensor of shape (m,)
        The weight of the other rows of the class.
    """

    rows: Tensor
    frozen: Tensor
    mapped: Tensor
    y: Tensor
    weight: Tensor
    others: Tensor

    @property
    def spare(self) -> Tensor:
        """Whether the class has other rows."""
        return self.others > ALONE_SHARE * self.weight

    def some(self, rows: slice | Tensor) -> "LeftOut":
        """Return what some of the rows say."""
        return LeftOut(*(part[rows] for part in self))


class Weights(NamedTuple):
    """Weights a and b of logits ``a frozen + b mapped``, and what they cost."""

    text: float
    image: float
    #: Minus the logarithm of their posterior.
    loss: float


def trust_texts(
    logits: Tensor, y: Tensor, weight: Tensor
) -> tuple[Tensor, float, float]:
    """Find how far the text of each class is to be trusted, and their temperature.

    Texts have not seen the support, so what they say of it is honest. A text is either
    right, and the labels of its class's rows are as likely as zero-shot CLIP has it, or
    wrong, and they are as likely as by chance. How many are wrong, and one factor of
    all logits, are the most likely ones; the trust is the probability of being right.

    Parameters
    ----------
    logits : tensor of shape (N, C)
        Zero-shot logits.
    y : int64 tensor of shape (N,)
        Every class has a row.
    weight : tensor of shape (N,)

    Returns
    -------
    trust : tensor of shape (C,)
        From 0 to 1.
    factor : float
        To multiply the logits by.
    surprise : float
        The mean cross-entropy of the labels then, of classes as their texts are
        trusted.
    """
    n_classes = logits.shape[1]
    counts = weight.new_zeros(n_classes).index_add_(0, y, weight)
    evidence = counts.clamp_max(_MOST_EVIDENCE).sqrt()
    width = float(logits.std(dim=1).mean())
    factor = min(1.0, _MOST_WIDTH / max(width, 1e-9))
    chance = _CHANCE * math.log(n_classes)
    share = weight / counts[y]

    def losses(x: Tensor) -> Tensor:
        scaled = factor * (_TEMPERATURE_SPREAD * x[0]).exp() * logits
        rows = share * cross_entropy(scaled, y, reduction="none")
        return rows.new_zeros(n_classes).index_add(0, y, rows)

    def log_odds(x: Tensor) -> Tensor:
        """Of being right, for even odds before."""
        return evidence * (chance - losses(x))

    def wrong(x: Tensor) -> Tensor:
        return _WRONG_TEXT + _WRONG_TEXT_SPREAD * x[1]

    def loss(x: Tensor) -> Tensor:
        right = logsigmoid(-wrong(x)) + log_odds(x)
        return -torch.logaddexp(right, logsigmoid(wrong(x)).expand_as(right)).sum()

    x, _ = _mode(loss, logits, 2)
    trust = torch.sigmoid(log_odds(x) - wrong(x))
    surprise = float(trust @ losses(x) / trust.sum().clamp_min(1e-9))
    return trust, factor * math.exp(_TEMPERATURE_SPREAD * float(x[0])), surprise


def trust_labels(logits: Tensor, y: Tensor, judged: Tensor) -> Tensor:
    """Find the probability that each row's label is right.

    A label is right, and as likely as the row that is left out has it, or wrong, and
    any other class's. How many are wrong is the most likely number.

    Parameters
    ----------
    logits : tensor of shape (m, C)
        Of left-out rows.
    y : int64 tensor of shape (m,)
    judged : bool tensor of shape (m,)
        The labels of other rows are right.

    Returns
    -------
    tensor of shape (m,)
    """
    right = -cross_entropy(logits, y, reduction="none")
    wrong = torch.log1p(-right.exp().clamp_max(1 - 1e-6))
    wrong = wrong - math.log(max(logits.shape[1] - 1, 1))

    def log_odds(x: Tensor) -> Tensor:
        return _WRONG_LABEL + _WRONG_LABEL_SPREAD * x[0]

    def loss(x: Tensor) -> Tensor:
        odds = log_odds(x)
        parts = torch.logaddexp(logsigmoid(-odds) + right, logsigmoid(odds) + wrong)
        return -(parts * judged).sum()

    x, _ = _mode(loss, logits, 1)
    trust = torch.sigmoid(right - wrong - log_odds(x))
    return torch.where(judged, trust, torch.ones_like(trust))


def find_weights(
    left_out: LeftOut,
    *,
    shots: float,
    trust: float,
    surprise: float,
    text_penalty: float,
    ratio: float | None,
) -> Weights:
    """Find the weights of texts and images, by rows that are left out.

    They maximise the likelihood of the rows whose class has others, times log-normal
    priors: a row that is alone in its class has no image to speak for it once it is
    left out, which would tell against the images altogether.

    Parameters
    ----------
    left_out : LeftOut
    shots : float
        Rows a class, positive.
    trust : float
        In the texts, in the mean.
    surprise : float
        Mean cross-entropy of trusted texts on the support.
    text_penalty : float
        Of the model that left them out.
    ratio : float or None
        A positive weight of the images, in units of that of the texts, that is to be
        used.

    Returns
    -------
    Weights
    """
    _, frozen, mapped, y, weight, _ = left_out
    judges = weight * left_out.spare
    growth = (text_penalty * shots) ** _WEIGHT_POWER
    share = min(max(surprise, _LEAST_SURPRISE) / SURPRISE, 1.0)
    # As far as there are texts that could be surprised.
    growth *= share ** (_SURPRISE_POWER * trust)
    text, image = _TEXT_WEIGHT / growth, _IMAGE_WEIGHT * _MAPPED_SCALE * growth
    image *= 1 + _ALONE * (1 - trust)
    image *= of_few_classes(frozen.shape[1]) ** min(max(shots - 1, 0.0), 1.0)

    def weights(x: Tensor) -> tuple[Tensor, Tensor]:
        a = text * (_TEXT_SPREAD * x[0]).exp()
        free = image * (_IMAGE_SPREAD * x[1]).exp()
        return a, free if ratio is None else ratio * a

    def loss(x: Tensor) -> Tensor:
        a, b = weights(x)
        return weighted_entropy(a * frozen + b * mapped, y, judges)

    x, least = _mode(loss, frozen, 2)
    a, b = weights(x)
    return Weights(float(a), float(b), least)


def of_few_classes(n_classes: int) -> float:
    """Return how much of the image weight of many classes so many have."""
    return min(1.0, (1 - 1 / max(n_classes, 2)) / (1 - 1 / _MANY_CLASSES))


def find_intercepts(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Find what to add to the logits of each class, by rows left out.

    Zero-shot CLIP says some names too readily, and others hardly ever. The intercepts
    maximise the likelihood of the left-out rows times a normal prior. Each class has
    the same weight, so that they do not take unequal numbers of rows for a preference,
    unless it has less than a row of weight; those without rows have none.

    Parameters
    ----------
    logits : tensor of shape (m, C)
        Of left-out rows.
    y : int64 tensor of shape (m,)
    weight : tensor of shape (m,)

    Returns
    -------
    tensor of shape (C,)
    """
    n_classes = logits.shape[1]
    if not len(y):
        return logits.new_zeros(n_classes)
    weight = _balanced(weight, y, n_classes)
    # Rows of others alone would only hold a class back.
    spread = logits.new_zeros(n_classes).index_fill(0, y, _INTERCEPT_SPREAD)
    x, _ = _mode(
        lambda x: weighted_entropy(logits + spread * x, y, weight),
        *(logits, n_classes),
    )
    return spread * x


def without_own_say(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Return logits with intercepts on which each row itself had no say.

    To first order: each row moves the intercepts by its gradient times the inverse of
    the curvature of their loss, and that is taken back. The other rows of its class
    have its weight then.

    Parameters
    ----------
    logits : tensor of shape (m, C)
        Of left-out rows, with the intercepts that `find_intercepts` found on them.
    y : int64 tensor of shape (m,)
    weight : tensor of shape (m,)
        As for `find_intercepts`.

    Returns
    -------
    tensor of shape (m, C)
    """
    n_classes = logits.shape[1]
    # Beside heavy rows the prior is lost to single precision, and MPS has no other.
    wide = _balanced(weight, y, n_classes).cpu().double()[:, None]
    p = torch.softmax(logits.cpu().double(), dim=1)
    curvature = torch.diag((wide * p).sum(dim=0) + _INTERCEPT_SPREAD**-2)
    curvature -= p.T @ (wide * p)
    pulls = wide * p
    label = y.cpu()
    pulls[torch.arange(len(y)), label] -= wide[:, 0]
    of_class = pulls.new_zeros(n_classes, n_classes).index_add_(0, label, pulls)
    share = wide / wide.new_zeros(n_classes, 1).index_add_(0, label, wide)[label]
    is_alone = share > 1 - ALONE_SHARE
    others = (pulls - share * of_class[label]) / (1 - share).clamp_min(ALONE_SHARE)
    pulls = torch.where(is_alone, pulls, others)
    return logits + torch.linalg.solve(curvature, pulls.T).T.to(logits)


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
    x, _ = _mode(
        lambda x: weight @ (softplus(margin + x).sum(dim=1) - own - x), logits, 1
    )
    most = _MOST_NEWCOMER_INTERCEPT
    return float(x.clamp(-most, most))


def weighted_entropy(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of the cross-entropy of the rows."""
    return weight @ cross_entropy(logits, y, reduction="none")


def _balanced(weight: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """Return weights of the same sum that are the same for each class of a row or more.

    What has less is no class to be as likely as the others.
    """
    counts = weight.new_zeros(n_classes).index_add_(0, y, weight)
    shares = weight / counts[y] * counts[y].clamp_max(1.0)
    return shares / shares.sum() * weight.sum()


def _mode(
    loss: Callable[[Tensor], Tensor], like: Tensor, size: int
) -> tuple[Tensor, float]:
    """Return the most likely moves from zero, and a loss plus half of their square.

    By SciPy's L-BFGS, with gradients by autograd.
    """

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        move = torch.tensor(x, dtype=like.dtype, device=like.device, requires_grad=True)
        value = loss(move) + move.square().sum() / 2
        (gradient,) = torch.autograd.grad(value, move)
        return float(value.detach()), gradient.cpu().numpy().astype(np.float64)

    found = minimize(
        value_and_gradient,
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_MOST_MOVE, _MOST_MOVE)] * size,
        options={"maxiter": _MAX_ITER, "maxfun": 10**6, "ftol": _FTOL, "gtol": 0},
    )
    x = torch.tensor(found.x, dtype=like.dtype, device=like.device)
    return x, float(found.fun)
