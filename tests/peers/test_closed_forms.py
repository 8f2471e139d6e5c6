"""The peers in closed form: parity with their equations, and rows left out by refits.

Everything is written out slowly here, from the equations of the papers. What the
automatic settings rest on, the predictions for a row by the rest of the support, is
computed by a fit without it.
"""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from skfewshot import (
    GaussianDiscriminantClassifier,
    ProKeRClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.peers import _closed_form, _gaussian_discriminant, _proker

SCALE = 10.0


def mean_loss(logits, y, weight):
    log_p = log_softmax(logits, axis=1)[np.arange(len(y)), y]
    return -(weight * log_p).sum() / weight.sum()


def best_blend(fixed, learned, y, weight, *, guess, factor):
    """The weights of two logits that explain labels best, within their bounds."""
    found = minimize(
        lambda w: mean_loss(w[0] * fixed + w[1] * guess * learned, y, weight),
        [1.0, 1.0],
        bounds=[(0.2, 2.0), (1 / factor, factor)],
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    return found.x[0], found.x[1] * guess, found.fun


def refits(model, X, y, weight):
    """For each row, logits by a fit to which that row, or a whole one, is unknown."""
    logits = []
    for i in range(len(X)):
        rest = weight.copy()
        rest[i] -= min(rest[i], 1)
        fitted = model.fit(X, y, sample_weight=rest)
        logits.append(fitted.predict_log_proba(X[i : i + 1])[0])
    return np.array(logits)


# Zero-shot and Tip-Adapter


def test_zero_shot_is_scaled_cosines(task):
    X, y, text, queries = task
    model = ZeroShotClassifier(text, logit_scale=30.0).fit(X, y)
    assert_allclose(model.decision_function(queries), 30 * queries @ text.T)
    means = np.stack([X[y == c].mean(axis=0) for c in range(4)])
    nearest = (queries @ (means / np.linalg.norm(means, axis=1)[:, None]).T).argmax(1)
    assert_array_equal(ZeroShotClassifier().fit(X, y).predict(queries), nearest)


def test_tip_adapter_by_loops(task, weight):
    X, y, text, queries = task
    model = TipAdapterClassifier(text, alpha=0.7, beta=3.0, logit_scale=30.0)
    model.fit(X, y, sample_weight=weight)
    expected = 30 * queries @ text.T
    for q, query in enumerate(queries):
        for row, label, w in zip(X, y, weight, strict=True):
            expected[q, label] += 0.7 * w * np.exp(-3.0 * (1 - query @ row))
    assert_allclose(model.decision_function(queries), expected)
    assert (model.loss_curve_, model.n_iter_) == ([], 1)


def test_a_kernel_is_the_same_in_blocks_and_bounded(task, monkeypatch):
    X, y, text, queries = task
    model = TipAdapterClassifier(text).fit(X, y)
    whole = model.decision_function(queries)
    monkeypatch.setattr(_closed_form, "_BLOCK", 50)
    assert_allclose(model.decision_function(queries), whole, rtol=1e-12)
    # A cosine of 1 + 1e-7, as rounding leaves, is no exponent of 1e5.
    sharp = TipAdapterClassifier(text, beta=1e12).fit(X.astype("f4"), y)
    assert np.isfinite(sharp.decision_function(X.astype("f4"))).all()


# Gaussian discriminants


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
    without = GaussianDiscriminantClassifier(logit_scale=7.0).fit(X[rows], range(4))
    assert (without.alpha_, without.text_weight_) == (7.0, 0.0)


def test_left_out_discriminants_are_refits(task, weight):
    X, y, _, _ = task
    fit, removed = _gaussian_discriminant.fit_discriminant, np.minimum(weight, 1)
    whole = fit(X, y, weight, 4)
    scores = _gaussian_discriminant.left_out_scores(whole, X, y, removed)
    for i in range(len(X)):
        rest = weight.copy()
        rest[i] -= removed[i]
        kept = rest > 0
        refit = fit(X[kept], y[kept], rest[kept], 4)
        coef, intercept = _gaussian_discriminant.linear_form(refit)
        assert_allclose(scores[i], coef @ X[i] + intercept, rtol=1e-8)


def guess_of(scores, y, shots, factor):
    wrong = [np.delete(row, label).std() for row, label in zip(scores, y, strict=True)]
    return factor * np.sqrt(shots) / np.mean(wrong)


@pytest.mark.parametrize("has_text", [True, False])
def test_automatic_alpha_is_the_best_by_refits(task, weight, has_text):
    X, y, text, _ = task
    weight = weight + 0.5 * (weight < 1)  # the first class can spare each of its rows
    model = GaussianDiscriminantClassifier(
        text if has_text else None, logit_scale=SCALE
    ).fit(X, y, sample_weight=weight)
    zero_shot = SCALE * X @ text.T * has_text
    # Without text `alpha` is of no consequence for the scores but as a factor.
    plain = GaussianDiscriminantClassifier(text, alpha=1.0, logit_scale=SCALE)
    scores = refits(plain, X, y, weight) - SCALE * X @ text.T
    # The deviations of scores do not feel what a logarithm subtracts from all.
    factor, most = (0.8, 1.5) if has_text else (3.0, 30.0)
    guess = guess_of(scores, y, weight.sum() / 4, factor)
    if has_text:
        text_weight, alpha, _ = best_blend(
            zero_shot, scores, y, weight, guess=guess, factor=most
        )
    else:
        _, alpha, _ = best_blend(0, scores, y, weight, guess=guess, factor=most)
        text_weight = 0.0
    assert_allclose(model.text_weight_, text_weight, atol=2e-3)
    assert_allclose(model.alpha_, alpha, rtol=2e-3)


def test_two_rows_a_class_are_too_few_to_judge_by(make_task):
    X, y, text = make_task(shots=2)
    model = GaussianDiscriminantClassifier(text).fit(X, y)
    plain = GaussianDiscriminantClassifier(text, alpha=1.0)
    scores = refits(plain, X, y, np.ones(8)) - 100 * X @ text.T
    # Every class spares one of its two rows, for the guess alone.
    assert_allclose(model.alpha_, guess_of(scores, y, 2, 0.8), rtol=1e-8)
    assert model.text_weight_ == 1.0
    assert GaussianDiscriminantClassifier().fit(X, y).text_weight_ == 0.0


def test_two_classes_spread_by_what_parts_them(make_task):
    X, y, text = make_task(n_classes=2, shots=2)
    model = GaussianDiscriminantClassifier(text).fit(X, y)
    plain = GaussianDiscriminantClassifier(text, alpha=1.0)
    scores = refits(plain, X, y, np.ones(4)) - 100 * X @ text.T
    expected = 0.8 * np.sqrt(2) / scores.std(axis=1).mean()
    assert_allclose(model.alpha_, expected, rtol=1e-8)


def test_weights_below_one_row_have_a_covariance_all_the_same(task):
    X, y, text, queries = task
    weight = np.full(18, 0.05)
    model = GaussianDiscriminantClassifier(text, alpha=1.0, logit_scale=SCALE)
    model.fit(X, y, sample_weight=weight)
    means = np.stack([X[y == c].mean(axis=0) for c in range(4)])
    scatter = 0.05 * (X - means[y]).T @ (X - means[y])
    # Degrees of freedom n - 1 would be negative: n / 2 takes their place.
    ridge = np.trace(scatter) / (weight.sum() / 2) * np.eye(12)
    P = 12 * np.linalg.inv(scatter + ridge)
    bias = np.log(np.bincount(y) / 18) - np.diag(means @ P @ means.T) / 2
    expected = SCALE * queries @ text.T + queries @ P @ means.T + bias
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)


# Kernel ridge regression


def proker_correction(X, y, weight, prediction, queries, *, beta, ridge):
    """``k(f, S) (K / lambda + W^-1)^-1 (Y - R_0)`` by loops and an inverse."""

    def kernel(a, b):
        return np.exp(-beta * (1 - a @ b))

    K = np.array([[kernel(a, b) for b in X] for a in X])
    k = np.array([[kernel(a, b) for b in X] for a in queries])
    residual = np.eye(prediction.shape[1])[y] - prediction
    return k @ np.linalg.inv(K / ridge + np.diag(1 / weight)) @ residual


def test_kernel_ridge_is_the_equation_of_the_paper(task, weight):
    X, y, text, queries = task
    settings = {"beta": 2.0, "regularization": 0.4}
    model = ProKeRClassifier(
        text, **settings, amplitude=30.0, residual="cosine", logit_scale=30.0
    ).fit(X, y, sample_weight=weight)
    common = {"beta": 2.0, "ridge": 0.4}
    correction = proker_correction(X, y, weight, X @ text.T, queries, **common)
    expected = 30 * (queries @ text.T + correction)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)
    model.set_params(residual="probability").fit(X, y, sample_weight=weight)
    probability = softmax(30 * X @ text.T, axis=1)
    correction = proker_correction(X, y, weight, probability, queries, **common)
    expected = 30 * (queries @ text.T + correction)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)


def test_without_text_the_shares_are_the_prior(task, weight):
    X, y, _, queries = task
    settings = {"beta": 2.0, "regularization": 0.4, "amplitude": 7.0}
    model = ProKeRClassifier(**settings).fit(X, y, sample_weight=weight)
    shares = np.bincount(y, weights=weight) / weight.sum()
    correction = proker_correction(
        X, y, weight, np.tile(shares, (18, 1)), queries, beta=2.0, ridge=0.4
    )
    expected = np.log(shares) + 7 * correction
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)


def test_left_out_ridge_predictions_are_refits(task, weight):
    X, y, _, _ = task
    R, removed = np.eye(4)[y] - 0.2, np.minimum(weight, 1)
    K = np.exp(2.0 * (X @ X.T - 1))
    predictions = _proker.LeftOutRidge(K, R, weight, removed).predictions(0.3)
    for i in range(len(X)):
        rest = weight.copy()
        rest[i] -= removed[i]
        kept = rest > 0
        part = np.diag(0.3 / rest[kept])
        coef = np.linalg.solve(K[np.ix_(kept, kept)] + part, R[kept])
        assert_allclose(predictions[i], K[i, kept] @ coef, rtol=1e-7)


@pytest.mark.parametrize("has_text", [True, False])
def test_automatic_settings_are_the_best_by_refits(task, weight, has_text):
    X, y, text, _ = task
    weight = weight + 0.5 * (weight < 1)
    model = ProKeRClassifier(text if has_text else None, logit_scale=SCALE)
    model.fit(X, y, sample_weight=weight)
    if has_text:
        base = SCALE * X @ text.T
    else:
        base = np.tile(np.log(np.bincount(y, weights=weight) / weight.sum()), (18, 1))
    guess, factor = (10, 1.5) if has_text else (40, 30)
    found = []
    for beta in (1.0, 2.0, 4.0):
        for ridge in (0.1, 0.3, 1.0):
            learned = np.empty_like(base)
            for i in range(len(X)):
                rest = weight.copy()
                rest[i] -= min(rest[i], 1)
                kept = rest > 0
                learned[i] = proker_correction(
                    *(X[kept], y[kept], rest[kept], softmax(base[kept], axis=1)),
                    *(X[i : i + 1],),
                    beta=beta,
                    ridge=ridge,
                )[0]
            # `learned` has lambda in it, and the guess is of amplitude times lambda.
            a, b, loss = best_blend(
                base, learned / ridge, y, weight, guess=guess, factor=factor
            )
            found.append((loss, a, b, beta, ridge))
    _, a, b, beta, ridge = min(found)
    assert (model.beta_, model.regularization_) == (beta, ridge)
    assert_allclose(model.text_weight_, a, atol=2e-3)
    assert_allclose(model.amplitude_ * ridge, b, rtol=2e-3)


def test_settings_without_rows_to_judge_by_and_those_given(task):
    X, y, text, _ = task
    for rows in ([0, 4, 8, 14], [0, 1, 4, 5, 8, 9, 14, 15]):
        for texts, guess in ((text, 10), (None, 40)):
            few = ProKeRClassifier(texts).fit(X[rows], y[rows])
            assert (few.beta_, few.regularization_, few.text_weight_) == (2.0, 0.3, 1.0)
            assert few.amplitude_ == pytest.approx(guess / 0.3)
    some = ProKeRClassifier(text, beta=3.0, amplitude=7.0).fit(X, y)
    assert (some.beta_, some.amplitude_, some.text_weight_) == (3.0, 7.0, 1.0)
    assert some.regularization_ in (0.1, 0.3, 1.0)


def test_large_supports_are_judged_by_some_of_the_classes(task, monkeypatch):
    X, y, text, queries = task
    with monkeypatch.context() as patch:
        patch.setattr(_proker, "_MOST_ROWS", 9)
        model = ProKeRClassifier(text, logit_scale=SCALE).fit(X, y)
    assert np.isfinite(model.predict_log_proba(queries)).all()
    names = ("beta_", "regularization_", "text_weight_", "amplitude_")
    chosen = [getattr(model, name) for name in names]
    # Two of the four classes have judged, every second in an order of their own.
    by_pairs = []
    for pair in itertools.combinations(range(4), 2):
        rows, texts = np.isin(y, pair), text[list(pair)]
        alone = ProKeRClassifier(texts, logit_scale=SCALE).fit(X[rows], y[rows])
        by_pairs.append([getattr(alone, name) for name in names])
    assert np.isclose(by_pairs, chosen, rtol=1e-4).all(axis=1).sum() == 1


def test_two_large_classes_are_thinned_out(make_task, monkeypatch):
    # Wide rows: in few dimensions some of so many are near copies.
    X, y, text = make_task(n_classes=2, shots=50, d=40)
    seen = []

    class Spy(_proker.LeftOutRidge):
        def __init__(self, K, *rest):
            seen.append(len(K))
            super().__init__(K, *rest)

    monkeypatch.setattr(_proker, "LeftOutRidge", Spy)
    for most, least in ((20, 20), (60, 100)):
        monkeypatch.setattr(_proker, "_MOST_ROWS", most)
        seen.clear()
        ProKeRClassifier(text, beta=2.0).fit(X, y)
        assert len(seen) == 1 and least <= seen[0] <= 2 * most
