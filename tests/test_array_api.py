"""Tensors in, tensors out: array API dispatch, and no way round by host memory."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_array_api_input,
    check_array_api_input_and_values,
)

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    CMMClassifierCV,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot._arrays import unit_rows
from skfewshot.classifiers import _training
from skfewshot.classifiers._folds import stratified_folds
from skfewshot.classifiers._rows import find_near_copies, merge_near_copies, merge_rows
from skfewshot.clip import EncoderIdentity

# Some solvers are stopped early, where rounding errors have not yet grown.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_CLASSES, WIDTH = 5, 24
SEARCH = {
    "map_penalties": (1.0,),
    "text_penalties": (10.0, 3.0),
    "cv": StratifiedKFold(3),
}
#: All rows of a fit of these stay where they are.
ON_DEVICE = [
    CMMClassifier(),
    CMMClassifier(solver="gradient", chunk_size=50, max_iter=5),
    CMMClassifierCV(**SEARCH),
    ZeroShotClassifier(),
    CLAPClassifier(max_iter=30),
    TaskResClassifier(max_iter=30, batch_size=None),
    LPPlusPlusClassifier(max_iter=30),
]
#: These keep the rows, or sum them in double precision, in NumPy.
BY_HOST = [
    TipAdapterClassifier(),
    TipAdapterClassifier(train_keys=True, batch_size=None),
    GaussianDiscriminantClassifier(),
    ProKeRClassifier(),
]
PROBABILITIES = ["predict_proba", "predict_log_proba", "decision_function"]


def name_of(model):
    options = [model.get_params().get(name) for name in ("solver", "train_keys")]
    return "-".join([type(model).__name__, *(str(o) for o in options if o)])


each_model = pytest.mark.parametrize("model", ON_DEVICE + BY_HOST, ids=name_of)


def make_task(n=300, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    concepts = np.random.default_rng(7).normal(size=(N_CLASSES, WIDTH))
    y = np.arange(n) % N_CLASSES
    X = 1 + concepts[y] + 1.5 * rng.normal(size=(n, WIDTH))
    text = concepts + 0.5 * rng.normal(size=concepts.shape) - 1
    return X.astype(dtype), y, text.astype(dtype)


@pytest.fixture
def dispatch(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True):
        yield


@pytest.fixture
def no_host_copies(monkeypatch):
    """Return what lets no tensor of the size of a support leave torch from then on."""

    def guarded(name):
        original = getattr(torch.Tensor, name)

        def method(self, *args, **kwargs):
            assert self.numel() < 200 * WIDTH, f"{name} of {tuple(self.shape)}"
            return original(self, *args, **kwargs)

        return method

    def start():
        for name in ("numpy", "cpu", "tolist", "__array__", "__dlpack__"):
            monkeypatch.setattr(torch.Tensor, name, guarded(name))

    return start


@each_model
@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_give_what_arrays_give(dispatch, model, with_text, dtype):
    X, y, text = make_task(dtype=dtype)
    queries = make_task(1500, seed=1, dtype=dtype)[0]
    model = clone(model).set_params(text_features=text if with_text else None)
    if isinstance(model, CMMClassifierCV):
        # Accuracies are soon equal, and then a rounding error may choose.
        model.set_params(scoring="neg_log_loss")
    by_array = clone(model).fit(X, y)
    by_tensor = clone(model).fit(torch.from_numpy(X), y)
    for method in PROBABILITIES:
        expected = getattr(by_array, method)(queries)
        found = getattr(by_tensor, method)(torch.from_numpy(queries))
        assert isinstance(found, torch.Tensor) and found.numpy().dtype == dtype
        if method == "predict_proba":
            assert_allclose(found, expected, atol=1e-3)
        # The same model predicts the same for both.
        assert_allclose(found, getattr(by_tensor, method)(queries), atol=1e-3)
    agreed = by_tensor.predict(torch.from_numpy(queries)).numpy()
    assert (agreed == by_array.predict(queries)).mean() > 0.995


@each_model
def test_labels_follow_scikit_learn(dispatch, model):
    X, y, text = make_task()
    rows, model = torch.from_numpy(X), clone(model).set_params(text_features=text)
    for labels in (y + 3, torch.from_numpy(y + 3)):
        predicted = clone(model).fit(rows, labels).predict(rows)
        assert isinstance(predicted, torch.Tensor) and predicted.dtype == torch.int64
        assert set(predicted.tolist()) <= set(range(3, 8))
    for names in (np.array([f"c{i}" for i in y]), [f"c{i}" for i in y]):
        fitted = clone(model).fit(rows, names)
        assert isinstance(fitted.predict(rows), np.ndarray)
        assert fitted.score(rows, names) == pytest.approx(
            np.mean(fitted.predict(rows) == np.asarray(names))
        )


@each_model
def test_accuracy_takes_labels_of_any_kind(dispatch, model):
    X, y, text = make_task()
    rows, weight = torch.from_numpy(X), np.arange(len(y)) / 7
    model = clone(model).set_params(text_features=text).fit(X, y)
    right = model.predict(rows).numpy() == y
    for labels in (y, torch.from_numpy(y), y.tolist(), pd.Series(y)):
        assert model.score(rows, labels) == pytest.approx(right.mean())
        for weights in (weight, torch.from_numpy(weight), weight.tolist()):
            found = model.score(rows, labels, sample_weight=weights)
            assert found == pytest.approx(np.average(right, weights=weight))
    names = pd.Series([f"c{i}" for i in y])
    assert cross_val_score(model, rows, names, cv=2, error_score="raise").min() > 0.3


@each_model
def test_fitted_state_is_numpy(dispatch, model):
    X, y, text = make_task()
    model = clone(model).set_params(text_features=text).fit(torch.from_numpy(X), y)
    for name, value in vars(model).items():
        assert not type(value).__module__.startswith("torch"), name
    with sklearn.config_context(array_api_dispatch=False):
        loaded = pickle.loads(pickle.dumps(model))
        expected = model.predict_proba(X)
        assert isinstance(expected, np.ndarray)
        assert_array_equal(loaded.predict_proba(X), expected)


@pytest.mark.parametrize("model", ON_DEVICE, ids=name_of)
@pytest.mark.parametrize("with_text", [True, False])
def test_a_fit_copies_no_rows_to_the_host(dispatch, no_host_copies, model, with_text):
    X, y, text = make_task()
    model = clone(model).set_params(text_features=text if with_text else None)
    rows, weight = torch.from_numpy(X), torch.linspace(0, 2, len(y))
    no_host_copies()
    with pytest.raises(AssertionError, match="numpy of"):
        rows.numpy()
    assert model.fit(rows, y, sample_weight=weight).n_features_in_ == WIDTH


@each_model
def test_predictions_copy_no_rows_to_the_host(dispatch, no_host_copies, model):
    X, y, text = make_task()
    model = clone(model).set_params(text_features=text).fit(X, y)
    queries = torch.from_numpy(X)
    no_host_copies()
    for method in PROBABILITIES:
        assert len(getattr(model, method)(queries)) == len(X)
    assert model.predict(queries).shape == (len(X),)
    assert 0 <= model.score(queries, y) <= 1


def test_the_map_of_cmm_follows_the_tensor(dispatch, no_host_copies):
    X, y, text = make_task()
    model = CMMClassifier(text).fit(X, y)
    no_host_copies()
    mapped = model.transform(torch.from_numpy(X))
    assert isinstance(mapped, torch.Tensor)
    assert_allclose(mapped[:3], model.transform(X)[:3], atol=1e-6)
    model.add_class(9, torch.from_numpy(text[0] + text[1]))
    assert 9 in model.predict(torch.from_numpy(text[:1] + text[1:2])).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32])
def test_half_precision_becomes_single(dispatch, dtype):
    X, y, text = make_task()
    rows = torch.from_numpy(4 * X).to(dtype)
    wide = torch.float64 if dtype == torch.int32 else torch.float32
    model = CMMClassifier(text).fit(rows, y)
    assert model.predict_proba(rows).dtype == wide
    assert_allclose(
        model.predict_proba(rows), model.predict_proba(rows.to(wide)), atol=1e-6
    )


def test_what_goes_with_the_rows_may_be_in_half_precision(dispatch):
    X, y, text = make_task()
    rows, brief = torch.from_numpy(X), torch.from_numpy(text).to(torch.bfloat16)
    weight = torch.linspace(0.5, 2, len(y)).to(torch.bfloat16)
    expected = CMMClassifier(brief.float()).fit(rows, y, weight.float())
    by_class = {label: brief[label] for label in range(N_CLASSES)}
    for texts in (brief, by_class):
        found = CMMClassifier(texts).fit(rows, y, weight)
        assert_array_equal(found.map_, expected.map_)
    assert found.add_class(9, brief[0] + brief[1]).predict(rows).dtype == torch.int64


def test_rows_weights_and_copies_count_as_in_arrays(dispatch):
    X, y, text = make_task(60)
    rows, shuffled = torch.from_numpy(X), np.random.default_rng(0).permutation(60)
    weight = np.where(np.arange(60) < 20, 2.0, 1.0)
    copied = CMMClassifier(text).fit(torch.cat([rows, rows[:20]]), np.r_[y, y[:20]])
    for weights in (weight, torch.from_numpy(weight), weight.tolist()):
        weighted = CMMClassifier(text).fit(rows, y, sample_weight=weights)
        assert_array_equal(weighted.map_, copied.map_)
    moved = CMMClassifier(text).fit(rows[shuffled], y[shuffled], weight[shuffled])
    assert_array_equal(moved.map_, copied.map_)
    # Neither do the names of the classes matter.
    renamed = CMMClassifier(text[::-1]).fit(rows, 10 - y, weight)
    assert_array_equal(renamed.map_, copied.map_)


@pytest.mark.parametrize("seed", range(5))
def test_merging_is_the_same_for_both(seed):
    rng = np.random.default_rng(seed)
    X = unit_rows(rng.normal(size=(120, 6)).astype(np.float32))
    X[40:80] = unit_rows(X[rng.integers(40, size=40)] + 0.05 * X[80:])
    X[80:100] = X[rng.integers(80, size=20)]
    # Classes of unequal size: one of a single row, one that is too large to look at.
    y = rng.choice(5, p=[0.01, 0.09, 0.2, 0.2, 0.5], size=120)
    y[y == 0] = 1
    y[0] = 0
    weight = rng.uniform(0.5, 2, size=120).astype(np.float32)
    rows = torch.from_numpy(X)
    for array, tensor in (
        (merge_rows(X, y, weight), merge_rows(rows, y, weight)),
        (
            merge_near_copies(X, y, weight, cosine=0.97, most=50),
            merge_near_copies(rows, y, weight, cosine=0.97, most=50),
        ),
    ):
        assert isinstance(tensor[0], torch.Tensor)
        assert len(array[0]) < len(X)
        # Either order is as good as the other.
        keys = [
            np.lexsort([labels, *np.asarray(features).round(3).T])
            for features, labels, _ in (array, tensor)
        ]
        for ours, theirs in zip(array, tensor, strict=True):
            assert_allclose(np.asarray(theirs)[keys[1]], ours[keys[0]], atol=1e-6)
    assert_array_equal(
        find_near_copies(X, y, cosine=0.97, most=50),
        find_near_copies(rows, y, cosine=0.97, most=50),
    )


def test_near_copies_are_found_in_small_blocks(monkeypatch):
    X, y, _ = make_task(40)
    X = unit_rows(np.concatenate([X, X + 1e-3]))
    y = np.r_[y, y]
    expected = find_near_copies(X, y, cosine=0.99)
    assert len(np.unique(expected)) == 40
    monkeypatch.setattr("skfewshot.classifiers._rows._MOST_ON_DEVICE", 1)
    found = find_near_copies(torch.from_numpy(X), y, cosine=0.99)
    assert_array_equal(found, expected)


def test_unit_rows_of_any_length():
    rows = np.array([[3, 4], [0, 0], [1e-30, 1e-30], [1e30, -1e30]], np.float32)
    found = unit_rows(torch.from_numpy(rows))
    assert_allclose(found, unit_rows(rows), rtol=1e-6)
    assert_allclose(torch.linalg.vector_norm(found, dim=1), [1, 0, 1, 1], rtol=1e-6)


def test_own_folds_do_not_depend_on_the_order_of_the_rows():
    X, y, _ = make_task(60)
    X = unit_rows(X)
    rows, shuffled = torch.from_numpy(X), np.random.default_rng(0).permutation(60)
    for features in (X, rows):
        tests = [
            {
                tuple(np.sort(order[test]))
                for _, test in stratified_folds(
                    features[order], y[order], np.ones(60), n_folds=3, cosine=0.97
                )
            }
            for order in (np.arange(60), shuffled)
        ]
        assert tests[0] == tests[1] and len(tests[0]) == 3


@pytest.mark.parametrize(
    "scoring",
    [
        *(None, "neg_log_loss", "balanced_accuracy"),
        *("roc_auc_ovr", "top_k_accuracy", "matthews_corrcoef"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_search_scores_tensors(dispatch, scoring, named):
    X, y, text = make_task()
    y = np.array([f"c{i}" for i in y]) if named else y
    params = {**SEARCH, "scoring": scoring}
    on_arrays = CMMClassifierCV(text, **params).fit(X, y)
    on_tensors = CMMClassifierCV(text, **params).fit(torch.from_numpy(X), y)
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(
            on_tensors.cv_results_[key], on_arrays.cv_results_[key], atol=1e-3
        )
    own = CMMClassifierCV(text, map_penalties=(1.0,), cv=3, scoring=scoring)
    assert own.fit(torch.from_numpy(X), y).n_splits_ == 3
    if scoring in (None, "neg_log_loss", "balanced_accuracy"):  # take tensors
        labels = y if named else torch.from_numpy(y)
        assert np.isfinite(own.score(torch.from_numpy(X), labels))


def test_meta_estimators(dispatch):
    X, y, text = make_task()
    rows, model = torch.from_numpy(X), CMMClassifier(text)
    expected = cross_val_score(model, X, y, cv=3)
    assert_allclose(cross_val_score(model, rows, y, cv=3), expected, atol=0.02)
    search = GridSearchCV(model, {"alpha": [0.0, 1.0]}, cv=3).fit(rows, y)
    assert isinstance(search.predict(rows), torch.Tensor)
    predicted = cross_val_predict(model, rows, y, cv=3)
    assert (predicted.numpy() == cross_val_predict(model, X, y, cv=3)).mean() > 0.99
    piped = make_pipeline(StandardScaler(), CMMClassifier()).fit(rows, y)
    assert_allclose(
        piped.predict_proba(rows),
        make_pipeline(StandardScaler(), CMMClassifier()).fit(X, y).predict_proba(X),
        atol=1e-3,
    )


@each_model
def test_scikit_learns_own_checks(monkeypatch, model):
    # In a pipeline, as scikit-learn wants fitted attributes to be tensors too, and here
    # they are arrays. In double precision its accuracy is a mean in single precision.
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    params = {"map_penalties": (1.0,), "text_penalties": (10.0,), "cv": 2}
    if isinstance(model, CMMClassifierCV):
        model = CMMClassifierCV(**params)
    piped = make_pipeline(clone(model).set_params(text_features="auto"))
    where = {"array_namespace": "torch", "device_name": "cpu"}
    for weighted in (False, True):
        check_array_api_input_and_values(
            "model", piped, **where, dtype_name="float32", check_sample_weight=weighted
        )
    check_array_api_input("model", piped, **where, dtype_name="float64")
    check_array_api_input("model", piped, array_namespace="numpy")


@each_model
def test_gradients_and_inference_mode_do_not_matter(dispatch, model):
    X, y, text = make_task()
    model = clone(model).set_params(text_features=text)
    plain = torch.from_numpy(X)
    expected = clone(model).fit(plain, y).predict_proba(plain)
    tracked = plain.clone().requires_grad_()
    fitted = clone(model).fit(tracked, y)
    found = fitted.predict_proba(tracked)
    assert not found.requires_grad
    assert_array_equal(found, expected)
    with torch.inference_mode():
        made_here = plain.clone()
        found = clone(model).fit(made_here, y).predict_proba(made_here)
    assert_array_equal(found, expected)
    # A tensor of an inference mode that is over.
    assert_array_equal(clone(model).fit(made_here, y).predict_proba(plain), expected)
    assert_array_equal(made_here, X)


def test_a_fit_is_where_the_tensor_is_unless_told(dispatch, monkeypatch):
    X, y, text = make_task()
    asked = []
    monkeypatch.setattr(
        _training,
        "resolve_device",
        lambda device: asked.append(device) or torch.device("cpu"),
    )
    CMMClassifier(text).fit(torch.from_numpy(X), y)
    assert asked == []
    CMMClassifier(text, device="cpu").fit(torch.from_numpy(X), y)
    CMMClassifier(text).fit(X, y)
    assert asked == ["cpu", None]


def test_without_dispatch_a_tensor_is_an_array():
    X, y, text = make_task()
    model = CMMClassifier(text).fit(torch.from_numpy(X), y)
    expected = CMMClassifier(text).fit(X, y).predict_proba(X)
    found = model.predict_proba(torch.from_numpy(X))
    assert isinstance(found, np.ndarray)
    assert_array_equal(found, expected)
    # Not on this machine's processor, as a tensor on a GPU is not.
    elsewhere = torch.empty(X.shape, device="meta")
    for call in (model.predict, lambda rows: model.fit(rows, y)):
        with pytest.raises(
            TypeError, match=r"on meta.*set_config\(array_api_dispatch=True\)"
        ):
            call(elsewhere)


def test_other_namespaces_are_refused(dispatch):
    class Foreign:
        shape, ndim = (300, WIDTH), 2

        def __array_namespace__(self, api_version=None):
            return np

    X, y, text = make_task()
    model = CMMClassifier(text).fit(X, y)
    for call in (model.predict, lambda rows: model.fit(rows, y)):
        with pytest.raises(TypeError, match=r"NumPy array or a torch tensor.*Foreign"):
            call(Foreign())


def test_bad_tensors_are_named(dispatch):
    X, y, text = make_task()
    rows = torch.from_numpy(X)
    rows[5] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        CMMClassifier(text).fit(rows, y)
    rows.encoder = EncoderIdentity("tiny", None, "5f0c", WIDTH, 100.0)
    with pytest.raises(ValueError, match=r"could not read.*\[5\]"):
        CMMClassifier(text).fit(rows, y)
    model = CMMClassifier(text).fit(X[10:], y[10:])
    with pytest.raises(ValueError, match="features"):
        model.predict(torch.ones(3, WIDTH + 1))
    with pytest.raises(ValueError, match=r"could not read.*\[5\]"):
        model.predict(rows)


def test_a_marked_tensor_knows_its_encoder(dispatch):
    X, y, text = make_task()
    encoder = EncoderIdentity("tiny", None, "5f0c", WIDTH, 50.0)
    rows = torch.from_numpy(X)
    rows.encoder = encoder
    model = CMMClassifier(text).fit(rows, y)
    assert model.encoder_ == encoder and model.logit_scale_ == 50.0
    other = torch.from_numpy(X.copy())
    other.encoder = EncoderIdentity("tiny", None, "beef", WIDTH, 50.0)
    with pytest.raises(ValueError, match="comes from the encoder"):
        model.predict(other)


def test_a_part_of_a_featurizers_tensor_is_warned_of(dispatch):
    """It has lost its encoder, and with it the texts."""
    X, y, _ = make_task()
    names = np.array([f"c{i}" for i in y])
    rows = torch.from_numpy(X)
    for labels in (names, names.tolist()):
        with pytest.warns(UserWarning, match="y holds names, but X is a tensor"):
            CMMClassifier().fit(rows, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CMMClassifier(None).fit(rows, names)
        CMMClassifier().fit(rows, y)
        CMMClassifier().fit(X, names)
