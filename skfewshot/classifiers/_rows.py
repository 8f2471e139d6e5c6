"""Orders of rows, and merged copies: what makes a fit independent of both."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skfewshot._rows import as_numpy, like, sum_rows, unit_rows, with_column
from skfewshot._torch import is_tensor

# Entries of one block of rows and cosines that are looked through on a device.
_MOST_ON_DEVICE = 2**25


def merge_rows(features, y, weight):
    """Add up the weights of equal rows, and put the rows in an order of their own.

    Sums depend on the order of their terms by a rounding error, which the many steps
    of a solver can make large. In one order, and with copies merged, neither the order
    of the support nor the choice between a copy and a double weight makes any.

    Parameters
    ----------
    features : ndarray or tensor of shape (n, n_features)
    y : ndarray of shape (n,)
        Class indices.
    weight : ndarray of shape (n,)

    Returns
    -------
    features, y, weight : arrays of shapes (m, n_features), (m,) and (m,)
        The m <= n different rows, of the types given.
    """
    first, total = distinct_rows(with_column(features, y), weight)
    return features[first], y[first], total


def distinct_rows(rows, weight):
    """Return where each different row is first found, in their order, and its weight.

    Parameters
    ----------
    rows : ndarray or tensor of shape (n, m)
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
    if is_tensor(rows):
        import torch

        _, inverse = torch.unique(rows, dim=0, return_inverse=True)
        inverse = as_numpy(inverse)
        _, first = np.unique(inverse, return_index=True)
        return first, inverse
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
    features : ndarray or tensor of shape (n, n_features)
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
    features, y, weight : arrays of shapes (m, n_features), (m,) and (m,)
        Unit rows, in the order of the first row of each; weights add up.
    """
    group = find_near_copies(features, y, cosine=cosine, most=most)
    if (group == np.arange(len(y))).all():
        return features, y, weight
    kept, index = np.unique(group, return_inverse=True)
    sums = sum_rows(like(weight, features)[:, None] * features, index, len(kept))
    total = np.bincount(index, weights=weight).astype(weight.dtype)
    return unit_rows(sums), y[kept], total


def find_near_copies(features, y, *, cosine, most=512):
    """Return the index of the first row that is alike, for each row.

    The parameters are those of :func:`merge_near_copies`.
    """
    if is_tensor(features):
        return _near_copies_on_device(features, y, cosine, most)
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


def _near_copies_on_device(features, y, cosine, most):
    """`find_near_copies` for a tensor: many classes at a time, and one look at each."""
    import torch

    order, counts = np.argsort(y, kind="stable"), np.bincount(y)
    starts = np.cumsum(counts) - counts
    classes = np.flatnonzero((counts > 1) & (counts <= most))
    # Classes of like size beside each other, as the shorter ones are filled up.
    classes = classes[np.argsort(counts[classes], kind="stable")]
    width = counts[classes].max(initial=1)
    size = max(1, _MOST_ON_DEVICE // (width * (features.shape[1] + width)))
    pairs = [np.empty((0, 2), dtype=int)]
    for batch in np.split(classes, range(size, len(classes), size)):
        place = np.arange(counts[batch].max(initial=1))
        filled = place < counts[batch][:, None]
        rows = order[np.where(filled, starts[batch][:, None] + place, 0)]
        block = features[torch.from_numpy(rows).to(features.device)]
        alike = torch.triu(block @ block.mT > cosine, diagonal=1)
        which, i, j = as_numpy(torch.nonzero(alike)).T
        # Indices rise, so that a pair is of true rows if its second one is.
        true = filled[which, j]
        pairs.append(np.stack([rows[which, i], rows[which, j]], axis=1)[true])
    i, j = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(len(y), len(y)))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return first[label]
