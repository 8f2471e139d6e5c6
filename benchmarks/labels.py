"""Prototypes that learn from what other labels look like, and what each part is worth.

    python benchmarks/labels.py --data ../shared/data/features

At 1, 5, 10 and 20 images a label: street photographs with and without texts, rendered
scenes by the global feature and by patches, mosaics by patches, and four sets of
photographs of one class whose labels are classes and groups of classes. Defaults were
chosen on splits like `--split validation`: a part of the pool of the streets, other
kinds and other classes, and the pools of the photographs.
"""

import argparse
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from feature_data import NEAR_DUPLICATE, load
from multilabel_data import Task, mosaics, scenes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from skfewshot import MultiLabelPrototypeClassifier
from skfewshot.metrics import mean_average_precision
from skfewshot.model_selection import sample_support
from skfewshot.multilabel import _discriminant

SHOTS = (1, 5, 10, 20)
N_NEIGHBORS = 5
#: Penalties of the logistic regressions; the second is that of `multilabel.py`.
PROBE_CS = (1.0, 10.0, 100.0)
PHOTOGRAPHS = ("pets25", "caltech69", "dtd47", "flowers102")
N_TYPES = N_GROUPS = 12
GROUP_SHARE = 0.3


def streets(path, split, with_text):
    """Street photographs: the 13 labels that have a text, or all 24 without texts."""
    data = load(Path(path) / "dc_streets.npz")
    X, has_text = _unit(data["X"].astype(np.float32)), data["has_text"].astype(bool)
    labels, text = data["Y"].astype(np.int64), None
    if with_text:
        text = data["text"][has_text] if len(data["text"]) == 24 else data["text"]
        labels = labels[:, has_text]
    order = np.random.default_rng(0).permutation(len(X))
    pool, query = order[: len(X) // 2], order[len(X) // 2 :]
    if split == "validation":
        pool, query = np.split(pool, [int(0.6 * len(pool))])
    query = query[(X[query] @ X[pool].T).max(axis=1) <= NEAR_DUPLICATE]
    name = (
        f"streets, {labels.shape[1]} labels {'with' if with_text else 'without'} text"
    )
    return Task(name, X[pool], labels[pool], X[query], labels[query], text)


def photographs(path, name, split):
    """Photographs of one class: the labels are 12 classes and 12 groups of classes."""
    data = load(Path(path) / f"{name}.npz")
    rng = np.random.default_rng(3)
    n_classes = data["val_y"].max() + 1
    groups = rng.random((n_classes, N_GROUPS)) < GROUP_SHARE
    types = np.eye(n_classes)[:, rng.permutation(n_classes)[:N_TYPES]]
    labels_of_class = np.hstack([types, groups]).astype(np.int64)
    X, y = data["val_X"], data["val_y"]
    query, query_y = data["test_X"], data["test_y"]
    if split == "validation":
        order = rng.permutation(len(X))
        query, query_y = X[order[1::2]], y[order[1::2]]
        X, y = X[order[::2]], y[order[::2]]
    new = np.concatenate(
        [(block @ X.T).max(axis=1) for block in np.array_split(query, 8)]
    )
    new = new <= NEAR_DUPLICATE
    known = labels_of_class[y], query[new], labels_of_class[query_y[new]]
    return Task(f"{name}, classes and groups", X, *known, None)


def by_global_feature(task):
    """Return the task without its patches."""
    name = f"{task.name} by the global feature"
    return replace(task, name=name, pool=task.pool[:, 0], query=task.query[:, 0])


def peer_scores(task, rows):
    """Return {name: scores of the queries} of what is not ours."""
    X, Y, query, text = task.pool[rows], task.pool_labels[rows], task.query, task.text
    patches = None if X.ndim == 2 else (X[:, 1:], query[:, 1:])
    whole, query = (x if x.ndim == 2 else x[:, 0] for x in (X, query))
    likeness = query @ whole.T
    nearest = np.argsort(-likeness, axis=1)[:, :N_NEIGHBORS]
    weights = np.take_along_axis(likeness, nearest, axis=1)
    found = {
        f"logistic regression, C={C:g}": _probe(whole, Y, query, C) for C in PROBE_CS
    }
    found["k-nearest neighbours"] = (weights[:, :, None] * Y[nearest]).sum(axis=1)
    if text is None:
        return found
    centred = _unit(text - text.mean(axis=0))
    found["text, global feature"] = query @ text.T
    found["text, global feature, centred"] = (
        _unit(query - whole.mean(axis=0)) @ centred.T
    )
    if patches is not None:
        support, asked = patches
        asked = _unit(asked - support.mean(axis=(0, 1)))
        best = np.sort(asked @ centred.T, axis=1)[:, -5:]
        found["text, patches, centred"] = best.mean(axis=1)
    return found


def _probe(X, Y, query, C):
    scores = np.zeros((len(query), Y.shape[1]))
    for label in np.flatnonzero((Y.min(axis=0) == 0) & (Y.max(axis=0) == 1)):
        probe = LogisticRegression(C=C, max_iter=1000).fit(X, Y[:, label])
        scores[:, label] = probe.decision_function(query)
    return scores


@contextmanager
def round_covariance() -> Iterator[None]:
    """Give the shared scatter no direction: the same variance along each."""

    def scatter(centred, weight):
        total = weight @ (centred**2).sum(axis=1)
        return total / centred.shape[1] * np.eye(centred.shape[1])

    with mock.patch.object(_discriminant, "_scatter", scatter):
        yield


def our_scores(task, rows):
    """Return {name: scores of the queries} of ours and of ours less some part."""
    X, Y = task.pool[rows], task.pool_labels[rows]

    def scores(**options):
        model = MultiLabelPrototypeClassifier(
            **{"label_features": task.text, **options}
        )
        return model.fit(X, Y).decision_function(task.query)

    found = {"ours": scores()}
    found["ours, no discriminant"] = scores(query_scoring="competitive")
    with round_covariance():
        found["ours, covariance without direction"] = scores()
    if task.text is not None:
        found["ours, no text"] = scores(label_features=None)
        found["ours, half text"] = scores(text_weight=0.5)
    if task.pool.ndim == 3:
        whole = replace(task, pool=task.pool[:, 0], query=task.query[:, 0])
        model = MultiLabelPrototypeClassifier(task.text).fit(whole.pool[rows], Y)
        found["ours, no patches"] = model.decision_function(whole.query)
    return found


def run(task, shots_tried, n_seeds):
    """Return {method: {shots: [mAP in %, one a seed]}}."""
    results = {}
    for shots in shots_tried:
        for seed in range(n_seeds):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "sample_support|.*positive")
                warnings.filterwarnings("ignore", "The label vectors tell")
                warnings.filterwarnings("ignore", category=ConvergenceWarning)
                rows = sample_support(task.pool_labels, shots, random_state=seed)
                found = {**peer_scores(task, rows), **our_scores(task, rows)}
            for name, scores in found.items():
                value = 100 * mean_average_precision(task.query_labels, scores)
                results.setdefault(name, {}).setdefault(shots, []).append(value)
    return results


def table(results):
    """Return the Markdown table, and how far ours is above the best of each cell."""
    tried = list(next(iter(results.values())))
    heads = "".join(f" {shots} shot{'s' * (shots > 1)} |" for shots in tried)
    lines = [f"| method |{heads} mean |", "|---|" + "---|" * (len(tried) + 1)]
    for name, cells in results.items():
        means = [np.mean(cells[shots]) for shots in tried]
        spread = [np.std(cells[shots]) for shots in tried]
        shown = "".join(
            f" {m:.1f} ± {s:.1f} |" for m, s in zip(means, spread, strict=True)
        )
        lines.append(f"| {name} |{shown} {np.mean(means):.1f} |")
    peers = [name for name in results if not name.startswith("ours")]
    best = [max(np.mean(results[name][shots]) for name in peers) for shots in tried]
    lead = [np.mean(results["ours"][s]) - b for s, b in zip(tried, best, strict=True)]
    shown = "".join(f" {value:+.1f} |" for value in lead)
    lines.append(
        f"| ours less the best peer of each cell |{shown} {np.mean(lead):+.1f} |"
    )
    return "\n".join(lines)


def _unit(rows):
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def main():
    makers = {
        "streets-text": lambda a: streets(a.data, a.split, True),
        "streets": lambda a: streets(a.data, a.split, False),
        "scenes-global": lambda a: by_global_feature(scenes(a.split)),
        "scenes": lambda a: scenes(a.split),
        "mosaics": lambda a: mosaics(a.split, a.data),
        **{
            name: (lambda a, name=name: photographs(a.data, name, a.split))
            for name in PHOTOGRAPHS
        },
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/features")
    parser.add_argument("--tasks", nargs="+", choices=makers, default=list(makers))
    parser.add_argument("--split", choices=["validation", "novel"], default="novel")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {}
    for name in arguments.tasks:
        task = makers[name](arguments)
        results = run(task, arguments.shots, arguments.seeds)
        print(f"{task.name}, {arguments.seeds} draws\n\n{table(results)}\n", flush=True)
        report[task.name] = results
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
