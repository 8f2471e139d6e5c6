"""Estimators that other versions saved load, or say what is wrong and what to do."""

import copy
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning

from skfewshot import (
    CMMClassifier,
    CMMClassifierCV,
    MultiLabelPrototypeClassifier,
    ZeroShotClassifier,
)
from skfewshot import __version__ as THIS
from skfewshot.persistence import VersionWarning

OLD = r"0\.1\.0 or a development version"


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for method, values in expected.items():
        if values.dtype.kind == "f":
            assert_allclose(found[method], values, rtol=1e-4, atol=1e-4, err_msg=method)
        else:
            assert_array_equal(found[method], values, err_msg=method)


def load_as(version, model):
    """Load a model as if another version had saved it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skfewshot._estimator.__version__", version)
        saved = pickle.dumps(model)
    return pickle.loads(saved)


def test_pickles_of_the_previous_release(name, queries, predict_all):
    file = Path(__file__).parent / "saved" / "0.1.0" / f"{name}.pkl"
    message = f"was saved by skfewshot {OLD}, and this is skfewshot {THIS}"
    with pytest.warns(VersionWarning, match=message):
        model, X, expected = pickle.loads(file.read_bytes())
    X = queries if X is None else X
    assert_same(predict_all(model, X), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pickle.loads(pickle.dumps(model))
        # It is an estimator like any other, and is silent from now on.
        assert clone(again).get_params(deep=False).keys() == vars(type(model)()).keys()
    assert_same(predict_all(again, X), expected)


def test_this_version_says_nothing(model, queries, predict_all):
    expected, state = predict_all(model, queries), dict(vars(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies = [
            pickle.loads(pickle.dumps(model)),
            copy.copy(model),
            copy.deepcopy(model),
        ]
    assert vars(model) == state
    for copied in copies:
        assert vars(copied).keys() == state.keys()
        assert_same(predict_all(copied, queries), expected)


def test_a_newer_version_is_named(model, queries, predict_all):
    with pytest.warns(InconsistentVersionWarning, match=r"skfewshot 99\.1, and this"):
        loaded = load_as("99.1", model)
    assert_same(predict_all(loaded, queries), predict_all(model, queries))


@pytest.mark.filterwarnings("ignore::skfewshot.persistence.VersionWarning")
def test_a_loss_is_named_at_once_or_does_not_matter(model, queries, predict_all):
    """Nothing that another version left out may come to light at a prediction only."""
    expected, n_refused = predict_all(model, queries), 0
    for lost in set(vars(model)) - set(model.get_params(deep=False)):
        broken = copy.copy(model)
        delattr(broken, lost)
        try:
            loaded = load_as("0.1.5", broken)
        except ValueError as error:
            n_refused += 1
            assert lost in str(error) or "not fitted" in str(error)
            assert f"saved by skfewshot 0.1.5, and this is skfewshot {THIS}" in str(
                error
            )
            assert "fit it again" in str(error)
        else:
            assert_same(predict_all(loaded, queries), expected)
    assert n_refused or type(model).__name__ == "CLIPFeaturizer"


def test_the_warning_can_be_caught_as_that_of_scikit_learn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        with pytest.raises(InconsistentVersionWarning) as caught:
            load_as("0.1.5", CMMClassifier())
    assert caught.value.original_sklearn_version is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_trying_it_warns_of_nothing_else():
    """Zeros without names are tried, which is no fault of the estimator."""
    X = pd.DataFrame(
        np.random.default_rng(0).normal(size=(12, 4)), columns=list("abcd")
    )
    model = CMMClassifier().fit(X, np.arange(12) % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", VersionWarning)
        loaded = load_as("0.1.5", model)
        assert_array_equal(loaded.predict(X), model.predict(X))


class OfDictionaries(ZeroShotClassifier):
    """Takes rows of its own kind, and restores a part of its state itself."""

    def __getstate__(self):
        state = super().__getstate__()
        return {**state, "zero_shot_features_": self.zero_shot_features_.tolist()}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.zero_shot_features_ = np.array(self.zero_shot_features_)

    def predict(self, X):
        return super().predict([row["embedding"] for row in X])


def test_a_class_of_a_user_is_not_tried():
    model = OfDictionaries(None).fit(np.eye(2), ["a", "b"])
    with pytest.warns(VersionWarning, match="This OfDictionaries was saved by"):
        loaded = load_as("0.1.5", model)
    assert loaded.predict([{"embedding": [0.2, 0.9]}]).tolist() == ["b"]


def test_a_width_that_would_fill_the_memory_is_refused(fitted_models):
    for name, width in (("cmm", "n_features_in_"), ("prior", "width_")):
        tampered = copy.copy(fitted_models[name][0])
        setattr(tampered, width, 2**31)
        with pytest.raises(ValueError, match=f"{width}=2147483648 is more than"):
            load_as("0.1.5", tampered)


def test_what_is_not_fitted_loads():
    for estimator in (CMMClassifier(alpha=2.0), MultiLabelPrototypeClassifier()):
        with pytest.warns(VersionWarning):
            loaded = load_as("0.1.5", estimator)
        assert loaded.get_params() == estimator.get_params()
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 4)), np.arange(12) % 2
    search = CMMClassifierCV(map_penalties=(1.0,), cv=2, refit=False).fit(X, y)
    with pytest.warns(VersionWarning):
        loaded = load_as("0.1.5", search)
    assert loaded.best_params_ == search.best_params_


def test_new_parameters_get_their_defaults(model, queries, predict_all):
    older, default = copy.copy(model), type(model)().get_params(deep=False)
    new = [name for name in default if getattr(model, name) is default[name]]
    assert new
    for parameter in new:
        delattr(older, parameter)
    with pytest.warns(VersionWarning):
        loaded = load_as("0.1.5", older)
    found = loaded.get_params(deep=False)
    assert {name: found[name] for name in new} == {name: default[name] for name in new}
    assert_same(predict_all(loaded, queries), predict_all(model, queries))


def test_no_tensor_is_saved():
    """Where torch is missing, or has no GPU, what is saved loads all the same."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 4)), np.arange(12) % 2
    text = torch.from_numpy(rng.normal(size=(2, 4)))
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
