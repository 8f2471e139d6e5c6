"""Images as sets of local features: what users pass, read and mapped."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from sklearn.utils import check_array, gen_batches
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


@dataclass(frozen=True)
class Tokens:
    """The features of n images, unit rows.

    Attributes
    ----------
    whole : ndarray of shape (n, d)
        The global features.
    parts : ndarray of shape (n, K, d)
        The local features; zeros where there is padding.
    present : ndarray of bool, shape (n, K)
        False where there is padding. Each image has at least one part.
    """

    whole: NDArray
    parts: NDArray
    present: NDArray

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, rows: Any) -> "Tokens":
        return Tokens(self.whole[rows], self.parts[rows], self.present[rows])

    def astype(self, dtype: DTypeLike) -> "Tokens":
        """Return the tokens in another precision."""
        whole, parts = (x.astype(dtype, copy=False) for x in (self.whole, self.parts))
        return Tokens(whole, parts, self.present)

    def mean_parts(self) -> NDArray:
        """Return the mean local feature of each image, shape (n, d)."""
        counts = self.present.sum(axis=1).astype(self.parts.dtype)
        return self.parts.sum(axis=1) / counts[:, None]


@dataclass(frozen=True)
class Support:
    """Images and what is known of their labels, as the mathematics takes them.

    Attributes
    ----------
    tokens : Tokens
    indicator : ndarray of shape (n, L)
        1.0 where the image has the label, else 0.0.
    weight : ndarray of shape (n,)
        How many images each one is.
    known : ndarray of bool, shape (n, L), or None
        False where it is not known whether the image has the label, and the indicator
        is 0; None if all is known.
    """

    tokens: Tokens
    indicator: NDArray
    weight: NDArray
    known: NDArray | None = None

    def __getitem__(self, rows: Any) -> "Support":
        known = None if self.known is None else self.known[rows]
        if known is not None and known.all():
            known = None
        indicator, weight = self.indicator[rows], self.weight[rows]
        return Support(self.tokens[rows], indicator, weight, known)

    def with_known(self, rows: NDArray) -> tuple["Support", NDArray]:
        """Return the images of which something is known, and their `rows`."""
        if self.known is None:
            return self, rows
        has_known = self.known.any(axis=1)
        return self[has_known], rows[has_known]

    def of_labels(self, labels: NDArray) -> "Support":
        """Return the support with some of its labels."""
        known = None if self.known is None else self.known[:, labels]
        return replace(self, indicator=self.indicator[:, labels], known=known)

    @property
    def entry_weight(self) -> NDArray:
        """How much each row counts, or of unknown entries each entry, (n,) or (n, L).

        What is not known weighs nothing.
        """
        if self.known is None:
            return self.weight
        return self.weight[:, None] * self.known

    @property
    def taught(self) -> NDArray:
        """The indicator, with NaN where it is not known."""
        if self.known is None:
            return self.indicator
        return np.where(self.known, self.indicator, np.nan).astype(self.weight.dtype)

    @property
    def expected(self) -> NDArray:
        """The indicator or, where it is not known, the share of images with the label.

        That is among those of which it is known; 0 where it is known of none.
        """
        if self.known is None:
            return self.indicator
        weight = self.entry_weight
        total = np.maximum(weight.sum(axis=0), np.finfo(weight.dtype).tiny)
        share = (weight * self.indicator).sum(axis=0) / total
        return np.where(self.known, self.indicator, share)

    def mapped(self, feature_map: "FeatureMap") -> "Support":
        """Return the support with mapped features."""
        return replace(self, tokens=feature_map(self.tokens))


@dataclass(frozen=True)
class FeatureMap:
    r"""Maps tokens, :math:`\varphi(x) = \mathrm{norm}((x - \mu) W + b)`.

    Attributes
    ----------
    part_mean, whole_mean : ndarray of shape (d,)
        Means :math:`\mu` of local and of global features.
    part_matrix, whole_matrix : ndarray of shape (d, width) or None
        :math:`W` of each of the two; None is the identity.
    part_bias, whole_bias : ndarray of shape (width,) or None
    """

    part_mean: NDArray
    whole_mean: NDArray
    part_matrix: NDArray | None = None
    part_bias: NDArray | None = None
    whole_matrix: NDArray | None = None
    whole_bias: NDArray | None = None

    @property
    def of_parts(self) -> "Affine":
        """How local features are mapped, before they are scaled."""
        return Affine.of(self.part_mean, self.part_matrix, self.part_bias)

    @property
    def of_whole(self) -> "Affine":
        """How global features are mapped, before they are scaled."""
        return Affine.of(self.whole_mean, self.whole_matrix, self.whole_bias)

    def __call__(self, tokens: Tokens) -> Tokens:
        """Map tokens; padding stays zero."""
        parts, whole = self.of_parts(tokens.parts), self.of_whole(tokens.whole)
        parts = np.where(tokens.present[:, :, None], unit_rows(parts), 0)
        return Tokens(unit_rows(whole), parts, tokens.present)


@dataclass(frozen=True)
class Affine:
    """The map ``x @ matrix + shift``, where a matrix of None is the identity."""

    matrix: NDArray | None
    shift: NDArray

    @classmethod
    def of(
        cls, mean: NDArray, matrix: NDArray | None, bias: NDArray | None
    ) -> "Affine":
        """Return the map ``(x - mean) @ matrix + bias``."""
        shift = -mean if matrix is None else -mean @ matrix
        return cls(matrix, shift if bias is None else shift + bias)

    def linear(self, features: NDArray) -> NDArray:
        """Return ``features @ matrix``."""
        return features if self.matrix is None else features @ self.matrix

    def __call__(self, features: NDArray) -> NDArray:
        return self.linear(features) + self.shift


def feature_means(tokens: Tokens, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Return the weighted means of local and of global features."""
    shares = weight / weight.sum()
    return shares @ tokens.mean_parts(), shares @ tokens.whole


def blocks(n_rows: int, bytes_a_row: int) -> Iterator[slice]:
    """Return slices over `n_rows` whose rows take about 64 MB each time."""
    return gen_batches(n_rows, max(1, 2**26 // max(1, bytes_a_row)))


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
