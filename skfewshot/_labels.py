"""The one reader of labels: one a row, indicators of several, and classes added."""

import warnings
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from skfewshot._rows import as_numpy, reading, without_mask
from skfewshot._sklearn import show

_BINARIZER = "sklearn.preprocessing.MultiLabelBinarizer"


# One label a row


def plain_labels(y: Any, name: str = "y") -> Any:
    """Return labels that NumPy keeps as they are; refuse those it would change.

    Parameters
    ----------
    y : array-like or tensor of shape (n,) or (n, n_labels)
    name : str
        What the user calls them.

    Returns
    -------
    object
        An array where `y` is a tensor, a list or of variable-width strings, else `y`.

    Raises
    ------
    ValueError
        If labels are missing or masked, are sets of labels, or two of them would
        become one.
    TypeError
        If strings and other labels are mixed, or a label is a record.
    """
    if y is None or isinstance(y, str | bytes) or issparse(y):
        return y
    y = as_numpy(without_mask(y, name))
    is_list = isinstance(y, list | tuple)
    if isinstance(y, np.matrix) or not (is_list or hasattr(y, "__array__")):
        return y
    try:
        array = np.asarray(y)
    except ValueError as error:  # lists of several lengths
        raise _sets_error(name) from error
    if array.dtype.kind == "T":  # which scikit-learn 1.9 does not know
        array = y = array.astype(object)
    # Sets are told by their type: comparing them does not fail, but sorts nothing.
    if array.dtype == object and any(
        isinstance(label, Set | list | tuple | np.ndarray) for label in array.flat
    ):
        raise _sets_error(name)
    if array.ndim == 1:
        _check_kept(y if is_list else (), array, name)
        of_objects = getattr(y, "dtype", array.dtype) == array.dtype
        _check_objects(array, name, only_missing=not of_objects)
    return array if is_list else y


def _sets_error(name: str) -> ValueError:
    return ValueError(
        f"Unknown label type: {name} holds lists or sets of labels; wanted one label a "
        "row, or, for MultiLabelPrototypeClassifier, an indicator of zeros and ones of "
        f"shape (n_samples, n_labels), which {_BINARIZER} makes of them."
    )


def single_labels(y: Any, estimator: str, name: str = "y") -> Any:
    """Return labels as `plain_labels` does; refuse several a row.

    Parameters
    ----------
    y : array-like or tensor of shape (n,) or (n, 1)
    estimator : str
        The class that learns from one label a row.
    name : str
        What the user calls them.
    """
    y = plain_labels(y, name)
    shape = y.shape if issparse(y) else np.asarray(y).shape
    if issparse(y) or (len(shape) == 2 and shape[1] > 1):
        raise ValueError(
            f"{name} has the shape {shape}, several labels an image, but {estimator} "
            f"takes one, {name} of shape (n_samples,): it should be a 1d array. "
            "MultiLabelPrototypeClassifier learns from such a matrix."
        )
    return y


def check_targets(y: Any) -> None:
    """Refuse labels that are not classes, such as measurements."""
    with _one_shot("y"):
        check_classification_targets(y)


@contextmanager
def _one_shot(name: str) -> Iterator[None]:
    """Let scikit-learn look at labels that may be one a class."""
    with warnings.catch_warnings(), reading(name):
        # Half as many classes as rows is no hint of regression.
        warnings.filterwarnings("ignore", "The number of unique classes")
        yield


def check_several(classes: NDArray, estimator: str, n_unlabelled: int = 0) -> None:
    """Refuse classes that are but one, or none."""
    if len(classes) < 2:
        beside = f" {n_unlabelled} rows have no label." if n_unlabelled else ""
        raise ValueError(
            f"{estimator} needs at least 2 classes in y with positive sample weight; "
            f"got {len(classes)} class{'' if len(classes) == 1 else 'es'}: "
            f"{show(classes.tolist())}.{beside}"
        )


def _check_kept(labels: Iterable[Any], array: NDArray, name: str) -> None:
    """Refuse a list of labels that NumPy turned into others."""
    if array.dtype.kind not in "USf":
        return
    for label, kept in zip(labels, array.tolist(), strict=False):
        own = label.item() if isinstance(label, np.generic) else label
        if own == kept or (own != own and kept != kept):
            continue
        if isinstance(kept, str | bytes) and not isinstance(own, str | bytes):
            raise TypeError(
                f"{name} mixes strings with {show(label)} of type "
                f"{type(label).__name__}, which NumPy would turn into a string; wanted "
                "labels of one type."
            )
        raise ValueError(
            f"{name} holds {show(label)}, which NumPy would turn into {show(kept)}; "
            "wanted labels that it keeps, such as other strings."
        )


def _check_objects(array: NDArray, name: str, only_missing: bool) -> None:
    """Refuse missing labels, and objects that have no order."""
    kind = array.dtype.kind
    if kind == "V":
        raise TypeError(f"{name} holds records, {array.dtype}; wanted plain labels.")
    if kind in "mM":
        missing = np.isnat(array)
    elif kind == "O":
        missing = np.array([is_missing(label) for label in array], dtype=bool)
    else:
        return
    if missing.any():
        raise missing_error(name, np.flatnonzero(missing))
    if kind != "O" or only_missing:
        return
    types = sorted({type(label).__name__ for label in array})
    n_strings = sum(isinstance(label, str) for label in array)
    if 0 < n_strings < len(array):
        raise TypeError(
            f"{name} mixes labels of the types {types}, which cannot be sorted; wanted "
            "labels of one type."
        )


def missing_error(name: str, rows: NDArray, advice: str = "") -> ValueError:
    """Return the error that says at which rows labels are missing, and what to do."""
    shown = f"{rows[:20].tolist()}{' ...' if len(rows) > 20 else ''}"
    return ValueError(
        f"Input {name} contains NaN or None. {name} must not be missing, as at the "
        f"indexes {shown}.{advice and ' '}{advice}"
    )


def is_missing(label: Any) -> bool:
    """Say whether a label is None, NaN or the like."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas.NA
        return True


# Classes beside those of the rows


def with_extra_classes(
    classes: NDArray, extra: ArrayLike | None
) -> tuple[NDArray, NDArray]:
    """Return the sorted union of classes, and where the first ones are in it.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted classes that have rows.
    extra : array-like of shape (n_extra,) or None
        Labels of further ones; those that have rows after all are no error, so that a
        cross-validation may find them in some folds.

    Returns
    -------
    union : ndarray
    positions : ndarray of int, shape (n_classes,)
    """
    if extra is None:
        return classes, np.arange(len(classes))
    extra = np.asarray(plain_labels(extra, "extra_classes"))
    if extra.ndim != 1:
        raise ValueError(
            "extra_classes must be a sequence of class labels; got an array of shape "
            f"{extra.shape}."
        )
    if not len(extra):
        return classes, np.arange(len(classes))
    union = np.unique(_joined(classes, extra, "extra_classes"))
    return union, np.searchsorted(union, classes)


def with_class(
    classes: NDArray, name: Any, parameter: str = "name"
) -> tuple[NDArray, NDArray]:
    """Return sorted classes with a new one behind them, and the order that sorts all.

    Raises
    ------
    ValueError
        If `name` is no label, one of the classes already, or of another kind.
    """
    if np.ndim(name):
        raise ValueError(f"{parameter} must be one class label; got {show(name)}.")
    name = name.item() if isinstance(name, np.ndarray) else name
    if name in classes.tolist():
        raise ValueError(f"{parameter}={show(name)} is already one of the classes.")
    joined = _joined(classes, np.asarray(plain_labels([name], parameter)), parameter)
    return joined, np.argsort(joined, kind="stable")


def more_labels(classes: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return labels of the kind of some classes, and the sorted ones that are new.

    Raises
    ------
    ValueError
        If they are of another kind than the classes.
    """
    labels = _joined(classes, y, "y of more images")[len(classes) :]
    return labels, np.unique(labels[~np.isin(labels, classes)])


def _joined(classes: NDArray, labels: NDArray, parameter: str) -> NDArray:
    """Put labels behind classes; refuse to mix names with numbers, or to round.

    Integers become floats: so do those of a nullable column of pandas.
    """
    if any(label is None or label != label for label in labels.tolist()):
        shown = show(labels.tolist()[:5])
        raise ValueError(f"{parameter} must not be missing; got {shown}.")
    if _kind(labels) == "i" and _kind(classes) in ("i", "f"):
        whole = labels.astype(classes.dtype)
        labels = whole if whole.tolist() == labels.tolist() else labels
    joined = labels
    if _kind(labels) == _kind(classes):
        joined = np.concatenate([classes, labels])
    if _kind(joined) != _kind(classes):
        raise ValueError(
            f"{parameter} and y must hold labels of one kind; got "
            f"{show(labels.tolist()[:5])} and {show(classes.tolist()[:5])}."
        )
    return joined


def _kind(labels: NDArray) -> str:
    """Name the kind of labels: NumPy's, with text and integers of one kind each."""
    kind = labels.dtype.kind
    if kind == "O" and all(isinstance(label, str) for label in labels):
        return "U"
    return "i" if kind == "u" else kind


# One label a row or several


@dataclass(frozen=True)
class Labels:
    """The labels of n images.

    Attributes
    ----------
    indicator : ndarray of shape (n, L)
        1 where the image has the label, else 0.
    classes : ndarray of shape (L,)
        What the columns stand for.
    is_multilabel : bool
        False where each image has exactly one label.
    known : ndarray of bool, shape (n, L), or None
        False where it is not known whether the image has the label, and the indicator
        is 0; None if all is known.
    """

    indicator: NDArray
    classes: NDArray
    is_multilabel: bool
    known: NDArray | None = None

    def restricted(self, rows: NDArray) -> "Labels":
        """Return the labels of some images; of one label each, those that occur."""
        indicator = self.indicator[rows]
        known = None if self.known is None else self.known[rows]
        if self.is_multilabel:
            return Labels(indicator, self.classes, True, known)
        seen = indicator.any(axis=0)
        known = None if known is None else known[:, seen]
        return Labels(indicator[:, seen], self.classes[seen], False, known)

    def check_usable(self, estimator: str) -> None:
        """Raise where there is nothing to learn."""
        if self.is_multilabel and not self.indicator.any():
            beside = "" if self.known is None else "Input y contains NaN, and "
            raise ValueError(
                f"{beside}y has no image with a label: all known indicators in rows of "
                "positive sample weight are 0."
            )
        if not self.is_multilabel:
            check_several(self.classes, estimator)


def read_labels(
    y: Any,
    dtype: DTypeLike = bool,
    name: str = "y",
    *,
    is_column_of_classes: bool | None = True,
) -> Labels:
    """Read label indicators, or one label an image.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n, L), or array-like of shape (n,)
        Indicators 0 and 1, or one label an image. The columns of a data frame name the
        labels; else they are numbered.
    dtype : dtype, default=bool
        Of the indicators.
    name : str
        What the user calls them.
    is_column_of_classes : bool or None, default=True
        Whether a lone column holds one label an image, as it does for scikit-learn,
        rather than the indicator of a lone label. None takes it for an indicator if it
        holds zeros and ones alone.

    Returns
    -------
    Labels

    Raises
    ------
    ValueError
        If `y` is neither.
    TypeError
        If its labels are of several types.
    """
    columns = getattr(y, "columns", None)
    y = plain_labels(y, name)
    if not (issparse(y) or isinstance(y, Sequence) or hasattr(y, "__array__")):
        raise ValueError(
            f"Expected array-like (array or non-string sequence), got {show(y)} as "
            f"{name}."
        )
    shape = y.shape if issparse(y) else np.asarray(y).shape
    n_dims = len(shape)
    if n_dims > 2:
        raise ValueError(
            f"{name} has {n_dims} dimensions; wanted class labels, shape (n_samples,), "
            "or indicators, shape (n_samples, n_labels). Are X and y swapped?"
        )
    width = shape[1] if n_dims == 2 else 0
    if width == 1 and is_column_of_classes is None:
        is_column_of_classes = not _are_zeros_and_ones(y)
    if width > 1 or (width == 1 and not is_column_of_classes):
        indicator = read_indicator(y, name)
        classes = np.arange(width) if columns is None else np.asarray(columns)
        return Labels(indicator.astype(dtype), classes, True)
    y = y.toarray() if issparse(y) else y
    with _one_shot(name):
        kind = "empty" if 0 in shape else type_of_target(y, input_name=name)
    array = np.asarray(y)
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: {kind!r}. {name} must hold class labels, shape "
            "(n_samples,), or indicators 0 and 1 of labels, shape (n_samples, "
            f"n_labels); got shape {array.shape}. Maybe you are trying to fit a "
            "classifier, which expects discrete classes on a regression target with "
            "continuous values."
        )
    classes, index = np.unique(column_or_1d(array, warn=True), return_inverse=True)
    return Labels(np.eye(len(classes), dtype=dtype)[index], classes, False)


def _are_zeros_and_ones(y: Any) -> bool:
    values = (y.toarray() if issparse(y) else np.asarray(y)).ravel().tolist()
    return all(isinstance(value, Real) and value in (0, 1) for value in values)


def read_indicator(
    Y: Any, name: str, shape: tuple[int, ...] | None = None
) -> NDArray[np.bool_]:
    """Read indicators of labels.

    Parameters
    ----------
    Y : array-like or sparse matrix of shape (n, L)
        Zeros and ones.
    name : str
        What the user calls them.
    shape : tuple of int, default=None
        The one they must have.

    Returns
    -------
    ndarray of bool, shape (n, L)

    Raises
    ------
    ValueError
        If it has no row, no column, another shape or number of dimensions, or holds
        anything but zeros and ones.
    """
    array = Y.toarray() if issparse(Y) else np.asarray(plain_labels(Y, name))
    if array.ndim != 2 or 0 in array.shape or (shape and array.shape != shape):
        raise ValueError(
            f"{name} has shape {array.shape}; wanted "
            f"{shape or '(n_samples, n_labels)'}, an indicator of zeros and ones."
        )
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is {array.dtype}.")
    kind = array.dtype.kind
    # Nullable and mixed columns of a data frame come as objects.
    find = np.vectorize(is_missing, otypes=[bool]) if kind == "O" else np.isnan
    missing = find(array).any(axis=1) if kind in "Of" else np.zeros(0, dtype=bool)
    if missing.any():
        raise missing_error(name, np.flatnonzero(missing))
    is_number = kind in "biuf" or all(
        isinstance(value, bool | np.bool_ | Real) for value in array.flat
    )
    with reading(name):
        if is_number and np.isin(array.astype(np.float64), (0, 1)).all():
            return array == 1
    raise ValueError(
        f"{name} of shape {array.shape} must hold only 0 and 1, one column a label; "
        f"got the values {show(np.unique(array.astype(str))[:5].tolist())}. "
        f"{_BINARIZER} makes indicators of label sets."
    )
