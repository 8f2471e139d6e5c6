"""Pixels: backgrounds, distractor fragments, objects and noise, from one generator."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skfewshot.datasets._kinds import COLORS, OUTLINES

_SUPERSAMPLING = 3
_COLOR_NAMES = tuple(COLORS)
_PALETTE = np.array([COLORS[name] for name in _COLOR_NAMES], dtype=np.float32)

Pixels = NDArray[np.float32]


class Look(NamedTuple):
    """Settings that hold for every image of one data set."""

    image_size: int
    clutter: float
    noise: float


class Placement(NamedTuple):
    """An object to draw; lengths are in pixels."""

    kind: str
    center: tuple[float, float]
    radius: float


class Drawing(NamedTuple):
    """An image and what is in it."""

    image: NDArray[np.uint8]
    mask: NDArray[np.int8]
    colors: list[str]
    background: str


def render(
    rng: np.random.Generator, placements: list[Placement], look: Look
) -> Drawing:
    """Draw one image.

    Parameters
    ----------
    rng : numpy.random.Generator
    placements : list of Placement
        The objects, drawn in this order.
    look : Look

    Returns
    -------
    drawing : Drawing
        `image` is uint8 (size, size, 3); `mask` int8 (size, size) holds the position
        in `placements` of the object that each pixel belongs to, -1 for none.
    """
    ground = int(rng.integers(len(_PALETTE)))
    canvas = _background(rng, ground, look.image_size)
    canvas = _scatter(rng, canvas, rng.poisson(20 * look.clutter), _draw_fragment)
    mask = np.full((look.image_size, look.image_size), -1, dtype=np.int8)
    colors = []
    for index, placement in enumerate(placements):
        color, other = _pick_colors(rng, ground)
        _draw_object(rng, canvas, mask, index, placement, color, other)
        colors.append(_COLOR_NAMES[color])
    canvas = _scatter(rng, canvas, rng.poisson(1.2 * look.clutter), _draw_stroke)
    canvas *= _lighting(rng, look.image_size)
    if look.noise:
        sigma = 255 * look.noise * rng.uniform(0.3, 1.7)
        canvas += sigma * rng.standard_normal(canvas.shape, dtype=np.float32)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Drawing(image, mask, colors, _COLOR_NAMES[ground])


def _pick_colors(rng: np.random.Generator, ground: int) -> tuple[int, int]:
    """Draw the two colours of an object, apart from each other and the ground."""
    while True:
        color, other = rng.integers(len(_PALETTE), size=2)
        trio = _PALETTE[[ground, color, other]]
        apart = np.abs(trio - trio[[1, 2, 0]]).sum(axis=1)
        # ground-colour, colour-other, other-ground: the surface needs most contrast.
        if (apart > (170, 210, 90)).all():
            return int(color), int(other)


def _smooth_field(rng: np.random.Generator, cells: int, size: int) -> Pixels:
    """Draw low-frequency noise in about -1..1, (size, size)."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    field = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(field)


def _background(rng: np.random.Generator, ground: int, size: int) -> Pixels:
    color = _PALETTE[ground] + rng.normal(0, 10, 3).astype(np.float32)
    field = _smooth_field(rng, int(rng.integers(2, 9)), size)[:, :, None]
    tint = rng.normal(0, 1, 3).astype(np.float32)
    strength = rng.uniform(8, 40)
    return color + strength * field * (0.7 + 0.3 * tint)


def _scatter(
    rng: np.random.Generator,
    canvas: Pixels,
    n_drawn: int,
    draw_one: Callable[[np.random.Generator, ImageDraw.ImageDraw, Pixels], None],
) -> Pixels:
    """Draw something several times over a canvas, in whole steps of brightness."""
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(n_drawn):
        draw_one(rng, draw, canvas)
    return np.array(image, dtype=np.float32) if n_drawn else canvas


def _draw_fragment(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, canvas: Pixels
) -> None:
    """Draw a small shard, bar or dot, none of which is an object."""
    color, size = _PALETTE[rng.integers(len(_PALETTE))], len(canvas)
    # Fragments are paler than objects: half-way to the ground they lie on.
    x, y = rng.uniform(0, size, 2)
    under = canvas[int(y), int(x)]
    blend = rng.uniform(0.3, 0.8)
    fill = tuple(np.clip(blend * color + (1 - blend) * under, 0, 255).astype(int))
    n_corners = int(rng.integers(3, 6))
    angle = np.sort(rng.uniform(0, 2 * np.pi, n_corners))
    reach = size * rng.uniform(0.02, 0.09) * rng.uniform(0.5, 1.5, n_corners)
    corners = np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)
    draw.polygon(corners.ravel().tolist(), fill=fill)


def _draw_stroke(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, canvas: Pixels
) -> None:
    """Draw a thin line, as twigs and wires cross the objects in photographs."""
    size = len(canvas)
    x, y = rng.uniform(0, size, 2)
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.6) * size
    end = (x + reach * np.cos(angle), y + reach * np.sin(angle))
    fill = tuple(_PALETTE[rng.integers(len(_PALETTE))].astype(int))
    draw.line([(x, y), end], fill=fill, width=max(1, round(size / 64)))


def _lighting(rng: np.random.Generator, size: int) -> Pixels:
    """Brightness that falls off across the image, (size, size, 1)."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    gain = rng.uniform(0.75, 1.15) + rng.uniform(0, 0.5) * ramp
    return gain[:, :, None].astype(np.float32)


def _draw_object(
    rng: np.random.Generator,
    canvas: Pixels,
    mask: NDArray[np.int8],
    index: int,
    placement: Placement,
    color: int,
    other: int,
) -> None:
    """Blend one object into `canvas` and enter it into `mask`, both in place."""
    surface, shape = placement.kind.split()
    (x, y), radius = placement.center, placement.radius
    size = len(canvas)
    left, top = max(0, int(x - radius) - 1), max(0, int(y - radius) - 1)
    right, bottom = min(size, int(x + radius) + 2), min(size, int(y + radius) + 2)
    fine = _SUPERSAMPLING
    width, height = fine * (right - left), fine * (bottom - top)
    turn = rng.uniform(-0.7, 0.7)
    stretch = rng.uniform(0.82, 1.0, 2)
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    # A row of unit coordinates times `to_pixels` is an offset from the centre.
    to_pixels = fine * radius * (stretch[:, None] * spin)
    origin = np.array([fine * (x - left), fine * (y - top)])
    inside = _silhouette(shape, to_pixels, origin, (width, height))
    first = _surface(rng, surface, to_pixels, origin, (width, height), radius)
    cover = _shrink(inside)
    share = _shrink(inside & first) / np.maximum(cover, 1e-6)
    colors = _PALETTE[[color, other]] + rng.normal(0, 9, (2, 3)).astype(np.float32)
    paint = share[:, :, None] * colors[0] + (1 - share[:, :, None]) * colors[1]
    # A little shading keeps plain objects from being one flat colour.
    shading = _smooth_field(rng, 3, max(cover.shape))
    paint *= 1 + 0.12 * shading[: len(cover), : cover.shape[1], None]
    window = canvas[top:bottom, left:right]
    window += cover[:, :, None] * (paint - window)
    mask[top:bottom, left:right][cover > 0] = index


def _silhouette(
    shape: str, to_pixels: NDArray, origin: NDArray, extent: tuple[int, int]
) -> NDArray[np.bool_]:
    image = Image.new("L", extent, 0)
    draw = ImageDraw.Draw(image)
    for fill, outline in zip((255, 0), OUTLINES[shape], strict=False):
        points = (outline @ to_pixels + origin - 0.5).ravel().tolist()
        draw.polygon(points, fill=fill)
    return np.asarray(image) > 0


def _surface(
    rng: np.random.Generator,
    surface: str,
    to_pixels: NDArray,
    origin: NDArray,
    extent: tuple[int, int],
    radius: float,
) -> NDArray[np.bool_]:
    """Say where the first of the two colours shows, bool (height, width)."""
    width, height = extent
    if surface == "plain":
        return np.ones((height, width), dtype=bool)
    x = np.arange(width, dtype=np.float32) + 0.5 - np.float32(origin[0])
    y = np.arange(height, dtype=np.float32) + 0.5 - np.float32(origin[1])
    # Surfaces keep a scale of their own, so their period does not tell the size.
    back = np.linalg.inv(to_pixels).astype(np.float32)
    u = x[None, :] * back[0, 0] + y[:, None] * back[1, 0]
    v = x[None, :] * back[0, 1] + y[:, None] * back[1, 1]
    n_periods = rng.uniform(2.3, 3.6) if radius > 11 else rng.uniform(1.9, 2.5)
    du, dv = rng.uniform(0, 1, 2)
    u, v = n_periods * u / 1.6 + du, n_periods * v / 1.6 + dv
    if surface == "striped":
        return u % 1 < 0.5
    if surface == "checked":
        return (u % 1 < 0.5) != (v % 1 < 0.5)
    return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 > 0.085


def _shrink(fine: NDArray[np.bool_]) -> Pixels:
    """Average blocks of the fine grid, float32 (height, width)."""
    height, width = (length // _SUPERSAMPLING for length in fine.shape)
    blocks = fine.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING)
    return blocks.mean(axis=(1, 3), dtype=np.float32)
