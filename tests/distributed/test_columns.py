"""Columns of Arrow tables to images, arrays and ids, and back."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skfewshot import CLIPFeaturizer
from skfewshot.clip import ImageReadError

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

import pyarrow as pa
import ray
import ray.cloudpickle
import ray.data

from skfewshot.distributed.columns import (
    digest_ids,
    holds_floats,
    to_array,
    to_column,
    to_images,
)

# Ray warns of itself.
pytestmark = pytest.mark.filterwarnings(
    r"ignore::DeprecationWarning:ray\..*", r"ignore::FutureWarning:ray\..*"
)
CLOSE = {"atol": 2e-5, "rtol": 0}


def as_bytes(path):
    return Path(path).read_bytes()


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "struct", "path"])
def test_images_of_all_kinds_of_columns(kind, files, expected):
    files = files[:5]
    column = {
        "string": lambda: pa.array(files),
        "large_string": lambda: pa.array(files, pa.large_string()),
        "binary": lambda: pa.array([as_bytes(path) for path in files]),
        "struct": lambda: pa.array(
            [{"bytes": as_bytes(path), "path": "elsewhere"} for path in files]
        ),
        "path": lambda: pa.array([{"bytes": None, "path": path} for path in files]),
    }[kind]()
    images = to_images(pa.chunked_array([column[:2], column[2:]]))
    found = CLIPFeaturizer("tiny", num_workers=2).transform(images)
    np.testing.assert_allclose(found, expected[:5], **CLOSE)


@pytest.mark.parametrize("is_ragged", [False, True])
def test_images_as_arrays_of_ray(cluster, files, is_ragged):
    images = [np.asarray(Image.open(path).convert("RGB")) for path in files[:4]]
    if is_ragged:
        images = [image[: 60 - 4 * i] for i, image in enumerate(images)]
    dataset = ray.data.from_items([{"image": image} for image in images])
    column = dataset.take_batch(4, batch_format="pyarrow")["image"]
    assert not holds_floats(column.type)
    featurizer = CLIPFeaturizer("tiny")
    np.testing.assert_allclose(
        featurizer.transform(to_images(column)), featurizer.transform(images), **CLOSE
    )


def test_bytes_that_are_no_image_follow_on_error(files):
    column = pa.chunked_array([[as_bytes(files[0]), b"no image", None]])
    images = to_images(column)
    assert [type(item).__name__ for item in images[::2]] == ["PngImageFile", "NoneType"]
    with pytest.raises(ImageReadError, match="index 1 of X, 8 bytes") as caught:
        CLIPFeaturizer("tiny").transform(images)
    assert caught.value.index == 1
    with pytest.warns(UserWarning, match="2 of the images could not be read"):
        X = CLIPFeaturizer("tiny", on_error="nan").transform(images)
    assert np.isnan(X).any(axis=1).tolist() == [False, True, True]


def test_structs_may_hold_bytes_in_one_row_and_a_path_in_another(files):
    items = [
        {"bytes": as_bytes(files[0]), "path": "0.png"},
        {"bytes": None, "path": files[1]},
    ]
    featurizer = CLIPFeaturizer("tiny")
    found = featurizer.transform(to_images(pa.chunked_array([items])))
    np.testing.assert_allclose(found, featurizer.transform(files[:2]), **CLOSE)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 4)])
def test_arrays_go_to_columns_and_back(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    column = to_column(array)
    assert holds_floats(column.type)
    for chunks in ([column], [column[:1], column[1:]]):
        back = to_array(pa.chunked_array(chunks), "x")
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, array)
    ordinary = pa.chunked_array([array.tolist()])
    np.testing.assert_array_equal(to_array(ordinary, "x"), array)


def test_columns_that_are_no_embeddings_are_refused():
    for rows in ([[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.0, 4.0]]):
        with pytest.raises(ValueError, match="'x' differ in length"):
            to_array(pa.chunked_array([rows]), "x")
    with pytest.raises(ValueError, match="'x' has null in 1 of 2"):
        to_array(pa.chunked_array([[[1.0], None]]), "x")


def test_ids_are_told_apart():
    text = digest_ids(pa.chunked_array([["1", "2", "10"]]), "id")
    numbers = digest_ids(pa.chunked_array([pa.array([1, 2, 10], pa.int8())]), "id")
    np.testing.assert_array_equal(text, numbers)
    assert len(set(text.tolist())) == 3
    assert len(digest_ids(pa.chunked_array([[b"1"]]), "id")) == 1
    with pytest.raises(TypeError, match="id_column='id' has the type double"):
        digest_ids(pa.chunked_array([[1.0]]), "id")
    with pytest.raises(ValueError, match="id_column='id' has null in 1 rows"):
        digest_ids(pa.chunked_array([["a", None]]), "id")
