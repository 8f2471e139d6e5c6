"""Chooses the defaults of CMMClassifier: accuracy on the tuning splits.

    python benchmarks/tune_cmm.py --data ../shared/data/features --seeds 2 --imagenet
    python benchmarks/tune_cmm.py ... --map-penalty 0.5 1 2 --text-penalty 5 10 20
    python benchmarks/tune_cmm.py ... --constant cmm._gaussian._MAP_VARIANCE=1.5

Supports are drawn from, and scored on, rows that no reported accuracy uses: DTD draws
from `val` and scores on the rest of `val`; Pets and Flowers draw from the training
rows and score on `val`; ImageNet scores on a fixed half of `train4`, without near
duplicates of a support row. Beside them stand the conditions that a user's data may
have: a hundred classes, texts blurred by noise, and unequal class counts.
"""

import argparse
import importlib
import itertools
from pathlib import Path

import numpy as np
from feature_data import draw_rows, imagenet_queries, imagenet_support, load

from skfewshot import CMMClassifier

SHOTS = (1, 2, 4, 8, 16)
#: Standard deviation of the noise on each of 512 coordinates of a unit text.
TEXT_NOISE = 0.045


def main():
    arguments = parse_arguments()
    for constant, value in arguments.constant:
        module, _, name = constant.rpartition(".")
        module = importlib.import_module(f"skfewshot.{module}")
        if not hasattr(module, name):
            raise SystemExit(f"skfewshot has no constant {constant}")
        setattr(module, name, float(value))
    tasks = [
        (name, task)
        for seed in range(arguments.seeds)
        for name, task in make_tasks(arguments.data, seed, arguments.imagenet)
    ]
    names = list(dict.fromkeys(name for name, _ in tasks))
    print("| map_penalty | text_penalty | " + " | ".join(names) + " | mean |")
    print("|---" * (len(names) + 3) + "|")
    grid = itertools.product(arguments.map_penalty, arguments.text_penalty)
    for map_penalty, text_penalty in grid:
        scores = [score(task, map_penalty, text_penalty) for _, task in tasks]
        print_row(map_penalty, text_penalty, names, tasks, scores)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--imagenet", action="store_true", help="all 1000 classes too")
    defaults = CMMClassifier().get_params()
    for penalty in ("map_penalty", "text_penalty"):
        parser.add_argument(
            f"--{penalty.replace('_', '-')}",
            type=float,
            nargs="+",
            default=[defaults[penalty]],
        )
    parser.add_argument(
        "--constant",
        type=lambda text: tuple(text.split("=")),
        nargs="+",
        default=[],
        help="module.NAME=value: a constant of the package to try another value of",
    )
    return parser.parse_args()


def make_tasks(folder, seed, imagenet):
    """Yield (name, (support X, support y, query X, query y, text))."""
    for name in ("dtd47", "pets25", "flowers102"):
        data = load(folder / f"{name}.npz")
        for shots in SHOTS:
            yield f"{name} {shots}", draw_task(name, data, shots, seed)
        if name == "flowers102":
            continue
        task = draw_task(name, data, max(SHOTS), seed)
        yield f"{name} 1-16", unbalance(task, seed)
    data = load(folder / "imagenet1000.npz")
    for shots in (1, 2, 4):
        task = draw_task("imagenet1000", data, shots, seed)
        if imagenet:
            yield f"imagenet1000 {shots}", task
        task = keep_classes(task, 100, seed)
        yield f"imagenet100 {shots}", task
        yield f"imagenet100 noisy texts {shots}", blur_texts(task, seed)


def draw_task(name, data, shots, seed):
    """Support of some rows a class, and tuning rows that are not among them."""
    if name == "imagenet1000":
        X, y = imagenet_support(data, shots, 0)
        return X, y, *imagenet_queries(data, X, "tuning"), data["text"]
    pool = "val" if name == "dtd47" else "train16"
    X, y = data[f"{pool}_X"], data[f"{pool}_y"]
    rows = draw_rows(y, shots, seed)
    if pool == "val":
        rest = np.setdiff1d(np.arange(len(y)), rows)
        return X[rows], y[rows], X[rest], y[rest], data["text"]
    return X[rows], y[rows], data["val_X"], data["val_y"], data.get("text")


def unbalance(task, seed):
    """Keep from 1 to all rows of a class, uniform in the logarithm."""
    X, y, *rest = task
    rng = np.random.default_rng(seed)
    kept = []
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        kept.append(rows[: round(len(rows) ** rng.uniform())])
    kept = np.concatenate(kept)
    return X[kept], y[kept], *rest


def keep_classes(task, n_classes, seed):
    X, y, X_query, y_query, text = task
    rng = np.random.default_rng(seed)
    classes = np.sort(rng.permutation(len(text))[:n_classes])
    seen, asked = np.isin(y, classes), np.isin(y_query, classes)
    return (
        X[seen],
        np.searchsorted(classes, y[seen]),
        X_query[asked],
        np.searchsorted(classes, y_query[asked]),
        text[classes],
    )


def blur_texts(task, seed):
    *rest, text = task
    noise = np.random.default_rng(seed).normal(scale=TEXT_NOISE, size=text.shape)
    text = (text + noise).astype(np.float32)
    return *rest, text / np.linalg.norm(text, axis=1, keepdims=True)


def score(task, map_penalty, text_penalty):
    """Accuracy of CMM on the query rows."""
    X, y, X_query, y_query, text = task
    model = CMMClassifier(text, map_penalty=map_penalty, text_penalty=text_penalty)
    return model.fit(X, y).score(X_query, y_query)


def print_row(map_penalty, text_penalty, names, tasks, scores):
    means = {
        name: 100
        * np.mean([s for (n, _), s in zip(tasks, scores, strict=True) if n == name])
        for name in names
    }
    cells = [f"{value:.1f}" for value in (*means.values(), np.mean([*means.values()]))]
    print(f"| {map_penalty} | {text_penalty} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
