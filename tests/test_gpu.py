"""Everything on a GPU: fits, tensors as input, embeddings, pickles."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skfewshot import (
    CLAPClassifier,
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    MultiLabelPrototypePrior,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.clip import encoder_of
from skfewshot.datasets import make_object_images

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # Some solvers are stopped early, where rounding errors have not yet grown.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

N_CLASSES, WIDTH = 5, 24
#: Those that compute with torch.
WITH_DEVICE = [
    CMMClassifier(store_left_out=True),
    CMMClassifier(solver="paper", max_iter=5),
    CLAPClassifier(max_iter=50),
    TaskResClassifier(max_iter=50, batch_size=None),
    TaskResClassifier(max_iter=5, batch_size=64, random_state=0),
    LPPlusPlusClassifier(max_iter=50),
    TipAdapterClassifier(train_keys=True, batch_size=None),
]
#: Those that compute with NumPy, wherever the rows lie.
BY_NUMPY = [
    ZeroShotClassifier(),
    TipAdapterClassifier(),
    GaussianDiscriminantClassifier(),
    ProKeRClassifier(),
]
OUTPUTS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]
KINDS = ["plain heart", "striped star"]


def name_of(model):
    options = [model.get_params().get(name) for name in ("solver", "train_keys")]
    return "-".join([type(model).__name__, *(str(o) for o in options if o)])


def make_task(n=300, seed=0, *, n_classes=N_CLASSES, width=WIDTH, dtype=np.float32):
    rng = np.random.default_rng(seed)
    concepts = np.random.default_rng(7).normal(size=(n_classes, width))
    y = np.arange(n) % n_classes
    X = 1 + concepts[y] + 1.5 * rng.normal(size=(n, width))
    text = concepts + 0.5 * rng.normal(size=concepts.shape) - 1
    return X.astype(dtype), y, text.astype(dtype)


def on_gpu(array):
    return torch.from_numpy(array).to(DEVICE)


@pytest.fixture(scope="module")
def pictures():
    return make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)


# Arrays


@pytest.mark.parametrize("model", WITH_DEVICE, ids=name_of)
@pytest.mark.parametrize("with_text", [True, False])
def test_fits_agree_with_those_on_the_cpu(model, with_text):
    X, y, text = make_task()
    queries = make_task(200, seed=1)[0]
    model = clone(model).set_params(text_features=text if with_text else None)
    there = clone(model).set_params(device=DEVICE).fit(X, y)
    here = clone(model).set_params(device="cpu").fit(X, y)
    for method in ("predict_proba", "predict_log_proba"):
        found = getattr(there, method)(queries)
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
    assert_allclose(
        there.predict_proba(queries), here.predict_proba(queries), atol=1e-3
    )
    assert (there.predict(queries) == here.predict(queries)).mean() > 0.99


@pytest.mark.parametrize("with_text", [True, False])
def test_rows_without_labels_teach_as_on_the_cpu(with_text):
    X, y, text = make_task()
    told = np.where(np.arange(len(y)) < 60, y.astype(object), None)
    model = CMMClassifier(text if with_text else None)
    there = clone(model).set_params(device=DEVICE).fit(X, told)
    here = clone(model).set_params(device="cpu").fit(X, told)
    queries = make_task(200, seed=1)[0]
    assert there.uses_unlabeled_ == here.uses_unlabeled_
    assert_allclose(
        there.predict_proba(queries), here.predict_proba(queries), atol=1e-2
    )


def test_a_fit_in_double_precision_is_that_of_the_cpu():
    X, y, text = make_task(dtype=np.float64)
    there, here = (
        CMMClassifier(text, device=device).fit(X, y) for device in (DEVICE, "cpu")
    )
    assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-5)


def test_a_search_over_a_grid_and_weights():
    X, y, text = make_task()
    weight = np.where(np.arange(len(y)) < 100, 2.0, 1.0)
    copied = CMMClassifier(text, device=DEVICE)
    copied.fit(np.concatenate([X, X[:100]]), np.concatenate([y, y[:100]]))
    weighted = CMMClassifier(text, device=DEVICE).fit(X, y, sample_weight=weight)
    assert_allclose(weighted.predict_proba(X), copied.predict_proba(X), atol=1e-4)
    search = GridSearchCV(
        CMMClassifier(text, device=DEVICE), {"alpha": [0.0, 1.0]}, cv=3
    )
    assert search.fit(X, y).score(X, y) > 1.5 / N_CLASSES


# Tensors


@pytest.mark.parametrize("model", WITH_DEVICE + BY_NUMPY, ids=name_of)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_are_read_as_arrays(model, dtype):
    X, y, text = make_task(dtype=dtype)
    queries = make_task(220, seed=1, dtype=dtype)[0]
    model = clone(model).set_params(text_features=text)
    if "device" in model.get_params():
        model.set_params(device="cpu")
    expected = clone(model).fit(X, y)
    weight = torch.ones(len(y), device=DEVICE)
    found = clone(model).fit(on_gpu(X), on_gpu(y), sample_weight=weight)
    for name in OUTPUTS:
        output = getattr(found, name)(on_gpu(queries))
        assert isinstance(output, np.ndarray)
        assert_allclose(output, getattr(expected, name)(queries), rtol=1e-4, atol=1e-4)
    assert found.score(on_gpu(X), on_gpu(y)) == expected.score(X, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(dtype):
    X, y, text = make_task()
    rows = on_gpu(X).to(dtype)
    model = CMMClassifier(text, device=DEVICE).fit(rows, y)
    assert model.predict_proba(rows).dtype == np.float32
    assert model.score(rows, y) > 1.5 / N_CLASSES


@pytest.mark.parametrize(
    "model",
    [CMMClassifier(), TaskResClassifier(max_iter=3, batch_size=64, random_state=0)],
)
def test_the_gpu_as_default_device_changes_nothing(model):
    X, y, text = make_task()
    models = [
        clone(model).set_params(text_features=text, device=device)
        for device in (DEVICE, "cpu")
    ]
    expected = [fitted.fit(X, y).predict_proba(X) for fitted in models]
    with torch.device(DEVICE):
        found = [clone(fitted).fit(X, y).predict_proba(X) for fitted in models]
    assert_allclose(found, expected, atol=1e-4)


# Images


@pytest.mark.parametrize("output", ["embedding", "tokens"])
@pytest.mark.parametrize(
    ("precision", "atol"), [("fp32", 2e-3), ("fp16", 0.02), ("bf16", 0.05)]
)
def test_embeddings_agree_with_those_of_the_cpu(pictures, output, precision, atol):
    images, _ = pictures
    here = CLIPFeaturizer("tiny", output=output, device="cpu")
    there = CLIPFeaturizer("tiny", output=output, device=DEVICE, precision=precision)
    expected, found = here.transform(images), there.transform(images)
    assert found.dtype == np.float32
    assert_allclose(found, expected, atol=atol)
    assert_allclose(there.encode_classes(KINDS), here.encode_classes(KINDS), atol=atol)
    assert encoder_of(found) == encoder_of(expected)


def test_half_precision_is_the_default():
    assert CLIPFeaturizer("tiny", device=DEVICE).load().dtype == torch.float16
    assert CLIPFeaturizer("tiny").device_.type == DEVICE


@pytest.mark.parametrize("model", [CMMClassifier(), CLAPClassifier(max_iter=50)])
def test_a_pipeline_on_the_device(pictures, model):
    images, names = pictures
    there, here = (
        make_pipeline(
            CLIPFeaturizer("tiny", device=device, precision="fp32"),
            clone(model).set_params(device=device),
        ).fit(images, names)
        for device in (DEVICE, "cpu")
    )
    assert there[-1].prototype_source_ == "embedding"
    assert_allclose(there.predict_proba(images), here.predict_proba(images), atol=5e-3)
    assert there.score(images, names) == here.score(images, names)


# Several labels


def plant(seed, n_images=40, n_labels=6, n_parts=8, width=16):
    """Return tokens of images, labels in known parts of them, and label features."""
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(n_labels, width))
    Y = (rng.random((n_images, n_labels)) < 0.3).astype(int)
    Y[np.arange(n_images), np.arange(n_images) % n_labels] = 1
    X = 0.4 * rng.normal(size=(n_images, 1 + n_parts, width)) + 1
    for image, labels in enumerate(Y):
        for part, label in enumerate(np.flatnonzero(labels)):
            X[image, 1 + part] += concepts[label]
    X[:, 0] = X[:, 1:].mean(axis=1)
    return X.astype(np.float32), Y, (concepts - 1).astype(np.float32)


def test_several_labels_with_a_prior():
    X, Y, text = plant(0)
    settings = {
        "interaction": ("gate", "convolution", "attention"),
        "n_heads": 4,
        "n_episodes": 6,
        "eval_every": 2,
        "n_way": 5,
        "shots": (1, 2),
        "n_query": 15,
        "random_state": 0,
    }
    there, here = (
        MultiLabelPrototypePrior(**settings, device=device).fit(
            X, Y, label_features=text
        )
        for device in (DEVICE, "cpu")
    )
    assert_allclose(there.loss_curve_[0], here.loss_curve_[0], rtol=1e-2)
    assert np.isfinite(there.loss_curve_).all()
    for value in there.state_.values():
        assert isinstance(value, np.ndarray)
    X, Y, text = plant(1, n_images=12, n_labels=4)
    on_device, on_host = (
        MultiLabelPrototypeClassifier(text, prior=there, device=device).fit(X, Y)
        for device in (DEVICE, "cpu")
    )
    assert_allclose(on_device.predict_proba(X), on_host.predict_proba(X), atol=1e-3)
    alone = MultiLabelPrototypeClassifier(text, device=DEVICE).fit(X, Y)
    assert alone.predict(X).shape == Y.shape


# Pickles


def test_a_model_of_the_gpu_predicts_without_one(tmp_path):
    X, y, text = make_task()
    models = [
        clone(model).set_params(text_features=text).fit(X, y)
        for model in WITH_DEVICE + BY_NUMPY
    ]
    expected = [model.predict_proba(X) for model in models]
    (tmp_path / "saved.pkl").write_bytes(pickle.dumps((models, X, expected)))
    code = (
        "import pickle, sys\n"
        "import numpy as np\n"
        f"saved = open({str(tmp_path / 'saved.pkl')!r}, 'rb').read()\n"
        "models, X, expected = pickle.loads(saved)\n"
        "for model, wanted in zip(models, expected, strict=True):\n"
        "    found = model.predict_proba(X)\n"
        "    assert isinstance(found, np.ndarray)\n"
        "    np.testing.assert_allclose(found, wanted, atol=1e-3)\n"
        "assert 'torch' not in sys.modules\n"
        "models[0].fit(X, models[0].predict(X))\n"
        "import torch\n"
        "assert not torch.cuda.is_available()\n"
        "print(len(models))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(len(models))]


def test_a_large_support_fits_in_little_memory():
    X, y, text = make_task(20_000, n_classes=400, width=64)
    model = CMMClassifier(text, device=DEVICE)
    # Handles and workspaces of the libraries come with the first fit.
    clone(model).fit(X[:2000], y[:2000])
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    found = model.fit(X, y)
    assert torch.cuda.max_memory_allocated() < 400 * 2**20
    assert found.score(X, y) > 10 / 400
