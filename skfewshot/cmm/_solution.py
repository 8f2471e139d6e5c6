"""What a solver finds: the unknowns of the logits, in tensors."""

from typing import NamedTuple

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
