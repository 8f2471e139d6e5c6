"""The tokenizer of a model, by a configuration that may be anybody's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skfewshot.clip._sources import ModelSource

# What a configuration may say of a tokenizer: nothing that is a path, or runs code.
_ALLOWED: dict[str, type] = {
    "add_prefix_space": bool,
    "additional_special_tokens": list,
    "clean": str,
    "do_lower_case": bool,
    "language": str,
    "legacy": bool,
    "model_max_length": int,
    "padding_side": str,
    "reduction_mask": str,
    "strip_sep_token": bool,
    "truncation_side": str,
    "use_fast": bool,
}


def build_tokenizer(source: ModelSource) -> Callable[..., Any]:
    """Return the tokenizer of a model.

    Parameters
    ----------
    source : ModelSource

    Returns
    -------
    callable
        From texts to a tensor of tokens.

    Raises
    ------
    ValueError
        If the configuration of a folder or repository has options of the tokenizer that
        are not known to be harmless, such as ``trust_remote_code`` or ``bpe_path``.
    """
    import open_clip

    configs = [file for file in source.files if file.endswith(".json")]
    if not configs:  # a built-in model, of which open_clip has the configuration
        return open_clip.get_tokenizer(source.tokenizer)
    config = json.loads(Path(configs[0]).read_text("utf-8"))["model_cfg"]["text_cfg"]
    options = check_options(config.get("tokenizer_kwargs") or {}, configs[0])
    if not config.get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(source.tokenizer)
    from open_clip.tokenizer import HFTokenizer

    # By what was checked: open_clip would read the configuration once more.
    is_hub = source.tokenizer.startswith("hf-hub:")
    name = config["hf_tokenizer_name"] if is_hub else str(Path(configs[0]).parent)
    return HFTokenizer(
        name,
        context_length=config.get("context_length", 77),
        tokenizer_mode=config.get("tokenizer_mode"),
        trust_remote_code=False,
        **options,
    )


def check_options(options: Any, file: str) -> dict[str, Any]:
    """Refuse options of a tokenizer that are not known to be harmless; return them."""
    if not isinstance(options, dict):
        raise ValueError(f"tokenizer_kwargs in {file!r} must be an object.")
    for name, value in options.items():
        kind = _ALLOWED.get(name)
        if kind is None or not isinstance(value, kind):
            raise ValueError(
                f"tokenizer_kwargs in {file!r} has {name}={value!r:.80}, which is not "
                f"taken from a file, as it might run code or read other files. Taken "
                f"are {sorted(_ALLOWED)}. Remove it from the file."
            )
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ValueError(f"{name} in {file!r} must be a list of strings.")
    return options
