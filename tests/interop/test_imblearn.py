"""imbalanced-learn's samplers and ensembles around our classifiers."""

import numpy as np
import pytest
from imblearn.ensemble import BalancedBaggingClassifier, EasyEnsembleClassifier
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import Pipeline, make_pipeline
from imblearn.under_sampling import RandomUnderSampler
from numpy.testing import assert_allclose
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score

from skfewshot import CLIPFeaturizer, CMMClassifier, ProKeRClassifier
from skfewshot.clip import encoder_of

SAMPLERS = [
    RandomOverSampler(random_state=0),
    RandomUnderSampler(random_state=0),
    SMOTE(k_neighbors=2, random_state=0),
]


@pytest.fixture(scope="module")
def uneven(make):
    """Twenty images of the first class, eight of the second, three of the third."""
    objects = make(20)
    first = {name: np.flatnonzero(objects.names == name) for name in objects.classes}
    shots = zip(objects.classes, (20, 8, 3), strict=True)
    return objects.only(np.concatenate([first[name][:n] for name, n in shots]))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_samplers_between_the_embeddings_and_the_classifier(
    uneven, query, clip, sampler
):
    model = make_pipeline(sampler, CMMClassifier(text_encoder=clip))
    model.fit(uneven.X, uneven.names)
    assert model[-1].prototype_source_ == "text_encoder"
    score = balanced_accuracy_score(query.names, model.predict(query.X))
    weighted = CMMClassifier(class_weight="balanced").fit(uneven.X, uneven.names)
    expected = balanced_accuracy_score(query.names, weighted.predict(query.X))
    assert min(score, expected) > 0.9
    assert score == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_samplers_lose_the_encoder_and_a_warning_says_so(uneven, sampler):
    resampled = sampler.fit_resample(uneven.X, uneven.names)[0]
    assert encoder_of(resampled) is None
    assert resampled.dtype == np.float32
    with pytest.warns(UserWarning, match="does not know its encoder.*text_encoder"):
        model = make_pipeline(sampler, CMMClassifier()).fit(uneven.X, uneven.names)
    assert model[-1].prototype_source_ == "image"


def test_oversampling_is_a_weight(uneven, clip):
    """A copy of a row is a weight of two: the weights say it without a sampler."""
    doubled = CMMClassifier(text_encoder=clip).fit(
        np.repeat(uneven.X, 2, axis=0), np.repeat(uneven.names, 2)
    )
    weighted = CMMClassifier(text_encoder=clip).fit(
        uneven.X, uneven.names, sample_weight=np.full(len(uneven.names), 2.0)
    )
    assert_allclose(doubled.map_, weighted.map_)


def test_from_images(uneven, query, clip):
    model = Pipeline(
        [
            ("clip", CLIPFeaturizer("tiny")),
            ("sample", RandomOverSampler(random_state=0)),
            ("classify", CMMClassifier(text_encoder=clip)),
        ]
    )
    assert model.fit(uneven.images, uneven.names).score(query.images, query.names) > 0.9
    assert model["classify"].prototype_source_ == "text_encoder"


@pytest.mark.slow
def test_search_over_a_sampler(uneven, clip):
    model = make_pipeline(
        RandomUnderSampler(random_state=0), CMMClassifier(text_encoder=clip)
    )
    grid = {
        "cmmclassifier__alpha": ["auto", 1.0],
        "randomundersampler": [RandomOverSampler(random_state=0), "passthrough"],
    }
    search = GridSearchCV(
        model, grid, cv=3, scoring="balanced_accuracy", error_score="raise"
    )
    assert search.fit(uneven.X, uneven.names).best_score_ > 0.8


@pytest.mark.slow
def test_balanced_ensembles(uneven, query, clip):
    """They number the classes, and a bag may lack one."""
    base = CMMClassifier(class_names=dict(enumerate(uneven.classes)), text_encoder=clip)
    bags = BalancedBaggingClassifier(base, n_estimators=5, random_state=0)
    bags.fit(uneven.X, uneven.names)
    sources = {bag[-1].prototype_source_ for bag in bags.estimators_}
    assert sources == {"text_encoder"}
    assert bags.score(query.X, query.names) > 0.9
    easy = EasyEnsembleClassifier(3, estimator=base, random_state=0)
    assert easy.fit(uneven.X, uneven.names).score(query.X, query.names) > 0.9


def test_without_text(uneven, query):
    model = make_pipeline(SAMPLERS[0], ProKeRClassifier(text_features=None))
    scores = cross_val_score(model, uneven.X, uneven.names, cv=3, error_score="raise")
    assert scores.mean() > 0.8
