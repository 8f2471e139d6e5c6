"""Which local features of a support image show a label: Loss Change Measurement."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from skfewshot._rows import unit_rows
from skfewshot.multilabel._scoring import SQUARED_DISTANCE_FLOOR, distance_logits
from skfewshot.multilabel._tokens import FeatureMap, Support

#: Ways to select local features.
SELECTIONS = ("lcm", "lcm_paper", "text", "none")


@dataclass(frozen=True)
class Selection:
    """The local features selected for each pair of image and label.

    Attributes
    ----------
    images, labels : ndarray of int, shape (n_pairs,)
        In the order of the images.
    chosen : ndarray of int, shape (n_pairs, m)
        Indices of local features, best first.
    valid : ndarray of bool, shape (n_pairs, m)
        False where an image has fewer than m.
    """

    images: NDArray
    labels: NDArray
    chosen: NDArray
    valid: NDArray

    def of_label(self, label: int, rows: NDArray) -> NDArray:
        """Return (row of X, feature) of what speaks for a label, shape (m_l, 2)."""
        pairs = np.flatnonzero(self.labels == label)
        pairs = pairs[np.argsort(rows[self.images[pairs]], kind="stable")]
        shown = np.repeat(rows[self.images[pairs]], self.valid[pairs].sum(axis=1))
        return np.column_stack([shown, self.chosen[pairs][self.valid[pairs]]])


def select(
    support: Support,
    feature_map: FeatureMap,
    label_vectors: NDArray,
    method: str,
    n_select: int,
    scale: float,
) -> Selection:
    """Select the local features that show each label of each image.

    Parameters
    ----------
    support : Support
        Not yet mapped.
    feature_map : FeatureMap
    label_vectors : ndarray of shape (L, d)
        Mapped label vectors, unit rows.
    method : {"lcm", "lcm_paper", "text", "none"}
    n_select : int
    scale : float

    Returns
    -------
    Selection
    """
    scores = selection_scores(support, feature_map, label_vectors, method, scale)
    images, labels = np.nonzero(support.indicator)
    n_kept = None if method == "none" else n_select
    return Selection(images, labels, *select_top(scores, images, labels, n_kept))


def loss_change(
    parts: NDArray,
    present: NDArray,
    intercept: NDArray,
    label_vectors: NDArray,
    labels: NDArray,
    scale: float,
) -> NDArray:
    r"""Return how much the alignment loss falls by keeping each local feature.

    Every local feature has a mask :math:`\rho_{jk} = 1` in the mean
    :math:`g_j(\rho) = \mathrm{mean}_k \, \rho_{jk} x_{jk}`, and the score is, to first
    order, what the loss of a label gains by it,

    .. math::

        -\rho \frac{\partial L_l}{\partial \rho_{jk}}
        = \frac{(Y_{jl} - p_{jl})\, s}{N K \, \delta_{jl} \, \|u_j\|}
        (\psi_l - c_{jl} \hat u_j) \cdot x_{jk} W_v

    with :math:`u_j = g_j W_v + b_v`, :math:`\hat u_j` its direction,
    :math:`c_{jl} = \hat u_j \cdot \psi_l`,
    :math:`\delta_{jl} = \|\hat u_j - \psi_l\|` and :math:`p` the sigmoid of
    :math:`s (1 - \delta)`: the agreement of text and patch, less what the image as a
    whole explains already.

    Parameters
    ----------
    parts : ndarray of shape (N, K, d)
        :math:`x_{jk} W_v`; zeros where there is padding.
    present : ndarray of bool, shape (N, K)
    intercept : ndarray of shape (d,)
        :math:`b_v`.
    label_vectors : ndarray of shape (L, d)
        :math:`\psi_l`, unit rows.
    labels : ndarray of shape (N, L)
        :math:`Y`, 0 or 1.
    scale : float
        :math:`s`.

    Returns
    -------
    ndarray of shape (N, K, L)
        Positive where the feature speaks for what `labels` say of the image.

    Examples
    --------
    An image of two patches, of which the first shows the label:

    >>> import numpy as np
    >>> from skfewshot.multilabel import loss_change
    >>> scores = loss_change(
    ...     np.array([[[1.0, 0.2], [0.0, 1.0]]]),
    ...     present=np.ones((1, 2), bool),
    ...     intercept=np.zeros(2),
    ...     label_vectors=np.array([[1.0, 0.0]]),
    ...     labels=np.ones((1, 1)),
    ...     scale=20.0,
    ... )
    >>> (scores > 0).ravel()
    array([ True, False])
    """
    n_parts = present.sum(axis=1, keepdims=True).astype(parts.dtype)
    mean = parts.sum(axis=1) / n_parts + intercept
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    direction = unit_rows(mean)
    cosine = direction @ label_vectors.T
    distance = np.sqrt(np.maximum(2 - 2 * cosine, SQUARED_DISTANCE_FLOOR))
    probability = expit(distance_logits(cosine, scale))
    factor = (labels - probability) * scale / (len(parts) * n_parts * distance)
    factor = factor / np.where(length > 0, length, 1)
    # (psi - c u) . x by its two products, not as a vector for each image and label.
    along = np.einsum("jkd,jd->jk", parts, direction)
    agreement = parts @ label_vectors.T - along[:, :, None] * cosine[:, None, :]
    return factor[:, None, :] * agreement


def selection_scores(
    support: Support,
    feature_map: FeatureMap,
    label_vectors: NDArray,
    method: str,
    scale: float,
) -> NDArray:
    """Return the score by which local features are selected, shape (N, K, L).

    Parameters
    ----------
    support, feature_map, label_vectors, scale
        See :func:`select`.
    method : {"lcm", "lcm_paper", "text", "none"}
        Signed loss change of the label; unsigned loss change added up over all labels,
        as published; agreement with the label's vector; or nothing, which scores all
        the same.

    Returns
    -------
    ndarray of shape (N, K, L)
        Minus infinity where there is padding.
    """
    parts, present = feature_map.linear(support.tokens.parts), support.tokens.present
    intercept = feature_map.intercept(feature_map.part_mean)
    if method == "none":
        scores = np.zeros((*present.shape, len(label_vectors)), dtype=parts.dtype)
    elif method == "text":
        scores = unit_rows(parts + intercept) @ label_vectors.T
    else:
        known = label_vectors, support.indicator, scale
        scores = loss_change(parts, present, intercept, *known)
        if method == "lcm_paper":
            total = np.abs(scores).sum(axis=2, keepdims=True)
            scores = total.repeat(len(label_vectors), axis=2)
    return np.where(present[:, :, None], scores, -np.inf)


def select_top(
    scores: NDArray, images: NDArray, labels: NDArray, n_select: int | None
) -> tuple[NDArray, NDArray]:
    """Return the best features of each pair of image and label.

    Parameters
    ----------
    scores : ndarray of shape (N, K, L)
    images, labels : ndarray of shape (n_pairs,)
        The pairs: which image, and which label it has.
    n_select : int or None
        How many features; None takes all of them.

    Returns
    -------
    chosen : ndarray of int, shape (n_pairs, m)
        Indices of features, best first; of equal ones the first.
    valid : ndarray of bool, shape (n_pairs, m)
        False where an image has fewer features than m.
    """
    of_pair = scores[images, :, labels]
    chosen = np.argsort(-of_pair, axis=1, kind="stable")[:, :n_select]
    valid = np.isfinite(np.take_along_axis(of_pair, chosen, axis=1))
    return chosen, valid
