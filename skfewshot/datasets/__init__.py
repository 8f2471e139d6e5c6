"""Images rendered procedurally: objects and scenes for demos, tests and teaching."""

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
    "make_object_images",
    "make_scenes",
]
