"""Accuracy and calibration on real CLIP features: CMM, its variants and its peers.

    python benchmarks/accuracy.py --data ../shared/data/features --json accuracy.json

Every method has one setting for all data sets and shots (``methods.py``). Nothing is
chosen here, and no row is in both the support and the evaluation set. The features are
not part of the project: ``--data`` names the folder that holds them.

Each run is stored in the file of ``--json`` at once; runs that are in it already are
not made again, unless ``--redo METHOD`` asks for it. From all of them come Markdown
tables of top-1 accuracy (%) and expected calibration error, mean and standard deviation
over supports, a summary, and with ``--plot PATH`` a figure. ``--report`` makes no new
runs.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from accuracy_summary import (
    ablation_rows,
    collect,
    means,
    plot,
    summarize,
    summary_lines,
    table_rows,
)
from feature_data import SHOTS, load_task
from methods import (
    ABLATIONS,
    METHODS,
    OURS,
    PEERS,
    as_in,
    find_class,
    make,
    settings_of,
)
from report import describe, make_and_report, markdown_table
from sklearn.metrics import accuracy_score, log_loss

from skfewshot.metrics import expected_calibration_error

#: What names a run; ``accuracy.py`` itself has neither a support nor a kind.
KEYS = ("data", "support", "kind", "shots", "seed", "method")


def main():
    arguments = _parse()
    if not arguments.report:
        for method in arguments.methods:
            # An error now is better than one after an hour.
            find_class(METHODS[method][0])
    make_and_report(arguments, is_asked_for, run_all, report)


def run_all(arguments, results):
    """Make the runs that the file does not have yet."""
    warm_up(arguments.methods)
    for name in arguments.datasets:
        for shots in chosen_shots(name, arguments.shots):
            for seed in range(arguments.seeds):
                key = {
                    "data": data_name(name, arguments.whole_imagenet),
                    "shots": shots,
                    "seed": seed,
                }
                path = arguments.data / f"{name}.npz"
                load = partial(load_task, path, shots, seed, arguments.whole_imagenet)
                run_missing(key, arguments.methods, results, load)


def run_missing(key, methods, results, load):
    """Make the runs of one task that are missing.

    Parameters
    ----------
    key : dict
        What names the task: a ``seed`` and some of `KEYS`.
    methods : sequence of str
    results : Results
    load : callable
        Returns (X, y, query, target, text), or None where there is no such task. Not
        called where no run is missing.
    """
    done = {run_key(run) for run in results.runs}
    runs = [key | {"method": method} for method in methods]
    runs = [run | {"params": settings_of(run["method"])} for run in runs]
    missing = [run for run in runs if run_key(run) not in done]
    task = load() if missing else None
    for run in missing if task is not None else ():
        with as_in(run["method"]):
            run |= evaluate(make(run["method"], task[-1], key["seed"]), task)
        results.add(run)
        print(_progress(run), flush=True)


def warm_up(methods):
    """Fit on two rows, so that no first fit that is timed waits for an import."""
    X = np.eye(2, 8, dtype=np.float32)
    for method in methods:
        make(method, X).fit(X, [0, 1])


def chosen_shots(name, wanted):
    """Return the shots of a data set, those wanted if any are named."""
    return [shots for shots in SHOTS[name] if not wanted or shots in wanted]


def data_name(name, whole_imagenet):
    """Name a data set by what is scored: all of ImageNet is another measure."""
    return f"{name} (all)" if name == "imagenet1000" and whole_imagenet else name


def run_key(run):
    """Return what makes two runs the same one."""
    params = tuple(sorted(run["params"].items()))
    return *(run.get(key) for key in KEYS), params


def evaluate(estimator, task):
    """Fit one estimator and return what is measured of it."""
    X, y, query, target, _ = task
    start = time.perf_counter()
    estimator.fit(X, y)
    seconds = time.perf_counter() - start
    n_iter = getattr(estimator, "n_iter_", None)
    proba, labels = estimator.predict_proba(query), estimator.classes_
    return {
        "accuracy": 100 * float(accuracy_score(target, estimator.predict(query))),
        "ece": expected_calibration_error(target, proba, labels=labels),
        "log_loss": float(log_loss(target, proba, labels=labels)),
        "fit_seconds": seconds,
        "n_iter": None if n_iter is None else int(np.max(n_iter)),
    }


def _progress(run):
    names = [run[key] for key in ("data", "support", "kind") if key in run]
    return (
        f"{', '.join(names)}, {run['shots']} shots, seed {run['seed']}, "
        f"{run['method']}: "
        f"{run['accuracy']:.2f} %, ECE {run['ece']:.3f}, {run['fit_seconds']:.2f} s"
    )


def report(arguments, results):
    """Print the tables and the summary, and draw the figure."""
    runs = reported_runs(results.runs, arguments)
    if not runs:
        raise SystemExit(f"{arguments.json} has no run of what was asked for.")
    known = [m for m in METHODS if m in {run["method"] for run in runs}]
    methods = [method for method in known if method not in ABLATIONS]
    peers = [method for method in methods if method in PEERS]
    measures = {key: collect(runs, key) for key in ("accuracy", "ece", "fit_seconds")}
    print("\n" + describe(results))
    for title, key, digits in (
        ("Top-1 accuracy, % (bold: the best peer)", "accuracy", 1),
        ("Expected calibration error, 15 bins (bold: the best peer)", "ece", 3),
        ("Seconds of a fit", "fit_seconds", 2),
    ):
        bold = peers if key != "fit_seconds" else ()
        rows = table_rows(
            measures[key], methods, bold, digits=digits, lowest=key == "ece"
        )
        print(f"\n{title}\n")
        print(markdown_table(["data", "shots", *methods], rows))
    if OURS in methods:
        accuracy, ece = means(measures["accuracy"]), means(measures["ece"])
        print("\nSummary\n")
        found = summarize(accuracy, ece, peers, OURS)
        print("\n".join(summary_lines(found, methods, accuracy, OURS)))
        variants = [OURS, *(method for method in known if method in ABLATIONS)]
        print("\nWhat each part of CMM earns: means over shots\n")
        data, rows = ablation_rows(accuracy, ece, variants)
        print(markdown_table(["variant", *data, "all cells", "ECE"], rows))
    if arguments.plot:
        plot(measures["accuracy"], arguments.plot, OURS)
        print(f"\nWrote {arguments.plot}")


def reported_runs(runs, arguments):
    """Return the runs of what was asked for, with today's settings, in table order."""
    order = list(SHOTS) + [data_name(name, True) for name in SHOTS]
    wanted = [
        run
        for run in runs
        if run["method"] in arguments.methods
        and run["params"] == settings_of(run["method"])
        and is_asked_for(run, arguments)
    ]
    return sorted(
        wanted, key=lambda run: (order.index(run["data"]), run["shots"], run["seed"])
    )


def is_asked_for(run, arguments):
    """Say whether a run is of the data sets, shots and seeds that were asked for."""
    names = {data_name(name, arguments.whole_imagenet) for name in arguments.datasets}
    return (
        run["data"] in names
        and (not arguments.shots or run["shots"] in arguments.shots)
        and run["seed"] < arguments.seeds
    )


def add_run_options(parser, methods, seeds):
    """Add what says which runs are made, made again, or only reported."""
    parser.add_argument("--shots", nargs="+", type=int, help="default: all there are")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument(
        "--redo",
        nargs="+",
        choices=methods,
        default=[],
        metavar="METHOD",
        help="make the chosen runs of these methods again",
    )
    parser.add_argument("--report", action="store_true", help="make no runs")


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--json", type=Path, required=True, help="file of the runs")
    parser.add_argument("--datasets", nargs="+", choices=SHOTS, default=list(SHOTS))
    add_run_options(parser, METHODS, seeds=3)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD"
    )
    parser.add_argument("--plot", type=Path, help="write a figure of the accuracy")
    parser.add_argument(
        "--whole-imagenet",
        action="store_true",
        help="score on the half that chose the defaults too, as others' figures do",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
