"""Prototypes from selected features and text, and the scores that they give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from skfewshot._rows import sum_rows, unit_rows
from skfewshot.multilabel._scoring import Scorer, bytes_of_image, distance_logits
from skfewshot.multilabel._selection import Selection
from skfewshot.multilabel._tokens import Support, Tokens, blocks


@dataclass(frozen=True)
class Pairs:
    """What each support image says of each label that it has.

    Attributes
    ----------
    images, labels : ndarray of int, shape (n_pairs,)
        Which image, and which label it has.
    vectors : ndarray of shape (n_pairs, d)
        The mean of the features that were selected for the label.
    weight : ndarray of shape (n_pairs,)
        The weight of the image, for this label.
    """

    images: NDArray
    labels: NDArray
    vectors: NDArray
    weight: NDArray


def centre_labels(vectors: NDArray) -> NDArray:
    r"""Return label vectors less what they have in common.

    That is :math:`(1 - 1 / L)` times their mean, of which one part in L is the label
    itself: the few vectors of few labels would lose too much of what tells them apart,
    and a single one all.
    """
    return vectors - (1 - 1 / len(vectors)) * vectors.mean(axis=0)


def image_label_vectors(support: Support) -> NDArray:
    """Return a vector for each label from images alone, for labels without text.

    It is the direction of the mean of the mapped local features of its images.
    """
    weighted = support.indicator * support.weight[:, None]
    return unit_rows(weighted.T @ support.tokens.mean_parts())


def make_pairs(
    support: Support,
    selection: Selection,
    label_vectors: NDArray,
    scale: float,
    pooling: str = "mean",
    encode: Callable[..., NDArray] | None = None,
) -> Pairs:
    """Return what each support image says of each label that it has.

    Parameters
    ----------
    support : Support
        Mapped.
    selection : Selection
    label_vectors : ndarray of shape (L, d)
        Mapped, unit rows.
    scale : float
    pooling : {"mean", "agreement"}
        Weights of the selected features, and of the images of a label.
    encode : callable or None
        ``encode(mean, features, valid, labels)`` gives the vectors of pairs, in place
        of the mean of their features.
    """
    images, labels = selection.images, selection.labels
    features = support.tokens.parts[images[:, None], selection.chosen]
    features = np.where(selection.valid[:, :, None], features, 0)
    of_label = label_vectors[labels]
    agreement = distance_logits(np.einsum("pmd,pd->pm", features, of_label), scale)
    shares = agreement_weights(agreement, selection.valid, pooling)
    vectors = np.einsum("pm,pmd->pd", shares, features)
    if encode is not None:
        vectors = encode(vectors, features, selection.valid, labels)
    pair_weight = support.weight[images]
    if pooling == "agreement":
        whole = np.einsum("pd,pd->p", support.tokens.whole[images], of_label)
        pair_weight = pair_weight * _image_shares(whole, labels, scale)
    return Pairs(images, labels, vectors, pair_weight)


def _image_shares(cosine: NDArray, labels: NDArray, scale: float) -> NDArray:
    """Return softmax weights over the images of each label, their mean being 1."""
    logits = distance_logits(cosine, scale)
    shares = np.empty_like(logits)
    for label in np.unique(labels):
        own = labels == label
        shares[own] = own.sum() * softmax(logits[own])
    return shares


def agreement_weights(agreement: NDArray, valid: NDArray, pooling: str) -> NDArray:
    """Return softmax weights over the valid entries of each row, or equal ones.

    Parameters
    ----------
    agreement : ndarray of shape (n, m)
        Logits.
    valid : ndarray of bool, shape (n, m)
        At least one in each row.
    pooling : {"agreement", "mean"}

    Returns
    -------
    ndarray of shape (n, m)
        Rows add up to 1.
    """
    logits = agreement if pooling == "agreement" else np.zeros_like(agreement)
    return softmax(np.where(valid, logits, -np.inf), axis=1)


def label_sums(pairs: Pairs, n_labels: int) -> tuple[NDArray, NDArray]:
    """Return the weighted sum of the vectors of each label and its total weight."""
    sums = sum_rows(pairs.weight[:, None] * pairs.vectors, pairs.labels, n_labels)
    counts = np.bincount(pairs.labels, weights=pairs.weight, minlength=n_labels)
    return sums, counts.astype(pairs.vectors.dtype)


def text_shares(share: Any, counts: NDArray, has_text: bool) -> NDArray:
    r"""Return the text's share of each label's prototype, which falls with its images.

    .. math:: a_l = \frac{\kappa}{\kappa + n_l}, \qquad
              \kappa = \bar n \, \frac{a}{1 - a}

    so that a label with the mean number of images :math:`\bar n` has the share a.

    Parameters
    ----------
    share : float
        :math:`a`, from 0 to 1.
    counts : ndarray of shape (L,)
        The images :math:`n_l` of each label. With none, the text has it all.
    has_text : bool
        Without text, images have it all.

    Returns
    -------
    ndarray of shape (L,)
    """
    if not has_text:
        return np.zeros_like(counts)
    of_text = counts[counts > 0].mean() * share
    of_all = of_text + (1 - share) * counts
    shares = of_text / np.maximum(of_all, np.finfo(counts.dtype).tiny)
    return np.where(counts > 0, shares, 1).astype(counts.dtype)


def mix(pairs: Pairs, text: NDArray, shares: NDArray) -> NDArray:
    r"""Return the prototypes of a support, shape (L, d).

    .. math::

        p_l = \mathrm{norm}((1 - a_l) \, \mathrm{norm}(m_l) + a_l \, \psi_l)

    where :math:`m_l` is what the images say of the label.

    Parameters
    ----------
    pairs : Pairs
    text : ndarray of shape (L, d)
        The mapped label vectors :math:`\psi_l`, unit rows.
    shares : ndarray of shape (L,)
        The text's share :math:`a_l` of each label, from 0 to 1.
    """
    sums, _ = label_sums(pairs, len(text))
    share = shares[:, None]
    return unit_rows((1 - share) * unit_rows(sums) + share * text)


def mixed_cosine(
    image_cosine: NDArray, text_cosine: NDArray, share: NDArray, overlap: NDArray
) -> NDArray:
    """Return the cosines to mixed prototypes, from those to what they are mixed of.

    Parameters
    ----------
    image_cosine, text_cosine : ndarray of shape (..., L)
    share, overlap : ndarray of shape (L,)
        The text's share, and the cosine of the two.

    Returns
    -------
    ndarray of shape (..., L)
    """
    square = (1 - share) ** 2 + share**2 + 2 * share * (1 - share) * overlap
    # A label of neither images nor text has no direction: nothing is like it.
    length = np.sqrt(np.maximum(square, np.finfo(overlap.dtype).eps))
    return ((1 - share) / length) * image_cosine + (share / length) * text_cosine


def nearest_of_label(pairs: Pairs) -> NDArray:
    """Return for each pair the pair of the same label with the most similar vector.

    Parameters
    ----------
    pairs : Pairs

    Returns
    -------
    ndarray of int, shape (n_pairs,)
        -1 where the label has no other image.
    """
    unit = unit_rows(pairs.vectors)
    nearest = np.full(len(unit), -1)
    for label in np.unique(pairs.labels):
        members = np.flatnonzero(pairs.labels == label)
        if len(members) > 1:
            likeness = unit[members] @ unit[members].T
            np.fill_diagonal(likeness, -np.inf)
            nearest[members] = members[likeness.argmax(axis=1)]
    return nearest


def leave_one_out_scores(
    tokens: Tokens,
    pairs: Pairs,
    text: NDArray,
    shares: Sequence[NDArray],
    scorer: Scorer,
    with_nearest: bool = False,
    extra: Pairs | None = None,
) -> NDArray:
    """Score each support image by prototypes to which it did not contribute.

    The prototypes of the labels that an image lacks are those of the whole support.
    Exact for the pairs as they are: means of features, and without text the label
    vectors that local features are selected by, are those of all images.
    Where no other image has the label, the text alone stands for it; without text, the
    image's own features do.

    Parameters
    ----------
    tokens : Tokens
        The support, mapped features; its first images may do.
    pairs : Pairs
        Sorted by image.
    text : ndarray of shape (L, d)
        The mapped label vectors, unit rows.
    shares : sequence of ndarray of shape (L,)
        Shares of the text to try.
    scorer : Scorer
    with_nearest : bool, default=False
        Whether to leave out the most similar other image of the label, too: it may show
        the same thing once more.
    extra : Pairs or None
        What further images say of labels, which are not scored. With each image the
        half of them is left out that is most similar to it, as they may show the same
        thing many times.

    Returns
    -------
    ndarray of shape (n_shares, N, L)
    """
    n_labels = len(text)
    every = pairs if extra is None else joined(pairs, extra)
    image = unit_rows(label_sums(every, n_labels)[0])
    others, alone = _other_images(pairs, n_labels, with_nearest, extra)
    has_text = np.any(shares)
    if not has_text:
        others = np.where(alone[:, None], image[pairs.labels], others)
    overlap = np.einsum("ld,ld->l", image, text)
    pair_overlap = np.einsum("pd,pd->p", others, text[pairs.labels])
    scores = np.empty((len(shares), len(tokens), n_labels), dtype=tokens.parts.dtype)
    for rows in blocks(len(tokens), bytes_of_image(tokens, n_labels)):
        block = tokens[rows]
        chosen = slice(*np.searchsorted(pairs.images, [rows.start, rows.stop]))
        own, label = pairs.images[chosen] - rows.start, pairs.labels[chosen]
        features = (block.whole[:, None], block.parts)
        cosines = [
            (x @ image.T, x @ text.T, np.einsum("pkd,pd->kp", x[own], others[chosen]))
            for x in features
        ]
        for index, share in enumerate(shares):
            # Of a label's only image nothing is left but the text.
            pair_share = np.where(alone[chosen] & has_text, 1, share[label])
            pair_share = pair_share.astype(share.dtype)
            mixed = []
            for by_image, by_text, by_others in cosines:
                cosine = mixed_cosine(by_image, by_text, share, overlap)
                of_pair = by_text[own, :, label].T
                cosine[own, :, label] = mixed_cosine(
                    by_others, of_pair, pair_share, pair_overlap[chosen]
                ).T
                mixed.append(cosine)
            scores[index, rows] = scorer.pooled(mixed[0][:, 0], mixed[1], block.present)
    return scores


def joined(one: Pairs, other: Pairs) -> Pairs:
    """Return the pairs of both."""
    names = "images", "labels", "vectors", "weight"
    both = ((getattr(one, name), getattr(other, name)) for name in names)
    return Pairs(*(np.concatenate(fields) for fields in both))


def farther_half(pairs: Pairs, extra: Pairs) -> NDArray:
    """Return for each pair the sum over the half of `extra` that is least like it.

    Parameters
    ----------
    pairs, extra : Pairs

    Returns
    -------
    ndarray of shape (n_pairs, d)
        Of the same label and weighted; of an odd number the middle one is in it. Zeros
        where `extra` says nothing of the label.
    """
    unit, unit_extra = unit_rows(pairs.vectors), unit_rows(extra.vectors)
    sums = np.zeros_like(pairs.vectors)
    for label in np.intersect1d(pairs.labels, extra.labels):
        members = np.flatnonzero(pairs.labels == label)
        of_label = np.flatnonzero(extra.labels == label)
        likeness = unit[members] @ unit_extra[of_label].T
        order = np.argsort(likeness, axis=1, kind="stable")
        share = np.zeros_like(likeness)
        np.put_along_axis(share, order[:, : (len(of_label) + 1) // 2], 1, axis=1)
        sums[members] = (share * extra.weight[of_label]) @ extra.vectors[of_label]
    return sums


def _other_images(
    pairs: Pairs, n_labels: int, with_nearest: bool, extra: Pairs | None
) -> tuple[NDArray, NDArray]:
    """Return for each pair what the label's other images say, and if there are none."""
    sums, counts = label_sums(pairs, n_labels)
    left = pairs.weight[:, None] * pairs.vectors
    left_weight = pairs.weight
    if with_nearest:
        nearest = nearest_of_label(pairs)
        has_one = (nearest >= 0).astype(left.dtype)
        left = left + has_one[:, None] * left[nearest]
        left_weight = left_weight + has_one * left_weight[nearest]
    rest = counts[pairs.labels] - left_weight
    # What is left by rounding errors is nothing.
    alone = rest <= 1e-6 * counts[pairs.labels]
    others = sums[pairs.labels] - left
    if extra is not None:
        others = np.where(alone[:, None], 0, others) + farther_half(pairs, extra)
        alone = alone & ~np.isin(pairs.labels, extra.labels)
    return unit_rows(others), alone
