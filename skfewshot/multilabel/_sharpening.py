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
    choose_share,
    fit_calibration,
)
from skfewshot.multilabel._prototypes import (
    Pairs,
    joined,
    label_sums,
    mix,
    nearest_of_label,
    text_shares,
)
from skfewshot.multilabel._scoring import Scorer, bytes_of_image, pool_top, score
from skfewshot.multilabel._selection import Selection
from skfewshot.multilabel._tokens import Support, Tokens, blocks

#: Images of which the entry is not known that speak for a label, at most.
MOST_SUREST = 50
#: How often they are chosen: by the prototypes of what is known, then by theirs.
N_ROUNDS = 2
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
    has_choice : bool
        Whether the share is to be found, and not given.
    scorer : Scorer
        By which labels compete for local features. Without competition, the surest
        features of a label would be those that show any.
    support : Support
        The images of which something is known, mapped.
    left_out : ndarray of shape (N, L)
        How they are scored without them, by local features.
    is_multilabel : bool
    make_pairs : callable
        ``make_pairs(images, selection)`` gives the pairs of other images.
    """

    pairs: Pairs
    text: NDArray
    has_text: bool
    share: float
    has_choice: bool
    scorer: Scorer
    support: Support
    left_out: NDArray
    is_multilabel: bool
    make_pairs: Callable[[Support, Selection], Pairs]

    @cached_property
    def calibration(self) -> Calibration:
        """What turns such scores into log odds."""
        return fit_calibration(self.left_out, self.support, self.is_multilabel)


class Sharpened(NamedTuple):
    """Prototypes in which unknown entries have a part.

    Attributes
    ----------
    prototypes : ndarray of shape (L, d)
    share : float
        The text's share in them.
    left_out : ndarray of shape (N, L) or None
        How the images of which something is known are scored without them; None where
        too little can be left out.
    judged : Support
        These images, and what of them could be left out.
    """

    prototypes: NDArray
    share: float
    left_out: NDArray | None
    judged: Support


def sharpen(taught: Taught, images: Support) -> Sharpened | None:
    r"""Let entries that are not known have a part in prototypes.

    An entry that is not known has the probability :math:`p_{jl}` that its score gives.
    Of each label the surest images speak with their best patches, as images of the
    label do, with the weight :math:`p_{jl}`: of those of which it is not known whether
    they have it, as many as are expected to, :math:`\sum_j p_{jl}`, but at most
    :data:`MOST_SUREST`. This is done twice, the second time by the prototypes that the
    first gave.

    With so many images a prototype needs less of its text, unless these show the same
    few things again and again. The text's share is chosen anew, see
    :func:`~skfewshot.multilabel._calibration.choose_share`, by images of which
    something is known, each left out together with the half of the surest images that
    is most similar to it.

    The images of which something is known are left out of this by turns, a fifth of
    them at a time, and with each the most similar image of its label, as supports that
    show a thing twice would trust in images that are known. The prototypes are taken if
    the loss of the left-out scores after calibration is not above that without the
    unknown entries. Where less than half of the labels can be judged, as those of a
    lone image without text, they are taken.

    Parameters
    ----------
    taught : Taught
    images : Support
        All of them, mapped.

    Returns
    -------
    Sharpened or None
        None where they are not taken.
    """
    share = sharpened_share(taught, images)
    before, after, judged = left_out_scores(taught, images, share, with_nearest=True)
    if _can_judge(judged) and not _is_better(taught, judged, before, after):
        return None
    everything = np.ones(len(judged.weight), bool), taught.pairs
    prototypes = learn(taught, images, share, *everything)[1]
    _, left_out, judged = left_out_scores(taught, images, share)
    known = left_out if _can_judge(judged) else None
    return Sharpened(prototypes, share, known, judged)


def sharpened_share(taught: Taught, images: Support) -> float:
    """Return the text's share in prototypes in which the surest images have a part.

    Parameters
    ----------
    taught : Taught
    images : Support
        All of them, mapped.
    """
    if not (taught.has_text and taught.has_choice):
        return taught.share
    prototypes = _prototypes(taught, taught.pairs)
    extra = surest_pairs(taught, images, taught.pairs, prototypes)
    given = taught.support, taught.pairs, taught.text, taught.scorer, taught.share
    return choose_share(*given, extra)


def _can_judge(judged: Support) -> bool:
    """Say whether at least half of the labels have an image that could be left out."""
    return bool(2 * judged.indicator.any(axis=0).sum() >= judged.indicator.shape[1])


def _is_better(taught: Taught, judged: Support, old: NDArray, new: NDArray) -> bool:
    """Say whether the loss of new scores after calibration is not above the old one."""
    before, after = (
        fit_calibration(scores, judged, taught.is_multilabel).loss
        for scores in (old, new)
    )
    return bool(after <= before)


def left_out_scores(
    taught: Taught, images: Support, share: float, with_nearest: bool = False
) -> tuple[NDArray, NDArray, Support]:
    """Score the images of which something is known by what the others teach.

    Parameters
    ----------
    taught : Taught
    images : Support
        All of them, mapped.
    share : float
        The text's, with the unknown entries.
    with_nearest : bool, default=False
        Whether to leave out of prototypes, with an image, the most similar other one of
        each of its labels.

    Returns
    -------
    before, after : ndarrays of shape (N, L)
        Without and with the unknown entries.
    judged : Support
        Those images. An entry is known in it if there was something to score it by:
        without text a label needs an image that is not left out.
    """
    support = taught.support
    n_images, n_labels = support.indicator.shape
    scores = np.zeros((2, n_images, n_labels), dtype=support.weight.dtype)
    judged: NDArray = _known(support).copy()
    if n_images < 2:
        judged[:] = False
    place = _places(support.tokens.whole)
    for fold in range(min(N_FOLDS, n_images)):
        kept = place % N_FOLDS != fold
        rows = np.flatnonzero(~kept)
        if not kept.any():  # a lone image
            break
        pairs = _without(taught.pairs, ~kept, with_nearest)
        if not taught.has_text:
            judged[rows] &= label_sums(pairs, n_labels)[1] > 0
        tokens = support.tokens[rows]
        for index, prototypes in enumerate(learn(taught, images, share, kept, pairs)):
            given = prototypes, taught.scorer
            scores[index, rows] = score(tokens, lambda mapped: mapped, *given)
    before, after = scores
    return before, after, _judged(support, judged, taught.is_multilabel)


def _places(features: NDArray) -> NDArray:
    """Return the place of each image in an order that labels have no part in."""
    place = np.empty(len(features), dtype=np.intp)
    place[np.lexsort(features.T[::-1])] = np.arange(len(features))
    return place


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


def _without(pairs: Pairs, left_out: NDArray, with_nearest: bool = False) -> Pairs:
    """Return the pairs of other images than those left out, (N,)."""
    dropped: NDArray = left_out[pairs.images]
    if with_nearest:
        nearest = nearest_of_label(pairs)[dropped]
        dropped[nearest[nearest >= 0]] = True
    fields = pairs.images, pairs.labels, pairs.vectors, pairs.weight
    return Pairs(*(field[~dropped] for field in fields))


def learn(
    taught: Taught, images: Support, share: float, kept: NDArray, pairs: Pairs
) -> tuple[NDArray, NDArray]:
    """Return the prototypes without and with the unknown entries, shape (L, d).

    Parameters
    ----------
    taught : Taught
    images : Support
        All of them, mapped.
    share : float
        The text's, with the unknown entries.
    kept : ndarray of bool
        Which of the images of which something is known may teach.
    pairs : Pairs
        What these say of their labels.
    """
    has_known = _known(images).any(axis=1)
    inside = np.ones(len(images.weight), dtype=bool)
    inside[has_known] = kept
    images = images[inside]
    before = after = _prototypes(taught, pairs)
    sharpened = replace(taught, share=share)
    for _ in range(N_ROUNDS):
        extra = surest_pairs(taught, images, pairs, after)
        after = _prototypes(sharpened, pairs, extra)
    return before, after


def likelihoods(taught: Taught, scores: NDArray) -> NDArray:
    """Return the probabilities of labels, shape (n, L), by what scores left out say."""
    logits = taught.calibration.logits(scores)
    return expit(logits) if taught.is_multilabel else softmax(logits, axis=1)


def _known(images: Support) -> NDArray:
    if images.known is None:
        return np.ones(images.indicator.shape, dtype=bool)
    return images.known


def _prototypes(taught: Taught, pairs: Pairs, extra: Pairs | None = None) -> NDArray:
    """Mix the prototypes; the text has its share by the pairs of what is known."""
    n_labels = len(taught.text)
    _, counts = label_sums(pairs, n_labels)
    if extra is not None:
        # What the surest say of a label counts as one image where there is no other.
        has_extra = np.bincount(extra.labels, minlength=n_labels) > 0
        counts = np.where((counts == 0) & has_extra, counts.dtype.type(1), counts)
        pairs = joined(pairs, extra)
    if not counts.any():
        return taught.text
    shares = text_shares(taught.share, counts, taught.has_text)
    return mix(pairs, taught.text, shares)


def surest_pairs(
    taught: Taught, images: Support, pairs: Pairs, prototypes: NDArray
) -> Pairs:
    """Return what the surest images say of each label.

    Parameters
    ----------
    taught : Taught
    images : Support
        Mapped.
    pairs : Pairs
        Of what is known. A label with none, and without text, has no direction, and no
        image speaks for it.
    prototypes : ndarray of shape (L, d)
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
    return replace(found, weight=weight.astype(found.weight.dtype))


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
    n_images, n_parts, n_labels = *tokens.present.shape, len(prototypes)
    n_best = min(scorer.n_top, n_parts)
    scores = np.empty((n_images, n_labels), dtype=tokens.parts.dtype)
    chosen = np.empty((n_images, n_best, n_labels), dtype=np.intp)
    valid = np.empty(chosen.shape, dtype=bool)
    for rows in blocks(n_images, bytes_of_image(tokens, n_labels)):
        part = tokens[rows]
        evidence = scorer.evidence(part.parts @ prototypes.T)
        scores[rows] = pool_top(evidence, part.present, scorer.n_top)
        evidence = np.where(part.present[:, :, None], evidence, -np.inf)
        best = np.argpartition(-evidence, n_best - 1, axis=1)[:, :n_best]
        chosen[rows] = best
        valid[rows] = np.isfinite(np.take_along_axis(evidence, best, axis=1))
    return scores, chosen, valid
