"""Readers of the data sets that papers compare on, as they lie on disk."""

import difflib
import os
import re
from os import PathLike
from pathlib import Path

from skfewshot.datasets.benchmarks import (
    _imagenet,
    _objects,
    _places,
    _several_labels,
)
from skfewshot.datasets.benchmarks._source import Benchmark, Source

__all__ = ["BENCHMARKS", "Benchmark", "load_benchmark"]

_SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _imagenet.IMAGENET,
        *(_objects.CALTECH, _objects.PETS, _objects.CARS, _objects.FLOWERS102),
        *(_objects.FOOD, _objects.AIRCRAFT),
        *(_places.SUN, _places.TEXTURES, _places.LAND_USE, _places.ACTIONS),
        *_imagenet.SHIFTS,
        *_several_labels.SOURCES,
    )
}

#: The names that :func:`load_benchmark` takes, in the order of the papers' tables.
BENCHMARKS: tuple[str, ...] = tuple(_SOURCES)


def load_benchmark(name: str, root: str | PathLike[str]) -> Benchmark:
    """List the images, labels, class names and splits of a paper's data set.

    Nothing is downloaded, no image is opened, and nothing is written. The guide has
    what to download for each set and where to put it.

    Parameters
    ----------
    name : str
        One of ``skfewshot.datasets.BENCHMARKS``; case, spaces, hyphens and
        underscores do not matter.
    root : str or path
        The folder in which the folders of the sets lie, as their archives make them, or
        as CoOp and torchvision name them.

    Returns
    -------
    benchmark : Benchmark
        ``images, labels, names, splits``, which can be unpacked:

        images : list of n str
            Absolute paths of the image files.
        labels : int64 array of shape (n,), or (n, len(names)) for multi-label sets
            The index in ``names`` of each image's label; for multi-label sets 1 where
            the image shows the label, else 0.
        names : list of str
            Names of the labels, as papers write them into prompts.
        splits : dict of str to int64 array
            The rows of "train", "val" and "test". Sets differ in what they have.

    Raises
    ------
    FileNotFoundError
        If the set, a file of it or a listed image is not there. The message names what
        to download and where to put it.
    ValueError
        If there is no such name, if a file of the set does not say what it should, or
        if it lists a path that leads out of the set's folder.
    TypeError
        If `name` is no str or `root` no path.

    Notes
    -----
    The splits are those of CoOp's file ``split_zhou_*.json`` where it lies in the
    folder of the set, else the set's own: the first partition of DTD, SUN397 and
    UCF101. Caltech101 and EuroSAT have none; then each class is dealt 50 : 20 : 30 to
    train, val and test, in the order of the SHA-256 of the paths, which is the same
    everywhere. ImageNet's validation images are "test", as in papers. ImageNetV2,
    -Sketch, -A and -R have "test" only, and the names of ImageNet;
    ``np.unique(labels)`` are the classes that they show.

    Examples
    --------
    >>> from skfewshot.datasets import BENCHMARKS, load_benchmark
    >>> BENCHMARKS[:4]
    ('ImageNet', 'Caltech101', 'OxfordPets', 'StanfordCars')
    >>> images, labels, names, splits = load_benchmark("DTD", "/nowhere")
    Traceback (most recent call last):
        ...
    FileNotFoundError: DTD is not complete: there is no ... Download ...
    """
    source = _SOURCES[_known(name)]
    try:
        folder = Path(os.path.abspath(Path(root).expanduser()))
    except TypeError:
        raise TypeError(f"root must be a path; got {root!r}.") from None
    try:
        return source.read(folder)
    except FileNotFoundError as error:
        places = " or ".join(str(folder / place) for place in source.places)
        raise FileNotFoundError(
            f"{source.name} is not complete: {error} Download {source.download} and "
            f"put it so that there is {places}. {source.note}".rstrip()
        ) from None


def _known(name: str) -> str:
    """Return the name as it stands in BENCHMARKS."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str; got {name!r}.")
    plain = {_plain(known): known for known in BENCHMARKS}
    if _plain(name) in plain:
        return plain[_plain(name)]
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    hint = f" Did you mean {plain[near[0]]!r}?" if near else ""
    raise ValueError(
        f"name must be one of {', '.join(BENCHMARKS)}; got {name!r}.{hint}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()
