"""Where images come from and embeddings go: generators, memory maps, tensors."""

import threading
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.pipeline import Pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import ImageReadError, encoder_of
from skfewshot.clip.output import ArrayRows, TensorRows
from skfewshot.clip.streaming import Batch, fill_batches

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
    for n in (30, 300):
        tracemalloc.start()
        featurizer.transform(generate(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 270 * 128 * 128 * 3 / 10


def test_more_rows_than_the_first_memory_holds(small):
    images = np.random.default_rng(0).integers(0, 256, (2500, 32, 32, 3), np.uint8)
    featurizer = CLIPFeaturizer(small)
    expected = featurizer.transform(images)
    np.testing.assert_allclose(featurizer.transform(iter(images)), expected, **CLOSE)
    featurizer.set_params(output_type="torch")
    found = featurizer.transform(iter(images))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, **CLOSE)


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


@pytest.mark.parametrize("output", ["embedding", "tokens"])
def test_tensor(featurizer, images, output):
    featurizer.set_params(output=output)
    expected = featurizer.transform(images)
    featurizer.set_params(output_type="torch")
    found = featurizer.fit_transform(images)
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float32
    assert found.device.type == featurizer.device_.type
    assert encoder_of(found) == expected.encoder
    assert encoder_of(found[:2]) is None
    np.testing.assert_allclose(found.cpu(), expected, **CLOSE)


@pytest.mark.parametrize("container", [list, iter])
def test_tensor_can_be_trained_on(featurizer, images, container):
    featurizer.set_params(output_type="torch")
    with torch.inference_mode():
        X = featurizer.transform(container(images))
    weights = torch.ones(24, requires_grad=True, device=X.device)
    (X @ weights).sum().backward()
    assert weights.grad is not None
    X += 1


def test_tensor_from_the_cache_and_with_nan(featurizer, images, tmp_path):
    featurizer.set_params(output_type="torch", cache=tmp_path, on_error="nan")
    with pytest.warns(UserWarning):
        first = featurizer.transform([*images, None])
    with pytest.warns(UserWarning):
        again = featurizer.transform([*images, None])
    assert torch.equal(first[:-1], again[:-1])
    assert first[-1].isnan().all()


def test_tensor_and_what_does_not_go_with_it(featurizer, images):
    featurizer.set_params(output_type="torch").fit(images)
    with pytest.raises(ValueError, match="output_type='torch'.*out asks"):
        featurizer.transform(images, out=np.zeros((7, 24), np.float32))
    featurizer.set_output(transform="pandas")
    with pytest.raises(ValueError, match=r"set_output\(transform='pandas'\)"):
        featurizer.transform(images)


def test_pipeline_of_tensors_finds_its_texts(small, images):
    names = np.array(["cat", "dog", "cat", "dog", "cat", "dog", "cat"])
    predictions = []
    for output_type in ("numpy", "torch"):
        featurizer = CLIPFeaturizer(small, output_type=output_type, device="cpu")
        pipeline = Pipeline([("clip", featurizer), ("cmm", CMMClassifier())])
        pipeline.fit(images, names)
        assert pipeline[-1].prototype_source_ == "embedding"
        predictions.append(np.asarray(pipeline.predict_proba(images)))
    np.testing.assert_allclose(*predictions, rtol=1e-3, atol=1e-4)


# The parts


def test_rows_out_of_order():
    for rows in (ArrayRows(None), TensorRows(None, torch.device("cpu"))):
        rows.put([3, 1], np.array([[3, 3], [1, 1]], np.float32))
        rows.put(range(4, 6), torch.tensor([[4.0, 4], [5, 5]]))
        rows.put([0], np.zeros((1, 2), np.float32))
        found = np.asarray(rows.finish(missing=[2]))
        np.testing.assert_array_equal(found[:, 0], [0, 1, np.nan, 3, 4, 5])


def test_batches_are_filled():
    def batch(*indexes, found=(), errors=()):
        pixels = np.array(indexes, np.uint8).reshape(-1, 1, 1, 1)
        keys = [str(index) for index in indexes]
        return Batch(list(indexes), pixels, keys, list(found), list(errors))

    batches = [
        batch(0, 1),
        batch(found=[(2, "row")]),
        batch(3, 4, 5),
        batch(6, 7, 8, 9, errors=["error"]),
        batch(10),
    ]
    filled = list(fill_batches(iter(batches), 4))
    sizes = [len(part.indexes) for part in filled if part.indexes]
    assert sizes == [4, 4, 2]
    indexes = [index for part in filled for index in part.indexes]
    assert indexes == [0, 1, *range(3, 11)]
    assert [key for part in filled for key in part.keys] == list(map(str, indexes))
    for part in filled:
        np.testing.assert_array_equal(part.pixels.ravel(), part.indexes)
    assert [pair for part in filled for pair in part.found] == [(2, "row")]
    assert [error for part in filled for error in part.errors] == ["error"]
