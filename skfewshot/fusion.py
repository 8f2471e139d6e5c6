"""The weight of the map beside zero-shot CLIP, and intercepts, by rows left out."""

import math

import torch

# Scale at which mapped cosines make logits as wide as a trained encoder's own. They
# spread alike whatever the encoder, as the map makes all classes equally round.
_MAPPED_SCALE = 20.0
# What a support is expected to say, and how far, in logarithms, it may say otherwise.
# Texts that surprise the support by this many nats are to weigh as much as the images:
_EVEN_SURPRISE = 1.5
# ... and a mixture is more often right than either, so its logits are to be wider.
_SHARPNESS = 1.2
_WEIGHT_SPREAD, _SHARPNESS_SPREAD, _TEXT_SPREAD = 0.5, 0.3, 0.5
_RATIO_BOUNDS = 0.1, 10.0
# Prior variance of the intercepts of the classes, before it is divided by the penalty.
_INTERCEPT_VARIANCE = 2.5
# Weight, in finding the temperature, of a row whose class has no other.
_ALONE = 0.1
_MAX_STEPS, _MAX_INTERCEPT_STEPS = 12, 40
# Least curvature in which Newton's steps are trusted; that of the priors is one.
_LEAST_CURVATURE = 0.2
_MAX_NEWCOMER_STEPS, _MOST_INTERCEPT = 30, 10.0


def fit_scales(frozen, mapped, y, weight, spare, *, logit_scale, text_seen, alpha):
    """Find the weight of the mapped cosines and the temperature of the mixture.

    The logits are ``s / tau (frozen + alpha mapped) / (1 + alpha)``. Both unknowns
    maximise the likelihood of left-out rows times a log-normal prior.

    Parameters
    ----------
    frozen, mapped : tensors of shape (P, m, C)
        Cosines of left-out rows to the texts, and in the space of the map, for P
        problems beside each other.
    y : int64 tensor of shape (P, m)
        Class indices.
    weight : tensor of shape (P, m)
        Weights of the rows; 0 for rows that are there to fill up.
    spare : bool tensor of shape (P, m)
        Whether the class has other rows. One that has not is at a disadvantage once
        its only row is left out, which would tell against the images altogether: such
        rows tell about the temperature alone, and of that little.
    logit_scale : float
        Scale s of the cosines.
    text_seen : bool
        Whether the texts are class means of the support, which know it.
    alpha : tensor of shape (P,)
        Where not NaN, the weight that is to be used.

    Returns
    -------
    alpha, temperature : tensors of shape (P,)
    """
    gain = logit_scale / _MAPPED_SCALE
    z0, z1 = logit_scale * frozen, _MAPPED_SCALE * mapped
    start = z0.new_zeros(len(z0), 2)
    judges, given = weight * spare, torch.isfinite(alpha)
    sure = judges if text_seen else torch.where(spare, weight, _ALONE * weight)
    if not text_seen:
        # Texts alone. They have not seen the support, so their loss on it tells
        # honestly how far to trust them, once they are as sure as they should be.
        texts = start.clone()
        texts[:, 0] = -torch.inf
        spread = texts.new_tensor([0.0, _TEXT_SPREAD]).expand_as(texts)
        sharpness = _most_likely(z0, z1, y, weight, texts, spread)[:, 1].exp()
        surprise = _cross_entropy(sharpness[:, None, None] * z0, y, weight)
        ratio = surprise / _EVEN_SURPRISE / sharpness
        start[:, 0] = ratio.clamp(*_RATIO_BOUNDS).log()
    start[:, 1] = math.log(_SHARPNESS)
    start[:, 0] = start[:, 0].where(~given, (gain * alpha).log())
    free = (judges.sum(dim=1) > 0) & ~given
    spread = start.new_tensor([_WEIGHT_SPREAD, _SHARPNESS_SPREAD]).expand_as(start)
    spread = torch.stack([spread[:, 0] * free, spread[:, 1]], dim=1)
    found = start
    if free.any():
        found = _most_likely(z0, z1, y, judges, start, spread)
    # The temperature once more, by all rows, for the weight that was found.
    fixed = torch.stack([found[:, 0], start[:, 1]], dim=1)
    spread = spread * spread.new_tensor([0.0, 1.0])
    ratio, sharpness = _most_likely(z0, z1, y, sure, fixed, spread).exp().unbind(1)
    alpha = ratio / gain
    return alpha, (1 + ratio) / (1 + alpha) / sharpness


def fit_intercepts(logits, y, weight, text_penalty):
    """Find what to add to the logits of each class, by rows left out.

    Zero-shot CLIP says some names too readily, and others hardly ever. The intercepts
    maximise the likelihood of the left-out rows times a normal prior. Each class has
    the same weight, so that they do not take unequal numbers of rows for a preference.

    Parameters
    ----------
    logits : tensor of shape (P, m, C)
        Of left-out rows.
    y : int64 tensor of shape (P, m)
    weight : tensor of shape (P, m)
    text_penalty : tensor of shape (P,)
        Keeps them near zero: the variance of the prior is 2.5 over it.

    Returns
    -------
    intercepts : tensor of shape (P, C)
    """
    n_classes = logits.shape[-1]
    counts = logits.new_zeros(len(logits), n_classes).scatter_add_(1, y, weight)
    seen = counts > 0
    share = counts.sum(dim=1) / seen.sum(dim=1)
    weight = weight * share[:, None] / counts.gather(1, y).clamp_min(1e-30)
    wanted = seen * share[:, None]
    precision = (text_penalty / _INTERCEPT_VARIANCE)[:, None]
    # Newton's method by the diagonal of the Hessian, which is that much too small where
    # all classes are alike.
    damping = torch.full_like(counts, (n_classes - 1) / n_classes)
    intercepts, step = torch.zeros_like(counts), torch.zeros_like(counts)
    # A problem stops by itself: its solution does not depend on those beside it.
    moving = torch.ones_like(text_penalty, dtype=torch.bool)
    for _ in range(_MAX_INTERCEPT_STEPS):
        p = torch.softmax(logits + intercepts[:, None], dim=-1)
        expected = (weight[..., None] * p).sum(dim=1)
        curvature = expected - (weight[..., None] * p.square_()).sum(dim=1)
        slope = expected - wanted + (precision * intercepts).nan_to_num(0.0)
        # Classes that are taken for each other go to and fro.
        damping = torch.where(slope * step < 0, damping / 2, damping)
        newton = (slope / (curvature + precision)).nan_to_num(0.0)
        step = (damping * newton).clamp(-0.5, 0.5)
        intercepts -= step * moving[:, None]
        # Their sum is zero at the maximum; these steps would be slow to find that.
        intercepts -= intercepts.mean(dim=1, keepdim=True)
        # By the whole step: a damped one is short far from the maximum, too.
        moving &= newton.abs().amax(dim=1) >= 1e-2
        if not moving.any():
            break
    return intercepts


def fit_newcomer_intercept(logits, newcomers, y, weight):
    """Find the intercept of classes that have a text but no images.

    Prototypes that follow images attract images more than those that follow texts. The
    support tells how much more: each class in turn takes the place of a newcomer, and
    one intercept for all maximises the likelihood of the rows' labels times a standard
    normal prior.

    Parameters
    ----------
    logits : tensor of shape (m, C)
        Of left-out rows.
    newcomers : tensor of shape (m, C)
        What a class's logits would be, had it no images.
    y : int64 tensor of shape (m,)
    weight : tensor of shape (m,)

    Returns
    -------
    intercept : float
    """
    counts = logits.new_zeros(logits.shape[1]).index_add_(0, y, weight)
    total = weight.sum()
    weight = (weight / counts[y])[:, None]
    weight = weight / weight.sum() * total
    p = torch.softmax(logits, dim=1).clamp_max(1 - 1e-6)
    # The logit of all other classes together.
    others = torch.logsumexp(logits, dim=1, keepdim=True) + torch.log1p(-p)
    margin = newcomers - others
    intercept = torch.zeros((), dtype=logits.dtype, device=logits.device)
    for _ in range(_MAX_NEWCOMER_STEPS):
        p = torch.sigmoid(margin + intercept)
        slope = (weight * p).sum() - total + intercept
        curvature = (weight * p * (1 - p)).sum() + 1
        step = (slope / curvature).clamp(-1, 1)
        intercept = (intercept - step).clamp(-_MOST_INTERCEPT, _MOST_INTERCEPT)
        if float(step.abs()) < 1e-2:
            break
    return float(intercept)


def _cross_entropy(logits, y, weight):
    own = torch.log_softmax(logits, dim=-1).gather(-1, y[..., None])[..., 0]
    return -(weight * own).sum(dim=1) / weight.sum(dim=1)


def _most_likely(z0, z1, y, weight, centre, spread):
    """Log weight and log sharpness: Newton's method from the mode of the prior.

    The logits are ``exp(b) (z0 + exp(a) z1) / (1 + exp(a))``. A spread of zero keeps an
    unknown where it is.
    """
    by_spread = torch.where(spread > 0, spread, torch.inf).reciprocal()
    at_y, theta = y[..., None], centre.clone()
    own0, own1 = z0.gather(-1, at_y)[..., 0], z1.gather(-1, at_y)[..., 0]
    # A problem stops by itself: its solution does not depend on those beside it.
    moving = torch.ones_like(theta[:, 0], dtype=torch.bool)
    for _ in range(_MAX_STEPS):
        share, scale = torch.sigmoid(theta[:, 0]), theta[:, 1].exp()
        w0, w1 = scale * (1 - share), scale * share
        p = torch.softmax(w0[:, None, None] * z0 + w1[:, None, None] * z1, dim=-1)
        p0, p1 = p * z0, p * z1
        m0, m1 = p0.sum(dim=-1), p1.sum(dim=-1)
        slopes = torch.stack(
            [(weight * (m0 - own0)).sum(dim=1), (weight * (m1 - own1)).sum(dim=1)], 1
        )
        h00 = (weight * ((p0 * z0).sum(dim=-1) - m0 * m0)).sum(dim=1)
        h01 = (weight * ((p0 * z1).sum(dim=-1) - m0 * m1)).sum(dim=1)
        h11 = (weight * ((p1 * z1).sum(dim=-1) - m1 * m1)).sum(dim=1)
        curvature = torch.stack([h00, h01, h01, h11], dim=1).view(-1, 2, 2)
        turn = w0 * share
        jacobian = torch.stack([-turn, w0, turn, w1], dim=1).view(-1, 2, 2)
        # By an unknown's spread, so that a fixed one has a step of zero.
        jacobian = jacobian * spread[:, None, :]
        gradient = (jacobian.mT @ slopes[..., None])[..., 0]
        gradient += (theta - centre).nan_to_num(0.0) * by_spread
        hessian = jacobian.mT @ curvature @ jacobian
        hessian = hessian + torch.eye(2, dtype=hessian.dtype, device=hessian.device)
        # What Gauss and Newton leave out, wherever the sum stays well convex: without
        # it the steps go to and fro where a support contradicts its texts.
        twist = turn * (slopes[:, 1] - slopes[:, 0])
        stretch = w0 * slopes[:, 0] + w1 * slopes[:, 1]
        bend = torch.stack([twist * (1 - 2 * share), twist, twist, stretch], dim=1)
        bend = bend.view(-1, 2, 2) * spread[:, None, :] * spread[:, :, None]
        is_convex = _least_eigenvalue(hessian + bend) > _LEAST_CURVATURE
        hessian = hessian + bend * is_convex[:, None, None]
        step = spread * torch.linalg.solve(hessian, gradient)
        theta = theta - step.clamp(-0.5, 0.5) * moving[:, None]
        moving &= step.abs().amax(dim=1) >= 1e-3
        if not moving.any():
            break
    return theta


def _least_eigenvalue(matrices):
    """Of symmetric matrices of shape (P, 2, 2)."""
    a, b, d = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    return (a + d) / 2 - torch.hypot((a - d) / 2, b)
