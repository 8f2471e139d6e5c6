"""Rows without a label: which they are, and what is kept of them."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import _safe_indexing

from skfewshot._copies import merge_views
from skfewshot._labels import is_missing, missing_error, plain_labels
from skfewshot._rows import as_numpy, distinct_rows, unit_rows

#: What a refusal says of those who can do more.
_WHO_TAKES = (
    "CMMClassifier learns from rows without a label as well, and ZeroShotClassifier "
    "does where there are texts."
)
#: What indicators hold: nothing of it can say that a label is unknown.
_KNOWN = (0, 1, False, True)


def split_unlabelled(
    y: Any, estimator: Any, name: str = "y"
) -> tuple[Any, NDArray[np.bool_] | None]:
    """Return labels with none missing, and which rows have one.

    Parameters
    ----------
    y : array-like or tensor of shape (n,) or (n, 1)
        Labels; None, NaN, ``pandas.NA`` and NaT say that there is none, as does the
        mark that the estimator's `unlabeled` names.
    estimator : estimator
        Without a parameter `unlabeled` it learns from labelled rows alone.
    name : str
        What the user calls them.

    Returns
    -------
    y : array-like
        As it was, if there is a label in each row. Else an array of the type that the
        labels have by themselves, in which the first one stands where there is none.
    known : ndarray of bool, shape (n,), or None
        Which rows have a label; None if all have.

    Raises
    ------
    ValueError
        If all labels are missing, or one is and the estimator needs each.
    """
    mark = getattr(estimator, "unlabeled", None)
    y = as_numpy(y)
    missing = unlabelled_rows(y, mark)
    if missing is None:
        return y, None
    if not hasattr(estimator, "unlabeled"):
        raise missing_error(name, np.flatnonzero(missing), _WHO_TAKES)
    extra = getattr(estimator, "extra_classes", None)
    needs_labels = getattr(estimator, "_needs_labels", True)
    if missing.all() and not needs_labels and extra is not None:
        first = np.asarray(plain_labels(extra, "extra_classes"))[:1]
        return np.repeat(first, len(missing)), ~missing
    if missing.all():
        raise ValueError(
            f"Input {name} contains NaN, None or the mark of rows without a label "
            f"alone: all {len(missing)} labels are missing. {type(estimator).__name__} "
            "needs the labels of some rows, of at least two classes. Without any, "
            "ZeroShotClassifier(extra_classes=names) learns, if there are texts."
        )
    rows = np.flatnonzero(~missing)
    labels = np.asarray(plain_labels(take_labels(y, rows), name))
    filled = np.empty((len(missing), *labels.shape[1:]), labels.dtype)
    filled[:] = labels[0]
    filled[rows] = labels
    return filled, ~missing


def with_gaps(labels: NDArray, known: NDArray[np.bool_] | None) -> NDArray:
    """Return labels with None where there is none; `known` is None where all are."""
    if known is None:
        return labels
    found = labels.astype(object)
    found[~known] = None
    return found


def has_columns(y: Any) -> bool:
    """Say whether `y` is a matrix of several columns, one a label."""
    if isinstance(y, np.ma.MaskedArray):  # to be refused as it is
        return False
    try:
        shape = y.shape if hasattr(y, "shape") else np.asarray(as_numpy(y)).shape
    except ValueError:  # lists of several lengths
        return False
    return len(shape) == 2 and shape[1] > 1


def split_unknown(
    Y: Any, estimator: Any, name: str = "y"
) -> tuple[Any, NDArray[np.bool_] | None]:
    """Return indicators with none missing, and which of them are known.

    Parameters
    ----------
    Y : array-like or sparse matrix of shape (n, L)
        Zeros and ones; None, NaN, ``pandas.NA``, and the mark that the estimator's
        `unlabeled` names, say that it is not known whether the image has the label. In
        a sparse matrix they have to be stored: what is not stored is 0.
    estimator : estimator
        With a parameter `unlabeled`.
    name : str
        What the user calls them.

    Returns
    -------
    Y : array-like or sparse matrix
        As it was, if all is known; else an array, in which 0 stands for what is not.
    known : ndarray of bool, shape (n, L), or None
        None if all is known.

    Raises
    ------
    ValueError
        If nothing is known, or the mark is an indicator.
    """
    mark = estimator.unlabeled
    if any(_is_mark(value, mark) for value in _KNOWN):
        raise ValueError(
            f"unlabeled={mark!r} is what an indicator holds for a label that is known; "
            "wanted another mark, such as -1."
        )
    array = Y.toarray() if issparse(Y) else as_numpy(Y)
    is_list = isinstance(array, list | tuple)
    array = np.asarray(array, dtype=object) if is_list else np.asarray(array)
    missing = _missing(array.ravel(), mark).reshape(array.shape)
    if not missing.any():
        return Y, None
    if missing.all():
        raise ValueError(
            f"Input {name} contains NaN, None or the mark of unknown labels alone: of "
            f"{array.shape[0]} images and {array.shape[1]} labels nothing is "
            f"known. {type(estimator).__name__} needs some known entries."
        )
    filled = array.copy()
    filled[missing] = 0
    return filled, ~missing


def take_labels(y: Any, rows: NDArray) -> Any:
    """Return the labels of some rows, of the type that these have by themselves.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n, ...)
    rows : ndarray of int
        None of which lacks its label.
    """
    try:
        taken = _safe_indexing(y, rows)
    except TypeError:  # of an index of pandas
        taken = y[rows]
    if isinstance(taken, list) or issparse(taken):
        return taken
    array = np.asarray(taken)
    if array.dtype.kind != "O" or all(isinstance(label, str) for label in array.flat):
        return taken
    # Numbers are objects only as there was a None among them.
    return array.tolist() if array.ndim == 1 else np.array(array.tolist())


def all_labelled(y: Any, estimator: Any, name: str = "y") -> Any:
    """Return labels to score by; refuse the mark of rows that have none.

    What scikit-learn takes out of an array of objects stays objects, also where these
    are numbers, and no None is among them any more.
    """
    if not hasattr(estimator, "unlabeled"):
        return y
    missing = unlabelled_rows(y, estimator.unlabeled)
    if missing is not None:
        advice = "Rows without a label cannot be scored: leave them out."
        raise missing_error(name, np.flatnonzero(missing), advice)
    if isinstance(y, np.ndarray) and y.dtype.kind == "O":
        return take_labels(y, np.arange(len(y)))
    return y


def unlabelled_rows(
    y: Any, mark: Any = None, *, several: bool = False
) -> NDArray[np.bool_] | None:
    """Return which rows have no label, or None if all have, or if `y` is none at all.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, 1)
    mark : label, default=None
        What stands for no label, beside None and the like.
    several : bool, default=False
        Whether to look into the rows of a matrix, which lack a label if an entry is
        missing.
    """
    if y is None or isinstance(y, str | bytes | np.ma.MaskedArray) or issparse(y):
        return None
    y = as_numpy(y)
    is_list = isinstance(y, list | tuple)
    if isinstance(y, np.matrix) or not (is_list or hasattr(y, "__array__")):
        return None
    try:
        array = np.asarray(y, dtype=object) if is_list else np.asarray(y)
    except ValueError:  # lists of several lengths
        return None
    is_column = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    if not array.size or (not is_column and (array.ndim != 2 or not several)):
        return None
    found = _missing(array.ravel(), mark)
    missing: NDArray[np.bool_] = np.any(found.reshape(len(array), -1), axis=1)
    return missing if missing.any() else None


def _missing(array: NDArray, mark: Any) -> NDArray[np.bool_]:
    """Return where labels are missing, or are the mark."""
    kind = array.dtype.kind
    if kind in "OT":
        return np.array([is_missing(x) or _is_mark(x, mark) for x in array], dtype=bool)
    missing = np.zeros(len(array), dtype=bool)
    if kind in "fc":
        missing |= np.isnan(array)
    elif kind in "mM":
        missing |= np.isnat(array)
    if len(array) and _is_mark_of(array[0], mark):
        missing |= array == mark
    return missing


def _is_mark(label: Any, mark: Any) -> bool:
    return _is_mark_of(label, mark) and bool(label == mark)


def _is_mark_of(label: Any, mark: Any) -> bool:
    """Say whether a mark is of a label's kind: False is no 0."""
    kinds: tuple[Any, ...] = (bool | np.bool_, Real, str)
    of_label, of_mark = (
        next((i for i, kind in enumerate(kinds) if isinstance(value, kind)), None)
        for value in (_item(label), mark)
    )
    return of_label == of_mark is not None


def _item(label: Any) -> Any:
    is_one = isinstance(label, np.generic | np.ndarray) and label.size == 1
    return label.item() if is_one else label


def split_rows(
    y: NDArray,
    known: NDArray[np.bool_] | None,
    used: NDArray[np.bool_],
    groups: NDArray | None,
) -> tuple[NDArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell rows with a label from those without; views of a photograph share theirs.

    Parameters
    ----------
    y : ndarray of shape (n,)
    known : ndarray of bool, shape (n,), or None
        Which rows have a label; None if all have.
    used : ndarray of bool, shape (n,)
        Which rows count: the label of another is none.
    groups : ndarray of shape (n,) or None
        Which photograph a row is a view of.

    Returns
    -------
    y : ndarray of shape (n,)
        With labels of other views.
    labelled, unlabelled : ndarrays of bool, shape (n,)
        Which rows count, and have a label or none.
    """
    if known is None:
        return y, used, np.zeros_like(used)
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        labelled = np.flatnonzero(known & used)
        by_group = np.full(len(y), -1)
        by_group[group[labelled]] = labelled
        source = by_group[group]
        shared = ~known & (source >= 0)
        y, known = y.copy(), known | shared
        y[shared] = y[source[shared]]
    return y, used & known, used & ~known


def merge_unlabelled(
    rows: NDArray, weight: NDArray, groups: NDArray | None, unlabelled: NDArray
) -> tuple[NDArray, NDArray]:
    """Put one row in the place of the views of a photograph, and of equal rows.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
    weight : ndarray of shape (n,)
    groups : ndarray of shape (n,) or None
        Which photograph a row is a view of.
    unlabelled : ndarray of bool, shape (n,)
        Which rows have no label and a positive weight; the others are left out.

    Returns
    -------
    features, weight : ndarrays of shapes (m, n_features) and (m,)
        The m different rows, of unit norm, in an order of their own, and their weights,
        those of copies added up.
    """
    features, weight = rows[unlabelled], weight[unlabelled]
    if not len(features):
        return features, weight
    features = unit_rows(features)
    if groups is not None:
        y = np.zeros(len(features), dtype=np.intp)
        features, _, weight, _ = merge_views(features, y, weight, groups[unlabelled], y)
    first, weight, _ = distinct_rows(features, weight)
    return features[first], weight
