"""Embeddings of rendered objects, the same for all the tools that are tried on them."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from skfewshot import CLIPFeaturizer
from skfewshot.clip import EmbeddingArray
from skfewshot.datasets import make_object_images

KINDS = ["striped star", "plain heart", "checked ring"]


@dataclass
class Objects:
    """Images of some classes, their embeddings, and their labels in three forms."""

    images: list
    X: EmbeddingArray
    names: np.ndarray
    classes: list = field(init=False)
    codes: np.ndarray = field(init=False)

    def __post_init__(self):
        self.classes = sorted(set(self.names))
        self.codes = np.searchsorted(self.classes, self.names)

    def only(self, rows):
        """Return some of them."""
        images = [self.images[i] for i in np.arange(len(self.X))[rows]]
        return Objects(images, self.X[rows], self.names[rows])


def make_objects(shots, random_state=0, kinds=KINDS):
    """Render and embed `shots` images of each kind."""
    images, names = make_object_images(
        shots, kinds=kinds, random_state=random_state, return_X_y=True
    )
    X = CLIPFeaturizer("tiny").fit_transform(images)
    return Objects(list(images), X, np.asarray(names))


@pytest.fixture(scope="session")
def clip():
    return CLIPFeaturizer("tiny")


@pytest.fixture(scope="session")
def make():
    """Return the function that renders and embeds objects."""
    return make_objects


@pytest.fixture(scope="session")
def support():
    return make_objects(8)


@pytest.fixture(scope="session")
def query():
    return make_objects(10, random_state=1)


@pytest.fixture(scope="session")
def by_number(support):
    """The names of the classes, for tools that number them before they fit."""
    return dict(enumerate(support.classes))
