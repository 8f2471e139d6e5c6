"""Images as sets of local features, a support of them, and how they are mapped."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.utils import gen_batches

from skfewshot._rows import unit_rows


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
