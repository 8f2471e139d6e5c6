"""Folders of Parquet files: each file whole or not there, and how they are read."""

from __future__ import annotations

import importlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import ModuleType
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user
from skfewshot.clip._embedding import EmbeddingArray, read_identity

with suppress(ImportError):  # of which `require` tells
    import pyarrow as pa
    from pyarrow import compute, dataset, fs, parquet, types

#: The column of the embeddings.
EMBEDDING = "embedding"
#: Beside the Parquet files: what they are. Readers pass over names with an underscore.
MANIFEST = "_skfewshot.json"
_TEMPORARY = "_temporary-"


def read_embeddings(
    path: str | os.PathLike[str], *, filesystem: Any = None
) -> tuple[EmbeddingArray, pa.Table]:
    """Read what :func:`~skfewshot.distributed.embed_dataset` wrote.

    Parameters
    ----------
    path, filesystem
        The folder, as `output` and `filesystem` of :func:`embed_dataset`.

    Returns
    -------
    X : EmbeddingArray of float32 of shape (n, d) or (n, 1 + K, d)
        The embeddings, or tokens, which know their encoder: classifiers find its texts.
    table : pyarrow.Table of n rows
        The other columns, row by row as `X`. Rows are sorted by id, in whatever order
        they were written.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no embeddings in `path`, an id is there twice, or the files are not
        as :func:`embed_dataset` writes them.

    Warns
    -----
    UserWarning
        If the run that writes the folder has not come to its end, so that rows lack.
    """
    require("pyarrow")
    folder = Folder(path, filesystem)
    manifest = folder.read_manifest()
    if not (manifest and manifest["encoder"] and folder.files()):
        raise FileNotFoundError(
            f"There are no embeddings in path={path!r}; wanted is a folder that "
            "embed_dataset wrote."
        )
    if not manifest["complete"]:
        warn_user(
            f"The run that writes {path!r} has not come to its end: rows are missing. "
            "Start it again to go on with it."
        )
    files = folder.dataset()
    table = files.to_table([name for name in manifest["columns"] if name != EMBEDDING])
    ids = check_ids(table[manifest["id_column"]])
    if len(ids.unique()) < len(ids):
        raise ValueError(
            f"path={path!r} has rows of the same id: two runs have written to it at a "
            "time. Start one of them again, which removes the copies."
        )
    order = compute.sort_indices(ids).to_numpy()
    place, end = np.argsort(order), 0
    width = manifest["encoder"].embedding_dim
    X: Any = None
    for part in files.to_batches([EMBEDDING]):  # to hold no more than X in memory
        rows = to_array(part[EMBEDDING])
        if X is None:
            X = np.empty((len(table), *rows.shape[1:]), dtype=np.float32)
        start, end = end, end + len(rows)
        if X[start:end].shape != rows.shape or X.shape[-1] != width:
            raise ValueError(f"path={path!r} has rows of shape {rows.shape[1:]}.")
        X[place[start:end]] = rows
    return EmbeddingArray(np.asarray(X), manifest["encoder"]), table.take(order)


class Folder:
    """A folder that many processes write to, and any of them may be killed.

    A file is written under a temporary name and then renamed. Its name follows from
    the ids in it, so that a batch that is written twice is there once.
    """

    def __init__(self, path: Any, filesystem: Any) -> None:
        path = os.fspath(path)
        if filesystem is None and "://" in path:
            filesystem, path = fs.FileSystem.from_uri(path)
        elif filesystem is None:
            filesystem, path = fs.LocalFileSystem(), os.path.abspath(path)
        elif not isinstance(filesystem, fs.FileSystem):
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
        self.path, self.filesystem = path.rstrip("/") or path, filesystem

    def files(self, start: str = "", end: str = ".parquet") -> list[str]:
        """Return the paths of the files whose names start and end so, sorted."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        names = sorted(info.base_name for info in infos if info.is_file)
        found = [x for x in names if x.startswith(start) and x.endswith(end)]
        return [f"{self.path}/{name}" for name in found]

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest, its encoder as an identity, or None if there is none."""
        path = f"{self.path}/{MANIFEST}"
        try:
            with self.filesystem.open_input_stream(path) as stream:
                manifest = json.loads(stream.read())
            if manifest["id_column"] not in manifest["columns"]:
                raise ValueError("it has no column of ids")
            encoder = manifest["encoder"]
            return {**manifest, "encoder": encoder and read_identity(encoder)}
        except FileNotFoundError:
            return None
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path!r} is no manifest of skfewshot, or damaged: {error!r:.200}"
            ) from error

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest in place of what is there."""
        encoder = manifest["encoder"] and asdict(manifest["encoder"])
        if encoder:
            del encoder["cache"]  # a folder of the machine that embedded
        manifest = {**manifest, "encoder": encoder}
        content = json.dumps(manifest, indent=1, default=_refuse).encode()
        self.filesystem.create_dir(self.path, recursive=True)
        with self._replacing(MANIFEST) as temporary:
            with self.filesystem.open_output_stream(temporary) as stream:
                stream.write(content)

    def dataset(self) -> Any:
        """Return the files as one dataset, in their order."""
        factory = dataset.FileSystemDatasetFactory(
            self.filesystem, self.files(), dataset.ParquetFileFormat()
        )
        # A column of which some file has nothing but null has its type from others.
        schema = factory.inspect(promote_options="permissive", fragments=None)
        return factory.finish(schema)

    def write(self, table: pa.Table, ids: list[Any]) -> None:
        """Write a table of rows with those ids."""
        with self._replacing(f"part-{joblib.hash(ids)}.parquet") as temporary:
            parquet.write_table(table, temporary, filesystem=self.filesystem)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[str]:
        """Give a temporary path to write to, which then takes the place of `name`."""
        temporary = f"{self.path}/{_TEMPORARY}{uuid.uuid4().hex}"
        yield temporary
        self.filesystem.move(temporary, f"{self.path}/{name}")

    def recover(self, id_column: str) -> set[Any]:
        """Clear away what a kill left, and return the ids that are there."""
        for path in self.files(_TEMPORARY, ""):
            self.filesystem.delete_file(path)
        if not self.files():
            return set()
        table = self.dataset().to_table([id_column, "__filename"])
        rows = table.set_column(0, "id", check_ids(table[id_column])).to_pandas()
        # A worker that outlived its run may have written rows once more.
        copies = set(rows["__filename"][rows.duplicated("id")])
        for path in copies:
            self.filesystem.delete_file(path)
        return set(rows["id"][~rows["__filename"].isin(copies)])


def require(name: str) -> ModuleType:
    """Import a module of the extra `ray`, or say what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'{name} is missing; install it with pip install "skfewshot[ray]".'
        ) from error


def _refuse(value: object) -> None:
    raise ValueError(f"{value!r}, as of prompt_templates, cannot be written as JSON.")


def to_array(column: pa.Array) -> NDArray[Any]:
    """Turn a column of (nested) lists of floats, all of one length, into one array."""
    shape, values = [len(column)], column
    while hasattr(values.type, "value_type") and not values.null_count:
        widths = compute.unique(compute.list_value_length(values)).to_pylist() or [0]
        if len(widths) > 1:
            break
        shape, values = [*shape, *widths], values.flatten()
        if types.is_floating(values.type):
            return values.to_numpy(zero_copy_only=False).reshape(shape)
    raise ValueError(
        f"A column of type {column.type} with {column.null_count} null "
        "holds no embeddings: wanted are lists of floats, all of one length."
    )


def to_column(array: NDArray[Any]) -> pa.Array:
    """Turn an array into an Arrow array; inner axes become lists of fixed size."""
    flat = np.ascontiguousarray(array).reshape(-1)
    column = pa.array(flat.tolist() if flat.dtype.kind in "OUS" else flat)
    for width in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, width)
    return column


def check_ids(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Refuse ids of which one is neither a string, of either kind, nor an integer."""
    is_text = str(ids.type).removeprefix("large_") in ("string", "binary")
    if ids.null_count or not (is_text or types.is_integer(ids.type)):
        raise ValueError(
            f"The column id_column is of type {ids.type} with {ids.null_count} null; "
            "wanted is a string or an integer in each row."
        )
    return ids
