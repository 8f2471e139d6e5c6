"""Discriminants: the ridge that they claim to be, and what it says of left-out rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skfewshot import MultiLabelPrototypeClassifier
from skfewshot._rows import unit_rows
from skfewshot.metrics import mean_average_precision
from skfewshot.multilabel._discriminant import Discriminant, fit_discriminant


def make_rows(seed, n=12, d=5, n_labels=4, dtype=np.float64):
    """Return features, indicators, weights and texts that know a little."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(n_labels, d))
    Y = (rng.random((n, n_labels)) < 0.4).astype(float)
    Y[:2] = [[1], [0]]
    X = unit_rows(Y @ text + 2 * rng.normal(size=(n, d)))
    weight = rng.integers(1, 4, size=n).astype(float)
    return tuple(a.astype(dtype) for a in (X, Y, weight, unit_rows(text)))


def slow_ridge(X, y, weight, ridge, centre):
    """Solve for coefficients near `centre` and a free intercept as least squares."""
    root = np.sqrt(weight)[:, None]
    rows = np.vstack(
        [
            root * np.column_stack([X, np.ones(len(X))]),
            np.eye(len(X.T), len(X.T) + 1) * np.sqrt(ridge),
        ]
    )
    targets = np.append(root[:, 0] * y, np.sqrt(ridge) * centre)
    solved = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return solved[:-1], solved[-1]


def slow_score(x, X, y, weight, *, ridge, prior, share):
    """Score one row by the discriminant of the others."""
    if share is None:
        coef, intercept = slow_ridge(X, y, weight, ridge, prior)
        return x @ coef + intercept
    alone = slow_ridge(X, y, weight, ridge, 0 * prior)
    mean = weight / weight.sum()
    of_text = prior @ (x - mean @ X) + mean @ y
    return (1 - share) * (x @ alone[0] + alone[1]) + share * of_text


@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("has_text", [True, False])
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_scores_are_those_of_a_ridge_and_left_out_ones_of_a_refit(
    seed, share, has_text
):
    X, Y, weight, text = make_rows(seed)
    found, left_out, scale = fit_discriminant(
        X, Y, weight, text if has_text else None, share
    )
    assert scale >= 0
    assert has_text or scale == 0
    ridge = 1 + (1 / (weight @ Y).mean() if has_text else 0)
    queries = unit_rows(np.random.default_rng(seed + 1).normal(size=(3, 5)))
    for label in range(Y.shape[1]):
        known = {"ridge": ridge, "prior": scale * text[label], "share": share}
        for query, scores in zip(queries, found(queries), strict=True):
            expected = slow_score(query, X, Y[:, label], weight, **known)
            assert_allclose(scores[label], expected, rtol=1e-7, atol=1e-9)
        for row in range(len(X)):
            rest = np.arange(len(X)) != row
            others = X[rest], Y[rest, label], weight[rest]
            expected = slow_score(X[row], *others, **known)
            assert_allclose(left_out[row, label], expected, rtol=1e-7, atol=1e-9)


def test_a_single_image_leaves_it_to_the_texts():
    X, Y, weight, text = make_rows(5)
    found, _, scale = fit_discriminant(0 * X[:1], Y[:1], weight[:1], text)
    assert scale == 1
    assert_allclose(found.coef, text, rtol=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_the_scale_of_the_texts_explains_left_out_rows_best(seed):
    X, Y, weight, text = make_rows(seed)
    _, left_out, scale = fit_discriminant(X, Y, weight, text)
    cost = (weight[:, None] * (Y - left_out) ** 2).sum()
    # Texts twice as long, in a ridge of half the scale, are the same.
    for factor in (0.8, 1.25):
        other = left_out_at(X, Y, weight, text, factor * scale)
        assert (weight[:, None] * (Y - other) ** 2).sum() >= cost - 1e-9
    assert_allclose(left_out_at(X, Y, weight, text, scale), left_out, atol=1e-9)


def left_out_at(X, Y, weight, text, scale):
    ridge = 1 + 1 / (weight @ Y).mean()
    known = {"ridge": ridge, "share": None}
    scores = np.empty(Y.shape)
    for row, label in np.ndindex(scores.shape):
        rest = np.arange(len(X)) != row
        others = X[rest], Y[rest, label], weight[rest]
        prior = scale * text[label]
        scores[row, label] = slow_score(X[row], *others, prior=prior, **known)
    return scores


@pytest.mark.parametrize("share", [None, 0.4])
def test_weights_are_duplicates_and_order_does_not_matter(share):
    X, Y, weight, text = make_rows(3)
    found, _, scale = fit_discriminant(X, Y, weight, text, share)
    rows = np.repeat(np.arange(len(X)), weight.astype(int))
    ones = np.ones(len(rows))
    known = text, share
    # The scale is found on left-out rows, of which a twin is none: compare the ridge.
    order = np.random.default_rng(0).permutation(len(X))
    other, left_out, again = fit_discriminant(X[order], Y[order], weight[order], *known)
    assert_allclose(again, scale, rtol=1e-9)
    assert_allclose(other.coef, found.coef, rtol=1e-8, atol=1e-10)
    none, _, _ = fit_discriminant(X, Y, weight)
    repeated, _, _ = fit_discriminant(X[rows], Y[rows], ones)
    assert_allclose(repeated.coef, none.coef, rtol=1e-8, atol=1e-10)
    assert_allclose(repeated.intercept, none.intercept, rtol=1e-8)
    assert left_out.shape == Y.shape


def test_labels_in_another_order_are_the_same_labels():
    X, Y, weight, text = make_rows(4)
    order = np.array([2, 0, 3, 1])
    one, left, _ = fit_discriminant(X, Y, weight, text)
    other, other_left, _ = fit_discriminant(X, Y[:, order], weight, text[order])
    assert_allclose(other.coef, one.coef[order], rtol=1e-9)
    assert_allclose(other_left, left[:, order], rtol=1e-9)


def test_of_a_single_row_nothing_is_left_but_the_text():
    X, Y, weight, text = make_rows(5)
    found, left_out, scale = fit_discriminant(X[:1], Y[:1], weight[:1], text)
    assert_allclose(found(X[:1]), Y[:1], atol=1e-9)
    assert_allclose(left_out, scale * X[:1] @ text.T, atol=1e-9)
    _, left_out, _ = fit_discriminant(X[:1], Y[:1], weight[:1])
    assert_allclose(left_out, 0)


def test_texts_that_point_the_wrong_way_are_given_no_say():
    X, Y, weight, text = make_rows(6, n=40)
    found, _, scale = fit_discriminant(X, Y, weight, -text)
    assert scale == 0
    zeros, _, _ = fit_discriminant(X, Y, weight, np.zeros_like(text))
    assert_allclose(found.coef, zeros.coef, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_that_of_the_features(dtype):
    X, Y, weight, text = make_rows(7, dtype=dtype)
    found, left_out, _ = fit_discriminant(X, Y, weight, text)
    assert found.coef.dtype == found.intercept.dtype == left_out.dtype == dtype
    assert found.times(3.7)(X).dtype == dtype
    assert_allclose(found.times(2.0)(X), 2 * found(X), rtol=1e-6)


def test_a_linear_score():
    found = Discriminant(np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([0.5, 0.0]))
    assert_allclose(found(np.array([[1.0, 1.0]])), [[3.5, -1.0]])


# In the classifier


def make_attributes(n, *, seed, n_kinds=6, n_colours=4, d=24):
    """Draw one feature an image, of a kind and a colour; colours are the weaker."""
    world = np.random.default_rng(0)
    kinds, colours = world.normal(size=(n_kinds, d)), world.normal(size=(n_colours, d))
    rng = np.random.default_rng(seed)
    kind, colour = rng.integers(n_kinds, size=n), rng.integers(n_colours, size=n)
    X = 2 * kinds[kind] + 0.7 * colours[colour] + 0.7 * rng.normal(size=(n, d))
    Y = np.hstack([np.eye(n_kinds)[kind], np.eye(n_colours)[colour]]).astype(int)
    return X, Y, np.vstack([kinds, colours])


@pytest.mark.parametrize("has_text", [True, False])
def test_what_other_labels_look_like_helps(has_text):
    X, Y, text = make_attributes(60, seed=1)
    queries, truth, _ = make_attributes(400, seed=2)
    noise = 2 * np.random.default_rng(3).normal(size=text.shape)
    text = text + noise if has_text else None

    def measure(scoring):
        model = MultiLabelPrototypeClassifier(text, query_scoring=scoring).fit(X, Y)
        return mean_average_precision(truth, model.decision_function(queries))

    assert measure("combined") > measure("competitive") + 0.05


def test_a_label_of_the_whole_image_is_told_by_the_global_feature(planted):
    data, queries = planted(30, seed=1), planted(100, seed=2)
    rng = np.random.default_rng(0)
    mood, asked = rng.integers(2, size=30), rng.integers(2, size=100)
    direction = 6 * rng.normal(size=data.X.shape[2])
    for images, moods in ((data.X, mood), (queries.X, asked)):
        images[:, 0] += np.outer(2 * moods - 1, direction)
    Y, truth = (np.column_stack([m, 1 - m]) for m in (mood, asked))
    models = [
        MultiLabelPrototypeClassifier(None, query_scoring=scoring).fit(data.X, Y)
        for scoring in ("combined", "competitive")
    ]
    combined, competitive = (
        mean_average_precision(truth, model.decision_function(queries.X))
        for model in models
    )
    assert models[0].global_share_ > 0.5
    assert combined > 0.95 > competitive + 0.2


def test_where_patches_know_more_they_are_trusted_more(planted):
    data = planted(30, n_parts=36)
    model = MultiLabelPrototypeClassifier(data.text).fit(data.X, data.Y)
    assert model.global_share_ < 0.5
    alone = MultiLabelPrototypeClassifier(data.text, query_scoring="competitive")
    assert alone.fit(data.X, data.Y).coef_ is None
    assert alone.global_share_ == 0


def test_one_feature_an_image_is_told_by_discriminants_alone(planted, unit):
    data = planted(20)
    X = data.X[:, 0]
    model = MultiLabelPrototypeClassifier(data.text).fit(X, data.Y)
    assert model.global_share_ == 1
    mapped = unit(unit(X) - model.whole_mean_)
    scores = mapped @ model.coef_.T + model.intercept_
    expected = model.slope_ * scores + model.biases_
    assert_allclose(model.decision_function(X), expected, rtol=1e-9)
    assert_allclose(model.explain(X)[:, :, 0], expected, rtol=1e-9)
    found, _, scale = fit_discriminant(
        mapped, data.Y, np.ones(20), model.label_vectors_
    )
    assert_allclose(model.text_scale_, scale, rtol=1e-7)
    assert_allclose(model.coef_, found.coef, rtol=1e-6, atol=1e-9)
