"""Multi-label few-shot learning from local features."""

from skfewshot.multilabel._classifier import MultiLabelPrototypeClassifier
from skfewshot.multilabel._prior import MultiLabelPrototypePrior
from skfewshot.multilabel._scoring import compete
from skfewshot.multilabel._selection import loss_change

__all__ = [
    "MultiLabelPrototypeClassifier",
    "MultiLabelPrototypePrior",
    "compete",
    "loss_change",
]
