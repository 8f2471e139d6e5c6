"""What images without labels, and entries that are not known, add to a fit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from skfewshot.multilabel._calibration import (
    Calibration,
    calibrate,
    choose_global_share,
    spread_ratio,
)
from skfewshot.multilabel._discriminant import Discriminant, fit_discriminant
from skfewshot.multilabel._prototypes import Pairs, label_sums, mix, text_shares
from skfewshot.multilabel._scoring import Scorer, blend, bytes_of_image, score
from skfewshot.multilabel._selection import Selection
from skfewshot.multilabel._tokens import Support, Tokens, blocks

#: Images of which the entry is not known that speak for a label, at most.
MOST_SUREST = 50
#: How often they are chosen: by the prototypes of what is known, then by theirs.
N_ROUNDS = 2
#: What an image without labels weighs in a discriminant.
SOFT_WEIGHT = 0.3
#: Parts of the images with labels that are left out by turns.
N_FOLDS = 5


@dataclass(frozen=True)
class Taught:
    """What the known entries taught, and how to learn more of the kind.

    Attributes
    ----------
    pairs : Pairs
        Those of the images of which something is known, numbered in their order.
    text : ndarray of shape (L, d)
        The mapped label vectors, unit rows.
    has_text : bool
    share : float
        The text's share, see :func:`~skfewshot.multilabel._prototypes.text_shares`.
    text_weight : float or None
        The share of the text in discriminants, see
        :func:`~skfewshot.multilabel._discriminant.fit_discriminant`.
    has_discriminant : bool
    scorer : Scorer or None
        None where local features are not scored.
    support : Support
        The images of which something is known, mapped.
    left_out : ndarray of shape (N, L)
        How they are scored without them, by local features or, where these are not
        scored, by discriminants.
    unit : float
        What the discriminants of what is known are multiplied by.
    is_multilabel : bool
    make_pairs : callable
        ``make_pairs(images, selection)`` gives the pairs of other images.
    """

    pairs: Pairs
    text: NDArray
    has_text: bool
    share: float
    text_weight: float | None
    has_discriminant: bool
    scorer: Scorer | None
    support: Support
    left_out: NDArray
    unit: float
    is_multilabel: bool
    make_pairs: Callable[[Support, Selection], Pairs]

    @cached_property
    def calibration(self) -> Calibration:
        """What turns such scores into log odds."""
        return _calibrated(self, self.support, self.left_out)


class Model(NamedTuple):
    """What images are scored by; None where that has no part."""

    prototypes: NDArray | None
    discriminant: Discriminant | None


class Scores(NamedTuple):
    """The scores of images (n, L) by each part of a model; None without the part."""

    local: NDArray | None
    whole: NDArray | None


@dataclass(frozen=True)
class Sharpened:
    """A model in which unknown entries have a part.

    Attributes
    ----------
    parts : tuple of str
        Which have: "prototypes", "discriminants".
    model : Model
        Discriminants in the units of the other scores.
    global_share : float or None
        The share of the discriminants; None where nothing can be left out.
    left_out : ndarray of shape (N, L) or None
        How the images of which something is known are scored without them; None
        likewise.
    judged : Support
        These images, and what of them could be left out.
    """

    parts: tuple[str, ...]
    model: Model
    global_share: float | None
    left_out: NDArray | None
    judged: Support


def sharpen(taught: Taught, images: Support) -> Sharpened | None:
    r"""Let entries that are not known have a part in what scores images.

    An entry that is not known has the probability :math:`p_{jl}` that its score gives.

    *Prototypes.* Of each label the surest images speak with their best patches, as
    images of the label do, with the weight :math:`p_{jl}`: of those of which it is not
    known whether they have it, as many as are expected to, :math:`\sum_j p_{jl}`, but
    at most :data:`MOST_SUREST`. This is done twice, the second time by the prototypes
    that the first gave. The text keeps its share.

    *Discriminants.* What is not known is fitted by :math:`p_{jl}` in the place of
    :math:`Y_{jl}`; an image of which nothing is known weighs :data:`SOFT_WEIGHT`.

    *Gate.* Images of which something is known are left out of all this by turns, a
    fifth of them at a time. Prototypes and discriminants are taken, each for itself, if
    the loss of the left-out scores after calibration is not above that without the
    unknown entries. Where nothing can be left out, as of labels with one image and no
    text, they are taken.

    Parameters
    ----------
    taught : Taught
    images : Support
        All of them, mapped.

    Returns
    -------
    Sharpened or None
        None where neither is taken.
    """
    before, after, judged = left_out_scores(taught, images)
    can_judge = bool(judged.indicator.any())
    taken = [
        not (can_judge and _loss(taught, judged, new) > _loss(taught, judged, old))
        if old is not None and new is not None
        else False
        for old, new in zip(before, after, strict=True)
    ]
    if not any(taken):
        return None
    models = learn(taught, images, np.ones(len(judged.weight), dtype=bool))
    model = Model(*_chosen(taken, *models))
    scores = Scores(*_chosen(taken, before, after))
    names = ("prototypes", "discriminants")
    parts = tuple(name for name, is_taken in zip(names, taken, strict=True) if is_taken)
    if can_judge:
        return Sharpened(parts, *_combined(taught, model, scores, judged), judged)
    if model.discriminant is not None:
        model = model._replace(discriminant=model.discriminant.times(taught.unit))
    return Sharpened(parts, model, None, None, judged)


def _combined(
    taught: Taught, model: Model, scores: Scores, judged: Support
) -> tuple[Model, float, NDArray]:
    """Return the model in one unit, the discriminants' share, and left-out scores."""
    local, whole = scores
    if whole is None or model.discriminant is None:
        assert local is not None
        return model, 0.0, local
    if local is None:
        return model, 1.0, whole
    factor = spread_ratio(local, whole, judged.entry_weight)
    whole = whole.dtype.type(factor) * whole
    known = judged, taught.is_multilabel, taught.has_text
    share = choose_global_share(local, whole, *known)
    model = model._replace(discriminant=model.discriminant.times(factor))
    return model, share, blend(local, whole, share)


def _chosen(taken: list[bool], before: tuple, after: tuple) -> list:
    triples = zip(taken, before, after, strict=True)
    return [new if is_taken else old for is_taken, old, new in triples]


def _loss(taught: Taught, judged: Support, scores: NDArray) -> float:
    """Return the mean loss of scores after calibration."""
    return _calibrated(taught, judged, scores).loss


def _calibrated(taught: Taught, support: Support, scores: NDArray) -> Calibration:
    thresholds = np.zeros(scores.shape[1])
    return calibrate(scores, support, taught.is_multilabel, thresholds)[0]


def left_out_scores(taught: Taught, images: Support) -> tuple[Scores, Scores, Support]:
    """Score the images of which something is known by what the others teach.

    Returns
    -------
    before, after : Scores
        Without and with the unknown entries.
    judged : Support
        Those images. An entry is known in it if there was something to score it by:
        without text a label needs an image that is not left out.
    """
    support = taught.support
    n_images, n_labels = support.indicator.shape
    shape = (2, n_images, n_labels)
    local, whole = (np.zeros(shape, dtype=support.weight.dtype) for _ in range(2))
    judged: NDArray = _known(support).copy()
    if n_images < 2:
        judged[:] = False
    for fold in range(min(N_FOLDS, n_images)):
        kept = np.arange(n_images) % N_FOLDS != fold
        rows = np.flatnonzero(~kept)
        if not kept.any():  # a lone image
            break
        if not taught.has_text:
            judged[rows] &= label_sums(_of_images(taught.pairs, kept), n_labels)[1] > 0
        tokens = support.tokens[rows]
        for index, model in enumerate(learn(taught, images, kept)):
            if model.prototypes is not None and taught.scorer is not None:
                given = model.prototypes, taught.scorer
                local[index, rows] = score(tokens, lambda mapped: mapped, *given)
            if model.discriminant is not None:
                whole[index, rows] = model.discriminant(tokens.whole)
    before, after = (
        Scores(
            None if taught.scorer is None else local[index],
            whole[index] if taught.has_discriminant else None,
        )
        for index in range(2)
    )
    return before, after, _judged(support, judged, taught.is_multilabel)


def _judged(support: Support, judged: NDArray, is_multilabel: bool) -> Support:
    """Return the support with what could be left out of it."""
    indicator = support.indicator * judged
    if not is_multilabel:
        # Of an only label, the others can be said too.
        lost = ~indicator.any(axis=1)
        weight = np.where(lost, 0, support.weight).astype(support.weight.dtype)
        return replace(support, indicator=indicator, weight=weight, known=None)
    known = None if judged.all() else judged
    return replace(support, indicator=indicator, known=known)


def learn(taught: Taught, images: Support, kept: NDArray) -> tuple[Model, Model]:
    """Return what images are scored by, without and with the unknown entries.

    Parameters
    ----------
    taught : Taught
    images : Support
        All of them, mapped.
    kept : ndarray of bool
        Which of the images of which something is known may teach.
    """
    has_known = _known(images).any(axis=1)
    inside = ~has_known
    inside[has_known] = kept
    images, pairs = images[inside], _of_images(taught.pairs, kept)
    before = Model(_prototypes(taught, pairs), _discriminant(taught, images))
    prototypes, discriminant = before
    for _ in range(N_ROUNDS):
        if prototypes is not None:
            extra, likely = surest_pairs(taught, images, pairs, prototypes)
            prototypes = _prototypes(taught, pairs, extra)
        elif discriminant is not None:
            likely = likelihoods(taught, discriminant(images.tokens.whole))
            discriminant = _discriminant(taught, images, likely)
    if prototypes is not None:
        discriminant = _discriminant(taught, images, likely)
    return before, Model(prototypes, discriminant)


def likelihoods(taught: Taught, scores: NDArray) -> NDArray:
    """Return the probabilities of labels, shape (n, L), by what scores left out say."""
    logits = taught.calibration.logits(scores)
    return expit(logits) if taught.is_multilabel else softmax(logits, axis=1)


def _discriminant(
    taught: Taught, images: Support, likely: NDArray | None = None
) -> Discriminant | None:
    """Fit what is known and how likely the rest is, or what is known alone."""
    if not taught.has_discriminant:
        return None
    if likely is None:
        images = images[_known(images).any(axis=1)]
        targets, weight = images.expected, images.weight
    else:
        is_soft = ~_known(images).any(axis=1)
        weight = images.weight * np.where(is_soft, SOFT_WEIGHT, 1)
        targets = np.where(_known(images), images.indicator, likely)
    text = taught.text if taught.has_text else None
    known = images.tokens.whole, targets, weight, text, taught.text_weight
    return fit_discriminant(*known)[0]


def _known(images: Support) -> NDArray:
    if images.known is None:
        return np.ones(images.indicator.shape, dtype=bool)
    return images.known


def _of_images(pairs: Pairs, kept: NDArray) -> Pairs:
    """Return the pairs of some images."""
    own = kept[pairs.images]
    fields = pairs.images, pairs.labels, pairs.vectors, pairs.weight
    return Pairs(*(field[own] for field in fields))


def _prototypes(
    taught: Taught, pairs: Pairs, extra: Pairs | None = None
) -> NDArray | None:
    """Mix the prototypes; the text has its share by the pairs of what is known."""
    if taught.scorer is None:
        return None
    n_labels = len(taught.text)
    _, counts = label_sums(pairs, n_labels)
    if extra is not None:
        # What the surest say of a label counts as one image where there is no other.
        has_extra = np.bincount(extra.labels, minlength=n_labels) > 0
        counts = np.where((counts == 0) & has_extra, counts.dtype.type(1), counts)
        pairs = _joined(pairs, extra)
    if not counts.any():
        return taught.text
    shares = text_shares(taught.share, counts, taught.has_text)
    return mix(pairs, taught.text, shares)


def _joined(one: Pairs, other: Pairs) -> Pairs:
    names = "images", "labels", "vectors", "weight"
    both = ((getattr(one, name), getattr(other, name)) for name in names)
    return Pairs(*(np.concatenate(fields) for fields in both))


def surest_pairs(
    taught: Taught, images: Support, pairs: Pairs, prototypes: NDArray
) -> tuple[Pairs, NDArray]:
    """Return what the surest images say of each label, and all probabilities.

    Parameters
    ----------
    taught : Taught
    images : Support
        Mapped.
    pairs : Pairs
        Of what is known. A label with none, and without text, has no direction, and no
        image speaks for it.
    prototypes : ndarray of shape (L, d)

    Returns
    -------
    pairs : Pairs
    likely : ndarray of shape (n, L)
    """
    scores, chosen, valid = _scores_and_best(taught, images.tokens, prototypes)
    likely = likelihoods(taught, scores)
    eligible = ~_known(images)
    if not taught.has_text:
        eligible = eligible & (label_sums(pairs, len(prototypes))[1] > 0)
    share = surest_shares(np.where(eligible, likely, 0), images.weight)
    rows, labels = np.nonzero(share)
    best = chosen[rows, :, labels], valid[rows, :, labels]
    found = taught.make_pairs(images, Selection(rows, labels, *best))
    weight = found.weight * (share * likely)[rows, labels]
    return replace(found, weight=weight.astype(found.weight.dtype)), likely


def surest_shares(likely: NDArray, weight: NDArray) -> NDArray:
    """Return how much of each image is among the surest of each label.

    Parameters
    ----------
    likely : ndarray of shape (n, L)
        Probabilities; 0 for entries that are known.
    weight : ndarray of shape (n,)
        How many images each one is.

    Returns
    -------
    ndarray of shape (n, L)
        From 0 to 1: by falling probability whole images, and a part of the last one,
        until their weights are what is expected, or :data:`MOST_SUREST`.
    """
    expected = np.minimum(weight @ likely, MOST_SUREST)
    order = np.argsort(-likely, axis=0, kind="stable")
    size = weight[order].astype(np.float64)
    before = np.cumsum(size, axis=0) - size
    part = np.clip((expected - before) / size, 0, 1)
    shares = np.empty_like(part)
    np.put_along_axis(shares, order, part, axis=0)
    return np.where(likely > 0, shares, 0)


def _scores_and_best(
    taught: Taught, tokens: Tokens, prototypes: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Return scores (n, L), and the best local features and if there are, (n, m, L)."""
    scorer = taught.scorer
    assert scorer is not None
    n_images, n_parts, n_labels = *tokens.present.shape, len(prototypes)
    n_best = min(scorer.n_top, n_parts)
    scores = np.empty((n_images, n_labels), dtype=tokens.parts.dtype)
    chosen = np.empty((n_images, n_best, n_labels), dtype=np.intp)
    valid = np.empty(chosen.shape, dtype=bool)
    for rows in blocks(n_images, bytes_of_image(tokens, n_labels)):
        part = tokens[rows]
        cosine = part.parts @ prototypes.T
        scores[rows] = scorer.pooled(part.whole @ prototypes.T, cosine, part.present)
        evidence = np.where(part.present[:, :, None], scorer.evidence(cosine), -np.inf)
        best = np.argpartition(-evidence, n_best - 1, axis=1)[:, :n_best]
        chosen[rows] = best
        valid[rows] = np.isfinite(np.take_along_axis(evidence, best, axis=1))
    return scores, chosen, valid
