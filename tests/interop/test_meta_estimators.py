"""scikit-learn's meta-estimators, with the texts where they should be."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    TunedThresholdClassifierCV,
    cross_val_predict,
)
from sklearn.multiclass import (
    OneVsOneClassifier,
    OneVsRestClassifier,
    OutputCodeClassifier,
)
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier

from skfewshot import (
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    ZeroShotClassifier,
)


def sources(estimators):
    return {estimator.prototype_source_ for estimator in estimators}


# Calibration


@pytest.mark.parametrize(
    "ensemble", [pytest.param(True, marks=pytest.mark.slow), False]
)
@pytest.mark.parametrize(
    "method",
    [
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("sigmoid", "isotonic")),
        "temperature",
    ],
)
def test_calibration(support, query, by_number, method, ensemble):
    """Some of its ways number the classes before they fit, and others do not."""
    model = CalibratedClassifierCV(
        CMMClassifier(class_names=by_number), method=method, ensemble=ensemble, cv=3
    ).fit(support.X, support.names)
    fitted = [each.estimator for each in model.calibrated_classifiers_]
    assert sources(fitted) == {"embedding"}
    assert_allclose(model.predict_proba(query.X).sum(axis=1), 1, rtol=1e-6)
    assert model.score(query.X, query.names) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibration_of_a_fitted_model(support, query, method):
    fitted = CMMClassifier().fit(support.X, support.names)
    model = CalibratedClassifierCV(FrozenEstimator(fitted), method=method)
    model.fit(query.X, query.names)
    assert model.score(support.X, support.names) > 0.8
    assert model.calibrated_classifiers_[0].estimator.estimator is fitted


@pytest.mark.slow
def test_calibration_from_images(support, query, by_number):
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier(class_names=by_number))
    calibrated = CalibratedClassifierCV(model, method="temperature", cv=2)
    calibrated.fit(support.images, support.names)
    fitted = [each.estimator[-1] for each in calibrated.calibrated_classifiers_]
    assert sources(fitted) == {"embedding"}
    assert calibrated.score(query.images, query.names) > 0.8


def test_numbered_labels_without_names_warn(support):
    with pytest.warns(UserWarning, match="class_names was not given"):
        cross_val_predict(
            CMMClassifier(), support.X, support.names, cv=2, method="predict_proba"
        )
    with pytest.warns(UserWarning, match="class_names was not given"):
        VotingClassifier([("cmm", CMMClassifier())]).fit(support.X, support.names)


def test_numbers_of_other_names_are_no_names(support):
    """Labels that are strings go by their own names only if the dict holds them."""
    other = {0: "a ball", 1: "a cross", 2: "a ring"}
    with pytest.raises(ValueError, match="class_names lacks the classes"):
        CMMClassifier(class_names=other).fit(support.X, support.names)
    named = dict(zip(support.classes, other.values(), strict=True))
    by_name = CMMClassifier(class_names=named).fit(support.X, support.names)
    by_number = CMMClassifier(class_names=other).fit(support.X, support.codes)
    assert_array_equal(by_name.text_features_, by_number.text_features_)


# From many classes to two


@pytest.mark.parametrize(
    ("wrapper", "params"),
    [
        (OneVsRestClassifier, {}),
        pytest.param(OneVsOneClassifier, {}, marks=pytest.mark.slow),
        pytest.param(
            OutputCodeClassifier,
            {"code_size": 3, "random_state": 0},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_binary_reductions_without_text(support, query, wrapper, params):
    """The labels that are left have no names, so the class means have to do."""
    model = wrapper(CMMClassifier(text_features=None), **params)
    model.fit(support.X, support.names)
    assert model.score(query.X, query.names) > 0.8


def test_one_against_the_rest_warns_that_texts_are_lost(support):
    with pytest.warns(UserWarning, match="class_names was not given"):
        OneVsRestClassifier(CMMClassifier()).fit(support.X, support.names)


# Ensembles


@pytest.mark.parametrize(
    "stack_method", ["predict_proba", pytest.param("predict", marks=pytest.mark.slow)]
)
def test_stacking(support, query, by_number, stack_method):
    models = [
        ("cmm", CMMClassifier(class_names=by_number)),
        ("gda", GaussianDiscriminantClassifier(class_names=by_number)),
    ]
    model = StackingClassifier(models, stack_method=stack_method, cv=3)
    model.fit(support.X, support.names)
    assert sources(model.estimators_) == {"embedding"}
    assert model.score(query.X, query.names) > 0.8


@pytest.mark.slow
def test_stacking_of_fitted_models_and_below_a_final_one(support, query, by_number):
    fitted = CMMClassifier(class_names=by_number).fit(support.X, support.codes)
    prefit = StackingClassifier([("cmm", fitted)], cv="prefit")
    assert prefit.fit(support.X, support.names).score(query.X, query.names) > 0.8
    final = StackingClassifier(
        [("probe", LogisticRegression()), ("cmm", clone(fitted))],
        final_estimator=CMMClassifier(text_features=None),
        cv=3,
    )
    assert final.fit(support.X, support.names).score(query.X, query.names) > 0.8


@pytest.mark.parametrize(
    "voting", ["soft", pytest.param("hard", marks=pytest.mark.slow)]
)
def test_voting_from_images(support, query, by_number, voting):
    """Each voter could have another model of images."""
    models = [
        (name, make_pipeline(CLIPFeaturizer("tiny"), method(class_names=by_number)))
        for name, method in (("cmm", CMMClassifier), ("zero", ZeroShotClassifier))
    ]
    model = VotingClassifier(models, voting=voting, weights=[2, 1])
    model.fit(support.images, support.names)
    assert sources(pipeline[-1] for pipeline in model.estimators_) == {"embedding"}
    assert model.score(query.images, query.names) > 0.8


@pytest.mark.parametrize(
    "params",
    [
        {"n_estimators": 3},
        pytest.param(
            {"n_estimators": 3, "bootstrap": False, "max_samples": 0.5},
            marks=pytest.mark.slow,
        ),
        pytest.param({"n_estimators": 15, "oob_score": True}, marks=pytest.mark.slow),
    ],
)
def test_bagging_wants_the_encoder(support, query, by_number, clip, params):
    """It makes plain arrays of embeddings, and a bag may lack a class."""
    params = {"random_state": 0, **params}
    base = CMMClassifier(class_names=by_number, text_encoder=clip)
    model = BaggingClassifier(base, **params).fit(support.X, support.names)
    assert sources(model.estimators_) == {"text_encoder"}
    assert model.score(query.X, query.names) > 0.8
    with pytest.warns(UserWarning, match="Pass text_encoder"):
        BaggingClassifier(
            CMMClassifier(class_names=by_number), n_estimators=1, random_state=0
        ).fit(support.X, support.names)


@pytest.mark.slow
def test_bagging_of_features_cuts_images_but_not_texts(support, by_number, clip):
    base = CMMClassifier(class_names=by_number, text_encoder=clip)
    with pytest.raises(ValueError, match="as wide as X"):
        BaggingClassifier(base, max_features=0.5).fit(support.X, support.names)
    half = BaggingClassifier(CMMClassifier(text_features=None), 2, max_features=0.5)
    assert half.fit(support.X, support.names).predict(support.X).shape == (24,)


@pytest.mark.slow
def test_boosting_scales_weights_to_one_which_is_one_image(support, clip):
    """It runs, but its weights leave nearly everything to the texts."""
    model = AdaBoostClassifier(CMMClassifier(text_encoder=clip), n_estimators=2)
    model.fit(support.X, support.names)
    first = model.estimators_[0]
    weight = np.full(24, 1 / 24)
    same = CMMClassifier().fit(support.X, support.names, sample_weight=weight)
    full = CMMClassifier().fit(support.X, support.names)
    assert_allclose(first.map_, same.map_, atol=1e-4)
    assert np.abs(first.map_ - full.map_).max() > 0.01


# Thresholds, for two classes


@pytest.fixture(scope="module")
def two(support):
    return support.only(support.codes < 2)


@pytest.mark.slow
@pytest.mark.parametrize("response", ["predict_proba", "decision_function"])
def test_a_tuned_threshold(two, query, response):
    positive = two.classes[0]
    scoring = make_scorer(f1_score, pos_label=positive)
    model = TunedThresholdClassifierCV(
        CMMClassifier(), scoring=scoring, response_method=response, cv=3
    ).fit(two.X, two.names)
    assert model.estimator_.prototype_source_ == "embedding"
    rows = query.codes < 2
    assert model.score(query.X[rows], query.names[rows]) > 0.8
    assert np.isfinite(model.best_threshold_)


def test_a_fixed_threshold_on_a_fitted_model_and_on_booleans(two):
    fitted = FrozenEstimator(CMMClassifier().fit(two.X, two.names))
    positive = two.classes[1]
    always = FixedThresholdClassifier(fitted, threshold=0.0, pos_label=positive)
    never = FixedThresholdClassifier(fitted, threshold=1.1, pos_label=positive)
    assert set(always.fit(two.X, two.names).predict(two.X)) == {positive}
    assert set(never.fit(two.X, two.names).predict(two.X)) == {two.classes[0]}
    names = {False: two.classes[0], True: positive}
    model = TunedThresholdClassifierCV(CMMClassifier(class_names=names), cv=3)
    model.fit(two.X, two.names == positive)
    assert model.estimator_.prototype_source_ == "embedding"
    assert model.predict(two.X).dtype == bool


# Others


def test_self_training(support, query, clip):
    """Rows without a label are -1, beside names in an array of objects."""
    labels = support.names.astype(object)
    labels[::2] = -1
    model = SelfTrainingClassifier(CMMClassifier(text_encoder=clip))
    model.fit(support.X, labels)
    assert model.estimator_.prototype_source_ == "text_encoder"
    assert (model.labeled_iter_ > 0).any()
    assert model.score(query.X, query.names) > 0.8
    with pytest.warns(UserWarning, match="does not know its encoder"):
        SelfTrainingClassifier(CMMClassifier()).fit(support.X, labels)


def test_several_targets(support, query):
    words = np.array([name.split() for name in support.names])
    model = MultiOutputClassifier(CMMClassifier()).fit(support.X, words)
    assert sources(model.estimators_) == {"embedding"}
    found = model.predict(query.X)
    wanted = np.array([name.split() for name in query.names])
    assert ((found == wanted).mean(axis=0) > 0.8).all()
    indicators = (words[:, 1, None] == ["star", "heart"]).astype(int)
    chain = ClassifierChain(CMMClassifier(text_features=None))
    assert chain.fit(support.X, indicators).predict(query.X).shape == (30, 2)


@pytest.mark.slow
def test_permutation_importance_of_embeddings(support, query):
    model = CMMClassifier().fit(support.X, support.names)
    found = permutation_importance(
        model,
        query.X,
        query.names,
        scoring="neg_log_loss",
        n_repeats=1,
        random_state=0,
    )
    assert found.importances.shape == (query.X.shape[1], 1)
    assert np.abs(found.importances).max() > 0


def test_frozen_parts(support, query):
    embed = FrozenEstimator(CLIPFeaturizer("tiny").fit(support.images))
    model = make_pipeline(embed, CMMClassifier()).fit(support.images, support.names)
    assert model[-1].prototype_source_ == "embedding"
    mapped = make_pipeline(FrozenEstimator(model[-1]), LogisticRegression())
    mapped.fit(support.X, support.names)
    assert mapped.score(query.X, query.names) > 0.8
    assert clone(mapped)[0].estimator is model[-1]
