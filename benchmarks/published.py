"""What the parts of CMM as published give, and how near texts images come by the map.

    python benchmarks/published.py --data ../shared/data/features

Supports are single crops, drawn from the rows `val`, and rows of `test` are scored. The
second figure is the accuracy of the frozen text that is nearest to ``transform(X)``:
how well images were brought to where the texts are. A second table has the modality
gap, the distance of the mean image to the mean text. Where images are centred, so are
the texts that they are compared with. Nothing is chosen here.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from feature_data import draw_rows, load
from methods import as_in, make
from report import markdown_table

from skfewshot.cmm import _solver

#: Embeddings and texts less their means, which needs no training.
CENTRED = "zero-shot, images and texts centred"
#: The default without the rotation onto the texts.
NOT_TURNED = "CMM, not turned"
#: What is compared; other names are those of ``methods.py``.
ROWS = (
    "zero-shot",
    CENTRED,
    "CMM",
    NOT_TURNED,
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
            print(name, shots, method, found[method][-1].round(2), flush=True)
    names = [f"{name}, {k}" for name, k in columns]
    head = ["accuracy / of the nearest text", *names]
    rows = [
        [method, *(f"{accuracy:.1f} / {near:.1f}" for accuracy, near, _ in cells)]
        for method, cells in found.items()
    ]
    print("\n" + markdown_table(head, rows))
    rows = [
        [method, *(f"{gap:.2f}" for *_, gap in cells)]
        for method, cells in found.items()
    ]
    print("\n" + markdown_table(["gap", *names], rows))


def measure(method, data, shots, seed):
    """Return accuracy, that of the nearest frozen text, both in %, and the gap."""
    text, X, y = data["text"], data["test_X"], data["test_y"]
    rows = draw_rows(data["val_y"], shots, seed)
    support, labels = data["val_X"][rows], data["val_y"][rows]
    if method in (CENTRED, "CMM", NOT_TURNED):
        frozen = unit(text - text.mean(axis=0))
    else:
        frozen = text
    if method == CENTRED:
        mapped, accuracy = unit(X - support.mean(axis=0)), None
    else:
        model = fit(method, text, support, labels, seed)
        mapped = model.transform(X) if hasattr(model, "transform") else X
        accuracy = 100 * model.score(X, y)
    nearest = 100 * np.mean((mapped @ frozen.T).argmax(axis=1) == y)
    gap = np.linalg.norm(mapped.mean(axis=0) - frozen.mean(axis=0))
    return nearest if accuracy is None else accuracy, nearest, gap


def fit(method, text, support, labels, seed):
    """Return a fitted classifier."""
    if method != NOT_TURNED:
        with as_in(method):
            return make(method, text, seed).fit(support, labels)
    with patch.object(_solver, "turn", lambda prototypes, _: torch.eye(text.shape[1])):
        return make("CMM", text, seed).fit(support, labels)


def unit(rows):
    """Scale rows to length one."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--datasets", nargs="+", default=["dtd47", "pets25"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
