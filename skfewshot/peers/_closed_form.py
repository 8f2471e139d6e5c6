"""What closed forms share: the kernel, and trust by rows that are left out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from skfewshot._support import Support

#: Range of the weight of the fixed part.
FIXED_RANGE = (0.2, 2.0)
#: Factor round a guess of the weight of the learned part.
FACTOR = 1.5
#: Share of the weight of a row below which what its class has left is nothing.
ALONE_SHARE = 1e-3
# Entries of one block of a kernel matrix: 128 MB in single precision.
_BLOCK = 2**25
#: Beta from which on rounding errors of cosines show.
STEEP = 1e4


def exponential_kernel(F: NDArray, S: NDArray, beta: float) -> NDArray:
    """Return ``exp(-beta (1 - f s'))`` for all pairs of rows, in the dtype of `F`.

    Parameters
    ----------
    F : ndarray of shape (n, d)
    S : ndarray of shape (m, d)
    beta : float

    Returns
    -------
    ndarray of shape (n, m)
    """
    kernel = F @ S.T
    kernel -= 1
    kernel *= float(beta)
    if beta > STEEP:
        # Of a cosine that rounding leaves above 1 the exponential would overflow.
        kernel = kernel.clip(max=1.0)
    return np.exp(kernel, out=kernel)


def kernel_product(F: NDArray, S: NDArray, beta: float, values: Any) -> NDArray:
    """Return the product of the kernel with an array or sparse array, in blocks."""
    size = max(1, _BLOCK // len(S))
    blocks = range(0, len(F), size)
    parts = [exponential_kernel(F[i : i + size], S, beta) @ values for i in blocks]
    return np.concatenate(parts)


def fit_blend(
    fixed: NDArray,
    learned: NDArray,
    y: NDArray,
    weight: NDArray,
    *,
    guess: float,
    factor: float,
) -> tuple[float, float, float]:
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


def judging_rows(
    support: Support, most: int, *, left: int = 2, classes: int = 2
) -> tuple[NDArray, NDArray]:
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


def some_classes(support: Support, most: int) -> tuple[Support, NDArray]:
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
    return support.of_rows(held), classes


def least_of_others(counts: NDArray, y: NDArray) -> NDArray:
    """Return, for each label in `y`, the smallest count of the other classes."""
    least, next_least = np.argsort(counts, kind="stable")[:2]
    return np.where(y == least, counts[next_least], counts[least])


def _objective(
    weights: NDArray, fixed: NDArray, learned: NDArray, y: NDArray, share: NDArray
) -> tuple[float, NDArray]:
    """Mean cross-entropy and its gradient with respect to the two weights."""
    log_p = log_softmax(weights[0] * fixed + weights[1] * learned, axis=1)
    rows = np.arange(len(y))
    loss = -share @ log_p[rows, y]
    p = np.exp(log_p)
    gradient = [
        share @ ((p * part).sum(axis=1) - part[rows, y]) for part in (fixed, learned)
    ]
    return loss, np.array(gradient)
