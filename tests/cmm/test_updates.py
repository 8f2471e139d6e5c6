"""What is learned after a fit: images added, classes forgotten."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

import skfewshot
from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import make_object_images

NAMES = np.array(["ant", "bee", "cat", "dog", "elk"])
FITTED = (
    *("map_", "map_intercept_", "text_map_", "text_map_intercept_", "prototypes_"),
    *("frozen_prototypes_", "text_features_", "text_trust_", "intercept_"),
)


@pytest.fixture(scope="module")
def task(make_task):
    return make_task(5, 6, 10, noise=0.5)


def by_name(text):
    return dict(zip(NAMES.tolist(), text, strict=True))


def assert_same(one, other, X):
    """Say that two classifiers are one, up to rounding."""
    assert_array_equal(one.classes_, other.classes_)
    for name in FITTED:
        assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    assert_allclose(one.decision_function(X), other.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("texts", ["all", "none"])
@pytest.mark.parametrize("solver", [{}, {"solver": "paper", "max_iter": 3}])
def test_images_added_are_those_of_a_fit_on_all(task, texts, solver):
    X, y, text = task
    known = by_name(text) if texts == "all" else None
    first = np.arange(len(y)) % 6 < 2
    labels = NAMES[y]
    model = CMMClassifier(known, store_support=True, **solver)
    model.fit(X[first], labels[first])
    model.add_images(X[~first][:10], labels[~first][:10])
    model.add_images(X[~first][10:], labels[~first][10:])
    order = np.r_[np.flatnonzero(first), np.flatnonzero(~first)]
    refit = CMMClassifier(known, **solver).fit(X[order], labels[order])
    assert_same(model, refit, X)
    assert_array_equal(model.support_["y"], labels[order])


@pytest.mark.parametrize("labels", [NAMES, NAMES.astype(object), np.arange(5)])
def test_new_labels_become_classes(task, labels):
    X, y, text = task
    known = dict(zip(labels.tolist(), text, strict=True))
    named = {k: v for k, v in known.items() if k != labels[2]}
    old = y != 2
    model = CMMClassifier(named, store_support=True).fit(X[old], labels[y[old]])
    with pytest.raises(ValueError, match="Nothing is known that could encode"):
        model.add_images(X[~old], labels[y[~old]])
    model.add_class(labels[2], text[2]).add_images(X[~old], labels[y[~old]])
    assert_same(model, CMMClassifier(known).fit(X, labels[y]), X)


def test_new_labels_without_texts(task):
    X, y, _ = task
    old = y != 2
    model = CMMClassifier(None, store_support=True).fit(X[old], NAMES[y[old]])
    model.add_images(X[~old], NAMES[y[~old]])
    assert_same(model, CMMClassifier(None).fit(X, NAMES[y]), X)


def test_names_of_new_labels_are_encoded():
    kinds = ["striped star", "plain heart", "checked ring"]
    images, names = make_object_images(4, kinds=kinds, random_state=0, return_X_y=True)
    X, names = CLIPFeaturizer("tiny").fit_transform(images), np.asarray(names)
    old = names != "plain heart"
    model = CMMClassifier(store_support=True).fit(X[old], names[old])
    model.add_images(X[~old], names[~old])
    refit = CMMClassifier().fit(X, names)
    assert_same(model, refit, np.asarray(X))
    assert model.prototype_source_ == refit.prototype_source_ == "embedding"
    assert model.encoder_ == refit.encoder_
    assert model.logit_scale_ == refit.logit_scale_


def test_weights_and_groups_are_those_of_a_fit_on_all(task):
    X, y, text = task
    weight = np.random.default_rng(0).uniform(0, 3, len(y))
    weight[::7] = 0
    groups = np.arange(len(y)) // 2
    half = np.arange(len(y)) % 6 < 3
    order = np.r_[np.flatnonzero(half), np.flatnonzero(~half)]
    model = CMMClassifier(text, store_support=True, class_weight="balanced")
    refit = CMMClassifier(text, class_weight="balanced")
    model.fit(X[half], y[half], weight[half], groups=groups[half])
    model.add_images(X[~half], y[~half], weight[~half], groups=groups[~half])
    assert_same(model, refit.fit(X, y, weight, groups=groups), X)
    model.fit(X[half], y[half]).add_images(X[~half], y[~half], weight[~half])
    one = np.r_[np.ones(half.sum()), weight[~half]]
    assert_same(model, refit.fit(X[order], y[order], one), X)


@pytest.mark.parametrize("labels", [NAMES, NAMES.astype(object), np.arange(5)])
def test_rows_without_a_label_are_those_of_a_fit_on_all(task, labels):
    X, y, text = task
    known = dict(zip(labels.tolist(), text, strict=True))
    given_ = labels[y].astype(object)
    given_[::4] = None
    half = np.arange(len(y)) % 6 < 3
    order = np.r_[np.flatnonzero(half), np.flatnonzero(~half)]
    refit = CMMClassifier(known).fit(X[order], given_[order])
    model = CMMClassifier(known, store_support=True).fit(X[half], given_[half])
    model.add_images(X[~half], given_[~half])
    assert_same(model, refit, X)
    assert model.support_["y"].tolist() == given_[order].tolist()
    # All with a label, then some with none at all.
    model = CMMClassifier(known, store_support=True, unlabeled=labels[4])
    seen = half & (y != 4)
    model.fit(X[seen], labels[y[seen]]).add_images(X[~half], [None] * (~half).sum())
    assert model.classes_.dtype == labels[:4].dtype
    order = np.r_[np.flatnonzero(seen), np.flatnonzero(~half)]
    none = np.r_[labels[y[seen]].astype(object), np.full((~half).sum(), labels[4])]
    refit = CMMClassifier(known, unlabeled=labels[4]).fit(X[order], none)
    assert_same(model, refit, X)
    model.forget_class(labels[0])
    kept = np.array([label != labels[0] for label in none])
    refit.fit(X[order[kept]], none[kept])
    assert_same(model, refit, X)


def test_rows_left_out_are_those_of_all(task):
    X, y, text = task
    half = np.arange(len(y)) % 6 < 3
    order = np.r_[np.flatnonzero(half), np.flatnonzero(~half)]
    settings = {"store_support": True, "store_left_out": True}
    model = CMMClassifier(text, **settings).fit(X[half], y[half])
    model.add_images(X[~half], y[~half])
    refit = CMMClassifier(text, **settings).fit(X[order], y[order])
    assert_allclose(model.left_out_proba_, refit.left_out_proba_, atol=1e-6)
    model.forget_class(1)
    assert model.left_out_proba_.shape == (24, 4)
    # Where they cannot be found again they are not left to be misread.
    model = CMMClassifier(text, store_left_out=True).fit(X, y)
    assert not hasattr(model.forget_class(1), "left_out_proba_")
    model = CMMClassifier(text, store_left_out=True).fit(X, y)
    model.add_class(9, text[0] + text[1])
    assert not hasattr(model, "left_out_proba_")


def test_a_class_without_images_is_forgotten_without_a_trace(task):
    X, y, text = task
    seen = y != 2
    model = CMMClassifier(by_name(text), extra_classes=["cat"])
    model.fit(X[seen], NAMES[y[seen]]).forget_class("cat")
    assert_same(model, CMMClassifier(by_name(text)).fit(X[seen], NAMES[y[seen]]), X)
    before = model.predict_proba(X)
    model.add_class("fox", text[2]).forget_class("fox")
    assert_array_equal(model.predict_proba(X), before)


def test_a_class_with_images_is_forgotten_as_by_a_fit_where_they_are_kept(task):
    X, y, text = task
    refit = CMMClassifier(by_name(text)).fit(X[y != 2], NAMES[y[y != 2]])
    model = CMMClassifier(by_name(text), store_support=True).fit(X, NAMES[y])
    assert_same(model.forget_class("cat"), refit, X)
    assert "cat" not in model.support_["y"]
    # Else what is left stays as it is.
    model = CMMClassifier(by_name(text)).fit(X, NAMES[y])
    logits, rest = model.decision_function(X), [0, 1, 3, 4]
    model.forget_class("cat")
    assert_array_equal(model.decision_function(X), logits[:, rest])
    assert model.classes_.tolist() == NAMES[rest].tolist()


@pytest.mark.parametrize("keep", [True, False])
def test_shares_of_rows_without_a_label_follow_the_classes(task, keep):
    X, y, text = task
    labels = NAMES[y].astype(object)
    labels[y == 3] = None
    labels[1::3] = None
    settings = {"store_support": keep, "extra_classes": ["dog"]}
    model = CMMClassifier(by_name(text), **settings).fit(X, labels)
    before = dict(zip(NAMES, model.unlabeled_shares_, strict=True))
    model.add_class("fox", text[0] + text[1])
    assert model.unlabeled_shares_.tolist() == [*before.values(), 0]
    model.forget_class("fox")
    assert model.unlabeled_shares_.tolist() == list(before.values())
    # A class with a name only has rows of the pool, so it does leave a trace.
    model.forget_class("dog")
    refit = CMMClassifier(by_name(text)).fit(X, labels)
    assert model.unlabeled_shares_.shape == (4,)
    assert model.unlabeled_shares_.sum() == pytest.approx(1)
    if keep:
        assert_same(model, refit, X)
        assert_allclose(model.unlabeled_shares_, refit.unlabeled_shares_, atol=1e-6)
    else:
        share = before["ant"] / (1 - before["dog"])
        assert model.unlabeled_shares_[0] == pytest.approx(share)


def test_views_of_a_forgotten_class_are_forgotten_too(task):
    X, y, text = task
    labels, groups = NAMES[y].astype(object), np.arange(len(y)) // 2
    labels[1::2] = None  # which the other view of the photograph has
    bare = X[y == 0][:2] + 0.1
    X, groups = np.concatenate([X, bare]), np.r_[groups, 50, 51]
    labels = np.r_[labels, [None, None]]
    model = CMMClassifier(by_name(text), store_support=True)
    model.fit(X, labels, groups=groups).forget_class("cat")
    stays = np.r_[y != 2, True, True]
    refit = CMMClassifier(by_name(text))
    refit.fit(X[stays], labels[stays], groups=groups[stays])
    assert_same(model, refit, X)
    assert_allclose(model.unlabeled_shares_, refit.unlabeled_shares_, atol=1e-6)


@pytest.mark.parametrize("labels", [NAMES, np.array([3, 1, 4, 7, 5])])
def test_a_class_that_was_forgotten_comes_back(task, labels):
    X, y, text = task
    known = dict(zip(labels.tolist(), text, strict=True))
    order = np.argsort(y == 2, kind="stable")  # its images last, as they are added
    X, y = X[order], y[order]
    model = CMMClassifier(known, store_support=True).fit(X, labels[y])
    other = pickle.loads(pickle.dumps(model)).forget_class(labels[2])
    other.add_images(X[y == 2], labels[y[y == 2]])
    assert_same(other, model, X)
    other.forget_class(labels[2]).add_class(labels[2])
    wanted = CMMClassifier(known, extra_classes=labels[2:3])
    wanted.fit(X[y != 2], labels[y[y != 2]])
    assert_array_equal(other.classes_, wanted.classes_)
    assert_allclose(other.text_features_, wanted.text_features_, atol=1e-6)


def test_the_support_is_kept_only_where_it_is_asked_for(task):
    X, y, text = task
    assert not hasattr(CMMClassifier(text).fit(X, y), "support_")
    model = CMMClassifier(text, store_support=True).fit(X, y)
    assert set(model.support_) == {"X", "y", "sample_weight", "groups"}
    X_before, model = X.copy(), pickle.loads(pickle.dumps(model))
    model.support_["X"][:] = 0
    assert_array_equal(X, X_before)


@pytest.mark.parametrize("gaps", [False, True])
def test_what_is_kept_is_saved_and_loaded(task, tmp_path, gaps):
    X, y, text = task
    given_ = NAMES[y].astype(object)
    given_[::5] = None if gaps else given_[::5]
    model = CMMClassifier(by_name(text), store_support=True).fit(X[4:], given_[4:])
    skfewshot.save(model, tmp_path / "model")
    loaded = skfewshot.load(tmp_path / "model").add_images(X[:4], given_[:4])
    assert_same(loaded, model.add_images(X[:4], given_[:4]), X)


def test_what_is_refused_changes_nothing(task):
    X, y, text = task
    model = CMMClassifier(by_name(text), store_support=True).fit(X, NAMES[y])
    before = pickle.dumps(model)
    wrong = [
        (lambda: model.add_images(X[:2, :9], NAMES[:2]), "9 features"),
        (
            lambda: model.add_images(X[:2], NAMES[:3]),
            "inconsistent numbers of samples",
        ),
        (lambda: model.add_images(X[:2], []), "inconsistent numbers of samples"),
        (lambda: model.add_images(X[:2], [0, 1]), "labels of one kind"),
        (lambda: model.add_images(X[:2], NAMES[:2], groups=[0, 1]), "called without"),
        (lambda: model.add_images(X[:2], NAMES[:2], [1.0]), "sample_weight"),
        (lambda: model.add_images(X[:2], NAMES[:2], [1.0]), "1 entries; wanted are 2"),
        (lambda: model.add_images(X[:1], ["fox"]), "could encode 'fox'"),
        (lambda: model.forget_class("fox"), "name='fox' is none of the classes"),
        (lambda: model.forget_class(["cat"]), "none of the classes"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    assert pickle.dumps(model) == before


def test_what_has_to_be_there_is_named(task):
    X, y, text = task
    with pytest.raises(NotFittedError):
        CMMClassifier(text).add_images(X, y)
    with pytest.raises(NotFittedError):
        CMMClassifier(text).forget_class(0)
    with pytest.raises(ValueError, match="store_support=True"):
        CMMClassifier(text).fit(X, y).add_images(X, y)
    two = CMMClassifier(text[:2]).fit(X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match="at least 2 classes"):
        two.forget_class(0)
