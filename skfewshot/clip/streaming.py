"""Images to batches of pixels as the model takes them, decoded while the model runs."""

from collections import deque
from collections.abc import Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np

from skfewshot.clip.cache_rows import content_key
from skfewshot.clip.images import ImageReadError, read_content, read_image


@dataclass
class Batch:
    """Some images as pixels, to go through the model together.

    Attributes
    ----------
    indexes : list or range of int
        Where in X the images are.
    pixels : ndarray of uint8 of shape (len(indexes), H, W, 3)
    keys : list of bytes
        Of the images in a cache; empty without a cache.
    found : list of (int, ndarray)
        Indexes and embeddings of further images, which the cache has.
    errors : list of ImageReadError
        Of further images, which could not be read.
    """

    indexes: list | range
    pixels: np.ndarray
    keys: list = field(default_factory=list)
    found: list = field(default_factory=list)
    errors: list = field(default_factory=list)


@dataclass(frozen=True)
class Reader:
    """How to get from an item of X to the pixels that the model takes.

    Attributes
    ----------
    preprocessor : Preprocessor
    size : tuple of int
        Height and width of the model's input.
    on_error : {"raise", "nan"}
        What to do about an image that cannot be read.
    cache : EmbeddingCache or None
    space : bytes
        What the keys of the cache depend on besides the image.
    row_shape : tuple of int or None
        The shape of an embedding, with None for a length that nobody knows yet.
    """

    preprocessor: object
    size: tuple
    on_error: str = "raise"
    cache: object = None
    space: bytes = b""
    row_shape: tuple | None = None

    def read(self, index, get):
        """Read one image.

        Parameters
        ----------
        index : int
        get : callable
            Returns the item of X.

        Returns
        -------
        tuple
            Index, key (None without a cache) and either pixels, of uint8, or the
            embedding that the cache has, of float32, or an ImageReadError.
        """
        try:
            if self.cache is None:
                image = read_image(get(), index)
                return index, None, self.preprocessor.to_pixels(image)
            content, decode = read_content(get(), index)
            key = content_key(self.space, content)
            row = self.cache.get(key, self.row_shape)
            if row is None:
                row = self.preprocessor.to_pixels(decode())
            return index, key, row
        except ImageReadError as error:
            return index, None, error


def default_num_workers():
    """Return how many threads decode: as many as torch computes with.

    That is one a core, and fewer where joblib shares the cores between processes.
    """
    import torch

    return torch.get_num_threads()


def stream_batches(X, reader, *, batch_size, num_workers, n_ahead=2):
    """Yield X as batches of pixels, in order.

    Parameters
    ----------
    X : sequence or iterator
        From :func:`~skfewshot.clip.images.as_images`.
    reader : Reader
    batch_size : int
    num_workers : int
        Threads that decode ahead; 0 decodes in the caller's thread.
    n_ahead : int, default=2
        Batches being decoded beside the one that was asked for.

    Yields
    ------
    Batch
        Of `batch_size` images for the model, or fewer where some are in the cache or
        cannot be read: see :func:`fill_batches`.

    Raises
    ------
    ImageReadError
        The first one in X, under ``on_error="raise"``.
    """
    is_ready = isinstance(X, np.ndarray) and X.shape[1:] == (*reader.size, 3)
    if is_ready and reader.cache is None:  # neither to be decoded nor to be resized
        for start in range(0, len(X), batch_size):
            pixels = np.array(X[start : start + batch_size], order="C")
            yield Batch(range(start, start + len(pixels)), pixels)
        return
    images = _in_parts(X, batch_size)
    if num_workers:
        parts = _read_ahead(reader.read, images, num_workers, n_ahead)
    else:
        parts = ([reader.read(*image) for image in part] for part in images)
    with closing(parts):
        for results in parts:
            yield _collect(results, reader)


def fill_batches(batches, batch_size):
    """Move images from batch to batch so that as few as can be have less than others.

    Parameters
    ----------
    batches : iterator of Batch
    batch_size : int

    Yields
    ------
    Batch
    """
    waiting = None
    for batch in batches:
        waiting = batch if waiting is None else _join(waiting, batch)
        while waiting is not None and len(waiting.indexes) >= batch_size:
            first, waiting = _split(waiting, batch_size)
            yield first
        if waiting is not None and (waiting.found or waiting.errors):
            # What needs no model need not wait for it.
            yield replace(waiting, indexes=[], pixels=waiting.pixels[:0], keys=[])
            waiting = replace(waiting, found=[], errors=[])
    if waiting is not None and len(waiting.indexes):
        yield waiting


def _join(first, second):
    return Batch(
        [*first.indexes, *second.indexes],
        np.concatenate([first.pixels, second.pixels]),
        first.keys + second.keys,
        first.found + second.found,
        first.errors + second.errors,
    )


def _split(batch, size):
    first = replace(
        batch,
        indexes=batch.indexes[:size],
        pixels=batch.pixels[:size],
        keys=batch.keys[:size],
    )
    rest = Batch(batch.indexes[size:], batch.pixels[size:], batch.keys[size:])
    return first, rest if len(rest.indexes) else None


def _in_parts(X, size):
    """Yield lists of (index, function that gives the item), `size` images each."""
    if isinstance(X, Sized):
        for start in range(0, len(X), size):
            # A sequence may do work of its own here, so it is asked by the threads.
            stop = min(start + size, len(X))
            yield [
                (index, partial(X.__getitem__, index)) for index in range(start, stop)
            ]
        return
    start = 0
    items = iter(X)
    while part := list(islice(items, size)):
        yield [(start + i, partial(_same, item)) for i, item in enumerate(part)]
        start += len(part)


def _same(item):
    return item


def _read_ahead(read, parts, num_workers, n_ahead):
    """Yield what `read` makes of each part, by threads that stay some parts ahead."""
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="skfewshot-decode")
    pending = deque()
    try:
        for part in parts:
            pending.append([pool.submit(read, *image) for image in part])
            if len(pending) > n_ahead:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(results, reader):
    """Put the pixels of a batch into one array; raise or note errors."""
    batch = Batch([], [])
    for index, key, result in results:
        if isinstance(result, ImageReadError):
            if reader.on_error == "raise":
                raise result
            batch.errors.append(result)
        elif result.dtype != np.uint8:
            batch.found.append((index, result))
        else:
            batch.indexes.append(index)
            batch.pixels.append(result)
            if key is not None:
                batch.keys.append(key)
    no_pixels = np.empty((0, *reader.size, 3), dtype=np.uint8)
    batch.pixels = np.stack(batch.pixels) if batch.pixels else no_pixels
    return batch
