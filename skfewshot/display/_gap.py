"""The modality gap, before and after the mapping of a fitted classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.utils import check_array

from skfewshot._rows import as_numpy, unit_rows
from skfewshot.display._shared import (
    COLORS,
    check_axes,
    check_matplotlib,
    read_classes,
    split_pipeline,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: Left, bottom, right and top.
Box: TypeAlias = NDArray | tuple[float, float, float, float]
#: More classes than this are not named in the picture: hardly a name would have room.
_MOST_NAMED = 40
#: Twelve, of which seven colours make 84 marks that come again after them.
_MARKERS = "os^DvPX<p>hd"
#: Longer names are broken into two lines, and cut after them.
_LINE = 20
#: Of names, and how far they stay from the points, in points of 1/72 inch.
_FONT_SIZE, _DISTANCES = 8, (7, 15, 25, 37)
#: Room that a point takes to each side.
_RADIUS = 4
#: Straight ones first, then diagonals.
_DIRECTIONS = np.array([*np.eye(2), *-np.eye(2), (1, 1), (-1, 1), (1, -1), (-1, -1)])
#: How texts are drawn.
_STAR: dict[str, Any] = {"s": 110, "marker": "*", "edgecolors": "black", "zorder": 3}
#: How images are, and prototypes, both with the mark of their class.
_DOT: dict[str, Any] = {"s": 16, "alpha": 0.5, "linewidths": 0}
_PROTOTYPE: dict[str, Any] = {
    "s": 44,
    "edgecolors": "black",
    "linewidths": 0.8,
    "zorder": 4,
}


@dataclass(kw_only=True, eq=False, repr=False)
class ModalityGapDisplay:
    """The modality gap before and after the mapping of a classifier by CMM.

    Images and texts before and after, and the prototypes after, all of unit norm, in
    the plane of their first two principal components. It is the same plane for both
    halves. Nothing is learned of texts: with ``solver="gaussian"`` images are centred
    and mapped, and texts are only centred, which alone takes most of the gap away. How
    many images come to lie by the text of their own class is told by `nearest_after`.

    Parameters
    ----------
    images, mapped_images : ndarray of shape (n_samples, 2)
        Image embeddings and their mapped features, projected.
    texts, mapped_texts : ndarray of shape (n_classes, 2)
        Texts, and the same where mapped images are compared with them, projected.
    prototypes : ndarray of shape (n_classes, 2) or None
        Of the classifier, in the space of the mapped images, projected.
    gap_before, gap_after : float
        Distance between the mean image and the mean text, before projection. It lies
        between 0 and 2.
    nearest_before, nearest_after : float
        Share of the images whose nearest text, by the cosine before projection, is that
        of their label.
    labels : ndarray of shape (n_samples,)
        Index of each image's class, which gives the colour and the mark.
    classes : ndarray of shape (n_classes,)
        Names of the classes.

    Attributes
    ----------
    ax_ : ndarray of 2 matplotlib axes
        Before and after.
    figure_ : matplotlib figure

    Examples
    --------
    >>> from skfewshot import CLIPFeaturizer, CMMClassifier
    >>> from skfewshot.datasets import make_object_images
    >>> from skfewshot.display import ModalityGapDisplay
    >>> images, names = make_object_images(
    ...     4, kinds=["striped star", "plain heart"], random_state=0, return_X_y=True
    ... )
    >>> X = CLIPFeaturizer("tiny").fit_transform(images)
    >>> display = ModalityGapDisplay.from_estimator(CMMClassifier().fit(X, names), X)
    >>> display.gap_after < display.gap_before
    True
    >>> display.nearest_after
    1.0
    """

    images: NDArray
    mapped_images: NDArray
    texts: NDArray
    mapped_texts: NDArray
    prototypes: NDArray | None
    gap_before: float
    gap_after: float
    nearest_before: float
    nearest_after: float
    labels: NDArray[np.intp]
    classes: NDArray

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        y: ArrayLike | None = None,
        *,
        ax: Any = None,
    ) -> Self:
        """Project the features of a fitted classifier and draw them.

        Parameters
        ----------
        estimator : CMMClassifier or Pipeline
            A fitted classifier, or a pipeline that ends in one.
        X : array-like
            What `estimator` takes: image embeddings, or for a pipeline that starts with
            a :class:`~skfewshot.CLIPFeaturizer` images; best of those that were not in
            the support.
        y : array-like of shape (n_samples,), default=None
            Their classes, for the colours and `nearest_before`; predictions by default.
        ax : array-like of 2 matplotlib axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        ModalityGapDisplay

        Raises
        ------
        TypeError
            If `estimator` has no mapping to show.
        ValueError
            If `y` has another length than `X`, or classes that the estimator does not
            know.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        classifier, X = split_pipeline(estimator, X)
        wanted = ("transform", "text_features_", "prototypes_")
        if not all(hasattr(classifier, name) for name in wanted):
            raise TypeError(
                "estimator must be a CMMClassifier, or a pipeline that ends in one; "
                f"got {classifier!r}, which does not map images to texts."
            )
        texts = classifier.text_features_
        # The Gaussian map takes the mean of the class means from images.
        is_centred = classifier.solver == "gaussian"
        return cls.from_predictions(
            X,
            texts,
            classifier.transform(X),
            unit_rows(texts - texts.mean(axis=0)) if is_centred else texts,
            prototypes=classifier.prototypes_,
            labels=classifier.predict(X) if y is None else y,
            classes=classifier.classes_,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        images: Any,
        texts: Any,
        mapped_images: Any,
        mapped_texts: Any,
        *,
        labels: Any,
        prototypes: Any = None,
        classes: ArrayLike | None = None,
        ax: Any = None,
    ) -> Self:
        """Project features from anywhere and draw them.

        Parameters
        ----------
        images, mapped_images : array-like of shape (n_samples, n_features)
            Image embeddings before and after the mapping; rows are scaled to unit norm.
        texts, mapped_texts : array-like of shape (n_classes, n_features)
            Texts before and after, a row for each of `classes`: what `images` and
            `mapped_images` are compared with.
        labels : array-like of shape (n_samples,)
            The class of each image.
        prototypes : array-like of shape (n_classes, n_features), default=None
            What else stands for the classes after the mapping; drawn beside the texts.
        classes : array-like of shape (n_classes,), default=None
            The class of each text; by default the sorted classes of `labels`.
        ax : array-like of 2 matplotlib axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        ModalityGapDisplay

        Raises
        ------
        ValueError
            If shapes do not match, or a label is not among `classes`.
        """
        images, mapped = _read_pair(images, mapped_images, "images")
        texts, mapped_texts = _read_pair(texts, mapped_texts, "texts")
        shown = [texts, mapped_texts]
        if prototypes is not None:
            shown.append(_read_pair(texts, prototypes, "texts", "prototypes")[1])
        labels, classes = read_classes(labels, classes, len(images), len(texts))
        plane = PCA(n_components=2, random_state=0).set_output(transform="default")
        # Each text as many times as there are images of a class: otherwise the few
        # texts would have no say, and the gap would not show.
        times = max(1, len(images) // len(texts))
        all_texts = np.repeat(np.concatenate(shown), times, axis=0)
        plane.fit(np.concatenate([images, mapped, all_texts]))
        display = cls(
            images=plane.transform(images),
            mapped_images=plane.transform(mapped),
            texts=plane.transform(texts),
            mapped_texts=plane.transform(mapped_texts),
            prototypes=None if prototypes is None else plane.transform(shown[2]),
            gap_before=_gap(images, texts),
            gap_after=_gap(mapped, mapped_texts),
            nearest_before=_nearest(images, texts, labels),
            nearest_after=_nearest(mapped, mapped_texts, labels),
            labels=labels,
            classes=classes,
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the two halves.

        Parameters
        ----------
        ax : array-like of 2 matplotlib axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        self : ModalityGapDisplay

        Raises
        ------
        ValueError or TypeError
            If `ax` does not hold 2 axes, or holds something else.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
        ax = check_axes(ax, (2,), "2 matplotlib axes, for before and after the mapping")
        self.ax_, self.figure_ = ax, ax[0].figure
        halves = [
            ("Before", self.images, self.texts, self.gap_before, self.nearest_before),
            (
                *("After", self.mapped_images, self.mapped_texts),
                *(self.gap_after, self.nearest_after),
            ),
        ]
        parts: list[NDArray] = [part for half in halves for part in half[1:3]]
        if self.prototypes is not None:
            parts.append(self.prototypes)
        everything = np.concatenate(parts)
        low, high = everything.min(axis=0), everything.max(axis=0)
        pad = 0.08 * (high - low)
        (left, bottom), (right, top) = low - pad, high + pad
        for cell, (when, images, texts, gap, nearest) in zip(ax, halves, strict=True):
            self._draw_half(cell, images, texts)
            title = f"{when} the mapping\ngap {gap:.2f}, own text nearest {nearest:.0%}"
            cell.set_title(title, fontsize="medium")
            cell.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
            cell.set_xlabel("First principal component")
        ax[0].set_ylabel("Second principal component")
        self._draw_prototypes(ax[1])
        kinds: dict[str, dict[str, Any]] = {"image": _DOT, "text": _STAR}
        if self.prototypes is not None:
            kinds["prototype"] = _PROTOTYPE
        handles = [ax[0].scatter([], [], c="grey", **style) for style in kinds.values()]
        legend = ax[0].legend(
            handles, list(kinds), loc="best", framealpha=0.9, fontsize="small"
        )
        names = [str(name) for name in self.classes]
        if len(names) <= _MOST_NAMED:
            name_points(ax[0], self.texts, names, taken=[legend])
            name_points(ax[1], self.mapped_texts, names)
        return self

    def _draw_half(self, ax: Axes, images: NDArray, texts: NDArray) -> None:
        """Draw images as dots, texts as stars, and a line from text to mean image."""
        for index, text in enumerate(texts):
            color, marker = _mark(index)
            members = images[self.labels == index]
            # The label is for a legend of the classes, which who calls may add.
            ax.scatter(
                *members.T,
                color=color,
                marker=marker,
                label=str(self.classes[index]),
                **_DOT,
            )
            ax.scatter(text[0], text[1], c=color, linewidths=0.8, **_STAR)
            if len(members):
                ends = np.stack([text, members.mean(axis=0)])
                ax.plot(*ends.T, color=color, linewidth=0.9, alpha=0.8, zorder=2)

    def _draw_prototypes(self, ax: Axes) -> None:
        if self.prototypes is not None:
            for index, place in enumerate(self.prototypes):
                color, marker = _mark(index)
                ax.scatter(*place, color=color, marker=marker, **_PROTOTYPE)


def _mark(index: int) -> tuple[str, str]:
    """Return colour and marker of a class."""
    return COLORS[index % len(COLORS)], _MARKERS[index % len(_MARKERS)]


def _read_pair(
    before: Any, after: Any, name: str, other: str | None = None
) -> tuple[NDArray, NDArray]:
    """Return features before and after the mapping, all of unit norm."""
    dtype = [np.float64, np.float32]
    before = check_array(np.asarray(as_numpy(before)), dtype=dtype, input_name=name)
    other = other or f"mapped_{name}"
    after = check_array(np.asarray(as_numpy(after)), dtype=dtype, input_name=other)
    if before.shape != after.shape:
        raise ValueError(
            f"{other} must be shaped like {name}, {before.shape}; got {after.shape}."
        )
    return unit_rows(before), unit_rows(after)


def _gap(images: NDArray, texts: NDArray) -> float:
    """Distance between the mean image and the mean text."""
    return float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)))


def _nearest(images: NDArray, texts: NDArray, labels: NDArray[np.intp]) -> float:
    """Share of the images whose nearest text is that of their label."""
    return float(np.mean((images @ texts.T).argmax(axis=1) == labels))


def name_points(
    ax: Axes, points: NDArray, names: Sequence[str], taken: Sequence[Artist] = ()
) -> None:
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

    assert ax.figure is not None
    # Layout engines move axes when a figure is drawn, and names need to know where to.
    # Those of a subfigure are drawn by the figure it is a part of.
    ax.figure.figure.draw_without_rendering()
    pixels = ax.figure.dpi / 72
    places = ax.transData.transform(points)
    boxes: list[Box] = [_box(place, _RADIUS * pixels) for place in places]
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
        room = _find_room(place, half, pixels, boxes, ax.bbox.extents)
        if room is None:
            text.remove()
            continue
        box, middle, distance = room
        text.set_position((middle - place) / pixels)
        assert text.arrow_patch is not None
        text.arrow_patch.set_visible(distance > _DISTANCES[0])
        boxes.append(box)


def _find_room(
    place: NDArray, half: NDArray, pixels: float, boxes: list[Box], frame: Box
) -> tuple[NDArray, NDArray, int] | None:
    """Return the nearest free box beside a place, its middle and its distance."""
    taken = np.array(boxes)
    for distance in _DISTANCES:
        for direction in _DIRECTIONS:
            middle = place + direction * (half + (distance - 4) * pixels)
            box = _box(middle, half)
            inside = (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()
            apart = (box[:2] >= taken[:, 2:]) | (box[2:] <= taken[:, :2])
            if inside and apart.any(axis=1).all():
                return box, middle, distance
    return None


def _box(middle: NDArray, half: Any) -> NDArray:
    return np.concatenate([middle - half, middle + half])
