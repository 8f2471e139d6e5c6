"""What users pass as rows, labels and weights, read without losing a part of it."""

from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse

from skfewshot._arrays import as_numpy
from skfewshot._sklearn import _check_sample_weight
from skfewshot._torch import is_tensor

#: The most that a weight may be: it counts rows, and far more than these overflow.
MOST_WEIGHT = 1e9
#: The most that a number among the parameters may be, unless it may be infinite.
MOST_PARAMETER = 1e12
# Above this, not every integer is a double.
_MOST_EXACT = 2**53


def plain(array, name):
    """Return what NumPy, torch and scikit-learn read whole; refuse what they would not.

    Parameters
    ----------
    array : object
        What the user passed as rows, texts or weights.
    name : str
        What the user calls it.

    Returns
    -------
    object
        A tensor without graph where `array` is one, arrays where it is a list of
        tensors, else `array`.

    Raises
    ------
    ValueError
        If numbers are complex, of which the imaginary part would be lost, or masked,
        of which the mask would be.
    TypeError
        If they are dates, which would be counted from 1970, or a tensor is sparse or
        quantized.
    """
    if is_tensor(array):
        return _plain_tensor(array, name)
    if isinstance(array, list | tuple) and any(map(is_tensor, array)):
        return [
            as_numpy(_plain_tensor(row, name)) if is_tensor(row) else row
            for row in array
        ]
    array = without_mask(array, name)
    if any(map(_is_time, _dtypes(array))):
        raise TypeError(f"{name} holds dates or times; wanted numbers.")
    return array


def _plain_tensor(tensor, name):
    if tensor.is_complex():
        raise ValueError(f"Complex data not supported: {name} is {tensor.dtype}.")
    if tensor.is_quantized or str(tensor.layout) != "torch.strided":
        raise TypeError(
            f"{name} is a tensor of {tensor.dtype} and {tensor.layout}; wanted plain "
            "numbers, as .to_dense() or .dequantize() makes them."
        )
    return tensor.detach().resolve_neg()


def without_mask(array, name):
    """Return the array below a mask that masks nothing; refuse another one."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    masked = np.ma.getmaskarray(array)
    if masked.any():
        raise ValueError(
            f"{name} is a masked array, and {int(masked.sum())} of its values are "
            "masked. Leave their rows out, or fill them: .filled()."
        )
    return array.data


def _dtypes(array):
    """Return the dtypes of an array, or of the columns of a data frame."""
    if hasattr(array, "dtypes"):  # which a series has too, but one only.
        return array.dtypes if np.iterable(array.dtypes) else [array.dtypes]
    return [getattr(array, "dtype", None)]


def _is_time(dtype):
    is_temporal = getattr(dtype, "is_temporal", None)  # of polars
    return getattr(dtype, "kind", None) in ("m", "M") or (
        callable(is_temporal) and is_temporal()
    )


def check_parameters(parameters):
    """Refuse finite numbers among parameters, by name, with which logits overflow."""
    for name, value in parameters.items():
        if not isinstance(value, Real) or value in (np.inf, -np.inf):
            continue
        if abs(value) > MOST_PARAMETER:
            size = min(abs(value), 1e300)  # integers may be longer than can be shown
            raise ValueError(
                f"{name} is out of all proportion, {size:.3g} or more in size; wanted "
                f"is at most {MOST_PARAMETER:.0e}."
            )


@contextmanager
def reading(name):
    """Say of which argument a number is too large, in an error and not in a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            yield
        except OverflowError as error:
            raise ValueError(f"{name} holds a number too large: {error}.") from error


def check_weight(sample_weight, X):
    """Return the weights of rows as a NumPy array in the precision of `X`.

    Weights too small for that precision's normal numbers become zero.

    Parameters
    ----------
    sample_weight : array-like of shape (n,), float or None
    X : ndarray or tensor of shape (n, n_features)

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If they are not finite, negative, above :data:`MOST_WEIGHT` or all zero, or not
        as many as rows.
    """
    if is_tensor(X):
        X = np.empty((len(X), 0), dtype=str(X.dtype).removeprefix("torch."))
    sample_weight = as_numpy(plain(sample_weight, "sample_weight"))
    with reading("sample_weight"):
        weight = _check_sample_weight(
            sample_weight, X, dtype=X.dtype, ensure_non_negative=True
        )
    check_weight_range(weight, "sample_weight")
    return np.where(weight < np.finfo(weight.dtype).tiny, 0, weight)


def check_weight_range(weight, name, most=MOST_WEIGHT):
    """Refuse weights that are no number of rows."""
    if not (weight <= most).all():  # as NaN is not, either
        raise ValueError(
            f"{name} makes the weight of a row {np.max(weight):.3g}; wanted at most "
            f"{most:.0e}. Weights count rows: divide them by their mean."
        )


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
