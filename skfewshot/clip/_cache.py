"""Embeddings on disk, by the content of the image: an SQLite file that processes share.

SQLite because it survives a ``kill -9`` and a loss of power at any point, and reports a
damaged file in place of crashing on it, as a memory map would. Nothing is unpickled.
"""

import hashlib
import os
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user
from skfewshot.clip._models import CLIPModel

#: Name of the file in the folder of a cache.
FILE_NAME = "embeddings.sqlite"
#: The bounds of a cache in bytes: unless told otherwise, and the least there can be.
DEFAULT_SIZE, SMALLEST_SIZE = 10 * 2**30, 2**20

# To be raised when images are read or embeddings are stored in another way; and a mark,
# "CLIP" in ASCII: a file that has another one is not ours, and is left alone.
_FORMAT, _APPLICATION_ID = 3, 0x434C4950
_TABLE = "embeddings (id INTEGER PRIMARY KEY, key BLOB UNIQUE, value BLOB NOT NULL)"
_PAGE = 16384
_TIMEOUT_S = 20  # then embedding waits no longer for another process
# Rows wait in memory for one transaction, no longer and no larger than this.
_WAIT_S, _WAIT_BYTES = 1.0, 8 * 2**20
# A full cache loses its oldest embeddings until this share of the bound is in use.
_KEPT, _CHECK_BYTES = 0.9, 8

_all: "weakref.WeakSet[EmbeddingCache]" = weakref.WeakSet()
_lock = threading.RLock()


def _before_fork() -> None:
    """Close the files: a child would take its parent's locks for its own, for ever."""
    _lock.acquire()
    for cache in _all:
        cache.disconnect()


if hasattr(os, "register_at_fork"):
    _end = _lock.release
    os.register_at_fork(before=_before_fork, after_in_parent=_end, after_in_child=_end)


class EmbeddingCache:
    """The embeddings of one model in a file that may hold those of others; a context.

    `folder` is made if it does not exist, and read where it may not be written to.
    `dense_mode` is None for global embeddings alone, and `size` the bound in bytes.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        clip: CLIPModel,
        dense_mode: str | None = None,
        size: int = DEFAULT_SIZE,
    ) -> None:
        self.path = _make_folder(folder) / FILE_NAME
        self._size = size
        parts = (_FORMAT, clip.identity.fingerprint, str(clip.dtype), dense_mode)
        self._space = hashlib.sha256(repr(parts).encode()).digest()
        width = clip.identity.embedding_dim
        self._shape = (width,) if dense_mode is None else (-1, width)
        self._waiting: dict[bytes, bytes] = {}
        self._waiting_bytes = 0
        self._flushed = time.monotonic()
        # What fails once, after a long wait maybe, is not tried again.
        self._failed: dict[str, sqlite3.Error] = {}
        self._untold: list[str] = []
        self._owner = threading.get_ident()
        self._connection: sqlite3.Connection | None = None
        with _lock:
            _all.add(self)

    def __enter__(self) -> "EmbeddingCache":
        try:
            with _lock:
                self._connected()
            return self
        except sqlite3.OperationalError as error:
            name = str(self.path)
            raise OSError(
                f"The cache {name!r} could not be opened: {error}."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{str(self.path)!r} is not a cache of skfewshot, or is damaged: "
                f"{error}. Delete it, or pass another folder as cache."
            ) from error

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.flush()
        with _lock:
            self.disconnect()
        # What threads met that decode, far from the user's line.
        for message in self._untold if kind is None else ():
            warn_user(message)
        self._failed.clear()
        self._untold.clear()

    def disconnect(self) -> None:
        """Close the file until it is asked for again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def key(self, content: Any) -> bytes:
        """Return the key of an image: the bytes of a file, or an RGB image of PIL."""
        is_file = isinstance(
            content, bytes
        )  # which can hold any, so they are told apart
        kind = "file" if is_file else f"pixels {content.size}"
        digest = hashlib.sha256(self._space + kind.encode())
        digest.update(content if is_file else content.tobytes())
        return digest.digest()

    def get(self, key: bytes) -> NDArray | None:
        """Return the row of a key, or None if there is none, or a damaged one."""
        value = self._waiting.get(key)
        if value is None:
            query = "SELECT value FROM embeddings WHERE key = ?"
            value = self._try("read", lambda it: it.execute(query, (key,)).fetchone())
            value = value and value[0]
        if not isinstance(value, bytes):
            return None
        check, body = value[:_CHECK_BYTES], value[_CHECK_BYTES:]
        if check != _check(key, body):
            return None
        return np.frombuffer(body, dtype="<f4").reshape(self._shape)

    def put(self, key: bytes, row: NDArray) -> None:
        """Store a row, soon: see :meth:`flush`."""
        body = np.ascontiguousarray(row, dtype="<f4").tobytes()
        if "written" in self._failed or len(body) > self._size // 8:
            return
        self._waiting[key] = _check(key, body) + body
        self._waiting_bytes += _CHECK_BYTES + len(body)
        late = time.monotonic() - self._flushed > _WAIT_S
        if late or self._waiting_bytes > min(_WAIT_BYTES, self._size // 8):
            self.flush()

    def flush(self) -> None:
        """Write what was put, in one transaction: all of it is in the file, or none."""
        self._flushed = time.monotonic()
        if self._waiting:
            self._try("written", self._write)
        self._waiting, self._waiting_bytes = {}, 0

    def _write(self, connection: sqlite3.Connection) -> None:
        rows, store = (
            list(self._waiting.items()),
            "REPLACE INTO embeddings (key, value)",
        )
        with connection:  # a transaction, rolled back after an error
            connection.execute("BEGIN IMMEDIATE")
            self._make_room(connection)
            connection.executemany(f"{store} VALUES (?, ?)", rows)
        # A script, because this gives back one page at each step.
        connection.executescript("PRAGMA incremental_vacuum")

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Delete the oldest rows if what waits would go beyond the bound."""
        # Keys stand in the table and in its index; pages are not filled to the brim.
        needed = int(1.25 * self._waiting_bytes) + 100 * len(self._waiting) + 4 * _PAGE
        wanted = self._size - needed
        while (used := _used_bytes(connection)) > wanted:
            wanted = max(0, int(_KEPT * self._size) - needed)
            query = "SELECT count(*) FROM embeddings"
            n_rows = connection.execute(query).fetchone()[0]
            if not n_rows:
                break
            n_oldest = int(n_rows * (1 - wanted / used)) + 1
            oldest = f"SELECT id FROM embeddings ORDER BY id LIMIT {n_oldest}"
            connection.execute(f"DELETE FROM embeddings WHERE id IN ({oldest})")

    def _try(self, doing: str, call: Callable[[sqlite3.Connection], Any]) -> Any:
        """Note what the disk or another process did: embedding can go on."""
        if doing in self._failed:
            return None
        try:
            with _lock:
                return call(self._connected())
        except sqlite3.Error as error:
            with _lock:
                is_first = doing not in self._failed
                self._failed[doing] = error
            message = (
                f"The cache {str(self.path)!r} could not be {doing}: {error}. Images "
                "are embedded without it. If the file is damaged, delete it."
            )
            if is_first and threading.get_ident() == self._owner:
                warn_user(message)
            elif is_first:
                self._untold.append(message)
            return None

    def _connected(self) -> sqlite3.Connection:
        """Return the one connection, opened anew if it was closed."""
        if self._connection is None:
            self._connection = _connect(self.path)
        return self._connection


def _make_folder(name: str | os.PathLike) -> Path:
    """Return the folder, without links; make it if there is none."""
    try:
        # One letter before the slashes is a drive of Windows.
        if not os.fspath(name) or re.match(r"[\w+.-]{2,}://", os.fspath(name)):
            raise ValueError("wanted is a folder of this machine, or None for no cache")
        folder = Path(name).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise ValueError("it is a file; wanted is a folder, made if need be")
        folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"cache={str(name)!r} is no folder: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, and make the table if it is new."""
    connection = sqlite3.connect(
        path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        # In one statement: another process may be about to make the table.
        mark, n_tables = connection.execute(
            "SELECT *, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
        ).fetchone()
        if mark not in (0, _APPLICATION_ID) or (n_tables and not mark):
            raise sqlite3.DatabaseError("it holds other data")
        if not mark:
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=_CHECK_BYTES).digest()


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return (pages - connection.execute("PRAGMA freelist_count").fetchone()[0]) * _PAGE
