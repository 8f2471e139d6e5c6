"""Drawing few-shot supports, of images with one label or several."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from skfewshot._labels import indicator_and_names, warn_of_scarce


def sample_support(Y, shots, random_state=None):
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
    if not isinstance(shots, Integral) or isinstance(shots, bool):
        raise TypeError(f"shots must be an int; got {shots!r}.")
    if shots < 1:
        raise ValueError(f"shots must be 1 or more; got {shots}.")
    positive, names = indicator_and_names(Y, "Y")
    counts = positive.sum(axis=0)
    warn_of_scarce(names, counts, int(shots), "shots", "they get all that they have")
    return draw_support(positive, shots, check_random_state(random_state))


def draw_support(positive, shots, rng):
    """Do as :func:`sample_support` does, with a boolean indicator and no warning."""
    wanted = np.minimum(positive.sum(axis=0), shots)
    taken = _serve_labels(positive, wanted, rng)
    return np.sort(_prune(taken, positive, wanted, rng))


def _serve_labels(positive, wanted, rng):
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


def _prune(taken, positive, wanted, rng):
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
