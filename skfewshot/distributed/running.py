"""Running a job over a Ray Dataset, so that each row is written once."""

import pickle
import traceback
import warnings
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from skfewshot import __version__
from skfewshot.distributed.columns import DIGEST, digest_ids, repeated, show

_SHOWN = 20


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Parameters
    ----------
    n_written : int
        Rows that were computed and written.
    n_skipped : int
        Rows that an earlier run had written.
    n_unread : int
        Rows among the written whose image could not be read: their embedding is NaN,
        their prediction null.
    """

    n_written: int
    n_skipped: int
    n_unread: int


def run_job(dataset, job, pool, folder, names, found):
    """Compute and write what the folder lacks; check that all is there."""
    manifest = make_manifest(job, names, found)
    pool.warn_if_full()
    claim(folder, manifest)
    done = folder.recover(job.id_column)
    seen, unread = _compute(dataset, job, pool, folder, names, done)
    check_all_there(seen, folder, job.id_column)
    folder.write_manifest({**manifest, "complete": True})
    if unread:
        warnings.warn(
            f"{len(unread)} of the images could not be read, those of "
            f"{job.id_column}: {show(unread, _SHOWN)}.",
            UserWarning,
            stacklevel=3,
        )
    n_skipped = int(np.isin(seen, done).sum())
    return RunSummary(len(seen) - n_skipped, n_skipped, len(unread))


def make_manifest(job, names, found):
    """Return what to write beside the rows; `found` is of embeddings or predictions."""
    settings = {**job.settings(), "id_column": job.id_column}
    settings["input_column"] = job.input_column
    columns = [*names, job.output_column]
    described = {"format": 1, "skfewshot": __version__, "settings": settings}
    return {**described, "columns": columns, "complete": False, **found}


def _compute(dataset, job, pool, folder, names, done):
    """Run the actors; return the digests of all ids, and the ids without an image."""
    import ray

    args = {**pool.resources, **(pool.ray_remote_args or {})}
    receipts = dataset.select_columns(
        list(dict.fromkeys([*names, job.input_column]))
    ).map_batches(
        Actor,
        fn_constructor_args=(job, folder, names, ray.put(done)),
        batch_size=pool.batch_size,
        batch_format="pyarrow",
        compute=pool.strategy,
        **args,
    )
    seen, unread = [], []
    batches = receipts.iter_batches(batch_size=None, batch_format="pyarrow")
    with closing(iter(batches)) as batches:  # or the actors would outlive an error
        for batch in batches:
            for receipt in batch.to_pylist():
                if receipt["error"] is not None:
                    error, where = pickle.loads(receipt["error"])
                    raise error from RuntimeError(f"in an actor:\n{where}")
                seen.append(np.frombuffer(receipt["digests"], dtype=DIGEST))
                unread.extend(receipt["unread"])
    return np.concatenate(seen) if seen else np.empty(0, dtype=DIGEST), unread


class Actor:
    """A model that takes tables, writes files, and returns receipts.

    Parameters
    ----------
    job : EmbedJob or PredictJob
    folder : ParquetFolder
    names : list of str
        The columns to write besides.
    done : ndarray, or ray.ObjectRef of one
        Sorted digests of the ids to be skipped; all the actors of a node share it.
    """

    def __init__(self, job, folder, names, done):
        self._job = job
        self._folder = folder
        self._names = names
        self._done = done if isinstance(done, np.ndarray) else _get(done)
        self._failed = None
        try:
            job.load()
        except Exception as error:
            self._failed = error

    def __call__(self, table):
        """Compute and write the rows that are new; tell of all in a receipt."""
        import pyarrow as pa

        # Ray would raise an error of its own, without the one that was its cause.
        digests, unread, error = b"", [], None
        try:
            digests, unread = self._work(table)
        except Exception as raised:
            error = _pickle_error(raised)
        return pa.table(
            {
                "digests": pa.array([digests], pa.large_binary()),
                "unread": pa.array([unread], pa.list_(pa.string())),
                "error": pa.array([error], pa.large_binary()),
            }
        )

    def _work(self, table):
        import pyarrow as pa

        if self._failed is not None:
            raise self._failed
        name = self._job.id_column
        digests = digest_ids(table[name], name)
        twice = np.isin(digests, repeated(digests))
        if twice.any():
            _refuse_repeated(name, table.filter(pa.array(twice))[name].unique())
        is_new = ~self._is_done(digests)
        unread = self._write(table.filter(pa.array(is_new)), digests[is_new])
        return digests.tobytes(), unread

    def _is_done(self, digests):
        if len(self._done) == 0:
            return np.zeros(len(digests), dtype=bool)
        places = np.searchsorted(self._done, digests)
        return self._done[np.minimum(places, len(self._done) - 1)] == digests

    def _write(self, table, digests):
        """Return the ids of the rows whose image could not be read."""
        import pyarrow as pa

        if len(table) == 0:
            return []
        column, unread = self._job.compute(table)
        written = table.select(self._names)
        written = written.append_column(self._job.output_column, column)
        self._folder.write(written, digests)
        ids = table[self._job.id_column].filter(pa.array(unread))
        return [str(item) for item in ids.to_pylist()]


def _get(reference):
    import ray

    return ray.get(reference)


def _pickle_error(error):
    """Return an error and its traceback as bytes; an odd one becomes a RuntimeError."""
    where = traceback.format_exc()
    try:
        pickled = pickle.dumps((error, where))
        pickle.loads(pickled)
    except Exception:  # whatever its class does when it is copied
        return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), where))
    return pickled


def claim(folder, manifest):
    """Make the folder this run's, or refuse one that holds other rows."""
    folder.create()
    there = folder.read_manifest()
    is_empty = not folder.files()
    if there is None and not is_empty:
        raise ValueError(
            f"output={folder} has Parquet files that skfewshot did not write; choose "
            "an empty folder."
        )
    if not is_empty:
        before, now = (_identity(found) for found in (there, manifest))
        different = sorted(name for name in now if now[name] != before.get(name))
        if different:
            shown = "; ".join(
                f"{name}: {before.get(name)!r} there, {now[name]!r} now"
                for name in different
            )
            raise ValueError(
                f"output={folder} was written with other arguments, so this run cannot "
                f"go on with it ({shown}). Choose another folder."
            )
    folder.write_manifest(manifest)


def _identity(manifest):
    """Return what two runs must have in common to write to one folder."""
    encoder = manifest.get("encoder") or {}
    shared = {name: manifest[name] for name in ("format", "columns")}
    return {**manifest["settings"], **shared, "encoder": encoder.get("fingerprint")}


def check_all_there(seen, folder, id_column):
    """Refuse ids that the dataset has twice, and a folder that lacks rows."""
    there = folder.recover(id_column)
    missing = ~np.isin(seen, there)
    if missing.any():
        raise RuntimeError(
            f"{missing.sum()} of {len(seen)} rows are not in output={folder}, though "
            "they were written. Do all nodes see the same folder? A path of one node's "
            "own disk will not do on a cluster."
        )
    twice = repeated(seen)
    if len(twice):
        tables = folder.read_all([id_column])
        columns = (table[id_column] for table in tables)
        _refuse_repeated(
            id_column,
            [
                item
                for column in columns
                for item in column.filter(np.isin(digest_ids(column, id_column), twice))
            ],
        )


def _refuse_repeated(id_column, ids):
    ids = [item.as_py() for item in ids]
    raise ValueError(
        f"id_column={id_column!r} must tell the rows apart, but {len(ids)} ids occur "
        f"more than once in the dataset, such as {show(ids)}."
    )
