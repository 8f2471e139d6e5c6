"""What rows without labels give, by CMM and by other ways to use them.

    python benchmarks/unlabelled.py --data ../shared/data/features --json runs.json

Supports are 1, 2, 4 or 8 single crops a class, drawn from ``val``; the rest of ``val``
is the pool without labels, and ``test`` is scored. Pools are plain, or trouble: half of
the classes missing, 30 % of the images of another data set, a Zipf law of classes, or
so many rows a class, from one to what there is (``unlabelled_data.py``). Names are
good, absent, or permuted among 30 % of the classes. Every cell (data, names, pool,
shots) holds each way (``unlabelled_methods.py``) against CMM that sees the labelled
rows alone.

Runs are stored at once, and those in the file are not made again unless ``--redo
METHOD`` asks for it; ``--report`` makes none. ``--part tuning`` scores rows of ``val``
instead: constants are chosen there, with ``--constant`` to try one.
"""

import argparse
import ast
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from report import describe, make_and_report, markdown_table
from sklearn.metrics import log_loss
from unlabelled_data import DATA, NAMES, POOLS, SHOTS, tasks
from unlabelled_methods import (
    ABLATIONS,
    FREE_OF_NAMES,
    FREE_OF_POOL,
    LABELLED,
    METHODS,
    MOST_ROWS,
    OURS,
    changed,
)
from unlabelled_summary import (
    ALLOWED,
    ALLOWED_ECE,
    CELL,
    beyond_rows,
    cell_rows,
    gain_rows,
    shot_rows,
    target_rows,
)

from skfewshot.metrics import expected_calibration_error

#: What names a run, beside its method.
KEYS = (*CELL, "seed", "scored")
MEASURES = (
    ("Top-1 accuracy, %", "accuracy", 1),
    ("Expected calibration error", "ece", 3),
    ("Log loss", "log_loss", 3),
)
#: What ``--quick`` runs, where nothing else is said.
QUICK = {
    "datasets": ["dtd47", "pets25", "flowers102"],
    "pools": ["plain", "half of the classes", "30 % foreign", "2 a class"],
    "names": ["good", "absent"],
    "shots": [1, 4],
    "seeds": 1,
    "methods": [LABELLED, OURS],
}
#: What is run otherwise.
FULL = {
    "datasets": list(DATA),
    "pools": list(POOLS),
    "names": list(NAMES),
    "shots": list(SHOTS),
    "seeds": 3,
    "methods": list(METHODS),
}
#: In the name of a run, what stands for the pool or the names of those free of them.
ANY = "any"


def main():
    arguments = _parse()
    make_and_report(arguments, asked, run_all, report)


def run_all(arguments, results):
    """Make the runs that the file does not have yet."""
    done = {run_key(run) for run in results.runs}
    for seed in range(arguments.seeds):
        for key, task in tasks(
            arguments.data,
            arguments.datasets,
            arguments.pools,
            arguments.names,
            arguments.shots,
            seed,
            part=arguments.part,
            cache=arguments.json.parent / "novel12.npz",
        ):
            if is_cell(key, arguments):
                run_missing(key, task, arguments.methods, done, results)


def is_cell(key, arguments):
    """Say whether all words of one of ``--cells`` are in the name of a cell."""
    name = " ".join(str(key[part]) for part in CELL)
    return not arguments.cells or any(
        all(word in name for word in cell.split(",")) for cell in arguments.cells
    )


def run_missing(key, task, methods, done, results):
    """Make the runs of one task that are not done."""
    for method in methods:
        if len(task.pool) > MOST_ROWS.get(method, len(task.pool)):
            continue
        run = key | {"method": method, "constants": constants_of(method)}
        run["pool"] = ANY if method in FREE_OF_POOL else key["pool"]
        run["names"] = ANY if method in FREE_OF_NAMES else key["names"]
        if run_key(run) in done:
            continue
        run |= {"n_pool": len(task.pool)} | evaluate(method, task, key["seed"])
        results.add(run)
        done.add(run_key(run))
        print(_progress(run), flush=True)


def run_key(run):
    """Return what makes two runs the same one."""
    return *(run[key] for key in KEYS), run["method"], str(run["constants"])


def constants_of(method):
    """Return what an ablation changes, as JSON has it."""
    return [[module, name, repr(v)] for module, name, v in ABLATIONS.get(method, ())]


def evaluate(method, task, seed):
    """Fit one way and return what is measured of it."""
    start = time.perf_counter()
    with changed(ABLATIONS.get(method, ())):
        model = METHODS[method](task, seed)
    seconds = time.perf_counter() - start
    proba = model.predict_proba(task.query)
    # Label spreading has nothing to say of a row that is far from all.
    proba = np.nan_to_num(proba, nan=1 / proba.shape[1])
    return {
        "accuracy": 100
        * float(np.mean(model.classes_[proba.argmax(1)] == task.target)),
        "ece": expected_calibration_error(task.target, proba, labels=model.classes_),
        "log_loss": float(log_loss(task.target, proba, labels=model.classes_)),
        "fit_seconds": seconds,
    }


def _progress(run):
    return (
        f"{run['data']}, names {run['names']}, pool {run['pool']}, {run['shots']} "
        f"shots, seed {run['seed']}, {run['method']}: {run['accuracy']:.2f} %, ECE "
        f"{run['ece']:.3f}, log loss {run['log_loss']:.3f}, {run['fit_seconds']:.2f} s"
    )


def asked(run, arguments):
    """Say whether a run is of what was asked for."""
    return (
        run["data"] in arguments.datasets
        and run["pool"] in (*arguments.pools, ANY)
        and run["names"] in (*arguments.names, ANY)
        and run["shots"] in arguments.shots
        and run["seed"] < arguments.seeds
        and run["method"] in arguments.methods
        and (run["scored"] == "val") == (arguments.part == "tuning")
    )


def collect(runs, key, arguments):
    """Return {cell: {method: {seed: value}}} of one measure, in the order of tables.

    A method that is free of pools or names has a place in every cell that another
    method was run in with the same rows.
    """
    cells = defaultdict(lambda: defaultdict(dict))
    places = {tuple(run[part] for part in KEYS) for run in runs}
    places = [dict(zip(KEYS, place, strict=True)) for place in places]
    places = [
        names
        for names in places
        if ANY not in names.values() and is_cell(names, arguments)
    ]
    for run in runs:
        for names in places:
            if all(run[part] in (names[part], ANY) for part in KEYS):
                cell = tuple(names[part] for part in CELL)
                cells[cell][run["method"]][run["seed"]] = run[key]
    return dict(sorted(cells.items(), key=lambda item: _order(item[0])))


def _order(cell):
    data, names, pool, shots = cell
    return DATA.index(data), NAMES.index(names), POOLS.index(pool), shots


def report(arguments, results):
    """Print the tables."""
    runs = [
        run
        for run in results.runs
        if asked(run, arguments) and run["constants"] == constants_of(run["method"])
    ]
    if not runs:
        raise SystemExit(f"{arguments.json} has no run of what was asked for.")
    methods = [m for m in METHODS if m in {run["method"] for run in runs}]
    others = [method for method in methods if method != LABELLED]
    print("\n" + describe(results))
    cells = {key: collect(runs, key, arguments) for _, key, _ in MEASURES}
    for title, key, digits in MEASURES:
        if arguments.every_cell or key == "accuracy":
            print(f"\n{title} (in brackets: less {LABELLED})\n")
            rows = cell_rows(cells[key], methods, LABELLED, digits)
            print(markdown_table([*CELL, *methods], rows))
        print(f"\n{title}, less {LABELLED}: mean over cells (worst cell)\n")
        for part in ("pool", "data", "names"):
            group = CELL.index(part)
            rows = gain_rows(cells[key], others, LABELLED, digits, group)
            print(markdown_table([part, "cells", *others], rows) + "\n")
    for method in (m for m in methods if m == OURS or m in ABLATIONS):
        _report_ours(cells, method)
    rows = [[m, *_seconds(runs, m)] for m in methods]
    print("\nSeconds of a fit\n")
    print(markdown_table(["method", "median", "largest"], rows))


def _seconds(runs, method):
    seconds = [run["fit_seconds"] for run in runs if run["method"] == method]
    return f"{np.median(seconds):.2f}", f"{max(seconds):.2f}"


def _report_ours(cells, method):
    """Print how a way stands to the targets, and where it is worse than allowed."""
    for pool in dict.fromkeys(cell[CELL.index("pool")] for cell in cells["accuracy"]):
        shots, rows = shot_rows(cells["accuracy"], method, LABELLED, pool)
        print(f"\n{LABELLED} -> {method}, pool {pool}, by shots\n")
        print(markdown_table(["data", "names", *shots], rows))
    rows = target_rows(cells["accuracy"], method, LABELLED)
    print(f"\n{method}: targets of the plain pool\n")
    header = ["data", "shots", LABELLED, method, "target", "above it"]
    print(markdown_table(header, rows))
    header = [*CELL, LABELLED, method, "mean", "each seed"]
    for key, allowed, digits, sign, side in (
        ("accuracy", ALLOWED, 2, 1, f"below -{ALLOWED}"),
        ("ece", ALLOWED_ECE, 3, -1, f"above +{ALLOWED_ECE}"),
    ):
        count, rows = beyond_rows(cells[key], method, LABELLED, allowed, digits, sign)
        print(f"\n{method}: {key} less {LABELLED} is {side} in {count} cells\n")
        print(markdown_table(header, rows[:20]))


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--json", type=Path, required=True, help="file of the runs")
    parser.add_argument("--quick", action="store_true", help="ours, a minute or two")
    for name, choices in (
        ("datasets", DATA),
        ("pools", POOLS),
        ("names", NAMES),
        ("methods", tuple(METHODS)),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            metavar=name.removesuffix("s").upper(),
            help="of " + ", ".join(map(repr, choices)).replace("%", "%%"),
        )
    parser.add_argument("--shots", nargs="+", type=int)
    parser.add_argument("--seeds", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument(
        "--cells",
        nargs="+",
        default=[],
        metavar="WORD,WORD",
        help="only cells with all of these in their name, such as dtd47,plain,1",
    )
    parser.add_argument("--part", choices=["report", "tuning"], default="report")
    parser.add_argument(
        "--constant",
        nargs="+",
        default=[],
        metavar="MODULE.NAME=VALUE",
        help="ours with another value, such as cmm._gaussian._MAP_VARIANCE=0.0",
    )
    parser.add_argument(
        "--redo",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="make the chosen runs of these methods again",
    )
    parser.add_argument("--report", action="store_true", help="make no runs")
    parser.add_argument(
        "--every-cell", action="store_true", help="also of errors and log loss"
    )
    arguments = parser.parse_args()
    for name, default in (QUICK if arguments.quick else FULL).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    for setting in arguments.constant:
        arguments.methods = [*arguments.methods, _add_ablation(setting)]
    return arguments


def _add_ablation(setting):
    """Make a method of ours with other constants, and return its name."""
    changes = []
    for part in setting.split(";"):
        name, value = part.split("=")
        module, _, constant = name.rpartition(".")
        changes.append((module, constant, ast.literal_eval(value)))
    name = "; ".join(f"{constant}={value}" for _, constant, value in changes)
    ABLATIONS[name] = tuple(changes)
    METHODS[name] = METHODS[OURS]
    return name


if __name__ == "__main__":
    main()
