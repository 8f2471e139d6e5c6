"""Images and labels that users pass, read."""

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skfewshot._labels import Labels, read_labels
from skfewshot._rows import (
    check_weight,
    distinct_rows,
    float_types,
    plain,
    reading,
    unit_rows,
)
from skfewshot._sklearn import Estimator
from skfewshot._unlabelled import has_columns, split_unknown, split_unlabelled
from skfewshot.multilabel._tokens import Support, Tokens


def read_support(
    estimator: Estimator, X: Any, y: Any, sample_weight: ArrayLike | None
) -> tuple[Support, Labels, NDArray]:
    """Read what `fit` is given, equal images merged and those of no weight left out.

    Returns
    -------
    support : Support
    labels : Labels
        Those of the support's images.
    rows : ndarray of int
        The row of `X` of each image; of equal ones the first.
    """
    array, labels = read_labelled(estimator, X, y, "X", "y")
    weight = check_weight(sample_weight, array[:, 0])
    kept = np.flatnonzero(weight > 0)
    # Of weight zero or not, what cannot be read is refused.
    tokens, labels = split_tokens(array)[kept], labels.restricted(kept)
    labels.check_usable(type(estimator).__name__)
    first, weight, _ = distinct_rows(_digests(tokens, labels), weight[kept])
    known = None if labels.known is None else labels.known[first]
    labels = replace(labels, indicator=labels.indicator[first], known=known)
    support = Support(tokens[first], labels.indicator, weight, known)
    return support, labels, kept[first]


def read_labelled(
    estimator: Any, X: Any, y: Any, X_name: str, y_name: str
) -> tuple[NDArray, Labels]:
    """Read images, see :func:`read_array`, and as many rows of labels."""
    array = read_array(estimator, X, reset=True)
    labels = read_partial_labels(estimator, y, array.dtype, y_name)
    if len(labels.indicator) != len(array):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {X_name} has "
            f"{len(array)} images, {y_name} has {len(labels.indicator)} rows."
        )
    return array, labels


def read_partial_labels(
    estimator: Any, y: Any, dtype: DTypeLike, name: str = "y"
) -> Labels:
    """Read indicators or one label a row, of which some are not known.

    Estimators without a parameter `unlabeled` need to know all.
    """
    known, classes = None, getattr(y, "columns", None)
    if hasattr(estimator, "unlabeled"):
        split = split_unknown if has_columns(y) else split_unlabelled
        y, known = split(y, estimator, name)
    labels = read_labels(y, dtype, is_column_of_classes=None)
    if known is None:
        return labels
    if known.ndim == 1:
        known = np.repeat(known[:, None], labels.indicator.shape[1], axis=1)
    if labels.is_multilabel and classes is not None:
        labels = replace(labels, classes=np.asarray(classes))
    return replace(labels, indicator=labels.indicator * known, known=known)


def read_array(estimator: Any, X: Any, *, reset: bool) -> NDArray:
    """Return X as an array of tokens, shape (n, 1 + K, d).

    Parameters
    ----------
    estimator : estimator
        Of which `n_tokens` says whether X is flattened.
    X : array-like of shape (n, 1 + K, d), (n, d) or (n, n_tokens * d)
        NaN is left in tokens that may be padding.
    reset : bool
        Whether to set, or to compare with, what `fit` learned of the shape.
    """
    X = plain(X, "X")
    n_dims = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
    if n_dims > 3:
        raise ValueError(
            f"X has the shape {np.shape(X)}; wanted (n_samples, 1 + K, d), "
            "(n_samples, d) or (n_samples, n_tokens * d)."
        )
    with reading("X"):
        array = (_read_3d if n_dims == 3 else _read_2d)(estimator, X, reset)
    if reset:
        estimator._token_dims = n_dims
    elif n_dims != estimator._token_dims:
        raise ValueError(
            f"X has {n_dims} dimensions, but {type(estimator).__name__} was fitted on "
            f"X of {estimator._token_dims} dimensions."
        )
    return array


def _read_3d(estimator: Any, X: Any, reset: bool) -> NDArray:
    if estimator.n_tokens is not None:
        raise ValueError(
            f"n_tokens={estimator.n_tokens} says that X is flattened, but X has the "
            f"shape {np.shape(X)}; leave n_tokens at None."
        )
    array = check_array(
        X, allow_nd=True, dtype=float_types(X), ensure_all_finite=False, input_name="X"
    )
    width = array.shape[2]
    if not array.shape[1] or not width:
        raise ValueError(
            f"X has the shape {array.shape}; wanted (n_samples, 1 + K, d) with at "
            "least one token, of at least one feature."
        )
    if reset:
        estimator.__dict__.pop("feature_names_in_", None)
        estimator.n_features_in_ = width
    elif width != estimator.n_features_in_ and estimator._token_dims == 3:
        raise ValueError(
            f"X has {width} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input, for each token."
        )
    return array


def _read_2d(estimator: Any, X: Any, reset: bool) -> NDArray:
    n_tokens = 1 if estimator.n_tokens is None else int(estimator.n_tokens)
    array = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=float_types(X),
        ensure_all_finite=True if estimator.n_tokens is None else "allow-nan",
    )
    if array.shape[1] % n_tokens:
        raise ValueError(
            f"X has {array.shape[1]} columns, which n_tokens={n_tokens} does not "
            "divide; wanted n_tokens times the width of a token."
        )
    return array.reshape(len(array), n_tokens, -1)


def split_tokens(array: NDArray) -> Tokens:
    """Split an array of tokens into global and local features.

    Parameters
    ----------
    array : ndarray of shape (n, 1 + K, d)
        Row 0 of an image is its global feature; where that is NaN, the mean of the
        local features takes its place. Other rows of NaN are padding. With K = 0 the
        global feature is the only local one too.

    Returns
    -------
    Tokens

    Raises
    ------
    ValueError
        If a value is infinite, a token is NaN in part, or an image has no local
        feature.
    """
    missing = np.isnan(array)
    absent = missing.all(axis=2)
    _check_values(array, missing, absent)
    first = 1 if array.shape[1] > 1 else 0
    present = ~absent[:, first:]
    empty = np.flatnonzero(~present.any(axis=1))
    if len(empty):
        shown = f"{empty[:20].tolist()}{' ...' if len(empty) > 20 else ''}"
        raise ValueError(
            f"Input X contains NaN only, and no local feature, for the images {shown}. "
            "Leave the images out that could not be read."
        )
    filled = unit_rows(np.where(absent[:, :, None], array.dtype.type(0), array))
    tokens = Tokens(filled[:, 0], filled[:, first:], present)
    if absent[:, 0].any():
        means = unit_rows(tokens.mean_parts())
        tokens = replace(tokens, whole=np.where(absent[:, :1], means, tokens.whole))
    return tokens


def _check_values(array: NDArray, missing: NDArray, absent: NDArray) -> None:
    """Refuse tokens that are NaN in part, and infinity."""
    broken = missing.any(axis=2) & ~absent
    if broken.any():
        image, token = np.argwhere(broken)[0]
        raise ValueError(
            f"Input X contains NaN in part of token {token} of image {image}; a token "
            "that is padding is NaN as a whole, any other holds none."
        )
    if np.isinf(array).any():
        image, token, _ = np.argwhere(np.isinf(array))[0]
        raise ValueError(
            f"Input X contains infinity, first in token {token} of image {image}; "
            "wanted finite values, or tokens of NaN for padding."
        )


def _digests(tokens: Tokens, labels: Labels) -> NDArray:
    """Return 16 bytes for each image and its labels; equal ones have equal bytes.

    Those of an image whose labels are all known do not depend on other images.
    """
    known = np.ones(len(tokens)) if labels.known is None else labels.known
    fields = (tokens.whole, tokens.parts, tokens.present, labels.indicator, known)
    found = [
        blake2b(
            b"".join(row.tobytes() for row in rows[: 4 + (not rows[4].all())]),
            digest_size=16,
        ).digest()
        for rows in zip(*fields, strict=True)
    ]
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 16)
