"""CMM in closed form: trust in texts, then map and prototypes, then their weights."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from skfewshot._base import Support
from skfewshot.cmm._gaussian import (
    GaussianModel,
    Sample,
    fit_gaussian,
    left_out_cosines,
    newcomer_cosines,
    summarise,
)
from skfewshot.cmm._scales import (
    SURPRISE,
    LeftOut,
    Weights,
    find_intercepts,
    find_newcomer_intercept,
    find_weights,
    trust_labels,
    trust_texts,
    without_own_say,
)
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
# The slope of class means on their texts, where those of images stand in for texts.
_SLOPES = 0.05, 1.0
# Rows that are left out, one at a time, to find intercepts; fewer where classes are so
# many that memory would run out; and so many to find the weights, which are but two.
_MOST_LEFT_OUT, _MOST_LOGITS, _MOST_FOR_SCALES = 4096, 2**23, 512
# Other rows of a class, at least, by which the label of one is judged; the least trust
# in a label; what distrust has to come to in the mean for the support to be solved
# again, and some trust to change by for another time; and how often at most.
_JUDGES, _LEAST_TRUST, _DOUBT, _SETTLED, _MOST_SOLVED = 1.5, 1e-3, 0.02, 0.1, 8
# Share of the identity in what the rotation onto the texts is found from.
_STAY = 0.03


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

    map: Tensor
    map_intercept: Tensor
    text_map: Tensor
    text_map_intercept: Tensor
    prototypes: Tensor
    frozen: Tensor
    alpha: float
    temperature: float
    intercept: Tensor
    newcomer: float
    trust: Tensor
    loss_curve: list[float]
    n_iter: int
    left_out: Tensor | None = None
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
    shares: Tensor
    background: float
    prototypes: Tensor
    intercept: Tensor


class Frozen(NamedTuple):
    """The part of the logits that the texts have, as far as they are trusted.

    Attributes
    ----------
    prototypes : tensor of shape (C, d)
        What rows are compared with.
    scale : float
        Of the cosines: s times the factor of the texts.
    surprise : float
        Mean cross-entropy of trusted texts on the support.
    trust : tensor of shape (C,)
        In each text, from 0 to 1.
    share : tensor of shape (C,)
        How much of its mean image, less that of all, stands in for a class's text.
    """

    prototypes: Tensor
    scale: float
    surprise: float
    trust: Tensor
    share: Tensor


class _Fit(NamedTuple):
    """A support, solved."""

    sample: Sample
    frozen: Frozen
    model: GaussianModel
    weights: Weights
    text_penalty: float
    left_out: LeftOut

    @property
    def support(self) -> Support:
        """The support."""
        return self.sample.support

    def logits(self, left_out: LeftOut) -> Tensor:
        text, image, _ = self.weights
        return text * left_out.frozen + image * left_out.mapped


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
    fit, n_iter = _fit(support, alpha, penalties), 1
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
        fit = _fit(replace(support, weight=weight), alpha, (fit.text_penalty,))
        n_iter += 1
    levels = _find_levels(fit, alpha)
    without = _left_out_logits(fit, levels, alpha) if keep_left_out else None
    found = None
    if alpha != 0 and len(support.unlabelled):
        newcomers = support.text[:0] if newcomers is None else newcomers
        fit, levels, without, found = _learn_unlabelled(
            fit, levels, alpha, newcomers, without
        )
    return _solution(fit, levels, alpha, n_iter, without, found)


def _fit(support: Support, alpha: float | None, penalties: tuple[float, ...]) -> _Fit:
    """Find the text penalty, the weights and what goes with them."""
    sample = summarise(support)
    frozen = freeze(sample, alpha)
    rows = _rows_to_leave_out(support)
    # Two numbers need fewer rows than an intercept for each class.
    some = rows[:: -(-len(rows) // _MOST_FOR_SCALES)]
    shots = float(sample.counts.mean())
    best: _Fit | None = None
    for penalty in penalties:
        model = fit_gaussian(sample, frozen.trust, text_penalty=penalty)
        left_out = leave_out(support, model, frozen, some)
        weights = _weigh(left_out, sample, frozen, alpha, shots, penalty)
        if best is None or weights.loss < best.weights.loss:
            best = _Fit(sample, frozen, model, weights, penalty, left_out)
    assert best is not None
    if len(some) < len(rows):
        best = best._replace(left_out=leave_out(support, best.model, frozen, rows))
    return best


def _weigh(
    left_out: LeftOut,
    sample: Sample,
    frozen: Frozen,
    alpha: float | None,
    shots: float,
    text_penalty: float,
) -> Weights:
    """Find the weights of texts and images, in the ratio that `alpha` says, if any."""
    ratio = None
    if alpha and not sample.support.text_seen:
        # b / a for logits a frozen + b mapped: the factor of the texts is in `frozen`.
        ratio = alpha * frozen.scale
    return find_weights(
        left_out,
        shots=shots,
        trust=float(frozen.trust.mean()),
        surprise=frozen.surprise,
        text_penalty=text_penalty,
        ratio=ratio,
    )


def freeze(sample: Sample, alpha: float | None = None) -> Frozen:
    """Find how far each text is trusted, and what the frozen part is made of.

    A text is drawn to the mean of all as far as it is not trusted. In its place comes
    the mean image of its class, less that of all and as long as texts are, so that it
    has something to set against the texts of others; where no text is trusted there is
    nothing to set anything against.
    """
    support = sample.support
    text, scale = support.text, support.logit_scale
    none = torch.zeros_like(text[:, 0])
    if alpha == 0:
        # Zero-shot CLIP as it stands.
        return Frozen(text, scale, SURPRISE, none + 1, none)
    if support.text_seen:
        return Frozen(torch.zeros_like(text), scale, SURPRISE, none, none)
    logits = scale * support.features @ text.T
    trust, factor, surprise = trust_texts(logits, support.y, support.weight)
    means = sample.means.to(text.dtype)
    ways, texts = means - means.mean(dim=0), text - text.mean(dim=0)
    told = trust[:, None] * ways
    slope = (told * texts).sum() / (told * ways).sum().clamp_min(1e-9)
    share = slope.clamp(*_SLOPES) * trust.mean() * (1 - trust)
    prototypes = text.mean(dim=0) + trust[:, None] * texts + share[:, None] * ways
    return Frozen(prototypes, scale * factor, surprise, trust, share)


def _rows_to_leave_out(support: Support) -> Tensor:
    n, n_classes = len(support.y), len(support.text)
    most = min(_MOST_LEFT_OUT, max(_MOST_FOR_SCALES, _MOST_LOGITS // n_classes))
    return torch.arange(n, device=support.y.device)[:: -(-n // most)]


def leave_out(
    support: Support, model: GaussianModel, frozen: Frozen, rows: Tensor
) -> LeftOut:
    """Return what rows of the support say when they are left out, in closed form.

    Class means and covariance do not know the row. The trust in texts, of which a row
    is a part of the evidence, is kept.
    """
    F, y, weight = support.features[rows], support.y[rows], support.weight[rows]
    others = model.posterior.counts.to(weight.dtype)[y] - weight
    left_out = LeftOut(
        rows=rows,
        frozen=frozen.scale * F @ frozen.prototypes.T,
        mapped=left_out_cosines(model, support, rows),
        y=y,
        weight=weight,
        others=others,
    )
    # Without the row, the mean image of its class is that of the others, or none.
    means = model.class_means
    without = (weight / others.clamp_min(1e-9))[:, None] * (means[y] - F)
    nothing = means.mean(dim=0) - means[y]
    change = torch.where(left_out.spare[:, None], without, nothing)
    change = frozen.scale * frozen.share[y] * (F * change).sum(dim=1)
    left_out.frozen[torch.arange(len(y), device=y.device), y] += change
    return left_out


class _Levels(NamedTuple):
    """What is added to the logits of each class, and of classes without rows."""

    intercept: Tensor
    newcomer: float


def _find_levels(fit: _Fit, alpha: float | None) -> _Levels:
    if alpha == 0:
        return _Levels(torch.zeros_like(fit.frozen.trust), 0.0)
    # Without text a row that is alone in its class has nothing to say of it.
    judges = fit.left_out
    if fit.support.text_seen:
        judges = judges.some(judges.spare)
    intercept = find_intercepts(fit.logits(judges), judges.y, judges.weight)
    return _Levels(intercept, _newcomer(fit, intercept))


def _learn_unlabelled(
    fit: _Fit,
    levels: _Levels,
    alpha: float | None,
    newcomers: Tensor,
    left_out: Tensor | None,
) -> tuple[_Fit, _Levels, Tensor | None, Unlabelled]:
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
        found_intercept = flat * intercept
        weights = weights._replace(text=flat * weights.text, image=flat * weights.image)
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
    levels = _Levels(found_intercept[:n_seen], flat * levels.newcomer)
    prototypes = learned.scoring.frozen(model)[:n_seen] / (text * fit.frozen.scale)
    frozen = fit.frozen._replace(prototypes=prototypes)
    model = replace(model, prototypes=model.prototypes[:n_seen])
    fit = fit._replace(model=model, frozen=frozen, weights=weights)
    return fit, levels, left_out, found


def _scoring(fit: _Fit, levels: _Levels, newcomers: Tensor) -> tuple[Scoring, Tensor]:
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
    fit: _Fit, held_out: HeldOut, alpha: float | None, intercept: Tensor, shots: float
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
    weights = _weigh(left_out, fit.sample, fit.frozen, alpha, shots, fit.text_penalty)
    # No row is of a newcomer: against them, all others would be raised.
    logits = weights.text * left_out.frozen + weights.image * left_out.mapped
    found = find_intercepts(logits, y, weight)
    return weights, torch.cat([found, intercept[n_seen:]])


def _solution(
    fit: _Fit,
    levels: _Levels,
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


def _as_published(fit: _Fit, alpha: float | None) -> tuple[float, float]:
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


def _newcomer(fit: _Fit, intercept: Tensor) -> float:
    """Find the intercept of classes without rows."""
    # A row that is left out of a class of its own is as badly off as a newcomer's.
    spare = torch.nonzero(fit.left_out.spare)[:, 0]
    spare = spare[:: -(-len(spare) // _MOST_FOR_SCALES) or 1]
    if fit.support.text_seen or not len(spare):
        return 0.0
    some = fit.left_out.some(spare)
    F = fit.support.features[some.rows]
    texts = fit.frozen.scale * F @ fit.support.text.T
    images = newcomer_cosines(fit.model, F)
    return find_newcomer_intercept(
        fit.logits(some) + intercept,
        fit.weights.text * texts + fit.weights.image * images,
        some.y,
        some.weight,
    )


def _left_out_logits(fit: _Fit, levels: _Levels, alpha: float | None) -> Tensor:
    """Return the logits of all rows when each is left out, of the intercepts too."""
    support, (intercept, newcomer) = fit.support, levels
    if alpha == 0:
        return support.logit_scale * support.features @ support.text.T
    rows = torch.arange(len(support.y), device=support.y.device)
    left_out = fit.left_out
    if len(left_out.rows) < len(rows):
        left_out = leave_out(support, fit.model, fit.frozen, rows)
    label, logits = left_out.y, fit.logits(left_out) + intercept
    without = without_own_say(logits, label, left_out.weight)
    if support.text_seen:
        # Rows that are alone have no say, so without one of two their class has none.
        keeps_intercept = torch.bincount(label)[label] > 2
        without = torch.where(keeps_intercept[:, None], without, logits)
    else:
        # Without a row that is alone its class is a newcomer.
        keeps_intercept = left_out.spare
    without[rows, label] += torch.where(keeps_intercept, 0, newcomer - intercept[label])
    return without


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
