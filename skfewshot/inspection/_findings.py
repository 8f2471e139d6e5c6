"""What a report says, as numbers: of images with labels that a model tells apart."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfewshot._base import FewShotClassifier
from skfewshot._copies import near_copies
from skfewshot.inspection._model import judged_proba, read_codes, resolve

#: The share of a class's probability that goes to another, from which on the two are
#: too alike.
ALIKE = 0.1
#: The trust in a text below which a name does not help.
UNTRUSTED = 0.5


@dataclass(frozen=True)
class Findings:
    """Images with labels, and what a classifier says of them.

    Attributes
    ----------
    classifier : FewShotClassifier
    rows : ndarray of int, shape (n,)
        Which of the images that were passed have a label and could be read.
    codes : ndarray of int, shape (n,)
        Their classes, as indices of ``classes_``.
    features : ndarray of shape (n, n_features)
        Unit rows.
    proba : ndarray of shape (n, n_classes)
        What the classifier says of each image; without it, if it learned from that.
    is_left_out : bool
        Whether the classifier knows which images it learned from. Otherwise `proba` is
        what it says of them, whether it learned from them or not.
    n_unread, n_unlabelled : int
        How many others there are.
    """

    classifier: FewShotClassifier
    rows: NDArray[np.intp]
    codes: NDArray[np.intp]
    features: NDArray
    proba: NDArray
    is_left_out: bool
    n_unread: int
    n_unlabelled: int

    @cached_property
    def predicted(self) -> NDArray[np.intp]:
        """The most probable class of each image."""
        return self.proba.argmax(axis=1)

    @cached_property
    def own(self) -> NDArray:
        """The probability of the label of each image."""
        return self.proba[np.arange(len(self.codes)), self.codes]

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """How many images each class has."""
        return np.bincount(self.codes, minlength=self.proba.shape[1])

    @property
    def accuracy(self) -> float:
        """The share of images whose most probable class is their label."""
        return float((self.predicted == self.codes).mean())

    def recalls(self) -> NDArray:
        """Return the share of each class that is right; NaN where it has no image."""
        n_classes = self.proba.shape[1]
        right = np.bincount(self.codes[self.predicted == self.codes], None, n_classes)
        recalls = np.full(n_classes, np.nan)
        return np.divide(right, self.counts, recalls, where=self.counts > 0)


def read_findings(model: Any, X: Any, y: Any) -> Findings:
    """Read what a report is about.

    Parameters
    ----------
    model : estimator
    X : object
        What `model` predicts from.
    y : array-like of shape (n,)
        Labels among ``classes_``; None, NaN and the like are none.

    Raises
    ------
    TypeError, ValueError
        If `model` has no labels one an image, `y` does not fit, or holds labels that
        the model does not know, or no label at all.
    """
    inspected = resolve(model, X)
    classifier = inspected.classifier
    features, unread = inspected.features()
    if y is None:
        raise ValueError("y is None; wanted is a label an image.")
    codes = read_codes(classifier, y, len(features))
    rows = np.flatnonzero((codes >= 0) & ~unread)
    if not len(rows):
        raise ValueError("y has no label of an image that could be read.")
    return Findings(
        classifier,
        rows,
        codes[rows],
        features[rows],
        judged_proba(classifier, features[rows], codes[rows]).astype(float),
        hasattr(classifier, "support_features_"),
        int(unread.sum()),
        int((codes < 0).sum()),
    )


class Pair(NamedTuple):
    """Two classes, and what is between them: a share, or images."""

    of: int
    taken_for: int
    share: float
    images: NDArray[np.intp]


def confusions(found: Findings) -> list[Pair]:
    """Return which classes are taken for which, the most frequent first.

    `images` are places in ``found.rows``, the surest mistakes first.
    """
    n_classes = found.proba.shape[1]
    wrong = np.flatnonzero(found.predicted != found.codes)
    pair = found.codes[wrong] * n_classes + found.predicted[wrong]
    pairs = []
    for key in np.unique(pair):
        images = wrong[pair == key]
        of, taken_for = divmod(int(key), n_classes)
        images = images[np.argsort(found.own[images], kind="stable")]
        pairs.append(Pair(of, taken_for, len(images) / found.counts[of], images))
    return sorted(pairs, key=lambda pair: (-len(pair.images), -pair.share))


def classes_alike(found: Findings) -> list[Pair]:
    """Return pairs of classes that give each other probability, the most alike first.

    The share is the mean of what images of either class give to the other; those of
    `ALIKE` and more are returned.
    """
    n_classes = found.proba.shape[1]
    counts = found.counts
    given = np.zeros((n_classes, n_classes))
    np.add.at(given, found.codes, found.proba)
    given /= np.maximum(counts, 1)[:, None]
    given = (given + given.T) / ((counts > 0)[:, None] + 1.0 * (counts > 0)).clip(1)
    first, second = np.nonzero(np.triu(given, 1) >= ALIKE)
    none = np.empty(0, np.intp)
    pairs = [
        Pair(int(a), int(b), float(given[a, b]), none)
        for a, b in zip(first, second, strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair.share)


def copies(found: Findings) -> list[NDArray[np.intp]]:
    """Return groups of images of a class that show nearly the same, by place."""
    group = near_copies(found.features, found.codes)
    sizes = np.bincount(group)
    return [np.flatnonzero(group == first) for first in np.flatnonzero(sizes > 1)]


class Bin(NamedTuple):
    """Images of about one confidence: their mean confidence, the right, how many."""

    confidence: float
    accuracy: float
    n_images: int


def calibration_bins(found: Findings, n_bins: int = 10) -> list[Bin]:
    """Return bins of equal width of the largest probability, those with images."""
    confidence = found.proba.max(axis=1)
    right = found.predicted == found.codes
    place = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return [
        Bin(float(confidence[at].mean()), float(right[at].mean()), int(at.sum()))
        for at in (place == number for number in range(n_bins))
        if at.any()
    ]


def untrusted_names(found: Findings) -> list[tuple[int, float]]:
    """Return the classes whose names the images do not bear out, the least first."""
    classifier = found.classifier
    trust = getattr(classifier, "text_trust_", None)
    if trust is None or classifier.prototype_source_ == "image":
        return []
    order = np.argsort(trust, kind="stable")
    return [(int(c), float(trust[c])) for c in order if trust[c] < UNTRUSTED]
