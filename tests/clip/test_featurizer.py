"""The featurizer: images and texts to embeddings, as a scikit-learn transformer."""

import os
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc
import warnings

import joblib
import numpy as np
import open_clip
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import validate_data

from skfewshot.clip import (
    DEFAULT_PROMPT_TEMPLATES,
    CLIPFeaturizer,
    EmbeddingArray,
    ImageReadError,
    clear_model_cache,
    encoder_of,
)
from skfewshot.clip._texts import encode_names

CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture
def featurizer(small):
    return CLIPFeaturizer(small, batch_size=3)


@pytest.fixture
def files(tmp_path, images):
    """Paths of the images."""
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def reference(clip, images):
    """Embed with nothing but open_clip."""
    batch = torch.stack([clip.preprocess(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        return clip.model.encode_image(batch, normalize=True).numpy()


# Embedding images


def test_embeddings_are_open_clips(featurizer, images):
    X = featurizer.fit_transform(images)
    assert type(X) is EmbeddingArray
    assert (X.shape, X.dtype) == ((7, 24), np.float32)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, **CLOSE)
    np.testing.assert_allclose(X, reference(featurizer.load(), images), **CLOSE)
    assert encoder_of(X) == featurizer.encoder_


@pytest.mark.parametrize("shape", [(50, 70), (20, 20), (33, 32), (32, 32)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_preprocessing_is_open_clips(make_model, shape, resize_mode):
    preprocess = {"resize_mode": resize_mode, "mean": [0.3, 0.4, 0.5]}
    featurizer = CLIPFeaturizer(make_model(preprocess=preprocess))
    images = np.random.default_rng(1).integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    expected = reference(featurizer.load(), images)
    np.testing.assert_allclose(featurizer.transform(images), expected, **CLOSE)


def test_pixels_are_open_clips_to_the_last_bit(small):
    from skfewshot.clip._passes import Preprocessor

    transform = CLIPFeaturizer(small).load().preprocess
    image = np.random.default_rng(1).integers(0, 256, (41, 57, 3), dtype=np.uint8)
    image = Image.fromarray(image)
    preprocessor = Preprocessor(transform)
    pixels = preprocessor.to_pixels(image)[None].copy()
    found = preprocessor.to_input(pixels, torch.device("cpu"), torch.float32)
    assert torch.equal(found[0], transform(image))


@pytest.mark.parametrize("num_workers", [0, 3])
def test_containers_agree(featurizer, images, files, num_workers):
    featurizer.set_params(num_workers=num_workers)
    expected = featurizer.fit_transform(images)
    objects = np.empty(len(images), dtype=object)
    objects[:] = [Image.fromarray(image) for image in images]
    mixed = [files[0], images[1], objects[2], str(files[3]), *files[4:]]
    names = [str(path) for path in files]
    for X in (
        list(images),
        tuple(files),
        objects,
        mixed,
        np.array(names),
        pd.Series(names, index=range(10, 17)),
        pd.DataFrame({"path": names}),
        pl.Series(names),
        pl.DataFrame({"path": names}),
    ):
        np.testing.assert_allclose(featurizer.transform(X), expected, **CLOSE)


def test_awkward_arrays(featurizer, images, tmp_path):
    expected = featurizer.transform(images)
    np.testing.assert_allclose(
        featurizer.transform(images[::-1]), expected[::-1], **CLOSE
    )
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(featurizer.transform(mapped), expected, **CLOSE)
    flipped = featurizer.transform(images[:, :, ::-1])
    expected = featurizer.transform(np.ascontiguousarray(images[:, :, ::-1]))
    np.testing.assert_allclose(flipped, expected, **CLOSE)
    grey = featurizer.transform(images[..., :1])
    expected = featurizer.transform(np.repeat(images[..., :1], 3, axis=-1))
    np.testing.assert_allclose(grey, expected, **CLOSE)
    opaque = np.full((*images.shape[:3], 1), 255, dtype=np.uint8)
    rgba = featurizer.transform(np.concatenate([images, opaque], axis=-1))
    np.testing.assert_allclose(rgba, featurizer.transform(images), **CLOSE)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_batch_size_does_not_matter(featurizer, images, batch_size):
    expected = featurizer.transform(images)
    featurizer.set_params(batch_size=batch_size)
    np.testing.assert_allclose(featurizer.transform(images), expected, **CLOSE)


def test_input_is_left_alone(featurizer, images):
    before = images.copy()
    featurizer.fit_transform(images)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_does_not_grow_with_the_images(small, num_workers):
    class Rendered:
        """A sequence that makes its images when they are asked for."""

        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

        def __getitem__(self, index):
            return np.full((64, 64, 3), index % 256, dtype=np.uint8)

    featurizer = CLIPFeaturizer(small, batch_size=4, num_workers=num_workers)
    featurizer.transform(Rendered(8))
    peaks = []
    for n in (16, 160):
        tracemalloc.start()
        featurizer.transform(Rendered(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 144 * 64 * 64 * 3 / 10


# Tokens


@pytest.mark.parametrize("dense_mode", ["value", "self-self", "plain"])
def test_tokens(featurizer, images, dense_mode):
    featurizer.set_params(output="tokens", dense_mode=dense_mode)
    X = featurizer.fit_transform(images)
    assert (X.shape, X.dtype) == ((7, 17, 24), np.float32)
    np.testing.assert_allclose(np.linalg.norm(X, axis=-1), 1, **CLOSE)
    expected = featurizer.set_params(output="embedding").transform(images)
    np.testing.assert_allclose(X[:, 0], expected, **CLOSE)
    assert encoder_of(X[:, 1:]) == encoder_of(expected)


@pytest.mark.parametrize("name", ["tiny", "small", "resnet"])
def test_automatic_dense_mode(small, make_model, images, name):
    expected = {"small": "self-self-no-residual"}.get(name, "value")
    vision = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64}
    model = {"small": small}.get(name, name)
    if name == "resnet":
        model = make_model("resnet", vision=vision)
    featurizer = CLIPFeaturizer(model, output="tokens")
    X = featurizer.transform(images)
    featurizer.set_params(dense_mode=expected)
    np.testing.assert_allclose(X, featurizer.transform(images), **CLOSE)


# Images that cannot be read


@pytest.fixture
def broken(files):
    """The paths, of which the second and the sixth lead nowhere."""
    files[1].write_bytes(files[1].read_bytes()[:50])
    files[5].unlink()
    return files


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_image_raises(featurizer, broken, num_workers):
    featurizer.set_params(num_workers=num_workers)
    with pytest.raises(ImageReadError, match="index 1 of X") as caught:
        featurizer.fit_transform(broken)
    assert str(broken[1]) in str(caught.value)
    assert not [t for t in threading.enumerate() if "skfewshot" in t.name]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("output", ["embedding", "tokens"])
def test_broken_image_becomes_nan(featurizer, broken, images, num_workers, output):
    featurizer.set_params(num_workers=num_workers, on_error="nan", output=output)
    with pytest.warns(UserWarning, match=re.escape("indexes [1, 5] of X")):
        X = featurizer.fit_transform(broken)
    isnan = np.isnan(X).reshape(7, -1)
    assert isnan.any(axis=1).tolist() == isnan.all(axis=1).tolist()
    assert isnan.all(axis=1).nonzero()[0].tolist() == [1, 5]
    whole = [0, 2, 3, 4, 6]
    np.testing.assert_allclose(X[whole], featurizer.transform(images[whole]), **CLOSE)


def test_every_image_broken(featurizer):
    featurizer.set_params(on_error="nan", output="tokens")
    with pytest.warns(UserWarning, match=r"25 of the images.*\] and 5 more of X"):
        X = featurizer.fit_transform([None] * 25)
    assert X.shape == (25, 17, 24)
    assert np.isnan(X).all()


def test_wrong_type_raises_even_so(featurizer):
    with pytest.raises(TypeError, match="index 0 of X is 3 of type int"):
        featurizer.set_params(on_error="nan").fit_transform([3])


@pytest.mark.parametrize("method", ["fit", "fit_transform", "transform"])
def test_bad_container(featurizer, images, method):
    for X, error in ((images[0], ValueError), ("a.png", TypeError), ([], ValueError)):
        with pytest.raises(error, match="X"):
            getattr(featurizer, method)(X)


# Texts


def test_texts_are_open_clips(featurizer):
    texts = ["a photo of a cat", "a dog", "", "ein Bär", "word " * 200]
    T = featurizer.encode_text(texts)
    assert (T.shape, T.dtype) == ((5, 24), np.float32)
    clip = featurizer.load()
    with torch.inference_mode():
        expected = clip.model.encode_text(clip.tokenizer(texts), normalize=True)
    np.testing.assert_allclose(T, expected.numpy(), **CLOSE)
    assert encoder_of(T) == clip.identity
    np.testing.assert_allclose(featurizer.encode_text(np.array(texts)), T, **CLOSE)


def test_classes_are_means_over_templates(featurizer):
    names = ["cat", "polar bear"]
    T = featurizer.encode_classes(names, ["a {}.", "the {}", str.upper])
    for name, row in zip(names, T, strict=True):
        texts = [f"a {name}.", f"the {name}", name.upper()]
        mean = np.asarray(featurizer.encode_text(texts)).mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), **CLOSE)
    assert type(T) is EmbeddingArray and encoder_of(T) == featurizer.load().identity
    assert T.dtype == np.float32


def test_templates_of_the_estimator(featurizer):
    default = featurizer.encode_classes(["cat"])
    listed = featurizer.encode_classes(["cat"], list(DEFAULT_PROMPT_TEMPLATES))
    np.testing.assert_allclose(default, listed, **CLOSE)
    own = featurizer.set_params(prompt_templates="a {}").encode_classes(["cat"])
    np.testing.assert_allclose(own, featurizer.encode_text(["a cat"]), **CLOSE)


def test_bad_texts(featurizer):
    with pytest.raises(TypeError, match="single text 'cat'"):
        featurizer.encode_text("cat")
    with pytest.raises(TypeError, match="got 3 of type int at index 0"):
        featurizer.encode_classes([3])
    with pytest.raises(ValueError, match="has no {}"):
        featurizer.encode_classes(["cat"], "a photo")
    with pytest.raises(ValueError, match="has no {}"):
        featurizer.set_params(prompt_templates=["a photo"]).fit(["a.png"])


# A scikit-learn transformer


def test_fit_learns_the_encoder_only(featurizer, images):
    assert featurizer.fit(images) is featurizer
    learned = {name for name in vars(featurizer) if name.endswith("_")}
    assert learned == {"encoder_", "embedding_dim_", "logit_scale_"}
    assert featurizer.embedding_dim_ == 24
    assert featurizer.logit_scale_ == featurizer.encoder_.logit_scale > 0
    assert featurizer.device_ == torch.device("cuda" if _has_cuda() else "cpu")


def _has_cuda():
    return torch.cuda.is_available()


def test_works_without_fit(featurizer, images):
    before = dict(vars(featurizer))
    featurizer.transform(images)
    featurizer.encode_text(["cat"])
    featurizer.encode_classes(["cat"])
    assert vars(featurizer) == before
    with pytest.raises(NotFittedError):
        featurizer.get_feature_names_out()


def test_feature_names(featurizer, images):
    names = featurizer.fit(images).get_feature_names_out()
    assert names.tolist() == [f"clipfeaturizer{i}" for i in range(24)]


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output(featurizer, images, files, container):
    expected = featurizer.fit_transform(images)
    featurizer.set_output(transform=container)
    paths = pd.Series([str(path) for path in files], index=range(10, 17), name="path")
    for frame in (featurizer.transform(paths), featurizer.fit_transform(paths)):
        assert type(frame).__module__.startswith(container)
        assert list(frame.columns) == featurizer.get_feature_names_out().tolist()
        np.testing.assert_allclose(frame.to_numpy(), expected, **CLOSE)
    if container == "pandas":
        assert frame.index.tolist() == list(range(10, 17))
    featurizer.set_params(output="tokens")
    with pytest.raises(ValueError, match="no data frame can hold"):
        featurizer.transform(images)
    featurizer = clone(CLIPFeaturizer(featurizer.model_name, output="tokens"))
    with config_context(transform_output=container):
        with pytest.raises(ValueError, match="no data frame can hold"):
            featurizer.fit_transform(images)


def test_clone_and_params(featurizer, images):
    copied = clone(featurizer.fit(images))
    assert copied.get_params() == featurizer.get_params()
    assert not hasattr(copied, "encoder_")
    assert copied.load() is featurizer.load()


def test_repr(small):
    featurizer = CLIPFeaturizer("tiny", batch_size=3)
    assert repr(featurizer) == "CLIPFeaturizer(batch_size=3, model_name='tiny')"
    assert "CLIPFeaturizer" in featurizer._repr_html_()


def test_tags(featurizer):
    tags = get_tags(featurizer)
    assert not tags.requires_fit
    assert not tags.target_tags.required
    assert tags.input_tags.one_d_array and tags.input_tags.string
    assert not tags.input_tags.two_d_array


# Those of scikit-learn's checks that need no X; it picks none itself for a
# transformer of images.
CHECKS = """
    check_do_not_raise_errors_in_init_or_set_params check_estimator_cloneable
    check_estimator_repr check_estimator_tags_renamed check_get_feature_names_out_error
    check_get_params_invariance check_mixin_order check_no_attributes_set_in_init
    check_param_validation check_parameters_default_constructible check_set_params
    check_transformer_n_iter check_valid_tag_types
""".split()


@pytest.mark.parametrize("name", CHECKS)
def test_checks_without_x(name):
    getattr(estimator_checks, name)("CLIPFeaturizer", CLIPFeaturizer("tiny"))


class NumbersAsImages(CLIPFeaturizer):
    """Draws the rows of a table as images, for the checks that make an X."""

    def _draw(self, X, reset):
        X = validate_data(self, X, reset=reset, dtype=np.float64)
        levels = (255 / (1 + np.exp(-X))).astype(np.uint8)
        images = np.zeros((len(X), 32 * 32 * 3), dtype=np.uint8)
        images[:, : 30 * X.shape[1]] = np.repeat(levels, 30, axis=1)[:, : 32 * 32 * 3]
        return images.reshape(-1, 32, 32, 3)

    def fit(self, X, y=None):
        return super().fit(self._draw(X, reset=True), y)

    def fit_transform(self, X, y=None):
        return super().fit_transform(self._draw(X, reset=True), y)

    def transform(self, X):
        return super().transform(self._draw(X, reset=not hasattr(self, "encoder_")))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


@pytest.fixture(scope="module")
def all_checks(small):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator_checks.check_estimator(
            NumbersAsImages(small), on_fail=None, on_skip=None
        )


def test_all_common_checks(all_checks):
    failed = {
        result["check_name"]: result["exception"]
        for result in all_checks
        if result["status"] == "failed"
    }
    assert failed == {}
    assert len(all_checks) > 40


@pytest.mark.parametrize(
    "params",
    [
        {"model_name": 3},
        {"pretrained": 3},
        {"output": "patches"},
        {"dense_mode": "best"},
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"device": 1},
        {"precision": "fp8"},
        {"num_workers": -1},
        {"prompt_templates": 3},
        {"on_error": "ignore"},
    ],
    ids=str,
)
def test_parameters_are_validated(featurizer, images, params):
    featurizer.set_params(**params)
    for call in (
        lambda: featurizer.fit(images),
        lambda: featurizer.fit_transform(images),
        lambda: featurizer.transform(images),
        lambda: featurizer.encode_text(["a"]),
        lambda: featurizer.encode_classes(["a"]),
    ):
        with pytest.raises(InvalidParameterError, match=next(iter(params))):
            call()


def test_bad_device(featurizer, images):
    with pytest.raises(ValueError, match="'abacus'"):
        featurizer.set_params(device="abacus").fit(images)


def test_other_weights_than_fitted_are_refused(small, other, images):
    featurizer = CLIPFeaturizer(small).fit(images)
    featurizer.set_params(model_name=other)
    for call in (
        lambda: featurizer.transform(images),
        lambda: featurizer.encode_classes(["cat"]),
    ):
        with pytest.raises(ValueError, match="was fitted with.*Fit it again"):
            call()
    assert featurizer.fit(images).transform(images).shape == (7, 24)


def test_pipeline_and_search(small, other, images, files):
    y = [0, 1, 0, 1, 0, 1, 0]
    pipeline = Pipeline(
        [("clip", CLIPFeaturizer(small)), ("classify", LogisticRegression())]
    )
    for X in (images, list(images), files, np.array([str(path) for path in files])):
        assert pipeline.fit(X, y).predict(X).shape == (7,)
    grid = {"clip__model_name": [small, other], "clip__batch_size": [2]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(files, y)
    assert search.best_params_["clip__model_name"] in (small, other)
    assert cross_val_score(pipeline, list(images), y, cv=2).shape == (2,)


def test_column_transformer(small, files, images):
    frame = pd.DataFrame({"path": [str(path) for path in files], "size": 1.0})
    columns = make_column_transformer(
        (CLIPFeaturizer(small), ["path"]), ("passthrough", ["size"])
    )
    X = columns.fit_transform(frame)
    assert X.shape == (7, 25)
    expected = CLIPFeaturizer(small).transform(images)
    np.testing.assert_allclose(X[:, :24], expected, **CLOSE)
    names = columns.get_feature_names_out()
    assert names[0] == "clipfeaturizer__clipfeaturizer0"


def test_pipeline_memory(small, images, tmp_path):
    pipeline = make_pipeline(
        CLIPFeaturizer(small), LogisticRegression(), memory=str(tmp_path)
    )
    y = [0, 1, 0, 1, 0, 1, 0]
    first = pipeline.fit(images, y).predict(images)
    np.testing.assert_array_equal(pipeline.fit(images, y).predict(images), first)


# Persistence and processes


def test_pickle_is_small_and_works(small, images):
    featurizer = CLIPFeaturizer(small).fit(images)
    expected = featurizer.transform(images)
    pickled = pickle.dumps(featurizer)
    assert len(pickled) < 10_000
    clear_model_cache()
    restored = pickle.loads(pickled)
    np.testing.assert_allclose(restored.transform(images), expected, **CLOSE)
    assert restored.encoder_ == featurizer.encoder_


@pytest.mark.slow
def test_fresh_and_forked_process(small, images, tmp_path):
    featurizer = CLIPFeaturizer(small).fit(images)
    joblib.dump((featurizer, images, featurizer.transform(images)), tmp_path / "f")
    script = (
        "import joblib, multiprocessing, numpy, sys\n"
        f"featurizer, images, expected = joblib.load({str(tmp_path / 'f')!r})\n"
        "assert 'torch' not in sys.modules, 'unpickling needs no torch'\n"
        "X = featurizer.transform(images)\n"
        "numpy.testing.assert_allclose(X, expected, atol=2e-5)\n"
        "assert X.encoder == expected.encoder == featurizer.encoder_\n"
        "if sys.platform != 'linux': sys.exit()\n"
        "images = numpy.tile(images, (10, 1, 1, 1))\n"
        "expected = featurizer.transform(images)\n"
        "with multiprocessing.get_context('fork').Pool(1) as pool:\n"
        "    X = pool.apply_async(featurizer.transform, [images]).get(60)\n"
        "numpy.testing.assert_allclose(X, expected, atol=2e-5)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # which GNU OpenMP hangs by
    command = [sys.executable, "-c", script]
    subprocess.run(command, check=True, timeout=120, env=environment)


@pytest.mark.slow
def test_joblib_workers(small, images):
    featurizer = CLIPFeaturizer(small).fit(images)
    parts = joblib.Parallel(n_jobs=2)(
        joblib.delayed(featurizer.transform)(part) for part in (images[:4], images[4:])
    )
    X = np.concatenate(parts)
    assert encoder_of(X) == featurizer.encoder_
    np.testing.assert_allclose(X, featurizer.transform(images), **CLOSE)


def test_threads_agree(small, images):
    clear_model_cache()
    featurizer = CLIPFeaturizer(small, batch_size=2, num_workers=2, output="tokens")
    results = [None] * 4

    def run(number):
        results[number] = featurizer.transform(images)

    threads = [threading.Thread(target=run, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = featurizer.transform(images)
    for result in results:
        np.testing.assert_allclose(result, expected, **CLOSE)


def test_one_lazy_image_many_times(featurizer, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    featurizer.set_params(num_workers=4)
    with Image.open(tmp_path / "a.jpg") as image:
        X = featurizer.transform([image] * 30)
    np.testing.assert_allclose(X, np.repeat(X[:1], 30, axis=0), **CLOSE)


# Being a good guest


def test_global_state_is_left_alone(small, images):
    clear_model_cache()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    featurizer = CLIPFeaturizer(small, num_workers=2)
    featurizer.fit_transform(images)
    featurizer.encode_classes(["cat"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


def test_within_inference_mode(small, images):
    clear_model_cache()
    with torch.inference_mode():
        inside = CLIPFeaturizer(small, output="tokens").fit_transform(images)
        CLIPFeaturizer(small).encode_classes(["cat"])
    outside = CLIPFeaturizer(small, output="tokens").fit_transform(images)
    np.testing.assert_allclose(inside, outside, **CLOSE)


def test_no_warnings(small, files):
    clear_model_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CLIPFeaturizer(small).fit_transform(files)
        CLIPFeaturizer(small).encode_classes(["cat"])


def test_import_is_light():
    script = (
        "import sys, skfewshot, skfewshot.clip\n"
        "assert not {'torch', 'open_clip', 'sklearn'} & {*sys.modules}\n"
        "skfewshot.CLIPFeaturizer('tiny')\n"
        "skfewshot.clip.EmbeddingArray, skfewshot.clip.clear_model_cache\n"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules\n"
        "assert not set(skfewshot.clip.__all__) - set(dir(skfewshot.clip))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_precision(small, images, precision):
    expected = CLIPFeaturizer(small, precision="fp32", device="cpu").transform(images)
    featurizer = CLIPFeaturizer(small, precision=precision, device="cpu")
    X = featurizer.transform(images)
    assert X.dtype == np.float32
    tolerance = 0.05 if precision == "bf16" else 2e-5
    np.testing.assert_allclose(X, expected, atol=tolerance)
    assert encoder_of(X) == encoder_of(expected)
    assert featurizer.encode_text(["cat"]).dtype == np.float32


def test_overflow_is_an_error(make_model, images):
    featurizer = CLIPFeaturizer(make_model("broken"))
    featurizer.load().model.visual.proj[0, 0] = torch.inf
    for output in ("embedding", "tokens"):
        with pytest.raises(FloatingPointError, match="precision='bf16' or 'fp32'"):
            featurizer.set_params(output=output).transform(images)


def test_error_of_the_model_ends_the_threads(make_model, images):
    featurizer = CLIPFeaturizer(make_model("broken"), batch_size=1, num_workers=2)
    featurizer.load().model.visual.proj[0, 0] = torch.inf
    with pytest.raises(FloatingPointError):
        featurizer.transform(list(images) * 5)
    assert not [t for t in threading.enumerate() if "skfewshot" in t.name]


# Callbacks


class Recorder:
    """A callback that notes what it is told."""

    def __init__(self):
        self.events = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name} of {context.max_subtasks}")

    def on_fit_task_end(self, estimator, context):
        self.events.append(f"end {context.task_name}")


class PropagatedRecorder(Recorder):
    """One that a pipeline passes on to its steps."""

    max_propagation_depth = None


BATCHES = ["begin batch of 0", "end batch"] * 3


def test_callbacks_of_fit_transform(featurizer, images):
    recorder = Recorder()
    featurizer.set_params(num_workers=0)  # or passes are as small as cores are many
    featurizer.set_callbacks(recorder).fit_transform(images)
    assert recorder.events == [
        *("setup", "begin fit of 3"),
        *BATCHES,
        *("end fit", "teardown"),
    ]


def test_callbacks_of_transform(featurizer, images):
    recorder = Recorder()
    featurizer.set_params(num_workers=0)
    featurizer.set_callbacks(recorder).transform(images)
    assert recorder.events == [
        *("setup", "begin transform of 3"),
        *BATCHES,
        *("end transform", "teardown"),
    ]


def test_callbacks_of_fit(featurizer, images):
    recorder = Recorder()
    featurizer.set_callbacks(recorder).fit(images)
    assert recorder.events == ["setup", "begin fit of 0", "end fit", "teardown"]


def test_callbacks_end_after_an_error(featurizer):
    recorder = Recorder()
    with pytest.raises(ImageReadError):
        featurizer.set_callbacks(recorder).fit_transform([None])
    assert recorder.events[-1] == "teardown"
    assert not hasattr(featurizer, "_callback_fit_ctx")


def test_callbacks_of_a_pipeline(small, images):
    recorder = PropagatedRecorder()
    featurizer = CLIPFeaturizer(small, batch_size=3, num_workers=0)
    pipeline = make_pipeline(featurizer, "passthrough")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.set_callbacks(recorder).fit(images)
    assert recorder.events.count("end batch") == 3
    n_events = len(recorder.events)
    pipeline.transform(images)
    assert len(recorder.events) == n_events, "transforming is no fitting"


def test_progress_bar(featurizer, images, capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    featurizer.set_callbacks(ProgressBar()).fit_transform(images)
    assert "CLIPFeaturizer - fit" in capsys.readouterr().out


# The embedded model


def test_tiny():
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    featurizer = CLIPFeaturizer("tiny")
    X = featurizer.fit_transform(images)
    assert X.shape == (2, featurizer.embedding_dim_)
    T = encode_names(encoder_of(X), ["star"])
    np.testing.assert_allclose(T, featurizer.encode_classes(["star"]), **CLOSE)
    assert len(pickle.dumps(featurizer)) < 10_000
    config = open_clip.get_model_config(featurizer.load().source.architecture)
    assert config["embed_dim"] == featurizer.embedding_dim_


def test_weights_given_to_a_model_that_brings_its_own_are_refused(small, tmp_path):
    for name in ("tiny", small, "hf-hub:some/model"):
        with pytest.raises(ValueError, match="brings its weights along"):
            CLIPFeaturizer(name, str(tmp_path / "mine.safetensors")).encode_text(["a"])
    assert CLIPFeaturizer("tiny", None).encode_text(["a"]).shape == (1, 128)


@pytest.mark.parametrize("names", [{}, {"a", "b"}, 3, pd.DataFrame({"x": ["a"]})])
def test_texts_want_an_order(names):
    featurizer = CLIPFeaturizer("tiny")
    with pytest.raises(TypeError, match="names is a .* wanted is a sequence of texts"):
        featurizer.encode_classes(names)
    with pytest.raises(TypeError, match="texts is a"):
        featurizer.encode_text(names)


def test_very_long_images_are_cut_before_they_are_resized():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 3000, 3), dtype=np.uint8)
    centre = pixels[:, 1500 - 16 : 1500 + 16]
    long, short = CLIPFeaturizer("tiny").transform([pixels, centre])
    assert long @ short > 0.999
