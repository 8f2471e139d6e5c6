"""MultiLabelPrototypeClassifier: its invariants, its outputs, and what it learns."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.exceptions import DataConversionWarning

from skfewshot import MultiLabelPrototypeClassifier
from skfewshot.clip import EmbeddingArray, EncoderIdentity
from skfewshot.metrics import mean_average_precision

SCORINGS = ["combined", "competitive", "local", "global", "both"]
SELECTIONS = ["lcm", "lcm_paper", "text", "none"]
#: Settings that together take every branch.
SETTINGS = [
    {},
    {"selection": "lcm_paper", "query_scoring": "local", "pooling": "agreement"},
    {"selection": "text", "query_scoring": "both", "text_weight": 0.3},
    {"selection": "none", "query_scoring": "global", "label_features": None},
    {"label_features": None},
    {"query_scoring": "competitive", "text_weight": 0.7},
]
OUTPUTS = ("decision_function", "predict_proba", "predict", "explain")


def make(data, **params):
    return MultiLabelPrototypeClassifier(**{"label_features": data.text, **params})


def assert_same_outputs(one, other, X, *, other_X=None, rtol=1e-7, labels=slice(None)):
    """Compare what two classifiers say; column i of one is labels[i] of the other."""
    other_X = X if other_X is None else other_X
    for output in OUTPUTS:
        first, second = getattr(one, output)(X), getattr(other, output)(other_X)
        assert_allclose(second[:, labels], first, rtol=rtol, atol=rtol, err_msg=output)


def assert_same_fit(one, other):
    """Compare bit by bit all that two classifiers learned, but for `selected_`."""
    for name in ("prototypes_", "label_vectors_", "thresholds_", "biases_"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert (one.coef_ is None) == (other.coef_ is None)
    if one.coef_ is not None:
        assert_array_equal(one.coef_, other.coef_)
        assert_array_equal(one.intercept_, other.intercept_)
    numbers = "text_weight_", "slope_", "background_", "sharpness_", "global_share_"
    for name in numbers:
        assert getattr(one, name) == getattr(other, name), name


# Invariants


@pytest.mark.parametrize("params", SETTINGS, ids=str)
@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
def test_permuting_local_tokens_permutes_the_evidence_and_nothing_else(
    planted, params, seed
):
    data, queries = planted(12, seed=seed), planted(5, seed=seed + 1)
    order = np.random.default_rng(seed).permutation(16)
    shuffled = np.concatenate([[0], 1 + order])
    one = make(data, **params).fit(data.X, data.Y)
    other = make(data, **params).fit(data.X[:, shuffled], data.Y)
    for output in ("decision_function", "predict_proba", "predict"):
        expected = getattr(one, output)(queries.X)
        for model in (one, other):
            found = getattr(model, output)(queries.X[:, shuffled])
            assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    assert_allclose(
        other.explain(queries.X[:, shuffled]),
        one.explain(queries.X)[:, :, order],
        rtol=1e-7,
        atol=1e-7,
    )
    for mine, theirs in zip(one.selected_, other.selected_, strict=True):
        back = np.column_stack([theirs[:, 0], order[theirs[:, 1]]])
        assert {tuple(row) for row in mine} == {tuple(row) for row in back}


@pytest.mark.parametrize("params", SETTINGS, ids=str)
@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
def test_permuting_labels_permutes_the_columns(planted, params, seed):
    data, queries = planted(12, seed=seed), planted(5, seed=seed + 1)
    order = np.random.default_rng(seed).permutation(6)
    # Column order[i] of the permuted labels is column i.
    Y, text = np.empty_like(data.Y), np.empty_like(data.text)
    Y[:, order], text[order] = data.Y, data.text
    one = make(data, **params).fit(data.X, data.Y)
    if params.get("label_features", "given") is not None:
        params = {**params, "label_features": text}
    other = MultiLabelPrototypeClassifier(**params).fit(data.X, Y)
    assert_same_outputs(one, other, queries.X, labels=order, rtol=1e-5)
    assert_allclose(other.prototypes_[order], one.prototypes_, rtol=1e-7, atol=1e-9)
    for label, chosen in enumerate(one.selected_):
        assert_array_equal(other.selected_[order[label]], chosen)


@pytest.mark.parametrize("params", SETTINGS, ids=str)
@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_images_does_not_matter_at_all(planted, params, seed):
    data = planted(12, seed=seed)
    order = np.random.default_rng(seed).permutation(12)
    one = make(data, **params).fit(data.X, data.Y)
    other = make(data, **params).fit(data.X[order], data.Y[order])
    assert_same_fit(one, other)
    for mine, theirs in zip(one.selected_, other.selected_, strict=True):
        back = np.column_stack([order[theirs[:, 0]], theirs[:, 1]])
        assert {tuple(row) for row in mine} == {tuple(row) for row in back}
        assert (np.diff(mine[:, 0]) >= 0).all()


@pytest.mark.parametrize("params", SETTINGS, ids=str)
@settings(max_examples=3)
@given(seed=st.integers(0, 10_000), row=st.integers(0, 11))
def test_duplicating_an_image_is_doubling_its_weight(planted, params, seed, row):
    data = planted(12, seed=seed)
    weight = np.ones(12)
    weight[row] = 2
    twice = np.append(np.arange(12), row)
    weighted = make(data, **params).fit(data.X, data.Y, sample_weight=weight)
    repeated = make(data, **params).fit(data.X[twice], data.Y[twice])
    assert_same_fit(weighted, repeated)
    for mine, theirs in zip(weighted.selected_, repeated.selected_, strict=True):
        assert_array_equal(mine, theirs)
    assert make(data, **params).fit(data.X, data.Y).slope_ != weighted.slope_


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_an_image_of_weight_zero_is_as_good_as_absent(planted, params):
    data = planted(14)
    weight = np.where(np.arange(14) % 3 == 1, 0.0, 1.5)
    kept = np.flatnonzero(weight)
    zeros = make(data, **params).fit(data.X, data.Y, sample_weight=weight)
    absent = make(data, **params).fit(
        data.X[kept], data.Y[kept], sample_weight=weight[kept]
    )
    assert_same_fit(zeros, absent)
    for mine, theirs in zip(zeros.selected_, absent.selected_, strict=True):
        assert_array_equal(mine[:, 0], kept[theirs[:, 0]])
        assert_array_equal(mine[:, 1], theirs[:, 1])


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_the_length_of_a_token_does_not_matter(planted, params):
    data, queries = planted(12), planted(6, seed=1)
    rng = np.random.default_rng(0)
    one = make(data, **params).fit(data.X, data.Y)
    lengths, query_lengths = (
        np.exp(rng.normal(0, 3, size=(n, 17, 1))) for n in (12, 6)
    )
    other = make(data, **params).fit(lengths * data.X, data.Y)
    assert_same_outputs(
        one, other, queries.X, other_X=query_lengths * queries.X, rtol=1e-6
    )
    # So far apart that squares overflow or vanish.
    for extreme in (1e-200, 1e200):
        assert_same_outputs(one, one, queries.X, other_X=extreme * queries.X)


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_padding_changes_nothing_but_the_width_of_the_evidence(planted, params):
    data, queries = planted(12), planted(6, seed=1)

    def pad(X, n=4):
        return np.concatenate([X, np.full((len(X), n, 32), np.nan)], axis=1)

    one = make(data, **params).fit(data.X, data.Y)
    other = make(data, **params).fit(pad(data.X), data.Y)
    for output in ("decision_function", "predict_proba", "predict"):
        expected = getattr(one, output)(queries.X)
        for model, X in ((one, pad(queries.X)), (other, queries.X)):
            assert_allclose(getattr(model, output)(X), expected, rtol=1e-7, atol=1e-9)
    maps = other.explain(pad(queries.X))
    assert maps.shape == (6, 6, 20)
    assert np.isnan(maps[:, :, 16:]).all()
    assert_allclose(maps[:, :, :16], one.explain(queries.X), rtol=1e-7, atol=1e-9)
    for mine, theirs in zip(one.selected_, other.selected_, strict=True):
        assert_array_equal(mine, theirs)


def test_images_of_different_numbers_of_regions(planted):
    data, queries = planted(12), planted(6, seed=1)
    ragged = queries.X.copy()
    for image, n_parts in enumerate([1, 2, 3, 5, 8, 16]):
        ragged[image, 1 + n_parts :] = np.nan
    model = make(data, n_select=4).fit(data.X, data.Y)
    together = model.decision_function(ragged)
    for image, n_parts in enumerate([1, 2, 3, 5, 8, 16]):
        alone = model.decision_function(ragged[image : image + 1, : 1 + n_parts])
        assert_allclose(together[image], alone[0], rtol=1e-9)


def test_a_missing_global_token_is_the_mean_of_the_local_ones(planted, unit):
    data = planted(12)
    tokens = unit(data.X)
    tokens[:, 0] = tokens[:, 1:].mean(axis=1)
    absent = data.X.copy()
    absent[:, 0] = np.nan
    one = make(data, query_scoring="both").fit(tokens, data.Y)
    other = make(data, query_scoring="both").fit(absent, data.Y)
    assert_same_outputs(one, other, tokens, other_X=absent)


# The forms of X


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_flattened_tokens(planted, params):
    data, queries = planted(12), planted(6, seed=1)
    one = make(data, **params).fit(data.X, data.Y)
    other = make(data, n_tokens=17, **params).fit(data.X.reshape(12, -1), data.Y)
    flat = queries.X.reshape(6, -1)
    for output in OUTPUTS:
        assert_array_equal(
            getattr(one, output)(queries.X), getattr(other, output)(flat)
        )
    assert (one.n_features_in_, other.n_features_in_) == (32, 17 * 32)


def test_flattened_tokens_may_be_padding(planted):
    data = planted(12)
    X = data.X.copy()
    X[::2, 9:] = np.nan
    one = make(data).fit(X, data.Y)
    other = make(data, n_tokens=17).fit(X.reshape(12, -1), data.Y)
    assert_array_equal(one.explain(X), other.explain(X.reshape(12, -1)))


@pytest.mark.parametrize("scoring", SCORINGS)
def test_one_feature_an_image(planted, scoring):
    data, queries = planted(12), planted(6, seed=1)
    X, Q = data.X[:, 0], queries.X[:, 0]
    model = make(data, query_scoring=scoring).fit(X, data.Y)
    as_tokens = make(data, query_scoring=scoring).fit(X[:, None], data.Y)
    twice = np.stack([X, X], axis=1)
    spelled_out = make(data, query_scoring=scoring).fit(twice, data.Y)
    for output in OUTPUTS:
        expected = getattr(model, output)(Q)
        assert_array_equal(getattr(as_tokens, output)(Q[:, None]), expected)
        found = getattr(spelled_out, output)(np.stack([Q, Q], axis=1))
        assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert model.explain(Q).shape == (6, 6, 1)
    for chosen in model.selected_:
        assert_array_equal(chosen[:, 1], 0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)],
)
@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_dtype_of_x_is_the_dtype_of_the_output(planted, params, given, wanted):
    data = planted(12)
    X = data.X.astype(given)
    model = make(data, **params).fit(X, data.Y)
    for output in ("decision_function", "predict_proba", "explain"):
        assert getattr(model, output)(X).dtype == wanted, output
    for name in ("prototypes_", "label_vectors_", "part_mean_", "whole_mean_"):
        assert getattr(model, name).dtype == wanted, name
    assert model.predict(X).dtype == np.int64
    flat = make(data, n_tokens=17, **params).fit(X.reshape(12, -1), data.Y)
    assert flat.predict_proba(X.reshape(12, -1)).dtype == wanted


def test_single_precision_agrees_with_double(planted):
    data, queries = planted(), planted(6, seed=1)
    single = make(data).fit(data.X.astype(np.float32), data.Y)
    double = make(data).fit(data.X, data.Y)
    assert_allclose(
        single.predict_proba(queries.X.astype(np.float32)),
        double.predict_proba(queries.X),
        atol=1e-3,
    )


def test_read_only_and_reversed_and_list_input(planted):
    data = planted(12)
    frozen = data.X.copy()
    frozen.flags.writeable = False
    one = make(data).fit(frozen, data.Y)
    backward = make(data).fit(data.X[::-1], data.Y[::-1])
    lists = make(data, label_features=data.text.tolist()).fit(
        data.X.tolist(), data.Y.tolist()
    )
    for model in (backward, lists):
        assert_same_fit(one, model)
    assert_array_equal(lists.predict(data.X.tolist()), one.predict(data.X))


# The forms of y


@pytest.mark.parametrize(
    "convert", [csr_array, lambda Y: Y.astype(bool), lambda Y: Y.astype(float)]
)
def test_indicators_sparse_boolean_and_float(planted, convert):
    data = planted(12)
    one = make(data).fit(data.X, data.Y)
    other = make(data).fit(data.X, convert(data.Y))
    assert_same_fit(one, other)
    assert_array_equal(other.classes_, np.arange(6))
    assert other.predict(data.X).dtype == np.int64


def test_columns_of_a_data_frame_are_the_classes_and_the_names(planted):
    data = planted(12)
    names = ["fork", "boat", "cup", "kite", "bird", "oven"]
    frame = pd.DataFrame(data.Y, columns=names)
    asked = []

    def encode(prompts):
        asked.extend(prompts)
        return data.text

    model = make(data, label_features="auto", text_encoder=encode).fit(data.X, frame)
    assert_array_equal(model.classes_, names)
    assert len(asked) == 6
    for name, prompt in zip(names, asked, strict=True):
        assert name in prompt
    by_name = dict(zip(names[::-1], data.text[::-1], strict=True))
    plain = make(data).fit(data.X, data.Y)
    for other in (
        model,
        make(data, label_features=by_name).fit(data.X, frame),
        make(data, label_features=pd.DataFrame(by_name).T).fit(data.X, frame),
    ):
        assert_same_fit(plain, other)
    assert_array_equal(plain.classes_, np.arange(6))


def test_label_names_by_sequence_and_by_dict(planted):
    data = planted(12)
    names = ["fork", "boat", "cup", "kite", "bird", "oven"]
    by_word = dict(zip(names, data.text, strict=True))

    def encode(prompts):
        return [next(by_word[n] for n in names if n in prompt) for prompt in prompts]

    plain = make(data).fit(data.X, data.Y)
    for label_names in (names, dict(zip(range(5, -1, -1), names[::-1], strict=True))):
        model = make(
            data, label_features="auto", label_names=label_names, text_encoder=encode
        ).fit(data.X, data.Y)
        assert model.prototype_source_ == "text_encoder"
        assert_same_fit(plain, model)


def test_one_string_label_an_image(planted):
    data, queries = planted(18, most_labels=1), planted(30, most_labels=1, seed=1)
    names = np.array(["oven", "boat", "cup", "kite", "bird", "fork"])
    texts = dict(zip(names, data.text, strict=True))
    model = make(data, label_features=texts).fit(data.X, names[data.Y.argmax(axis=1)])
    assert_array_equal(model.classes_, np.sort(names))
    predicted = model.predict(queries.X)
    assert (predicted == names[queries.Y.argmax(axis=1)]).mean() > 0.8
    probabilities = model.predict_proba(queries.X)
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert_array_equal(model.classes_[probabilities.argmax(axis=1)], predicted)
    logits = model.decision_function(queries.X)
    soft = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(probabilities, soft, rtol=1e-6)
    assert np.isnan(model.thresholds_).all()
    assert_array_equal(model.biases_, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_classes_give_one_margin(planted, dtype):
    data = planted(12, n_labels=2, most_labels=1, dtype=dtype)
    model = make(data).fit(data.X, data.Y.argmax(axis=1))
    margin = model.decision_function(data.X)
    assert margin.shape == (12,)
    assert margin.dtype == dtype
    assert_allclose(
        model.predict_proba(data.X)[:, 1], 1 / (1 + np.exp(-margin)), rtol=1e-4
    )
    assert_array_equal(model.predict(data.X), (margin > 0).astype(int))
    assert model.explain(data.X).shape == (12, 2, 16)


def test_two_labels_stay_two_columns(planted):
    data = planted(12, n_labels=2, most_labels=2)
    model = make(data).fit(data.X, data.Y)
    for output in ("decision_function", "predict_proba", "predict"):
        assert getattr(model, output)(data.X).shape == (12, 2)


# What comes out


@pytest.mark.parametrize("n_select", [1, 3, 100])
@pytest.mark.parametrize("scoring", ["local", "competitive", "combined"])
@pytest.mark.parametrize("features", ["given", None])
def test_the_best_evidence_is_the_decision(planted, scoring, n_select, features):
    data, queries = planted(12), planted(6, seed=1)
    params = {} if features == "given" else {"label_features": None}
    model = make(data, query_scoring=scoring, n_select=n_select, **params)
    X = queries.X.copy()
    X[0, 10:] = np.nan
    evidence = model.fit(data.X, data.Y).explain(X)
    best = np.sort(evidence, axis=2)[:, :, ::-1]  # NaN comes first then.
    best = np.stack([row[:, np.isfinite(row[0])][:, :n_select].mean(1) for row in best])
    assert_allclose(best, model.decision_function(X), rtol=1e-9, atol=1e-9)
    assert_array_equal(np.isnan(evidence[0, 0]), np.arange(16) >= 9)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_probabilities_are_the_sigmoid_of_the_decision(planted, scoring):
    data, queries = planted(), planted(6, seed=1)
    model = make(data, query_scoring=scoring).fit(data.X, data.Y)
    odds = model.decision_function(queries.X)
    assert_allclose(model.predict_proba(queries.X), 1 / (1 + np.exp(-odds)), rtol=1e-9)
    assert model.slope_ > 0
    assert model.biases_.shape == (6,)


@pytest.mark.parametrize("pooling", ["mean", "agreement"])
def test_from_two_images_on_a_label_has_a_bias_of_its_own(planted, pooling):
    data = planted(17, most_labels=1)
    model = make(data, pooling=pooling).fit(data.X, data.Y)
    # The last label has two images, the others three.
    assert len(np.unique(model.biases_)) == 6
    fewer = make(data, pooling=pooling).fit(data.X[:8], data.Y[:8])
    own = data.Y[:8].sum(axis=0) >= 2
    assert_array_equal(own, [True, True, False, False, False, False])
    assert len(np.unique(fewer.biases_[own])) == 2
    assert len(np.unique(fewer.biases_[~own])) == 1


@pytest.mark.parametrize(
    "threshold", [0.5, 0.2, [0.1, 0.5, 0.9, 0.5, 0.0, 1.0], "cardinality"]
)
def test_a_label_is_predicted_from_its_threshold_on(planted, threshold):
    data, queries = planted(), planted(20, seed=1)
    model = make(data, threshold=threshold).fit(data.X, data.Y)
    if threshold != "cardinality":
        assert_array_equal(model.thresholds_, np.broadcast_to(threshold, 6))
    assert_array_equal(
        model.predict(queries.X),
        (model.predict_proba(queries.X) >= model.thresholds_).astype(int),
    )


def test_a_probability_at_its_threshold_is_enough(planted):
    data = planted(12)
    model = make(data).fit(data.X, data.Y)
    threshold = model.predict_proba(data.X)[4]
    model.set_params(threshold=threshold).fit(data.X, data.Y)
    assert_array_equal(model.predict(data.X)[4], 1)


def test_thresholds_are_useful_by_default_and_by_cardinality(planted):
    data, queries = planted(), planted(100, seed=1)
    for threshold in (0.5, "cardinality"):
        model = make(data, threshold=threshold).fit(data.X, data.Y)
        predicted = model.predict(queries.X)
        assert 0.6 < predicted.sum() / queries.Y.sum() < 1.5
        assert (predicted == queries.Y).mean() > 0.85


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("one_label", [False, True])
def test_probabilities_stay_inside_zero_and_one(planted, dtype, one_label):
    data = planted(12, most_labels=1, dtype=dtype)
    y = data.Y.argmax(axis=1) if one_label else data.Y
    model = make(data).fit(data.X, y)
    extreme = np.stack(
        [
            np.repeat(sign * model.prototypes_, 2, axis=0).reshape(6, 2, 32)
            for sign in (1, -1)
        ]
    ).reshape(12, 2, 32)
    for slope in (model.slope_, 1e4, 1e30):
        model.slope_ = slope
        for X in (data.X, 1e30 * data.X, 1e-30 * data.X, extreme, 0 * data.X):
            probabilities = model.predict_proba(X.astype(dtype))
            assert ((probabilities > 0) & (probabilities < 1)).all()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selected_features_are_of_images_that_have_the_label(planted, selection):
    data = planted(12)
    X = data.X.copy()
    X[::2, 12:] = np.nan
    model = make(data, selection=selection, n_select=3).fit(X, data.Y)
    assert len(model.selected_) == 6
    for label, chosen in enumerate(model.selected_):
        images = np.flatnonzero(data.Y[:, label])
        assert_array_equal(np.unique(chosen[:, 0]), images)
        assert len({tuple(row) for row in chosen}) == len(chosen)
        shown = np.where(images % 2 == 0, 11, 16)
        if selection == "lcm_paper":
            assert len(images) <= len(chosen) < shown.sum()
        else:
            expected = shown.sum() if selection == "none" else 3 * len(images)
            assert len(chosen) == expected
        assert (chosen[:, 1] >= 0).all()
        assert (chosen[:, 1] < np.where(chosen[:, 0] % 2 == 0, 11, 16)).all()


def test_of_equal_images_the_first_is_listed(planted):
    data = planted(6)
    rows = np.array([3, 1, 3, 0, 2, 4, 5, 1])
    model = make(data).fit(data.X[rows], data.Y[rows])
    listed = np.unique(np.concatenate(model.selected_)[:, 0])
    assert_array_equal(listed, [0, 1, 3, 4, 5, 6])


def test_most_of_what_is_selected_was_planted(planted):
    data = planted(24)
    model = make(data, n_select=3).fit(data.X, data.Y)
    hits = [
        (data.owner[chosen[:, 0], chosen[:, 1]] == label).mean()
        for label, chosen in enumerate(model.selected_)
    ]
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("features", ["given", None])
def test_the_evidence_is_highest_where_the_label_was_planted(planted, features):
    data, queries = planted(24), planted(40, seed=1)
    params = {} if features == "given" else {"label_features": None}
    model = make(data, **params).fit(data.X, data.Y)
    best = model.explain(queries.X).argmax(axis=2)
    images, labels = np.nonzero(queries.Y)
    hits = queries.owner[images, best[images, labels]] == labels
    assert hits.mean() > 0.8


# Prototypes


def test_prototypes_are_the_documented_equation(planted, unit):
    data = planted(12)
    model = make(data, text_weight=0.4, n_select=3).fit(data.X, data.Y)
    tokens = unit(data.X)
    mean = tokens[:, 1:].mean(axis=(0, 1))
    mapped = unit(tokens[:, 1:] - mean)
    text = unit(data.text)
    psi = unit(text - (1 - 1 / len(text)) * text.mean(axis=0))
    assert_allclose(model.part_mean_, mean, rtol=1e-9)
    assert_allclose(model.whole_mean_, tokens[:, 0].mean(axis=0), rtol=1e-9)
    assert_allclose(model.label_vectors_, psi, rtol=1e-9)
    counts = data.Y.sum(axis=0)
    kappa = counts.mean() * 0.4 / 0.6
    for label, chosen in enumerate(model.selected_):
        image = unit(mapped[chosen[:, 0], chosen[:, 1]].mean(axis=0))
        share = kappa / (kappa + counts[label])
        expected = unit((1 - share) * image + share * psi[label])
        assert_allclose(model.prototypes_[label], expected, rtol=1e-8, atol=1e-10)
    assert_allclose(model.text_weight_, (kappa / (kappa + counts)).mean(), rtol=1e-9)


def test_pooling_by_agreement_is_the_documented_softmax(planted, unit):
    data = planted(12)
    model = make(data, pooling="agreement", text_weight=0.0, n_select=3)
    model.fit(data.X, data.Y)
    parts = unit(unit(data.X)[:, 1:] - model.part_mean_)
    whole = unit(unit(data.X)[:, 0] - model.whole_mean_)

    def pool(features, values, vector):
        logits = 20 * (1 - np.linalg.norm(features - vector, axis=1))
        weights = np.exp(logits) / np.exp(logits).sum()
        return (weights[:, None] * values).sum(axis=0)

    for label, vector in enumerate(model.label_vectors_):
        images = np.flatnonzero(data.Y[:, label])
        said = []
        for image in images:
            rows = model.selected_[label]
            own = parts[image, rows[rows[:, 0] == image, 1]]
            said.append(pool(own, own, vector))
        expected = unit(pool(whole[images], np.array(said), vector))
        assert_allclose(model.prototypes_[label], expected, rtol=1e-8, atol=1e-10)


def test_text_weight_one_leaves_the_images_out(planted):
    data = planted(12)
    model = make(data, text_weight=1.0).fit(data.X, data.Y)
    assert_allclose(model.prototypes_, model.label_vectors_, rtol=1e-9, atol=1e-12)


def test_one_image_a_label_takes_the_share_of_one_shot(planted):
    data = planted(6, most_labels=1)
    model = make(data).fit(data.X, data.Y)
    assert model.text_weight_ == pytest.approx(0.6)
    more = make(data).fit(*(np.repeat(a, 3, axis=0) for a in (data.X, data.Y)))
    assert more.text_weight_ == pytest.approx(0.6)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("text_weight", ["auto", 0.0, 0.5])
def test_a_label_without_images_keeps_its_text(planted, scoring, text_weight):
    data, queries = planted(24), planted(60, seed=1)
    kept = data.Y[:, 2] == 0
    model = make(data, query_scoring=scoring, text_weight=text_weight)
    model.fit(data.X[kept], data.Y[kept])
    assert_allclose(model.prototypes_[2], model.label_vectors_[2], rtol=1e-9)
    assert model.selected_[2].shape == (0, 2)
    scores = model.predict_proba(queries.X)
    assert np.isfinite(scores).all()
    if scoring != "global":
        found = mean_average_precision(queries.Y[:, 2:3], scores[:, 2:3])
        assert found > queries.Y[:, 2].mean() + 0.2


@pytest.mark.parametrize("pooling", ["mean", "agreement"])
def test_a_label_without_images_gives_no_warning(planted, pooling):
    data = planted(12)
    kept = data.Y[:, 2] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(data, pooling=pooling).fit(data.X[kept], data.Y[kept])
    assert np.isfinite(model.prototypes_).all()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_label_with_neither_images_nor_text_is_finite(planted, scoring):
    data, queries = planted(24), planted(10, seed=1)
    kept = data.Y[:, 2] == 0
    model = make(data, label_features=None, query_scoring=scoring)
    model.fit(data.X[kept], data.Y[kept])
    assert np.isfinite(model.predict_proba(queries.X)).all()
    assert np.isfinite(model.explain(queries.X)).all()
    assert_array_equal(model.prototypes_[2], 0)


def test_without_label_features_the_support_stands_in(planted):
    data, queries = planted(30), planted(60, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(data, label_features="auto").fit(data.X, data.Y)
    assert model.prototype_source_ == "image"
    assert model.text_weight_ == 0
    none = make(data, label_features=None).fit(data.X, data.Y)
    assert_same_fit(model, none)
    found = mean_average_precision(queries.Y, model.decision_function(queries.X))
    assert found > queries.Y.mean() + 0.2


# What is learned


@pytest.mark.parametrize("world", range(3))
def test_the_default_beats_the_global_mean(planted, world):
    data = planted(24, n_parts=36, world=world)
    queries = planted(100, n_parts=36, world=world, seed=1)

    def measure(**params):
        model = make(data, **params).fit(data.X, data.Y)
        return mean_average_precision(queries.Y, model.decision_function(queries.X))

    default = measure()
    assert default > measure(selection="none", query_scoring="global") + 0.1
    assert default > 0.9


def test_more_images_help_where_text_is_poor(planted):
    queries = planted(100, seed=1, text_noise=2.0)
    scores = []
    for n_images in (6, 60):
        data = planted(n_images, text_noise=2.0)
        model = make(data).fit(data.X, data.Y)
        scores.append(
            mean_average_precision(queries.Y, model.decision_function(queries.X))
        )
    assert scores[1] > scores[0] + 0.02


# Company


def test_features_of_another_encoder_are_refused(planted):
    data = planted(12)
    mine, other = (
        EncoderIdentity("test-model", None, fingerprint, 32, 100.0)
        for fingerprint in ("aaaa", "bbbb")
    )
    model = make(data).fit(EmbeddingArray(data.X, mine), data.Y)
    assert model.encoder_ == mine
    assert_array_equal(
        model.predict(EmbeddingArray(data.X, mine)), model.predict(data.X)
    )
    for output in OUTPUTS:
        with pytest.raises(ValueError, match="X comes from the encoder"):
            getattr(model, output)(EmbeddingArray(data.X, other))


def test_nothing_is_drawn_and_global_generators_are_left_alone(planted):
    data = planted(12)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    models = [make(data).fit(data.X, data.Y) for _ in range(2)]
    for model in models:
        assert_same_fit(models[0], model)
        model.predict(data.X)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_fit_leaves_its_arguments_alone(planted):
    data = planted(12)
    X, Y, text, weight = data.X.copy(), data.Y.copy(), data.text.copy(), np.ones(12)
    model = make(data, label_features=text).fit(X, Y, sample_weight=weight)
    model.explain(X)
    for mine, original in ((X, data.X), (Y, data.Y), (text, data.text), (weight, 1)):
        assert_array_equal(mine, original)


def test_fitting_again_forgets(planted):
    data, other = planted(12), planted(12, n_labels=3, n_parts=8, d=20, world=3)
    model = make(other).fit(other.X, other.Y)
    model.set_params(label_features=data.text).fit(data.X, data.Y)
    fresh = make(data).fit(data.X, data.Y)
    assert_same_fit(model, fresh)
    assert set(vars(model)) == set(vars(fresh))


@pytest.mark.parametrize("dtype", ["boolean", "Int64", object])
def test_indicators_of_nullable_and_mixed_columns(dtype):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(12, 5, 8)), (rng.random((12, 3)) < 0.5).astype(int)
    plain = MultiLabelPrototypeClassifier().fit(X, Y)
    frame = pd.DataFrame(Y).astype(dtype)
    other = MultiLabelPrototypeClassifier().fit(X, frame)
    assert_array_equal(other.predict_proba(X), plain.predict_proba(X))


def test_scores_that_do_not_differ_say_nothing():
    X, Y = np.zeros((6, 5, 8), np.float32), np.eye(3)[[0, 1, 2] * 2].astype(int)
    model = MultiLabelPrototypeClassifier(np.eye(3, 8)).fit(X, Y)
    queries = np.random.default_rng(0).normal(size=(20, 5, 8)).astype(np.float32)
    found = model.predict_proba(queries)
    assert found.min() > 0.1
    assert found.max() < 0.9


def test_two_labels_keep_what_their_texts_have_in_common():
    rng = np.random.default_rng(0)
    text = rng.normal(size=8) + 0.3 * rng.normal(size=(2, 8))
    X, Y = rng.normal(size=(6, 5, 8)), np.array([[1, 0], [0, 1], [1, 1]] * 2)
    model = MultiLabelPrototypeClassifier(text).fit(X, Y)
    assert model.label_vectors_[0] @ model.label_vectors_[1] > 0


def test_texts_that_do_not_fit_are_noticed(planted):
    support = planted(40, n_labels=6, world=0, d=32, n_parts=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultiLabelPrototypeClassifier(support.text).fit(support.X, support.Y)
    with pytest.warns(UserWarning, match="no better than chance") as caught:
        MultiLabelPrototypeClassifier(-support.text).fit(support.X, support.Y)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", ["array", "bool", "list", "frame", "sparse"])
def test_one_label_in_a_column(planted, kind):
    """Zeros and ones are an indicator, whose label some images lack."""
    data, query = planted(), planted(seed=1)
    column = data.Y[:, :1]
    y = {
        "array": column,
        "bool": column.astype(bool),
        "list": column.tolist(),
        "frame": pd.DataFrame(column, columns=["star"]),
        "sparse": csr_array(column),
    }[kind]
    model = MultiLabelPrototypeClassifier(data.text[:1]).fit(data.X, y)
    assert model.classes_.tolist() == (["star"] if kind == "frame" else [0])
    predicted = model.predict(query.X)
    assert predicted.shape == model.predict_proba(query.X).shape == (24, 1)
    assert np.mean(predicted == query.Y[:, :1]) > 0.8
    assert model.score(query.X, query.Y[:, :1]) == np.mean(predicted == query.Y[:, :1])


def test_descriptions_and_functions_name_labels(planted):
    data = planted(n_labels=3)
    rows = dict(zip("abcd", np.eye(4, 32), strict=True))

    def encode(texts):
        return np.stack([rows[text] for text in texts])

    said = {0: ["a", "d"], 1: "b", 2: ("c",)}
    found = [
        MultiLabelPrototypeClassifier(label_names=names, text_encoder=encode)
        .fit(data.X, data.Y)
        .label_vectors_
        for names in (said, said.get, list(said.values()))
    ]
    mean = (rows["a"] + rows["d"]) / np.sqrt(2)
    given = np.stack([mean, rows["b"], rows["c"]])
    expected = MultiLabelPrototypeClassifier(given).fit(data.X, data.Y).label_vectors_
    for vectors in found:
        assert_allclose(vectors, expected)


def test_a_column_of_names_is_one_class_an_image(planted):
    data = planted(most_labels=1)
    names = np.array(["a", "b", "c", "d", "e", "f"])[data.Y.argmax(axis=1)]
    with pytest.warns(DataConversionWarning):
        model = MultiLabelPrototypeClassifier(None).fit(data.X, names[:, None])
    assert model.predict(data.X).shape == (24,)
