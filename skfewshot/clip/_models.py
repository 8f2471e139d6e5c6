"""From a model's name and weights to files on this machine, and to a loaded model."""

import difflib
import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skfewshot._torch import fork_safe_threads
from skfewshot.clip._embedding import EncoderIdentity

if TYPE_CHECKING:
    import torch

#: The name of the model that this package ships.
TINY = "tiny"
#: The weights that the featurizer asks for unless told otherwise.
DEFAULT_PRETRAINED = "laion2b_s34b_b79k"
#: How many models the cache holds; the one unused for longest goes first.
MAX_CACHED_MODELS = 4

_LOCAL_DIR, _HF_HUB = "local-dir:", "hf-hub:"
_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_ENDINGS = ("*.safetensors", "*.bin", "*.pth")
_PROBE_SECONDS = 5
_SAMPLED_PER_TENSOR = 256

_cache: OrderedDict[tuple, "CLIPModel"] = OrderedDict()
_lock = threading.RLock()


def _after_fork() -> None:
    """Give a forked child a lock of its own: none of its threads would free this."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class WeightsDownloadError(ConnectionError):
    """Weights had to be downloaded, and that failed. A ConnectionError."""


@dataclass(frozen=True)
class ModelSource:
    """Where to load a model from.

    Attributes
    ----------
    model_name, pretrained : str, str or None
        What to give :class:`~skfewshot.clip.CLIPFeaturizer` to load the same model
        from any working directory.
    architecture : str
        What to give ``open_clip.create_model``: a built-in name or ``local-dir:PATH``.
    files : tuple of str
        The weights file, first, and what else the model is loaded from.
    preprocess : tuple of (str, object)
        What the weights want of the preprocessing, over the architecture's own.
    quick_gelu : bool
        Whether the weights were trained with the QuickGELU activation.
    tokenizer : str
        What to give ``open_clip.get_tokenizer``.
    """

    model_name: str
    pretrained: str | None
    architecture: str
    files: tuple[str, ...]
    preprocess: tuple = field(default=(), compare=False)
    quick_gelu: bool = False
    tokenizer: str = ""


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
    """

    model: Any
    device: "torch.device"
    dtype: "torch.dtype"
    identity: EncoderIdentity
    preprocess: Any
    source: ModelSource
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
        import open_clip

        try:
            return open_clip.get_tokenizer(self.source.tokenizer)
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
) -> CLIPModel:
    """Return a model from the process-wide cache, or load it.

    Parameters
    ----------
    model_name, pretrained : str, str or None
        See :func:`find_source`.
    device : torch.device
    precision : {"auto", "fp32", "fp16", "bf16"}
        ``"auto"`` is fp16 on CUDA and fp32 elsewhere.

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


def clear_model_cache() -> None:
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


def tiny_model_path() -> Path:
    """Return the folder of the model that this package ships.

    Returns
    -------
    pathlib.Path
        A folder in open_clip's ``local-dir:`` layout, with `open_clip_config.json` and
        `open_clip_model.safetensors`.

    Examples
    --------
    >>> from skfewshot.clip import tiny_model_path
    >>> tiny_model_path().name
    'tiny'
    """
    return Path(__file__).parent / TINY


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
    transform = image_transform_v2(preprocess, is_train=False)
    return CLIPModel(model, device, dtype, identity, transform, source)


def _create(source: ModelSource) -> Any:
    """Have open_clip build the model, and say plainly if the weights do not fit."""
    import open_clip
    import torch

    is_folder = source.architecture.startswith(_LOCAL_DIR)
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
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"The weights {source.files[0]!r} could not be loaded into "
            f"{source.architecture!r}: {' '.join(reason[:3])[:500]}. Do they belong to "
            "this architecture?"
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


# Finding the files


def find_source(model_name: str, pretrained: str | os.PathLike | None) -> ModelSource:
    """Find the files of a model; download them if they are not on this machine.

    Parameters
    ----------
    model_name : str
        A built-in name of open_clip, ``"tiny"``, ``"local-dir:PATH"`` or
        ``"hf-hub:ORG/REPO"``. The last three bring their weights along.
    pretrained : str, os.PathLike or None
        A tag, a file, or ``"local-dir:PATH"``; None or the default where the model
        brings its own.

    Raises
    ------
    ValueError
        If the model or tag is unknown, or there are no weights to load.
    FileNotFoundError
        If a local file or folder does not exist.
    WeightsDownloadError
        If weights had to be downloaded, and that failed.
    """
    weights = None if pretrained is None else os.fspath(pretrained)
    brings_weights = model_name == TINY or model_name.startswith((_LOCAL_DIR, _HF_HUB))
    if brings_weights and weights not in (None, DEFAULT_PRETRAINED):
        raise ValueError(
            f"model_name={model_name!r} brings its weights along, but "
            f"pretrained={weights!r} was given too. Leave pretrained out; for other "
            "weights name their folder, model_name='local-dir:/path/to/folder'."
        )
    if model_name == TINY:
        return _from_folder(tiny_model_path(), TINY, None)
    if model_name.startswith(_LOCAL_DIR):
        folder = _absolute(model_name.removeprefix(_LOCAL_DIR))
        return _from_folder(folder, f"{_LOCAL_DIR}{folder}", None)
    if model_name.startswith(_HF_HUB):
        return _from_hub(model_name)
    if weights is not None and weights.startswith(_LOCAL_DIR):
        folder = _absolute(weights.removeprefix(_LOCAL_DIR))
        return _from_folder(folder, model_name, f"{_LOCAL_DIR}{folder}")
    return _from_builtin(model_name, weights)


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # there is no such user
        raise FileNotFoundError(f"There is no {str(path)!r}: {error}") from error


def _from_folder(folder: Path, model_name: str, pretrained: str | None) -> ModelSource:
    """Check that an open_clip folder is complete: open_clip would only log it."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r}; a local-dir: model is a folder with "
            f"{_CONFIG} and weights such as {_WEIGHTS}."
        )
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(
            f"The folder {str(folder)!r} has no {_CONFIG}. To load a weights file into "
            "one of open_clip's architectures, pass the file itself: "
            "CLIPFeaturizer('ViT-B-32', pretrained='weights.safetensors')."
        )
    weights = [path for ending in _ENDINGS for path in sorted(folder.glob(ending))]
    if not weights:
        raise FileNotFoundError(
            f"The folder {str(folder)!r} has a {_CONFIG} but no weights: the model "
            f"would be random. Put a weights file such as {_WEIGHTS} beside it."
        )
    architecture = f"{_LOCAL_DIR}{folder}"
    files = (*map(str, weights), str(folder / _CONFIG))
    return ModelSource(
        model_name, pretrained, architecture, files, tokenizer=architecture
    )


def _from_builtin(model_name: str, pretrained: str | None) -> ModelSource:
    """Find the weights of one of open_clip's built-in architectures."""
    import open_clip

    name = model_name.replace("/", "-")
    if name not in open_clip.list_models():
        raise ValueError(
            f"model_name={model_name!r} is not a model of open_clip"
            f"{_near(name, open_clip.list_models())}. open_clip.list_models() lists "
            f"them all; {TINY!r} is the model that this package ships."
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise ValueError(
            f"pretrained=None would give {model_name!r} random weights. Pass one of "
            f"its tags {tags}, the path of a weights file, or use the model "
            f"{TINY!r}, which brings its weights along."
        )
    tag_config = open_clip.get_pretrained_cfg(name, pretrained)
    if tag_config:
        return ModelSource(
            model_name,
            pretrained,
            name,
            (_tag_weights(name, pretrained, tag_config),),
            preprocess=tuple(tag_config.items()),
            quick_gelu=bool(tag_config.get("quick_gelu", False)),
            tokenizer=name,
        )
    path = _absolute(pretrained)
    if path.is_dir():
        raise ValueError(
            f"pretrained={pretrained!r} is a folder; pass 'local-dir:{pretrained}' for "
            "one in open_clip's layout, or the weights file in it."
        )
    if path.is_file():
        return ModelSource(model_name, str(path), name, (str(path),), tokenizer=name)
    if path.suffix or os.sep in pretrained:
        raise FileNotFoundError(
            f"pretrained={pretrained!r} is no file and no tag of {model_name!r}, whose "
            f"tags are {tags}."
        )
    raise ValueError(
        f"pretrained={pretrained!r} is not a tag of {model_name!r}"
        f"{_near(pretrained, tags)}. Its tags are {tags}; a weights file works too."
    )


def _near(name: str, known: Iterable[str]) -> str:
    """Say which of `known` is meant, if any comes near."""
    by_lower = {item.lower(): item for item in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    return f" (did you mean {[by_lower[item] for item in near]}?)" if near else ""


def _tag_weights(name: str, tag: str, tag_config: dict) -> str:
    """Return the file of a tag's weights, from the cache or downloaded."""
    import open_clip

    hub = tag_config.get("hf_hub", "")
    if hub:
        repo, _, file = hub.rpartition("/")
        cached = _cached(repo, _candidates(file))
        if cached is not None:
            return cached
        _require_hub(f"the weights {tag!r} of {name!r}", repo)
    try:
        return open_clip.download_pretrained(tag_config)
    except Exception as error:
        raise _download_error(f"the weights {tag!r} of {name!r}", hub, error) from error


def _candidates(file: str) -> list[str]:
    """Return the file names that open_clip tries for a hub entry, in its order."""
    file = file or "open_clip_pytorch_model.bin"
    if file == "open_clip_pytorch_model.bin":
        return [_WEIGHTS, "open_clip_pytorch_model.safetensors", file]
    if file.endswith((".bin", ".pth")):
        return [f"{file[:-4]}.safetensors", file]
    return [file]


def _from_hub(model_name: str) -> ModelSource:
    """Find the files of a hub repository in open_clip's layout."""
    from open_clip.pretrained import download_pretrained_from_hf

    repo = model_name.removeprefix(_HF_HUB)
    names = _candidates("")
    config, weights = _cached(repo, [_CONFIG]), _cached(repo, names)
    if config is None or weights is None:
        _require_hub(f"the model {model_name!r}", repo)
        try:
            config = download_pretrained_from_hf(repo, filename=_CONFIG)
            weights = download_pretrained_from_hf(repo)
        except Exception as error:
            raise _download_error(f"the model {model_name!r}", repo, error) from error
    # Both lie in the folder of one revision, which open_clip loads without asking
    # the hub again. Only the tokenizer of a text tower by transformers has to.
    architecture = f"{_LOCAL_DIR}{Path(config).parent}"
    text_config = json.loads(Path(config).read_text("utf-8"))["model_cfg"]["text_cfg"]
    return ModelSource(
        model_name,
        None,
        architecture,
        (weights, config),
        tokenizer=model_name if "hf_tokenizer_name" in text_config else architecture,
    )


def _cached(repo: str, names: Iterable[str]) -> str | None:
    """Return the first of the files that is in the hub's cache, without asking it."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repo, name)
        if isinstance(found, str):
            return found
    return None


def _require_hub(what: str, repo: str) -> None:
    """Raise at once if the hub cannot be reached: its client retries for a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception as error:
        raise _download_error(what, repo, error) from error


def _download_error(what: str, repo: str, error: Exception) -> WeightsDownloadError:
    """Say what to do without a download."""
    where = f" from {repo!r}" if repo else ""
    return WeightsDownloadError(
        f"Could not download {what}{where}: {error}. Without the network, pass a file "
        "that is on this machine, CLIPFeaturizer('ViT-B-32', "
        "pretrained='/path/to/open_clip_model.safetensors') (weights trained with "
        "QuickGELU, such as OpenAI's, want 'ViT-B-32-quickgelu'), or a folder, "
        "CLIPFeaturizer('local-dir:/path/to/folder'), or use the small model that this "
        f"package ships, CLIPFeaturizer({TINY!r})."
    )
