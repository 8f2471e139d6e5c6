"""How far to trust two sources of logits, judged on rows that neither has seen."""

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

#: Range of the weight of the fixed part.
FIXED_RANGE = (0.2, 2.0)
#: Factors round a guess. Without texts the learned part is all there is, and its
#: weight only a temperature.
FACTORS = {"text": 1.5, "image": 30.0}


def fit_blend(fixed, learned, y, weight, *, guess, factor):
    """Find the weights of two logits that explain the labels best.

    Minimises the mean cross-entropy of ``a * fixed + b * learned``, which is convex,
    over ``a`` in `FIXED_RANGE` and ``b`` within a `factor` of `guess`. A row left out
    leaves its class fewer rows than a query will meet, and all may be right: the bounds
    keep such pessimism, and such luck, from throwing one part away.

    Parameters
    ----------
    fixed, learned : ndarrays of shape (n, C)
        Logits of rows that `learned` was not fitted on.
    y : ndarray of shape (n,)
    weight : ndarray of shape (n,)
    guess : float
        A sensible ``b``, positive.
    factor : float
        At least 1, which leaves ``b`` at `guess`.

    Returns
    -------
    a, b : float
    loss : float
        The mean cross-entropy with them.
    """
    fixed, learned = fixed.astype(np.float64), learned.astype(np.float64) * guess
    total = weight.sum(dtype=np.float64)
    share = weight.astype(np.float64) / total
    found = minimize(
        _objective,
        [1.0, 1.0],
        args=(fixed, learned, y, share),
        jac=True,
        bounds=[FIXED_RANGE, (1 / factor, factor)],
    )
    return float(found.x[0]), float(found.x[1] * guess), float(found.fun)


def judging_rows(support, most, *, left=2, classes=2):
    """Rows of the classes that can spare one, and the weight of one copy of each.

    Parameters
    ----------
    support : Support
    most : int
        At most so many rows, evenly spaced.
    left : int, default=2
        Copies of rows that have to be left in the class. By one alone, half of what a
        query will meet, no setting can be judged.
    classes : int, default=2
        Classes that have to have such rows, for there to be any.

    Returns
    -------
    rows : ndarray of int, shape (m,)
        Empty where too few classes can.
    removed : ndarray of shape (m,)
    """
    counts = np.bincount(support.y, weights=support.weight)
    removed = np.minimum(support.weight, support.copy)
    others = counts[support.y] - removed
    rows = np.flatnonzero(others > (left - 0.5) * support.copy)
    rows = rows[:: -(-len(rows) // most) or 1]
    if len(np.unique(support.y[rows])) < classes:
        rows = rows[:0]
    return rows, removed[rows]


def some_classes(support, most):
    """Take evenly spaced classes with all their rows, at most so many rows or so.

    Where two classes, the least that can be told apart, have more than twice as many,
    evenly spaced rows of them.

    Returns
    -------
    part : Support
        With `text` and class indices as they were.
    classes : ndarray of int
        The sorted classes that have rows in it.
    """
    classes = np.unique(support.y)
    step = -(-len(support.y) // most)
    classes = classes[:: min(step, len(classes) - 1) or 1]
    held = np.flatnonzero(np.isin(support.y, classes))
    if len(held) > 2 * most:
        held = held[:: len(held) // most]
    part = replace(
        support,
        features=support.features[held],
        y=support.y[held],
        weight=support.weight[held],
        copy=support.copy[held],
    )
    return part, classes


def _objective(weights, fixed, learned, y, share):
    """Mean cross-entropy and its gradient with respect to the two weights."""
    log_p = log_softmax(weights[0] * fixed + weights[1] * learned, axis=1)
    rows = np.arange(len(y))
    loss = -share @ log_p[rows, y]
    p = np.exp(log_p)
    gradient = [
        share @ ((p * part).sum(axis=1) - part[rows, y]) for part in (fixed, learned)
    ]
    return loss, np.array(gradient)
