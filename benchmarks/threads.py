"""Whether two jobs, or threads that decode, are ever slower than one.

    python benchmarks/threads.py --json threads.json

Part "jobs": searches and cross-validated predictions with ``n_jobs=1`` against
``--jobs`` processes (loky, started before, and started within the time) and threads.
Part "fits": a fit of CMM on one thread of torch and on all, each alone and while
another process keeps a core busy.
Part "decoding": ``CLIPFeaturizer`` by batch size and `num_workers`, in a process as it
comes and in one whose OpenMP threads sleep at once when they wait (OMP_WAIT_POLICY).
Ways take turns, a figure is the median over rounds, and a ratio that of two medians.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import torch
from featurize import random_weights
from joblib.externals.loky import get_reusable_executor
from photos import photo_files
from report import Results, describe, markdown_table
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import Pipeline
from speed_measures import alternate
from threadpoolctl import threadpool_limits

from skfewshot import CLIPFeaturizer, CMMClassifier

GRID = {"alpha": ["auto", *(0.05 * k for k in range(1, 24))]}
#: (classes, shots)
FITS = ((5, 16), (47, 4), (47, 16), (196, 16))
POLICIES = ("default", "passive")


def main():
    arguments = _parse()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if arguments.child:
        print(json.dumps(time_decoding(arguments)))
        return
    results = Results(arguments.json)
    if not arguments.report:
        with tempfile.TemporaryDirectory() as temporary:
            arguments.folder = arguments.folder or temporary
            if "jobs" in arguments.parts:
                measure_jobs(arguments, results)
            if "fits" in arguments.parts:
                measure_fits(arguments, results)
            if "decoding" in arguments.parts:
                measure_decoding(arguments, results)
    report(results)


def measure_jobs(arguments, results):
    """Time each task with one job and with several, and store it."""
    results.remove(lambda run: run["kind"] == "jobs")
    for name, make_task in TASKS.items():
        task = make_task(arguments)
        actions = ways_to_run(task, arguments.jobs)
        for name_of_way, action in actions.items():
            if "cold" not in name_of_way:
                action()  # imports, weights and workers are there from now on
        seconds, _ = alternate(actions, arguments.rounds)
        run = {"kind": "jobs", "task": name, "jobs": arguments.jobs}
        results.add({**run, "seconds": seconds, "inside": inside_workers(arguments)})
        print(f"jobs, {name}: done", flush=True)


def ways_to_run(task, jobs):
    """Return what is timed: a task is a function of n_jobs."""

    def run_in(backend, cold=False):
        def run():
            if cold:
                get_reusable_executor().shutdown(wait=True)
            with joblib.parallel_config(backend):
                return task(jobs)

        return run

    return {
        "n_jobs=1": lambda: task(1),
        # The one after "cold" finds the workers that it started.
        f"n_jobs={jobs}, loky, cold": run_in("loky", cold=True),
        f"n_jobs={jobs}, loky": run_in("loky"),
        f"n_jobs={jobs}, threading": run_in("threading"),
    }


def inside_workers(arguments):
    """Return the threads of torch within a job, by backend."""
    found = {}
    for backend in ("loky", "threading"):
        with joblib.parallel_config(backend):
            [found[backend]] = joblib.Parallel(n_jobs=arguments.jobs)(
                [joblib.delayed(torch.get_num_threads)()]
            )
    return found


def search_embeddings(arguments):
    """A search over CMM: 24 candidates, 5 folds, 47 classes of 16 shots, d = 512."""
    X, y, text = clusters(47, 16, 512)
    grid = GRID

    def search(n_jobs):
        model = CMMClassifier(text, device="cpu")
        return GridSearchCV(model, grid, cv=5, n_jobs=n_jobs).fit(X, y)

    return search


def predict_embeddings(arguments):
    """Predictions for each fifth of the same embeddings from the other four."""
    X, y, text = clusters(47, 16, 512)

    def predict(n_jobs):
        model = CMMClassifier(text, device="cpu")
        return cross_val_predict(model, X, y, cv=5, n_jobs=n_jobs)

    return predict


def search_images(arguments, cache=None):
    """A search over the whole pipeline from files: 4 candidates, 4 folds."""
    paths = photo_files(arguments.folder, arguments.images)
    y = np.array(["round", "square"])[np.arange(len(paths)) % 2]

    def search(n_jobs):
        with tempfile.TemporaryDirectory() as empty:
            folder = empty if cache == "empty" else cache
            steps = [
                ("clip", CLIPFeaturizer("tiny", None, device="cpu", cache=folder)),
                ("cmm", CMMClassifier(device="cpu")),
            ]
            grid = {"cmm__alpha": ["auto", 0.1, 0.3, 1.0]}
            search = GridSearchCV(Pipeline(steps), grid, cv=4, n_jobs=n_jobs)
            return search.fit(paths, y)

    return search


def search_with_empty_cache(arguments):
    """The same with a cache that starts empty: each image is embedded once."""
    return search_images(arguments, "empty")


def search_with_full_cache(arguments):
    """The same with a cache that has all embeddings."""
    return search_images(arguments, str(Path(arguments.folder) / "full_cache"))


TASKS = {
    "search over CMM, embeddings": search_embeddings,
    "cross_val_predict, embeddings": predict_embeddings,
    "search over the pipeline, files": search_images,
    "the same, empty cache": search_with_empty_cache,
    "the same, full cache": search_with_full_cache,
}


def clusters(n_classes, shots, d):
    """Return unit rows (X, y, text): images scattered about texts, far from them."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(n_classes, d)) + 4 * rng.normal(size=d)
    y = np.repeat(np.arange(n_classes), shots)
    shift = 4 * rng.normal(size=d)
    X = text[y] + shift + 1.5 * rng.normal(size=(len(y), d))
    X, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, text))
    return X.astype(np.float32), y, text.astype(np.float32)


def measure_fits(arguments, results):
    """Time fits on one thread and on all, on a quiet core and beside a busy process."""
    results.remove(lambda run: run["kind"] == "fits")
    for size in FITS:
        X, y, text = clusters(*size, 512)

        def fit(X=X, y=y, text=text):
            CMMClassifier(text, device="cpu").fit(X, y)

        def fit_on_one(fit=fit):
            with threadpool_limits(1, user_api="openmp"):
                fit()

        actions = {"all threads": fit, "one thread": fit_on_one}
        alternate(actions, 1)
        seconds = {"quiet": alternate(actions, arguments.rounds)[0]}
        with a_busy_process():
            seconds["busy"] = alternate(actions, arguments.rounds)[0]
        results.add({"kind": "fits", "size": size, "seconds": seconds})
        print(f"fits, {size}: done", flush=True)


@contextmanager
def a_busy_process():
    """Keep one core busy by a process that has nothing to do with this one."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure_decoding(arguments, results):
    """Time the featurizer in processes of either policy, which take turns."""
    results.remove(lambda run: run["kind"] == "decoding")
    for model in arguments.models:
        seconds = {policy: {} for policy in POLICIES}
        for _ in range(arguments.rounds):
            for policy in POLICIES:
                found = child(arguments, model, policy)
                for way, values in found.items():
                    seconds[policy].setdefault(way, []).extend(values)
        run = {"kind": "decoding", "model": model, "images": arguments.images}
        results.add({**run, "seconds": seconds})
        print(f"decoding, {model}: done", flush=True)


def child(arguments, model, policy):
    """Return what `time_decoding` finds in a process of its own."""
    environment = dict(os.environ)
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, __file__, "--child", model]
    command += ["--folder", str(arguments.folder), "--images", str(arguments.images)]
    answer = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return json.loads(answer.stdout)


def time_decoding(arguments):
    """Return the seconds of the featurizer by batch size and number of workers."""
    paths = photo_files(arguments.folder, arguments.images)
    model = arguments.child
    weights = None if model == "tiny" else random_weights(arguments.folder, model)

    def embed(batch_size, num_workers):
        featurizer = CLIPFeaturizer(
            model, weights, batch_size=batch_size, num_workers=num_workers
        )
        return lambda: len(featurizer.transform(paths))

    settings = [(64, number) for number in (None, 0, 1, 2, 3, 4)]
    settings += [(32, None), (128, None)]
    actions = {
        f"batch_size={size}, num_workers={number}": embed(size, number)
        for size, number in settings
    }
    next(iter(actions.values()))()
    return alternate(actions, 2)[0]


def report(results):
    """Print the tables of all runs that the file has."""
    print("\n" + describe(results))
    runs = [run for run in results.runs if run["kind"] == "jobs"]
    if runs:
        report_jobs(runs)
    runs = [run for run in results.runs if run["kind"] == "fits"]
    if runs:
        report_fits(runs)
    for run in results.runs:
        if run["kind"] == "decoding":
            report_decoding(run)


def report_jobs(runs):
    rows = []
    for run in runs:
        medians = {way: np.median(times) for way, times in run["seconds"].items()}
        alone = medians.pop("n_jobs=1")
        spread = run["seconds"]["n_jobs=1"]
        row = [run["task"], f"{alone:.2f} ({min(spread):.2f} to {max(spread):.2f})"]
        rows.append(row + [f"{v:.2f} ({v / alone:.2f})" for v in medians.values()])
    header = ["task", *runs[0]["seconds"]]
    print("\nSeconds, and in brackets over those of n_jobs=1\n")
    print(markdown_table(header, rows))
    print(f"\nThreads of torch within a job: {runs[0]['inside']}.")


def report_fits(runs):
    ways = [
        (load, way) for load in ("quiet", "busy") for way in runs[0]["seconds"][load]
    ]
    rows = []
    for run in runs:
        times = [run["seconds"][load][way] for load, way in ways]
        cells = [f"{np.median(t):.3f} ({min(t):.3f} to {max(t):.3f})" for t in times]
        rows.append(["x".join(map(str, run["size"])), *cells])
    header = [f"{load}, {way}" for load, way in ways]
    print("\nSeconds of a fit of CMM, classes x shots, d = 512\n")
    print(markdown_table(["size", *header], rows))


def report_decoding(run):
    rows = []
    for way in run["seconds"]["default"]:
        rates = [run["images"] / np.array(run["seconds"][p][way]) for p in POLICIES]
        cells = [f"{np.median(r):.1f} ({min(r):.1f} to {max(r):.1f})" for r in rates]
        rows.append([way, *cells, f"{np.median(rates[1]) / np.median(rates[0]):.2f}"])
    print(f"\n{run['model']}, images/s of {run['images']} files\n")
    print(markdown_table(["CLIPFeaturizer", *POLICIES, "passive / default"], rows))


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file of the runs")
    parts = ("jobs", "fits", "decoding")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=128, help="photographs")
    parser.add_argument("--models", nargs="+", default=["tiny", "ViT-B-32"])
    parser.add_argument("--folder", type=Path, help="keep the photographs here")
    parser.add_argument("--report", action="store_true", help="make no runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.json is None and arguments.child is None:
        parser.error("--json is needed")
    return arguments


if __name__ == "__main__":
    main()
