"""A folder of Parquet files, each of which is there whole or not at all."""

import hashlib
import json
import os
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from skfewshot.distributed.columns import DIGEST, digest_ids, refuse_pickled

#: Beside the Parquet files: what they are. Readers pass over names with an underscore.
MANIFEST = "_skfewshot.json"
_TEMPORARY = "_temporary-"
_MOST_MANIFEST_BYTES = 2**26
# Files read at a time; object stores answer late.
_READERS = 16


class ParquetFolder:
    """A folder that many processes write to, and any of them may be killed.

    A file is written under a temporary name and then renamed. Its name follows from
    the ids in it, so that a batch that is written twice is there once.

    Parameters
    ----------
    path : str
        Within `filesystem`.
    filesystem : pyarrow.fs.FileSystem
    """

    def __init__(self, path, filesystem):
        self.path = path.rstrip("/") or path
        self.filesystem = filesystem

    def __str__(self):
        return repr(self.path)

    def create(self):
        """Create the folder, unless it is there."""
        self.filesystem.create_dir(self.path, recursive=True)

    # The manifest

    def read_manifest(self):
        """Return the manifest as a dict, or None if there is none."""
        from pyarrow import fs

        path = f"{self.path}/{MANIFEST}"
        info = self.filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            return None
        # A FIFO would be waited for, for ever.
        if info.type != fs.FileType.File or (info.size or 0) > _MOST_MANIFEST_BYTES:
            raise ValueError(f"{path!r} is no manifest of skfewshot: delete it.")
        with self.filesystem.open_input_stream(path) as stream:
            content = stream.read()
        try:
            manifest = json.loads(content)
            _check_manifest(manifest)
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path!r} is no manifest of skfewshot, or is damaged: {error!r:.200}"
            ) from error
        return manifest

    def write_manifest(self, manifest):
        """Write the manifest in place of what is there."""
        with self._replacing(MANIFEST) as temporary:
            with self.filesystem.open_output_stream(temporary) as stream:
                stream.write(json.dumps(manifest, indent=1).encode())

    # Tables

    def files(self):
        """Return the paths of the Parquet files, sorted."""
        return sorted(path for path in self._list() if path.endswith(".parquet"))

    def read(self, path, columns=None):
        """Return a table.

        Raises
        ------
        ValueError
            If a column is missing, or is of pickled objects, which are code.
        """
        from pyarrow import parquet

        # One by one, and as it is: pyarrow would else look for partitions in the path.
        with self.filesystem.open_input_file(path) as file:
            parts = parquet.ParquetFile(file)
            names = parts.schema_arrow.names
            for name in names if columns is None else columns:
                if names.count(name) != 1:
                    raise ValueError(
                        f"The file {path!r} has {names.count(name)} columns "
                        f"{name!r}; wanted is one."
                    )
                refuse_pickled(parts.schema_arrow.field(name).type, name)
            return parts.read(columns=columns)

    def read_all(self, columns=None):
        """Yield the table of each file, read by some threads ahead."""
        with ThreadPoolExecutor(_READERS) as pool:
            files = self.files()
            for start in range(0, len(files), _READERS):
                paths = files[start : start + _READERS]
                yield from pool.map(lambda path: self._read_named(path, columns), paths)

    def _read_named(self, path, columns):
        import pyarrow as pa

        try:
            return self.read(path, columns)
        except pa.ArrowInvalid as error:
            raise ValueError(f"The file {path!r} is damaged: {error}") from error
        except OSError as error:
            raise OSError(f"The file {path!r} could not be read: {error}") from error

    def write(self, table, digests):
        """Write a table whose ids have those digests."""
        name = hashlib.blake2b(digests.tobytes(), digest_size=16).hexdigest()
        self._write(table, f"part-{name}.parquet")

    def _write(self, table, name):
        from pyarrow import parquet, types

        # A dictionary of floats is as large as they are, and costs time.
        plain = [
            field.name for field in table.schema if not types.is_nested(field.type)
        ]
        with self._replacing(name) as temporary:
            parquet.write_table(
                table, temporary, filesystem=self.filesystem, use_dictionary=plain
            )

    def _replacing(self, name):
        return _Replacing(self.filesystem, self.path, name)

    # Taking up where a run was killed

    def recover(self, id_column):
        """Clear away what a kill left; return the digests of the ids that are there.

        Unfinished files go. Of rows that are there twice, as written by a worker that
        outlived its killed run, the first one stays.

        Parameters
        ----------
        id_column : str

        Returns
        -------
        ndarray of dtype `DIGEST`
            Sorted and unique.
        """
        for path in self._list():
            if path.rpartition("/")[2].startswith(_TEMPORARY):
                self._delete(path)
        with ThreadPoolExecutor(_READERS) as pool:
            read = list(
                pool.map(lambda path: self._digests(path, id_column), self.files())
            )
        read = [(path, digests) for path, digests in read if digests is not None]
        if not read:
            return np.empty(0, dtype=DIGEST)
        owner = np.repeat(np.arange(len(read)), [len(digests) for _, digests in read])
        found, first = np.unique(
            np.concatenate([digests for _, digests in read]), return_index=True
        )
        if len(found) < len(owner):
            kept = np.zeros(len(owner), dtype=bool)
            kept[first] = True
            for index in np.unique(owner[~kept]):
                self._keep(read[index][0], kept[owner == index])
        return found

    def _digests(self, path, id_column):
        """Return path and digests, or None for these if the file is broken."""
        import pyarrow as pa

        try:
            table = self.read(path, [id_column])
        except pa.ArrowInvalid as error:
            # None of ours is left half written, but disks lose power.
            warnings.warn(
                f"The file {path!r} is no Parquet file ({error}); it is removed, and "
                "its rows are made again.",
                UserWarning,
                stacklevel=2,
            )
            self._delete(path)
            return path, None
        except OSError as error:  # of the network, maybe: nothing is removed
            raise OSError(
                f"The file {path!r} could not be read: {error} If it is damaged, "
                "delete it, and its rows are made again."
            ) from error
        return path, digest_ids(table[id_column], id_column)

    def _keep(self, path, kept):
        """Keep some rows of a file."""
        import pyarrow as pa

        if kept.any():
            table = self.read(path).filter(pa.array(kept))
            self._write(table, path.rpartition("/")[2])
        else:
            self._delete(path)

    def _delete(self, path):
        try:
            self.filesystem.delete_file(path)
        except FileNotFoundError:  # its writer was alive and has renamed it
            pass

    def _list(self):
        """Return the paths of all the files."""
        from pyarrow import fs

        selector = fs.FileSelector(self.path, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return [info.path for info in infos if info.type == fs.FileType.File]


def _check_manifest(manifest):
    """Refuse what is not of the kinds that a manifest is made of."""
    settings, columns = manifest["settings"], manifest["columns"]
    sound = (
        isinstance(settings, dict)
        and all(isinstance(settings[name], str) for name in ("task", "id_column"))
        and isinstance(columns, list)
        and all(isinstance(name, str) for name in columns)
        and settings["id_column"] in columns
        and isinstance(manifest["complete"], bool)
        and isinstance(manifest.get("encoder"), dict | None)
    )
    if not sound:
        raise ValueError("an entry is of the wrong kind")


class _Replacing:
    """A context to write a temporary file in, which then takes the place of `name`."""

    def __init__(self, filesystem, folder, name):
        self._filesystem = filesystem
        self._temporary = f"{folder}/{_TEMPORARY}{uuid.uuid4().hex}"
        self._path = f"{folder}/{name}"

    def __enter__(self):
        return self._temporary

    def __exit__(self, kind, error, traceback):
        if error is None:
            _sync(self._filesystem, self._temporary)
            self._filesystem.move(self._temporary, self._path)


def _sync(filesystem, path):
    """Have a local file on the disk before its name says that it is complete."""
    from pyarrow import fs

    if isinstance(filesystem, fs.LocalFileSystem):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_folder(path, filesystem, name):
    """Find the folder that a caller means; nothing is created.

    Parameters
    ----------
    path : str or os.PathLike
        A path, or a URI such as ``s3://bucket/folder``.
    filesystem : pyarrow.fs.FileSystem, fsspec.AbstractFileSystem or None
        ``None`` is that of the URI, or the local one.
    name : str
        Of the parameter `path`, for errors.

    Returns
    -------
    ParquetFolder

    Raises
    ------
    TypeError
        If `path` or `filesystem` is of another type.
    ValueError
        If the URI is of an unknown kind.
    """
    from pyarrow import fs

    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"{name} must be a path or a URI; got {path!r} of type "
            f"{type(path).__name__}."
        )
    path = os.fspath(path)
    if filesystem is None and "://" in path:
        try:
            filesystem, path = fs.FileSystem.from_uri(path)
        except ValueError as error:
            raise ValueError(
                f"{name}={path!r} is a URI that pyarrow does not know: {error}. Pass "
                "filesystem, of pyarrow or fsspec, and the path within it."
            ) from error
    elif filesystem is None:
        filesystem, path = fs.LocalFileSystem(), os.path.abspath(path)
    elif hasattr(filesystem, "protocol"):
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
    elif not isinstance(filesystem, fs.FileSystem):
        raise TypeError(
            "filesystem must be one of pyarrow.fs or fsspec, or None; got "
            f"{filesystem!r} of type {type(filesystem).__name__}."
        )
    return ParquetFolder(path, filesystem)
