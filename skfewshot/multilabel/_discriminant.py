"""What tells a label from the others in the global feature: a ridge by its text."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

# The penalty, in images: features have length one.
_RIDGE = 1.0
# A row is all there is from a leverage of one less this on.
_ALONE = 1e-6
# Squares of cosines that come from rounding errors alone, added up over a support.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Discriminant:
    """A linear score of the global feature for each label.

    Attributes
    ----------
    coef : ndarray of shape (L, d)
    intercept : ndarray of shape (L,)
    """

    coef: NDArray
    intercept: NDArray

    def __call__(self, features: NDArray) -> NDArray:
        """Return the scores of mapped features (n, d), shape (n, L)."""
        return features @ self.coef.T + self.intercept

    def times(self, factor: float) -> "Discriminant":
        """Return the discriminant in other units."""
        factor = self.coef.dtype.type(factor)
        return Discriminant(factor * self.coef, factor * self.intercept)


class _Ridge(NamedTuple):
    """Ridge regressions of k targets on centred rows.

    Attributes
    ----------
    coef : ndarray of shape (d, k)
    left_out : ndarray of shape (N, k)
        What the regression without a row says of it.
    left_out_mean : ndarray of shape (N, k)
        The mean of the targets without the row.
    """

    coef: NDArray
    left_out: NDArray
    left_out_mean: NDArray


def fit_discriminant(
    features: NDArray,
    indicator: NDArray,
    weight: NDArray,
    text: NDArray | None = None,
    text_share: float | None = None,
) -> tuple[Discriminant, NDArray, float]:
    r"""Find what tells each label from the rest, near what its text says.

    The discriminant :math:`w_l` of a label and its intercept :math:`b_l` minimise

    .. math::

        \sum_j \omega_j \, (Y_{jl} - b_l - w_l \cdot x_j)^2
        + \lambda \, \|w_l - \gamma \psi_l\|^2,

    which is

    .. math::

        w_l = \gamma \psi_l + (S + \lambda I)^{-1} \sum_j \omega_j
              (x_j - \bar x)(Y_{jl} - \gamma \, \psi_l \cdot x_j),

    the mean of the images with the label less that of the background, the images
    without, as far as the text does not foretell it, seen through the shrunk scatter
    :math:`S + \lambda I` that all labels share. The scale :math:`\gamma \ge 0` is that
    by which the texts explain best, by least squares over all labels, what the
    regressions without an image do not know of it.

    Parameters
    ----------
    features : ndarray of shape (N, d)
        :math:`x_j`, mapped, unit rows.
    indicator : ndarray of shape (N, L)
        :math:`Y`.
    weight : ndarray of shape (N,)
        :math:`\omega`.
    text : ndarray of shape (L, d) or None
        :math:`\psi_l`, unit rows.
    text_share : float or None
        With None the text is the prior. A number from 0 to 1 is its share in a mixture
        with the discriminant of the images alone.

    Returns
    -------
    discriminant : Discriminant
    left_out : ndarray of shape (N, L)
        The scores of each row by the discriminants without it. The map of the features
        and :math:`\gamma` are those of all rows.
    text_scale : float
        :math:`\gamma`; 0 without text.

    Notes
    -----
    :math:`\lambda` is 1; with text :math:`1 + 1 / \bar n` for :math:`\bar n` images a
    label, since one image says less than a text.
    """
    x, omega = features.astype(np.float64), weight.astype(np.float64)
    targets = indicator.astype(np.float64)
    n_labels = targets.shape[1]
    psi = np.zeros((n_labels, x.shape[1])) if text is None else text.astype(np.float64)
    by_text = x @ psi.T
    ridge = _RIDGE
    if text is not None:
        ridge += 1 / _mean_count(omega @ targets)
    found = _ridge(x, np.hstack([targets, by_text]), omega, ridge)
    coef_l, coef_t = np.hsplit(found.coef, 2)
    left_l, left_t = np.hsplit(found.left_out, 2)
    scale = 0.0
    if text is not None:
        scale = _text_scale(targets - left_l, by_text - left_t, omega)
    if text_share is None:
        coef = coef_l + scale * (psi.T - coef_t)
        left_out = left_l + scale * (by_text - left_t)
    else:
        mean_l, mean_t = np.hsplit(found.left_out_mean, 2)
        coef = (1 - text_share) * coef_l + text_share * scale * psi.T
        of_text = mean_l + scale * (by_text - mean_t)
        left_out = (1 - text_share) * left_l + text_share * of_text
    share = omega / omega.sum()
    intercept = share @ targets - (share @ x) @ coef
    dtype = features.dtype
    fitted = Discriminant(coef.T.astype(dtype), intercept.astype(dtype))
    return fitted, left_out.astype(dtype), scale


def _ridge(x: NDArray, targets: NDArray, weight: NDArray, ridge: float) -> _Ridge:
    """Fit, and leave each row out in closed form.

    With :math:`h_j` the leverage of a row, the residual without it is that with it over
    :math:`1 - h_j`.
    """
    share = weight / weight.sum()
    mean = share @ targets
    centred, rest = x - share @ x, targets - mean
    factor = cho_factor(_scatter(centred, weight) + ridge * np.eye(x.shape[1]))
    coef = cho_solve(factor, centred.T @ (weight[:, None] * rest))
    own = np.einsum("nd,dn->n", centred, cho_solve(factor, centred.T))
    left_out = _without(mean + centred @ coef, targets, share + weight * own)
    return _Ridge(coef, left_out, _without(mean, targets, share))


def _scatter(centred: NDArray, weight: NDArray) -> NDArray:
    return (weight[:, None] * centred).T @ centred


def _without(fitted: NDArray, targets: NDArray, leverage: NDArray) -> NDArray:
    """Return what is said of each row without it: nothing where there is no other."""
    remains = (1 - leverage)[:, None]
    left = fitted - leverage[:, None] * targets
    return np.where(remains > _ALONE, left / np.maximum(remains, _ALONE), 0)


def _text_scale(surprise: NDArray, by_text: NDArray, weight: NDArray) -> float:
    """Return by how much the texts explain the surprises, by least squares.

    It is 1 where there is nothing to explain, as of a single image: then texts stand
    alone, and any scale will do.
    """
    along = weight @ (surprise * by_text).sum(axis=1)
    total = weight @ (by_text**2).sum(axis=1)
    return float(max(0.0, along) / total) if total > _NOTHING else 1.0


def _mean_count(counts: NDArray) -> float:
    return max(1.0, float(counts[counts > 0].mean()))
