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
from label_peers import fit_peers, fit_probe
from multilabel_data import Task, mosaics, scenes, streets

from skfewshot import MultiLabelPrototypeClassifier
from skfewshot.metrics import mean_average_precision
from skfewshot.model_selection import sample_support
from skfewshot.multilabel import _discriminant

SHOTS = (1, 5, 10, 20)
#: Penalties of logistic regressions beside that of `label_peers.py`, which is 10.
OTHER_CS = (1.0, 100.0)
PHOTOGRAPHS = ("pets25", "caltech69", "dtd47", "flowers102")
N_TYPES = N_GROUPS = 12
GROUP_SHARE = 0.3


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
    known = labels_of_class[y], query[new][:, None], labels_of_class[query_y[new]]
    return Task(f"{name}, classes and groups", X[:, None], *known, None)


def by_global_feature(task):
    """Return the task without its patches."""
    name = f"{task.name} by the global feature"
    return replace(task, name=name, pool=task.pool[:, :1], query=task.query[:, :1])


def peer_scores(task, rows):
    """Return {name: scores of the queries} of what is not ours."""
    X, Y, query = task.pool[rows], task.pool_labels[rows], task.query
    found = fit_peers(X, Y, task.text)(query)
    for C in OTHER_CS:
        probe = fit_probe(X[:, 0], Y, C)
        found[f"logistic regression, C={C:g}"] = probe.decision_function(query[:, 0])
    return found


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
    if task.pool.shape[1] > 1:
        whole = by_global_feature(task)
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


def main():
    makers = {
        "streets-text": lambda a: streets(a.data, a.split),
        "streets": lambda a: streets(a.data, a.split, with_text=False),
        "scenes-global": lambda a: by_global_feature(scenes(a.split, n_base=0)),
        "scenes": lambda a: scenes(a.split, n_base=0),
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
