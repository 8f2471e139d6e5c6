"""Images to batches of pixels as the model takes them, decoded while the model runs."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from skfewshot.clip.images import ImageReadError, read_image

# Batches being decoded ahead of the one that the model computes.
_LOOK_AHEAD = 2
# Images longer than so many times their shorter side lose their ends before a resize.
_LONGEST_RATIO = 8


@dataclass
class Batch:
    """Some rows of X as pixels.

    Attributes
    ----------
    start : int
        Index in X of the first row.
    pixels : ndarray of uint8 of shape (n, H, W, 3)
        Zeros where an image could not be read.
    errors : list of ImageReadError
    """

    start: int
    pixels: np.ndarray
    errors: list = field(default_factory=list)


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

    def __init__(self, transform):
        *geometry, convert, to_tensor, normalize = transform.transforms
        names = [type(step).__name__ for step in (convert, to_tensor, normalize)]
        if names != ["MaybeConvertMode", "MaybeToTensor", "Normalize"]:
            raise RuntimeError(
                f"This version of open_clip preprocesses by {names}, which "
                "skfewshot does not know; please report it."
            )
        self._geometry = geometry
        self._crops = "CenterCrop" in [type(step).__name__ for step in geometry]
        self._mean, self._std = normalize.mean, normalize.std

    def to_pixels(self, image):
        """Resize and crop an RGB PIL image; return uint8 pixels (H, W, 3)."""
        if self._crops:
            image = _without_ends(image)
        for step in self._geometry:
            image = step(image)
        return np.asarray(image)

    def to_input(self, pixels, device, dtype):
        """Scale and normalise a batch on `device`; return a tensor (n, 3, H, W)."""
        import torch

        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
        images = images.to(torch.float32).div_(255).contiguous()
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self._mean, device=device, dtype=torch.float32)
        std = torch.tensor(self._std, device=device, dtype=torch.float32)
        return images.sub_(mean.view(shape)).div_(std.view(shape)).to(dtype)


def _without_ends(image):
    """Cut the ends off a very long image, which the centre crop would cut anyway.

    The resize before that crop would need memory in proportion to them.
    """
    width, height = image.size
    longest = _LONGEST_RATIO * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop(
        (left, top, left + min(width, longest), top + min(height, longest))
    )


def stream_batches(X, preprocessor, *, size, batch_size, num_workers, on_error):
    """Yield X as batches of pixels, in order.

    Parameters
    ----------
    X : sequence
        From :func:`~skfewshot.clip.images.as_image_sequence`.
    preprocessor : Preprocessor
    size : tuple of int
        Height and width of the model's input.
    batch_size : int
    num_workers : int
        Threads that decode ahead; 0 decodes in the caller's thread.
    on_error : {"raise", "nan"}
        What to do about an image that cannot be read.

    Yields
    ------
    Batch

    Raises
    ------
    ImageReadError
        The first one in X, under ``on_error="raise"``.
    """
    starts = range(0, len(X), batch_size)
    if isinstance(X, np.ndarray) and X.ndim == 4 and X.shape[1:] == (*size, 3):
        for start in starts:  # neither to be decoded nor to be resized
            yield Batch(start, np.array(X[start : start + batch_size], order="C"))
        return

    def read(index):
        try:
            return preprocessor.to_pixels(read_image(X[index], index))
        except ImageReadError as error:
            return error

    rows = (range(start, min(start + batch_size, len(X))) for start in starts)
    read_rows = _read_ahead if num_workers else _read_now
    with closing(read_rows(read, rows, num_workers)) as batches:
        for start, results in zip(starts, batches, strict=True):
            yield _collect(start, results, size, on_error)


def _read_now(read, batches, num_workers):
    """Yield what `read` makes of the indexes of each batch."""
    for batch in batches:
        yield (read(index) for index in batch)


def _read_ahead(read, batches, num_workers):
    """Do so with threads that stay a few batches ahead."""
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="skfewshot-decode")
    pending = deque()
    try:
        for batch in batches:
            pending.append([pool.submit(read, index) for index in batch])
            if len(pending) > _LOOK_AHEAD:
                yield (future.result() for future in pending.popleft())
        while pending:
            yield (future.result() for future in pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(start, results, size, on_error):
    """Put the pixels of a batch into one array; raise or note errors."""
    pixels, errors = [], []
    for result in results:
        if isinstance(result, ImageReadError):
            if on_error == "raise":
                raise result
            errors.append(result)
            result = np.zeros((*size, 3), dtype=np.uint8)
        pixels.append(result)
    return Batch(start, np.stack(pixels), errors)
