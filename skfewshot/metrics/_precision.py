"""Mean average precision of labels, and its scorer."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score
from sklearn.utils import check_array
from sklearn.utils.metadata_routing import UNUSED

from skfewshot._labels import plain_labels, read_indicator
from skfewshot._rows import plain, reading
from skfewshot._sklearn import _check_sample_weight, warn_user


def mean_average_precision(
    y_true: Any,
    y_score: Any,
    *,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    return_left_out: bool = False,
) -> Any:
    """Average the average precision of each label over the labels.

    It is ``average_precision_score(y_true, y_score, average="macro")`` of
    scikit-learn, but for labels without a positive image: their average precision is
    undefined. scikit-learn counts them as 0; here they are left out and named.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_samples, n_labels) or array-like \
            of shape (n_samples,)
        One of:

        - an indicator of zeros and ones, one column per label;
        - one class per image, with `labels` naming the columns of `y_score`;
        - zeros and ones in one dimension, with `y_score` in one dimension.

    y_score : array-like of shape (n_samples, n_labels) or (n_samples,)
        Finite scores, higher for likelier labels: probabilities, decision values or
        cosines. Only their order within a column counts.
    labels : array-like of shape (n_labels,), default=None
        The class of each column of `y_score`, such as ``classifier.classes_``. Needed
        where `y_true` holds one class per image, and refused elsewhere.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the images, not negative. An image of weight zero is as good as
        absent: a label whose positives all have weight zero is left out.
    return_left_out : bool, default=False
        Whether to return which labels were left out, rather than to warn of them.

    Returns
    -------
    score : float
        The mean average precision, in [0, 1]; NaN where no label has a positive.
    left_out : ndarray of shape (n_left_out,)
        Ascending column indices of the labels left out; only with
        ``return_left_out=True``.

    Raises
    ------
    ValueError
        If shapes do not match, `y_true` is no indicator where one is wanted, a class
        of `y_true` is not among `labels`, a score is not finite, or a weight is
        negative.
    TypeError
        If `y_score` is sparse.

    Warns
    -----
    UndefinedMetricWarning
        If labels are left out, unless ``return_left_out=True``.

    See Also
    --------
    mean_average_precision_scorer : The same as ``scoring=`` of scikit-learn's tools.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot.metrics import mean_average_precision
    >>> y_true = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    >>> y_score = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.5], [0.3, 0.9, 0.2]])
    >>> score, left_out = mean_average_precision(y_true, y_score, return_left_out=True)
    >>> print(f"{score:.3f}", left_out)
    0.917 [2]

    One class per image:

    >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]
    >>> mean_average_precision(["cat", "dog", "cat"], scores, labels=["cat", "dog"])
    1.0
    """
    positive, scores = _check_targets(y_true, y_score, labels)
    weight = None
    if sample_weight is not None:
        # Weights of zero in a whole fold leave the score undefined: no error, as is
        # the way of a fold without positives.
        weight = read_weight(sample_weight, scores)
        kept = weight > 0
        positive, scores, weight = positive[kept], scores[kept], weight[kept]
    has_positive = positive.any(axis=0)
    left_out = np.flatnonzero(~has_positive)
    # Column by column: of two dimensions, scikit-learn has to guess what they mean.
    precisions = [
        average_precision_score(of_label.astype(int), column, sample_weight=weight)
        for of_label, column in zip(
            positive.T[has_positive], scores.T[has_positive], strict=True
        )
    ]
    score = float(np.mean(precisions)) if precisions else float("nan")
    if return_left_out:
        return score, left_out
    if len(left_out):
        message = (
            f"The labels of the columns {_some(left_out.tolist())} have no positive "
            "image: their average precision is undefined, and the mean leaves them out."
        )
        if not precisions:
            message = "No label has a positive image: the score is NaN."
        warn_user(message, UndefinedMetricWarning)
    return score


class MeanAveragePrecisionScorer(BaseEstimator):
    """Score a fitted classifier by mean average precision.

    Use the instance :data:`mean_average_precision_scorer` for ``scoring=``. Unlike
    ``scoring="average_precision"``, it takes whatever classifiers of several labels
    answer: ``decision_function``, or else ``predict_proba`` as one array or as a list
    of one array per label. And it leaves out labels that have no positive image in a
    fold, see :func:`mean_average_precision`.

    Where ``y`` holds one class per image, the columns are the estimator's
    ``classes_``, two for a binary classifier. A class of ``y`` that the classifier was
    never shown scores as a guess would: all images are equally likely to be of it.

    Examples
    --------
    >>> from sklearn.datasets import make_multilabel_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.multiclass import OneVsRestClassifier
    >>> from skfewshot.metrics import mean_average_precision_scorer
    >>> X, Y = make_multilabel_classification(60, n_classes=3, random_state=0)
    >>> model = OneVsRestClassifier(LogisticRegression())
    >>> scores = cross_val_score(
    ...     model, X, Y, scoring=mean_average_precision_scorer, cv=3
    ... )
    >>> scores.shape
    (3,)
    """

    # Not make_scorer: of a multi-label classifier with two labels, whose classes_ are
    # [0, 1], it takes the second column of predict_proba and loses the first.

    # The classifier is no metadata that a search could be asked to route.
    __metadata_request__score = {"estimator": UNUSED}  # noqa: RUF012

    def score(
        self, estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the mean average precision of `estimator` on `X`.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier with ``decision_function`` or ``predict_proba``.
        X : array-like of shape (n_samples, ...)
            What the classifier takes.
        y : {array-like, sparse matrix} of shape (n_samples, n_labels) or \
                array-like of shape (n_samples,)
            The labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the images.

        Returns
        -------
        float
            In [0, 1], or NaN where no label has a positive.

        Raises
        ------
        ValueError
            If the classifier scores another number of labels than `y` has.
        AttributeError
            If the classifier has neither method.
        """
        y, classes = _labels_as_array(y, "y"), None
        if y.ndim == 2:
            scores = _label_scores(estimator, X, y.shape[1])
        else:
            scores, classes = _class_scores(estimator, X, y)
        return mean_average_precision(
            y, scores, labels=classes, sample_weight=sample_weight
        )

    #: scikit-learn calls its scorers like functions.
    __call__ = score

    def _accept_sample_weight(self) -> bool:
        # A search over several scorings asks each of them, by this name.
        return True


#: For ``scoring=``: the mean average precision of a fitted classifier.
mean_average_precision_scorer = MeanAveragePrecisionScorer()


def read_weight(sample_weight: Any, rows: NDArray, **options: Any) -> NDArray:
    """Return weights of rows, which may be all zero, as an array."""
    options |= {"ensure_non_negative": True, "allow_all_zero_weights": True}
    weight = plain(sample_weight, "sample_weight")
    with reading("sample_weight"):
        weight = _check_sample_weight(weight, rows, **options)
        total = weight.sum()
    if not np.isfinite(total):
        raise ValueError(
            f"sample_weight must hold finite numbers of a finite sum; got {total}."
        )
    return weight


def _labels_as_array(y: Any, name: str) -> Any:
    """Return labels as an array, or as the sparse matrix that they are."""
    return y if issparse(y) else np.asarray(plain_labels(y, name))


def _check_targets(
    y_true: Any, y_score: Any, labels: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray]:
    """Return indicator and scores, both of shape (n_samples, n_labels)."""
    # Finite numbers only; shapes are compared below, by name.
    with reading("y_score"):
        scores = check_array(
            plain(y_score, "y_score"),
            ensure_2d=False,
            allow_nd=True,
            ensure_min_samples=0,
            ensure_min_features=0,
            input_name="y_score",
        )
    y_true = _labels_as_array(y_true, "y_true")
    if y_true.ndim == 1 and labels is not None:
        positive = compare_classes(y_true, labels)
    elif y_true.ndim == 1:
        if scores.ndim != 1 or not np.isin(y_true, (0, 1)).all():
            raise ValueError(
                "y_true in one dimension needs labels, the class of each column of "
                "y_score, or zeros and ones with y_score in one dimension too; got "
                f"y_score of shape {scores.shape} and the values "
                f"{_some(y_true.tolist())}."
            )
        positive, scores = read_indicator(y_true[:, None], "y_true"), scores[:, None]
    elif labels is not None:
        raise ValueError(
            "labels names the columns of y_score for y_true of one class per image; "
            f"got y_true of shape {y_true.shape}, whose columns are the labels."
        )
    else:
        positive = read_indicator(y_true, "y_true")
    if positive.shape != scores.shape:
        raise ValueError(
            "y_score must have one row per image and one column per label, shape "
            f"{positive.shape}; got shape {scores.shape}."
        )
    return positive, scores


def compare_classes(
    y_true: NDArray, labels: ArrayLike, scores: str = "y_score"
) -> NDArray[np.bool_]:
    """Compare each class of `y_true` with each of `labels`, the columns of `scores`."""
    labels = np.asarray(plain_labels(labels, "labels"))
    if labels.ndim != 1 or len(np.unique(labels)) != len(labels):
        raise ValueError(
            f"labels must name each column of {scores} once, shape (n_labels,); got "
            f"{labels!r}."
        )
    positive = y_true[:, None] == labels[None, :]
    unknown = y_true[~positive.any(axis=1)].tolist()
    if unknown:
        raise ValueError(
            f"y_true holds {_some(unknown)}, which labels does not have; it has "
            f"{_some(labels.tolist())}."
        )
    return positive


def _label_scores(estimator: Any, X: Any, n_labels: int) -> NDArray:
    """Return what a multi-label classifier answers, one column per label."""
    answer, is_probability = _respond(estimator, X)
    if isinstance(answer, list):
        # The last class is 1, but for a label that never was 1 in training. It has the
        # one column of its constant, and any constant scores as a guess.
        return np.column_stack([probabilities[:, -1] for probabilities in answer])
    answer = np.asarray(answer)
    if n_labels == 1 and answer.ndim == 1:
        return answer[:, None]
    if n_labels == 1 and is_probability and answer.shape[1:] == (2,):
        # scikit-learn takes a lone label for a choice of two classes.
        return answer[:, 1:]
    return answer


def _class_scores(estimator: Any, X: Any, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return one column per class, and the class of each column."""
    answer, is_probability = _respond(estimator, X)
    answer, classes = np.asarray(answer), np.asarray(estimator.classes_)
    if answer.ndim == 1 and len(classes) == 2 and not is_probability:
        answer = np.column_stack([-answer, answer])
    unseen = np.setdiff1d(y, classes)
    if len(unseen):
        answer = np.column_stack([answer, np.zeros((len(answer), len(unseen)))])
        classes = np.concatenate([classes, unseen])
    return answer, classes


def _respond(estimator: Any, X: Any) -> tuple[Any, bool]:
    """Return the scores of an estimator, and whether they are probabilities."""
    # The decision first: probabilities round to ties near zero and one.
    if hasattr(estimator, "decision_function"):
        return estimator.decision_function(X), False
    if hasattr(estimator, "predict_proba"):
        return estimator.predict_proba(X), True
    raise AttributeError(
        "mean average precision needs a classifier with decision_function or "
        f"predict_proba; got {estimator!r}, which has neither."
    )


def _some(values: Iterable[Any]) -> str:
    """Show the first ten values of a list, each once."""
    values = list(dict.fromkeys(values))
    shown = ", ".join(map(repr, values[:10]))
    return f"[{shown}{', ...' if len(values) > 10 else ''}]"
