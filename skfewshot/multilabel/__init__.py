"""Multi-label few-shot learning from local features."""

from skfewshot.multilabel._scoring import compete
from skfewshot.multilabel._selection import loss_change
from skfewshot.multilabel.classifier import MultiLabelPrototypeClassifier
from skfewshot.multilabel.prior import MultiLabelPrototypePrior

__all__ = [
    "MultiLabelPrototypeClassifier",
    "MultiLabelPrototypePrior",
    "compete",
    "loss_change",
]
