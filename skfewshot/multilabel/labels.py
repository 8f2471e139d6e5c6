"""Which labels an image has: indicators of many labels, or one label an image."""

import warnings
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import type_of_target

from skfewshot._inputs import plain_labels, reading


@dataclass(frozen=True)
class Labels:
    """The labels of n images.

    Attributes
    ----------
    indicator : ndarray of shape (n, L)
        1.0 where the image has the label, else 0.0.
    classes : ndarray of shape (L,)
        What the columns stand for.
    is_multilabel : bool
        False where each image has exactly one label.
    """

    indicator: np.ndarray
    classes: np.ndarray
    is_multilabel: bool

    def restricted(self, rows):
        """Return the labels of some images; of one label each, those that occur."""
        indicator = self.indicator[rows]
        if self.is_multilabel:
            return Labels(indicator, self.classes, True)
        seen = indicator.any(axis=0)
        return Labels(indicator[:, seen], self.classes[seen], False)

    def check_usable(self, estimator):
        """Raise where there is nothing to learn."""
        if self.is_multilabel and not self.indicator.any():
            raise ValueError(
                "y has no image with a label: all indicators in rows of positive "
                "sample weight are 0."
            )
        if not self.is_multilabel and len(self.classes) < 2:
            raise ValueError(
                f"{estimator} needs at least 2 classes in y with positive sample "
                f"weight; got 1 class: {self.classes.tolist()}."
            )


def read_labels(y, dtype):
    """Read label indicators, or one label an image.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n, L), or array-like of shape (n,)
        Indicators 0 and 1, or one label an image. The columns of a data frame name the
        labels; else they are numbered.
    dtype : dtype
        Of the indicators.

    Returns
    -------
    Labels

    Raises
    ------
    ValueError
        If `y` is neither.
    """
    columns = getattr(y, "columns", None)
    _check_form(y)
    y = y.toarray() if issparse(y) else plain_labels(y)
    with warnings.catch_warnings(), reading("y"):
        # Half as many classes as rows is no hint of regression: it is one shot.
        warnings.filterwarnings("ignore", "The number of unique classes")
        kind = type_of_target(y, input_name="y")
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] > 1:
        with reading("y"):
            return _read_indicator(array, columns, kind, dtype)
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: {kind!r}. y must hold class labels, shape "
            "(n_samples,), or indicators 0 and 1 of labels, shape (n_samples, "
            "n_labels). Maybe you are trying to fit a classifier, which expects "
            "discrete classes on a regression target with continuous values."
        )
    classes, index = np.unique(column_or_1d(array, warn=True), return_inverse=True)
    return Labels(np.eye(len(classes), dtype=dtype)[index], classes, False)


def _check_form(y):
    """Refuse what scikit-learn would take for a regression target."""
    n_dims = getattr(y, "ndim", None)
    if n_dims is not None and n_dims > 2:
        raise ValueError(
            f"y has {n_dims} dimensions; wanted class labels, shape (n_samples,), or "
            "indicators, shape (n_samples, n_labels). Are X and y swapped?"
        )
    if isinstance(y, list | tuple) and any(isinstance(row, set) for row in y):
        raise ValueError(
            "y holds sets of labels; wanted indicators 0 and 1, which "
            "sklearn.preprocessing.MultiLabelBinarizer makes of them."
        )


def _read_indicator(array, columns, kind, dtype):
    # Nullable and mixed columns of a data frame come as objects.
    is_number = array.dtype.kind in "biuf" or all(
        isinstance(value, bool | np.bool_ | Real) for value in array.flat
    )
    if not is_number or not np.isin(array.astype(np.float64), [0, 1]).all():
        found = np.unique(array.astype(str))[:5].tolist()
        raise ValueError(
            f"y of shape {array.shape} must hold only 0 and 1, one column a label; got "
            f"the values {found} (type of target {kind!r}). "
            "sklearn.preprocessing.MultiLabelBinarizer makes indicators of label sets."
        )
    classes = np.arange(array.shape[1]) if columns is None else np.asarray(columns)
    return Labels(array.astype(dtype), classes, True)
