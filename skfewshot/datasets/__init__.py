"""Images for demos and tests, rendered; and the data sets of papers, read from disk."""

from skfewshot.datasets._kinds import (
    BASE_KINDS,
    COLORS,
    KINDS,
    NOVEL_KINDS,
    SHAPES,
    SURFACES,
)
from skfewshot.datasets._make import make_object_images, make_scenes
from skfewshot.datasets.benchmarks import BENCHMARKS, Benchmark, load_benchmark

__all__ = [
    "BASE_KINDS",
    "BENCHMARKS",
    "COLORS",
    "KINDS",
    "NOVEL_KINDS",
    "SHAPES",
    "SURFACES",
    "Benchmark",
    "load_benchmark",
    "make_object_images",
    "make_scenes",
]
