"""What to think of predictions, and what to label next."""

from skfewshot.inspection._sets import predict_set
from skfewshot.inspection._suggest import suggest

__all__ = ["predict_set", "suggest"]
