"""Prediction sets: the classes that an image may well be of, by rows left out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._base import FewShotClassifier
from skfewshot._sklearn import show, warn_user
from skfewshot.inspection._model import (
    check_share,
    left_out,
    resolve,
    value_reached,
)


def predict_set(
    model: Any,
    X: Any,
    *,
    coverage: float = 0.9,
    per_class: bool = False,
    allow_empty: bool = True,
) -> NDArray[np.bool_]:
    r"""Say which classes each image may be of, so that most sets hold the right one.

    A class is in the set if its probability is at least :math:`t`. Of the probabilities
    that images of the support have for their class when they are left out, the share
    `coverage` is at least :math:`t`. No image has to be kept aside for it.

    Parameters
    ----------
    model : estimator
        A fitted :class:`~skfewshot.CMMClassifier`,
        :class:`~skfewshot.GaussianDiscriminantClassifier` or
        :class:`~skfewshot.ProKeRClassifier` with ``store_left_out=True``, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one.
    X : array-like of shape (n_samples, ...)
        New images, as `model` takes them: images for a pipeline with a featurizer,
        embeddings for a classifier.
    coverage : float, default=0.9
        Share of the sets, above 0 and below 1, that are to hold the class of their
        image.
    per_class : bool, default=False
        Whether this is to hold for the images of each class, by a :math:`t` for each.
        That takes ``coverage / (1 - coverage)`` images of it, 9 for 0.9; a class of
        fewer is in every set, with a warning.
    allow_empty : bool, default=True
        Whether a set may be empty, where no class is probable enough. Otherwise it has
        the most probable class then, and more sets than `coverage` are right where the
        classifier is.

    Returns
    -------
    ndarray of bool, shape (n_samples, n_classes)
        Whether a class is in the set of an image; columns follow ``classes_``. A row of
        an image that could not be read has all classes.

    Raises
    ------
    TypeError
        If `model` is no classifier with one label an image.
    ValueError
        If it keeps no rows left out, or `coverage` is out of range.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    Warns
    -----
    UserWarning
        If there are too few images for `coverage`, so that sets hold all classes.

    See Also
    --------
    novelty_score : Whether an image is of one of the classes at all.

    Notes
    -----
    These are conformal sets [1]_ with the probability of the class as the score, which
    makes them small, and with rows left out in the place of a calibration split. With
    *n* rows, :math:`t` is their :math:`\lceil (n + 1) \, \text{coverage} \rceil`-th
    largest probability; copies and near copies of a row are one row together, and a row
    of weight 2 is two. New images meet all rows of their class, rows left out one less:
    the sets are a little too large, at one image a class far too large, and hold the
    right class more often than asked. Where images of the support come from elsewhere
    than new ones, or the classes are as frequent otherwise, nothing is promised.

    References
    ----------
    .. [1] Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with
       bounded error levels, JASA 2019, arXiv:1609.00451; with rows left out: Barber et
       al., Predictive inference with the jackknife+, Annals of Statistics 2021,
       arXiv:1905.02928.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skfewshot import CLIPFeaturizer, CMMClassifier
    >>> from skfewshot.datasets import make_object_images
    >>> from skfewshot.inspection import predict_set
    >>> kinds = ["striped star", "plain heart", "plain ring"]
    >>> images, names = make_object_images(
    ...     5, kinds=kinds, random_state=0, return_X_y=True
    ... )
    >>> cmm = CMMClassifier(store_left_out=True)
    >>> model = make_pipeline(CLIPFeaturizer("tiny"), cmm).fit(images, names)
    >>> sets = predict_set(model, images[:2])
    >>> [model.classes_[row].tolist() for row in sets]
    [['striped star'], ['plain ring']]
    """
    coverage = check_share("coverage", coverage)
    classifier, X = resolve(model, X)
    least = least_probabilities(classifier, coverage, per_class)
    proba = classifier.predict_proba(X)
    # Of an image that could not be read nothing is known.
    sets = ~(proba < least)
    if not allow_empty:
        sets |= proba == proba.max(axis=1, keepdims=True)
    return sets


def least_probabilities(
    classifier: FewShotClassifier, coverage: float, per_class: bool = False
) -> NDArray:
    """Return the probability from which on a class is in the set, for each class."""
    rows = left_out(classifier, "predict_set")
    label = classifier.support_codes_[rows]
    own = classifier.left_out_proba_[rows, label]
    share = classifier.support_shares_[rows]
    n_classes = len(classifier.classes_)
    if per_class:
        parts = [label == code for code in range(n_classes)]
        least = np.array([least_of(own[p], share[p], coverage) for p in parts])
    else:
        least = np.full(n_classes, least_of(own, share, coverage))
    if not least.all():
        wanted = int(np.ceil(coverage / (1 - coverage) - 1e-9))
        few = classifier.classes_[least == 0].tolist()
        which = f"each of the classes {show(few)}" if per_class else "the support"
        warn_user(
            f"coverage={coverage} takes {wanted} images, and {which} has fewer: every "
            f"set holds {'these' if per_class else 'all'} classes."
        )
    return least


def least_of(values: NDArray, share: NDArray, coverage: float) -> float:
    """Return the largest value that the next one is below with a bounded probability.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Positive.
    share : ndarray of shape (n,)
        How many rows each value stands for.
    coverage : float
        Probability of the next one of being no less.

    Returns
    -------
    float
        0 where the next one may be below all, as there are too few.
    """
    found = value_reached(-values, share, coverage)
    return 0.0 if found is None else -found
