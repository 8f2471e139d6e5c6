"""Multi-label few-shot learning from local features."""

from skfewshot.multilabel.classifier import MultiLabelPrototypeClassifier
from skfewshot.multilabel.prior import MultiLabelPrototypePrior

__all__ = ["MultiLabelPrototypeClassifier", "MultiLabelPrototypePrior"]
