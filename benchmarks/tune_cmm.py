"""Try another value of any constant of CMM, on rows that no table scores.

    python benchmarks/tune_cmm.py --constant cmm._scales._INTERCEPT_SPREAD=0.5

The tasks are those of ``trouble.py`` with its tuning rows: the rest of ``val``, and
other classes of ImageNet, with names and labels as they are and in every kind of
trouble. For the defaults and for each ``--constant`` a line says the mean accuracy in
%, the log loss, and how many cells are more than one point below the best of CMM
without text and zero-shot CLIP.
"""

import argparse
import ast
import importlib
import warnings

import numpy as np
from trouble import KINDS, tasks

from skfewshot import CMMClassifier, ZeroShotClassifier


def main():
    arguments = _parse()
    warnings.filterwarnings("ignore", "The number of unique classes")
    print("| constant | accuracy | log loss | below -1 | " + " | ".join(KINDS) + " |")
    print("| --- " * (4 + len(KINDS)) + "|")
    for setting in ["", *arguments.constant]:
        if setting:
            name, value = setting.split("=")
            module, _, constant = name.rpartition(".")
            module = importlib.import_module(f"skfewshot.{module}")
            before = getattr(module, constant)
            setattr(module, constant, ast.literal_eval(value))
        print_row(setting or "defaults", arguments)
        if setting:
            setattr(module, constant, before)


def print_row(name, arguments):
    """Score all tasks with the constants as they are now."""
    found, without, shortfalls = {kind: [] for kind in KINDS}, {}, 0
    for seed in range(arguments.seeds):
        for key, X, y, query, target, text in tasks(
            arguments.data, seed=seed, part="tuning", shots=arguments.shots
        ):
            accuracy, loss = score(CMMClassifier(text), X, y, query, target)
            support = X.tobytes(), y.tobytes()
            if support not in without:
                without[support] = score(CMMClassifier(None), X, y, query, target)[0]
            zero_shot = score(ZeroShotClassifier(text), X, y, query, target)[0]
            shortfalls += accuracy < max(without[support], zero_shot) - 1
            found[key["kind"]].append((accuracy, loss))
    accuracy, loss = np.mean([pair for part in found.values() for pair in part], axis=0)
    kinds = [f"{np.mean([a for a, _ in found[kind]]):.2f}" for kind in KINDS]
    cells = [name, f"{accuracy:.2f}", f"{loss:.3f}", str(shortfalls), *kinds]
    print("| " + " | ".join(cells) + " |", flush=True)


def score(estimator, X, y, query, target):
    """Fit, and return accuracy in % and log loss."""
    p = estimator.fit(X, y).predict_proba(query)
    own = np.maximum(p[np.arange(len(target)), target], 1e-30)
    return 100 * np.mean(p.argmax(axis=1) == target), -np.log(own).mean()


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/features")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--shots", nargs="+", type=int, help="default: all there are")
    parser.add_argument(
        "--constant",
        nargs="+",
        default=[],
        metavar="MODULE.NAME=VALUE",
        help="such as cmm._solver._TEXT_PENALTIES=(3.0,)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
