"""What is learned on left-one-out scores: the text's share, and probabilities."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit

from skfewshot._rows import plain
from skfewshot._sklearn import warn_user
from skfewshot.multilabel._prototypes import (
    Pairs,
    label_sums,
    leave_one_out_scores,
    text_shares,
)
from skfewshot.multilabel._scoring import Scorer, blend
from skfewshot.multilabel._tokens import Support

#: The text's share of a prototype where no label has a second image to judge it by.
ONE_SHOT_SHARE = 0.6
#: The shares that are tried on left-one-out scores.
_TRIED_SHARES = tuple(np.linspace(0, 1, 11).tolist())
#: How far from the expected share a support is expected to want its own.
_SHARE_SPREAD = 0.16
#: Images by which shares are judged, at most: more would not change the choice.
_MOST_JUDGED = 300
# Nats that texts which say anything have to gain over chance.
_LEAST_GAIN = 2.0
#: Strength of the pull of a label's bias toward the shared one, in images.
_BIAS_SHRINKAGE = 4.0
# Where scores do not differ.
_LEAST_SLOPE = 1e-6
#: How far below the border between present and absent the background's logit lies.
_BACKGROUND_MARGIN = 2.0


@dataclass(frozen=True)
class Calibration:
    """One slope and one bias for all labels, and a bias of each label.

    Attributes
    ----------
    slope : float
    bias : ndarray of shape (L,)
        Shared bias plus the label's own.
    loss : float
        Mean loss on the scores it was fitted on.
    """

    slope: float
    bias: NDArray
    loss: float = float("nan")

    def logits(self, scores: NDArray) -> NDArray:
        """Return ``slope * scores + bias`` in the dtype of `scores`."""
        dtype = scores.dtype
        return scores * dtype.type(self.slope) + self.bias.astype(dtype)


def fit_sigmoid(
    scores: NDArray, labels: NDArray, weight: NDArray, counts: NDArray | None = None
) -> Calibration:
    r"""Fit :math:`p_{jl} = \sigma(a S_{jl} + b + b_l)` by maximum likelihood.

    Targets are smoothed as by Platt, so that the slope stays finite where the scores
    separate the labels. Labels with at least two images get a bias of their own,
    pulled toward the shared one by :math:`\lambda b_l^2 / 2`.

    Parameters
    ----------
    scores, labels : ndarray of shape (N, L)
    weight : ndarray of shape (N,) or (N, L)
        Of images, or of what is known of them.
    counts : ndarray of shape (L,), default=None
        Images of each label; None fits the shared bias only.

    Returns
    -------
    Calibration
    """
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    weight = _by_entry(weight, scores).astype(np.float64)
    positive, total = (weight * labels).sum(), weight.sum()
    negative = total - positive
    high, low = (positive + 1) / (positive + 2), 1 / (negative + 2)
    target = np.where(labels > 0, high, low)
    center, spread = _center_spread(scores, weight)
    unit = (scores - center) / spread
    own = np.zeros(scores.shape[1], bool) if counts is None else counts >= 2

    def objective(parameters: NDArray) -> tuple[float, NDArray]:
        offsets = np.where(own, parameters[2:], 0)
        logits = parameters[0] * unit + parameters[1] + offsets
        losses = np.logaddexp(0, logits) - target * logits
        gradient = weight * (expit(logits) - target)
        loss = (weight * losses).sum() + 0.5 * _BIAS_SHRINKAGE * (offsets**2).sum()
        of_labels = np.where(own, gradient.sum(axis=0) + _BIAS_SHRINKAGE * offsets, 0)
        shared = [(gradient * unit).sum(), gradient.sum()]
        return loss / total, np.concatenate([shared, of_labels]) / total

    common = logit(np.clip(positive / total, 1e-6, 1 - 1e-6))
    found, loss = _minimize(objective, [1, common, *np.zeros(scores.shape[1])])
    slope = max(found[0] / spread, _LEAST_SLOPE)
    bias = found[1] - slope * center + np.where(own, found[2:], 0)
    return Calibration(slope, bias, loss)


def _minimize(objective: Any, start: Any) -> tuple[NDArray, float]:
    """Return the best parameters, of which the first is a slope, and their loss."""
    # A slope below zero would call the most likely labels the least.
    bounds = [(1e-3, None)] + [(None, None)] * (len(start) - 1)
    options: dict = {"jac": True, "method": "L-BFGS-B", "tol": 1e-10}
    found = minimize(objective, start, bounds=bounds, **options)
    return found.x, float(found.fun)


def fit_softmax(scores: NDArray, labels: NDArray, weight: NDArray) -> Calibration:
    r"""Fit the slope of :math:`p_j = \mathrm{softmax}(a S_j)`, for one label an image.

    A biased coin of one row and label is added, as Platt does, so that the slope stays
    finite where the scores separate the classes.

    Parameters
    ----------
    scores, labels : ndarray of shape (N, L)
    weight : ndarray of shape (N,)

    Returns
    -------
    Calibration
        With biases of 0.
    """
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    weight = weight.astype(np.float64)[:, None]
    n_labels = scores.shape[1]
    total = weight.sum()
    target = (total * labels + 1 / n_labels) / (total + 1)
    _, spread = _center_spread(scores, np.broadcast_to(weight, scores.shape))
    unit = (scores - scores.mean(axis=1, keepdims=True)) / spread

    def objective(slope: NDArray) -> tuple[float, NDArray]:
        log_probability = log_softmax(slope[0] * unit, axis=1)
        gradient = weight * (np.exp(log_probability) - target) * unit
        loss = -(weight * target * log_probability).sum()
        return loss / total, np.array([gradient.sum()]) / total

    found, loss = _minimize(objective, [1.0])
    return Calibration(max(found[0] / spread, _LEAST_SLOPE), np.zeros(n_labels), loss)


def cardinality_threshold(
    probabilities: NDArray, labels: NDArray, weight: NDArray
) -> float:
    """Return the threshold at which as many labels are predicted as there are.

    Parameters
    ----------
    probabilities, labels : ndarray of shape (N, L)
    weight : ndarray of shape (N,) or (N, L)
        Of images, or of what is known of them.

    Returns
    -------
    float
        The predicted labels of an image number as many as its true ones on average.
    """
    weight = _by_entry(weight, labels)
    wanted = (weight * labels).sum()
    order = np.argsort(-probabilities, axis=None, kind="stable")
    sizes = weight.ravel()[order]
    values = probabilities.ravel()[order].astype(np.float64)
    n_taken = int(np.searchsorted(np.cumsum(sizes), wanted * (1 - 1e-9))) + 1
    return float(values[n_taken - 1 : n_taken + 1].mean())


def calibrate(
    scores: NDArray, support: Support, is_multilabel: bool, thresholds: NDArray | None
) -> tuple[Calibration, NDArray]:
    """Return calibration and thresholds from the scores of left-out images.

    Thresholds of None are those at which as many labels are predicted as there are.
    With one label an image there are none. Both are fitted on the same scores, so
    neither says how good the other is.
    """
    fitted = fit_calibration(scores, support, is_multilabel)
    n_labels = scores.shape[1]
    if not is_multilabel:
        return fitted, np.full(n_labels, np.nan)
    if thresholds is None:
        likely = expit(fitted.logits(scores))
        given = support.indicator, support.entry_weight
        return fitted, np.full(n_labels, cardinality_threshold(likely, *given))
    return fitted, thresholds


def fit_calibration(
    scores: NDArray, support: Support, is_multilabel: bool
) -> Calibration:
    """Return the calibration from the scores of left-out images."""
    indicator, weight = support.indicator, support.weight
    if not is_multilabel:
        return fit_softmax(scores, indicator, weight)
    return fit_sigmoid(scores, indicator, support.entry_weight, weight @ indicator)


def read_thresholds(threshold: Any, n_labels: int) -> NDArray | None:
    """Return the given thresholds, one for each label, or None if none are."""
    if isinstance(threshold, str):
        return None
    try:
        thresholds = np.asarray(plain(threshold, "threshold"), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"threshold={threshold!r} must be a number, one for each label, or "
            "'cardinality'."
        ) from error
    if thresholds.ndim > 1 or thresholds.size not in (1, n_labels):
        raise ValueError(
            f"threshold has the shape {thresholds.shape}; wanted one number, or one "
            f"for each of the {n_labels} labels."
        )
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ValueError(
            f"threshold must hold probabilities from 0 to 1; got {thresholds}."
        )
    return np.broadcast_to(thresholds, n_labels).copy()


def _by_entry(weight: NDArray, scores: NDArray) -> NDArray:
    """Return the weight of each entry of scores (N, L)."""
    return np.broadcast_to(
        weight if weight.ndim == 2 else weight[:, None], scores.shape
    )


def entry_total(support: Support, is_multilabel: bool = True) -> float:
    """Return the weight of all that is known: of entries, or of lone labels."""
    if support.known is not None:
        return float(support.entry_weight.sum())
    n_labels = support.indicator.shape[1] if is_multilabel else 1
    return float(support.weight.sum()) * n_labels


def _center_spread(scores: NDArray, weight: NDArray) -> tuple[float, float]:
    center = (weight * scores).sum() / weight.sum()
    variance = (weight * (scores - center) ** 2).sum() / weight.sum()
    # Scores that differ by rounding errors only are all the same, and say nothing.
    rounding = 1e-6 * max(1.0, abs(center))
    return center, float(np.sqrt(variance)) if variance > rounding**2 else np.inf


def choose_share(
    support: Support,
    pairs: Pairs,
    label_vectors: NDArray,
    scorer: Scorer,
    expected: float,
    extra: Pairs | None = None,
) -> float:
    r"""Choose the text's share by how well left-out images are told apart.

    Each share :math:`a` of 0, 0.1, ..., 1 is judged by the loss of left-one-out scores
    after calibration, added up over images and over the labels that have three images
    or more, plus :math:`(a - a_0)^2 / (2 \cdot 0.16^2)`: few images say little, and
    leave it near the share :math:`a_0` that is `expected`. With each image the most
    similar one of its label is left out, or else supports that show a thing twice, as
    bursts of photographs do, would trust images too much.

    Images without labels may have a part in the prototypes, as `extra`: they count
    among a label's images, and of them the half that is most similar is left out with
    each image. :math:`a_0` is then what labelled images alone have chosen, and 0.16 is
    doubled.

    Parameters
    ----------
    support : Support
        Mapped.
    pairs : Pairs
    label_vectors : ndarray of shape (L, d)
        Mapped, unit rows.
    scorer : Scorer
    expected : float
    extra : Pairs or None
    """
    _, counts = label_sums(pairs, len(label_vectors))
    n_images = np.bincount(pairs.labels, minlength=len(counts))
    n_every = n_images.copy()
    if extra is not None:
        n_every += np.bincount(extra.labels, minlength=len(counts))
    judged = n_every >= 3
    if not judged.any() or not n_images.any():
        return expected
    shares = [text_shares(a, counts, True) for a in _TRIED_SHARES]
    # Images are in an order of their own, and so the first ones are as good as any.
    support = support[:_MOST_JUDGED]
    judge = scorer.without_competition()
    scores = leave_one_out_scores(
        *(support.tokens, pairs, label_vectors, shares, judge),
        with_nearest=True,
        extra=extra,
    )
    support = support.of_labels(judged)
    truth, weight = support.indicator, support.entry_weight
    size = entry_total(support)

    def loss(found: NDArray) -> float:
        fitted = fit_sigmoid(found[:, judged], truth, weight, n_images[judged])
        return fitted.loss * size

    losses = np.array([loss(found) for found in scores])
    gain = loss(np.zeros_like(scores[0])) - losses[-1]
    if extra is None and judged.sum() >= 3 and gain < _LEAST_GAIN:
        warn_user(
            "The label vectors tell the support's images apart no better than chance. "
            "Do their rows follow classes_, and are they by the model that embedded "
            "the images? If so, label_features=None may do better."
        )
    spread = _SHARE_SPREAD if extra is None else 2 * _SHARE_SPREAD
    away = (np.array(_TRIED_SHARES) - expected) / spread
    return _TRIED_SHARES[np.argmin(losses + away**2 / 2)]


def score_left_out(
    support: Support,
    pairs: Pairs,
    label_vectors: NDArray,
    shares: NDArray,
    scorer: Scorer,
) -> tuple[Scorer, NDArray]:
    """Set the background and return the scorer and the support's left-out scores.

    The sharpness is the slope of the scores without competition, and the background's
    logit is a little below their border between present and absent.

    Returns
    -------
    scorer : Scorer
    scores : ndarray of shape (N, L)
    """

    given = support.tokens, pairs, label_vectors, [shares]
    if scorer.scoring == "competitive":
        [scores] = leave_one_out_scores(*given, scorer.without_competition())
        fitted = fit_sigmoid(scores, support.indicator, support.entry_weight)
        border = float(-fitted.bias.mean() / fitted.slope)
        level = border - _BACKGROUND_MARGIN
        scorer = replace(scorer, background=level, sharpness=fitted.slope)
    return scorer, leave_one_out_scores(*given, scorer)[0]


def spread_ratio(one: NDArray, other: NDArray, weight: NDArray) -> float:
    """Return by what to multiply the other scores for them to spread like the first."""
    weight = _by_entry(weight, one)
    wanted, given = (_center_spread(scores, weight)[1] for scores in (one, other))
    return wanted / given if np.isfinite(wanted) and np.isfinite(given) else 1.0


def choose_global_share(
    local: NDArray,
    of_whole: NDArray,
    support: Support,
    is_multilabel: bool,
    has_text: bool,
) -> float:
    """Choose how far the global feature counts beside the local ones.

    Of the shares :math:`a` of 0, 0.1, ..., 1 that which gives scores of left-out images
    the least loss after calibration, added up over images and labels, plus
    :math:`2 (a - 1/2)^2`: images that say next to nothing leave it at a half. Without
    text a label with one image has no such scores that are worth the name, and where no
    label has two the share is a half.

    Parameters
    ----------
    local, of_whole : ndarray of shape (N, L)
        Left-one-out scores, of the same spread.
    support : Support
    is_multilabel : bool
    has_text : bool
    """
    judged = has_text | ((support.indicator > 0).sum(axis=0) >= 2)
    if not judged.any():
        return 0.5
    support = support[:_MOST_JUDGED]
    if is_multilabel:
        support = support.of_labels(judged)
        local, of_whole = local[:, judged], of_whole[:, judged]
    local, of_whole = local[:_MOST_JUDGED], of_whole[:_MOST_JUDGED]
    size = entry_total(support, is_multilabel)

    def cost(share: float) -> float:
        scores = blend(local, of_whole, share)
        fitted = fit_calibration(scores, support, is_multilabel)
        return size * fitted.loss + 2 * (share - 0.5) ** 2

    return min(_TRIED_SHARES, key=cost)
