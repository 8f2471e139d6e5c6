"""What to label next: accuracy by rounds of labelling, for several ways to choose.

    python benchmarks/suggest.py --data ../shared/data/features
    python benchmarks/suggest.py --data ../shared/data/features --part tuning

Starts without a label: from the names where there are texts (``ZeroShotClassifier``),
from nothing for Flowers. A round labels as many images as there are classes. The pool
is a random four fifths of the ``val`` rows, scores are on ``test``; ``--part tuning``
takes pool and scores from ``val``, two thirds and one third. "balanced" knows the
labels before they are given, which nobody does.
"""

import argparse
from pathlib import Path

import numpy as np
from feature_data import load
from sklearn.cluster import KMeans

from skfewshot import CMMClassifier, ZeroShotClassifier
from skfewshot.inspection import suggest

SETS = ("dtd47", "pets25", "caltech69", "flowers102")
ROUNDS = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", choices=("report", "tuning"), default="report")
    arguments = parser.parse_args()
    data = {name: load(arguments.data / f"{name}.npz") for name in arguments.sets}
    tasks = {
        name: [draw_pool(arrays, arguments.part, s) for s in range(arguments.seeds)]
        for name, arrays in data.items()
    }
    print(
        "Top-1 accuracy, %, after rounds of as many images as classes\n\n"
        "| data | images chosen by | 1 | 2 | 3 | 4 | mean | +- seeds |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name, seeds in tasks.items():
        for way in WAYS:
            rows = np.array(
                [label_in_rounds(task, way, s) for s, task in enumerate(seeds)]
            )
            means = " | ".join(f"{value:.1f}" for value in rows.mean(axis=0))
            mean = rows.mean(axis=1)
            spread = mean.std(ddof=1) if len(mean) > 1 else np.nan
            print(
                f"| {name} | {way} | {means} | {mean.mean():.1f} | {spread:.1f} |",
                flush=True,
            )
    print(
        "\nFive classes have no image yet, the others two each; of 20 images chosen\n\n"
        "| data | images chosen by | are of the five | classes found |\n"
        "|---|---|---|---|"
    )
    for name in [name for name in arguments.sets if tasks[name][0][4] is not None]:
        for way in ("random", "margin", "doubt covered", "doubt covered, y="):
            rows = [
                find_classes(task, way, seed) for seed, task in enumerate(tasks[name])
            ]
            a, b = np.mean(rows, axis=0)
            print(f"| {name} | {way} | {a:.1f} | {b:.1f} |", flush=True)


def draw_pool(data, part, seed):
    """Return pool (X, y), queries (X, y), and texts or None."""
    X, y, text = data["val_X"], data["val_y"], data.get("text")
    order = np.random.default_rng(seed).permutation(len(y))
    if part == "report":
        pool = order[: int(0.8 * len(y))]
        return X[pool], y[pool], data["test_X"], data["test_y"], text
    by_class = [order[y[order] == c] for c in np.unique(y)]
    asked = np.concatenate([rows[: max(len(rows) // 3, 1)] for rows in by_class])
    pool = order[~np.isin(order, asked)]
    return X[pool], y[pool], X[asked], y[asked], text


def fit(X, y, text):
    """Return CMM on what has a label, or what there is before; None is nothing."""
    several = len(np.unique(y)) > 1
    if text is None:
        return CMMClassifier(None).fit(X, y) if several else None
    texts = dict(enumerate(text))
    if not several:
        return ZeroShotClassifier(texts).fit(None, np.arange(len(text)))
    return CMMClassifier(texts, extra_classes=np.arange(len(text))).fit(X, y)


def label_in_rounds(task, way, seed):
    """Return the accuracy after each round, in %."""
    X, y, X_query, y_query, text = task
    n, rng = y.max() + 1, np.random.default_rng([seed, 1])
    labelled, scores = np.empty(0, dtype=int), []
    model = fit(X[labelled], y[labelled], text)
    for _ in range(ROUNDS):
        left = np.setdiff1d(np.arange(len(y)), labelled)
        state = model, X[left], X[labelled], y[left], y[labelled]
        labelled = np.concatenate([labelled, left[WAYS[way](*state, n, rng)]])
        model = fit(X[labelled], y[labelled], text)
        scores.append(100 * model.score(X_query, y_query))
    return scores


def find_classes(task, way, seed, n_new=5, shots=2, n=20):
    """Return how many of the images chosen are of new classes, and of how many."""
    X, y, _, _, text = task
    rng = np.random.default_rng([seed, 2])
    new, order = rng.permutation(len(text))[:n_new], rng.permutation(len(y))
    seen = [order[y[order] == c][:shots] for c in range(len(text)) if c not in new]
    labelled = np.concatenate(seen)
    model = fit(X[labelled], y[labelled], text)
    left = np.setdiff1d(np.arange(len(y)), labelled)
    if way == "doubt covered, y=":
        rows = suggest(model, X[left], n, y=y[labelled])
    else:
        state = model, X[left], X[labelled], y[left], y[labelled]
        rows = WAYS[way](*state, n, rng)
    found = y[left[rows]]
    found = found[np.isin(found, new)]
    return len(found), len(np.unique(found))


# Ways to choose n of the rows X: (model, X, labelled X, y, labelled y, n, generator).


def draw(model, X, X_labelled, y, y_labelled, n, rng):
    return rng.permutation(len(X))[:n]


def draw_balanced(model, X, X_labelled, y, y_labelled, n, rng):
    """One more of each class, or of others where a class has no more."""
    order = rng.permutation(len(X))
    place = np.empty(len(X), dtype=int)
    for c in np.unique(y):
        rows = order[y[order] == c]
        place[rows] = np.arange(len(rows)) + (y_labelled == c).sum()
    return order[np.argsort(place[order], kind="stable")][:n]


def least_margin(model, X, X_labelled, y, y_labelled, n, rng):
    if model is None:
        return draw(model, X, X_labelled, y, y_labelled, n, rng)
    first, second = np.sort(model.predict_proba(X), axis=1)[:, :-3:-1].T
    return np.argsort(first - second, kind="stable")[:n]


def most_entropy(model, X, X_labelled, y, y_labelled, n, rng):
    if model is None:
        return draw(model, X, X_labelled, y, y_labelled, n, rng)
    p = model.predict_proba(X)
    return np.argsort((p * np.log(p)).sum(axis=1), kind="stable")[:n]


def mapped(model, X):
    return model.transform(X) if hasattr(model, "transform") else X


def k_means(model, X, X_labelled, y, y_labelled, n, rng):
    """The images next to the centres of as many clusters."""
    rows = mapped(model, X)
    found = KMeans(n, n_init=1, random_state=0).fit(rows)
    nearest = [(rows @ c - c @ c / 2).argmax() for c in found.cluster_centers_]
    return np.unique(nearest)


def core_set(model, X, X_labelled, y, y_labelled, n, rng):
    """One after the other the image that is furthest from all that have a label."""
    rows, known = mapped(model, X), X_labelled
    if not len(known):
        known = rows.mean(axis=0, keepdims=True)
    elif model is not None:
        known = mapped(model, known)
    nearest, taken = (rows @ known.T).max(axis=1), []
    for _ in range(n):
        taken.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows @ rows[taken[-1]])
        nearest[taken] = np.inf
    return np.array(taken)


def doubt_covered(model, X, X_labelled, y, y_labelled, n, rng):
    return suggest(model, X, n)


WAYS = {
    "random": draw,
    "balanced": draw_balanced,
    "margin": least_margin,
    "entropy": most_entropy,
    "k-means": k_means,
    "core-set": core_set,
    "doubt covered": doubt_covered,
}


if __name__ == "__main__":
    main()
