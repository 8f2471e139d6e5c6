"""The time of a search over CMM's parameters: CMMClassifierCV against GridSearchCV.

    python benchmarks/search.py --data ../shared/data/features

Both search the same candidates on the same folds of the same support, in turns in one
process; a figure is the median over rounds. They run on a GPU where there is one, and
else on as many threads as torch takes: set OMP_NUM_THREADS for fewer.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from feature_data import timing_support
from report import machine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from speed_measures import alternate

from skfewshot import CMMClassifier, CMMClassifierCV

PARAMETERS = {
    "alpha": "alphas",
    "map_penalty": "map_penalties",
    "margin": "margins",
    "text_penalty": "text_penalties",
}


def main():
    arguments = _parse()
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y, text = timing_support(arguments.data, arguments.classes, arguments.shots)
    X, text = (array.astype(arguments.dtype) for array in (X, text))
    grid = {name: getattr(arguments, name) for name in PARAMETERS}
    device = arguments.device
    folds = list(
        StratifiedKFold(arguments.folds, shuffle=True, random_state=0).split(X, y)
    )
    searches = {
        "GridSearchCV": GridSearchCV(
            CMMClassifier(text, device=device), grid, cv=folds
        ),
        "CMMClassifierCV": CMMClassifierCV(
            text,
            device=device,
            cv=folds,
            **{PARAMETERS[name]: values for name, values in grid.items()},
        ),
    }
    CMMClassifier(text, device=device).fit(X, y)
    seconds, fitted = alternate(
        {name: lambda s=search: s.fit(X, y) for name, search in searches.items()},
        arguments.rounds,
    )
    report(arguments, seconds, fitted)


def report(arguments, seconds, fitted):
    theirs, ours = (fitted[name].cv_results_ for name in seconds)
    n_candidates = len(ours["params"])
    print(
        f"{n_candidates} candidates, {arguments.folds} folds, {arguments.classes} "
        f"classes of {arguments.shots} shots, d=512, {arguments.dtype}, "
        f"{arguments.rounds} rounds"
    )
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    for name, values in seconds.items():
        low, middle, high = np.percentile(values, [0, 50, 100])
        print(f"{name:>16}: {middle:.2f} s ({low:.2f} to {high:.2f})")
    medians = [np.median(values) for values in seconds.values()]
    print(f"{'ratio':>16}: {medians[1] / medians[0]:.3f}")
    apart = np.abs(ours["mean_test_score"] - theirs["mean_test_score"]).max()
    same = fitted["CMMClassifierCV"].best_params_ == fitted["GridSearchCV"].best_params_
    print(
        f"mean scores apart by {apart:.1e} at most, the same parameters chosen: {same}"
    )


def _parse():
    def number_or_auto(value):
        return value if value == "auto" else float(value)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--classes", type=int, default=47)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    several = {"nargs": "+", "type": float}
    parser.add_argument(
        "--alpha", nargs="+", type=number_or_auto, default=["auto", 0.3]
    )
    parser.add_argument("--map-penalty", **several, default=[1.0, 0.3, 3.0])
    parser.add_argument("--margin", **several, default=[0.1])
    parser.add_argument("--text-penalty", **several, default=[10.0, 3.0, 30.0, 100.0])
    return parser.parse_args()


if __name__ == "__main__":
    main()
