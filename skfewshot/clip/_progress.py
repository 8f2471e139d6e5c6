"""Progress bars of long embeddings, where somebody watches."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds before there is anything to be seen.
_DELAY = 2.0


@contextmanager
def progress(n_images: int | None, show: bool) -> Iterator[Callable[[int], object]]:
    """Show a bar while images are embedded, if that takes longer than two seconds.

    Parameters
    ----------
    n_images : int or None
        None where nobody knows.
    show : bool

    Yields
    ------
    callable
        To be called with the number of images that are done.
    """
    if not show:
        yield lambda n: None
        return
    with _bar_type()(
        total=n_images, desc="Embedding", unit=" images", delay=_DELAY, leave=False
    ) as bar:
        yield bar.update


def is_watched() -> bool:
    """Say whether this is a terminal or a notebook, and no worker, pipe or log."""
    if multiprocessing.current_process().name != "MainProcess":
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    if os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        return False
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _bar_type() -> type:
    if _in_notebook() and "ipywidgets" in sys.modules:
        from tqdm.notebook import tqdm as bar_type
    else:
        from tqdm import tqdm as bar_type
    return bar_type
