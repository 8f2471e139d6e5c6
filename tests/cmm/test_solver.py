"""The solver of CMM: the frozen part, rows left out, the turn, doubted labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import orthogonal_procrustes

from skfewshot import CMMClassifier
from skfewshot.cmm._gaussian import fit_gaussian, left_out_cosines, summarise
from skfewshot.cmm._labelled import freeze, leave_out
from skfewshot.cmm._scales import trust_texts
from skfewshot.cmm._solver import solve_gaussian, turn

seeds = st.integers(0, 2**16)


def parts_of(support):
    parts = (support.features, support.y, support.weight, support.text)
    return [part.numpy() for part in parts]


# The frozen part.


@given(seed=seeds)
def test_the_frozen_part_by_loops(make_support, seed):
    support = make_support(seed)
    F, y, weight, text = parts_of(support)
    logits = 30 * support.features @ support.text.T
    trust, factor, surprise = trust_texts(logits, support.y, support.weight)
    trust = trust.numpy()
    found = freeze(summarise(support))
    means = [np.average(F[y == c], 0, weight[y == c]) for c in range(4)]
    above = below = 0
    for c in range(4):
        way = means[c] - np.mean(means, axis=0)
        above += trust[c] * way @ (text[c] - text.mean(axis=0))
        below += trust[c] * way @ way
    slope = np.clip(above / below, 0.05, 1)
    for c in range(4):
        way = means[c] - np.mean(means, axis=0)
        expected = (1 - trust[c]) * text.mean(axis=0) + trust[c] * text[c]
        expected += slope * trust.mean() * (1 - trust[c]) * way
        assert_allclose(found.prototypes[c], expected, atol=1e-12)
    assert_allclose(found.trust, trust)
    assert found.scale == pytest.approx(30 * factor)
    assert found.surprise == surprise


def test_the_frozen_part_is_zero_shot_at_alpha_zero_and_nothing_without_text(
    make_support,
):
    support = make_support()
    still = freeze(summarise(support), 0.0)
    assert torch.equal(still.prototypes, support.text)
    assert still.scale == 30
    assert still.trust.tolist() == [1] * 4
    none = freeze(summarise(replace(support, text_seen=True)))
    assert not none.prototypes.any()
    assert none.trust.tolist() == [0] * 4


# Rows left out.


def wrong_text(support):
    """Have the texts of two classes, of four, change places."""
    return replace(support, text=support.text[[1, 0, 2, 3]])


def test_rows_left_out_by_loops(make_support):
    support = wrong_text(make_support(4, n_rows=16))
    F, y, weight, _ = parts_of(support)
    sample = summarise(support)
    frozen = freeze(sample)
    assert frozen.share.max() > 0.01
    model = fit_gaussian(sample, frozen.trust, text_penalty=3.0)
    rows = torch.arange(16)
    found = leave_out(support, model, frozen, rows)
    assert_allclose(found.mapped, left_out_cosines(model, support, rows))
    assert found.y.tolist() == y.tolist()
    assert found.weight.tolist() == weight.tolist()
    means = np.stack([np.average(F[y == c], 0, weight[y == c]) for c in range(4)])
    for i, f in enumerate(F):
        others = (y == y[i]) & (np.arange(16) != i)
        assert found.others[i] == pytest.approx(weight[others].sum(), abs=1e-9)
        assert found.spare[i] == others.any()
        prototypes = frozen.prototypes.numpy().copy()
        mean = means.mean(axis=0)
        if others.any():
            mean = np.average(F[others], 0, weight[others])
        prototypes[y[i]] += frozen.share[y[i]].item() * (mean - means[y[i]])
        assert_allclose(found.frozen[i], frozen.scale * prototypes @ f, atol=1e-9)


@pytest.mark.parametrize("share, is_spare", [(0.9985, True), (0.9995, False)])
def test_a_row_that_is_nearly_all_of_its_class_is_alone(make_support, share, is_spare):
    support = make_support(n_rows=3, n_classes=2)
    y = torch.tensor([0, 0, 1])
    weight = torch.tensor([share, 1 - share, 1.0], dtype=torch.float64)
    support = replace(support, y=y, weight=weight)
    sample = summarise(support)
    frozen = freeze(sample)
    model = fit_gaussian(sample, frozen.trust, text_penalty=3.0)
    found = leave_out(support, model, frozen, torch.arange(3))
    assert found.spare.tolist() == [is_spare, True, False]
    assert torch.isfinite(found.mapped).all()
    assert torch.isfinite(found.frozen).all()


# The turn.


def turned_task(seed, n_classes, d):
    rng = np.random.default_rng(seed)
    rows = torch.tensor(rng.normal(size=(n_classes, d)))
    text = torch.tensor(rng.normal(size=(n_classes, d)) + 3 * rng.normal(size=d))
    return torch.nn.functional.normalize(rows), torch.nn.functional.normalize(text)


@given(seed=seeds, n_classes=st.integers(2, 12), d=st.integers(2, 20))
def test_the_turn_is_orthogonal_and_nothing_turns_beyond_the_span(seed, n_classes, d):
    prototypes, text = turned_task(seed, n_classes, d)
    turned = turn(prototypes, text).numpy()
    assert_allclose(turned @ turned.T, np.eye(d), atol=1e-9)
    span = np.vstack([prototypes, text - text.mean(dim=0)])
    beyond = np.eye(d) - np.linalg.pinv(span) @ span
    assert_allclose(beyond @ turned, beyond, atol=1e-7)
    assert torch.equal(turn(prototypes, text), turn(prototypes, text))


@given(seed=seeds, n_classes=st.integers(6, 12), d=st.integers(2, 5))
def test_the_turn_is_that_of_scipy(seed, n_classes, d):
    """But for a little of the identity: as near to the texts as can be."""
    prototypes, text = turned_task(seed, n_classes, d)
    centred = torch.nn.functional.normalize(text - text.mean(dim=0)).numpy()
    expected, _ = orthogonal_procrustes(prototypes.numpy(), centred)
    best = np.trace(centred.T @ prototypes.numpy() @ expected)
    found = np.trace(centred.T @ prototypes.numpy() @ turn(prototypes, text).numpy())
    assert found <= best + 1e-9
    product = np.linalg.norm(prototypes.numpy().T @ centred, 2)
    assert found > best - 0.12 * d * product


def test_the_turn_of_few_classes_in_many_dimensions_is_as_good(unit):
    prototypes, text = turned_task(0, 4, 30)
    centred = torch.nn.functional.normalize(text - text.mean(dim=0)).numpy()
    expected, _ = orthogonal_procrustes(prototypes.numpy(), centred)
    best = np.trace(centred.T @ prototypes.numpy() @ expected)
    found = np.trace(centred.T @ prototypes.numpy() @ turn(prototypes, text).numpy())
    assert found == pytest.approx(best, rel=0.02)


# Labels in doubt.


def planted(unit, n_classes=6, shots=16, d=60, n_wrong=6):
    rng = np.random.default_rng(0)
    concepts = rng.normal(size=(n_classes, d))
    right = np.repeat(np.arange(n_classes), shots)
    X = unit(
        rng.normal(size=d) + concepts[right] + 0.3 * rng.normal(size=(len(right), d))
    )
    text = unit(rng.normal(size=d) + concepts + 0.5 * rng.normal(size=(n_classes, d)))
    y = right.copy()
    wrong = np.arange(0, n_wrong * shots, shots)
    y[wrong] = (y[wrong] + 1) % n_classes
    return X, y, text, wrong, right


def test_wrong_labels_lose_their_weight(unit):
    X, y, text, wrong, right = planted(unit)
    doubting = CMMClassifier(text, store_left_out=True).fit(X, y)
    assert 2 <= doubting.n_iter_ <= 8
    # Rows left out are told their right class.
    assert (doubting.left_out_proba_.argmax(axis=1) == right)[wrong].mean() > 0.8
    weight = np.ones(len(y))
    weight[wrong] = 1e-3
    without = CMMClassifier(text).fit(X, y, weight)
    proba = doubting.predict_proba(X)
    assert np.abs(proba - without.predict_proba(X)).mean() < 0.02
    assert CMMClassifier(text).fit(X, right).n_iter_ == 1


def test_labels_are_judged_by_two_others_at_least(unit):
    X, y, text, _, right = planted(unit, shots=8)
    kept = np.concatenate([np.flatnonzero(right == c)[:2] for c in range(6)])
    # Of two rows of a class none can tell which is wrong.
    assert CMMClassifier(text).fit(X[kept], y[kept]).n_iter_ == 1


def test_an_alpha_of_zero_doubts_nothing_and_finds_nothing(make_support):
    support = make_support(n_rows=30)
    found = solve_gaussian(support, alpha=0.0, keep_left_out=True)
    assert (found.alpha, found.temperature, found.newcomer, found.n_iter) == (
        0,
        1,
        0,
        1,
    )
    assert not found.intercept.any()
    assert_allclose(found.left_out, 30 * support.features @ support.text.T)


@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("n_rows", [1024, 2049, 4097])
def test_many_rows_are_left_out_by_steps(make_support, n_rows, text_seen):
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % 3
    support = make_support(n_classes=3, n_rows=3, d=2)
    F = support.text.numpy()[y] + 0.5 * rng.normal(size=(n_rows, 2))
    support = replace(
        support,
        features=torch.tensor(F / np.linalg.norm(F, axis=1, keepdims=True)),
        y=torch.tensor(y),
        weight=torch.ones(n_rows, dtype=torch.float64),
        text_seen=text_seen,
    )
    found = solve_gaussian(support, alpha=None, keep_left_out=True)
    assert found.left_out.shape == (n_rows, 3)
    assert torch.isfinite(found.left_out).all()
    assert found.alpha > 0 and found.temperature > 0
    assert (found.newcomer != 0) == (not text_seen)
