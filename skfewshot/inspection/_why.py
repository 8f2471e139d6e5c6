"""Why a class won: what texts and images said, the runner-up, and images like it."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.utils import gen_batches

from skfewshot._base import FewShotClassifier
from skfewshot._sklearn import check_number
from skfewshot.cmm import CMMClassifier
from skfewshot.inspection._evidence import evidence_of
from skfewshot.inspection._model import BLOCK, kept_rows, resolve


class Explanation(NamedTuple):
    """Why each image got its class, as :func:`~skfewshot.inspection.explain` says it.

    Parameters
    ----------
    label : ndarray of shape (n_samples,)
        The most probable class.
    proba : ndarray of shape (n_samples,)
        Its probability.
    text, image, level : ndarrays of shape (n_samples,)
        By how much its text, the images of the support, and an intercept that is the
        same for all images put its logit above the mean of all classes. They add up to
        how far it is above.
    text_share : ndarray of shape (n_samples,)
        Share of the text in what text and images say for it, from 0 to 1. NaN where
        both speak against it.
    runner_up : ndarray of shape (n_samples,)
        The second most probable class.
    runner_up_proba : ndarray of shape (n_samples,)
        Its probability.
    text_lead, image_lead, level_lead : ndarrays of shape (n_samples,)
        By how much the same put the first above the second. They add up to the
        logarithm of the ratio of their probabilities.
    neighbors : ndarray of int, shape (n_samples, n_neighbors)
        The most similar images of the support, the most similar first, as rows of what
        the classifier was fitted on. Of no column where the support is not known.
    similarity : ndarray of shape (n_samples, n_neighbors)
        Their cosines, with CMM those of mapped features.
    """

    label: NDArray
    proba: NDArray
    text: NDArray
    image: NDArray
    level: NDArray
    text_share: NDArray
    runner_up: NDArray
    runner_up_proba: NDArray
    text_lead: NDArray
    image_lead: NDArray
    level_lead: NDArray
    neighbors: NDArray
    similarity: NDArray


def explain(
    model: Any, X: Any, *, n_neighbors: int = 3, support: Any = None
) -> Explanation:
    """Say why each image gets its class: by its text, by images, and by which.

    Parameters
    ----------
    model : estimator
        A fitted classifier with one label an image, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one.
    X : array-like of shape (n_samples, ...)
        As `model` takes it: images for a pipeline with a featurizer.
    n_neighbors : int, default=3
        Images of the support to name, 0 or more; all of them, if it has fewer.
    support : array-like of shape (n_support, ...), default=None
        What `model` was fitted on, as it takes it. None takes what the classifier
        keeps with ``store_left_out=True``; without it no images are named.

    Returns
    -------
    Explanation
        Arrays with an entry for each image. Of an image that could not be read the
        labels are those of no image in particular, and the numbers NaN.

    Raises
    ------
    TypeError
        If `model` is no classifier with one label an image.
    ValueError
        If the classifier would refuse the rows.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    Notes
    -----
    Logits are taken apart where they are a sum: of CMM into the frozen and the mapped
    part, of the peers into zero-shot logits and what the support added to them. A text
    that CMM does not trust is replaced by images in the frozen part; that is counted
    as text here, see ``text_trust_``. Without texts all is said by images.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import TipAdapterClassifier
    >>> from skfewshot.inspection import explain
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> X, y = np.array([[0.8, 0.6], [0.6, 0.8]]), ["cat", "dog"]
    >>> model = TipAdapterClassifier(texts, logit_scale=10.0).fit(X, y)
    >>> why = explain(model, [[0.75, 0.66]], support=X, n_neighbors=1)
    >>> why.label.tolist(), why.runner_up.tolist(), why.neighbors.tolist()
    (['cat'], ['dog'], [[0]])
    """
    n_neighbors = check_number("n_neighbors", n_neighbors, 0)
    found = resolve(model, X)
    classifier = found.classifier
    features, unread = found.features()
    logits = classifier._logits(features)
    texts, images = evidence_of(classifier, features, logits)
    parts = texts, images, logits - texts - images
    first, second = np.argsort(-logits, axis=1, kind="stable")[:, :2].T
    proba, rows = softmax(logits, axis=1), np.arange(len(logits))
    above = [part[rows, first] - part.mean(axis=1) for part in parts]
    leads = [part[rows, first] - part[rows, second] for part in parts]
    kept, index = _support_of(model, classifier, support)
    neighbors, similarity = _nearest(classifier, features, kept, n_neighbors)
    numbers = {
        **{"proba": proba[rows, first], "runner_up_proba": proba[rows, second]},
        **dict(zip(("text", "image", "level"), above, strict=True)),
        **dict(zip(("text_lead", "image_lead", "level_lead"), leads, strict=True)),
        **{"text_share": _share(above[0], above[1]), "similarity": similarity},
    }
    for values in numbers.values():
        values[unread] = np.nan
    return Explanation(
        label=classifier.classes_[first],
        runner_up=classifier.classes_[second],
        neighbors=index[neighbors],
        **numbers,
    )


def _share(text: NDArray, image: NDArray) -> NDArray:
    """Return the share of the first of two numbers, of which those below 0 are none."""
    text, image = np.maximum(text, 0), np.maximum(image, 0)
    total = text + image
    return np.divide(text, total, out=np.full_like(total, np.nan), where=total > 0)


def _support_of(
    model: Any, classifier: FewShotClassifier, support: Any
) -> tuple[NDArray, NDArray]:
    """Return the unit rows of the support, and which rows these are."""
    if support is not None:
        kept, unread = resolve(model, support).features()
        index = np.flatnonzero(~unread)
        return kept[index], index
    known = kept_rows(classifier)
    if known is None:
        width = classifier.n_features_in_
        return np.empty((0, width), classifier.text_features_.dtype), np.empty(0, int)
    return classifier.support_features_[known], known


def _nearest(
    classifier: FewShotClassifier, features: NDArray, kept: NDArray, n: int
) -> tuple[NDArray, NDArray]:
    """Return the most similar rows and their cosines, shapes (len(features), n)."""
    if isinstance(classifier, CMMClassifier):
        features, kept = classifier._mapped(features), classifier._mapped(kept)
    kept = kept.astype(features.dtype)
    order = np.empty((len(features), min(n, len(kept))), dtype=int)
    found = np.empty(order.shape, features.dtype)
    for rows in gen_batches(len(features), BLOCK):
        cosines = features[rows] @ kept.T
        order[rows] = np.argsort(-cosines, axis=1, kind="stable")[:, : order.shape[1]]
        found[rows] = np.take_along_axis(cosines, order[rows], axis=1)
    return order, found
