"""Folders of embeddings: who reads them, where they are, what a kill left."""

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pytest

from skfewshot.clip import encoder_of

pytest.importorskip("pyarrow")

import pyarrow as pa
from pyarrow import fs, parquet

from skfewshot.distributed import read_embeddings


def test_the_files_are_for_all_readers(write, colours, rows, expected, tmp_path):
    named = [{**row, "note": "a"} for row in rows]
    folder = write(named[::-1], colours())
    X, table = read_embeddings(folder.path)
    np.testing.assert_array_equal(X, expected)
    assert encoder_of(X).fingerprint == "5f0c"
    assert table.to_pylist() == named
    for frame in (
        pd.read_parquet(folder.path).sort_values("path"),
        pl.read_parquet(f"{folder.path}/*.parquet", glob=True).sort("path"),
    ):
        assert list(frame["path"]) == [row["path"] for row in rows]
        np.testing.assert_array_equal(np.stack(list(frame["embedding"])), expected)
    kind = parquet.read_table(folder.files()[0]).schema.field("embedding").type
    assert kind == pa.list_(pa.field("element", pa.float32()), 3)


def test_a_column_has_its_type_from_the_files_that_know_it(write, colours, rows):
    table = read_embeddings(write(rows, colours()).path)[1]
    assert table.to_pylist() == rows


@pytest.mark.parametrize("kind", ["uri", "subtree", "fsspec", "memory", "relative"])
def test_filesystems(kind, write, colours, rows, expected, tmp_path, monkeypatch):
    path, filesystem = tmp_path / "out", None
    if kind == "uri":
        path = path.as_uri()
    elif kind == "subtree":
        path = "out"
        filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    elif kind == "fsspec":
        filesystem = fsspec.filesystem("file")
    elif kind == "memory":
        path, filesystem = f"/{tmp_path.name}", fsspec.filesystem("memory")
    else:
        monkeypatch.chdir(tmp_path)
        path = "out"
    for _ in range(2):  # each file is replaced
        folder = write(rows[:5], colours(), path, filesystem, batch_size=2)
    assert len(folder.files()) == 3
    assert len(folder.files(end="")) == 4
    X, _ = read_embeddings(path, filesystem=filesystem)
    np.testing.assert_array_equal(X, expected[:5])


def test_bad_places():
    with pytest.raises(ValueError, match="no://where"):
        read_embeddings("no://where")
    with pytest.raises(TypeError, match="PathLike"):
        read_embeddings(3)


def test_what_a_kill_left_is_cleared_away(write, colours, rows):
    folder = write(rows[:4], colours(), batch_size=2)
    first, second = folder.files()
    # By a worker that outlived its run: a row that is there, and one that is not.
    part = parquet.read_table(second)
    copy = part.set_column(
        0, "path", pa.array([rows[9]["path"], part["path"][0].as_py()])
    )
    parquet.write_table(copy, f"{folder.path}/part-z.parquet")
    with open(f"{folder.path}/_temporary-1", "wb") as file:
        file.write(b"PAR1")
    with pytest.raises(ValueError, match="rows of the same id"):
        read_embeddings(folder.path)
    assert folder.recover("path") == {row["path"] for row in rows[:4]}
    assert folder.files(end="") == [f"{folder.path}/_skfewshot.json", first, second]
    with open(second, "r+b") as file:
        file.truncate(200)
    with pytest.raises((OSError, ValueError), match=second):
        folder.recover("path")


def test_a_write_that_fails_leaves_no_file(write, colours, rows, monkeypatch):
    def write_half(table, where, filesystem):
        with filesystem.open_output_stream(where) as stream:
            stream.write(b"PAR1")
        raise KeyboardInterrupt

    folder = write(rows[:1], colours())
    monkeypatch.setattr("pyarrow.parquet.write_table", write_half)
    with pytest.raises(KeyboardInterrupt):
        write(rows[1:2], colours())
    assert len(folder.files()) == 1
    assert len(folder.files("_temporary", "")) == 1


def test_an_unfinished_run_is_warned_of(write, colours, rows, expected):
    folder = write(rows[:3], colours(), complete=False)
    with pytest.warns(UserWarning, match="not come to its end") as caught:
        X, _ = read_embeddings(folder.path)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(X, expected[:3])


def test_other_folders_are_refused(write, colours, rows, tmp_path):
    with pytest.raises(FileNotFoundError, match="no embeddings in path="):
        read_embeddings(tmp_path)
    folder = write(rows[:3], colours(), encoder=None)
    with pytest.raises(FileNotFoundError, match="no embeddings in path="):
        read_embeddings(folder.path)
