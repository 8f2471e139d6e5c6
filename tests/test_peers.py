"""What holds for every few-shot classifier: invariants, compositions, bad input."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline

from skfewshot import (
    CLAPClassifier,
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.datasets import make_object_images

MODELS = {
    "zero-shot": ZeroShotClassifier(),
    "tip-adapter": TipAdapterClassifier(),
    "tip-adapter-f": TipAdapterClassifier(train_keys=True, random_state=0),
    "gda": GaussianDiscriminantClassifier(),
    "lp++": LPPlusPlusClassifier(),
    "clap": CLAPClassifier(),
    "taskres": TaskResClassifier(random_state=0),
    "proker": ProKeRClassifier(),
    "cmm": CMMClassifier(),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
KINDS = ["striped star", "plain heart", "checked ring"]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_task(shots=(3, 4, 5, 6), d=12, seed=0, noise=0.8):
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(4, d))
    image_cone, text_cone = 3 * rng.normal(size=(2, d))
    y = np.repeat(np.arange(4), shots)
    X = image_cone + concepts[y] + noise * rng.normal(size=(len(y), d))
    text = text_cone + concepts + noise * rng.normal(size=(4, d))
    return unit(X), y, unit(text)


@pytest.fixture(scope="module")
def embedded():
    images, names = make_object_images(5, kinds=KINDS, random_state=0, return_X_y=True)
    return CLIPFeaturizer("tiny").fit_transform(images), names


def with_text(model, text):
    return (
        clone(model).set_params(text_features=text, logit_scale=20.0)
        if ("logit_scale" in model.get_params())
        else clone(model).set_params(text_features=text)
    )


@every_model
@pytest.mark.parametrize("has_text", [True, False])
def test_a_row_of_weight_two_is_two_rows_and_their_order_is_none(model, has_text):
    X, y, text = make_task()
    model = with_text(model, text if has_text else None)
    weight = np.ones(len(X))
    weight[[2, 7]] = 2.0, 0.0
    weighted = clone(model).fit(X, y, sample_weight=weight)
    rows = np.random.default_rng(0).permutation([*np.flatnonzero(weight), 2])
    repeated = clone(model).fit(X[rows], y[rows])
    queries = make_task(seed=0, shots=9)[0]
    assert_array_equal(
        weighted.decision_function(queries), repeated.decision_function(queries)
    )


@every_model
@pytest.mark.parametrize("has_text", [True, False])
def test_relabelling_permutes_the_columns(model, has_text):
    X, y, text = make_task()
    labels = np.array([2, 0, 3, 1])
    renamed = np.empty_like(text)
    renamed[labels] = text
    first = with_text(model, text if has_text else None).fit(X, y)
    second = with_text(model, renamed if has_text else None).fit(X, labels[y])
    queries = make_task(seed=0, shots=9)[0]
    assert_allclose(
        first.decision_function(queries),
        second.decision_function(queries)[:, labels],
        rtol=1e-9,
        atol=1e-9,
    )


@every_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_x_is_that_of_all(model, dtype):
    X, y, text = make_task()
    model = with_text(model, text).fit(X.astype(dtype), y)
    probabilities = model.predict_proba(X.astype(dtype))
    assert probabilities.dtype == model.decision_function(X.astype(dtype)).dtype
    assert probabilities.dtype == dtype
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(model.predict_log_proba(X.astype(dtype))).all()
    other = np.float32 if dtype == np.float64 else np.float64
    assert model.predict_proba(X.astype(other)).dtype == other


@every_model
def test_one_row_a_class_two_classes_and_class_weights(model):
    X, y, text = make_task(shots=(1, 1, 1, 1))
    assert with_text(model, text).fit(X, y).predict_proba(X).shape == (4, 4)
    pair = with_text(model, text[:2]).fit(X[:2], y[:2])
    assert pair.decision_function(X).shape == (4,)
    for shots in ((2, 1, 1, 1), (1, 1, 3, 1), (1, 3, 3, 1)):
        X, y, text = make_task(shots=shots)
        for prototypes in (text, None):
            some = with_text(model, prototypes).fit(X, y)
            assert np.isfinite(some.predict_log_proba(X)).all()
    X, y, text = make_task()
    if "class_weight" in model.get_params():
        weights = {0: 2.0, 1: 0.0, 2: 1.0, 3: 0.5}
        weighed = with_text(model, text).set_params(class_weight=weights).fit(X, y)
        assert np.isfinite(weighed.predict_proba(X)).all()


@every_model
def test_images_and_string_labels_in_a_pipeline(model, embedded):
    X, names = embedded
    fitted = clone(model).fit(X, names)
    assert fitted.prototype_source_ == "embedding"
    assert fitted.score(X, names) > 0.6
    assert set(cross_val_predict(clone(model), X, names, cv=3)) <= set(KINDS)
    by_name = dict(
        zip(KINDS, CLIPFeaturizer("tiny").encode_classes(KINDS), strict=True)
    )
    given = clone(model).set_params(text_features=by_name).fit(X, names)
    assert_allclose(given.predict_proba(X), fitted.predict_proba(X), atol=2e-2)


GRIDS = {
    "zero-shot": {"logit_scale": [10.0, 100.0]},
    "tip-adapter": {"alpha": [0.0, 1.0], "beta": [1.0, 5.5]},
    "tip-adapter-f": {"max_iter": [1, 5]},
    "gda": {"alpha": ["auto", 1.0]},
    "lp++": {"max_iter": [10, 50]},
    "clap": {"learning_rate": [0.001, 0.01]},
    "taskres": {"alpha": [0.1, 0.5]},
    "proker": {"beta": ["auto", 5.5], "residual": ["probability", "cosine"]},
    "cmm": {"alpha": [0.5, 1.0]},
}


@pytest.mark.parametrize("name", MODELS)
def test_grid_search_routes_weights(name, embedded):
    X, names = embedded
    with sklearn.config_context(enable_metadata_routing=True):
        model = clone(MODELS[name]).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(model, GRIDS[name], cv=2, error_score="raise")
        search.fit(X, names, sample_weight=np.linspace(0.5, 2, len(names)))
    assert search.best_score_ > 0.5


@every_model
def test_pickles_predict_in_a_process_without_torch(model, embedded, tmp_path):
    X, names = embedded
    fitted = clone(model).fit(X, names)
    for value in vars(fitted).values():
        assert not type(value).__module__.startswith("torch")
    with open(tmp_path / "saved.pkl", "wb") as file:
        pickle.dump((fitted, np.asarray(X)), file)
    code = (
        "import pickle, sys\n"
        f"model, X = pickle.load(open({str(tmp_path / 'saved.pkl')!r}, 'rb'))\n"
        "print(*model.predict(X), sep='|')\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().split("|") == list(fitted.predict(np.asarray(X)))


def test_closed_forms_do_not_load_torch(tmp_path):
    np.savez(tmp_path / "task.npz", *make_task())
    code = (
        "import sys, numpy as np, skfewshot as s\n"
        f"X, y, T = np.load({str(tmp_path / 'task.npz')!r}).values()\n"
        "for name in ('ZeroShot', 'TipAdapter', 'GaussianDiscriminant', 'ProKeR'):\n"
        "    getattr(s, name + 'Classifier')(T).fit(X, y).predict(X)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("model", "bad"),
    [
        (TipAdapterClassifier, {"alpha": -1}),
        (TipAdapterClassifier, {"beta": -0.1}),
        (TipAdapterClassifier, {"train_keys": "yes"}),
        (TipAdapterClassifier, {"batch_size": 0}),
        (TipAdapterClassifier, {"max_iter": 0}),
        (GaussianDiscriminantClassifier, {"alpha": "best"}),
        (GaussianDiscriminantClassifier, {"alpha": -1.0}),
        (LPPlusPlusClassifier, {"max_iter": 1.5}),
        (CLAPClassifier, {"learning_rate": 0}),
        (TaskResClassifier, {"alpha": None}),
        (TaskResClassifier, {"random_state": "seed"}),
        (ProKeRClassifier, {"beta": 0}),
        (ProKeRClassifier, {"regularization": -1}),
        (ProKeRClassifier, {"amplitude": "large"}),
        (ProKeRClassifier, {"residual": "logit"}),
        (ZeroShotClassifier, {"logit_scale": 0}),
    ],
    ids=str,
)
def test_bad_parameters_are_named(model, bad):
    X, y, _ = make_task()
    with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter of"):
        model(**bad).fit(X, y)


@every_model
def test_docs_are_filled_in_and_parameters_all_documented(model):
    doc = type(model).__doc__
    assert "{{" not in doc
    for name in (*model.get_params(), "classes_", "n_features_in_"):
        assert f"\n    {name} : " in doc or f"{name}, " in doc, name


@every_model
def test_html_and_pipeline(model, embedded):
    images, names = make_object_images(2, kinds=KINDS, random_state=1, return_X_y=True)
    pipeline = make_pipeline(CLIPFeaturizer("tiny"), clone(model)).fit(images, names)
    assert type(model).__name__ in pipeline._repr_html_()
    assert pipeline.predict(images).shape == (6,)
