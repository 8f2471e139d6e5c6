"""From scores to probabilities and decisions, learned on left-one-out scores."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit

#: Strength of the pull of a label's bias toward the shared one, in images.
_BIAS_SHRINKAGE = 4.0
# Where scores do not differ.
_LEAST_SLOPE = 1e-6
#: How far below the border between present and absent the background's logit lies.
_BACKGROUND_MARGIN = 2.0


class Calibration:
    r"""One slope and one bias for all labels, and a bias of each label.

    Attributes
    ----------
    slope : float
    bias : ndarray of shape (L,)
        Shared bias plus the label's own.
    loss : float
        Mean loss on the scores it was fitted on.
    """

    def __init__(self, slope, bias, loss=float("nan")):
        self.slope = slope
        self.bias = bias
        self.loss = loss

    def logits(self, scores):
        """Return ``slope * scores + bias`` in the dtype of `scores`."""
        dtype = scores.dtype
        return scores * dtype.type(self.slope) + self.bias.astype(dtype)

    def border(self):
        """Return the score at which the shared probability is one half."""
        return float(-self.bias.mean() / self.slope)


def fit_sigmoid(scores, labels, weight, counts=None):
    r"""Fit :math:`p_{jl} = \sigma(a S_{jl} + b + b_l)` by maximum likelihood.

    Targets are smoothed as by Platt, so that the slope stays finite where the scores
    separate the labels. Labels with at least two images get a bias of their own,
    pulled toward the shared one by :math:`\lambda b_l^2 / 2`.

    Parameters
    ----------
    scores, labels : ndarray of shape (N, L)
    weight : ndarray of shape (N,)
    counts : ndarray of shape (L,), default=None
        Images of each label; None fits the shared bias only.

    Returns
    -------
    Calibration
    """
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    weight = np.broadcast_to(weight[:, None], scores.shape).astype(np.float64)
    positive, total = (weight * labels).sum(), weight.sum()
    negative = total - positive
    high, low = (positive + 1) / (positive + 2), 1 / (negative + 2)
    target = np.where(labels > 0, high, low)
    center, spread = _center_spread(scores, weight)
    unit = (scores - center) / spread
    own = np.zeros(scores.shape[1], bool) if counts is None else counts >= 2

    def objective(parameters):
        offsets = np.where(own, parameters[2:], 0)
        logits = parameters[0] * unit + parameters[1] + offsets
        losses = np.logaddexp(0, logits) - target * logits
        gradient = weight * (expit(logits) - target)
        loss = (weight * losses).sum() + 0.5 * _BIAS_SHRINKAGE * (offsets**2).sum()
        of_labels = np.where(own, gradient.sum(axis=0) + _BIAS_SHRINKAGE * offsets, 0)
        shared = [(gradient * unit).sum(), gradient.sum()]
        return loss / total, np.concatenate([shared, of_labels]) / total

    start = np.zeros(2 + scores.shape[1])
    start[:2] = 1, logit(np.clip(positive / total, 1e-6, 1 - 1e-6))
    # A slope below zero would call the most likely labels the least.
    bounds = [(1e-3, None)] + [(None, None)] * (len(start) - 1)
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-10
    )
    slope = max(found.x[0] / spread, _LEAST_SLOPE)
    bias = found.x[1] - slope * center + np.where(own, found.x[2:], 0)
    return Calibration(slope, bias, float(found.fun))


def fit_softmax(scores, labels, weight):
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

    def objective(slope):
        log_probability = log_softmax(slope[0] * unit, axis=1)
        gradient = weight * (np.exp(log_probability) - target) * unit
        loss = -(weight * target * log_probability).sum()
        return loss / total, np.array([gradient.sum()]) / total

    found = minimize(
        objective, [1.0], jac=True, method="L-BFGS-B", bounds=[(1e-3, None)], tol=1e-10
    )
    slope = max(found.x[0] / spread, _LEAST_SLOPE)
    return Calibration(slope, np.zeros(n_labels), float(found.fun))


def background_level(calibration):
    """Return the background's logit: a little below the border of the plain scores."""
    return calibration.border() - _BACKGROUND_MARGIN


def cardinality_threshold(probabilities, labels, weight):
    """Return the threshold at which as many labels are predicted as there are.

    Parameters
    ----------
    probabilities, labels : ndarray of shape (N, L)
    weight : ndarray of shape (N,)

    Returns
    -------
    float
        The predicted labels of an image number as many as its true ones on average.
    """
    wanted = (weight[:, None] * labels).sum()
    order = np.argsort(-probabilities, axis=None, kind="stable")
    sizes = np.broadcast_to(weight[:, None], labels.shape).ravel()[order]
    values = probabilities.ravel()[order].astype(np.float64)
    n_taken = int(np.searchsorted(np.cumsum(sizes), wanted * (1 - 1e-9))) + 1
    if n_taken >= len(values):
        return float(values[-1])
    return float((values[n_taken - 1] + values[n_taken]) / 2)


def _center_spread(scores, weight):
    center = (weight * scores).sum() / weight.sum()
    variance = (weight * (scores - center) ** 2).sum() / weight.sum()
    # Scores that differ by rounding errors only are all the same, and say nothing.
    rounding = 1e-6 * max(1.0, abs(center))
    return center, np.sqrt(variance) if variance > rounding**2 else np.inf
