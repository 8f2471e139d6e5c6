"""What every few-shot classifier shares: how it is fitted, and the predictions."""

from abc import ABCMeta, abstractmethod
from numbers import Real

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

from skfewshot._labels import plain_labels
from skfewshot._rows import (
    as_numpy,
    check_encoder,
    concatenate,
    exponentials,
    labels_like,
    like,
    log_softmax,
    plain,
    reading,
    unit_rows,
)
from skfewshot._sklearn import (
    Estimator,
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    has_callbacks,
)
from skfewshot._torch import fork_safe_threads, is_tensor
from skfewshot.classifiers._support import SupportReader, check_rows, row_types

# Rows that are predicted at a time, and their numbers or logits on a GPU.
_BLOCK, _BLOCK_ON_GPU = 1024, 2**26
#: Constraints of the parameters that every classifier has.
SHARED_CONSTRAINTS = {
    "text_features": [StrOptions({"auto"}), "array-like", dict, None],
    "class_names": ["array-like", dict, None],
    "text_encoder": [HasMethods("encode_classes"), callable, None],
    "prompt_templates": [str, "array-like", callable, None],
    "logit_scale": [
        StrOptions({"auto"}),
        Interval(Real, 1e-12, None, closed="left"),
    ],
    "class_weight": [StrOptions({"balanced"}), dict, None],
}


class FewShotClassifier(
    SupportReader,
    ClassifierMixin,
    CallbackSupportMixin,
    Estimator,
    metaclass=ABCMeta,
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
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings of the support. Straight from a
            :class:`~skfewshot.CLIPFeaturizer` they know their text encoder. With array
            API dispatch a tensor is computed with where it is. What is fitted are NumPy
            arrays all the same.
        y : array-like or tensor of shape (n_samples,)
            Class labels.
        sample_weight : array-like or tensor of shape (n_samples,), default=None
            Weights, from 0 to 1e9. They count rows: a row of weight 2 is two rows, and
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
            If a class name is not a str, `text_encoder` cannot encode, or `X` is a
            tensor on a GPU without array API dispatch.

        Warns
        -----
        UserWarning
            If class means stand in for texts that were to be expected.
        ConvergenceWarning
            If a method that has a `tol` reached `max_iter` first.
        """
        with fork_safe_threads():
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

    def _try_predicting(self):
        self.predict(np.zeros((1, self.n_features_in_), np.float32))

    def _check_query(self, X):
        """Check rows to predict and return them as an array, or a tensor."""
        check_is_fitted(self)
        rows = check_rows(X)
        check_encoder(X, self.encoder_)
        with reading("X"):
            return validate_data(self, rows, reset=False, dtype=row_types(rows))

    def _zero_shot_logits(self, features):
        """Return ``s f T_0'``."""
        return self._scaled_cosines(features, self.zero_shot_features_)

    def _scaled_cosines(self, features, prototypes):
        return float(self.logit_scale_) * (features @ like(prototypes, features).T)

    def _query_logits(self, X, finish=None):
        """Return logits, or what `finish` makes of those of some rows at a time."""
        X = self._check_query(X)
        # Few rows stay in a processor's cache from one step to the next.
        size = _BLOCK
        if is_tensor(X) and X.device.type != "cpu":
            size = max(size, _BLOCK_ON_GPU // max(X.shape[1], len(self.classes_)))
        parts = []
        with fork_safe_threads():
            for rows in gen_batches(len(X), size):
                logits = self._logits(unit_rows(X[rows]))
                parts.append(logits if finish is None else finish(logits))
        return concatenate(parts)

    def decision_function(self, X):
        """Return the logits, the softmax of which are the probabilities.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray or tensor of shape (n_samples, n_classes) or (n_samples,)
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
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray or tensor of shape (n_samples,)
            A tensor, where X is, if array API dispatch has X a tensor and the labels
            are numbers.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        best = self._query_logits(X, lambda logits: logits.argmax(axis=1))
        return labels_like(self.classes_[as_numpy(best)], best)

    def predict_proba(self, X):
        """Return the probability of each class, the softmax of the logits.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray or tensor of shape (n_samples, n_classes)
            Rows add up to 1; columns follow ``classes_``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        return self._query_logits(X, lambda logits: exponentials(log_softmax(logits)))

    def predict_log_proba(self, X):
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray or tensor of shape (n_samples, n_classes)
            Columns follow ``classes_``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        return self._query_logits(X, log_softmax)

    def score(self, X, y, sample_weight=None):
        """Return the accuracy on some rows.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.
        y : array-like or tensor of shape (n_samples,)
            True labels.
        sample_weight : array-like or tensor of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        # In NumPy, as scikit-learn does not compare tensors with lists or columns of a
        # data frame.
        predicted = as_numpy(self.predict(X))
        weight = as_numpy(plain(sample_weight, "sample_weight"))
        return accuracy_score(plain_labels(y), predicted, sample_weight=weight)
