"""Images that cannot be read, in a pipeline that goes on: left out, and unanswered."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier, MultiLabelPrototypeClassifier
from skfewshot.clip import EmbeddingArray, EncoderIdentity
from skfewshot.datasets import make_object_images, make_scenes

KINDS = ["striped star", "plain heart", "checked ring"]
BROKEN = [0, 7, 11]
UNREAD = "ignore:.*of the images could not be read"


@pytest.fixture(scope="module")
def data():
    return make_object_images(6, kinds=KINDS, random_state=0)


@pytest.fixture(scope="module")
def images(data):
    """Images of which some cannot be read."""
    found = list(data.images)
    for index in BROKEN:
        found[index] = "missing.png"
    return found


@pytest.fixture(scope="module")
def kept():
    return np.delete(np.arange(18), BROKEN)


def featurizer(**options):
    return CLIPFeaturizer("tiny", on_error="nan", **options)


@pytest.fixture(scope="module")
def X(images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return featurizer().fit_transform(images)


@pytest.mark.filterwarnings(UNREAD)
def test_a_pipeline_goes_on(data, images, kept):
    model = make_pipeline(featurizer(), CMMClassifier()).fit(images, data.labels)
    expected = clone(model).fit([images[i] for i in kept], data.labels[kept])
    found = model.predict_proba(images)
    assert np.isnan(found[BROKEN]).all()
    np.testing.assert_allclose(
        found[kept], expected.predict_proba(data.images)[kept], atol=1e-5
    )
    labels = model.predict(images)
    assert [labels[i] for i in BROKEN] == [None] * 3
    assert labels[kept].tolist() == expected.predict(data.images)[kept].tolist()
    whole = model.predict(data.images)
    assert whole.dtype == data.labels.dtype, "as ever where all can be read"
    shares = model.score(images, data.labels)
    assert shares == np.mean(labels[kept] == data.labels[kept])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_classifier(classifier, data, X, kept):
    classifier.set_params(text_features=None)
    if "max_iter" in classifier.get_params():
        classifier.set_params(max_iter=3)
    rows = EmbeddingArray(X[kept], X.encoder)
    expected = clone(classifier).fit(rows, data.labels[kept]).predict_proba(rows)
    model = classifier.fit(X, data.labels)
    for method in ("predict_proba", "decision_function", "predict_log_proba"):
        found = getattr(model, method)(X)
        assert np.isnan(found).any(axis=1).nonzero()[0].tolist() == BROKEN
    np.testing.assert_allclose(model.predict_proba(X)[kept], expected, atol=1e-5)
    assert model.predict(X)[BROKEN].tolist() == [None] * 3


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([3, 5, 9], np.float64),
        ([3.0, 5.0, 9.0], np.float64),
        (["a", "b", "c"], object),
        ([True, False, True], object),
    ],
)
def test_what_a_missing_prediction_is(data, X, labels, kind, kept):
    y = np.array(labels)[np.unique(data.labels, return_inverse=True)[1]]
    model = CMMClassifier(text_features=None).fit(X, y)
    found = model.predict(X)
    assert found.dtype == kind
    assert all(label is None or label != label for label in found[BROKEN])
    assert set(found[kept].tolist()) <= set(labels)
    assert 0 <= model.score(X, y) <= 1
    whole = model.predict(X[kept])
    assert whole.dtype == y.dtype


def test_weights_and_groups_go_along(data, X, kept):
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2, 18)
    groups = 2 * np.unique(data.labels, return_inverse=True)[1] + np.arange(18) % 2
    model = CMMClassifier(text_features=None)
    rows = EmbeddingArray(X[kept], X.encoder)
    expected = clone(model).fit(
        rows, data.labels[kept], weight[kept], groups=groups[kept]
    )
    found = model.fit(X, data.labels, weight, groups=groups)
    np.testing.assert_allclose(
        found.predict_proba(rows), expected.predict_proba(rows), atol=1e-6
    )
    scores = [
        model.score(X, data.labels, weight),
        model.score(rows, data.labels[kept], weight[kept]),
    ]
    assert scores[0] == scores[1]
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(X, data.labels, weight[:5])


@pytest.mark.filterwarnings(UNREAD)
def test_searches(data, images, X):
    model = make_pipeline(featurizer(), CMMClassifier(text_features=None))
    assert np.isfinite(cross_val_score(model, images, data.labels, cv=3)).all()
    search = GridSearchCV(CMMClassifier(text_features=None), {"alpha": ["auto", 1.0]})
    search.fit(X, data.labels)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_class_without_images_is_told_of(data, X):
    y = data.labels.copy()
    y[BROKEN] = "lost"
    with pytest.warns(UserWarning, match=r"classes \['lost'\]: they are left out"):
        model = CMMClassifier(text_features=None).fit(X, y)
    assert "lost" not in model.classes_


def test_nothing_to_learn_from(data, X):
    rows = EmbeddingArray(X[BROKEN], X.encoder)
    with pytest.raises(ValueError, match="None of the 3 images.*check_images"):
        CMMClassifier().fit(rows, ["a", "b", "a"])
    model = CMMClassifier(text_features=None).fit(X, data.labels)
    assert np.isnan(model.predict_proba(rows)).all()
    with pytest.raises(ValueError, match="nothing to score"):
        model.score(rows, data.labels[BROKEN])


def test_nan_of_others_stays_an_error(data, X):
    plain = np.array(X)
    model = CMMClassifier(text_features=None)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(plain, data.labels)
    model.fit(X, data.labels)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(plain)
    partly = np.array(X)
    partly[BROKEN] = partly[1]
    partly[3, 5] = np.nan
    encoder = EncoderIdentity("a", None, "b", X.shape[1], 100.0)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(EmbeddingArray(partly, encoder), data.labels)


@pytest.mark.filterwarnings(UNREAD)
@pytest.mark.parametrize("output", ["tokens", "embedding"])
def test_several_labels(output):
    scenes = make_scenes(24, kinds=KINDS, max_objects=2, random_state=0)
    images = list(scenes.images)
    images[2] = images[9] = b"broken"
    kept = np.delete(np.arange(24), [2, 9])
    classifier = MultiLabelPrototypeClassifier(label_names=KINDS)
    model = make_pipeline(featurizer(output=output), classifier)
    model.fit(images, scenes.labels)
    expected = clone(model).fit([images[i] for i in kept], scenes.labels[kept])
    found = model.predict_proba(images)
    assert np.isnan(found).all(axis=1).nonzero()[0].tolist() == [2, 9]
    wanted = expected.predict_proba(scenes.images)[kept]
    np.testing.assert_allclose(found[kept], wanted, atol=1e-5)
    predicted = model.predict(images)
    assert np.isnan(predicted).all(axis=1).nonzero()[0].tolist() == [2, 9]
    assert np.isin(predicted[kept], (0, 1)).all()
    assert model.predict(scenes.images).dtype == np.int64
    assert model.score(images, scenes.labels) == model.score(
        [images[i] for i in kept], scenes.labels[kept]
    )
    Z = model[0].transform(images)
    evidence = model[1].explain(Z)
    assert np.isnan(evidence[[2, 9]]).all()
    assert not np.isnan(evidence[kept]).any()
    names = np.where(scenes.labels[:, 0] == 1, "with", "without")
    model[1].set_params(label_names=None, label_features=None).fit(Z, names)
    assert model[1].predict(Z)[[2, 9]].tolist() == [None, None]


def test_a_batch_is_answered_without_them(data, X, kept):
    model = CMMClassifier().fit(X, data.labels)
    alone = model.transduce_proba(EmbeddingArray(X[kept], X.encoder))
    found = model.transduce_proba(X)
    assert np.isnan(found[BROKEN]).all()
    np.testing.assert_allclose(found[kept], alone, atol=1e-6)
    assert found.dtype == alone.dtype == X.dtype
    labels = model.transduce(X)
    assert labels[BROKEN].tolist() == [None] * 3
    assert labels[kept].tolist() == model.classes_[alone.argmax(axis=1)].tolist()
    assert model.transduce(X[BROKEN]).tolist() == [None] * 3
