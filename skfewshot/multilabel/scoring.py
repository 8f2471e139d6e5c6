"""How well images fit prototypes: logits of patches, and of images by pooling them."""

import numpy as np
from scipy.special import logsumexp

#: Ways to score a query.
QUERY_SCORINGS = ("competitive", "local", "global", "both")
# Logits of the nearest distance that is told apart from zero.
_SQUARED_DISTANCE_FLOOR = 1e-6


def distance_logits(cosine, scale):
    r"""Return the paper's logit :math:`s (1 - \delta)` of unit vectors.

    Parameters
    ----------
    cosine : ndarray or tensor
        Cosines of unit vectors, of which :math:`\delta = \sqrt{2 - 2 \cos}` is the
        distance.
    scale : float
        :math:`s > 0`.

    Returns
    -------
    ndarray or tensor
        From ``-scale`` to just below ``scale``.
    """
    return scale * (1 - (2 - 2 * cosine).clip(min=_SQUARED_DISTANCE_FLOOR) ** 0.5)


def compete(logits, background, sharpness):
    r"""Let the labels, and a background, compete for each patch.

    .. math::

        e_{kl} = \tau s_{kl}
        - \log\Big(e^{\tau b} + \sum_{l' \ne l} e^{\tau s_{kl'}}\Big)

    are the log odds that patch k shows label l, not another one and not the background.
    A patch that fits another label better is no evidence, however well it fits.

    Parameters
    ----------
    logits : ndarray of shape (n, K, L)
    background : float
        The logit :math:`b` of what is none of the labels.
    sharpness : float
        :math:`\tau > 0`.

    Returns
    -------
    ndarray of shape (n, K, L)
    """
    dtype = logits.dtype.type
    logits = dtype(sharpness) * logits
    level = dtype(sharpness * background)
    if logits.shape[2] == 1:
        return logits - level
    total = np.logaddexp(logsumexp(logits, axis=2, keepdims=True), level)
    # What is left of the total without the label: by a difference, but for the best
    # label, whose share may be all but 1.
    share = np.exp(np.minimum(logits - total, dtype(np.log(0.5))))
    others = total + np.log1p(-share)
    best = logits.argmax(axis=2)[:, :, None]
    rest = logits.copy()
    np.put_along_axis(rest, best, -np.inf, axis=2)
    of_best = np.logaddexp(logsumexp(rest, axis=2, keepdims=True), level)
    np.put_along_axis(others, best, of_best, axis=2)
    return logits - others


def pool_top(evidence, present, n_top):
    """Return the mean of the `n_top` largest values over the patches of each image.

    Parameters
    ----------
    evidence : ndarray of shape (n, K, L)
    present : ndarray of bool, shape (n, K)
        Patches that are not padding. Images with fewer than `n_top` of them take all.
    n_top : int

    Returns
    -------
    ndarray of shape (n, L)
    """
    n_top = min(n_top, evidence.shape[1])
    lowest = evidence.dtype.type(-np.inf)
    masked = np.where(present[:, :, None], evidence, lowest)
    largest = np.partition(masked, -n_top, axis=1)[:, -n_top:]
    # The order within the largest is left open by partition, and so is their sum.
    largest = np.sort(largest, axis=1)
    found = np.isfinite(largest)
    total = np.where(found, largest, 0).sum(axis=1, dtype=evidence.dtype)
    return total / found.sum(axis=1).astype(evidence.dtype)


def pool(whole, evidence, present, scoring, n_top):
    """Return the score of each image and label from the logits of its features.

    Parameters
    ----------
    whole : ndarray of shape (n, L)
        Logits of the global features.
    evidence : ndarray of shape (n, K, L)
        Logits of the local features, after :func:`compete` where they do.
    present : ndarray of bool, shape (n, K)
    scoring : {"competitive", "local", "global", "both"}
    n_top : int
        How many of an image's patches count, for each label.

    Returns
    -------
    ndarray of shape (n, L)
    """
    if scoring == "global":
        return whole
    local = pool_top(evidence, present, n_top)
    return (whole + local) / 2 if scoring == "both" else local
