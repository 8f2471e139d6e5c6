"""The one reader of labels: one a row, indicators of several, and classes added."""

import warnings
from collections.abc import Set
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import type_of_target

from skfewshot._rows import as_numpy, reading, without_mask
from skfewshot._sklearn import warn_user

# Above this, not every integer is a double.
_MOST_EXACT = 2**53


def plain_labels(y, name="y"):
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
        If labels are missing or masked, or two of them would become one.
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
    except ValueError:  # of several lengths, of which scikit-learn has more to say
        return y
    if array.dtype.kind == "T":  # which scikit-learn 1.9 does not know
        array = y = array.astype(object)
    if array.ndim == 1:
        _check_kept(y if is_list else (), array, name)
        of_objects = getattr(y, "dtype", array.dtype) == array.dtype
        _check_objects(array, name, only_missing=not of_objects)
    return array if is_list else y


def _check_kept(labels, array, name):
    """Refuse a list of labels that NumPy turned into others."""
    kind = array.dtype.kind
    if kind in "US":
        for label in labels:
            if not isinstance(label, str | bytes):
                raise TypeError(
                    f"{name} mixes strings with {label!r} of type "
                    f"{type(label).__name__}, which NumPy would turn into a string; "
                    "wanted labels of one type."
                )
            if label[-1:] in ("\0", b"\0"):
                raise ValueError(
                    f"{name} holds {label!r}, of which NumPy drops the null character "
                    "at the end; wanted other names."
                )
    elif kind == "f":
        for label in labels:
            if isinstance(label, Integral) and abs(int(label)) > _MOST_EXACT:
                raise ValueError(
                    f"{name} holds the integer {label}, which NumPy would round beside "
                    "the other labels; wanted strings or smaller integers."
                )


def _check_objects(array, name, only_missing):
    """Refuse missing labels, and objects that have no order."""
    kind = array.dtype.kind
    if kind == "V":
        raise TypeError(f"{name} holds records, {array.dtype}; wanted plain labels.")
    if kind in "mM":
        missing = np.isnat(array)
    elif kind == "O":
        missing = np.array([_is_missing(label) for label in array], dtype=bool)
    else:
        return
    if missing.any():
        where = np.flatnonzero(missing)
        shown = f"{where[:20].tolist()}{' ...' if len(where) > 20 else ''}"
        raise ValueError(
            f"Input {name} contains NaN or None. {name} must not be missing, as at the "
            f"indexes {shown}."
        )
    if kind != "O" or only_missing:
        return
    types = sorted({type(label).__name__ for label in array})
    n_strings = sum(isinstance(label, str) for label in array)
    if 0 < n_strings < len(array):
        raise TypeError(
            f"{name} mixes labels of the types {types}, which cannot be sorted; wanted "
            "labels of one type."
        )


def _is_missing(label):
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas.NA
        return True
    except ValueError:  # an array
        return False


def with_extra_classes(classes, extra):
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
    extra = labels_of_kind(extra, classes, "extra_classes")
    union = np.unique(join_classes(classes, extra, "extra_classes"))
    return union, np.searchsorted(union, classes)


def with_class(classes: NDArray, name: Any) -> tuple[NDArray, NDArray]:
    """Return sorted classes with a new one behind them, and the order that sorts all.

    Raises
    ------
    ValueError
        If `name` is no label, one of the classes already, or of another kind.
    """
    if np.ndim(name):
        raise ValueError(f"name must be one class label; got {name!r}.")
    name = name.item() if isinstance(name, np.ndarray) else name
    label = labels_of_kind(np.asarray(plain_labels([name], "name")), classes, "name")
    if name in classes.tolist():
        raise ValueError(f"name={name!r} is already one of the classes.")
    joined = join_classes(classes, label, "name")
    return joined, np.argsort(joined, kind="stable")


def labels_of_kind(labels, classes, parameter):
    """Return labels as the classes are; refuse to mix names with numbers.

    Integers become floats: so do those of a nullable column of pandas.
    """
    if any(label is None or label != label for label in labels.tolist()):
        raise ValueError(f"{parameter} must not be missing; got {labels.tolist()[:5]}.")
    if (_kind(labels), _kind(classes)) == ("i", "f"):
        whole = labels.astype(classes.dtype)
        labels = whole if whole.tolist() == labels.tolist() else labels
    if _kind(labels) != _kind(classes):
        raise ValueError(
            f"{parameter} and y must hold labels of one kind; got "
            f"{labels.tolist()[:5]} and {classes.tolist()[:5]}."
        )
    return labels


def _kind(labels):
    """Name the kind of labels: NumPy's, with text and integers of one kind each."""
    kind = labels.dtype.kind
    if kind == "O" and all(isinstance(label, str) for label in labels):
        return "U"
    return "i" if kind == "u" else kind


def join_classes(classes, labels, parameter):
    """Put labels behind classes, without rounding one of them."""
    joined = np.concatenate([classes, labels])
    if _kind(joined) != _kind(classes):  # signed and unsigned
        whole = classes.tolist() + labels.tolist()
        try:
            return np.array(whole, dtype=np.int64 if min(whole) < 0 else np.uint64)
        except OverflowError as error:
            raise ValueError(
                f"{parameter} and y hold integers that no type of NumPy holds "
                f"together; got {labels.tolist()[:5]} and {classes.tolist()[:5]}."
            ) from error
    return joined


@dataclass(frozen=True)
class Labels:
    """The labels of n images.

    Attributes
    ----------
    indicator : ndarray of shape (n, L)
        1.0 where the image has the label, else 0.0.
    classes : ndarray of shape (L,)
        What the columns stand for.
    is_multilabel : bool
        False where each image has exactly one label.
    """

    indicator: np.ndarray
    classes: np.ndarray
    is_multilabel: bool

    def restricted(self, rows):
        """Return the labels of some images; of one label each, those that occur."""
        indicator = self.indicator[rows]
        if self.is_multilabel:
            return Labels(indicator, self.classes, True)
        seen = indicator.any(axis=0)
        return Labels(indicator[:, seen], self.classes[seen], False)

    def check_usable(self, estimator):
        """Raise where there is nothing to learn."""
        if self.is_multilabel and not self.indicator.any():
            raise ValueError(
                "y has no image with a label: all indicators in rows of positive "
                "sample weight are 0."
            )
        if not self.is_multilabel and len(self.classes) < 2:
            raise ValueError(
                f"{estimator} needs at least 2 classes in y with positive sample "
                f"weight; got 1 class: {self.classes.tolist()}."
            )


def read_labels(y, dtype):
    """Read label indicators, or one label an image.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n, L), or array-like of shape (n,)
        Indicators 0 and 1, or one label an image. The columns of a data frame name the
        labels; else they are numbered.
    dtype : dtype
        Of the indicators.

    Returns
    -------
    Labels

    Raises
    ------
    ValueError
        If `y` is neither.
    """
    columns = getattr(y, "columns", None)
    _check_form(y)
    y = y.toarray() if issparse(y) else plain_labels(y)
    with warnings.catch_warnings(), reading("y"):
        # Half as many classes as rows is no hint of regression: it is one shot.
        warnings.filterwarnings("ignore", "The number of unique classes")
        kind = type_of_target(y, input_name="y")
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] > 1:
        with reading("y"):
            return _read_indicator(array, columns, kind, dtype)
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: {kind!r}. y must hold class labels, shape "
            "(n_samples,), or indicators 0 and 1 of labels, shape (n_samples, "
            "n_labels). Maybe you are trying to fit a classifier, which expects "
            "discrete classes on a regression target with continuous values."
        )
    classes, index = np.unique(column_or_1d(array, warn=True), return_inverse=True)
    return Labels(np.eye(len(classes), dtype=dtype)[index], classes, False)


def _check_form(y):
    """Refuse what scikit-learn would take for a regression target."""
    n_dims = getattr(y, "ndim", None)
    if n_dims is not None and n_dims > 2:
        raise ValueError(
            f"y has {n_dims} dimensions; wanted class labels, shape (n_samples,), or "
            "indicators, shape (n_samples, n_labels). Are X and y swapped?"
        )
    if isinstance(y, list | tuple) and any(isinstance(row, set) for row in y):
        raise ValueError(
            "y holds sets of labels; wanted indicators 0 and 1, which "
            "sklearn.preprocessing.MultiLabelBinarizer makes of them."
        )


def _read_indicator(array, columns, kind, dtype):
    # Nullable and mixed columns of a data frame come as objects.
    is_number = array.dtype.kind in "biuf" or all(
        isinstance(value, bool | np.bool_ | Real) for value in array.flat
    )
    if not is_number or not np.isin(array.astype(np.float64), [0, 1]).all():
        found = np.unique(array.astype(str))[:5].tolist()
        raise ValueError(
            f"y of shape {array.shape} must hold only 0 and 1, one column a label; got "
            f"the values {found} (type of target {kind!r}). "
            "sklearn.preprocessing.MultiLabelBinarizer makes indicators of label sets."
        )
    classes = np.arange(array.shape[1]) if columns is None else np.asarray(columns)
    return Labels(array.astype(dtype), classes, True)


def check_indicator(Y, parameter):
    """Return a dense boolean copy of a multi-label indicator.

    Parameters
    ----------
    Y : {array-like, sparse matrix} of shape (n_samples, n_labels)
        Zeros and ones.
    parameter : str
        What the caller calls it.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)

    Raises
    ------
    ValueError
        If it has no row, no column or another number of dimensions, or holds anything
        but zeros and ones.
    """
    array = Y.toarray() if issparse(Y) else to_array(Y, parameter)
    wanted = "an indicator of zeros and ones of shape (n_samples, n_labels)"
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{parameter} must be {wanted}; got an array of shape {array.shape}."
        )
    try:
        is_known = np.isin(array, (0, 1))
    except TypeError as error:  # pandas.NA
        raise ValueError(
            f"{parameter} must be {wanted}; it has missing values."
        ) from error
    if not is_known.all():
        unknown = some(array[~is_known].tolist())
        raise ValueError(f"{parameter} must be {wanted}; it holds {unknown}.")
    return array == 1


def to_array(y, parameter):
    """Return labels as an array, unless they are sets of labels."""
    y = as_numpy(without_mask(y, parameter))
    try:
        array = np.asarray(y)
    except ValueError:  # Lists of several lengths.
        is_sets = True
    else:
        # Sets are told by their type: comparing them does not fail, but sorts nothing.
        is_sets = array.dtype == object and any(
            isinstance(labels, Set | list | tuple | np.ndarray) for labels in array.flat
        )
    if is_sets:
        raise ValueError(
            f"{parameter} holds lists or sets of labels; wanted an indicator of zeros "
            "and ones of shape (n_samples, n_labels), which "
            "sklearn.preprocessing.MultiLabelBinarizer makes of them."
        )
    return array


def indicator_and_names(Y, parameter):
    """Return labels as a boolean indicator, and what to call its columns."""
    if issparse(Y):
        return check_indicator(Y, parameter), range(Y.shape[1])
    array = to_array(Y, parameter)
    if array.ndim != 1:
        names = getattr(Y, "columns", range(array.shape[-1] if array.ndim else 0))
        return check_indicator(array, parameter), list(names)
    try:
        classes, indices = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise TypeError(
            f"{parameter} in one dimension must hold one class per image, all of one "
            "type; it holds "
            f"{', '.join(sorted({type(label).__name__ for label in array}))}."
        ) from error
    if not len(array) or _is_fractional(classes):
        raise ValueError(
            f"{parameter} must be an indicator of shape (n_samples, n_labels) or hold "
            f"one class per image; got {array!r}."
        )
    return indices[:, None] == np.arange(len(classes)), classes.tolist()


def _is_fractional(classes):
    """Say whether these are numbers of a regression, or NaN."""
    if classes.dtype.kind == "c":
        return True
    return classes.dtype.kind == "f" and not np.array_equal(classes, np.floor(classes))


def warn_of_scarce(names, counts, wanted, parameter, consequence):
    """Name the labels with fewer positives than `wanted`."""
    scarce = np.flatnonzero(counts < wanted)
    if not len(scarce):
        return
    shown = ", ".join(f"{names[label]!r} ({counts[label]})" for label in scarce[:10])
    more = f" and {len(scarce) - 10} more" if len(scarce) > 10 else ""
    warn_user(
        f"Labels with fewer positive images than {parameter}={wanted}: {shown}{more}; "
        f"{consequence}."
    )


def some(values):
    """Show the first ten values of a list, each once."""
    values = list(dict.fromkeys(values))
    shown = ", ".join(map(repr, values[:10]))
    return f"[{shown}{', ...' if len(values) > 10 else ''}]"
