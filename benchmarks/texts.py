"""The bench of trouble: names that are wrong, vague, shared or codes; wrong labels.

    python benchmarks/texts.py --data ../shared/data/features --json texts.json

Every method has one setting for all (``methods.py``), and is told nothing of the
trouble (``trouble.py``). A method that learns from texts must not be worse off for
them than what it could have done by itself: forget the texts, or forget the images.
CMM is therefore held against the best of CMM without text, zero-shot and a linear
probe, in every cell: data, support, trouble, shots.

Runs are stored and repeated as ``accuracy.py`` does. A method that texts make no
difference to is run once a support. ``--report`` makes no new runs.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from accuracy import add_run_options, run_missing, warm_up
from accuracy_summary import collect, means
from methods import FREE_OF_TEXT, OURS, PEERS, TROUBLE_ONLY, WITHOUT_TEXT, settings_of
from report import describe, make_and_report, markdown_table
from trouble import AS_THEY_ARE, DATA, KINDS, TEXT_KINDS, WRONG_LABELS, tasks
from trouble_summary import excess_rows, gaps, group_rows, peer_rows, worst_rows

METHODS = (*PEERS, *TROUBLE_ONLY, OURS)
#: The best of these is what CMM is held against in every cell.
FLOORS = (WITHOUT_TEXT, "zero-shot", "linear probe, C 31.6")
NAMES = ("data", "support", "kind", "shots")
#: How far below the best of `FLOORS` a cell may be, in points.
ALLOWED = 1.0
#: How far the calibration error may be above zero-shot's.
ALLOWED_ECE = 0.02
MEASURES = (
    ("Top-1 accuracy, %", "accuracy", 1),
    ("Expected calibration error", "ece", 3),
    ("Log loss", "log_loss", 3),
    ("Seconds of a fit", "fit_seconds", 3),
)


def main():
    arguments = _parse()
    make_and_report(arguments, asked, run_all, report)


def run_all(arguments, results):
    """Make the runs that the file does not have yet."""
    warm_up(arguments.methods)
    free = [method for method in arguments.methods if method in FREE_OF_TEXT]
    bound = [method for method in arguments.methods if method not in FREE_OF_TEXT]
    for seed in range(arguments.seeds):
        for key, *task in tasks(
            arguments.data,
            arguments.datasets,
            arguments.supports,
            arguments.shots,
            arguments.kinds,
            seed,
            cache=arguments.json.parent / "novel12.npz",
        ):
            run_missing(key, bound, results, lambda task=task: task)
            if key["kind"] in TEXT_KINDS:
                key = key | {"kind": AS_THEY_ARE}
            run_missing(key, free, results, lambda task=task: task)


def asked(run, arguments):
    """Say whether a run is of what was asked for."""
    kinds = set(arguments.kinds)
    if run["method"] in FREE_OF_TEXT and kinds & set(TEXT_KINDS):
        kinds.add(AS_THEY_ARE)
    return (
        run["data"] in arguments.datasets
        and run["support"] in arguments.supports
        and run["kind"] in kinds
        and run["method"] in arguments.methods
        and run["seed"] < arguments.seeds
        and (not arguments.shots or run["shots"] in arguments.shots)
    )


def spread(cells, kinds):
    """Give the methods that texts make no difference to a place in every text kind."""
    found = defaultdict(dict)
    for (data, support, kind, shots), scores in cells.items():
        for method, score in scores.items():
            everywhere = method in FREE_OF_TEXT and kind == AS_THEY_ARE
            for other in TEXT_KINDS if everywhere else (kind,):
                if other in kinds:
                    found[data, support, other, shots][method] = score
    order = list(DATA)
    return dict(
        sorted(
            found.items(),
            key=lambda item: (
                order.index(item[0][0]),
                item[0][1],
                KINDS.index(item[0][2]),
                item[0][3],
            ),
        )
    )


def current_runs(arguments, results, asked):
    """Return the runs that were asked for, with today's settings, and their methods."""
    runs = [
        run
        for run in results.runs
        if asked(run, arguments) and run["params"] == settings_of(run["method"])
    ]
    if not runs:
        raise SystemExit(f"{arguments.json} has no run of what was asked for.")
    methods = [m for m in METHODS if m in {run["method"] for run in runs}]
    return runs, methods


def report(arguments, results):
    """Print the tables."""
    runs, methods = current_runs(arguments, results, asked)
    cells = {
        key: spread(means(collect(runs, key, NAMES)), arguments.kinds)
        for _, key, _ in MEASURES
    }
    print("\n" + describe(results))
    for title, key, digits in MEASURES:
        if key in ("accuracy", "ece"):
            print(f"\n{title}, mean over shots (in brackets: of how many)\n")
            rows = group_rows(cells[key], methods, digits)
            print(markdown_table([*NAMES[:-1], *methods], rows))
        print(f"\n{title}, mean over data, supports and shots\n")
        rows = group_rows(_kind_first(cells[key]), methods, digits, depth=1)
        print(markdown_table(["kind", *methods], rows))
    if OURS in methods:
        _report_ours(cells, methods)


def _kind_first(cells):
    return {(cell[2], *cell): scores for cell, scores in cells.items()}


def _report_ours(cells, methods):
    """Print how CMM stands to what it is held against."""
    print("\nCMM and each other method, mean over the cells that both have\n")
    others = [method for method in methods if method != OURS]
    header = ["method", "its mean", OURS, "gain", "cells"]
    print(markdown_table(header, peer_rows(cells["accuracy"], others)))
    found = gaps(cells["accuracy"], FLOORS)
    if found:
        _report_gaps(found, "the best of " + ", ".join(FLOORS))
    noisy = {c: v for c, v in cells["accuracy"].items() if c[2] in WRONG_LABELS}
    found = gaps(noisy, others)
    if found:
        _report_gaps(found, "the best of all other methods, wrong labels")
    rows = excess_rows(cells["ece"], ALLOWED_ECE)
    print(f"\nCells where the ECE is above zero-shot + {ALLOWED_ECE}: {len(rows)}\n")
    print(markdown_table([*NAMES, OURS, "zero-shot", "excess"], rows[:15]))


def _report_gaps(found, rivals):
    """Print where CMM is below what :func:`gaps` compared it with."""
    low = [cell for cell in found if found[cell][1] < -ALLOWED]
    print(f"\nCMM less {rivals}:")
    print(f"{len(low)} of {len(found)} cells below -{ALLOWED:g}; the furthest below\n")
    print(markdown_table([*NAMES, "best", "CMM less it"], worst_rows(found, 20)))
    print("\nBy kind\n")
    rows = []
    for kind in dict.fromkeys(cell[2] for cell in found):
        values = np.array([gap for cell, (_, gap) in found.items() if cell[2] == kind])
        rows.append(
            [
                kind,
                f"{values.mean():+.2f}",
                f"{values.min():+.1f}",
                f"{(values < -ALLOWED).sum()} of {len(values)}",
            ]
        )
    print(markdown_table(["kind", "mean", "worst", f"below -{ALLOWED:g}"], rows))


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--json", type=Path, required=True, help="file of the runs")
    for name, choices in (
        ("datasets", list(DATA)),
        ("supports", ["val", "views"]),
        ("kinds", list(KINDS)),
        ("methods", list(METHODS)),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=choices,
            metavar=name[:-1].upper(),
            help="default: all; of " + ", ".join(map(repr, choices)).replace("%", "%%"),
        )
    add_run_options(parser, METHODS, seeds=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
