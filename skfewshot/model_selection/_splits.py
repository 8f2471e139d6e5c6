"""Few-shot supports and cross-validation folds, of one label an image or several."""

from collections.abc import Iterator
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import check_random_state

from skfewshot._labels import Labels, read_labels
from skfewshot._sklearn import check_number, warn_user

Positives: TypeAlias = NDArray[np.bool_]
RandomState: TypeAlias = int | np.random.RandomState | None


def sample_support(
    Y: Any, shots: int, random_state: RandomState = None
) -> NDArray[np.intp]:
    """Draw a few-shot support: images that show every label at least `shots` times.

    Labels are served from the rarest to the most frequent, each with random images. An
    image counts for all of its labels, so frequent labels are often served before
    their turn. At the end images that no label needs are dropped, in random order.

    Parameters
    ----------
    Y : {array-like, sparse matrix} of shape (n_samples, n_labels) or array-like of \
            shape (n_samples,)
        The labels of all images: an indicator of zeros and ones, or one class per
        image.
    shots : int
        How many positive images each label gets at least, from 1 on. A label that has
        fewer gets all of them. With one class per image it is the exact number.
    random_state : int, RandomState instance or None, default=None
        An int draws the same support every time and leaves NumPy's global generator
        alone.

    Returns
    -------
    ndarray of shape (n_support,)
        Ascending indices of the images drawn. No image can be left out without a label
        getting less than its shots; images without labels are never drawn.

    Raises
    ------
    ValueError
        If `shots` is below 1, or `Y` is neither an indicator nor one class per image.
    TypeError
        If `shots` is no int.

    Warns
    -----
    UserWarning
        If labels have fewer positive images than `shots`; it names them.

    Notes
    -----
    The support is a minimal one, not the smallest: to find that is a set multi-cover
    problem, and its crowded images would be untypical of the data.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot.model_selection import sample_support
    >>> Y = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 1], [1, 0]])
    >>> support = sample_support(Y, shots=2, random_state=0)
    >>> Y[support].sum(axis=0) >= 2
    array([ True,  True])

    One class per image:

    >>> y = np.repeat(["cat", "dog"], 10)
    >>> y[sample_support(y, shots=2, random_state=0)].tolist()
    ['cat', 'cat', 'dog', 'dog']
    """
    check_number("shots", shots, 1)
    labels = read_positives(Y, "Y")
    counts = labels.indicator.sum(axis=0)
    warn_of_scarce(labels, counts, shots, "shots", "they get all that they have")
    return draw_support(labels.indicator, shots, check_random_state(random_state))


def draw_support(
    positive: Positives, shots: int, rng: np.random.RandomState
) -> NDArray[np.intp]:
    """Do as :func:`sample_support` does, with a boolean indicator and no warning."""
    wanted = np.minimum(positive.sum(axis=0), shots)
    taken = _serve_labels(positive, wanted, rng)
    return np.sort(_prune(taken, positive, wanted, rng))


def _serve_labels(
    positive: Positives, wanted: NDArray[np.intp], rng: np.random.RandomState
) -> NDArray[np.intp]:
    """Take random images, label by label, until each has what it wants."""
    taken = np.zeros(len(positive), dtype=bool)
    # Each label's column in one piece: many times faster with many labels.
    by_label = np.ascontiguousarray(positive.T)
    # Shuffled before the stable sort, so that labels as rare as each other tie.
    order = rng.permutation(positive.shape[1])
    for label in order[np.argsort(positive.sum(axis=0)[order], kind="stable")]:
        missing = wanted[label] - np.count_nonzero(by_label[label] & taken)
        if missing > 0:
            candidates = np.flatnonzero(by_label[label] & ~taken)
            taken[rng.choice(candidates, missing, replace=False)] = True
    return np.flatnonzero(taken)


def _prune(
    taken: NDArray[np.intp],
    positive: Positives,
    wanted: NDArray[np.intp],
    rng: np.random.RandomState,
) -> NDArray[np.intp]:
    """Drop, in random order, the images that no label needs."""
    spare = positive[taken].sum(axis=0) - wanted
    kept = []
    # One pass is enough: what is needed once stays needed, as spares only dwindle.
    for image in rng.permutation(taken):
        if spare[positive[image]].all():
            spare[positive[image]] -= 1
        else:
            kept.append(image)
    return np.array(kept, dtype=int)


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

    def split(
        self, X: Any, y: Any, groups: None = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
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

    def _iter_test_indices(
        self, X: Any, y: Any = None, groups: None = None
    ) -> Iterator[NDArray[np.intp]]:
        # The hook that scikit-learn names for writers of cross-validators.
        if y is None:
            raise ValueError(
                "MultilabelStratifiedKFold stratifies by y; got None. Pass the labels."
            )
        labels = read_positives(y, "y")
        counts, then = labels.indicator.sum(axis=0), "some folds test none of them"
        warn_of_scarce(labels, counts, self.n_splits, "n_splits", then)
        folds = self._deal(labels.indicator)
        for fold in range(self.n_splits):
            yield np.flatnonzero(folds == fold)

    def _deal(self, positive: Positives) -> NDArray[np.intp]:
        """Return the fold of each image."""
        if not self.shuffle:
            return _stratify(positive, self.n_splits)
        rng = check_random_state(self.random_state)
        images, labels = (rng.permutation(size) for size in positive.shape)
        folds = np.empty(len(positive), dtype=int)
        folds[images] = _stratify(positive[images][:, labels], self.n_splits)
        return folds


def splitter_of(cv: Any, y: Any) -> Any:
    """Return what splits: for a number of folds, a stratified splitter for such `y`.

    Parameters
    ----------
    cv : int, cross-validation splitter or iterable of splits
    y : array-like or sparse matrix of shape (n_samples,) or (n_samples, n_labels)
    """
    if isinstance(cv, Integral) and np.ndim(y) == 2:
        return MultilabelStratifiedKFold(int(cv))
    return check_cv(cv, y, classifier=True)


def _stratify(positive: Positives, n_splits: int) -> NDArray[np.intp]:
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


def read_positives(y: Any, name: str) -> Labels:
    """Read labels, a lone column as the indicator of a lone label."""
    return read_labels(y, bool, name, is_column_of_classes=False)


def warn_of_scarce(
    labels: Labels,
    counts: NDArray[np.intp],
    wanted: int,
    parameter: str,
    consequence: str,
) -> None:
    """Name the labels with fewer positives than `wanted`."""
    scarce = np.flatnonzero(counts < wanted)
    if not len(scarce):
        return
    names = labels.classes.tolist()
    shown = ", ".join(f"{names[label]!r} ({counts[label]})" for label in scarce[:10])
    more = f" and {len(scarce) - 10} more" if len(scarce) > 10 else ""
    warn_user(
        f"Labels with fewer positive images than {parameter}={wanted}: {shown}{more}; "
        f"{consequence}."
    )
