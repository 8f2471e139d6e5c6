"""Which images to label next: a few that many others, in doubt, are like."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.utils import check_array, gen_batches

from skfewshot._base import FewShotClassifier
from skfewshot._labels import single_labels
from skfewshot._rows import check_rows, float_types, unit_rows
from skfewshot._sklearn import check_number
from skfewshot._unread import unread_rows, with_filled_rows
from skfewshot.inspection._model import read_codes, resolve

# Images are alike when they are as near as this many pairs in C are, for C classes, of
# which each makes one pair in C.
_PAIRS = 1.0
# How many times the doubt of an image counts that is of a class without images.
_NO_IMAGES = 4.0
# Rows that stand for a large pool: those that are to be covered, and those whose
# distances are looked at.
_MOST_COVERED, _MOST_PAIRED = 4096, 1024
# Rows at a time, when all are looked at and when the best ones are again.
_BLOCK, _FEW = 1024, 64


def suggest(
    model: Any, X_pool: Any, n: int, *, y: ArrayLike | None = None
) -> NDArray[np.intp]:
    r"""Say which images to label next, the most useful first.

    Each image that is taken covers those that are like it. The next one is that which
    covers the most doubt that is left, so images come from where there are many, far
    from each other, and where the classifier does not know [1]_.

    Parameters
    ----------
    model : estimator or None
        A fitted classifier with one label an image, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one. Before there is a label,
        ``ZeroShotClassifier().fit(None, names)`` knows the names; None knows nothing,
        and takes images that are like many others.
    X_pool : array-like or tensor of shape (n_pool, n_features)
        The images to choose from: what `model` predicts from, embeddings for a
        classifier and for None. Leave out those that have a label.
    n : int
        How many, at least 1.
    y : array-like of shape (n_labelled,), default=None
        The labels that there are, if you want images of classes that have none: what
        `model` takes to be one of those counts five times.

    Returns
    -------
    ndarray of int, shape (n,)
        Rows of `X_pool`, none of them twice. Images that a featurizer could not read
        are never among them.

    Raises
    ------
    ValueError
        If `n` is below 1 or above the number of images that could be read, `X_pool` is
        not what `model` predicts from, or `y` holds labels that it does not know.
    TypeError
        If `model` is no such classifier.

    See Also
    --------
    skfewshot.CMMClassifier.add_images : Learns the images that were labelled.

    Notes
    -----
    With the probabilities :math:`p_i` of image *i* its doubt is
    :math:`w_i = 1 - \sum_c p_{ic}^2`, the chance that two draws of its label differ;
    one for ``model=None``. Images are alike by
    :math:`k(i, j) = \exp(-\|v_i - v_j\|^2 / h)` with the unit rows :math:`v` as the
    classifier maps them (:meth:`CMMClassifier.transform
    <skfewshot.CMMClassifier.transform>`; as they are for others). *h* is the squared
    distance below which a share :math:`1/C` of the pairs is, for *C* classes, or
    :math:`1/n` for ``model=None``. The set *S* of images that are taken grows by the
    one that adds most to

    .. math::

        \sum_i w_i \max_{j \in S} k(i, j).

    Nothing is drawn at random. In pools of more than 4096 images, that many, evenly
    spaced, stand for those that are to be covered, and of some neighbours only the one
    may be taken that covers most alone. 100,000 images take some ten seconds.

    References
    ----------
    .. [1] Bae et al., Uncertainty Herding: One Active Learning Method for All Label
       Budgets, ICLR 2025, arXiv:2412.20644.

    Examples
    --------
    >>> from skfewshot import CLIPFeaturizer, ZeroShotClassifier
    >>> from skfewshot.datasets import make_object_images
    >>> from skfewshot.inspection import suggest
    >>> kinds = ["striped star", "plain heart", "checked ring"]
    >>> images = make_object_images(8, kinds=kinds, random_state=0).images
    >>> X = CLIPFeaturizer("tiny").fit_transform(images)
    >>> model = ZeroShotClassifier(text_encoder=CLIPFeaturizer("tiny"))
    >>> rows = suggest(model.fit(None, kinds), X, 3)
    >>> rows.shape
    (3,)
    """
    n = check_number("n", n, 1)
    classifier, features, unread = _read(model, X_pool)
    codes = None
    if y is not None:
        if classifier is None:
            raise ValueError("y says nothing to model=None, which knows no classes.")
        labels = single_labels(y, type(classifier).__name__)
        codes = read_codes(classifier, labels, len(labels))
    readable = np.flatnonzero(~unread)
    if n > len(readable):
        raise ValueError(
            f"n={n} is above the number of images of X_pool that could be read, "
            f"{len(readable)}."
        )
    return readable[best_to_label(classifier, features[readable], n, codes)]


def _read(
    model: Any, X: Any
) -> tuple[FewShotClassifier | None, NDArray, NDArray[np.bool_]]:
    """Return the classifier, unit rows, and which are of unreadable images."""
    if model is not None:
        inspected = resolve(model, X)
        return inspected.classifier, *inspected.features()
    unread = unread_rows(X)
    rows = check_rows(with_filled_rows(X, unread))
    rows = check_array(rows, dtype=float_types(rows), input_name="X_pool")
    none = np.zeros(len(rows), dtype=bool)
    return None, unit_rows(rows), none if unread is None else unread


def best_to_label(
    classifier: FewShotClassifier | None,
    features: NDArray,
    n: int,
    codes: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """Return the rows to label next; see :func:`suggest`.

    Parameters
    ----------
    classifier : FewShotClassifier or None
    features : ndarray of shape (n_pool, n_features)
        Unit rows.
    n : int
        At most ``n_pool``.
    codes : ndarray of int, default=None
        The classes that have images, where those count that have none.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    if classifier is None:
        doubt = np.ones(len(features), features.dtype)
        width = alike_distance(features, _PAIRS / n)
        return most_covering(features, doubt, n, width)
    factor = np.ones(len(classifier.classes_), features.dtype)
    if codes is not None:
        factor[np.bincount(codes, minlength=len(factor)) == 0] += _NO_IMAGES
    parts = []
    for block in gen_batches(len(features), _BLOCK):
        p = softmax(classifier._logits(features[block]), axis=1)
        parts.append((1 - np.square(p).sum(axis=1)).clip(0) * (p @ factor))
    mapped = getattr(classifier, "_mapped", None)
    features = features if mapped is None else mapped(features)
    width = alike_distance(features, _PAIRS / len(factor))
    return most_covering(features, np.concatenate(parts), n, width)


def _evenly_spaced(n_rows: int, most: int) -> NDArray[np.intp]:
    return np.arange(0, n_rows, -(-n_rows // most) or 1)


def alike_distance(features: NDArray, share: float) -> float:
    """Return the squared distance below which a share of the pairs of rows is.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Unit rows.
    share : float
        From 0 to 1.

    Returns
    -------
    float
        Positive.
    """
    some = features[_evenly_spaced(len(features), _MOST_PAIRED)]
    if len(some) < 2:
        return 1.0
    apart = 1 - (some @ some.T)[np.triu_indices(len(some), 1)]
    return max(2 * float(np.quantile(apart, min(share, 1.0))), 1e-6)


def most_covering(
    features: NDArray, weight: NDArray, n: int, width: float
) -> NDArray[np.intp]:
    """Return rows that cover most of the weight of all, one after the other.

    A row covers another by ``exp(-d / width)`` with their squared distance d. What one
    adds only falls with others, so those that may add most are looked at again, until
    one of them adds more than the rest ever did.

    Parameters
    ----------
    features : ndarray of shape (m, d)
        Unit rows.
    weight : ndarray of shape (m,)
        None negative.
    n : int
        At most m.
    width : float
        Positive.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    covered_rows = _evenly_spaced(len(features), _MOST_COVERED)
    targets, weight = features[covered_rows], weight[covered_rows]

    def kernel(rows: Any) -> NDArray:
        return np.exp((features[rows] @ targets.T - 1) * (2 / width))

    most = np.concatenate(
        [kernel(rows) @ weight for rows in gen_batches(len(features), _BLOCK)]
    )
    rows = _best_of_each_part(most, max(_MOST_COVERED, 2 * n))
    K, most = kernel(rows), most[rows]
    covered, few = np.zeros_like(K[0]), min(_FEW, len(rows))
    chosen = np.empty(n, dtype=np.intp)
    for place in range(n):
        is_known = np.isneginf(most)  # those that are taken
        while not is_known[best := int(most.argmax())]:
            again = np.argpartition(-most, few - 1)[:few]
            again = np.append(again[~is_known[again]], best)  # which ties may hide
            most[again] = np.maximum(K[again] - covered, 0) @ weight
            is_known[again] = True
        chosen[place] = rows[best]
        covered = np.maximum(covered, K[best])
        most[best] = -np.inf
    return chosen


def _best_of_each_part(values: NDArray, most: int) -> NDArray[np.intp]:
    """Return the index of the largest of some consecutive values; all, if not many."""
    starts = range(0, len(values), -(-len(values) // most))
    parts = [values[start : start + starts.step] for start in starts]
    return np.array([i + part.argmax() for i, part in zip(starts, parts, strict=True)])
