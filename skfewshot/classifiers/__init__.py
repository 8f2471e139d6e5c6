"""Few-shot classifiers on frozen image embeddings, one file a method."""

from skfewshot.classifiers.cmm import CMMClassifier

__all__ = ["CMMClassifier"]
