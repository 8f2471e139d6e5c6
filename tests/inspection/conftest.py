"""A support with texts in many dimensions, more rows of it, and what is none of it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from skfewshot import CMMClassifier, GaussianDiscriminantClassifier, ProKeRClassifier


class Task(NamedTuple):
    """Support rows, their classes, texts, queries and theirs, and rows of none."""

    X: np.ndarray
    y: np.ndarray
    text: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    others: np.ndarray


@pytest.fixture(scope="session")
def make_inspected(make_task: Callable) -> Callable:
    """Return the function that draws a task of two cones; half its classes are none."""

    def make(shots=8, n_classes=8, seed=0, noise=0.8, d=32) -> Task:
        X, y, text = make_task(2 * n_classes, shots, d, seed, noise)
        queries, truth, _ = make_task(2 * n_classes, 40, d, seed, noise, rows=1)
        known = truth < n_classes
        return Task(
            *(X[y < n_classes], y[y < n_classes], text[:n_classes]),
            *(queries[known], truth[known], queries[~known]),
        )

    return make


@pytest.fixture(
    params=[CMMClassifier, GaussianDiscriminantClassifier, ProKeRClassifier]
)
def kind(request: pytest.FixtureRequest) -> type:
    """Return each class that keeps rows left out in turn."""
    return request.param


@pytest.fixture
def task(make_inspected: Callable) -> Task:
    """Return a task of eight classes of eight rows."""
    return make_inspected()
