"""Few-shot image classification on frozen CLIP models, as scikit-learn estimators."""

import importlib

__version__ = "0.2.0"

# Resolved at first use: `import skfewshot` must not wait for torch or scikit-learn.
_PUBLIC = {
    "CLAPClassifier": "skfewshot.classifiers",
    "CLIPFeaturizer": "skfewshot.clip",
    "CMMClassifier": "skfewshot.classifiers",
    "CMMClassifierCV": "skfewshot.classifiers",
    "GaussianDiscriminantClassifier": "skfewshot.classifiers",
    "LPPlusPlusClassifier": "skfewshot.classifiers",
    "MultiLabelPrototypeClassifier": "skfewshot.multilabel",
    "MultiLabelPrototypePrior": "skfewshot.multilabel",
    "ProKeRClassifier": "skfewshot.classifiers",
    "TaskResClassifier": "skfewshot.classifiers",
    "TipAdapterClassifier": "skfewshot.classifiers",
    "ZeroShotClassifier": "skfewshot.classifiers",
}
_SUBMODULES = {
    *("classifiers", "clip", "datasets", "display", "distributed", "export"),
    *("metrics", "model_selection", "multilabel", "persistence"),
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"skfewshot.{name}")
    raise AttributeError(f"module 'skfewshot' has no attribute {name!r}")


def __dir__():
    return sorted({*__all__, *_SUBMODULES})
