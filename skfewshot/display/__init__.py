"""Pictures of what few-shot classifiers learned."""

from skfewshot.display.evidence import EvidenceMapDisplay
from skfewshot.display.gap import ModalityGapDisplay

__all__ = ["EvidenceMapDisplay", "ModalityGapDisplay"]
