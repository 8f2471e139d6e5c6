"""What the parts of CMM as published give: accuracy, and how near texts images come.

    python benchmarks/published.py --data ../shared/data/features

Supports are single crops, drawn from the rows `val`, and rows of `test` are scored. The
second figure is the accuracy of the frozen text that is nearest to ``transform(X)``:
how well images were brought to where the texts are. Nothing is chosen here.
"""

import argparse
from pathlib import Path

import numpy as np
from feature_data import draw_rows, load
from methods import as_in, make
from report import markdown_table

#: What is compared; the names of ``methods.py``.
ROWS = (
    "zero-shot",
    "CMM",
    "CMM, as published",
    "CMM, as published, no triplet",
    "CMM, as published, map alone",
    "CMM, as published, texts alone",
)


def main():
    arguments = _parse()
    columns = [(name, k) for name in arguments.datasets for k in arguments.shots]
    found = {method: [] for method in ROWS}
    for name, shots in columns:
        data = load(arguments.data / f"{name}.npz")
        for method in ROWS:
            runs = [
                measure(method, data, shots, seed) for seed in range(arguments.seeds)
            ]
            found[method].append(np.mean(runs, axis=0))
            print(name, shots, method, found[method][-1].round(1), flush=True)
    head = ["accuracy / of the nearest text", *(f"{name}, {k}" for name, k in columns)]
    rows = [
        [method, *(f"{accuracy:.1f} / {near:.1f}" for accuracy, near in cells)]
        for method, cells in found.items()
    ]
    print("\n" + markdown_table(head, rows))


def measure(method, data, shots, seed):
    """Return the accuracy, and that of the nearest frozen text, of a support, in %."""
    text, X, y = data["text"], data["test_X"], data["test_y"]
    rows = draw_rows(data["val_y"], shots, seed)
    with as_in(method):
        model = make(method, text, seed).fit(data["val_X"][rows], data["val_y"][rows])
    mapped = model.transform(X) if hasattr(model, "transform") else X
    nearest = (mapped @ text.T).argmax(axis=1)
    return 100 * model.score(X, y), 100 * np.mean(nearest == y)


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--datasets", nargs="+", default=["dtd47", "pets25"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
