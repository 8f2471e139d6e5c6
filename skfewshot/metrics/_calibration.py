"""How far the confidence of a classifier is from its accuracy."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from skfewshot._labels import plain_labels
from skfewshot._rows import plain, reading
from skfewshot.metrics._precision import compare_classes, read_weight

# How far from 1 the probabilities of a row may add up; float32 is good for 1e-5.
_SUM_TOLERANCE = 1e-3
_MOST_BINS = 10**6


def expected_calibration_error(
    y_true: Any,
    y_proba: Any,
    *,
    labels: ArrayLike | None = None,
    n_bins: int = 15,
    sample_weight: ArrayLike | None = None,
) -> float:
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
    weight = read_weight(sample_weight, probabilities, dtype=np.float64)
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


def _check_probabilities(
    y_true: Any, y_proba: Any, labels: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which class each row has, one column per class, and its probabilities."""
    with reading("y_proba"):
        probabilities = check_array(
            plain(y_proba, "y_proba"), dtype=np.float64, input_name="y_proba"
        )
    n_rows, n_columns = probabilities.shape
    y_true = np.asarray(plain_labels(y_true, "y_true"))
    if y_true.shape != (n_rows,):
        raise ValueError(
            "y_true must hold one class for each row of y_proba, shape "
            f"({n_rows},); got shape {y_true.shape}."
        )
    sums = probabilities.sum(axis=1)
    if (probabilities < 0).any() or (np.abs(sums - 1) > _SUM_TOLERANCE).any():
        raise ValueError(
            "y_proba must hold probabilities, not negative and adding up to 1 in each "
            f"row; its least value is {probabilities.min():.3g} and its rows add up to "
            f"{sums.min():.3g} to {sums.max():.3g}."
        )
    right = compare_classes(
        y_true, np.unique(y_true) if labels is None else labels, "y_proba"
    )
    if right.shape[1] != n_columns:
        raise ValueError(
            f"labels must name each column of y_proba once; got {right.shape[1]} "
            f"{'classes in y_true' if labels is None else 'labels'} for {n_columns} "
            "columns."
        )
    return right, probabilities
