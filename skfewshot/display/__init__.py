"""Pictures of what few-shot classifiers learned; ``skfewshot[plot]`` draws them."""

from skfewshot.display._evidence import EvidenceMapDisplay
from skfewshot.display._gap import ModalityGapDisplay
from skfewshot.display._shots import ShotCurveDisplay

__all__ = ["EvidenceMapDisplay", "ModalityGapDisplay", "ShotCurveDisplay"]
