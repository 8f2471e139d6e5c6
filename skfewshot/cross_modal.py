"""Cross-modal mapping in three steps: a Gaussian start, two scales, refined texts."""

from dataclasses import dataclass
from typing import Any

import torch

from skfewshot.fusion import fit_intercepts, fit_newcomer_intercept, fit_scales
from skfewshot.gaussian import gaussian_start, left_out_cosines, newcomer_cosines
from skfewshot.losses import normalize_rows
from skfewshot.refinement import TextProblems, refine_texts

# Rows that are left out, one at a time, to find intercepts, and to find the scales.
_MOST_LEFT_OUT = 4096
# ... or fewer, where classes are so many that memory would run out.
_MOST_LOGITS = 2**23
MOST_FOR_SCALES = 1024


@dataclass(frozen=True)
class Shot:
    """One support, and the parameters that decide on its map.

    Attributes
    ----------
    features : tensor of shape (N, d)
        L2-normalised.
    y : int64 tensor of shape (N,)
        Class indices in [0, C).
    weight : tensor of shape (N,)
        Positive.
    text : tensor of shape (C, d)
        L2-normalised text features, or class means of the support.
    map_penalty, text_penalty : float
    """

    features: Any
    y: Any
    weight: Any
    text: Any
    map_penalty: float
    text_penalty: float


@dataclass(frozen=True)
class CrossModalSolution:
    """What predictions need: ``v = norm((f - centre) map)`` and its prototypes.

    Attributes
    ----------
    map : tensor of shape (d, d)
    intercept : tensor of shape (d,)
        ``-centre map``.
    text : tensor of shape (C, d)
        Unit prototypes.
    class_intercept : tensor of shape (C,)
        Added to the logits.
    text_map, text_intercept : tensors of shapes (d, d) and (d,)
        The prototype of a class without rows is
        ``norm((t text_map + text_intercept) map)``.
    newcomer_intercept : float
        What to add to its logits.
    alpha, temperature : float
    loss_curve : list of float
    n_iter : int
    converged : bool
    """

    map: Any
    intercept: Any
    text: Any
    class_intercept: Any
    text_map: Any
    text_intercept: Any
    newcomer_intercept: float
    alpha: float
    temperature: float
    loss_curve: list[float]
    n_iter: int
    converged: bool


def solve_cross_modal(
    shots,
    *,
    alpha,
    margin,
    temperature,
    triplet_weight,
    logit_scale,
    learning_rate,
    max_iter,
    tol,
    chunk_size,
    text_from_support,
    newcomers=False,
    callback=None,
):
    """Solve G times m problems side by side.

    Parameters
    ----------
    shots : list of Shot
        G supports with the same classes, though some may lack rows of some.
    alpha, margin : sequences of m floats
        The values to combine with each support; an `alpha` of NaN is to be found.
    temperature : float or None
        None finds it.
    triplet_weight, logit_scale : float
    learning_rate, max_iter, tol, chunk_size
        See :func:`skfewshot.solvers.solve_cmm`.
    text_from_support : bool
        Whether texts are class means of the support.
    newcomers : bool, default=False
        Whether classes without rows may be added.
    callback : callable, default=None
        ``callback(loss_curves, state)`` after each iteration, ``state()`` being what
        would be returned.

    Returns
    -------
    solutions : list of lists of CrossModalSolution
        G lists of m.
    """
    starts, judged, rows = [], [], []
    for shot in shots:
        start, *left_out = _start(shot, text_from_support)
        starts.append(start)
        judged.append(left_out)
        mapped, _ = normalize_rows(start.mapped)
        rows.append((mapped, shot.features @ shot.text.T, shot.y, shot.weight))
    n_each = len(alpha)
    given = starts[0].means.new_tensor(alpha)
    text_penalty = given.new_tensor([shot.text_penalty for shot in shots])
    found, tau, intercept = _judge(
        [
            _stack(parts).repeat_interleave(n_each, 0)
            for parts in zip(*judged, strict=True)
        ],
        logit_scale=logit_scale,
        text_seen=text_from_support,
        alpha=given.repeat(len(shots)),
        temperature=temperature,
        text_penalty=text_penalty.repeat_interleave(n_each),
    )
    shape = len(shots), n_each
    found, tau, intercept = (
        found.view(shape),
        tau.view(shape),
        intercept.view(*shape, -1),
    )
    level = torch.zeros(shape)
    if newcomers and not text_from_support:
        for group, shot in enumerate(shots):
            for each in range(n_each):
                level[group, each] = _newcomer_intercept(
                    starts[group],
                    shot,
                    judged[group],
                    logit_scale / tau[group, each] / (1 + found[group, each]),
                    found[group, each],
                    intercept[group, each],
                )
    mapped, frozen, y, weight = (_stack(parts) for parts in zip(*rows, strict=True))
    texts = [normalize_rows(start.prototypes)[0] for start in starts]
    problems = TextProblems(
        mapped=mapped,
        frozen=frozen,
        y=y,
        weight=weight,
        start=torch.stack(texts),
        intercept=intercept,
        text_penalty=text_penalty,
        scale=logit_scale / tau,
        alpha=found,
        margin=given.new_tensor(margin).expand_as(found),
        triplet_weight=triplet_weight,
    )

    def solutions(prototypes, intercepts, curves, converged):
        return [
            [
                CrossModalSolution(
                    map=start.map,
                    intercept=-start.centre @ start.map,
                    text=prototypes[group, each],
                    class_intercept=intercepts[group, each],
                    **_of_new_texts(start),
                    newcomer_intercept=float(level[group, each]),
                    alpha=float(found[group, each]),
                    temperature=float(tau[group, each]),
                    loss_curve=curves[group * n_each + each],
                    n_iter=len(curves[group * n_each + each]) - 1,
                    converged=converged[group * n_each + each],
                )
                for each in range(n_each)
            ]
            for group, start in enumerate(starts)
        ]

    def on_iteration(curves, state):
        nowhere = [False] * len(curves)
        return callback(curves, lambda: solutions(*state(), curves, nowhere))

    return solutions(
        *refine_texts(
            problems,
            learning_rate=learning_rate,
            max_iter=max_iter,
            tol=tol,
            chunk_size=chunk_size,
            callback=None if callback is None else on_iteration,
        )
    )


def _judge(left_out, *, logit_scale, text_seen, alpha, temperature, text_penalty):
    """Weights, temperatures and intercepts of problems side by side."""
    # Two numbers need fewer rows than an intercept for each class.
    step = -(-left_out[0].shape[1] // MOST_FOR_SCALES)
    found, tau = fit_scales(
        *(part[:, ::step] for part in left_out),
        logit_scale=logit_scale,
        text_seen=text_seen,
        alpha=alpha,
    )
    # Nothing is learned that could change what the texts alone say.
    zero_shot = found == 0
    tau = torch.where(zero_shot, 1.0, tau)
    if temperature is not None:
        tau = torch.full_like(tau, temperature)
    frozen, mapped, y, weight, _ = left_out
    logits = frozen + found[:, None, None] * mapped
    logits *= (logit_scale / tau / (1 + found))[:, None, None]
    intercept = fit_intercepts(logits, y, weight, text_penalty)
    return found, tau, torch.where(zero_shot[:, None], 0.0, intercept)


def _newcomer_intercept(start, shot, left_out, scale, alpha, intercept):
    frozen, mapped, y, weight, spare = left_out
    # A row that is left out of a class of its own is as badly off as a newcomer's.
    rows = torch.nonzero(spare)[:, 0]
    if not len(rows):
        return 0.0
    rows = rows[:: -(-len(rows) // MOST_FOR_SCALES)]
    features = shot.features[_left_out_rows(shot)[rows]]
    newcomers = newcomer_cosines(start, features)
    return fit_newcomer_intercept(
        scale * (frozen[rows] + alpha * mapped[rows]) + intercept,
        scale * (frozen[rows] + alpha * newcomers),
        y[rows],
        weight[rows],
    )


def _left_out_rows(shot):
    rows = torch.arange(len(shot.features), device=shot.features.device)
    most = min(_MOST_LEFT_OUT, max(MOST_FOR_SCALES, _MOST_LOGITS // len(shot.text)))
    return rows[:: -(-len(rows) // most)]


def _start(shot, text_from_support):
    """Closed form of one support, and what its rows say when they are left out."""
    F, y, weight, text = shot.features, shot.y, shot.weight, shot.text
    start = gaussian_start(
        F,
        y,
        weight,
        text,
        text_seen=text_from_support,
        map_penalty=shot.map_penalty,
        text_penalty=shot.text_penalty,
    )
    counts = weight.new_zeros(len(text)).index_add_(0, y, weight)
    rows = _left_out_rows(shot)
    label = y[rows]
    cosines = left_out_cosines(start, F, y, weight, counts, rows)
    frozen = F[rows] @ text.T
    spare = weight[rows] < 0.999 * counts[label]
    if text_from_support:
        own = weight.new_zeros(len(text), F.shape[1])
        own.index_add_(0, y, weight[:, None] * F)
        own, _ = normalize_rows(own[label] - weight[rows, None] * F[rows])
        own = (F[rows] * own).sum(dim=1, keepdim=True)
        frozen.scatter_(1, label[:, None], own)
    return start, frozen, cosines, label, weight[rows], spare


def _of_new_texts(start):
    """How the mean of a class without rows follows from its text."""
    if start.text_map is None:
        text_map = torch.eye(len(start.map), dtype=start.map.dtype)
        return {"text_map": text_map, "text_intercept": torch.zeros_like(start.centre)}
    intercept = start.offset - start.text_centre @ start.text_map
    return {"text_map": start.text_map, "text_intercept": intercept}


def _stack(tensors):
    """Stack tensors of unequal length with zeros below."""
    if len(tensors) == 1:
        # The cosines of a large support to many classes are large: no copies of them.
        return tensors[0][None]
    most = max(len(tensor) for tensor in tensors)
    return torch.stack(
        [
            torch.cat([tensor, tensor.new_zeros(most - len(tensor), *tensor.shape[1:])])
            for tensor in tensors
        ]
    )
