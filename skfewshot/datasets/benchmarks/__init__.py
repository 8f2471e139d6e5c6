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

    Nothing is downloaded and no image is opened.

    Parameters
    ----------
    name : str
        One of ``BENCHMARKS``; case, spaces, hyphens and underscores do not matter.
    root : str or path
        The folder in which the folders of the sets lie.

    Returns
    -------
    benchmark : Benchmark
        ``images, labels, names, splits``, which can be unpacked.

    Raises
    ------
    FileNotFoundError
        If the set, a file of it or a listed image is not there. The message names what
        to download and where to put it.
    ValueError
        If there is no such name, or a file of the set does not say what it should.
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
            f"put it so that there is {places}."
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
