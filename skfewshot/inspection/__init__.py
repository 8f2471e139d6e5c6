"""What to think of predictions, and what to label next."""

from skfewshot.inspection._doubt import LabelIssues, label_issues
from skfewshot.inspection._novelty import novelty_score, novelty_threshold
from skfewshot.inspection._rejecting import RejectingClassifier
from skfewshot.inspection._report import Report
from skfewshot.inspection._sets import predict_set
from skfewshot.inspection._suggest import suggest
from skfewshot.inspection._why import Explanation, explain

__all__ = [
    "Explanation",
    "LabelIssues",
    "RejectingClassifier",
    "Report",
    "explain",
    "label_issues",
    "novelty_score",
    "novelty_threshold",
    "predict_set",
    "suggest",
]
