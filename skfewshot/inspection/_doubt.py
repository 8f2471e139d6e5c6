"""Labels that may be wrong, by what rows get when they are left out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfewshot.inspection._model import judged_proba, left_out, read_codes, resolve


class LabelIssues(NamedTuple):
    """Labels in the order of doubt; :func:`~skfewshot.inspection.label_issues`.

    Parameters
    ----------
    rows : ndarray of int, shape (n_judged,)
        Which images, the most doubtful first.
    proba : ndarray of shape (n_judged,)
        The probability of the label that was given, by the classifier without the
        image.
    given : ndarray of shape (n_judged,)
        That label.
    suggested : ndarray of shape (n_judged,)
        The most probable class.
    is_issue : ndarray of bool, shape (n_judged,)
        Whether the label is likely wrong.
    """

    rows: NDArray[np.intp]
    proba: NDArray
    given: NDArray
    suggested: NDArray
    is_issue: NDArray[np.bool_]


def label_issues(model: Any, X: Any = None, y: Any = None) -> LabelIssues:
    r"""Rank labels by how doubtful they are.

    Parameters
    ----------
    model : estimator
        A fitted :class:`~skfewshot.CMMClassifier`,
        :class:`~skfewshot.GaussianDiscriminantClassifier` or
        :class:`~skfewshot.ProKeRClassifier` with ``store_left_out=True``, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one.
    X : array-like of shape (n_samples, ...), default=None
        Images to judge, as `model` takes them. Those that it was fitted on are judged
        by the classifier without them. None judges just these.
    y : array-like of shape (n_samples,), default=None
        The labels of `X`, of which those that are missing are not judged; None where
        that is None.

    Returns
    -------
    LabelIssues
        Without images of weight zero, and those that could not be read.

    Raises
    ------
    TypeError
        If `model` is no classifier with one label an image.
    ValueError
        If it keeps no rows left out, or `y` does not fit `X`, or holds a label that is
        none of ``classes_``.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    Notes
    -----
    A label is an issue by confident learning [1]_: if it is not the most probable and,
    of the classes with at least the probability that images with that label have for it
    in the mean, the most probable is another. Order and issues are those of
    ``cleanlab.filter.find_label_issues`` with ``filter_by="confident_learning"`` and
    ``return_indices_ranked_by="self_confidence"``.

    References
    ----------
    .. [1] Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in
       dataset labels, JAIR 2021, arXiv:1911.00068.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import CMMClassifier
    >>> from skfewshot.inspection import label_issues
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog"], 20)
    >>> directions = np.eye(20)
    >>> X = np.repeat(directions[:2], 20, axis=0) + 0.2 * rng.normal(size=(40, 20))
    >>> y[3] = "dog"
    >>> texts = dict(zip(["cat", "dog"], directions, strict=False))
    >>> model = CMMClassifier(texts, store_left_out=True).fit(X, y)
    >>> issues = label_issues(model)
    >>> issues.rows[issues.is_issue].tolist()
    [3]
    """
    if (X is None) != (y is None):
        missing = "X" if X is None else "y"
        raise ValueError(f"X and y are passed together, or neither; {missing} is None.")
    found = resolve(model, X)
    kept = left_out(found.classifier, "label_issues")
    if X is None:
        proba = found.classifier.left_out_proba_[kept]
        rows, codes = kept, found.classifier.support_codes_[kept]
    else:
        features, unread = found.features()
        codes = read_codes(found.classifier, y, len(features))
        proba = judged_proba(found.classifier, features, codes)
        rows = np.flatnonzero(~unread & (codes >= 0))
        proba, codes = proba[rows], codes[rows]
    return ranked_issues(rows, proba, codes, found.classifier.classes_)


def ranked_issues(
    rows: NDArray[np.intp], proba: NDArray, codes: NDArray, classes: NDArray
) -> LabelIssues:
    """Rank the labels of rows whose probabilities are known.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        What the rows are called.
    proba : ndarray of shape (n, n_classes)
        By a classifier that does not know them.
    codes : ndarray of int, shape (n,)
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    LabelIssues
    """
    own = proba[np.arange(len(codes)), codes]
    order = np.argsort(own, kind="stable")
    return LabelIssues(
        rows[order],
        own[order],
        classes[codes[order]],
        classes[proba[order].argmax(axis=1)],
        confident_issues(proba, codes)[order],
    )


def confident_issues(proba: NDArray, codes: NDArray) -> NDArray[np.bool_]:
    """Say which labels are wrong by confident learning.

    Parameters
    ----------
    proba : ndarray of shape (n, n_classes)
        Of rows that the classifier does not know.
    codes : ndarray of int, shape (n,)

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    n_classes = proba.shape[1]
    own = proba[np.arange(len(codes)), codes]
    counts = np.bincount(codes, minlength=n_classes)
    usual = np.bincount(codes, own, minlength=n_classes) / np.maximum(counts, 1)
    # Of a class without rows nobody knows what is usual.
    usual[counts == 0] = np.inf
    confident = np.where(proba >= usual * (1 - 1e-9), proba, -1)
    best = confident.argmax(axis=1)
    is_other = (confident.max(axis=1) >= 0) & (best != codes)
    return is_other & (proba.argmax(axis=1) != codes)
