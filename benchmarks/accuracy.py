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
from feature_data import draw_rows, imagenet_queries, imagenet_support, load
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
                path = arguments.data / f"{name}.npz"
                task = load_task(path, shots, seed, arguments.whole_imagenet)
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


def load_task(path, shots, seed, whole_imagenet):
    """Return (support X, support y, query X, query y, text or None), or None.

    Seed 0 of the data sets with supports of their own takes those; other seeds draw
    from the largest support there is. None says that no further support exists.
    """
    data = load(path)
    text = data.get("text")
    if path.stem == "imagenet1000":
        support = imagenet_support(data, shots, seed)
        if support is None:
            return None
        part = "all" if whole_imagenet else "report"
        return *support, *imagenet_queries(data, support[0], part), text
    if path.stem != "dtd47" and seed == 0:
        X, y = data[f"train{shots}_X"], data[f"train{shots}_y"]
    else:
        pool = "val" if path.stem == "dtd47" else "train16"
        X, y = data[f"{pool}_X"], data[f"{pool}_y"]
        rows = draw_rows(y, shots, seed)
        X, y = X[rows], y[rows]
    return X, y, data["test_X"], data["test_y"], text


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
    parser.add_argument(
        "--whole-imagenet",
        action="store_true",
        help="score on the half that chose the defaults too, as others' figures do",
    )
    parser.add_argument("--skip-probe", nargs="*", default=[], help="data sets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
