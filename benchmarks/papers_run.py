"""CMM's experiments: what is embedded, which cells are missing, and each cell's run.

``papers.py cmm`` reads it. A *cell* is a data set, a method, a number of shots and a
seed. Supports are drawn from the training images, more shots of a seed holding fewer;
nothing is chosen on the test images.
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from feature_data import draw_rows
from methods import OURS, PEERS, as_in, make, settings_of
from papers_store import FeatureStore, digest_of
from scipy.special import log_softmax

import skfewshot
from skfewshot.datasets import load_benchmark
from skfewshot.metrics import expected_calibration_error

#: The eleven data sets, and the shifts, whose classes are ImageNet's or some of them.
SETS = (
    *("ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "Flowers102"),
    *("Food101", "FGVCAircraft", "SUN397", "DTD", "EuroSAT", "UCF101"),
)
SHIFTS = ("ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R")
SOURCE = "ImageNet"
PUBLISHED = "CMM, as published"
METHODS = (*PEERS, OURS, PUBLISHED)
#: The logarithm of a probability of zero; and the least that counts in the log loss.
LOWEST, MOST_CERTAIN = -1e5, float(np.log(np.finfo(np.float32).tiny))
#: What names a cell, in all but its parameters. Of another value of any of them a run
#: is another cell, and no table shows both.
KEYS = (
    *("model", "pretrained", "data", "method", "shots", "seed", "version"),
    *("encoder", "images"),
)


@dataclass
class Source:
    """A data set, and the embeddings of those of its images that are needed.

    Attributes
    ----------
    name : str
    benchmark : Benchmark
        Images, labels, names and splits.
    store : FeatureStore
    """

    name: str
    benchmark: object
    store: FeatureStore

    @cached_property
    def digest(self):
        """Twelve letters for images, labels, names and splits."""
        _, labels, names, splits = self.benchmark
        parts = [part for split in sorted(splits.items()) for part in split]
        return digest_of(self.benchmark.images, labels, names, *parts)

    def rows(self, split):
        """Return the rows of a split."""
        return self.benchmark.splits[split]

    def take(self, rows):
        """Return (X, y) of some rows, embedded before."""
        return self.store.take(rows), self.benchmark.labels[rows]

    def classes(self, split):
        """Return the labels that images of a split have: for some shifts, 200."""
        return np.unique(self.benchmark.labels[self.rows(split)])

    def support_rows(self, shots, seed):
        """Return so many rows of each class of the training images, or all it has."""
        train = self.rows("train")
        return train[draw_rows(self.benchmark.labels[train], shots, seed)]


def find_sets(names, root, make_store):
    """Return {name: Source} of the sets that are there, and {name: message} of others.

    Parameters
    ----------
    names : sequence of str
    root : Path
        The folder of the data sets.
    make_store : callable
        From the name of a set and its images to a `FeatureStore`.
    """
    found, missing = {}, {}
    for name in names:
        try:
            benchmark = load_benchmark(name, root)
        except FileNotFoundError as error:
            missing[name] = str(error)
            print(f"{name} is left out: {error}", flush=True)
            continue
        found[name] = Source(name, benchmark, make_store(name, benchmark.images))
    return found, missing


def cells_of(arguments, sources, settings_of=settings_of):
    """Return what names each cell that was asked for, of the sets that are there.

    Parameters
    ----------
    arguments : Namespace
        With sets, methods, shots, seeds, model and pretrained.
    sources : dict of str to Source
        Of the sets; and ImageNet, where shifts were asked for.
    settings_of : callable
        From the name of a method to what else names its cells.
    """
    common = {"model": arguments.model, "pretrained": arguments.pretrained}
    common["version"] = skfewshot.__version__
    return [
        {
            **common,
            "data": name,
            "encoder": source.store.identity.fingerprint[:12],
            "images": source.digest,
            "seed": seed,
            "shots": shots,
            "method": method,
            "params": settings_of(method),
        }
        for name, source in sources.items()
        if name in arguments.sets
        for seed in range(arguments.seeds)
        for shots in arguments.shots
        for method in arguments.methods
    ]


def run_all(cells, sources, results):
    """Make the cells that are missing, set by set.

    Parameters
    ----------
    cells : list of dict
        What `cells_of` gives.
    sources : dict of str to Source
    results : Results
    """
    done = {run_key(run) for run in results.runs}
    of_support = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if run_key(cell) not in done:
            name = SOURCE if cell["data"] in SHIFTS else cell["data"]
            support = cell["seed"], cell["shots"], cell["method"]
            of_support[name][support].append(cell)
    for name, left in of_support.items():
        _run_set(sources[name], left, sources, results)


def _run_set(source, left, sources, results):
    """Make cells of supports of one set: {(seed, shots, method): cells to score}."""
    supports = {key[:2]: source.support_rows(key[1], key[0]) for key in left}
    source.store.embed(np.concatenate(list(supports.values())))
    queries = {}
    for name in {cell["data"] for cells in left.values() for cell in cells}:
        sources[name].store.embed(sources[name].rows("test"))
        queries[name] = sources[name].take(sources[name].rows("test"))
    classes = source.classes("train")
    text = source.store.texts(source.benchmark.names)[classes]
    columns = {name: _columns(classes, sources[name]) for name in queries}
    for (seed, shots, method), cells in left.items():
        X, y = source.take(supports[seed, shots])
        with as_in(method):
            estimator = make(method, text, seed)
            start = time.perf_counter()
            estimator.fit(X, np.searchsorted(classes, y))
            seconds = time.perf_counter() - start
            for cell in cells:
                found = measure(
                    estimator, *queries[cell["data"]], columns[cell["data"]]
                )
                results.add({**cell, **found, "fit_seconds": seconds})
                print(_progress(results.runs[-1]), flush=True)


def run_key(run):
    """Return what makes two runs the same cell."""
    params = tuple(sorted(run["params"].items()))
    return *(run[key] for key in KEYS), params


def chosen(cells, results):
    """Return the runs of some cells, and of no others that the file has."""
    wanted = {run_key(cell) for cell in cells}
    return [run for run in results.runs if run_key(run) in wanted]


def _columns(classes, scored):
    """Return which of the classes of a support are among those of a set's test."""
    asked = scored.classes("test")
    unknown = np.setdiff1d(asked, classes)
    if len(unknown):
        names = [scored.benchmark.names[label] for label in unknown[:5]]
        raise ValueError(f"{scored.name} asks for {names}, without training images.")
    return np.searchsorted(classes, asked)


def measure(estimator, query, target, columns):
    """Return accuracy in %, ECE and log loss among some of the classes.

    Parameters
    ----------
    estimator : classifier
        Fitted, of classes 0, 1, ...
    query : array of shape (n, d)
    target : ndarray of shape (n,)
        Labels, of which the sorted ones are those of `columns`.
    columns : ndarray of int
        The classes that compete.
    """
    target = np.unique(target, return_inverse=True)[1]
    with np.errstate(divide="ignore"):
        log_proba = np.asarray(estimator.predict_log_proba(query))
    # LogisticRegression rounds to zero, of which a softmax among few classes makes NaN.
    log_proba = np.maximum(log_proba, LOWEST)
    if len(columns) < log_proba.shape[1]:
        log_proba = log_softmax(log_proba[:, columns], axis=1)
    proba, labels = np.exp(log_proba), np.arange(len(columns))
    right = log_proba.argmax(axis=1) == target
    of_target = log_proba[np.arange(len(target)), target]
    return {
        "accuracy": 100 * float(right.mean()),
        "ece": expected_calibration_error(target, proba, labels=labels),
        "log_loss": -float(np.maximum(of_target, MOST_CERTAIN).mean()),
        "n_queries": len(target),
        "n_classes": len(columns),
    }


def _progress(run):
    return (
        f"{run['data']}, {run['shots']} shots, seed {run['seed']}, {run['method']}: "
        f"{run['accuracy']:.2f} %, ECE {run['ece']:.3f}, {run['fit_seconds']:.2f} s"
    )
