"""One small task of two cones on a sphere, as CLIP's images and texts are."""

import numpy as np
import pytest


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_task(n_classes=4, shots=(3, 4, 5, 6), d=12, seed=0, noise=0.8):
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(n_classes, d))
    image_cone, text_cone = 3 * rng.normal(size=(2, d))
    y = np.repeat(np.arange(n_classes), shots)
    X = image_cone + concepts[y] + noise * rng.normal(size=(len(y), d))
    text = text_cone + concepts + noise * rng.normal(size=(n_classes, d))
    return unit(X), y, unit(text)


@pytest.fixture
def task():
    """Support rows, their classes, texts, and rows to predict."""
    X, y, text = make_task()
    return X, y, text, make_task(seed=0, shots=9)[0]
