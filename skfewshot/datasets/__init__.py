"""Images: rendered ones, those of a folder, and the papers' data sets."""

from skfewshot._tags import split_tags
from skfewshot.datasets._folder import check_images, load_folder
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
    "check_images",
    "load_benchmark",
    "load_folder",
    "make_object_images",
    "make_scenes",
    "split_tags",
]
