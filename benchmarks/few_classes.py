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
from report import markdown_table
from sklearn.metrics import log_loss
from trouble import wrong_labels

from skfewshot import (
    CMMClassifier,
    GaussianDiscriminantClassifier,
    ProKeRClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.metrics import expected_calibration_error

DATA = ("dtd47", "pets25", "caltech69", "flowers102")
KINDS = {
    "zero-shot": ZeroShotClassifier,
    "Tip-Adapter": TipAdapterClassifier,
    "GDA": GaussianDiscriminantClassifier,
    "ProKeR": ProKeRClassifier,
    "CMM": CMMClassifier,
}


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
    labels = wrong_labels(y[rows], wrong, np.random.default_rng(seed))
    text = data["text"][classes] if has_names else None
    scores = {}
    for name, kind in KINDS.items():
        if kind is ZeroShotClassifier and text is None:
            continue
        proba = kind(text).fit(X[rows], labels).predict_proba(Q)
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
    rows = []
    for has_names, n_classes, shots in product(
        (True, False), arguments.classes, arguments.shots
    ):
        runs = [
            run(data, n_classes, shots, seed, arguments.wrong, has_names)
            for data, seed in product(sets.values(), range(arguments.seeds))
            if not has_names or "text" in data
        ]
        runs = [found for found in runs if found]
        named = "with" if has_names else "without"
        cells = [
            _cell([found[name] for found in runs if name in found]) for name in KINDS
        ]
        rows.append([f"{n_classes}, {shots}, {named}", len(runs), *cells])
    print("Accuracy in %, calibration error, log loss:\n")
    print(markdown_table(["classes, images each, names", "tasks", *KINDS], rows))


def _cell(found):
    if not found:
        return "-"
    accuracy, error, loss = np.mean(found, axis=0)
    return f"{accuracy:.1f}, .{1000 * error:03.0f}, {loss:.3f}"


if __name__ == "__main__":
    main()
