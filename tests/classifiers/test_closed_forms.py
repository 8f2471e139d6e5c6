"""The peers in closed form: parity with their equations, and exact leave-one-out."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot import (
    GaussianDiscriminantClassifier,
    ProKeRClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.classifiers import proker
from skfewshot.classifiers._blend import fit_blend, judging_rows, some_classes
from skfewshot.classifiers._discriminant import (
    fit_discriminant,
    left_out_scores,
    linear_form,
)
from skfewshot.classifiers._kernel_ridge import LeftOutRidge, solve_ridge
from skfewshot.classifiers._kernels import exponential_kernel


def read(X, y, weight=None):
    """A `Support`, as `fit` reads it: rows in an order of their own."""
    return ZeroShotClassifier(None)._read_support(X, y, weight)


WEIGHT = np.tile([1.0, 2.0, 0.5], 6)


def test_zero_shot_is_scaled_cosines(task):
    X, y, text, queries = task
    model = ZeroShotClassifier(text, logit_scale=30.0).fit(X, y)
    assert_allclose(model.decision_function(queries), 30 * queries @ text.T)
    means = np.stack([X[y == c].mean(axis=0) for c in range(4)])
    nearest = (queries @ (means / np.linalg.norm(means, axis=1)[:, None]).T).argmax(1)
    assert_array_equal(ZeroShotClassifier().fit(X, y).predict(queries), nearest)


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_tip_adapter_by_loops(task, weight):
    X, y, text, queries = task
    model = TipAdapterClassifier(text, alpha=0.7, beta=3.0, logit_scale=30.0)
    model.fit(X, y, sample_weight=weight)
    expected = 30 * queries @ text.T
    for q, query in enumerate(queries):
        for row, label, w in zip(X, y, weight, strict=True):
            expected[q, label] += 0.7 * w * np.exp(-3.0 * (1 - query @ row))
    assert_allclose(model.decision_function(queries), expected)
    assert model.loss_curve_ == []


def gda_logits(X, y, weight, text, queries, *, alpha, scale):
    """Fractional weights as numbers of rows: the plain equations on repeated rows."""
    repeats = (2 * weight).astype(int)
    n, d = weight.sum(), X.shape[1]
    means = np.array(
        [np.repeat(X[y == c], repeats[y == c], axis=0).mean(axis=0) for c in range(4)]
    )
    scatter = np.zeros((d, d))
    for row, label, w in zip(X, y, weight, strict=True):
        scatter += w * np.outer(row - means[label], row - means[label])
    covariance = scatter / (n - 1)
    P = d * np.linalg.pinv((n - 1) * covariance + np.trace(covariance) * np.eye(d))
    logits = scale * queries @ text.T
    for c, mean in enumerate(means):
        bias = np.log(weight[y == c].sum() / n) - mean @ P @ mean / 2
        logits[:, c] += alpha * (queries @ P @ mean + bias)
    return logits


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_gaussian_discriminants_by_their_equations(task, weight):
    X, y, text, queries = task
    model = GaussianDiscriminantClassifier(text, alpha=0.3, logit_scale=30.0)
    model.fit(X, y, sample_weight=weight)
    expected = gda_logits(X, y, weight, text, queries, alpha=0.3, scale=30.0)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-9)
    assert (model.alpha_, model.text_weight_) == (0.3, 1.0)


def test_gaussian_discriminants_at_one_shot(task):
    X, _, text, queries = task
    rows = [0, 4, 8, 14]
    fixed = GaussianDiscriminantClassifier(text, alpha=1.0).fit(X[rows], range(4))
    # The pseudo-inverse of nothing is nothing: only the equal shares are left.
    zero_shot = 100 * queries @ text.T
    assert_allclose(fixed.decision_function(queries), zero_shot + np.log(1 / 4))
    auto = GaussianDiscriminantClassifier(text).fit(X[rows], range(4))
    assert (auto.alpha_, auto.text_weight_) == (5.0, 1.0)
    expected = zero_shot + 5 * (queries @ X[rows].T - 1 / 2 + np.log(1 / 4))
    assert_allclose(auto.decision_function(queries), expected)


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_left_out_discriminants_are_refits(task, weight):
    X, y, _, _ = task
    removed = np.minimum(weight, 1)
    scores = left_out_scores(fit_discriminant(X, y, weight, 4), X, y, removed)
    for i in range(len(X)):
        rest = weight.copy()
        rest[i] -= removed[i]
        kept = rest > 0
        refit = fit_discriminant(X[kept], y[kept], rest[kept], 4)
        coef, intercept = linear_form(refit)
        assert_allclose(scores[i], coef @ X[i] + intercept, rtol=1e-8)


def test_automatic_alpha_is_the_best_of_its_range(task):
    X, y, text, _ = task
    model = GaussianDiscriminantClassifier(text, logit_scale=10.0).fit(X, y)
    scores = left_out_scores(fit_discriminant(X, y, np.ones(18), 4), X, y, np.ones(18))
    wrong = [np.delete(row, label).std() for row, label in zip(scores, y, strict=True)]
    guess = 0.8 * np.sqrt(18 / 4) / np.mean(wrong)
    assert guess / 1.5 <= model.alpha_ * 1.0001
    assert model.alpha_ <= guess * 1.5001
    # The first class has three rows, so that one left out leaves it two: all judge.
    arguments = (10 * X @ text.T, scores, y, np.ones(18))
    a, b, loss = fit_blend(*arguments, guess=guess, factor=1.5)
    assert_allclose((model.text_weight_, model.alpha_), (a, b), rtol=1e-4)
    for text_weight in np.linspace(0.2, 2.0, 25):
        for alpha in np.linspace(guess / 1.5, guess * 1.5, 7):
            logits = text_weight * arguments[0] + alpha * scores
            log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            assert loss <= -log_p[np.arange(18), y].mean() + 1e-6


def proker_logits(X, y, weight, text, queries, *, beta, ridge, scale, probability):
    def kernel(a, b):
        return np.exp(-beta * (1 - a @ b))

    K = np.array([[kernel(a, b) for b in X] for a in X])
    k = np.array([[kernel(a, b) for b in X] for a in queries])
    zero_shot = X @ text.T
    if probability:
        zero_shot = np.exp(scale * zero_shot)
        zero_shot /= zero_shot.sum(axis=1, keepdims=True)
    residual = np.eye(4)[y] - zero_shot
    return k @ np.linalg.inv(K / ridge + np.diag(1 / weight)) @ residual


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_kernel_ridge_is_the_equation_of_the_paper(task, weight):
    X, y, text, queries = task
    settings = {"beta": 2.0, "regularization": 0.4}
    model = ProKeRClassifier(
        text, **settings, amplitude=30.0, residual="cosine", logit_scale=30.0
    ).fit(X, y, sample_weight=weight)
    given = (X, y, weight, text, queries)
    common = {"beta": 2.0, "ridge": 0.4, "scale": 30.0}
    correction = proker_logits(*given, **common, probability=False)
    expected = 30 * (queries @ text.T + correction)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)
    model.set_params(residual="probability").fit(X, y, sample_weight=weight)
    correction = proker_logits(*given, **common, probability=True)
    expected = 30 * (queries @ text.T + correction)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_left_out_ridge_predictions_are_refits(task, weight):
    X, y, _, _ = task
    R = np.eye(4)[y] - 0.2
    removed = np.minimum(weight, 1)
    K = exponential_kernel(X, X, 2.0)
    predictions = LeftOutRidge(K, R, weight, removed).predictions(0.3)
    for i in range(len(X)):
        rest = weight.copy()
        rest[i] -= removed[i]
        kept = rest > 0
        part = np.diag(0.3 / rest[kept])
        coef = np.linalg.solve(K[np.ix_(kept, kept)] + part, R[kept])
        assert_allclose(predictions[i], K[i, kept] @ coef, rtol=1e-7)
    whole = np.linalg.solve(K + np.diag(0.3 / weight), R)
    assert_allclose(solve_ridge(K.copy(), R, weight, 0.3), whole, rtol=1e-8)


def test_automatic_settings_of_the_ridge(task):
    X, y, text, _ = task
    model = ProKeRClassifier(text).fit(X, y)
    assert model.beta_ in (1.0, 2.0, 4.0)
    assert model.regularization_ in (0.1, 0.3, 1.0)
    assert 10 / 1.5 <= model.amplitude_ * model.regularization_ * 1.0001 <= 15.1
    one_shot = ProKeRClassifier(text).fit(X[[0, 4, 8, 14]], range(4))
    assert (one_shot.beta_, one_shot.regularization_) == (2.0, 0.3)
    assert one_shot.amplitude_ == pytest.approx(10 / 0.3)
    assert one_shot.text_weight_ == 1
    some = ProKeRClassifier(text, beta=3.0, amplitude=7.0).fit(X, y)
    assert (some.beta_, some.amplitude_, some.text_weight_) == (3.0, 7.0, 1.0)


def test_settings_may_be_chosen_on_some_of_the_classes(task, monkeypatch):
    X, y, text, queries = task
    monkeypatch.setattr(proker, "_MOST_ROWS", 9)
    model = ProKeRClassifier(text).fit(X, y)
    assert np.isfinite(model.predict_log_proba(queries)).all()
    part, classes = some_classes(read(X, y), 9)
    assert_array_equal(classes, [0, 2])
    assert_array_equal(np.bincount(part.y), [3, 0, 5])


def test_only_classes_that_can_spare_a_row_judge():
    X, y = np.eye(6), np.repeat([0, 1, 2], [1, 2, 3])
    one = read(X, y)
    assert len(judging_rows(one, 10)[0]) == 0
    assert_array_equal(one.y[judging_rows(one, 10, classes=1)[0]], 2)
    assert len(judging_rows(one, 10, left=1)[0]) == 5
    # The second class has three copies of rows now, of one of which one is taken.
    two = read(X, y, np.array([1.0, 2.0, 1.0, 1.0, 1.0, 1.0]))
    rows, removed = judging_rows(two, 10)
    assert_array_equal(np.bincount(two.y[rows]), [0, 2, 3])
    assert_array_equal(removed, 1)
    assert len(judging_rows(two, 3)[0]) == 3


def test_two_large_classes_are_thinned_out():
    n = 100
    X, y = np.random.default_rng(0).normal(size=(n, 3)), np.arange(n) % 2
    support = read(X, y)
    part, classes = some_classes(support, 20)
    assert_array_equal(classes, [0, 1])
    assert 20 <= len(part.y) <= 40
    whole, _ = some_classes(support, 60)
    assert len(whole.y) == n
