"""Scores by the number of shots, with their spread over draws, as curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.metrics import accuracy_score
from sklearn.pipeline import Pipeline

from skfewshot.display._shared import (
    COLORS,
    check_axes,
    check_matplotlib,
    check_scores,
    name_score,
    read_draws,
)
from skfewshot.model_selection import shot_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Style: TypeAlias = Literal["fill_between", "errorbar"] | None

#: Not as many as colours, so that it takes long until a pair comes again.
_MARKERS = "osD^vP"
#: More curves than this have their legend beside the axes.
_MOST_INSIDE = 5
#: By which curves are known to those that are drawn into the same axes later.
_GID = "skfewshot shot curve"
#: Numbers of shots nearer to each other than this share of the axis overlap.
_ROOM = 0.05


@dataclass(kw_only=True, eq=False, repr=False)
class ShotCurveDisplay:
    """Scores by the number of shots: the mean over draws, and its spread.

    The shots are on a logarithmic axis. Draw several curves into one axes with ``ax``:
    each gets the next colour and marker, and the legend names them all.

    Parameters
    ----------
    shots : array-like of int, shape (n_shots,)
        Images of each class that were learned from.
    test_scores : array-like of shape (n_shots, n_draws)
        The score of each draw of a support.
    score_name : str, default=None
        What the vertical axis is called; "Score" by default.
    name : str, default=None
        What the curve is called in the legend; without it there is none.

    Attributes
    ----------
    ax_ : matplotlib axes
        The axes with the curve.
    figure_ : matplotlib figure
        The figure with the axes.
    line_ : matplotlib line
        The mean scores.
    fill_between_ : matplotlib artist or None
        The band of one standard deviation, with ``std_display_style="fill_between"``.
    errorbar_ : matplotlib container or None
        The bars of one standard deviation, with ``std_display_style="errorbar"``.
    labeled_display_ : ShotCurveDisplay or None
        The curve of the labelled rows alone, of :meth:`from_estimator` with
        ``compare_unlabeled=True``.

    See Also
    --------
    skfewshot.model_selection.shot_curve : The numbers behind the curve.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skfewshot import CLIPFeaturizer, CMMClassifier
    >>> from skfewshot.datasets import make_object_images
    >>> from skfewshot.display import ShotCurveDisplay
    >>> images, names = make_object_images(
    ...     10,
    ...     kinds=["striped star", "plain heart", "spotted ring"],
    ...     random_state=0,
    ...     return_X_y=True,
    ... )
    >>> X = CLIPFeaturizer("tiny").fit_transform(images)
    >>> options = {"shots": (1, 2, 4), "random_state": 0}
    >>> display = ShotCurveDisplay.from_estimator(CMMClassifier(), X, names, **options)
    >>> other = ShotCurveDisplay.from_estimator(
    ...     LogisticRegression(), X, names, ax=display.ax_, **options
    ... )
    >>> display.ax_.get_legend_handles_labels()[1]
    ['CMMClassifier', 'LogisticRegression']
    """

    shots: ArrayLike
    test_scores: ArrayLike
    score_name: str | None = None
    name: str | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        y: Any,
        *,
        scoring: str | Callable[..., float] | None = None,
        ax: Axes | None = None,
        name: str | None = None,
        score_name: str | None = None,
        std_display_style: Style = "fill_between",
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        errorbar_kw: dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Fit and score an estimator with few shots and more, and draw its curve.

        Parameters
        ----------
        estimator, X, y, scoring
            As in :func:`~skfewshot.model_selection.shot_curve`.
        ax : matplotlib axes, default=None
            Where to draw; a new figure by default.
        name : str, default=None
            What the curve is called in the legend; by default the class of the
            estimator, of a pipeline that of its last step.
        score_name : str, default=None
            What the vertical axis is called; by default it follows from `scoring`.
        std_display_style, line_kw, fill_between_kw, errorbar_kw
            As in :meth:`plot`.
        **options
            The others of :func:`~skfewshot.model_selection.shot_curve`: `groups`,
            `shots`, `n_repeats`, `cv`, `random_state`, `n_jobs`, `error_score`,
            `params`, `unlabeled` and `compare_unlabeled`. The last draws a second curve
            into the axes, of the same supports without the rows that have no label.

        Returns
        -------
        ShotCurveDisplay
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        result = shot_curve(estimator, X, y, scoring=scoring, **options)
        if scoring is None and is_classifier(estimator) and np.ndim(y) == 1:
            score_name = score_name or "Accuracy"
        last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        name = type(last).__name__ if name is None else name
        styles: dict[str, Any] = {
            "std_display_style": std_display_style,
            "line_kw": line_kw,
            "fill_between_kw": fill_between_kw,
            "errorbar_kw": errorbar_kw,
        }
        score_name = score_name or name_score(scoring)
        compared = "labeled_test_scores" in result
        display = cls(
            shots=result.shots,
            test_scores=result.test_scores,
            score_name=score_name,
            name=f"{name}, unlabelled images too" if compared else name,
        ).plot(ax=ax, **styles)
        if compared:
            display.labeled_display_ = cls(
                shots=result.shots,
                test_scores=result.labeled_test_scores,
                score_name=score_name,
                name=f"{name}, labelled images alone",
            ).plot(ax=display.ax_, **styles)
        return display

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: Mapping[int, Any],
        *,
        metric: Callable[..., float] = accuracy_score,
        sample_weight: ArrayLike | None = None,
        ax: Axes | None = None,
        name: str | None = None,
        score_name: str | None = None,
        **options: Any,
    ) -> Self:
        """Score predictions that were made elsewhere, and draw their curve.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,) or (n_samples, n_labels)
            The true classes, or an indicator of the true labels.
        y_pred : dict of int to array-like
            For each number of shots the predictions: of one draw, shaped like `y_true`,
            or of several, shape (n_draws, ...); as many for all shots.
        metric : callable, default=accuracy_score
            ``metric(y_true, y_pred)`` returns the score of one draw.
        sample_weight : array-like of shape (n_samples,), default=None
            Passed to `metric` where given.
        ax : matplotlib axes, default=None
            Where to draw; a new figure by default.
        name : str, default=None
            What the curve is called in the legend; without it there is none.
        score_name : str, default=None
            What the vertical axis is called; by default it follows from `metric`.
        **options
            Those of :meth:`plot`: `std_display_style`, `line_kw`, `fill_between_kw` and
            `errorbar_kw`.

        Returns
        -------
        ShotCurveDisplay

        Raises
        ------
        ValueError
            If predictions are not shaped like `y_true`, or draws are not as many for
            all shots.
        TypeError
            If `y_pred` is no dict from ints, or `metric` is no callable.
        """
        if not callable(metric):
            raise TypeError(f"metric must be a callable; got {metric!r}.")
        shots, draws = read_draws(y_true, y_pred)
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        display = cls(
            shots=shots,
            test_scores=np.array(
                [[metric(y_true, draw, **weight) for draw in few] for few in draws]
            ),
            score_name=score_name or name_score(metric),
            name=name,
        )
        return display.plot(ax, **options)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        score_name: str | None = None,
        std_display_style: Style = "fill_between",
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        errorbar_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            Where to draw, such as the ``ax_`` of another curve; a new figure by
            default.
        name, score_name : str, default=None
            Instead of those given before.
        std_display_style : {"fill_between", "errorbar"} or None, \
                default="fill_between"
            The standard deviation over draws as a band, as bars, or not at all.
        line_kw : dict, default=None
            Passed to ``ax.plot``, for the style of the line.
        fill_between_kw, errorbar_kw : dict, default=None
            Passed to ``ax.fill_between`` and ``ax.errorbar``.

        Returns
        -------
        self : ShotCurveDisplay

        Raises
        ------
        ValueError
            If `std_display_style` is another, or the shapes of the shots and scores do
            not match.
        TypeError
            If `ax` is no axes.
        ImportError
            If matplotlib is not installed.
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.collections import PolyCollection
        from matplotlib.lines import Line2D

        if std_display_style not in ("fill_between", "errorbar", None):
            raise ValueError(
                'std_display_style must be "fill_between", "errorbar" or None; got '
                f"{std_display_style!r}."
            )
        shots, scores = check_scores(self.shots, self.test_scores)
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        check_axes(ax, (), "one matplotlib axes")
        self.ax_, self.figure_ = ax, ax.figure
        self.fill_between_ = self.errorbar_ = None
        self.labeled_display_: ShotCurveDisplay | None = None
        name = self.name if name is None else name
        mean, spread = scores.mean(axis=1), scores.std(axis=1)
        style = _next_style(ax) | {"label": name}
        style |= normalize_kwargs(line_kw or {}, Line2D)
        (self.line_,) = ax.plot(shots, mean, **style)
        color = self.line_.get_color()
        if std_display_style == "fill_between":
            style = {"alpha": 0.15, "facecolor": color, "linewidth": 0}
            style |= normalize_kwargs(fill_between_kw or {}, PolyCollection)
            self.fill_between_ = ax.fill_between(
                shots, mean - spread, mean + spread, **style
            )
        elif std_display_style == "errorbar":
            style = {"color": color, "capsize": 3, "fmt": "none"}
            style |= normalize_kwargs(errorbar_kw or {}, Line2D)
            self.errorbar_ = ax.errorbar(shots, mean, spread, **style)
        score_name = self.score_name if score_name is None else score_name
        score_name = score_name or ax.get_ylabel() or "Score"
        ax.set(xlabel="Images per class (shots)", ylabel=score_name)
        _scale_shots(ax, shots)
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        _add_legend(ax)
        return self


def _next_style(ax: Axes) -> dict[str, Any]:
    """Return a style that no curve of these axes has yet."""
    place = sum(line.get_gid() == _GID for line in ax.lines)
    return {
        "gid": _GID,
        "color": COLORS[place % len(COLORS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.8,
    }


def _add_legend(ax: Axes) -> None:
    """Name the curves, beside the axes where there are many and room can be made."""
    n_named = len(ax.get_legend_handles_labels()[0])
    beside = n_named > _MOST_INSIDE and ax.figure.get_layout_engine() is not None
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    if n_named:
        place = place if beside else {}
        ax.legend(fontsize="small", framealpha=0.8, edgecolor="none", **place)


def _scale_shots(ax: Axes, shots: NDArray) -> None:
    """Make the horizontal axis logarithmic, with the shots of all curves as ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator

    locator = ax.xaxis.get_major_locator()
    if ax.get_xscale() == "log" and isinstance(locator, FixedLocator):
        shots = np.union1d(shots, ax.get_xticks())
    places, ticks = np.log2(shots), list[int]()
    room = _ROOM * np.ptp(places)
    # Powers of two first, and the others where there is room.
    for index in np.lexsort((-places, places % 1 > 0)):
        if all(abs(places[index] - places[other]) >= room for other in ticks):
            ticks.append(index)
    shown = np.sort(shots[ticks])
    ax.set_xscale("log", base=2)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(shown, [f"{tick:g}" for tick in shown])
