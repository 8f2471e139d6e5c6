"""A whole batch answered together: ``transduce`` beside ``predict``, one at a time.

    python benchmarks/unlabelled_batches.py --data ../shared/data/features --json b.json

CMM is fitted on 1, 2, 4 or 8 single crops a class, without unlabelled rows. ``test`` is
then answered by ``predict``, and by ``transduce`` in batches: all of it at once; 64
images of two, of five or of ten classes; 256 of ten, or of all. A batch has fewer
images where its classes have. A cell is a data set, names, a kind of batch and shots;
its accuracy is over all images of its batches. Runs are stored and repeated as
``unlabelled.py`` does; ``--part tuning`` answers half of the rest of ``val``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from report import describe, make_and_report, markdown_table
from unlabelled_data import DATA, IMAGENET, NAMES, PLAIN, RENDERED, SHOTS, tasks
from unlabelled_summary import ALLOWED, beyond_rows, cell_rows, gain_rows

from skfewshot import CMMClassifier

CELL = ("data", "names", "batch", "shots")
#: Kind of batch: (images, classes), None for all.
BATCHES = {
    "all": (None, None),
    "64 of 2 classes": (64, 2),
    "64 of 5 classes": (64, 5),
    "64 of 10 classes": (64, 10),
    "256 of 10 classes": (256, 10),
    "256 of all classes": (256, None),
}
#: Batches of a kind, one after the other, for each seed; of 256, half as many.
N_BATCHES = 8
ONE, TOGETHER = "predict", "transduce"
DATASETS = tuple(name for name in DATA if name not in (IMAGENET, RENDERED))


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
            [PLAIN],
            arguments.names,
            arguments.shots,
            seed,
            part=arguments.part,
        ):
            del key["pool"]
            keys = [key | {"batch": batch} for batch in arguments.batches]
            keys = [key for key in keys if run_key(key) not in done]
            model = CMMClassifier(task.text).fit(task.X, task.y) if keys else None
            for key in keys:
                run = key | answer_batches(model, task, *BATCHES[key["batch"]], seed)
                results.add(run)
                print(_progress(run), flush=True)


def answer_batches(model, task, n_images, n_classes, seed):
    """Answer batches of a kind both ways, and return what is measured."""
    rng = np.random.default_rng([seed, n_images or 0, n_classes or 0])
    right = {ONE: 0, TOGETHER: 0}
    seconds, n = 0.0, 0
    n_batches = 1 if n_images is None else N_BATCHES // (2 if n_images > 64 else 1)
    for _ in range(n_batches):
        rows = draw_batch(task.target, n_images, n_classes, rng)
        X, target = task.query[rows], task.target[rows]
        right[ONE] += int((model.predict(X) == target).sum())
        start = time.perf_counter()
        together = model.transduce(X)
        seconds += time.perf_counter() - start
        right[TOGETHER] += int((together == target).sum())
        n += len(rows)
    accuracy = {method: 100 * hits / n for method, hits in right.items()}
    return {"accuracy": accuracy, "n_images": n, "seconds": seconds / n_batches}


def draw_batch(target, n_images, n_classes, rng):
    """Return the rows of a batch, at most so many, of so many classes by lot."""
    rows = np.arange(len(target))
    if n_classes is not None:
        classes = rng.permutation(np.unique(target))[:n_classes]
        rows = np.flatnonzero(np.isin(target, classes))
    return rng.permutation(rows)[:n_images]


def run_key(run):
    """Return what makes two runs the same one."""
    return tuple(run[key] for key in (*CELL, "seed", "scored"))


def _progress(run):
    one, together = run["accuracy"][ONE], run["accuracy"][TOGETHER]
    return (
        f"{run['data']}, names {run['names']}, {run['batch']}, {run['shots']} shots, "
        f"seed {run['seed']}: {one:.2f} -> {together:.2f} % ({together - one:+.2f}), "
        f"{run['seconds']:.2f} s a batch"
    )


def asked(run, arguments):
    """Say whether a run is of what was asked for."""
    return (
        run["data"] in arguments.datasets
        and run["batch"] in arguments.batches
        and run["names"] in arguments.names
        and run["shots"] in arguments.shots
        and run["seed"] < arguments.seeds
        and (run["scored"] == "val") == (arguments.part == "tuning")
    )


def report(arguments, results):
    """Print the tables."""
    runs = [run for run in results.runs if asked(run, arguments)]
    if not runs:
        raise SystemExit(f"{arguments.json} has no run of what was asked for.")
    cells = {}
    for run in sorted(runs, key=_order):
        found = cells.setdefault(
            tuple(run[key] for key in CELL), {ONE: {}, TOGETHER: {}}
        )
        for method, accuracy in run["accuracy"].items():
            found[method][run["seed"]] = accuracy
    print("\n" + describe(results))
    print(f"\nTop-1 accuracy, % (in brackets: less {ONE})\n")
    print(
        markdown_table(
            [*CELL, ONE, TOGETHER], cell_rows(cells, [ONE, TOGETHER], ONE, 1)
        )
    )
    print(f"\nAccuracy, less {ONE}: mean over cells (worst cell)\n")
    for part in ("batch", "data", "names", "shots"):
        rows = gain_rows(cells, [TOGETHER], ONE, 2, CELL.index(part))
        print(markdown_table([part, "cells", TOGETHER], rows) + "\n")
    count, rows = beyond_rows(cells, TOGETHER, ONE, ALLOWED, 2)
    print(f"{TOGETHER} is below {ONE} - {ALLOWED} in {count} cells\n")
    header = [*CELL, ONE, TOGETHER, "mean", "each seed"]
    print(markdown_table(header, rows[:20]))
    seconds = [run["seconds"] for run in runs]
    print(f"\nSeconds a batch: {np.median(seconds):.2f}, at most {max(seconds):.2f}")


def _order(run):
    places = DATASETS, NAMES, list(BATCHES)
    names = run["data"], run["names"], run["batch"]
    return *(p.index(n) for p, n in zip(places, names, strict=True)), run["shots"]


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--json", type=Path, required=True, help="file of the runs")
    for name, choices in (
        ("datasets", DATASETS),
        ("batches", tuple(BATCHES)),
        ("names", NAMES),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=list(choices),
            help="default: all",
        )
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", choices=["report", "tuning"], default="report")
    parser.add_argument("--quick", action="store_true", help="one seed, 1 and 4 shots")
    parser.add_argument("--redo", action="store_true", help="make the runs again")
    parser.add_argument("--report", action="store_true", help="make no runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.shots = 1, [1, 4]
    return arguments


if __name__ == "__main__":
    main()
