"""Images on disk: a folder with a folder for each class, and which cannot be read."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import check_number, warn_user
from skfewshot.clip._holders import as_images, items_of
from skfewshot.clip._images import read_image
from skfewshot.clip._unreadable import ImageReadError, unreadable

#: The endings of image files, in lower case. Some need a plugin of Pillow.
SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2"),
    *(".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"),
    *(".tif", ".tiff", ".webp"),
)
# Files that systems leave beside images, of which nobody wants to hear.
_LITTER = ("thumbs.db", "desktop.ini")
# Folders of these names hold parts of a data set, not classes.
_PARTS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}
_SHOWN = 5


class _PathsAndNames(NamedTuple):
    paths: NDArray
    names: NDArray


class ImageFolder(_PathsAndNames):
    """The images of a folder, as :func:`load_folder` gives them: ``paths, names``.

    Attributes
    ----------
    paths : object array of str, shape (n,)
    names : str array of shape (n,)
    problems : list of str
        What was left out.
    """

    problems: list[str]


def load_folder(path: str | os.PathLike) -> ImageFolder:
    """Find the images of a folder that has a folder for each class.

    Parameters
    ----------
    path : str or os.PathLike
        Each folder in it is a class, with its images in it or in folders below.

    Returns
    -------
    paths : object array of str, shape (n,)
        The images, sorted by class and path, for
        :meth:`CLIPFeaturizer.transform <skfewshot.CLIPFeaturizer.transform>`. They are
        not opened: see :func:`check_images`.
    names : str array of shape (n,)
        The name of the folder that each is in, below `path`.

    The two come as a tuple with the attributes `paths`, `names` and `problems`, a list
    of str: what was left out and might have been meant, such as files of other endings,
    images beside the folders, folders without images or that may not be read.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    ValueError
        If there is no image in a folder, or the folders in `path` hold parts of a data
        set (``train``, ``test``) rather than classes.

    Warns
    -----
    UserWarning
        If there are problems.

    Notes
    -----
    An image is a file with the ending of one, in any case (``.JPG``). What begins with
    a dot is passed over, as are ``__MACOSX`` and ``Thumbs.db``. Links are followed, but
    not round in circles.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skfewshot.datasets import load_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["cat", "dog"]:
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("RGB", (8, 8)).save(Path(folder) / name / "1.PNG")
    ...     data = load_folder(folder)
    >>> paths, names = data
    >>> names.tolist(), len(paths), data.problems
    (['cat', 'dog'], 2, [])
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder path={str(path)!r}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"path={str(path)!r} is a file; wanted is a folder.")
    problems: list[str] = []
    paths: list[str] = []
    names: list[str] = []
    folders, files = _listed(folder, problems)
    if files:
        problems.append(f"{_some(files)} beside the folders of the classes")
    for inner in folders:
        found = list(images_below(inner, problems, {os.path.realpath(folder)}))
        if not found:
            problems.append(f"{inner.name!r} has no images")
        paths += found
        names += [inner.name] * len(found)
    _check(folder, folders, files, names)
    warn_of_problems(path, problems)
    data = ImageFolder(np.array(paths, dtype=object), np.array(names))
    data.problems = problems
    return data


def warn_of_problems(path: str | os.PathLike, problems: list[str]) -> None:
    """Warn of what was left out of a folder, if anything was."""
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        warn_user(f"Left out of {str(path)!r}: {'; '.join(problems[:_SHOWN])}{more}.")


def _check(
    folder: Path, folders: list[Path], files: list[Path], names: list[str]
) -> None:
    """Refuse a folder without images, or of another order."""
    found = {inner.name.lower() for inner in folders}
    if len(found) and found <= _PARTS and all(map(_has_folders_only, folders)):
        raise ValueError(
            f"path={str(folder)!r} has the folders {sorted(found)}, parts of a data "
            f"set; wanted is the folder of the classes. Load them one by one, as "
            f"{str(folders[0])!r}."
        )
    if not names:
        hint = ""
        if any(file.suffix.lower() in SUFFIXES for file in files):
            hint = " Its images lie in it without one: for these pass the paths alone."
        raise ValueError(
            f"path={str(folder)!r} has no images in folders; wanted is a folder for "
            f"each class.{hint}"
        )
    if len(folders) == 1 and _has_folders_only(folders[0]):
        raise ValueError(
            f"path={str(folder)!r} has one folder alone, {folders[0].name!r}, which "
            f"has others; are they the classes? Then load {str(folders[0])!r}."
        )


def _has_folders_only(folder: Path) -> bool:
    folders, files = _listed(folder, [])
    return bool(folders) and not any(f.suffix.lower() in SUFFIXES for f in files)


def images_below(
    folder: Path, problems: list[str], seen: frozenset[str] | set[str] = frozenset()
) -> Iterator[str]:
    """Give the images in a folder and below, sorted.

    What is passed over and might have been meant is added to `problems`; `seen` are
    the real paths of the folders that lead here.
    """
    real = os.path.realpath(folder)
    if real in seen:  # a link that leads back
        problems.append(f"{str(folder)!r}, which leads round in a circle")
        return
    folders, files = _listed(folder, problems)
    others = [file for file in files if file.suffix.lower() not in SUFFIXES]
    if others:
        problems.append(f"{_some(others)} in {folder.name!r}, of no image's ending")
    for file in files:
        if file.suffix.lower() in SUFFIXES:
            yield str(file)
    for inner in folders:
        yield from images_below(inner, problems, seen | {real})


def _listed(folder: Path, problems: list[str]) -> tuple[list[Path], list[Path]]:
    """Return the folders and files in a folder that are not hidden, sorted."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        problems.append(f"{str(folder)!r}, which may not be read: {error.strerror}")
        return [], []
    shown = [
        path
        for path in inside
        if not path.name.startswith((".", "__MACOSX"))
        and path.name.lower() not in _LITTER
    ]
    folders = [path for path in shown if path.is_dir()]
    return folders, [path for path in shown if not path.is_dir()]


def _some(files: list[Path]) -> str:
    """Name some files."""
    named = ", ".join(repr(file.name) for file in files[:3])
    return named if len(files) <= 3 else f"{named} and {len(files) - 3} more files"


def check_images(X: Any, num_workers: int | None = None) -> dict[int, str]:
    """Find the images that cannot be read, without a model.

    Parameters
    ----------
    X : sequence of images
        As for :meth:`CLIPFeaturizer.transform
        <skfewshot.CLIPFeaturizer.transform>`, such as paths. All of them are decoded.
    num_workers : int or None, default=None
        Threads that decode; ``None`` is one for each core.

    Returns
    -------
    dict of int to str
        The indexes in X of those that cannot be read, in order, and why.

    Raises
    ------
    TypeError, ValueError
        If X does not hold images.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot.datasets import check_images
    >>> problems = check_images([np.zeros((8, 8, 3), np.uint8), "missing.png"])
    >>> list(problems)
    [1]
    """
    if num_workers is not None:
        num_workers = check_number("num_workers", num_workers, 1)
    images = as_images(X)
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        found = pool.map(lambda item: _problem(*item), items_of(images))
        return {index: problem for index, problem in enumerate(found) if problem}


def _problem(index: int, get: Any) -> str:
    """Return why an image cannot be read; nothing if it can."""
    try:
        try:
            item = get()
        except Exception as error:
            raise unreadable("", index, error) from error
        read_image(item, index)
    except (ImageReadError, TypeError, ValueError) as error:
        return str(error)
    return ""
