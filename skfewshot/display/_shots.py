"""What curves of scores by shots are made of, and what they are called."""

from collections.abc import Mapping
from numbers import Integral

import numpy as np
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline

from skfewshot._labels import to_array


def read_draws(y_true, y_pred):
    """Return the shots, ascending, and for each the predictions of its draws."""
    if not isinstance(y_pred, Mapping):
        raise TypeError(
            "y_pred must be a dict from the number of shots to predictions; got "
            f"{type(y_pred).__name__}."
        )
    if not all(isinstance(n_shots, Integral) for n_shots in y_pred):
        raise TypeError(
            f"y_pred must have numbers of shots, ints, for keys; got {list(y_pred)}."
        )
    shape, shots, draws = np.shape(y_true), sorted(y_pred), []
    for n_shots in shots:
        found = to_array(y_pred[n_shots], f"y_pred[{n_shots!r}]")
        found = found[None] if found.ndim == len(shape) else found
        if found.shape[1:] != shape:
            raise ValueError(
                f"y_pred[{n_shots!r}] must be shaped like y_true, {shape}, or hold "
                f"several such predictions; got shape {found.shape}."
            )
        draws.append(found)
    if len({len(found) for found in draws}) > 1:
        counts = dict(zip(shots, map(len, draws), strict=True))
        raise ValueError(
            f"y_pred must hold as many draws for all shots; it holds {counts}."
        )
    return np.array(shots), draws


def check_scores(shots, scores):
    """Return shots and scores as arrays, in ascending order of the shots."""
    shots, scores = np.asarray(shots), np.asarray(scores, dtype=np.float64)
    is_number = shots.dtype.kind in "iuf"
    if shots.ndim != 1 or not len(shots) or not is_number or not (shots > 0).all():
        raise ValueError(f"shots must be a sequence of positive ints; got {shots!r}.")
    if scores.ndim != 2 or len(scores) != len(shots) or not scores.size:
        raise ValueError(
            "test_scores must have a row of draws for each of the shots, shape "
            f"({len(shots)}, n_draws); got shape {scores.shape}."
        )
    order = np.argsort(shots, kind="stable")
    return shots[order], scores[order]


def name_score(scoring):
    """Say what a score is called, from what computes it."""
    name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", None)
    if name is None or not name.isidentifier():  # A lambda's is none.
        return "Score"
    name = name.removesuffix("_score").removesuffix("_scorer").replace("_", " ")
    name = f"negative {name[4:]}" if name.startswith("neg ") else name
    return name[:1].upper() + name[1:]


def name_own_score(estimator, y, scoring):
    if scoring is None and is_classifier(estimator) and np.ndim(y) == 1:
        return "Accuracy"
    return name_score(scoring)


def name_estimator(estimator):
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    return type(last).__name__
