"""From a model's name and weights to a loaded model, kept in the process."""

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skfewshot._sklearn import warn_user
from skfewshot._torch import fork_safe_lock, fork_safe_threads
from skfewshot.clip._embedding import EncoderIdentity
from skfewshot.clip._sources import LOCAL_DIR, TINY, ModelSource, find_source
from skfewshot.clip._tokenizers import build_tokenizer
from skfewshot.clip._weights import explain_failure

if TYPE_CHECKING:
    import torch

#: How many models the cache holds; the one unused for longest goes first.
MAX_CACHED_MODELS = 4

#: How images come to the size of the model, by open_clip's names for it.
RESIZE_MODES = {"shortest": "crop", "longest": "pad", "squash": "squash"}

_SAMPLED_PER_TENSOR = 256

_cache: OrderedDict[tuple, "CLIPModel"] = OrderedDict()
_lock = fork_safe_lock()


@dataclass(frozen=True, eq=False)
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
    source : ModelSource
    settings : PreprocessCfg
        open_clip's settings of `preprocess`.
    resized : dict
        The same model with other ways to resize images, by their names.
    """

    model: Any
    device: "torch.device"
    dtype: "torch.dtype"
    identity: EncoderIdentity
    preprocess: Any
    source: ModelSource
    settings: Any
    resized: dict[str, "CLIPModel"] = field(default_factory=dict, repr=False)
    #: What `skfewshot.clip._texts` keeps, by the texts of a name; the oldest use first.
    encoded_names: OrderedDict[bytes, Any] = field(
        default_factory=OrderedDict, repr=False
    )

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that the model takes."""
        size = self.model.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def own_resize_mode(self) -> str:
        """How images are resized as the model was trained."""
        return RESIZE_MODES[self.settings.resize_mode]

    @property
    def dense_mode(self) -> str:
        """The dense mode that ``"auto"`` is for this model."""
        # The embedded model is trained to be read by its values, and what the
        # attention pool of a ResNet mixes are values alone. A transformer that is
        # trained on pooled outputs points best without the last residual.
        is_resnet = type(self.model.visual).__name__ == "ModifiedResNet"
        if is_resnet or self.source.model_name == TINY:
            return "value"
        return "self-self-no-residual"

    @cached_property
    def tokenizer(self) -> Any:
        """Texts to a tensor of tokens; built when a text is first encoded."""
        try:
            return build_tokenizer(self.source)
        except Exception as error:
            raise RuntimeError(
                f"The tokenizer of {self.source.model_name!r} could not be built: "
                f"{error}. Images can still be embedded. Some text towers need the "
                "packages transformers and sentencepiece and a download."
            ) from error

    def check_finite(self, rows: np.ndarray) -> np.ndarray:
        """Return embeddings if they are finite, or raise FloatingPointError."""
        if not (abs(rows) <= 1.5).all():  # NaN is not, and nothing is copied twice
            raise FloatingPointError(
                f"The model gave embeddings that are not finite, in {self.dtype}. Some "
                "models overflow in half precision: use precision='bf16' or 'fp32'. If "
                "they do so in float32, the weights are broken."
            )
        return rows


def load_clip(
    model_name: str,
    pretrained: str | os.PathLike | None,
    *,
    device: "torch.device",
    precision: str = "auto",
    resize_mode: str = "auto",
) -> CLIPModel:
    """Return a model from the process-wide cache, or load it.

    Parameters
    ----------
    model_name, pretrained : str, str or None
        See :func:`find_source`.
    device : torch.device
    precision : {"auto", "fp32", "fp16", "bf16"}
        ``"auto"`` is fp16 on CUDA and fp32 elsewhere.
    resize_mode : {"auto", "crop", "pad", "squash"}
        ``"auto"`` is what the model was trained with.

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
    with _lock():
        if key not in _cache:
            _cache[key] = _load(source, device, dtype)
        _cache.move_to_end(key)
        clip = _cache[key]
        if resize_mode not in ("auto", clip.own_resize_mode):
            if resize_mode not in clip.resized:
                clip.resized[resize_mode] = _resized(clip, resize_mode)
            clip = clip.resized[resize_mode]
        while len(_cache) > MAX_CACHED_MODELS:
            _cache.popitem(last=False)
        return clip


def clear_model_cache() -> None:
    """Drop every model from the process-wide cache.

    The memory is free once no computation uses the models; they load again when they
    are next needed.

    Examples
    --------
    >>> from skfewshot.clip import clear_model_cache
    >>> clear_model_cache()
    """
    with _lock():
        _cache.clear()


# Loading


def _dtype_of(precision: str, device: "torch.device") -> "torch.dtype":
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


def _load(
    source: ModelSource, device: "torch.device", dtype: "torch.dtype"
) -> CLIPModel:
    """Load the model in full precision on the CPU, identify it, then move it."""
    import open_clip
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
        identity = EncoderIdentity(
            model_name=source.model_name,
            pretrained=source.pretrained,
            fingerprint=_fingerprint(model, preprocess),
            embedding_dim=int(
                open_clip.get_model_config(source.architecture)["embed_dim"]
            ),
            logit_scale=float(model.logit_scale.detach().exp().mean()),
        )
        model.to(device=device, dtype=dtype)
    if source.doubt:
        warn_user(source.doubt)
    transform = image_transform_v2(preprocess, is_train=False)
    return CLIPModel(model, device, dtype, identity, transform, source, preprocess)


def _resized(clip: CLIPModel, resize_mode: str) -> CLIPModel:
    """Return the same model with another way to resize, which makes another encoder."""
    from open_clip.transform import image_transform_v2

    name = {mode: name for name, mode in RESIZE_MODES.items()}[resize_mode]
    settings = replace(clip.settings, resize_mode=name)
    fingerprint = f"{clip.identity.fingerprint}/{resize_mode}"
    return replace(
        clip,
        identity=replace(
            clip.identity, fingerprint=fingerprint, resize_mode=resize_mode
        ),
        preprocess=image_transform_v2(settings, is_train=False),
        settings=settings,
        resized={},
    )


def _create(source: ModelSource) -> Any:
    """Have open_clip build the model, and say plainly if the weights do not fit."""
    import open_clip
    import torch

    is_folder = source.architecture.startswith(LOCAL_DIR)
    try:
        if not source.files[0].endswith((".safetensors", ".npz", ".npy")):
            for file in source.files:
                if not file.endswith(".json"):
                    # Where this fails with a TypeError, open_clip tries again without
                    # asking for tensors alone, and PyTorch before 2.6 would run code.
                    torch.load(file, map_location="meta", weights_only=True)
        return open_clip.create_model(
            source.architecture,
            pretrained=None if is_folder else source.files[0],
            force_quick_gelu=source.quick_gelu,
            # The size is the architecture's: a tag does not know of another one.
            force_preprocess_cfg={**dict(source.preprocess), "size": None},
            require_pretrained=True,
            weights_only=True,
        )
    except Exception as error:
        raise ValueError(
            f"The weights {source.files[0]!r} could not be loaded into "
            f"{source.architecture!r}: {explain_failure(source.files[0], error)}"
        ) from error


def _fingerprint(model: Any, preprocess: Any) -> str:
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
