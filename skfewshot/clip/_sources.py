"""From a model's name and weights to files on this machine."""

import difflib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skfewshot.clip._unreadable import show_path
from skfewshot.clip._weights import (
    settings_of_file,
    twin_of_config,
    twin_of_repository,
)

#: The name of the model that this package ships.
TINY = "tiny"
#: The weights that the featurizer asks for unless told otherwise.
DEFAULT_PRETRAINED = "laion2b_s34b_b79k"

LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"
_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_ENDINGS = ("*.safetensors", "*.bin", "*.pth")
_PROBE_SECONDS = 5


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
    doubt : str
        What is not known of the weights and might be otherwise, to warn of.
    """

    model_name: str
    pretrained: str | None
    architecture: str
    files: tuple[str, ...]
    preprocess: tuple = field(default=(), compare=False)
    quick_gelu: bool = False
    tokenizer: str = ""
    doubt: str = field(default="", compare=False)


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
    brings_weights = model_name == TINY or model_name.startswith((LOCAL_DIR, HF_HUB))
    if brings_weights and weights not in (None, DEFAULT_PRETRAINED):
        raise ValueError(
            f"model_name={model_name!r} brings its weights along, but "
            f"pretrained={weights!r} was given too. Leave pretrained out; for other "
            "weights name their folder, model_name='local-dir:/path/to/folder'."
        )
    if model_name == TINY:
        return _from_folder(tiny_model_path(), TINY, None)
    if model_name.startswith(LOCAL_DIR):
        folder = _absolute(model_name.removeprefix(LOCAL_DIR))
        return _from_folder(folder, f"{LOCAL_DIR}{folder}", None)
    if model_name.startswith(HF_HUB):
        twin = twin_of_repository(model_name.removeprefix(HF_HUB))
        if twin is not None:
            raise ValueError(
                f"model_name={model_name!r} is in the layout of transformers, which "
                f"open_clip does not load. The same weights: {twin}."
            )
        return _from_hub(model_name)
    if weights is not None and weights.startswith(LOCAL_DIR):
        folder = _absolute(weights.removeprefix(LOCAL_DIR))
        return _from_folder(folder, model_name, f"{LOCAL_DIR}{folder}")
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
            f"{_CONFIG} and weights such as {_WEIGHTS}. {_moved('model_name')}"
        )
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(
            f"The folder {str(folder)!r} has no {_CONFIG}. {_other_layout(folder)}To "
            "load a weights file into one of open_clip's architectures, pass the file "
            "itself: CLIPFeaturizer('ViT-B-32', pretrained='weights.safetensors')."
        )
    _read_text_config(folder / _CONFIG)
    weights = [path for ending in _ENDINGS for path in sorted(folder.glob(ending))]
    if not weights:
        raise FileNotFoundError(
            f"The folder {str(folder)!r} has a {_CONFIG} but no weights: the model "
            f"would be random. Put a weights file such as {_WEIGHTS} beside it."
        )
    architecture = f"{LOCAL_DIR}{folder}"
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
            f"model_name={show_path(model_name)} is not a model of open_clip"
            f"{_meant(model_name)}{_near(name, open_clip.list_models())}. "
            f"open_clip.list_models() lists them all; {TINY!r} is the model that this "
            "package ships."
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
        settings, doubt = settings_of_file(name, path)
        return ModelSource(
            model_name,
            str(path),
            name,
            (str(path),),
            preprocess=tuple(settings.items()),
            quick_gelu=bool(settings.get("quick_gelu", False)),
            tokenizer=name,
            doubt=doubt,
        )
    if path.suffix or os.sep in pretrained:
        raise FileNotFoundError(
            f"pretrained={show_path(pretrained)} is no file and no tag of "
            f"{model_name!r}, whose tags are {tags}. {_moved('pretrained')}"
        )
    raise ValueError(
        f"pretrained={show_path(pretrained)} is not a tag of {model_name!r}"
        f"{_near(pretrained, tags)}. Its tags are {tags}; a weights file works too."
    )


def _moved(parameter: str) -> str:
    """Say what to do where files stood elsewhere when a model was saved."""
    return (
        "If it has moved since the model was saved, tell the featurizer: "
        f"set_params({parameter}=...), in a pipeline by the name of its step: "
        f"set_params(clip__{parameter}=...)."
    )


def _meant(model_name: str) -> str:
    """Say what is meant by a name that is a place, rather than an architecture."""
    repository = re.sub(r"^(https?://)?(www\.)?huggingface\.co/", "", model_name)
    twin = twin_of_repository(repository)
    if twin is not None:
        return f", but a repository in the layout of transformers: use {twin}"
    if os.path.isdir(model_name):
        return f", but a folder: use {LOCAL_DIR + model_name!r}"
    if re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repository):
        return f"; for a repository of the hub write {HF_HUB + repository!r}"
    return ""


def _other_layout(folder: Path) -> str:
    """Say what to use in place of a folder in the layout of transformers."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    twin = twin_of_config(config)
    if twin is None:
        return ""
    return (
        "It is in the layout of transformers, which open_clip does not load. The same "
        f"weights, or others of that architecture: {twin}. "
    )


def _read_text_config(path: str | Path) -> dict[str, Any]:
    """Return what a configuration says of the text tower, or say what is missing."""
    try:
        config = json.loads(Path(path).read_text("utf-8"))
        lacking = "model_cfg"
        model = config["model_cfg"]
        for lacking in ("embed_dim", "vision_cfg", "text_cfg"):
            model[lacking]
        if not isinstance(model["text_cfg"], dict):
            raise ValueError("its 'text_cfg' is no object")
        return model["text_cfg"]
    except KeyError as error:
        what = " (of the text tower, by which class names are encoded)"
        raise ValueError(
            f"The configuration {str(path)!r} could not be loaded: it has no "
            f"{lacking!r}{what if lacking == 'text_cfg' else ''}. Take it from the "
            "model that was trained: open_clip.get_model_config(name) has it for "
            "built-in ones."
        ) from error
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"The configuration {str(path)!r} could not be loaded: {error!s:.300}"
        ) from error


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
        cached = in_hub_cache(repo, _candidates(file))
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

    repo = model_name.removeprefix(HF_HUB)
    names = _candidates("")
    config, weights = in_hub_cache(repo, [_CONFIG]), in_hub_cache(repo, names)
    if config is None or weights is None:
        _require_hub(f"the model {model_name!r}", repo)
        try:
            config = download_pretrained_from_hf(repo, filename=_CONFIG)
            weights = download_pretrained_from_hf(repo)
        except Exception as error:
            raise _download_error(f"the model {model_name!r}", repo, error) from error
    # Both lie in the folder of one revision, which open_clip loads without asking
    # the hub again. Only the tokenizer of a text tower by transformers has to.
    architecture = f"{LOCAL_DIR}{Path(config).parent}"
    text_config = _read_text_config(config)
    return ModelSource(
        model_name,
        None,
        architecture,
        (weights, config),
        tokenizer=model_name if "hf_tokenizer_name" in text_config else architecture,
    )


def hub_repository(model_name: str, pretrained: str | None) -> str | None:
    """Return the repository of the hub that weights come from, if they do."""
    if model_name.startswith(HF_HUB):
        return model_name.removeprefix(HF_HUB)
    if model_name == TINY or model_name.startswith(LOCAL_DIR) or not pretrained:
        return None
    try:
        import open_clip
    except ImportError:  # where nothing is embedded
        return None
    config = open_clip.get_pretrained_cfg(model_name.replace("/", "-"), pretrained)
    return (config or {}).get("hf_hub", "").rpartition("/")[0] or None


def in_hub_cache(repo: str, names: Iterable[str]) -> str | None:
    """Return the first of the files that is in the hub's cache, without asking it."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repo, name)
        if isinstance(found, str):
            return found
    return None


def _require_hub(what: str, repo: str) -> None:
    """Raise at once if the hub cannot be reached, and say what to do without."""
    try:
        reach_hub()
    except Exception as error:
        raise _download_error(what, repo, error) from error


def reach_hub() -> None:
    """Raise an error at once if the hub cannot be reached: its client would retry."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)


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
