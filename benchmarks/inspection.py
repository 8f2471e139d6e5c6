"""Prediction sets and novelty: what was asked, and what new images get.

    python benchmarks/inspection.py --data ../shared/data/features

Supports are drawn from `val`, queries are `test`, one crop an image on both sides.
Shares are means over the classes, as the classes of Caltech are of unequal size in
`test` and alike in a support. For novelty half of the classes are drawn to be known;
near are images of the others, far all images of another data set.

Nothing is chosen here: the score of sets needs no choice, and that of novelty was
chosen on `val`.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from feature_data import draw_rows, load
from sklearn.metrics import roc_auc_score

from skfewshot import (
    CMMClassifier,
    GaussianDiscriminantClassifier,
    ProKeRClassifier,
)
from skfewshot.inspection import novelty_score, novelty_threshold, predict_set

METHODS = {
    "CMM": CMMClassifier,
    "GDA": GaussianDiscriminantClassifier,
    "ProKeR": ProKeRClassifier,
}
#: Data sets, and where images of something else altogether are from.
FAR = {"dtd47": "pets25", "pets25": "dtd47", "caltech69": "dtd47"}
FALSE_ALARMS = 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--what", nargs="+", default=["sets", "classes", "novelty"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["CMM"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 16])
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "coverage=")
    data = {name: load(arguments.data / f"{name}.npz") for name in FAR}
    tables = {"sets": show_sets, "classes": show_classes, "novelty": show_novelty}
    for what in arguments.what:
        tables[what](data, arguments)


def cells(arguments):
    for method in arguments.methods:
        for name in FAR:
            for shots in arguments.shots:
                yield method, name, shots


def mean_of_classes(values, y):
    """Return the mean over the classes of what rows have in the mean, in %."""
    counts = np.bincount(y)
    held = counts > 0
    return 100 * np.mean(np.bincount(y, values)[held] / counts[held])


def fit(method, text, X, y, **given):
    return METHODS[method](text, **given).fit(X, y)


def own_of(model, X, y):
    proba = model.predict_proba(X)
    return proba, proba[np.arange(len(y)), y]


# Sets


def show_sets(data, arguments):
    wanted = arguments.coverage
    print(
        f"\nSets for a coverage of {100 * wanted:g} %: mean over seeds ± standard "
        "deviation. Split: half of the support fits, half calibrates. At equal "
        f"coverage: sizes where both cover {100 * wanted:g} % of the queries.\n\n"
        "| method | data | shots | covered, % | worst | classes a set | empty, % "
        "| split: covered, % | classes a set | at equal coverage: ours | split |\n"
        + "|---" * 11
        + "|"
    )
    for method, name, shots in cells(arguments):
        rows = [
            sets_of(method, data[name], shots, seed, wanted)
            for seed in range(arguments.seeds)
        ]
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        worst = max((row[0] for row in rows), key=lambda x: abs(x - 100 * wanted))
        cut = f"{mean[3]:.1f} | {mean[4]:.2f} | {mean[5]:.2f} | {mean[6]:.2f}"
        print(
            f"| {method} | {name} | {shots} | {mean[0]:.1f} ± {spread[0]:.1f} "
            f"| {worst:.1f} | {mean[1]:.2f} | {mean[2]:.1f} "
            f"| {cut if shots > 1 else ' | '.join(4 * '-')} |",
            flush=True,
        )


def sets_of(method, data, shots, seed, coverage):
    """Coverage, size and share of empty sets; the same of a split; sizes at equal."""
    X, y, text = data["val_X"], data["val_y"], data["text"]
    queries, truth = data["test_X"], data["test_y"]
    rows = draw_rows(y, shots, seed)
    model = fit(method, text, X[rows], y[rows], store_left_out=True)
    sets = predict_set(model, queries, coverage=coverage)
    found = [*described(sets, truth), mean_of_classes(~sets.any(axis=1), truth)]
    if shots == 1:
        return np.array([*found, *4 * [np.nan]])
    aside = np.isin(np.arange(len(rows)), second_half(y[rows]))
    split = fit(method, text, X[rows][~aside], y[rows][~aside])
    own = np.sort(own_of(split, X[rows][aside], y[rows][aside])[1])
    rank = int(np.ceil((len(own) + 1) * coverage))
    least = own[::-1][rank - 1] if rank <= len(own) else 0.0
    found += described(split.predict_proba(queries) >= least, truth)
    for fitted in (model, split):
        proba, own = own_of(fitted, queries, truth)
        # The share of classes that rows of each class stand for.
        weight = 1 / np.bincount(truth)[truth]
        order = np.argsort(-own)
        reached = np.cumsum(weight[order]) >= coverage * weight.sum()
        found.append(described(proba >= own[order[reached.argmax()]], truth)[1])
    return np.array(found)


def second_half(y):
    """Rows that are kept aside: half of each class."""
    return np.concatenate(
        [np.flatnonzero(y == c)[: (y == c).sum() // 2] for c in np.unique(y)]
    )


def described(sets, truth):
    held = sets[np.arange(len(truth)), truth]
    size = mean_of_classes(sets.sum(axis=1), truth) / 100
    return [mean_of_classes(held, truth), size]


def show_classes(data, arguments):
    wanted = arguments.coverage
    print(
        f"\nCoverage of {100 * wanted:g} % of each class: the mean, and a tenth of the "
        "classes at most below.\n\n"
        "| method | data | shots | one bound: mean | tenth | classes a set "
        "| per_class=True: mean | tenth | classes a set |\n" + "|---" * 9 + "|"
    )
    for method, name, shots in cells(arguments):
        if shots < wanted / (1 - wanted) - 1e-9:
            continue
        rows = []
        for seed in range(arguments.seeds):
            X, y = data[name]["val_X"], data[name]["val_y"]
            truth, drawn = data[name]["test_y"], draw_rows(y, shots, seed)
            text = data[name]["text"]
            model = fit(method, text, X[drawn], y[drawn], store_left_out=True)
            row = []
            for per_class in (False, True):
                sets = predict_set(
                    model, data[name]["test_X"], coverage=wanted, per_class=per_class
                )
                held = np.bincount(truth, sets[np.arange(len(truth)), truth])
                of_class = held / np.bincount(truth)
                row += [100 * of_class.mean(), 100 * np.quantile(of_class, 0.1)]
                row.append(described(sets, truth)[1])
            rows.append(row)
        shown = " | ".join(f"{x:.1f}" for x in np.mean(rows, axis=0))
        print(f"| {method} | {name} | {shots} | {shown} |", flush=True)


# Novelty


def show_novelty(data, arguments):
    print(
        "\nAUROC of new images, %: near / far. Alarms: of images of known classes, at "
        f"the threshold for {100 * FALSE_ALARMS:g} %; found: of near and far ones.\n\n"
        "| method | data | shots | largest probability | novelty_score "
        "| mapped and text cosine | alarms, % | found, % |\n" + "|---" * 8 + "|"
    )
    for method, name, shots in cells(arguments):
        far = data[FAR[name]]["test_X"]
        rows = [
            novelty_of(method, data[name], far, shots, seed)
            for seed in range(arguments.seeds)
        ]
        m, s = np.mean(rows, axis=0), np.std(rows, axis=0)
        by_cosine = "-" if np.isnan(m[4]) else f"{m[4]:.1f} / {m[5]:.1f}"
        print(
            f"| {method} | {name} | {shots} | {m[0]:.1f} / {m[1]:.1f} "
            f"| {m[2]:.1f} / {m[3]:.1f} | {by_cosine} "
            f"| {m[6]:.1f} ± {s[6]:.1f} | {m[7]:.1f} / {m[8]:.1f} |",
            flush=True,
        )


def novelty_of(method, data, far, shots, seed):
    text, y = data["text"], data["val_y"]
    known = np.random.default_rng(seed).permutation(len(text))[: len(text) // 2]
    known.sort()
    rows = draw_rows(y, shots, seed)
    rows = rows[np.isin(y[rows], known)]
    labels = np.searchsorted(known, y[rows])
    model = fit(method, text[known], data["val_X"][rows], labels, store_left_out=True)
    is_known = np.isin(data["test_y"], known)
    images = (data["test_X"][is_known], data["test_X"][~is_known], far)
    scores = [
        lambda X: -model.predict_proba(X).max(axis=1),
        lambda X: novelty_score(model, X),
        lambda X: cosines(model, X, text[known]),
    ]
    found = []
    for score in scores:
        own, near, other = (score(X) for X in images)
        found += [area(own, near), area(own, other)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        threshold = novelty_threshold(model, false_alarms=FALSE_ALARMS)
    alarms = novelty_score(model, images[0]) > threshold
    found.append(mean_of_classes(alarms, data["test_y"][is_known]))
    found += [100 * (novelty_score(model, X) > threshold).mean() for X in images[1:]]
    return np.array(found)


def cosines(model, X, text):
    """Minus the largest mapped cosine, less the largest to a text; of CMM alone."""
    if not isinstance(model, CMMClassifier):
        return np.full(len(X), np.nan)
    mapped = model.transform(X) @ model.prototypes_.T
    return -mapped.max(axis=1) - (X @ text.T).max(axis=1)


def area(known, new):
    if np.isnan(known).any():
        return np.nan
    is_new = np.repeat([0, 1], [len(known), len(new)])
    return 100 * roc_auc_score(is_new, np.concatenate([known, new]))


if __name__ == "__main__":
    main()
