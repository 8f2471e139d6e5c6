"""Where images come from and embeddings go: generators, tensors, memory maps."""

import threading
import tracemalloc

import numpy as np
import pytest
import sklearn
import torch
from PIL import Image

from skfewshot import CLIPFeaturizer
from skfewshot.clip import ImageReadError, encoder_of
from skfewshot.clip._output import Rows

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture
def featurizer(small):
    return CLIPFeaturizer(small, batch_size=3)


# Generators


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("output", ["embedding", "tokens"])
def test_generator(featurizer, images, output, num_workers):
    featurizer.set_params(output=output, num_workers=num_workers)
    expected = featurizer.transform(images)
    for method in (featurizer.transform, featurizer.fit_transform):
        found = method(Image.fromarray(image) for image in images)
        np.testing.assert_allclose(found, expected, **CLOSE)
        assert found.shape == expected.shape
        assert encoder_of(found) == encoder_of(expected)


def test_other_iterables(featurizer, images):
    class Loader:
        """An iterable without a length, such as a data set that is streamed."""

        def __iter__(self):
            return iter(images)

    expected = featurizer.transform(images)
    np.testing.assert_allclose(featurizer.transform(Loader()), expected, **CLOSE)
    by_name = dict(enumerate(images))
    found = featurizer.transform(by_name.values())
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_fit_does_not_consume_a_generator(featurizer, images):
    X = (image for image in images)
    featurizer.fit(X)
    assert len(list(X)) == 7


def test_empty_generator(featurizer):
    for X in (iter(()), (image for image in [])):
        with pytest.raises(ValueError, match=r"0 sample\(s\).*minimum of 1"):
            featurizer.transform(X)


def test_an_error_of_the_generator_comes_through(featurizer, images):
    def generate():
        yield from images
        raise RuntimeError("the camera is gone")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the camera is gone"):
        featurizer.set_params(num_workers=2).transform(generate())
    assert threading.active_count() == before


def test_an_image_error_ends_the_threads(featurizer, images):
    before = threading.active_count()
    X = [None, *images, *images, *images]
    with pytest.raises(ImageReadError) as caught:
        featurizer.set_params(num_workers=2).transform(X)
    assert threading.active_count() == before  # also while the error is looked at
    assert caught.value.index == 0


def test_broken_images_of_a_generator(featurizer, images):
    X = [*images, None, images[0], None]
    with pytest.raises(ImageReadError, match="index 7"):
        featurizer.transform(iter(X))
    featurizer.set_params(on_error="nan")
    with pytest.warns(UserWarning, match=r"\[7, 9\]"):
        found = featurizer.transform(iter(X))
    assert np.flatnonzero(np.isnan(found).all(axis=1)).tolist() == [7, 9]
    np.testing.assert_allclose(found[8], found[0], **CLOSE)
    with pytest.warns(UserWarning, match=r"2 of the images"):
        found = featurizer.transform(iter([None, None]))
    assert found.shape == (2, 24)
    assert np.isnan(found).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_generator_is_read_a_few_batches_ahead(featurizer, images, num_workers):
    """Memory does not grow with the number of images beyond the output."""
    featurizer.set_params(num_workers=num_workers)

    def generate(n):
        for number in range(n):
            yield np.full((128, 128, 3), number % 256, dtype=np.uint8)

    featurizer.transform(generate(10))
    peaks = []
    for n in (30, 120):
        tracemalloc.start()
        featurizer.transform(generate(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 90 * 128 * 128 * 3 / 10


def test_more_rows_than_the_first_memory_holds(small):
    images = np.random.default_rng(0).integers(0, 256, (1100, 32, 32, 3), np.uint8)
    featurizer = CLIPFeaturizer(small)
    expected = featurizer.transform(images)
    np.testing.assert_allclose(featurizer.transform(iter(images)), expected, **CLOSE)


# out


def test_memory_map(featurizer, images, tmp_path):
    path = tmp_path / "X.npy"
    out = np.lib.format.open_memmap(path, "w+", np.float32, (7, 24))
    expected = featurizer.transform(images)
    found = featurizer.transform(images, out=out)
    assert np.shares_memory(found, out)
    assert found.encoder == expected.encoder
    np.testing.assert_array_equal(found, expected)
    out.flush()
    np.testing.assert_array_equal(np.load(path), expected)


def test_out_of_a_generator_may_be_longer(featurizer, images):
    expected = featurizer.transform(images)
    out = np.full((9, 24), 5, np.float32)
    found = featurizer.transform(iter(images), out=out)
    assert found.shape == (7, 24)
    assert np.shares_memory(found, out)
    np.testing.assert_allclose(out[:7], expected, **CLOSE)
    assert (out[7:] == 5).all()


def test_out_of_a_generator_that_is_too_long(featurizer, images):
    out = np.empty((5, 24), np.float32)
    with pytest.raises(ValueError, match="out has 5 rows, but X has more"):
        featurizer.transform(iter(images), out=out)


def test_out_of_tokens_strided_and_with_nan(featurizer, images):
    featurizer.set_params(output="tokens", on_error="nan")
    with pytest.warns(UserWarning, match="1 of the images"):
        expected = featurizer.transform([*images, None])
    out = np.zeros((16, 17, 24), np.float32)[::2]
    with pytest.warns(UserWarning, match="1 of the images"):
        found = featurizer.transform([*images, None], out=out)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(out, expected)


def read_only(shape):
    array = np.zeros(shape, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((7, 24)), TypeError, "out is a ndarray of float64"),
        ([[0.0] * 24] * 7, TypeError, "out is a list"),
        (torch.zeros(7, 24), TypeError, "out is a Tensor of torch.float32"),
        (np.zeros((6, 24), np.float32), ValueError, r"\(6, 24\); wanted is \(7, 24\)"),
        (np.zeros((8, 24), np.float32), ValueError, r"\(8, 24\); wanted is \(7, 24\)"),
        (np.zeros((7, 25), np.float32), ValueError, r"wanted is \(7, 24\)"),
        (np.zeros(7, np.float32), ValueError, r"\(7,\); wanted is \(7, 24\)"),
        (read_only((7, 24)), ValueError, "out is read-only; open"),
    ],
)
def test_bad_out(featurizer, images, out, error, message):
    with pytest.raises(error, match=message):
        featurizer.transform(images, out=out)


def test_bad_out_of_tokens(featurizer, images):
    featurizer.set_params(output="tokens")
    with pytest.raises(ValueError, match=r"wanted is \(7, 1 \+ K, 24\)"):
        featurizer.transform(images, out=np.zeros((7, 24), np.float32))
    with pytest.raises(
        ValueError, match=r"out has rows of shape \(5, 24\).*\(17, 24\)"
    ):
        featurizer.transform(images, out=np.zeros((7, 5, 24), np.float32))


def test_out_in_a_data_frame(featurizer, images):
    out = np.zeros((7, 24), np.float32)
    featurizer.set_output(transform="pandas").fit(images)
    frame = featurizer.transform(images, out=out)
    np.testing.assert_array_equal(frame.to_numpy(), out)


# Tensors


@pytest.mark.parametrize(
    "as_tensors",
    [torch.from_numpy, lambda images: [torch.from_numpy(image) for image in images]],
    ids=["one tensor", "a list"],
)
def test_images_may_be_tensors(featurizer, images, as_tensors):
    expected = featurizer.transform(images)
    found = featurizer.fit_transform(as_tensors(images))
    assert type(found) is type(expected)
    np.testing.assert_allclose(found, expected, **CLOSE)


# The parts


def test_rows_out_of_order():
    rows = Rows(None)
    rows.put([3, 1], np.array([[3, 3], [1, 1]], np.float32))
    rows.put(range(4, 6), np.array([[4, 4], [5, 5]], np.float32))
    rows.put([0], np.zeros((1, 2), np.float32))
    found = np.asarray(rows.finish(missing=[2]))
    np.testing.assert_array_equal(found[:, 0], [0, 1, np.nan, 3, 4, 5])


def test_a_data_frame_without_fit(small, images):
    model = CLIPFeaturizer(small)
    expected = model.transform(images)
    frame = model.set_output(transform="pandas").transform(images)
    assert frame.shape == (7, 24)
    assert frame.columns[0] == "clipfeaturizer0"
    np.testing.assert_allclose(frame.to_numpy(), expected, atol=2e-6)
    with sklearn.config_context(transform_output="polars"):
        assert CLIPFeaturizer(small).transform(images).columns[0] == "clipfeaturizer0"
