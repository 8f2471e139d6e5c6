"""Splits of rows some of which have no label."""

from collections.abc import Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import _safe_indexing, indexable

from skfewshot._sklearn import check_number, show
from skfewshot._unlabelled import take_labels, unlabelled_rows
from skfewshot.model_selection._splits import splitter_of


class SemiSupervisedSplit(BaseCrossValidator):
    """Split the labelled rows; those without a label are in every training side.

    A row without a label teaches and cannot be scored. Scikit-learn's own splitters
    take it for one more class, or refuse it; this one hands the labelled rows alone to
    another splitter, and adds the others to each training side.

    Parameters
    ----------
    cv : int or cross-validation splitter, default=5
        What splits the labelled rows. An int is the number of folds of
        :class:`~sklearn.model_selection.StratifiedKFold`, or of
        :class:`MultilabelStratifiedKFold` for an indicator.
    unlabeled : label, default=None
        What stands in `y` for no label, such as -1; None, NaN and ``pandas.NA`` always
        do. In an indicator a row with a missing entry counts as one without a label.

    Raises
    ------
    TypeError
        If `cv` is neither.
    ValueError
        If `cv` is below 2. At the split: if no row has a label, or `cv` refuses the
        labelled rows.

    See Also
    --------
    shot_curve : Scores by shots, with rows without labels too.

    Notes
    -----
    With `groups`, rows without a label of a group that has rows on the test side are
    left out of the training side: frames of a video that is scored do not teach.

    The test sides do not hold all rows, which
    :func:`~sklearn.model_selection.cross_val_predict` demands. Predict the labelled
    rows by hand, split by split. Its scorers, unlike ``score``, refuse numbers in an
    array of objects: let NaN stand among numbers, not None, or write a list.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import StratifiedKFold
    >>> from skfewshot.model_selection import SemiSupervisedSplit
    >>> y = ["cat", "cat", None, "dog", "dog", None]
    >>> folds = SemiSupervisedSplit(StratifiedKFold(2))
    >>> for train, test in folds.split(np.zeros(6), y):
    ...     print(train, test)
    [1 2 4 5] [0 3]
    [0 2 3 5] [1 4]
    """

    # As scikit-learn asks of splitters that want groups, with metadata routing.
    __metadata_request__split: ClassVar[dict] = {"groups": True}

    def __init__(self, cv: Any = 5, *, unlabeled: Any = None) -> None:
        if isinstance(cv, Integral):
            cv = check_number("cv", cv, 2)
        elif not hasattr(cv, "split") or isinstance(cv, str):
            raise TypeError(
                f"cv must be an int or a splitter, with split; got {show(cv)}."
            )
        self.cv = cv
        self.unlabeled = unlabeled

    def split(
        self, X: Any, y: Any, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Return an iterator over the splits.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Handed to `cv`.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels, some of them missing.
        groups : array-like of shape (n_samples,), default=None
            Handed to `cv`.

        Yields
        ------
        train : ndarray
            Ascending indices: labelled rows, and those without a label.
        test : ndarray
            Indices of labelled rows.
        """
        X, y, groups = indexable(X, y, groups)
        rows, bare = self._rows(y)
        parts = self._labelled(X, y, groups, rows)
        group = None if groups is None else np.asarray(groups)
        for train, test in splitter_of(self.cv, parts[1]).split(*parts):
            spare = bare
            if group is not None:
                spare = bare[~np.isin(group[bare], group[rows[test]])]
            yield np.union1d(rows[train], spare), rows[test]

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X, y, groups
            As for :meth:`split`; needed by those that `cv` needs.

        Returns
        -------
        int
        """
        if isinstance(self.cv, int):
            return self.cv
        if y is None:
            return self.cv.get_n_splits(X, y, groups)
        X, y, groups = indexable(X, y, groups)
        return self.cv.get_n_splits(*self._labelled(X, y, groups, self._rows(y)[0]))

    def _rows(self, y: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return which rows have a label, and which have none."""
        if y is None:
            raise ValueError(
                "SemiSupervisedSplit finds by y which rows have a label; got None. "
                "Pass the labels."
            )
        missing = unlabelled_rows(y, self.unlabeled, several=True)
        if missing is None:
            n_rows = y.shape[0] if hasattr(y, "shape") else len(y)
            return np.arange(n_rows), np.arange(0)
        if missing.all():
            raise ValueError(
                f"All {len(missing)} labels of y are missing; nothing can be scored."
            )
        return np.flatnonzero(~missing), np.flatnonzero(missing)

    def _labelled(self, X: Any, y: Any, groups: Any, rows: NDArray) -> tuple:
        """Return X, y and groups of the labelled rows."""
        X, groups = (
            part if part is None else _safe_indexing(part, rows) for part in (X, groups)
        )
        return X, take_labels(y, rows), groups
