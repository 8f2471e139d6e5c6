"""Cross-validation folds of images with several labels."""

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state

from skfewshot._labels import indicator_and_names, warn_of_scarce


class MultilabelStratifiedKFold(KFold):
    """Split into folds that each have their share of every label.

    Iterative stratification [1]_: the images of the label with the fewest images yet
    unplaced are dealt out one by one, each to the fold with the fewest positives of
    that label; of these to the fold with the fewest images. Images without labels come
    last and even out the sizes.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, from 2 on.
    shuffle : bool, default=False
        Whether to deal images and labels in random order. Without it they come in the
        order of `y`, and the same `y` always gives the same folds.
    random_state : int, RandomState instance or None, default=None
        The order with ``shuffle=True``; an int gives the same folds at every call.
        Without shuffling it must be None.

    Raises
    ------
    ValueError
        If `n_splits` is no int or below 2, or `random_state` is given without
        `shuffle`. At the split: if `y` is neither an indicator nor one class per
        image, or has fewer images than folds.
    TypeError
        If `shuffle` is no bool.

    Warns
    -----
    UserWarning
        At the split, if labels have fewer positive images than there are folds: some
        folds then test none of them, and a label with a single positive image has none
        to train on where it is tested.

    See Also
    --------
    sklearn.model_selection.StratifiedKFold : For one class per image.

    Notes
    -----
    With one class per image the counts of each class, and the sizes of the folds,
    differ by one at most. With several labels, no such bound can hold for all of them.

    References
    ----------
    .. [1] K. Sechidis, G. Tsoumakas, I. Vlahavas: "On the Stratification of Multi-Label
       Data", ECML PKDD 2011. https://doi.org/10.1007/978-3-642-23808-6_10

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot.model_selection import MultilabelStratifiedKFold
    >>> Y = np.array([[1, 0], [1, 1], [1, 1], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0]])
    >>> for train, test in MultilabelStratifiedKFold(n_splits=2).split(Y, Y):
    ...     print(test, Y[test].sum(axis=0))
    [0 2 4 6] [2 2]
    [1 3 5 7] [2 2]
    """

    def __init__(self, n_splits=5, *, shuffle=False, random_state=None):
        super().__init__(n_splits, shuffle=shuffle, random_state=random_state)

    def split(self, X, y, groups=None):
        """Return an iterator over the folds.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Only its length counts.
        y : {array-like, sparse matrix} of shape (n_samples, n_labels) or array-like \
                of shape (n_samples,)
            An indicator of zeros and ones, or one class per image.
        groups : None
            Ignored, as by KFold.

        Yields
        ------
        train : ndarray
            Ascending indices of the other folds' images.
        test : ndarray
            Ascending indices of this fold's images.
        """
        return super().split(X, y, groups)

    def _iter_test_indices(self, X, y=None, groups=None):
        # The hook that scikit-learn names for writers of cross-validators.
        if y is None:
            raise ValueError(
                "MultilabelStratifiedKFold stratifies by y; got None. Pass the labels."
            )
        positive, names = indicator_and_names(y, "y")
        warn_of_scarce(
            names,
            positive.sum(axis=0),
            self.n_splits,
            "n_splits",
            "some folds test none of them",
        )
        folds = self._deal(positive)
        for fold in range(self.n_splits):
            yield np.flatnonzero(folds == fold)

    def _deal(self, positive):
        """Return the fold of each image."""
        if not self.shuffle:
            return _stratify(positive, self.n_splits)
        rng = check_random_state(self.random_state)
        images, labels = (rng.permutation(size) for size in positive.shape)
        folds = np.empty(len(positive), dtype=int)
        folds[images] = _stratify(positive[images][:, labels], self.n_splits)
        return folds


def _stratify(positive, n_splits):
    """Deal images into folds by iterative stratification, ties to the first.

    Parameters
    ----------
    positive : ndarray of bool, of shape (n_samples, n_labels)
    n_splits : int

    Returns
    -------
    ndarray of int, of shape (n_samples,)
        The fold of each image.
    """
    n_samples, n_labels = positive.shape
    folds = np.full(n_samples, -1)
    sizes = np.zeros(n_splits, dtype=int)
    # All folds want the same, so that wanting most is to have least: whole numbers,
    # whose ties are exact.
    placed = np.zeros((n_labels, n_splits), dtype=int)
    remaining = positive.sum(axis=0)
    while remaining.any():
        label = np.where(remaining > 0, remaining, n_samples + 1).argmin()
        images = np.flatnonzero(positive[:, label] & (folds < 0))
        for image in images:
            fold = np.lexsort((sizes, placed[label]))[0]
            folds[image] = fold
            sizes[fold] += 1
            placed[positive[image], fold] += 1
        remaining -= positive[images].sum(axis=0)
    for image in np.flatnonzero(folds < 0):
        folds[image] = sizes.argmin()
        sizes[folds[image]] += 1
    return folds
