"""The peers in closed form: parity with their equations, and rows left out by refits.

Everything is written out slowly here, from the equations of the papers. What the
automatic settings rest on, the predictions for a row by the rest of the support, is
computed by a fit without it.
"""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from skfewshot import (
    GaussianDiscriminantClassifier,
    ProKeRClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.peers import _closed_form, _gaussian_discriminant, _proker

SCALE = 10.0


@pytest.fixture(autouse=True)
def near_copies_kept(monkeypatch):
    """Rows in few dimensions lie near each other; what is found of them is tested."""
    monkeypatch.setattr("skfewshot._copies._NEAR_COPY", 0.0)


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


def likely_factor(scores, y, weight, *, guess, fixed=0):
    """The factor of most likelihood times prior, and minus the logarithm of that."""

    def loss(move):
        logits = fixed + guess * np.exp(0.5 * move) * scores
        return move**2 / 2 + weight.sum() * mean_loss(logits, y, weight)

    options = {"xatol": 1e-9}
    found = minimize_scalar(loss, bounds=(-9, 9), method="bounded", options=options)
    return guess * np.exp(0.5 * found.x), found.fun


def margin(logits, y, weight):
    """By how much the true class is above the mean of the others."""
    own = logits[np.arange(len(y)), y]
    others = [
        np.delete(row, label).mean() for row, label in zip(logits, y, strict=True)
    ]
    return np.average(own - others, weights=weight)


def image_margin(X, y, weight, unit):
    """SCALE times one less the mean cosine between two class means."""
    means = unit(np.stack([weight[y == c] @ X[y == c] for c in range(max(y) + 1)]))
    pairs = itertools.combinations(range(len(means)), 2)
    return SCALE * np.mean([1 - means[a] @ means[b] for a, b in pairs])


def without(weight, i):
    """The weights without one copy of a row."""
    rest = weight.copy()
    rest[i] -= min(rest[i], 1)
    return rest


def judging(y, weight):
    """Say for each row whether its class can spare a copy and keep two others."""
    return np.bincount(y, weight)[y] - np.minimum(weight, 1) > 1.5


def refits(model, X, y, weight):
    """For each row, logits by a fit to which that row, or a whole one, is unknown."""
    logits = []
    for i in range(len(X)):
        fitted = model.fit(X, y, sample_weight=without(weight, i))
        logits.append(fitted.predict_log_proba(X[i : i + 1])[0])
    return np.array(logits)


#: Rows of each class, about 1, 2, 4 and 16 of them.
SIZES = [(1, 1, 2, 1), (2, 3, 2, 2), (4, 3, 5, 4), (16, 12, 20, 16)]
of_any_size = pytest.mark.parametrize("sizes", SIZES, ids=lambda n: str(n[0]))


@pytest.fixture(params=["equal", "unequal"])
def weigh(request):
    """Return a function from n to the weights of n rows."""
    pattern = [1.0] if request.param == "equal" else [1.0, 2.0, 1.5, 3.0, 1.0]
    return lambda n: np.resize(pattern, n)


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


@of_any_size
def test_left_out_discriminants_are_refits(sizes, weigh, make_task):
    X, y, _ = make_task(shots=sizes)
    weight = weigh(len(y))
    fit, removed = _gaussian_discriminant.fit_discriminant, np.minimum(weight, 1)
    whole = fit(X, y, weight, 4)
    rows = np.flatnonzero(np.bincount(y, weight)[y] > removed)
    if sizes[0] == 1 and weight.max() == 1:
        # Without one of the only two rows of a class nothing is left to spread.
        arguments = whole, X[rows], y[rows], removed[rows]
        left = _gaussian_discriminant.left_out_scatter(*arguments)
        assert_allclose(left, 0, atol=1e-12)
        return
    scores = _gaussian_discriminant.left_out_scores(
        whole, X[rows], y[rows], removed[rows]
    )
    for i, found in zip(rows, scores, strict=True):
        rest = without(weight, i)
        kept = rest > 0
        coef, intercept = _gaussian_discriminant.linear_form(
            fit(X[kept], y[kept], rest[kept], 4)
        )
        assert_allclose(found, coef @ X[i] + intercept, rtol=1e-6)


def guess_of(scores, y, shots, factor):
    wrong = [np.delete(row, label).std() for row, label in zip(scores, y, strict=True)]
    return factor * np.sqrt(shots) / np.mean(wrong)


@of_any_size
@pytest.mark.parametrize("has_text", [True, False])
def test_automatic_alpha_is_the_best_by_refits(sizes, weigh, has_text, make_task, unit):
    X, y, text = make_task(shots=sizes)
    weight = weigh(len(y))
    model = GaussianDiscriminantClassifier(
        text if has_text else None, logit_scale=SCALE
    ).fit(X, y, sample_weight=weight)
    # Without text `alpha` is of no consequence for the scores but as a factor.
    zero_shot = SCALE * X @ text.T
    plain = GaussianDiscriminantClassifier(text, alpha=1.0, logit_scale=SCALE)
    known = plain.fit(X, y, sample_weight=weight).decision_function(X) - zero_shot
    spare = np.bincount(y, weight)[y] - np.minimum(weight, 1) > 0.5
    judged, scores = judging(y, weight), np.zeros_like(zero_shot)
    for i in np.flatnonzero(spare):
        plain.fit(X, y, sample_weight=without(weight, i))
        scores[i] = plain.decision_function(X[i : i + 1])[0] - zero_shot[i]
    some = scores[judged], y[judged], weight[judged]
    if has_text and sizes[0] == 1 and weight.max() == 1:
        # Without one of the only two rows of a class nothing is left to spread.
        text_weight, alpha = 1.0, 5.0
    elif has_text:
        guess = guess_of(scores[spare], y[spare], weight.sum() / 4, 0.8)
        given = {"guess": guess, "factor": 1.5}
        text_weight, alpha = 1.0, guess
        if judged.any() and len(set(y[judged])) > 1:
            text_weight, alpha, _ = best_blend(zero_shot[judged], *some, **given)
    else:
        guess = image_margin(X, y, weight, unit) / margin(known, y, weight)
        text_weight, alpha = 0.0, guess
        if len(set(y[judged])) > 1:
            alpha, _ = likely_factor(*some, guess=guess)
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
    """``k(f, S) (K / lambda + W^-1)^-1 (Y - R_0)`` by an inverse."""

    K, k = (np.exp(-beta * (1 - rows @ X.T)) for rows in (X, queries))
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


@of_any_size
def test_left_out_ridge_predictions_are_refits(sizes, weigh, make_task):
    X, y, _ = make_task(shots=sizes)
    weight = weigh(len(y))
    R, removed = np.eye(4)[y] - 0.2, np.minimum(weight, 1)
    K = np.exp(2.0 * (X @ X.T - 1))
    fit = _proker.LeftOutRidge(K, R, weight, removed)
    whole = K @ np.linalg.solve(K + np.diag(0.3 / weight), R)
    assert_allclose(fit.fitted(0.3), whole, rtol=1e-6, atol=1e-9)
    predictions = fit.predictions(0.3)
    for i in range(len(X)):
        rest = without(weight, i)
        kept = rest > 0
        part = np.diag(0.3 / rest[kept])
        coef = np.linalg.solve(K[np.ix_(kept, kept)] + part, R[kept])
        assert_allclose(predictions[i], K[i, kept] @ coef, rtol=1e-6, atol=1e-9)


def ridge_by_refits(X, y, weight, text, *, beta, ridge):
    """Fixed and learned logits of each row by the others, and the margin of all."""

    def base(rest):
        # Without text the shares are of the rows that are there.
        shares = np.log(np.bincount(y, rest, minlength=4) / rest.sum())
        return np.tile(shares, (len(y), 1)) if text is None else SCALE * X @ text.T

    def correct(rest, queries):
        kept = rest > 0
        known = X[kept], y[kept], rest[kept], softmax(base(rest)[kept], axis=1)
        # `ridge` is lambda, which the correction has in it.
        return proker_correction(*known, queries, beta=beta, ridge=ridge) / ridge

    fixed, learned = np.zeros((2, len(y), 4))
    for i in np.flatnonzero(judging(y, weight)):
        rest = without(weight, i)
        fixed[i] = base(rest)[i]
        learned[i] = correct(rest, X[i : i + 1])[0]
    return fixed, learned, margin(correct(weight, X), y, weight)


@pytest.mark.parametrize("sizes", [(3, 4, 5, 6), *SIZES[2:]], ids=lambda n: str(n[0]))
@pytest.mark.parametrize("has_text", [True, False])
def test_automatic_settings_are_the_best_by_refits(
    sizes, weigh, has_text, make_task, unit
):
    X, y, text = make_task(shots=sizes)
    weight, text = weigh(len(y)), text if has_text else None
    model = ProKeRClassifier(text, logit_scale=SCALE).fit(X, y, sample_weight=weight)
    judged, found = judging(y, weight), []
    for beta, ridge in itertools.product((1.0, 2.0, 4.0), (0.1, 0.3, 1.0)):
        *logits, reached = ridge_by_refits(X, y, weight, text, beta=beta, ridge=ridge)
        fixed, learned = (part[judged] for part in logits)
        truth = y[judged], weight[judged]
        if has_text:
            a, b, loss = best_blend(fixed, learned, *truth, guess=10, factor=1.5)
        else:
            guess = 1.7 * image_margin(X, y, weight, unit) / max(reached, 0.25)
            b, loss = likely_factor(learned, *truth, guess=guess, fixed=fixed)
            a = 1.0
        found.append((loss, a, b, beta, ridge))
    _, a, b, beta, ridge = min(found)
    assert (model.beta_, model.regularization_) == (beta, ridge)
    assert_allclose(model.text_weight_, a, atol=2e-3)
    assert_allclose(model.amplitude_ * ridge, b, rtol=2e-3)


def test_settings_without_rows_to_judge_by_and_those_given(task, unit):
    X, y, text, _ = task
    for rows in ([0, 4, 8, 14], [0, 1, 4, 5, 8, 9, 14, 15]):
        for texts in (text, None):
            few = ProKeRClassifier(texts, logit_scale=SCALE).fit(X[rows], y[rows])
            assert (few.beta_, few.regularization_, few.text_weight_) == (2.0, 0.3, 1.0)
            guess, ones = 10, np.ones(len(rows))
            if texts is None:
                given = X[rows], y[rows], ones
                settings = {"beta": 2.0, "ridge": 0.3}
                *_, reached = ridge_by_refits(*given, None, **settings)
                guess = 1.7 * image_margin(*given, unit) / max(reached, 0.25)
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
