"""What is saved comes back the same, small, and without a model inside."""

import pickle

import joblib
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import encoder_of
from skfewshot.datasets import make_object_images

KINDS = ["striped star", "plain heart"]


@pytest.fixture(scope="module")
def data():
    return make_object_images(3, kinds=KINDS, random_state=0, return_X_y=True)


@pytest.fixture(scope="module")
def fitted(data):
    return make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier()).fit(*data)


def test_pickle_of_a_fitted_pipeline(fitted, data):
    copied = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copied.predict_proba(data[0]), fitted.predict_proba(data[0]))
    assert copied[-1].encoder_ == fitted[-1].encoder_


def test_fitted_state_is_numpy_and_small(fitted):
    assert len(pickle.dumps(fitted[0])) < 10_000
    d = fitted[-1].n_features_in_
    assert len(pickle.dumps(fitted[-1])) < 4 * (2 * d * d + 8 * d) + 10_000
    for value in vars(fitted[-1]).values():
        assert not type(value).__module__.startswith("torch")


def test_joblib_file_and_memory_map(fitted, data, tmp_path):
    joblib.dump(fitted, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert_allclose(loaded.predict_proba(data[0]), fitted.predict_proba(data[0]))
    X = fitted[0].transform(data[0])
    joblib.dump(X, tmp_path / "X.joblib")
    assert encoder_of(joblib.load(tmp_path / "X.joblib")) == encoder_of(X)
