"""Linear discriminants of Gaussian classes, and the same with each row left out."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Discriminant:
    """Gaussian classes with one covariance, as sums that a row can be taken out of.

    Attributes
    ----------
    counts : ndarray of shape (C,)
        Weight of each class.
    means : ndarray of shape (C, d)
    scatter : ndarray of shape (d,)
        Eigenvalues of the scatter matrix about the class means.
    axes : ndarray of shape (d, d)
        Its eigenvectors, as columns.
    """

    counts: np.ndarray
    means: np.ndarray
    scatter: np.ndarray
    axes: np.ndarray


def fit_discriminant(F, y, weight, n_classes):
    """Return the `Discriminant` of weighted rows.

    Parameters
    ----------
    F : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    weight : ndarray of shape (n,)
    n_classes : int

    Returns
    -------
    Discriminant
    """
    counts = np.bincount(y, weights=weight, minlength=n_classes)
    sums = np.zeros((n_classes, F.shape[1]))
    np.add.at(sums, y, F * weight[:, None])
    means = sums / np.maximum(counts, np.finfo(float).tiny)[:, None]
    centred = F - means[y]
    # A row alone in its class is its mean: no rounding error is to be inverted.
    centred[np.bincount(y, minlength=n_classes)[y] == 1] = 0
    eigenvalues, axes = np.linalg.eigh((centred * weight[:, None]).T @ centred)
    return Discriminant(counts, means, eigenvalues.clip(0), axes)


def precision(eigenvalues, total):
    """Eigenvalues of ``d pinv((n - 1) Sigma + tr(Sigma) I)`` from the scatter's.

    Parameters
    ----------
    eigenvalues : ndarray of shape (d,)
    total : float
        The weight n of all rows.
    """
    ridged = eigenvalues + eigenvalues.sum() / degrees(total)
    if not ridged.max() > 0:
        return np.zeros_like(ridged)
    return len(ridged) / ridged


def degrees(total):
    """``n - 1``, but positive for weights that add up to less than two rows."""
    return np.maximum(total - 1, total / 2)


def log_priors(counts):
    """Logarithms of the class shares; an empty class counts as the smallest other."""
    counts = np.where(counts > 0, counts, counts[counts > 0].min())
    return np.log(counts / counts.sum())


def linear_form(model):
    """Coefficients and intercepts of ``f P mu' + log pi - mu P mu' / 2``."""
    values = precision(model.scatter, model.counts.sum())
    coef = (model.means @ model.axes * values) @ model.axes.T
    return coef, log_priors(model.counts) - (coef * model.means).sum(axis=1) / 2


def left_out_scores(model, F, y, removed):
    """Discriminant scores of rows of the support, by the model without that row.

    Exact: the scatter without a row is that with it less a rank-one matrix, and
    everything happens in the axes of the whole scatter, where the ridge may change.

    Parameters
    ----------
    model : Discriminant
    F : ndarray of shape (m, d)
        Some rows of the support.
    y : ndarray of shape (m,)
        Their classes; each must keep some weight.
    removed : ndarray of shape (m,)
        The weight to take out.

    Returns
    -------
    ndarray of shape (m, C)
    """
    d, rows = F.shape[1], np.arange(len(F))
    left = model.counts[y] - removed
    total = model.counts.sum() - removed
    x, means = F @ model.axes, model.means @ model.axes
    r = x - means[y]
    # The scatter loses `lost` r r', and the mean of the row's class moves by -`step` r.
    lost, step = removed * model.counts[y] / left, removed / left
    ridge = model.scatter.sum() - lost * (r**2).sum(axis=1)
    ridge = ridge.clip(0) / degrees(total)
    ridge = np.maximum(ridge, 1e-9 * max(model.scatter.max(), 1e-300))
    inverse = 1 / (model.scatter + ridge[:, None])
    scaled_r = r * inverse
    # Sherman-Morrison: (A - lost r r')^-1 = A^-1 + gain A^-1 r r' A^-1.
    r_r = (r * scaled_r).sum(axis=1)
    gain = lost / np.maximum(1 - lost * r_r, 1e-9)
    x_r = (x * scaled_r).sum(axis=1)
    mean_r = scaled_r @ means.T
    x_mean = (x * inverse) @ means.T + (gain * x_r)[:, None] * mean_r
    mean_mean = inverse @ (means**2).T + gain[:, None] * mean_r**2
    # The own class, the mean of which is mu - step r.
    own_x_r = x_r + gain * x_r * r_r
    own_mean_r = mean_r[rows, y] * (1 + gain * r_r)
    own_r_r = r_r * (1 + gain * r_r)
    mean_mean[rows, y] += step**2 * own_r_r - 2 * step * own_mean_r
    x_mean[rows, y] -= step * own_x_r
    priors = np.tile(log_priors(model.counts), (len(F), 1))
    priors += np.log(model.counts.sum() / total)[:, None]
    priors[rows, y] += np.log(left / model.counts[y])
    return d * (x_mean - mean_mean / 2) + priors


def spherical_form(model):
    """The linear form with the identity in place of P, for rows without scatter."""
    means = model.means
    return means, log_priors(model.counts) - (means**2).sum(axis=1) / 2


def wrong_spread(scores, y):
    """Mean standard deviation of the scores of the wrong classes of each row."""
    wrong = np.ones(scores.shape, dtype=bool)
    wrong[np.arange(len(y)), y] = False
    spread = scores[wrong].reshape(len(y), -1).std(axis=1).mean()
    # Of two classes one is wrong, and has no spread: that from the right one then.
    if spread > 0:
        return spread
    return max(scores.std(axis=1).mean(), np.finfo(float).tiny ** 0.25)
