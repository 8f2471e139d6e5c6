"""Few-shot supports, cross-validation folds and scores by the number of shots."""

from skfewshot.model_selection.curve import shot_curve
from skfewshot.model_selection.folds import MultilabelStratifiedKFold
from skfewshot.model_selection.support import sample_support

__all__ = ["MultilabelStratifiedKFold", "sample_support", "shot_curve"]
