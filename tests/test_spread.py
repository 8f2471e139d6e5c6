"""The scale of cosines without texts: by the spread of class means, and rows left out.

All is written out slowly here: class means are made anew without the rows of each part.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from skfewshot import ZeroShotClassifier
from skfewshot._spread import likely_scale, margin_of


def means_of(X, y, weight, unit):
    return unit(np.stack([weight[y == c] @ X[y == c] for c in range(max(y) + 1)]))


def spread(means):
    pairs = itertools.combinations(means, 2)
    return np.mean([1 - a @ b for a, b in pairs])


def slow_scale(X, y, weight, unit):
    """Each of five parts left out in turn, of all classes that have other rows."""
    order = np.lexsort((nearness(X), y))
    X, y, weight = X[order], y[order], weight[order]
    place = np.concatenate([np.arange(n) for n in np.bincount(y)]) % 5
    place[np.bincount(y)[y] == 1] = 9
    scores, truth = [], []
    for part in range(5):
        out = place == part
        if out.any():
            means = means_of(X[~out], y[~out], weight[~out], unit)
            scores.append(X[out] @ means.T / spread(means))
            truth.append(np.flatnonzero(out))
    whole = spread(means_of(X, y, weight, unit))
    if not scores:
        return 7 / whole
    scores, truth = np.concatenate(scores), np.concatenate(truth)

    def loss(move):
        log_p = log_softmax(7 * np.exp(move / 2) * scores, axis=1)
        own = log_p[np.arange(len(truth)), y[truth]]
        return move**2 / 2 - weight[truth] @ own

    options = {"xatol": 1e-9}
    move = minimize_scalar(loss, bounds=(-9, 9), method="bounded", options=options).x
    return 7 * np.exp(move / 2) / whole


def nearness(X):
    """What the rows of a class are ordered by: cosines to the mean of all rows."""
    return X @ X.mean(axis=0)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (2, 1, 3, 2), (2, 2, 2, 2), (4, 5, 3, 4), (16, 12, 9, 16)]
)
@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 0.5]], ids=["equal", "unequal"])
def test_the_scale_is_the_best_by_class_means_made_anew(
    sizes, weights, make_task, unit
):
    X, y, _ = make_task(shots=sizes)
    weight = np.resize(weights, len(y))
    model = ZeroShotClassifier(None).fit(X, y, sample_weight=weight)
    expected = slow_scale(X, y, weight, unit)
    # A part of the rows is left out, and which rows make it depends on their order.
    assert_allclose(model.logit_scale_, expected, rtol=1e-5)


def test_a_scale_that_is_given_is_used(make_task):
    X, y, text = make_task(shots=3)
    assert ZeroShotClassifier(None, logit_scale=30.0).fit(X, y).logit_scale_ == 30
    assert ZeroShotClassifier(text).fit(X, y).logit_scale_ == 100


def test_one_row_a_class_is_set_above_the_others_by_seven(make_task):
    X, y, _ = make_task(n_classes=5, shots=1)
    logits = ZeroShotClassifier(None).fit(X, y).decision_function(X)
    assert margin_of(logits, y, np.ones(5)) == pytest.approx(7)


def test_noise_is_found_out_by_two_rows_a_class(unit):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 2)
    X = unit(rng.normal(size=(40, 64)))
    model = ZeroShotClassifier(None).fit(X, y)
    one = ZeroShotClassifier(None).fit(X[::2], y[::2])
    assert model.logit_scale_ < one.logit_scale_ / 2


def test_equal_rows_and_equal_classes_have_a_finite_scale():
    for X, y in (
        (np.ones((4, 3)), [0, 0, 1, 1]),
        (np.eye(3)[[0, 0, 1, 1]], [0, 0, 1, 1]),
        (np.eye(2)[[0, 0, 1, 1]], [0, 1, 0, 1]),
        (np.array([[1.0], [-1.0]]), [0, 1]),
    ):
        model = ZeroShotClassifier(None).fit(X, y)
        assert np.isfinite(model.logit_scale_) and model.logit_scale_ > 0
        assert np.isfinite(model.predict_log_proba(X)).all()


@given(
    seed=st.integers(0, 99),
    guess=st.floats(0.1, 10),
    weight=st.sampled_from([1e-6, 1.0, 1e9]),
)
def test_the_likely_scale_is_no_worse_than_its_neighbours(seed, guess, weight):
    rng = np.random.default_rng(seed)
    scores, y = rng.normal(size=(6, 3)), rng.integers(3, size=6)
    weights = np.full(6, weight)
    found, loss = likely_scale(scores, y, weights, guess=guess)
    assert guess * np.exp(-5.01) <= found <= guess * np.exp(5.01)
    for factor in (0.5, 0.9, 1.1, 2.0):
        k = found * factor
        own = log_softmax(k * scores, axis=1)[np.arange(6), y]
        penalty = (np.log(k / guess) / 0.5) ** 2 / 2
        if abs(np.log(k / guess)) <= 5:
            assert loss <= penalty - weights @ own + 1e-9 * abs(loss) + 1e-12
    none = likely_scale(scores[:0], y[:0], weights[:0], guess=guess)
    assert none == (guess, 0.0)
