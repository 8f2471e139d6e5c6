"""What a solver finds, in tensors, and the attributes that predictions need of it."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfewshot._rows import unit_rows
from skfewshot._torch import to_numpy

if TYPE_CHECKING:
    from torch import Tensor


class Solution(NamedTuple):
    """What predictions need.

    The logits of rows f are
    ``s / temperature (f frozen' + alpha v prototypes') / (1 + alpha) + intercept`` with
    ``v = norm(f map + map_intercept)``.

    Attributes
    ----------
    map, text_map : tensors of shape (d, d)
    map_intercept, text_map_intercept : tensors of shape (d,)
        The prototype of a class without rows is
        ``norm((t text_map + text_map_intercept) map)``.
    prototypes : tensor of shape (C, d)
        Of any length.
    frozen : tensor of shape (C, d)
    alpha, temperature : float
    intercept : tensor of shape (C,)
    newcomer : float
        The intercept of classes without rows.
    trust : tensor of shape (C,)
        How far each text is trusted.
    loss_curve : list of float
        Of a solver that has one: the loss before the first iteration, and after each.
    n_iter : int
        Iterations done; how often the closed form was solved.
    left_out : tensor of shape (N, C) or None
        Logits of the rows when each is left out.
    unlabelled : Unlabelled or None
        What rows without labels did, if there were any.
    """

    map: "Tensor"
    map_intercept: "Tensor"
    text_map: "Tensor"
    text_map_intercept: "Tensor"
    prototypes: "Tensor"
    frozen: "Tensor"
    alpha: float
    temperature: float
    intercept: "Tensor"
    newcomer: float
    trust: "Tensor"
    loss_curve: list[float]
    n_iter: int
    left_out: "Tensor | None" = None
    unlabelled: "Unlabelled | None" = None


class Unlabelled(NamedTuple):
    """What rows without labels did.

    Attributes
    ----------
    gain : float
        Nats by which they better labelled rows held out; NaN where none could be.
    is_used : bool
        False where they make those worse by more than a standard error, and so are
        left alone.
    shares : tensor of shape (C,)
        Of the classes among them.
    background : float
        The share of rows of no class.
    prototypes : tensor of shape (k, d)
        Of classes without labelled rows; any length.
    intercept : tensor of shape (k,)
        Theirs.
    """

    gain: float
    is_used: bool
    shares: "Tensor"
    background: float
    prototypes: "Tensor"
    intercept: "Tensor"


def prototypes_of(texts: NDArray, fitted: Mapping[str, Any]) -> NDArray:
    """Return the prototypes of classes without rows, from their texts."""
    means = texts @ fitted["text_map_"] + fitted["text_map_intercept_"]
    return unit_rows(means @ fitted["map_"])


def attributes_of(
    solution: Solution,
    rank: NDArray,
    seen: NDArray,
    texts: NDArray,
    *,
    has_text: bool,
) -> dict[str, Any]:
    """Return what predictions need of a solution, by attribute.

    Parameters
    ----------
    solution : Solution
    rank : ndarray of int, shape (n_seen,)
        Which class of the solution each class with rows is.
    seen : ndarray of int, shape (n_seen,)
        Which of all classes those are.
    texts : ndarray of shape (n_classes, d)
        Of all classes; others have what their texts give them.
    has_text : bool
        Whether those are texts, and not class means.

    Returns
    -------
    dict
    """
    array = partial(to_numpy, dtype=texts.dtype)
    fitted: dict[str, Any] = {
        "map_": array(solution.map),
        "map_intercept_": array(solution.map_intercept),
        "text_map_": array(solution.text_map),
        "text_map_intercept_": array(solution.text_map_intercept),
        "alpha_": solution.alpha,
        "temperature_": solution.temperature,
        "newcomer_intercept_": solution.newcomer,
    }
    prototypes = prototypes_of(texts, fitted)
    prototypes[seen] = unit_rows(array(solution.prototypes)[rank])
    # Class means are no texts, also of classes whose rows weigh nothing.
    frozen = texts.copy() if has_text else np.zeros_like(texts)
    trust = np.full_like(texts[:, 0], has_text)
    frozen[seen] = array(solution.frozen)[rank]
    trust[seen] = array(solution.trust)[rank]
    intercept = np.full_like(trust, solution.newcomer)
    intercept[seen] = array(solution.intercept)[rank]
    fitted |= {
        "prototypes_": prototypes,
        "frozen_prototypes_": frozen,
        "text_trust_": trust,
        "intercept_": intercept,
    }
    unlabelled = solution.unlabelled
    if unlabelled is None:
        return fitted
    shares, found = np.zeros_like(trust), array(unlabelled.shares)
    fresh = np.setdiff1d(np.arange(len(trust)), seen)[: len(found) - len(seen)]
    shares[seen], shares[fresh] = found[rank], found[len(seen) :]
    if unlabelled.is_used:
        prototypes[fresh] = unit_rows(array(unlabelled.prototypes))
        intercept[fresh] = array(unlabelled.intercept)
    return fitted | {
        "uses_unlabeled_": unlabelled.is_used,
        "unlabeled_gain_": unlabelled.gain,
        "unlabeled_shares_": shares,
        "unlabeled_background_": unlabelled.background,
    }
