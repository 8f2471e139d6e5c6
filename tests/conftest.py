"""What tests of several folders share: tasks, miniatures, and lists of estimators."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from sklearn.base import BaseEstimator

import skfewshot

# No deadline, as machines differ; the same examples on all of them.
settings.register_profile("skfewshot", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("skfewshot")

#: The single-label classifiers, all at their defaults.
CLASSIFIERS = (
    *("CLAPClassifier", "CMMClassifier", "GaussianDiscriminantClassifier"),
    *("LPPlusPlusClassifier", "ProKeRClassifier", "TaskResClassifier"),
    *("TipAdapterClassifier", "ZeroShotClassifier"),
)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture(scope="session")
def unit() -> Callable:
    """Return the function that scales rows to length one."""
    return _unit


@pytest.fixture(scope="session")
def make_task() -> Callable:
    """Return the function that draws a task of two cones on a sphere, as CLIP's are.

    ``make_task(n_classes=4, shots=4, d=12, seed=0, noise=0.8, dtype=float)`` gives unit
    image rows, class indices and unit texts; ``shots`` may be one number a class. The
    classes are the same for all calls of one seed; ``rows`` draws other images of them.
    """

    def make(n_classes=4, shots=4, d=12, seed=0, noise=0.8, dtype=np.float64, rows=0):
        rng = np.random.default_rng(seed)
        concepts = rng.normal(size=(n_classes, d))
        image_cone, text_cone = 3 * rng.normal(size=(2, d))
        text = text_cone + concepts + noise * rng.normal(size=(n_classes, d))
        rng = np.random.default_rng([seed, rows])
        y = np.repeat(np.arange(n_classes), shots)
        X = image_cone + concepts[y] + noise * rng.normal(size=(len(y), d))
        return _unit(X).astype(dtype), y, _unit(text).astype(dtype)

    return make


@pytest.fixture(params=CLASSIFIERS)
def classifier(request: pytest.FixtureRequest) -> BaseEstimator:
    """Return each single-label classifier in turn, unfitted, at its defaults."""
    return getattr(skfewshot, request.param)()


@pytest.fixture(scope="session")
def miniatures() -> dict:
    """Return builders of miniatures of the papers' sets, ``miniatures[name][layout]``.

    Each is called with (root, rng), writes a few images and the files of the set as
    they are, and returns {split: [(path relative to the root, class names)]}. The first
    layout of a set is the usual one.
    """
    found = {}
    for path in sorted((Path(__file__).parent / "miniatures").glob("*.py")):
        found |= runpy.run_path(str(path))["MINIATURES"]
    return found
