"""What a fit keeps of rows that are left out: what each says, and which row it is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from skfewshot._support import Support

#: The attributes that a fit keeps with ``store_left_out=True``.
LEFT_OUT = (
    *("left_out_proba_", "left_out_novelty_", "support_codes_"),
    *("support_shares_", "support_features_"),
)
# Share of the mean of all logits that novelty takes from the largest: between 0, which
# is how near the nearest class is, and 1, how far it stands out. Chosen on validation
# rows of DTD-47, Pets-25 and Caltech-69, 2 to 34 of the classes known.
_MEAN_SHARE = 0.5


def novelty_of(logits: NDArray) -> NDArray:
    """Return how little the best class of each row has for it.

    Probabilities say which of the classes, not whether one of them: the level of the
    logits, which they lose, says that.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)

    Returns
    -------
    ndarray of shape (n,)
    """
    return _MEAN_SHARE * logits.mean(axis=1) - logits.max(axis=1)


def left_out_attributes(support: Support, logits: NDArray) -> dict[str, NDArray]:
    """Return what is kept of rows left out, by attribute, a row for each of X.

    Parameters
    ----------
    support : Support
        In arrays.
    logits : ndarray of shape (n_support, n_classes)
        Of the rows of the support, each by the classifier without it; all classes.

    Returns
    -------
    dict of ndarray
        ``left_out_proba_``, ``left_out_novelty_``, ``support_codes_`` and
        ``support_shares_``, as the classifiers document them.
    """
    proba = softmax(logits, axis=1)
    known = support.rows >= 0
    rows = support.rows[known]
    n_rows = len(support.rows)

    def of_rows(values: NDArray, nothing: Any) -> NDArray:
        found = np.full((n_rows, *values.shape[1:]), nothing, values.dtype)
        found[known] = values[rows]
        return found

    # Near copies are one photograph, and so are the copies of a row in X.
    photographs = support.weight / support.copy
    share = photographs / np.maximum(np.bincount(rows, minlength=len(photographs)), 1)
    return {
        "left_out_proba_": of_rows(proba, np.nan),
        "left_out_novelty_": of_rows(novelty_of(logits), np.nan),
        "support_codes_": of_rows(support.seen[support.y], -1),
        "support_shares_": of_rows(share, 0.0),
    }
