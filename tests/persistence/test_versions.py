"""Estimators that other versions saved load with a warning, and save no tensor."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning

from skfewshot import CMMClassifier, ZeroShotClassifier
from skfewshot import __version__ as THIS
from skfewshot.persistence import VersionWarning


def save_as(version, model):
    """Save a model as if another version did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skfewshot._sklearn.__version__", version)
        return pickle.dumps(model)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for method, values in expected.items():
        assert_array_equal(found[method], values, err_msg=method)


def test_another_version_is_named(model, queries, predict_all):
    expected, state = predict_all(model, queries), dict(vars(model))
    saved = save_as("99.1", model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = pickle.loads(saved)
    # One for each estimator of ours that is within.
    assert {warning.category for warning in caught} == {VersionWarning}
    assert {warning.filename for warning in caught} == {__file__}
    message = str(caught[-1].message)
    assert f"{type(model).__name__} was saved by skfewshot 99.1, and" in message
    assert f"this is skfewshot {THIS}" in message
    assert_same(predict_all(loaded, queries), expected)
    # This version says nothing, also of what was loaded so and is saved again.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for copied in (pickle.loads(pickle.dumps(loaded)), copy.deepcopy(model)):
            assert vars(copied).keys() == state.keys()
            assert_same(predict_all(copied, queries), expected)
    assert vars(model) == state


def test_no_version_is_warned_of_too():
    model = CMMClassifier().fit(np.eye(4), [0, 0, 1, 1])
    loaded = CMMClassifier()
    with pytest.warns(VersionWarning, match="of an unknown version"):
        loaded.__setstate__(vars(model))
    assert_array_equal(loaded.predict_proba(np.eye(4)), model.predict_proba(np.eye(4)))


def test_the_warning_can_be_caught_as_that_of_scikit_learn():
    saved = save_as("0.1.5", CMMClassifier(alpha=2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        with pytest.raises(InconsistentVersionWarning) as caught:
            pickle.loads(saved)
    assert caught.value.original_sklearn_version is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.warns(VersionWarning):
        assert pickle.loads(saved).alpha == 2.0


def test_no_tensor_is_saved(make_task):
    """Where torch is missing, or has no GPU, what is saved loads all the same."""
    X, y, text = make_task(n_classes=2)
    text = torch.from_numpy(text)
    for texts in (text, dict(enumerate(text)), list(text)):
        model = CMMClassifier(texts, device=torch.device("cpu")).fit(X, y)
        saved = pickle.dumps(model)
        assert b"torch" not in saved
        loaded = pickle.loads(saved)
        assert loaded.device == "cpu"
        assert model.text_features is texts
        expected = model.predict_proba(X)
        assert_array_equal(loaded.predict_proba(X), expected)
        assert_array_equal(clone(loaded).fit(X, y).predict_proba(X), expected)


class WithoutSecrets:
    def __getstate__(self):
        return {**super().__getstate__(), "secret": None}


class Guarded(ZeroShotClassifier, WithoutSecrets):
    """Leaves something out by a mixin, as it can with scikit-learn's estimators."""


def test_other_bases_have_their_say():
    model = Guarded(None).fit(np.eye(2), ["a", "b"])
    model.secret = "token"
    assert pickle.loads(pickle.dumps(model)).secret is None
