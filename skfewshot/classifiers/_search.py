"""A search over the parameters of CMM: candidates and folds trained side by side."""

from copy import copy
from dataclasses import dataclass
from inspect import signature
from itertools import groupby, product
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn import get_config
from sklearn.utils.metadata_routing import get_routing_for_object

from skfewshot._sklearn import warn_user

# Numbers that one batch works on: those of smaller ones stay in the caches of a CPU.
_MOST_ON_CPU = 2**22
_MOST_IN_MEMORY = 2**26
# L-BFGS remembers so many vectors as long as the prototypes.
_REMEMBERED = 20


@dataclass(frozen=True)
class Fold:
    """What one fold trains on, on the device, and the rows that it is tested on.

    Attributes
    ----------
    model : CMMClassifier
        It has read the rows to train on.
    support : SupportTensors
    rank : ndarray of shape (n_classes,)
        Where each class of the model is in `support`.
    X : ndarray or tensor of shape (n_test, n_features)
    y : ndarray of shape (n_test,)
    score_params : dict
        What the scorer gets beside the two.
    """

    model: Any
    support: Any
    rank: Any
    X: Any
    y: Any
    score_params: dict

    def score(self, solution, parameters, scorer):
        """Return the score of a candidate."""
        model = copy(self.model).set_params(**parameters)
        model._keep(solution, self.rank, model.zero_shot_features_.dtype)
        return float(scorer(model, self.X, self.y, **self.score_params))


def score_candidates(solve, folds, grid, scorer):
    """Train and score all candidates on all folds.

    Parameters
    ----------
    solve : callable
        ``solve(shots, scales)``: of each shot, which is a tuple (support, map_penalty,
        text_penalty), the solutions for each of the scales, tuples (alpha, margin).
    folds : list of Fold
    grid : dict of str to list
        Values of alpha, map_penalty, margin and text_penalty, in this order.
    scorer : callable

    Returns
    -------
    scores : ndarray of shape (n_candidates, n_folds)
        Candidates in the order of :class:`~sklearn.model_selection.ParameterGrid`.
    n_unsettled : int
        Of how many fits the loss did not settle.
    """
    shape = [len(values) for values in grid.values()]
    n_alphas, n_maps, n_margins, n_texts = shape
    scores, n_unsettled = np.empty((*shape, len(folds))), 0
    shots = product(range(len(folds)), range(n_maps), range(n_texts))
    scales = list(product(range(n_alphas), range(n_margins)))
    for shot_batch, scale_batch in _batches(list(shots), scales, folds):
        solved = solve(
            [
                (folds[k].support, grid["map_penalty"][i], grid["text_penalty"][j])
                for k, i, j in shot_batch
            ],
            [(grid["alpha"][a], grid["margin"][m]) for a, m in scale_batch],
        )
        for (k, i, j), solutions in zip(shot_batch, solved, strict=True):
            for (a, m), solution in zip(scale_batch, solutions, strict=True):
                place = (a, i, m, j)
                parameters = {
                    name: values[at]
                    for at, (name, values) in zip(place, grid.items(), strict=True)
                }
                scores[*place, k] = folds[k].score(solution, parameters, scorer)
                n_unsettled += not solution.converged
    return scores.reshape(-1, len(folds)), n_unsettled


def takes_weight(scorer):
    """Say whether a scorer is to get the sample weights, as scikit-learn has it."""
    if get_config()["enable_metadata_routing"]:
        requests = get_routing_for_object(scorer).score.requests
        return requests.get("sample_weight") is True
    if hasattr(scorer, "_accept_sample_weight"):
        return scorer._accept_sample_weight()
    return "sample_weight" in signature(scorer).parameters


def _batches(shots, scales, folds):
    """Yield shots, and scales to solve them with, that fit together in memory.

    Shots are (fold, map penalty, text penalty). Those of a batch have as many classes,
    and the solver judges their scales by as large a part of their rows.
    """
    from skfewshot.cross_modal import MOST_FOR_SCALES

    def kind(shot):
        support = folds[shot[0]].support
        return len(support.text), -(-len(support.features) // MOST_FOR_SCALES)

    for _, alike in groupby(sorted(shots, key=kind), key=kind):
        alike = list(alike)
        text = folds[alike[0][0]].support.text
        n_rows = max(len(folds[fold].support.features) for fold, _, _ in alike)
        size = len(text) * (n_rows + _REMEMBERED * text.shape[1])
        n_scales = min(len(scales), max(1, _MOST_IN_MEMORY // size))
        most = _MOST_ON_CPU if text.device.type == "cpu" else _MOST_IN_MEMORY
        n_shots = max(1, most // (size * n_scales))
        for first, start in product(
            range(0, len(scales), n_scales), range(0, len(alike), n_shots)
        ):
            yield alike[start : start + n_shots], scales[first : first + n_scales]


def cv_results(candidates, scores):
    """Return what `GridSearchCV` calls ``cv_results_``, without its times.

    Parameters
    ----------
    candidates : list of dict
    scores : ndarray of shape (n_candidates, n_folds)
        There may be no fold; then all scores are NaN, and all ranks 1.

    Returns
    -------
    dict of str to array
    """
    n_candidates, n_folds = scores.shape
    results = {}
    for name in candidates[0]:
        values = [candidate[name] for candidate in candidates]
        is_text = any(isinstance(value, str) for value in values)
        results[f"param_{name}"] = np.ma.MaskedArray(
            np.array(values, dtype=object if is_text else None),
            mask=np.zeros(n_candidates, dtype=bool),
        )
    results["params"] = candidates
    for fold in range(n_folds):
        results[f"split{fold}_test_score"] = scores[:, fold].copy()
    mean = deviation = np.full(n_candidates, np.nan)
    rank = np.ones(n_candidates, dtype=np.int32)
    if n_folds:
        mean, deviation = scores.mean(axis=1), scores.std(axis=1)
        if not np.isfinite(mean).all():
            warn_user(f"Some of the test scores are not finite: {mean}")
    if not np.isnan(mean).all():
        ranked = np.where(np.isnan(mean), np.nanmin(mean) - 1, mean)
        rank = rankdata(-ranked, method="min").astype(np.int32)
    return {
        **results,
        "mean_test_score": mean,
        "std_test_score": deviation,
        "rank_test_score": rank,
    }
