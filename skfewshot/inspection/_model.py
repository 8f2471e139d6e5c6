"""What every function here reads first: the classifier of a model, and its rows."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, column_or_1d, gen_batches
from sklearn.utils.validation import check_is_fitted

from skfewshot._base import FewShotClassifier
from skfewshot._labels import single_labels
from skfewshot._rows import unit_rows
from skfewshot._sklearn import check_number, show
from skfewshot._unlabelled import unlabelled_rows
from skfewshot._unread import unread_rows, with_filled_rows

# Cosine above which two rows are of one image, embedded twice: batches of other sizes
# move float32 embeddings by 4e-6.
_SAME = 1 - 1e-6
#: Rows that are compared with the support at a time.
BLOCK = 1024


class Inspected(NamedTuple):
    """A classifier, and what it makes predictions from.

    Attributes
    ----------
    classifier : FewShotClassifier
        Fitted.
    X : array of shape (n_samples, n_features) or None
        Rows as the classifier takes them: what the steps before it make of the images.
    """

    classifier: FewShotClassifier
    X: Any

    def features(self) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return unit rows, checked, and which of them are of unreadable images."""
        unread = unread_rows(self.X)
        rows = self.classifier._check_query(with_filled_rows(self.X, unread))
        none = np.zeros(len(rows), dtype=bool)
        return unit_rows(rows), none if unread is None else unread


def resolve(model: Any, X: Any = None) -> Inspected:
    """Return the classifier of a model, and what it gets of images.

    Parameters
    ----------
    model : estimator
        A fitted classifier with one label an image, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one. Of a search it is that of
        ``best_estimator_``; around either may be a
        :class:`~sklearn.frozen.FrozenEstimator` or `RejectingClassifier`.
    X : object, default=None
        What `model` predicts from: images for a pipeline with a featurizer, embeddings
        for a classifier. None is no rows.

    Returns
    -------
    Inspected

    Raises
    ------
    TypeError
        If `model` is something else.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    inner = model
    while not isinstance(inner, FewShotClassifier):
        if isinstance(inner, Pipeline) and inner.steps:
            if X is not None and len(inner.steps) > 1:
                check_is_fitted(inner)
                X = inner[:-1].transform(X)
            inner = inner.steps[-1][1]
        elif isinstance(inner, FrozenEstimator):
            inner = inner.estimator
        else:
            inner = _inside(inner, model)
    check_is_fitted(inner)
    return Inspected(inner, X)


def _inside(outer: Any, model: Any) -> Any:
    """Return the fitted estimator inside of another, or refuse the model."""
    for name in ("best_estimator_", "estimator_"):
        if hasattr(outer, name):
            return getattr(outer, name)
    if hasattr(outer, "estimator"):
        check_is_fitted(outer)
    raise TypeError(
        "model must be a fitted classifier of skfewshot with one label an image, or a "
        f"Pipeline that ends in one; got {show(model)}."
    )


def left_out(classifier: FewShotClassifier, what: str) -> NDArray[np.intp]:
    """Return the rows of the support that were left out, or say that there are none.

    Parameters
    ----------
    classifier : FewShotClassifier
        Fitted.
    what : str
        What needs them, for the message.

    Returns
    -------
    ndarray of int
        Where ``support_codes_`` says of which class a row is.

    Raises
    ------
    ValueError
        If the classifier keeps no rows that are left out.
    """
    if (kept := kept_rows(classifier)) is not None:
        return kept
    name = type(classifier).__name__
    if "store_left_out" in classifier.get_params(deep=False):
        raise ValueError(
            f"{what} needs what rows say when they are left out, and this {name} does "
            "not know: fit it with store_left_out=True, and with all classes."
        )
    raise ValueError(
        f"{what} needs what rows say when they are left out, and {name} does not know. "
        "CMMClassifier, GaussianDiscriminantClassifier and ProKeRClassifier do, with "
        "store_left_out=True."
    )


def kept_rows(classifier: FewShotClassifier) -> NDArray[np.intp] | None:
    """Return the rows of the support that were left out; None if none is kept."""
    if not hasattr(classifier, "support_codes_"):
        return None
    return np.flatnonzero(classifier.support_codes_ >= 0)


def read_codes(
    classifier: FewShotClassifier, y: Any, n_images: int
) -> NDArray[np.intp]:
    """Return labels as indices of the classes; -1 for no label.

    Parameters
    ----------
    classifier : FewShotClassifier
        Fitted.
    y : array-like of shape (n_images,)
    n_images : int

    Raises
    ------
    ValueError
        If `y` has another length, or a label that is none of ``classes_``.
    """
    missing = unlabelled_rows(y, getattr(classifier, "unlabeled", None))
    if missing is None:
        missing = np.zeros(len(y), dtype=bool)
    if len(missing) != n_images:
        raise ValueError(f"X has {n_images} images, but y has {len(missing)} labels.")
    codes = np.full(n_images, -1, np.intp)
    if missing.all():
        return codes
    kept = _safe_indexing(y, np.flatnonzero(~missing)) if missing.any() else y
    labels = column_or_1d(single_labels(kept, "inspection")).tolist()
    place = {label: code for code, label in enumerate(classifier.classes_.tolist())}
    unknown = sorted({str(label) for label in labels if label not in place})
    if unknown:
        raise ValueError(f"y holds labels that are none of classes_: {show(unknown)}.")
    codes[~missing] = [place[label] for label in labels]
    return codes


def proba_of(classifier: FewShotClassifier, features: NDArray) -> NDArray:
    """Return the probabilities of unit rows, shape (n, n_classes)."""
    parts = [
        softmax(classifier._logits(features[rows]), axis=1)
        for rows in gen_batches(len(features), BLOCK)
    ]
    return np.concatenate(parts)


def judged_proba(
    classifier: FewShotClassifier, features: NDArray, codes: NDArray
) -> NDArray:
    """Return probabilities of images, of those that were learned from without them.

    Parameters
    ----------
    classifier : FewShotClassifier
        Fitted; one that keeps no rows left out cannot tell which they are.
    features : ndarray of shape (n, n_features)
        Unit rows.
    codes : ndarray of int, shape (n,)
        Their classes; of one photograph in two that of this class is meant.

    Returns
    -------
    ndarray of shape (n, n_classes)
    """
    proba = proba_of(classifier, features)
    kept = kept_rows(classifier)
    if kept is None:
        return proba
    support = classifier.support_features_[kept].astype(features.dtype, copy=False)
    for rows in gen_batches(len(features), BLOCK):
        cosines = features[rows] @ support.T
        cosines += 1e-7 * (codes[rows, None] == classifier.support_codes_[kept])
        known = np.flatnonzero(cosines.max(axis=1) > _SAME)
        nearest = kept[cosines[known].argmax(axis=1)]
        proba[rows][known] = classifier.left_out_proba_[nearest]
    return proba


def check_share(name: str, value: Any) -> float:
    """Return a number above 0 and below 1."""
    value = check_number(name, value, 0.0, 1.0, Real)
    if value in (0.0, 1.0):
        raise ValueError(f"{name} must be above 0 and below 1; got {value!r}.")
    return value


def value_reached(values: NDArray, share: NDArray, level: float) -> float | None:
    """Return the least value that the next one is not above with a probability.

    Parameters
    ----------
    values : ndarray of shape (n,)
    share : ndarray of shape (n,)
        How many rows each value stands for.
    level : float
        The probability, above 0 and below 1.

    Returns
    -------
    float or None
        One of the values; None where the next one may be above all, as there are too
        few.
    """
    order = np.argsort(values, kind="stable")
    wanted = level * (share.sum(dtype=float) + 1) * (1 - 1e-12)
    reached = np.cumsum(share[order], dtype=float) >= wanted
    return float(values[order[reached.argmax()]]) if reached.any() else None
