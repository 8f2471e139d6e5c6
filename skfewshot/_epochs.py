"""Training by a torch optimizer for so many epochs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skfewshot._torch import to_numpy


@dataclass(frozen=True)
class Solution:
    """Trained tensors.

    Attributes
    ----------
    parameters : dict from str to tensor
    loss_curve : list of float
    """

    parameters: dict[str, Tensor]
    loss_curve: list[float]

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.loss_curve)

    def arrays(self, rank: NDArray, dtype: Any) -> dict[str, NDArray]:
        """Return the tensors by name as NumPy, class c at index c."""
        return {
            name: to_numpy(tensor, dtype=dtype)[rank]
            for name, tensor in self.parameters.items()
        }


def train_epochs(
    loss: Callable[[Any], Tensor],
    parameters: dict[str, Tensor],
    n_rows: int,
    *,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    max_iter: int,
    cosine: bool = True,
    batch_size: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    callback: Callable[..., bool] | None = None,
) -> Solution:
    """Minimise a loss in a fixed number of epochs.

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
    cosine : bool, default=True
        Whether the step size falls as a cosine, or stays.
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
    n_steps = max_iter * n_batches
    schedule = (
        torch.optim.lr_scheduler.CosineAnnealingLR(step, n_steps) if cosine else None
    )
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
            if schedule is not None:
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


def _generator(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A generator of its own: None must not draw from the global one of NumPy."""
    if random_state is None:
        seed = np.random.SeedSequence().generate_state(1)[0]
    elif isinstance(random_state, np.random.RandomState):
        seed = random_state.randint(2**31)
    else:
        seed = random_state
    return torch.Generator(device="cpu").manual_seed(int(seed))
