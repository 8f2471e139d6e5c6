"""The modality gap, before and after the mapping of a fitted classifier."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from skfewshot.text import unit_rows

#: More classes than this are not named in the picture: the names would overlap.
_MOST_NAMED = 16


class ModalityGapDisplay:
    """The modality gap before and after the mapping of a :class:`CMMClassifier`.

    Images, texts, mapped images and refined texts, all unit norm, in the plane of their
    first two principal components. It is the same plane for both halves.

    Parameters
    ----------
    images, mapped_images : ndarray of shape (n_samples, 2)
        Image embeddings and their mapped features, projected.
    texts, refined_texts : ndarray of shape (n_classes, 2)
        Text prototypes before and after the fit, projected.
    gap_before, gap_after : float
        Distance between the mean image and the mean text on the unit sphere, before
        projection. It lies between 0 and 2.
    labels : ndarray of shape (n_samples,)
        Index of each image's class, which gives the colour.
    classes : ndarray of shape (n_classes,)
        Names of the classes.

    Attributes
    ----------
    axes_ : ndarray of 2 matplotlib axes
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
    """

    def __init__(
        self,
        *,
        images,
        mapped_images,
        texts,
        refined_texts,
        gap_before,
        gap_after,
        labels,
        classes,
    ):
        self.images = images
        self.mapped_images = mapped_images
        self.texts = texts
        self.refined_texts = refined_texts
        self.gap_before = gap_before
        self.gap_after = gap_after
        self.labels = labels
        self.classes = classes

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, axes=None):
        """Project the features of a fitted classifier and draw them.

        Parameters
        ----------
        estimator : CMMClassifier
            A fitted classifier.
        X : array-like of shape (n_samples, n_features)
            Image embeddings, best of images that were not in the support.
        y : array-like of shape (n_samples,), default=None
            Their classes, for the colours; predictions by default.
        axes : sequence of 2 matplotlib axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        ModalityGapDisplay
        """
        check_is_fitted(estimator)
        mapped = estimator.transform(X)
        images = unit_rows(np.asarray(X, dtype=mapped.dtype))
        texts, refined = estimator.zero_shot_features_, estimator.text_features_
        labels = estimator.predict(X) if y is None else np.asarray(y)
        plane = PCA(n_components=2, random_state=0)
        # Each text as many times as there are images of a class: otherwise the few
        # texts would have no say, and the gap would not show.
        times = max(1, len(images) // len(texts))
        both_texts = np.repeat(np.concatenate([texts, refined]), times, axis=0)
        plane.fit(np.concatenate([images, mapped, both_texts]))
        display = cls(
            images=plane.transform(images),
            mapped_images=plane.transform(mapped),
            texts=plane.transform(texts),
            refined_texts=plane.transform(refined),
            gap_before=_gap(images, texts),
            gap_after=_gap(mapped, refined),
            labels=np.searchsorted(estimator.classes_, labels),
            classes=estimator.classes_,
        )
        return display.plot(axes=axes)

    def plot(self, *, axes=None):
        """Draw the two halves.

        Parameters
        ----------
        axes : sequence of 2 matplotlib axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        self : ModalityGapDisplay
        """
        import matplotlib.pyplot as plt

        if axes is None:
            _, axes = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
        self.axes_ = np.asarray(axes)
        self.figure_ = self.axes_[0].figure
        halves = [
            ("Before", self.images, self.texts, self.gap_before),
            ("After", self.mapped_images, self.refined_texts, self.gap_after),
        ]
        everything = np.concatenate([part for half in halves for part in half[1:3]])
        low, high = everything.min(axis=0), everything.max(axis=0)
        pad = 0.06 * (high - low)
        for ax, (when, images, texts, gap) in zip(self.axes_, halves, strict=True):
            self._draw_half(ax, images, texts)
            ax.set(
                title=f"{when} the mapping: gap {gap:.2f}",
                xlim=(low[0] - pad[0], high[0] + pad[0]),
                ylim=(low[1] - pad[1], high[1] + pad[1]),
                xlabel="First principal component",
            )
        self.axes_[0].set_ylabel("Second principal component")
        self.axes_[0].legend(loc="best", framealpha=0.9)
        return self

    def _draw_half(self, ax, images, texts):
        """Draw images as dots, texts as stars, and a line from text to mean image."""
        import matplotlib.pyplot as plt

        colors = plt.get_cmap("tab20")(np.arange(len(self.classes)) % 20)
        ax.scatter(*images.T, c=colors[self.labels], s=9, alpha=0.5, linewidths=0)
        for index, (text, color) in enumerate(zip(texts, colors, strict=True)):
            members = images[self.labels == index]
            if len(members):
                ends = np.stack([text, members.mean(axis=0)])
                ax.plot(*ends.T, color=color, linewidth=0.8, alpha=0.8, zorder=2)
        star = {"s": 110, "marker": "*", "edgecolors": "black", "zorder": 3}
        ax.scatter(*texts.T, c=colors, **star)
        if len(self.classes) <= _MOST_NAMED:
            self._name_texts(ax, texts)
        ax.scatter([], [], c="grey", s=14, label="image")
        ax.scatter([], [], c="grey", label="text", **star)
        ax.set_xticks([])
        ax.set_yticks([])

    def _name_texts(self, ax, texts):
        for text, name in zip(texts, self.classes, strict=True):
            ax.annotate(
                str(name),
                text,
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                zorder=4,
            )


def _gap(images, texts):
    """Distance between the mean image and the mean text."""
    return float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)))
