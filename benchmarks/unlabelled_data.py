"""Supports with a pool of rows whose labels nobody tells, and the queries to score.

Nothing runs here; ``unlabelled.py`` and ``unlabelled_batches.py`` read it:

    for key, task in tasks("../shared/data/features"):
        ...

Supports are single crops drawn from ``val``, pools come from the rest of it (and, for
more rows a class than it has, from a half of ``test``), and ``test`` is scored. No row
is in two of the three, and no photograph that is scored is in a pool. ImageNet has
neither file: its supports and pools are the three photographs a class of ``train1`` and
``train2`` and a half of ``train4``, rows of ten views, and the other half is scored.
"""

import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from feature_data import NEAR_DUPLICATE, draw_rows, imagenet_queries, load
from trouble import DEFAULT_CACHE, embed, permute, render, rendered

SHOTS = (1, 2, 4, 8)
IMAGENET, RENDERED = "imagenet1000", "novel12"
DATA = ("dtd47", "pets25", "flowers102", "caltech69", IMAGENET, RENDERED)
GOOD, ABSENT, PERMUTED = NAMES = ("good", "absent", "30 % permuted")
#: Data set: what there is of `NAMES`, where not all.
NAMES_OF = {"flowers102": (ABSENT,)}
PLAIN, MISSING, FOREIGN, ZIPF = KINDS = (
    "plain",
    "half of the classes",
    "30 % foreign",
    "Zipf",
)
#: Rows a class of the pool, at most.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
#: Data set: the most rows a class that there are for a pool, beside 8 shots.
LARGEST = {
    "dtd47": 32,
    "pets25": 64,
    "flowers102": 16,
    "caltech69": 16,
    IMAGENET: 4,
    RENDERED: 1000,
}
#: The shots that sizes are looked at with, and the names.
SIZE_SHOTS, SIZE_NAMES = (1, 4), (GOOD, ABSENT)
#: Data sets that foreign images come from.
FOREIGNERS = {
    "dtd47": ("pets25", "caltech69"),
    "pets25": ("dtd47", "flowers102"),
    "flowers102": ("dtd47", "pets25"),
    "caltech69": ("dtd47", "flowers102"),
}
FOREIGN_SHARE = 0.3
#: Parts of ImageNet's file that supports are drawn from; ``train1b`` has the
#: photographs of ``train1`` once more. Two rows a class leave one of three.
IMAGENET_PARTS, IMAGENET_SHOTS = ("train1", "train2"), (1, 2)
#: The seed of the rendered images of a pool.
POOL_SEED = 952_000


@dataclass(frozen=True)
class Task:
    """Rows with labels, rows without, and rows to score; all of unit norm.

    ``pool_y`` is for tables and for nobody's fit; -1 is a foreign image.
    """

    X: np.ndarray
    y: np.ndarray
    pool: np.ndarray
    pool_y: np.ndarray
    query: np.ndarray
    target: np.ndarray
    text: np.ndarray | None


def size_name(n):
    """Name the pool of so many rows a class."""
    return f"{n} a class"


SIZE_NAME = {size_name(n): n for n in SIZES}
POOLS = (*KINDS, *SIZE_NAME)


def tasks(
    folder,
    datasets=DATA,
    pools=POOLS,
    names=NAMES,
    shots=None,
    seed=0,
    *,
    part="report",
    cache=DEFAULT_CACHE,
):
    """Yield every task that was asked for.

    Parameters
    ----------
    folder : path
        The folder of the CLIP features.
    datasets, pools, names : sequence of str
        Members of `DATA`, `POOLS` and `NAMES`.
    shots : sequence of int or None
        None stands for all there are.
    seed : int
        Draws the support, the pool and the permutation of names.
    part : {"report", "tuning"}
        What is scored: ``test``, or for choosing defaults a half of the rest of
        ``val``, whose other half is then the pool.
    cache : path
        A file for the embeddings of rendered images, made where it is missing.

    Yields
    ------
    key : dict
        ``data``, ``pool``, ``names``, ``shots``, ``seed``, ``scored``.
    task : Task
    """
    for name in datasets:
        for n in (n for n in SHOTS if shots is None or n in shots):
            for pool in pools:
                found = draw_task(Path(folder), name, pool, n, seed, part, Path(cache))
                if found is None:
                    continue
                wanted = [kind for kind in NAMES_OF.get(name, NAMES) if kind in names]
                if pool in SIZE_NAME and name != IMAGENET:
                    wanted = [kind for kind in wanted if kind in SIZE_NAMES]
                scored, task = found
                for kind in wanted:
                    key = {"data": name, "pool": pool, "names": kind, "shots": n}
                    key |= {"seed": seed, "scored": scored}
                    yield key, named(task, kind, seed)


def named(task, kind, seed):
    """Return a task with the texts of a kind of names."""
    text = task.text
    if kind == ABSENT:
        text = None
    elif kind == PERMUTED:
        text = permute(text, 0.3, _generator(seed, kind))
    return replace(task, text=text)


def draw_task(folder, name, pool, shots, seed, part, cache):
    """Return (what is scored, the task), or None where there is no such task."""
    if name == IMAGENET:
        return _imagenet_task(_load(folder / f"{name}.npz"), pool, shots, seed, part)
    if pool in SIZE_NAME:
        if SIZE_NAME[pool] > LARGEST[name] or shots not in SIZE_SHOTS:
            return None
    elif name == RENDERED:
        return None
    data = rendered(cache) if name == RENDERED else _load(folder / f"{name}.npz")
    rows = draw_rows(data["val_y"], shots, seed)
    rest = np.setdiff1d(np.arange(len(data["val_y"])), rows)
    X, y = data["val_X"][rows], data["val_y"][rows]
    spare = data["val_X"][rest], data["val_y"][rest]
    query, target = data["test_X"], data["test_y"]
    scored = "test"
    if part == "tuning":
        first, second = _halves(spare[1], seed)
        query, target = spare[0][second], spare[1][second]
        spare = spare[0][first], spare[1][first]
        scored = "val"
    elif pool in SIZE_NAME and name != RENDERED:
        first, second = _halves(target, seed)
        more = query[first], target[first]
        spare = tuple(map(np.concatenate, zip(spare, more, strict=True)))
        query, target = query[second], target[second]
        scored = "half of test"
    if name == RENDERED and SIZE_NAME[pool] > np.bincount(spare[1]).min():
        spare = _rendered_pool(cache)
    if name != RENDERED:
        # Rendered images of one kind look alike, and none is rendered twice.
        spare = without_twins(*spare, query)
    spare = _pool(folder, name, pool, *spare, _generator(seed, pool))
    return scored, Task(X, y, *spare, query, target, data.get("text"))


def _pool(folder, name, pool, X, y, rng):
    """Return the rows of a pool (X, y) out of those that there are."""
    if pool in SIZE_NAME:
        return _at_most(X, y, SIZE_NAME[pool], rng)
    if pool == MISSING:
        n_classes = y.max() + 1
        kept = np.isin(y, rng.permutation(n_classes)[: n_classes // 2])
        return X[kept], y[kept]
    if pool == ZIPF:
        return _zipf(X, y, rng)
    if pool == FOREIGN:
        others = [_load(folder / f"{other}.npz") for other in FOREIGNERS[name]]
        others = np.concatenate([other["val_X"] for other in others])
        n = round(len(X) * FOREIGN_SHARE / (1 - FOREIGN_SHARE))
        others = others[rng.permutation(len(others))[:n]]
        return np.concatenate([X, others]), np.append(y, np.full(len(others), -1))
    return X, y


def _at_most(X, y, n, rng):
    """Return at most so many rows of each class."""
    rows = [rng.permutation(np.flatnonzero(y == c))[:n] for c in np.unique(y)]
    rows = np.concatenate(rows)
    return X[rows], y[rows]


def _zipf(X, y, rng):
    """Keep of the class of rank r, by lot, one r-th of its rows."""
    classes = rng.permutation(np.unique(y))
    rows = []
    for rank, c in enumerate(classes, 1):
        own = rng.permutation(np.flatnonzero(y == c))
        rows.append(own[: round(len(own) / rank)])
    rows = np.concatenate(rows)
    return X[rows], y[rows]


def _halves(y, seed):
    """Return the rows of two halves, each with half of every class."""
    rng = np.random.default_rng([seed, 1])
    first, second = [], []
    for turn, c in enumerate(np.unique(y)):
        own = rng.permutation(np.flatnonzero(y == c))
        # Of classes with an odd row, it goes to either half in turn.
        middle = (len(own) + turn % 2) // 2
        first.append(own[:middle])
        second.append(own[middle:])
    return np.concatenate(first), np.concatenate(second)


def _imagenet_task(data, pool, shots, seed, part):
    """Return (what is scored, the task) with a few rows a class, or None."""
    n = SIZE_NAME.get(pool, 0)
    if not 1 <= n <= LARGEST[IMAGENET] or shots not in IMAGENET_SHOTS:
        return None
    X, y = (np.concatenate([data[f"{p}_{k}"] for p in IMAGENET_PARTS]) for k in "Xy")
    rows = draw_rows(y, shots, seed)
    rest = np.setdiff1d(np.arange(len(y)), rows)
    spare = X[rest], y[rest]
    query, target = imagenet_queries(data, X[rows], part)
    if part == "report":
        more = imagenet_queries(data, X[rows], "tuning")
        spare = tuple(map(np.concatenate, zip(spare, more, strict=True)))
    elif n > np.bincount(spare[1]).min():
        return None
    spare = without_twins(*spare, query)
    spare = _at_most(*spare, n, _generator(seed, pool))
    return "half of train4", Task(X[rows], y[rows], *spare, query, target, data["text"])


def without_twins(X, y, query):
    """Return the rows (X, y) that show no photograph which is scored."""
    blocks = np.array_split(X, -(-len(X) // 512))
    nearest = np.concatenate([(block @ query.T).max(axis=1) for block in blocks])
    new = nearest <= NEAR_DUPLICATE
    return X[new], y[new]


@cache
def _load(path):
    return load(path)


@cache
def _rendered_pool(path):
    """Return a thousand images a kind (X, y), embedded once for a file."""
    path = path.with_name(f"{path.stem}-pool.npz")
    if not path.exists():
        images, y = render(max(SIZES), POOL_SEED)
        np.savez(path, X=embed(images), y=y)
    with np.load(path) as file:
        return file["X"], file["y"]


def _generator(seed, word):
    return np.random.default_rng([seed, zlib.crc32(word.encode())])
