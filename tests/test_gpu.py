"""Everything on a GPU: fits, predictions, embeddings, tensors, pickles, memory."""

import gc
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from skfewshot import (
    CLAPClassifier,
    CLIPFeaturizer,
    CMMClassifier,
    CMMClassifierCV,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    MultiLabelPrototypePrior,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.clip import clear_model_cache, encoder_of
from skfewshot.datasets import make_object_images

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # Some solvers are stopped early, where rounding errors have not yet grown.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

N_CLASSES, WIDTH = 5, 24
SEARCH = {
    "map_penalties": (1.0,),
    "text_penalties": (10.0, 3.0),
    "cv": 3,
    "scoring": "neg_log_loss",
}
#: All rows of a fit of these stay where they are.
ON_DEVICE = [
    CMMClassifier(),
    CMMClassifier(solver="gradient", max_iter=5),
    CMMClassifierCV(**SEARCH),
    ZeroShotClassifier(),
    CLAPClassifier(max_iter=50),
    TaskResClassifier(max_iter=50, batch_size=None),
    LPPlusPlusClassifier(max_iter=50),
]
#: These keep the rows, or sum them in double precision, in NumPy.
BY_HOST = [
    TipAdapterClassifier(),
    TipAdapterClassifier(train_keys=True, batch_size=None),
    GaussianDiscriminantClassifier(),
    ProKeRClassifier(),
]
WITH_DEVICE = [
    *(m for m in ON_DEVICE + BY_HOST if "device" in m.get_params()),
    # Batches follow the order of the rows, in which a tensor is sorted.
    TaskResClassifier(max_iter=5, batch_size=64, random_state=0),
]
PROBABILITIES = ["predict_proba", "predict_log_proba", "decision_function"]
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


def assert_is_on_gpu(tensor, dtype=torch.float32):
    assert isinstance(tensor, torch.Tensor)
    assert tensor.device.type == DEVICE and tensor.dtype == dtype


@pytest.fixture(scope="module")
def pictures():
    return make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)


@pytest.fixture
def dispatch(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True):
        yield


@pytest.fixture
def no_host_copies(monkeypatch):
    """Return what lets no tensor of some size leave the device from then on."""

    def start(least):
        def guarded(name):
            original = getattr(torch.Tensor, name)

            def method(self, *args, **kwargs):
                to_host = name != "to" or _names_the_host(args, kwargs)
                if to_host and self.device.type == DEVICE:
                    assert self.numel() < least, f"{name} of {tuple(self.shape)}"
                return original(self, *args, **kwargs)

            return method

        for name in ("numpy", "cpu", "to", "tolist", "__array__", "__dlpack__"):
            monkeypatch.setattr(torch.Tensor, name, guarded(name))

    return start


def _names_the_host(args, kwargs):
    places = [*args, *kwargs.values()]
    return any(
        torch.device(place).type == "cpu"
        for place in places
        if isinstance(place, str | torch.device)
    )


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


def test_a_settled_fit_is_that_of_the_cpu():
    X, y, text = make_task(dtype=np.float64)
    there, here = (
        CMMClassifier(text, device=device, tol=1e-8).fit(X, y)
        for device in (DEVICE, "cpu")
    )
    assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-4)
    there, here = (
        CMMClassifierCV(text, **SEARCH, tol=1e-8, device=device).fit(X, y)
        for device in (DEVICE, "cpu")
    )
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(there.cv_results_[key], here.cv_results_[key], atol=1e-3)


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


@pytest.mark.parametrize("model", ON_DEVICE + BY_HOST, ids=name_of)
@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_in_and_out(dispatch, no_host_copies, model, with_text, dtype):
    X, y, text = make_task(dtype=dtype)
    queries = make_task(220, seed=1, dtype=dtype)[0]
    model = clone(model).set_params(text_features=text if with_text else None)
    by_host = name_of(model) in map(name_of, BY_HOST)
    if isinstance(model, CMMClassifierCV):
        # Its own folds follow the order of the rows, in which a tensor is sorted.
        model.set_params(cv=[(np.arange(200), np.arange(200, 300))])
    here = clone(model)
    if "device" in here.get_params():
        here.set_params(device="cpu")
    expected = here.fit(X, y).predict_proba(queries)

    rows, unknown = on_gpu(X), on_gpu(queries)
    if not by_host:
        no_host_copies(200 * WIDTH)
        with pytest.raises(AssertionError, match="cpu of"):
            rows.cpu()
    there = clone(model).fit(rows, y)
    no_host_copies(200 * WIDTH)
    for method in PROBABILITIES:
        assert_is_on_gpu(getattr(there, method)(unknown), unknown.dtype)
    assert_allclose(there.predict_proba(unknown).cpu(), expected, atol=1e-3)
    predicted = there.predict(unknown)
    assert_is_on_gpu(predicted, torch.int64)
    assert (predicted.cpu().numpy() == expected.argmax(axis=1)).mean() > 0.99
    assert np.isfinite(there.score(rows, on_gpu(y)))
    for name, value in vars(there).items():
        assert not type(value).__module__.startswith("torch"), name


def test_names_weights_and_other_dtypes(dispatch):
    X, y, text = make_task()
    names = np.array([f"class {i}" for i in y])
    rows, weight = on_gpu(X), torch.linspace(0, 2, len(y), device=DEVICE)
    named = CMMClassifier(text).fit(rows, names, sample_weight=weight)
    assert isinstance(named.predict(rows), np.ndarray)
    assert named.score(rows, names) > 1.5 / N_CLASSES
    assert_is_on_gpu(named.transform(rows))
    numbered = CMMClassifier(text).fit(rows, on_gpu(y), sample_weight=weight.cpu())
    assert_allclose(
        named.predict_proba(rows).cpu(), numbered.predict_proba(rows).cpu(), atol=1e-4
    )
    for dtype in (torch.float16, torch.bfloat16):
        half = CMMClassifier(text).fit(rows.to(dtype), y)
        assert_is_on_gpu(half.predict_proba(rows.to(dtype)))
        assert float(half.score(rows.to(dtype), on_gpu(y))) > 1.5 / N_CLASSES


def test_scikit_learn_cuts_tensors_into_folds(dispatch):
    X, y, text = make_task()
    rows, labels = on_gpu(X), on_gpu(y)
    expected = cross_val_score(CMMClassifier(text, device="cpu"), X, y, cv=3)
    found = cross_val_score(CMMClassifier(text), rows, labels, cv=3)
    assert_allclose(found, expected, atol=0.02)
    search = GridSearchCV(CMMClassifier(text), {"alpha": [0.0, 1.0]}, cv=3)
    assert_is_on_gpu(search.fit(rows, labels).predict(rows), torch.int64)


def test_a_fit_on_another_device_than_the_rows(dispatch):
    X, y, text = make_task()
    rows = on_gpu(X)
    for device, fitted_on in ((DEVICE, torch.from_numpy(X)), ("cpu", rows)):
        model = CMMClassifier(text, device=device).fit(fitted_on, y)
        # Predictions follow the rows.
        there, here = model.predict_proba(rows), model.predict_proba(torch.tensor(X))
        assert_is_on_gpu(there)
        assert here.device.type == "cpu"
        assert_allclose(there.cpu(), here, atol=1e-4)
        assert_allclose(model.predict_proba(X), here, atol=1e-4)


def test_many_rows_are_predicted_in_blocks(dispatch, monkeypatch):
    X, y, text = make_task()
    queries = make_task(5000, seed=1)[0]
    model = CMMClassifier(text).fit(on_gpu(X), y)
    whole = model.predict_proba(on_gpu(queries))
    monkeypatch.setattr("skfewshot.classifiers._base._BLOCK_ON_GPU", 1)
    assert_allclose(model.predict_proba(on_gpu(queries)).cpu(), whole.cpu(), atol=1e-5)
    assert_allclose(model.predict_proba(queries), whole.cpu(), atol=1e-4)


@pytest.mark.parametrize(
    "model", [CMMClassifier(), TaskResClassifier(max_iter=3, batch_size=64)]
)
def test_the_gpu_as_default_device_changes_nothing(model):
    X, y, text = make_task()
    models = [
        clone(model).set_params(text_features=text, device=device, random_state=0)
        for device in (DEVICE, "cpu")
    ]
    expected = [fitted.fit(X, y).predict_proba(X) for fitted in models]
    with torch.device(DEVICE):
        found = [clone(fitted).fit(X, y).predict_proba(X) for fitted in models]
    assert_allclose(found, expected, atol=1e-4)


def test_without_dispatch_an_error_says_what_to_do():
    X, y, text = make_task()
    model = CMMClassifier(text).fit(X, y)
    for call in (model.predict, lambda rows: model.fit(rows, y)):
        with pytest.raises(TypeError, match=r"set_config\(array_api_dispatch=True\)"):
            call(on_gpu(X))


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


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_embeddings_stay_on_the_device(pictures, precision):
    images, _ = pictures
    featurizer = CLIPFeaturizer(
        "tiny", device=DEVICE, precision=precision, output_type="torch"
    )
    found = featurizer.fit_transform(images)
    assert_is_on_gpu(found)
    arrays = clone(featurizer).set_params(output_type="numpy").transform(images)
    assert encoder_of(found) == encoder_of(arrays)
    assert_allclose(found.cpu(), arrays, atol=1e-3)


@pytest.mark.parametrize("model", [CMMClassifier(), CLAPClassifier(max_iter=50)])
def test_features_never_leave_the_device(dispatch, no_host_copies, model):
    # More features than the map of CMM, which is part of the model, has entries.
    images, names = make_object_images(70, kinds=KINDS, return_X_y=True)
    clip = CLIPFeaturizer("tiny", device=DEVICE, precision="fp32")
    here = make_pipeline(clip, clone(model).set_params(device="cpu")).fit(images, names)
    expected = here.predict_proba(images)

    pipeline = make_pipeline(clone(clip).set_params(output_type="torch"), clone(model))
    no_host_copies(len(images) * 128)
    pipeline.fit(images, names)
    assert pipeline[-1].prototype_source_ == "embedding"
    found = pipeline.predict_proba(images)
    assert_is_on_gpu(found)
    assert_allclose(found.cpu(), expected, atol=5e-3)
    assert pipeline.score(images, names) == here.score(images, names)


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


# Pickles and memory


def test_a_model_of_the_gpu_predicts_without_one(dispatch, tmp_path):
    X, y, text = make_task()
    rows = on_gpu(X)
    models = [
        clone(model).set_params(text_features=text).fit(rows, y)
        for model in ON_DEVICE + BY_HOST
    ]
    expected = [model.predict_proba(rows).cpu().numpy() for model in models]
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


@pytest.fixture
def memory_limit():
    """Return a function that lets this process reserve so many bytes, and no more."""
    total = torch.cuda.get_device_properties(0).total_memory
    # Models of other tests would leave room among their weights.
    clear_model_cache()
    gc.collect()

    def limit(size):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def peaks(fit):
    """Return the fitted model, and the most bytes allocated and reserved meanwhile."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = fit()
    return model, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


@pytest.mark.parametrize("solver", ["gaussian", "gradient"])
def test_a_fit_that_runs_out_of_memory_takes_smaller_chunks(memory_limit, solver):
    X, y, text = make_task(20_000, n_classes=400, width=64)
    model = CMMClassifier(text, solver=solver, max_iter=3, device=DEVICE)
    # Handles and workspaces of the libraries come with the first fit.
    clone(model).fit(X[:2000], y[:2000])
    small = clone(model).set_params(chunk_size=64)
    _, least, enough = peaks(lambda: small.fit(X, y))
    expected, too_much, _ = peaks(lambda: clone(model).fit(X, y))
    assert enough < 0.8 * too_much
    memory_limit((enough + too_much) / 2)
    before = torch.cuda.memory_stats()["num_ooms"]
    found = clone(model).fit(X, y)
    assert torch.cuda.memory_stats()["num_ooms"] > before
    assert_allclose(
        found.predict_proba(X[:500]), expected.predict_proba(X[:500]), atol=1e-3
    )
    if solver == "gaussian":
        # The support fits, and then its cosines do not, whatever the chunks.
        memory_limit((torch.cuda.memory_allocated() + least) / 2)
        with pytest.raises(torch.cuda.OutOfMemoryError, match="chunks of 64 rows"):
            clone(model).fit(X, y)
    memory_limit(enough * 2)
    assert_array_equal(clone(small).fit(X, y).classes_, np.arange(400))
