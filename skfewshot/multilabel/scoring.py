"""How well images fit prototypes: logits of patches, and of images by pooling them."""

import numpy as np
from scipy.special import logsumexp

#: Ways to score a query.
QUERY_SCORINGS = ("competitive", "local", "global", "both")
#: Logits of the nearest distance that is told apart from zero.
SQUARED_DISTANCE_FLOOR = 1e-6


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
    return scale * (1 - (2 - 2 * cosine).clip(min=SQUARED_DISTANCE_FLOOR) ** 0.5)


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

    Examples
    --------
    The first patch fits the first label best, so the second label gets little of it:

    >>> import numpy as np
    >>> from skfewshot.multilabel.scoring import compete
    >>> logits = np.array([[[2.0, 1.0], [-1.0, -1.0]]])
    >>> compete(logits, background=0.0, sharpness=4.0).round(1).tolist()
    [[[4.0, -4.0], [-4.0, -4.0]]]
    """
    dtype = logits.dtype.type
    logits = dtype(sharpness) * logits
    level = dtype(sharpness * background)
    if logits.shape[2] == 1:
        return logits - level
    best = logits.argmax(axis=2)[:, :, None]
    top = np.take_along_axis(logits, best, axis=2)
    odds = np.exp(logits - top)
    all_others = odds.sum(axis=2, keepdims=True) - odds
    # Without the best label: not by a difference, which may leave nothing of it.
    np.put_along_axis(odds, best, 0, axis=2)
    rest = odds.sum(axis=2, keepdims=True)
    np.put_along_axis(all_others, best, rest, axis=2)
    lost = rest[:, :, 0] < np.finfo(logits.dtype).tiny ** 0.5
    with np.errstate(divide="ignore"):
        others = np.log(np.maximum(all_others, 0)) + top
    if lost.any():
        # Where all others are out of sight of the best, by their own best.
        far = logits[lost]
        np.put_along_axis(far, best[lost], -np.inf, axis=1)
        of_best = logsumexp(far, axis=1, keepdims=True)
        fixed = others[lost]
        np.put_along_axis(fixed, best[lost], of_best, axis=1)
        others[lost] = fixed
    return logits - np.logaddexp(others, level)


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
