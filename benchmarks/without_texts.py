"""Probabilities without texts, from one image a class on: log loss against guessing.

    python benchmarks/without_texts.py --data FOLDER --shots 1 2 4

Supports are single crops where the data set has such (`val`), with all classes or two
(`pairs`). The last rows are noise: features that know nothing of the classes.
"""

import argparse
import pathlib
import warnings

import numpy as np
from feature_data import draw_rows, load
from sklearn.metrics import log_loss

from skfewshot import (
    CLAPClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.metrics import expected_calibration_error

MODELS = {
    "class mean": ZeroShotClassifier(None),
    "Tip-Adapter": TipAdapterClassifier(None),
    "Tip-Adapter-F": TipAdapterClassifier(None, train_keys=True, random_state=0),
    "GDA": GaussianDiscriminantClassifier(None),
    "LP++": LPPlusPlusClassifier(None),
    "CLAP": CLAPClassifier(None),
    "TaskRes": TaskResClassifier(None, random_state=0),
    "ProKeR": ProKeRClassifier(None),
}
#: Files, and what of them supports are drawn from; None is the `train*` of the shots.
SETS = {
    "dtd47": "val",
    "pets25": "val",
    "flowers102": "val",
    "aid30_vitl14": None,
    "dtd47_rn50": None,
}
N_PAIRS = 20


def tasks_of(name, data, shots, seed):
    """Yield (kind, support X, y, query X, y) of all classes, and of pairs of them."""
    part = SETS[name] or ("train5" if shots == 4 and "aid" in name else f"train{shots}")
    X, y = data[f"{part}_X"], data[f"{part}_y"]
    rows = draw_rows(y, shots, seed)
    X, y, Q, z = X[rows], y[rows], data["test_X"], data["test_y"]
    yield name, X, y, Q, z
    rng = np.random.default_rng(seed)
    for _ in range(N_PAIRS):
        pair = rng.choice(np.unique(y), 2, replace=False)
        held, asked = np.isin(y, pair), np.isin(z, pair)
        yield f"{name} pairs", X[held], y[held], Q[asked], z[asked]


def noise_tasks(shots, seed):
    """Yield tasks of rows on a sphere, of which labels are drawn by chance."""
    for n_classes, d in ((47, 512), (2, 512), (47, 64), (2, 64)):
        for draw in range(1 if n_classes > 2 else N_PAIRS):
            rng = np.random.default_rng([seed, d, draw])
            y = np.repeat(np.arange(n_classes), shots)
            z = rng.integers(n_classes, size=500)
            cone = rng.normal(size=d)
            X, Q = (cone + rng.normal(size=(len(v), d)) for v in (y, z))
            kind = "noise" if n_classes > 2 else "noise pairs"
            yield f"{kind} d={d}", X.astype("f4"), y, Q.astype("f4"), z


def measure(model, X, y, Q, z):
    """Return log loss less that of guessing, accuracy and calibration error."""
    fitted = model.fit(X, y)
    p, classes = fitted.predict_proba(Q).astype(float), fitted.classes_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = log_loss(z, np.clip(p, 1e-38, 1), labels=classes)
    error = expected_calibration_error(z, p, labels=classes)
    hits = np.mean(classes[p.argmax(axis=1)] == z)
    return loss - np.log(len(classes)), 100 * hits, error


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--sets", nargs="+", default=[*SETS, "noise"])
    args = parser.parse_args()
    print(f"{'':>20} shots  " + "".join(f"{name:>20}" for name in args.models))
    for name in args.sets:
        data = None if name == "noise" else load(args.data / f"{name}.npz")
        for shots in args.shots:
            found = {}
            tasks = (
                noise_tasks(shots, 0)
                if data is None
                else tasks_of(name, data, shots, 0)
            )
            for kind, *task in tasks:
                cells = [measure(MODELS[model], *task) for model in args.models]
                found.setdefault(kind, []).append(cells)
            for kind, cells in found.items():
                mean = np.mean(cells, axis=0)
                text = "".join(f"{a:+9.2f} {b:4.0f} {c:.3f}" for a, b, c in mean)
                print(f"{kind:>20} {shots:5}  {text}", flush=True)


if __name__ == "__main__":
    main()
