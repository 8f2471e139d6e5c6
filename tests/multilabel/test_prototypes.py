"""Prototypes: images mixed with text, and scores by what other images say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot._rows import unit_rows
from skfewshot.multilabel import compete
from skfewshot.multilabel._prototypes import (
    Pairs,
    agreement_weights,
    label_sums,
    leave_one_out_scores,
    mix,
    mixed_cosine,
    nearest_of_label,
    text_shares,
)
from skfewshot.multilabel._scoring import Scorer, distance_logits, score
from skfewshot.multilabel._tokens import Tokens

SCORERS = [
    Scorer(20.0, "competitive", 2, background=-3.0, sharpness=0.4),
    Scorer(20.0, "local", 2),
    Scorer(20.0, "global", 2),
    Scorer(5.0, "both", 3),
]


def make_support(seed, n=6, n_parts=4, d=8, n_labels=4):
    """Return tokens, pairs and label vectors; label 2 has one image, label 3 none."""
    rng = np.random.default_rng(seed)
    present = np.ones((n, n_parts), dtype=bool)
    present[0, 2:] = False
    parts = unit_rows(rng.normal(size=(n, n_parts, d))) * present[:, :, None]
    tokens = Tokens(unit_rows(rng.normal(size=(n, d))), parts, present)
    indicator = np.zeros((n, n_labels), dtype=int)
    indicator[:, 0] = rng.integers(0, 2, size=n)
    indicator[[1, 4], 0] = 1
    indicator[::2, 1] = 1
    indicator[3, 2] = 1
    images, labels = np.nonzero(indicator)
    weight = rng.integers(1, 4, size=n).astype(float)[images]
    vectors = rng.normal(size=(len(images), d))
    text = unit_rows(rng.normal(size=(n_labels, d)))
    return tokens, Pairs(images, labels, vectors, weight), text


def unchanged(tokens):
    """Stand in for the map of features."""
    return tokens


def slow_score(tokens, j, prototypes, scorer):
    """Score one image, patch by patch; one row of prototypes a label."""
    whole = [distance_logits(tokens.whole[j] @ p, scorer.scale) for p in prototypes]
    logits = np.array(
        [
            [distance_logits(x @ p, scorer.scale) for p in prototypes]
            for x in tokens.parts[j][tokens.present[j]]
        ]
    )
    if scorer.scoring == "competitive":
        logits = compete(logits[None], scorer.background, scorer.sharpness)[0]
    local = np.sort(logits, axis=0)[::-1][: scorer.n_top].mean(axis=0)
    return {
        "global": whole,
        "both": (np.array(whole) + local) / 2,
    }.get(scorer.scoring, local)


def slow_prototype(pairs, label, text, share, without=None):
    """Mix one prototype; of no image but text, it is the text."""
    of_label = (pairs.labels == label) & (pairs.images != without)
    if not of_label.any():
        return text[label]
    image = unit_rows(
        (pairs.weight[of_label, None] * pairs.vectors[of_label]).sum(axis=0)
    )
    return unit_rows((1 - share) * image + share * text[label])


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_mixed_cosine_is_the_cosine_to_the_mixture(seed):
    rng = np.random.default_rng(seed)
    image, text, x = (unit_rows(rng.normal(size=(n, 6))) for n in (4, 4, 5))
    share = rng.random(4)
    share[:2] = 0, 1
    mixed = unit_rows((1 - share)[:, None] * image + share[:, None] * text)
    overlap = (image * text).sum(axis=1)
    found = mixed_cosine(x @ image.T, x @ text.T, share, overlap)
    assert_allclose(found, x @ mixed.T, rtol=1e-9, atol=1e-9)


def test_a_mixture_of_opposites_has_no_direction_and_no_nan():
    half = np.array([0.5])
    found = mixed_cosine(np.array([[0.3]]), np.array([[-0.3]]), half, np.array([-1.0]))
    assert_allclose(found, 0, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_mixture_vectors_are_mixed_one_by_one(share):
    _, pairs, text = make_support(0)
    _, counts = label_sums(pairs, len(text))
    shares = text_shares(share, counts, has_text=True)
    found = mix(pairs, text, shares)
    expected = [slow_prototype(pairs, i, text, shares[i]) for i in range(len(text))]
    assert_allclose(found, expected, rtol=1e-10)
    assert_allclose(found[3], text[3], rtol=1e-12)


def test_label_sums_add_weighted_vectors():
    _, pairs, text = make_support(1)
    sums, counts = label_sums(pairs, len(text))
    for label in range(len(text)):
        of_label = np.flatnonzero(pairs.labels == label)
        expected = sum((pairs.weight[p] * pairs.vectors[p] for p in of_label), 0)
        assert_allclose(sums[label], expected, rtol=1e-12)
        assert_allclose(counts[label], pairs.weight[of_label].sum())


@settings(max_examples=100)
@given(
    share=st.floats(0, 1),
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any),
)
def test_text_shares_fall_with_the_images(share, counts):
    counts = np.array(counts, dtype=float)
    shares = text_shares(share, counts, has_text=True)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert_array_equal(shares[counts == 0], 1)
    order = np.argsort(counts)
    assert (np.diff(shares[order]) <= 1e-12).all()
    seen = counts > 0
    if 0 < share < 1:
        mean = counts[seen].mean()
        kappa = mean * share / (1 - share)
        assert_allclose(shares[seen], kappa / (kappa + counts[seen]), rtol=1e-9)
    assert_array_equal(text_shares(share, counts, has_text=False), 0)


def test_text_share_is_the_given_one_where_all_labels_have_as_many_images():
    counts = np.array([3.0, 3.0, 0.0], dtype=np.float32)
    found = text_shares(0.25, counts, has_text=True)
    assert_allclose(found, [0.25, 0.25, 1.0], rtol=1e-6)
    assert found.dtype == np.float32
    assert_array_equal(text_shares(1.0, counts, has_text=True), 1)
    assert_array_equal(text_shares(0.0, counts, has_text=True), [0, 0, 1])


def test_agreement_weights():
    agreement = np.array([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]])
    valid = np.array([[True, True, False], [True, True, True]])
    soft = agreement_weights(agreement, valid, "agreement")
    e = np.exp(1)
    assert_allclose(soft, [[1 / (1 + e), e / (1 + e), 0], [1 / 3] * 3], rtol=1e-12)
    assert_allclose(
        agreement_weights(agreement, valid, "mean"), [[0.5, 0.5, 0], [1 / 3] * 3]
    )


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: s.scoring)
def test_score_is_a_loop_over_images(scorer):
    tokens, _, text = make_support(2)
    expected = [slow_score(tokens, j, text, scorer) for j in range(len(tokens))]
    assert_allclose(score(tokens, unchanged, text, scorer), expected, rtol=1e-9)


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: s.scoring)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_leave_one_out_scores_are_those_of_prototypes_rebuilt_without_the_image(
    scorer, seed
):
    tokens, pairs, text = make_support(seed)
    _, counts = label_sums(pairs, len(text))
    shares = [text_shares(a, counts, has_text=True) for a in (0.0, 0.3, 1.0)]
    # With no share of text anywhere, the call takes it that there is no text.
    found = leave_one_out_scores(tokens, pairs, text, shares, scorer)
    for share, scores in zip(shares, found, strict=True):
        for j in range(len(tokens)):
            own = set(pairs.labels[pairs.images == j])
            prototypes = [
                slow_prototype(pairs, i, text, share[i], j if i in own else None)
                for i in range(len(text))
            ]
            expected = slow_score(tokens, j, prototypes, scorer)
            assert_allclose(scores[j], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scorer", SCORERS[:3], ids=lambda s: s.scoring)
def test_leave_one_out_without_text_keeps_a_lone_image_for_itself(scorer):
    tokens, pairs, text = make_support(3, n_labels=3)
    found = leave_one_out_scores(tokens, pairs, text, [np.zeros(3)], scorer)[0]
    for j in range(len(tokens)):
        own = set(pairs.labels[pairs.images == j])
        prototypes = []
        for label in range(3):
            others = (pairs.labels == label) & (pairs.images != j)
            without = j if label in own and others.any() else None
            prototypes.append(slow_prototype(pairs, label, text, 0.0, without))
        expected = slow_score(tokens, j, prototypes, scorer)
        assert_allclose(found[j], expected, rtol=1e-8, atol=1e-8)


def test_scores_do_not_depend_on_the_blocks(monkeypatch):
    tokens, pairs, text = make_support(4)
    shares = [np.linspace(0, 1, len(text))]
    arguments = (tokens, pairs, text, shares, SCORERS[0])
    whole = score(tokens, unchanged, text, SCORERS[0]), leave_one_out_scores(*arguments)

    def one_row(n_rows, bytes_a_row):
        return (slice(row, row + 1) for row in range(n_rows))

    for module in ("_prototypes", "_scoring"):
        monkeypatch.setattr(f"skfewshot.multilabel.{module}.blocks", one_row)
    parts = score(tokens, unchanged, text, SCORERS[0]), leave_one_out_scores(*arguments)
    for one, other in zip(whole, parts, strict=True):
        assert_allclose(one, other, rtol=1e-12)


def test_nearest_of_label_is_a_loop_over_pairs():
    _, pairs, _ = make_support(5)
    found = nearest_of_label(pairs)
    for p in range(len(found)):
        same = [
            q
            for q in range(len(found))
            if q != p and pairs.labels[q] == pairs.labels[p]
        ]
        if not same:
            assert found[p] == -1
            continue
        vectors = unit_rows(pairs.vectors)
        likeness = [vectors[p] @ vectors[q] for q in same]
        assert found[p] == same[int(np.argmax(likeness))]


def test_leaving_out_the_nearest_is_leaving_out_both():
    tokens, pairs, text = make_support(6)
    share = np.full(len(text), 0.4)
    scorer = SCORERS[1]
    found = leave_one_out_scores(
        tokens, pairs, text, [share], scorer, with_nearest=True
    )[0]
    nearest = nearest_of_label(pairs)
    for p in range(len(pairs.labels)):
        image, label = pairs.images[p], pairs.labels[p]
        kept = np.ones(len(pairs.labels), dtype=bool)
        kept[p] = False
        if nearest[p] >= 0:
            kept[nearest[p]] = False
        kept &= pairs.labels == label
        total = pairs.weight[kept] @ pairs.vectors[kept]
        # Nothing left: the text alone.
        part = share[label] if kept.any() else 1
        mixed = (1 - part) * unit_rows(total[None])[0] + part * text[label]
        alone = mixed / np.linalg.norm(mixed)
        expected = slow_score(tokens, image, [alone], scorer)[0]
        assert_allclose(found[image, label], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("n_extra", [1, 4, 7])
def test_of_images_without_labels_the_farther_half_speaks(n_extra):
    tokens, pairs, text = make_support(7)
    rng = np.random.default_rng(n_extra)
    labels = np.repeat([0, 2, 3], n_extra)
    vectors, weight = rng.normal(size=(len(labels), 8)), rng.random(len(labels))
    extra = Pairs(np.arange(len(labels)), labels, vectors, weight)
    share = np.full(len(text), 0.4)
    # Labels do not compete here, so that others do not matter.
    found = leave_one_out_scores(tokens, pairs, text, [share], SCORERS[1], extra=extra)
    for p, (image, label) in enumerate(zip(pairs.images, pairs.labels, strict=True)):
        others = pairs.labels == label
        others[p] = False
        total = pairs.weight[others] @ pairs.vectors[others]
        like = [unit_rows(pairs.vectors)[p] @ v for v in unit_rows(vectors)]
        own = sorted(np.flatnonzero(labels == label), key=lambda e: like[e])
        for e in own[: int(np.ceil(len(own) / 2))]:
            total = total + weight[e] * vectors[e]
        part = 0.4 if others.any() or own else 1
        mixed = (1 - part) * unit_rows(total[None])[0] + part * text[label]
        alone = mixed / np.linalg.norm(mixed)
        expected = slow_score(tokens, image, [alone], SCORERS[1])[0]
        assert_allclose(found[0, image, label], expected, rtol=1e-7, atol=1e-8)
    # Images known to lack a label are scored by all that is said of it.
    everything = pairs.weight @ (pairs.vectors * (pairs.labels == 2)[:, None])
    everything = everything + weight @ (vectors * (labels == 2)[:, None])
    whole = 0.6 * unit_rows(everything[None])[0] + 0.4 * text[2]
    expected = slow_score(tokens, 0, [whole / np.linalg.norm(whole)], SCORERS[1])[0]
    assert_allclose(found[0, 0, 2], expected, rtol=1e-7, atol=1e-8)
