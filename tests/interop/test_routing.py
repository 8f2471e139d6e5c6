"""Sample weights on their way to fits and scores, with metadata routing on and off."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_array_equal
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline

import skfewshot
from skfewshot import CLIPFeaturizer, CMMClassifier

FOLDS = StratifiedKFold(2)
WEIGHT = np.where(np.arange(24) % 3, 1.0, 0.1)


@pytest.fixture
def routing():
    """Turn metadata routing on."""
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def direct(support):
    """The classifier that the weights should lead to."""
    return CMMClassifier().fit(support.X, support.names, sample_weight=WEIGHT)


def requesting(**params):
    """Return a classifier that asks for weights in fits and scores."""
    model = CMMClassifier(**params).set_fit_request(sample_weight=True)
    return model.set_score_request(sample_weight=True)


@pytest.mark.parametrize(
    "name", [name for name in skfewshot.__all__ if name.endswith("er")]
)
def test_who_can_ask_for_weights(routing, name):
    estimator = getattr(skfewshot, name)()
    if name == "CLIPFeaturizer":
        assert not hasattr(estimator, "set_fit_request")
        return
    estimator.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    requested = estimator.get_metadata_routing()
    assert requested.fit.requests.pop("groups", None) is None
    assert requested.fit.requests == {"sample_weight": True}
    assert requested.score.requests == {"sample_weight": True}


@pytest.mark.parametrize(
    "has_scorer", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_grid_search_over_a_pipeline(routing, support, direct, has_scorer):
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    scoring = scorer if has_scorer else None
    model = Pipeline([("clip", CLIPFeaturizer("tiny")), ("cmm", requesting())])
    search = GridSearchCV(model, {"cmm__alpha": ["auto"]}, cv=FOLDS, scoring=scoring)
    search.fit(support.images, support.names, sample_weight=WEIGHT)
    assert_array_equal(search.best_estimator_["cmm"].map_, direct.map_)
    scores = [
        CMMClassifier()
        .fit(support.X[train], support.names[train], sample_weight=WEIGHT[train])
        .score(support.X[test], support.names[test], sample_weight=WEIGHT[test])
        for train, test in FOLDS.split(support.X, support.names)
    ]
    assert search.best_score_ == pytest.approx(np.mean(scores))


def test_weights_that_nobody_asked_for_are_refused(routing, support):
    search = GridSearchCV(CMMClassifier(), {"alpha": ["auto"]}, cv=2)
    with pytest.raises(UnsetMetadataPassedError, match="CMMClassifier.set_fit_request"):
        search.fit(support.X, support.names, sample_weight=WEIGHT)


@pytest.mark.slow
def test_cross_validation(routing, support, by_number):
    X, names, params = support.X, support.names, {"sample_weight": WEIGHT}
    scoring = {
        "weighted": get_scorer("accuracy").set_score_request(sample_weight=True),
        "plain": get_scorer("neg_log_loss").set_score_request(sample_weight=False),
    }
    scores = cross_validate(
        requesting(), X, names, cv=FOLDS, params=params, scoring=scoring
    )
    probabilities = cross_val_predict(
        requesting(class_names=by_number),
        X,
        names,
        cv=FOLDS,
        params=params,
        method="predict_proba",
    )
    for i, (train, test) in enumerate(FOLDS.split(X, names)):
        model = CMMClassifier().fit(X[train], names[train], sample_weight=WEIGHT[train])
        weighted = model.score(X[test], names[test], sample_weight=WEIGHT[test])
        assert scores["test_weighted"][i] == pytest.approx(weighted)
        np.testing.assert_allclose(
            probabilities[test], model.predict_proba(X[test]), atol=1e-5
        )
    curve = learning_curve(
        requesting(), X, names, train_sizes=[1.0], cv=FOLDS, params=params
    )
    np.testing.assert_allclose(curve[2][0], scores["test_weighted"])


@pytest.mark.slow
def test_meta_estimators(routing, support, direct, by_number):
    X, names = support.X, support.names
    model = requesting(class_names=by_number)
    calibrated = CalibratedClassifierCV(model, cv=2, ensemble=False)
    stacked = StackingClassifier(
        [("cmm", model)],
        final_estimator=LogisticRegression().set_fit_request(sample_weight=True),
        cv=2,
    )
    voting = VotingClassifier([("cmm", model)])
    several = MultiOutputClassifier(model)
    calibrated.fit(X, names, sample_weight=WEIGHT)
    for found in (
        calibrated.calibrated_classifiers_[0].estimator,
        stacked.fit(X, names, sample_weight=WEIGHT).estimators_[0],
        voting.fit(X, names, sample_weight=WEIGHT).estimators_[0],
        several.fit(X, names[:, None], sample_weight=WEIGHT).estimators_[0],
    ):
        assert_array_equal(found.map_, direct.map_)


@pytest.mark.slow
@pytest.mark.parametrize("is_routing", [True, False])
def test_bagging_draws_by_the_weights(support, by_number, clip, is_routing):
    weight = np.where(np.arange(24) < 12, 1.0, 0.0)
    with sklearn.config_context(enable_metadata_routing=is_routing):
        base = CMMClassifier(class_names=by_number, text_encoder=clip)
        base = base.set_fit_request(sample_weight=True) if is_routing else base
        bags = BaggingClassifier(base, n_estimators=3, random_state=0)
        bags.fit(support.X, support.names, sample_weight=weight)
    assert max(rows.max() for rows in bags.estimators_samples_) < 12


@pytest.mark.slow
def test_without_routing(support, direct, by_number):
    """Weights go to the fit of the classifier; scores have none."""
    search = GridSearchCV(CMMClassifier(), {"alpha": ["auto"]}, cv=FOLDS)
    search.fit(support.X, support.names, sample_weight=WEIGHT)
    assert_array_equal(search.best_estimator_.map_, direct.map_)
    voting = VotingClassifier([("cmm", CMMClassifier(class_names=by_number))])
    voting.fit(support.X, support.names, sample_weight=WEIGHT)
    assert_array_equal(voting.estimators_[0].map_, direct.map_)
    model = CMMClassifier(class_names=by_number)
    calibrated = CalibratedClassifierCV(model, cv=2, ensemble=False)
    calibrated.fit(support.X, support.names, sample_weight=WEIGHT)
    found = calibrated.calibrated_classifiers_[0].estimator
    assert_array_equal(found.map_, direct.map_)
    stacked = StackingClassifier([("cmm", model)], cv=2)
    stacked.fit(support.X, support.names, sample_weight=WEIGHT)
    assert_array_equal(stacked.estimators_[0].map_, direct.map_)
    several = MultiOutputClassifier(CMMClassifier())
    several.fit(support.X, support.names[:, None], sample_weight=WEIGHT)
    assert_array_equal(several.estimators_[0].map_, direct.map_)
