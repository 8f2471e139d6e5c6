"""Where in its picture the evidence for each label lies, as heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from textwrap import fill
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.base import BaseEstimator

from skfewshot._labels import plain_labels, read_indicator
from skfewshot._names import class_names_of
from skfewshot._rows import as_numpy
from skfewshot.clip._holders import as_images
from skfewshot.clip._images import read_image
from skfewshot.display._shared import (
    against_the_others,
    check_axes,
    check_matplotlib,
    choose_labels,
    heat_colors,
    pale_grey,
    places_of,
    read_maps,
    seen_square,
    split_pipeline,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Over a picture longer names of labels are broken into two lines, and cut after them.
_LINE = 17
#: Beside a picture longer names are cut, and no more labels have room.
_LONGEST, _MOST_LINES = 26, 8
#: Of all text, in points, and the least where the figure is small.
_FONT_SIZE, _LEAST_FONT_SIZE = 8, 5
#: Of labels that are predicted and true, predicted only, true only, and neither.
_RIGHT, _WRONG, _MISSED, _NEITHER = "#005ea8", "#c0390b", "#8f5300", "#767676"


@dataclass(kw_only=True, eq=False, repr=False)
class EvidenceMapDisplay:
    """Maps of the evidence for each label, over the pictures.

    Of a fitted :class:`~skfewshot.MultiLabelPrototypeClassifier`.

    Each image is a row: the picture, and for each of its likeliest labels a grey copy
    under the evidence of its patches. Evidence is shown as the probability that the
    label would have if all patches were like this one; from one half on, inside the
    thin line, a patch speaks for the label. The colours are the same for all maps.

    Parameters
    ----------
    maps : ndarray of shape (n_samples, n_shown, side, side)
        Evidence in log odds; NaN where a patch is padding, which is left clear.
    images : list of n_samples ndarrays of uint8, shape (size, size, 3)
        The pictures, cut to the central square.
    names : list of n_labels str
        What each label is called.
    probabilities : ndarray of shape (n_samples, n_labels)
        Of all labels, shown or not.
    predicted : ndarray of bool, shape (n_samples, n_labels)
        The labels that the classifier predicts.
    shown : ndarray of int, shape (n_samples, n_shown)
        The labels of the maps.
    truth : ndarray of bool, shape (n_samples, n_labels), default=None
        The true labels. Where they are given, predictions are marked as right or wrong
        and missed labels are named.

    Attributes
    ----------
    ax_ : ndarray of matplotlib axes, shape (n_samples, 1 + n_shown)
        The picture and the maps of each image.
    figure_ : matplotlib figure

    See Also
    --------
    skfewshot.MultiLabelPrototypeClassifier.explain : The numbers behind the maps.

    Notes
    -----
    Patches are laid over what the model was shown of a picture: its central square, or
    what the `resize_mode` of the featurizer makes of it. For models that squash
    pictures by themselves, pass them squashed.

    With ``query_scoring="global"`` or ``"both"`` probabilities are fitted on other
    scores than those of patches: maps then say where, but not how much.

    Examples
    --------
    >>> from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
    >>> from skfewshot.datasets import make_scenes
    >>> from skfewshot.display import EvidenceMapDisplay
    >>> kinds = ["striped star", "plain heart", "spotted ring", "checked square"]
    >>> scenes = make_scenes(12, kinds=kinds, random_state=0)
    >>> X = CLIPFeaturizer("tiny", output="tokens").fit_transform(scenes.images)
    >>> model = MultiLabelPrototypeClassifier(label_names=kinds).fit(X, scenes.labels)
    >>> display = EvidenceMapDisplay.from_estimator(
    ...     model, X[:2], scenes.labels[:2], images=scenes.images[:2], n_labels=3
    ... )
    >>> display.maps.shape, display.ax_.shape
    ((2, 3, 8, 8), (2, 4))
    """

    maps: NDArray
    images: list[NDArray[np.uint8]]
    names: list[str]
    probabilities: NDArray
    predicted: NDArray[np.bool_]
    shown: NDArray[np.intp]
    truth: NDArray[np.bool_] | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        y: Any = None,
        *,
        images: Any = None,
        labels: ArrayLike | None = None,
        n_labels: int = 4,
        ax: Any = None,
    ) -> Self:
        """Explain the predictions of a fitted classifier and draw the maps.

        Parameters
        ----------
        estimator : MultiLabelPrototypeClassifier or Pipeline
            A fitted classifier, or a pipeline that ends in one.
        X : array-like
            What `estimator` takes: tokens, with a square number of patches; or, for a
            pipeline that starts with a :class:`~skfewshot.CLIPFeaturizer`, images.
        y : array-like, default=None
            The true labels, an indicator of shape (n_samples, n_labels) or, for a
            classifier of one label an image, of shape (n_samples,).
        images : sequence of n_samples images, default=None
            The pictures of `X`: a uint8 array (n, H, W, 3), or PIL images, arrays or
            paths. They can be left out where `X` is the images.
        labels : sequence, default=None
            The labels to show, out of the classifier's ``classes_`` and the same for
            all images; None shows those of highest probability in each image.
        n_labels : int, default=4
            How many labels to show where `labels` is None; all, if there are fewer.
        ax : array-like of axes, shape (n_samples, 1 + n_shown), default=None
            Where to draw; a new figure by default.

        Returns
        -------
        EvidenceMapDisplay

        Raises
        ------
        ValueError
            If the number of patches is no square, `labels` names a label that the
            classifier does not know, `n_labels` is below 1, or the lengths or shapes
            do not match.
        TypeError
            If `estimator` cannot explain its predictions, or pictures are needed and
            none are given, or they are none.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        classifier, tokens = split_pipeline(estimator, X)
        if not hasattr(classifier, "explain"):
            raise TypeError(
                "estimator must be a MultiLabelPrototypeClassifier, or a pipeline that "
                f"ends in one; got {classifier!r}, which cannot explain predictions."
            )
        if images is None:
            if tokens is X:
                raise TypeError(
                    "images is None; pass the pictures of X, or a Pipeline from images "
                    "to labels as the estimator and the images as X."
                )
            images = X
        evidence = as_numpy(classifier.explain(tokens))
        predicted = as_numpy(classifier.predict(tokens))
        truth = y if issparse(y) else plain_labels(y)
        classes = classifier.classes_
        if labels is not None:
            labels = places_of(np.atleast_1d(labels), classes)
        side = isqrt(evidence.shape[2])
        if side**2 != evidence.shape[2]:
            raise ValueError(
                f"X has {evidence.shape[2]} patches an image, which is no square "
                "number; wanted tokens of shape (n, 1 + side**2, d)."
            )
        if predicted.ndim == 1:
            evidence = against_the_others(evidence)
            predicted = predicted[:, None] == classes
            if np.ndim(truth) == 1:
                truth = np.asarray(truth)[:, None] == classes
        return cls.from_predictions(
            images,
            evidence.reshape(*evidence.shape[:2], side, side),
            classifier.predict_proba(tokens),
            y_pred=predicted,
            y_true=truth,
            label_names=_titles(classes, classifier.label_names),
            labels=labels,
            n_labels=n_labels,
            resize_mode=_resize_mode_of(classifier),
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        images: Any,
        maps: Any,
        y_proba: Any,
        *,
        y_pred: Any = None,
        y_true: Any = None,
        label_names: Sequence[str] | None = None,
        labels: ArrayLike | None = None,
        n_labels: int = 4,
        resize_mode: str = "crop",
        ax: Any = None,
    ) -> Self:
        """Draw evidence and predictions from anywhere.

        Parameters
        ----------
        images : sequence of n_samples images
            A uint8 array (n, H, W, 3), or PIL images, arrays or paths.
        maps : array-like of shape (n_samples, n_labels, side, side)
            Evidence for each label in log odds; NaN where a patch is padding.
        y_proba : array-like of shape (n_samples, n_labels)
            Probabilities of the labels.
        y_pred : array-like of shape (n_samples, n_labels), default=None
            An indicator of the labels predicted; by default those of probability one
            half or more.
        y_true : array-like of shape (n_samples, n_labels), default=None
            An indicator of the true labels.
        label_names : sequence of n_labels str, default=None
            What each label is called; its number by default.
        labels : sequence of int, default=None
            The numbers of the labels to show, the same for all images; None shows
            those of highest probability in each image.
        n_labels : int, default=4
            How many labels to show where `labels` is None; all, if there are fewer.
        resize_mode : {"crop", "pad", "squash"}, default="crop"
            What the model was shown of each picture.
        ax : array-like of axes, shape (n_samples, 1 + n_shown), default=None
            Where to draw; a new figure by default.

        Returns
        -------
        EvidenceMapDisplay

        Raises
        ------
        ValueError
            If lengths or shapes do not match, `labels` are no numbers of labels, or
            `n_labels` is below 1.
        TypeError
            If `images` holds no pictures.
        """
        check_matplotlib(f"{cls.__name__}.from_predictions")
        pictures = [
            seen_square(read_image(image, index), resize_mode)
            for index, image in enumerate(as_images(images))
        ]
        maps, y_proba = read_maps(maps, y_proba, len(pictures))
        shape = maps.shape[:2]
        names = range(shape[1]) if label_names is None else label_names
        if len(names) != shape[1]:
            raise ValueError(
                f"label_names holds {len(names)} names; wanted {shape[1]}."
            )
        y_pred = y_proba >= 0.5 if y_pred is None else y_pred
        shown = choose_labels(labels, y_proba, n_labels)
        display = cls(
            maps=np.take_along_axis(maps, shown[:, :, None, None], axis=1),
            images=pictures,
            names=[str(name) for name in names],
            probabilities=y_proba,
            predicted=read_indicator(y_pred, "y_pred", shape),
            shown=shown,
            truth=None if y_true is None else read_indicator(y_true, "y_true", shape),
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw a row of picture and maps for each image.

        Parameters
        ----------
        ax : array-like of axes, shape (n_samples, 1 + n_shown), default=None
            Where to draw; a new figure by default.

        Returns
        -------
        self : EvidenceMapDisplay

        Raises
        ------
        ValueError or TypeError
            If `ax` has another shape, or holds something else.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt
        from matplotlib.cm import ScalarMappable

        shape = len(self.maps), 1 + self.maps.shape[1]
        wanted = f"matplotlib axes of shape {shape}: a picture and maps for each image"
        if ax is None:
            inches = _width(shape[1]), 2 * shape[0]
            figure = plt.figure(figsize=inches, layout="constrained")
            ax = figure.subplots(*shape, squeeze=False)
        ax = check_axes(ax, shape, wanted)
        self.ax_, self.figure_ = ax, ax[0, 0].figure
        for index, row in enumerate(ax):
            self._draw_picture(row[0], index)
            for column, cell in enumerate(row[1:]):
                self._draw_map(cell, index, column)
        heat, shrink = ScalarMappable(cmap=heat_colors()), min(1, 3 / len(ax))
        bar = self.figure_.colorbar(heat, ax=ax, shrink=shrink, aspect=30)
        size = self._font_size()
        label = "Probability, were all\npatches like this one"
        bar.set_label(label, fontsize=size)
        bar.ax.tick_params(labelsize=size)
        return self

    def _draw_picture(self, ax: Axes, index: int) -> None:
        """Draw the picture, and beside it what is predicted of it."""
        ax.imshow(self.images[index], extent=(0, 1, 1, 0))
        probabilities = self.probabilities[index]
        lines = []
        for label in np.argsort(-probabilities, kind="stable"):
            mark, _ = self._judge(index, label)
            if self.predicted[index, label] or mark:
                name, probability = self.names[label], probabilities[label]
                name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
                lines.append(f"{mark} {name} {probability:.2f}".strip())
        if len(lines) > _MOST_LINES:
            more = len(lines) - _MOST_LINES + 1
            lines[-more:] = [f"and {more} more"]
        # Beside, not above: rows stay equally high however many lines there are.
        ax.set_ylabel(
            "\n".join(lines) or "no label",
            fontsize=self._font_size(),
            rotation="horizontal",
            horizontalalignment="right",
            verticalalignment="center",
            multialignment="left",
            parse_math=False,
            linespacing=1.5,
        )
        _finish(ax)

    def _draw_map(self, ax: Axes, index: int, column: int) -> None:
        """Draw a grey picture, the evidence for a label over it, and its border."""
        ax.imshow(pale_grey(self.images[index]), extent=(0, 1, 1, 0))
        heat = expit(self.maps[index, column])
        options: dict[str, Any] = {"interpolation": "bilinear", "extent": (0, 1, 1, 0)}
        ax.imshow(
            np.ma.masked_invalid(heat), cmap=heat_colors(), vmin=0, vmax=1, **options
        )
        if (heat < 0.5).any() and (heat > 0.5).any():
            side = len(heat)
            centers = (np.arange(-1, side + 1) + 0.5) / side
            heat = np.ma.masked_invalid(np.pad(heat, 1, mode="edge"))
            ax.contour(centers, centers, heat, [0.5], colors="black", linewidths=0.7)
        label = self.shown[index, column]
        mark, color = self._judge(index, label)
        probability = f"{mark} {self.probabilities[index, label]:.2f}".strip()
        name = fill(self.names[label], _LINE, max_lines=2, placeholder="…")
        size = self._font_size()
        ax.set_title(
            f"{name}\n{probability}", fontsize=size, color=color, parse_math=False
        )
        _finish(ax)

    def _font_size(self) -> float:
        width = self.figure_.bbox.width / self.figure_.dpi
        share = width / _width(self.ax_.shape[1])
        return np.clip(_FONT_SIZE * share, _LEAST_FONT_SIZE, _FONT_SIZE)

    def _judge(self, index: int, label: int) -> tuple[str, str]:
        """Return the mark of a label of an image, and its colour."""
        predicted = self.predicted[index, label]
        if self.truth is None:
            return "", "black" if predicted else _NEITHER
        if self.truth[index, label]:
            return ("✓", _RIGHT) if predicted else ("missed", _MISSED)
        return ("✗", _WRONG) if predicted else ("", _NEITHER)


def _titles(classes: NDArray, label_names: Any) -> list[str]:
    """Return the names of labels, and themselves where there are none or sentences."""
    names = class_names_of(classes, label_names) or classes
    return [
        name if isinstance(name, str) else str(label)
        for name, label in zip(names, classes, strict=True)
    ]


def _width(n_columns: int) -> float:
    """Return the width of a figure, in inches."""
    return 1.55 * n_columns + 2.4


def _finish(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))


def _resize_mode_of(classifier: Any) -> str:
    """Return how the pictures were resized that a classifier was fitted on."""
    return getattr(getattr(classifier, "encoder_", None), "resize_mode", "auto")
