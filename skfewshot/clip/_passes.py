"""The one loop of embedding images: read and decode, batch, run the model, write.

Threads decode ahead while the model runs. On a GPU one pass is computed while the rows
of the one before are fetched. On a CPU each of some threads has a pass of its own, with
its share of torch's threads: a pass on all cores has its threads wait for each other at
every layer, spinning, and the threads that decode images beside it make that wait long.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user
from skfewshot._torch import fork_safe_threads, limit_threads
from skfewshot.clip._contents import name_of
from skfewshot.clip._holders import items_of, no_images
from skfewshot.clip._images import read_content, read_image
from skfewshot.clip._models import CLIPModel
from skfewshot.clip._output import Rows
from skfewshot.clip._unreadable import ImageReadError, unreadable

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from skfewshot.clip._cache import EmbeddingCache

# More passes at a time than this do not pay: the weights have to be read for each.
_MOST_THREADS = 8
# Images in a pass that has the weights read for enough of them.
_FEWEST_IMAGES = 4
_INDEXES_SHOWN = 20
# Images longer than so many times their shorter side lose their ends before a resize.
_LONGEST_RATIO = 8

#: An index of X, the key in the cache or None, and pixels of uint8, an embedding of
#: float32 that the cache had, or why there is neither.
Result = tuple[int, bytes | None, NDArray | ImageReadError]


def embed_images(
    clip: CLIPModel,
    images: Any,
    *,
    dense_mode: str | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    on_error: str = "raise",
    cache: "EmbeddingCache | None" = None,
    out: NDArray | None = None,
    task: Callable[[], AbstractContextManager] = nullcontext,
    done: Callable[[int], object] = lambda n: None,
) -> NDArray:
    """Embed images.

    Parameters
    ----------
    clip : CLIPModel
    images : sequence or iterator
        From :func:`~skfewshot.clip._holders.as_images`.
    dense_mode : str or None
        How to make patch tokens, or None for global embeddings alone.
    batch_size, num_workers, on_error, out
        See :class:`~skfewshot.clip.CLIPFeaturizer`.
    cache : EmbeddingCache or None
        Opened for this model and `dense_mode`.
    task : callable
        Makes the context manager in which to wait for each pass of the model.
    done : callable
        Called with the number of images whenever some are done.

    Returns
    -------
    ndarray of float32 of shape (n, d) or (n, 1 + K, d)
        The last axis has length one, or NaN where an image could not be read.

    Raises
    ------
    FloatingPointError
        If the model overflows, which some do in half precision.
    """
    n_images = length_of(images)
    n_threads, size = plan_passes(
        clip.device, n_images=n_images, batch_size=batch_size, num_workers=num_workers
    )
    transform = Preprocessor(clip.preprocess)
    encode = partial(encode_images, clip, transform, dense_mode=dense_mode)
    rows = Rows(n_images, out, done)
    unread: list[ImageReadError] = []
    passes = Passes(clip, encode, rows, cache, n_threads=n_threads, task=task)
    shape = (*clip.input_size, 3)
    with passes:
        if (
            cache is None
            and isinstance(images, np.ndarray)
            and images.shape[1:] == shape
        ):
            for start in range(
                0, len(images), size
            ):  # neither to be decoded nor resized
                pixels = np.array(images[start : start + size], order="C")
                passes.run(range(start, start + len(pixels)), pixels)
        else:
            read = partial(_read, transform=transform, cache=cache)
            results = _read_ahead(read, images, num_workers, n_ahead=2 * batch_size)
            with closing(results):  # or the threads would outlive an error
                _take(results, passes, rows, size, unread, on_error)
    if not rows.n_seen and not unread:
        raise no_images()
    if not rows.n_seen:  # not one image to take the shape of a row from
        rows.put([0], encode(np.zeros((1, *shape), np.uint8)).cpu().numpy())
    embeddings = rows.finish([error.index for error in unread])
    _warn_of(unread)
    return embeddings


def plan_passes(
    device: "torch.device", *, n_images: int | None, batch_size: int, num_workers: int
) -> tuple[int, int]:
    """Decide how many threads run the model, 0 for the caller's, on how many images.

    Parameters
    ----------
    device : torch.device
    n_images : int or None
        None where nobody knows.
    batch_size : int
        Images that the model has in work at a time.
    num_workers : int
        Threads that the caller allows.
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


def length_of(images: Any) -> int | None:
    """Return how many images there are, or None if nobody knows."""
    return len(images) if isinstance(images, Sized) else None


def default_num_workers() -> int:
    """Return how many threads decode: as many as torch computes with.

    That is one a core, and fewer where joblib shares the cores between processes.
    """
    import torch

    return torch.get_num_threads()


# Reading


def _read(
    index: int,
    get: Callable[[], Any],
    *,
    transform: "Preprocessor",
    cache: "EmbeddingCache | None",
) -> Result:
    """Read one image: its pixels, or what the cache has for it."""
    key = None
    try:
        item = _get(get, index)
        if cache is None:
            image = read_image(item, index)
        else:
            content, decode = read_content(item, index)
            key = cache.key(content)
            row = cache.get(key)
            if row is not None:
                return index, key, row
            image = decode()
        return index, key, _resize(transform, image, item, index)
    except ImageReadError as error:
        return index, None, error


def _get(get: Callable[[], Any], index: int) -> Any:
    """Get what X has there, where that is work which may fail."""
    try:
        return get()
    except (ImageReadError, MemoryError):
        raise
    except Exception as error:
        raise unreadable("", index, error) from error


def _resize(
    transform: "Preprocessor", image: "Image", item: Any, index: int
) -> NDArray:
    try:
        return transform.to_pixels(image)
    except MemoryError:
        raise
    except Exception as error:  # of an image such as nobody has thought of
        raise unreadable(name_of(item), index, error) from error


def _read_ahead(
    read: Callable[..., Result], images: Any, num_workers: int, n_ahead: int
) -> Generator[Result, None, None]:
    """Yield what `read` makes of each image, by threads that stay some images ahead."""
    items = items_of(images)  # which the threads ask for: it may be work
    if not num_workers:
        yield from (read(*item) for item in items)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="skfewshot-decode")
    pending: deque = deque()
    try:
        for item in items:
            pending.append(pool.submit(read, *item))
            if len(pending) > n_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take(
    results: Iterator[Result],
    passes: "Passes",
    rows: Rows,
    size: int,
    unread: list[ImageReadError],
    on_error: str,
) -> None:
    """Run the model on what has to go through it, `size` images at a time."""
    waiting: list[tuple[int, NDArray, bytes | None]] = []
    for index, key, result in results:
        if isinstance(result, ImageReadError):
            if on_error == "raise":
                raise result
            unread.append(result)
        elif result.dtype != np.uint8:
            rows.put([index], result[None])
        elif not passes.finds(index, key):
            waiting.append((index, result, key))
        if len(waiting) == size:
            _run(waiting, passes)
            waiting = []
    if waiting:
        _run(waiting, passes)


def _run(waiting: list[tuple[int, NDArray, bytes | None]], passes: "Passes") -> None:
    indexes, pixels, keys = zip(*waiting, strict=True)
    passes.run(indexes, np.stack(pixels), keys)


# Running the model


class Passes:
    """Runs batches through the model and puts the rows where they belong, in order.

    Use it as a context manager; at its end all rows are in their place.

    Parameters
    ----------
    clip : CLIPModel
    encode : callable
        From pixels to a tensor of rows.
    rows : Rows
    cache : EmbeddingCache or None
    n_threads : int
        From :func:`plan_passes`.
    task : callable
        Makes the context manager in which to wait for each pass.
    """

    def __init__(
        self,
        clip: CLIPModel,
        encode: Callable[[NDArray], "torch.Tensor"],
        rows: Rows,
        cache: "EmbeddingCache | None" = None,
        *,
        n_threads: int = 0,
        task: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._clip = clip
        self._encode = encode
        self._rows = rows
        self._cache = cache
        self._task = task
        self._pool = _thread_pool(n_threads) if n_threads else None
        self._most_running = _most_running(clip.device, n_threads)
        self._running: deque = deque()
        # Where in X an image that is on its way through the model stands besides.
        self._copies: dict[bytes, list[int]] = {}

    def __enter__(self) -> "Passes":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            while self._running and kind is None:
                self._finish_oldest()
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)

    def finds(self, index: int, key: bytes | None) -> bool:
        """Say whether an image needs no pass of its own, for another one brings it."""
        if self._cache is None or key is None:
            return False
        if key in self._copies:
            self._copies[key].append(index)
            return True
        row = self._cache.get(key)
        if row is None:
            self._copies[key] = []
            return False
        self._rows.put([index], row[None])
        return True

    def run(self, indexes: Sequence[int], pixels: NDArray, keys: Sequence = ()) -> None:
        """Start a pass over pixels, and finish the oldest if too many run."""
        if self._pool is None:
            wait = _start_fetching(self._encode(pixels))
        else:
            wait = self._pool.submit(self._encode, pixels).result
        self._running.append((indexes, keys, wait))
        while len(self._running) > self._most_running:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        indexes, keys, wait = self._running.popleft()
        with self._task():
            found = self._clip.check_finite(wait().cpu().numpy())
        self._rows.put(indexes, found)
        if self._cache is None:
            return
        for row, key in zip(found, keys, strict=True):
            self._cache.put(key, row)
            for index in self._copies.pop(key):
                self._rows.put([index], row[None])


def _most_running(device: "torch.device", n_threads: int) -> int:
    """Return how many passes may run while the caller makes the next batch."""
    if n_threads:  # one more, so that no thread waits for the caller
        return n_threads + 1
    return 0 if device.type == "cpu" else 1


def _thread_pool(n_threads: int) -> ThreadPoolExecutor:
    """Return a pool in which each thread has its share of torch's threads."""
    import torch

    share = max(1, torch.get_num_threads() // n_threads)
    return ThreadPoolExecutor(
        n_threads,
        thread_name_prefix="skfewshot-model",
        initializer=limit_threads,
        initargs=(share,),
    )


def _start_fetching(encoded: "torch.Tensor") -> Callable[..., "torch.Tensor"]:
    """Return a function that waits for the rows in the memory of the host."""
    return _start_copy(encoded) if encoded.is_cuda else partial(_same, encoded)


def _start_copy(encoded: "torch.Tensor") -> Callable[[], "torch.Tensor"]:
    """Start copying a tensor from a GPU; return a function that waits for the copy.

    It stands in the GPU's queue before the next pass, and so does not wait for that.
    """
    import torch

    with torch.cuda.device(encoded.device):
        copy = torch.empty(encoded.shape, dtype=encoded.dtype, pin_memory=True)
        copy.copy_(encoded, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

    def wait() -> "torch.Tensor":
        arrived.synchronize()
        return copy

    return wait


def _same(value: Any) -> Any:
    return value


def encode_images(
    clip: CLIPModel,
    transform: "Preprocessor",
    pixels: NDArray,
    *,
    dense_mode: str | None = None,
) -> "torch.Tensor":
    """Run a batch of pixels of uint8, (n, H, W, 3), through the model.

    Returns
    -------
    tensor of float32 of shape (n, d), or (n, 1 + K, d) for a `dense_mode`
        On the device of the model; the last axis has length one.
    """
    import torch

    with fork_safe_threads(), torch.inference_mode():
        inputs = transform.to_input(pixels, clip.device, clip.dtype)
        if dense_mode is None:
            encoded = clip.model.encode_image(inputs)
        else:
            from skfewshot.clip._dense import embed_tokens

            encoded = embed_tokens(clip.model, inputs, dense_mode)
        return torch.nn.functional.normalize(encoded.float(), dim=-1)


class Preprocessor:
    """open_clip's preprocessing, cut in two: geometry in bytes, then numbers.

    Geometry (resize and crop) runs where images are decoded, numbers (scale, mean and
    standard deviation) run a batch at a time on the model's device. A quarter of the
    memory moves, and the result is the same to the last bit.

    Parameters
    ----------
    transform : torchvision.transforms.Compose
        open_clip's transform for inference, ending in to-RGB, to-tensor, normalise.
    """

    def __init__(self, transform: Any) -> None:
        *geometry, convert, to_tensor, normalize = transform.transforms
        names = names_of([convert, to_tensor, normalize])
        if names != ["MaybeConvertMode", "MaybeToTensor", "Normalize"]:
            raise RuntimeError(
                f"This version of open_clip preprocesses by {names}, which "
                "skfewshot does not know; please report it."
            )
        self._geometry = geometry
        self._crops = "CenterCrop" in names_of(geometry)
        self._pads = "CenterCropOrPad" in names_of(geometry)
        if self._pads:
            self._side = min(geometry[-1].size)
        self._mean, self._std = normalize.mean, normalize.std

    def to_pixels(self, image: "Image") -> NDArray:
        """Resize and crop an RGB PIL image; return uint8 pixels (H, W, 3)."""
        width, height = image.size
        longest = _LONGEST_RATIO * min(width, height)
        if self._crops and max(width, height) > longest:
            # The centre crop would cut its ends anyway, after a resize that needs
            # memory in proportion to them.
            left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
            right, bottom = left + min(width, longest), top + min(height, longest)
            image = image.crop((left, top, right, bottom))
        elif self._pads and max(width, height) >= 2 * self._side * min(width, height):
            # A line: in proportion it would be thinner than a pixel, and not be there.
            image = image.resize(tuple(min(n, self._side) for n in (width, height)))
        for step in self._geometry:
            image = step(image)
        return np.asarray(image)

    def to_input(
        self, pixels: NDArray, device: "torch.device", dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Scale and normalise a batch on `device`; return a tensor (n, 3, H, W)."""
        import torch

        images = torch.from_numpy(pixels)
        if device.type == "cuda":  # pinned, the copy need not wait for the last batch
            images = images.pin_memory().to(device, non_blocking=True)
        images = images.to(device).permute(0, 3, 1, 2)
        images = images.to(torch.float32).div_(255).contiguous()
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self._mean, device=device, dtype=torch.float32)
        std = torch.tensor(self._std, device=device, dtype=torch.float32)
        return images.sub_(mean.view(shape)).div_(std.view(shape)).to(dtype)


def names_of(steps: list[Any]) -> list[str]:
    return [type(step).__name__ for step in steps]


def _warn_of(unread: list[ImageReadError]) -> None:
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
