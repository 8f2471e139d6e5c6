"""Multi-label tasks: rendered scenes, mosaics of real features, and street photographs.

The mosaics are semi-synthetic: each token is a real CLIP feature of a photograph, plus
noise, but what stands where was drawn at random.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from caption_vectors import caption_vectors
from feature_data import NEAR_DUPLICATE, load

from skfewshot import CLIPFeaturizer
from skfewshot.datasets import (
    BASE_KINDS,
    COLORS,
    NOVEL_KINDS,
    SHAPES,
    SURFACES,
    make_scenes,
)

N_TOKENS = 49
#: Length of the noise on a mosaic's tokens, which are of length one.
NOISE = 1.0
#: ImageNet classes for training a prior, for choosing defaults and for scoring; the
#: rest is background.
SPLIT = {"base": slice(0, 200), "validation": slice(200, 250), "novel": slice(250, 350)}


_ORDER = np.random.default_rng(1).permutation(BASE_KINDS).tolist()
#: Base kinds, and those that are asked about.
SCENE_KINDS = {
    "novel": (BASE_KINDS, NOVEL_KINDS),
    "validation": (_ORDER[10:], _ORDER[:10]),
}
#: Base scenes are rendered and embedded so many at a time, and kept in files.
CHUNK = 1000


@dataclass
class Task:
    """Images to draw supports from, others to score on, and base images.

    Tokens are of shape (n, 1 + K, d), labels of shape (n, L), texts of shape (L, d).
    """

    name: str
    pool: np.ndarray
    pool_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray
    text: np.ndarray
    base: tuple | None = None
    #: Vectors that know nothing of images: of the labels, and of the base labels.
    words: tuple | None = None
    #: How many base labels, the first ones, are of the kind of those asked about.
    n_alike: int | None = None
    #: Draws so many images more; None where the rest of the pool has to do.
    draw_more: Callable | None = None

    def unlabelled(self, rows, n):
        """Return n images at most that are not in a support of these rows."""
        if self.draw_more is not None:
            return self.draw_more(n)
        rest = np.setdiff1d(np.arange(len(self.pool)), rows)
        return self.pool[np.random.default_rng(len(rows)).permutation(rest)[:n]]


def scenes(split, n_base=20_000, cache_dir=None):
    """Rendered scenes, tokens by the embedded model; the prior sees other kinds.

    Labels of the base scenes are their kinds and what kinds are made of, see
    :func:`scene_labels`.
    """

    def render(n, kinds, seed):
        data = make_scenes(n, kinds=kinds, random_state=seed)
        return np.asarray(_featurizer().fit_transform(data.images)), data.labels

    # For choosing defaults the novel kinds are not looked at.
    base_kinds, kinds = SCENE_KINDS[split]
    seed = {"novel": 100, "validation": 200}[split]
    names = scene_labels(base_kinds)
    return Task(
        f"scenes ({split})",
        *render(300, kinds, seed),
        *render(1000, kinds, seed + 1),
        _texts(kinds),
        n_base and (*base_scenes(split, n_base, names, cache_dir), _texts(names)),
        (_mean_words(kinds), _mean_words(names)),
        len(base_kinds),
        cache(lambda n: render(n, kinds, seed + 2)[0]),
    )


def scene_labels(kinds):
    """Return the names of the labels of scenes of these kinds.

    The kinds, their shapes and surfaces, colours, and coloured shapes.
    """
    words = [f"{word} thing" for word in (*SURFACES, *COLORS)]
    coloured = [" ".join(pair) for pair in product(COLORS, SHAPES)]
    return [*kinds, *SHAPES, *words, *coloured]


def base_scenes(split, n, names, cache_dir=None):
    """Render and embed scenes of the base kinds of a split, or read them.

    Parameters
    ----------
    split : {"novel", "validation"}
    n : int
        How many scenes.
    names : list of str
        Labels, see :func:`scene_labels`.
    cache_dir : path or None
        Where chunks of :data:`CHUNK` scenes are kept; a run that was interrupted goes
        on with the first that is missing. None keeps nothing.

    Returns
    -------
    tokens : ndarray of float32, shape (n, 1 + K, d)
    labels : ndarray of int8, shape (n, len(names))
    """
    first = _embed_chunk(split, 0, cache_dir)
    tokens = np.empty((n, *first[0].shape[1:]), dtype=np.float32)
    labels = np.zeros((n, len(names)), dtype=np.int8)
    column = {name: index for index, name in enumerate(names)}
    for start in range(0, n, CHUNK):
        found, objects = _embed_chunk(split, start // CHUNK, cache_dir)
        tokens[start : start + CHUNK] = found[: n - start]
        for row, scene in enumerate(objects[: n - start], start):
            for color, kind in scene:
                surface, shape = kind.split()
                words = kind, shape, f"{surface} thing", f"{color} thing"
                for word in (*words, f"{color} {shape}"):
                    labels[row, column[word]] = 1
    return tokens, labels


def _embed_chunk(split, number, cache_dir):
    """Return the tokens of a chunk of base scenes, and each one's colours and kinds."""
    seed = 10_000 * (1 + list(SCENE_KINDS).index(split)) + number
    if cache_dir is None:
        return _render_chunk(SCENE_KINDS[split][0], seed)
    folder = Path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scenes-{split}-{number:04}.npy"
    facts = path.with_suffix(".json")
    # The facts are written first: where there are tokens, there are facts.
    if not path.exists():
        tokens, objects = _render_chunk(SCENE_KINDS[split][0], seed)
        _replace(facts, lambda file: file.write(json.dumps(objects).encode()))
        _replace(path, lambda file: np.save(file, tokens.astype(np.float16)))
    return np.load(path), json.loads(facts.read_text())


def _render_chunk(kinds, seed):
    data = make_scenes(CHUNK, kinds=kinds, random_state=seed)
    objects = [
        [list(pair) for pair in zip(*scene, strict=True)]
        for scene in zip(data.colors, data.objects, strict=True)
    ]
    return np.asarray(_featurizer().fit_transform(data.images)), objects


def _replace(path, write):
    """Write a file that is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        write(file)
    os.replace(partial, path)


@cache
def _featurizer():
    return CLIPFeaturizer("tiny", output="tokens")


def mosaics(split, path, distinct=False):
    """Mosaics of ImageNet features; semi-synthetic.

    With `distinct` no photograph of a label stands in two mosaics of the pool, which
    then has at most 4 a label.
    """
    data = load(Path(path) / "imagenet1000.npz")
    parts = ("train1", "train1b", "train2")
    support = tuple(np.concatenate([data[f"{p}_{k}"] for p in parts]) for k in "Xy")
    X, y = data["train4_X"], data["train4_y"]
    blocks = np.array_split(X, 8)
    nearest = np.concatenate([(block @ support[0].T).max(axis=1) for block in blocks])
    query = X[nearest <= NEAR_DUPLICATE], y[nearest <= NEAR_DUPLICATE]
    order = np.random.default_rng(0).permutation(1000)
    classes, background = order[SPLIT[split]], order[350:]
    seed = list(SPLIT).index(split)
    rng = np.random.default_rng(seed)
    n_pool = 150 if distinct else 700
    pool = make_mosaics(rng, support, classes, background, n_pool, distinct)
    asked = make_mosaics(rng, query, classes, background, 1000)
    everything = tuple(
        np.concatenate(pair) for pair in zip(support, query, strict=True)
    )
    base = make_mosaics(
        np.random.default_rng(9),
        everything,
        order[SPLIT["base"]],
        background,
        600,
        True,
    )
    return Task(
        f"mosaics ({split})",
        *pool,
        *asked,
        data["text"][classes],
        (*base, data["text"][order[SPLIT["base"]]]),
    )


def make_mosaics(rng, photographs, classes, background, n, use_once=False):
    """Draw mosaics of 49 tokens.

    Each of 1 to 4 labels fills 4 to 12 tokens with the feature of one photograph of its
    class; each other token shows a photograph of some class kept for background. With
    `use_once` no photograph of a label is in two mosaics.

    Returns
    -------
    tokens : ndarray of float32, shape (n, 50, d)
        Row 0 is the direction of the mean token.
    labels : ndarray of int, shape (n, len(classes))
    """
    X, y = photographs
    of_class = [list(rng.permutation(np.flatnonzero(y == c))) for c in classes]
    others = np.flatnonzero(np.isin(y, background))
    tokens = np.empty((n, 1 + N_TOKENS, X.shape[1]), dtype=np.float32)
    labels = np.zeros((n, len(classes)), dtype=np.int64)
    for row in range(n):
        left = np.array([bool(rows) for rows in of_class])
        n_labels = min(int(rng.integers(1, 5)), left.sum())
        chosen = rng.choice(np.flatnonzero(left), n_labels, replace=False)
        labels[row, chosen] = 1
        shown = rng.choice(others, N_TOKENS)
        places = rng.permutation(N_TOKENS)
        for label in chosen:
            n_filled = int(rng.integers(4, 13))
            photograph = (
                of_class[label].pop() if use_once else rng.choice(of_class[label])
            )
            shown[places[:n_filled]] = photograph
            places = places[n_filled:]
        noise = rng.standard_normal((N_TOKENS, X.shape[1]), dtype=np.float32)
        patches = _unit(X[shown] + NOISE / np.sqrt(X.shape[1]) * noise)
        tokens[row] = np.vstack([_unit(patches.mean(axis=0, keepdims=True)), patches])
    return tokens, labels


def streets(path, split="novel", with_text=True):
    """Street photographs with machine-made labels; global features only.

    The 13 labels that have a text, or all 24 without texts. The first half of the
    images, in a drawn order, is the pool, the rest is asked about, less near duplicates
    of the pool. For choosing defaults the pool alone is divided.
    """
    data = load(Path(path) / "dc_streets.npz")
    labels, has_text = data["Y"].astype(np.int64), data["has_text"].astype(bool)
    name, text = "dc_streets without texts", None
    if with_text:
        name, labels = "dc_streets", labels[:, has_text]
        text = data["text"][has_text] if len(data["text"]) == 24 else data["text"]
    X = _unit(data["X"].astype(np.float32))
    order = np.random.default_rng(0).permutation(len(X))
    pool, query = order[: len(X) // 2], order[len(X) // 2 :]
    if split == "validation":
        pool, query = np.split(pool, [int(0.6 * len(pool))])
    query = query[(X[query] @ X[pool].T).max(axis=1) <= NEAR_DUPLICATE]
    return Task(
        name,
        X[pool][:, None],
        labels[pool],
        X[query][:, None],
        labels[query],
        text,
    )


def _mean_words(names):
    """Return the mean word vector of each name, by the captions alone."""
    vectors = _caption_vectors()
    own = [[word for word in name.split() if word != "thing"] for name in names]
    return np.array([np.mean([vectors[w] for w in words], axis=0) for words in own])


@cache
def _caption_vectors():
    return caption_vectors()


def _texts(names):
    return np.asarray(_featurizer().encode_classes(names))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
