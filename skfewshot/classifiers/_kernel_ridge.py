"""Weighted kernel ridge regression, and its residuals with each row left out."""

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

# Above this, a kernel matrix in double precision would take more than 512 MB.
_MOST_DOUBLE = 8192


def solve_ridge(K, R, weight, ridge):
    """Return ``(K + ridge W^-1)^-1 R``.

    Parameters
    ----------
    K : ndarray of shape (n, n)
        Kernel matrix; may be overwritten.
    R : ndarray of shape (n, C)
    weight : ndarray of shape (n,)
        The diagonal of W, positive.
    ridge : float

    Returns
    -------
    ndarray of shape (n, C)
    """
    dtype = np.dtype(float) if len(K) <= _MOST_DOUBLE else K.dtype
    root = np.sqrt(weight.astype(dtype))[:, None]
    A = K.astype(dtype, copy=False)
    # Symmetric, so that weights of any size leave it as well conditioned as can be.
    A *= root
    A *= root.T
    A[np.diag_indices(len(A))] += ridge
    # LAPACK works in place on columns, and A is its own transpose.
    factor = cho_factor(A.T, lower=True, overwrite_a=True, check_finite=False)
    return root * cho_solve(factor, root * R, overwrite_b=True, check_finite=False)


class LeftOutRidge:
    """Predictions for the rows of the support, by the ridge fit without that row.

    One eigendecomposition serves every strength of the ridge.

    Parameters
    ----------
    K : ndarray of shape (n, n)
    R : ndarray of shape (n, C)
    weight : ndarray of shape (n,)
    removed : ndarray of shape (n,)
        The weight that is taken from a row, at most all it has.
    """

    def __init__(self, K, R, weight, removed):
        self.R, self.weight, self.removed = R, weight, removed
        self.root = np.sqrt(weight)[:, None]
        self.values, self.vectors = eigh(self.root * K * self.root.T)
        self.values = self.values.clip(0)
        self.projected = self.vectors.T @ (self.root * R)

    def predictions(self, ridge):
        """Return ``k_i (K + ridge W_i^-1)^-1 R`` for each i, shape (n, C)."""
        inverse = 1 / (self.values + ridge)
        a = self.root * ((self.vectors * inverse) @ self.projected)
        h = self.weight * (self.vectors**2 @ inverse)
        # The entry of the ridge's diagonal grows from ridge / w to ridge / (w - m), by
        # the inverse of this; by infinity where the row goes.
        u = self.weight * (self.weight - self.removed) / (ridge * self.removed)
        return self.R - a * (self.weight / self.removed / (u + h))[:, None]
