"""Few-shot supports, cross-validation folds and scores by the number of shots."""

from skfewshot.model_selection._curve import shot_curve
from skfewshot.model_selection._semi_supervised import SemiSupervisedSplit
from skfewshot.model_selection._splits import MultilabelStratifiedKFold, sample_support

__all__ = [
    "MultilabelStratifiedKFold",
    "SemiSupervisedSplit",
    "sample_support",
    "shot_curve",
]
