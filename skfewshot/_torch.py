"""The border with torch: devices, threads and forks, arrays to tensors and back."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = _is_forked or "torch" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def fork_safe_threads() -> AbstractContextManager:
    """Return a context in which torch computes safely in a forked process.

    GNU OpenMP waits forever for its threads, which do not survive a fork, so a child of
    a process that has used torch computes on one thread for as long as this lasts.
    """
    return limit_threads(1) if _is_forked else nullcontext()


def fork_safe_lock() -> Callable[[], AbstractContextManager]:
    """Return a function that returns a lock, to be held in a ``with``.

    A forked child has another one: none of its threads would free that of its parent.
    """
    held = [threading.RLock()]

    def renew() -> None:
        held[0] = threading.RLock()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return lambda: held[0]


def limit_threads(n_threads: int) -> AbstractContextManager:
    """Limit the threads that torch computes with in the calling thread alone.

    Returns
    -------
    context manager
        At its end the limit is lifted; not used as one, the limit stays.
    """
    import torch

    torch.get_num_threads()  # it sets the number of a thread when first asked
    return _openmp().limit(limits=n_threads)


@cache
def _openmp() -> Any:
    """Return a handle on OpenMP; finding the library takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")


def is_tensor(array: Any) -> bool:
    """Say whether `array` is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_device(value: Any) -> bool:
    """Say whether `value` is a ``torch.device``; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.device)


def import_torch() -> Any:
    """Return the module torch, or say how to install it.

    Where something is fitted or embedded this is asked first; what predicts never does.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "This needs torch, which cannot be imported here. What is fitted predicts "
            "without it; to train a classifier, or to embed images or texts, install "
            "what that takes: pip install torch torchvision open_clip_torch pillow "
            "safetensors."
        ) from error
    return torch


@contextmanager
def training() -> Iterator[None]:
    """Let torch compute as a solver needs it, wherever `fit` is called from.

    That may be inside a caller's inference mode, whose tensors could not be used
    outside it, or where no gradients are recorded.
    """
    torch = import_torch()
    with fork_safe_threads(), torch.inference_mode(False), torch.enable_grad():
        yield


def resolve_device(device: "str | torch.device | None" = None) -> "torch.device":
    """Return the ``torch.device`` to compute on.

    Parameters
    ----------
    device : None, str or torch.device
        ``None`` takes the first of CUDA, MPS and CPU that this machine has.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If `device` names no device that torch knows, or one this machine lacks.
    ImportError
        If torch is not installed.
    """
    torch = import_torch()
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r:.80} is not a torch device; pass None, 'cpu', 'cuda', "
            "'cuda:0' or 'mps'."
        ) from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }.get(resolved.type, True)
    if not present:
        raise ValueError(
            f"device={device!r} was asked for, but torch finds no {resolved.type} "
            "device on this machine; pass device=None to take what there is."
        )
    return resolved


def to_tensor(array: Any, *, device: Any, dtype: Any = None) -> "Tensor":
    """Copy `array`, which may be a tensor itself, to a tensor on `device`.

    The copy is deliberate: ``torch.from_numpy`` warns on read-only memory maps and
    raises on negative strides, and a solver must never write into a caller's data, nor
    train on a tensor of the caller's inference mode.
    MPS has no float64, so float64 arrays become float32 there.
    """
    import torch

    if is_tensor(array):
        return array.detach().to(device=device, dtype=dtype, copy=True)
    if dtype is None:
        dtype = torch.from_numpy(np.empty(0, dtype=np.asarray(array).dtype)).dtype
    if torch.device(device).type == "mps" and dtype == torch.float64:
        dtype = torch.float32
    copied = np.array(array, order="C", copy=True, subok=False)
    return torch.from_numpy(copied).to(device=device, dtype=dtype)


def to_numpy(tensor: "Tensor", *, dtype: DTypeLike | None = None) -> NDArray:
    """Return `tensor` as a NumPy array in memory of its own."""
    array = tensor.detach().cpu().numpy()
    return np.array(array, dtype=dtype, copy=True)
