"""From a Gaussian closed form: class means, a whitening map, rows left out, the solver.

Everything here is this library's own. In the space of the images, less their centre m,
the mean of class c is taken for a draw from a Gaussian process over the texts,

    mu_c - m ~ N(b (t_c - m_t), K),
    K = (3 (t_c - m_t).(t_c' - m_t) + [c = c']) / penalty,

in units of the covariance of the rows of one class, and a row for a draw from round
its class's mean. So texts that are alike share what their images teach, a class with
few rows stays near its text, and a class without any still has a mean: that is the
linear map from texts to images. The covariance of the rows round those means, shrunk
to a sphere, gives the map of the images: one that makes classes round.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from skfewshot._base import Support
from skfewshot.cmm._objective import (
    Loss,
    OnIteration,
    Scales,
    Settings,
    Solution,
    Unknown,
    minimise_loss,
)
from skfewshot.cmm._scales import (
    LeftOut,
    find_intercepts,
    find_newcomer_intercept,
    find_weight,
)

# Rows that are left out, one at a time, to find intercepts; fewer where classes are so
# many that memory would run out; and so many to find the scales, which are but two.
_MOST_LEFT_OUT, _MOST_LOGITS, _MOST_FOR_SCALES = 4096, 2**23, 1024
# Penalty of an intercept's move in units of that of a prototype's.
_INTERCEPT_PENALTY = 0.1
# Prior variance of the linear map from texts to images, in units of that of a class's
# own deviation from it.
_MAP_VARIANCE = 3.0
# The same of class means where there is no text to deviate from.
_NO_TEXT_VARIANCE = 30.0
# Prior variance of an offset that all classes share.
_OFFSET_VARIANCE = 10.0
# Texts are never believed to point away from their images.
_LEAST_SLOPE = 0.05
# Class means in units of the covariance have at most a variance of one over this.
_LEAST_PENALTY = 1e-6
# Share of a sphere that a covariance is mixed with at least, so that it has an inverse.
_LEAST_SHRINKAGE = 1e-4
# A mean of which one row leaves less than this, squared, was that row: what is left is
# rounding errors, and has no direction.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class GaussianStart:
    """What :func:`gaussian_start` finds.

    Attributes
    ----------
    centre : tensor of shape (d,)
        What is taken from an image feature before it is mapped.
    map : tensor of shape (d, d)
        The map W of the images; ``W W'`` is the inverse of the shrunk covariance, which
        has trace d before.
    means : tensor of shape (C, d)
        Means of the classes less the centre, in the space of the images.
    text_map, text_intercept : tensors of shapes (d, d) and (d,)
        How the mean of a class without rows follows from its text *t*: it is
        ``t text_map + text_intercept``.
    mapped : tensor of shape (N, d)
        The rows of the support, mapped, of any length.
    prototypes : tensor of shape (C, d)
        The means, mapped, of any length.
    posterior : _ClassProcess
        How the means follow from the rows.
    residuals : tensor of shape (N, d)
        Each row less the mean of its class, had the row not been there.
    removed : tensor of shape (N,)
        What the covariance, in the units of `map`, loses of a row's residual with it.
    """

    centre: Tensor
    map: Tensor
    means: Tensor
    text_map: Tensor
    text_intercept: Tensor
    mapped: Tensor
    prototypes: Tensor
    posterior: "_ClassProcess"
    residuals: Tensor
    removed: Tensor


class _ClassProcess:
    """Posterior of the class means: a Gaussian process with noise of variance 1 / n_c.

    The kernel is ``U U' + own I``, so inverses are of the size of U's few columns.
    """

    def __init__(self, factor: Tensor, own: float, counts: Tensor) -> None:
        self.factor, self.own, self.counts = factor, own, counts
        self.slack = 1 / (1 + own * counts)
        # 1 / (own + 1 / n), which is 0 for a class without rows.
        self.precision = counts * self.slack
        weighted = factor * self.precision[:, None]
        inner = factor.T @ weighted
        inner.diagonal().add_(1)
        # Rows u' G^-1 with G = I + U' D^-1 U.
        self.solved = torch.cholesky_solve(factor.T, torch.linalg.cholesky(inner)).T
        shared = (self.solved * factor).sum(dim=1)
        self.unshared = 1 - self.precision * shared

    def smooth(self, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior deviations, and what texts' weights they come from."""
        weighted = residuals * self.precision[:, None]
        common = self.solved.T @ weighted
        self.pull = weighted - self.precision[:, None] * (self.factor @ common)
        return self.factor @ common + self.own * self.pull, common

    def rest(self) -> Tensor:
        """One less how much the mean of a class follows the mean of its own rows."""
        return self.slack * self.unshared

    def own_part(self) -> Tensor:
        """What each posterior deviation loses if its class loses all its rows."""
        lost = 1 / (self.precision * self.unshared) - 1 / self.counts
        return torch.where(self.counts > 0, lost, 0.0)[:, None] * self.pull

    def columns(self, classes: Tensor) -> Tensor:
        """How much the mean of each class follows the rows of some classes."""
        shared = self.solved @ self.factor[classes].T
        columns = self.slack[:, None] * shared
        columns[classes, torch.arange(len(classes), device=classes.device)] += self.own
        return columns * self.precision[classes]


def gaussian_start(
    support: Support, *, map_penalty: float, text_penalty: float
) -> GaussianStart:
    """Find centre, map and class means in closed form.

    Parameters
    ----------
    support : Support
        In tensors. A class may have no row.
    map_penalty : float
        Shrinks the covariance to a sphere, as much as `map_penalty` times d rows would.
        Infinity makes the map the identity and the centre zero.
    text_penalty : float
        Keeps class means near what their texts say, as much as so many rows of a class
        would. Infinity makes them the texts.

    Returns
    -------
    GaussianStart
    """
    narrow, y = support.features, support.y
    # A class mean may follow its rows so closely that what is left of them is lost to
    # single precision.
    dtype, wide = narrow.dtype, torch.float64
    if narrow.device.type == "mps":
        wide = torch.float32
    F, weight, text = (x.to(wide) for x in (narrow, support.weight, support.text))
    (n_classes, width), total = text.shape, float(weight.sum())
    text_penalty = max(text_penalty, _LEAST_PENALTY)
    counts = weight.new_zeros(n_classes).index_add_(0, y, weight)
    seen = counts > 0
    sums = torch.zeros_like(text).index_add_(0, y, weight[:, None] * F)
    class_means = sums / counts.where(seen, torch.ones_like(counts))[:, None]
    trust = total / (total + map_penalty)
    centre = trust * class_means[seen].mean(dim=0)
    targets = class_means - centre
    prior = _prior(support.text_seen, text, targets, seen, trust, text_penalty)
    posterior = _ClassProcess(prior.factor, prior.own, counts)
    deviations, common = posterior.smooth(targets - prior.means)
    means = prior.means + deviations
    # One less the leverage of each row.
    share = weight / counts[y]
    rest = (1 - share) + share * posterior.rest()[y]
    residuals = ((F - (centre + means)[y]) / rest[:, None]).to(dtype)
    removed = (weight * rest).to(dtype)
    scatter = residuals.T @ (residuals * removed[:, None])
    if support.text_seen:
        means = torch.where(seen[:, None], means, text - centre)
    map_, scale = _whitening(scatter, total, map_penalty)
    text_map = torch.eye(width, dtype=wide, device=F.device)
    text_intercept = torch.zeros_like(centre)
    if not support.text_seen:
        text_map = (_MAP_VARIANCE / text_penalty) ** 0.5 * common[1:]
        text_map.diagonal().add_(prior.slope)
        text_intercept = prior.factor[0, 0] * common[0] - prior.text_centre @ text_map
    centre, means = centre.to(dtype), means.to(dtype)
    return GaussianStart(
        centre=centre,
        map=map_,
        means=means,
        text_map=text_map.to(dtype),
        text_intercept=text_intercept.to(dtype),
        mapped=(narrow - centre) @ map_,
        prototypes=means @ map_,
        posterior=posterior,
        residuals=residuals,
        removed=removed * scale,
    )


class _Prior(NamedTuple):
    """What is expected of the class means: ``N(means, factor factor' + own I)``."""

    means: Tensor
    factor: Tensor
    own: float
    #: How the means follow the texts, less their centre; unused without text.
    slope: Tensor
    text_centre: Tensor


def _prior(
    text_seen: bool,
    text: Tensor,
    targets: Tensor,
    seen: Tensor,
    trust: float,
    text_penalty: float,
) -> _Prior:
    offset = text.new_full((len(text), 1), (_OFFSET_VARIANCE * trust) ** 0.5)
    text_centre = trust * text.mean(dim=0)
    texts = text - text_centre
    agreement = (texts[seen] * targets[seen]).sum() / texts[seen].square().sum()
    slope = agreement.nan_to_num(1.0).clamp_min(_LEAST_SLOPE)
    if text_seen:
        own = max(_NO_TEXT_VARIANCE / text_penalty, _LEAST_PENALTY)
        return _Prior(torch.zeros_like(text), offset, own, slope, text_centre)
    factor = torch.cat([offset, (_MAP_VARIANCE / text_penalty) ** 0.5 * texts], dim=1)
    return _Prior(slope * texts, factor, 1 / text_penalty, slope, text_centre)


def _whitening(scatter: Tensor, total: float, penalty: float) -> tuple[Tensor, float]:
    """Root of the inverse of a shrunk covariance, and the scale of scatter in it."""
    width = len(scatter)
    identity = torch.eye(width, dtype=scatter.dtype, device=scatter.device)
    trace = float(scatter.diagonal().sum())
    shrinkage = max(
        1 / (1 + total / width / penalty) if penalty else 0, _LEAST_SHRINKAGE
    )
    if trace <= 0 or shrinkage == 1:
        return identity, 0.0
    scale = (1 - shrinkage) * width / trace
    root = torch.linalg.cholesky(scale * scatter + shrinkage * identity)
    return torch.linalg.solve_triangular(root, identity, upper=False).T, scale


def newcomer_cosines(start: GaussianStart, F: Tensor) -> Tensor:
    """Cosines of rows to each class, had that class no images at all.

    Parameters
    ----------
    start : GaussianStart
    F : tensor of shape (m, d)

    Returns
    -------
    cosines : tensor of shape (m, C)
    """
    means = start.means - start.posterior.own_part().to(start.means.dtype)
    mapped = normalize((F - start.centre) @ start.map)
    prototypes = normalize(means @ start.map)
    return mapped @ prototypes.T


def left_out_cosines(start: GaussianStart, support: Support, rows: Tensor) -> Tensor:
    """Cosines of some rows to all classes, had that row not been in the support.

    The class means are those without the row, exactly, and the covariance loses its
    residual. The centre, the slope of the texts, the shrinkage and the residuals of the
    other rows are kept.

    Parameters
    ----------
    start : GaussianStart
    support : Support
        That `start` was found on, in tensors.
    rows : int64 tensor of shape (m,)

    Returns
    -------
    cosines : tensor of shape (m, C)
    """
    label, weight = support.y[rows], support.weight[rows]
    counts = start.posterior.counts.to(weight.dtype)
    mapped, means = start.mapped[rows], start.prototypes
    residuals = start.residuals[rows] @ start.map
    # Inner products of the row x, its residual e and the means p.
    x_p, e_p, p_p = mapped @ means.T, residuals @ means.T, means.square().sum(dim=1)
    x_x, x_e = mapped.square().sum(dim=1), (mapped * residuals).sum(dim=1)
    e_e = residuals.square().sum(dim=1)
    # Without the row the inverse covariance gains `gain` times (e e').
    removed = start.removed[rows]
    gain = removed / (1 - removed * e_e).clamp_min(1e-6)
    # ... and the means of the classes lose `loss` times e.
    classes, index = torch.unique(label, return_inverse=True)
    follow = start.posterior.columns(classes).to(means.dtype)[:, index].T
    loss = follow * (weight / counts[label])[:, None]
    swell = 1 + gain * e_e
    x_q = x_p + (gain * x_e)[:, None] * e_p - loss * (x_e * swell)[:, None]
    q_q = p_p + gain[:, None] * e_p.square()
    q_q += loss.square() * (e_e * swell)[:, None]
    least = _LEAST_SHARE * q_q
    q_q = (q_q - 2 * loss * e_p * swell[:, None]).maximum(least)
    x_x = x_x + gain * x_e.square()
    floor = torch.finfo(means.dtype).tiny ** 0.5
    return x_q / (x_x.sqrt()[:, None] * q_q.sqrt()).clamp_min(floor)


def leave_out(support: Support, start: GaussianStart) -> LeftOut:
    """Return what rows of the support say when they are left out, in closed form."""
    F, y, weight, text = support.features, support.y, support.weight, support.text
    most = min(_MOST_LEFT_OUT, max(_MOST_FOR_SCALES, _MOST_LOGITS // len(text)))
    rows = torch.arange(len(F), device=F.device)[:: -(-len(F) // most)]
    counts = start.posterior.counts.to(weight.dtype)
    label = y[rows]
    frozen = F[rows] @ text.T
    if support.text_seen:
        own = torch.zeros_like(text).index_add_(0, y, weight[:, None] * F)
        own = normalize(own[label] - weight[rows, None] * F[rows])
        frozen.scatter_(1, label[:, None], (F[rows] * own).sum(dim=1, keepdim=True))
    return LeftOut(
        rows=rows,
        frozen=frozen,
        mapped=left_out_cosines(start, support, rows),
        y=label,
        weight=weight[rows],
        spare=weight[rows] < 0.999 * counts[label],
    )


def find_scales(
    support: Support,
    start: GaussianStart,
    *,
    alpha: float | None,
    text_penalty: float,
) -> Scales:
    """Find weight, temperature and intercepts by rows left out.

    Parameters
    ----------
    support : Support
        In tensors.
    start : GaussianStart
    alpha : float or None
        The weight that is to be used; None finds it.
    text_penalty : float

    Returns
    -------
    Scales
    """
    if alpha == 0:
        # Nothing is learned that could change what the texts alone say.
        return Scales(0.0, 1.0, torch.zeros_like(support.text[:, 0]), 0.0)
    left_out, scale = leave_out(support, start), support.logit_scale
    # Two numbers need fewer rows than an intercept for each class.
    some = left_out.some(slice(None, None, -(-len(left_out.y) // _MOST_FOR_SCALES)))
    alpha, temperature = find_weight(
        some, logit_scale=scale, text_seen=support.text_seen, alpha=alpha
    )
    scale = scale / temperature / (1 + alpha)
    logits = scale * (left_out.frozen + alpha * left_out.mapped)
    intercept = find_intercepts(logits, left_out.y, left_out.weight, text_penalty)
    # A row that is left out of a class of its own is as badly off as a newcomer's.
    spare = torch.nonzero(left_out.spare)[:, 0]
    spare = spare[:: -(-len(spare) // _MOST_FOR_SCALES) or 1]
    if support.text_seen or not len(spare):
        return Scales(alpha, temperature, intercept, 0.0)
    some = left_out.some(spare)
    newcomers = newcomer_cosines(start, support.features[some.rows])
    level = find_newcomer_intercept(
        logits[spare] + intercept,
        scale * (some.frozen + alpha * newcomers),
        some.y,
        some.weight,
    )
    return Scales(alpha, temperature, intercept, level)


def solve_gaussian(
    support: Support,
    settings: Settings,
    chunk_size: int,
    on_iteration: OnIteration | None = None,
) -> Solution:
    """Start from the Gaussian closed form, and move prototypes and intercepts.

    Parameters
    ----------
    support : Support
        In tensors.
    settings : Settings
    chunk_size : int
        Rows handled at once. The gradient is the exact one whatever the chunks.
    on_iteration : callable, default=None
        ``on_iteration(iteration, loss, state)``, called after each iteration;
        ``state()`` gives the solution so far. True stops.

    Returns
    -------
    Solution
    """
    F, total = support.features, support.weight.sum()
    start = gaussian_start(
        support,
        map_penalty=settings.map_penalty,
        text_penalty=settings.text_penalty,
    )
    scales = find_scales(
        support, start, alpha=settings.alpha, text_penalty=settings.text_penalty
    )
    mapped, scale = normalize(start.mapped), support.logit_scale / scales.temperature
    penalty = settings.text_penalty / float(total)
    unknowns = {
        "text": Unknown(normalize(start.prototypes), penalty),
        # Nothing is learned where the map has no weight.
        "intercept": Unknown(
            scales.intercept,
            _INTERCEPT_PENALTY * penalty if scales.alpha > 0 else math.inf,
        ),
    }
    loss = Loss(
        frozen=scale / (1 + scales.alpha) * F @ support.text.T,
        mapped=lambda rows, values: mapped[rows],
        y=support.y,
        row_weight=support.weight / total,
        alpha=scales.alpha,
        scale=scale,
        triplet_weight=settings.triplet_weight,
        margin=settings.margin,
    )

    def solution(values: dict[str, Tensor], curve: list[float], done: bool) -> Solution:
        return Solution(
            map=start.map,
            map_intercept=-start.centre @ start.map,
            text_map=start.text_map,
            text_map_intercept=start.text_intercept,
            text=values["text"],
            scales=scales._replace(intercept=values["intercept"]),
            loss_curve=curve,
            converged=done,
        )

    return minimise_loss(loss, unknowns, solution, settings, chunk_size, on_iteration)
