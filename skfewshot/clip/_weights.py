"""What a file of weights wants of its model, and what is wrong with one that fails."""

import pickle
import re
from pathlib import Path
from typing import Any

#: The layouts of transformers that open_clip has models of.
_LAYOUTS = {"clip": "", "siglip": "-SigLIP", "siglip2": "-SigLIP2"}
_BY_WIDTH = {768: "B", 1024: "L", 1280: "H", 1152: "SO400M"}
_BY_WORD = {"base": "B", "large": "L", "huge": "H", "so400m": "SO400M"}
_BY_WORD |= {"giant-opt": "gopt"}
_REPOSITORY = re.compile(
    r"(?P<layout>clip-vit|siglip2?)-(?P<width>base|large|huge|so400m|giant-opt)"
    r"-patch(?P<patch>\d+)(?:-(?P<size>\d+))?"
)
# What a tag may say of the preprocessing, and what it is without a word on it.
_DEFAULTS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "quick_gelu": False,
}
_TAGS_SHOWN = 4


def settings_of_file(name: str, path: Path) -> tuple[dict[str, Any], str]:
    """Return what a file of weights wants of its model, beside the architecture.

    That is what the weights that are known by a tag want: of the tag that the path
    names, if it names one, or else what all of them agree on.

    Parameters
    ----------
    name : str
        A built-in architecture of open_clip.
    path : pathlib.Path

    Returns
    -------
    settings : dict
        As a tag has them; empty where there are no tags.
    doubt : str
        What the tags do not agree on, and what to do about it; empty where they do.
    """
    import open_clip

    tags = {
        tag: _DEFAULTS | open_clip.get_pretrained_cfg(name, tag)
        for tag in open_clip.list_pretrained_tags_by_model(name)
    }
    if not tags:
        return {}, ""
    named = _named(tags, path)
    if named is not None:
        return {key: tags[named][key] for key in _DEFAULTS}, ""
    settings, doubts = {}, []
    architecture = open_clip.get_model_config(name) or {}
    for key, default in _DEFAULTS.items():
        kinds: dict[Any, list[str]] = {}
        for tag, config in tags.items():
            value = config[key]
            value = tuple(value) if isinstance(value, list) else value
            kinds.setdefault(value, []).append(tag)
        if key == "quick_gelu" and architecture.get(key):
            kinds = {True: []}  # whatever tags say of it
        elif key == "quick_gelu" and kinds.keys() == {True}:
            doubts.append(
                f"QuickGELU is taken, as all of them have it and {name!r} does not"
            )
        settings[key] = next(iter(kinds)) if len(kinds) == 1 else default
        if len(kinds) > 1:
            doubts.append(f"{key}={default!r} is taken, but {_others(kinds, default)}")
    return settings, _doubt(name, path, doubts)


def _others(kinds: dict[Any, list[str]], default: Any) -> str:
    """Say which tags want something else."""
    wants = []
    for value, tags in kinds.items():
        if value != default:
            hidden = len(tags) - _TAGS_SHOWN
            more = f" and {hidden} more" if hidden > 0 else ""
            shown = ", ".join(tags[:_TAGS_SHOWN])
            wants.append(f"the weights {shown}{more} want {value!r}")
    return "; ".join(wants)


def _doubt(name: str, path: Path, doubts: list[str]) -> str:
    if not doubts:
        return ""
    remedy = ""
    if any("uick" in doubt for doubt in doubts):
        remedy = (
            f", write {name + '-quickgelu'!r} for weights trained with QuickGELU, such "
            "as OpenAI's,"
        )
    return (
        f"The file {path.name!r} does not say whose weights these are, and those "
        f"that are known for {name!r} do not agree: {'; '.join(doubts)}. If that is "
        f"not right{remedy} or name the file after its tag."
    )


def _named(tags: dict[str, Any], path: Path) -> str | None:
    """Return the tag that a path names: by the file's name, or in the hub's cache."""
    stem = _letters(path.stem)
    folders = {part.lower() for part in path.parts}
    found = [
        tag
        for tag, config in tags.items()
        if re.search(rf"(^|_){re.escape(_letters(tag))}($|_)", stem)
        or f"models--{_repository(config).replace('/', '--')}".lower() in folders
    ]
    return max(found, key=len) if found else None


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower())


def _repository(config: dict[str, Any]) -> str:
    return str(config.get("hf_hub", "")).rpartition("/")[0] or "none"


# The layout of transformers


def twin_of_repository(name: str) -> str | None:
    """Return how to load what a repository in the layout of transformers holds.

    Parameters
    ----------
    name : str
        Such as ``openai/clip-vit-base-patch32``.

    Returns
    -------
    str or None
        None where no such repository is known.
    """
    owner, _, repository = name.rpartition("/")
    found = _REPOSITORY.fullmatch(repository.lower())
    if found is None or owner.lower() not in ("openai", "google", ""):
        return None
    layout = found["layout"].removesuffix("-vit")
    size = int(found["size"] or 224)
    return _twin(layout, _BY_WORD[found["width"]], int(found["patch"]), size)


def twin_of_config(config: Any) -> str | None:
    """Return how to load what a ``config.json`` of transformers describes, if known."""
    if not isinstance(config, dict) or config.get("model_type") not in _LAYOUTS:
        return None
    vision = config.get("vision_config") or {}
    width = _BY_WIDTH.get(vision.get("hidden_size", 768), "?")
    patch = vision.get("patch_size", 32 if config["model_type"] == "clip" else 16)
    return _twin(config["model_type"], width, patch, vision.get("image_size", 224))


def _twin_of_shapes(shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return how to load weights of transformers, by the shapes of their tensors."""
    start = next(
        (
            name.partition("vision_model.")[0]
            for name in shapes
            if "vision_model." in name
        ),
        "",
    )
    patches = shapes.get(f"{start}vision_model.embeddings.patch_embedding.weight", ())
    places = shapes.get(f"{start}vision_model.embeddings.position_embedding.weight", ())
    if len(patches) != 4 or len(places) != 2:
        return None
    is_clip = f"{start}vision_model.embeddings.class_embedding" in shapes
    size = round((places[0] - is_clip) ** 0.5) * patches[-1]
    width = _BY_WIDTH.get(patches[0], "?")
    return _twin("clip" if is_clip else "siglip", width, patches[-1], size)


def _twin(layout: str, width: str, patch: int, size: int) -> str | None:
    import open_clip

    name = f"ViT-{width}-{patch}{_LAYOUTS[layout]}"
    for candidate in (f"{name}-{size}", name):
        tags = open_clip.list_pretrained_tags_by_model(candidate)
        for tag in ("openai", "webli", *tags):
            if tag in tags:
                return f"CLIPFeaturizer({candidate!r}, pretrained={tag!r})"
    return None


# What is wrong


def explain_failure(file: str, error: Exception) -> str:
    """Say why weights could not be loaded, and what to do.

    Parameters
    ----------
    file : str
        The weights file.
    error : Exception
        What it failed with.
    """
    text = str(error)
    if "TorchScript" in text or "torch.jit" in text:
        return (
            "it is a program of TorchScript, as OpenAI's own files are, and programs "
            "are not run. Pass the tag 'openai' as pretrained, or, if you trust the "
            "file, save its tensors once: safetensors.torch.save_file({k: v.clone() "
            "for k, v in torch.jit.load(path).state_dict().items()}, "
            "'weights.safetensors')"
        )
    is_pickled = isinstance(error, pickle.UnpicklingError) or "weights_only" in text
    if is_pickled and ("GLOBAL" in text or "class" in text):
        return (
            "the checkpoint holds more than tensors, and no more is loaded, for it "
            "could run code. If you trust it, save its tensors once: state = "
            "torch.load(path, weights_only=False), which has them under a key such as "
            "'state_dict', then safetensors.torch.save_file(state['state_dict'], "
            "'weights.safetensors')"
        )
    # Where the file itself could not be read, it has no shapes.
    shapes = _shapes_of(file) if "state_dict" in text or "key" in text else {}
    if any("vision_model." in name for name in shapes):
        twin = _twin_of_shapes(shapes)
        return (
            "they are in the layout of transformers (vision_model., text_model.), "
            "which open_clip does not load. Use the same weights in its own: "
            + (
                twin
                or "a repository that has an open_clip_config.json, as 'hf-hub:...'"
            )
        )
    lines = text.strip().splitlines() or [type(error).__name__]
    return f"{' '.join(lines[:3])[:500]}. Do they belong to this architecture?"


def _shapes_of(file: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a file by name; none if it has none."""
    import torch
    from safetensors import safe_open

    try:
        if file.endswith(".safetensors"):
            with safe_open(file, "np") as saved:
                return {
                    key: tuple(saved.get_slice(key).get_shape()) for key in saved.keys()
                }
        state = torch.load(file, map_location="meta", weights_only=True)
        state = state.get("state_dict", state)
        return {str(key): tuple(value.shape) for key, value in state.items()}
    except Exception:  # it failed before: what is wrong with it is known
        return {}
