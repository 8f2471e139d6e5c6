"""The folder: readers, filesystems, what a kill leaves."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import encoder_of

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

import fsspec
import polars as pl
import pyarrow as pa
from pyarrow import fs, parquet

from skfewshot.distributed import read_embeddings
from skfewshot.distributed.columns import digest_ids
from skfewshot.distributed.folder import open_folder
from skfewshot.distributed.jobs import EmbedJob
from skfewshot.distributed.running import claim

CLOSE = {"atol": 2e-5, "rtol": 0}


def test_the_files_are_for_all_readers(embedded, rows, expected):
    X, table = read_embeddings(embedded)
    np.testing.assert_allclose(X, expected, **CLOSE)
    assert encoder_of(X) == encoder_of(expected)
    assert table["path"].to_pylist() == [row["path"] for row in rows]
    assert CMMClassifier().fit(X, table["name"].to_pylist()).prototype_source_ == (
        "embedding"
    )
    for frame in (
        pd.read_parquet(embedded).sort_values("path"),
        pl.read_parquet(embedded / "*.parquet").sort("path"),
    ):
        assert list(frame["path"]) == [row["path"] for row in rows]
        np.testing.assert_allclose(
            np.stack(list(frame["embedding"])), expected, **CLOSE
        )
    plain = parquet.read_table(embedded)
    assert plain.schema.field("embedding").type == pa.list_(
        pa.field("element", pa.float32()), 128
    )


@pytest.mark.parametrize("kind", ["uri", "subtree", "fsspec", "memory", "relative"])
def test_filesystems(kind, rows, expected, tmp_path, monkeypatch, run_here):
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
    folder = pickle.loads(pickle.dumps(open_folder(path, filesystem, "output")))
    job = EmbedJob(CLIPFeaturizer("tiny"), "path", "path")
    for _ in range(2):  # the manifest is replaced, too
        run_here(rows[:5], job, folder, ["path"], encoder_of(expected), 2)
    names = sorted(
        info.base_name
        for info in folder.filesystem.get_file_info(fs.FileSelector(folder.path))
    )
    assert len(names) == 4
    assert names[0] == "_skfewshot.json"
    X, _ = read_embeddings(path, filesystem=filesystem)
    np.testing.assert_allclose(X, expected[:5], **CLOSE)


def test_what_a_kill_left_is_cleared_away(tmp_path):
    folder = open_folder(tmp_path, None, "output")

    def write(name, *ids):
        parquet.write_table(pa.table({"id": ids, "x": ids}), tmp_path / name)

    write("part-a.parquet", "a", "b")
    write("part-b.parquet", "b", "c")  # by a worker that outlived its run
    write("part-c.parquet", "a")
    whole = (tmp_path / "part-a.parquet").read_bytes()
    (tmp_path / "_temporary-1").write_bytes(whole[:-10])
    (tmp_path / "part-d.parquet").write_bytes(whole[:-10])  # the power failed
    with pytest.warns(UserWarning, match="part-d.parquet' is no Parquet file"):
        found = folder.recover("id")
    ids = digest_ids(pa.chunked_array([list("abc")]), "id")
    assert found.tolist() == sorted(ids.tolist())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "part-a.parquet",
        "part-b.parquet",
    ]
    assert parquet.read_table(tmp_path).to_pylist() == [
        {"id": item, "x": item} for item in "abc"
    ]


def test_a_damaged_file_is_named(tmp_path):
    folder = open_folder(tmp_path, None, "output")
    path = tmp_path / "part-a.parquet"
    parquet.write_table(pa.table({"id": ["a", "b"]}), path)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # the header of a page
    path.write_bytes(content)
    with pytest.raises(OSError, match="part-a.parquet' could not be read"):
        folder.recover("id")
    assert path.exists()


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    folder = open_folder(tmp_path, None, "output")
    table = pa.table({"id": ["a"]})
    digests = digest_ids(table["id"], "id")

    class Killed(BaseException):
        pass

    def write_half(table, where, **kwargs):
        Path(where).write_bytes(b"PAR1")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "write_table", write_half)
        with pytest.raises(Killed):
            folder.write(table, digests)
    assert not folder.files()
    assert len(list(tmp_path.iterdir())) == 1
    assert len(folder.recover("id")) == 0
    assert not list(tmp_path.iterdir())


def test_reading_refuses_copies_and_other_folders(embedded, tmp_path):
    with pytest.raises(FileNotFoundError, match="no embeddings in path="):
        read_embeddings(tmp_path)
    for path in embedded.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    part = next(tmp_path.glob("*.parquet"))
    (tmp_path / "part-copy.parquet").write_bytes(part.read_bytes())
    with pytest.raises(ValueError, match="ids are there more than once"):
        read_embeddings(tmp_path)
    manifest = json.loads((tmp_path / "_skfewshot.json").read_text())
    manifest["settings"]["task"] = "predict"
    (tmp_path / "_skfewshot.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="holds predictions, not embeddings"):
        read_embeddings(tmp_path)


def test_a_folder_of_other_rows_is_refused(rows, embedded, expected, tmp_path):
    folder = open_folder(embedded, None, "output")
    manifest = folder.read_manifest()
    claim(folder, manifest)
    changes = {
        "encoder": ("encoder", {**manifest["encoder"], "fingerprint": "5f0c"}),
        "output": ("settings", {**manifest["settings"], "output": "tokens"}),
        "id_column": ("settings", {**manifest["settings"], "id_column": "name"}),
        "columns": ("columns", ["path", "embedding"]),
    }
    for name, (key, value) in changes.items():
        with pytest.raises(ValueError, match=rf"other arguments.*\({name}: .* there"):
            claim(folder, {**manifest, key: value})
    folder.write_manifest({**manifest, "complete": True})
    (tmp_path / "part.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="Parquet files that skfewshot did not write"):
        claim(open_folder(tmp_path, None, "output"), manifest)
