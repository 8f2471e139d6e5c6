"""Ray Datasets of images to folders of embeddings or predictions."""

from dataclasses import replace

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skfewshot.clip.featurizer import CLIPFeaturizer
from skfewshot.distributed.folder import open_folder
from skfewshot.distributed.jobs import OUTPUTS, EmbedJob, PredictJob
from skfewshot.distributed.pool import Pool, import_ray
from skfewshot.distributed.reading import describe_encoder
from skfewshot.distributed.running import run_job


def embed_dataset(
    dataset,
    output,
    featurizer,
    *,
    image_column,
    id_column,
    columns=None,
    filesystem=None,
    batch_size=256,
    concurrency=1,
    num_cpus=1,
    num_gpus=0,
    ray_remote_args=None,
):
    """Embed the images of a Ray Dataset into a folder of Parquet files.

    A pool of Ray actors, each with one model, takes a batch of rows at a time and
    writes it as one file. A run that was killed goes on when it is started again with
    the same arguments: what is in the folder already is not embedded again.

    Parameters
    ----------
    dataset : ray.data.Dataset
        From ``ray.data.read_parquet``, ``read_binary_files(include_paths=True)``,
        ``read_images(include_paths=True)``, ``from_pandas`` and the like.
    output : str or os.PathLike
        The folder, as a path or a URI such as ``s3://bucket/folder``. On a cluster all
        the nodes must see it. One run at a time may write to it.
    featurizer : CLIPFeaturizer
        Fitted or not. Its `on_error` says what to do about images that cannot be read,
        its `num_workers` threads decode within an actor, and its `batch_size` is that
        of the model.
    image_column : str
        The column of the images: paths that all nodes can open, the bytes of image
        files, structs of ``bytes`` and ``path``, or uint8 arrays (H, W, C) of one or
        many sizes.
    id_column : str
        The column of strings or integers that tell the rows apart, with no two alike.
        A resumed run knows rows by it. It may be the column of paths.
    columns : list of str or None, default=None
        The columns to write beside the embeddings. ``None`` is all but the images, and
        these as well where they are the ids. The ids are always written.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, default=None
        Where `output` is; ``None`` is that of the URI, or the local one.
    batch_size : int, default=256
        Rows that an actor takes at a time, and so the rows of a file, fewer where a
        block of `dataset` ends. A kill costs each actor so many rows at most.
    concurrency : int or tuple of two int, default=1
        The number of actors, or the least and the most of a pool that grows as needed.
    num_cpus, num_gpus : float, default=1, 0
        What Ray reserves for an actor; half a GPU is 0.5. An actor uses `num_cpus`
        threads for its model, 1 at least, unless ``OMP_NUM_THREADS`` is set. Where
        `num_gpus` is 0 a featurizer of ``device=None`` runs on the CPU. Leave a CPU
        that is reserved by no actor: Ray reads most datasets in tasks that need one.
    ray_remote_args : dict or None, default=None
        More arguments of ``ray.data.Dataset.map_batches``, such as `memory`,
        `resources` or `runtime_env`.

    Returns
    -------
    RunSummary

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, a column is missing, an id is null or occurs
        twice, or `output` was written by another encoder, or with other settings.
    ImageReadError
        If an image cannot be read, under ``on_error="raise"``; it names the id.
    ImportError
        If Ray is missing.

    Warns
    -----
    UserWarning
        If images could not be read, under ``on_error="nan"``, or the actors leave no
        CPU to read the dataset with.

    See Also
    --------
    read_embeddings : Reads the folder.
    predict_dataset : Predicts from images or from embeddings.

    Notes
    -----
    The column ``embedding`` is a list of fixed size of float32, and of such lists for
    ``output="tokens"``. pyarrow, pandas, polars and Ray read the files. Their rows are
    in no particular order.

    A file appears under its name when it is complete. Ray restarts actors that die, and
    repeats what they had begun. The driver holds some 50 bytes for each row, to see in
    the end that each is there once; a node holds 16 for each row to be skipped.

    Ray Data has checkpoints of its own. They are not used: as of Ray 2.60 they write
    rows again where a dataset does not begin with a read, and lose rows if a run is
    killed while it repeats a write.

    Examples
    --------
    >>> import ray  # doctest: +SKIP
    >>> from skfewshot import CLIPFeaturizer
    >>> from skfewshot.distributed import embed_dataset
    >>> files = ray.data.read_binary_files(
    ...     "s3://bucket/photos", include_paths=True
    ... )  # doctest: +SKIP
    >>> embed_dataset(
    ...     files,
    ...     "s3://bucket/embeddings",
    ...     CLIPFeaturizer(num_workers=4),
    ...     image_column="bytes",
    ...     id_column="path",
    ...     concurrency=8,
    ...     num_cpus=4,
    ...     num_gpus=1,
    ... )  # doctest: +SKIP
    RunSummary(n_written=1000000, n_skipped=0, n_unread=0)
    """
    import_ray()
    if not isinstance(featurizer, CLIPFeaturizer):
        raise TypeError(
            f"featurizer must be a CLIPFeaturizer; got {featurizer!r} of type "
            f"{type(featurizer).__name__}."
        )
    featurizer._validate_params()
    pool = Pool(batch_size, concurrency, num_cpus, num_gpus, ray_remote_args)
    job = EmbedJob(featurizer, image_column, id_column, num_gpus > 0)
    names = _check_columns(dataset, job, columns, "image_column")
    folder = open_folder(output, filesystem, "output")
    identity = getattr(featurizer, "encoder_", None) or _identify(job, pool)
    job.encoder = replace(identity, prompt_templates=featurizer.prompt_templates)
    found = {"encoder": describe_encoder(job.encoder)}
    return run_job(dataset, job, pool, folder, names, found)


def predict_dataset(
    dataset,
    output,
    estimator,
    *,
    input_column,
    id_column,
    method="predict",
    columns=None,
    filesystem=None,
    batch_size=256,
    concurrency=1,
    num_cpus=1,
    num_gpus=0,
    ray_remote_args=None,
):
    """Predict from the images, or embeddings, of a Ray Dataset into Parquet files.

    As :func:`embed_dataset`: a batch is a file, and a run that was killed goes on when
    it is started again with the same arguments.

    Parameters
    ----------
    dataset, output, filesystem, batch_size, concurrency, num_cpus, num_gpus
        See :func:`embed_dataset`.
    ray_remote_args : dict or None, default=None
        See :func:`embed_dataset`.
    estimator : estimator
        Fitted: a pipeline that starts with a :class:`~skfewshot.CLIPFeaturizer`, or a
        classifier of embeddings.
    input_column : str
        The column of images, as `image_column` of :func:`embed_dataset`, or of
        embeddings, as that one writes them: lists or tensors of floats. Nothing tells
        which encoder made these; it must be that of the classifier's support.
    id_column : str
        See :func:`embed_dataset`.
    method : {"predict", "predict_proba", "predict_log_proba", "decision_function"}, \
            default="predict"
        The method of `estimator`. It names the column that is written: ``prediction``,
        ``probability``, ``log_probability`` or ``decision``, where a number for each
        class makes a list, in the order of ``estimator.classes_``. The file
        ``_skfewshot.json`` lists the classes too.
    columns : list of str or None, default=None
        The columns to write beside the predictions. ``None`` is all but `input_column`.

    Returns
    -------
    RunSummary

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.
    TypeError, ValueError
        As :func:`embed_dataset`, also if `estimator` lacks the method, or `output` was
        written by another estimator.
    ImageReadError
        If an image cannot be read; it names the id.
    ImportError
        If Ray is missing.

    Warns
    -----
    UserWarning
        If embeddings are NaN, for images that could not be read; their prediction is
        null. Also if the actors leave no CPU to read the dataset with.

    Examples
    --------
    >>> import ray  # doctest: +SKIP
    >>> from skfewshot.distributed import predict_dataset
    >>> embeddings = ray.data.read_parquet("s3://bucket/embeddings")  # doctest: +SKIP
    >>> predict_dataset(
    ...     embeddings,
    ...     "s3://bucket/predictions",
    ...     model,
    ...     input_column="embedding",
    ...     id_column="path",
    ... )  # doctest: +SKIP
    RunSummary(n_written=1000000, n_skipped=0, n_unread=0)
    """
    import_ray()
    if method not in OUTPUTS:
        raise ValueError(f"method must be one of {list(OUTPUTS)}; got {method!r}.")
    check_is_fitted(estimator)
    if not hasattr(estimator, method):
        raise TypeError(f"The estimator {estimator!r} has no method {method!r}.")
    pool = Pool(batch_size, concurrency, num_cpus, num_gpus, ray_remote_args)
    job = PredictJob(estimator, method, input_column, id_column, num_gpus > 0)
    names = _check_columns(dataset, job, columns, "input_column")
    folder = open_folder(output, filesystem, "output")
    classes = getattr(estimator, "classes_", None)
    is_list = isinstance(classes, np.ndarray) and classes.ndim == 1
    found = {"classes": classes.tolist() if is_list else None}
    return run_job(dataset, job, pool, folder, names, found)


def _check_columns(dataset, job, columns, parameter):
    """Check the dataset, and return the names of the columns to write."""
    import ray

    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(
            f"dataset must be a ray.data.Dataset; got a {type(dataset).__name__}. See "
            "ray.data.read_parquet, read_binary_files and from_pandas."
        )
    there = dataset.columns() or []
    if columns is None:
        columns = [name for name in there if name != job.input_column]
    elif isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"columns must be a list of str or None; got {columns!r}.")
    wanted = [(parameter, job.input_column), ("id_column", job.id_column)]
    for name, column in [*wanted, *(("columns", column) for column in columns)]:
        if column not in there:
            raise ValueError(
                f"{name} names the column {column!r}, which the dataset does not have; "
                f"it has {there}."
            )
    names = list(dict.fromkeys([job.id_column, *columns]))
    if job.output_column in names:
        raise ValueError(
            f"The dataset has a column {job.output_column!r}, which is to be written; "
            "leave it out of columns, or rename it."
        )
    return names


def _identify(job, pool):
    """Return which encoder an actor loads; the driver may lack GPU and weights."""
    import ray
    from ray.exceptions import RayTaskError

    load = ray.remote(_load_identity).options(**pool.resources)
    try:
        return ray.get(load.remote(job))
    except RayTaskError as error:
        raise error.cause from error


def _load_identity(job):
    return job.load()
