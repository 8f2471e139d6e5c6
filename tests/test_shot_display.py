"""ShotCurveDisplay: what is drawn, what it is called, and predictions from anywhere."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skfewshot.display import ShotCurveDisplay
from skfewshot.model_selection import shot_curve

CLASSES = np.array(["cat", "dog", "emu"])
Y = np.repeat(CLASSES, 10)
INDICATOR = (Y[:, None] == CLASSES).astype(int)
X = INDICATOR + 0.4 * np.random.default_rng(0).normal(size=(30, 3))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_curve_is_that_of_the_scores():
    options = {"shots": (1, 2, 4), "n_repeats": 2, "random_state": 0, "cv": 3}
    result = shot_curve(KNeighborsClassifier(1), X, Y, scoring="f1_macro", **options)
    display = ShotCurveDisplay.from_estimator(
        KNeighborsClassifier(1), X, Y, scoring="f1_macro", **options
    )
    assert_array_equal(display.test_scores, result.test_scores)
    mean, spread = result.test_scores.mean(axis=1), result.test_scores.std(axis=1)
    assert_array_equal(display.line_.get_xdata(), [1, 2, 4])
    assert_allclose(display.line_.get_ydata(), mean)
    outline = display.fill_between_.get_paths()[0].vertices[:, 1]
    assert outline.max() == pytest.approx((mean + spread).max())
    assert outline.min() == pytest.approx((mean - spread).min())
    ax = display.ax_
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4"]
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "F1 macro"
    assert ax.get_legend().get_texts()[0].get_text() == "KNeighborsClassifier"


def test_styles_of_the_spread():
    display = ShotCurveDisplay(shots=[4, 1], test_scores=[[0.7, 0.9], [0.4, 0.4]])
    display.plot(std_display_style="errorbar", errorbar_kw={"capsize": 5})
    assert display.fill_between_ is None and display.errorbar_.has_yerr
    assert_array_equal(display.line_.get_xdata(), [1, 4])
    assert_allclose(display.line_.get_ydata(), [0.4, 0.8])
    assert display.ax_.get_ylabel() == "Score" and display.ax_.get_legend() is None
    display.plot(std_display_style=None, line_kw={"c": "red", "lw": 3})
    assert display.fill_between_ is None and display.errorbar_ is None
    assert display.line_.get_color() == "red" and display.line_.get_linewidth() == 3
    display.plot(fill_between_kw={"alpha": 0.5, "fc": "green"})
    assert display.fill_between_.get_alpha() == 0.5
    with pytest.raises(ValueError, match="std_display_style must be .* got 'bars'"):
        display.plot(std_display_style="bars")


@pytest.mark.parametrize("style", ["fill_between", "errorbar", None])
def test_several_curves_in_one_axes(style):
    ax = None
    colors, markers = set(), set()
    for name, shots in (("a", [1, 2]), ("b", [2, 8]), (None, [1, 16])):
        display = ShotCurveDisplay(
            shots=shots, test_scores=[[0.5], [0.6]], name=name, score_name="Accuracy"
        ).plot(ax=ax, std_display_style=style)
        ax = display.ax_
        colors.add(display.line_.get_color())
        markers.add(display.line_.get_marker())
    assert len(colors) == len(markers) == 3
    assert ax.get_xticks().tolist() == [1, 2, 8, 16]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    display.plot(ax=ax, name="c", score_name="Points")
    assert ax.get_legend().get_texts()[-1].get_text() == "c"
    assert ax.get_ylabel() == "Points"


def test_many_shots_do_not_overlap():
    display = ShotCurveDisplay(shots=range(1, 17), test_scores=np.ones((16, 1))).plot()
    display.figure_.set_size_inches(4, 3)
    display.figure_.draw_without_rendering()
    labels = [tick.get_window_extent() for tick in display.ax_.get_xticklabels()]
    assert {1, 2, 4, 8, 16} < set(display.ax_.get_xticks())
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(labels))


def test_names_follow_from_what_is_given():
    options = {"shots": [1], "cv": 2}
    model = make_pipeline(StandardScaler(), LogisticRegression())
    display = ShotCurveDisplay.from_estimator(model, X, Y, **options)
    assert (display.name, display.score_name) == ("LogisticRegression", "Accuracy")
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1]}, cv=2)
    display = ShotCurveDisplay.from_estimator(
        search, X, Y, shots=[3], cv=2, scoring="neg_log_loss"
    )
    assert (display.name, display.score_name) == ("GridSearchCV", "Negative log loss")
    display = ShotCurveDisplay.from_estimator(
        KNeighborsClassifier(1),
        X,
        INDICATOR,
        scoring=lambda model, X, y: 0.0,
        name="mine",
        **options,
    )
    assert (display.name, display.score_name) == ("mine", "Score")


def test_predictions_are_scored():
    wrong = np.roll(Y, 10)
    half = np.where(np.arange(30) % 2, Y, wrong)
    display = ShotCurveDisplay.from_predictions(Y, {4: [Y, half], 1: [wrong, half]})
    assert_array_equal(display.shots, [1, 4])
    assert_allclose(display.test_scores, [[0, 0.5], [1, 0.5]])
    assert display.score_name == "Accuracy" and display.name is None
    display = ShotCurveDisplay.from_predictions(
        Y.tolist(),
        {2: half.tolist()},
        metric=balanced_accuracy_score,
        sample_weight=np.arange(30) % 2,
        name="mine",
    )
    assert display.test_scores.tolist() == [[1]] and display.name == "mine"
    assert display.score_name == "Balanced accuracy"
    display = ShotCurveDisplay.from_predictions(
        INDICATOR,
        {1: INDICATOR[::-1], 2: INDICATOR},
        metric=lambda y_true, y_pred: f1_score(y_true, y_pred, average="micro"),
    )
    assert_allclose(display.test_scores, [[1 / 3], [1]])


def test_many_curves_have_their_legend_beside_the_axes():
    _, ax = plt.subplots(layout="constrained")
    for name in "abcdef":
        display = ShotCurveDisplay(shots=[1, 2], test_scores=[[0.5], [1]], name=name)
        display.plot(ax=ax)
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.bbox.x1
    assert ax.get_legend().get_window_extent().x1 <= ax.figure.bbox.x1


@pytest.mark.parametrize(
    ("y_pred", "error", "message"),
    [
        ([Y], TypeError, "y_pred must be a dict .* got list"),
        ({1: Y[:5]}, ValueError, r"y_pred\[1\] must be shaped like y_true, \(30,\)"),
        ({1: [Y, Y[:5]]}, ValueError, r"y_pred\[1\] "),
        ({1: [Y, Y], 2: [Y]}, ValueError, r"as many draws .* holds {1: 2, 2: 1}"),
        ({}, ValueError, "shots must be a sequence"),
        ({"1": Y, 2: Y}, TypeError, r"ints, for keys; got \['1', 2\]"),
    ],
)
def test_bad_predictions(y_pred, error, message):
    with pytest.raises(error, match=message):
        ShotCurveDisplay.from_predictions(Y, y_pred)


@pytest.mark.parametrize(
    ("shots", "scores", "message"),
    [
        ([1, 2], [[0.5]], r"test_scores must .* \(2, n_draws\); got shape \(1, 1\)"),
        ([1], [0.5], "test_scores must"),
        ([1], [[]], "test_scores must"),
        ([0], [[0.5]], "shots must be a sequence of positive ints"),
        ([np.nan], [[0.5]], "shots must be a sequence of positive ints"),
        (["one"], [[0.5]], "shots must be a sequence of positive ints"),
    ],
)
def test_bad_scores(shots, scores, message):
    with pytest.raises(ValueError, match=message):
        ShotCurveDisplay(shots=shots, test_scores=scores).plot()


def test_what_is_no_metric():
    with pytest.raises(TypeError, match="metric must be a callable; got 'accuracy'"):
        ShotCurveDisplay.from_predictions(Y, {1: Y}, metric="accuracy")


@pytest.mark.parametrize(
    ("make_ax", "error", "message"),
    [
        (lambda: plt.subplots(1, 2)[1], ValueError, r"got shape \(2,\)"),
        (plt.figure, TypeError, "got <Figure"),
        (lambda: "left", TypeError, "got 'left'"),
    ],
)
def test_what_is_no_axes(make_ax, error, message):
    display = ShotCurveDisplay(shots=[1], test_scores=[[0.5]])
    with pytest.raises(error, match=f"ax must be one matplotlib axes; {message}"):
        display.plot(ax=make_ax())


def test_styles_go_by_any_of_their_names():
    display = ShotCurveDisplay(shots=[1, 2], test_scores=[[0.5, 0.6], [0.7, 1]])
    display.plot(std_display_style="errorbar", errorbar_kw={"c": "red", "lw": 4})
    bars = display.errorbar_.lines[2][0]
    assert_array_equal(bars.get_color(), [(1, 0, 0, 1)])
    assert bars.get_linewidth() == 4
