"""What fitted prototypes say of new images; every prediction has one source."""

import numpy as np
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from skfewshot._labels import read_labels
from skfewshot._rows import as_numpy, check_encoder, plain
from skfewshot.multilabel.calibration import Calibration
from skfewshot.multilabel.prototypes import Scorer, score
from skfewshot.multilabel.support import FeatureMap
from skfewshot.multilabel.tokens import blocks, split_tokens


class PrototypePredictionMixin:
    """Predictions of a classifier that has prototypes, a scorer and a calibration."""

    def _feature_map(self):
        return FeatureMap(self.part_mean_, self.whole_mean_, *self._map)

    def _try_predicting(self):
        # Two tokens, or what the classifier takes for so many.
        if self._token_dims == 3:
            X = np.zeros((1, 2, self.n_features_in_), np.float32)
        else:
            X = np.zeros((1, self.n_features_in_), np.float32)
        self.predict(X)

    def _read_query(self, X):
        check_is_fitted(self)
        check_encoder(X, self.encoder_)
        return split_tokens(self._read_tokens(X, reset=False))

    def _scorer(self):
        return Scorer(
            self.scale_,
            self._query_scoring,
            self._n_pooled,
            self.background_,
            self.sharpness_,
        )

    def _query_logits(self, X):
        scores = score(
            self._read_query(X),
            self._feature_map(),
            self.prototypes_,
            self._scorer(),
        )
        return Calibration(self.slope_, self.biases_).logits(scores)

    def decision_function(self, X):
        """Return the calibrated log odds of each label.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`; the number of local features
            may differ.

        Returns
        -------
        ndarray of shape (n_samples, n_labels) or (n_samples,)
            For 1-D `y` the logits of the softmax, and with two classes the logit of
            the second less that of the first, as scikit-learn has it.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X does not have the form of the support, or comes from another encoder.
        """
        logits = self._query_logits(X)
        if not self._is_multilabel and logits.shape[1] == 2:
            return logits[:, 1] - logits[:, 0]
        return logits

    def predict_proba(self, X):
        """Return the probability of each label.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_labels)
            Strictly between 0 and 1. Columns follow ``classes_``; for 1-D `y` rows add
            up to 1.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X does not have the form of the support, or comes from another encoder.
        """
        logits = self._query_logits(X)
        limits = np.finfo(logits.dtype)
        likely = expit(logits) if self._is_multilabel else softmax(logits, axis=1)
        return np.clip(likely, limits.tiny, 1 - limits.epsneg)

    def predict(self, X):
        """Return the labels of each image.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.

        Returns
        -------
        ndarray of int, shape (n_samples, n_labels), or of shape (n_samples,)
            Indicators of the labels whose probability reaches ``thresholds_``; for 1-D
            `y` the most probable class.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X does not have the form of the support, or comes from another encoder.
        """
        probabilities = self.predict_proba(X)
        if not self._is_multilabel:
            return self.classes_[probabilities.argmax(axis=1)]
        return (probabilities >= self.thresholds_).astype(np.int64)

    def score(self, X, y, sample_weight=None):
        """Return the share of images whose labels are all right.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.
        y : array-like or sparse matrix of shape (n_samples, n_labels), or array-like \
                of shape (n_samples,)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        weight = as_numpy(plain(sample_weight, "sample_weight"))
        # As fit reads them: scikit-learn takes fewer forms.
        labels = read_labels(y, np.float64)
        truth = labels.indicator.astype(np.int64)
        if not labels.is_multilabel:
            truth = labels.classes[truth.argmax(axis=1)]
        return accuracy_score(truth, self.predict(X), sample_weight=weight)

    def explain(self, X):
        """Return how much each local feature speaks for each label.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_labels, K)
            Under local and competitive scoring log odds of the label: the mean of the
            `n_select` largest values of a label is its :meth:`decision_function` (the
            logit of the softmax for 1-D `y`). The other scorings are calibrated for
            global features, and values tell patches apart but are no log odds. NaN
            where there is padding. For patch tokens of a square image
            ``evidence.reshape(n, n_labels, side, side)`` is a map over the picture.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X does not have the form of the support, or comes from another encoder.
        """
        tokens = self._read_query(X)
        scorer, calibration = self._scorer(), Calibration(self.slope_, self.biases_)
        n, n_parts, _ = tokens.parts.shape
        n_labels = len(self.prototypes_)
        maps = np.empty((n, n_labels, n_parts), dtype=tokens.parts.dtype)
        feature_map = self._feature_map()
        for rows in blocks(n, 4 * n_labels * n_parts * maps.itemsize):
            mapped = feature_map(tokens[rows])
            evidence = scorer.evidence(mapped.parts @ self.prototypes_.T)
            shown = mapped.present[:, :, None]
            evidence = np.where(shown, calibration.logits(evidence), np.nan)
            maps[rows] = evidence.transpose(0, 2, 1)
        return maps
