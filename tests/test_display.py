"""What all displays have in common, and the modality gap."""

import inspect
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn
import torch
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skfewshot
from skfewshot import CMMClassifier, MultiLabelPrototypeClassifier
from skfewshot.__main__ import main
from skfewshot.display import EvidenceMapDisplay, ModalityGapDisplay, ShotCurveDisplay

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
CLASSES = np.array(["cat", "dog", "emu"])
TEXTS = np.eye(3, 6)
Y = np.repeat(CLASSES, 10)
X = np.repeat(TEXTS, 10, axis=0) + 0.2 * RNG.normal(size=(30, 6)) + [0, 0, 0, 2, 0, 0]
INDICATOR = (Y[:, None] == CLASSES).astype(int)
TOKENS = 0.1 * RNG.normal(size=(30, 5, 6))
TOKENS[:, 2] += 2 * np.repeat(TEXTS, 10, axis=0)
IMAGES = RNG.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def cmm():
    features = dict(zip(CLASSES, TEXTS, strict=True))
    return CMMClassifier(text_features=features).fit(X[::2], Y[::2])


def gap_of_estimator(ax=None):
    features = dict(zip(CLASSES, TEXTS, strict=True))
    model = CMMClassifier(text_features=features).fit(X, Y)
    return ModalityGapDisplay.from_estimator(model, X, Y, ax=ax)


def gap_of_predictions(ax=None):
    return ModalityGapDisplay.from_predictions(
        X, TEXTS, X - [0, 0, 0, 2, 0, 0], TEXTS, labels=Y, ax=ax
    )


def evidence_of_estimator(ax=None):
    model = MultiLabelPrototypeClassifier(TEXTS).fit(TOKENS, INDICATOR)
    return EvidenceMapDisplay.from_estimator(
        model, TOKENS[::10], INDICATOR[::10], images=IMAGES[::10], ax=ax
    )


def evidence_of_predictions(ax=None):
    maps = RNG.normal(size=(3, 3, 4, 4))
    return EvidenceMapDisplay.from_predictions(
        IMAGES[::10], maps, INDICATOR[::10] * 0.9, y_true=INDICATOR[::10], ax=ax
    )


def curve_of_estimator(ax=None):
    return ShotCurveDisplay.from_estimator(
        KNeighborsClassifier(1), X, Y, shots=(1, 2, 4), ax=ax
    )


def curve_of_predictions(ax=None):
    return ShotCurveDisplay.from_predictions(Y, {1: [Y, Y[::-1]], 4: [Y, Y]}, ax=ax)


DISPLAYS = [
    (gap_of_estimator, (2,)),
    (gap_of_predictions, (2,)),
    (evidence_of_estimator, (3, 4)),
    (evidence_of_predictions, (3, 4)),
    (curve_of_estimator, ()),
    (curve_of_predictions, ()),
]


@pytest.mark.parametrize(("make", "shape"), DISPLAYS)
def test_convention_of_scikit_learn(make, shape):
    display = make()
    assert np.shape(display.ax_) == shape
    for ax in np.ravel(display.ax_):
        assert ax.figure is display.figure_
    figure, axes = plt.subplots(*shape)
    given = make(ax=axes)
    assert given.ax_ is axes and given.figure_ is figure
    first = display.figure_
    assert display.plot() is display
    assert display.figure_ not in (first, figure)
    assert display.plot(ax=axes).figure_ is figure
    display.figure_.canvas.draw()


@pytest.mark.parametrize("name", skfewshot.display.__all__)
def test_displays_are_made_of_what_they_keep(name):
    display = getattr(skfewshot.display, name)
    parameters = inspect.signature(display).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    values = {parameter: object() for parameter in parameters}
    assert vars(display(**values)) == values
    for method in (display.from_estimator, display.from_predictions, display.plot):
        assert inspect.signature(method).parameters["ax"].default is None


CALLS = [
    lambda: ShotCurveDisplay(shots=[1], test_scores=[[0.5]]).plot(),
    lambda: ShotCurveDisplay.from_estimator(DummyClassifier(), X, Y),
    lambda: ShotCurveDisplay.from_predictions(Y, {1: Y}),
    lambda: ModalityGapDisplay.from_estimator(DummyClassifier(), X),
    lambda: ModalityGapDisplay.from_predictions(X, X, X, X, labels=range(30)),
    lambda: EvidenceMapDisplay.from_estimator(DummyClassifier(), X),
    lambda: EvidenceMapDisplay.from_predictions(None, np.zeros((1, 1, 2, 2)), [[1]]),
]


@pytest.mark.parametrize("call", CALLS)
def test_without_matplotlib(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"Display\.\w+ needs matplotlib; run: pip"):
        call()


@pytest.mark.parametrize("options", [[], ["--multilabel"]])
def test_demo_without_matplotlib(options, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--shots", "1", *options]) == 1
    assert 'run: pip install "skfewshot[plot]"' in capsys.readouterr().err


@pytest.mark.slow
def test_import_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import skfewshot.display"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gap_of_a_pipeline_and_of_its_parts(cmm):
    by_hand = ModalityGapDisplay.from_predictions(
        X,
        cmm.text_features_,
        cmm.transform(X),
        cmm.text_features_ - cmm.text_features_.mean(axis=0),
        prototypes=cmm.prototypes_,
        labels=Y,
        classes=CLASSES,
    )
    scaler = StandardScaler(with_mean=False, with_std=False).fit(X)
    pipeline = make_pipeline(scaler, cmm)
    for estimator in (cmm, pipeline):
        display = ModalityGapDisplay.from_estimator(estimator, X, Y)
        for name, value in vars(by_hand).items():
            if name not in ("ax_", "figure_"):
                assert_array_equal(getattr(display, name), value)
    assert by_hand.gap_after < by_hand.gap_before
    assert by_hand.nearest_after >= by_hand.nearest_before > 0.8
    predicted = ModalityGapDisplay.from_estimator(cmm, X)
    assert_array_equal(CLASSES[predicted.labels], cmm.predict(X))


def test_texts_are_drawn_as_mapped_images_are_compared_with_them(cmm):
    features = dict(zip(CLASSES, TEXTS, strict=True))
    paper = CMMClassifier(text_features=features, solver="paper").fit(X, Y)
    display = ModalityGapDisplay.from_estimator(paper, X, Y)
    # As published texts stay where they are, and only images move.
    assert_array_equal(display.mapped_texts, display.texts)
    nearest = (paper.transform(X) @ TEXTS.T).argmax(axis=1)
    assert display.nearest_after == np.mean(CLASSES[nearest] == Y)
    centred = ModalityGapDisplay.from_estimator(cmm, X, Y)
    assert not np.allclose(centred.mapped_texts, centred.texts)
    alone = gap_of_predictions()
    assert alone.prototypes is None


@pytest.mark.parametrize(
    "size", [(9, 4.5), pytest.param((5, 2.5), marks=pytest.mark.slow)]
)
def test_names_of_texts_neither_overlap_nor_leave_the_axes(size):
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(20, 8))
    images = np.repeat(texts, 4, axis=0)
    names = np.array([f"{n}, a long name" if n % 2 else f"{n}" for n in range(20)])
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    ModalityGapDisplay.from_predictions(
        images,
        texts,
        -images,
        texts,
        labels=np.repeat(names, 4),
        classes=names,
        ax=axes,
    )
    figure.canvas.draw()
    for ax in axes:
        # Of the words, without the line to their star.
        boxes = np.array([Text.get_window_extent(text).extents for text in ax.texts])
        assert len(boxes) > 8
        assert (boxes[:, :2] > ax.bbox.extents[:2] - 1).all()
        assert (boxes[:, 2:] < ax.bbox.extents[2:] + 1).all()
        for place, box in enumerate(boxes):
            others = np.delete(boxes, place, axis=0)
            apart = (box[:2] > others[:, 2:] - 1) | (box[2:] < others[:, :2] + 1)
            assert apart.any(axis=1).all()


def test_tensors_are_drawn_like_arrays(cmm):
    gaps = [
        ModalityGapDisplay.from_estimator(cmm, rows, labels).images
        for rows, labels in ((X, Y), (torch.tensor(X), Y.tolist()))
    ]
    assert_allclose(*gaps, atol=1e-6)
    model = MultiLabelPrototypeClassifier(TEXTS).fit(TOKENS, INDICATOR)
    maps = [
        EvidenceMapDisplay.from_estimator(model, tokens, y, images=IMAGES[:2]).maps
        for tokens, y in (
            (TOKENS[:2], INDICATOR[:2]),
            (torch.tensor(TOKENS[:2]), torch.tensor(INDICATOR[:2])),
        )
    ]
    assert_allclose(*maps, atol=1e-6)


BAD_GAPS = [
    ({"labels": ["yak"] * 30, "classes": CLASSES}, "labels must be .* got 'yak'"),
    ({"labels": Y[:5]}, r"labels must hold .* \(30,\); got shape \(5,\)"),
    ({"labels": Y[:20].repeat(2)[:30]}, "each of the 3 texts, each once; got"),
    ({"mapped_images": X[:5]}, r"mapped_images must be shaped like images, \(30, 6\)"),
    ({"mapped_texts": TEXTS[:2]}, r"mapped_texts must be shaped like texts"),
    ({"prototypes": TEXTS[:2]}, r"prototypes must be shaped like texts"),
    ({"texts": TEXTS * np.nan}, "texts contains NaN"),
    ({"ax": [1, 2, 3]}, r"ax must be 2 matplotlib axes, .* got shape \(3,\)"),
    ({"labels": ["cat"] * 30, "classes": ["cat", "cat", "dog"]}, "each once; got "),
    ({"classes": "cat"}, "classes must name each of the 3 texts"),
]


@pytest.mark.parametrize(("changed", "message"), BAD_GAPS)
def test_bad_gaps(changed, message):
    arguments = {"images": X, "texts": TEXTS, "mapped_images": X, "labels": Y}
    arguments["mapped_texts"] = TEXTS
    with pytest.raises(ValueError, match=message):
        ModalityGapDisplay.from_predictions(**arguments | changed)


def test_a_gap_in_a_part_of_a_figure(cmm):
    figure = plt.figure(layout="constrained")
    _, right = figure.subfigures(1, 2)
    display = ModalityGapDisplay.from_estimator(cmm, X, ax=right.subplots(1, 2))
    assert display.figure_ is right
    names = {text.get_text() for text in display.ax_[1].texts}
    assert names == set(CLASSES)


def test_names_are_no_formulas():
    names = ["$5 bill and $10 bill", r"$a\foo$", "_"]
    display = ModalityGapDisplay.from_predictions(
        X, TEXTS, X, TEXTS, labels=np.repeat(names, 10), classes=names
    )
    evidence = EvidenceMapDisplay.from_predictions(
        IMAGES[:1], np.zeros((1, 3, 2, 2)), np.ones((1, 3)), label_names=names
    )
    for shown in (display, evidence):
        shown.figure_.canvas.draw()
    written = [text.get_text().replace("\n", " ") for text in display.ax_[1].texts]
    assert set(written) <= set(names) and written
    assert evidence.ax_[0, 2].get_title() == "$a\\foo$\n1.00"


@pytest.mark.parametrize("draw", [gap_of_estimator, gap_of_predictions])
def test_what_are_no_axes(draw):
    with pytest.raises(TypeError, match="ax must be 2 matplotlib axes, .* got 'left'"):
        draw(ax=["left", "right"])


def test_gap_of_estimators_and_labels_it_cannot_show(cmm):
    with pytest.raises(
        TypeError, match="must be a CMMClassifier.* got DummyClassifier"
    ):
        ModalityGapDisplay.from_estimator(DummyClassifier().fit(X, Y), X)
    with pytest.raises(ValueError, match="labels must be among the classes"):
        ModalityGapDisplay.from_estimator(cmm, X, np.full(30, "yak"))


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_a_gap_where_transformers_give_data_frames(cmm, container):
    expected = ModalityGapDisplay.from_estimator(cmm, X, Y)
    with sklearn.config_context(transform_output=container):
        shown = ModalityGapDisplay.from_estimator(cmm, X, Y)
    assert type(shown.images) is np.ndarray
    assert_allclose(shown.images, expected.images)
    assert_allclose(shown.mapped_texts, expected.mapped_texts)
    assert_allclose(shown.gap_after, expected.gap_after)
