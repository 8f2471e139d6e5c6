"""What rows without a label say beside the texts, where there are no others."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

# Chosen on rows of `val` of DTD, Pets and Caltech, one set for all.
_ROUNDS = 3
#: Rows that a class's text is worth in its mean.
_TEXT_ROWS = 4.0
#: Rows a class at which what images say has half of its weight.
_ROWS = 6.0
# Added to the rows of each class in their harmonic mean.
_SPARE = 2.0
#: Share of the usual certainty below which a row is taken for one of no class.
_UNSURE = 0.7
# Of the shares of classes: how far they stay equal, and how often they are found.
_EQUAL = 0.5
_SHARE_ROUNDS = 10
# Entries of unit rows below which class means are the same.
_LEAST_APART = 1e-6
# Logarithm of the most that logits are scaled by in the end.
_MOST_HEAT = 2.0
# Rows of which double precision copies are made at a time.
_BLOCK = 8192


class Correction(NamedTuple):
    """Logits that are added to zero-shot ones, linear in unit rows.

    Attributes
    ----------
    coef : ndarray of shape (C, d)
    intercept : ndarray of shape (C,)
    shares : ndarray of shape (C,)
        How many of the rows are of each class; adds up to 1.
    """

    coef: NDArray
    intercept: NDArray
    shares: NDArray

    def logits(self, rows: NDArray) -> NDArray:
        """Return the logits of rows."""
        return rows @ self.coef.T + self.intercept


def correct_texts(
    rows: NDArray, weight: NDArray, text: NDArray, logit_scale: float
) -> Correction:
    r"""Find class means and a covariance of rows without labels, by their texts.

    Expectation-maximisation: responsibilities :math:`r` are the softmax of all logits
    and of the logarithms of the shares; they are multiplied by :math:`w` times
    :math:`\min(1, q / (0.7 \bar q))^2` for the zero-shot certainty *q* of a row. Class
    means are :math:`\mu_c = (\sum r f + 4 (m + g (t_c - \bar t))) / (n_c + 4)`, with
    *m* and *g* by least squares, the covariance is shrunk to a sphere by
    :math:`1 / (1 + n / d)`, and the new logits are those of Gaussian discriminants less
    what the error of a mean makes of them, :math:`P n_c / 2 (n_c + 4)^2`. These are as
    wide as the zero-shot ones, times :math:`\bar n^2 / (\bar n^2 + 36)` for
    a harmonic mean of :math:`\bar n` rows a class. The sum is scaled until the
    mean certainty is :math:`q + q (q' - q)` in the place of :math:`q'`.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Unit rows, n from 1 on.
    weight : ndarray of shape (n,)
        Positive.
    text : ndarray of shape (C, d)
        Unit texts.
    logit_scale : float

    Returns
    -------
    Correction
        In double precision; zeros where nothing can be told.
    """
    weight, text = weight.astype(float), text.astype(float)
    fixed = logit_scale * (rows @ text.T.astype(rows.dtype)).astype(float)
    sure = softmax(fixed, axis=1).max(axis=1)
    usual = _UNSURE * np.average(sure, weights=weight)
    weight = weight * np.minimum(1, sure / usual) ** 2
    found = Correction(
        np.zeros_like(text), np.zeros(len(text)), np.full(len(text), 1 / len(text))
    )
    for _ in range(_ROUNDS):
        logits = fixed + found.logits(rows)
        shares = find_shares(logits, weight)
        responsible = softmax(logits + np.log(shares), axis=1)
        top = responsible.argmax(axis=1)
        responsible *= weight[:, None]
        means, coef, intercept = _discriminants(rows, responsible, text)
        learned = Correction(coef, intercept, shares)
        spread = wrong_spread(learned.logits(rows), top, weight)
        # Of rows that are all alike, means differ by rounding errors.
        if not spread > 0 or np.ptp(means, axis=0).max() < _LEAST_APART:
            break
        per_class = _harmonic_mean(responsible.sum(axis=0))
        size = per_class**2 / (per_class**2 + _ROWS**2)
        size *= wrong_spread(fixed, top, weight) / spread
        found = Correction(size * coef, size * intercept, shares)
    logits = fixed + found.logits(rows)
    # What images add is as right as the labels are that they were given.
    before, after = certainty(fixed, weight), certainty(logits, weight)
    heat = find_heat(logits, weight, before + before * (after - before))
    coef = heat * found.coef + (heat - 1) * logit_scale * text
    return Correction(coef, heat * found.intercept, found.shares)


def certainty(logits: NDArray, weight: NDArray, heat: float = 1.0) -> float:
    """Return the mean of the largest probabilities, for logits times `heat`."""
    return float(np.average(softmax(heat * logits, axis=1).max(axis=1), weights=weight))


def find_heat(logits: NDArray, weight: NDArray, wanted: float) -> float:
    """Return the factor of logits at which their mean certainty is the wanted one."""

    def excess(log_heat: float) -> float:
        return certainty(logits, weight, np.exp(log_heat)) - wanted

    if not excess(-_MOST_HEAT) < 0 < excess(_MOST_HEAT):
        return 1.0
    return float(np.exp(brentq(excess, -_MOST_HEAT, _MOST_HEAT, xtol=1e-6)))


def find_shares(logits: NDArray, weight: NDArray) -> NDArray:
    """Return the shares of classes among rows, half way to equal ones.

    Parameters
    ----------
    logits : ndarray of shape (n, C)
        Of classes of equal shares.
    weight : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (C,)
    """
    n_classes = logits.shape[1]
    shares = np.full(n_classes, 1 / n_classes)
    likelihood = np.exp(log_softmax(logits, axis=1))
    for _ in range(_SHARE_ROUNDS):
        joint = likelihood * shares
        counts = (weight / joint.sum(axis=1)) @ joint
        shares = _EQUAL / n_classes + (1 - _EQUAL) * counts / weight.sum()
    return shares


def wrong_spread(scores: NDArray, top: NDArray, weight: NDArray) -> float:
    """Return the mean standard deviation of the scores of all classes but the top one.

    Of two classes, one of which is left, half of the difference.

    Parameters
    ----------
    scores : ndarray of shape (n, C)
    top : ndarray of int, shape (n,)
    weight : ndarray of shape (n,)
    """
    n, n_classes = scores.shape
    if n_classes > 2:
        wrong = np.ones(scores.shape, dtype=bool)
        wrong[np.arange(n), top] = False
        scores = scores[wrong].reshape(n, -1)
    return float(np.average(scores.std(axis=1), weights=weight))


def _harmonic_mean(counts: NDArray) -> float:
    """Return the mean of rows a class that those with few of them decide.

    Where some classes have many and others none, means that follow rows win against
    those that do not, whatever the image.
    """
    return float(1 / np.mean(1 / (counts + _SPARE)) - _SPARE)


def _discriminants(
    rows: NDArray, responsible: NDArray, text: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Return means, coefficients and intercepts of classes of one covariance."""
    d = rows.shape[1]
    sums, scatter = np.zeros_like(text), np.zeros((d, d))
    for i in range(0, len(rows), _BLOCK):
        block = rows[i : i + _BLOCK].astype(float)
        part = responsible[i : i + _BLOCK]
        sums += part.T @ block
        scatter += (block * part.sum(axis=1)[:, None]).T @ block
    counts = responsible.sum(axis=0)
    means = _means(sums, counts, text)
    # The scatter about the means, which are not quite those of the rows.
    across = sums.T @ means
    scatter += (means * counts[:, None]).T @ means - across - across.T
    total = counts.sum()
    shrinkage = 1 / (1 + total / d)
    covariance = scatter * ((1 - shrinkage) / total)
    variance = max(np.trace(scatter) / total / d, 1e-12)
    covariance[np.diag_indices(d)] += shrinkage * variance
    coef = np.linalg.solve(covariance, means.T).T
    error = d / 2 * counts / (counts + _TEXT_ROWS) ** 2
    return means, coef, error - (coef * means).sum(axis=1) / 2


def _means(sums: NDArray, counts: NDArray, text: NDArray) -> NDArray:
    """Return class means, each drawn to where the others say that its text is."""
    share = counts / (counts + _TEXT_ROWS)
    means = sums / np.maximum(counts, 1e-300)[:, None]
    centre = np.average(means, axis=0, weights=share)
    apart = text - np.average(text, axis=0, weights=share)
    size = (share[:, None] * apart**2).sum()
    slope = (share[:, None] * (means - centre) * apart).sum()
    slope = max(slope / size, 0.0) if size > 0 else 0.0
    expected = centre + slope * apart
    return (sums + _TEXT_ROWS * expected) / (counts + _TEXT_ROWS)[:, None]
