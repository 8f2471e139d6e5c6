"""How well images fit prototypes: logits of patches, and of images by pooling them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot.multilabel._tokens import Tokens, blocks

#: Ways to score a query.
QUERY_SCORINGS = ("competitive", "local", "global", "both")
#: The least squared distance that is told apart from zero.
SQUARED_DISTANCE_FLOOR = 1e-6


def distance_logits(cosine: Any, scale: float) -> Any:
    r"""Return the paper's logit :math:`s (1 - \delta)` of unit vectors.

    Parameters
    ----------
    cosine : ndarray, or tensor in the training of a prior
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


def compete(logits: NDArray, background: float, sharpness: float) -> NDArray:
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
    >>> from skfewshot.multilabel import compete
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
    rest = logits.copy()
    np.put_along_axis(rest, best, -np.inf, axis=2)
    second = rest.max(axis=2, keepdims=True)
    odds = np.exp(rest - second)
    with np.errstate(divide="ignore"):
        others = np.log(np.maximum(odds.sum(axis=2, keepdims=True) - odds, 0)) + second
    # Not a difference of sums with the best in them, which may leave nothing of the
    # others: all but the best itself compete with it apart, as with the background.
    top = np.take_along_axis(logits, best, axis=2)
    apart = np.repeat(np.logaddexp(top, level), logits.shape[2], axis=2)
    np.put_along_axis(apart, best, level, axis=2)
    return logits - np.logaddexp(others, apart)


def pool_top(evidence: NDArray, present: NDArray, n_top: int) -> NDArray:
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
    masked = np.where(present[:, :, None], evidence, -np.inf)
    # The order within the largest is left open by partition, and so is their sum.
    largest = np.sort(np.partition(masked, -n_top, axis=1)[:, -n_top:], axis=1)
    return largest.mean(axis=1, where=np.isfinite(largest))


@dataclass(frozen=True)
class Scorer:
    """How tokens are scored, all but the prototypes.

    Attributes
    ----------
    scale : float
    scoring : {"competitive", "local", "global", "both"}
    n_top : int
        How many of an image's patches count, for each label.
    background, sharpness : float
        The logit of the background, and how sharply labels compete.
    """

    scale: float
    scoring: str
    n_top: int
    background: float = 0.0
    sharpness: float = 1.0

    def without_competition(self) -> "Scorer":
        """Return this scorer without competition between labels."""
        scoring = "local" if self.scoring == "competitive" else self.scoring
        return replace(self, scoring=scoring)

    def evidence(self, cosine: NDArray) -> NDArray:
        """Return the logits of patches, shape (n, K, L), from cosines."""
        logits = distance_logits(cosine, self.scale)
        if self.scoring == "competitive":
            return compete(logits, self.background, self.sharpness)
        return logits

    def pooled(
        self, whole_cosine: NDArray, part_cosine: NDArray, present: NDArray
    ) -> NDArray:
        """Return the scores of images, shape (n, L), from cosines."""
        if self.scoring == "global":
            return distance_logits(whole_cosine, self.scale)
        local = pool_top(self.evidence(part_cosine), present, self.n_top)
        if self.scoring == "both":
            return (distance_logits(whole_cosine, self.scale) + local) / 2
        return local


def score(
    tokens: Tokens,
    feature_map: Callable[[Tokens], Tokens],
    prototypes: NDArray,
    scorer: Scorer,
) -> NDArray:
    """Return the scores of images, shape (n, L).

    Parameters
    ----------
    tokens : Tokens
    feature_map : callable
        Maps tokens; applied to some images at a time.
    prototypes : ndarray of shape (L, d)
    scorer : Scorer
    """
    scores = np.empty((len(tokens), len(prototypes)), dtype=tokens.parts.dtype)
    for rows in blocks(len(tokens), bytes_of_image(tokens, len(prototypes))):
        part = feature_map(tokens[rows])
        scores[rows] = scorer.pooled(
            part.whole @ prototypes.T, part.parts @ prototypes.T, part.present
        )
    return scores


def blend(local: Any, whole: Any, share: float) -> Any:
    """Return the mean of local and global scores, of which `share` is the global."""
    return (1 - share) * local + share * whole


def explain(
    tokens: Tokens,
    feature_map: Callable[[Tokens], Tokens],
    prototypes: NDArray,
    scorer: Scorer,
) -> NDArray:
    """Return the evidence of patches, shape (n, K, L); NaN for padding.

    Parameters
    ----------
    tokens, feature_map, prototypes, scorer
        See :func:`score`.
    """
    n, n_parts, _ = tokens.parts.shape
    maps = np.empty((n, n_parts, len(prototypes)), dtype=tokens.parts.dtype)
    for rows in blocks(n, 4 * len(prototypes) * n_parts * maps.itemsize):
        mapped = feature_map(tokens[rows])
        evidence = scorer.evidence(mapped.parts @ prototypes.T)
        maps[rows] = np.where(mapped.present[:, :, None], evidence, np.nan)
    return maps


def bytes_of_image(tokens: Tokens, n_labels: int) -> int:
    """Return about how many bytes the scores of one image take on the way."""
    _, n_parts, width = tokens.parts.shape
    return 4 * n_parts * max(n_labels, width) * tokens.parts.itemsize
