"""Zero-shot CLIP that learns from images without a label."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, ZeroShotClassifier
from skfewshot.datasets import make_object_images
from skfewshot.peers._pool import correct_texts, find_heat, find_shares, wrong_spread

KINDS = ["striped star", "plain heart", "spotted ring"]


@pytest.fixture(scope="module")
def draw(unit):
    """Return the function that draws rows of four classes, their labels, and texts.

    The cones of images and texts lie across what tells classes apart, as CLIP's do;
    texts know only a part of it.
    """

    def make(n, seed):
        rng = np.random.default_rng(0)
        concepts = np.pad(rng.normal(size=(4, 12)), ((0, 0), (0, 4)))
        known = concepts + np.pad(rng.normal(size=(4, 12)), ((0, 0), (0, 4)))
        text = unit(known + 4 * np.eye(16)[13])
        y, rng = np.repeat(np.arange(4), n), np.random.default_rng([1, seed])
        X = concepts[y] + 4 * np.eye(16)[14] + 0.9 * rng.normal(size=(4 * n, 16))
        return unit(X), y, text

    return make


@pytest.fixture(scope="module")
def pool(draw):
    return draw(20, 0)


def learned(text, X, **kwargs):
    model = ZeroShotClassifier(
        dict(enumerate(text)), extra_classes=range(len(text)), logit_scale=20.0
    )
    return model.fit(X, [None] * len(X), **kwargs)


def slow(F, weight, T, s):
    """What the docstring says, a row and a class at a time."""
    n, (C, d) = len(F), T.shape
    zero = s * F @ T.T
    q = softmax(zero, axis=1).max(axis=1)
    mean_q = np.average(q, weights=weight)
    weight = weight * np.array([min(1, one / (0.7 * mean_q)) ** 2 for one in q])
    extra = np.zeros((n, C))
    for _ in range(3):
        shares = np.full(C, 1 / C)
        for _ in range(10):
            p = softmax(zero + extra + np.log(shares), axis=1)
            shares = 0.5 / C + 0.5 * weight @ p / weight.sum()
        p = softmax(zero + extra + np.log(shares), axis=1)
        r = p * weight[:, None]
        counts = r.sum(axis=0)
        raw = np.array([np.average(F, axis=0, weights=r[:, c]) for c in range(C)])
        known = counts / (counts + 4)
        m, t = (np.average(x, axis=0, weights=known) for x in (raw, T))
        above = sum(known[c] * (raw[c] - m) @ (T[c] - t) for c in range(C))
        below = sum(known[c] * (T[c] - t) @ (T[c] - t) for c in range(C))
        line = [m + max(above / below, 0) * (T[c] - t) for c in range(C)]
        mu = [(counts[c] * raw[c] + 4 * line[c]) / (counts[c] + 4) for c in range(C)]
        S = sum(
            r[i, c] * np.outer(F[i] - mu[c], F[i] - mu[c])
            for i in range(n)
            for c in range(C)
        )
        total = counts.sum()
        k = 1 / (1 + total / d)
        P = np.linalg.inv((1 - k) * S / total + k * np.trace(S) / total / d * np.eye(d))
        error = d * counts / 2 / (counts + 4) ** 2
        scores = np.array(
            [
                [F[i] @ P @ mu[c] - mu[c] @ P @ mu[c] / 2 + error[c] for c in range(C)]
                for i in range(n)
            ]
        )

        top = p.argmax(axis=1)
        width = [
            np.average(
                [np.delete(x[i], top[i]).std() for i in range(n)], weights=weight
            )
            for x in (zero, scores)
        ]
        usual = 1 / np.mean(1 / (counts + 2)) - 2
        extra = usual**2 / (usual**2 + 36) * width[0] / width[1] * scores
    before, after = (
        np.average(softmax(x, axis=1).max(axis=1), weights=weight)
        for x in (zero, zero + extra)
    )
    return zero + extra, before + before * (after - before), weight, shares


def test_parity_with_a_slow_loop(pool):
    X, _, text = pool
    weight = np.random.default_rng(0).uniform(0.2, 3, len(X))
    found = correct_texts(X, weight, text, 20.0)
    logits, certainty, weight, shares = slow(X, weight, text, 20.0)
    got = 20 * X @ text.T + found.logits(X)
    heat = (got / logits).mean()
    assert_allclose(got, heat * logits, rtol=1e-6)
    sure = np.average(softmax(got, axis=1).max(axis=1), weights=weight)
    assert_allclose(sure, certainty, rtol=1e-4)
    assert_allclose(found.shares, shares)


def test_it_learns(pool, draw):
    X, _, text = pool
    new, y, _ = draw(50, 1)
    plain = ZeroShotClassifier(text, logit_scale=20.0).fit(text, range(4))
    assert plain.coef_ is None
    assert learned(text, X).score(new, y) > plain.score(new, y) + 0.04


def test_few_rows_say_little(pool):
    X, _, text = pool
    plain = ZeroShotClassifier(text, logit_scale=20.0).fit(text, range(4))
    one = learned(text, X[:1])
    assert_allclose(one.predict_proba(X), plain.predict_proba(X), atol=0.02)
    # Nor do rows of one class say much of the others.
    lone = learned(text, X[:20])
    assert (lone.predict(X[20:]) == plain.predict(X[20:])).mean() > 0.9


@given(st.integers(0, 2**20))
def test_order_copies_and_names_are_of_no_matter(pool, seed):
    X, _, text = pool
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 4, len(X))
    expected = learned(text, X, sample_weight=weight)
    rows = rng.permutation(np.repeat(np.arange(len(X)), weight))
    order = rng.permutation(4)
    found = learned(text[order], X[rows])
    assert_array_equal(found.coef_, expected.coef_[order])
    assert_array_equal(found.intercept_, expected.intercept_[order])
    assert_array_equal(found.unlabeled_shares_, expected.unlabeled_shares_[order])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_only_name_classes(pool, dtype):
    X, y, text = pool
    texts = dict(zip("abcd", text.astype(dtype), strict=True))
    labels = np.array(list("abcd"), dtype=object)[y]
    labels[1::2] = None
    model = ZeroShotClassifier(texts, logit_scale=20.0).fit(X.astype(dtype), labels)
    assert model.classes_.tolist() == list("abcd")
    assert model.coef_.dtype == model.predict_proba(X.astype(dtype)).dtype == dtype
    alone = clone(model).set_params(extra_classes=list("abcd"), unlabeled="?")
    alone.fit(X[1::2].astype(dtype), ["?"] * 40)
    assert_array_equal(alone.coef_, model.coef_)
    # Where all have a label it is what it was.
    plain = clone(model).fit(X.astype(dtype), np.array(list("abcd"))[y])
    assert plain.coef_ is None and plain.intercept_ is None
    zero = 20 * X.astype(dtype) @ text.astype(dtype).T
    assert_allclose(plain.decision_function(X.astype(dtype)), zero, rtol=1e-4)


def test_from_images_and_names():
    images = make_object_images(8, kinds=KINDS, random_state=0)
    model = make_pipeline(
        CLIPFeaturizer("tiny"), ZeroShotClassifier(extra_classes=KINDS)
    )
    model.fit(images.images, pd.Series([None] * 24, dtype="string"))
    assert model.classes_.tolist() == sorted(KINDS)
    assert model[-1].prototype_source_ == "embedding"
    again = pickle.loads(pickle.dumps(model))
    found = model.predict_proba(images.images)
    assert_array_equal(again.predict_proba(images.images), found)
    names = model.fit(None, KINDS[:2])
    assert names.classes_.tolist() == sorted(KINDS)


def test_refused(pool):
    X, y, text = pool
    texts = dict(enumerate(text))
    missing = [None] * len(X)
    with pytest.raises(ValueError, match=r"Input y contains NaN.*extra_classes=names"):
        ZeroShotClassifier(texts).fit(X, missing)
    with pytest.raises(ValueError, match="needs at least 2 classes"):
        ZeroShotClassifier(texts, extra_classes=[1]).fit(X, missing)
    with pytest.raises(ValueError, match="no texts to tell their classes by"):
        ZeroShotClassifier(None, extra_classes=[0, 1]).fit(X, missing)
    with pytest.raises(ValueError, match="holds the classes alone"):
        ZeroShotClassifier(texts).fit(None, [0, 1, None])
    with pytest.raises(ValueError, match="lacks the classes"):
        ZeroShotClassifier(texts, extra_classes=[0, 1, 7]).fit(X, missing)
    with pytest.raises(ValueError, match="'unlabeled' parameter"):
        ZeroShotClassifier(unlabeled=[-1]).fit(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_rows_that_tell_nothing(n_classes, unit):
    text = unit(np.eye(n_classes, 6) + 1.0)
    for X in (text.mean(axis=0)[None], np.ones((3, 6)), text, np.zeros((2, 6))):
        model = learned(text, X)
        assert np.isfinite(model.predict_proba(text)).all()
    same = learned(np.ones((n_classes, 6)), unit(np.eye(6)))
    assert_allclose(same.predict_proba(text), 1 / n_classes, atol=1e-6)


def test_parts():
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]))
    shares = find_shares(logits, np.array([1.0, 1.0, 1e-9]))
    assert shares.sum() == pytest.approx(1)
    assert 0.6 < shares[0] <= 0.75  # half way from one to one half
    assert wrong_spread(logits, logits.argmax(1), np.ones(3)) > 0
    weight = np.ones(3)
    heat = find_heat(logits, weight, 0.9)
    assert_allclose(softmax(heat * logits, axis=1).max(axis=1).mean(), 0.9, rtol=1e-4)
    assert find_heat(0 * logits, weight, 0.9) == 1
