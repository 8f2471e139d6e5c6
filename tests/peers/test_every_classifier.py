"""What holds for every few-shot classifier: invariants, images, weights, parameters."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict

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
    "lp++": LPPlusPlusClassifier(max_iter=30),
    "clap": CLAPClassifier(max_iter=30),
    "taskres": TaskResClassifier(max_iter=30, random_state=0),
    "proker": ProKeRClassifier(),
    "cmm": CMMClassifier(),
}
#: Those of which the probabilities without texts are held against guessing.
GUESSING = {name: model for name, model in MODELS.items() if name != "cmm"}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
with_and_without_text = pytest.mark.parametrize("has_text", [True, False])
KINDS = ["striped star", "plain heart", "checked ring"]


@pytest.fixture(scope="module")
def embedded():
    images, names = make_object_images(5, kinds=KINDS, random_state=0, return_X_y=True)
    return CLIPFeaturizer("tiny").fit_transform(images), names


def with_text(model, text):
    model = clone(model).set_params(text_features=text)
    if "logit_scale" in model.get_params():
        model.set_params(logit_scale=20.0)
    return model


@every_model
@with_and_without_text
def test_a_row_of_weight_two_is_two_rows_and_their_order_is_none(model, has_text, task):
    X, y, text, queries = task
    model = with_text(model, text if has_text else None)
    weight = np.ones(len(X))
    weight[[2, 7]] = 2.0, 0.0
    weighted = clone(model).fit(X, y, sample_weight=weight)
    rows = np.random.default_rng(0).permutation([*np.flatnonzero(weight), 2])
    repeated = clone(model).fit(X[rows], y[rows])
    assert_array_equal(
        weighted.decision_function(queries), repeated.decision_function(queries)
    )


@every_model
def test_class_weights_are_weights_of_the_rows(model, task):
    X, y, text, queries = task
    model = with_text(model, text)
    if "class_weight" not in model.get_params():
        return
    weights = {0: 1.0, 1: 2.0, 2: 2.0, 3: 0.0}
    weighed = clone(model).set_params(class_weight=weights).fit(X, y)
    assert weighed.predict_proba(queries).shape == (36, 4)
    assert np.isfinite(weighed.predict_log_proba(queries)).all()
    if isinstance(model, TipAdapterClassifier | LPPlusPlusClassifier | CLAPClassifier):
        # No rows are left out, for which a copy of a row has the weight of its class.
        weights[3] = 0.5
        weighed = clone(model).set_params(class_weight=weights).fit(X, y)
        rows = clone(model).fit(X, y, sample_weight=[weights[label] for label in y])
        assert_allclose(
            weighed.decision_function(queries), rows.decision_function(queries)
        )
    even = clone(model).set_params(class_weight="balanced")
    balanced = {c: 18 / 4 / n for c, n in enumerate((3, 4, 5, 6))}
    by_hand = clone(model).set_params(class_weight=balanced)
    assert_allclose(
        even.fit(X, y).predict_proba(queries),
        by_hand.fit(X, y).predict_proba(queries),
        rtol=1e-6,
    )


@every_model
@with_and_without_text
def test_relabelling_permutes_the_columns(model, has_text, task):
    X, y, text, queries = task
    labels = np.array([2, 0, 3, 1])
    renamed = np.empty_like(text)
    renamed[labels] = text
    first = with_text(model, text if has_text else None).fit(X, y)
    second = with_text(model, renamed if has_text else None).fit(X, labels[y])
    assert_allclose(
        first.decision_function(queries),
        second.decision_function(queries)[:, labels],
        rtol=1e-9,
        atol=1e-9,
    )


@every_model
@with_and_without_text
def test_without_texts_class_means_stand_in(model, has_text, task):
    X, y, text, _ = task
    fitted = with_text(model, text if has_text else None).fit(X, y)
    assert fitted.prototype_source_ == ("text_features" if has_text else "image")
    means = np.stack([X[y == c].mean(axis=0) for c in range(4)])
    means /= np.linalg.norm(means, axis=1)[:, None]
    expected = text if has_text else means
    assert_allclose(fitted.text_features_, expected, rtol=1e-12)


@every_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_x_is_that_of_all(model, dtype, task):
    X, y, text, _ = task
    model = with_text(model, text).fit(X.astype(dtype), y)
    probabilities = model.predict_proba(X.astype(dtype))
    assert probabilities.dtype == model.decision_function(X.astype(dtype)).dtype
    assert probabilities.dtype == dtype
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(model.predict_log_proba(X.astype(dtype))).all()
    other = np.float32 if dtype == np.float64 else np.float64
    assert model.predict_proba(X.astype(other)).dtype == other


@every_model
def test_predictions_derive_from_one_decision_function(model, task):
    X, y, text, queries = task
    model = with_text(model, text).fit(X, y)
    logits = model.decision_function(queries)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert_allclose(model.predict_proba(queries), e / e.sum(axis=1, keepdims=True))
    log_p = model.predict_log_proba(queries)
    assert_allclose(np.exp(log_p), model.predict_proba(queries))
    assert_array_equal(model.predict(queries), logits.argmax(axis=1))
    # Rows are scaled to unit norm, in the support and when they are asked for.
    assert_allclose(model.decision_function(3 * queries), logits, rtol=1e-9)
    longer = clone(model).fit(X * np.arange(1, 19)[:, None], y)
    assert_allclose(longer.decision_function(queries), logits, rtol=1e-4, atol=1e-4)
    # More rows than are predicted at a time.
    many = np.tile(queries, (30, 1))
    assert_allclose(model.decision_function(many)[-36:], logits, rtol=1e-9)


@every_model
@with_and_without_text
def test_one_row_a_class_and_two_classes(model, has_text, make_task):
    for shots in (1, (2, 1, 1, 1), (1, 1, 3, 1), (1, 3, 3, 1)):
        X, y, text = make_task(shots=shots)
        some = with_text(model, text if has_text else None).fit(X, y)
        assert np.isfinite(some.predict_log_proba(X)).all()
        assert some.predict_proba(X).shape == (len(X), 4)
    X, y, text = make_task(n_classes=2, shots=2)
    pair = with_text(model, text if has_text else None).fit(X, y)
    assert pair.decision_function(X).shape == (4,)
    p = pair.predict_proba(X)
    odds = np.log(p[:, 1] / p[:, 0])
    assert_allclose(pair.decision_function(X), odds, rtol=1e-6, atol=1e-9)


def noise_task(n_classes, shots, seed, unit):
    """Rows in one cone, as wide as embeddings, of which the classes are by chance."""
    rng = np.random.default_rng(seed)
    y, z = np.repeat(np.arange(n_classes), shots), np.resize(np.arange(n_classes), 100)
    cone = rng.normal(size=512)
    X, Q = (unit(cone + rng.normal(size=(len(v), 512))) for v in (y, z))
    return X, y, Q, z


@pytest.mark.parametrize("shots", [1, 2, 4])
@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("model", GUESSING.values(), ids=GUESSING)
def test_without_texts_probabilities_are_no_worse_than_guessing(
    model, n_classes, shots, make_task, unit
):
    losses = {"task": [], "noise": []}
    for seed in range(6):
        # Rows 0 would repeat the draws that made the classes.
        X, y, _ = make_task(n_classes, shots, d=40, seed=seed, noise=2.0, rows=1)
        Q, z, _ = make_task(n_classes, 20, d=40, seed=seed, noise=2.0, rows=2)
        tasks = {
            "task": (X, y, Q, z),
            "noise": noise_task(n_classes, shots, seed, unit),
        }
        for kind, (X, y, Q, z) in tasks.items():
            fitted = clone(model).fit(X, y)
            losses[kind].append(log_loss(z, fitted.predict_proba(Q)))
    guessing = np.log(n_classes)
    assert np.mean(losses["task"]) < guessing
    # A row or two a class hardly tell that they are noise: what that costs at most.
    assert np.mean(losses["noise"]) < guessing + 0.2


@every_model
def test_images_and_string_labels(model, embedded):
    X, names = embedded
    fitted = clone(model).fit(X, names)
    assert fitted.prototype_source_ == "embedding"
    assert fitted.score(X, names) > 0.6
    assert set(cross_val_predict(clone(model), X, names, cv=2)) <= set(KINDS)
    by_name = dict(
        zip(KINDS, CLIPFeaturizer("tiny").encode_classes(KINDS), strict=True)
    )
    given = clone(model).set_params(text_features=by_name).fit(X, names)
    assert_allclose(given.predict_proba(X), fitted.predict_proba(X), atol=2e-2)
    for value in vars(fitted).values():
        assert not type(value).__module__.startswith("torch")


def test_closed_forms_do_not_load_torch(tmp_path, make_task):
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
def test_bad_parameters_are_named(model, bad, task):
    with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter of"):
        model(**bad).fit(task.X, task.y)


def test_docs_are_filled_in_and_parameters_all_documented(classifier):
    doc = type(classifier).__doc__
    assert "{{" not in doc
    for name in (*classifier.get_params(), "classes_", "n_features_in_"):
        assert f"\n    {name} : " in doc or f"{name}, " in doc, name
