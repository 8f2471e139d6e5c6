"""Images and tokens to labels inside what scikit-learn users build."""

import pickle

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
from skfewshot.datasets import make_scenes
from skfewshot.metrics import mean_average_precision_scorer
from skfewshot.model_selection import MultilabelStratifiedKFold, sample_support

KINDS = ["striped star", "plain heart", "spotted ring", "checked square"]


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(24, kinds=KINDS, random_state=0)


@pytest.fixture(scope="module")
def fitted(scenes):
    return make_model().fit(scenes.images, scenes.labels)


@pytest.fixture(scope="module")
def tokens(scenes):
    return CLIPFeaturizer("tiny", output="tokens").fit_transform(scenes.images)


def make_model(**params):
    params = {"label_names": KINDS, **params}
    return Pipeline(
        [
            ("clip", CLIPFeaturizer("tiny", output="tokens")),
            ("labels", MultiLabelPrototypeClassifier(**params)),
        ]
    )


def pick(data, n_labels):
    """Keep the first labels, and the images that have one of them."""
    Y = data.Y[:, :n_labels]
    kept = Y.any(axis=1)
    return data.X[kept], Y[kept], data.text[:n_labels]


# From images


@pytest.mark.slow
def test_a_pipeline_from_images_to_labels_goes_through_grid_search(scenes):
    search = GridSearchCV(
        make_model(),
        {"labels__n_select": [1, 5], "labels__selection": ["lcm", "text"]},
        scoring=mean_average_precision_scorer,
        cv=MultilabelStratifiedKFold(2),
        error_score="raise",
    )
    search.fit(scenes.images, scenes.labels)
    assert search.best_estimator_["labels"].prototype_source_ == "embedding"
    queries = make_scenes(40, kinds=KINDS, random_state=1)
    found = search.score(queries.images, queries.labels)
    assert found > queries.labels.mean() + 0.1
    predicted = search.predict(queries.images)
    assert predicted.shape == (40, 4)
    assert 0 < predicted.mean() < 1


def test_automatic_label_vectors_are_those_of_the_encoder(scenes, fitted, tokens):
    model = fitted
    clip = CLIPFeaturizer("tiny")
    texts = np.asarray(clip.encode_classes(KINDS))
    centred = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    centred = centred - (1 - 1 / len(centred)) * centred.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    assert_allclose(model["labels"].label_vectors_, centred, atol=1e-5)
    assert model["labels"].encoder_ == tokens.encoder
    with pytest.warns(UserWarning, match="label_names was not given"):
        make_model(label_names=None).fit(scenes.images, scenes.labels)


def test_tokens_may_be_a_plain_array(fitted, tokens):
    model = fitted["labels"]
    assert_array_equal(model.predict(tokens), model.predict(np.asarray(tokens)))


def test_evidence_maps_have_the_shape_of_the_patches(fitted, tokens):
    maps = fitted["labels"].explain(tokens)
    assert maps.shape == (24, 4, tokens.shape[1] - 1)
    assert np.isfinite(maps).all()


def test_a_support_by_shots(scenes):
    rows = sample_support(scenes.labels, 2, random_state=0)
    model = make_model().fit(scenes.images[rows], scenes.labels[rows])
    assert model.predict_proba(scenes.images).shape == (24, 4)


# From tokens


@pytest.mark.parametrize("n_labels", [2, 6])
@pytest.mark.parametrize("method", ["predict_proba", "decision_function", "predict"])
def test_cross_val_predict(planted, method, n_labels):
    X, Y, text = pick(planted(30), n_labels)
    model = MultiLabelPrototypeClassifier(text)
    folds = MultilabelStratifiedKFold(2)
    predicted = cross_val_predict(model, X, Y, cv=folds, method=method)
    expected = np.empty((len(X), n_labels))
    for train, test in folds.split(X, Y):
        expected[test] = getattr(model.fit(X[train], Y[train]), method)(X[test])
    assert_array_equal(predicted, expected)


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize(
    ("scoring", "metric", "method"),
    [
        ("average_precision", average_precision_score, "decision_function"),
        ("roc_auc", roc_auc_score, "decision_function"),
        ("f1_macro", lambda y, p: f1_score(y, p, average="macro"), "predict"),
        (
            mean_average_precision_scorer,
            average_precision_score,
            "decision_function",
        ),
    ],
)
def test_scorers(planted, scoring, metric, method, n_labels):
    X, Y, text = pick(planted(36), n_labels)
    model = MultiLabelPrototypeClassifier(text)
    folds = MultilabelStratifiedKFold(2)
    found = cross_val_score(model, X, Y, scoring=scoring, cv=folds, error_score="raise")
    expected = []
    for train, test in folds.split(X, Y):
        model.fit(X[train], Y[train])
        expected.append(metric(Y[test], getattr(model, method)(X[test])))
    assert_allclose(found, expected, rtol=1e-9)


def test_one_label_an_image_in_stratified_folds(planted):
    data = planted(30, most_labels=1)
    y = data.Y.argmax(axis=1)
    model = MultiLabelPrototypeClassifier(data.text)
    scores = cross_val_score(
        model, data.X, y, cv=StratifiedKFold(2), scoring="roc_auc_ovr"
    )
    assert scores.mean() > 0.9
    accuracy = cross_val_score(model, data.X, y, cv=2)
    assert accuracy.mean() > 0.8
    two = y < 2
    margin = cross_val_score(
        MultiLabelPrototypeClassifier(data.text[:2]),
        data.X[two],
        y[two],
        cv=StratifiedKFold(2),
        scoring="average_precision",
    )
    assert margin.mean() > 0.8


def test_score_is_the_accuracy_of_whole_rows(planted):
    data = planted(24)
    model = MultiLabelPrototypeClassifier(data.text).fit(data.X, data.Y)
    exact = (model.predict(data.X) == data.Y).all(axis=1).mean()
    assert model.score(data.X, data.Y) == pytest.approx(exact)


@pytest.mark.slow  # the workers import torch
def test_grid_search_in_workers(planted):
    data = planted(18)
    alone, together = (
        GridSearchCV(
            MultiLabelPrototypeClassifier(data.text),
            {"query_scoring": ["competitive", "global"]},
            scoring=mean_average_precision_scorer,
            cv=MultilabelStratifiedKFold(2),
            n_jobs=n_jobs,
            error_score="raise",
        ).fit(data.X, data.Y)
        for n_jobs in (1, 2)
    )
    assert together.best_params_ == {"query_scoring": "competitive"}
    scores = [s.cv_results_["mean_test_score"] for s in (alone, together)]
    assert_allclose(*scores, rtol=1e-5)


def test_pickle_and_clone(planted):
    data = planted(12)
    model = MultiLabelPrototypeClassifier(data.text, threshold="cardinality")
    model.fit(data.X, data.Y)
    copied = pickle.loads(pickle.dumps(model))
    for output in ("predict", "predict_proba", "explain"):
        assert_array_equal(
            getattr(copied, output)(data.X), getattr(model, output)(data.X)
        )
    for value in vars(model).values():
        assert not type(value).__module__.startswith("torch")
    support = data.X.nbytes
    assert len(pickle.dumps(model)) < support / 2
    fresh = clone(model)
    assert not hasattr(fresh, "prototypes_")
    assert_array_equal(fresh.fit(data.X, data.Y).prototypes_, model.prototypes_)
    assert "MultiLabelPrototypeClassifier" in model._repr_html_()


def test_sample_weight_is_routed(planted):
    data = planted(18)
    weight = np.linspace(0, 2, 18)
    direct = MultiLabelPrototypeClassifier(data.text).fit(
        data.X, data.Y, sample_weight=weight
    )
    unweighted = MultiLabelPrototypeClassifier(data.text).fit(data.X, data.Y)
    assert direct.slope_ != unweighted.slope_
    with sklearn.config_context(enable_metadata_routing=True):
        model = MultiLabelPrototypeClassifier(data.text)
        model.set_fit_request(sample_weight=True)
        routed = make_pipeline(FunctionTransformer(), model)
        routed.fit(data.X, data.Y, sample_weight=weight)
        search = GridSearchCV(
            MultiLabelPrototypeClassifier(data.text).set_fit_request(
                sample_weight=True
            ),
            {"n_select": [5]},
            scoring=clone(mean_average_precision_scorer).set_score_request(
                sample_weight=False
            ),
            cv=MultilabelStratifiedKFold(2),
        ).fit(data.X, data.Y, sample_weight=weight)
    assert_array_equal(routed[-1].prototypes_, direct.prototypes_)
    assert routed[-1].slope_ == direct.slope_
    assert search.best_estimator_.slope_ == direct.slope_


# The common checks on tokens


def as_tokens(X):
    """Make three tokens of each row: it itself, once more, and shorter."""
    return np.stack([X, X, X / 2], axis=1)


def make_token_model(**params):
    return make_pipeline(
        FunctionTransformer(as_tokens, validate=True),
        MultiLabelPrototypeClassifier(**params),
    )


#: Pipeline fits its steps in place, so these fail whatever the steps are; scikit-learn
#: lists them for its own pipelines.
PIPELINE_OWN = {"check_dont_overwrite_parameters", "check_estimators_overwrite_params"}
CHECKS = [
    check
    for _, check in estimator_checks_generator(make_token_model())
    if check.func.__name__ not in PIPELINE_OWN
]


@pytest.mark.parametrize(
    "params",
    [
        {},
        pytest.param({"query_scoring": "both", "n_select": 1}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_common_checks_on_3d_tokens(check, params):
    check(make_token_model(**params))


def test_the_checks_of_several_labels_are_among_them():
    names = {check.func.__name__ for check in CHECKS}
    assert {name for name in names if "multilabel" in name}
    assert len(CHECKS) > 50
