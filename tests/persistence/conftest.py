"""Fitted models of every kind, shared by the tests of saving and loading."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = (
    *("clap", "cmm", "cmm-paper", "discriminant", "discriminant-image"),
    *("featurizer", "lp-plus-plus", "multi-label", "multi-label-prior"),
    *("multi-label-rows", "prior", "proker", "proker-image", "task-res"),
    *("tip-adapter", "tip-adapter-f", "zero-shot"),
)


@pytest.fixture(scope="session")
def save_models():
    """Return the module `save_models`, which also runs as a script."""
    spec = spec_from_file_location("save_models", HERE / "save_models.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fitted_models(save_models):
    """Return the fitted models by name, each with what it is to predict from."""
    models = save_models.fit_models()
    assert set(models) == set(NAMES)
    return models


@pytest.fixture(scope="session")
def predict_all(save_models):
    """Return the function that calls all methods of a model."""
    return save_models.predict_all


@pytest.fixture(params=NAMES)
def name(request):
    """Return the name of each model in turn."""
    return request.param


@pytest.fixture
def model(fitted_models, name):
    """Return each fitted model in turn."""
    return fitted_models[name][0]


@pytest.fixture
def queries(fitted_models, name):
    """Return what it is to predict from."""
    return fitted_models[name][1]
