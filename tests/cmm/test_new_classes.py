"""Classes that have a text but no images: extra_classes and add_class."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict, cross_val_score
from sklearn.utils._param_validation import InvalidParameterError

from skfewshot import CLIPFeaturizer, CMMClassifier, TipAdapterClassifier
from skfewshot.clip import EmbeddingArray, EncoderIdentity
from skfewshot.datasets import make_object_images

SOLVERS = ("gaussian", "paper")
each_solver = pytest.mark.parametrize("solver", SOLVERS)
NAMES = np.array(["ant", "bee", "cat", "dog", "elk"])
LEARNED = ("map_", "map_intercept_", "text_map_", "text_map_intercept_")


#: Few iterations are enough for what holds after any.
QUICK = {"gaussian": {}, "paper": {"max_iter": 5}}


@pytest.fixture(scope="module")
def task(make_task):
    return make_task(5, 4, 10, noise=0.5)


def without(X, y, *classes):
    kept = ~np.isin(y, classes)
    return X[kept], y[kept]


def assert_same(one, other, X):
    """Say that two classifiers are one, up to rounding."""
    assert_array_equal(one.classes_, other.classes_)
    for name in (*LEARNED, "prototypes_", "text_features_", "intercept_"):
        assert_allclose(getattr(one, name), getattr(other, name), atol=1e-9)
    assert_allclose(one.decision_function(X), other.decision_function(X), atol=1e-6)
    assert_array_equal(one.predict(X), other.predict(X))


@each_solver
@pytest.mark.parametrize(
    "extra, labels", [(0, np.arange(5)), (2, NAMES), (4, NAMES.astype(object))]
)
def test_a_class_named_before_the_fit_is_one_added_after_it(
    task, labels, extra, solver
):
    X, y, text = task
    by_label = dict(zip(labels.tolist(), text, strict=True))
    seen = without(X, labels[y], labels[extra])
    before = CMMClassifier(
        by_label, extra_classes=labels[[extra]], solver=solver, **QUICK[solver]
    )
    before.fit(*seen)
    after = CMMClassifier(by_label, solver=solver, **QUICK[solver]).fit(*seen)
    learned = (*LEARNED, "prototypes_", "intercept_")
    kept = {name: getattr(after, name).copy() for name in learned}
    assert_array_equal(after.classes_, np.delete(labels, extra))
    assert after.add_class(labels[extra], text[extra]) is after
    assert_array_equal(after.classes_, labels)
    assert_same(before, after, X)
    # What was learned of the classes that have rows is as it was.
    for name in LEARNED:
        assert_array_equal(getattr(after, name), kept[name])
    prototypes = np.delete(after.prototypes_, extra, axis=0)
    assert_array_equal(prototypes, kept["prototypes_"])
    assert_allclose(before.text_features_, text, rtol=1e-12)
    assert_array_equal(np.delete(after.intercept_, extra), kept["intercept_"])


@each_solver
def test_the_prototype_is_the_documented_equation(task, unit, solver):
    X, y, text = task
    model = CMMClassifier(text, extra_classes=[1, 3], solver=solver, **QUICK[solver])
    model.fit(*without(X, y, 1, 3))
    means = text @ model.text_map_ + model.text_map_intercept_
    expected = unit(means @ model.map_)
    assert_allclose(model.prototypes_[[1, 3]], expected[[1, 3]], atol=1e-9)
    if solver == "paper":
        assert_allclose(model.text_map_, np.linalg.inv(model.map_), atol=1e-9)
        assert_allclose(model.prototypes_[[1, 3]], text[[1, 3]], atol=1e-9)


@pytest.mark.parametrize(
    "settings_",
    [
        {"alpha": 0.0},
        {"alpha": 0.0, "solver": "paper"},
    ],
    ids=str,
)
def test_alpha_zero_is_zero_shot(task, unit, settings_):
    X, y, text = task
    model = CMMClassifier(text, extra_classes=[3], **settings_)
    model.fit(*without(X, y, 3))
    new = text[0] - 0.5 * text[1]
    model.add_class(9, new)
    expected = 100 / model.temperature_ * X @ np.vstack([text, unit(new)]).T
    assert_allclose(model.decision_function(X), expected, atol=0.02)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**16))
def test_neither_the_order_nor_the_names_matter(make_task, seed):
    rng = np.random.default_rng(seed)
    X, y, text = make_task(5, 4, 10, seed, 0.5)
    support = without(X, y, 1, 4)
    first = CMMClassifier(text, extra_classes=[1, 4]).fit(*support)
    labels, rows = rng.permutation(5), rng.permutation(len(support[1]))
    renamed = np.empty_like(text)
    renamed[labels] = text
    second = CMMClassifier(renamed, extra_classes=labels[[4, 1]])
    second.fit(support[0][rows], labels[support[1][rows]])
    assert_array_equal(first.map_, second.map_)
    assert_allclose(first.prototypes_, second.prototypes_[labels], atol=1e-12)
    assert_allclose(
        first.predict_proba(X), second.predict_proba(X)[:, labels], atol=1e-9
    )


def make_planted_task(unit, seed):
    """Texts and images of 20 seen classes and 5 new ones, linear in one another.

    Concepts have 6 dimensions. The map turns them, and there is a gap, so that texts
    as they are recognise little.
    """
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(25, 6))
    of_text, turn = (np.linalg.qr(rng.normal(size=(16, 6)))[0].T for _ in range(2))
    of_images = unit(of_text + 1.5 * turn)
    text_cone, image_cone = 0.5 * rng.normal(size=(2, 16))
    y = np.repeat(np.arange(20), 4)
    labels = np.repeat(np.arange(25), 20)

    def images(y):
        noise = 0.3 * rng.normal(size=(len(y), 16))
        return unit(image_cone + concepts[y] @ of_images + noise)

    return images(y), y, unit(text_cone + concepts @ of_text), images(labels), labels


@each_solver
def test_images_of_classes_without_rows_are_recognised(unit, solver):
    scores = []
    for seed in range(2):
        X, y, text, queries, labels = make_planted_task(unit, seed)
        model = CMMClassifier(text, extra_classes=np.arange(20, 25), solver=solver)
        model.fit(X, y)
        new = labels >= 20
        zero_shot = queries @ text.T
        among_texts = 20 + zero_shot[new, 20:].argmax(axis=1)
        chosen = 20 + model.predict_proba(queries[new])[:, 20:].argmax(axis=1)
        scores.append(
            [
                (model.predict(queries) == labels)[new].mean(),
                (chosen == labels[new]).mean(),
                (model.predict(queries) == labels)[~new].mean(),
                (zero_shot.argmax(axis=1) == labels)[new].mean(),
                (among_texts == labels[new]).mean(),
            ]
        )
    of_all, of_new, of_seen, of_texts, of_new_texts = np.mean(scores, axis=0)
    # Chance is 0.04 among all and 0.2 among the new ones.
    assert of_texts < 0.25
    if solver == "gaussian":
        assert of_all > 0.8
        assert of_new > 0.95
        assert of_seen > 0.65
    else:
        # Nothing holds classes with rows back, but the map serves the new ones too.
        assert of_new > of_new_texts + 0.1


# Where the text may come from.


@pytest.fixture(scope="module")
def embedded():
    kinds = ["striped star", "plain heart", "checked ring"]
    images, names = make_object_images(4, kinds=kinds, random_state=0, return_X_y=True)
    return CLIPFeaturizer("tiny").fit_transform(images), np.asarray(names)


def test_text_from_dict_array_and_data_frame_is_the_same(task):
    X, y, text = task
    support = without(X, NAMES[y], "cat")
    frame = pd.DataFrame(text, index=NAMES)
    by_name = dict(zip(NAMES.tolist(), text, strict=True))
    for given_ in (text, by_name, frame, frame[::-1], lambda names: frame.loc[names]):
        source = (
            {"text_encoder": lambda names: frame.loc[names].to_numpy()}
            if callable(given_)
            else {"text_features": given_}
        )
        model = CMMClassifier(**source, extra_classes=pd.Series(["cat"])).fit(*support)
        assert_same(model, CMMClassifier(text, extra_classes=["cat"]).fit(*support), X)


def test_the_text_encoder_encodes_the_name_of_a_class_that_is_added(task):
    X, y, text = task
    asked = []

    def encode(names):
        asked.append(list(names))
        return text[[NAMES.tolist().index(name) for name in names]]

    model = CMMClassifier(text_encoder=encode).fit(*without(X, NAMES[y], "dog"))
    model.add_class("dog")
    assert asked == [["ant", "bee", "cat", "elk"], ["dog"]]
    assert_allclose(model.text_features_, text)


@each_solver
def test_class_names_name_a_class_that_is_added(task, solver):
    X, y, text = task
    names = dict(enumerate(NAMES.tolist()))

    def encode(names):
        return text[[NAMES.tolist().index(name) for name in names]]

    model = CMMClassifier(
        text_encoder=encode, class_names=names, solver=solver, **QUICK[solver]
    )
    before = clone(model).set_params(extra_classes=[3]).fit(*without(X, y, 3))
    assert_same(before, model.fit(*without(X, y, 3)).add_class(3), X)


@pytest.mark.slow
def test_embeddings_know_the_encoder_of_a_class_that_is_added(embedded):
    X, y = embedded
    support = X[y != "plain heart"], y[y != "plain heart"]
    before = CMMClassifier(extra_classes=["plain heart"]).fit(*support)
    after = pickle.loads(pickle.dumps(CMMClassifier().fit(*support)))
    after.add_class("plain heart")
    assert before.prototype_source_ == "embedding"
    assert_array_equal(before.classes_, np.unique(y))
    assert_allclose(
        before.decision_function(X), after.decision_function(X), rtol=1e-4, atol=1e-3
    )


@pytest.mark.slow
def test_features_of_another_encoder_are_refused(embedded):
    X, y = embedded
    model = CMMClassifier().fit(X, y)
    width = X.shape[1]
    other = EncoderIdentity("other", None, "0000", width, 100.0)
    foreign = EmbeddingArray(np.ones((1, width), np.float32), other)[0]
    with pytest.raises(ValueError, match="both must come from the same model"):
        model.add_class("moon", foreign)
    own = CLIPFeaturizer("tiny").encode_classes(["moon"])[0]
    assert "moon" in model.add_class("moon", own).classes_


# What goes with it.


@each_solver
def test_two_classes_and_an_extra_one_have_three_columns(make_task, solver):
    X, y, text = make_task(3, 4, 10, noise=0.5)
    model = CMMClassifier(text[:2], solver=solver, **QUICK[solver]).fit(
        *without(X, y, 2)
    )
    assert model.decision_function(X).shape == (12,)
    two = model.predict_log_proba(X)
    model.add_class(2, text[2])
    assert model.decision_function(X).shape == (12, 3)
    assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    three = model.predict_log_proba(X)
    # The odds of the two are as before.
    assert_allclose(
        three[:, 1] - three[:, 0], two[:, 1] - two[:, 0], rtol=1e-9, atol=1e-9
    )
    assert 2 in model.predict(X[y == 2])


@each_solver
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fitted_classifier_works_on_after_add_class(make_task, dtype, solver):
    X, y, text = make_task(5, 4, 10, noise=0.5, dtype=dtype)
    model = CMMClassifier(text[:4], solver=solver, **QUICK[solver]).fit(
        *without(X, y, 4)
    )
    mapped = model.transform(X)
    model.add_class(4, 3 * text[4].astype(np.float64))
    assert_array_equal(model.transform(X), mapped)
    assert len(model.get_feature_names_out()) == 10
    for name in ("prototypes_", "text_features_", "intercept_"):
        assert getattr(model, name).dtype == dtype
    assert model.predict_proba(X).dtype == dtype
    assert_allclose(np.linalg.norm(model.text_features_, axis=1), 1, rtol=1e-6)
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
    copied.add_class(9, text[0] - text[1])
    assert_array_equal(copied.classes_, [0, 1, 2, 3, 4, 9])
    assert_array_equal(model.classes_, np.arange(5))
    # A new fit knows nothing of it.
    assert_array_equal(model.fit(*without(X, y, 4)).classes_, np.arange(4))


def test_the_order_in_which_classes_are_added_does_not_matter(task):
    X, y, text = task
    one, other = (CMMClassifier(text[2:4]).fit(*without(X, y, 0, 1, 4)) for _ in "ab")
    for label in (0, 4, 1):
        one.add_class(label, text[label])
    for label in (1, 0, 4):
        other.add_class(label, text[label])
    assert_same(one, other, X)


@pytest.mark.parametrize(
    "labels", [np.arange(3.0), pd.Series([0, 1, 2], dtype="Int64")], ids=str
)
def test_an_integer_is_the_label_of_a_class_among_floats(make_task, labels):
    """scikit-learn makes floats of a nullable column of integers."""
    X, y, text = make_task(4, 4, 10, noise=0.5)
    X, y = without(X, y, 3)
    by_label = dict(enumerate(text))
    y = labels[y]
    named = CMMClassifier(by_label, extra_classes=[3]).fit(X, y)
    added = CMMClassifier(by_label).fit(X, y).add_class(3, text[3])
    assert named.classes_.dtype == added.classes_.dtype == np.float64
    assert_same(named, added, X)
    with pytest.raises(ValueError, match="labels of one kind"):
        added.add_class(2**53 + 1, text[3])  # no float is that number


def test_longer_names_are_not_cut_off(make_task):
    X, y, text = make_task(3, 4, 10, noise=0.5)
    model = CMMClassifier(text).fit(X, NAMES[y])
    model.add_class("a very long name", np.ones(10))
    assert_array_equal(model.classes_, ["a very long name", "ant", "bee", "cat"])
    assert_array_equal(
        model.text_features_[1:],
        CMMClassifier(text).fit(X, NAMES[y]).text_features_,
    )


@each_solver
def test_extra_classes_that_have_rows_change_nothing(task, solver):
    X, y, text = task
    plain = CMMClassifier(text, solver=solver, **QUICK[solver]).fit(X, y)
    for extra in ([2], [4, 0, 0], np.arange(5), []):
        model = CMMClassifier(
            text, extra_classes=extra, solver=solver, **QUICK[solver]
        ).fit(X, y)
        for name in (*LEARNED, "prototypes_", "intercept_", "classes_"):
            assert_array_equal(getattr(model, name), getattr(plain, name))


def test_rows_of_weight_zero_make_an_extra_class_of_theirs(task):
    X, y, text = task
    weighted = CMMClassifier(text, extra_classes=[2])
    weighted.fit(X, y, sample_weight=(y != 2).astype(float))
    absent = CMMClassifier(text, extra_classes=[2]).fit(*without(X, y, 2))
    assert_same(weighted, absent, X)


@each_solver
@pytest.mark.parametrize(
    "class_weight", ["balanced", {0: 3.0, 1: 1.0, 3: 0.5}, {0: 3.0}]
)
def test_class_weights_are_of_the_classes_that_have_rows(task, class_weight, solver):
    X, y, text = task
    X, y = without(X, y, 2, 4)
    X, y = X[1:], y[1:]
    model = CMMClassifier(
        text,
        extra_classes=[2, 4],
        class_weight=class_weight,
        solver=solver,
        **QUICK[solver],
    ).fit(X, y)
    given_ = {0: 11 / 9, 1: 11 / 12, 3: 11 / 12}
    given_ = given_ if class_weight == "balanced" else class_weight
    weight = np.array([given_.get(label, 1.0) for label in y])
    by_row = CMMClassifier(text, extra_classes=[2, 4], solver=solver, **QUICK[solver])
    by_row.fit(X, y, sample_weight=weight)
    assert_allclose(model.map_, by_row.map_, rtol=1e-6, atol=1e-9)
    assert_allclose(model.prototypes_, by_row.prototypes_, atol=1e-6)
    uniform = CMMClassifier(
        text, extra_classes=[2, 4], solver=solver, **QUICK[solver]
    ).fit(X, y)
    assert np.abs(model.map_ - uniform.map_).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("as_array", [False, True])
def test_folds_that_lack_a_class_know_it_by_extra_classes(make_task, as_array):
    X, y, text = make_task(5, 6, 10, noise=0.5)
    given_ = text if as_array else dict(enumerate(text))
    model = CMMClassifier(given_, extra_classes=np.arange(5))
    folds = {"cv": LeaveOneGroupOut(), "groups": y}
    # Every image tested is of a class that its fold has no rows of.
    scores = cross_val_score(model, X, y, **folds)
    assert len(scores) == 5
    assert scores.mean() > 0.4
    proba = cross_val_predict(model, X, y, method="predict_proba", **folds)
    assert proba.shape == (30, 5)
    assert_allclose(proba.sum(axis=1), 1)
    closed = CMMClassifier(dict(enumerate(text)))
    assert not cross_val_score(closed, X, y, **folds).any()


# What is refused.


@pytest.mark.parametrize(
    "name, features, message",
    [
        (2, np.ones(10), "name=2 is already one of the classes"),
        (np.int64(2), np.ones(10), "is already one of the classes"),
        ("elk", np.ones(10), "labels of one kind"),
        (None, np.ones(10), "must not be missing"),
        (np.nan, np.ones(10), "must not be missing"),
        ([7], np.ones(10), "must be one class label"),
        (7, np.ones(9), r"shape \(1, 9\); wanted \(1, 10\)"),
        (7, np.ones((1, 10)), "a vector of one common length"),
        (7, np.full(10, np.nan), "contains NaN"),
        (7, np.zeros(10), "row of zeros"),
        (7, None, "Nothing is known that could encode 7"),
    ],
)
def test_add_class_refuses_and_changes_nothing(task, name, features, message):
    X, y, text = task
    model = CMMClassifier(text).fit(X, y)
    before = pickle.dumps(model)
    with pytest.raises(ValueError, match=message):
        model.add_class(name, features)
    assert pickle.dumps(model) == before


def test_add_class_refuses_a_number_among_names(task):
    X, y, text = task
    model = CMMClassifier(text).fit(X, NAMES[y])
    with pytest.raises(ValueError, match="name and y must hold labels of one kind"):
        model.add_class(7, np.ones(10))
    with pytest.raises(ValueError, match="is already one of the classes"):
        model.add_class("cat", np.ones(10))


def test_add_class_wants_a_fit_with_texts(task):
    X, y, text = task
    with pytest.raises(NotFittedError):
        CMMClassifier(text).add_class(7, np.ones(10))
    with pytest.raises(ValueError, match="fitted without texts"):
        CMMClassifier().fit(X, y).add_class(7, np.ones(10))
    with pytest.raises(ValueError, match="extra_classes need texts"):
        CMMClassifier(extra_classes=[7]).fit(X, y)


@pytest.mark.parametrize(
    "extra, error, message",
    [
        ([[5, 6]], ValueError, "must be a sequence of class labels"),
        (["elk"], ValueError, "extra_classes and y must hold labels of one kind"),
        ([None], ValueError, "extra_classes must not be missing"),
        ([np.nan], ValueError, "extra_classes must not be missing"),
        ("elk", InvalidParameterError, "extra_classes"),
        (7, InvalidParameterError, "extra_classes"),
        ([5], ValueError, "text_features has 5 rows, but y has 6 classes"),
    ],
)
def test_extra_classes_are_checked(task, extra, error, message):
    X, y, text = task
    with pytest.raises(error, match=message):
        CMMClassifier(text, extra_classes=extra).fit(X, y)


def test_a_text_that_an_extra_class_lacks_is_named(task):
    X, y, text = task
    with pytest.raises(ValueError, match=r"lacks the classes \[7\]"):
        CMMClassifier(dict(enumerate(text)), extra_classes=[7]).fit(X, y)


def test_classifiers_without_a_map_of_texts_have_no_extra_classes():
    assert "extra_classes" not in TipAdapterClassifier().get_params()
    assert not hasattr(TipAdapterClassifier(), "add_class")


def test_a_name_that_is_the_same_to_the_encoder_is_told(embedded):
    X, y = embedded
    kind = str(y[0])
    for name in (kind.title(), kind.replace(" ", "_"), f" {kind} "):
        with pytest.warns(UserWarning, match="the same to the model") as caught:
            CMMClassifier().fit(X, y).add_class(name)
        assert repr(name) in str(caught[0].message)
        assert repr(str(y[0])) in str(caught[0].message)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        CMMClassifier().fit(X, y).add_class("plain moon")
