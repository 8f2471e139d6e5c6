"""The exponential kernel of unit rows, and products with it in bounded memory."""

import numpy as np

# Entries of one block of a kernel matrix: 128 MB in single precision.
_BLOCK = 2**25


def exponential_kernel(F, S, beta):
    """Return ``exp(-beta (1 - f s'))`` for all pairs of rows, in the dtype of `F`.

    Parameters
    ----------
    F : ndarray of shape (n, d)
    S : ndarray of shape (m, d)
    beta : float

    Returns
    -------
    ndarray of shape (n, m)
    """
    kernel = F @ S.T
    kernel -= 1
    kernel *= kernel.dtype.type(beta)
    return np.exp(kernel, out=kernel)


def in_blocks(function, rows, width):
    """Apply `function` to some rows at a time, `width` entries of memory for each."""
    size = max(1, _BLOCK // width)
    parts = [function(rows[i : i + size]) for i in range(0, len(rows), size)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
