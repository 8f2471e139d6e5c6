"""A classifier that says so where an image is of none of its classes."""

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted

from skfewshot._base import FewShotClassifier
from skfewshot._labels import plain_labels, with_class
from skfewshot._rows import plain
from skfewshot._sklearn import Estimator, HasMethods, Interval, _fit_context, show
from skfewshot._unlabelled import unlabelled_rows
from skfewshot._unread import only_read
from skfewshot.inspection._model import resolve
from skfewshot.inspection._novelty import novelty_score, novelty_threshold

_STORE = "store_left_out"


class RejectingClassifier(ClassifierMixin, MetaEstimatorMixin, Estimator):
    """Classifier that predicts "unknown" for images that are of none of its classes.

    An image is of none where its :func:`~skfewshot.inspection.novelty_score` is above
    :func:`~skfewshot.inspection.novelty_threshold`: higher than that of most images of
    the support when they are left out. Images of other things are not needed.

    Parameters
    ----------
    estimator : estimator
        A :class:`~skfewshot.CMMClassifier`,
        :class:`~skfewshot.GaussianDiscriminantClassifier` or
        :class:`~skfewshot.ProKeRClassifier`, or a :class:`~sklearn.pipeline.Pipeline`
        that ends in one. It is fitted with ``store_left_out=True``.
    false_alarms : float, default=0.05
        Share of the images of the classes, above 0 and below 1, that may be called
        unknown.
    unknown : label, default=None
        What to predict then: a label of the kind of those in `y`, but none of them.
        None is ``"unknown"`` or, where labels are numbers, -1, or one less than the
        lowest if some are negative; one less again if `estimator` has that for rows
        without a label, ``unlabeled=``.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier or pipeline.
    threshold_ : float
        The novelty above which an image is unknown.
    unknown_ : label
        What is predicted then.
    classes_ : ndarray of shape (n_classes,)
        The classes; `unknown_` is none of them.
    n_features_in_ : int
        Of `estimator_`, where that has it.
    feature_names_in_ : ndarray of shape (n_features,)
        Of `estimator_`, where that has it.

    See Also
    --------
    skfewshot.inspection.predict_set : The classes that an image may well be of.

    Notes
    -----
    Probabilities, and :meth:`decision_function`, are those of `estimator_`: they
    compare the classes. To score with images of other things, let `y` hold `unknown_`
    for them.

    Parameters of `fit` other than `X` and `y` go to `estimator`, by metadata routing
    where that is enabled.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import CMMClassifier
    >>> from skfewshot.inspection import RejectingClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog"], 20)
    >>> directions = np.eye(20)
    >>> X = np.repeat(directions[:2], 20, axis=0) + 0.2 * rng.normal(size=(40, 20))
    >>> texts = dict(zip(["cat", "dog"], directions, strict=False))
    >>> model = RejectingClassifier(CMMClassifier(texts)).fit(X, y)
    >>> model.predict(directions[:4]).tolist()
    ['cat', 'dog', 'unknown', 'unknown']
    """

    _parameter_constraints: ClassVar[dict] = {
        "estimator": [HasMethods(["fit", "predict_proba"])],
        "false_alarms": [Interval(Real, 0, 1, closed="neither")],
        "unknown": "no_validation",
    }

    def __init__(
        self, estimator: Any, *, false_alarms: float = 0.05, unknown: Any = None
    ) -> None:
        self.estimator = estimator
        self.false_alarms = false_alarms
        self.unknown = unknown

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, **params: Any) -> Self:
        """Fit the classifier, and find from where on an image is unknown.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As `estimator` takes it.
        y : array-like of shape (n_samples,)
            Class labels.
        **params : dict
            For the `fit` of `estimator`, such as ``sample_weight`` and ``groups``.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If `estimator` cannot leave rows out, or `unknown` is one of the classes, of
            another kind, or what `estimator` calls rows without a label.

        Warns
        -----
        UserWarning
            If there are fewer images than ``1 / false_alarms - 1``.
        """
        if sklearn.get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **params)["estimator"]["fit"]
        estimator = clone(self.estimator)
        inner = _last(estimator)
        if inner is not None and _STORE in inner.get_params(deep=False):
            inner.set_params(**{_STORE: True})
        self.estimator_ = estimator.fit(X, y, **params)
        mark = getattr(inner, "unlabeled", None)
        unknown = self.unknown
        if unknown is None:
            unknown = _unknown_of(self.classes_, mark)
        if unlabelled_rows(np.array([unknown], dtype=object), mark) is not None:
            raise ValueError(
                f"unknown={show(unknown)} is what unlabeled= calls rows without a "
                "label; name another."
            )
        # With the classes in one array, so that it is of their type.
        self._labels = with_class(self.classes_, unknown, "unknown")[0]
        self.unknown_ = self._labels[-1:].tolist()[0]
        self.threshold_ = novelty_threshold(
            self.estimator_, false_alarms=self.false_alarms
        )
        return self

    def _check_before_embedding(self, y: Any) -> None:
        """Refuse what `fit` would refuse, before a featurizer embeds its images."""
        self._validate_params()
        check = getattr(_last(self.estimator), "_check_before_embedding", None)
        if check is not None:
            check(y)

    @property
    def classes_(self) -> NDArray:
        return self.estimator_.classes_

    @property
    def n_features_in_(self) -> int:
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self) -> NDArray:
        return self.estimator_.feature_names_in_

    def predict(self, X: Any) -> NDArray:
        """Return the class of each image, or that it is unknown.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As `estimator` takes it.

        Returns
        -------
        ndarray of shape (n_samples,)
            Of an image that could not be read NaN or, where labels are no numbers,
            None.
        """
        check_is_fitted(self)
        return self._predict(*resolve(self.estimator_, X))

    def _predict(self, classifier: FewShotClassifier, rows: Any) -> NDArray:
        is_new = novelty_score(classifier, rows) > self.threshold_
        found = classifier.predict(rows)
        if found.dtype != object:
            found = found.astype(np.result_type(found, self._labels), copy=False)
        found[is_new] = self._labels[-1:]
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on some images, those that could not be read left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As `estimator` takes it.
        y : array-like of shape (n_samples,)
            True labels; `unknown_` for images of none of the classes.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        check_is_fitted(self)
        classifier, rows = resolve(self.estimator_, X)
        rows, y, sample_weight = only_read(rows, y, sample_weight)
        weight = plain(sample_weight, "sample_weight")
        found = self._predict(classifier, rows)
        return accuracy_score(plain_labels(y), found, sample_weight=weight)

    def predict_proba(self, X: Any) -> NDArray:
        """Return the probability of each class, as if the image were of one of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows add up to 1; columns follow ``classes_``.
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(X)

    def predict_log_proba(self, X: Any) -> NDArray:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.estimator_.predict_log_proba(X)

    def decision_function(self, X: Any) -> NDArray:
        """Return the logits of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples,)
        """
        check_is_fitted(self)
        return self.estimator_.decision_function(X)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what is routed where: parameters of `fit` go to `estimator`.

        Returns
        -------
        MetadataRouter
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        router = MetadataRouter(owner=self).add_self_request(self)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def _unknown_of(classes: NDArray, mark: Any) -> Any:
    """Return what is called unknown where nobody says so."""
    if classes.dtype.kind not in "iuf":
        return "unknown"
    unknown = min(-1, classes.tolist()[0] - 1)
    return unknown - 1 if unlabelled_rows([unknown], mark) is not None else unknown


def _last(estimator: Any) -> Any:
    """Return the classifier that will be fitted in a pipeline or a search, if any."""
    while True:
        if isinstance(estimator, Pipeline) and estimator.steps:
            estimator = estimator.steps[-1][1]
        elif isinstance(estimator, FrozenEstimator):
            return None
        elif hasattr(estimator, "estimator"):
            estimator = estimator.estimator
        else:
            return estimator
