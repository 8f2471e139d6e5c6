"""What is of none of the classes scores high, and alarms are as many as asked."""

import pickle

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import estimator_checks_generator

import skfewshot
from skfewshot import (
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    TipAdapterClassifier,
)
from skfewshot.datasets import make_object_images
from skfewshot.inspection import (
    RejectingClassifier,
    novelty_score,
    novelty_threshold,
)
from skfewshot.persistence import TRUSTED_TYPES


def test_the_score_is_that_of_the_equation(classifier, task):
    model = clone(classifier).set_params(text_features=task.text)
    if "max_iter" in model.get_params():
        model.set_params(max_iter=5)
    model.fit(task.X, task.y)
    logits = model.decision_function(task.queries)
    expected = 0.5 * logits.mean(axis=1) - logits.max(axis=1)
    assert_allclose(novelty_score(model, task.queries), expected, rtol=1e-6)


def test_of_two_classes_all_logits_count(task):
    few = task.y < 2
    model = TipAdapterClassifier(task.text[:2]).fit(task.X[few], task.y[few])
    scores = novelty_score(model, task.queries)
    one = np.log(model.predict_proba(task.queries)).max(axis=1)
    assert scores.shape == (320,)
    assert not np.allclose(scores, -one)


def test_other_classes_are_newer(kind, task):
    model = kind(task.text).fit(task.X, task.y)
    scores = novelty_score(model, np.vstack([task.queries, task.others]))
    assert roc_auc_score(np.arange(640) >= 320, scores) > 0.7


@pytest.mark.parametrize("false_alarms", [0.05, 0.2])
def test_alarms_are_as_many_as_asked(kind, false_alarms, make_inspected):
    found = []
    for seed in range(3):
        task = make_inspected(30, 8, seed, noise=1.2)
        model = kind(task.text, store_left_out=True).fit(task.X, task.y)
        threshold = novelty_threshold(model, false_alarms=false_alarms)
        found.append((novelty_score(model, task.queries) > threshold).mean())
    assert np.mean(found) == pytest.approx(false_alarms, abs=0.04)


def test_the_threshold_is_a_quantile_of_rows_left_out(task):
    model = CMMClassifier(task.text, store_left_out=True).fit(task.X, task.y)
    threshold = novelty_threshold(model, false_alarms=0.25)
    # 75 % of 64 and one more: the 49th.
    assert threshold == np.sort(model.left_out_novelty_)[48]
    with pytest.warns(UserWarning, match="false_alarms=0.01 takes 99 images, and the"):
        highest = novelty_threshold(model, false_alarms=0.01)
    assert highest == model.left_out_novelty_.max()
    with pytest.raises(ValueError, match="false_alarms must be above 0 and below 1"):
        novelty_threshold(model, false_alarms=0)
    with pytest.raises(ValueError, match="fit it with store_left_out=True"):
        novelty_threshold(CMMClassifier(task.text).fit(task.X, task.y))


@pytest.mark.parametrize("model", ["cmm", CMMClassifier, None])
def test_what_is_no_model(model, task):
    with pytest.raises(TypeError, match="model must be a fitted classifier of skfew"):
        novelty_score(model, task.queries)


def test_models_that_are_not_fitted_or_wrapped(task):
    from sklearn.exceptions import NotFittedError

    model = CMMClassifier(task.text)
    pipeline = make_pipeline(Normalizer(), model)
    search = GridSearchCV(pipeline, {"cmmclassifier__alpha": ["auto"]}, cv=2)
    for unfitted in (model, pipeline, search):
        with pytest.raises(NotFittedError):
            novelty_score(unfitted, task.queries)
    expected = novelty_score(clone(model).fit(task.X, task.y), task.queries)
    search.fit(task.X, task.y)
    frozen = FrozenEstimator(search.best_estimator_)
    for fitted in (search, frozen, search.best_estimator_):
        assert_allclose(novelty_score(fitted, task.queries), expected)


# The classifier that says so


def test_unknown_takes_the_place_of_a_class(kind, task):
    names = np.array(list("hgfedcba"))
    texts = dict(zip(names, task.text, strict=True))
    model = RejectingClassifier(kind(texts), false_alarms=0.1)
    model.fit(task.X, names[task.y])
    plain = kind(texts).fit(task.X, names[task.y])
    rows = np.vstack([task.queries, task.others])
    found = model.predict(rows)
    is_new = novelty_score(plain, rows) > model.threshold_
    assert_array_equal(found == "unknown", is_new)
    assert_array_equal(found[~is_new], plain.predict(rows)[~is_new])
    assert_array_equal(model.classes_, plain.classes_)
    assert_array_equal(model.predict_proba(rows), plain.predict_proba(rows))
    assert_array_equal(model.predict_log_proba(rows), plain.predict_log_proba(rows))
    assert_array_equal(model.decision_function(rows), plain.decision_function(rows))
    assert is_new[320:].mean() > 3 * is_new[:320].mean()
    assert model.n_features_in_ == 32
    assert not model.estimator.store_left_out  # which is the user's
    truth = np.append(names[task.truth], np.full(320, "unknown"))
    assert model.score(rows, truth) == (found == truth).mean()


@pytest.mark.parametrize(
    ("labels", "unknown", "expected"),
    [
        (np.arange(8), None, -1),
        (np.arange(8), 99, 99),
        (np.arange(8, dtype=np.uint8), None, -1),
        (np.arange(8) - 3, None, -4),
        (np.arange(8.0), None, -1.0),
        (np.array(list("abcdefgh")), "something else", "something else"),
        (np.array(list("abcdefgh"), object), None, "unknown"),
    ],
)
def test_what_unknown_is_called(labels, unknown, expected, task):
    model = RejectingClassifier(CMMClassifier(task.text), unknown=unknown)
    found = model.fit(task.X, labels[task.y]).predict(task.others)
    assert model.unknown_ == expected
    assert set(found) <= {*labels.tolist(), expected} and expected in found
    assert found.dtype.kind == labels.dtype.kind.replace("u", "i")


@pytest.mark.parametrize(
    ("unknown", "message"),
    [
        ("unknown", "must hold labels of one kind"),
        (3, "unknown=3 is already one of the classes"),
        ([9], "unknown must be one class label"),
    ],
)
def test_what_unknown_may_not_be_called(unknown, message, task):
    model = RejectingClassifier(CMMClassifier(task.text), unknown=unknown)
    with pytest.raises(ValueError, match=message):
        model.fit(task.X, task.y)


def test_rows_without_a_label_are_not_called_unknown(task):
    y = np.where(np.arange(len(task.y)) % 4 == 0, -1, task.y)
    cmm = CMMClassifier(dict(enumerate(task.text)), unlabeled=-1)
    model = RejectingClassifier(cmm).fit(task.X, y)
    assert model.unknown_ == -2
    assert set(model.predict(task.others)) & {-2} and -1 not in model.predict(task.X)
    with pytest.raises(ValueError, match="unknown=-1 is what unlabeled= calls rows"):
        RejectingClassifier(cmm, unknown=-1).fit(task.X, y)


def test_what_cannot_be_rejected_by(task):
    model = RejectingClassifier(TipAdapterClassifier(task.text))
    with pytest.raises(ValueError, match="TipAdapterClassifier does not know"):
        model.fit(task.X, task.y)
    with pytest.raises(ValueError, match="false_alarms"):
        RejectingClassifier(CMMClassifier(), false_alarms=1.0).fit(task.X, task.y)


def test_what_is_fitted_already(task):
    fitted = CMMClassifier(task.text, store_left_out=True).fit(task.X, task.y)
    model = RejectingClassifier(FrozenEstimator(fitted)).fit(task.X, task.y)
    expected = RejectingClassifier(CMMClassifier(task.text)).fit(task.X, task.y)
    assert_array_equal(model.predict(task.others), expected.predict(task.others))
    without = FrozenEstimator(CMMClassifier(task.text).fit(task.X, task.y))
    with pytest.raises(ValueError, match="fit it with store_left_out=True"):
        RejectingClassifier(without).fit(task.X, task.y)


def test_in_and_round_pipelines_and_searches():
    kinds = ["striped star", "plain heart", "checked ring"]
    images, names = make_object_images(10, kinds=kinds, random_state=0, return_X_y=True)
    others = make_object_images(5, kinds=["spotted ball"], random_state=1).images
    clip, cmm = CLIPFeaturizer("tiny"), CMMClassifier()
    inside = make_pipeline(clip, RejectingClassifier(cmm)).fit(images, names)
    outside = RejectingClassifier(make_pipeline(clip, cmm)).fit(images, names)
    assert inside[-1].estimator_.prototype_source_ == "embedding"
    assert_array_equal(inside.predict(others), outside.predict(others))
    assert (inside.predict(others) == "unknown").mean() > 0.5
    scores = cross_val_score(inside, images, names, cv=3)
    assert scores.mean() > 0.7
    search = GridSearchCV(
        RejectingClassifier(CMMClassifier()), {"estimator__alpha": [0.5, "auto"]}, cv=2
    )
    search.fit(clip.fit_transform(images), names)
    assert set(search.predict(clip.transform(others))) <= {*kinds, "unknown"}
    # Refused before anything is embedded.
    with pytest.raises(ValueError, match="at least 2 classes"):
        inside.fit(images, ["one"] * 30)


def test_weights_and_groups_reach_the_classifier(task):
    weight = np.where(np.arange(64) % 3, 1.0, 0.0)
    model = RejectingClassifier(CMMClassifier(task.text))
    model.fit(task.X, task.y, sample_weight=weight)
    expected = CMMClassifier(task.text).fit(task.X, task.y, sample_weight=weight)
    assert_array_equal(
        model.predict_proba(task.queries), expected.predict_proba(task.queries)
    )
    with sklearn.config_context(enable_metadata_routing=True):
        asking = CMMClassifier(task.text).set_fit_request(sample_weight=True)
        routed = RejectingClassifier(asking).set_score_request(sample_weight=True)
        routed.fit(task.X, task.y, sample_weight=weight)
        assert routed.threshold_ == model.threshold_
        params = {"sample_weight": weight}
        scores = cross_val_score(routed, task.X, task.y, cv=2, params=params)
        assert (scores > 0.5).all()


def test_images_that_could_not_be_read(tmp_path):
    kinds = ["striped star", "plain heart"]
    images, names = make_object_images(12, kinds=kinds, random_state=0, return_X_y=True)
    (tmp_path / "broken.png").write_bytes(b"none")
    model = make_pipeline(
        CLIPFeaturizer("tiny", on_error="nan"), RejectingClassifier(CMMClassifier())
    ).fit(images, names)
    with pytest.warns(UserWarning, match="could not be read"):
        found = model.predict([images[0], str(tmp_path / "broken.png")])
    assert found[0] == names[0] and found[1] is None
    with pytest.warns(UserWarning, match="could not be read"):
        assert model.score([images[0], str(tmp_path / "broken.png")], names[:2]) == 1


def test_saved_and_loaded(task):
    names = np.array(list("abcdefgh"), object)
    model = RejectingClassifier(CMMClassifier(task.text)).fit(task.X, names[task.y])
    rows = np.vstack([task.queries, task.others])
    expected = model.predict(rows)
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.predict(rows), expected)
    skops = pytest.importorskip("skops.io")
    loaded = skops.loads(skops.dumps(model), trusted=list(TRUSTED_TYPES))
    assert_array_equal(loaded.predict(rows), expected)
    assert loaded.threshold_ == model.threshold_


FEW = RejectingClassifier(GaussianDiscriminantClassifier(), false_alarms=1e-6)
#: That `predict` is the most probable class everywhere; and that an error names
#: `sample_weight`, which it has no parameter of.
NOT_MEANT = {
    *("check_classifiers_train", "check_classifiers_classes"),
    "check_classifiers_one_label_sample_weights",
}


@pytest.mark.filterwarnings("ignore:false_alarms=")
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=check.func.__name__)
        for _, check in estimator_checks_generator(FEW)
        if check.func.__name__ not in NOT_MEANT
    ],
)
def test_common_checks(check):
    check(clone(FEW))


def test_it_is_no_surprise_at_the_top():
    assert "inspection" in dir(skfewshot)
