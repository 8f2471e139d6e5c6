"""Columns of Arrow tables: to images and arrays, and back; ids to digests."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np

from skfewshot.clip.images import ImageReadError

#: A digest of an id. Two ids of a billion share one with a chance of 1e-21.
DIGEST = np.dtype("S16")


class EncodedImages(Sequence):
    """Images as the bytes of their files, opened when they are asked for.

    Opening is left to the threads of the featurizer, whose `on_error` says what to do
    about one that cannot be opened.

    Parameters
    ----------
    encoded : list of bytes, str or None
        Paths stand for themselves.
    """

    def __init__(self, encoded):
        self._encoded = encoded

    def __len__(self):
        return len(self._encoded)

    def __getitem__(self, index):
        from PIL import Image

        if isinstance(index, slice):
            return type(self)(self._encoded[index])
        encoded = self._encoded[index]
        if encoded is None or isinstance(encoded, str):
            return encoded  # missing, or a path, as the featurizer knows them
        try:
            return Image.open(io.BytesIO(encoded))
        except Exception as error:  # decoders raise nearly anything on broken files
            raise ImageReadError(
                f"The image at index {index} of X, {len(encoded)} bytes, could not be "
                f"read: {type(error).__name__}: {error}",
                index,
            ) from error


def to_images(column):
    """Turn a column into a sequence of images that a featurizer takes.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Of paths, of bytes of image files, of structs of the two (``bytes`` and
        ``path``, as Hugging Face's datasets have them), or of Ray's tensors.

    Returns
    -------
    list, EncodedImages or ndarray of uint8 of shape (n, H, W, C)
    """
    from pyarrow import types

    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind):
        return column.to_pylist()
    if types.is_binary(kind) or types.is_large_binary(kind):
        return EncodedImages(column.to_pylist())
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        items = [item or {} for item in column.to_pylist()]
        return EncodedImages(
            [
                item.get("path") if item.get("bytes") is None else item["bytes"]
                for item in items
            ]
        )
    images = _to_numpy(column)
    is_ragged = images.dtype == object
    return list(images) if is_ragged else images


def holds_floats(kind):
    """Say whether a column of that Arrow type holds embeddings: lists of floats."""
    import pyarrow as pa
    from pyarrow import types

    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif types.is_struct(kind) and kind.get_field_index("data") >= 0:
            kind = kind.field("data").type  # Ray's tensors of many shapes
        elif types.is_nested(kind) and hasattr(kind, "value_type"):
            kind = kind.value_type
        else:
            return types.is_floating(kind)


def to_array(column, name):
    """Turn a column of embeddings, or of tokens, into one array.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Of (nested) lists of floats, or of Ray's tensors.
    name : str
        For errors.

    Returns
    -------
    ndarray of shape (n, d) or (n, 1 + K, d)

    Raises
    ------
    ValueError
        If a row is null, or the rows differ in length.
    """
    from pyarrow import compute

    if column.null_count:
        raise ValueError(
            f"The column {name!r} has null in {column.null_count} of {len(column)} "
            "rows; filter them out of the dataset."
        )
    shape, values = [len(column)], column.combine_chunks()
    if not hasattr(values, "flatten"):
        return _to_numpy(column)
    while hasattr(values.type, "value_type"):
        widths = compute.unique(compute.list_value_length(values)).to_pylist()
        if len(widths) > 1:
            raise ValueError(
                f"The rows of the column {name!r} differ in length; wanted are "
                "embeddings of one encoder."
            )
        shape.extend(widths or [0])
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def to_column(array):
    """Turn an array into an Arrow array; inner axes become lists of fixed size.

    Parameters
    ----------
    array : ndarray of shape (n, ...)

    Returns
    -------
    pyarrow.Array
    """
    import pyarrow as pa

    array = np.ascontiguousarray(array)
    flat = array.reshape(-1)
    column = pa.array(flat.tolist() if flat.dtype.kind in "OUS" else flat)
    for width in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, width)
    return column


def refuse_pickled(kind, name):
    """Refuse a column of Ray's pickled objects: to read them is to run their code.

    Parameters
    ----------
    kind : pyarrow.DataType
    name : str
        Of the column, for errors.

    Raises
    ------
    ValueError
    """
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        if "pickle" in kind.extension_name:
            raise ValueError(
                f"The column {name!r} holds pickled objects, which may be code and are "
                "not read."
            )
        kind = kind.storage_type
    for index in range(kind.num_fields):
        refuse_pickled(kind.field(index).type, name)


def with_nulls(column, mask):
    """Return an Arrow array with null where `mask` is true."""
    import pyarrow as pa

    return column.take(pa.array(np.arange(len(column)), mask=mask))


def digest_ids(column, name):
    """Return a digest of each id.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Of strings, integers or bytes.
    name : str
        For errors.

    Returns
    -------
    ndarray of shape (n,), of dtype `DIGEST`

    Raises
    ------
    TypeError
        If the ids are of another type.
    ValueError
        If one is null.
    """
    is_bytes = check_ids(column, name)
    ids = column.to_pylist()
    encoded = ids if is_bytes else (str(item).encode() for item in ids)
    digests = [hashlib.blake2b(item, digest_size=16).digest() for item in encoded]
    return np.array(digests, dtype=DIGEST)


def check_ids(column, name):
    """Refuse ids that are neither strings nor integers; say whether they are bytes.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
    name : str
        For errors.

    Raises
    ------
    TypeError
        If the ids are of another type.
    ValueError
        If one is null.
    """
    from pyarrow import types

    kind = column.type
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    is_text = types.is_string(kind) or types.is_large_string(kind)
    if not (is_bytes or is_text or types.is_integer(kind)):
        raise TypeError(
            f"The column id_column={name!r} has the type {kind}; wanted are strings or "
            "integers."
        )
    if column.null_count:
        raise ValueError(
            f"The column id_column={name!r} has null in {column.null_count} rows; "
            "wanted is an id for each row."
        )
    return is_bytes


def repeated(digests):
    """Return those digests that occur more than once."""
    found, counts = np.unique(digests, return_counts=True)
    return found[counts > 1]


def show(values, limit=5):
    """Show a few of many values, for messages."""
    shown = ", ".join(map(repr, values[:limit]))
    return f"{shown}, ..." if len(values) > limit else shown


def _to_numpy(column):
    """Turn a column of Ray's tensors, or of pickled objects, into an array."""
    import pyarrow as pa
    from ray.data.block import BlockAccessor

    block = pa.table({"column": column})
    return BlockAccessor.for_block(block).to_numpy("column")
