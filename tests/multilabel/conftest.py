"""Images made of tokens whose labels were planted in known places."""

from dataclasses import dataclass

import numpy as np
import pytest


@dataclass
class Planted:
    """Tokens, labels, label vectors, and which label fills each patch (or -1)."""

    X: np.ndarray
    Y: np.ndarray
    text: np.ndarray
    owner: np.ndarray


def make_planted(
    n_images=24,
    *,
    n_labels=6,
    n_parts=16,
    d=32,
    noise=0.7,
    text_noise=0.6,
    most_labels=3,
    seed=0,
    world=0,
    dtype=np.float64,
):
    """Draw images; `world` decides the labels' directions, `seed` the images.

    Each label of an image fills three patches. The rest is background, of directions
    that no label has. Texts lie round another mean than images do.
    """
    rng = np.random.default_rng([world, d, n_labels])
    concepts = rng.normal(size=(n_labels, d))
    background = rng.normal(size=(4, d))
    image_cone, text_cone = 2 * rng.normal(size=(2, d))
    text = text_cone + concepts + text_noise * rng.normal(size=(n_labels, d))

    rng = np.random.default_rng([seed, 1])
    Y = np.zeros((n_images, n_labels), dtype=int)
    owner = np.full((n_images, n_parts), -1)
    for image in range(n_images):
        n_own = rng.integers(1, most_labels, endpoint=True)
        # One label is dealt in turn, so that each has about as many images.
        rest = np.delete(np.arange(n_labels), image % n_labels)
        own = [image % n_labels, *rng.permutation(rest)[: n_own - 1]]
        Y[image, own] = 1
        places = rng.permutation(n_parts)
        for number, label in enumerate(own):
            owner[image, places[3 * number : 3 * number + 3]] = label
    kinds = np.where(
        owner[:, :, None] >= 0,
        concepts[owner],
        background[rng.integers(4, size=owner.shape)],
    )
    parts = image_cone + kinds + noise * rng.normal(size=kinds.shape)
    whole = parts.mean(axis=1, keepdims=True)
    whole = whole + 0.2 * noise * rng.normal(size=whole.shape)
    X = np.concatenate([whole, parts], axis=1)
    return Planted(X.astype(dtype), Y, text.astype(dtype), owner)


@pytest.fixture(scope="session")
def planted():
    """Return the function that draws images with planted labels."""
    return make_planted
