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
#: Of the published masks: the decay of the mean of their importance, as published.
MASK_DECAY = 0.95
#: As many steps as that mean reaches back, 1 / (1 - 0.95).
MASK_STEPS = 20
#: How far a step moves a mask where the loss of one label and feature has the slope 1.
#: Of 0.01 to 1 this finds most planted patches; masks end some hundredths away from 1.
MASK_RATE = 0.03
#: The importance of a feature that is kept, in means over all features: on validation
#: scenes a higher one loses more, by .5 and 1 mAP falls by .5 and 2.5 at one shot.
MASK_THRESHOLD = 0.5


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
        The masks of "lcm_paper" leave as many as pass their threshold, and "none" all.
    scale : float

    Returns
    -------
    Selection
    """
    scores = selection_scores(support, feature_map, label_vectors, method, scale)
    images, labels = np.nonzero(support.indicator)
    n_kept = None if method in ("none", "lcm_paper") else n_select
    chosen, valid = select_top(scores, images, labels, n_kept)
    # Of what masks leave, no more columns than the image with most features needs.
    most = int(valid.sum(axis=1).max(initial=1))
    return Selection(images, labels, chosen[:, :most], valid[:, :most])


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
        :math:`Y`, 0 or 1, or NaN where it is not known, which adds nothing to a loss.
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
    factor, direction, cosine = _pull(mean, label_vectors, labels, scale)
    # (psi - c u) . x by its two products, not as a vector for each image and label.
    along = np.einsum("jkd,jd->jk", parts, direction)
    agreement = parts @ label_vectors.T - along[:, :, None] * cosine[:, None, :]
    return (factor / n_parts)[:, None, :] * agreement


def _pull(
    mean: NDArray, label_vectors: NDArray, labels: NDArray, scale: float
) -> tuple[NDArray, NDArray, NDArray]:
    r"""Return what :math:`-\partial L_l / \partial u_j` is made of.

    It is ``factor[j, l] * (label_vectors[l] - cosine[j, l] * direction[j])``.

    Parameters
    ----------
    mean : ndarray of shape (N, d)
        :math:`u_j`, the masked mean of each image, mapped.
    label_vectors, labels, scale
        See :func:`loss_change`.
    """
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    direction = unit_rows(mean)
    cosine = direction @ label_vectors.T
    distance = np.sqrt(np.maximum(2 - 2 * cosine, SQUARED_DISTANCE_FLOOR))
    probability = expit(distance_logits(cosine, scale))
    surprise = np.where(np.isnan(labels), 0, labels - probability)
    factor = surprise * scale / (len(mean) * distance)
    return factor / np.where(length > 0, length, 1), direction, cosine


def mask_importance(
    parts: NDArray,
    present: NDArray,
    intercept: NDArray,
    label_vectors: NDArray,
    labels: NDArray,
    scale: float,
) -> NDArray:
    r"""Return how much the trained mask of each local feature matters to the loss.

    As published, each local feature of an image has one mask for all labels. The
    masks start at 1 and are trained on the alignment loss L, the mean over all images
    and labels; on the way the importance is an exponential mean,

    .. math::

        E_{jk} \leftarrow \beta E_{jk} + (1 - \beta)
        \left|\rho_{jk} \frac{\partial L}{\partial \rho_{jk}}\right|,
        \qquad
        \rho_{jk} \leftarrow \rho_{jk}
        - \eta\, N K_j L_n \frac{\partial L}{\partial \rho_{jk}}

    with :math:`\beta = 0.95`, :math:`N` images, :math:`K_j` local features and
    :math:`L_n` labels. How many steps there are, and of what length
    :math:`\eta`, is not published; :data:`MASK_STEPS` and :data:`MASK_RATE` are ours.

    Parameters
    ----------
    parts, present, intercept, label_vectors, labels, scale
        See :func:`loss_change`.

    Returns
    -------
    ndarray of shape (N, K)
        At least 0; 0 where there is padding.
    """
    n_parts = present.sum(axis=1, keepdims=True).astype(parts.dtype)
    n_images, n_labels = labels.shape
    masks, importance = np.ones_like(parts[:, :, 0]), np.zeros_like(parts[:, :, 0])
    for _ in range(MASK_STEPS):
        mean = np.einsum("jk,jkd->jd", masks, parts) / n_parts + intercept
        factor, direction, cosine = _pull(mean, label_vectors, labels, scale)
        along = (factor * cosine).sum(axis=1, keepdims=True)
        pull = (factor @ label_vectors - along * direction) / (n_parts * n_labels)
        slope = -np.einsum("jkd,jd->jk", parts, pull)
        change = np.abs(masks * slope)
        importance = MASK_DECAY * importance + (1 - MASK_DECAY) * change
        masks = masks - MASK_RATE * n_images * n_labels * n_parts * slope
    return importance


def keep_important(importance: NDArray, present: NDArray) -> NDArray:
    """Return which local features are kept, bool of shape (N, K).

    Those of at least :data:`MASK_THRESHOLD` times the mean importance over all images;
    of an image that would lose all of them, the most important one.

    Parameters
    ----------
    importance : ndarray of shape (N, K)
    present : ndarray of bool, shape (N, K)
    """
    kept = present & (importance >= MASK_THRESHOLD * importance[present].mean())
    best = np.where(present, importance, -1).argmax(axis=1)
    lost = np.flatnonzero(~kept.any(axis=1))
    kept[lost, best[lost]] = True
    return kept


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
        Signed loss change of the label; importance of the image's trained masks, as
        published; agreement with the label's vector; or nothing, which scores all the
        same.

    Returns
    -------
    ndarray of shape (N, K, L)
        Minus infinity where there is padding, and where a mask says to drop a feature.
    """
    mapped = feature_map.of_parts
    parts, present = mapped.linear(support.tokens.parts), support.tokens.present
    intercept = mapped.shift
    if method == "none":
        scores = np.zeros((*present.shape, len(label_vectors)), dtype=parts.dtype)
    elif method == "text":
        scores = unit_rows(parts + intercept) @ label_vectors.T
    else:
        known = parts, present, intercept, label_vectors, support.taught, scale
        if method == "lcm":
            scores = loss_change(*known)
        else:
            importance = mask_importance(*known)
            present = keep_important(importance, present)
            scores = importance[:, :, None].repeat(len(label_vectors), axis=2)
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
