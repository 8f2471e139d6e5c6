"""Supports whose texts or labels are wrong in known ways, and the queries to score.

Nothing runs here; ``texts.py`` and ``shift.py`` read it:

    for key, X, y, query, target, text in tasks("../shared/data/features"):
        ...

*Supports* are ``val``, single crops as users have them, and ``views``, rows that are
means of ten crops of a photograph. ImageNet has only the second, DTD those of one shot,
the rendered kinds only the first.
"""

import tempfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from feature_data import (
    IMAGENET_SUPPORTS,
    draw_rows,
    imagenet_queries,
    imagenet_support,
    load,
    view_support,
)

from skfewshot.clip import CLIPFeaturizer
from skfewshot.datasets import NOVEL_KINDS, make_object_images

SHOTS = (1, 2, 4, 8, 16)
#: Data set: support: its shots. The largest of ``views`` is what other seeds draw from.
DATA = {
    "dtd47": {"val": SHOTS, "views": (1,)},
    "pets25": {"val": SHOTS, "views": SHOTS},
    "caltech69": {"val": SHOTS, "views": SHOTS},
    "imagenet100": {"views": tuple(IMAGENET_SUPPORTS)},
    "novel12": {"val": SHOTS},
}
AS_THEY_ARE = "as they are"
#: Share of the classes whose names change places.
PERMUTED = {"10 % permuted": 0.1, "30 % permuted": 0.3, "100 % permuted": 1.0}
#: Share of the support's rows whose label is another class's.
WRONG_LABELS = {"10 % wrong labels": 0.1, "20 % wrong labels": 0.2}
#: Fewer shots than these have too few rows of a class for some to be wrong.
NOISY_SHOTS = (4, 8, 16)
TEXT_KINDS = (
    AS_THEY_ARE,
    *PERMUTED,
    "other things",
    "blurred",
    "two classes, one text",
    "codes",
)
KINDS = (*TEXT_KINDS, *WRONG_LABELS)
#: Data sets whose texts stand in for "other things": things of another sort.
OTHERS = {
    "dtd47": ("imagenet1000",),
    "pets25": ("dtd47",),
    "caltech69": ("dtd47", "pets25"),
    "imagenet100": ("dtd47", "coco80_text"),
}
#: What a blurred text keeps of its way from the mean text, and the length of the noise
#: that it gets, as a multiple of the length of that way.
BLUR_KEPT, BLUR_NOISE = 0.5, 1.0
#: Share of the classes that are half of a pair with one text.
PAIRED = 0.2
#: Words for the embedded model, which has seen none of them.
WORDS = (
    *("zebra", "giraffe", "xylophone", "quokka", "teapot", "bicycle"),
    *("volcano", "umbrella", "violin", "lighthouse", "cactus", "penguin"),
)
#: Rendered images of a kind: where supports are drawn from, and to score.
N_POOL, N_TEST = 64, 100
#: Training and ``evaluate_tiny.py`` draw their images from other seeds.
RENDER_SEED = 950_000
DEFAULT_CACHE = Path(tempfile.gettempdir()) / "skfewshot_novel12.npz"


def tasks(
    data_folder,
    datasets=None,
    supports=("val", "views"),
    shots=None,
    kinds=None,
    seed=0,
    *,
    part="report",
    cache=DEFAULT_CACHE,
):
    """Yield every task that was asked for, None standing for all there are.

    Parameters
    ----------
    data_folder : path
        The folder of the CLIP features.
    datasets, supports, shots, kinds : sequence or None
        Keys of `DATA`, ``val`` and ``views``, numbers, and members of `KINDS`.
    seed : int
        Draws the support and the trouble.
    part : {"report", "tuning"}
        Which queries: those of the tables, or others for choosing defaults on
        (rows of ``val`` that are not in the support; other classes of ImageNet).
    cache : path
        A file for the embeddings of the rendered images, made where it is missing.

    Yields
    ------
    key : dict
        ``data``, ``support``, ``shots``, ``kind``, ``seed``.
    X, query : ndarray of shape (n, n_features), float32
        Unit rows.
    y, target : ndarray of shape (n,)
        Row of `text` that is the name of the class, or in `y` said to be.
    text : ndarray of shape (n_classes, n_features), float32
        Unit rows.
    """
    for name in DATA if datasets is None else datasets:
        for support in (s for s in DATA[name] if s in supports):
            for n in (n for n in DATA[name][support] if shots is None or n in shots):
                found = clean_task(data_folder, name, support, n, seed, part, cache)
                if found is None:
                    continue
                X, y, query, target, text = found
                for kind in KINDS if kinds is None else kinds:
                    if kind in WRONG_LABELS and n not in NOISY_SHOTS:
                        continue
                    key = {"data": name, "support": support, "shots": n}
                    key |= {"kind": kind, "seed": seed}
                    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
                    said = y
                    if kind in WRONG_LABELS:
                        said = wrong_labels(y, WRONG_LABELS[kind], rng)
                    told = trouble_texts(text, kind, rng, name, data_folder, cache)
                    yield key, X, said, query, target, told


def clean_task(folder, name, support, shots, seed, part="report", cache=DEFAULT_CACHE):
    """Return (X, y, query, target, text) without trouble, or None.

    None says that there is no further support of this kind.
    """
    folder = Path(folder)
    if name == "imagenet100":
        return _imagenet_task(_load(folder / "imagenet1000.npz"), shots, seed, part)
    if name == "novel12":
        data = rendered(Path(cache))
    else:
        data = _load(folder / f"{name}.npz")
    kept = np.arange(len(data["val_y"]))
    if support == "val":
        rows = draw_rows(data["val_y"], shots, seed)
        X, y = data["val_X"][rows], data["val_y"][rows]
        kept = np.setdiff1d(kept, rows)
    else:
        found = view_support(data, max(DATA[name]["views"]), shots, seed)
        if found is None:
            return None
        X, y = found
    if part == "tuning":
        return X, y, data["val_X"][kept], data["val_y"][kept], data["text"]
    return X, y, data["test_X"], data["test_y"], data["text"]


def _imagenet_task(data, shots, seed, part):
    """Return the task of every tenth class; those that tune are other classes."""
    found = imagenet_support(data, shots, seed)
    if found is None:
        return None
    first = {"report": 0, "tuning": 5}[part]

    def of_tenth(X, y):
        rows = y % 10 == first
        return X[rows], y[rows] // 10

    X, y = of_tenth(*found)
    return X, y, *of_tenth(*imagenet_queries(data, X, "all")), data["text"][first::10]


@cache
def _load(path):
    return load(path)


def trouble_texts(text, kind, rng, name, folder, cache=DEFAULT_CACHE):
    """Return the texts of a data set as a kind of trouble has them."""
    if kind in PERMUTED:
        return permute(text, PERMUTED[kind], rng)
    if kind == "two classes, one text":
        return pair(text, PAIRED, rng)
    if kind == "blurred":
        return blur(text, rng)
    if kind == "other things":
        if name == "novel12":
            pool = rendered(Path(cache))["words"]
        else:
            paths = [Path(folder) / f"{other}.npz" for other in OTHERS[name]]
            pool = np.concatenate([_load(path)["text"] for path in paths])
        return pool[rng.permutation(len(pool))[: len(text)]]
    if kind == "codes":
        # No text encoder comes with the features of the other sets.
        return rendered(Path(cache))["codes"] if name == "novel12" else codes(text, rng)
    return text


def permute(text, share, rng):
    """Let a share of the classes, at least two, pass their texts round a ring."""
    n = max(2, round(share * len(text)))
    ring = rng.permutation(len(text))[:n]
    told = text.copy()
    told[ring] = text[np.roll(ring, 1)]
    return told


def pair(text, share, rng):
    """Pair up a share of the classes, at least two; both get the text of the first."""
    n = max(1, round(share * len(text) / 2))
    chosen = rng.permutation(len(text))
    told = text.copy()
    told[chosen[n : 2 * n]] = text[chosen[:n]]
    return told


def blur(text, rng):
    """Move texts towards their mean, and add noise that is no class's.

    ``unit(mean + BLUR_KEPT * (text - mean) + BLUR_NOISE * r * u)`` with ``r`` the root
    mean square length of ``text - mean`` and ``u`` a random unit direction a class.
    """
    mean = text.mean(axis=0)
    way = text - mean
    noise = BLUR_NOISE * _typical_length(way) * _directions(text, rng)
    return _unit(mean + BLUR_KEPT * way + noise)


def codes(text, rng):
    """Return random directions that lie as far from the mean text as texts do.

    They stand for texts such as "n02099601", which an encoder tells apart without
    knowing what they mean.
    """
    mean = text.mean(axis=0)
    return _unit(mean + _typical_length(text - mean) * _directions(text, rng))


def wrong_labels(y, share, rng):
    """Give a share of the rows another class's label; each class keeps a label."""
    n_classes = y.max() + 1
    while True:
        rows = rng.permutation(len(y))[: round(share * len(y))]
        said = y.copy()
        said[rows] = (y[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
        if len(np.unique(said)) == n_classes:
            return said


def _directions(text, rng):
    return _unit(rng.normal(size=text.shape).astype(np.float32))


def _typical_length(way):
    return np.sqrt((way**2).sum(axis=1).mean())


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@cache
def rendered(path):
    """Return the novel kinds as the embedded model sees them, made once for a file.

    Returns
    -------
    dict
        ``val_X``, ``val_y``, ``test_X``, ``test_y`` and ``text`` as in the files of
        features; ``words`` and ``codes``, the texts of 12 other things and of codes.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {}
        for part, n, seed in (("val", N_POOL, 0), ("test", N_TEST, 1)):
            images, y = render(n, RENDER_SEED + seed)
            arrays |= {f"{part}_X": embed(images), f"{part}_y": y}
        encode = CLIPFeaturizer("tiny", device="cpu").encode_classes
        numbers = np.random.default_rng(0).integers(10**7, 10**8, len(NOVEL_KINDS) // 2)
        names = [f"n{number}" for number in numbers]
        names += [f"class_{index}" for index in range(len(NOVEL_KINDS) - len(names))]
        for key, words in (("text", NOVEL_KINDS), ("words", WORDS), ("codes", names)):
            arrays[key] = np.asarray(encode(words))
        np.savez(path, **arrays)
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def render(n_per_class, seed):
    """Return images of the novel kinds, kind after kind, and their class indices."""
    images, labels = make_object_images(
        n_per_class,
        kinds=NOVEL_KINDS,
        shuffle=False,
        return_X_y=True,
        random_state=seed,
    )
    return images, np.array([NOVEL_KINDS.index(label) for label in labels])


def embed(images):
    """Return what the embedded model makes of images, unit rows in float32."""
    return np.asarray(CLIPFeaturizer("tiny", device="cpu").transform(images))
