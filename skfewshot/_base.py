"""The few-shot classifier: reads a support, and derives all predictions from logits."""

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skfewshot._copies import merge_near_copies, merge_views, read_groups
from skfewshot._labels import (
    check_several,
    plain_labels,
    single_labels,
    with_extra_classes,
)
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
    row_order,
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
from skfewshot._spread import image_scale, spread_of
from skfewshot._tags import warn_of_tags
from skfewshot._text import (
    Prototypes,
    check_texts_fit,
    resolve_prototypes,
    warn_of_lost_encoder,
)
from skfewshot._torch import fork_safe_threads, import_torch, resolve_device, to_tensor
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
#: Reports fitted attributes, made when asked for; True asks to stop.
Report = Callable[[Callable[[], dict[str, Any]]], bool]
#: The attributes that a fit keeps with ``store_left_out=True``.
LEFT_OUT = (
    *("left_out_proba_", "left_out_novelty_", "support_codes_"),
    *("support_shares_", "support_features_"),
)
# Those that other settings or labels leave out: what an earlier fit has left there
# would be taken for that of the last one.
_OF_SOME_FITS = (
    *(*LEFT_OUT, "support_", "loss_curve_", "uses_unlabeled_", "unlabeled_gain_"),
    *("unlabeled_shares_", "unlabeled_background_"),
)
# Rows that are predicted at a time: few stay in a processor's cache.
_BLOCK = 1024


@dataclass(frozen=True)
class Support:
    """The rows that a method learns from, checked, merged and in order.

    Its arrays are NumPy; those of `on_device` are tensors.

    Attributes
    ----------
    features : array of shape (n_support, n_features)
        Unit rows, in the dtype of X.
    y : array of int, shape (n_support,)
        Class indices in ``[0, n_classes)``.
    weight : array of shape (n_support,)
        Sample weight times class weight; all positive.
    copy : array of shape (n_support,)
        The weight that one copy of a row has: that of its class. Near copies, once
        merged, are one copy of all their weight.
    text : array of shape (n_classes, n_features)
        Unit-norm starting prototypes.
    unlabelled : array of shape (n_unlabelled, n_features)
        Unit rows without a label, in the dtype of X.
    unlabelled_weight : array of shape (n_unlabelled,)
        Sample weight; all positive.
    rows : ndarray of int, shape (n_samples,)
        Which row of the support each row of X is in, with its copies or views; -1 is
        none, for rows of weight zero and those without a label.
    seen : ndarray of int, shape (n_classes,)
        Where the classes are in ``classes_``, which may have more than have rows.
    text_seen : bool
        Whether `text` are class means of the support, which say nothing more.
    logit_scale : float
    """

    features: Any
    y: Any
    weight: Any
    copy: Any
    text: Any
    unlabelled: Any
    unlabelled_weight: Any
    rows: NDArray
    seen: NDArray
    text_seen: bool
    logit_scale: float

    def in_own_order(self) -> tuple["Support", NDArray]:
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
        y, text, seen = rank[self.y], self.text[order], self.seen[order]
        return replace(self, y=y, text=text, seen=seen), rank

    def image_margin(self) -> float:
        """Return how far scaled cosines set a class mean above the others."""
        return self.logit_scale * spread_of(self.text)

    def without_near_copies(self) -> "Support":
        """Return the support with one row a class in the place of near copies."""
        merged = merge_near_copies(self.features, self.y, self.weight)
        features, y, weight, index = merged
        of_class = np.zeros(len(self.text), self.copy.dtype)
        of_class[self.y] = self.copy
        is_merged = np.bincount(index) > 1
        copy = np.where(is_merged, np.maximum(of_class[y], weight), of_class[y])
        rows = np.where(self.rows >= 0, index[self.rows], -1)
        return replace(
            self, features=features, y=y, weight=weight, copy=copy, rows=rows
        )

    def of_rows(self, rows: Any) -> "Support":
        """Return the support with some of its labelled rows; all classes stay."""
        return replace(
            self,
            features=self.features[rows],
            y=self.y[rows],
            weight=self.weight[rows],
            copy=self.copy[rows],
        )

    def of_classes_with_rows(self) -> "Support":
        """Return the support without classes all of whose rows have weight zero."""
        kept, y = np.unique(self.y, return_inverse=True)
        return replace(self, y=y, text=self.text[kept], seen=self.seen[kept])

    def on_device(self, device: Any) -> "Support":
        """Return the support with tensors in the place of arrays.

        `device` is None, a str or a torch.device, as the estimators have it.
        """
        torch = import_torch()
        to = partial(to_tensor, device=resolve_device(device))
        return replace(
            self,
            features=to(self.features),
            y=to(self.y, dtype=torch.int64),
            weight=to(self.weight),
            copy=to(self.copy),
            text=to(self.text),
            unlabelled=to(self.unlabelled),
            unlabelled_weight=to(self.unlabelled_weight),
        )


@contextmanager
def training() -> Iterator[None]:
    """Let torch compute as a solver needs it, wherever `fit` is called from.

    That may be inside a caller's inference mode, whose tensors could not be used
    outside it, or where no gradients are recorded.
    """
    torch = import_torch()
    with fork_safe_threads(), torch.inference_mode(False), torch.enable_grad():
        yield


def train(
    support: Support,
    device: Any,
    solve: Callable[..., Any],
    arrays: Callable[[Any, NDArray], dict[str, Any]],
    report: Report | None,
) -> dict[str, Any]:
    """Solve on a device, and return what that fits, by attribute.

    Parameters
    ----------
    support : Support
    device : None, str or torch.device
    solve : callable
        ``solve(support, on_iteration)`` with the support in tensors gives a solution
        with a ``loss_curve`` and ``n_iter``. After each iteration it is to call
        ``on_iteration(iteration, loss, state)``, unless that is None; ``state()`` gives
        the solution so far, and True asks to stop.
    arrays : callable
        ``arrays(solution, rank)`` gives attributes by name; the class at index c of the
        support is row ``rank[c]`` of the solution.
    report : callable or None
    """

    def on_iteration(iteration: int, loss: float, state: Callable[[], Any]) -> bool:
        if report is None:
            return False
        return report(
            lambda: {
                "n_iter_": iteration,
                "loss_curve_": [loss],
                **arrays(state(), rank),
            }
        )

    with training():
        ordered, rank = support.in_own_order()
        tensors = ordered.on_device(device)
        solution = solve(tensors, None if report is None else on_iteration)
    fitted = arrays(solution, rank)
    return fitted | {"loss_curve_": solution.loss_curve, "n_iter_": solution.n_iter}


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
        text = prototypes.features
        if text is None and n_seen < len(self.classes_):
            raise ValueError(
                "extra_classes need texts, and there are none; pass text_features or "
                "text_encoder."
            )
        if text is None:
            text = class_means(features, index, weight, n_seen)
        self.text_features_ = text
        if self.logit_scale != "auto":
            scale = float(self.logit_scale)
        elif prototypes.features is None:
            scale = image_scale(features, index, weight, text)
        else:
            scale = prototypes.logit_scale
        self.logit_scale_ = scale
        weight, copy = class_weights(
            self.class_weight, classes, index, weight, MOST_WEIGHT * len(rows)
        )
        used = weight >= np.finfo(weight.dtype).tiny
        if not used.any():
            raise ValueError("class_weight gives every row of the support weight 0.")
        where = np.full(len(kept), -1)
        where[kept] = np.where(used, np.cumsum(used) - 1, -1)[merged[source]]
        return Support(
            *(features[used], index[used], weight[used], copy[used], text[seen]),
            *merge_unlabelled(rows, weights, groups, bare),
            rows=where,
            seen=seen,
            text_seen=prototypes.features is None,
            logit_scale=scale,
        )

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
        _check_targets(y)
        return rows, y, check_weight(sample_weight, rows)

    def _read_labels(self, y: Any) -> NDArray:
        """Return labels, checked, where there are no rows beside them."""
        name = type(self).__name__
        if y is None:
            raise ValueError(
                f"{name} requires y to be passed, but the target y is None."
            )
        y = column_or_1d(single_labels(y, name))
        _check_targets(y)
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


def _check_targets(y: Any) -> None:
    """Refuse labels that are not classes, such as measurements."""
    with warnings.catch_warnings(), reading("y"):
        # Half as many classes as rows is no hint of regression: it is one shot.
        warnings.filterwarnings("ignore", "The number of unique classes")
        check_classification_targets(y)


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
