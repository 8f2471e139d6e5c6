"""Reading embeddings back from their folder, with the encoder that made them."""

import warnings
from dataclasses import asdict

import numpy as np

from skfewshot.clip.embedding import EmbeddingArray, read_identity
from skfewshot.distributed.columns import check_ids, holds_floats, show, to_array
from skfewshot.distributed.folder import open_folder

#: The column of the embeddings.
EMBEDDING = "embedding"


def read_embeddings(path, *, filesystem=None):
    """Read what :func:`~skfewshot.distributed.embed_dataset` wrote.

    Parameters
    ----------
    path : str or os.PathLike
        The folder, or its URI.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, default=None
        As it was given to :func:`embed_dataset`.

    Returns
    -------
    X : EmbeddingArray of float32 of shape (n, d) or (n, 1 + K, d)
        The embeddings, or tokens, which know their encoder: classifiers find its texts.
    table : pyarrow.Table of n rows
        The other columns, row by row as `X`. Rows are sorted by id, in whatever order
        they were written.

    Raises
    ------
    FileNotFoundError
        If there are no embeddings in `path`.
    ValueError
        If `path` holds predictions, an id is there twice, or the files are not as
        :func:`embed_dataset` writes them.
    ImportError
        If pyarrow is missing.

    Warns
    -----
    UserWarning
        If the run that writes the folder has not come to its end, so that rows lack.

    Notes
    -----
    Only `X` and `table` are held in memory: `X` is filled file by file.

    Examples
    --------
    >>> from skfewshot import CMMClassifier
    >>> from skfewshot.distributed import read_embeddings
    >>> X, table = read_embeddings("embeddings")  # doctest: +SKIP
    >>> model = CMMClassifier().fit(X, table["name"].to_pylist())  # doctest: +SKIP
    """
    pa = import_pyarrow()
    folder = open_folder(path, filesystem, "path")
    manifest = folder.read_manifest()
    files = folder.files()
    if manifest is None or not files:
        raise FileNotFoundError(
            f"There are no embeddings in path={path!r}; wanted is a folder that "
            "embed_dataset wrote."
        )
    settings = manifest["settings"]
    if settings["task"] != "embed":
        raise ValueError(
            f"path={path!r} holds predictions, not embeddings; read them with "
            "pyarrow, pandas or polars."
        )
    if not manifest["complete"]:
        warnings.warn(
            f"The run that writes {path!r} has not come to its end: rows are missing. "
            "Start it again to go on with it.",
            UserWarning,
            stacklevel=2,
        )
    others = [name for name in manifest["columns"] if name != EMBEDDING]
    tables = list(folder.read_all(others))
    rank, table = _sort_by_id(
        pa.concat_tables(tables, promote_options="permissive"), settings["id_column"]
    )
    try:
        encoder = read_identity(manifest["encoder"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"The manifest in path={path!r} is damaged: {error}"
        ) from error
    X, start = None, 0
    for part in folder.read_all([EMBEDDING]):
        rows = _rows_of(part[EMBEDDING], encoder)
        if X is None:
            X = np.empty((len(table), *rows.shape[1:]), dtype=np.float32)
        if rows.shape[1:] != X.shape[1:]:
            raise ValueError(
                f"The files in path={path!r} hold embeddings of different shapes, "
                f"{X.shape[1:]} and {rows.shape[1:]}."
            )
        X[rank[start : start + len(rows)]] = rows
        start += len(rows)
    return EmbeddingArray(X, encoder), table


def describe_encoder(encoder):
    """Return an `EncoderIdentity` as what JSON can hold.

    Raises
    ------
    ValueError
        If a prompt template is a function.
    """
    described = asdict(encoder)
    templates = described["prompt_templates"]
    if not isinstance(templates, str):
        templates = [templates] if callable(templates) else list(templates)
        if any(callable(template) for template in templates):
            raise ValueError(
                "The featurizer has a function among its prompt_templates, which "
                "cannot be written beside the embeddings; set prompt_templates to "
                "texts, and give the function to the classifier later on."
            )
        described["prompt_templates"] = templates
    return described


def import_pyarrow():
    """Return the module, or say what to install."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            'pyarrow is missing; install it with pip install "skfewshot[ray]".'
        ) from error
    return pyarrow


def _rows_of(column, encoder):
    """Return the embeddings of a column, which are as that encoder makes them."""
    width = encoder.embedding_dim
    if not holds_floats(column.type):
        raise ValueError(
            f"The column {EMBEDDING!r} is of type {column.type}; wanted are lists of "
            "floats."
        )
    rows = to_array(column, EMBEDDING)
    if len(rows) and (rows.ndim not in (2, 3) or rows.shape[-1] != width):
        raise ValueError(
            f"The column {EMBEDDING!r} holds rows of shape {rows.shape[1:]}; the "
            f"encoder {encoder} gives embeddings of width {width}."
        )
    if (abs(rows) > 1.5).any():  # but NaN, of images that could not be read, is fine
        raise ValueError(
            f"The column {EMBEDDING!r} holds numbers beyond 1; embeddings have length "
            "one."
        )
    return rows


def _sort_by_id(table, id_column):
    """Return where each row goes, and the table sorted by id."""
    from pyarrow import compute

    check_ids(table[id_column], id_column)
    order = compute.sort_indices(table[id_column]).to_numpy()
    table = table.take(order)
    ids = table[id_column].combine_chunks()
    twice = ids[1:].filter(compute.equal(ids[1:], ids[:-1])).unique()
    if len(twice):
        raise ValueError(
            f"{len(twice)} ids are there more than once, such as "
            f"{show(twice.to_pylist())}. Two runs have written to the folder at the "
            "same time; start one of them again, which removes the copies."
        )
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return rank, table
