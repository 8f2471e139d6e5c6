"""Embeddings on disk, by the content of the image: an SQLite file that processes share.

SQLite because it is in the standard library, survives a ``kill -9`` and a loss of power
at any point (its write-ahead log), lets several processes read and write, and reports a
damaged file in place of crashing on it. Nothing in the file is ever run or unpickled.
"""

import math
import os
import re
import sqlite3
import threading
import time
import warnings
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path

from skfewshot._sklearn import warn_user
from skfewshot.clip.cache_file import (
    MOST_ROW_BYTES,
    PAGE,
    TIMEOUT_S,
    connect,
    connect_to_read,
    may_write,
    pragma,
    retry,
)
from skfewshot.clip.cache_rows import pack_row, unpack_row

#: Name of the file in the folder of a cache.
FILE_NAME = "embeddings.sqlite"
#: The bound that a cache has unless told otherwise, in bytes.
DEFAULT_SIZE = 10 * 2**30
#: The smallest bound: some pages for SQLite itself and a few embeddings.
SMALLEST_SIZE = 2**20

# Python looks for Ctrl-C between waits for the writers' lock.
_TRY_S = 0.1
# Rows wait in memory for one transaction, no longer and no larger than this.
_WAIT_S, _WAIT_BYTES = 1.0, 8 * 2**20
# The write-ahead log is cut short from here on.
_MOST_LOG_BYTES = 64 * 2**20
# A full cache loses its oldest embeddings until this share of the bound is in use.
_KEPT = 0.9

_open = {}
_all = weakref.WeakSet()
_lock = threading.RLock()


def _before_fork():
    """Close the files: the locks of a connection must not cross a fork.

    SQLite would have the child believe that it holds those of its parent, also in
    connections of its own; other processes would then write to the file beside it.
    """
    _lock.acquire()
    for cache in _all:
        cache._lock.acquire()
        cache.close()


def _after_fork():
    for cache in _all:
        cache._lock.release()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork,
    )


def open_cache(folder, size=DEFAULT_SIZE):
    """Open the cache in a folder, or return the one that this process has open.

    Parameters
    ----------
    folder : str or os.PathLike
        Made if it does not exist. One that may not be written to is read. A
        disk of this machine: SQLite's locks do not work on most network file systems.
    size : int, default=DEFAULT_SIZE
        The bound in bytes.

    Returns
    -------
    EmbeddingCache

    Raises
    ------
    ValueError
        If there is a file in the place of the folder, or one of the cache's name that
        is not a cache, or no folder can have that name.
    OSError
        If the folder or the file cannot be made or read.

    Warns
    -----
    UserWarning
        If the cache may not be written to, once in a process.
    """
    if not os.fspath(folder):
        raise ValueError(
            "cache is an empty string; wanted is a folder, or None for no cache."
        )
    # One letter is a drive of Windows.
    if "\0" in os.fspath(folder) or re.match(r"[\w+.-]{2,}://", os.fspath(folder)):
        raise ValueError(
            f"cache={str(folder)!r} is no path; wanted is a folder of this machine."
        )
    path = _make_folder(folder) / FILE_NAME
    with _lock:
        cache = _open.get(path)
        # A user may have deleted the folder while it was open.
        if cache is None or not cache.is_on_disk():
            if cache is not None:
                cache.close()
            cache = _open[path] = EmbeddingCache(path)
        cache.size = size
        return cache


def _make_folder(name):
    """Return the folder, without links; make it if there is none."""
    try:
        folder = Path(name).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise ValueError(
                f"cache={str(folder)!r} is a file; wanted is a folder, which is made "
                "if it does not exist."
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve()
    except RuntimeError as error:
        raise ValueError(f"cache={str(name)!r} is no folder: {error}") from error
    except OSError as error:
        raise OSError(
            error.errno, f"The folder cache={str(name)!r} could not be made: {error}"
        ) from error


class EmbeddingCache:
    """Rows by key in one SQLite file; use :func:`open_cache`.

    Parameters
    ----------
    path : pathlib.Path
        Of the file, made if there is none.

    Attributes
    ----------
    size : int
        The bound in bytes.
    path : pathlib.Path
    """

    def __init__(self, path):
        self.size = DEFAULT_SIZE
        self.path = path
        self._lock = threading.RLock()
        self._waiting = {}
        self._waiting_bytes = 0
        self._flushed = time.monotonic()
        self._patience_s = TIMEOUT_S
        self._opened = None
        self._said = set()
        try:
            self._connection  # noqa: B018
        except sqlite3.OperationalError as error:
            raise OSError(
                f"The cache {str(path)!r} could not be opened: {error}."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{str(path)!r} is not a cache of skfewshot, or is damaged: {error}. "
                "Delete it, or pass another folder as cache."
            ) from error
        _all.add(self)

    @property
    def _connection(self):
        """The connection, opened anew if it was closed."""
        if self._opened is None:
            self._is_writable = may_write(self.path)
            if self._is_writable:
                self._opened = connect(self.path)
            else:
                self._opened = connect_to_read(self.path)
                self._say_once(
                    f"The cache {str(self.path)!r} may not be written to; it is read, "
                    "and new embeddings are not kept. To keep them, pass another "
                    "folder as cache."
                )
            self._inode = os.stat(self.path).st_ino
        return self._opened

    def close(self):
        """Close the file until it is asked for again."""
        with self._lock:
            if self._opened is not None:
                with suppress(sqlite3.Error):
                    self._opened.close()
            self._opened = None

    def is_on_disk(self):
        """Say whether the file that is open is still the one at its path."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def get(self, key, shape=None):
        """Return the row of a key, or None if there is none, or a damaged one.

        Parameters
        ----------
        key : bytes
        shape : tuple of int or None, default=None
            The shape that a row has, with None where any length will do.
        """
        row = self._read(key)
        if row is None or _fits(row.shape, shape):
            return row
        self._say_once(
            f"The cache {str(self.path)!r} has rows of another shape than the model "
            f"gives, {row.shape} for {shape}: somebody has changed it. Those images "
            "are embedded again. Delete it if you do not trust it."
        )
        return None

    def _read(self, key):
        with self._lock, self._excused("read"):
            waiting = self._waiting.get(key)
            if waiting is not None:
                return unpack_row(key, waiting)
            found = self._connection.execute(
                "SELECT value FROM embeddings WHERE key = ?", (key,)
            ).fetchone()
            return None if found is None else unpack_row(key, found[0])
        return None

    def put(self, key, row):
        """Store a row, soon: see :meth:`flush`."""
        with self._lock:
            value = pack_row(key, row)
            too_long = len(value) > min(self.size // 8, MOST_ROW_BYTES)
            if too_long or not self._is_writable:
                return
            self._waiting[key] = value
            self._waiting_bytes += len(value)
            late = time.monotonic() - self._flushed > _WAIT_S
            if late or self._waiting_bytes > min(_WAIT_BYTES, self.size // 8):
                self.flush()

    def flush(self):
        """Write what was put, in one transaction: all of it is in the file, or none."""
        with self._lock:
            rows = list(self._waiting.items())
            n_bytes = self._waiting_bytes
            # What cannot be written now is dropped: it could not be written later.
            self._waiting, self._waiting_bytes = {}, 0
            self._flushed = time.monotonic()
            if rows:
                with self._excused("written"):
                    self._write(rows, n_bytes)

    def __len__(self):
        with self._lock:
            self.flush()
            count = "SELECT count(*) FROM embeddings"
            return self._connection.execute(count).fetchone()[0]

    def _write(self, rows, n_bytes):
        with self._transaction() as connection:
            self._make_room(connection, n_bytes)
            connection.executemany(
                "INSERT OR REPLACE INTO embeddings (key, value) VALUES (?, ?)", rows
            )
        if pragma(connection, "page_count") * PAGE > self.size:  # a new, lower bound
            # A script, because this gives back one page at each step.
            connection.executescript("PRAGMA incremental_vacuum")
        if self._log_bytes() > _MOST_LOG_BYTES:
            # Readers that take turns keep it from being folded in by the way.
            connection.execute(f"PRAGMA busy_timeout = {int(1000 * _TRY_S)}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute(f"PRAGMA busy_timeout = {1000 * TIMEOUT_S}")

    def _log_bytes(self):
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    @contextmanager
    def _transaction(self):
        """Hold the one lock that there is for writers, across processes."""
        connection = self._connection
        try:  # Ctrl-C may come as soon as the lock is there
            self._wait_to_write(connection)
            yield connection
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _wait_to_write(self, connection):
        """Begin a transaction; wait but once for a process that keeps the lock."""
        deadline = time.monotonic() + self._patience_s
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * _TRY_S)}")
        try:
            retry(connection, "BEGIN IMMEDIATE", deadline)
            self._patience_s = TIMEOUT_S
        except sqlite3.OperationalError:
            self._patience_s = 0
            raise
        finally:
            connection.execute(f"PRAGMA busy_timeout = {1000 * TIMEOUT_S}")

    def _say_once(self, message):
        if message not in self._said:
            self._said.add(message)
            warn_user(message)

    @contextmanager
    def _excused(self, doing):
        """Warn of what the disk or another process did: embedding can go on."""
        try:
            yield
        except sqlite3.Error as error:
            warnings.warn(
                f"The cache {str(self.path)!r} could not be {doing}: {error}. Images "
                "are embedded without it. If the file is damaged, delete it.",
                UserWarning,
                stacklevel=2,
            )

    def _make_room(self, connection, n_bytes):
        """Delete the oldest rows if `n_bytes` more would go beyond the bound."""
        # Keys stand in the table and in its index; pages are not filled to the brim.
        needed = int(1.25 * n_bytes) + 4 * PAGE
        used = _used_bytes(connection)
        if used + needed <= self.size:
            return
        wanted = max(0, int(_KEPT * self.size) - needed)
        n_rows = connection.execute("SELECT count(*) FROM embeddings").fetchone()[0]
        while n_rows and used > wanted:
            share = 1 - wanted / used
            n_oldest = min(n_rows, math.ceil(n_rows * share) + 1)
            connection.execute(
                "DELETE FROM embeddings WHERE id IN "
                "(SELECT id FROM embeddings ORDER BY id LIMIT ?)",
                (n_oldest,),
            )
            n_rows -= n_oldest
            used = _used_bytes(connection)


def _fits(shape, wanted):
    """Say whether a shape is the one that is wanted."""
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(
        want in (None, have) for have, want in zip(shape, wanted, strict=True)
    )


def _used_bytes(connection):
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * PAGE
