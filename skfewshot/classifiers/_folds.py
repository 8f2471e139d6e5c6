"""Folds of a support for cross-validation, with copies of a row in one fold."""

import numpy as np
from sklearn.model_selection import StratifiedKFold

from skfewshot._rows import find_copies, find_near_copies, with_column


def stratified_folds(features, y, weight, *, n_folds, cosine):
    """Split a support into folds, whatever the order and the copies of its rows.

    What is dealt out are photographs: rows of a class that are equal or nearly so. A
    class of one photograph is always trained on, and never tested.

    Parameters
    ----------
    features : ndarray or tensor of shape (n, n_features)
        Unit rows.
    y : ndarray of shape (n,)
        Class indices.
    weight : ndarray of shape (n,)
        Rows of weight 0 are in no fold.
    n_folds : int
        Most folds. There are fewer where a class has fewer photographs, but two.
    cosine : float
        From which on two rows of a class show one photograph.

    Returns
    -------
    folds : list of (train, test)
        Indices of rows. Empty unless two classes have two photographs.
    """
    used = np.flatnonzero(weight > 0)
    first, copy_of = find_copies(with_column(features[used], y[used]))
    rows = used[first]
    likeness = find_near_copies(features[rows], y[rows], cosine=cosine)
    photographs, photograph_of = np.unique(likeness, return_inverse=True)
    label = y[rows][photographs]
    counts = np.bincount(label)
    if (counts > 1).sum() < 2:
        return []
    tested = np.flatnonzero(counts[label] > 1)
    splitter = StratifiedKFold(min(n_folds, counts[counts > 1].min()))
    # In an order of their own, too.
    order = np.argsort(copy_of, kind="stable")
    by_copy, copy_of = used[order], copy_of[order]
    folds = []
    for _, fold in splitter.split(tested, label[tested]):
        in_test = np.isin(photograph_of, tested[fold])
        folds.append((by_copy[~in_test[copy_of]], by_copy[in_test[copy_of]]))
    return folds
