"""Checks of files of weights that strangers may have made, before they are loaded."""

import json
import logging
import math
import os
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

from skfewshot.clip.files import open_file

# A zip file, as PyTorch writes, may unpack to so many times its size.
_MOST_UNPACKED = 4
# No model is near to these, and they take time or memory beyond that of the weights.
_MOST = {"layers": 1000, "image_size": 8192}


def check_weights(path):
    """Refuse a file that is not what weights are kept in.

    PyTorch's files are pickles. They are read twice, here and then by open_clip: where
    PyTorch fails with a TypeError, open_clip tries again without asking for tensors
    alone, and PyTorch before 2.6 would then run what code there is.

    Parameters
    ----------
    path : str

    Raises
    ------
    ValueError
        If the file unpacks to far more than its size, or holds other things than
        tensors.
    OSError
        If it is no ordinary file, or cannot be read.
    """
    with open_file(path) as file:
        if path.endswith(".safetensors"):  # which has no more than its own bytes
            return
        size = file.seek(0, os.SEEK_END)
        if zipfile.is_zipfile(file):
            _check_zip(file, size)
    if not path.endswith((".npz", ".npy")):
        _check_pickle(path, size)


def _check_zip(file, size):
    """Refuse code, and a zip bomb: random weights are hardly made smaller."""
    with zipfile.ZipFile(file) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ValueError(
                "it is a TorchScript archive, such as OpenAI's, which is code and is "
                "not run; wanted is a file of tensors, as torch.save writes of a "
                "state_dict"
            )
        unpacked = sum(item.file_size for item in archive.infolist())
    if unpacked > _MOST_UNPACKED * size:
        raise ValueError(f"its {size:,} bytes would unpack to {unpacked:,}")


def _check_pickle(path, size):
    """Have PyTorch read the tensors, without their numbers."""
    import torch

    found = torch.load(path, map_location="meta", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not a dict of tensors")
    for name, tensor in found.get("state_dict", found).items():
        if not isinstance(tensor, torch.Tensor):
            continue
        claimed = math.prod(tensor.shape) * tensor.element_size()
        stored = tensor.untyped_storage().nbytes()
        # One row can stand for a million: memory that is taken when it is copied.
        if claimed > stored or stored > _MOST_UNPACKED * size:
            raise ValueError(
                f"its tensor {name!r} is of shape {tuple(tensor.shape)}, for which "
                "the file has too few numbers"
            )


def check_config(path, architecture, n_bytes):
    """Refuse a configuration that asks for far more memory than its weights fill.

    Parameters
    ----------
    path : str
        Of the configuration.
    architecture : str
        What open_clip is given for it.
    n_bytes : int
        Of the weights.

    Raises
    ------
    ValueError
        If it is no configuration, or asks for too much.
    """
    import open_clip
    import torch

    towers = json.loads(Path(path).read_text("utf-8"))["model_cfg"]
    for tower in ("vision_cfg", "text_cfg"):
        for name, most in _MOST.items():
            value = towers[tower].get(name, 0)
            values = value if isinstance(value, list) else [value]
            if any(isinstance(item, int | float) and item > most for item in values):
                raise ValueError(f"its {tower} asks for {name}={value!r:.80}")
    try:
        with torch.device("meta"), _quiet():  # where numbers take no memory
            model = open_clip.create_model(
                architecture,
                load_weights=False,
                pretrained_text=False,
                weights_only=True,
                device="meta",
            )
    except Exception:  # not all can be built there; one that is wrong fails again
        return
    tensors = [*model.parameters(), *model.buffers()]
    wanted = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if wanted > _MOST_UNPACKED * n_bytes:
        raise ValueError(
            f"its configuration asks for {wanted:,} bytes, the weights have {n_bytes:,}"
        )


@contextmanager
def _quiet():
    """Keep open_clip from telling that the weights of this model are random."""
    thread = threading.get_ident()

    def is_other(record):
        return record.thread != thread or "open_clip" not in record.pathname

    logging.getLogger().addFilter(is_other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_other)


def check_numbers(model):
    """Refuse weights that are not numbers.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    ValueError
        If a weight is NaN or infinite.
    """
    import torch

    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        # A sum tells, and takes no memory: a double, where the fast one overflows.
        if torch.isfinite(tensor.sum()):
            continue
        if not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise ValueError(f"{name!r} holds values that are not finite")
    if not torch.isfinite(model.logit_scale.detach().exp()).all():
        raise ValueError("'logit_scale' is beyond all bounds")
