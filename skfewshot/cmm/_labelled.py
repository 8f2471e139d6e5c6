"""Labelled rows, solved: texts as far as they are trusted, map, prototypes, weights.

And what each of the rows says when it is left out, by which weights and intercepts are
found.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skfewshot._support import Support
from skfewshot.cmm._gaussian import (
    GaussianModel,
    Sample,
    fit_gaussian,
    left_out_cosines,
    newcomer_cosines,
    summarise,
)
from skfewshot.cmm._scales import (
    SURPRISE,
    LeftOut,
    Weights,
    find_intercepts,
    find_newcomer_intercept,
    find_weights,
    trust_texts,
    without_own_say,
)

# The slope of class means on their texts, where those of images stand in for texts.
_SLOPES = 0.05, 1.0
# Rows that are left out, one at a time, to find intercepts; fewer where classes are so
# many that memory would run out; and so many to find the weights, which are but two.
_MOST_LEFT_OUT, _MOST_LOGITS, _MOST_FOR_SCALES = 4096, 2**23, 512


class Frozen(NamedTuple):
    """The part of the logits that the texts have, as far as they are trusted.

    Attributes
    ----------
    prototypes : tensor of shape (C, d)
        What rows are compared with.
    scale : float
        Of the cosines: s times the factor of the texts.
    surprise : float
        Mean cross-entropy of trusted texts on the support.
    trust : tensor of shape (C,)
        In each text, from 0 to 1.
    share : tensor of shape (C,)
        How much of its mean image, less that of all, stands in for a class's text.
    """

    prototypes: Tensor
    scale: float
    surprise: float
    trust: Tensor
    share: Tensor


class Fit(NamedTuple):
    """A support, solved, and what some of its rows say when they are left out."""

    sample: Sample
    frozen: Frozen
    model: GaussianModel
    weights: Weights
    text_penalty: float
    left_out: LeftOut

    @property
    def support(self) -> Support:
        """The support."""
        return self.sample.support

    def logits(self, left_out: LeftOut) -> Tensor:
        """Return the logits of rows that are left out, before intercepts."""
        text, image, _ = self.weights
        return text * left_out.frozen + image * left_out.mapped


class Levels(NamedTuple):
    """What is added to the logits of each class, and of classes without rows."""

    intercept: Tensor
    newcomer: float


def fit_labelled(
    support: Support, alpha: float | None, penalties: tuple[float, ...]
) -> Fit:
    """Solve a support, with the best of some text penalties.

    Parameters
    ----------
    support : Support
        In tensors.
    alpha : float or None
        The weight of the mapped cosines that is to be used; None finds it.
    penalties : tuple of float

    Returns
    -------
    Fit
    """
    sample = summarise(support)
    frozen = freeze(sample, alpha)
    rows = _rows_to_leave_out(support)
    # Two numbers need fewer rows than an intercept for each class.
    some = rows[:: -(-len(rows) // _MOST_FOR_SCALES)]
    shots = float(sample.counts.mean())
    best: Fit | None = None
    for penalty in penalties:
        model = fit_gaussian(sample, frozen.trust, text_penalty=penalty)
        left_out = leave_out(support, model, frozen, some)
        weights = weigh(left_out, sample, frozen, alpha, shots, penalty)
        if best is None or weights.loss < best.weights.loss:
            best = Fit(sample, frozen, model, weights, penalty, left_out)
    assert best is not None
    if len(some) < len(rows):
        best = best._replace(left_out=leave_out(support, best.model, frozen, rows))
    return best


def freeze(sample: Sample, alpha: float | None = None) -> Frozen:
    """Find how far each text is trusted, and what the frozen part is made of.

    A text is drawn to the mean of all as far as it is not trusted. In its place comes
    the mean image of its class, less that of all and as long as texts are, so that it
    has something to set against the texts of others; where no text is trusted there is
    nothing to set anything against.
    """
    support = sample.support
    text, scale = support.text, support.logit_scale
    none = torch.zeros_like(text[:, 0])
    if alpha == 0:
        # Zero-shot CLIP as it stands.
        return Frozen(text, scale, SURPRISE, none + 1, none)
    if support.text_seen:
        return Frozen(torch.zeros_like(text), scale, SURPRISE, none, none)
    logits = scale * support.features @ text.T
    trust, factor, surprise = trust_texts(logits, support.y, support.weight)
    means = sample.means.to(text.dtype)
    ways, texts = means - means.mean(dim=0), text - text.mean(dim=0)
    told = trust[:, None] * ways
    slope = (told * texts).sum() / (told * ways).sum().clamp_min(1e-9)
    share = slope.clamp(*_SLOPES) * trust.mean() * (1 - trust)
    prototypes = text.mean(dim=0) + trust[:, None] * texts + share[:, None] * ways
    return Frozen(prototypes, scale * factor, surprise, trust, share)


def _rows_to_leave_out(support: Support) -> Tensor:
    n, n_classes = len(support.y), len(support.text)
    most = min(_MOST_LEFT_OUT, max(_MOST_FOR_SCALES, _MOST_LOGITS // n_classes))
    return torch.arange(n, device=support.y.device)[:: -(-n // most)]


def leave_out(
    support: Support, model: GaussianModel, frozen: Frozen, rows: Tensor
) -> LeftOut:
    """Return what rows of the support say when they are left out, in closed form.

    Class means and covariance do not know the row. The trust in texts, of which a row
    is a part of the evidence, is kept.
    """
    F, y, weight = support.features[rows], support.y[rows], support.weight[rows]
    others = model.posterior.counts.to(weight.dtype)[y] - weight
    left_out = LeftOut(
        rows=rows,
        frozen=frozen.scale * F @ frozen.prototypes.T,
        mapped=left_out_cosines(model, support, rows),
        y=y,
        weight=weight,
        others=others,
    )
    # Without the row, the mean image of its class is that of the others, or none.
    means = model.class_means
    without = (weight / others.clamp_min(1e-9))[:, None] * (means[y] - F)
    nothing = means.mean(dim=0) - means[y]
    change = torch.where(left_out.spare[:, None], without, nothing)
    change = frozen.scale * frozen.share[y] * (F * change).sum(dim=1)
    left_out.frozen[torch.arange(len(y), device=y.device), y] += change
    return left_out


def weigh(
    left_out: LeftOut,
    sample: Sample,
    frozen: Frozen,
    alpha: float | None,
    shots: float,
    text_penalty: float,
) -> Weights:
    """Find the weights of texts and images, in the ratio that `alpha` says, if any."""
    ratio = None
    if alpha and not sample.support.text_seen:
        # b / a for logits a frozen + b mapped: the factor of the texts is in `frozen`.
        ratio = alpha * frozen.scale
    return find_weights(
        left_out,
        shots=shots,
        trust=float(frozen.trust.mean()),
        surprise=frozen.surprise,
        text_penalty=text_penalty,
        ratio=ratio,
    )


def find_levels(fit: Fit, alpha: float | None) -> Levels:
    """Find the intercepts of the classes, and of those without rows."""
    if alpha == 0:
        return Levels(torch.zeros_like(fit.frozen.trust), 0.0)
    # Without text a row that is alone in its class has nothing to say of it.
    judges = fit.left_out
    if fit.support.text_seen:
        judges = judges.some(judges.spare)
    intercept = find_intercepts(fit.logits(judges), judges.y, judges.weight)
    return Levels(intercept, _newcomer(fit, intercept))


def _newcomer(fit: Fit, intercept: Tensor) -> float:
    """Find the intercept of classes without rows."""
    # A row that is left out of a class of its own is as badly off as a newcomer's.
    spare = torch.nonzero(fit.left_out.spare)[:, 0]
    spare = spare[:: -(-len(spare) // _MOST_FOR_SCALES) or 1]
    if fit.support.text_seen or not len(spare):
        return 0.0
    some = fit.left_out.some(spare)
    F = fit.support.features[some.rows]
    texts = fit.frozen.scale * F @ fit.support.text.T
    images = newcomer_cosines(fit.model, F)
    return find_newcomer_intercept(
        fit.logits(some) + intercept,
        fit.weights.text * texts + fit.weights.image * images,
        some.y,
        some.weight,
    )


def left_out_logits(fit: Fit, levels: Levels, alpha: float | None) -> Tensor:
    """Return the logits of all rows when each is left out, of the intercepts too."""
    support, (intercept, newcomer) = fit.support, levels
    if alpha == 0:
        return support.logit_scale * support.features @ support.text.T
    rows = torch.arange(len(support.y), device=support.y.device)
    left_out = fit.left_out
    if len(left_out.rows) < len(rows):
        left_out = leave_out(support, fit.model, fit.frozen, rows)
    label, logits = left_out.y, fit.logits(left_out) + intercept
    without = without_own_say(logits, label, left_out.weight)
    if support.text_seen:
        # Rows that are alone have no say, so without one of two their class has none.
        keeps_intercept = torch.bincount(label)[label] > 2
        without = torch.where(keeps_intercept[:, None], without, logits)
    else:
        # Without a row that is alone its class is a newcomer.
        keeps_intercept = left_out.spare
    without[rows, label] += torch.where(keeps_intercept, 0, newcomer - intercept[label])
    return without
