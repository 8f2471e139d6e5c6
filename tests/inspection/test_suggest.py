"""What to label next: suggestions against a slow reference, and what they are for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from skfewshot import (
    CLIPFeaturizer,
    CMMClassifier,
    MultiLabelPrototypeClassifier,
    ZeroShotClassifier,
)
from skfewshot.clip import EmbeddingArray, EncoderIdentity
from skfewshot.datasets import make_object_images
from skfewshot.inspection import suggest

KINDS = ["striped star", "plain heart", "checked ring"]


@pytest.fixture(scope="module")
def pool(make_task):
    """A support of four classes, texts, and more images of the classes."""
    X, y, text = make_task(4, 3, 12)
    X_pool, y_pool, _ = make_task(4, 20, 12, rows=1)
    return X, y, text, X_pool, y_pool


def slowly(V, doubt, n, share):
    """The images that cover most, all of them looked at each time."""
    apart = ((V[:, None] - V) ** 2).sum(axis=2)
    width = np.quantile(apart[np.triu_indices(len(V), 1)], share)
    alike = np.exp(-apart / width)
    taken = []
    for _ in range(n):
        covered = alike[taken].max(axis=0) if taken else np.zeros(len(V))
        gain = np.maximum(alike - covered, 0) @ doubt
        gain[taken] = -1
        taken.append(int(gain.argmax()))
    return taken


def test_is_the_greedy_cover_of_doubt(pool):
    X, y, text, X_pool, _ = pool
    model = CMMClassifier(text).fit(X, y)
    doubt = 1 - (model.predict_proba(X_pool) ** 2).sum(axis=1)
    found = suggest(model, X_pool, 20)
    assert found.tolist() == slowly(model.transform(X_pool), doubt, 20, 1 / 4)
    assert suggest(None, X_pool, 8).tolist() == slowly(X_pool, np.ones(80), 8, 1 / 8)


def test_every_classifier(classifier, pool):
    X, y, text, X_pool, _ = pool
    model = classifier.set_params(text_features=text).fit(X, y)
    found = suggest(model, X_pool, 10)
    assert len(set(found.tolist())) == 10
    assert_array_equal(found, suggest(model, X_pool, 10))
    assert_array_equal(found[:4], suggest(model, X_pool, 4))


def test_from_images_in_a_pipeline():
    images, names = make_object_images(3, kinds=KINDS, random_state=0, return_X_y=True)
    model = make_pipeline(CLIPFeaturizer("tiny"), ZeroShotClassifier())
    found = suggest(model.fit(None, KINDS), images, 5)
    X = model[0].transform(images)
    assert_array_equal(found, suggest(model[1], X, 5))
    assert len(set(np.asarray(names)[suggest(None, X, 3)])) >= 2


def test_nothing_is_said_twice_by_copies(pool):
    X, y, text, X_pool, _ = pool
    model = CMMClassifier(text).fit(X, y)
    copies = np.concatenate([X_pool, X_pool])
    found = suggest(model, copies, 30) % len(X_pool)
    assert len(set(found.tolist())) == 30
    # All may be asked for, copies last.
    assert sorted(suggest(model, copies, 160)) == list(range(160))
    same = np.repeat(X_pool[:1], 300, axis=0)
    assert sorted(suggest(None, same, 300)) == list(range(300))


def test_doubt_and_density_decide(unit):
    rng = np.random.default_rng(0)
    near = lambda row, n: unit(row + 0.05 * rng.normal(size=(n, 8)))  # noqa: E731
    a, b, odd = np.eye(8)[[0, 1, 7]]
    X_pool = np.concatenate([near(a, 30), near(b, 30), near(a + b, 10), near(odd, 1)])
    model = ZeroShotClassifier({"a": a, "b": b}, logit_scale=20.0)
    model.fit([a, b], ["a", "b"])
    # The ten between both, of which nothing is known, and not the one that is odd.
    assert 60 <= suggest(model, X_pool, 1)[0] < 70
    # Who knows nothing takes the many.
    assert set(suggest(None, X_pool, 2) // 30) == {0, 1}


def test_finds_classes_without_images(pool):
    X, y, text, X_pool, y_pool = pool
    seen = y != 3
    texts = dict(enumerate(text))
    model = CMMClassifier(texts, extra_classes=[3]).fit(X[seen], y[seen])
    found = [suggest(model, X_pool, 8, y=labels) for labels in (None, y[seen], y)]
    of_new = [(y_pool[rows] == 3).sum() for rows in found]
    assert of_new[1] >= max(of_new[0], 3)
    assert_array_equal(found[0], found[2])


def test_large_pools_are_looked_at_in_parts(make_task):
    X, _, _ = make_task(30, 300, 16, seed=1)
    found = suggest(None, X, 30)
    assert len(set(found.tolist())) == 30
    # As good a cover as a draw of them is not.
    drawn = [np.random.default_rng(seed).permutation(len(X))[:30] for seed in range(5)]
    cover = [(X @ X[rows].T).max(axis=1).mean() for rows in (found, *drawn)]
    assert cover[0] > max(cover[1:])


def test_unreadable_images_are_never_suggested(pool):
    X, y, text, X_pool, _ = pool
    encoder = EncoderIdentity("tiny", None, "5f0c", 12, 100.0)
    holes = X_pool.copy()
    holes[[0, 5, 7]] = np.nan
    holes = EmbeddingArray(holes, encoder)
    for model in (None, CMMClassifier(text).fit(EmbeddingArray(X, encoder), y)):
        found = suggest(model, holes, 77)
        assert sorted(found) == sorted(set(range(80)) - {0, 5, 7})
        with pytest.raises(ValueError, match="n=78 is above"):
            suggest(model, holes, 78)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_the_order_of_the_pool_does_not_matter(make_task, seed, n):
    X, y, text = make_task(3, 2, 6)
    X_pool, _, _ = make_task(3, 10, 6, seed=0, rows=1 + seed)
    model = CMMClassifier(text).fit(X, y)
    order = np.random.default_rng(seed).permutation(len(X_pool))
    found = suggest(model, X_pool, n)
    assert_array_equal(order[suggest(model, X_pool[order], n)], found)


@pytest.mark.parametrize(
    "n, y, error, message",
    [
        (0, None, ValueError, "n must be at least 1"),
        (81, None, ValueError, "n=81 is above the number of images"),
        (2.0, None, TypeError, "n must be an int"),
        (2, [[0, 1]], ValueError, "several labels an image"),
        (2, [0, None], ValueError, "must not be missing"),
        (2, [0, 99], ValueError, r"labels that are none of classes_: \['99'\]"),
        (2, ["0", "1"], ValueError, "labels that are none of classes_"),
    ],
)
def test_what_is_refused(pool, n, y, error, message):
    X, labels, text, X_pool, _ = pool
    model = CMMClassifier(text).fit(X, labels)
    with pytest.raises(error, match=message):
        suggest(model, X_pool, n, y=y)


def test_what_is_no_model_or_no_pool_is_refused(pool):
    X, y, text, X_pool, _ = pool
    with pytest.raises(NotFittedError):
        suggest(CMMClassifier(text), X_pool, 2)
    with pytest.raises(TypeError, match="model must be"):
        suggest(MultiLabelPrototypeClassifier(), X_pool, 2)
    with pytest.raises(ValueError, match="model=None, which knows no classes"):
        suggest(None, X_pool, 2, y=y)
    with pytest.raises(ValueError, match="wanted embeddings"):
        suggest(None, ["a.jpg", "b.jpg"], 1)
    with pytest.raises(ValueError, match="NaN"):
        suggest(None, np.full((3, 4), np.nan), 1)
    with pytest.raises(ValueError, match="12 features"):
        suggest(CMMClassifier(text).fit(X, y), X_pool[:, :5], 2)
