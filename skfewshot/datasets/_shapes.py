"""Outlines of the shapes, as polygons inside the unit disc."""

import numpy as np

Polygon = np.ndarray


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


# Each shape is a list of polygons: the outline first, then the holes.
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
