"""Rows that show one photograph: near copies, which are found, and views, as told."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from skfewshot._labels import missing_error, plain_labels
from skfewshot._rows import row_order, sum_rows, unit_rows

# The share of the usual squared distance of two rows of a class below which they are
# taken for one photograph. The same one, cropped or saved again, has .01 to .15; of two
# photographs one pair in a thousand is below .2.
_NEAR_COPY = 1 / 6
# The share of the squared distance from the nearest other class below which a usual one
# is that of copies. In embeddings of photographs it is .28 to 1; where all classes
# are copies of a photograph each, .15 at most.
_ALL_COPIES = 1 / 5
# Classes of more rows are left as they are: in them a copy matters little.
_MOST_ROWS = 512


# Views, as told


def read_groups(groups: Any, n_rows: int) -> NDArray | None:
    """Return the group of each row as an array.

    Parameters
    ----------
    groups : array-like or tensor of shape (n_rows,), or None
        Ints, strings or other labels of one type.
    n_rows : int

    Returns
    -------
    ndarray of shape (n_rows,) or None

    Raises
    ------
    ValueError
        If they have another shape, or one is missing.
    TypeError
        If strings and other labels are mixed.
    """
    if groups is None:
        return None
    array = np.asarray(plain_labels(groups, "groups"))
    if array.shape != (n_rows,):
        raise ValueError(
            f"groups must have one entry for each of the {n_rows} rows of X, shape "
            f"({n_rows},); got shape {array.shape}."
        )
    if array.dtype.kind in "fc" and np.isnan(array).any():
        raise missing_error("groups", np.flatnonzero(np.isnan(array)))
    return array


def merge_views(
    features: NDArray, y: NDArray, weight: NDArray, groups: NDArray, classes: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Put one row in the place of the views of a photograph: their weighted mean.

    It weighs as much as they do in the mean. Its last bits do not depend on the order
    of the rows.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Unit rows.
    y : ndarray of shape (n,)
        Class indices.
    weight : ndarray of shape (n,)
        Positive.
    groups : ndarray of shape (n,)
        Which photograph a row is a view of.
    classes : ndarray
        What the class indices stand for.

    Returns
    -------
    features, y, weight : ndarrays of shapes (m, n_features), (m,) and (m,)
        One unit row a group.
    index : ndarray of int, shape (n,)
        Which of them each row is a view of.

    Raises
    ------
    ValueError
        If the rows of a group have several labels.
    """
    order = row_order(np.column_stack([features, weight]))
    features, y, weight = features[order], y[order], weight[order]
    names, first, group = np.unique(groups[order], True, True)
    of_others = np.flatnonzero(y != y[first][group])
    if len(of_others):
        mixed = group[of_others].min()
        labels = classes[np.unique(y[group == mixed])]
        raise ValueError(
            f"groups: the rows of group {names[mixed : mixed + 1].tolist()[0]!r} have "
            f"different labels, {labels.tolist()[:5]}; the views of one photograph "
            "have one."
        )
    mean = np.bincount(group, weights=weight) / np.bincount(group)
    merged = _mean_rows(features, weight / mean[group], group, len(names))
    index = np.empty_like(group)
    index[order] = group
    return merged, y[first], mean.astype(weight.dtype), index


def _mean_rows(features: NDArray, weight: NDArray, group: NDArray, n: int) -> NDArray:
    """Return the unit-norm weighted means of groups; a row alone stays as it is."""
    sums = sum_rows(weight[:, None] * features.astype(float), group, n)
    means = unit_rows(sums).astype(features.dtype)
    alone = np.bincount(group, minlength=n)[group] == 1
    means[group[alone]] = features[alone]
    return means


# Near copies, which are found


def merge_near_copies(
    features: NDArray, y: NDArray, weight: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Put a mean in the place of rows of a class that show nearly the same.

    Leaving one of them out would leave its likeness in.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Unit rows, all different within a class.
    y : ndarray of shape (n,)
        Class indices.
    weight : ndarray of shape (n,)

    Returns
    -------
    features, y, weight : ndarrays of shapes (m, n_features), (m,) and (m,)
        Unit rows, in the order of the first row of each; weights add up.
    index : ndarray of int, shape (n,)
        Which of them each row is a copy of.
    """
    kept, index = np.unique(near_copies(features, y), return_inverse=True)
    if len(kept) == len(y):
        return features, y, weight, index
    total = np.bincount(index, weights=weight).astype(weight.dtype)
    means = _mean_rows(features, weight / total[index], index, len(kept))
    return means, y[kept], total, index


def near_copies(features: NDArray, y: NDArray) -> NDArray:
    """Return for each row the first row of those that show nearly the same.

    Likeness is judged by the spread within classes, so that it hardly changes where an
    encoder, or a camera that stands still, adds a common vector to all rows. Where that
    spread is itself that of copies, the distance between classes says so and takes its
    place. All rows of a group are alike: it is found by complete linkage, not by
    chains.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
        Class indices.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    group = np.arange(len(y))
    # Centred, so that small distances keep their digits beside a common vector.
    features = features.astype(float) - features.mean(axis=0, dtype=float)
    pairs = list(_distances_within(features, y))
    if not pairs:
        return group
    usual = np.median([np.median(distances) for _, distances in pairs])
    between = _distances_between(features, y)
    spread = np.where(usual < _ALL_COPIES * between, between, usual)
    for rows, distances in pairs:
        alike = _NEAR_COPY * spread[y[rows[0]]]
        if distances.min() < alike:
            tree = linkage(distances, method="complete")
            label = fcluster(tree, alike, criterion="distance")
            _, first, index = np.unique(label, return_index=True, return_inverse=True)
            group[rows] = rows[first[index]]
    return group


def _distances_within(
    features: NDArray, y: NDArray
) -> Iterator[tuple[NDArray, NDArray]]:
    """Yield the rows of each class, and the squared distances of all pairs of them."""
    order = np.argsort(y, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(y))[:-1]):
        if 1 < len(rows) <= _MOST_ROWS:
            F = features[rows]
            norms = (F * F).sum(axis=1)
            squared = norms[:, None] + norms - 2 * F @ F.T
            yield rows, np.maximum(squared[np.triu_indices(len(rows), 1)], 0)


def _distances_between(features: NDArray, y: NDArray) -> NDArray:
    """Return the mean squared distance of each class's rows from the nearest class's.

    Shape (n_classes,); zero where there is no other, and for classes without rows.
    """
    seen, index = np.unique(y, return_inverse=True)
    count = np.bincount(index)
    means = sum_rows(features, index, len(seen)) / count[:, None]
    norms = np.bincount(index, weights=(features * features).sum(axis=1)) / count
    squared = norms[:, None] + norms - 2 * means @ means.T
    np.fill_diagonal(squared, np.inf)
    nearest = np.zeros(y.max() + 1)
    nearest[seen] = squared.min(axis=1) if len(seen) > 1 else 0
    return np.maximum(nearest, 0)
