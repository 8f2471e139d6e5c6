"""The linear probe of LP++, and its gradient descent with steps from the data."""

from dataclasses import dataclass

import torch

from skfewshot.classifiers._epochs import Solution
from skfewshot.losses import cross_entropy

_MOMENTUM = 0.9


@dataclass(frozen=True)
class Start:
    """Where LP++ starts, and the step size of each block.

    Attributes
    ----------
    parameters : dict from str to tensor
        ``weights`` (C, d), ``intercept`` (C,) and ``text_weights`` (C,).
    steps : dict from str to float
    """

    parameters: dict
    steps: dict


def starting_point(F, y, weight, text):
    """Class means, one weight for all texts, and steps by the curvature of each block.

    Parameters
    ----------
    F : tensor of shape (n, d)
    y : int64 tensor of shape (n,)
    weight : tensor of shape (n,)
    text : tensor of shape (C, d)

    Returns
    -------
    Start
    """
    total = weight.sum()
    counts = weight.new_zeros(len(text)).index_add_(0, y, weight)
    means = torch.zeros_like(text).index_add_(0, y, weight[:, None] * F)
    means /= counts.clamp_min(torch.finfo(F.dtype).tiny)[:, None]
    held = counts > 0
    text_weight = 250 * (means[held] * text[held]).sum(dim=1).mean()
    rows = weight.sqrt()[:, None] * F
    gram = rows.T @ rows if len(F) > F.shape[1] else rows @ rows.T
    largest = torch.linalg.eigvalsh(gram)[-1]
    squares = (weight @ (F @ text.T).square()).max()

    def step(size, curvature):
        # Where nothing curves, nothing slopes: of rows or texts of zeros.
        is_flat = curvature < torch.finfo(F.dtype).tiny
        return 0.0 if is_flat else float(size / curvature)

    return Start(
        {
            "weights": means,
            "intercept": text.new_zeros(len(text)),
            "text_weights": text_weight.expand(len(text)).clone(),
        },
        {
            "weights": step(4 * total, largest),
            # The rule of the weights, for a column of ones.
            "intercept": 4.0,
            "text_weights": step(total, 4 * squares),
        },
    )


def solve_linear_probe(F, y, weight, text, *, max_iter, callback=None):
    """Minimise the mean cross-entropy of ``f w_c + b_c + a_c f t_c``.

    Parameters
    ----------
    F, y, weight, text
        See :func:`starting_point`.
    max_iter : int
        Steps, each of the whole support.
    callback : callable, default=None
        ``callback(iteration, loss, state)``; True stops.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If the loss is not finite.
    """
    start = starting_point(F, y, weight, text)
    parameters = start.parameters
    velocities = {name: torch.zeros_like(value) for name, value in parameters.items()}
    share = weight / weight.sum()
    cosines = F @ text.T
    curve = []
    for iteration in range(1, max_iter + 1):
        logits = torch.addmm(parameters["intercept"], F, parameters["weights"].T)
        logits.addcmul_(cosines, parameters["text_weights"])
        loss, by_logit = cross_entropy(logits, y, share)
        gradients = {
            "weights": by_logit.T @ F,
            "intercept": by_logit.sum(dim=0),
            "text_weights": (by_logit * cosines).sum(dim=0),
        }
        for name, value in parameters.items():
            velocity = velocities[name].mul_(_MOMENTUM).add_(gradients[name])
            value.sub_(velocity, alpha=start.steps[name])
        curve.append(float(loss))
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss is {curve[-1]} in step {iteration}; a parameter or a weight "
                "is too large."
            )
        if callback is not None and callback(
            iteration, curve[-1], lambda: Solution(parameters, list(curve))
        ):
            break
    return Solution(parameters, curve)
