"""Files that are whole or not there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path to write to, whose file then takes the place of `path`.

    What stood there stays until the new file is whole and on the disk, and stays for
    good if writing fails.

    Parameters
    ----------
    path : str or os.PathLike
        In a folder that exists.

    Yields
    ------
    pathlib.Path
        In the same folder, hidden; there is no file yet.

    Raises
    ------
    OSError
        If the folder is not there or may not be written to.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
