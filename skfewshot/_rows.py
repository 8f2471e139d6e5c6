"""The one reader of rows and weights, and what is done to rows: unit norm, copies."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.utils.class_weight import compute_class_weight

from skfewshot._sklearn import _check_sample_weight
from skfewshot._torch import is_tensor, to_numpy
from skfewshot.clip._embedding import EmbeddingArray, encoder_of

#: The most that a weight may be: it counts rows, and far more than these overflow.
MOST_WEIGHT = 1e9
#: The most that a number among the parameters may be, unless it may be infinite.
MOST_PARAMETER = 1e12


def as_numpy(array: Any) -> Any:
    """Return a tensor, wherever it is, as an array, and anything else as it is.

    So are the tensors of a list. Half precision becomes single.
    """
    if isinstance(array, list | tuple) and any(map(is_tensor, array)):
        return [as_numpy(part) for part in array]
    if not is_tensor(array):
        return array
    if array.is_meta:
        raise TypeError("A tensor on the device meta has no numbers.")
    # Conjugates and negatives are often left for the next computation to take.
    array = array.detach().resolve_conj().resolve_neg()
    # NumPy has no bfloat16, nor floats of 8 bits.
    is_short = array.is_floating_point() and array.itemsize < 4
    return to_numpy(array.float() if is_short else array)


def plain(array: Any, name: str) -> Any:
    """Return what NumPy and scikit-learn read whole; refuse what they would not.

    Parameters
    ----------
    array : object
        What the user passed as rows, texts or weights.
    name : str
        What the user calls it.

    Returns
    -------
    object
        An array where `array` is a tensor, arrays where it is a list of tensors, else
        `array`.

    Raises
    ------
    ValueError
        If numbers are complex, of which the imaginary part would be lost, or masked,
        of which the mask would be.
    TypeError
        If they are dates, which would be counted from 1970, or a tensor is sparse or
        quantized.
    """
    if array is None or isinstance(array, EmbeddingArray):
        return None if array is None else np.asarray(array)
    if is_tensor(array):
        return as_numpy(_plain_tensor(array, name))
    if isinstance(array, list | tuple) and any(map(is_tensor, array)):
        return [plain(row, name) for row in array]
    array = without_mask(array, name)
    if any(map(_is_time, _dtypes(array))):
        raise TypeError(f"{name} holds dates or times; wanted numbers.")
    return array


def _plain_tensor(tensor: Any, name: str) -> Any:
    if tensor.is_meta:
        raise TypeError(f"{name} is a tensor on the device meta, which has no numbers.")
    if tensor.is_complex():
        raise ValueError(f"Complex data not supported: {name} is {tensor.dtype}.")
    if tensor.is_quantized or str(tensor.layout) != "torch.strided":
        raise TypeError(
            f"{name} is a tensor of {tensor.dtype} and {tensor.layout}; wanted plain "
            "numbers, as .to_dense() or .dequantize() makes them."
        )
    return tensor


def without_mask(array: Any, name: str) -> Any:
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


def _dtypes(array: Any) -> Any:
    """Return the dtypes of an array, or of the columns of a data frame."""
    if hasattr(array, "dtypes"):  # which a series has too, but one only.
        return array.dtypes if np.iterable(array.dtypes) else [array.dtypes]
    return [getattr(array, "dtype", None)]


def _is_time(dtype: Any) -> bool:
    is_temporal = getattr(dtype, "is_temporal", None)  # of polars
    return getattr(dtype, "kind", None) in ("m", "M") or (
        callable(is_temporal) and is_temporal()
    )


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse finite numbers among parameters, by name, with which logits overflow."""
    for name, value in parameters.items():
        if not isinstance(value, Real) or value in (np.inf, -np.inf):
            continue
        # Integers may be longer than can be shown.
        size = min(abs(value), 1e300)  # type: ignore[call-overload]
        if size > MOST_PARAMETER:
            raise ValueError(
                f"{name} is out of all proportion, {size:.3g} or more in size; wanted "
                f"is at most {MOST_PARAMETER:.0e}."
            )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Say of which argument a number is too large, in an error and not in a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            yield
        except OverflowError as error:
            raise ValueError(f"{name} holds a number too large: {error}.") from error


def check_weight(sample_weight: Any, X: NDArray) -> NDArray:
    """Return the weights of rows as an array in the precision of `X`.

    Weights too small for that precision's normal numbers become zero.

    Parameters
    ----------
    sample_weight : array-like of shape (n,), float or None
    X : ndarray of shape (n, n_features)

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If they are not finite, negative, above :data:`MOST_WEIGHT` or all zero, or not
        as many as rows.
    """
    sample_weight = plain(sample_weight, "sample_weight")
    with reading("sample_weight"):
        weight = _check_sample_weight(
            sample_weight, X, dtype=X.dtype, ensure_non_negative=True
        )
    check_weight_range(weight, "sample_weight")
    return np.where(weight < np.finfo(weight.dtype).tiny, 0, weight)


def check_weight_range(weight: NDArray, name: str, most: float = MOST_WEIGHT) -> None:
    """Refuse weights that are no number of rows."""
    if not (weight <= most).all():  # as NaN is not, either
        raise ValueError(
            f"{name} makes the weight of a row {np.max(weight):.3g}; wanted at most "
            f"{most:.0e}. Weights count rows: divide them by their mean."
        )


def class_weights(
    class_weight: Any, classes: NDArray, index: NDArray, weight: NDArray, most: float
) -> tuple[NDArray, NDArray]:
    """Return the weights of rows times those of their classes, and the latter alone.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
    classes : ndarray of shape (n_classes,)
        Sorted classes that have rows.
    index : ndarray of int, shape (n,)
        Which of them a row is of.
    weight : ndarray of shape (n,)
        Sample weights.
    most : float
        That a row may weigh: copies add up, and rare classes may weigh as much as all
        rows.

    Returns
    -------
    weight, copy : ndarrays of shape (n,)
    """
    with reading("class_weight"):
        by_class = compute_class_weight(
            class_weight, classes=classes, y=classes[index], sample_weight=weight
        ).astype(weight.dtype)
    if not (by_class >= 0).all() or not np.isfinite(by_class).all():
        raise ValueError(
            "class_weight must hold finite numbers, none of them negative; got "
            f"{class_weight!r}."
        )
    copy = by_class[index]
    with reading("class_weight"):
        weight = weight * copy
    check_weight_range(weight, "class_weight, times sample_weight,", most)
    return weight, copy


def check_rows(X: Any) -> Any:
    """Refuse rows that cannot be read, and say why; return them.

    Tensors come back as arrays.
    """
    encoder = encoder_of(X)
    X = plain(X, "X")
    _refuse_images(X)
    if encoder is not None and X.ndim == 2:
        _check_images(X)
    return X


def _refuse_images(X: Any) -> None:
    """Refuse images, their paths and tokens, and say what makes embeddings of them."""
    first = X[0] if isinstance(X, list | tuple) and X else None
    n_dimensions = getattr(X, "ndim", 1 + getattr(first, "ndim", 1))
    advice = "Images are embedded first: make_pipeline(CLIPFeaturizer(), classifier)."
    if isinstance(first, str | os.PathLike) or hasattr(first, "convert"):
        found = f"X is a {type(X).__name__} of {type(first).__name__}"
    elif n_dimensions == 3:
        found = "Found array with dim 3 as X"
        advice = (
            "Tokens are for MultiLabelPrototypeClassifier; CLIPFeaturizer() gives one "
            "embedding an image."
        )
    elif n_dimensions == 4:
        found = "Found array with dim 4 as X"
    else:
        return
    wanted = "embeddings, of shape (n_samples, n_features)"
    raise ValueError(f"{found}; wanted {wanted}. {advice}")


def _check_images(X: Any) -> None:
    """Name the images that could not be read; scikit-learn would only find a NaN."""
    unread = np.flatnonzero(np.isnan(np.asarray(X)).any(axis=1))
    if len(unread):
        shown = f"{unread[:20].tolist()}{' ...' if len(unread) > 20 else ''}"
        raise ValueError(
            "Input X contains NaN: the featurizer could not read the images at the "
            f"indexes {shown}. Leave their rows out: X[~np.isnan(X).any(axis=1)]."
        )


def float_types(X: Any) -> Any:
    """Return the dtypes to compute in: half precision becomes single, not double."""
    is_half = str(getattr(X, "dtype", None)).endswith("float16")
    is_single = is_half or _has_single_columns(X)
    return np.float32 if is_single else [np.float64, np.float32]


def _has_single_columns(X: Any) -> bool:
    """Say whether X is a frame of singles that scikit-learn would make doubles of."""
    dtypes = getattr(X, "dtypes", None)  # one where X is a series
    found = set(map(str, dtypes)) if np.iterable(dtypes) else set()
    return bool(found) and found <= {"Float32", "float[pyarrow]"}


def check_encoder(X: Any, fitted: Any) -> None:
    """Refuse embeddings of another encoder than the `fitted` one, if both are known."""
    encoder = encoder_of(X)
    if encoder is not None and fitted is not None and encoder != fitted:
        raise ValueError(
            f"X comes from the encoder {encoder}, but this classifier was fitted on "
            f"features of {fitted}; embed the images with the model that embedded the "
            "support."
        )


def unit_rows(rows: NDArray) -> NDArray:
    """Scale each row to length one; a row of zeros stays zero."""
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    limits = np.finfo(norms.dtype)
    if (
        norms.size
        and limits.tiny**0.25 < norms.min()
        and norms.max() < limits.max**0.25
    ):
        return rows / norms
    # First by the largest entry, so that no square overflows or vanishes.
    rows = _divide_rows(rows, np.abs(rows).max(axis=-1, keepdims=True))
    return _divide_rows(rows, np.linalg.norm(rows, axis=-1, keepdims=True))


def _divide_rows(rows: NDArray, sizes: NDArray) -> NDArray:
    return rows / np.where(sizes > 0, sizes, np.ones_like(sizes))


def are_unit_rows(X: NDArray) -> bool:
    """Say whether an array starts with rows such as a CLIPFeaturizer gives."""
    with np.errstate(over="ignore", invalid="ignore"):
        # Rows that were made up, as by SMOTE, are shorter and come later.
        norms = np.linalg.norm(X[:8], axis=1)
    return bool((np.abs(norms - 1) < 1e-3).all())


def sum_rows(rows: NDArray, index: NDArray, n_sums: int) -> NDArray:
    """Return the sums of the rows of each index, shape (n_sums, n_features)."""
    sums = np.zeros((n_sums, rows.shape[1]), dtype=rows.dtype)
    np.add.at(sums, index, rows)
    return sums


def class_means(
    features: NDArray, y: NDArray, sample_weight: NDArray, n_classes: int
) -> NDArray:
    """Return the unit-norm weighted mean of the rows of each class.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        Class indices in ``[0, n_classes)``.
    sample_weight : ndarray of shape (n_samples,)
    n_classes : int

    Returns
    -------
    ndarray of shape (n_classes, n_features)
    """
    weight = sample_weight.astype(features.dtype, copy=False)
    return unit_rows(sum_rows(features * weight[:, None], y, n_classes))


def merge_rows(
    features: NDArray, y: NDArray, weight: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
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
    index : ndarray of int, shape (n,)
        Which of them each row is.
    """
    labelled = np.column_stack([features, y.astype(features.dtype)])
    first, total, index = distinct_rows(labelled, weight)
    return features[first], y[first], total, index


def distinct_rows(rows: NDArray, weight: NDArray) -> tuple[NDArray, NDArray, NDArray]:
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
    index : ndarray of int, shape (n,)
        Which of the different rows each row is.
    """
    _, first, index = np.unique(_row_bytes(rows), True, True)
    return first, np.bincount(index, weights=weight).astype(weight.dtype), index


def row_order(rows: NDArray) -> NDArray:
    """Return the permutation that sorts rows, by their bytes: any order will do."""
    return np.argsort(_row_bytes(rows), kind="stable")


def _row_bytes(rows: NDArray) -> NDArray:
    rows = np.ascontiguousarray(rows)
    dtype: DTypeLike = np.dtype((np.void, rows.itemsize * rows.shape[1]))
    return rows.view(dtype)[:, 0]
