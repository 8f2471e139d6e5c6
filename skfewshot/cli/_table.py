"""A CSV file that grows row by row, and that a later run goes on with."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from skfewshot.cli._shared import PATH_ERRORS, stdout


class Table:
    """Rows to a file, or to the standard output.

    Parameters
    ----------
    file : text file
    columns : sequence of str
    done : set of str
        The first entries of the rows that are there.
    """

    def __init__(self, file: TextIO, columns: Sequence[str], done: set[str]) -> None:
        self.columns, self.done = columns, done
        self._file = file
        self._writer = csv.writer(file, lineterminator="\n")

    def write(self, rows: Sequence[Sequence[object]]) -> None:
        """Write rows at once, so that a later kill does not lose them."""
        self._writer.writerows(rows)
        self._file.flush()


@contextmanager
def open_table(path: str | None, columns: Sequence[str], by: str) -> Iterator[Table]:
    """Open a table to add rows to.

    Parameters
    ----------
    path : str or None
        A file, made if it is missing; None is the standard output.
    columns : sequence of str
        The last of them says what made a row.
    by : str
        What makes the rows now.

    Yields
    ------
    Table

    Raises
    ------
    ValueError
        If the file has other columns, or rows that something else made.
    """
    if path is None:
        table = Table(stdout(), columns, set())
        table.write([columns])
        yield table
        return
    # What is there but no file, a pipe or a device, has no rows to go on from.
    is_new = os.path.exists(path) and not os.path.isfile(path)
    done = None if is_new else _rows_of(path, columns, by)
    with open(path, "a", encoding="utf-8", errors=PATH_ERRORS, newline="") as file:
        table = Table(file, columns, done or set())
        if done is None:
            table.write([columns])
        yield table


def _rows_of(path: str, columns: Sequence[str], by: str) -> set[str] | None:
    """Return the first entries of the rows of a file; None if there is no header yet.

    What a kill left of a last row is cut off.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    whole = _whole_rows(content)
    text = whole.decode("utf-8", PATH_ERRORS)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    header = rows[0] if rows else content.decode("utf-8", PATH_ERRORS).split(",")
    is_ours = header == list(columns) if rows else _begins(content, columns)
    if not is_ours:
        raise ValueError(
            f"--csv {path} has the columns {header[:10]}, and is no table that this "
            "command goes on with; name another file."
        )
    others = {row[-1] for row in rows[1:] if row} - {by}
    if others:
        raise ValueError(
            f"--csv {path} has rows by another model or with other options "
            f"({sorted(others)[0]}; this is {by}); name another file."
        )
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return {row[0] for row in rows[1:] if row} if rows else None


def _whole_rows(content: bytes) -> bytes:
    """Return rows up to the last that ended: no quote is open, and the line ends."""
    end = content.rfind(b"\n") + 1
    while end and content.count(b'"', 0, end) % 2:
        end = content.rfind(b"\n", 0, end - 1) + 1
    return content[:end]


def _begins(content: bytes, columns: Sequence[str]) -> bool:
    return ",".join(columns).encode().startswith(content)
