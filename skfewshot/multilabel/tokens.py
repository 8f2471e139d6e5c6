"""Images as sets of tokens: one global feature, local features, and what is padding."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

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

    whole: np.ndarray
    parts: np.ndarray
    present: np.ndarray

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, rows):
        return Tokens(self.whole[rows], self.parts[rows], self.present[rows])

    def mean_parts(self):
        """Return the mean local feature of each image, shape (n, d)."""
        return self.parts.sum(axis=1) / self.counts()[:, None]

    def counts(self):
        """Return the number of local features of each image, in their dtype."""
        return self.present.sum(axis=1).astype(self.parts.dtype)


def split_tokens(array):
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
        whole = np.where(absent[:, :1], means, tokens.whole)
        tokens = Tokens(whole, tokens.parts, present)
    return tokens


def digests(tokens, indicator):
    """Return a digest of each image and its labels; equal ones have equal digests.

    Parameters
    ----------
    tokens : Tokens
    indicator : ndarray of shape (n, L)

    Returns
    -------
    ndarray of uint8, shape (n, 16)
    """
    fields = (tokens.whole, tokens.parts, tokens.present, indicator)
    found = [
        blake2b(b"".join(row.tobytes() for row in rows), digest_size=16).digest()
        for rows in zip(*fields, strict=True)
    ]
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 16)


def token_mean(tokens, weight):
    """Return the weighted mean of the images' mean local features, shape (d,)."""
    return (weight / weight.sum()) @ tokens.mean_parts()


def blocks(n_rows, bytes_a_row):
    """Yield slices over `n_rows` whose rows take about 64 MB each time."""
    step = max(1, int(2**26 // max(1, bytes_a_row)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
