"""CMMClassifier: the equations, the invariants, and what `fit` learns."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import ConvergenceWarning

from skfewshot import CMMClassifier

SOLVERS = ("gaussian", "gradient")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_task(n_classes=4, shots=3, d=12, seed=0, noise=0.8, dtype=np.float64):
    """Two cones on a sphere: images round one mean direction, texts round another."""
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(n_classes, d))
    image_cone, text_cone = 3 * rng.normal(size=(2, d))
    y = np.repeat(np.arange(n_classes), shots)
    X = image_cone + concepts[y] + noise * rng.normal(size=(len(y), d))
    text = text_cone + concepts + noise * rng.normal(size=(n_classes, d))
    return unit(X).astype(dtype), y, unit(text).astype(dtype)


def zero_shot(X, text):
    return 100 * X @ text.T


def test_decision_function_is_the_documented_equation():
    X, y, text = make_task()
    for solver in SOLVERS:
        model = CMMClassifier(text, solver=solver, logit_scale=30.0).fit(X, y)
        mapped = unit(X @ model.map_ + model.map_intercept_)
        alpha = model.alpha_
        expected = X @ text.T + alpha * mapped @ unit(model.text_features_).T
        expected *= 30 / model.temperature_ / (1 + alpha)
        expected += model.intercept_
        assert_allclose(model.decision_function(X), expected, rtol=1e-10)
        assert_allclose(model.transform(X), mapped, rtol=1e-10)
        assert_allclose(model.zero_shot_features_, text, rtol=1e-12)
        assert model.prototype_source_ == "text_features"
        assert np.abs(model.map_ - np.eye(12)).max() > 1e-3


def test_given_scales_are_used():
    X, y, text = make_task()
    for solver in SOLVERS:
        model = CMMClassifier(text, solver=solver, alpha=0.7, temperature=2.5).fit(X, y)
        assert (model.alpha_, model.temperature_) == (pytest.approx(0.7), 2.5)
    gradient = CMMClassifier(text, solver="gradient").fit(X, y)
    assert (gradient.alpha_, gradient.temperature_) == (1.0, 1.0)
    assert_array_equal(gradient.map_intercept_, 0)


def test_probabilities_are_the_softmax_of_the_logits():
    X, y, text = make_task()
    model = CMMClassifier(text, logit_scale=10.0).fit(X, y)
    logits = model.decision_function(X)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(model.predict_proba(X), expected, rtol=1e-10)
    assert_allclose(model.predict_log_proba(X), np.log(expected), rtol=1e-8)
    assert_array_equal(model.predict(X), logits.argmax(axis=1))


def test_two_classes_give_one_margin():
    X, y, text = make_task(n_classes=2)
    model = CMMClassifier(text, logit_scale=10.0).fit(X, y)
    margin = model.decision_function(X)
    assert margin.shape == (len(X),)
    assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-margin)), rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "frozen",
    [
        {"alpha": 0.0},
        {"map_penalty": np.inf, "text_penalty": np.inf, "temperature": 1.0},
    ],
)
def test_alpha_zero_and_infinite_penalties_are_zero_shot(frozen, solver):
    X, y, text = make_task(shots=5)
    queries = make_task(seed=7)[0]
    model = CMMClassifier(text, solver=solver, **frozen).fit(X, y)
    assert_allclose(
        model.decision_function(queries), zero_shot(queries, text), rtol=1e-4
    )
    assert_allclose(model.map_ if frozen.get("map_penalty") else np.eye(12), np.eye(12))


def test_a_larger_map_penalty_keeps_the_map_nearer_to_the_identity():
    X, y, text = make_task()
    for solver in SOLVERS:
        moved = [
            np.linalg.norm(
                CMMClassifier(text, solver=solver, map_penalty=p).fit(X, y).map_
                - np.eye(12)
            )
            for p in (0.1, 1.0, 10.0, 1e6, 1e12)
        ]
        assert moved == sorted(moved, reverse=True)
        assert moved[-1] < 1e-6


def test_learning_beats_zero_shot_on_a_planted_gap():
    X, y, text = make_task(n_classes=6, shots=8, d=24, noise=1.2)
    queries, labels, _ = make_task(n_classes=6, shots=50, d=24, noise=1.2)
    before = (zero_shot(queries, text).argmax(axis=1) == labels).mean()
    gap = np.linalg.norm(queries.mean(axis=0) - text.mean(axis=0))
    for solver in SOLVERS:
        model = CMMClassifier(text, solver=solver).fit(X, y)
        assert model.score(queries, labels) > before + 0.05
        assert model.loss_curve_[-1] < model.loss_curve_[0]
        assert len(model.loss_curve_) == model.n_iter_ + 1
        mapped = model.transform(queries).mean(axis=0)
        assert np.linalg.norm(mapped - model.text_features_.mean(axis=0)) < gap


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), row=st.integers(0, 11))
def test_duplicating_a_row_equals_doubling_its_weight(seed, row):
    X, y, text = make_task(seed=seed)
    weight = np.ones(len(X))
    weight[row] = 2.0
    twice = np.vstack([X, X[row]]), np.append(y, y[row])
    for prototypes in (text, None):
        weighted = CMMClassifier(prototypes).fit(X, y, sample_weight=weight)
        repeated = CMMClassifier(prototypes).fit(*twice)
        assert_array_equal(weighted.map_, repeated.map_)
        assert_array_equal(weighted.text_features_, repeated.text_features_)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_row_order_does_not_matter_and_relabelling_permutes_the_columns(seed):
    X, y, text = make_task(seed=seed)
    rng = np.random.default_rng(seed)
    rows, labels = rng.permutation(len(X)), rng.permutation(len(text))
    queries = make_task(seed=seed + 1)[0]
    first = CMMClassifier(text).fit(X, y)
    # Class c is called labels[c] now, so its text is row labels[c] of the new array.
    renamed_text = np.empty_like(text)
    renamed_text[labels] = text
    second = CMMClassifier(renamed_text).fit(X[rows], labels[y[rows]])
    assert_array_equal(first.map_, second.map_)
    assert_array_equal(first.text_features_, second.text_features_[labels])
    assert_allclose(
        first.predict_proba(queries), second.predict_proba(queries)[:, labels]
    )


def test_zero_weight_rows_are_as_good_as_absent():
    X, y, text = make_task(shots=4)
    weight = np.tile([1.0, 0.0, 2.0, 0.5], 4)
    kept = weight > 0
    with_zeros = CMMClassifier(text).fit(X, y, sample_weight=weight)
    without = CMMClassifier(text).fit(X[kept], y[kept], sample_weight=weight[kept])
    assert_array_equal(with_zeros.map_, without.map_)


def test_class_weight_multiplies_the_sample_weight():
    X, y, text = make_task()
    by_class = CMMClassifier(text, class_weight={0: 3.0, 1: 1.0, 2: 1.0, 3: 0.5})
    by_row = CMMClassifier(text)
    weight = np.array([3.0, 1.0, 1.0, 0.5])[y]
    assert_array_equal(
        by_class.fit(X, y).map_, by_row.fit(X, y, sample_weight=weight).map_
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_of_x_is_the_dtype_of_everything(dtype):
    X, y, text = make_task(dtype=dtype)
    model = CMMClassifier(text.astype(np.float64)).fit(X, y)
    for array in (model.map_, model.text_features_, model.zero_shot_features_):
        assert array.dtype == dtype
    for method in ("transform", "predict_proba", "predict_log_proba"):
        assert getattr(model, method)(X).dtype == dtype
    assert model.decision_function(X).dtype == dtype


def test_half_precision_is_computed_in_single():
    X, y, text = make_task()
    model = CMMClassifier(text).fit(X.astype(np.float16), y)
    assert model.map_.dtype == np.float32
    assert model.predict_proba(X.astype(np.float16)).dtype == np.float32


def test_chunks_do_not_change_the_result():
    X, y, text = make_task()
    whole = CMMClassifier(text).fit(X, y)
    for chunk_size in (1, 5, 1000):
        chunked = CMMClassifier(text, chunk_size=chunk_size).fit(X, y)
        assert_allclose(chunked.predict_proba(X), whole.predict_proba(X), atol=1e-3)


def test_unequal_classes_and_many_classes():
    X, y, text = make_task(n_classes=1000, shots=2, d=16)
    kept = np.flatnonzero((np.arange(len(y)) % 2 == 0) | (y % 3 == 0))
    model = CMMClassifier(text, max_iter=3, tol=1.0).fit(X[kept], y[kept])
    assert model.predict_proba(X[:5]).shape == (5, 1000)


def test_no_text_means_class_means():
    X, y, _ = make_task()
    model = CMMClassifier().fit(X, y)
    means = unit(np.stack([X[y == c].mean(axis=0) for c in range(4)]))
    assert model.prototype_source_ == "image"
    assert_allclose(model.zero_shot_features_, means, rtol=1e-10)
    assert_allclose(
        model.transform(X), unit(X @ model.map_ + model.map_intercept_), rtol=1e-10
    )
    assert_array_equal(CMMClassifier(None).fit(X, y).map_, model.map_)


def test_max_iter_reached_warns_and_convergence_does_not():
    X, y, text = make_task()
    with pytest.warns(ConvergenceWarning, match="max_iter=1 "):
        CMMClassifier(text, max_iter=1).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CMMClassifier(text).fit(X, y)


def test_global_generators_and_threads_are_left_alone():
    X, y, text = make_task()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    threads = torch.get_num_threads()
    CMMClassifier(text, random_state=3).fit(X, y).predict(X)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_fit_inside_a_callers_inference_mode(mode):
    X, y, text = make_task()
    with mode():
        inside = CMMClassifier(text).fit(X, y)
    assert_array_equal(inside.map_, CMMClassifier(text).fit(X, y).map_)


def test_callbacks_see_every_iteration(capsys):
    X, y, text = make_task()
    monitor = ScoringMonitor(scoring="accuracy")
    model = CMMClassifier(text).set_callbacks(monitor, ProgressBar()).fit(X, y)
    scores = monitor.get_logs().data_as_pandas
    assert len(scores) >= model.n_iter_
    assert "CMMClassifier" in capsys.readouterr().out
    quiet = CMMClassifier(text).fit(X, y)
    assert_array_equal(model.map_, quiet.map_)


def test_device_is_resolved_in_fit_and_checked():
    X, y, text = make_task()
    assert_array_equal(
        CMMClassifier(text, device="cpu").fit(X, y).map_,
        CMMClassifier(text, device=torch.device("cpu")).fit(X, y).map_,
    )
    with pytest.raises(ValueError, match="device='abacus'"):
        CMMClassifier(text, device="abacus").fit(X, y)
