"""Prototypes from selected features and text, and the scores that they give."""

from dataclasses import dataclass, replace

import numpy as np

from skfewshot._rows import unit_rows
from skfewshot.multilabel.scoring import compete, distance_logits, pool
from skfewshot.multilabel.tokens import Tokens, blocks


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

    images: np.ndarray
    labels: np.ndarray
    vectors: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Mixture:
    """Prototypes as mixtures of two unit vectors, of images and of text.

    Attributes
    ----------
    image, text : ndarray of shape (L, d)
        Unit rows; a row of zeros where a label has no image.
    share : ndarray of shape (L,)
        The text's share :math:`a_l`, from 0 to 1.
    """

    image: np.ndarray
    text: np.ndarray
    share: np.ndarray

    def vectors(self):
        r"""Return :math:`\mathrm{norm}((1 - a) \, \mathrm{image} + a \, \psi)`."""
        share = self.share[:, None]
        return unit_rows((1 - share) * self.image + share * self.text)


def agreement_weights(agreement, valid, group):
    """Return softmax weights over the valid entries of each row, or equal ones.

    Parameters
    ----------
    agreement : ndarray of shape (n, m)
        Logits.
    valid : ndarray of bool, shape (n, m)
        At least one in each row.
    group : {"agreement", "mean"}

    Returns
    -------
    ndarray of shape (n, m)
        Rows add up to 1.
    """
    if group == "mean":
        weights = valid.astype(agreement.dtype)
    else:
        shown = np.where(valid, agreement, -np.inf)
        weights = np.exp(shown - shown.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def label_sums(pairs, n_labels):
    """Return the weighted sum of the vectors of each label and its total weight."""
    sums = np.zeros((n_labels, pairs.vectors.shape[1]), dtype=pairs.vectors.dtype)
    np.add.at(sums, pairs.labels, pairs.weight[:, None] * pairs.vectors)
    counts = np.bincount(pairs.labels, weights=pairs.weight, minlength=n_labels)
    return sums, counts.astype(pairs.vectors.dtype)


def text_shares(share, counts, has_text):
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
    if share == 1:
        return np.ones_like(counts)
    kappa = counts[counts > 0].mean() * share / (1 - share)
    shares = kappa / np.maximum(kappa + counts, np.finfo(counts.dtype).tiny)
    return np.where(counts > 0, shares, 1).astype(counts.dtype)


def mix(pairs, text, shares):
    """Return the :class:`Mixture` of a support.

    Parameters
    ----------
    pairs : Pairs
    text : ndarray of shape (L, d)
        The mapped label vectors, unit rows.
    shares : ndarray of shape (L,)
        The text's share of each label.

    Returns
    -------
    Mixture
    """
    sums, _ = label_sums(pairs, len(text))
    return Mixture(unit_rows(sums), text, shares)


def mixed_cosine(image_cosine, text_cosine, share, overlap):
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


@dataclass(frozen=True)
class Scorer:
    """How tokens are scored, all but the prototypes.

    Attributes
    ----------
    scale : float
    scoring : {"competitive", "local", "global", "both"}
    n_top : int
    background, sharpness : float
        The logit of the background, and how sharply labels compete.
    """

    scale: float
    scoring: str
    n_top: int
    background: float = 0.0
    sharpness: float = 1.0

    def plain(self):
        """Return this scorer without competition between labels."""
        scoring = "local" if self.scoring == "competitive" else self.scoring
        return replace(self, scoring=scoring)

    def evidence(self, cosine):
        """Return the logits of patches, shape (n, K, L), from cosines."""
        logits = distance_logits(cosine, self.scale)
        if self.scoring == "competitive":
            return compete(logits, self.background, self.sharpness)
        return logits

    def pooled(self, whole_cosine, part_cosine, present):
        """Return the scores of images, shape (n, L), from cosines."""
        whole = distance_logits(whole_cosine, self.scale)
        evidence = None if self.scoring == "global" else self.evidence(part_cosine)
        return pool(whole, evidence, present, self.scoring, self.n_top)


def score(tokens, feature_map, prototypes, scorer):
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
    for rows in blocks(len(tokens), 4 * _bytes_a_row(tokens, len(prototypes))):
        part = feature_map(tokens[rows])
        scores[rows] = scorer.pooled(
            part.whole @ prototypes.T, part.parts @ prototypes.T, part.present
        )
    return scores


def nearest_of_label(pairs):
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


def leave_one_out_scores(tokens, pairs, mixture, shares, scorer, with_nearest=False):
    """Score each support image by prototypes to which it did not contribute.

    The prototypes of the labels that an image lacks are those of the whole support.
    Where no other image has the label, the text alone stands for it; without text, the
    image's own features do.

    Parameters
    ----------
    tokens : Tokens
        The support, mapped features.
    pairs : Pairs
        Sorted by image.
    mixture : Mixture
    shares : list of ndarray of shape (L,)
        Shares of the text to try in place of those of `mixture`.
    scorer : Scorer
    with_nearest : bool, default=False
        Whether to leave out the most similar other image of the label, too: it may show
        the same thing once more.

    Returns
    -------
    ndarray of shape (n_shares, N, L)
    """
    n_labels = len(mixture.text)
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
    others = unit_rows(sums[pairs.labels] - left)
    has_text = any(share.any() for share in shares)
    if not has_text:
        others = np.where(alone[:, None], mixture.image[pairs.labels], others)
    overlap = np.einsum("ld,ld->l", mixture.image, mixture.text)
    pair_overlap = np.einsum("pd,pd->p", others, mixture.text[pairs.labels])
    scores = np.empty((len(shares), len(tokens), n_labels), dtype=tokens.parts.dtype)
    for rows in blocks(len(tokens), 4 * _bytes_a_row(tokens, n_labels)):
        block = tokens[rows]
        chosen = slice(*np.searchsorted(pairs.images, [rows.start, rows.stop]))
        image, label = pairs.images[chosen] - rows.start, pairs.labels[chosen]
        cosines = [
            (part @ mixture.image.T, part @ mixture.text.T)
            for part in (block.whole[:, None], block.parts)
        ]
        for index, share in enumerate(shares):
            pair_share = np.where(alone[chosen] & has_text, 1, share[label])
            pair_share = pair_share.astype(share.dtype)
            mixed = []
            for part, (by_image, by_text) in zip(
                (block.whole[:, None], block.parts), cosines, strict=True
            ):
                cosine = mixed_cosine(by_image, by_text, share, overlap)
                own = np.einsum("pkd,pd->pk", part[image], others[chosen])
                cosine[image, :, label] = mixed_cosine(
                    own.T, by_text[image, :, label].T, pair_share, pair_overlap[chosen]
                ).T
                mixed.append(cosine)
            scores[index, rows] = scorer.pooled(mixed[0][:, 0], mixed[1], block.present)
    return scores


def _bytes_a_row(tokens: Tokens, n_labels):
    _, n_parts, width = tokens.parts.shape
    return n_parts * max(n_labels, width) * tokens.parts.itemsize
