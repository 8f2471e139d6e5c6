"""How unequal classes are dealt with, on rows that no table of accuracy scores.

    python benchmarks/imbalance.py --data ../shared/data/features

Each class has 1, 2, 4, 8 or 16 images, by lot. Accuracy over classes of one or two
images, over the others, and balanced; as a yardstick, CMM with the same images
dealt out equally.
"""

import argparse
from pathlib import Path

import numpy as np
from feature_data import draw_rows, load
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from skfewshot import CMMClassifier, GaussianDiscriminantClassifier, ProKeRClassifier

COUNTS = (1, 2, 4, 8, 16)
#: Classes of so many images at most are the small ones.
FEW = 2


def methods(text):
    """Return unfitted classifiers by their name in the table."""
    probe = {"C": 31.6, "max_iter": 1000}
    return {
        "linear probe": LogisticRegression(**probe),
        "linear probe, balanced": LogisticRegression(**probe, class_weight="balanced"),
        "GDA": GaussianDiscriminantClassifier(text),
        "ProKeR": ProKeRClassifier(text),
        "CMM": CMMClassifier(text),
        "CMM, balanced": CMMClassifier(text, class_weight="balanced"),
    }


def run(data, seed):
    """Return (balanced accuracy, that of small classes, of others) by method."""
    X, y, text = data["val_X"], data["val_y"], data["text"]
    rng = np.random.default_rng(seed)
    drawn = draw_rows(y, max(COUNTS), seed)
    query = np.setdiff1d(np.arange(len(y)), drawn)
    counts = rng.choice(COUNTS, size=len(text))
    of_class = [drawn[y[drawn] == c] for c in range(len(text))]
    unequal = np.concatenate([r[:n] for r, n in zip(of_class, counts, strict=True)])
    each, spare = divmod(len(unequal), len(text))
    equal = np.concatenate([r[: each + (c < spare)] for c, r in enumerate(of_class)])
    is_small = np.isin(y[query], np.flatnonzero(counts <= FEW))

    def scores(model, rows):
        predicted = model.fit(X[rows], y[rows]).predict(X[query])
        return [
            balanced_accuracy_score(y[query][part], predicted[part])
            for part in (slice(None), is_small, ~is_small)
        ]

    found = {name: scores(model, unequal) for name, model in methods(text).items()}
    return found | {"CMM, equal counts": scores(CMMClassifier(text), equal)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    print("| data | method | balanced | classes of 1 or 2 images | the others |")
    print("|---|---|---|---|---|")
    for name in ("dtd47", "pets25"):
        data = load(arguments.data / f"{name}.npz")
        runs = [run(data, seed) for seed in range(arguments.seeds)]
        for method in runs[0]:
            values = 100 * np.array([found[method] for found in runs])
            cells = [
                f"{mean:.1f} ± {spread:.1f}"
                for mean, spread in zip(values.mean(0), values.std(0), strict=True)
            ]
            print(f"| {name} | {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
