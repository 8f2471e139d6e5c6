"""Images: rendered ones for demos, tests and teaching, and those of a folder."""

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

__all__ = [
    "BASE_KINDS",
    "COLORS",
    "KINDS",
    "NOVEL_KINDS",
    "SHAPES",
    "SURFACES",
    "check_images",
    "load_folder",
    "make_object_images",
    "make_scenes",
    "split_tags",
]
