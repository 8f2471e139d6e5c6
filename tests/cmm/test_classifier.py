"""CMMClassifier: its equations, its invariants, and what `fit` learns and reports."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.utils._param_validation import InvalidParameterError

from skfewshot import CMMClassifier

SOLVERS = ("gaussian", "paper")
each_solver = pytest.mark.parametrize("solver", SOLVERS)
#: Few iterations are enough for what holds after any.
QUICK = {"gaussian": {}, "paper": {"max_iter": 5}}
LEARNED = (
    *("map_", "map_intercept_", "prototypes_", "intercept_"),
    *("frozen_prototypes_", "text_trust_"),
)
few = settings(max_examples=2)
seeds = st.integers(0, 2**16)


def assert_same_learned(one, other):
    """Say that two classifiers are one, to the last bit."""
    for name in (*LEARNED, "text_map_", "text_map_intercept_"):
        assert_array_equal(getattr(one, name), getattr(other, name))
    assert getattr(one, "loss_curve_", None) == getattr(other, "loss_curve_", None)


@each_solver
@pytest.mark.parametrize("with_text", [True, False])
def test_predictions_are_the_documented_equation(make_task, unit, solver, with_text):
    X, y, text = make_task()
    given_ = {"solver": solver, "logit_scale": 30.0, **QUICK[solver]}
    model = CMMClassifier(text if with_text else None, **given_).fit(X, y)
    if with_text:
        assert model.prototype_source_ == "text_features"
    else:
        text = unit(np.stack([X[y == c].mean(axis=0) for c in range(4)]))
        assert model.prototype_source_ == "image"
        assert_same_learned(model, CMMClassifier(**given_).fit(X, y))
    queries = make_task(rows=1)[0]
    mapped = unit(queries @ model.map_ + model.map_intercept_)
    alpha = model.alpha_
    frozen = model.frozen_prototypes_
    expected = queries @ frozen.T + alpha * mapped @ unit(model.prototypes_).T
    expected *= 30 / model.temperature_ / (1 + alpha)
    expected += model.intercept_
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8, atol=1e-8)
    assert_allclose(model.transform(5 * queries), mapped, rtol=1e-8)
    assert_allclose(model.text_features_, text, rtol=1e-12)
    assert_allclose(np.linalg.norm(model.prototypes_, axis=1), 1)
    if solver == "paper":
        assert_array_equal(frozen, model.text_features_)
    else:
        assert frozen.any() == with_text
    assert np.abs(model.map_ - np.eye(12)).max() > 1e-3
    proba = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert_allclose(model.predict_proba(queries), proba, atol=1e-9)
    assert_array_equal(model.predict(queries), expected.argmax(axis=1))
    assert len(model.get_feature_names_out()) == 12


def test_a_given_alpha_is_used_and_else_it_is_found(make_task):
    X, y, text = make_task()
    for solver in SOLVERS:
        model = CMMClassifier(text, solver=solver, alpha=0.7, **QUICK[solver]).fit(X, y)
        assert model.alpha_ == pytest.approx(0.7)
    assert CMMClassifier(text).fit(X, y).alpha_ not in (0.7, 1.0)


def test_alpha_zero_is_zero_shot(make_task):
    X, y, text = make_task(shots=5)
    queries = make_task(rows=1)[0]
    model = CMMClassifier(text, alpha=0.0).fit(X, y)
    assert_allclose(model.decision_function(queries), 100 * queries @ text.T)
    assert (model.alpha_, model.temperature_) == (0, 1)
    assert not model.intercept_.any()
    assert_array_equal(model.frozen_prototypes_, model.text_features_)
    assert_array_equal(model.text_trust_, 1)


@each_solver
def test_learning_beats_zero_shot_on_a_planted_gap(make_task, solver):
    X, y, text = make_task(6, 8, 24, noise=1.2)
    queries, labels, _ = make_task(6, 50, 24, noise=1.2, rows=1)
    model = CMMClassifier(text, solver=solver).fit(X, y)
    zero_shot = ((queries @ text.T).argmax(axis=1) == labels).mean()
    assert model.score(queries, labels) > zero_shot + 0.05
    if solver == "paper":
        assert model.loss_curve_[-1] < model.loss_curve_[0]
        assert len(model.loss_curve_) == model.n_iter_ + 1
    else:
        assert not hasattr(model, "loss_curve_")
    gap = np.linalg.norm(queries.mean(axis=0) - text.mean(axis=0))
    mapped = model.transform(queries).mean(axis=0)
    assert np.linalg.norm(mapped - model.prototypes_.mean(axis=0)) < gap


@each_solver
@pytest.mark.parametrize("with_text", [True, False])
@given(seed=seeds, row=st.integers(0, 15))
@few
def test_duplicating_a_row_equals_doubling_its_weight(
    make_task, solver, with_text, seed, row
):
    X, y, text = make_task(seed=seed)
    weight = np.ones(len(X))
    weight[row] = 2.0
    model = CMMClassifier(text if with_text else None, solver=solver, **QUICK[solver])
    weighted = model.fit(X, y, sample_weight=weight)
    learned = {name: getattr(weighted, name) for name in LEARNED}
    repeated = model.fit(np.vstack([X, X[row]]), np.append(y, y[row]))
    for name in LEARNED:
        assert_array_equal(learned[name], getattr(repeated, name))


@each_solver
@pytest.mark.parametrize("with_text", [True, False])
@given(seed=seeds)
@few
def test_row_order_does_not_matter_and_relabelling_permutes_the_columns(
    make_task, solver, with_text, seed
):
    X, y, text = make_task(seed=seed)
    rng = np.random.default_rng(seed)
    rows, labels = rng.permutation(len(X)), rng.permutation(len(text))
    # Class c is called labels[c] now, so its text is row labels[c] of the new array.
    renamed = np.empty_like(text)
    renamed[labels] = text
    first, second = (
        CMMClassifier(each if with_text else None, solver=solver, **QUICK[solver])
        for each in (text, renamed)
    )
    first.fit(X, y)
    second.fit(X[rows], labels[y[rows]])
    for name in ("map_", "map_intercept_"):
        assert_array_equal(getattr(first, name), getattr(second, name))
    for name in ("prototypes_", "intercept_"):
        assert_array_equal(getattr(first, name), getattr(second, name)[labels])
    queries = make_task(seed=seed, rows=1)[0]
    assert_allclose(
        first.predict_proba(queries), second.predict_proba(queries)[:, labels]
    )


@each_solver
def test_zero_weight_rows_are_as_good_as_absent(make_task, solver):
    X, y, text = make_task()
    weight = np.tile([1.0, 0.0, 2.0, 0.5], 4)
    kept = weight > 0
    with_zeros, without = (
        CMMClassifier(text, solver=solver, **QUICK[solver]) for _ in "ab"
    )
    with_zeros.fit(X, y, sample_weight=weight)
    without.fit(X[kept], y[kept], sample_weight=weight[kept])
    assert_same_learned(with_zeros, without)


@each_solver
def test_class_weight_multiplies_the_sample_weight(make_task, solver):
    X, y, text = make_task()
    by_class, by_row = (
        CMMClassifier(text, solver=solver, **QUICK[solver]) for _ in "ab"
    )
    by_class.set_params(class_weight={0: 3.0, 3: 0.5})
    by_class.fit(X, y, sample_weight=np.full(16, 2.0))
    by_row.fit(X, y, sample_weight=np.array([6.0, 2.0, 2.0, 1.0])[y])
    assert_same_learned(by_class, by_row)


@each_solver
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_of_x_is_the_dtype_of_everything(make_task, dtype, solver):
    X, y, text = make_task()
    model = CMMClassifier(text, solver=solver, max_iter=20)
    model.fit(X.astype(dtype), y)
    # Half precision is computed in single.
    expected = np.float64 if dtype == np.float64 else np.float32
    names = (*LEARNED, "text_features_", "text_map_", "text_map_intercept_")
    for name in names:
        assert getattr(model, name).dtype == expected
    for method in ("transform", "predict_proba", "predict_log_proba"):
        assert getattr(model, method)(X.astype(dtype)).dtype == expected
    assert model.decision_function(X.astype(dtype)).dtype == expected
    single = model.predict_proba(X)
    assert_allclose(single, model.fit(X, y).predict_proba(X), atol=0.02)


def test_near_copies_do_not_deceive_the_gaussian_solver(make_task, unit):
    X, y, text = make_task(seed=1)
    noise = np.random.default_rng(0).normal(size=X.shape)
    nearly = unit(X + 1e-3 * noise)
    copied, doubled = CMMClassifier(text), CMMClassifier(text)
    copied.fit(np.vstack([X, nearly]), np.tile(y, 2))
    doubled.fit(X, y, sample_weight=np.full(len(y), 2.0))
    assert copied.alpha_ == pytest.approx(doubled.alpha_, rel=0.05)
    assert copied.temperature_ == pytest.approx(doubled.temperature_, rel=0.05)
    assert_allclose(copied.predict_proba(X), doubled.predict_proba(X), atol=0.05)


@each_solver
@pytest.mark.parametrize("share, is_copy", [(0.16, True), (0.18, False)])
def test_rows_nearer_than_a_sixth_of_what_is_usual_are_near_copies(
    make_task, unit, share, is_copy, solver
):
    X, y, text = make_task()
    aside = np.random.default_rng(0).normal(size=12)
    aside = unit(aside - aside @ X[0] * X[0])
    copy = X[0]
    for _ in range(20):  # the copy counts itself in what is usual
        F, labels = np.vstack([X, copy]), np.append(y, 0)
        within = [pdist(F[labels == c], "sqeuclidean") for c in range(4)]
        usual = np.median([np.median(squared) for squared in within])
        angle = 2 * np.arcsin((share * usual) ** 0.5 / 2)
        copy = np.cos(angle) * X[0] + np.sin(angle) * aside
    # What is merged is their mean, of their weight.
    merged = np.vstack([X[1:], unit(X[0] + copy)])
    weight = np.append(np.ones(15), 2.0)
    one, other = (CMMClassifier(text, solver=solver, **QUICK[solver]) for _ in "ab")
    one.fit(np.vstack([X, copy]), np.append(y, 0))
    other.fit(merged, np.append(y[1:], 0), sample_weight=weight)
    gap = np.abs(one.map_ - other.map_).max()
    assert (gap < 1e-9) == (is_copy and solver == "gaussian")


@pytest.mark.slow
def test_many_classes_of_unequal_shots(make_task):
    X, y, text = make_task(1000, 2, 16)
    kept = np.flatnonzero((np.arange(len(y)) % 2 == 0) | (y % 3 == 0))
    model = CMMClassifier(text).fit(X[kept], y[kept])
    assert model.predict_proba(X[:5]).shape == (5, 1000)
    assert model.score(X, y) > 10 / 1000


@each_solver
def test_two_classes_give_one_margin(make_task, solver):
    X, y, text = make_task(2)
    model = CMMClassifier(text, solver=solver, logit_scale=10.0).fit(X, y)
    margin = model.decision_function(X)
    assert margin.shape == (len(X),)
    assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-margin)), rtol=1e-8)


@each_solver
def test_callbacks_see_every_epoch(make_task, capsys, solver):
    """Of a closed form there is none to see."""
    X, y, text = make_task()
    monitor = ScoringMonitor(scoring="accuracy")
    model = CMMClassifier(text, solver=solver, **QUICK[solver])
    model.set_callbacks(monitor, ProgressBar()).fit(X, y)
    if solver == "paper":
        assert len(monitor.get_logs().data_as_pandas) == model.n_iter_ == 5
        assert "CMMClassifier" in capsys.readouterr().out
    else:
        assert 1 <= model.n_iter_ <= 8
    assert_same_learned(
        model, CMMClassifier(text, solver=solver, **QUICK[solver]).fit(X, y)
    )


class Stopper:
    """Stops after some iterations, and keeps the attributes that it was shown."""

    def __init__(self, after):
        self.after, self.seen = after, []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name != "iteration":
            return False
        self.seen.append(vars(fitted_estimator))
        return len(self.seen) == self.after


def test_callbacks_are_shown_what_is_fitted_so_far_and_can_stop(make_task):
    X, y, text = make_task()
    stopper = Stopper(after=3)
    model = CMMClassifier(text, solver="paper").set_callbacks(stopper).fit(X, y)
    assert model.n_iter_ == 3
    assert [shown["n_iter_"] for shown in stopper.seen] == [1, 2, 3]
    losses = [shown["loss_curve_"][0] for shown in stopper.seen]
    assert losses == model.loss_curve_[1:]
    for name in LEARNED:
        assert_array_equal(stopper.seen[-1][name], getattr(model, name))
    assert np.abs(stopper.seen[0]["prototypes_"] - model.prototypes_).max() > 0


@each_solver
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_fit_inside_a_callers_inference_mode(make_task, mode, solver):
    X, y, text = make_task()
    with mode():
        inside = CMMClassifier(text, solver=solver, **QUICK[solver]).fit(X, y)
    outside = CMMClassifier(text, solver=solver, **QUICK[solver]).fit(X, y)
    assert_same_learned(inside, outside)


@each_solver
def test_global_generators_and_threads_are_left_alone(make_task, solver):
    X, y, text = make_task(4, 70)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    threads = torch.get_num_threads()
    CMMClassifier(text, solver=solver, **QUICK[solver]).fit(X, y).predict(X)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads


def test_device_is_resolved_in_fit_and_checked(make_task):
    X, y, text = make_task()
    named, given_ = (
        CMMClassifier(text, device=device).fit(X, y)
        for device in ("cpu", torch.device("cpu"))
    )
    assert_same_learned(named, given_)
    with pytest.raises(ValueError, match="device='abacus'"):
        CMMClassifier(text, device="abacus").fit(X, y)


@pytest.mark.parametrize(
    "name, value",
    [
        ("solver", "adam"),
        ("alpha", -1.0),
        ("alpha", "best"),
        ("triplet_weight", -0.1),
        ("margin", -0.1),
        ("alpha", np.nan),
        ("store_left_out", 2),
        ("max_iter", -1),
        ("max_iter", 1.5),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", np.nan),
        ("learning_rate", "auto"),
        ("logit_scale", 0.0),
    ],
)
def test_parameters_are_checked(make_task, name, value):
    X, y, text = make_task()
    with pytest.raises(InvalidParameterError, match=name):
        CMMClassifier(text, **{name: value}).fit(X, y)
    with pytest.raises(ValueError, match="at most 1e"):
        CMMClassifier(text, triplet_weight=1e30).fit(X, y)
