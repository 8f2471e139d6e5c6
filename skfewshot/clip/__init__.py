"""Images and class names in, embeddings out: everything that touches a CLIP model."""

import importlib
from typing import Any

_PUBLIC = {
    "CLIPFeaturizer": "_featurizer",
    "DEFAULT_PROMPT_TEMPLATES": "_prompts",
    "EmbeddingArray": "_embedding",
    "EncoderIdentity": "_embedding",
    "ImageReadError": "_unreadable",
    "WeightsDownloadError": "_sources",
    "clear_model_cache": "_models",
    "encoder_of": "_embedding",
    "tiny_model_path": "_sources",
}

__all__ = [
    "DEFAULT_PROMPT_TEMPLATES",
    "CLIPFeaturizer",
    "EmbeddingArray",
    "EncoderIdentity",
    "ImageReadError",
    "WeightsDownloadError",
    "clear_model_cache",
    "encoder_of",
    "tiny_model_path",
]


def __getattr__(name: str) -> Any:
    # Resolved at first use, so that one part does not wait for the imports of another.
    if name in _PUBLIC:
        module = importlib.import_module(f"skfewshot.clip.{_PUBLIC[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'skfewshot.clip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
