"""Classes known by their texts alone: what they win, and what the others lose.

    python benchmarks/open_classes.py --data ../shared/data/features

A quarter of the classes has no images in the support (``extra_classes=``). Rows are
tuning rows (``feature_data.draw_task``), so that no reported accuracy is touched;
ImageNet is 100 drawn classes of it.

A second table forgets a quarter of the classes, one after the other, and scores the
others: as the classifier stands then, and as a fit on their images is. It learns half
of the images of each class later, and says how long that takes.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from feature_data import draw_rows, draw_task, keep_classes, load

from skfewshot import CMMClassifier

TASKS = {"dtd47": (1, 4, 16), "pets25": (1, 4, 16), "imagenet1000": (1, 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        "Top-1 accuracy, %, on classes with images / classes without\n\n"
        "| data | shots | zero-shot | CMM | images of all | predicted without | are |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, all_shots in TASKS.items():
        data = load(arguments.data / f"{name}.npz")
        for shots in all_shots:
            rows = [score(name, data, shots, seed) for seed in range(arguments.seeds)]
            a, b, c, d, e, f, g, h = np.mean(rows, axis=0)
            print(
                f"| {name} | {shots} | {a:.1f} / {b:.1f} | {c:.1f} / {d:.1f} "
                f"| {e:.1f} / {f:.1f} | {g:.1f} | {h:.1f} |",
                flush=True,
            )
    print(
        "\nTop-1 accuracy, %, on the other classes; seconds\n\n"
        "| data | shots | before | forgotten | fit without | forgetting one | a fit "
        "| adding half of the images |\n|---|---|---|---|---|---|---|---|"
    )
    for name in ("dtd47", "pets25", "caltech69"):
        data = load(arguments.data / f"{name}.npz")
        for shots in (2, 4, 16):
            rows = [forget(data, shots, seed) for seed in range(arguments.seeds)]
            a, b, c, *seconds = np.mean(rows, axis=0)
            shown = " | ".join(f"{value:.3f}" for value in seconds)
            print(f"| {name} | {shots} | {a:.1f} | {b:.1f} | {c:.1f} | {shown} |")


def forget(data, shots, seed):
    """Accuracies before, after and by a new fit, in %; seconds of what is done."""
    X, y, text = data["val_X"], data["val_y"], data["text"]
    rows = draw_rows(y, shots, seed)
    rest = np.setdiff1d(np.arange(len(y)), rows)
    y_first, texts = y[rows], dict(enumerate(text))
    gone = np.random.default_rng(seed).permutation(len(text))[: len(text) // 4]
    rest = rest[~np.isin(y[rest], gone)]
    CMMClassifier(texts).fit(X[rows], y_first)  # the first one imports torch
    started = time.perf_counter()
    model = CMMClassifier(texts).fit(X[rows], y_first)
    fit_time, before = time.perf_counter() - started, model.predict(X[rest])
    started = time.perf_counter()
    for c in gone:
        model.forget_class(c)
    forget_time = (time.perf_counter() - started) / len(gone)
    kept = rows[~np.isin(y_first, gone)]
    left = {c: t for c, t in texts.items() if c not in gone}
    again = CMMClassifier(left).fit(X[kept], y[kept])
    guesses = before, model.predict(X[rest]), again.predict(X[rest])
    half = np.concatenate([np.arange(n) < n // 2 for n in np.bincount(y_first)])
    grows = CMMClassifier(texts, store_support=True).fit(X[rows[half]], y[rows[half]])
    started = time.perf_counter()
    grows.add_images(X[rows[~half]], y[rows[~half]])
    seconds = forget_time, fit_time, time.perf_counter() - started
    return [*(100 * (guess == y[rest]).mean() for guess in guesses), *seconds]


def score(name, data, shots, seed):
    """Accuracies, and the shares predicted and true of classes without images, in %."""
    task = draw_task(name, data, shots, seed)
    if name == "imagenet1000":
        task = keep_classes(task, 100, seed)
    X, y, X_query, y_query, text = task
    n_classes = len(text)
    new = np.random.default_rng(seed).permutation(n_classes)[: n_classes // 4]
    has_images, is_new = ~np.isin(y, new), np.isin(y_query, new)
    texts = dict(enumerate(text))
    model = CMMClassifier(texts, extra_classes=new).fit(X[has_images], y[has_images])
    predicted = model.predict(X_query)
    everything = CMMClassifier(texts).fit(X, y).predict(X_query)
    scores = []
    for guess in ((X_query @ text.T).argmax(axis=1), predicted, everything):
        right = guess == y_query
        scores += [right[~is_new].mean(), right[is_new].mean()]
    return 100 * np.array([*scores, np.isin(predicted, new).mean(), is_new.mean()])


if __name__ == "__main__":
    main()
