"""Loaded CLIP models and the process-wide cache that all featurizers share."""

import hashlib
import os
import threading
from collections import OrderedDict
from functools import cached_property

import numpy as np

from skfewshot._torch import fork_safe_threads
from skfewshot.clip.embedding import EncoderIdentity
from skfewshot.clip.sources import TINY, find_source
from skfewshot.clip.weights import check_config, check_numbers, check_weights

#: How many models the cache holds; the one unused for longest goes first.
MAX_CACHED_MODELS = 4

_SAMPLED_PER_TENSOR = 256

_cache = OrderedDict()
_lock = threading.RLock()


def _after_fork():
    """Give a forked child a lock of its own.

    Another thread of the parent may have held the old one, and that thread does not
    exist in the child to let it go.
    """
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class CLIPModel:
    """A CLIP model in memory, ready to encode; shared, so never to be changed.

    Attributes
    ----------
    model : torch.nn.Module
        open_clip's model in evaluation mode, without gradients.
    device : torch.device
    dtype : torch.dtype
        Of the weights.
    identity : EncoderIdentity
    preprocess : callable
        open_clip's transform from a PIL image to a float tensor (3, H, W).
    """

    def __init__(self, model, *, device, dtype, identity, preprocess, source):
        self.model = model
        self.device = device
        self.dtype = dtype
        self.identity = identity
        self.preprocess = preprocess
        self._source = source

    @property
    def input_size(self):
        """tuple of int: height and width of the images that the model takes."""
        size = self.model.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def dense_mode(self):
        """str: the dense mode that ``"auto"`` is for this model."""
        # The embedded model is trained to be read by its values, and what the
        # attention pool of a ResNet mixes are values alone. A transformer that is
        # trained on pooled outputs points best without the last residual.
        is_resnet = type(self.model.visual).__name__ == "ModifiedResNet"
        if is_resnet or self._source.model_name == TINY:
            return "value"
        return "self-self-no-residual"

    @cached_property
    def tokenizer(self):
        """callable: texts to a tensor of tokens; built when a text is first encoded."""
        import open_clip

        try:
            return open_clip.get_tokenizer(self._source.tokenizer)
        except Exception as error:
            raise RuntimeError(
                f"The tokenizer of {self._source.model_name!r} could not be built: "
                f"{error}. Images can still be embedded. Some text towers need the "
                "packages transformers and sentencepiece and a download."
            ) from error


def load_clip(model_name, pretrained, *, device, precision="auto"):
    """Return a model from the cache, or load it.

    Parameters
    ----------
    model_name, pretrained : str, str or None
        See :func:`~skfewshot.clip.sources.find_source`.
    device : torch.device
    precision : {"auto", "fp32", "fp16", "bf16"}
        ``"auto"`` is fp16 on CUDA and fp32 elsewhere.

    Returns
    -------
    CLIPModel

    Raises
    ------
    ValueError
        If the precision does not fit the device, or the weights not the architecture.
    """
    dtype = _dtype_of(precision, device)
    source = find_source(model_name, pretrained)
    stats = [os.stat(file) for file in source.files]
    version = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
    key = (source, version, str(device), str(dtype))
    with _lock:
        if key not in _cache:
            _cache[key] = _load(source, device, dtype)
        _cache.move_to_end(key)
        while len(_cache) > MAX_CACHED_MODELS:
            _cache.popitem(last=False)
        return _cache[key]


def clear_model_cache():
    """Drop every model from the process-wide cache.

    The memory is free once no computation uses the models; they load again when they
    are next needed.

    Examples
    --------
    >>> from skfewshot.clip import clear_model_cache
    >>> clear_model_cache()
    """
    with _lock:
        _cache.clear()


def _dtype_of(precision, device):
    import torch

    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    allowed = {"cuda": ("fp32", "fp16", "bf16"), "cpu": ("fp32", "bf16")}
    if precision not in allowed.get(device.type, ("fp32",)):
        raise ValueError(
            f"precision={precision!r} is not available on the device {device}; "
            f"use 'auto', which takes half precision on CUDA only, or one of "
            f"{allowed.get(device.type, ('fp32',))}."
        )
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[
        precision
    ]


def _load(source, device, dtype):
    """Load the model in full precision on the CPU, identify it, then move it."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    # open_clip draws random weights before it loads the real ones.
    with (
        fork_safe_threads(),
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
    ):
        model = _create(source)
        model.eval().requires_grad_(False)
        preprocess = PreprocessCfg(**model.visual.preprocess_cfg)
        identity = _identify(model, source, preprocess)
        model.to(device=device, dtype=dtype)
    return CLIPModel(
        model,
        device=device,
        dtype=dtype,
        identity=identity,
        preprocess=image_transform_v2(preprocess, is_train=False),
        source=source,
    )


def _create(source):
    """Have open_clip build the model, and say plainly if the weights do not fit."""
    import open_clip

    is_folder = source.architecture.startswith("local-dir:")
    try:
        weights, configs = _files_of(source)
        for file in weights:
            check_weights(file)
        for file in configs:
            n_bytes = max(map(os.path.getsize, weights))
            check_config(file, source.architecture, n_bytes)
        model = open_clip.create_model(
            source.architecture,
            pretrained=None if is_folder else source.files[0],
            force_quick_gelu=source.quick_gelu,
            # The size is the architecture's: a tag does not know of another one.
            force_preprocess_cfg={**dict(source.preprocess), "size": None},
            require_pretrained=True,
            weights_only=True,
        )
        check_numbers(model)
        return model
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"The weights {source.files[0]!r} could not be loaded into "
            f"{source.architecture!r}: {' '.join(reason[:3])[:500]}. Do they belong to "
            "this architecture?"
        ) from error


def _files_of(source):
    """Return the weights that open_clip may load, and the configuration, if any."""
    configs = [file for file in source.files if file.endswith(".json")]
    weights = [file for file in source.files if file not in configs]
    # Of a folder it takes safetensors before all others.
    safe = [file for file in weights if file.endswith(".safetensors")]
    return safe or weights, configs


def _identify(model, source, preprocess):
    """Take the identity of a model from its weights, before they are cast or moved."""
    import open_clip

    config = open_clip.get_model_config(source.architecture)
    return EncoderIdentity(
        model_name=source.model_name,
        pretrained=source.pretrained,
        fingerprint=_fingerprint(model, preprocess),
        embedding_dim=int(config["embed_dim"]),
        logit_scale=float(model.logit_scale.detach().exp().mean()),
    )


def _fingerprint(model, preprocess):
    """Hash names, shapes and evenly spaced values of all weights.

    Two trainings differ in nearly every value, so a sample tells them apart, and a
    model of a gigabyte takes a fraction of a second. The activation and the
    preprocessing change embeddings and have no weights, so they are hashed too.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().flatten()
        if not values.is_floating_point():
            continue
        step = max(1, values.numel() // _SAMPLED_PER_TENSOR)
        sample = np.asarray(values[::step].float().numpy(), dtype="<f4")
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.tobytes())
    quick = any(type(module).__name__ == "QuickGELU" for module in model.modules())
    numbers = [*preprocess.mean, *preprocess.std]
    digest.update(f"{quick}{[f'{number:.6f}' for number in numbers]}".encode())
    rest = (preprocess.size, preprocess.interpolation, preprocess.resize_mode)
    digest.update(str(rest).encode())
    return digest.hexdigest()
