"""A batch of queries answered together: it tells which classes it has, and their rows.

Everything here is this library's own. Predictions of one image know nothing of the
others. In a batch, probabilities and what they follow from are found in turns:

    r_uc  = softmax_c(z_uc + g log pi_c),
    pi_c  = (n_c + .3 N / C) / (1.3 N)  with  n_c = sum_u r_uc,
    P_c   = norm((m_c + 3) k P_c^0 + w sum_u r_uc v_u),  w = 1 / (1 + n / 3),

for N rows v of the batch, mapped; C classes with m labelled images each and prototypes
P^0; k, the mean cosine of a row to the prototype of its class; and n, how many rows the
batch has of the class of one of its rows. The gate g, one less the share of the classes
that the batch seems to have, exp(-sum_c pi_c log pi_c) / C, lets shares speak where
classes are missing. Where most of them are there, what shares tell is mostly which
classes are predicted too readily, and they are silent.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.utils import gen_batches

from skfewshot._rows import unit_rows

# Rows a class that are there before any is counted, in shares of the mean of all.
_EQUAL_ROWS = 0.3
# Labelled rows that a text is worth, and that the rows of a class in a batch are at
# most.
_TEXT_ROWS, _MOST_WORTH = 3.0, 3.0
_ROUNDS = 5
# Rows at a time.
_BLOCK = 4096


def answer_together(
    fixed: NDArray,
    mapped: NDArray,
    prototypes: NDArray,
    counts: NDArray,
    scale: float,
) -> NDArray:
    """Return the logits of the rows of a batch that are answered together.

    Parameters
    ----------
    fixed : ndarray of shape (m, n_classes)
        The part of the logits that prototypes have no share in.
    mapped : ndarray of shape (m, n_features)
        Unit rows.
    prototypes : ndarray of shape (n_classes, n_features)
        Unit rows, in the same space.
    counts : ndarray of shape (n_classes,)
        Labelled rows of each class.
    scale : float
        Of the cosines of rows and prototypes.

    Returns
    -------
    ndarray of shape (m, n_classes)
    """
    n_classes = len(prototypes)
    level, moved = np.zeros(n_classes, mapped.dtype), prototypes
    first = (counts + _TEXT_ROWS)[:, None].astype(mapped.dtype) * prototypes
    blocks = list(gen_batches(len(mapped), _BLOCK))
    for _ in range(_ROUNDS):
        n, likeness = np.zeros(n_classes), 0.0
        sums = np.zeros_like(prototypes)
        for rows in blocks:
            logits = fixed[rows] + scale * mapped[rows] @ moved.T
            r = softmax(logits + level, axis=1)
            n += r.sum(axis=0)
            likeness += float((r * (mapped[rows] @ prototypes.T)).sum())
            sums += r.T @ mapped[rows]
        level = log_shares(n).astype(mapped.dtype)
        total = float(n.sum())
        worth = 1 / (1 + float(n @ n) / total / _MOST_WORTH)
        moved = unit_rows(max(likeness / total, 0.0) * first + worth * sums)
    parts = [fixed[rows] + scale * mapped[rows] @ moved.T for rows in blocks]
    return np.concatenate(parts) + level


def log_shares(counts: NDArray) -> NDArray:
    """Return what the shares of the classes add to logits, as far as the gate lets.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Rows of each class, in parts.

    Returns
    -------
    ndarray of shape (n_classes,)
    """
    equal = _EQUAL_ROWS * counts.mean()
    shares = (counts + equal) / (counts + equal).sum()
    seeming = np.exp(-(shares @ np.log(shares))) / len(shares)
    return max(1 - float(seeming), 0.0) * np.log(shares)
