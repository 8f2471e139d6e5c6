"""Labels of any form as an indicator, and the warning of labels with few images."""

import numpy as np
from scipy.sparse import issparse

from skfewshot._warnings import warn_user
from skfewshot.metrics import check_indicator, to_array


def indicator_and_names(Y, parameter):
    """Return labels as a boolean indicator, and what to call its columns."""
    if issparse(Y):
        return check_indicator(Y, parameter), range(Y.shape[1])
    array = to_array(Y, parameter)
    if array.ndim != 1:
        names = getattr(Y, "columns", range(array.shape[-1] if array.ndim else 0))
        return check_indicator(array, parameter), list(names)
    try:
        classes, indices = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise TypeError(
            f"{parameter} in one dimension must hold one class per image, all of one "
            "type; it holds "
            f"{', '.join(sorted({type(label).__name__ for label in array}))}."
        ) from error
    if not len(array) or _is_fractional(classes):
        raise ValueError(
            f"{parameter} must be an indicator of shape (n_samples, n_labels) or hold "
            f"one class per image; got {array!r}."
        )
    return indices[:, None] == np.arange(len(classes)), classes.tolist()


def _is_fractional(classes):
    """Say whether these are numbers of a regression, or NaN."""
    if classes.dtype.kind == "c":
        return True
    return classes.dtype.kind == "f" and not np.array_equal(classes, np.floor(classes))


def warn_of_scarce(names, counts, wanted, parameter, consequence):
    """Name the labels with fewer positives than `wanted`."""
    scarce = np.flatnonzero(counts < wanted)
    if not len(scarce):
        return
    shown = ", ".join(f"{names[label]!r} ({counts[label]})" for label in scarce[:10])
    more = f" and {len(scarce) - 10} more" if len(scarce) > 10 else ""
    warn_user(
        f"Labels with fewer positive images than {parameter}={wanted}: {shown}{more}; "
        f"{consequence}."
    )
