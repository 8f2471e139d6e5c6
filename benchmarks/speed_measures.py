"""What ``speed.py`` measures: time, the matrix products of CMM, memory.

Nothing runs here. :func:`cmm_products` describes the predictions of CMM and has to
change with them.
"""

import ctypes
import gc
import re
import time
from pathlib import Path

import numpy as np
import torch


def cmm_products(model, F):
    """Return the (left, right) matrix products that a prediction of CMM cannot avoid.

    F W, then norm(F W) T', and F T_0'. The second starts from an array like F W.
    """
    mapped = F @ model.map_.astype(F.dtype, copy=False)
    return [
        (F, model.map_),
        (mapped, model.prototypes_.T),
        (F, model.text_features_.T),
    ]


def alternate(actions, repeats, max_seconds=float("inf")):
    """Time some actions in turn, so that a busy moment hits all of them.

    Parameters
    ----------
    actions : dict
        {name: callable without arguments}.
    repeats : int
        Rounds.
    max_seconds : float
        An action whose first run took longer is not run again.

    Returns
    -------
    seconds : dict
        {name: list of seconds, one a run}.
    answers : dict
        What each action returned last.
    """
    seconds, answers = {name: [] for name in actions}, {}
    for _ in range(repeats):
        for name, action in actions.items():
            if seconds[name] and seconds[name][0] > max_seconds:
                continue
            answers.pop(name, None)
            start = time.perf_counter()
            answers[name] = action()
            seconds[name].append(time.perf_counter() - start)
    return seconds, answers


def matmul_gflops(n, n_classes, d, repeats=5):
    """Return the rate of torch at the float32 matrix products of a fit, in GFLOP/s."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(0)

    def product(rows, inner, columns):
        left = torch.randn(rows, inner, generator=draw).to(device)
        right = torch.randn(inner, columns, generator=draw).to(device)
        return lambda: (left @ right).sum().item() if device == "cuda" else left @ right

    shapes = [(n, d, d), (n, d, n_classes), (n, n_classes, d), (n_classes, n, d)]
    products = {shape: product(*shape) for shape in shapes}
    for action in products.values():
        action()
    seconds, _ = alternate(products, repeats)
    flops = sum(2 * np.prod(shape, dtype=float) for shape in shapes)
    return flops / sum(np.median(seconds[shape]) for shape in shapes) / 1e9


def peak_of(action):
    """Run an action and return (bytes resident before it, most during it less those).

    Linux only: the peak is the kernel's own, which is reset first. It needs a fresh
    process, where no memory is left over that the action could take unseen.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # Give back what is free already.
    except (OSError, AttributeError):
        pass  # Another C library keeps what it keeps.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    action()
    return before, _status("VmHWM") - before


def _status(key):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)[1])
