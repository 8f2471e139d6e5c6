"""Few-shot image classification on frozen CLIP models, as scikit-learn estimators."""

import importlib
from typing import Any

__version__ = "0.3.0"

# Resolved at first use: `import skfewshot` must not wait for torch or scikit-learn.
_PUBLIC = {
    "CLAPClassifier": "skfewshot.peers",
    "CLIPFeaturizer": "skfewshot.clip",
    "CMMClassifier": "skfewshot.cmm",
    "GaussianDiscriminantClassifier": "skfewshot.peers",
    "LPPlusPlusClassifier": "skfewshot.peers",
    "MultiLabelPrototypeClassifier": "skfewshot.multilabel",
    "MultiLabelPrototypePrior": "skfewshot.multilabel",
    "ProKeRClassifier": "skfewshot.peers",
    "TaskResClassifier": "skfewshot.peers",
    "TipAdapterClassifier": "skfewshot.peers",
    "ZeroShotClassifier": "skfewshot.peers",
    "load": "skfewshot.persistence",
    "save": "skfewshot.persistence",
}
_SUBMODULES = {
    *("clip", "cmm", "datasets", "display", "distributed", "export"),
    *("inspection", "metrics", "model_selection", "multilabel", "peers", "persistence"),
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"skfewshot.{name}")
    raise AttributeError(f"module 'skfewshot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
