"""Cross-modal mapping: images mapped to where prototypes of their names are."""

from skfewshot.cmm._classifier import CMMClassifier

__all__ = ["CMMClassifier"]
