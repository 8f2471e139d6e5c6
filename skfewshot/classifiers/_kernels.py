"""The exponential kernel of unit rows, and products with it in bounded memory."""

import numpy as np
from scipy.sparse import csr_array

from skfewshot._rows import concatenate, exponentials, like
from skfewshot._torch import is_tensor, to_tensor

# Entries of one block of a kernel matrix: 128 MB in single precision.
_BLOCK = 2**25
#: Beta from which on rounding errors of cosines show.
STEEP = 1e4


def exponential_kernel(F, S, beta):
    """Return ``exp(-beta (1 - f s'))`` for all pairs of rows, in the dtype of `F`.

    Parameters
    ----------
    F : ndarray or tensor of shape (n, d)
    S : ndarray or tensor of shape (m, d)
    beta : float

    Returns
    -------
    ndarray or tensor of shape (n, m)
    """
    kernel = F @ S.T
    kernel -= 1
    kernel *= float(beta)
    if beta > STEEP:
        # Of a cosine that rounding leaves above 1 the exponential would overflow.
        kernel = kernel.clip(max=1.0)
    return exponentials(kernel)


def label_product(kernel, labels, weights, n_classes):
    """Return the product of a kernel with weighted one-hot labels.

    A product with the dense labels would cost as much as all the rest where there are
    many classes.

    Parameters
    ----------
    kernel : ndarray or tensor of shape (n, m)
        May be overwritten.
    labels : ndarray of int, shape (m,)
    weights : ndarray of shape (m,)
    n_classes : int

    Returns
    -------
    ndarray or tensor of shape (n, n_classes)
    """
    weights = like(weights, kernel)
    if is_tensor(kernel):
        index = to_tensor(labels, device=kernel.device)
        sums = kernel.new_zeros(len(kernel), n_classes)
        return sums.index_add_(1, index, kernel.mul_(weights))
    ends = np.arange(len(labels) + 1)
    return kernel @ csr_array((weights, labels, ends), shape=(len(labels), n_classes))


def in_blocks(function, rows, width):
    """Apply `function` to some rows at a time, `width` entries of memory for each."""
    size = max(1, _BLOCK // width)
    return concatenate(
        [function(rows[i : i + size]) for i in range(0, len(rows), size)]
    )
