"""Rows left out are left out: what is stored is what fits without the rows say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot import CMMClassifier


def make_embeddings(unit, shots, n_classes=10, d=64, seed=0, noise=1.2):
    """Two cones, and concepts of which some directions tell more than others."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(1.6, 0.3, d)
    concepts = spread * rng.normal(size=(n_classes, d))
    image_cone, text_cone = 3 * rng.normal(size=(2, d))
    text = text_cone + concepts + 0.6 * rng.normal(size=(n_classes, d))
    y = np.repeat(np.arange(n_classes), shots)
    X = image_cone + concepts[y] + noise * spread * rng.normal(size=(len(y), d))
    return unit(X), y, unit(text)


def refitted(text, X, y, weight):
    """Probabilities of each row by a whole fit without it."""
    found = []
    extra = None if text is None else np.arange(y.max() + 1)
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        model = CMMClassifier(text, extra_classes=extra)
        model.fit(X[kept], y[kept], weight[kept])
        found.append(model.predict_proba(X[i : i + 1])[0])
    return np.array(found)


def losses(proba, y):
    return -np.log(proba[np.arange(len(y)), y])


def compare(unit, shots, seeds, with_text=True, n_classes=10, equal=True):
    """Mean log loss of the support, of rows left out, and of refits without them."""
    found = []
    for seed in range(seeds):
        X, y, text = make_embeddings(unit, shots, n_classes, seed=seed)
        text = text if with_text else None
        rng = np.random.default_rng(seed)
        weight = np.ones(len(y)) if equal else rng.uniform(0.5, 2, len(y))
        model = CMMClassifier(text, store_left_out=True).fit(X, y, weight)
        parts = model.predict_proba(X), model.left_out_proba_
        parts = *parts, refitted(text, X, y, weight)
        found.append([np.average(losses(p, y), weights=weight) for p in parts])
    return np.mean(found, axis=0)


@pytest.mark.parametrize(
    "shots, seeds, n_classes, equal, most",
    [
        (1, 6, 10, True, 0.02),
        # Of so few rows each has a say in the two weights and the trust, which are
        # kept: what is left out looks a little surer than refits are.
        (2, 1, 40, True, 0.06),
        (4, 2, 10, True, 0.02),
        (4, 2, 10, False, 0.02),
        ([2, 3, 4, 6, 8, 12, 3, 2, 5, 7], 1, 10, False, 0.02),
        pytest.param(16, 1, 10, True, 0.02, marks=pytest.mark.slow),
    ],
)
def test_the_loss_of_rows_left_out_is_that_of_refits(
    unit, shots, seeds, n_classes, equal, most
):
    """Where everything is found anew without the row; it is far from the support's."""
    seen, left_out, refit = compare(unit, shots, seeds, True, n_classes, equal)
    assert abs(left_out - refit) < most
    # What the rows themselves have seen is another number, but little so at 16 shots.
    assert refit - seen > (0.02 if shots != 16 else 0)


@pytest.mark.parametrize(
    "shots, n_classes, most", [(2, 40, 0.1), (4, 10, 0.04), (8, 10, 0.02)]
)
def test_so_it_is_without_text(unit, shots, n_classes, most):
    seen, left_out, refit = compare(unit, shots, 1, False, n_classes)
    assert abs(left_out - refit) < most
    assert refit - seen > min(2 * most, 0.004)


@pytest.mark.parametrize("with_text", [True, False])
def test_copies_and_groups_are_left_out_together(unit, with_text):
    X, y, text = make_embeddings(unit, 4)
    text = text if with_text else None
    model = CMMClassifier(text, store_left_out=True)
    doubled = model.fit(X, y, np.where(np.arange(40) == 5, 2.0, 1.0)).left_out_proba_
    copied = model.fit(np.vstack([X, X[5]]), np.append(y, y[5])).left_out_proba_
    assert_array_equal(copied[:40], doubled)
    assert_array_equal(copied[40], copied[5])
    nearly = unit(X[5] + 0.005 * np.random.default_rng(0).normal(size=64))
    near = model.fit(np.vstack([X, nearly]), np.append(y, y[5])).left_out_proba_
    assert_array_equal(near[40], near[5])
    assert_allclose(near[:40], doubled, atol=0.05)
    # Two views of each photograph.
    views = np.vstack(
        [X, unit(X + 0.02 * np.random.default_rng(1).normal(size=X.shape))]
    )
    groups = np.tile(np.arange(40), 2)
    grouped = model.fit(views, np.tile(y, 2), groups=groups).left_out_proba_
    assert_array_equal(grouped[:40], grouped[40:])


def test_rows_of_weight_zero_have_none_and_columns_follow_the_classes(unit):
    X, y, text = make_embeddings(unit, 4)
    weight = np.ones(40)
    weight[[3, 8]] = 0
    names = np.array(list("jihgfedcba"))
    seen = y != 7
    model = CMMClassifier(
        dict(zip(names, text, strict=True)), extra_classes=names, store_left_out=True
    ).fit(X[seen], names[y[seen]], weight[seen])
    proba = model.left_out_proba_
    assert proba.shape == (36, 10)
    assert np.isnan(proba[[3, 8]]).all()
    kept = np.delete(np.arange(36), [3, 8])
    assert_allclose(proba[kept].sum(axis=1), 1)
    found = model.classes_[proba[kept].argmax(axis=1)]
    assert (found == names[y[seen]][kept]).mean() > 0.8
    assert not hasattr(CMMClassifier(text).fit(X, y), "left_out_proba_")


def test_what_rows_are_is_kept_beside_what_they_say(unit):
    X, y, text = make_embeddings(unit, 4)
    weight = np.ones(40)
    weight[[3, 8]] = 0, 2
    model = CMMClassifier(text, store_left_out=True).fit(3 * X, y, weight)
    assert_array_equal(model.support_codes_, np.where(np.arange(40) == 3, -1, y))
    assert_allclose(model.support_shares_, weight)
    assert_allclose(model.support_features_, X)
    assert_array_equal(np.isnan(model.left_out_novelty_), np.arange(40) == 3)
    # Novelty and probabilities are of the same logits: they differ by a constant.
    log_proba = np.log(np.delete(model.left_out_proba_, 3, axis=0))
    level = log_proba.max(axis=1) - log_proba.mean(axis=1) / 2
    level = 2 * (level + np.delete(model.left_out_novelty_, 3))
    refit = CMMClassifier(text).fit(X, y, weight)
    assert np.abs(level).mean() > 1  # which probabilities do not know
    fitted = refit.decision_function(X) - refit.predict_log_proba(X)
    assert np.corrcoef(-level, np.delete(fitted.mean(axis=1), 3))[0, 1] > 0.8
    # Copies and views are photographs together.
    twice = model.fit(np.vstack([X, X[:5]]), np.append(y, y[:5])).support_shares_
    assert_array_equal(twice, 1.0)
    views = model.fit(np.vstack([X, X]), np.tile(y, 2), groups=np.tile(range(40), 2))
    assert_array_equal(views.support_shares_, 0.5)


def test_the_order_of_rows_does_not_matter(unit):
    X, y, text = make_embeddings(unit, 3)
    rows = np.random.default_rng(0).permutation(len(y))
    model = CMMClassifier(text, store_left_out=True)
    expected = model.fit(X, y).left_out_proba_[rows]
    assert_array_equal(model.fit(X[rows], y[rows]).left_out_proba_, expected)


def test_at_alpha_zero_rows_left_out_are_zero_shot(unit):
    X, y, text = make_embeddings(unit, 3)
    model = CMMClassifier(text, alpha=0.0, store_left_out=True).fit(X, y)
    assert_allclose(model.left_out_proba_, model.predict_proba(X), atol=1e-9)


def test_nothing_is_left_out_by_the_published_solver(unit):
    X, y, text = make_embeddings(unit, 2)
    with pytest.raises(ValueError, match="needs solver='gaussian'"):
        CMMClassifier(text, solver="paper", store_left_out=True).fit(X, y)
