"""From the labelled images of a support to prototypes; no estimator in sight."""

from dataclasses import dataclass, replace

import numpy as np

from skfewshot._rows import unit_rows
from skfewshot._sklearn import warn_user
from skfewshot.multilabel.calibration import background_level, fit_sigmoid
from skfewshot.multilabel.prototypes import (
    Pairs,
    agreement_weights,
    label_sums,
    leave_one_out_scores,
    mix,
    text_shares,
)
from skfewshot.multilabel.scoring import distance_logits
from skfewshot.multilabel.selection import select_top, selection_scores
from skfewshot.multilabel.tokens import Tokens, token_mean

#: The text's share of a prototype where no label has a second image to judge it by.
ONE_SHOT_SHARE = 0.6
# Nats that texts which say anything have to gain over chance.
_LEAST_GAIN = 2.0
#: Images by which shares are judged, at most: more would not change the choice.
_MOST_JUDGED = 300
#: How far from it a support is expected to want its share.
_SHARE_SPREAD = 0.16
#: The shares that are tried on left-one-out scores.
TRIED_SHARES = tuple(np.linspace(0, 1, 11))


@dataclass(frozen=True)
class FeatureMap:
    r"""Maps tokens, :math:`\varphi(x) = \mathrm{norm}((x - \mu) W + b)`.

    Attributes
    ----------
    part_mean, whole_mean : ndarray of shape (d,)
        Means :math:`\mu` of local and of global features.
    matrix : ndarray of shape (d, d) or None
        :math:`W`; None is the identity.
    bias : ndarray of shape (d,) or None
    """

    part_mean: np.ndarray
    whole_mean: np.ndarray
    matrix: np.ndarray | None = None
    bias: np.ndarray | None = None

    def linear(self, features):
        """Return ``features @ W``."""
        return features if self.matrix is None else features @ self.matrix

    def intercept(self, mean):
        """Return what is added to ``features @ W``."""
        shift = -self.linear(mean)
        return shift if self.bias is None else shift + self.bias

    def __call__(self, tokens):
        """Map tokens; padding stays zero."""
        parts = self.linear(tokens.parts) + self.intercept(self.part_mean)
        whole = self.linear(tokens.whole) + self.intercept(self.whole_mean)
        parts = np.where(tokens.present[:, :, None], unit_rows(parts), 0)
        return Tokens(unit_rows(whole), parts, tokens.present)


def feature_means(tokens, weight):
    """Return the weighted means of local and of global features."""
    return token_mean(tokens, weight), (weight / weight.sum()) @ tokens.whole


def centre_labels(vectors):
    r"""Return label vectors less what they have in common.

    That is :math:`(1 - 1 / L)` times their mean, of which one part in L is the label
    itself: the few vectors of few labels would lose too much of what tells them apart,
    and a single one all.
    """
    return vectors - (1 - 1 / len(vectors)) * vectors.mean(axis=0)


def image_label_vectors(mapped, indicator, weight):
    """Return a vector for each label from images alone, for labels without text.

    It is the direction of the mean of the mapped local features of its images.
    """
    means = mapped.mean_parts()
    return unit_rows((indicator * weight[:, None]).T @ means)


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

    images: np.ndarray
    labels: np.ndarray
    chosen: np.ndarray
    valid: np.ndarray

    def of_label(self, label, origin):
        """Return the (image, feature) indices of a label, shape (m_l, 2)."""
        pairs = np.flatnonzero(self.labels == label)
        pairs = pairs[np.argsort(origin[self.images[pairs]], kind="stable")]
        rows = np.repeat(origin[self.images[pairs]], self.valid[pairs].sum(axis=1))
        return np.column_stack([rows, self.chosen[pairs][self.valid[pairs]]])


def select(tokens, feature_map, label_vectors, indicator, *, method, n_select, scale):
    """Select the local features that show each label of each image.

    Parameters
    ----------
    tokens : Tokens
        Not yet mapped.
    feature_map : FeatureMap
    label_vectors : ndarray of shape (L, d)
        Mapped label vectors, unit rows.
    indicator : ndarray of shape (N, L)
    method : {"lcm", "lcm_paper", "text", "none"}
    n_select : int
    scale : float

    Returns
    -------
    Selection
    """
    scores = selection_scores(
        method,
        feature_map.linear(tokens.parts),
        tokens.present,
        feature_map.intercept(feature_map.part_mean),
        label_vectors,
        indicator,
        scale,
    )
    images, labels = np.nonzero(indicator)
    n_select = None if method == "none" else n_select
    return Selection(images, labels, *select_top(scores, images, labels, n_select))


def make_pairs(
    mapped,
    selection,
    label_vectors,
    weight,
    *,
    scale,
    pooling="mean",
    encode=None,
):
    """Return what each support image says of each label that it has.

    Parameters
    ----------
    mapped : Tokens
    selection : Selection
    label_vectors : ndarray of shape (L, d)
    weight : ndarray of shape (N,)
        Weights of the images.
    pooling : {"mean", "agreement"}
        Equal weights, or a softmax over agreement with the label's vector: over the
        selected features of an image, and over the images of a label.
    scale : float
    encode : callable or None
        ``encode(mean, features, valid, labels)`` gives the vectors of pairs, in place
        of the mean of their features.

    Returns
    -------
    Pairs
    """
    images, labels = selection.images, selection.labels
    features = mapped.parts[images[:, None], selection.chosen]
    features = np.where(selection.valid[:, :, None], features, 0)
    of_label = label_vectors[labels]
    agreement = distance_logits(np.einsum("pmd,pd->pm", features, of_label), scale)
    shares = agreement_weights(agreement, selection.valid, pooling)
    vectors = np.einsum("pm,pmd->pd", shares, features)
    if encode is not None:
        vectors = encode(vectors, features, selection.valid, labels)
    pair_weight = weight[images]
    if pooling == "agreement":
        whole = np.einsum("pd,pd->p", mapped.whole[images], of_label)
        pair_weight = pair_weight * _image_shares(whole, labels, scale)
    return Pairs(images, labels, vectors, pair_weight)


def _image_shares(cosine, labels, scale):
    """Return softmax weights over the images of each label, their mean being 1."""
    logits = distance_logits(cosine, scale)
    top = np.full(labels.max() + 1, -np.inf, dtype=logits.dtype)
    np.maximum.at(top, labels, logits)
    shares = np.exp(logits - top[labels])
    total = np.bincount(labels, weights=shares)
    mean_one = shares * (np.bincount(labels)[labels] / total[labels])
    return mean_one.astype(logits.dtype)


def choose_share(mapped, pairs, label_vectors, indicator, weight, scorer, expected):
    r"""Choose the text's share by how well left-out images are told apart.

    Each share a of :data:`TRIED_SHARES` is judged by the loss of left-one-out scores
    after calibration, added up over images and over the labels that have three images
    or more, plus :math:`(a - a_0)^2 / (2 \cdot 0.16^2)`: few images say little, and
    leave it near the share :math:`a_0` that is `expected`. With each image the most
    similar one of its label is left out, or else supports that show a thing twice, as
    bursts of photographs do, would trust images too much.
    """
    _, counts = label_sums(pairs, len(label_vectors))
    n_images = np.bincount(pairs.labels, minlength=len(counts))
    judged = n_images >= 3
    if not judged.any():
        return expected
    shares = [text_shares(a, counts, True) for a in TRIED_SHARES]
    mixture = mix(pairs, label_vectors, shares[0])
    # Images are in an order of their own, and so the first ones are as good as any.
    mapped, weight = mapped[:_MOST_JUDGED], weight[:_MOST_JUDGED]
    indicator = indicator[:_MOST_JUDGED]
    scores = leave_one_out_scores(
        mapped, pairs, mixture, shares, scorer.plain(), with_nearest=True
    )

    def loss(found):
        counts = n_images[judged]
        fitted = fit_sigmoid(found[:, judged], indicator[:, judged], weight, counts)
        return fitted.loss * float(weight.sum() * judged.sum())

    losses = np.array([loss(found) for found in scores])
    _check_text(loss(np.zeros_like(scores[0])) - losses[-1], int(judged.sum()))
    away = (np.array(TRIED_SHARES) - expected) / _SHARE_SPREAD
    return float(TRIED_SHARES[np.argmin(losses + away**2 / 2)])


def _check_text(gain, n_judged):
    """Warn where texts alone do not tell left-out images apart, by `gain` in nats."""
    if n_judged >= 3 and gain < _LEAST_GAIN:
        warn_user(
            "The label vectors tell the support's images apart no better than chance. "
            "Do their rows follow classes_, and are they by the model that embedded "
            "the images? If so, label_features=None may do better."
        )


def score_left_out(mapped, pairs, mixture, indicator, weight, scorer):
    """Set the background and return the scorer and the support's left-out scores.

    Returns
    -------
    scorer : Scorer
    scores : ndarray of shape (N, L)
    """
    shares = [mixture.share]
    if scorer.scoring == "competitive":
        plain = leave_one_out_scores(mapped, pairs, mixture, shares, scorer.plain())
        fitted = fit_sigmoid(plain[0], indicator, weight)
        scorer = replace(
            scorer, background=background_level(fitted), sharpness=fitted.slope
        )
    scores = leave_one_out_scores(mapped, pairs, mixture, shares, scorer)
    return scorer, scores[0]
