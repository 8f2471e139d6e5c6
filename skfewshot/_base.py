"""The few-shot classifier: reads a support, and derives all predictions from logits."""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

from skfewshot._copies import merge_views, read_groups
from skfewshot._labels import (
    check_several,
    check_targets,
    plain_labels,
    single_labels,
    with_extra_classes,
)
from skfewshot._left_out import LEFT_OUT
from skfewshot._rows import (
    MOST_WEIGHT,
    check_encoder,
    check_parameters,
    check_rows,
    check_weight,
    class_means,
    class_weights,
    float_types,
    merge_rows,
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
from skfewshot._spread import image_scale
from skfewshot._support import Report, Support
from skfewshot._tags import warn_of_tags
from skfewshot._text import (
    Prototypes,
    check_texts_fit,
    resolve_prototypes,
    warn_of_lost_encoder,
)
from skfewshot._unlabelled import (
    all_labelled,
    merge_unlabelled,
    split_rows,
    split_unlabelled,
    with_gaps,
)
from skfewshot._unread import (
    only_read,
    unread_rows,
    with_filled_rows,
    with_missing,
    without_unread,
)
from skfewshot.clip._embedding import encoder_of

#: Constraints of the parameters that every classifier has.
SHARED_CONSTRAINTS: dict[str, list[Any]] = {
    "text_features": [StrOptions({"auto"}), "array-like", dict, None],
    "class_names": ["array-like", dict, callable, None],
    "text_encoder": [HasMethods("encode_classes"), callable, None],
    "prompt_templates": [str, "array-like", callable, None],
    "logit_scale": [StrOptions({"auto"}), Interval(Real, 1e-12, None, closed="left")],
    "class_weight": [StrOptions({"balanced"}), dict, None],
}
# Those that other settings or labels leave out: what an earlier fit has left there
# would be taken for that of the last one.
_OF_SOME_FITS = (
    *(*LEFT_OUT, "support_", "loss_curve_", "uses_unlabeled_", "unlabeled_gain_"),
    *("unlabeled_shares_", "unlabeled_background_"),
)
# Rows that are predicted at a time: few stay in a processor's cache.
_BLOCK = 1024


class FewShotClassifier(
    ClassifierMixin, CallbackSupportMixin, Estimator, metaclass=ABCMeta
):
    """Base of the classifiers: subclasses learn, and turn unit rows into logits.

    A subclass has the parameters of `SHARED_CONSTRAINTS` and implements ``_learn`` and
    ``_logits``. Every prediction derives from those logits.
    """

    #: Whether there have to be labels, where there are images.
    _needs_labels = True

    # The text encoder is a parameter that may be an estimator, with constraints of its
    # own, so nested validation stays on.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Learn from the support.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings of the support. Straight from a
            :class:`~skfewshot.CLIPFeaturizer` they know their text encoder, and rows of
            images that it could not read, under ``on_error="nan"``, are left out. A
            tensor is copied into an array.
        y : array-like or tensor of shape (n_samples,)
            Class labels; None, NaN or ``pandas.NA`` where there is none, if the
            classifier has a parameter `unlabeled`. In a pipeline after a
            :class:`~skfewshot.CLIPFeaturizer` the labels, the parameters and the names
            are checked before it embeds.
        sample_weight : array-like or tensor of shape (n_samples,), default=None
            Weights, from 0 to 1e9. They count rows: a row of weight 2 is two rows, and
            more rows weigh more against the texts, so do not scale the weights to sum
            to one.
        groups : array-like or tensor of shape (n_samples,), default=None
            Which photograph a row is a view of, as ints or strings. The rows of a
            group, such as ten crops, count as one: their unit rows' mean, weighted by
            `sample_weight`, with the mean of their weights. The label of one is that
            of all. Rows of weight zero are left out first. None takes each row for a
            photograph.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If there are fewer than two classes, a label is missing that the classifier
            needs, a value is not finite, a weight is negative, the text features do not
            fit `y` and `X`, or the rows of a group have different labels.
        TypeError
            If a class name is not a str, or `text_encoder` cannot encode.

        Warns
        -----
        UserWarning
            If class means stand in for texts that were to be expected, classes look
            like lists of tags, or none of the images of a class could be read.
        """
        labels, known = split_unlabelled(y, self)
        X, sample_weight = without_unread(X, labels, sample_weight, known)
        support = self._read_support(X, labels, known, sample_weight, groups)
        context = self._init_callback_context(max_subtasks=self._most_iterations())
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)

        def report(fitted: Callable[[], dict[str, Any]]) -> bool:
            task = context.subcontext(task_name="iteration")
            task.call_on_fit_task_begin(estimator=self, X=X, y=y)
            return task.call_on_fit_task_end(
                estimator=self, X=X, y=y, reconstruction_attributes=fitted
            )

        fitted = self._learn(support, report if has_callbacks(self) else None)
        if getattr(self, "store_support", False):
            fitted["support_"] = _kept_support(X, labels, known, sample_weight, groups)
        if getattr(self, "store_left_out", False):
            fitted["support_features_"] = unit_rows(self._check_query(X))
        for name in _OF_SOME_FITS:
            self.__dict__.pop(name, None)
        for name, value in fitted.items():
            setattr(self, name, value)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def _most_iterations(self) -> int:
        """Return how many iterations may be reported."""
        return getattr(self, "max_iter", 0)

    @abstractmethod
    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        """Return what predictions need, by attribute.

        `report` is None, or to be called after each iteration with a callable that
        gives the fitted attributes so far by name; True asks to stop.
        """

    @abstractmethod
    def _logits(self, features: NDArray) -> NDArray:
        """Return the logits, shape (n, n_classes), of unit rows (n, n_features)."""

    def _read_support(
        self,
        X: Any,
        y: Any,
        known: NDArray[np.bool_] | None,
        sample_weight: Any,
        groups: Any,
    ) -> Support:
        """Check the support, find its prototypes and set what `fit` learns of them.

        `y` has no missing labels; `known` is None, or says which are labels.
        """
        check_parameters(self.get_params(deep=False))
        rows, y, weights = self._read_rows(X, y, sample_weight)
        groups = read_groups(groups, len(rows))
        y, kept, bare = split_rows(y, known, weights > 0, groups)
        classes, index = np.unique(y[kept], return_inverse=True)
        warn_of_tags(classes)
        n_seen = len(classes)
        check_several(classes, type(self).__name__, int(bare.sum()))
        extra_classes = getattr(self, "extra_classes", None)
        self.classes_, seen = with_extra_classes(classes, extra_classes)
        prototypes = self._read_texts(X, rows.shape[1], rows.dtype)
        read = unit_rows(rows[kept]), index, weights[kept]
        source = np.arange(len(index))
        if groups is not None:
            *views, source = merge_views(*read, groups[kept], classes)
            read = views[0], views[1], views[2]
        features, index, weight, merged = merge_rows(*read)
        self.class_count_ = np.zeros(len(self.classes_))
        self.class_count_[seen] = np.bincount(index, weight, n_seen)
        self._set_texts(prototypes, features, index, weight, n_seen)
        weight, copy = class_weights(
            self.class_weight, classes, index, weight, MOST_WEIGHT * len(rows)
        )
        used = weight >= np.finfo(weight.dtype).tiny
        if not used.any():
            raise ValueError("class_weight gives every row of the support weight 0.")
        where = np.full(len(kept), -1)
        where[kept] = np.where(used, np.cumsum(used) - 1, -1)[merged[source]]
        unlabelled, unlabelled_weight = merge_unlabelled(rows, weights, groups, bare)
        return Support(
            *(features[used], index[used], weight[used], copy[used]),
            text=self.text_features_[seen],
            unlabelled=unlabelled,
            unlabelled_weight=unlabelled_weight,
            rows=where,
            seen=seen,
            text_seen=prototypes.features is None,
            logit_scale=self.logit_scale_,
        )

    def _set_texts(
        self,
        prototypes: Prototypes,
        features: NDArray,
        index: NDArray,
        weight: NDArray,
        n_seen: int,
    ) -> None:
        """Set the texts, or class means in their place, and the scale of cosines."""
        text, scale = prototypes.features, self.logit_scale
        if text is None and n_seen < len(self.classes_):
            raise ValueError(
                "extra_classes need texts, and there are none; pass text_features or "
                "text_encoder."
            )
        if text is None:
            text = class_means(features, index, weight, n_seen)
            if scale == "auto":
                scale = image_scale(features, index, weight, text)
        self.text_features_ = text
        self.logit_scale_ = prototypes.logit_scale if scale == "auto" else float(scale)

    def _read_texts(self, X: Any, n_features: int | None, dtype: Any) -> Prototypes:
        """Return the texts of `classes_`, and set where they are from."""
        prototypes = resolve_prototypes(
            self.text_features,
            classes=self.classes_,
            encoder=encoder_of(X),
            text_encoder=self.text_encoder,
            class_names=self.class_names,
            prompt_templates=self.prompt_templates,
            n_features=n_features,
            dtype=dtype,
            has_images=n_features is not None,
        )
        self.prototype_source_ = prototypes.source
        self.encoder_ = prototypes.encoder
        return prototypes

    def _read_rows(
        self, X: Any, y: Any, sample_weight: Any
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return rows, labels and weights, checked."""
        if has_no_images(X):
            raise ValueError(
                "Expected 2D array with a row an image, got none, and "
                f"{type(self).__name__} learns from images; ZeroShotClassifier does "
                "without, from the names in y."
            )
        rows, y = check_rows(X), single_labels(y, type(self).__name__)
        with reading("X or y"):
            rows, y = validate_data(self, rows, y, dtype=float_types(rows))
        if isinstance(self.text_features, str) and self.text_encoder is None:
            # What else might have said how the classes are called warns by itself.
            told = self.class_names is not None or self.prompt_templates is not None
            warn_of_lost_encoder(X, rows, y, told=told)
        check_targets(y)
        return rows, y, check_weight(sample_weight, rows)

    def _read_labels(self, y: Any) -> NDArray:
        """Return labels, checked, where there are no rows beside them."""
        name = type(self).__name__
        if y is None:
            raise ValueError(
                f"{name} requires y to be passed, but the target y is None."
            )
        y = column_or_1d(single_labels(y, name))
        check_targets(y)
        return y

    def _check_before_embedding(self, y: Any) -> None:
        """Refuse what `fit` would refuse, before a featurizer embeds its images."""
        self._validate_params()
        check_parameters(self.get_params(deep=False))
        y, known = split_unlabelled(y, self)
        classes, n_bare = self._read_labels(y), 0
        if known is not None:
            classes, n_bare = classes[known], len(known) - known.sum()
        classes = np.unique(classes)
        if self._needs_labels:
            check_several(classes, type(self).__name__, n_bare)
        classes, _ = with_extra_classes(classes, getattr(self, "extra_classes", None))
        check_several(classes, type(self).__name__, n_bare)
        check_texts_fit(
            self.text_features, classes, self.class_names, self.prompt_templates
        )

    def _check_query(self, X: Any) -> NDArray:
        """Check rows to predict and return them as an array."""
        check_is_fitted(self)
        rows = check_rows(X)
        check_encoder(X, self.encoder_)
        with reading("X"):
            return validate_data(self, rows, reset=False, dtype=float_types(rows))

    def _scaled_cosines(self, features: NDArray, prototypes: NDArray) -> NDArray:
        """Return ``s f t'`` for unit rows and unit prototypes."""
        return float(self.logit_scale_) * (features @ as_rows(prototypes, features).T)

    def _query_logits(
        self, X: Any, finish: Callable[[NDArray], NDArray] = lambda logits: logits
    ) -> NDArray:
        """Return what `finish` makes of the logits of some rows at a time."""
        unread = unread_rows(X)
        X = self._check_query(with_filled_rows(X, unread))
        parts = [
            finish(self._logits(unit_rows(X[rows])))
            for rows in gen_batches(len(X), _BLOCK)
        ]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if unread is not None and found.dtype.kind == "f":
            found[unread] = np.nan
        return found

    def decision_function(self, X: ArrayLike) -> NDArray:
        """Return the logits, the softmax of which are the probabilities.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
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

    def predict(self, X: ArrayLike) -> NDArray:
        """Return the most probable class of each row.

        Of an image that a featurizer with ``on_error="nan"`` could not read it is NaN
        or, where labels are no numbers, None; in all other predictions NaN.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
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
        index = self._query_logits(X, lambda x: x.argmax(axis=1))
        return with_missing(self.classes_[index], unread_rows(X))

    def predict_proba(self, X: ArrayLike) -> NDArray:
        """Return the probability of each class, the softmax of the logits.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
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
        return self._query_logits(X, lambda x: np.exp(_log_softmax(x), out=x))

    def predict_log_proba(self, X: ArrayLike) -> NDArray:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
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

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the accuracy on some rows, those of unreadable images left out.

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
        X, y, sample_weight = only_read(X, y, sample_weight)
        weight = plain(sample_weight, "sample_weight")
        y = all_labelled(plain_labels(y), self)
        return accuracy_score(y, self.predict(X), sample_weight=weight)


def has_no_images(X: Any) -> bool:
    """Say whether X is None, or the empty embeddings that a featurizer makes of it."""
    return X is None or (encoder_of(X) is not None and len(X) == 0)


def _kept_support(
    X: Any,
    y: Any,
    known: NDArray[np.bool_] | None,
    sample_weight: Any,
    groups: Any,
) -> dict[str, Any]:
    """Return what a fit was given, as plain arrays, for fits to come.

    `y` has no missing labels; `known` is None, or says which are labels.
    """

    def array(values: Any, name: str) -> NDArray | None:
        return None if values is None else np.array(plain_labels(values, name))

    weight = plain(sample_weight, "sample_weight")
    return {
        "X": np.array(plain(X, "X")),
        "y": with_gaps(np.array(np.ravel(plain_labels(y))), known),
        "sample_weight": None if weight is None else np.array(weight),
        "groups": array(groups, "groups"),
    }


def as_rows(fitted: NDArray, rows: NDArray) -> NDArray:
    """Return a fitted array in the precision of the rows that it meets."""
    return fitted.astype(rows.dtype, copy=False)


def _log_softmax(logits: NDArray) -> NDArray:
    """Return the logarithms of probabilities; the logits are overwritten.

    In float32 a wide logit gap would round a probability to 0, and its log to minus
    infinity: the smallest normal number is the floor of both.
    """
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    floor = np.log(np.finfo(logits.dtype).tiny)
    return np.maximum(logits, floor, out=logits)
