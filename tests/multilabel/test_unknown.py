"""Labels that are partly unknown, and images of which nothing is known."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skfewshot import (
    CLIPFeaturizer,
    MultiLabelPrototypeClassifier,
    MultiLabelPrototypePrior,
)
from skfewshot.datasets import make_scenes
from skfewshot.metrics import mean_average_precision, mean_average_precision_scorer
from skfewshot.model_selection import SemiSupervisedSplit
from skfewshot.multilabel._sharpening import MOST_SUREST, surest_shares

#: Seeds and numbers of images: a support, a pool without labels, a query.
PARTS = [(0, 8), (1, 80), (2, 150)]
KINDS = ["striped star", "plain heart", "spotted ring"]


@pytest.fixture(scope="module")
def images(planted):
    return planted(24)


@pytest.fixture(scope="module")
def many(planted):
    """A support, images to leave without labels, and images to ask about."""
    own = {"noise": 1.5, "text_noise": 1.5}
    return planted(16, **own), planted(80, seed=1, **own), planted(150, seed=2, **own)


@pytest.fixture(scope="module")
def few(images):
    """A few images with labels, and the rest without."""
    Y = images.Y.astype(float)
    Y[8:] = np.nan
    return images.X, Y, images.text


def fit(X, Y, text, **params):
    return MultiLabelPrototypeClassifier(text, **params).fit(X, Y)


def half_known(Y, seed=0):
    return np.where(np.random.default_rng(seed).random(Y.shape) < 0.5, np.nan, Y)


# Reading


def test_where_all_is_known_nothing_changes(images):
    one = fit(images.X, images.Y, images.text)
    other = fit(images.X, images.Y.astype(float), images.text, unlabeled=-1)
    assert_array_equal(
        one.decision_function(images.X), other.decision_function(images.X)
    )
    assert one.sharpened_ == other.sharpened_ is False


def test_what_is_unknown_may_be_said_in_many_ways(few):
    X, Y, text = few
    Y = Y.copy()
    Y[0, 1] = np.nan
    wanted = fit(X, Y, text).decision_function(X)
    marked = np.where(np.isnan(Y), -1, Y).astype(int)
    names = [f"label {index}" for index in range(Y.shape[1])]
    objects = np.where(np.isnan(Y), None, Y)
    for form, params in [
        (marked, {"unlabeled": -1}),
        (csr_array(marked), {"unlabeled": -1}),
        (csr_array(Y), {}),
        (objects, {}),
        (objects.tolist(), {}),
        (pd.DataFrame(Y, columns=names).astype("Int64"), {}),
    ]:
        model = fit(X, form, text, **params)
        assert_array_equal(model.decision_function(X), wanted)
    assert model.classes_.tolist() == names


def test_one_label_an_image_may_be_unknown(images):
    y = np.where(images.Y.any(axis=1), images.Y.argmax(axis=1), 0).astype(float)
    y[10:] = np.nan
    words = np.array(["a", "b", "c", "d", "e", "f"], dtype=object)
    named = np.array([None if np.isnan(c) else words[int(c)] for c in y])
    one, other = fit(images.X, y, None), fit(images.X, named, None)
    assert_array_equal(one.predict_proba(images.X), other.predict_proba(images.X))
    assert set(other.predict(images.X)) <= set(words)
    assert_allclose(one.predict_proba(images.X).sum(axis=1), 1)


@pytest.mark.parametrize("text", [True, False])
def test_labels_of_which_little_is_known(images, text):
    Y = images.Y.astype(float)
    Y[12:] = np.nan
    Y[:, 0] = np.nan
    Y[Y[:, 1] == 1, 1] = np.nan
    model = fit(images.X, Y, images.text if text else None)
    assert np.isfinite(model.decision_function(images.X)).all()


@pytest.mark.parametrize(
    ("Y", "params", "message"),
    [
        (np.full((24, 6), np.nan), {}, "Input y contains NaN.* 24 images and 6 labels"),
        (np.full((24, 6), -1), {"unlabeled": -1}, "nothing is known"),
        (np.full(24, np.nan), {}, "Input y contains NaN.*all 24 labels are missing"),
        (np.eye(6)[np.arange(24) % 6], {"unlabeled": 1}, "unlabeled=1 is what an"),
        (np.where(np.eye(24, 6), np.nan, 0), {}, "no image with a label"),
        (np.where(np.eye(24, 6), np.nan, 2), {}, "must hold only 0 and 1"),
    ],
)
def test_refusals(images, Y, params, message):
    with pytest.raises(ValueError, match=message):
        fit(images.X, Y, images.text, **params)


def test_a_prior_needs_all_labels(images, few):
    with pytest.raises(ValueError, match="y contains NaN or None"):
        MultiLabelPrototypePrior().fit(images.X, few[1], images.text)


def test_what_is_unknown_cannot_be_scored(few):
    X, Y, text = few
    with pytest.raises(ValueError, match="contains NaN"):
        fit(X, Y, text).score(X, Y)


# What it does


def test_images_without_labels_tell_labels_apart(many):
    support, pool, query = many
    params = {"n_select": 3, "query_scoring": "competitive"}
    alone = fit(support.X, support.Y, None, **params)
    X = np.concatenate([support.X, pool.X])
    Y = np.concatenate([support.Y, np.full(pool.Y.shape, np.nan)])
    with_pool = fit(X, Y, None, **params)
    score, better = (
        mean_average_precision(query.Y, model.decision_function(query.X))
        for model in (alone, with_pool)
    )
    assert with_pool.sharpened_
    assert better > score + 0.01


def test_with_images_without_labels_prototypes_need_less_of_poor_texts(planted):
    own = {"noise": 1.0, "text_noise": 3.0}
    support, pool, query = (planted(n, seed=seed, **own) for seed, n in PARTS)
    X = np.concatenate([support.X, pool.X])
    Y = np.concatenate([support.Y, np.full(pool.Y.shape, np.nan)])
    params = {"n_select": 3, "query_scoring": "competitive"}
    alone = fit(support.X, support.Y, support.text, **params)
    model = fit(X, Y, support.text, **params)
    assert model.sharpened_
    assert model.text_weight_ < alone.text_weight_
    score, better = (
        mean_average_precision(query.Y, model.decision_function(query.X))
        for model in (alone, model)
    )
    assert better > score + 0.01
    # A share that is given is not chosen.
    params["text_weight"] = 0.5
    given, alone = (
        fit(*known, support.text, **params)
        for known in ((X, Y), (support.X, support.Y))
    )
    assert given.text_weight_ == alone.text_weight_


def test_of_a_lone_feature_only_what_is_known_teaches(many):
    support, pool, _ = many
    X = np.concatenate([support.X, pool.X])[:, 1:].mean(axis=1)
    Y = np.concatenate([support.Y, np.full(pool.Y.shape, np.nan)])
    model, alone = fit(X, Y, support.text), fit(X[:16], support.Y, support.text)
    assert_array_equal(model.decision_function(X), alone.decision_function(X))


def test_a_closed_gate_leaves_the_fit_as_it_is_without(many):
    support, pool, query = many
    X = np.concatenate([support.X, pool.X])
    Y = np.concatenate([support.Y, np.full(pool.Y.shape, np.nan)])
    # Where labels do not compete for patches, unknown entries have no part.
    for params in {"query_scoring": "competitive"}, {"query_scoring": "local"}:
        model = fit(X, Y, support.text, **params)
        alone = fit(support.X, support.Y, support.text, **params)
        assert not model.sharpened_
        assert_array_equal(
            model.decision_function(query.X), alone.decision_function(query.X)
        )


def test_half_of_the_entries_teach_nearly_as_much(many):
    support, _, query = many
    whole = fit(support.X, support.Y, support.text)
    half = fit(support.X, half_known(support.Y), support.text)
    one, other = (
        mean_average_precision(query.Y, model.decision_function(query.X))
        for model in (whole, half)
    )
    assert other > one - 0.05


@pytest.mark.parametrize("selection", ["lcm_paper", "none"])
def test_whatever_selects(few, selection):
    X, Y, text = few
    model = fit(X, half_known(Y), text, selection=selection)
    assert np.isfinite(model.predict_proba(X)).all()


def test_the_cardinality_is_that_of_known_entries(few):
    X, Y, text = few
    model = fit(X, half_known(Y), text, threshold="cardinality")
    assert 0 < model.thresholds_[0] < 1


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 99))
def test_order_and_copies_do_not_matter(few, seed):
    X, Y, text = few
    Y = half_known(Y, seed)
    Y[:8][np.isnan(Y[:8]).all(axis=1)] = 0
    Y[seed % 8, seed % Y.shape[1]] = 1
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 3, len(X))
    labels, rows = rng.permutation(Y.shape[1]), np.repeat(np.arange(len(X)), weight)
    rows = rng.permutation(rows)
    one = MultiLabelPrototypeClassifier(text).fit(X, Y, sample_weight=weight)
    other = fit(X[rows], Y[rows][:, labels], text[labels])
    assert one.sharpened_ == other.sharpened_
    assert_allclose(
        other.decision_function(X), one.decision_function(X)[:, labels], atol=1e-4
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 150))
def test_the_surest_are_taken_until_they_are_as_many_as_expected(seed, n):
    rng = np.random.default_rng(seed)
    likely, weight = rng.random((n, 3)), rng.integers(1, 4, n).astype(float)
    likely[rng.random(likely.shape) < 0.2] = 0
    shares = surest_shares(likely, weight)
    for label in range(3):
        left = min(MOST_SUREST, sum(weight * likely[:, label]))
        wanted = np.zeros(n)
        for image in sorted(range(n), key=lambda i: -likely[i, label]):
            if likely[image, label] > 0:
                wanted[image] = min(1.0, left / weight[image])
                left -= wanted[image] * weight[image]
        assert_allclose(shares[:, label], wanted, atol=1e-9)


# In company


def test_pickle_and_clone(few):
    X, Y, text = few
    model = fit(X, Y, text, unlabeled=-1)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.sharpened_ == model.sharpened_
    assert clone(model).unlabeled == -1


def test_grid_search_keeps_unlabelled_images_in_training(images):
    Y = images.Y.astype(float)
    Y[16:] = np.nan
    search = GridSearchCV(
        MultiLabelPrototypeClassifier(images.text),
        {"n_select": [2, 5]},
        scoring=mean_average_precision_scorer,
        cv=SemiSupervisedSplit(2),
    )
    search.fit(images.X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.slow
def test_a_pipeline_from_images():
    scenes = make_scenes(10, kinds=KINDS, random_state=0)
    Y = scenes.labels.astype(float)
    Y[6:] = np.nan
    model = make_pipeline(
        CLIPFeaturizer("tiny", output="tokens"),
        MultiLabelPrototypeClassifier(label_names=KINDS),
    )
    assert model.fit(scenes.images, Y).predict(scenes.images).shape == (10, 3)
    with pytest.raises(ValueError, match="nothing is known"):
        model.fit(["no such file.png"] * 10, np.full(Y.shape, np.nan))
