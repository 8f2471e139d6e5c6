"""What every few-shot classifier shares: reading the support, and the predictions."""

import warnings
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import gen_batches
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skfewshot._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    _check_sample_weight,
    _fit_context,
    has_callbacks,
)
from skfewshot.classifiers._open_classes import with_extra_classes
from skfewshot.classifiers._rows import merge_rows, row_order
from skfewshot.clip.embedding import encoder_of
from skfewshot.text import class_means, resolve_prototypes, unit_rows

# Rows that are predicted at a time.
_BLOCK = 1024
#: Constraints of the parameters that every classifier has.
SHARED_CONSTRAINTS = {
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
    copy : ndarray of shape (n_support,)
        The weight that one copy of a row has: that of its class.
    text : ndarray of shape (n_classes, n_features)
        Unit-norm starting prototypes.
    seen : ndarray of int, shape (n_classes,)
        Where the classes are in ``classes_``, which may have more than have rows.
    """

    features: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    copy: np.ndarray
    text: np.ndarray
    seen: np.ndarray | None = None

    def in_own_order(self):
        """Put the classes in an order that their names do not change, as rows have one.

        Returns
        -------
        support : Support
            With classes reordered.
        rank : ndarray of shape (n_classes,)
            Where each class went.
        """
        order = row_order(self.text)
        rank = np.argsort(order)
        return replace(self, y=rank[self.y], text=self.text[order]), rank


def float_types(X):
    """Return the dtypes to compute in: half precision becomes single, not double."""
    is_half = getattr(X, "dtype", None) == np.float16
    return np.float32 if is_half else [np.float64, np.float32]


def _check_images(X):
    """Name the images that could not be read; scikit-learn would only find a NaN."""
    if encoder_of(X) is None or X.ndim != 2:
        return
    unread = np.flatnonzero(np.isnan(np.asarray(X)).any(axis=1))
    if len(unread):
        shown = f"{unread[:20].tolist()}{' ...' if len(unread) > 20 else ''}"
        raise ValueError(
            "Input X contains NaN: the featurizer could not read the images at the "
            f"indexes {shown}. Leave their rows out: X[~np.isnan(X).any(axis=1)]."
        )


def check_encoder(X, fitted):
    """Refuse embeddings of another encoder than the `fitted` one, if both are known."""
    encoder = encoder_of(X)
    if encoder is not None and fitted is not None and encoder != fitted:
        raise ValueError(
            f"X comes from the encoder {encoder}, but this classifier was fitted on "
            f"features of {fitted}; embed the images with the model that embedded the "
            "support."
        )


class FewShotClassifier(
    ClassifierMixin, CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta
):
    """Base of the classifiers: subclasses fit, and turn unit rows into logits.

    A subclass has the parameters of `SHARED_CONSTRAINTS` and implements ``_learn`` and
    ``_logits``. Every prediction derives from those logits.
    """

    # The text encoder is a parameter that may be an estimator, with constraints of its
    # own, so nested validation stays on.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Learn from the support.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Image embeddings of the support. Straight from a
            :class:`~skfewshot.CLIPFeaturizer` they know their text encoder.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0. They count rows: a row of weight 2 is two rows, and
            more rows weigh more against the texts, so do not scale the weights to sum
            to one.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If there are fewer than two classes, a value is not finite, a weight is
            negative, or the text features do not fit `y` and `X`.
        TypeError
            If a class name is not a str, or `text_encoder` cannot encode.

        Warns
        -----
        UserWarning
            If class means stand in for texts that were to be expected.
        ConvergenceWarning
            If a method that has a `tol` reached `max_iter` first.
        """
        support = self._read_support(X, y, sample_weight)
        context = self._init_callback_context(max_subtasks=getattr(self, "max_iter", 0))
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)

        def on_iteration(fitted):
            task = context.subcontext(task_name="iteration")
            task.call_on_fit_task_begin(estimator=self, X=X, y=y)
            return task.call_on_fit_task_end(
                estimator=self, X=X, y=y, reconstruction_attributes=fitted
            )

        self._learn(support, on_iteration if has_callbacks(self) else None)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @abstractmethod
    def _learn(self, support, on_iteration):
        """Set what predictions need, from a `Support`.

        `on_iteration` is None, or to be called after each iteration with a callable
        that gives the fitted attributes so far by name; True asks to stop.
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
        _check_images(X)
        if self._expects_texts(X, encoder):
            warnings.warn(
                "X is a data frame made by a CLIPFeaturizer, which does not know its "
                "encoder. The class means of the support stand in for the text "
                "prototypes; pass text_encoder, or leave set_output alone.",
                UserWarning,
                stacklevel=4,
            )
        X, y = validate_data(self, X, y, dtype=float_types(X))
        with warnings.catch_warnings():
            # Half as many classes as rows is no hint of regression: it is one shot.
            warnings.filterwarnings("ignore", "The number of unique classes")
            check_classification_targets(y)
        sample_weight = _check_sample_weight(
            sample_weight, X, dtype=X.dtype, ensure_non_negative=True
        )
        kept = sample_weight > 0
        self.classes_, index = np.unique(y[kept], return_inverse=True)
        n_classes = len(self.classes_)
        self.classes_, seen = with_extra_classes(
            self.classes_, getattr(self, "extra_classes", None)
        )
        if n_classes < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes in y with positive "
                f"sample weight; got 1 class: {self.classes_[seen].tolist()}."
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
        features, index, weight = merge_rows(
            unit_rows(X[kept]), index, sample_weight[kept]
        )
        text = prototypes.features
        if text is None and n_classes < len(self.classes_):
            raise ValueError(
                "extra_classes need texts, and there are none; pass text_features or "
                "text_encoder."
            )
        if text is None:
            text = class_means(features, index, weight, n_classes)
        self.zero_shot_features_ = text
        copy = self._class_weights(self.classes_[seen], index, weight)[index]
        weight = weight * copy
        used = weight > 0
        if not used.any():
            raise ValueError("class_weight gives every row of the support weight 0.")
        return Support(
            features[used], index[used], weight[used], copy[used], text[seen], seen
        )

    def _expects_texts(self, X, encoder):
        """Say whether a data frame hides that X comes from a featurizer."""
        names = getattr(X, "columns", ())
        is_embedding = len(names) > 0 and str(names[0]).startswith("clipfeaturizer")
        is_auto = isinstance(self.text_features, str) and self.text_encoder is None
        return is_embedding and is_auto and encoder is None

    def _class_weights(self, classes, index, sample_weight):
        """Return the weight of each class that has rows."""
        weights = compute_class_weight(
            self.class_weight,
            classes=classes,
            y=classes[index],
            sample_weight=sample_weight,
        ).astype(sample_weight.dtype)
        if (weights < 0).any():
            raise ValueError(
                f"class_weight must not be negative; got {self.class_weight!r}."
            )
        return weights

    def _check_query(self, X):
        """Check rows to predict and return them as an array."""
        check_is_fitted(self)
        _check_images(X)
        check_encoder(X, self.encoder_)
        return validate_data(self, X, reset=False, dtype=float_types(X))

    def _zero_shot_logits(self, features):
        """Return ``s f T_0'``."""
        return self._scaled_cosines(features, self.zero_shot_features_)

    def _scaled_cosines(self, features, prototypes):
        dtype = features.dtype
        cosines = features @ prototypes.T.astype(dtype, copy=False)
        return dtype.type(self.logit_scale_) * cosines

    def _query_logits(self, X, finish=None):
        """Return logits, or what `finish` makes of those of some rows at a time.

        Few rows at a time stay in the processor's cache from one step to the next.
        """
        X = self._check_query(X)
        parts = []
        for rows in gen_batches(len(X), _BLOCK):
            logits = self._logits(unit_rows(X[rows]))
            parts.append(logits if finish is None else finish(logits))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

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

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
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

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        best = self._query_logits(X, lambda logits: logits.argmax(axis=1))
        return self.classes_[best]

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

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        return self._query_logits(X, lambda logits: np.exp(_log_softmax(logits)))

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

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        return self._query_logits(X, _log_softmax)


def _log_softmax(logits):
    """Logarithms of probabilities; the logits are overwritten."""
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    # In float32 a wide logit gap would round a probability to 0, and its log to minus
    # infinity: the smallest normal number is the floor of both.
    floor = np.log(np.finfo(logits.dtype).tiny)
    return np.maximum(logits, floor, out=logits)
