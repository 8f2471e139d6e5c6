"""The kinds of object that the renderer draws: outlines, colours, split, captions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]


def _arc(radius: float, start: float, stop: float, n: int = 28) -> Polygon:
    angle = np.linspace(start, stop, n)
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])


def _regular(n: int, turn: float = -np.pi / 2) -> Polygon:
    angle = turn + 2 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _star() -> Polygon:
    radius = np.tile([1.0, 0.45], 5)[:, None]
    return radius * _regular(10)


def _heart() -> Polygon:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.column_stack([x, y - 2.0]) / 18.0


def _moon() -> Polygon:
    # The inner edge is an arc about a shifted centre through the same two horns.
    shift, inner = 0.55, 0.84
    horn = np.arccos((1 + shift**2 - inner**2) / (2 * shift))
    outer = _arc(1.0, horn, 2 * np.pi - horn, 40)
    x, y = np.cos(horn) - shift, np.sin(horn)
    half = np.arctan2(y, x)
    cut = _arc(inner, 2 * np.pi - half, half, 40) + np.array([shift, 0])
    return 0.87 * (np.vstack([outer, cut]) + np.array([0.2, 0]))


def _flower() -> Polygon:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    radius = 0.72 + 0.28 * np.cos(6 * t)
    return radius[:, None] * np.column_stack([np.cos(t), np.sin(t)])


def _cross() -> Polygon:
    a, b = 0.36, 0.93
    return np.array(
        [
            (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
            (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
        ]
    )  # fmt: skip


def _arrow() -> Polygon:
    return np.array(
        [
            (-0.95, -0.3), (0.05, -0.3), (0.05, -0.85), (1.0, 0.0),
            (0.05, 0.85), (0.05, 0.3), (-0.95, 0.3),
        ]
    )  # fmt: skip


# Polygons inside the unit disc: of each shape the outline first, then the holes.
OUTLINES: dict[str, list[Polygon]] = {
    "arrow": [_arrow()],
    "ball": [0.9 * _regular(48)],
    "cross": [_cross()],
    "flower": [_flower()],
    "heart": [_heart()],
    "moon": [_moon()],
    "ring": [_regular(48), 0.5 * _regular(40)],
    "square": [0.95 * _regular(4, np.pi / 4)],
    "star": [_star()],
    "triangle": [_regular(3)],
}

SHAPES = tuple(OUTLINES)
SURFACES = ("checked", "plain", "spotted", "striped")

KINDS = tuple(f"{surface} {shape}" for shape in SHAPES for surface in SURFACES)

# Six shapes lose two surfaces each, so that neither the shape nor the surface alone
# tells the novel kinds apart, while each of the words still occurs in a base kind.
NOVEL_KINDS = (
    "spotted ball",
    "striped ball",
    "plain cross",
    "spotted cross",
    "plain flower",
    "spotted flower",
    "checked heart",
    "plain heart",
    "checked moon",
    "striped moon",
    "checked ring",
    "striped ring",
)
BASE_KINDS = tuple(kind for kind in KINDS if kind not in NOVEL_KINDS)

COLORS = {
    "black": (28, 28, 32),
    "blue": (45, 80, 205),
    "brown": (125, 78, 40),
    "green": (45, 150, 65),
    "grey": (128, 128, 128),
    "orange": (240, 140, 30),
    "pink": (245, 150, 190),
    "purple": (130, 55, 165),
    "red": (210, 40, 40),
    "teal": (40, 165, 170),
    "white": (240, 240, 236),
    "yellow": (240, 220, 50),
}

# "{}" takes a phrase that already has its article: "a striped star".
CAPTION_TEMPLATES = (
    "{}",
    "{}.",
    "a photo of {}.",
    "a picture of {}.",
    "an image of {}.",
    "a drawing of {}.",
    "a rendering of {}.",
    "a close-up photo of {}.",
    "a bad photo of {}.",
    "a small photo of {}.",
    "this is {}.",
    "there is {}.",
    "{} in the scene.",
    "a photo of {}, a type of thing.",
    "a photo of {}, a type of object.",
)


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def join_phrases(phrases: Sequence[str]) -> str:
    """Join phrases as English does: "a", "a and b", "a, b and c"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def describe(
    kinds: Sequence[str],
    colors: Sequence[str] | None = None,
    background: str | None = None,
    template: str = "{}",
) -> str:
    """Write one caption for the objects of an image.

    Parameters
    ----------
    kinds : sequence of str
        The kind of each object that the caption names, in the order of reading.
    colors : sequence of str or None
        The colour word of each object; None leaves colours out.
    background : str or None
        The colour word of the background; None leaves it out.
    template : str
        A text with one ``{}``.

    Returns
    -------
    caption : str
    """
    words = kinds if colors is None else map(" ".join, zip(colors, kinds, strict=True))
    text = join_phrases([with_article(word) for word in words])
    if background is not None:
        text += f" on {with_article(background)} background"
    return template.format(text)


def random_caption(
    rng: np.random.Generator,
    kinds: Sequence[str],
    colors: Sequence[str],
    background: str,
) -> str:
    """Draw a template, and whether the caption names colours and background."""
    template = CAPTION_TEMPLATES[rng.integers(len(CAPTION_TEMPLATES))]
    named_colors = colors if rng.random() < 0.25 else None
    named_background = background if rng.random() < 0.15 else None
    return describe(kinds, named_colors, named_background, template)
