"""Names that are wrong or none, labels that are wrong: what the default makes of it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot import CMMClassifier, ZeroShotClassifier

N_CLASSES, D = 20, 64


@pytest.fixture
def draw(unit):
    """Return the function that draws support, texts and queries of one task.

    Concepts stand out against two cones, in directions of which some tell more.
    """

    def draw(shots=4, seed=0, *, n_classes=N_CLASSES, noise=1.2, signal=1.0):
        rng = np.random.default_rng(seed)
        spread = np.linspace(1.6, 0.3, D)
        concepts = signal * spread * rng.normal(size=(n_classes, D))
        image_cone, text_cone = 3 * rng.normal(size=(2, D))
        text = text_cone + concepts + 0.6 * rng.normal(size=(n_classes, D))

        def images(shots):
            y = np.repeat(np.arange(n_classes), shots)
            noisy = noise * spread * rng.normal(size=(len(y), D))
            return unit(image_cone + concepts[y] + noisy), y

        return *images(shots), unit(text), *images(20)

    return draw


def permuted(text, share, seed=0):
    """Texts of which some have changed places, and which."""
    rng = np.random.default_rng(seed)
    wrong = np.sort(rng.permutation(len(text))[: round(share * len(text))])
    text = text.copy()
    text[wrong] = text[np.roll(wrong, 1)]
    is_wrong = np.zeros(len(text), bool)
    is_wrong[wrong] = True
    return text, is_wrong


def log_loss(model, X, y):
    return -model.predict_log_proba(X)[np.arange(len(y)), y].mean()


@pytest.mark.parametrize("shots", [2, 4, 16])
def test_names_that_are_wrong_are_not_trusted_and_hardly_hurt(draw, shots):
    X, y, text, queries, labels = draw(shots)
    right = CMMClassifier(text).fit(X, y)
    wrong_text, is_wrong = permuted(text, 0.3)
    model = CMMClassifier(wrong_text).fit(X, y)
    trust = model.text_trust_
    assert trust[is_wrong].mean() < 0.15
    assert trust[~is_wrong].mean() > 0.9
    assert right.text_trust_.mean() > 0.9
    none = CMMClassifier(None).fit(X, y)
    assert model.score(queries, labels) > none.score(queries, labels) - 0.01
    assert model.score(queries, labels) > right.score(queries, labels) - 0.15
    # Texts of no trust are drawn to the mean of all.
    moved = np.linalg.norm(model.frozen_prototypes_ - wrong_text, axis=1)
    assert moved[is_wrong].min() > moved[~is_wrong].max()


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_names_that_are_all_wrong_are_as_good_as_none(draw, shots):
    X, y, text, queries, labels = draw(shots)
    model = CMMClassifier(permuted(text, 1.0)[0]).fit(X, y)
    none = CMMClassifier(None).fit(X, y)
    assert model.text_trust_.mean() < 0.1
    assert model.score(queries, labels) > none.score(queries, labels) - 0.02


@pytest.mark.parametrize("shots", [4, 8])
def test_a_class_with_a_wrong_text_is_not_held_by_it(draw, shots, unit):
    X, y, text, queries, labels = draw(shots)
    rng = np.random.default_rng(1)
    code = text.copy()
    # Its name is a rare word, which lies anywhere among the texts.
    code[3] = unit(text.mean(axis=0) + 0.1 * rng.normal(size=D))
    model = CMMClassifier(code).fit(X, y)
    of_class = labels == 3
    none = CMMClassifier(None).fit(X, y)
    found = model.score(queries[of_class], labels[of_class])
    assert found >= none.score(queries[of_class], labels[of_class]) - 0.1
    assert model.text_trust_[3] < 0.2


@pytest.mark.parametrize("n_classes", [2, 5, 20])
@pytest.mark.parametrize("signal", [0.5, 1.0])
def test_one_shot_without_text_is_better_than_guessing(draw, n_classes, signal):
    """In the mean over tasks; one row a class cannot tell if it is all noise."""
    losses = []
    for seed in range(8):
        X, y, _, queries, labels = draw(1, seed, n_classes=n_classes, signal=signal)
        losses.append(log_loss(CMMClassifier(None).fit(X, y), queries, labels))
    assert np.mean(losses) < np.log(n_classes) + 0.01


@pytest.mark.parametrize("shots", [4, 8])
def test_two_classes_that_are_hard_to_tell_apart(draw, shots):
    """Their prototypes are opposite; logits are not to be so sure for that."""
    losses = []
    for seed in range(8):
        X, y, _, queries, labels = draw(shots, seed, n_classes=2, signal=0.4)
        losses.append(log_loss(CMMClassifier(None).fit(X, y), queries, labels))
    assert np.mean(losses) < np.log(2)


@pytest.mark.parametrize("with_text", [True, False])
def test_wrong_labels_cost_less_than_weighted_fully(draw, with_text):
    X, y, text, queries, labels = draw(8)
    noisy, rng = y.copy(), np.random.default_rng(0)
    wrong = rng.permutation(len(y))[: len(y) // 5]
    noisy[wrong] = (y[wrong] + rng.integers(1, N_CLASSES, len(wrong))) % N_CLASSES
    text = text if with_text else None
    clean = CMMClassifier(text).fit(X, y).score(queries, labels)
    model = CMMClassifier(text, store_left_out=True).fit(X, noisy)
    assert 2 <= model.n_iter_ <= 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skfewshot.cmm._solver._DOUBT", 2.0)
        trusting = CMMClassifier(text).fit(X, noisy)
    assert trusting.n_iter_ == 1
    found = model.score(queries, labels)
    assert found >= trusting.score(queries, labels)
    assert log_loss(model, queries, labels) < log_loss(trusting, queries, labels)
    assert found > clean - 0.05
    assert (model.left_out_proba_[wrong].argmax(axis=1) == y[wrong]).mean() > 0.6


def test_alpha_is_used_and_zero_is_zero_shot(draw):
    X, y, text, queries, labels = draw()
    zero = CMMClassifier(text, alpha=0.0).fit(X, y)
    expected = ZeroShotClassifier(text).fit(X, y).decision_function(queries)
    assert_allclose(zero.decision_function(queries), expected)
    scores = []
    for alpha in (1e-3, 1.0, 1e3):
        model = CMMClassifier(text, alpha=alpha).fit(X, y)
        assert model.alpha_ == pytest.approx(alpha)
        scores.append(model.score(queries, labels))
    assert scores[0] < scores[1]
    assert CMMClassifier(text).fit(X, y).score(queries, labels) > scores[1] - 0.02


@pytest.mark.parametrize("shots", [4, 16])
def test_images_are_brought_to_where_the_texts_are(draw, shots):
    """By a rotation that changes no prediction."""
    X, y, text, queries, labels = draw(shots)
    centred = text - text.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    model = CMMClassifier(text).fit(X, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "skfewshot.cmm._solver.turn",
            lambda prototypes, text: prototypes.new_ones(D).diag(),
        )
        still = CMMClassifier(text).fit(X, y)
    assert_allclose(
        model.decision_function(queries), still.decision_function(queries), atol=1e-5
    )
    nearest, before = (
        ((each.transform(queries) @ centred.T).argmax(axis=1) == labels).mean()
        for each in (model, still)
    )
    assert nearest >= before
    cosines = [(each.prototypes_ * centred).sum(axis=1) for each in (model, still)]
    assert cosines[0].mean() > cosines[1].mean() + 0.02
    again = CMMClassifier(text).fit(X, y)
    assert_array_equal(again.map_, model.map_)
    assert_array_equal(again.prototypes_, model.prototypes_)


def test_trust_and_frozen_prototypes_of_classes_without_rows(draw):
    X, y, text, _, _ = draw()
    seen = y < 18
    wrong_text, _ = permuted(text, 0.3)
    model = CMMClassifier(wrong_text, extra_classes=[18, 19]).fit(X[seen], y[seen])
    assert_array_equal(model.text_trust_[18:], 1)
    assert_array_equal(model.frozen_prototypes_[18:], model.text_features_[18:])
    added = CMMClassifier(wrong_text[:18]).fit(X[seen], y[seen])
    added.add_class(18, wrong_text[18]).add_class(19, wrong_text[19])
    for name in ("text_trust_", "frozen_prototypes_", "prototypes_", "intercept_"):
        assert_allclose(getattr(added, name), getattr(model, name), atol=1e-9)
    none = CMMClassifier(None).fit(X, y)
    assert not none.frozen_prototypes_.any()
    assert not none.text_trust_.any()
    paper = CMMClassifier(text, solver="paper", max_iter=1).fit(X, y)
    assert_array_equal(paper.text_trust_, 1)
    assert_array_equal(paper.frozen_prototypes_, paper.text_features_)


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_a_class_of_weight_zero_is_one_without_rows(draw, n_classes, with_text):
    X, y, text, queries, _ = draw(4, n_classes=n_classes)
    model = CMMClassifier(text if with_text else None, class_weight={0: 0.0})
    model.set_params(store_left_out=True).fit(X, y)
    proba = model.predict_proba(queries)
    assert proba.shape == (len(queries), n_classes)
    assert np.isfinite(proba).all()
    assert np.isnan(model.left_out_proba_[y == 0]).all()
    assert np.isfinite(model.left_out_proba_[y > 0]).all()
    if with_text and n_classes > 2:
        extra = CMMClassifier(text, extra_classes=[0]).fit(X[y > 0], y[y > 0])
        assert_allclose(proba, extra.predict_proba(queries), atol=1e-9)
