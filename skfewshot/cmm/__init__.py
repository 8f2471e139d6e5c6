"""Cross-modal mapping: images mapped to where prototypes of their names are."""

from skfewshot.cmm.classifier import CMMClassifier

__all__ = ["CMMClassifier"]
