"""EvidenceMapDisplay: what is computed, where it is drawn, and what is refused."""

import itertools
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
from skfewshot.datasets import make_scenes
from skfewshot.display import EvidenceMapDisplay

pytestmark = pytest.mark.slow

NAMES = ["cat", "dog", "cow"]
SIDE, WIDTH = 4, 12


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def plant(cells, n_parts=SIDE**2, seed=0):
    """Return tokens and indicator; `cells` is {label: patch} of each image."""
    rng = np.random.default_rng(seed)
    parts = 0.1 * rng.normal(size=(len(cells), n_parts, WIDTH))
    parts[:, :, 3:7] += 0.5 * rng.random((len(cells), n_parts, 4))
    Y = np.zeros((len(cells), 3), dtype=int)
    for image, places in enumerate(cells):
        for label, patch in places.items():
            parts[image, patch] = 0.05 * rng.normal(size=WIDTH)
            parts[image, patch, label] = 1
            Y[image, label] = 1
    return np.concatenate([parts.mean(axis=1, keepdims=True), parts], axis=1), Y


SUPPORT = [{0: 1, 1: 7}, {1: 2, 2: 9}, {0: 12, 2: 3}, {0: 5}, {1: 11}, {2: 14}]
QUERY = [{0: 6, 2: 8}, {1: 15}]


@pytest.fixture(scope="module")
def model():
    X, Y = plant(SUPPORT)
    return MultiLabelPrototypeClassifier(
        np.eye(3, WIDTH), n_select=1, label_names=NAMES
    ).fit(X, Y)


@pytest.fixture(scope="module")
def query():
    X, Y = plant(QUERY, seed=1)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return X, Y, images


def texts(ax):
    return ax.get_title(), ax.get_ylabel()


def test_maps_and_axes(model, query):
    X, _, images = query
    display = EvidenceMapDisplay.from_estimator(model, X, images=images)
    assert display.maps.shape == (2, 3, SIDE, SIDE)
    assert display.ax_.shape == (2, 4)
    assert display.figure_ is display.ax_[0, 0].figure
    assert display.names == NAMES
    probabilities = model.predict_proba(X)
    np.testing.assert_array_equal(display.probabilities, probabilities)
    np.testing.assert_array_equal(display.shown, np.argsort(-probabilities, axis=1))
    evidence = model.explain(X)
    for image, labels in enumerate(display.shown):
        for column, label in enumerate(labels):
            wanted = evidence[image, label].reshape(SIDE, SIDE)
            np.testing.assert_array_equal(display.maps[image, column], wanted)
            assert NAMES[label] in display.ax_[image, 1 + column].get_title()


def test_planted_evidence_lands_in_its_cell(model, query):
    X, _, images = query
    display = EvidenceMapDisplay.from_estimator(
        model, X, images=images, labels=[0, 1, 2]
    )
    for image, places in enumerate(QUERY):
        for label, patch in places.items():
            row, column = divmod(patch, SIDE)
            strongest = display.maps[image, label].argmax()
            assert divmod(strongest, SIDE) == (row, column)
            # On the canvas too: the heat in axes that run from the top left corner.
            ax = display.ax_[image, 1 + label]
            heat = ax.images[-1].get_array()
            assert heat[row, column] == heat.max() > 0.5
            assert ax.images[-1].get_extent() == [0, 1, 1, 0]
            assert ax.get_ylim() == (1, 0)


def test_labels_that_are_numbers_are_named_by_themselves(query):
    X, Y = plant(SUPPORT)
    model = MultiLabelPrototypeClassifier(np.eye(3, WIDTH), n_select=1)
    model.fit(X, pd.DataFrame(Y, columns=[3, 5, 8]))
    display = EvidenceMapDisplay.from_estimator(
        model, query[0], images=query[2], labels=[8, 3]
    )
    assert display.names == ["3", "5", "8"]
    np.testing.assert_array_equal(display.shown, [[2, 0], [2, 0]])


def test_colours_are_common(model, query):
    X, _, images = query
    display = EvidenceMapDisplay.from_estimator(model, X, images=images)
    limits = {ax.images[-1].get_clim() for ax in display.ax_[:, 1:].flat}
    assert limits == {(0, 1)}


def test_chosen_labels_and_their_number(model, query):
    X, _, images = query
    display = EvidenceMapDisplay.from_estimator(model, X, images=images, labels=[2, 0])
    assert display.maps.shape == (2, 2, SIDE, SIDE)
    np.testing.assert_array_equal(display.shown, [[2, 0], [2, 0]])
    display = EvidenceMapDisplay.from_estimator(model, X, images=images, n_labels=1)
    assert display.maps.shape == (2, 1, SIDE, SIDE)
    for labels in ([3], []):
        with pytest.raises(ValueError, match="labels must"):
            EvidenceMapDisplay.from_estimator(model, X, images=images, labels=labels)
    with pytest.raises(ValueError, match="n_labels must be at least 1; got 0"):
        EvidenceMapDisplay.from_estimator(model, X, images=images, n_labels=0)
    with pytest.raises(TypeError, match="n_labels must be an int; got 2.0"):
        EvidenceMapDisplay.from_estimator(model, X, images=images, n_labels=2.0)
    display = EvidenceMapDisplay.from_estimator(model, X, images=images, labels=2)
    np.testing.assert_array_equal(display.shown, [[2], [2]])


def test_true_labels_are_marked(model, query):
    X, Y, images = query
    predicted = model.predict(X)
    np.testing.assert_array_equal(predicted, Y)
    wrong = Y.copy()
    wrong[1] = [1, 0, 0]
    options = {"labels": [0, 1, 2]}
    plain = EvidenceMapDisplay.from_estimator(model, X, images=images, **options)
    assert "✓" not in "".join(sum(map(texts, plain.ax_.flat), ()))
    display = EvidenceMapDisplay.from_estimator(
        model, X, images=images, y=wrong, **options
    )
    first, second = display.ax_
    assert "✓" in first[1].get_title() and "✓" in first[3].get_title()
    assert not {"✓", "✗", "missed"} & set(first[2].get_title().split())
    assert "missed" in second[1].get_title() and "✗" in second[2].get_title()
    assert "missed cat" in second[0].get_ylabel()
    assert "✗ dog" in second[0].get_ylabel()
    with pytest.raises(ValueError, match="wanted \\(2, 3\\)"):
        EvidenceMapDisplay.from_estimator(model, X, images=images, y=Y[:, :2])


def test_patches_that_are_no_square_are_named(model, query):
    X, _, images = query
    with pytest.raises(ValueError, match="15 patches an image, which is no square"):
        EvidenceMapDisplay.from_estimator(model, X[:, :-1], images=images)


def test_padding_is_left_clear(model, query):
    X, _, images = query
    X = X.copy()
    X[0, 5] = np.nan
    display = EvidenceMapDisplay.from_estimator(model, X, images=images)
    assert np.isnan(display.maps[0, :, 1, 0]).all()
    assert np.isfinite(display.maps[1]).all()
    heat = display.ax_[0, 1].images[-1].get_array()
    assert heat.mask[1, 0] and heat.mask.sum() == 1
    display.figure_.canvas.draw()


def test_a_map_that_is_all_padding_warns_of_nothing(query):
    maps = np.full((2, 1, 2, 2), np.nan)
    maps[1] = [[-1, 1], [1, -1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        display = EvidenceMapDisplay.from_predictions(query[2], maps, np.ones((2, 1)))
        display.figure_.canvas.draw()
    assert [len(row[1].collections) for row in display.ax_] == [0, 1]


def test_pictures_in_every_form(model, query, tmp_path):
    X, _, images = query
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    wide = Image.new("L", (50, 32), 9)
    display = EvidenceMapDisplay.from_estimator(
        model, X, images=[tmp_path / "a.png", wide]
    )
    np.testing.assert_array_equal(display.images[0], images[0])
    assert display.images[1].shape == (32, 32, 3)
    with pytest.raises(ValueError, match="images holds 1 images; wanted 2"):
        EvidenceMapDisplay.from_estimator(model, X, images=images[:1])
    with pytest.raises(TypeError, match="images is None"):
        EvidenceMapDisplay.from_estimator(model, X)


def test_axes_of_the_caller(model, query):
    X, _, images = query
    figure, axes = plt.subplots(2, 3)
    display = EvidenceMapDisplay.from_estimator(
        model, X, images=images, n_labels=2, ax=axes
    )
    assert display.ax_ is axes and display.figure_ is figure
    with pytest.raises(ValueError, match=r"axes of shape \(2, 4\)"):
        EvidenceMapDisplay.from_estimator(model, X, images=images, ax=axes)
    with pytest.raises(TypeError, match=r"axes of shape \(2, 3\).* got 0"):
        display.plot(ax=np.zeros((2, 3)))
    display.plot()
    assert display.figure_ is not figure


def test_one_label_an_image(query):
    X, Y = plant([{0: 1}, {1: 5}, {2: 7}, {0: 9}, {1: 3}, {2: 14}])
    y = np.array(NAMES)[Y.argmax(axis=1)]
    features = dict(zip(NAMES, np.eye(3, WIDTH), strict=True))
    model = MultiLabelPrototypeClassifier(features, n_select=1).fit(X, y)
    images = np.zeros((6, 16, 16, 3), dtype=np.uint8)
    display = EvidenceMapDisplay.from_estimator(
        model, X, images=images, y=y, labels=NAMES
    )
    assert (display.truth.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(display.predicted.sum(axis=1), np.ones(6))
    # Log odds of one label against the others: probabilities of a patch add up to 1.
    share = 1 / (1 + np.exp(-display.maps))
    np.testing.assert_allclose(share.sum(axis=1), 1)
    assert display.maps[0, 0].argmax() == 1


def test_pipeline_of_images():
    kinds = ["striped star", "plain heart", "spotted ring"]
    scenes = make_scenes(10, kinds=kinds, random_state=0)
    model = make_pipeline(
        CLIPFeaturizer("tiny", output="tokens"),
        MultiLabelPrototypeClassifier(label_names=kinds),
    ).fit(scenes.images, scenes.labels)
    display = EvidenceMapDisplay.from_estimator(model, scenes.images[:2])
    assert display.maps.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(display.images[1], scenes.images[1])


def test_predictions_from_anywhere(query):
    _, _, images = query
    maps = np.random.default_rng(0).normal(size=(2, 5, SIDE, SIDE))
    proba = np.array([[0.1, 0.9, 0.2, 0.6, 0.3], [0.8, 0.1, 0.2, 0.3, 0.4]])
    display = EvidenceMapDisplay.from_predictions(images, maps, proba, n_labels=2)
    np.testing.assert_array_equal(display.shown, [[1, 3], [0, 4]])
    np.testing.assert_array_equal(display.maps[1, 1], maps[1, 4])
    np.testing.assert_array_equal(display.predicted, proba >= 0.5)
    assert display.ax_[0, 1].get_title() == "1\n0.90"
    assert display.ax_[0, 0].get_ylabel() == "1 0.90\n3 0.60"
    display = EvidenceMapDisplay.from_predictions(
        images,
        maps,
        proba,
        y_pred=np.zeros((2, 5)),
        y_true=np.eye(2, 5),
        label_names=list("abcde"),
        labels=[4, 0],
    )
    assert display.ax_[0, 2].get_title() == "a\nmissed 0.10"
    assert display.ax_[0, 1].get_title() == "e\n0.30"
    assert display.ax_[1, 0].get_ylabel() == "missed b 0.10"


def test_many_labels_of_long_names_leave_room(query):
    _, _, images = query
    rng = np.random.default_rng(0)
    names = [f"number {place}, a name that is far too long" for place in range(30)]
    display = EvidenceMapDisplay.from_predictions(
        images, rng.normal(size=(2, 30, 3, 3)), np.full((2, 30), 0.7), label_names=names
    )
    lines = display.ax_[0, 0].get_ylabel().split("\n")
    assert len(lines) == 8 and lines[-1] == "and 23 more"
    assert lines[0] == "number 0, a name that is … 0.70"
    display.figure_.draw_without_rendering()
    frame = display.figure_.bbox.extents
    for row in display.ax_:
        titles = [ax.title.get_window_extent().extents for ax in row[1:]]
        for left, right in itertools.pairwise(titles):
            assert left[2] < right[0]
        label = row[0].yaxis.label.get_window_extent().extents
        assert frame[0] <= label[0] and label[2] <= row[0].bbox.x0
        assert row[0].bbox.width > 0.1 * display.figure_.bbox.width


BAD = [
    ({"maps": np.zeros((2, 5, 4, 3))}, r"maps must be .* got \(2, 5, 4, 3\)"),
    ({"y_proba": np.zeros((2, 4))}, r"y_proba has shape \(2, 4\); wanted \(2, 5\)"),
    ({"y_pred": np.zeros((2, 4))}, r"y_pred has shape \(2, 4\); wanted \(2, 5\)"),
    ({"y_true": np.full((2, 5), 2)}, "y_true .* must hold only 0 and 1"),
    ({"label_names": ["a"]}, "label_names holds 1 names; wanted 5"),
    ({"labels": [5]}, r"labels must hold numbers of labels, 0 to 4; got \[5\]"),
    ({"labels": ["a"]}, "labels must hold numbers"),
    ({"images": np.zeros((1, 8, 8, 3), np.uint8)}, "images holds 1 images; wanted 2"),
]


@pytest.mark.parametrize(("changed", "message"), BAD)
def test_bad_predictions(query, changed, message):
    arguments = {
        "images": query[2],
        "maps": np.zeros((2, 5, 4, 4)),
        "y_proba": np.zeros((2, 5)),
    }
    with pytest.raises(ValueError, match=message):
        EvidenceMapDisplay.from_predictions(**arguments | changed)


def test_estimators_that_explain_nothing(query):
    X, Y, images = query
    model = KNeighborsClassifier(1).fit(X[:, 0], Y)
    with pytest.raises(TypeError, match="got KNeighborsClassifier.* cannot explain"):
        EvidenceMapDisplay.from_estimator(model, X[:, 0], images=images)


@pytest.mark.parametrize("mode", ["auto", "crop", "pad", "squash"])
def test_pictures_are_those_that_the_model_saw(mode):
    from skfewshot import CLIPFeaturizer

    scenes = make_scenes(8, kinds=["plain ball", "striped star"], random_state=0)
    wide = [np.concatenate([image, image], axis=1) for image in scenes.images]
    clip = CLIPFeaturizer("tiny", output="tokens", resize_mode=mode)
    model = MultiLabelPrototypeClassifier(label_names=["plain ball", "striped star"])
    X = clip.fit_transform(wide)
    model.fit(X, scenes.labels)
    shown = EvidenceMapDisplay.from_estimator(model, X[:1], images=wide[:1]).images[0]
    side, width, _ = wide[0].shape
    if mode == "pad":
        assert shown.shape == (width, width, 3)
        assert not shown[: side // 4].any()
        np.testing.assert_array_equal(shown[side // 2 : side // 2 + side], wide[0])
    elif mode == "squash":
        assert shown.shape == (side, side, 3)
    else:
        np.testing.assert_array_equal(shown, wide[0][:, side // 2 : side // 2 + side])
