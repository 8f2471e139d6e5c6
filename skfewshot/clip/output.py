"""Where embeddings go: an array that is taken once, the caller's own, or a tensor."""

import numpy as np

_FIRST_ROWS = 1024


class ArrayRows:
    """Rows of float32 in memory that is taken once, or is the caller's.

    Parameters
    ----------
    n_rows : int or None
        How many there will be; None where nobody knows, and the memory has to grow.
    out : ndarray of float32 or None
        Where to write them.
    """

    on_device = False

    def __init__(self, n_rows, out=None):
        self.n_rows = n_rows
        self.n_seen = 0
        self._array = out
        self._is_given = out is not None

    def put(self, indexes, rows):
        """Write rows at indexes.

        Parameters
        ----------
        indexes : list or range of int
        rows : tensor or ndarray of shape (len(indexes), ...)
        """
        self.n_seen = max(self.n_seen, max(indexes) + 1)
        if self._array is None:
            n_rows = _FIRST_ROWS if self.n_rows is None else self.n_rows
            self._array = self._new((n_rows, *rows.shape[1:]))
        elif self._array.shape[1:] != rows.shape[1:]:
            raise ValueError(
                f"out has rows of shape {self._array.shape[1:]}; an image gives one of "
                f"shape {tuple(rows.shape[1:])}."
            )
        if self.n_seen > len(self._array):
            self._array = self._resized(max(self.n_seen, 2 * len(self._array)))
        first, end = indexes[0], indexes[-1] + 1
        # A GPU would have to be waited for to take a list.
        is_slice = list(indexes) == list(range(first, end))
        self._array[slice(first, end) if is_slice else indexes] = self._own(rows)

    def _own(self, rows):
        return rows if isinstance(rows, np.ndarray) else rows.cpu().numpy()

    def finish(self, missing=()):
        """Return the rows, NaN at the indexes that are missing."""
        for index in missing:
            self.put([index], np.full((1, *self._array.shape[1:]), np.nan, np.float32))
        if self.n_seen < len(self._array):
            self._array = self._resized(self.n_seen)
        return self._array

    def _new(self, shape):
        return np.empty(shape, dtype=np.float32)

    def _resized(self, n_rows):
        """Return the rows in memory for so many."""
        if not self._is_given:
            # In place, where the system can: the old memory and the new are one.
            self._array.resize((n_rows, *self._array.shape[1:]), refcheck=False)
            return self._array
        if n_rows > len(self._array):
            raise ValueError(
                f"out has {len(self._array)} rows, but X has more images than that."
            )
        return self._array[:n_rows]


class TensorRows(ArrayRows):
    """Rows of float32 in a tensor, on the device that made them.

    Parameters
    ----------
    n_rows : int or None
    device : torch.device
    """

    on_device = True

    def __init__(self, n_rows, device):
        super().__init__(n_rows)
        self._device = device

    def seen(self):
        """Return the rows put so far, and zeros between them."""
        return self._array[: self.n_seen]

    def _own(self, rows):
        import torch

        if isinstance(rows, np.ndarray):
            rows = torch.from_numpy(np.array(rows))
        return rows.to(self._device)

    def _new(self, shape):
        import torch

        with torch.inference_mode(False):  # or it could not be trained on
            return torch.zeros(shape, dtype=torch.float32, device=self._device)

    def _resized(self, n_rows):
        resized = self._new((n_rows, *self._array.shape[1:]))
        n_kept = min(n_rows, len(self._array))
        resized[:n_kept] = self._array[:n_kept]
        return resized


def check_out(out, n_rows, row_shape):
    """Check the array that a caller wants embeddings written to.

    Parameters
    ----------
    out : ndarray
    n_rows : int or None
        None where nobody knows.
    row_shape : tuple of int or None
        The shape of an embedding; ``None`` for a length that nobody knows yet.

    Raises
    ------
    TypeError
        If it is no array of float32.
    ValueError
        If it cannot be written to, or has another shape.
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
