"""What users would pick instead of ours for several labels an image, one setting each.

Nothing runs here; ``multilabel.py``, ``labels.py`` and ``papers.py`` read it.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

#: How the peers are usually set.
TIP_ALPHA, TIP_BETA, CLIP_SCALE = 1.0, 5.5, 100.0
N_NEIGHBORS = 5
#: scikit-learn's default, 1, does worse on features of length one.
PROBE_C = 10.0
PEERS = (
    *("text, global feature", "text, local features", "mean of tokens"),
    *("logistic regression", "k-nearest neighbours", "Tip-Adapter"),
)


def fit_peers(X, Y, text):
    """Fit all peers on one support.

    Parameters
    ----------
    X : ndarray of shape (n, 1 + K, d)
        Tokens; row 0 of an image is its global feature.
    Y : ndarray of shape (n, L)
        Zeros and ones.
    text : ndarray of shape (L, d) or None
        Embedded label names; without them there are no peers by text.

    Returns
    -------
    callable
        From the tokens of queries, (m, 1 + K, d), to {name: scores of shape (m, L)},
        one entry for each of `PEERS` that there is. Queries do not influence each
        other.
    """
    whole = X[:, 0]
    means = _unit(Y.T @ _parts(X).mean(axis=1))
    centre = _parts(X).mean(axis=(0, 1))
    probe = fit_probe(whole, Y)

    def score(queries):
        query = queries[:, 0]
        similarity = query @ whole.T
        nearest = np.argsort(-similarity, axis=1)[:, :N_NEIGHBORS]
        weights = np.take_along_axis(similarity, nearest, axis=1)
        by_images = {
            "mean of tokens": query @ means.T,
            "logistic regression": probe.decision_function(query),
            "k-nearest neighbours": (weights[:, :, None] * Y[nearest]).sum(axis=1),
        }
        if text is None:
            return by_images
        clip = CLIP_SCALE * query @ text.T
        cache = np.exp(-TIP_BETA * (1 - similarity)) @ Y
        patches = _unit(_parts(queries) - centre)
        best = np.sort(patches @ _unit(text - text.mean(axis=0)).T, axis=1)[:, -5:]
        return {
            "text, global feature": clip,
            "text, local features": best.mean(axis=1),
            **by_images,
            "Tip-Adapter": (clip + TIP_ALPHA * cache) / (1 + TIP_ALPHA),
        }

    return score


def fit_probe(X, Y, C=PROBE_C):
    """Fit a logistic regression for each label on features of shape (n, d)."""
    probe = OneVsRestClassifier(LogisticRegression(C=C, max_iter=1000))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all|Label not")
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        return probe.fit(X, Y)


def _parts(tokens):
    return tokens[:, 1:] if tokens.shape[1] > 1 else tokens


def _unit(rows):
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
