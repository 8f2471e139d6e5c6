"""Files of a set: found, read, and the images they list checked against the disk."""

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfewshot.datasets.benchmarks._source import Benchmark

#: How many names an error shows.
SHOWN = 8


def require(path: Path) -> Path:
    """Return a path that exists; else say what lies in its place."""
    if path.exists():
        return path
    above = next(parent for parent in path.parents if parent.is_dir())
    raise FileNotFoundError(f"there is no {path}; {above} has {_shown(above)}.")


def first_of(root: Path, *places: str) -> Path:
    """Return the first of several paths under `root` that exists."""
    for place in places:
        if (root / place).exists():
            return root / place
    if not root.is_dir():
        require(root)
    raise FileNotFoundError(
        f"there is neither {' nor '.join(places)} in {root}, which has {_shown(root)}."
        if len(places) > 1
        else f"there is no {places[0]} in {root}, which has {_shown(root)}."
    )


def _shown(folder: Path) -> str:
    found = sorted(os.listdir(folder))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more if found else "nothing"


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones."""
    text = require(path).read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file that has a header with these columns."""
    with open(require(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} must have the columns {', '.join(columns)}; it has "
                f"{', '.join(reader.fieldnames or ['none'])}."
            )
        return list(reader)


def read_json(path: Path) -> Any:
    """Return what a JSON file says."""
    try:
        return json.loads(require(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from None


def read_matlab(path: Path) -> dict[str, Any]:
    """Return the variables of a .mat file, arrays of one element as that element."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return dict(loadmat(require(path), squeeze_me=True))
    except (MatReadError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is no .mat file that can be read: {error}.") from None


def make_benchmark(
    folder: Path,
    listed: Mapping[str, Sequence[str]],
    labels: ArrayLike,
    names: Iterable[str],
) -> Benchmark:
    """Return the benchmark of images that files of the set list.

    Parameters
    ----------
    folder : Path
        Where the images are to lie, in whatever folders inside; absolute.
    listed : dict of str to list of str
        The paths of each split, relative to `folder` or absolute.
    labels : array-like of shape (n,) or (n, len(names))
        Labels of the images of all splits, in the order of `listed`.
    names : iterable of str
        The names of the labels.

    Raises
    ------
    ValueError
        If a path leads out of `folder`.
    FileNotFoundError
        If an image is not there.
    """
    images = [_inside(folder, path) for paths in listed.values() for path in paths]
    _check_there(images)
    ends = np.cumsum([len(paths) for paths in listed.values()])
    splits = {
        split: np.arange(end - len(listed[split]), end, dtype=np.int64)
        for split, end in zip(listed, ends, strict=True)
    }
    return Benchmark(images, np.asarray(labels, dtype=np.int64), list(names), splits)


def _inside(folder: Path, path: str) -> str:
    """Return the absolute path of an image that a file of the set names."""
    full = os.path.join(folder, path)
    if ".." in re.split(r"[\\/]", path) or not full.startswith(f"{folder}{os.sep}"):
        raise ValueError(f"The set lists the image {path!r}, which is not in {folder}.")
    return os.path.normpath(full)


def _check_there(images: Sequence[str]) -> None:
    """Raise FileNotFoundError if an image is missing; lists each folder once."""
    there: dict[str, set[str]] = {}
    missing = []
    for image in images:
        folder, name = os.path.split(image)
        if folder not in there:
            there[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in there[folder]:
            missing.append(image)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} images that are listed are not there, "
            f"the first of them {missing[0]}."
        )


def list_classes(
    folder: Path, labels: Mapping[str, int]
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the images in the folders of classes, and their labels.

    Parameters
    ----------
    folder : Path
        It has a folder for each class; others are passed over.
    labels : dict of str to int
        The label of each folder's images. A folder that is not there has no images.

    Raises
    ------
    FileNotFoundError
        If there is no image at all.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    found = make_dataset(
        str(require(folder)), dict(labels), IMG_EXTENSIONS, allow_empty=True
    )
    # macOS leaves a "._name.jpg" beside "name.jpg" in an archive.
    found = [pair for pair in found if not os.path.basename(pair[0]).startswith(".")]
    if not found:
        first, last = list(labels)[0], list(labels)[-1]
        raise FileNotFoundError(
            f"{folder} has no images in folders such as {first} and {last}; it has "
            f"{_shown(folder)}."
        )
    return [path for path, _ in found], np.array([y for _, y in found], dtype=np.int64)


def spoken(name: str) -> str:
    """Return a class name as words: underscores are spaces, all in lower case."""
    return " ".join(name.replace("_", " ").split()).lower()


def read_zhou(path: Path, images: Path, *, proper: bool = False) -> Benchmark:
    """Return a set by its split file of CoOp, ``split_zhou_*.json``.

    Parameters
    ----------
    path : Path
        The file: for "train", "val" and "test" a list of [path of the image, label,
        class name].
    images : Path
        The folder that the paths in it are relative to.
    proper : bool, default=False
        Whether the class names are proper names, which keep their capitals.
    """
    split = read_json(path)
    names: dict[int, str] = {}
    try:
        listed = {part: [str(row[0]) for row in split[part]] for part in _PARTS}
        labels = [row[1] for part in _PARTS for row in split[part]]
        for part in _PARTS:
            for _, label, name in split[part]:
                if names.setdefault(label, name) != name:
                    raise ValueError(
                        f"label {label!r} is {names[label]!r} and {name!r}"
                    )
        if not all(type(label) is int for label in names):
            raise ValueError("a label is no integer")
        if sorted(names) != list(range(len(names))):
            raise ValueError("the labels are not 0, 1, ... without a gap")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must have the keys 'train', 'val' and 'test', each a list of "
            f"[image, label, name]; {type(error).__name__}: {error}."
        ) from None
    words = [" ".join(names[label].split("_")) for label in range(len(names))]
    if not proper:
        words = [spoken(name) for name in words]
    return make_benchmark(images, listed, labels, words)


#: The splits, in the order of rows.
_PARTS = ("train", "val", "test")
