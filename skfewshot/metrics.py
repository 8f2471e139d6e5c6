"""Measures of predictions: mean average precision with its scorer, and calibration."""

from numbers import Integral
from warnings import warn

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score
from sklearn.utils import check_array
from sklearn.utils.metadata_routing import UNUSED

from skfewshot._labels import check_indicator, some, to_array
from skfewshot._rows import as_numpy, plain, reading
from skfewshot._sklearn import _check_sample_weight

__all__ = [
    "MeanAveragePrecisionScorer",
    "expected_calibration_error",
    "mean_average_precision",
    "mean_average_precision_scorer",
]

# How far from 1 the probabilities of a row may add up; float32 is good for 1e-5.
_SUM_TOLERANCE = 1e-3
_MOST_BINS = 10**6


def mean_average_precision(
    y_true, y_score, *, labels=None, sample_weight=None, return_left_out=False
):
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
    if sample_weight is not None:
        # Weights of zero in a whole fold leave the score undefined: no error, as is
        # the way of a fold without positives.
        sample_weight = _read_weight(sample_weight, scores)
        kept = sample_weight > 0
        positive, scores = positive[kept], scores[kept]
        sample_weight = sample_weight[kept]
    has_positive = positive.any(axis=0)
    left_out = np.flatnonzero(~has_positive)
    # Column by column: of two dimensions, scikit-learn has to guess what they mean.
    precisions = [
        average_precision_score(
            positive[:, label].astype(int),
            scores[:, label],
            sample_weight=sample_weight,
        )
        for label in np.flatnonzero(has_positive)
    ]
    score = float(np.mean(precisions)) if precisions else float("nan")
    if return_left_out:
        return score, left_out
    if len(left_out):
        _warn_of_left_out(left_out, positive.shape[1])
    return score


def expected_calibration_error(
    y_true, y_proba, *, labels=None, n_bins=15, sample_weight=None
):
    r"""Measure how far a classifier's confidence is from its accuracy.

    The confidence of a row is the largest of its probabilities, and its prediction the
    class that has it. The rows are put into :math:`M` bins of equal width by their
    confidence, and the expected calibration error [1]_ is

    .. math::

        \mathrm{ECE} = \sum_{m=1}^{M} \frac{|B_m|}{n}
        \left| \mathrm{acc}(B_m) - \mathrm{conf}(B_m) \right|

    with the accuracy and the mean confidence of the rows in bin :math:`B_m`, whose
    confidences are in :math:`((m - 1) / M, m / M]`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        One class per row.
    y_proba : array-like of shape (n_samples, n_classes)
        Probabilities, each row adding up to 1 within 0.001.
    labels : array-like of shape (n_classes,), default=None
        The class of each column of `y_proba`, such as ``classifier.classes_``. None
        takes the sorted classes of `y_true`, which must be as many as the columns.
    n_bins : int, default=15
        Number :math:`M \ge 1` of bins.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, not negative and not all zero. A row of weight 2 is two
        rows.

    Returns
    -------
    float
        In [0, 1]; 0 is perfectly calibrated.

    Raises
    ------
    ValueError
        If shapes do not match, there is no row, `y_proba` does not hold probabilities,
        a class of `y_true` is not among `labels`, `n_bins` is no positive integer, or a
        weight is negative or all are zero.

    See Also
    --------
    sklearn.calibration.calibration_curve : Accuracy by confidence, for two classes.

    Notes
    -----
    Only the most probable class counts. Of several equally probable classes it is the
    first column. The bins are few on purpose: with many, a bin's accuracy is noise, and
    the error grows although the classifier is the same. Compare classifiers on the same
    rows and bins.

    References
    ----------
    .. [1] Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
       arXiv:1706.04599.

    Examples
    --------
    >>> from skfewshot.metrics import expected_calibration_error
    >>> y_true = ["cat", "dog", "cat", "dog"]
    >>> y_proba = [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1]]

    Confidence 0.9, and three of four right:

    >>> print(f"{expected_calibration_error(y_true, y_proba):.2f}")
    0.15
    """
    is_integer = isinstance(n_bins, Integral) and not isinstance(n_bins, bool)
    if not is_integer or not 1 <= n_bins <= _MOST_BINS:
        raise ValueError(
            f"n_bins must be an integer of at least 1 and at most {_MOST_BINS}; got "
            f"{n_bins!r}."
        )
    right, probabilities = _check_probabilities(y_true, y_proba, labels)
    # Zeros only are refused below, by the parameter's name.
    weight = _read_weight(sample_weight, probabilities, dtype=np.float64)
    if not weight.sum() > 0:
        raise ValueError("sample_weight must not be zero for all rows.")
    top = probabilities.argmax(axis=1)
    rows = np.arange(len(top))
    # Rounding may leave a probability just above 1.
    confidence = np.minimum(probabilities[rows, top], 1.0)
    gap = weight * (right[rows, top] - confidence)
    bins = np.maximum(np.ceil(confidence * n_bins).astype(int) - 1, 0)
    gaps = np.bincount(bins, weights=gap, minlength=n_bins)
    return float(np.abs(gaps).sum() / weight.sum())


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

    def __call__(self, estimator, X, y, *, sample_weight=None):
        """Return :meth:`score`; scikit-learn calls its scorers like functions."""
        return self.score(estimator, X, y, sample_weight=sample_weight)

    def score(self, estimator, X, y, sample_weight=None):
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
        y = y if issparse(y) else to_array(y, "y")
        if y.ndim == 2:
            scores, labels = _label_scores(estimator, X, y.shape[1]), None
        else:
            scores, labels = _class_scores(estimator, X, y)
        return mean_average_precision(
            y, scores, labels=labels, sample_weight=sample_weight
        )

    def _accept_sample_weight(self):
        # A search over several scorings asks each of them, by this name.
        return True


#: For ``scoring=``: the mean average precision of a fitted classifier.
mean_average_precision_scorer = MeanAveragePrecisionScorer()


def _read_weight(sample_weight, rows, **options):
    """Return weights of rows, which may be all zero, as an array."""
    weight = as_numpy(plain(sample_weight, "sample_weight"))
    with reading("sample_weight"):
        weight = _check_sample_weight(
            weight,
            rows,
            ensure_non_negative=True,
            allow_all_zero_weights=True,
            **options,
        )
        total = weight.sum()
    if not np.isfinite(total):
        raise ValueError(
            f"sample_weight must hold finite numbers of a finite sum; got {total}."
        )
    return weight


def _check_targets(y_true, y_score, labels):
    """Return indicator and scores, both of shape (n_samples, n_labels)."""
    # Finite numbers only; shapes are compared below, by name.
    with reading("y_score"):
        scores = check_array(
            as_numpy(plain(y_score, "y_score")),
            ensure_2d=False,
            allow_nd=True,
            ensure_min_samples=0,
            ensure_min_features=0,
            input_name="y_score",
        )
    y_true = y_true if issparse(y_true) else to_array(y_true, "y_true")
    if y_true.ndim == 1 and labels is not None:
        positive = _one_hot(y_true, labels)
    elif y_true.ndim == 1:
        if scores.ndim != 1 or not np.isin(y_true, (0, 1)).all():
            raise ValueError(
                "y_true in one dimension needs labels, the class of each column of "
                "y_score, unless it holds zeros and ones only and y_score has one "
                f"dimension too; got y_score of shape {scores.shape} and y_true with "
                f"the values {some(y_true.tolist())}."
            )
        positive, scores = check_indicator(y_true[:, None], "y_true"), scores[:, None]
    elif labels is not None:
        raise ValueError(
            "labels names the columns of y_score for y_true of one class per image; "
            f"got y_true of shape {y_true.shape}, whose columns are the labels."
        )
    else:
        positive = check_indicator(y_true, "y_true")
    if positive.shape != scores.shape:
        raise ValueError(
            "y_score must have one row per image and one column per label, shape "
            f"{positive.shape}; got shape {scores.shape}."
        )
    return positive, scores


def _check_probabilities(y_true, y_proba, labels):
    """Return which class each row has, one column per class, and its probabilities."""
    with reading("y_proba"):
        probabilities = check_array(
            as_numpy(plain(y_proba, "y_proba")), dtype=np.float64, input_name="y_proba"
        )
    y_true = to_array(y_true, "y_true")
    if y_true.shape != (len(probabilities),):
        raise ValueError(
            "y_true must hold one class for each row of y_proba, shape "
            f"({len(probabilities)},); got shape {y_true.shape}."
        )
    sums = probabilities.sum(axis=1)
    if (probabilities < 0).any() or (np.abs(sums - 1) > _SUM_TOLERANCE).any():
        raise ValueError(
            "y_proba must hold probabilities, not negative and adding up to 1 in each "
            f"row; its least value is {probabilities.min():.3g} and its rows add up to "
            f"{sums.min():.3g} to {sums.max():.3g}."
        )
    if labels is None:
        labels = _classes_of(y_true)
        if len(labels) != probabilities.shape[1]:
            raise ValueError(
                "labels must name the columns of y_proba where y_true does not have "
                f"each class; y_proba has {probabilities.shape[1]} columns and y_true "
                f"{len(labels)} classes."
            )
    right = _one_hot(y_true, labels, "y_proba")
    if right.shape != probabilities.shape:
        raise ValueError(
            f"labels must name each column of y_proba once; got {right.shape[1]} labels"
            f" for {probabilities.shape[1]} columns."
        )
    return right, probabilities


def _classes_of(y_true):
    try:
        return np.unique(y_true)
    except TypeError as error:
        raise ValueError(
            "y_true holds classes that cannot be sorted, so labels must name the "
            "columns of y_proba."
        ) from error


def _one_hot(y_true, labels, scores="y_score"):
    """Compare each class of `y_true` with each of `labels`, the columns of `scores`."""
    labels = to_array(labels, "labels")
    if labels.ndim != 1 or len(np.unique(labels)) != len(labels):
        raise ValueError(
            f"labels must name each column of {scores} once, shape (n_labels,); got "
            f"{labels!r}."
        )
    positive = y_true[:, None] == labels[None, :]
    unknown = y_true[~positive.any(axis=1)].tolist()
    if unknown:
        raise ValueError(
            f"y_true holds {some(unknown)}, which labels does not have; it has "
            f"{some(labels.tolist())}."
        )
    return positive


def _label_scores(estimator, X, n_labels):
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


def _class_scores(estimator, X, y):
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


def _respond(estimator, X):
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


def _warn_of_left_out(left_out, n_labels):
    if len(left_out) == n_labels:
        message = "No label has a positive image: the mean average precision is NaN."
    else:
        message = (
            f"The labels of the columns {some(left_out.tolist())} have no positive "
            "image: their average precision is undefined, and the mean leaves them out."
        )
    # Up through mean_average_precision.
    warn(message, UndefinedMetricWarning, stacklevel=3)
