"""Measures of predictions: mean average precision with its scorer, and calibration."""

from skfewshot.metrics._calibration import expected_calibration_error
from skfewshot.metrics._precision import (
    MeanAveragePrecisionScorer,
    mean_average_precision,
    mean_average_precision_scorer,
)

__all__ = [
    "MeanAveragePrecisionScorer",
    "expected_calibration_error",
    "mean_average_precision",
    "mean_average_precision_scorer",
]
