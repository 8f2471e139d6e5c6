"""What every few-shot classifier shares: reading the support, and the predictions."""

import warnings
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skfewshot._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    _check_sample_weight,
)
from skfewshot.clip.embedding import encoder_of
from skfewshot.text import class_means, resolve_prototypes, unit_rows

FLOATS = [np.float64, np.float32]

#: Constraints of the parameters by which any classifier finds its text prototypes.
TEXT_CONSTRAINTS = {
    "text_features": [StrOptions({"auto"}), "array-like", dict, None],
    "class_names": ["array-like", dict, None],
    "text_encoder": [HasMethods("encode_classes"), callable, None],
    "prompt_templates": [str, "array-like", callable, None],
    "logit_scale": [
        StrOptions({"auto"}),
        Interval(Real, 0, None, closed="neither"),
    ],
    "class_weight": [StrOptions({"balanced"}), dict, None],
}


@dataclass(frozen=True)
class Support:
    """The labelled rows that a method learns from, checked and ready for a solver.

    Attributes
    ----------
    features : ndarray of shape (n_support, n_features)
        Unit rows, in the dtype of X.
    y : ndarray of shape (n_support,)
        Class indices in ``[0, n_classes)``.
    weight : ndarray of shape (n_support,)
        Sample weight times class weight; all positive.
    text : ndarray of shape (n_classes, n_features)
        Unit-norm starting prototypes.
    """

    features: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    text: np.ndarray


class FewShotClassifier(
    ClassifierMixin, CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta
):
    """Base of the classifiers: subclasses fit, and turn unit rows into logits.

    A subclass has the parameters of `TEXT_CONSTRAINTS`, calls ``_read_support`` first
    in its ``fit`` and implements ``_logits``. Every prediction derives from those
    logits.
    """

    @abstractmethod
    def _logits(self, features):
        """Return the logits, shape (n, n_classes), of unit rows (n, n_features)."""

    def _read_support(self, X, y, sample_weight):
        """Check the support, find its prototypes and set what `fit` learns of them.

        Returns
        -------
        Support
        """
        encoder = encoder_of(X)
        X, y = validate_data(self, X, y, dtype=FLOATS)
        with warnings.catch_warnings():
            # Half as many classes as rows is no hint of regression: it is one shot.
            warnings.filterwarnings("ignore", "The number of unique classes")
            check_classification_targets(y)
        sample_weight = _check_sample_weight(
            sample_weight, X, dtype=X.dtype, ensure_non_negative=True
        )
        kept = sample_weight > 0
        features, y, weight = unit_rows(X[kept]), y[kept], sample_weight[kept]
        self.classes_, index = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes in y with positive "
                f"sample weight; got 1 class: {self.classes_.tolist()}."
            )
        prototypes = resolve_prototypes(
            self.text_features,
            classes=self.classes_,
            encoder=encoder,
            text_encoder=self.text_encoder,
            class_names=self.class_names,
            prompt_templates=self.prompt_templates,
            n_features=X.shape[1],
            dtype=X.dtype,
        )
        self.prototype_source_ = prototypes.source
        self.encoder_ = prototypes.encoder
        self.logit_scale_ = (
            prototypes.logit_scale
            if self.logit_scale == "auto"
            else float(self.logit_scale)
        )
        text = prototypes.features
        if text is None:
            text = class_means(features, index, weight, n_classes)
        self.zero_shot_features_ = text
        weight = weight * self._class_weights(y, weight)[index]
        used = weight > 0
        if not used.any():
            raise ValueError("class_weight gives every row of the support weight 0.")
        return Support(features[used], index[used], weight[used], text)

    def _class_weights(self, y, sample_weight):
        """Return the weight of each class of ``classes_``."""
        weights = compute_class_weight(
            self.class_weight, classes=self.classes_, y=y, sample_weight=sample_weight
        ).astype(sample_weight.dtype)
        if (weights < 0).any():
            raise ValueError(
                f"class_weight must not be negative; got {self.class_weight!r}."
            )
        return weights

    def _read_query(self, X):
        """Check rows to predict and return them with unit norm."""
        check_is_fitted(self)
        encoder = encoder_of(X)
        if encoder is not None and self.encoder_ is not None:
            if encoder != self.encoder_:
                raise ValueError(
                    f"X comes from the encoder {encoder}, but this classifier was "
                    f"fitted on features of {self.encoder_}; embed the images with "
                    "the model that embedded the support."
                )
        return unit_rows(validate_data(self, X, reset=False, dtype=FLOATS))

    def _query_logits(self, X):
        return self._logits(self._read_query(X))

    def decision_function(self, X):
        """Return the logits, the softmax of which are the probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples,)
            One column per class of ``classes_``. With two classes, the logit of the
            second less that of the first, as scikit-learn has it.
        """
        logits = self._query_logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X):
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        logits = self._query_logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, X):
        """Return the probability of each class, the softmax of the logits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows add up to 1; columns follow ``classes_``.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X):
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns follow ``classes_``.
        """
        logits = self._query_logits(X)
        # In float32 a wide logit gap would round a probability to 0, and its log to
        # minus infinity: the smallest normal number is the floor of both.
        floor = np.log(np.finfo(logits.dtype).tiny)
        return np.maximum(log_softmax(logits, axis=1), floor)
