"""Accuracy on real CLIP features: zero-shot, linear probe, class means and CMM.

Prints one Markdown table of top-1 accuracy (%), data set by shots, mean and standard
deviation over seeded supports, with the median time of a fit. The features are not
part of the project: ``--data`` names the folder that holds them.

    python benchmarks/accuracy.py --data ../shared/data/features --seeds 5

Every method runs with its defaults. Nothing is chosen here, and no row is in both the
support and the evaluation set.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from skfewshot import CMMClassifier

SHOTS = {
    "dtd47": (1, 2, 4, 8, 16),
    "pets25": (1, 2, 4, 8, 16),
    "flowers102": (1, 2, 4, 8, 16),
    "imagenet1000": (1, 2, 4),
}
#: The regularisation of the linear probe in CLIP's own instructions.
PROBE_C = 0.316


def main():
    arguments = _parse()
    print("| data | shots | " + " | ".join(METHODS) + " |")
    print("|---|---|" + "---|" * len(METHODS))
    for name in arguments.datasets:
        for shots in arguments.shots or SHOTS[name]:
            scores, times = defaultdict(list), defaultdict(list)
            for seed in range(arguments.seeds):
                task = load_task(arguments.data / f"{name}.npz", shots, seed)
                if task is None:
                    break
                for method, make in METHODS.items():
                    if method == "linear probe" and name in arguments.skip_probe:
                        continue
                    score, seconds = evaluate(make, task)
                    scores[method].append(score)
                    times[method].append(seconds)
            cells = [_cell(scores[method], times[method]) for method in METHODS]
            print(f"| {name} | {shots} | " + " | ".join(cells) + " |", flush=True)


def load_task(path, shots, seed):
    """Return (support X, support y, query X, query y, text or None), or None.

    Seed 0 of the data sets with supports of their own takes those; other seeds draw
    from the largest support there is. None says that no further support exists.
    """
    with np.load(path) as data:
        read = {key: data[key] for key in data.files if key != "class_names"}
    for key in read:
        if key.endswith("_X") or key == "text":
            rows = read[key].astype(np.float32)
            read[key] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    text = read.get("text")
    if path.stem == "imagenet1000":
        support = _imagenet_support(read, shots, seed)
        if support is None:
            return None
        X, y = support
        query, target = read["train4_X"], read["train4_y"]
        # The same photograph is now and then in both sets.
        fresh = np.concatenate(
            [(part @ X.T).max(axis=1) <= 0.97 for part in np.array_split(query, 8)]
        )
        return X, y, query[fresh], target[fresh], text
    if path.stem != "dtd47" and seed == 0:
        X, y = read[f"train{shots}_X"], read[f"train{shots}_y"]
    else:
        pool = "val" if path.stem == "dtd47" else "train16"
        X, y = _draw(read[f"{pool}_X"], read[f"{pool}_y"], shots, seed)
    return X, y, read["test_X"], read["test_y"], text


def _imagenet_support(read, shots, seed):
    """Return the support of `shots`: two seeds at one shot, else one."""
    sets = {1: [["train1"], ["train1b"]], 2: [["train2"]]}
    sets[4] = [["train1", "train1b", "train2"]]
    if seed >= len(sets[shots]):
        return None
    parts = sets[shots][seed]
    return tuple(np.concatenate([read[f"{p}_{k}"] for p in parts]) for k in "Xy")


def _draw(X, y, shots, seed):
    """Draw `shots` rows of each class."""
    rng = np.random.default_rng(seed)
    rows = [
        rng.choice(np.flatnonzero(y == label), shots, replace=False)
        for label in np.unique(y)
    ]
    rows = np.concatenate(rows)
    return X[rows], y[rows]


def evaluate(make, task):
    """Fit one method and return its accuracy in % and the seconds of the fit."""
    X, y, query, target, text = task
    estimator = make(text)
    if estimator is None:
        return np.nan, np.nan
    start = time.perf_counter()
    estimator.fit(X, y)
    seconds = time.perf_counter() - start
    return 100 * accuracy_score(target, estimator.predict(query)), seconds


#: Infinite penalties leave the starting prototypes as they are.
FROZEN = {"map_penalty": np.inf, "text_penalty": np.inf}


def _zero_shot(text):
    return None if text is None else CMMClassifier(text, **FROZEN)


METHODS = {
    "zero-shot": _zero_shot,
    "linear probe": lambda text: LogisticRegression(C=PROBE_C, max_iter=1000),
    "class means": lambda text: CMMClassifier(None, **FROZEN),
    "CMM": lambda text: CMMClassifier("auto" if text is None else text),
}


def _cell(scores, times):
    if not scores or np.isnan(scores).all():
        return "-"
    spread = f" ± {np.std(scores):.1f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.1f}{spread} ({np.median(times):.2f} s)"


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--datasets", nargs="+", choices=SHOTS, default=list(SHOTS))
    parser.add_argument("--shots", nargs="+", type=int, help="default: all there are")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--skip-probe", nargs="*", default=[], help="data sets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
