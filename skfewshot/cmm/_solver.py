"""CMM in closed form: from a support to a solution."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from skfewshot._support import Support
from skfewshot.cmm._labelled import (
    Fit,
    Levels,
    find_levels,
    fit_labelled,
    left_out_logits,
    weigh,
)
from skfewshot.cmm._scales import (
    LeftOut,
    Weights,
    find_intercepts,
    of_few_classes,
    trust_labels,
)
from skfewshot.cmm._solution import Solution, Unlabelled
from skfewshot.cmm._unlabelled import (
    HeldOut,
    Pool,
    Scoring,
    energies_of,
    hold_out,
    maximise_expectation,
    with_newcomers,
)

# Rows a class that its own deviation from its text is worth at most, of which the best
# is taken; and where no class has rows to spare, or no text.
_TEXT_PENALTIES, _TEXT_PENALTY = (2.0, 8.0), 3.0
# Other rows of a class, at least, by which the label of one is judged; the least trust
# in a label; what distrust has to come to in the mean for the support to be solved
# again, and some trust to change by for another time; and how often at most.
_JUDGES, _LEAST_TRUST, _DOUBT, _SETTLED, _MOST_SOLVED = 1.5, 1e-3, 0.02, 0.1, 8
# Share of the identity in what the rotation onto the texts is found from.
_STAY = 0.03


def solve_gaussian(
    support: Support,
    *,
    alpha: float | None,
    keep_left_out: bool = False,
    newcomers: Tensor | None = None,
) -> Solution:
    """Solve by the Gaussian model, and find all else by rows that are left out.

    Parameters
    ----------
    support : Support
        In tensors.
    alpha : float or None
        The weight of the mapped cosines that is to be used; None finds it.
    keep_left_out : bool, default=False
        Whether to return the logits of all left-out rows.
    newcomers : tensor of shape (k, d), default=None
        Texts of classes without rows, which unlabelled ones may be of.

    Returns
    -------
    Solution
    """
    is_free = (
        not support.text_seen and alpha != 0 and len(support.y) > len(support.text)
    )
    penalties = _TEXT_PENALTIES if is_free else (_TEXT_PENALTY,)
    fit, n_iter = fit_labelled(support, alpha, penalties), 1
    before = torch.ones_like(fit.left_out.weight)
    while alpha != 0 and n_iter < _MOST_SOLVED:
        left_out = fit.left_out
        judged = left_out.others > _JUDGES
        trust = trust_labels(fit.logits(left_out), left_out.y, judged)
        change, before = (trust - before).abs(), trust
        if n_iter == 1 and float(change.mean()) < _DOUBT:
            break
        if float(change.max()) < _SETTLED:
            break
        weight = support.weight.clone()
        weight[left_out.rows] *= trust.clamp_min(_LEAST_TRUST)
        fit = fit_labelled(replace(support, weight=weight), alpha, (fit.text_penalty,))
        n_iter += 1
    levels = find_levels(fit, alpha)
    without = left_out_logits(fit, levels, alpha) if keep_left_out else None
    found = None
    if alpha != 0 and len(support.unlabelled):
        newcomers = support.text[:0] if newcomers is None else newcomers
        fit, levels, without, found = _learn_unlabelled(
            fit, levels, alpha, newcomers, without
        )
    return _solution(fit, levels, alpha, n_iter, without, found)


def _learn_unlabelled(
    fit: Fit,
    levels: Levels,
    alpha: float | None,
    newcomers: Tensor,
    left_out: Tensor | None,
) -> tuple[Fit, Levels, Tensor | None, Unlabelled]:
    """Learn from rows without labels, unless they make labelled ones held out worse."""
    support, n_seen = fit.support, len(fit.support.text)
    scoring, trust = _scoring(fit, levels, newcomers)
    pool = Pool(support.unlabelled, support.unlabelled_weight)
    spare = torch.zeros_like(support.y, dtype=torch.bool)
    spare[fit.left_out.rows[fit.left_out.spare]] = True
    penalty = fit.text_penalty
    held_out = hold_out(
        *(support, spare, scoring, pool, trust, newcomers), text_penalty=penalty
    )
    sample, model = with_newcomers(fit.sample, fit.model, newcomers)
    learned = maximise_expectation(
        *(sample, model, scoring, pool, trust), text_penalty=penalty
    )
    model, intercept = learned.model, learned.scoring.intercept
    weights, flat = fit.weights, learned.flattened
    text = weights.text
    if len(held_out.rows):
        shots = float(model.posterior.counts[:n_seen].mean())
        weights, found_intercept = _weigh_again(fit, held_out, alpha, intercept, shots)
        flat = 1.0
    else:
        flat *= of_few_classes(len(trust))  # whose images are lone no longer
        found_intercept = flat * intercept
        weights = weights._replace(text=flat * text, image=flat * weights.image)
    with_pool = weights.text / text * held_out.texts + weights.image * held_out.cosines
    gain, error = held_out.gain(support, with_pool + intercept)
    # Where no row could be held out nothing speaks against them; few rows say little.
    is_used = not gain < -error
    found = Unlabelled(
        *(gain, is_used, learned.shares, learned.background),
        *(model.prototypes[n_seen:], found_intercept[n_seen:]),
    )
    if not is_used:
        return fit, levels, left_out, found
    if left_out is not None:
        left_out = flat * left_out
        left_out[held_out.rows] = (with_pool + found_intercept)[:, :n_seen]
    levels = Levels(found_intercept[:n_seen], flat * levels.newcomer)
    prototypes = learned.scoring.frozen(model)[:n_seen] / (text * fit.frozen.scale)
    frozen = fit.frozen._replace(prototypes=prototypes)
    model = replace(model, prototypes=model.prototypes[:n_seen])
    fit = fit._replace(model=model, frozen=frozen, weights=weights)
    return fit, levels, left_out, found


def _scoring(fit: Fit, levels: Levels, newcomers: Tensor) -> tuple[Scoring, Tensor]:
    """Return what scores rows, newcomers among the classes, and the trust in texts."""
    n_new, text = len(newcomers), fit.weights.text * fit.frozen.scale
    trust, share = fit.frozen.trust, fit.frozen.share
    ways = fit.model.class_means - fit.model.class_means.mean(dim=0)
    trusted = fit.frozen.prototypes - share[:, None] * ways
    judges = fit.left_out
    # Rows that are alone in their class know no image of it, unless all are alone.
    judges = judges.some(judges.spare) if judges.spare.any() else judges
    scoring = Scoring(
        text * torch.cat([trusted, newcomers]),
        text * torch.cat([share, share.new_zeros(n_new)]),
        fit.weights.image,
        torch.cat([levels.intercept, trust.new_full((n_new,), levels.newcomer)]),
        energies_of(fit.logits(judges) + levels.intercept, judges.weight),
        n_new,
    )
    return scoring, torch.cat([trust, trust.new_ones(n_new)])


def _weigh_again(
    fit: Fit, held_out: HeldOut, alpha: float | None, intercept: Tensor, shots: float
) -> tuple[Weights, Tensor]:
    """Find weights and intercepts by rows held out of what the pool has taught."""
    support, n_seen = fit.support, len(fit.support.text)
    rows = held_out.rows
    y, weight = support.y[rows], support.weight[rows]
    frozen = held_out.texts / fit.weights.text
    left_out = LeftOut(
        rows=rows,
        frozen=frozen[:, :n_seen],
        mapped=held_out.cosines[:, :n_seen],
        y=y,
        weight=weight,
        others=weight,
    )
    weights = weigh(left_out, fit.sample, fit.frozen, alpha, shots, fit.text_penalty)
    # No row is of a newcomer: against them, all others would be raised.
    logits = weights.text * left_out.frozen + weights.image * left_out.mapped
    found = find_intercepts(logits, y, weight)
    return weights, torch.cat([found, intercept[n_seen:]])


def _solution(
    fit: Fit,
    levels: Levels,
    alpha: float | None,
    n_iter: int,
    left_out: Tensor | None,
    unlabelled: Unlabelled | None,
) -> Solution:
    """Put together what predictions need."""
    support, model, frozen = fit.support, fit.model, fit.frozen
    turned = turn(normalize(model.prototypes), support.text)
    map_ = model.map @ turned
    if unlabelled is not None:
        prototypes = unlabelled.prototypes @ turned
        unlabelled = unlabelled._replace(prototypes=prototypes)
    alpha, temperature = _as_published(fit, alpha)
    return Solution(
        map=map_,
        map_intercept=-model.centre @ map_,
        text_map=model.text_map,
        text_map_intercept=model.text_intercept,
        prototypes=model.prototypes @ turned,
        frozen=frozen.prototypes,
        alpha=alpha,
        temperature=temperature,
        intercept=levels.intercept,
        newcomer=levels.newcomer,
        trust=frozen.trust,
        loss_curve=[],
        n_iter=n_iter,
        left_out=left_out,
        unlabelled=unlabelled,
    )


def _as_published(fit: Fit, alpha: float | None) -> tuple[float, float]:
    """Return alpha and the temperature that make ``a frozen + b mapped``."""
    scale, a, b = fit.support.logit_scale, fit.weights.text, fit.weights.image
    if alpha == 0:
        return 0.0, 1.0
    if fit.support.text_seen:
        # The mapped cosines are all there is.
        alpha = 1.0 if alpha is None else alpha
        return alpha, scale * alpha / (1 + alpha) / b
    # The factor of the texts is in their scale.
    a *= fit.frozen.scale / scale
    alpha = b / (a * scale)
    return alpha, 1 / (a * (1 + alpha))


def turn(prototypes: Tensor, text: Tensor) -> Tensor:
    """Return the rotation of the mapped space that brings prototypes to the texts.

    Any rotation of that space gives the same cosines. This is the orthogonal Procrustes
    solution [1]_ of the prototypes onto the texts less their mean, within the space
    that both span, and nothing is turned beyond it.

    Parameters
    ----------
    prototypes : tensor of shape (C, d)
        Unit rows.
    text : tensor of shape (C, d)

    Returns
    -------
    tensor of shape (d, d)
        Orthogonal.

    References
    ----------
    .. [1] Schoenemann, A generalized solution of the orthogonal Procrustes problem,
       Psychometrika 31, 1966.
    """
    wide = torch.float32 if text.device.type == "mps" else torch.float64
    P, T = prototypes.to(wide), normalize(text.to(wide) - text.to(wide).mean(dim=0))
    width = P.shape[1]
    basis = torch.eye(width, dtype=wide, device=P.device)
    if 2 * len(P) < width:
        basis, _ = torch.linalg.qr(torch.cat([P, T]).T)
    P, T = P @ basis, T @ basis
    product = P.T @ T
    # A little of the identity, so that what texts leave open is not left to rounding.
    product.diagonal().add_(_STAY * torch.linalg.matrix_norm(product, 2))
    U, _, Vh = torch.linalg.svd(product)
    inner = U @ Vh
    inner.diagonal().sub_(1)
    turned = basis @ inner @ basis.T
    turned.diagonal().add_(1)
    return turned.to(prototypes.dtype)
