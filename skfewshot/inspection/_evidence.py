"""What texts and images each say of a class: logits, taken apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot._base import FewShotClassifier, as_rows


def evidence_of(
    classifier: FewShotClassifier, features: NDArray, logits: NDArray
) -> tuple[NDArray, NDArray]:
    """Return the parts of the logits that the texts have, and that the images have.

    Parameters
    ----------
    classifier : FewShotClassifier
        Fitted.
    features : ndarray of shape (n, n_features)
        Unit rows.
    logits : ndarray of shape (n, n_classes)
        Theirs.

    Returns
    -------
    texts, images : ndarrays of shape (n, n_classes)
        What is left of the logits is the same for all rows: intercepts.

    Raises
    ------
    TypeError
        If the classifier is of a class that is not known.
    """
    for kind in type(classifier).__mro__:
        if kind in _TEXTS:
            texts = _TEXTS[kind](classifier, features)
            break
    else:
        raise TypeError(
            "explain knows the classifiers of skfewshot; got "
            f"{type(classifier).__name__}."
        )
    if classifier.prototype_source_ == "image":
        # The class means that stand in for texts are of images.
        texts = np.zeros_like(texts)
    images = logits - texts
    images -= as_rows(_intercepts(classifier), features)
    return texts, images


def _zero_shot(classifier: Any, features: NDArray) -> NDArray:
    return classifier._scaled_cosines(features, classifier.text_features_)


def _weighted(classifier: Any, features: NDArray) -> NDArray:
    return float(classifier.text_weight_) * _zero_shot(classifier, features)


def _cmm(classifier: Any, features: NDArray) -> NDArray:
    share = classifier.temperature_ * (1 + classifier.alpha_)
    cosines = classifier._scaled_cosines(features, classifier.frozen_prototypes_)
    return cosines / float(share)


def _lp_plus_plus(classifier: Any, features: NDArray) -> NDArray:
    cosines = features @ as_rows(classifier.text_features_, features).T
    return cosines * as_rows(classifier.text_weights_, features)


def _intercepts(classifier: Any) -> NDArray:
    """Return what is added to all rows for no reason of their own."""
    if isinstance(classifier, CMMClassifier | LPPlusPlusClassifier):
        return classifier.intercept_
    if isinstance(classifier, CLAPClassifier | TaskResClassifier):
        return classifier.logit_scale_ * classifier.intercept_
    if isinstance(classifier, ProKeRClassifier):
        return classifier.text_weight_ * classifier.prior_
    # Those of discriminants belong to their quadratic forms.
    return np.zeros(len(classifier.classes_))


#: The part of the texts in the logits of unit rows.
_TEXTS: dict[type, Callable[[Any, NDArray], NDArray]] = {
    CLAPClassifier: _zero_shot,
    CMMClassifier: _cmm,
    GaussianDiscriminantClassifier: _weighted,
    LPPlusPlusClassifier: _lp_plus_plus,
    ProKeRClassifier: _weighted,
    TaskResClassifier: _zero_shot,
    TipAdapterClassifier: _zero_shot,
    ZeroShotClassifier: _zero_shot,
}
