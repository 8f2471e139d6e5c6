"""Training by a torch optimizer, with a cosine schedule, for the fixed-epoch peers."""

import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Solution:
    """Trained tensors.

    Attributes
    ----------
    parameters : dict from str to tensor
    loss_curve : list of float
    """

    parameters: dict
    loss_curve: list

    @property
    def n_iter(self):
        return len(self.loss_curve)


def train_epochs(
    loss,
    parameters,
    n_rows,
    *,
    optimizer,
    max_iter,
    batch_size=None,
    random_state=None,
    callback=None,
):
    """Minimise a loss in a fixed number of epochs, the step size falling as a cosine.

    Parameters
    ----------
    loss : callable
        ``loss(rows)`` gives the mean loss of some rows, a slice or index tensor.
    parameters : dict from str to tensor
        What to train, changed in place.
    n_rows : int
    optimizer : callable
        From a list of tensors to a ``torch.optim.Optimizer``.
    max_iter : int
        Epochs.
    batch_size : int or None
        Rows a step; None, or more than there are, takes them all and draws nothing.
    random_state : None, int or RandomState instance
        Seeds the order of the rows.
    callback : callable, default=None
        ``callback(epoch, loss, state)`` after each epoch; ``state()`` gives the
        solution so far. True stops.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If the loss is not finite.
    """
    tensors = [tensor.requires_grad_() for tensor in parameters.values()]
    device = tensors[0].device
    step = optimizer(tensors)
    size = n_rows if batch_size is None else min(batch_size, n_rows)
    n_batches = math.ceil(n_rows / size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, max_iter * n_batches)
    generator = None if size == n_rows else _generator(random_state)
    curve = []
    for epoch in range(1, max_iter + 1):
        if generator is not None:
            # On the CPU also where torch.set_default_device has another one.
            order = torch.randperm(n_rows, generator=generator, device="cpu")
            order = order.to(device)
        total = torch.zeros((), dtype=tensors[0].dtype, device=device)
        for start in range(0, n_rows, size):
            rows = slice(None) if generator is None else order[start : start + size]
            step.zero_grad()
            value = loss(rows)
            value.backward()
            step.step()
            schedule.step()
            total += value.detach() * min(size, n_rows - start) / n_rows
        # Read once an epoch: each reading waits for a GPU.
        curve.append(float(total))
        if not math.isfinite(curve[-1]):
            raise ValueError(
                f"The loss is {curve[-1]} in epoch {epoch}; a parameter is too large."
            )
        if callback is not None and callback(
            epoch, curve[-1], lambda: Solution(parameters, list(curve))
        ):
            break
    return Solution(parameters, curve)


def _generator(random_state):
    """A generator of its own: None must not draw from the global one of NumPy."""
    if random_state is None:
        seed = np.random.SeedSequence().generate_state(1)[0]
    elif isinstance(random_state, np.random.RandomState):
        seed = random_state.randint(2**31)
    else:
        seed = random_state
    return torch.Generator(device="cpu").manual_seed(int(seed))
