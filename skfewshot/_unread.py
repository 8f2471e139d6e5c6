"""Images that could not be read: left out of a fit, and answered by nothing.

A featurizer with ``on_error="nan"`` gives them rows of NaN, in an array that knows its
encoder. In any other array NaN is a mistake, and stays an error.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing

from skfewshot._rows import plain
from skfewshot._sklearn import warn_user
from skfewshot.clip._embedding import EmbeddingArray, encoder_of

_SHOWN = 10


def unread_rows(X: Any) -> NDArray[np.bool_] | None:
    """Return which rows are of images that could not be read, or None if none is."""
    if encoder_of(X) is None:
        return None
    rows = np.asarray(X)
    if rows.ndim < 2 or not len(rows) or not np.isnan(rows[:, ..., 0]).any():
        return None
    unread = np.isnan(rows.reshape(len(rows), -1)).all(axis=1)
    return unread if unread.any() else None


def with_filled_rows(X: Any, unread: NDArray[np.bool_] | None) -> Any:
    """Return X with rows of length one in the place of those, and the same encoder."""
    if unread is None:
        return X
    rows = np.array(X)
    rows[unread] = rows.shape[-1] ** -0.5
    return EmbeddingArray(rows, encoder_of(X))


def without_unread(
    X: Any, y: Any, sample_weight: Any, known: NDArray[np.bool_] | None = None
) -> tuple[Any, Any]:
    """Return rows and weights to fit on: of an image that was not read it is zero.

    Parameters
    ----------
    X : array-like of shape (n, ...)
    y : array-like of shape (n,) or (n, n_labels)
    sample_weight : array-like of shape (n,), float or None
    known : ndarray of bool, shape (n,), or None
        Which rows have a label; None if all have.

    Returns
    -------
    X, sample_weight
        As they were, if all images were read.

    Raises
    ------
    ValueError
        If not one image was read.

    Warns
    -----
    UserWarning
        If a class has no image that was read.
    """
    unread = unread_rows(X)
    if unread is None:
        return X, sample_weight
    if unread.all():
        raise ValueError(
            f"None of the {len(unread)} images of X could be read, so there is nothing "
            "to learn from. skfewshot.datasets.check_images says why."
        )
    _warn_of_lost_classes(y, unread, known)
    weight = 1.0 if sample_weight is None else plain(sample_weight, "sample_weight")
    weight = np.array(weight, dtype=float)
    if np.ndim(weight) and np.shape(weight) != unread.shape:
        return with_filled_rows(X, unread), sample_weight  # it is refused as it is
    return with_filled_rows(X, unread), np.where(unread, 0.0, weight)


def _warn_of_lost_classes(
    y: Any, unread: NDArray[np.bool_], known: NDArray[np.bool_] | None
) -> None:
    labels = np.asarray(y, dtype=object)
    if labels.ndim != 1 or len(labels) != len(unread):
        return
    if known is not None:
        labels, unread = labels[known], unread[known]
    kept = set(labels[~unread])
    lost = sorted({str(label) for label in labels[unread] if label not in kept})
    if lost:
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        warn_user(
            f"No image could be read of the classes {lost[:_SHOWN]}{more}: they are "
            "left out."
        )


def only_read(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Return the rows, labels and weights of the images that were read, to score on."""
    unread = unread_rows(X)
    if unread is None:
        return X, y, sample_weight
    if len(unread) != (y.shape[0] if hasattr(y, "shape") else len(y)):
        return X, y, sample_weight  # they are refused as they are
    if unread.all():
        raise ValueError(
            f"None of the {len(unread)} images of X could be read, so there is nothing "
            "to score."
        )
    rows = np.flatnonzero(~unread)
    if np.ndim(sample_weight):
        sample_weight = _safe_indexing(sample_weight, rows)
    return X[rows], _safe_indexing(y, rows), sample_weight


def with_missing(predicted: NDArray, unread: NDArray[np.bool_] | None) -> NDArray:
    """Return predictions, with nothing where an image was not read.

    That is NaN for numbers, of which integers become floats, and None for other labels.
    """
    if unread is None:
        return predicted
    is_number = predicted.dtype.kind in "fiu"
    kept_type = predicted.dtype.kind == "f"
    if not kept_type:
        predicted = predicted.astype(np.float64 if is_number else object)
    predicted[unread] = np.nan if is_number else None
    return predicted
