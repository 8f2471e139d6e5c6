"""Speed and memory: fits of CMM and its peers, predictions against bare products.

    python benchmarks/speed.py --data ../shared/data/features --json speed.json

Methods take turns in one process, and a figure is the median over rounds. The supports
are real features, with stand-ins where the data has too few rows (``feature_data.py``).
Memory is the peak of a fit in a fresh process, beyond what was resident before. The
runs are stored in the file of ``--json``; ``--report`` only prints its tables.
"""

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
from feature_data import stand_ins, timing_support
from methods import LOGISTIC, METHODS, OURS, PEERS, SPEED_ONLY, TRAINED, find_class
from methods import make as make_method
from report import Results, describe, markdown_table
from sklearn.exceptions import ConvergenceWarning
from speed_measures import (
    alternate,
    cmm_products,
    peak_of,
)

#: (classes, shots)
SIZES = ((47, 16), (196, 16), (397, 8), (1000, 4), (1000, 16))
TIMED = (OURS, *TRAINED, "GDA", "ProKeR", "zero-shot", LOGISTIC)
CHOICES = {**METHODS, **SPEED_ONLY}
PARTS = ("fit", "predict", "memory")


def main():
    arguments = _parse()
    # What a fit that stops early costs is measured all the same.
    warnings.simplefilter("ignore", ConvergenceWarning)
    # At one shot every row is a class of its own; scikit-learn takes that for a hint.
    warnings.filterwarnings("ignore", "The number of unique classes")
    if arguments.memory_child:
        print(json.dumps(memory_of_fit(arguments, arguments.memory_child)))
        return
    results = Results(arguments.json)
    if not arguments.report:
        for method in arguments.methods:
            find_class(CHOICES[method][0])
        measure(arguments, results)
    report(results)


def measure(arguments, results):
    """Make the runs, one size after the other, and store each."""
    for size in arguments.sizes if set(arguments.parts) - {"memory"} else ():
        X, y, text = timing_support(arguments.data, *size)
        if "fit" in arguments.parts:
            store(results, "fit", size, time_fits(arguments, X, y, text))
        if "predict" in arguments.parts:
            found = time_predictions(arguments, X, y, text)
            store(results, "predict", size, found)
    if "memory" in arguments.parts:
        size = arguments.memory_size
        store(results, "memory", size, memory_in_fresh_process(arguments, size))


def store(results, kind, size, found):
    """Store the measures of one kind and size in place of earlier ones."""
    name = show_size(size)
    results.remove(lambda run: (run["kind"], run["size"]) == (kind, name))
    results.add({"kind": kind, "size": name, **found})
    print(f"{kind} {name}: done", flush=True)


def time_fits(arguments, X, y, text):
    """Return the seconds and iterations of a fit by each method."""
    warm_up(arguments.methods, X, y, text)

    def fit(method):
        return lambda: make_method(method, text).fit(X, y)

    actions = {method: fit(method) for method in arguments.methods}
    seconds, fitted = alternate(actions, arguments.repeats, arguments.max_seconds)
    steps = {
        method: int(np.max(model.n_iter_))
        for method, model in fitted.items()
        if getattr(model, "n_iter_", None) is not None
    }
    return {"seconds": seconds, "n_iter": steps}


def warm_up(methods, X, y, text):
    """Fit a few classes, so that no first fit waits for an import or for threads."""
    few = y < 5
    for method in methods:
        make_method(method, text[:5]).fit(X[few], y[few])


def time_predictions(arguments, X, y, text):
    """Return the seconds of CMM's predictions, and of the bare matrix products."""
    # A prediction takes as long whatever the prototypes are.
    model = make_method(OURS, text).fit(X, y)
    queries = stand_ins(X, arguments.queries, np.random.default_rng(1))
    products = cmm_products(model, queries)

    def multiply():
        for left, right in products:
            left @ right

    actions = {
        "products": multiply,
        "predict": lambda: model.predict(queries),
        "predict_proba": lambda: model.predict_proba(queries),
    }
    alternate(actions, 1)
    seconds, _ = alternate(actions, arguments.predict_repeats)
    return {"seconds": seconds, "queries": len(queries)}


def memory_in_fresh_process(arguments, size):
    """Return what `memory_of_fit` finds in a process of its own."""
    command = [sys.executable, __file__, "--data", str(arguments.data)]
    command += ["--memory-child", show_size(size)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout)


def memory_of_fit(arguments, size):
    """Return the bytes that a fit of CMM takes on top of its inputs, on the CPU."""
    X, y, text = timing_support(arguments.data, *size)

    def estimator(texts):
        return make_method(OURS, texts).set_params(device="cpu")

    few = y < 5
    estimator(text[:5]).fit(X[few], y[few])
    model = estimator(text)
    before, peak = peak_of(lambda: model.fit(X, y))
    return {"before": before, "peak": peak, "input": X.nbytes + y.nbytes + text.nbytes}


def report(results):
    """Print the tables of all runs that the file has."""
    found = {(run["kind"], run["size"]): run for run in results.runs}
    sizes = sorted({size for _, size in found}, key=parse_size)
    of = {
        kind: [(size, found[kind, size]) for size in sizes if (kind, size) in found]
        for kind in PARTS
    }
    print("\n" + describe(results))
    if of["fit"]:
        print_fits(of["fit"])
    if of["predict"]:
        print_predictions(of["predict"])
    for size, run in of["memory"]:
        print(
            f"\nPeak memory of a fit of {OURS} at {size}: {run['peak'] / 1e6:.0f} MB "
            f"beyond {run['before'] / 1e6:.0f} MB resident before, with inputs of "
            f"{run['input'] / 1e6:.0f} MB."
        )


def print_fits(runs):
    """Print the median seconds of the fits, and CMM's against its peers'."""
    present = {method for _, run in runs for method in run["seconds"]}
    methods = [method for method in CHOICES if method in present]
    rows = []
    for size, run in runs:
        seconds = run["seconds"]
        medians = {method: np.median(times) for method, times in seconds.items()}
        rounds = max(map(len, seconds.values()))
        trained = [method for method in TRAINED if method in seconds]
        fastest = min(trained, key=medians.get, default=None)
        cells = [
            f"{medians[method]:.3f}{'*' if len(seconds[method]) < rounds else ''}"
            if method in seconds
            else "-"
            for method in methods
        ]
        rows.append([size, *cells, ratio(medians, fastest), ratio(medians, LOGISTIC)])
    header = [*methods, "CMM / fastest trained peer", f"CMM / {LOGISTIC}"]
    print("\nSeconds of a fit, classes x shots (*: over the limit, run once)\n")
    print(markdown_table(["size", *header], rows))


def ratio(medians, other):
    """Return CMM's time over another's as text, with the name of a peer."""
    if other not in medians or OURS not in medians:
        return "-"
    name = f" ({other})" if other in PEERS else ""
    return f"{medians[OURS] / medians[other]:.2f}{name}"


def print_predictions(runs):
    """Print the median times of predictions, and their ratio to the products."""
    rows = []
    for size, run in runs:
        medians = {name: np.median(times) for name, times in run["seconds"].items()}
        row = [size, run["queries"]]
        row += [f"{1000 * seconds:.1f}" for seconds in medians.values()]
        for name in ("predict", "predict_proba"):
            row.append(f"{medians[name] / medians['products']:.2f}")
        rows.append(row)
    header = ["size", "queries", "products, ms", "predict, ms", "predict_proba, ms"]
    header += ["predict / products", "predict_proba / products"]
    print(f"\nPredictions of {OURS}\n")
    print(markdown_table(header, rows))


def parse_size(text):
    """Turn "47x16" into (47, 16)."""
    n_classes, _, shots = text.partition("x")
    return int(n_classes), int(shots)


def show_size(size):
    """Turn (47, 16) into "47x16"."""
    return "x".join(map(str, size))


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--json", type=Path, help="file of the runs")
    size = {"type": parse_size, "metavar": "CLASSESxSHOTS"}
    parser.add_argument("--sizes", nargs="+", default=SIZES, **size)
    parser.add_argument("--memory-size", default=(1000, 16), **size)
    parser.add_argument(
        "--methods", nargs="+", choices=CHOICES, default=list(TIMED), metavar="METHOD"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of fits")
    parser.add_argument("--predict-repeats", type=int, default=15)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=60.0,
        help="a method whose first fit took longer is not fitted again at that size",
    )
    parser.add_argument("--report", action="store_true", help="make no runs")
    parser.add_argument("--memory-child", help=argparse.SUPPRESS, **size)
    arguments = parser.parse_args()
    if arguments.json is None and arguments.memory_child is None:
        parser.error("--json is needed")
    return arguments


if __name__ == "__main__":
    main()
