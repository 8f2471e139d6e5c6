"""Pure tensor losses of cross-modal mapping: each gives its value and its gradient.

The gradients are written out by hand. They are short, need no graph, and so cost the
memory of one (rows, classes) block instead of autograd's one for every operation.
"""

import torch

# Added under the square root of a squared distance: a row that lies on its prototype
# (class means at one shot) would otherwise divide by zero.
_DISTANCE_EPS = 1e-6
# Logarithm below which a probability is as good as none.
_LEAST_LOG = -80.0
# Widths, in distance on the unit sphere, over which the triplet loss is rounded. Both
# are small beside the distances of CLIP images to texts, which are 1.2 and more.
_NEAREST_SOFTNESS = 0.02
_HINGE_ROUNDING = 0.05


def normalize_rows(x):
    """Divide the rows of ``x`` by their Euclidean norms.

    Parameters
    ----------
    x : tensor of shape (..., n, d)

    Returns
    -------
    unit : tensor of shape (..., n, d)
    norms : tensor of shape (..., n, 1)
        Norms, bounded away from zero so that a zero row stays zero.
    """
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    norms = norms.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    return x / norms, norms


def normalize_rows_backward(gradient, unit, norms):
    """Gradient with respect to ``x`` from that with respect to ``x / norm(x)``."""
    along = (gradient * unit).sum(dim=-1, keepdim=True)
    return (gradient - along * unit) / norms


def cross_entropy(logits, y, row_weight):
    """Weighted sum of the cross-entropy of each row, and its gradient.

    Parameters
    ----------
    logits : tensor of shape (..., n, C)
    y : int64 tensor of shape (..., n)
        Class indices in [0, C).
    row_weight : tensor of shape (..., n)
        For a weighted mean, weights that add up to 1 over the whole support.

    Returns
    -------
    loss : tensor of shape (...)
    gradient : tensor of shape (..., n, C)
        Derivative of the loss with respect to ``logits``.
    """
    log_p = torch.log_softmax(logits, dim=-1)
    at_y = y[..., None]
    loss = -(row_weight * log_p.gather(-1, at_y)[..., 0]).sum(dim=-1)
    # Probabilities too small for a normal number would slow a processor tenfold.
    gradient = log_p.clamp_min_(_LEAST_LOG).exp_()
    gradient.scatter_add_(-1, at_y, gradient.new_full((1,), -1.0).expand(at_y.shape))
    return loss, gradient.mul_(row_weight[..., None])


def triplet(cosines, y, row_weight, margin):
    """Weighted sum of the triplet loss of each row, and its gradient.

    The triplet term of cross-modal mapping (arXiv 2412.20110): for unit vectors v and
    unit prototypes p, ``max(0, |v - p_y| - |v - p_neg| + margin)`` where neg is the
    nearest wrong class. Distances of unit vectors follow from their cosine,
    ``|v - p|^2 = 2 - 2 v.p``.

    Both kinks are rounded: the nearest distance is a soft minimum of temperature
    ``_NEAREST_SOFTNESS``, and the hinge is a parabola within ``_HINGE_ROUNDING`` of
    zero. On the kinks, where the sharp loss has its minimum more often than not, a
    quasi-Newton method stalls at a place that depends on rounding errors.

    Parameters
    ----------
    cosines : tensor of shape (..., n, C)
        Cosines of each mapped row to each prototype.
    y : int64 tensor of shape (..., n)
    row_weight : tensor of shape (..., n)
    margin : float or tensor that broadcasts against (..., n, 1)

    Returns
    -------
    loss : tensor of shape (...)
    gradient : tensor of shape (..., n, C)
        Derivative of the loss with respect to `cosines`.
    """
    at_y, weight = y[..., None], row_weight[..., None]
    distances = _distance(cosines)
    to_true = distances.gather(-1, at_y)
    nearness = (-distances / _NEAREST_SOFTNESS).scatter_(-1, at_y, -torch.inf)
    to_wrong = -_NEAREST_SOFTNESS * torch.logsumexp(nearness, dim=-1, keepdim=True)
    violation = to_true - to_wrong + margin
    slope = ((violation + _HINGE_ROUNDING) / (2 * _HINGE_ROUNDING)).clamp_(0, 1)
    hinge = torch.where(slope < 1, _HINGE_ROUNDING * slope.square(), violation)
    loss = (weight * hinge).sum(dim=(-2, -1))
    # d |v - p| / d cosine = -1 / |v - p|.
    slope = weight * slope
    gradient = torch.softmax(nearness, dim=-1).mul_(slope).div_(distances)
    gradient.scatter_(-1, at_y, -slope / to_true)
    return loss, gradient


def _distance(cosines):
    return (2 - 2 * cosines + _DISTANCE_EPS).clamp_min_(_DISTANCE_EPS).sqrt_()


def cmm_logits(F, map, text, T0, *, alpha, logit_scale):
    """Logits of cross-modal mapping (arXiv 2412.20110).

    ``s (f T0' + alpha v(f) norm(T)') / (1 + alpha)`` with ``v(f) = norm(f W)``. The
    paper adds the two terms without dividing; dividing is ours. The argmax is the
    same, and the temperature does not depend on alpha.

    Parameters
    ----------
    F : tensor of shape (n, d)
        L2-normalised image features.
    map : tensor of shape (d, d)
        The map W = I + Delta.
    text : tensor of shape (C, d)
        Refined text features T, of any norm.
    T0 : tensor of shape (C, d)
        L2-normalised frozen text features.
    alpha : float
    logit_scale : float

    Returns
    -------
    logits : tensor of shape (n, C)
    """
    mapped, _ = normalize_rows(F @ map)
    prototypes, _ = normalize_rows(text)
    return (F @ T0.T + alpha * (mapped @ prototypes.T)) * (logit_scale / (1 + alpha))
