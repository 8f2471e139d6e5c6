"""Ray Datasets of images, to folders of embeddings or predictions."""

from __future__ import annotations

import os
import pickle
import traceback
import warnings
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from skfewshot._sklearn import warn_user
from skfewshot.clip import CLIPFeaturizer, ImageReadError
from skfewshot.clip._holders import as_images
from skfewshot.distributed._digest import digest_of
from skfewshot.distributed._folder import (
    EMBEDDING,
    Folder,
    check_ids,
    require,
    to_array,
    to_column,
)

with suppress(ImportError):  # of which `require` tells
    import pyarrow as pa
    import ray.data
    from ray.data.block import BlockAccessor

#: The methods of an estimator that predict, and the columns of what they return.
OUTPUTS = {"predict": "prediction", "predict_proba": "probability"}
OUTPUTS |= {"predict_log_proba": "log_probability", "decision_function": "decision"}


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Parameters
    ----------
    n_written, n_skipped, n_unread : int
        Rows that it wrote, that an earlier run had written, and that it wrote without
        an image that could be read: their embedding is NaN, their prediction null.
    """

    n_written: int
    n_skipped: int
    n_unread: int


def embed_dataset(
    dataset: ray.data.Dataset,
    output: str | os.PathLike[str],
    featurizer: CLIPFeaturizer,
    *,
    image_column: str,
    id_column: str,
    filesystem: Any = None,
    concurrency: int | tuple[int, int] = 1,
    **options: Any,
) -> RunSummary:
    """Embed the images of a Ray Dataset into a folder of Parquet files.

    Each of a pool of Ray actors takes a batch of rows at a time and writes a file.
    A run that was killed goes on when it is started again with the same arguments.

    Parameters
    ----------
    dataset : ray.data.Dataset
        All its columns but the images are written beside the embeddings.
    output : str or os.PathLike
        The folder, which all nodes must see, as a path or a URI such as
        ``s3://bucket/folder``. One run at a time may write to it.
    featurizer : CLIPFeaturizer
        Fitted, or else this process loads its model once, to know the encoder. Its
        `on_error` says what to do about images that cannot be read.
    image_column : str
        The column of the images: paths that all nodes can open, uint8 arrays (H, W, C),
        or whatever else a column has that :meth:`CLIPFeaturizer.transform` takes, as
        the bytes of image files, structs of ``bytes`` and ``path``, or data URIs.
    id_column : str
        The column of strings or integers, no two alike, by which a run that goes on
        knows rows. It may be the column of paths.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, default=None
        Where `output` is; ``None`` is that of the URI, or the local one.
    concurrency : int or tuple of two int, default=1
        The number of actors, or the least and the most of them.
    **options
        Of ``ray.data.Dataset.map_batches``: `batch_size` (256), the rows of a file;
        `num_cpus` (1) and `num_gpus` (0) of an actor, which may be fractions;
        `memory`, `runtime_env` and the like. An actor uses `num_cpus` threads, unless
        ``OMP_NUM_THREADS`` is set, and sees no GPU if it is given none.

    Returns
    -------
    RunSummary

    Raises
    ------
    TypeError, ValueError, ImageReadError
        If an id is null or occurs twice, `output` was written by another encoder or
        with other settings, or an image cannot be read under ``on_error="raise"``.

    Notes
    -----
    The column ``embedding`` has lists of float32. The driver and the actors hold all
    ids. Ray's ``write_parquet`` is not used: killed, it leaves half a file.
    """
    require("ray.data")
    if not isinstance(featurizer, CLIPFeaturizer):
        raise TypeError(f"featurizer must be a CLIPFeaturizer; got {featurizer!r}.")
    model = clone(featurizer)
    model.__dict__.pop("_skl_callbacks", None)  # they stay with the driver
    encoder = getattr(featurizer, "encoder_", None)
    if encoder is None:  # it is the same on any device
        here = clone(model).set_params(device="cpu", precision="fp32")
        encoder = here.load().identity
    # From now on the model refuses to be loaded with other weights.
    model.encoder_ = replace(encoder, prompt_templates=model.prompt_templates)
    about = {x: getattr(model, x) for x in ("output", "dense_mode", "precision")}
    about |= {"encoder": model.encoder_, "on_gpu": bool(options.get("num_gpus"))}
    folder = Folder(output, filesystem)
    job = _Job(model, "transform", image_column, id_column, EMBEDDING, folder)
    return _run(dataset, job, about, concurrency, **options)


def predict_dataset(
    dataset: ray.data.Dataset,
    output: str | os.PathLike[str],
    estimator: BaseEstimator,
    *,
    input_column: str,
    id_column: str,
    method: str = "predict",
    filesystem: Any = None,
    concurrency: int | tuple[int, int] = 1,
    **options: Any,
) -> RunSummary:
    """Predict from the images, or embeddings, of a Ray Dataset into Parquet files.

    Parameters
    ----------
    dataset, output, id_column, filesystem, concurrency, **options
        As for :func:`embed_dataset`. All columns but `input_column` are written.
    estimator : estimator
        Fitted: a pipeline that starts with a :class:`~skfewshot.CLIPFeaturizer`, or a
        classifier of embeddings. A run goes on with the same one, which may have been
        saved and loaded in between.
    input_column : str
        The column of images, as `image_column` of :func:`embed_dataset`, or of
        embeddings by the encoder of the classifier's support: lists of floats.
    method : {"predict", "predict_proba", "predict_log_proba", "decision_function"}, \
            default="predict"
        Writes the column ``prediction``, ``probability``, ``log_probability`` or
        ``decision``, where a number for each class makes a list, in the order of
        ``classes`` in the file ``_skfewshot.json``. NaN is predicted as null.

    Returns
    -------
    RunSummary
    """
    require("ray.data")
    if method not in OUTPUTS:
        raise ValueError(f"method must be one of {list(OUTPUTS)}; got {method!r}.")
    check_is_fitted(estimator)
    if not hasattr(estimator, method):
        raise TypeError(f"The estimator {estimator!r} has no method {method!r}.")
    classes = getattr(estimator, "classes_", None)
    classes = classes.tolist() if isinstance(classes, np.ndarray) else None
    about = {"estimator": digest_of(estimator), "classes": classes, "encoder": None}
    folder = Folder(output, filesystem)
    job = _Job(estimator, method, input_column, id_column, OUTPUTS[method], folder)
    return _run(dataset, job, about, concurrency, **options)


@dataclass
class _Job:
    """What an actor does with a table: compute by an estimator's method, and write."""

    estimator: BaseEstimator
    method: str
    input_column: str
    id_column: str
    output_column: str
    folder: Folder

    def work(self, table: pa.Table, done: set[Any]) -> tuple[list[Any], ...]:
        """Write the rows not done; return all ids, the new ones, those of no image."""
        ids = check_ids(table[self.id_column]).to_pylist()
        new = np.array([item not in done for item in ids], dtype=bool)
        if not new.any():
            return ids, [], []
        table = table.filter(pa.array(new))
        new_ids = table[self.id_column].to_pylist()
        column, is_unread = self.compute(to_input(table[self.input_column]), new_ids)
        if self.input_column != self.id_column:
            table = table.drop_columns([self.input_column])
        self.folder.write(table.append_column(self.output_column, column), new_ids)
        return ids, new_ids, [new_ids[row] for row in np.flatnonzero(is_unread)]

    def compute(self, X: Any, ids: list[Any]) -> tuple[pa.Array, NDArray[np.bool_]]:
        """Return the column of results, and which rows had nothing to compute from."""
        is_nan: NDArray[np.bool_] = np.zeros(len(ids), dtype=bool)
        if isinstance(X, np.ndarray) and X.dtype.kind == "f":
            is_nan |= np.isnan(X).reshape(len(X), -1).all(axis=1)
            # Anything finite in their place: the column has its type if no row is left.
            X = np.where(is_nan.reshape(-1, *(1,) * (X.ndim - 1)), X.dtype.type(1), X)
        try:
            found = np.asarray(getattr(self.estimator, self.method)(X))
        except ImageReadError as error:
            raise ImageReadError(
                f"{self.id_column}={ids[error.index]!r}: {error}", error.index
            ) from error
        if self.method == "transform":
            return to_column(found), np.isnan(found).reshape(len(ids), -1).all(axis=1)
        found, is_unread = self._without_missing(found)
        is_nan |= is_unread
        rows = pa.array(np.arange(len(ids)), mask=is_nan)
        return to_column(found).take(rows), is_nan

    def _without_missing(self, found: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return predictions with any in the place of missing ones, and which they are.

        So the column has the type that it has in files where none is missing.
        """
        missing = found != found if found.dtype.kind == "f" else found == None  # noqa: E711
        missing = missing.reshape(len(found), -1).all(axis=1)
        classes = getattr(self.estimator, "classes_", None)
        if self.method == "predict" and missing.any() and classes is not None:
            some = classes[0] if found.ndim == 1 else 0
            kind = classes.dtype if found.ndim == 1 else np.int64
            found = found.copy()
            found[missing] = some
            found = found.astype(kind)
        return found, missing


class _Actor:
    """A process that does its job with tables, and returns receipts of them."""

    def __init__(self, job: _Job, done: ray.ObjectRef) -> None:
        if not ray.get_gpu_ids():  # for Ray leaves all GPUs in sight
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # The featurizer knows rows of a batch alone; the driver warns with the ids.
        warnings.filterwarnings("ignore", ".* of the images could not be read")
        self._job, self._done = job, ray.get(done)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return what `work` does, or its error, of which Ray would hide the class."""
        try:
            receipt = pickle.dumps(self._job.work(table, self._done))
        except Exception as error:
            receipt = pickle.dumps((error, traceback.format_exc()))
            pickle.loads(receipt)  # if it cannot be copied, Ray is to tell of it
        return pa.table({"receipt": pa.array([receipt], pa.large_binary())})


def _run(
    dataset: ray.data.Dataset,
    job: _Job,
    about: dict[str, Any],
    concurrency: int | tuple[int, int],
    **options: Any,
) -> RunSummary:
    """Compute and write what the folder lacks; check that all is there."""
    least, most = np.broadcast_to(concurrency, 2).tolist()
    pool = ray.data.ActorPoolStrategy(min_size=least, max_size=most)
    options = {"batch_size": 256, "num_cpus": 1, **options}
    manifest = {**about, "method": job.method, "id_column": job.id_column}
    manifest |= {"columns": _columns(dataset, job), "complete": False}
    folder, n_cpus = job.folder, ray.cluster_resources().get("CPU", 0)
    if n_cpus - least * options["num_cpus"] < 1:
        warn_user(
            f"The actors take {least} times num_cpus={options['num_cpus']} of the "
            f"cluster's {n_cpus:g} CPUs, and reading most datasets takes 1 more: the "
            "run will hang unless the cluster grows. Take fewer, or num_cpus=0.5."
        )
    _claim(folder, manifest)
    done = ray.put(folder.recover(job.id_column))
    receipts = dataset.map_batches(
        _Actor,
        fn_constructor_args=(job, done),
        batch_format="pyarrow",
        compute=pool,
        **options,
    )
    found: Any = ([], [], [])
    rows: Any = iter(receipts.iter_rows())
    with closing(rows):  # or actors outlive an error
        for row in rows:
            receipt = pickle.loads(row["receipt"])
            if isinstance(receipt[0], Exception):
                raise receipt[0] from RuntimeError(f"In an actor:\n{receipt[1]}")
            for whole, part in zip(found, receipt, strict=True):
                whole += part
    seen, written, unread = found
    if twice := [item for item, count in Counter(seen).items() if count > 1]:
        raise ValueError(
            f"id_column={job.id_column!r} must tell the rows apart, but {len(twice)} "
            f"ids occur more than once in the dataset, such as {twice[:5]}."
        )
    if missing := set(seen) - folder.recover(job.id_column):
        raise RuntimeError(
            f"{len(missing)} of {len(seen)} rows did not arrive in {folder.path!r}. Do "
            "all nodes see the same folder?"
        )
    folder.write_manifest({**manifest, "complete": True})
    if unread:
        warn_user(
            f"{len(unread)} of the images could not be read; the first by "
            f"{job.id_column}: {', '.join(map(repr, unread[:20]))}."
        )
    return RunSummary(len(written), len(seen) - len(written), len(unread))


def _columns(dataset: ray.data.Dataset, job: _Job) -> list[str]:
    """Check the dataset, and return the names of the columns to write."""
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(f"dataset must be a ray.data.Dataset; got {dataset!r:.200}.")
    there = dataset.columns() or []
    lacking = {job.id_column, job.input_column} - set(there)
    if lacking or job.output_column in there:
        raise ValueError(
            f"The dataset has the columns {there}; wanted are {job.id_column!r}, "
            f"{job.input_column!r} and none that is named {job.output_column!r}."
        )
    dropped = {job.input_column} - {job.id_column}
    return [name for name in [*there, job.output_column] if name not in dropped]


def _claim(folder: Folder, manifest: dict[str, Any]) -> None:
    """Make the folder this run's, or refuse one that holds other rows."""
    there = folder.read_manifest() or {}
    different = "; ".join(
        f"{name}: {there.get(name)!r} there, {value!r} now"
        for name, value in manifest.items()
        if name not in ("complete", "classes") and value != there.get(name)
    )
    if different and folder.files():
        raise ValueError(
            f"output={folder.path!r} has files that were written with other arguments, "
            f"so this run cannot go on with them ({different}). Choose another folder."
        )
    folder.write_manifest(manifest)


def to_input(column: pa.ChunkedArray) -> Any:
    """Turn a column into images that a featurizer takes, or an array of embeddings."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):  # Ray's tensors, or its Python objects
        array: Any = BlockAccessor.for_block(pa.table({"x": column})).to_numpy("x")
        return list(array) if array.dtype == object else array
    if not pa.types.is_struct(kind) and hasattr(kind, "value_type"):
        return to_array(column.combine_chunks())
    return as_images(column)
