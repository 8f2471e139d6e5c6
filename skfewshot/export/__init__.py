"""Fitted classifiers for other runtimes: ONNX."""

from skfewshot.export.model import to_onnx

__all__ = ["to_onnx"]
