"""What to think of predictions: sets, novelty, reasons, doubtful labels."""

from skfewshot.inspection._doubt import label_issues
from skfewshot.inspection._novelty import novelty_score, novelty_threshold
from skfewshot.inspection._rejecting import RejectingClassifier
from skfewshot.inspection._report import Report
from skfewshot.inspection._sets import predict_set
from skfewshot.inspection._suggest import suggest

__all__ = [
    "RejectingClassifier",
    "Report",
    "label_issues",
    "novelty_score",
    "novelty_threshold",
    "predict_set",
    "suggest",
]
