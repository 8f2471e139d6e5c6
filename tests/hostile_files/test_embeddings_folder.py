"""Folders of embeddings that somebody has tampered with."""

import json
import os

import numpy as np
import pytest

from skfewshot.distributed import read_embeddings

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

MANIFEST = "_skfewshot.json"
ENCODER = {
    "model_name": "tiny",
    "pretrained": None,
    "fingerprint": "5f0c",
    "embedding_dim": 4,
    "logit_scale": 100.0,
    "prompt_templates": "default",
}


def lists(rows, kind=None):
    return pa.array([list(row) for row in rows], pa.list_(kind or pa.float32()))


def table(ids, rows, **columns):
    return pa.table({"id": ids, "embedding": rows, **columns})


@pytest.fixture
def make(tmp_path):
    """A function that writes tables, and a manifest with changes."""

    def write(*tables, **changes):
        for number, part in enumerate(tables):
            parquet.write_table(part, tmp_path / f"part-{number}.parquet")
        manifest = {
            "id_column": "id",
            "columns": ["id", "embedding"],
            "complete": True,
            "encoder": ENCODER,
        }
        (tmp_path / MANIFEST).write_text(json.dumps({**manifest, **changes}))
        return tmp_path

    return write


GOOD = table(["a", "b"], lists(np.eye(4)[:2]))


def test_as_it_was(make):
    X, rest = read_embeddings(make(GOOD))
    np.testing.assert_array_equal(X, np.eye(4)[:2])
    assert rest["id"].to_pylist() == ["a", "b"]


UNIT = lists(np.eye(4)[:1])
ODD = {
    "one number": table(["c"], lists([[1]])),
    "wide": table(["c"], lists(np.eye(8)[:1])),
    "no list": table(["c"], pa.array([1.0], pa.float32())),
    "integers": table(["c"], lists([[1, 0, 0, 0]], pa.int64())),
    "texts": table(["c"], lists([["1"] * 4], pa.string())),
    "text": table(["c"], pa.array(["1000"])),
    "null": table(["c"], pa.array([None], pa.list_(pa.float32()))),
    "empty": table(["c"], lists([[]])),
    "id null": table([None], UNIT),
    "id list": table([["c"]], UNIT),
    "no id": GOOD.drop(["id"]),
    "no embedding": GOOD.drop(["embedding"]),
    "two columns": pa.Table.from_arrays(
        [GOOD["id"], GOOD["id"], GOOD["embedding"]], ["id", "id", "embedding"]
    ),
}
TOKENS = pa.array([np.eye(4).tolist()], pa.list_(pa.list_(pa.float32())))
ODD_AMONG_OTHERS = {
    **ODD,
    "tokens": table(["c"], TOKENS),
    "id twice": table(["a"], UNIT),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_tables(make, odd):
    with pytest.raises((ValueError, TypeError)):
        read_embeddings(make(ODD[odd]))


@pytest.mark.parametrize("odd", sorted(set(ODD_AMONG_OTHERS) - {"integers"}))
def test_odd_tables_among_others(make, odd):
    """A row of one number, say, would be spread over all columns."""
    with pytest.raises((ValueError, TypeError)):
        read_embeddings(make(GOOD, ODD_AMONG_OTHERS[odd]))


@pytest.mark.parametrize(
    "changes",
    [
        {"id_column": 3},
        {"id_column": "../id"},
        {"columns": None},
        {"columns": ["id", 3]},
        {"columns": ["id", "x", "embedding"]},
        {"encoder": 3},
        {"encoder": {**ENCODER, "embedding_dim": 5}},
        {"encoder": {**ENCODER, "logit_scale": float("nan")}},
        {"encoder": {**ENCODER, "model_name": ["tiny"]}},
        {"encoder": {**ENCODER, "prompt_templates": {"a": 1}}},
        {"encoder": {**ENCODER, "evil": 1}},
    ],
    ids=str,
)
def test_odd_manifests(make, changes):
    with pytest.raises((ValueError, TypeError)):
        read_embeddings(make(GOOD, **changes))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe\0", b"[" * 10**5, b"{}"]
)
def test_manifests_that_are_none(make, content):
    folder = make(GOOD)
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=f"{MANIFEST}' is no manifest of skfewshot"):
        read_embeddings(folder)


@pytest.mark.parametrize("content", [b"", b"junk", b"PAR1" + bytes(100) + b"PAR1"])
def test_files_that_are_no_parquet(make, content):
    folder = make(GOOD)
    (folder / "part-9.parquet").write_bytes(content)
    with pytest.raises((ValueError, OSError), match="part-9.parquet"):
        read_embeddings(folder)


@pytest.mark.parametrize("where", ["id", "embedding", "other"])
def test_pickled_objects_are_not_run(make, tmp_path, where):
    """Ray knows a column type of pickles, and runs them when it is read."""
    arrow = pytest.importorskip("ray.data._internal.object_extensions.arrow")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    pickled = arrow.ArrowPythonObjectArray.from_objects([Evil()])
    columns = {"id": pa.array(["a"]), "embedding": lists(np.eye(4)[:1])}
    columns[where] = pickled
    folder = make(pa.table(columns), columns=list(columns))
    if where == "other":
        assert len(read_embeddings(folder)[0]) == 1
    else:
        with pytest.raises(ValueError, match="of type"):
            read_embeddings(folder)
    assert not (tmp_path / "run").exists()
