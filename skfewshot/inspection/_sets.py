"""Prediction sets: the classes that an image may well be of, by rows left out."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._base import FewShotClassifier
from skfewshot._sklearn import check_number, warn_user
from skfewshot.inspection._model import left_out, resolve


def predict_set(
    model: Any, X: Any, *, coverage: float = 0.9, per_class: bool = False
) -> NDArray[np.bool_]:
    """Say which classes each image may be of, so that a share of sets is right.

    Parameters
    ----------
    model : estimator
        A fitted classifier that keeps rows left out (``store_left_out=True``), or a
        Pipeline that ends in one.
    X : array-like
        What `model` predicts from: images for a pipeline with a featurizer.
    coverage : float, default=0.9
        Share of the images, between 0 and 1, whose set is to hold their class.
    per_class : bool, default=False
        Whether that is to hold for the images of each class.

    Returns
    -------
    ndarray of bool, shape (n_samples, n_classes)
        Whether a class is in the set; columns follow ``classes_``.
    """
    coverage = check_number("coverage", coverage, 0.0, 1.0, Real)
    classifier, X = resolve(model, X)
    least = _least_probabilities(classifier, coverage, per_class)
    with np.errstate(invalid="ignore"):
        return classifier.predict_proba(X) >= least


def _least_probabilities(
    classifier: FewShotClassifier, coverage: float, per_class: bool
) -> NDArray:
    """Return the probability from which on a class is in the set, for each class."""
    rows = left_out(classifier, "predict_set")
    label = classifier.support_codes_[rows]
    own = classifier.left_out_proba_[rows, label]
    share = classifier.support_shares_[rows]
    n_classes = len(classifier.classes_)
    if not per_class:
        return np.full(n_classes, least_of(own, share, coverage))
    least = np.zeros(n_classes)
    for code in range(n_classes):
        of_class = label == code
        least[code] = least_of(own[of_class], share[of_class], coverage)
    if not least.all():
        warn_user("Few rows.")
    return least


def least_of(own: NDArray, share: NDArray, coverage: float) -> float:
    """Return the largest number that so many of some numbers are not below.

    Parameters
    ----------
    own : ndarray of shape (n,)
        Probabilities of the right class.
    share : ndarray of shape (n,)
        Of a row, which is as many rows.
    coverage : float

    Returns
    -------
    float
        0 where one more row could be below all.
    """
    order = np.argsort(-own, kind="stable")
    reached = np.cumsum(share[order]) >= coverage * (share.sum() + 1) - 1e-9
    return float(own[order[reached.argmax()]]) if reached.any() else 0.0
