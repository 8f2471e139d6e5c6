"""What a search over CMM's parameters is worth, and what it costs.

    python benchmarks/search.py --data ../shared/data/features

`GridSearchCV` chooses by cross-validation within the support, from few candidates or
many, with the default first among them; then the winner and the default are scored on
the test rows, which took no part in the choice. A row is the mean over drawn supports.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from feature_data import SHOTS, load_task
from report import machine, markdown_table
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skfewshot import CMMClassifier

#: The default comes first: of settings with equal scores the first one wins.
GRIDS = {
    "alpha, 3 candidates": {"alpha": ["auto", 0.2, 1.0]},
    "alpha, 8 candidates": {"alpha": ["auto", 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0]},
}


def main():
    arguments = _parse()
    warnings.simplefilter("ignore")
    rows = [
        row(name, shots, arguments)
        for name in arguments.datasets
        for shots in arguments.shots
        if shots in SHOTS[name]
    ]
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    header = ["data", "shots", "default"]
    for grid in GRIDS:
        header += [grid, "gain ± standard error", "time of one fit"]
    print(markdown_table(header, rows))


def row(name, shots, arguments):
    """Return a row of the table: accuracies in %, and times as multiples of a fit."""
    default, found = [], {grid: [] for grid in GRIDS}
    for seed in range(arguments.seeds):
        task = load_task(arguments.data / f"{name}.npz", shots, seed, False)
        if task is None:
            continue
        X, y, query, target, text = task
        start = time.perf_counter()
        default.append(100 * CMMClassifier(text).fit(X, y).score(query, target))
        alone = time.perf_counter() - start
        for grid, candidates in GRIDS.items():
            n_folds = min(arguments.folds, shots)
            folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
            search = GridSearchCV(CMMClassifier(text), candidates, cv=folds)
            start = time.perf_counter()
            score = 100 * search.fit(X, y).score(query, target)
            found[grid].append((score, (time.perf_counter() - start) / alone))
    cells = [name, str(shots), f"{np.mean(default):.1f}"]
    for results in found.values():
        score, times = np.transpose(results)
        gain = score - default
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
        cells += [
            f"{score.mean():.1f}",
            f"{gain.mean():+.2f} ± {error:.2f}",
            f"{np.median(times):.0f}",
        ]
    print(" | ".join(cells), flush=True)
    return cells


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--datasets", nargs="+", default=["dtd47", "pets25"])
    parser.add_argument("--shots", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
