"""Rows without labels in CMM: the mathematics against loops, and what it does."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax

from skfewshot import CMMClassifier
from skfewshot.cmm import _unlabelled
from skfewshot.cmm._batches import answer_together, log_shares
from skfewshot.cmm._gaussian import fit_gaussian, summarise
from skfewshot.cmm._unlabelled import (
    Background,
    Pool,
    Scoring,
    find_background,
    hold_out,
    maximise_expectation,
)

PENALTY = 3.0


@pytest.fixture
def problem(make_support, unit):
    """A support, its model, what scores rows, and a pool with weights."""
    support = make_support(n_classes=4, n_rows=15)
    rng = np.random.default_rng(8)
    near = support.features.numpy()[rng.integers(0, 15, 40)]
    rows = unit(near + 0.3 * rng.normal(size=near.shape))
    pool = Pool(torch.tensor(rows), torch.tensor(rng.uniform(0.5, 2, 40)))
    trust = torch.tensor([0.9, 1.0, 0.4, 0.8], dtype=torch.float64)
    model = fit_gaussian(summarise(support), trust, text_penalty=PENALTY)
    intercept = torch.tensor([0.3, -0.2, 0.0, 0.1], dtype=torch.float64)
    stand_ins = torch.tensor([0.5, 0.0, 4.0, 1.0], dtype=torch.float64)
    scoring = Scoring(8 * support.text, stand_ins, 6.0, intercept, (10.0, 1.5))
    return support, model, scoring, pool, trust


def learn(problem):
    support, model, scoring, pool, trust = problem
    return maximise_expectation(
        *(summarise(support), model, scoring, pool, trust), text_penalty=PENALTY
    )


def looped_background(energies, weight, mean, spread):
    """The mixture of energies, a row at a time."""

    def density(x, middle, width):
        return math.exp(-(((x - middle) / width) ** 2) / 2) / width

    share, middle, width = 0.1, mean - 3 * spread, 2 * spread
    for _ in range(30):
        outside = []
        for e in energies:
            of_it = share * density(e, middle, width)
            of_classes = (1 - share) * density(e, mean, spread)
            outside.append(0 if e > mean else of_it / (of_it + of_classes))
        total = sum(w * g for w, g in zip(weight, outside, strict=True))
        parts = list(zip(weight, outside, energies, strict=True))
        share = (total + 1) / (sum(weight) + 20)
        middle = min(sum(w * g * e for w, g, e in parts) / total, mean - spread)
        square = sum(w * g * (e - middle) ** 2 for w, g, e in parts) / total
        width = min(max(square**0.5, spread / 2), 3 * spread)
    return share, middle, width


def inside_of(e, share, middle, width, mean, spread):
    if e > mean:
        return 1.0
    of_it = share / width * math.exp(-(((e - middle) / width) ** 2) / 2)
    of_classes = (1 - share) / spread * math.exp(-(((e - mean) / spread) ** 2) / 2)
    return of_classes / (of_it + of_classes)


def looped(problem):
    """Expectation-maximisation where each row is in the support once a class."""
    support, model, scoring, pool, trust = problem
    mean, spread = scoring.energies
    n, n_classes = len(pool.weight), len(trust)
    shares = np.full(n_classes, 1 / n_classes)
    for turn in range(3):
        middle = model.class_means.mean(dim=0)
        logits = np.zeros((n, n_classes))
        for u in range(n):
            mapped = (pool.features[u] - model.centre) @ model.map
            for c in range(n_classes):
                cosine = torch.cosine_similarity(mapped, model.prototypes[c], dim=0)
                way = scoring.stand_ins[c] * (model.class_means[c] - middle)
                text = pool.features[u] @ (scoring.texts[c] + way)
                logits[u, c] = text + scoring.image * cosine + scoring.intercept[c]
        energies = [logsumexp(row) for row in logits]
        found = looped_background(energies, pool.weight.tolist(), mean, spread)
        R = np.zeros_like(logits)
        doubts = 0.0
        for u in range(n):
            inside = inside_of(energies[u], *found, mean, spread)
            classes = softmax(logits[u] + np.log(shares))
            R[u] = float(pool.weight[u]) * inside * classes
            doubts += R[u].sum() * (1 - classes.max())
        counts = R.sum(axis=0)
        shares = (counts + counts.mean()) / (2 * counts.sum())
        worth = 1 / (1 + (counts @ counts / counts.sum()) / 12)
        if turn == 0:
            u = worth * counts.mean()
            part = u / (u + float(support.weight.sum()) / n_classes)
            flattened = 1 - 0.3 * part * doubts / counts.sum()
        both = replace(
            support,
            features=torch.cat([support.features, *[pool.features] * n_classes]),
            y=torch.cat([support.y, torch.arange(n_classes).repeat_interleave(n)]),
            weight=torch.cat([support.weight, torch.tensor(worth * R.T.ravel())]),
        )
        model = fit_gaussian(summarise(both), trust, text_penalty=PENALTY)
    return model, shares, found[0], flattened


def test_it_is_a_fit_to_rows_that_are_in_each_class_in_part(problem):
    learned = learn(problem)
    model, shares, background, flattened = looped(problem)
    for part in ("centre", "map", "means", "text_map", "text_intercept", "prototypes"):
        wanted = getattr(model, part)
        assert_allclose(getattr(learned.model, part), wanted, rtol=1e-6, atol=1e-8)
    assert_allclose(learned.shares, shares, rtol=1e-9)
    assert learned.background == pytest.approx(background, rel=1e-9)
    assert learned.flattened == pytest.approx(flattened, rel=1e-9)
    # The pool moved them.
    assert (learned.model.means - problem[1].means).abs().max() > 0.01


def test_blocks_of_any_size_give_the_same(problem, monkeypatch):
    whole = learn(problem)
    monkeypatch.setattr(_unlabelled, "_BLOCK", 7)
    blocks = learn(problem)
    assert_allclose(blocks.model.map, whole.model.map, rtol=1e-9, atol=1e-12)
    assert_allclose(blocks.shares, whole.shares, rtol=1e-9)


def test_rows_held_out_tell_the_pool_nothing(problem):
    support, _, scoring, pool, trust = problem
    spare = torch.bincount(support.y)[support.y] > 1
    found = hold_out(
        *(support, spare, scoring, pool, trust, support.text[:0]), text_penalty=PENALTY
    )
    assert_array_equal(np.sort(found.rows), np.flatnonzero(spare))
    row = int(found.rows[0])
    # What is said of a row stays the same whatever its features' copies in the support
    # were: a refit without its part of the support says it.
    y = support.y.numpy()
    first = support.features[:, 0].numpy()
    place = np.array([np.sum((y == y[i]) & (first < first[i])) for i in range(len(y))])
    size = np.minimum(np.bincount(y)[y], 4)
    rank = np.argsort(np.argsort(support.text[:, 0].numpy()))
    turn = (place + rank[y]) % size
    kept = torch.tensor(~((turn == turn[row]) & spare.numpy()))
    rest = replace(
        support,
        features=support.features[kept],
        y=support.y[kept],
        weight=support.weight[kept],
    )
    model = fit_gaussian(summarise(rest), trust, text_penalty=PENALTY)
    learned = learn((rest, model, scoring, pool, trust))
    F = support.features[row : row + 1]
    texts, cosines = scoring.parts(learned.model, F)
    assert_allclose(found.texts[:1], texts, rtol=1e-6)
    assert_allclose(found.cosines[:1], cosines, rtol=1e-6)
    assert_allclose(found.without[:1], scoring.logits(model, F), rtol=1e-6)


def test_a_fold_never_takes_a_whole_class(problem):
    support, _, scoring, pool, trust = problem
    alone = torch.bincount(support.y)[support.y] == 1
    found = hold_out(
        *(support, ~alone, scoring, pool, trust, support.text[:0]), text_penalty=PENALTY
    )
    assert np.isfinite(found.texts.numpy()).all()
    assert np.isfinite(found.cosines.numpy()).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-60, 60), min_size=1, max_size=30),
    st.floats(-20, 20),
    st.floats(0.01, 9),
)
def test_a_background_is_a_distribution_below_the_classes(energies, mean, spread):
    energies = torch.tensor(energies, dtype=torch.float64)
    weight = torch.ones_like(energies)
    share, middle, width = find_background(energies, weight, (mean, spread))
    assert 0 < share < 1
    assert middle <= mean - spread + 1e-9
    assert spread / 2 - 1e-9 <= width <= 3 * spread + 1e-9


def test_the_background_is_as_large_as_what_lies_below():
    rng = np.random.default_rng(0)
    energies = torch.tensor(np.r_[rng.normal(20, 1, 700), rng.normal(13, 1.5, 300)])
    found = find_background(energies, torch.ones(1000).double(), (20.0, 1.0))
    assert found.share == pytest.approx(0.3, abs=0.03)
    assert found.mean == pytest.approx(13, abs=0.3)
    without = find_background(energies[:700], torch.ones(700).double(), (20.0, 1.0))
    assert without.share < 0.02


def test_what_lies_above_the_classes_is_no_background():
    energies = torch.tensor([50.0, 90.0])
    outside = _unlabelled._outside(energies, Background(0.5, 2.0, 9.0), (40.0, 1e-3))
    assert_array_equal(outside, [0, 0])
    # And what is out of all numbers' reach below is no class's.
    far = torch.tensor([-1e5])
    assert_array_equal(
        _unlabelled._outside(far, Background(0.5, 2.0, 9.0), (40.0, 1.0)), [1]
    )


# The classifier


def planted(make_task, *, shots=1, pool=30, n_classes=5, seed=0, d=16, noise=0.9):
    """Labelled rows, unlabelled ones, queries and their labels, texts."""
    task = {"n_classes": n_classes, "d": d, "seed": seed, "noise": noise}
    X, y, text = make_task(shots=shots, **task)
    U, _, _ = make_task(shots=pool, rows=1, **task)
    Q, target, _ = make_task(shots=40, rows=2, **task)
    return X, y, U, Q, target, text


def fit(text, X, y, U, **parameters):
    labels = [*y.tolist(), *[None] * len(U)]
    return CMMClassifier(text, **parameters).fit(np.concatenate([X, U]), labels)


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("shots", [1, 4])
def test_unlabelled_rows_better_a_small_support(make_task, with_text, shots):
    gains, losses = [], []
    for seed in range(4):
        X, y, U, Q, target, text = planted(make_task, shots=shots, seed=seed)
        text = text if with_text else None
        alone, model = CMMClassifier(text).fit(X, y), fit(text, X, y, U)
        gains.append(model.score(Q, target) - alone.score(Q, target))
        p, q = model.predict_proba(Q), alone.predict_proba(Q)
        own = np.arange(len(target)), target
        losses.append(np.mean(np.log(q[own]) - np.log(p[own])))
        assert model.unlabeled_shares_.sum() == pytest.approx(1)
        assert np.isnan(model.unlabeled_gain_) == (shots == 1)
    assert np.mean(gains) > 0.005
    assert np.mean(losses) < 0


def test_rows_that_mislead_are_left_alone(make_task, unit):
    X, y, U, Q, _, text = planted(make_task, shots=6, noise=0.5)
    # Between classes, where there are no images, in hosts.
    means = np.array([U[30 * c : 30 * c + 30].mean(axis=0) for c in range(5)])
    rng = np.random.default_rng(0)
    pairs = [0.58 * means[c] + 0.42 * means[(c + 1) % 5] for c in range(5)]
    rows = np.repeat(pairs, 60, axis=0) + 0.01 * rng.normal(size=(300, 16))
    model, alone = fit(text, X, y, unit(rows)), CMMClassifier(text).fit(X, y)
    assert model.unlabeled_gain_ < 0
    assert not model.uses_unlabeled_
    assert_array_equal(model.predict_proba(Q), alone.predict_proba(Q))


def test_rows_of_no_class_are_told_from_the_others(make_task, unit):
    X, y, U, *_, text = planted(make_task, shots=8, noise=0.5)
    rng = np.random.default_rng(1)
    foreign = unit(X.mean(axis=0) + 0.4 * rng.normal(size=(60, 16)))
    assert fit(text, X, y, U).unlabeled_background_ < 0.1
    found = fit(text, X, y, np.concatenate([U, foreign])).unlabeled_background_
    assert found == pytest.approx(60 / 210, abs=0.12)


def test_the_order_of_rows_and_copies_make_no_difference(make_task):
    X, y, U, Q, _, text = planted(make_task, shots=2)
    model = fit(text, X, y, U)
    other = fit(text, X, y, U[np.random.default_rng(0).permutation(len(U))])
    assert_array_equal(other.predict_proba(Q), model.predict_proba(Q))
    weight = np.r_[np.ones(len(X)), np.where(np.arange(len(U)) < 9, 2.0, 1.0)]
    labels = [*y.tolist(), *[None] * len(U)]
    rows = np.concatenate([X, U])
    weighted = CMMClassifier(text).fit(rows, labels, sample_weight=weight)
    copied = fit(text, X, y, np.concatenate([U, U[:9]]))
    assert_allclose(copied.predict_proba(Q), weighted.predict_proba(Q), atol=1e-9)


def test_without_missing_labels_nothing_is_said_of_them(make_task):
    X, y, *_, text = planted(make_task, shots=2)
    model = CMMClassifier(text).fit(X, y)
    assert not hasattr(model, "uses_unlabeled_")
    assert not hasattr(model, "unlabeled_shares_")


@pytest.mark.parametrize("alpha", ["auto", 0.0, 2.0])
def test_alpha_is_kept(make_task, alpha):
    X, y, U, Q, _, text = planted(make_task, shots=2)
    model = fit(text, X, y, U, alpha=alpha)
    if alpha == "auto":
        return
    assert model.alpha_ == pytest.approx(alpha)
    if not alpha:
        zero_shot = CMMClassifier(text, alpha=0.0).fit(X, y)
        assert_array_equal(model.predict_proba(Q), zero_shot.predict_proba(Q))


def test_single_precision_says_the_same(make_task):
    X, y, U, Q, _, text = planted(make_task, shots=3)
    wide = fit(text, X, y, U).predict_proba(Q)
    parts = (part.astype(np.float32) for part in (text, X, U))
    text, X, U = parts
    narrow = fit(text, X, y, U).predict_proba(Q.astype(np.float32))
    assert narrow.dtype == np.float32
    assert_allclose(narrow, wide, atol=5e-3)


def test_classes_without_rows_learn_from_the_pool(make_task):
    X, y, U, Q, target, text = planted(make_task, shots=4, noise=0.5)
    kept = y != 4
    model = fit(text, X[kept], y[kept], U, extra_classes=[4])
    alone = CMMClassifier(text, extra_classes=[4]).fit(X[kept], y[kept])
    # They find their rows in the pool, which are a fifth of it.
    assert model.unlabeled_shares_[4] == pytest.approx(0.2, abs=0.05)
    new = target == 4
    assert model.score(Q[new], target[new]) >= alone.score(Q[new], target[new])
    assert model.score(Q, target) >= alone.score(Q, target)
    found = model.prototypes_[4] @ alone.prototypes_[4]
    assert found < 0.999


@pytest.mark.parametrize("pool", [1, 30])
def test_classes_without_rows_are_not_outvoted_by_those_that_have_some(make_task, pool):
    X, y, U, *_, text = planted(make_task, shots=4, pool=pool)
    kept = y < 3
    model = fit(text, X[kept], y[kept], U, extra_classes=[3, 4])
    assert model.unlabeled_gain_ == model.unlabeled_gain_
    # No labelled row is of them, which says nothing of how many others are.
    assert model.intercept_[:3].mean() == pytest.approx(0, abs=1e-3)


def test_left_out_rows_are_held_out_of_the_pool_as_well(make_task):
    seen, unseen = [], []
    for seed in range(4):
        X, y, U, *_, text = planted(make_task, shots=4, seed=seed, noise=1.5, pool=10)
        model = fit(text, X, y, U, store_left_out=True)
        left_out = model.left_out_proba_
        assert np.isnan(left_out[len(X) :]).all()
        own = np.arange(len(X)), y
        seen += np.log(model.predict_proba(X)[own]).tolist()
        unseen += np.log(left_out[: len(X)][own]).tolist()
    # Rows that were learned from are surer of themselves.
    assert np.mean(unseen) < np.mean(seen) - 0.05


# Batches


def looped_batch(fixed, mapped, prototypes, counts, scale):
    """Answer a batch, a row and a class at a time."""
    n_rows, n_classes = fixed.shape
    level, moved = np.zeros(n_classes), prototypes.copy()

    def logits():
        return np.array(
            [
                [
                    fixed[u, c] + scale * (mapped[u] @ moved[c]) + level[c]
                    for c in range(n_classes)
                ]
                for u in range(n_rows)
            ]
        )

    for _ in range(5):
        r = np.array([softmax(row) for row in logits()])
        n = r.sum(axis=0)
        cosine = sum(
            r[u, c] * (mapped[u] @ prototypes[c])
            for u in range(n_rows)
            for c in range(n_classes)
        )
        shares = [
            (n[c] + 0.3 * n_rows / n_classes) / 1.3 / n_rows for c in range(len(n))
        ]
        entropy = -sum(share * math.log(share) for share in shares)
        gate = 1 - math.exp(entropy) / n_classes
        level = np.array([gate * math.log(share) for share in shares])
        worth = 1 / (1 + sum(m * m for m in n) / n_rows / 3)
        for c in range(n_classes):
            own = sum(r[u, c] * mapped[u] for u in range(n_rows))
            row = (counts[c] + 3) * cosine / n_rows * prototypes[c] + worth * own
            moved[c] = row / np.linalg.norm(row)
    return logits()


def test_a_batch_is_answered_as_by_a_loop(unit):
    rng = np.random.default_rng(3)
    prototypes = unit(rng.normal(size=(5, 7)))
    mapped = unit(prototypes[rng.integers(0, 3, 12)] + 0.3 * rng.normal(size=(12, 7)))
    arguments = rng.normal(size=(12, 5)), mapped, prototypes, np.arange(1.0, 6), 9.0
    assert_allclose(answer_together(*arguments), looped_batch(*arguments), rtol=1e-9)


@given(st.lists(st.floats(0, 1e4), min_size=2, max_size=20).filter(any))
def test_shares_speak_only_where_classes_are_missing(counts):
    levels = log_shares(np.array(counts) + 1e-6)
    assert np.isfinite(levels).all()
    assert (np.diff(levels[np.argsort(counts)]) >= -1e-9).all()
    assert_allclose(log_shares(np.full(len(counts), 2.0)), 0, atol=1e-9)


def test_a_batch_of_few_classes_is_answered_better(make_task):
    X, y, _, Q, target, text = planted(make_task, shots=2, n_classes=12, noise=1.0)
    model = CMMClassifier(text).fit(X, y)
    rng, gains = np.random.default_rng(0), []
    for _ in range(10):
        classes = rng.permutation(12)[:3]
        rows = rng.permutation(np.flatnonzero(np.isin(target, classes)))[:40]
        alone, together = model.predict(Q[rows]), model.transduce(Q[rows])
        gains.append(np.mean(together == target[rows]) - np.mean(alone == target[rows]))
    assert np.mean(gains) > 0.02


def test_a_batch_in_another_order_gets_the_same(make_task):
    X, y, _, Q, _, text = planted(make_task, shots=2)
    names = np.array(["a", "b", "c", "d", "e"])[y]
    model = CMMClassifier(text).fit(X, names)
    order = np.random.default_rng(0).permutation(len(Q))
    proba = model.transduce_proba(Q)
    assert_allclose(proba.sum(axis=1), 1)
    assert_allclose(model.transduce_proba(Q[order]), proba[order], atol=1e-9)
    assert_array_equal(model.transduce(Q), model.classes_[proba.argmax(axis=1)])
    # One image at a time is as before.
    assert_array_equal(model.predict(Q), [model.predict(row[None])[0] for row in Q])


def test_a_batch_is_checked_as_rows_are(make_task):
    X, y, *_, text = planted(make_task, shots=2)
    model = CMMClassifier(text).fit(X, y)
    with pytest.raises(ValueError, match="features"):
        model.transduce(X[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        model.transduce(np.full_like(X, np.nan))
