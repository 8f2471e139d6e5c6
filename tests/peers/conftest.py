"""One small task with classes of unequal size, and queries of the same classes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest


class Task(NamedTuple):
    """Support rows, their classes, texts, and rows to predict."""

    X: np.ndarray
    y: np.ndarray
    text: np.ndarray
    queries: np.ndarray


@pytest.fixture
def task(make_task: Callable) -> Task:
    """Return a task of 3, 4, 5 and 6 rows a class."""
    X, y, text = make_task(shots=(3, 4, 5, 6))
    return Task(X, y, text, make_task(shots=9, rows=1)[0])


@pytest.fixture(params=["equal", "unequal"])
def weight(request: pytest.FixtureRequest) -> np.ndarray:
    """Return the weights of its rows: ones, or halves, ones and twos."""
    return np.ones(18) if request.param == "equal" else np.tile([1.0, 2.0, 0.5], 6)
