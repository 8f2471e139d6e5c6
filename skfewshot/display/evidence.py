"""Where in its picture the evidence for each label lies, as heat maps."""

from math import isqrt
from textwrap import fill

import numpy as np
from scipy.special import expit, logsumexp
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skfewshot.clip.images import as_images, read_image
from skfewshot.metrics import check_indicator
from skfewshot.text import class_names_of

#: Longer names of labels are broken into lines, so that they fit over a picture.
_LINE = 18
#: How much of the picture shows through the strongest evidence.
_OPACITY = 0.7
#: Grey values that a picture spans at least: below it, stretching would show noise.
_LEAST_CONTRAST = 90
_GREEN, _RED, _ORANGE, _GREY = "#1a7f37", "#c62828", "#b35900", "#767676"


class EvidenceMapDisplay:
    """Maps of the evidence of a :class:`MultiLabelPrototypeClassifier` over pictures.

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
    axes_ : ndarray of matplotlib axes, shape (n_samples, 1 + n_shown)
        The picture and the maps of each image.
    figure_ : matplotlib figure

    See Also
    --------
    skfewshot.MultiLabelPrototypeClassifier.explain : The numbers behind the maps.

    Notes
    -----
    Patches are laid over the central square of a picture, which is what most CLIP
    models are shown of it. For models that squash pictures, pass them squashed.

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
    ...     model, X[:2], scenes.images[:2], y=scenes.labels[:2], n_labels=3
    ... )
    >>> display.maps.shape, display.axes_.shape
    ((2, 3, 8, 8), (2, 4))
    """

    def __init__(
        self, *, maps, images, names, probabilities, predicted, shown, truth=None
    ):
        self.maps = maps
        self.images = images
        self.names = names
        self.probabilities = probabilities
        self.predicted = predicted
        self.shown = shown
        self.truth = truth

    @classmethod
    def from_estimator(
        cls, estimator, X, images=None, *, labels=None, y=None, n_labels=4, axes=None
    ):
        """Explain the predictions of a fitted classifier and draw the maps.

        Parameters
        ----------
        estimator : MultiLabelPrototypeClassifier or Pipeline
            A fitted classifier, or a pipeline that ends in one.
        X : array-like
            What `estimator` takes: tokens, with a square number of patches; or, for a
            pipeline that starts with a :class:`~skfewshot.CLIPFeaturizer`, images.
        images : sequence of n_samples images, default=None
            The pictures of `X`: a uint8 array (n, H, W, 3), or PIL images, arrays or
            paths. They can be left out where `X` is the images.
        labels : sequence, default=None
            The labels to show, out of the classifier's ``classes_`` and the same for
            all images; None shows those of highest probability in each image.
        y : array-like, default=None
            The true labels, an indicator of shape (n_samples, n_labels) or, for a
            classifier of one label an image, of shape (n_samples,).
        n_labels : int, default=4
            How many labels to show where `labels` is None; all, if there are fewer.
        axes : array-like of axes, shape (n_samples, 1 + n_shown), default=None
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
            If pictures are needed and none are given, or they are none.
        """
        check_is_fitted(estimator)
        images, tokens, classifier = _split_pipeline(estimator, X, images)
        pictures = [
            _central_square(read_image(image, index))
            for index, image in enumerate(as_images(images))
        ]
        evidence, predicted = classifier.explain(tokens), classifier.predict(tokens)
        if len(pictures) != len(evidence):
            raise ValueError(
                f"images holds {len(pictures)} images, but X has {len(evidence)}."
            )
        side = _side_of(evidence.shape[2])
        if predicted.ndim == 1:
            evidence = _against_the_others(evidence)
            predicted = predicted[:, None] == classifier.classes_
        probabilities = classifier.predict_proba(tokens)
        shown = _choose_labels(classifier, labels, probabilities, n_labels)
        maps = np.take_along_axis(evidence, shown[:, :, None], axis=1)
        display = cls(
            maps=maps.reshape(*shown.shape, side, side),
            images=pictures,
            names=_names_of(classifier),
            probabilities=probabilities,
            predicted=predicted.astype(bool),
            shown=shown,
            truth=None if y is None else _read_truth(y, classifier, predicted.shape),
        )
        return display.plot(axes=axes)

    def plot(self, *, axes=None):
        """Draw a row of picture and maps for each image.

        Parameters
        ----------
        axes : array-like of axes, shape (n_samples, 1 + n_shown), default=None
            Where to draw; a new figure by default.

        Returns
        -------
        self : EvidenceMapDisplay

        Raises
        ------
        ValueError
            If `axes` has another shape.
        """
        from matplotlib.cm import ScalarMappable

        shape = len(self.maps), 1 + self.maps.shape[1]
        self.axes_ = _make_axes(shape) if axes is None else np.asarray(axes)
        if self.axes_.shape != shape:
            raise ValueError(
                f"axes has the shape {self.axes_.shape}; wanted {shape}: for each "
                "image one for the picture and one for each map."
            )
        self.figure_ = self.axes_[0, 0].figure
        for index, row in enumerate(self.axes_):
            self._draw_picture(row[0], index)
            for column, ax in enumerate(row[1:]):
                self._draw_map(ax, index, column)
        bar = self.figure_.colorbar(
            ScalarMappable(cmap=_heat()),
            ax=self.axes_,
            shrink=min(1, 3 / len(self.axes_)),
            aspect=30,
        )
        bar.set_label("Probability, were all patches like this one", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        return self

    def _draw_picture(self, ax, index):
        """Draw the picture, and beside it what is predicted of it."""
        ax.imshow(self.images[index], extent=(0, 1, 1, 0))
        probabilities = self.probabilities[index]
        lines = []
        for label in np.argsort(-probabilities, kind="stable"):
            mark, _ = self._judge(index, label)
            if self.predicted[index, label] or mark:
                name, probability = self.names[label], probabilities[label]
                lines.append(f"{mark} {name} {probability:.2f}".strip())
        # Beside, not above: rows stay equally high however many lines there are.
        ax.set_ylabel(
            "\n".join(lines) or "no label",
            fontsize=8,
            rotation="horizontal",
            horizontalalignment="right",
            verticalalignment="center",
            multialignment="left",
            linespacing=1.5,
        )
        _finish(ax)

    def _draw_map(self, ax, index, column):
        """Draw a grey picture, the evidence for a label over it, and its border."""
        ax.imshow(_pale_grey(self.images[index]), extent=(0, 1, 1, 0))
        heat = expit(self.maps[index, column])
        options = {"interpolation": "bilinear", "extent": (0, 1, 1, 0)}
        ax.imshow(np.ma.masked_invalid(heat), cmap=_heat(), vmin=0, vmax=1, **options)
        if np.nanmin(heat) < 0.5 < np.nanmax(heat):
            side = len(heat)
            centers = (np.arange(-1, side + 1) + 0.5) / side
            heat = np.ma.masked_invalid(np.pad(heat, 1, mode="edge"))
            style = {"colors": "black", "linewidths": 0.7}
            ax.contour(centers, centers, heat, [0.5], **style)
        label = self.shown[index, column]
        mark, color = self._judge(index, label)
        probability = f"{mark} {self.probabilities[index, label]:.2f}".strip()
        title = f"{fill(self.names[label], _LINE)}\n{probability}"
        ax.set_title(title, fontsize=8, color=color)
        _finish(ax)

    def _judge(self, index, label):
        """Return the mark of a label of an image, and its colour."""
        predicted = self.predicted[index, label]
        if self.truth is None:
            return "", "black" if predicted else _GREY
        if self.truth[index, label]:
            return ("✓", _GREEN) if predicted else ("missed", _ORANGE)
        return ("✗", _RED) if predicted else ("", _GREY)


def _split_pipeline(estimator, X, images):
    """Return the pictures, the tokens and the classifier."""
    # The winner of a search predicts for it.
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline):
        images = X if images is None else images
        tokens = X if len(estimator) == 1 else estimator[:-1].transform(X)
        return images, tokens, estimator[-1]
    if images is None:
        raise TypeError(
            "images is None; pass the pictures of X, or a Pipeline from images to "
            "labels as the estimator and the images as X."
        )
    return images, X, estimator


def _central_square(image):
    """Return the central square of a PIL image as an array."""
    size = min(image.size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _side_of(n_patches):
    side = isqrt(n_patches)
    if side**2 != n_patches:
        raise ValueError(
            f"X has {n_patches} patches an image, which is no square number, so they "
            "do not tile a square picture; wanted tokens of shape (n, 1 + side**2, d)."
        )
    return side


def _against_the_others(evidence):
    """Turn logits of a softmax over labels, axis 1, into log odds."""
    n_labels = evidence.shape[1]
    others = [
        logsumexp(np.delete(evidence, label, axis=1), axis=1)
        for label in range(n_labels)
    ]
    return evidence - np.stack(others, axis=1)


def _choose_labels(classifier, labels, probabilities, n_labels):
    """Return the indices of the labels to show, shape (n_samples, n_shown)."""
    if labels is None:
        if n_labels < 1:
            raise ValueError(f"n_labels must be 1 or more; got {n_labels}.")
        return np.argsort(-probabilities, axis=1, kind="stable")[:, :n_labels]
    place = {label: index for index, label in enumerate(classifier.classes_.tolist())}
    labels = [labels] if isinstance(labels, str) else np.asarray(labels).tolist()
    unknown = [label for label in labels if label not in place]
    if unknown or not labels:
        raise ValueError(
            f"labels must name some of the classifier's classes_, such as "
            f"{list(place)[:10]}; got {unknown or labels}."
        )
    return np.tile([place[label] for label in labels], (len(probabilities), 1))


def _names_of(classifier):
    names = class_names_of(classifier.classes_, classifier.label_names)
    return [str(name) for name in (classifier.classes_ if names is None else names)]


def _read_truth(y, classifier, shape):
    """Return true labels as an indicator of bool."""
    if np.ndim(y) == 1 and not hasattr(y, "toarray"):
        truth = np.asarray(y)[:, None] == classifier.classes_
    else:
        truth = check_indicator(y, "y")
    if truth.shape != shape:
        raise ValueError(f"y gives labels of shape {truth.shape}; wanted {shape}.")
    return truth


def _make_axes(shape):
    import matplotlib.pyplot as plt

    n_rows, n_columns = shape
    size = 1.55 * n_columns + 2.4, 2 * n_rows
    _, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    return axes


def _heat():
    """Return a colour map from clear to hot."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    steps = np.linspace(0, 1, 256)
    colors = plt.get_cmap("YlOrRd")(0.15 + 0.85 * steps)
    colors[:, 3] = _OPACITY * np.minimum(1, 2.5 * steps)
    return ListedColormap(colors, name="clear to hot")


def _pale_grey(picture):
    """Return a grey copy, full of contrast and pale, as heat shows best on it."""
    grey = np.asarray(picture, dtype=np.float64).mean(axis=2)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(high - low, _LEAST_CONTRAST), 0, 1)
    return np.repeat(0.4 + 0.6 * grey[:, :, None], 3, axis=2)


def _finish(ax):
    ax.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))
