"""The kinds of object that the renderer draws, their split, and their captions."""

from collections.abc import Sequence

import numpy as np

SHAPES = (
    "arrow",
    "ball",
    "cross",
    "flower",
    "heart",
    "moon",
    "ring",
    "square",
    "star",
    "triangle",
)
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
