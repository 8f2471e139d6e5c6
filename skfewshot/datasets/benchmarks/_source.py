"""What a reader of a set gives, and what is known of the set before it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Benchmark(NamedTuple):
    """A data set on disk, as :func:`~skfewshot.datasets.load_benchmark` lists it.

    Parameters
    ----------
    images : list of n str
        Absolute paths of the image files; :class:`~skfewshot.CLIPFeaturizer` reads
        them. No image was opened.
    labels : int64 array of shape (n,), or (n, len(names)) for multi-label sets
        One label an image: its index in `names`. Several labels: 1 where the image
        shows the label, else 0.
    names : list of str
        What the labels are called, for prompts.
    splits : dict of str to int64 array
        The rows of "train", "val" and "test", as far as the set has them.
    """

    images: list[str]
    labels: NDArray[np.int64]
    names: list[str]
    splits: dict[str, NDArray[np.int64]]


class Source(NamedTuple):
    """A set that :func:`~skfewshot.datasets.load_benchmark` knows."""

    #: As papers write it.
    name: str
    #: What to download, with addresses.
    download: str
    #: Where to put it: paths under ``root``, one for each layout that is read.
    places: tuple[str, ...]
    #: Reads it from ``root``, an absolute path. Raises FileNotFoundError with a
    #: sentence on what is not there; what to download and where to put it is added.
    read: Callable[[Path], Benchmark]
    #: A sentence on what else may be put there.
    note: str = ""
