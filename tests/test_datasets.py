"""Rendered images: seeding, geometry, captions, the split of kinds, bad input."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skfewshot.datasets import (
    BASE_KINDS,
    COLORS,
    KINDS,
    NOVEL_KINDS,
    SHAPES,
    SURFACES,
    make_object_images,
    make_scenes,
)
from skfewshot.datasets._kinds import CAPTION_TEMPLATES, OUTLINES, describe

MAKERS = [make_object_images, make_scenes]
A_KIND = re.compile("|".join(KINDS))


def boxes_of(mask, n_objects):
    """Boxes from projections of the mask, another way than the renderer's."""
    boxes = []
    for index in range(n_objects):
        columns = (mask == index).any(axis=0)
        rows = (mask == index).any(axis=1)
        left, top = columns.argmax(), rows.argmax()
        right, bottom = (len(axis) - axis[::-1].argmax() for axis in (columns, rows))
        boxes.append([left, top, right, bottom])
    return np.array(boxes)


# --- kinds ------------------------------------------------------------------------


def test_kinds_are_every_surface_on_every_shape():
    assert len(KINDS) == len(SHAPES) * len(SURFACES) >= 36
    assert {tuple(kind.split()) for kind in KINDS} == {
        (surface, shape) for surface in SURFACES for shape in SHAPES
    }


def test_at_least_a_quarter_of_the_kinds_is_novel():
    assert sorted(BASE_KINDS + NOVEL_KINDS) == sorted(KINDS)
    assert not set(BASE_KINDS) & set(NOVEL_KINDS)
    assert 4 * len(NOVEL_KINDS) >= len(KINDS)


def test_every_word_of_a_novel_kind_occurs_in_base_kinds():
    base_words = {word for kind in BASE_KINDS for word in kind.split()}
    assert base_words == {*SHAPES, *SURFACES}


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_stay_in_the_unit_disc(shape):
    for outline in OUTLINES[shape]:
        assert np.linalg.norm(outline, axis=1).max() <= 1.01


# --- seeding ----------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_same_seed_same_pixels(make):
    kinds = ["plain star", "spotted ball", "checked ring", "striped moon"]
    first, again = (make(3, kinds=kinds, random_state=7) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.captions == again.captions
    np.testing.assert_array_equal(first.labels, again.labels)
    other = make(3, kinds=kinds, random_state=8)
    assert (first.images != other.images).any()


@pytest.mark.parametrize(
    ("make", "colors"),
    [(make_object_images, (179.9, 105.6, 144.2)), (make_scenes, (206.0, 180.2, 50.1))],
)
def test_pixels_stay_those_that_the_embedded_model_was_trained_on(make, colors):
    """The last of several images: whatever was drawn otherwise would have moved it."""
    image = make(3, kinds=KINDS, random_state=0).images[-1]
    np.testing.assert_allclose(image.mean(axis=(0, 1)), colors, atol=0.5)


@pytest.mark.parametrize("make", MAKERS)
def test_random_state_and_generator_seed_too(make):
    for source in (np.random.RandomState, np.random.default_rng):
        first, again = (
            make(1, kinds=KINDS[:2], random_state=source(3)).images for _ in range(2)
        )
        np.testing.assert_array_equal(first, again)
    generator = np.random.default_rng(3)
    first, second = (
        make(1, kinds=KINDS[:2], random_state=generator).images for _ in range(2)
    )
    assert (first != second).any()


@pytest.mark.parametrize("make", MAKERS)
def test_global_generator_is_left_alone(make):
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    first, second = (
        make(1, kinds=KINDS[:2], random_state=None).images for _ in range(2)
    )
    assert (first != second).any()
    kind_after, keys_after, *rest_after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(keys, keys_after)
    assert (kind, rest) == (kind_after, rest_after)


# --- one object an image ----------------------------------------------------------


@pytest.fixture(scope="module")
def singles():
    return make_object_images(2, random_state=0)


def test_object_images_have_the_documented_form(singles):
    n = 2 * len(KINDS)
    assert singles.kinds == KINDS
    assert singles.images.shape == (n, 64, 64, 3)
    assert singles.images.dtype == np.uint8
    assert singles.masks.shape == (n, 64, 64) and singles.masks.dtype == bool
    assert singles.boxes.shape == (n, 4) and singles.boxes.dtype == np.int64
    assert len(singles.captions) == n
    assert set(singles.colors) | set(singles.backgrounds) <= set(COLORS)
    names, counts = np.unique(singles.labels, return_counts=True)
    assert names.tolist() == sorted(KINDS)
    assert (counts == 2).all()


def test_labels_are_shuffled_unless_told(singles):
    assert (singles.labels != np.repeat(KINDS, 2)).any()
    kinds = ["plain star", "plain arrow"]
    _, labels = make_object_images(
        2, kinds=kinds, shuffle=False, return_X_y=True, random_state=0
    )
    assert labels.tolist() == ["plain star"] * 2 + ["plain arrow"] * 2


def test_object_box_is_the_tight_box_of_its_mask(singles):
    for mask, box in zip(singles.masks, singles.boxes, strict=True):
        np.testing.assert_array_equal(boxes_of(np.where(mask, 0, -1), 1)[0], box)


def test_object_captions_name_the_label_and_true_colours(singles):
    for caption, label, color, ground in zip(
        singles.captions,
        singles.labels,
        singles.colors,
        singles.backgrounds,
        strict=True,
    ):
        assert A_KIND.findall(caption) == [label]
        if "background" in caption:
            assert f"{ground} background" in caption
        words = caption.split()
        before = words[words.index(label.split()[0]) - 1]
        assert before == color or before not in COLORS


def test_the_strongest_edge_of_a_clean_image_is_the_object():
    plain = [kind for kind in KINDS if kind.startswith("plain")]
    data = make_object_images(4, kinds=plain, clutter=0, noise=0, random_state=1)
    grey = data.images.astype(float).sum(axis=3)
    edges = (
        np.abs(np.diff(grey, axis=2))[:, :-1] + np.abs(np.diff(grey, axis=1))[:, :, :-1]
    )
    for edge, (left, top, right, bottom) in zip(edges, data.boxes, strict=True):
        row, column = np.unravel_index(edge.argmax(), edge.shape)
        assert left - 1 <= column < right and top - 1 <= row < bottom


def test_objects_differ_from_what_surrounds_them():
    data = make_object_images(2, clutter=0, noise=0, random_state=2)
    for image, mask in zip(data.images, data.masks, strict=True):
        inside = image[mask].astype(float)
        outside = image[~mask].astype(float).mean(axis=0)
        assert np.abs(inside - outside).sum(axis=1).mean() > 60


# --- scenes -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(60, random_state=0)


def test_scenes_have_the_documented_form(scenes):
    assert scenes.kinds == BASE_KINDS
    assert scenes.images.shape == (60, 64, 64, 3)
    assert scenes.images.dtype == np.uint8
    assert scenes.labels.shape == (60, len(BASE_KINDS))
    assert set(np.unique(scenes.labels)) == {0, 1}
    assert set(map(len, scenes.objects)) == {1, 2, 3, 4}
    for key in ("captions", "boxes", "masks", "colors", "backgrounds"):
        assert len(scenes[key]) == 60


def test_scene_labels_objects_and_captions_agree(scenes):
    for row, names, caption in zip(
        scenes.labels, scenes.objects, scenes.captions, strict=True
    ):
        assert A_KIND.findall(caption) == names
        present = {scenes.kinds[column] for column in np.flatnonzero(row)}
        assert present == set(names) and len(present) == len(names)


def test_scene_boxes_are_tight_and_apart(scenes):
    for mask, boxes, names in zip(
        scenes.masks, scenes.boxes, scenes.objects, strict=True
    ):
        assert boxes.shape == (len(names), 4)
        np.testing.assert_array_equal(boxes_of(mask, len(names)), boxes)
        assert mask.max() == len(names) - 1
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        gaps = np.linalg.norm(centers[:, None] - centers[None], axis=2)
        assert (gaps[~np.eye(len(names), dtype=bool)] > 12).all()


def test_novel_kinds_can_be_drawn_in_scenes():
    scenes = make_scenes(20, kinds=NOVEL_KINDS, random_state=0)
    assert {name for names in scenes.objects for name in names} <= set(NOVEL_KINDS)


@settings(max_examples=25)
@given(
    size=st.integers(16, 80),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6, unique=True),
    clutter=st.floats(0, 1),
    noise=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_scenes_hold_for_any_settings(size, kinds, clutter, noise, seed, data):
    most = data.draw(st.integers(1, min(4, len(kinds))))
    least = data.draw(st.integers(1, most))
    scenes = make_scenes(
        3,
        kinds=kinds,
        min_objects=least,
        max_objects=most,
        image_size=size,
        clutter=clutter,
        noise=noise,
        random_state=seed,
    )
    assert scenes.images.shape == (3, size, size, 3)
    for row, boxes, mask in zip(scenes.labels, scenes.boxes, scenes.masks, strict=True):
        assert least <= row.sum() == len(boxes) <= most
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()
        np.testing.assert_array_equal(boxes_of(mask, len(boxes)), boxes)


# --- captions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((["plain star"],), "a plain star"),
        ((["plain star"], ["orange"]), "an orange plain star"),
        (
            (["striped star", "spotted heart"], None, "green"),
            "a striped star and a spotted heart on a green background",
        ),
        ((["plain star", "plain ball", "plain moon"], None, None, "{}."),
         "a plain star, a plain ball and a plain moon."),
    ],
)  # fmt: skip
def test_describe(arguments, expected):
    assert describe(*arguments) == expected


def test_templates_have_one_slot():
    assert all(template.count("{}") == 1 for template in CAPTION_TEMPLATES)


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kinds": "plain star"}, TypeError, "kinds must be a sequence"),
        ({"kinds": 3}, TypeError, "kinds must be a sequence"),
        ({"kinds": []}, ValueError, "must be among"),
        ({"kinds": ["plain cat"]}, ValueError, "plain cat"),
        ({"kinds": [["plain star"]]}, ValueError, "must be among"),
        ({"kinds": ["plain star"] * 2}, ValueError, "must not repeat"),
        ({"image_size": 8}, ValueError, "image_size must be at least 16; got 8"),
        ({"image_size": 64.0}, TypeError, "image_size must be an int; got 64.0"),
        ({"clutter": -0.1}, ValueError, "clutter must be from 0 to 1; got -0.1"),
        ({"clutter": "much"}, TypeError, "clutter must be a number"),
        ({"noise": 2}, ValueError, "noise must be from 0 to 1; got 2"),
        ({"noise": float("nan")}, ValueError, "noise must be from 0 to 1"),
        ({"noise": True}, TypeError, "noise must be a number"),
        ({"random_state": "seed"}, TypeError, "random_state must be an int"),
        ({"random_state": -1}, ValueError, "random_state must be at least 0"),
    ],
)
def test_bad_arguments_are_named(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(2, **arguments)


@pytest.mark.parametrize("count", [0, -1])
def test_counts_must_be_positive(count):
    with pytest.raises(ValueError, match="n_per_class must be at least 1"):
        make_object_images(count)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        make_scenes(count)


def test_number_of_objects_must_fit():
    with pytest.raises(ValueError, match="max_objects must be from 1 to 4; got 5"):
        make_scenes(1, max_objects=5)
    with pytest.raises(ValueError, match="max_objects must be from 3 to 4; got 2"):
        make_scenes(1, min_objects=3, max_objects=2)


def test_few_kinds_bound_the_number_of_objects():
    # The default of 4 must not fail when only two kinds were asked for.
    scenes = make_scenes(8, kinds=["plain star", "plain ball"], random_state=0)
    assert max(map(len, scenes.objects)) <= 2


@pytest.mark.slow
def test_datasets_do_not_import_torch():
    code = "import sys, skfewshot.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
