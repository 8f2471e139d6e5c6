"""What to think of predictions: sets, novelty, reasons, doubtful labels."""

from skfewshot.inspection._sets import predict_set

__all__ = ["predict_set"]
