"""Passes of the model over batches of pixels: where they run, and how many at a time.

On a GPU one pass is computed while the rows of the one before are fetched. On a CPU
each of some threads has a pass of its own, with its share of torch's threads: a pass on
all cores has its threads wait for each other at every layer, spinning, and the threads
that decode images beside it make that wait long.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial

import numpy as np

from skfewshot._sklearn import warn_user
from skfewshot._torch import limit_threads
from skfewshot.clip.encoding import check_finite, encode_images
from skfewshot.clip.images import no_images
from skfewshot.clip.streaming import fill_batches, stream_batches

# More passes at a time than this do not pay: the weights have to be read for each.
_MOST_THREADS = 8
# Images in a pass that has the weights read for enough of them.
_FEWEST_IMAGES = 4
_INDEXES_SHOWN = 20


def plan_passes(device, *, n_images, batch_size, num_workers):
    """Decide how many threads run the model, and on how many images at a time.

    Parameters
    ----------
    device : torch.device
    n_images : int or None
        None where nobody knows.
    batch_size : int
        Images that the model has in work at a time.
    num_workers : int
        Threads that the caller allows.

    Returns
    -------
    n_threads : int
        0 for the caller's own.
    size : int
        Images in a pass.
    """
    import torch

    if device.type != "cpu":
        return 0, batch_size
    n_threads = min(num_workers, torch.get_num_threads(), _MOST_THREADS)
    if n_threads < 2 or n_images == 1 or batch_size == 1:
        return 0, batch_size
    size = min(batch_size, max(_FEWEST_IMAGES, batch_size // n_threads))
    if n_images is not None:
        size = min(size, -(-n_images // n_threads))
    return n_threads, size


def embed_images(
    clip,
    images,
    rows,
    reader,
    *,
    dense_mode=None,
    batch_size,
    num_workers=0,
    task=nullcontext,
):
    """Embed images into `rows`.

    Parameters
    ----------
    clip : CLIPModel
    images : sequence or iterator
        From :func:`~skfewshot.clip.images.as_images`.
    rows : ArrayRows or TensorRows
    reader : Reader
    dense_mode : str or None
        How to make patch tokens, or None for global embeddings alone.
    batch_size, num_workers
        See :class:`~skfewshot.clip.CLIPFeaturizer`.
    task : callable
        Makes the context manager in which to wait for each pass of the model.

    Returns
    -------
    ndarray or tensor of float32 of shape (n, d) or (n, 1 + K, d)
        The last axis has length one, or NaN where an image could not be read.

    Raises
    ------
    FloatingPointError
        If the model overflows, which some do in half precision.
    """
    n_threads, size = plan_passes(
        clip.device,
        n_images=rows.n_rows,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    unread = []
    passes = Passes(
        clip, rows, reader, dense_mode=dense_mode, n_threads=n_threads, task=task
    )
    batches = stream_batches(
        images,
        reader,
        batch_size=size,
        num_workers=num_workers,
        n_ahead=2 * batch_size // size,
    )
    with closing(batches), passes:  # or their threads would outlive an error
        for batch in fill_batches(batches, size):
            unread.extend(batch.errors)
            passes.run(batch)
    if not rows.n_seen and not unread:
        raise no_images()
    if not rows.n_seen:  # not one image to take the shape of a row from
        blank = np.zeros((1, *reader.size, 3), dtype=np.uint8)
        rows.put([0], encode_images(clip, reader.preprocessor, blank, dense_mode))
    if rows.on_device:  # to look at each pass would be to wait for it
        check_finite(rows.seen(), clip.dtype)
    embeddings = rows.finish([error.index for error in unread])
    _warn_of(unread)
    return embeddings


class Passes:
    """Runs batches through the model and puts the rows where they belong, in order.

    Use it as a context manager; at its end all rows are in their place.

    Parameters
    ----------
    clip : CLIPModel
    rows : ArrayRows or TensorRows
    reader : Reader
        For its preprocessor, and its cache, if any.
    dense_mode : str or None
    n_threads : int
        From :func:`plan_passes`.
    task : callable
        Makes the context manager in which to wait for each pass.
    """

    def __init__(
        self, clip, rows, reader, *, dense_mode=None, n_threads=0, task=nullcontext
    ):
        self._clip = clip
        self._rows = rows
        self._cache = reader.cache
        self._row_shape = reader.row_shape
        self._task = task
        self._encode = partial(
            encode_images, clip, reader.preprocessor, dense_mode=dense_mode
        )
        # A cache needs the rows on the host.
        self._stay_on_device = rows.on_device and reader.cache is None
        self._pool = _thread_pool(n_threads) if n_threads else None
        self._most_running = _most_running(clip.device, n_threads)
        self._running = deque()
        self._rows_of_key = {}

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            while self._running and kind is None:
                self._finish_oldest()
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
            if self._cache is not None:
                self._cache.flush()

    def run(self, batch):
        """Start a pass over a `Batch`, and finish the oldest if too many run."""
        for index, row in batch.found:
            self._put([index], row[None])
        indexes, pixels, keys = batch.indexes, batch.pixels, ()
        if self._cache is not None:
            indexes, pixels, keys = self._without_known(batch)
        if not len(pixels):
            return
        if self._pool is None:
            wait = self._start(pixels)
        else:
            wait = self._pool.submit(self._encode, pixels).result
        self._running.append((indexes, keys, wait))
        while len(self._running) > self._most_running:
            self._finish_oldest()

    def _start(self, pixels):
        """Run the model in this thread; return a function that waits for its rows."""
        encoded = self._encode(pixels)
        if encoded.is_cuda and not self._stay_on_device:
            return _start_copy(encoded)
        return partial(_same, encoded)

    def _without_known(self, batch):
        """Leave out what came into the cache since it was asked, or is on its way."""
        positions, keys = [], []
        for position, key in enumerate(batch.keys):
            index = batch.indexes[position]
            if key in self._rows_of_key:  # it stands in X more than once
                self._rows_of_key[key].append(index)
                continue
            row = self._cache.get(key, self._row_shape)
            if row is not None:
                self._put([index], row[None])
                continue
            self._rows_of_key[key] = [index]
            positions.append(position)
            keys.append(key)
        return [batch.indexes[p] for p in positions], batch.pixels[positions], keys

    def _finish_oldest(self):
        indexes, keys, wait = self._running.popleft()
        with self._task():
            rows = wait()
            if not self._stay_on_device:
                rows = check_finite(rows.cpu().numpy(), self._clip.dtype)
        self._put(indexes, rows)
        for row, key in zip(rows, keys, strict=False):  # no keys without a cache
            self._cache.put(key, row)
            for copy in self._rows_of_key.pop(key)[1:]:
                self._put([copy], row[None])

    def _put(self, indexes, rows):
        try:
            self._rows.put(indexes, rows)
        except ValueError as error:
            if self._cache is None:
                raise
            raise ValueError(
                f"{error} Or else somebody has changed the cache "
                f"{str(self._cache.path)!r}; delete it if you do not trust it."
            ) from error


def _most_running(device, n_threads):
    """Return how many passes may run while the caller makes the next batch."""
    if n_threads:  # one more, so that no thread waits for the caller
        return n_threads + 1
    return 0 if device.type == "cpu" else 1


def _thread_pool(n_threads):
    """Return a pool in which each thread has its share of torch's threads."""
    import torch

    share = max(1, torch.get_num_threads() // n_threads)
    return ThreadPoolExecutor(
        n_threads,
        thread_name_prefix="skfewshot-model",
        initializer=limit_threads,
        initargs=(share,),
    )


def _start_copy(encoded):
    """Start copying a tensor from a GPU; return a function that waits for the copy.

    It stands in the GPU's queue before the next pass, and so does not wait for that.
    """
    import torch

    with torch.cuda.device(encoded.device):
        copy = torch.empty(encoded.shape, dtype=encoded.dtype, pin_memory=True)
        copy.copy_(encoded, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

    def wait():
        arrived.synchronize()
        return copy

    return wait


def _same(value):
    return value


def _warn_of(unread):
    """Warn of the images that became NaN."""
    if not unread:
        return
    indexes = [error.index for error in unread]
    hidden = len(indexes) - _INDEXES_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    warn_user(
        f"{len(indexes)} of the images could not be read and are NaN, at the indexes "
        f"{indexes[:_INDEXES_SHOWN]}{more} of X. The first: {unread[0]}"
    )
