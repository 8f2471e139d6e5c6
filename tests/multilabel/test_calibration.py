"""Calibration: the optimum it claims to find, and the thresholds it gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad, minimize, minimize_scalar
from scipy.special import expit, log_softmax
from sklearn.linear_model import LogisticRegression

from skfewshot.multilabel import _calibration
from skfewshot.multilabel._calibration import (
    Calibration,
    cardinality_threshold,
    choose_global_share,
    choose_share,
    fit_sigmoid,
    fit_softmax,
    score_left_out,
    spread_ratio,
)
from skfewshot.multilabel._prototypes import (
    Pairs,
    label_sums,
    leave_one_out_scores,
    text_shares,
)
from skfewshot.multilabel._scoring import Scorer
from skfewshot.multilabel._tokens import Support, Tokens

#: The documented strength of the pull toward the shared bias.
SHRINKAGE = 4.0


def make_scores(seed, n=30, n_labels=4, dtype=np.float64):
    """Scores whose true slope is 2, with biases that differ between the labels."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-3, 1.5, size=(n, n_labels))
    biases = 5 + rng.normal(size=n_labels)
    labels = (rng.random(scores.shape) < expit(2 * scores + biases)).astype(float)
    labels[:2] = [[1], [0]]
    return scores.astype(dtype), labels, rng.uniform(0.5, 2.0, size=n)


def platt_targets(labels, weight):
    """Return Platt's smoothed targets, by the weights of all rows and labels."""
    positive = (weight[:, None] * labels).sum()
    negative = (weight[:, None] * (1 - labels)).sum()
    return np.where(labels > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))


def slow_sigmoid(scores, labels, weight, own):
    """Minimise the documented objective in other coordinates, with another method."""
    target = platt_targets(labels, weight)

    def loss(parameters):
        total = 0.0
        for label in range(scores.shape[1]):
            offset = parameters[2 + label] if own[label] else 0.0
            p = expit(parameters[0] * scores[:, label] + parameters[1] + offset)
            t = target[:, label]
            total -= (weight * (t * np.log(p) + (1 - t) * np.log(1 - p))).sum()
            total += 0.5 * SHRINKAGE * offset**2
        return total

    start = np.zeros(2 + scores.shape[1])
    start[0] = 1
    found = minimize(loss, start, method="BFGS", options={"gtol": 1e-6}).x
    return found[0], found[1] + np.where(own, found[2:], 0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("counts", [None, np.array([5, 2, 1, 0])])
def test_fit_sigmoid_is_the_optimum_of_its_objective(seed, counts):
    scores, labels, weight = make_scores(seed)
    own = np.zeros(4, dtype=bool) if counts is None else counts >= 2
    found = fit_sigmoid(scores, labels, weight, counts)
    slope, bias = slow_sigmoid(scores, labels, weight, own)
    assert_allclose(found.slope, slope, rtol=1e-3)
    assert_allclose(found.bias, bias, rtol=1e-3, atol=1e-3)
    assert len(np.unique(found.bias[~own])) == 1
    assert len(np.unique(found.bias)) == own.sum() + 1


def test_the_shared_fit_is_logistic_regression_on_smoothed_targets():
    scores, labels, weight = make_scores(2)
    found = fit_sigmoid(scores, labels, weight)
    # Soft targets are two weighted rows each.
    target = platt_targets(labels, weight).ravel()
    weights = np.broadcast_to(weight[:, None], scores.shape).ravel()
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(
        np.tile(scores.reshape(-1, 1), (2, 1)),
        np.repeat([1, 0], scores.size),
        sample_weight=np.concatenate([weights * target, weights * (1 - target)]),
    )
    assert_allclose(found.slope, peer.coef_[0, 0], rtol=1e-3)
    assert_allclose(found.bias, peer.intercept_[0], rtol=1e-3)


@pytest.mark.parametrize("method", [fit_sigmoid, fit_softmax])
def test_gradients_are_those_of_finite_differences(method, monkeypatch):
    scores, labels, weight = make_scores(3)
    if method is fit_softmax:
        labels = np.eye(4)[labels.argmax(axis=1)]
    checked = []

    def check_then_minimize(objective, start, **options):
        for seed in range(3):
            point = np.random.default_rng(seed).uniform(0.1, 2, size=len(start))
            checked.append(
                check_grad(lambda x: objective(x)[0], lambda x: objective(x)[1], point)
            )
        return minimize(objective, start, **options)

    monkeypatch.setattr(_calibration, "minimize", check_then_minimize)
    options = {"counts": np.array([5, 2, 1, 0])} if method is fit_sigmoid else {}
    method(scores, labels, weight, **options)
    assert len(checked) == 3
    assert max(checked) < 1e-6


def test_fit_softmax_is_the_optimum_of_its_objective():
    scores, labels, weight = make_scores(4)
    labels = np.eye(4)[
        (scores + np.random.default_rng(0).normal(size=(30, 4))).argmax(axis=1)
    ]
    total = weight.sum()
    target = (total * labels + 1 / 4) / (total + 1)

    def loss(slope):
        return -(weight[:, None] * target * log_softmax(slope * scores, axis=1)).sum()

    found = fit_softmax(scores, labels, weight)
    best = minimize_scalar(loss, bounds=(1e-3, 50), method="bounded").x
    assert_allclose(found.slope, best, rtol=1e-3)
    assert_array_equal(found.bias, 0)


@settings(max_examples=25)
@given(gap=st.floats(1e-3, 1e3), n=st.integers(1, 8), offset=st.floats(-100, 100))
def test_scores_that_separate_the_labels_stay_finite(gap, n, offset):
    labels = np.array([[1.0, 0.0], [0.0, 1.0]] * n)
    scores = offset + gap * labels
    for found in (
        fit_sigmoid(scores, labels, np.ones(2 * n)),
        fit_sigmoid(scores, labels, np.ones(2 * n), np.array([n, n])),
        fit_softmax(scores, labels, np.ones(2 * n)),
    ):
        assert np.isfinite(found.slope)
        assert np.isfinite(found.bias).all()
        assert found.slope > 0
        logits = found.logits(scores)
        assert logits[labels > 0].min() > logits[labels == 0].max()
        assert np.abs(np.diff(logits)).max() < 20


def test_platt_targets_are_reached_where_scores_separate():
    labels = np.array([[1.0, 0.0], [0.0, 1.0]] * 5)
    found = fit_sigmoid(labels, labels, np.ones(10))
    p = expit(found.logits(labels))
    assert_allclose(p[labels > 0], 11 / 12, rtol=1e-3)
    assert_allclose(p[labels == 0], 1 / 12, rtol=1e-3)


@pytest.mark.parametrize("method", [fit_sigmoid, fit_softmax])
def test_scores_that_are_all_equal_and_scores_that_are_wrong_way_round(method):
    labels = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for scores in (np.full((3, 2), 0.3), -labels):
        found = method(scores, labels, np.ones(3))
        assert np.isfinite(found.logits(scores)).all()
        # A slope below zero would call the most likely label the least.
        assert found.slope > 0


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100))
def test_the_unit_and_the_origin_of_the_scores_do_not_matter(seed, factor):
    scores, labels, weight = make_scores(seed)
    counts = labels.sum(axis=0)
    one = fit_sigmoid(scores, labels, weight, counts)
    other = fit_sigmoid(factor * scores + 7, labels, weight, counts)
    assert_allclose(
        other.logits(factor * scores + 7), one.logits(scores), rtol=1e-3, atol=1e-3
    )


def test_a_row_of_weight_two_is_two_rows():
    scores, labels, _ = make_scores(5)
    weight = np.ones(len(scores))
    weight[3] = 2
    one = fit_sigmoid(scores, labels, weight)
    twice = np.append(np.arange(len(scores)), 3)
    other = fit_sigmoid(scores[twice], labels[twice], np.ones(len(twice)))
    assert_allclose([other.slope, *other.bias], [one.slope, *one.bias], rtol=1e-4)


def test_logits():
    found = Calibration(2.0, np.array([5.0, 7.0]))
    scores = np.array([[1.0, -3.0]], dtype=np.float32)
    assert_array_equal(found.logits(scores), [[7.0, 1.0]])
    assert found.logits(scores).dtype == np.float32


@settings(max_examples=100)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), n_labels=st.integers(2, 6))
def test_cardinality_predicts_as_many_labels_as_there_are(seed, n, n_labels):
    rng = np.random.default_rng(seed)
    probabilities = rng.permutation(np.linspace(0.01, 0.99, n * n_labels))
    probabilities = probabilities.reshape(n, n_labels)
    labels = (rng.random((n, n_labels)) < 0.4).astype(float)
    labels[0, 0] = 1
    threshold = cardinality_threshold(probabilities, labels, np.ones(n))
    assert 0 < threshold < 1
    assert (probabilities >= threshold).sum() == labels.sum()


@settings(max_examples=100)
@given(seed=st.integers(0, 10_000))
def test_weighted_cardinality_is_met_to_within_one_prediction(seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.permutation(np.linspace(0.01, 0.99, 24)).reshape(8, 3)
    labels = (rng.random((8, 3)) < 0.4).astype(float)
    labels[0, 0] = 1
    weight = rng.uniform(0.1, 3, size=8)
    taken = probabilities >= cardinality_threshold(probabilities, labels, weight)
    wanted = (weight[:, None] * labels).sum()
    least = np.where(taken, probabilities, 2).argmin()
    got = (weight[:, None] * taken).sum()
    assert got >= wanted * (1 - 1e-6)
    assert got - weight[least // 3] < wanted


def test_cardinality_of_images_that_have_every_label_takes_all():
    probabilities = np.array([[0.9, 0.2], [0.6, 0.1]], dtype=np.float32)
    threshold = cardinality_threshold(probabilities, np.ones((2, 2)), np.ones(2))
    assert (probabilities >= threshold).all()


# The text's share and the background


def make_support(unit, seed, n=12, d=8):
    """Return a mapped support, its pairs and label vectors; texts say a little."""
    rng = np.random.default_rng(seed)
    concepts = unit(rng.normal(size=(3, d)))
    indicator = np.eye(3)[np.arange(n) % 3]
    indicator[0, 1] = 1
    images, labels = np.nonzero(indicator)
    parts = unit(concepts[np.arange(n) % 3][:, None] + rng.normal(size=(n, 4, d)))
    tokens = Tokens(unit(parts.sum(axis=1)), parts, np.ones((n, 4), dtype=bool))
    weight = rng.uniform(0.5, 2, size=n)
    vectors = concepts[labels] + 0.8 * rng.normal(size=(len(labels), d))
    text = unit(concepts + 0.6 * rng.normal(size=(3, d)))
    pairs = Pairs(images, labels, vectors, weight[images])
    return Support(tokens, indicator, weight), pairs, text


@pytest.mark.parametrize("expected", [0.2, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_the_share_has_the_least_documented_cost(unit, seed, expected):
    support, pairs, text = make_support(unit, seed)
    scorer = Scorer(20.0, "competitive", 2)
    found = choose_share(support, pairs, text, scorer, expected)
    local = Scorer(20.0, "local", 2)
    _, counts = label_sums(pairs, 3)
    n_images = support.indicator.sum(axis=0)
    costs = {}
    for tenths in range(11):
        share = tenths / 10
        # A text of share 0 everywhere is taken for none.
        tried = [text_shares(share, counts, True), np.ones(3)]
        scores = leave_one_out_scores(support.tokens, pairs, text, tried, local, True)
        fitted = fit_sigmoid(scores[0], support.indicator, support.weight, n_images)
        loss = fitted.loss * support.weight.sum() * 3
        costs[share] = loss + (share - expected) ** 2 / (2 * 0.16**2)
    assert found == pytest.approx(min(costs, key=costs.get))


@pytest.mark.parametrize("seed", range(3))
def test_images_without_labels_have_a_say_in_the_share(unit, seed):
    support, pairs, text = make_support(unit, seed)
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], 5)
    vectors = text[labels] + rng.normal(size=(10, 8))
    extra = Pairs(np.arange(10), labels, vectors, rng.random(10))
    local = Scorer(20.0, "local", 2)
    # One image of the last label is too few to judge it by.
    only = pairs.labels != 2
    only[np.flatnonzero(pairs.labels == 2)[0]] = True
    pairs = Pairs(*(a[only] for a in vars(pairs).values()))
    found = choose_share(support, pairs, text, local, 0.6, extra)
    _, counts = label_sums(pairs, 3)
    n_images = np.bincount(pairs.labels, minlength=3)
    costs = {}
    for tenths in range(11):
        share = tenths / 10
        tried = [text_shares(share, counts, True), np.ones(3)]
        given = support.tokens, pairs, text, tried, local, True, extra
        scores = leave_one_out_scores(*given)[0][:, :2]
        fitted = fit_sigmoid(
            scores, support.indicator[:, :2], support.weight, n_images[:2]
        )
        loss = fitted.loss * support.weight.sum() * 2
        costs[share] = loss + (share - 0.6) ** 2 / (2 * 0.32**2)
    assert found == pytest.approx(min(costs, key=costs.get))


def test_few_images_leave_the_expected_share(unit):
    support, pairs, text = make_support(unit, 0, n=6)
    scorer = Scorer(20.0, "local", 2)
    fewer = Support(support.tokens, np.eye(3)[np.arange(6) % 3], support.weight)
    own = pairs.labels == pairs.images % 3
    pairs = Pairs(*(a[own] for a in vars(pairs).values()))
    assert choose_share(fewer, pairs, text, scorer, 0.37) == 0.37


@pytest.mark.parametrize("scoring", ["competitive", "local", "both"])
def test_the_background_lies_two_below_the_border(unit, scoring):
    support, pairs, text = make_support(unit, 1)
    shares = np.full(3, 0.5)
    scorer = Scorer(20.0, scoring, 2)
    found, scores = score_left_out(support, pairs, text, shares, scorer)
    if scoring == "competitive":
        plain = leave_one_out_scores(
            support.tokens, pairs, text, [shares], Scorer(20.0, "local", 2)
        )
        fitted = fit_sigmoid(plain[0], support.indicator, support.weight)
        assert found.sharpness == pytest.approx(fitted.slope)
        border = -fitted.bias[0] / fitted.slope
        assert found.background == pytest.approx(border - 2.0)
    else:
        assert found == scorer
    expected = leave_one_out_scores(support.tokens, pairs, text, [shares], found)[0]
    assert_allclose(scores, expected, rtol=1e-9)


@pytest.mark.parametrize("is_multilabel", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_global_share_has_the_least_documented_cost(seed, is_multilabel):
    of_whole, labels, weight = make_scores(seed)
    if not is_multilabel:
        labels = np.eye(labels.shape[1])[(of_whole + labels).argmax(axis=1)]
    local = of_whole + np.random.default_rng(seed + 9).normal(size=of_whole.shape)
    tokens = Tokens(*(np.zeros((len(labels), 1)),) * 3)
    support = Support(tokens, labels, weight)
    found = choose_global_share(local, of_whole, support, is_multilabel, True)

    def cost(share):
        scores = (1 - share) * local + share * of_whole
        pull = 2 * (share - 0.5) ** 2
        if is_multilabel:
            fitted = fit_sigmoid(scores, labels, weight, weight @ labels)
            return weight.sum() * labels.shape[1] * fitted.loss + pull
        return weight.sum() * fit_softmax(scores, labels, weight).loss + pull

    costs = [cost(share) for share in np.linspace(0, 1, 11)]
    assert found == pytest.approx(np.argmin(costs) / 10)
    # The other way round the other share is as good.
    turned = choose_global_share(of_whole, local, support, is_multilabel, True)
    assert turned == pytest.approx(1 - found)


def test_without_text_labels_of_one_image_say_nothing_of_the_share():
    of_whole, labels, weight = make_scores(0)
    tokens = Tokens(*(np.zeros((len(labels), 1)),) * 3)
    local = np.random.default_rng(9).normal(size=of_whole.shape)
    lone = np.zeros_like(labels)
    lone[np.arange(4), np.arange(4)] = 1
    known = Support(tokens, lone, weight), True, False
    assert choose_global_share(local, of_whole, *known) == 0.5
    lone[:, 0] = labels[:, 0]
    share = choose_global_share(local, of_whole, *known)
    # Only the first label is judged, whatever the others are said to be.
    local[:, 1:], of_whole[:, 1:] = of_whole[:, 1:], local[:, 1:]
    assert choose_global_share(local, of_whole, *known) == share > 0.5


def test_scores_of_one_spread():
    scores, _, weight = make_scores(1)
    factor = spread_ratio(scores, 0.1 * scores + 3, weight)
    assert_allclose(factor, 10)
    assert spread_ratio(scores, np.ones_like(scores), weight) == 1
