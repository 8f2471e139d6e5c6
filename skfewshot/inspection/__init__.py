"""What to think of predictions: sets, novelty, reasons, doubtful labels."""

from skfewshot.inspection._novelty import novelty_score, novelty_threshold
from skfewshot.inspection._rejecting import RejectingClassifier
from skfewshot.inspection._sets import predict_set

__all__ = [
    "RejectingClassifier",
    "novelty_score",
    "novelty_threshold",
    "predict_set",
]
