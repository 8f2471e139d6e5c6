"""Images to predictions inside what scikit-learn users build: real compositions."""

import multiprocessing
import os
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from joblib import Parallel, delayed
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report, log_loss, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import Pipeline, make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import make_object_images

KINDS = ["striped star", "plain heart", "checked ring"]


@pytest.fixture(scope="module")
def support():
    return make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)


@pytest.fixture(scope="module")
def query():
    return make_object_images(15, kinds=KINDS, random_state=1, return_X_y=True)


@pytest.fixture(scope="module")
def embedded(support):
    images, names = support
    return CLIPFeaturizer("tiny").fit_transform(images), names


def make_model(**params):
    clip, cmm = CLIPFeaturizer("tiny"), CMMClassifier(**params)
    return Pipeline([("clip", clip), ("cmm", cmm)])


def test_the_two_step_pipeline_learns_from_images_and_names(support, query):
    model = make_model().fit(*support)
    assert model["cmm"].prototype_source_ == "embedding"
    assert_array_equal(model.classes_, sorted(KINDS))
    assert set(model.predict(query[0])) <= set(KINDS)
    assert model.score(*query) > 0.6
    assert log_loss(query[1], model.predict_proba(query[0])) < np.log(3)
    assert (
        roc_auc_score(query[1], model.predict_proba(query[0]), multi_class="ovr") > 0.7
    )
    report = classification_report(query[1], model.predict(query[0]), output_dict=True)
    assert set(KINDS) <= set(report)


def test_automatic_texts_are_those_of_the_encoder(support, embedded):
    clip = CLIPFeaturizer("tiny")
    texts = np.asarray(clip.encode_classes(sorted(KINDS)))
    automatic = make_model().fit(*support)["cmm"]
    assert_allclose(automatic.text_features_, texts, atol=1e-6)
    assert automatic.logit_scale_ == pytest.approx(clip.fit(support[0]).logit_scale_)
    given = CMMClassifier(text_encoder=clip).fit(np.asarray(embedded[0]), embedded[1])
    assert given.prototype_source_ == "text_encoder"
    assert given.logit_scale_ == automatic.logit_scale_
    assert_allclose(given.text_features_, texts, atol=1e-6)


def test_templates_of_the_featurizer_reach_the_classifier(support):
    images, names = support
    clip = CLIPFeaturizer("tiny", prompt_templates=["a drawing of a {}."])
    model = make_pipeline(clip, CMMClassifier()).fit(images, names)
    expected = np.asarray(clip.encode_classes(sorted(KINDS)))
    assert_allclose(model[-1].text_features_, expected, atol=1e-6)
    own = make_pipeline(clip, CMMClassifier(prompt_templates="one {}")).fit(*support)
    expected = np.asarray(clip.encode_classes(sorted(KINDS), "one {}"))
    assert_allclose(own[-1].text_features_, expected, atol=1e-6)


def test_class_names_give_integer_labels_their_texts(support):
    images, names = support
    codes = np.searchsorted(sorted(KINDS), names)
    model = make_model(class_names=sorted(KINDS)).fit(images, codes)
    by_name = make_model().fit(images, names)
    assert_allclose(model["cmm"].map_, by_name["cmm"].map_, atol=1e-5)
    with pytest.warns(UserWarning, match="class_names was not given"):
        fallen_back = make_model().fit(images, codes)
    assert fallen_back["cmm"].prototype_source_ == "image"


def test_grid_search_over_images(support, query):
    grid = {"cmm__alpha": ["auto", 0.0, 1.0]}
    search = GridSearchCV(make_model(), grid, cv=2, scoring="balanced_accuracy")
    search.fit(*support)
    assert search.score(*query) > 0.6
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()


def test_embeddings_keep_their_encoder_through_cross_validation(embedded):
    X, names = embedded
    scores = cross_val_score(CMMClassifier(), X, names, cv=3, error_score="raise")
    assert scores.mean() > 0.6
    search = GridSearchCV(CMMClassifier(), {"alpha": [1.0]}, cv=3)
    search.fit(X, names)
    assert search.best_estimator_.prototype_source_ == "embedding"
    X_train, X_test, y_train, _ = train_test_split(X, names, random_state=0)
    model = CMMClassifier().fit(X_train, y_train)
    assert model.prototype_source_ == "embedding"
    assert model.predict(X_test).shape == (len(X_test),)


def test_cross_val_predict_with_a_class_missing_from_a_fold(embedded):
    X, names = embedded
    # One row of the third class: the fold that holds it trains on two classes.
    rows = np.flatnonzero(names != KINDS[2])
    rows = np.append(rows, np.flatnonzero(names == KINDS[2])[0])
    folds = StratifiedKFold(2)
    texts = CLIPFeaturizer("tiny").encode_classes(KINDS)
    by_name = dict(zip(KINDS, np.asarray(texts), strict=True))
    for model in (CMMClassifier(), CMMClassifier(by_name)):
        with pytest.warns(UserWarning, match="least populated class"):
            predicted = cross_val_predict(model, X[rows], names[rows], cv=folds)
        assert (predicted == names[rows]).mean() > 0.6


def test_sample_weight_is_routed_through_the_pipeline(support):
    images, names = support
    weight = np.linspace(0.0, 2.0, len(names))
    by_step = make_model().fit(images, names, cmm__sample_weight=weight)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = Pipeline(
            [
                ("clip", CLIPFeaturizer("tiny")),
                ("cmm", CMMClassifier().set_fit_request(sample_weight=True)),
            ]
        )
        routed.fit(images, names, sample_weight=weight)
    assert_array_equal(by_step["cmm"].map_, routed["cmm"].map_)
    assert (
        np.abs(by_step["cmm"].map_ - make_model().fit(*support)["cmm"].map_).max() > 0
    )


def test_set_output_names_the_mapped_features(embedded):
    X, names = embedded
    model = CMMClassifier().set_output(transform="pandas").fit(X, names)
    mapped = model.transform(X)
    assert isinstance(mapped, pd.DataFrame)
    assert mapped.columns[0] == "cmmclassifier0"
    assert mapped.shape == X.shape


def test_data_frames_of_embeddings_do_not_lose_the_texts_silently(support):
    model = make_model()
    model["clip"].set_output(transform="pandas")
    with pytest.warns(UserWarning, match="does not know its encoder"):
        model.fit(*support)
    model.set_params(cmm__text_encoder=CLIPFeaturizer("tiny")).fit(*support)
    assert model["cmm"].prototype_source_ == "text_encoder"


def test_meta_estimators(embedded, query):
    X, names = embedded
    Q = CLIPFeaturizer("tiny").transform(query[0])
    voting = VotingClassifier(
        [("cmm", CMMClassifier()), ("probe", LogisticRegression())], voting="soft"
    )
    assert voting.fit(X, names).score(Q, query[1]) > 0.6
    calibrated = CalibratedClassifierCV(CMMClassifier(), cv=2).fit(X, names)
    assert calibrated.predict_proba(Q).shape == (len(Q), 3)


@pytest.mark.slow
def test_joblib_workers_agree(embedded):
    X, names = embedded

    def fit(alpha):
        return CMMClassifier(alpha=alpha).fit(X, names).predict_proba(X)

    alone = [fit(alpha) for alpha in (0.5, 1.0)]
    together = Parallel(n_jobs=2)(delayed(fit)(alpha) for alpha in (0.5, 1.0))
    assert_allclose(together, alone, atol=1e-5)


def test_clone_and_html(support):
    model = make_model(text_encoder=CLIPFeaturizer("tiny")).fit(*support)
    copied = clone(model)
    assert not hasattr(copied["cmm"], "map_")
    assert copied["cmm"].text_encoder.model_name == "tiny"
    assert copied.set_params(cmm__text_encoder__batch_size=8)["cmm"].text_encoder
    assert "CMMClassifier" in model._repr_html_()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_fit(embedded):
    X, names = embedded
    expected = CMMClassifier().fit(X, names).predict_proba(X)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        fitted = pool.apply_async(CMMClassifier().fit, (X, names)).get(timeout=60)
    assert_allclose(fitted.predict_proba(X), expected, atol=1e-4)


@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, pd.DataFrame])
def test_a_lost_encoder_is_told_of(embedded, form):
    X, names = embedded
    plain = form(np.asarray(X))
    with pytest.warns(UserWarning, match="X does not know its encoder") as caught:
        model = CMMClassifier().fit(plain, names)
    assert model.prototype_source_ == "image"
    assert [warning.filename for warning in caught] == [__file__]
    for quiet in (CMMClassifier(None), CMMClassifier(text_encoder=lambda _: X[::6])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quiet.fit(plain, names)
