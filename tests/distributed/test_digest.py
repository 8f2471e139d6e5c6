"""What a run of predictions is known by: what decides them, and nothing else."""

import io
import pickle

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier

pytest.importorskip("pyarrow")

from skfewshot.distributed._digest import digest_of


@pytest.fixture(scope="module")
def task(make_task):
    X, y, text = make_task(dtype=np.float32)
    return X, np.array(["ant", "bee", "cat", "dog"])[y], text


def double(X):
    return 2 * X


def models(task):
    X, y, text = task
    yield CMMClassifier(text).fit(X, y)
    yield CMMClassifier(dict(zip("ant bee cat dog".split(), text, strict=True))).fit(
        X, y
    )
    yield make_pipeline(StandardScaler(), CMMClassifier(None)).fit(X, y)
    yield make_pipeline(FunctionTransformer(double), ZeroShotClassifier(text)).fit(X, y)
    yield RandomForestClassifier(5, random_state=0).fit(X, y)
    grid = {"alpha": ["auto", 1.0]}
    yield GridSearchCV(CMMClassifier(text), grid, cv=2).fit(X, y)


@pytest.fixture(scope="module")
def fitted(task):
    return list(models(task))


def saved_and_loaded(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return [pickle.loads(pickle.dumps(model)), joblib.load(file)]


def test_saved_and_loaded_is_the_same(fitted):
    for model in fitted:
        for loaded in saved_and_loaded(model):
            assert digest_of(loaded) == digest_of(model), model


def test_fitted_again_is_the_same(task, fitted):
    """Of a search only what predicts counts, not the seconds that it took."""
    for model, again in zip(fitted, models(task), strict=True):
        assert digest_of(again) == digest_of(model), model


def test_all_differ(fitted):
    assert len({digest_of(model) for model in fitted}) == len(fitted)


def test_memory_does_not_count(task, fitted):
    model = pickle.loads(pickle.dumps(fitted[0]))
    expected = digest_of(model)
    for name, value in vars(model).items():
        if isinstance(value, np.ndarray) and value.ndim == 2:
            for other in (np.asfortranarray(value), value[::-1].copy()[::-1]):
                vars(model)[name] = other
                assert digest_of(model) == expected
            vars(model)[name] = value
    big = model.prototypes_.astype(">f4")
    model.prototypes_ = big
    assert digest_of(model) == expected


def test_what_predicts_counts(task, fitted):
    X = task[0]
    model = fitted[0]
    other = pickle.loads(pickle.dumps(model))
    other.prototypes_ = other.prototypes_.copy()
    other.prototypes_[0, 0] += 1e-3
    assert digest_of(other) != digest_of(model)
    other = pickle.loads(pickle.dumps(model))
    other.classes_ = other.classes_[::-1]
    assert digest_of(other) != digest_of(model)
    for functions in ((double, np.negative), (lambda X: X + 1, lambda X: X + 2)):
        found = {digest_of(FunctionTransformer(f).fit(X)) for f in functions}
        assert len(found) == 2


def test_of_a_featurizer_what_decides_embeddings():
    clip = CLIPFeaturizer("tiny").fit(np.zeros((1, 8, 8, 3), np.uint8))
    same = {"batch_size": 3, "num_workers": 1, "cache": "x", "device": "cpu"}
    others = {"output": "tokens", "on_error": "nan", "resize_mode": "pad"}
    for name, value in (same | others).items():
        other = clone(clip).set_params(**{name: value})
        other.fit(np.zeros((1, 8, 8, 3), np.uint8))
        assert (digest_of(other) == digest_of(clip)) == (name in same), name


def test_what_has_itself_in_it(fitted):
    model = pickle.loads(pickle.dumps(fitted[0]))
    model.owner = [model]
    assert digest_of(model) == digest_of(pickle.loads(pickle.dumps(model)))
