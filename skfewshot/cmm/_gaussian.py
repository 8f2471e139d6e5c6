"""The Gaussian model: class means, a whitening map, and rows left out of both, exactly.

Everything here is this library's own. In the space of the images, less their centre m,
the mean of class c is taken for a draw from a Gaussian process over the texts,

    mu_c - m ~ N(b pi_c (t_c - m_t), K),
    K = 10 + (3 pi_c (t_c - m_t).pi_c' (t_c' - m_t) + [c = c'] own_c) / penalty,

in units of the covariance of the rows of one class, and a row for a draw from round
its class's mean. So texts that are alike share what their images teach, a class with
few rows stays near its text, and a class without any still has a mean: that is the
linear map from texts to images. The trust pi_c says how much of this a text deserves:
the mean of a class with a text of no trust is free to go where its rows are.

The rows are then a matrix-normal sample, of which the covariance about the means is the
quadratic form of all residuals. Taking a row out of it is a change of rank one, so what
rows left out say is not an approximation: neither means nor covariance know the row.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from skfewshot._support import Support

# Prior variance of the linear map from texts to images, in units of that of a class's
# own deviation from it.
_MAP_VARIANCE = 3.0
# The variance of a class's own deviation where its text is not to be trusted, in the
# same units.
_NO_TEXT_VARIANCE = 30.0
# Prior variance of an offset that all classes share.
_OFFSET_VARIANCE = 10.0
# Texts are never believed to point away from their images.
_LEAST_SLOPE = 0.05
# A covariance is shrunk to a sphere as much as so many times d rows of that would, and
# has at least this share of it, so that it has an inverse.
_SPHERE_ROWS, _LEAST_SHRINKAGE = 1.0, 1e-4
# Share of the weight of a row below which the others of its class are none.
ALONE_SHARE = 1e-3
# A mean of which one row leaves less than this, squared, was that row: what is left is
# rounding errors, and has no direction.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class GaussianModel:
    """What :func:`fit_gaussian` finds.

    Attributes
    ----------
    centre : tensor of shape (d,)
        What is taken from an image feature before it is mapped: the mean of the class
        means, as if a row at zero were there too.
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
    class_means : tensor of shape (C, d)
        Of the rows.
    offset, offset_residuals : tensors of shape (C,) and (N,)
        How much the means follow an offset of all rows; and one less that, had a row
        not been there.
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
    class_means: Tensor
    offset: Tensor
    offset_residuals: Tensor


class _ClassProcess:
    """Posterior of the class means: a Gaussian process with noise of variance 1 / n_c.

    The kernel is ``U U' + diag(own)``, so inverses are of the size of U's rows or
    columns, whichever are fewer.
    """

    def __init__(self, factor: Tensor, own: Tensor, counts: Tensor) -> None:
        self.factor, self.own, self.counts = factor, own, counts
        self.slack = 1 / (1 + own * counts)
        # 1 / (own + 1 / n).
        self.precision = counts * self.slack
        # Rows u' G^-1 with G = I + U' P U, by the smaller of two systems: as
        # U (I + U' P U)^-1 = (I + U U' P)^-1 U.
        if len(factor) < factor.shape[1]:
            system = (factor @ factor.T) * self.precision
            system.diagonal().add_(1)
            self.solved = torch.linalg.solve(system, factor)
        else:
            inner = factor.T @ (factor * self.precision[:, None])
            inner.diagonal().add_(1)
            self.solved = torch.cholesky_solve(factor.T, torch.linalg.cholesky(inner)).T
        shared = (self.solved * factor).sum(dim=1)
        self.unshared = 1 - self.precision * shared

    def smooth(self, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior deviations, and what texts' weights they come from."""
        weighted = residuals * self.precision[:, None]
        common = self.solved.T @ weighted
        # The residuals times the inverse of their covariance.
        self.pull = weighted - self.precision[:, None] * (self.factor @ common)
        return self.factor @ common + self.own[:, None] * self.pull, common

    def rest(self) -> Tensor:
        """One less how much the mean of a class follows the mean of its own rows."""
        return self.slack * self.unshared

    def own_part(self) -> Tensor:
        """What each posterior deviation loses if its class loses all its rows."""
        lost = 1 / (self.precision * self.unshared) - 1 / self.counts
        return lost[:, None] * self.pull

    def columns(self, classes: Tensor) -> Tensor:
        """How much the mean of each class follows the rows of some classes."""
        shared = self.solved @ self.factor[classes].T
        columns = self.slack[:, None] * shared
        index = torch.arange(len(classes), device=classes.device)
        columns[classes, index] += self.own[classes]
        return columns * self.precision[classes]


class Sample(NamedTuple):
    """What the model needs of a support, whatever is believed of its texts.

    Attributes
    ----------
    support : Support
        In tensors. Every class has a row.
    counts : tensor of shape (C,)
        Weight of the classes.
    means : tensor of shape (C, d)
        Of their rows.
    within : tensor of shape (d, d)
        Scatter of the rows about those means.
    """

    support: Support
    counts: Tensor
    means: Tensor
    within: Tensor


def summarise(support: Support) -> Sample:
    """Return the sums of a support; counts and means in double precision."""
    F, y, weight = support.features, support.y, support.weight
    wide = _wide(F)
    counts = class_sums(support, weight.to(wide))
    means = class_sums(support, weight[:, None].to(wide) * F) / counts[:, None]
    deviations = (F - means[y]).to(F.dtype)
    within = deviations.T @ (deviations * weight[:, None])
    return Sample(support, counts, means, within)


def _wide(like: Tensor) -> torch.dtype:
    # A class mean may follow its rows so closely that what is left of them is lost to
    # single precision.
    return torch.float32 if like.device.type == "mps" else torch.float64


def fit_gaussian(
    sample: Sample, trust: Tensor, *, text_penalty: float
) -> GaussianModel:
    """Find centre, map and class means in closed form.

    Parameters
    ----------
    sample : Sample
    trust : tensor of shape (C,)
        How far the text of each class is to be trusted, from 0 to 1; zeros without
        text.
    text_penalty : float
        Positive. Keeps class means near what trusted texts say, as much as so many rows
        of a class would.

    Returns
    -------
    GaussianModel
    """
    support, counts, class_means, within = sample
    F, y, dtype, wide = (
        support.features,
        support.y,
        support.features.dtype,
        counts.dtype,
    )
    weight, total = support.weight.to(wide), float(counts.sum())
    centre = total / (total + 1) * class_means.mean(dim=0)
    targets = class_means - centre
    prior = _prior(support.text.to(wide), targets, trust.to(wide), text_penalty)
    posterior = _ClassProcess(prior.factor, prior.own, counts)
    surprises = targets - prior.means
    # Before `pull` is that of the surprises.
    offset = posterior.smooth(torch.ones_like(counts)[:, None])[0][:, 0]
    deviations, common = posterior.smooth(surprises)
    means = prior.means + deviations
    # One less the leverage of each row.
    share = weight / counts[y]
    rest = (1 - share) + share * posterior.rest()[y]
    residuals = ((F - (centre + means)[y]) / rest[:, None]).to(dtype)
    removed = (weight * rest).to(dtype)
    map_, scale = _whitening(within + (surprises.T @ posterior.pull).to(dtype), total)
    text_map = (_MAP_VARIANCE / text_penalty) ** 0.5 * common[1:]
    text_map.diagonal().add_(prior.slope)
    text_intercept = prior.factor[0, 0] * common[0] - prior.text_centre @ text_map
    centre, means = centre.to(dtype), means.to(dtype)
    return GaussianModel(
        centre=centre,
        map=map_,
        means=means,
        text_map=text_map.to(dtype),
        text_intercept=text_intercept.to(dtype),
        mapped=(F - centre) @ map_,
        prototypes=means @ map_,
        posterior=posterior,
        residuals=residuals,
        removed=removed * scale,
        class_means=class_means.to(dtype),
        offset=offset.to(dtype),
        offset_residuals=((1 - offset[y]) / rest).to(dtype),
    )


def class_sums(support: Support, values: Tensor) -> Tensor:
    """Return the sums of some values of the rows by class."""
    sums = values.new_zeros(len(support.text), *values.shape[1:])
    return sums.index_add_(0, support.y, values)


class _Prior(NamedTuple):
    """What is expected of the means: ``N(means, factor factor' + diag(own))``."""

    means: Tensor
    factor: Tensor
    own: Tensor
    #: How the means follow the texts, less their centre.
    slope: Tensor
    text_centre: Tensor


def _prior(text: Tensor, targets: Tensor, trust: Tensor, text_penalty: float) -> _Prior:
    text_centre = text.mean(dim=0)
    texts = trust[:, None] * (text - text_centre)
    agreement = (texts * targets).sum() / texts.square().sum()
    slope = agreement.nan_to_num(1.0).clamp_min(_LEAST_SLOPE)
    own = (1 + (_NO_TEXT_VARIANCE - 1) * (1 - trust)) / text_penalty
    offset = text.new_full((len(text), 1), _OFFSET_VARIANCE**0.5)
    factor = torch.cat([offset, (_MAP_VARIANCE / text_penalty) ** 0.5 * texts], dim=1)
    return _Prior(slope * texts, factor, own, slope, text_centre)


def _whitening(scatter: Tensor, total: float) -> tuple[Tensor, float]:
    """Root of the inverse of a shrunk covariance, and the scale of scatter in it."""
    width = len(scatter)
    identity = torch.eye(width, dtype=scatter.dtype, device=scatter.device)
    trace = float(scatter.diagonal().sum())
    if trace <= 0:
        return identity, 0.0
    shrinkage = _SPHERE_ROWS * width / (_SPHERE_ROWS * width + total)
    shrinkage = max(shrinkage, _LEAST_SHRINKAGE)
    scale = (1 - shrinkage) * width / trace
    root = torch.linalg.cholesky(scale * scatter + shrinkage * identity)
    return torch.linalg.solve_triangular(root, identity, upper=False).T, scale


def newcomer_cosines(model: GaussianModel, F: Tensor) -> Tensor:
    """Cosines of rows to each class, had that class no images at all.

    Parameters
    ----------
    model : GaussianModel
    F : tensor of shape (m, d)

    Returns
    -------
    cosines : tensor of shape (m, C)
    """
    means = model.means - model.posterior.own_part().to(model.means.dtype)
    mapped = normalize((F - model.centre) @ model.map)
    return mapped @ normalize(means @ model.map).T


def left_out_cosines(model: GaussianModel, support: Support, rows: Tensor) -> Tensor:
    """Cosines of some rows to all classes, had that row not been in the support.

    Centre, class means and covariance are exactly those without the row. What is kept
    are the slope of the texts and how far the covariance is shrunk, of which a row is
    but a small part.

    Parameters
    ----------
    model : GaussianModel
    support : Support
        That `model` was found on, in tensors.
    rows : int64 tensor of shape (m,)

    Returns
    -------
    cosines : tensor of shape (m, C)
    """
    label, weight = support.y[rows], support.weight[rows]
    counts = model.posterior.counts.to(weight.dtype)
    # Vectors, mapped, are the row x, its residual e, the means p, and u, of which the
    # centre loses `shift` times with the row.
    x, p, e = model.mapped[rows], model.prototypes, model.residuals[rows] @ model.map
    others, shift = _move_of_centre(model, support, rows)
    u = (support.features[rows] - others) @ model.map
    x = x + shift[:, None] * u
    # Without the row the inverse covariance gains `gain` times (e e').
    e_e = (e * e).sum(dim=1)
    removed = model.removed[rows]
    gain = removed / (1 - removed * e_e).clamp_min(1e-6)
    x_e, u_e, e_p = (x * e).sum(dim=1), (u * e).sum(dim=1), e @ p.T
    swell = 1 + gain * e_e
    # ... and the means of the classes lose `loss` times e, and gain `rise` times u.
    classes, index = torch.unique(label, return_inverse=True)
    follow = model.posterior.columns(classes).to(p.dtype)[:, index].T
    loss = follow * (weight / counts[label])[:, None]
    rise = model.offset - loss * model.offset_residuals[rows][:, None]
    rise = rise * shift[:, None]
    x_x = x.square().sum(dim=1) + gain * x_e.square()
    x_u = (x * u).sum(dim=1) + gain * x_e * u_e
    u_p = u @ p.T + (gain * u_e)[:, None] * e_p
    x_q = x @ p.T + (gain * x_e)[:, None] * e_p
    x_q += rise * x_u[:, None] - loss * (x_e * swell)[:, None]
    q_q = p.square().sum(dim=1) + gain[:, None] * e_p.square()
    q_q += loss.square() * (e_e * swell)[:, None]
    q_q += rise.square() * (u.square().sum(dim=1) + gain * u_e.square())[:, None]
    least = _LEAST_SHARE * q_q
    crossed = rise * u_p - (loss * e_p + loss * rise * u_e[:, None]) * swell[:, None]
    q_q = (q_q + 2 * crossed).maximum(least)
    floor = torch.finfo(p.dtype).tiny ** 0.5
    return x_q / (x_x.sqrt()[:, None] * q_q.sqrt()).clamp_min(floor)


def _move_of_centre(
    model: GaussianModel, support: Support, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """How the centre loses rows: it goes away from them and to the others by a share.

    Returns
    -------
    others : tensor of shape (m, d)
        The mean of a row's class or, where it is alone, of all classes.
    share : tensor of shape (m,)
        Of the row less those, which the centre loses.
    """
    label, weight = support.y[rows], support.weight[rows]
    total, n_classes = support.weight.sum(), len(support.text)
    damped = total / (total + 1)
    rest = model.posterior.counts.to(weight.dtype)[label] - weight
    is_alone = rest <= ALONE_SHARE * weight
    others = torch.where(
        is_alone[:, None], model.centre / damped, model.class_means[label]
    )
    share = weight / rest.clamp_min(1e-9 * weight) / n_classes
    share = torch.where(is_alone, 1 / max(n_classes - 1, 1), share)
    return others, damped * share
