"""The SQLite file of a cache: opened, checked and made."""

import os
import sqlite3
import time
from pathlib import Path

# "CLIP" in ASCII: a file that has another mark is not ours, and is left alone.
_APPLICATION_ID = 0x434C4950
_TABLE = (
    "embeddings (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)"
)
PAGE = 16384
# No row is longer; a made-up file might have some that fill the memory.
MOST_ROW_BYTES = 2**28
# Waits for another process end here, and embedding goes on without the cache.
TIMEOUT_S = 20
# The write-ahead log is folded in when it is so long.
_LOG_BYTES = 8 * 2**20
_OPTIONS = {
    "timeout": TIMEOUT_S,
    "isolation_level": None,
    "check_same_thread": False,
}


def connect(path):
    """Open the file, and make the table if it is new."""
    connection = sqlite3.connect(path, **_OPTIONS)
    try:
        is_new = _check_content(connection)
        if is_new:  # what follows needs the writers' lock
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # That alone does not wait for another process by itself.
        deadline = time.monotonic() + TIMEOUT_S
        retry(connection, "PRAGMA journal_mode = WAL", deadline)
        # The log is synced before it is folded in: sound, and fast.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_BYTES // PAGE}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        if is_new:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path):
    """Open a file that may not be written to."""
    log = Path(f"{path}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    # Without a log there is nothing to share with writers, and no file to be made.
    mode = "mode=ro" if has_log else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, **_OPTIONS)
    try:
        if _check_content(connection):
            raise sqlite3.DatabaseError("it is empty, and may not be written to")
    except BaseException:
        connection.close()
        raise
    return connection


def may_write(path):
    """Say whether this process may write to a file, and to its folder."""
    # Of the effective user, where the system can tell.
    options = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    places = [path.parent, path] if path.exists() else [path.parent]
    return all(os.access(place, os.W_OK, **options) for place in places)


def _check_content(connection):
    """Say whether a file is new; refuse one that is not ours."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_ROW_BYTES)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("BEGIN")  # another process may be about to make the table
    mark = pragma(connection, "application_id")
    schema = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
    ).fetchall()
    connection.execute("COMMIT")
    # A file from elsewhere may hold triggers and views, which would be run.
    ours = (_APPLICATION_ID, [(f"CREATE TABLE {_TABLE}",)])
    if (mark, schema) not in ((0, []), ours):
        raise sqlite3.DatabaseError("it holds other data")
    return not mark


def retry(connection, command, deadline):
    """Run a command again for as long as another process has the file locked."""
    while True:
        try:
            connection.execute(command).fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def pragma(connection, name):
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
