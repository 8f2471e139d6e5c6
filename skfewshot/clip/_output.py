"""The memory that embeddings are written to: taken once, or the caller's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows of memory taken at first for images that nobody has counted.
_FIRST_ROWS = 1024


class Rows:
    """Rows of float32 in memory that is taken once, or is the caller's.

    Parameters
    ----------
    n_rows : int or None
        How many there will be; None where nobody knows, and the memory has to grow.
    out : ndarray of float32 or None
        Where to write them.
    done : callable
        Called with the number of rows whenever some are written.
    """

    def __init__(
        self,
        n_rows: int | None,
        out: NDArray | None = None,
        done: Callable[[int], object] = lambda n: None,
    ) -> None:
        self._done = done
        self.n_seen = 0
        self._n_rows = _FIRST_ROWS if n_rows is None else n_rows
        self._array: NDArray = np.empty(0) if out is None else out
        self._is_given = out is not None

    def put(self, indexes: Sequence[int], rows: NDArray) -> None:
        """Write rows at indexes."""
        self.n_seen = max(self.n_seen, max(indexes) + 1)
        if self._array.ndim == 1:
            self._array = np.empty((self._n_rows, *rows.shape[1:]), np.float32)
        elif self._array.shape[1:] != rows.shape[1:]:
            raise ValueError(
                f"out has rows of shape {self._array.shape[1:]}; an image gives one of "
                f"shape {tuple(rows.shape[1:])}."
            )
        if self.n_seen > len(self._array):
            self._resize(max(self.n_seen, 2 * len(self._array)))
        self._array[list(indexes)] = rows
        self._done(len(indexes))

    def finish(self, missing: Sequence[Any] = ()) -> NDArray:
        """Return the rows, NaN at the indexes that are missing."""
        for index in missing:
            row = np.full((1, *self._array.shape[1:]), np.nan, np.float32)
            self.put([index], row)
        if self.n_seen < len(self._array):
            self._resize(self.n_seen)
        return self._array

    def _resize(self, n_rows: int) -> None:
        """Have memory for so many rows."""
        if not self._is_given:
            # In place, where the system can: the old memory and the new are one.
            self._array.resize((n_rows, *self._array.shape[1:]), refcheck=False)
        elif n_rows > len(self._array):
            raise ValueError(
                f"out has {len(self._array)} rows, but X has more images than that."
            )
        else:
            self._array = self._array[:n_rows]


def check_out(out: Any, n_rows: int | None, row_shape: tuple) -> None:
    """Check the array that a caller wants embeddings written to.

    Parameters
    ----------
    out : ndarray
    n_rows : int or None
        None where nobody knows.
    row_shape : tuple of int or None
        The shape of an embedding; ``None`` for a length that nobody knows yet.
    """
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        kind = getattr(out, "dtype", None)
        raise TypeError(
            f"out is a {type(out).__name__}{f' of {kind}' if kind else ''}; wanted is "
            "an array, or a memory map, of float32."
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only; open a memory map with mode 'r+' or 'w+'.")
    wanted = ("n" if n_rows is None else n_rows, *row_shape)
    fits = out.ndim == len(wanted) and all(
        want in (None, "n", have) for have, want in zip(out.shape, wanted, strict=True)
    )
    if not fits:
        shown = ", ".join("1 + K" if size is None else str(size) for size in wanted)
        raise ValueError(
            f"out has the shape {out.shape}; wanted is ({shown})"
            + (", n at least the number of images." if n_rows is None else ".")
        )
