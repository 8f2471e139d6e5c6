"""Orders of rows, and merged copies: what makes a fit independent of both."""

import numpy as np
from scipy.sparse.csgraph import connected_components

from skfewshot.text import unit_rows


def merge_rows(features, y, weight):
    """Add up the weights of equal rows, and put the rows in an order of their own.

    Sums depend on the order of their terms by a rounding error, which the many steps
    of a solver can make large. In one order, and with copies merged, neither the order
    of the support nor the choice between a copy and a double weight makes any.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
        Class indices.
    weight : ndarray of shape (n,)

    Returns
    -------
    features, y, weight : ndarrays of shapes (m, n_features), (m,) and (m,)
        The m <= n different rows.
    """
    first, total = distinct_rows(
        np.column_stack([features, y.astype(features.dtype)]), weight
    )
    return features[first], y[first], total


def distinct_rows(rows, weight):
    """Return where each different row is first found, in their order, and its weight.

    Parameters
    ----------
    rows : ndarray of shape (n, m)
    weight : ndarray of shape (n,)

    Returns
    -------
    first : ndarray of int, shape (n_distinct,)
    total : ndarray of shape (n_distinct,)
        The added weights of the copies.
    """
    first, inverse = find_copies(rows)
    return first, np.bincount(inverse, weights=weight).astype(weight.dtype)


def find_copies(rows):
    """Return where each different row is first found, and which one each row is."""
    _, first, inverse = np.unique(_row_bytes(rows), True, True)
    return first, inverse


def row_order(rows):
    """Return the permutation that sorts rows, by their bytes: any order will do."""
    return np.argsort(_row_bytes(rows), kind="stable")


def _row_bytes(rows):
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]


def merge_near_copies(features, y, weight, *, cosine, most=512):
    """Put a mean in the place of rows of a class that show nearly the same.

    Leaving one of them out would leave its likeness in. Rows are alike directly or
    through others that are.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Unit rows.
    y : ndarray of shape (n,)
        Class indices.
    weight : ndarray of shape (n,)
    cosine : float
        From which on two rows are alike.
    most : int, default=512
        Classes of more rows are left as they are: in them a copy matters little.

    Returns
    -------
    features, y, weight : ndarrays of shapes (m, n_features), (m,) and (m,)
        Unit rows, in the order of the first row of each; weights add up.
    """
    group = find_near_copies(features, y, cosine=cosine, most=most)
    if (group == np.arange(len(y))).all():
        return features, y, weight
    kept, index = np.unique(group, return_inverse=True)
    sums = np.zeros((len(kept), features.shape[1]), features.dtype)
    np.add.at(sums, index, weight[:, None] * features)
    total = np.bincount(index, weights=weight).astype(weight.dtype)
    return unit_rows(sums), y[kept], total


def find_near_copies(features, y, *, cosine, most=512):
    """Return the index of the first row that is alike, for each row.

    The parameters are those of :func:`merge_near_copies`.
    """
    group = np.arange(len(y))
    order = np.argsort(y, kind="stable")
    ends = np.cumsum(np.bincount(y))
    for rows in np.split(order, ends[:-1]):
        if not 1 < len(rows) <= most:
            continue
        alike = features[rows] @ features[rows].T > cosine
        if alike.sum() > len(rows):
            _, label = connected_components(alike, directed=False)
            _, first = np.unique(label, return_index=True)
            group[rows] = rows[first[label]]
    return group
