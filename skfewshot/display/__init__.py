"""Pictures of what few-shot classifiers learned; ``skfewshot[plot]`` draws them."""

from skfewshot.display.evidence import EvidenceMapDisplay
from skfewshot.display.gap import ModalityGapDisplay
from skfewshot.display.shots import ShotCurveDisplay

__all__ = ["EvidenceMapDisplay", "ModalityGapDisplay", "ShotCurveDisplay"]
