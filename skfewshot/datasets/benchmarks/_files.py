"""Files of a set: found, read, and the images they list checked against the disk."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfewshot.datasets.benchmarks._source import Benchmark, Source

#: The splits, in the order of rows.
PARTS = ("train", "val", "test")
#: Where CoOp's split files are linked, with all of its layout.
COOP = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
#: How many names an error shows.
SHOWN = 8


def require(path: Path) -> Path:
    """Return a path that exists; else say what lies in its place."""
    if path.exists():
        return path
    above = next((parent for parent in path.parents if parent.is_dir()), None)
    has = f"; {above} has {_shown(above)}" if above else ""
    raise FileNotFoundError(f"there is no {path}{has}.")


def first_of(root: Path, *places: str) -> Path:
    """Return the first of several paths under `root` that exists."""
    for place in places:
        if (root / place).exists():
            return root / place
    if not root.is_dir():
        require(root / places[0])
    raise FileNotFoundError(
        f"there is no {' and no '.join(map(repr, places))} in {root}, which has "
        f"{_shown(root)}."
    )


def _shown(folder: Path) -> str:
    found = sorted(os.listdir(folder))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more if found else "nothing"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong into a ValueError that names the file."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say what it should; {type(error).__name__}: {error}."
        ) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones."""
    with reading(path):
        text = require(path).read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file that has a header with these columns."""
    with reading(path), open(require(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise ValueError(
                f"the columns must include {', '.join(columns)}; got "
                f"{', '.join(reader.fieldnames or ['none'])}"
            )
        return list(reader)


def read_json(path: Path) -> Any:
    """Return what a JSON file says."""
    with reading(path):
        return json.loads(require(path).read_text(encoding="utf-8"))


def read_matlab(path: Path, variable: str) -> NDArray[Any]:
    """Return a variable of a .mat file as a vector; a struct array has named fields."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with reading(path):
        try:
            return np.atleast_1d(loadmat(require(path), squeeze_me=True)[variable])
        except (MatReadError, NotImplementedError) as error:
            raise ValueError(str(error)) from None


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
        If a path leads out of `folder`, or none is listed.
    FileNotFoundError
        If an image is not there.
    """
    images = [_inside(folder, path) for paths in listed.values() for path in paths]
    if not images:
        raise ValueError(f"The set lists no image in {folder}.")
    _check_there(images)
    ends = np.cumsum([len(paths) for paths in listed.values()])
    splits = {
        split: np.arange(end - len(listed[split]), end, dtype=np.int64)
        for split, end in zip(listed, ends, strict=True)
    }
    return Benchmark(images, np.asarray(labels, dtype=np.int64), list(names), splits)


def _inside(folder: Path, path: str) -> str:
    """Return the absolute path of an image that a file of the set names."""
    full = os.path.normpath(os.path.join(folder, path))
    if ".." in re.split(r"[\\/]", path) or not full.startswith(f"{folder}{os.sep}"):
        raise ValueError(f"The set lists the image {path!r}, which is not in {folder}.")
    return full


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
        raise FileNotFoundError(
            f"there are no images in {folder / next(iter(labels))} or folders beside "
            f"it; {folder} has {_shown(folder)}."
        )
    return [path for path, _ in found], np.array([y for _, y in found], dtype=np.int64)


def deal(
    folder: Path, images: Sequence[str], labels: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """Return splits for a set that has none: half, a fifth and the rest of each class.

    The images of a class go to train, val and test in the order of the SHA-256 of
    their paths in the set, which is the same on all machines.

    Parameters
    ----------
    folder : Path
        The folder that the paths are counted from.
    images : sequence of n str
        Paths of the images.
    labels : int64 array of shape (n,)
        Their labels.
    """
    order = [
        hashlib.sha256(Path(os.path.relpath(path, folder)).as_posix().encode()).digest()
        for path in images
    ]
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=order.__getitem__)
        train, val = round(len(rows) * 0.5), round(len(rows) * 0.2)
        parts["train"] += rows[:train]
        parts["val"] += rows[train : train + val]
        parts["test"] += rows[train + val :]
    return {part: np.array(sorted(rows), np.int64) for part, rows in parts.items()}


def spoken(name: str) -> str:
    """Return a class name as words: underscores are spaces, all in lower case."""
    return " ".join(name.replace("_", " ").split()).lower()


def photos(
    name: str,
    download: str,
    folders: tuple[str, ...],
    images: tuple[str, ...],
    official: Callable[[Path, Path], Benchmark],
    *,
    zhou: str = "",
    proper: bool = False,
) -> Source:
    """Return the source of a set that is read by CoOp's split file or by its own lists.

    Parameters
    ----------
    name, download : str
        As in :class:`Source`.
    folders : tuple of str
        The folders under the root in which the set may lie.
    images : tuple of str
        The folders in it that may have the images; "." is the folder itself.
    official : callable
        Reads the set by its own lists, from its folder and that of the images.
    zhou : str, default=""
        The name of CoOp's split file, ``split_zhou_*.json``, if there is one. It lies
        in the folder of the set, and is used if it does.
    proper : bool, default=False
        Whether the class names are proper names, which keep their capitals.
    """

    def read(root: Path) -> Benchmark:
        for base in [root / folder for folder in folders if zhou]:
            if (base / zhou).is_file():
                return _read_zhou(base / zhou, first_of(base, *images), proper)
        base = first_of(root, *folders)
        return official(base, first_of(base, *images))

    place = f"{folders[0]}/{images[0]}".removesuffix("/.")
    note = (
        f"For the split of papers, {zhou} is to lie in {folders[0]}; {COOP} links it."
    )
    return Source(name, download, (place,), read, note if zhou else "")


def _read_zhou(path: Path, images: Path, proper: bool) -> Benchmark:
    """Read for "train", "val" and "test" a list of [path of image, label, name]."""
    split = read_json(path)
    with reading(path):
        rows = {part: [_zhou_row(*row) for row in split[part]] for part in PARTS}
        pairs = sorted({row[1:] for part in PARTS for row in rows[part]})
        if [label for label, _ in pairs] != list(range(len(pairs))):
            raise ValueError("each of the labels 0, 1, ... must have one name")
    listed = {part: [image for image, _, _ in rows[part]] for part in PARTS}
    labels = [label for part in PARTS for _, label, _ in rows[part]]
    words = [" ".join(n.split("_")) if proper else spoken(n) for _, n in pairs]
    return make_benchmark(images, listed, labels, words)


def _zhou_row(image: Any, label: Any, name: Any) -> tuple[str, int, str]:
    if not (isinstance(image, str) and type(label) is int and isinstance(name, str)):
        raise TypeError(f"{[image, label, name]} is no [image, label, name]")
    return image, label, name
