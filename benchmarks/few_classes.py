"""Two to ten classes: accuracy, calibration error and log loss beside the peers.

    python benchmarks/few_classes.py --data ../shared/data/features

Classes are drawn at random for even seeds; for odd ones they are a class and those that
are most like it by the mean images of `val`. Supports are rows of `val`, and `test` is
scored. `--wrong .2` gives a fifth of the support the label of another class.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from feature_data import draw_rows, load
from sklearn.metrics import log_loss

from skfewshot import (
    CMMClassifier,
    GaussianDiscriminantClassifier,
    ProKeRClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.metrics import expected_calibration_error

DATA = ("dtd47", "pets25", "caltech69", "flowers102")


def methods(text):
    """Return unfitted classifiers by their name in the table."""
    kinds = {
        "Tip-Adapter": TipAdapterClassifier,
        "GDA": GaussianDiscriminantClassifier,
        "ProKeR": ProKeRClassifier,
        "CMM": CMMClassifier,
    }
    if text is not None:
        kinds = {"zero-shot": ZeroShotClassifier, **kinds}
    return {name: kind(text) for name, kind in kinds.items()}


def choose_classes(data, n_classes, seed):
    """Return classes drawn at random, or, for odd seeds, those most like one."""
    X, y = data["val_X"], data["val_y"]
    n_all = int(y.max()) + 1
    chosen = np.random.default_rng(seed).permutation(n_all)[:n_classes]
    if seed % 2 == 0:
        return chosen
    means = np.array([X[y == c].mean(axis=0) for c in range(n_all)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return np.argsort(-means @ means[chosen[0]])[:n_classes]


def mistaken(y, share, rng):
    """Return labels of which a share is another class's."""
    y, n_classes = y.copy(), int(y.max()) + 1
    wrong = rng.permutation(len(y))[: round(share * len(y))]
    y[wrong] = (y[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    return y


def run(data, n_classes, shots, seed, wrong, has_names):
    """Return accuracy, calibration error and log loss by method; {} without rows."""
    classes = np.sort(choose_classes(data, n_classes, seed))
    parts = {}
    for part in ("val", "test"):
        rows = np.isin(data[f"{part}_y"], classes)
        found = np.searchsorted(classes, data[f"{part}_y"][rows])
        parts[part] = data[f"{part}_X"][rows], found
    (X, y), (Q, asked) = parts["val"], parts["test"]
    if np.bincount(y).min() < shots:
        return {}
    rows = draw_rows(y, shots, seed)
    labels = mistaken(y[rows], wrong, np.random.default_rng(seed))
    if len(np.unique(labels)) < n_classes:
        return {}
    scores = {}
    for name, model in methods(data["text"][classes] if has_names else None).items():
        proba = model.fit(X[rows], labels).predict_proba(Q)
        scores[name] = (
            100 * float((proba.argmax(axis=1) == asked).mean()),
            expected_calibration_error(asked, proba),
            log_loss(asked, proba, labels=np.arange(n_classes)),
        )
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", type=int, default=[2, 3, 5, 10])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--wrong", type=float, default=0.0)
    arguments = parser.parse_args()
    sets = {name: load(arguments.data / f"{name}.npz") for name in DATA}
    print("| classes, images each, names | runs | method: accuracy, error, log loss |")
    print("|---|---|---|")
    for has_names, n_classes, shots in product(
        (True, False), arguments.classes, arguments.shots
    ):
        runs = [
            run(data, n_classes, shots, seed, arguments.wrong, has_names)
            for data, seed in product(sets.values(), range(arguments.seeds))
            if not has_names or "text" in data
        ]
        runs = [found for found in runs if found]
        cells = []
        for name in runs[0]:
            mean = np.mean([found[name] for found in runs], axis=0)
            cells.append(
                f"{name} {mean[0]:.1f}, .{1000 * mean[1]:03.0f}, {mean[2]:.3f}"
            )
        named = "with" if has_names else "without"
        head = f"{n_classes}, {shots}, {named}"
        print(f"| {head} | {len(runs)} | {'; '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
