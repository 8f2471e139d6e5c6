"""The scale of cosines between images, where there are no texts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax

from skfewshot._rows import row_order, sum_rows, unit_rows

#: What the scale times the spread of the class means is expected to be: the best guess
#: for one row a class, chosen on validation rows of DTD-47, Pets-25 and AID-30.
EXPECTED = 7.0
# How far, in logarithms, rows left out may say otherwise, and bounds in those units.
_SURPRISE, _MOST_MOVE = 0.5, 10.0
# Parts into which the rows of a class are split, and rows that are judged, at most.
_N_FOLDS, _MOST_ROWS = 5, 1024


def spread_of(means: NDArray) -> float:
    """Return one less the mean cosine between the unit-norm means of two classes.

    It is positive also where all means are one.
    """
    total = means.sum(axis=0, dtype=np.float64)
    n_classes = len(means)
    norms = np.square(means, dtype=np.float64).sum()
    cosine = (total @ total - norms) / (n_classes * (n_classes - 1))
    return float(max(1 - cosine, 1e-6))


def margin_of(logits: NDArray, y: NDArray, weight: NDArray) -> float:
    """Return by how much the logit of the true class is above the others, in the mean.

    Parameters
    ----------
    logits : ndarray of shape (n, C)
    y : ndarray of int, shape (n,)
    weight : ndarray of shape (n,)

    Returns
    -------
    float
        Positive also where the logits tell nothing apart.
    """
    own = logits[np.arange(len(y)), y]
    others = (logits.sum(axis=1) - own) / (logits.shape[1] - 1)
    least = max(1e-6 * float(np.abs(logits).max()), 1e-30)
    return max(float(np.average(own - others, weights=weight)), least)


def image_scale(
    features: NDArray, y: NDArray, weight: NDArray, means: NDArray
) -> float:
    r"""Return the scale of cosines to class means, for probabilities that are true.

    Encoders are trained to a scale for images against texts. Cosines of images to each
    other spread by other amounts, and one by one they say little. The scale is
    :math:`k / V` with the spread :math:`V`, one less the mean cosine between the
    class means, which undoes how wide the encoder's cone is.

    With one row a class :math:`k = 7`. Else the rows of each class are split into up to
    five parts, each of which is left out in turn of all classes at once, so that no
    class has more rows than the others because of it; :math:`k` maximises the
    likelihood of the left-out rows times a log-normal prior about 7 of width 0.5.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Different unit rows in an order of their own. Copies of a row must be merged: of
        a row whose copy is in the class mean, nothing is to be learned.
    y : ndarray of int, shape (n,)
        Class indices in ``[0, n_classes)``, each with rows.
    weight : ndarray of shape (n,)
    means : ndarray of shape (n_classes, d)
        The unit-norm class means.

    Returns
    -------
    float
    """
    # Whatever the classes are called, sums have one order.
    order = row_order(means)
    means, y = means[order], np.argsort(order)[y]
    scores, truth, judges = fold_cosines(features, y, weight, len(means))
    factor, _ = likely_scale(scores, truth, judges, guess=EXPECTED)
    return factor / spread_of(means)


def likely_scale(
    scores: NDArray, y: NDArray, weight: NDArray, *, guess: float, fixed: Any = 0.0
) -> tuple[float, float]:
    """Find the factor of scores that explains the labels best, near a guess.

    It maximises the likelihood of ``fixed + factor * scores`` times a log-normal prior
    about the guess, of width 0.5: a few rows, all of them right or all of them wrong,
    would throw it to an end.

    Parameters
    ----------
    scores : ndarray of shape (n, C)
        Of rows that they do not know.
    y : ndarray of int, shape (n,)
    weight : ndarray of shape (n,)
    guess : float
        Positive. Without rows it is the answer.
    fixed : ndarray of shape (n, C) or float, default=0.0
        Logits that are there anyway.

    Returns
    -------
    factor : float
    loss : float
        Minus the logarithm of likelihood times prior.
    """
    if not len(y):
        return guess, 0.0
    rows, scores = np.arange(len(y)), guess * scores.astype(np.float64)
    share = weight.astype(np.float64)

    def log_p(move: float) -> NDArray:
        logits = fixed + np.exp(_SURPRISE * move) * scores
        return log_softmax(logits, axis=1)

    def slope(move: float) -> float:
        p = np.exp(log_p(move))
        gain = scores[rows, y] - (p * scores).sum(axis=1)
        return float(move - _SURPRISE * np.exp(_SURPRISE * move) * (share @ gain))

    # A root, not a minimum: it is found to the last digits, whatever the order.
    if slope(_MOST_MOVE) <= 0:
        move = _MOST_MOVE
    elif slope(-_MOST_MOVE) >= 0:
        move = -_MOST_MOVE
    else:
        move = brentq(slope, -_MOST_MOVE, _MOST_MOVE, xtol=1e-14)
    loss = move**2 / 2 - share @ log_p(move)[rows, y]
    return float(guess * np.exp(_SURPRISE * move)), float(loss)


def fold_cosines(
    features: NDArray, y: NDArray, weight: NDArray, n_classes: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Cosines of rows to class means without them, over the spread of those means.

    Parameters
    ----------
    features, y, weight
        As `image_scale` has them.
    n_classes : int

    Returns
    -------
    scores : ndarray of shape (m, n_classes), float64
        Of the rows of classes that have others, evenly spaced where there are many.
    y : ndarray of int, shape (m,)
    weight : ndarray of shape (m,)
    """
    counts = np.bincount(y, minlength=n_classes)
    fold = np.empty(len(y), dtype=int)
    # The place of each row in its class, in an order that no last bit changes: by how
    # near it is to the mean of all.
    order = np.lexsort((features.astype(float) @ features.mean(axis=0, dtype=float), y))
    fold[order] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    fold %= _N_FOLDS
    # Rows that are alone in their class are in a part that is never left out.
    fold[counts[y] == 1] = _N_FOLDS
    judged = [np.flatnonzero(fold == out) for out in range(_N_FOLDS)]
    step = -(-sum(map(len, judged)) // _MOST_ROWS) or 1
    judged = [rows[::step] for rows in judged if len(rows)]
    if not judged:
        return np.empty((0, n_classes)), y[:0], weight[:0].astype(float)
    # Sums of the parts are added, not taken from the whole, in which rows of great
    # weight may have left nothing of the others.
    weighted = features * weight.astype(features.dtype)[:, None]
    slots = fold * n_classes + y
    sums = sum_rows(weighted, slots, (_N_FOLDS + 1) * n_classes)
    sums = sums.reshape(_N_FOLDS + 1, n_classes, -1)
    scores = []
    for out, rows in enumerate(judged):
        means = unit_rows(np.delete(sums, out, axis=0).sum(axis=0))
        scores.append((features[rows] @ means.T).astype(float) / spread_of(means))
    chosen = np.concatenate(judged)
    return np.concatenate(scores), y[chosen], weight[chosen].astype(float)
