"""Names beside points, where there is room for them."""

from textwrap import fill

import numpy as np

#: Longer names are broken into two lines, and cut after them.
_LINE = 20
#: Of names, and how far they stay from the points, in points of 1/72 inch.
_FONT_SIZE, _DISTANCES = 8, (7, 15, 25, 37)
#: Room that a point takes to each side.
_RADIUS = 4
_DIRECTIONS = np.array(
    [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)]
)


def name_points(ax, points, names, taken=()):
    """Write names beside points; a name for which there is no room is left out.

    Parameters
    ----------
    ax : matplotlib axes
        With its limits set.
    points : ndarray of shape (n_points, 2)
        In the coordinates of the data.
    names : sequence of n_points str
    taken : sequence of matplotlib artists
        Where no name may be written.
    """
    from matplotlib.patheffects import withStroke

    # Layout engines move axes when a figure is drawn, and names need to know where to.
    # Those of a subfigure are drawn by the figure it is a part of.
    ax.figure.figure.draw_without_rendering()
    pixels = ax.figure.dpi / 72
    places = ax.transData.transform(points)
    boxes = [_box(place, _RADIUS * pixels) for place in places]
    boxes += [artist.get_window_extent().extents for artist in taken]
    for point, place, name in zip(points, places, names, strict=True):
        text = ax.annotate(
            fill(name, _LINE, max_lines=2, placeholder="…"),
            point,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=_FONT_SIZE,
            parse_math=False,
            ha="center",
            va="center",
            linespacing=1,
            zorder=5,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6},
        )
        half = np.array(text.get_window_extent().size) / 2
        box, middle, distance = _find_room(place, half, pixels, boxes, ax.bbox.extents)
        if box is None:
            text.remove()
            continue
        text.set_position((middle - place) / pixels)
        text.arrow_patch.set_visible(distance > _DISTANCES[0])
        boxes.append(box)


def _find_room(place, half, pixels, boxes, frame):
    """Return the nearest free box beside a place, its middle and its distance."""
    boxes = np.array(boxes)
    for distance in _DISTANCES:
        for direction in _DIRECTIONS:
            middle = place + direction * (half + (distance - 4) * pixels)
            box = _box(middle, half)
            inside = (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()
            apart = (box[:2] >= boxes[:, 2:]) | (box[2:] <= boxes[:, :2])
            if inside and apart.any(axis=1).all():
                return box, middle, distance
    return None, None, None


def _box(middle, half):
    return np.concatenate([middle - half, middle + half])
