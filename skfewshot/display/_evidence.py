"""What the maps of evidence show: pictures, log odds, and which labels."""

from math import isqrt
from numbers import Integral

import numpy as np
from scipy.special import logsumexp
from sklearn.pipeline import Pipeline

from skfewshot._labels import check_indicator
from skfewshot._rows import as_numpy
from skfewshot._text import class_names_of

#: Grey values that a picture spans at least: below it, stretching would show noise.
_LEAST_CONTRAST = 90


def check_pictures(estimator, X):
    """Return X, if it holds the pictures."""
    # The winner of a search predicts for it.
    if isinstance(getattr(estimator, "best_estimator_", estimator), Pipeline):
        return X
    raise TypeError(
        "images is None; pass the pictures of X, or a Pipeline from images to labels "
        "as the estimator and the images as X."
    )


def central_square(image):
    """Return the central square of a PIL image as an array."""
    size = min(image.size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def pale_grey(picture):
    """Return a grey copy, full of contrast and pale, as heat shows best on it."""
    grey = np.asarray(picture, dtype=np.float64).mean(axis=2)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(high - low, _LEAST_CONTRAST), 0, 1)
    return np.repeat(0.4 + 0.6 * grey[:, :, None], 3, axis=2)


def side_of(n_patches):
    side = isqrt(n_patches)
    if side**2 != n_patches:
        raise ValueError(
            f"X has {n_patches} patches an image, which is no square number, so they "
            "do not tile a square picture; wanted tokens of shape (n, 1 + side**2, d)."
        )
    return side


def against_the_others(evidence):
    """Turn logits of a softmax over labels, axis 1, into log odds."""
    n_labels = evidence.shape[1]
    others = [
        logsumexp(np.delete(evidence, label, axis=1), axis=1)
        for label in range(n_labels)
    ]
    return evidence - np.stack(others, axis=1)


def choose_labels(labels, probabilities, n_labels):
    """Return the numbers of the labels to show, shape (n_samples, n_shown)."""
    if labels is None:
        if not isinstance(n_labels, Integral):
            raise TypeError(f"n_labels must be an int; got {n_labels!r}.")
        if n_labels < 1:
            raise ValueError(f"n_labels must be 1 or more; got {n_labels}.")
        return np.argsort(-probabilities, axis=1, kind="stable")[:, :n_labels]
    chosen, known = np.asarray(labels), np.arange(probabilities.shape[1])
    if chosen.ndim != 1 or not chosen.size or not np.isin(chosen, known).all():
        raise ValueError(
            f"labels must hold numbers of labels, 0 to {known[-1]}; got {labels!r}."
        )
    return np.tile(chosen.astype(int), (len(probabilities), 1))


def places_of(labels, classifier):
    """Return the numbers of the labels that are to be shown."""
    place = {label: index for index, label in enumerate(classifier.classes_.tolist())}
    labels = np.atleast_1d(np.asarray(labels)).tolist()
    unknown = [label for label in labels if label not in place]
    if unknown or not labels:
        raise ValueError(
            f"labels must name some of the classifier's classes_, such as "
            f"{list(place)[:10]}; got {unknown or labels}."
        )
    return [place[label] for label in labels]


def names_of(classifier):
    names = class_names_of(classifier.classes_, classifier.label_names)
    return [str(name) for name in (classifier.classes_ if names is None else names)]


def read_truth(y, classifier):
    """Return true labels as an indicator."""
    if np.ndim(y) == 1 and not hasattr(y, "toarray"):
        return np.asarray(as_numpy(y))[:, None] == classifier.classes_
    return y


def read_labels(indicator, parameter, shape):
    """Return an indicator of a given shape as one of bool."""
    labels = check_indicator(indicator, parameter)
    if labels.shape != shape:
        raise ValueError(f"{parameter} has shape {labels.shape}; wanted {shape}.")
    return labels
