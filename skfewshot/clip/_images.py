"""One image, in whatever form people hold it, to a picture: 8-bit RGB, upright.

Whatever has the content of an image file is read by `file_of`, the one place that knows
the forms; what has pixels already, by `_pixels_of`.
"""

import os
import stat
from array import array as StandardArray
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._torch import is_tensor, to_numpy
from skfewshot.clip import _contents as contents
from skfewshot.clip._contents import Content, file_of, from_of, is_pil, is_unread
from skfewshot.clip._pictures import to_rgb
from skfewshot.clip._unreadable import (
    HEADER,
    ImageReadError,
    explain_unknown,
    show,
    unreadable,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: The forms that an image may have, for errors.
FORMS = (
    "a PIL image, a path, the content of an image file (bytes, an open file, a data "
    "URI) or a uint8 array (H, W, 3)"
)
#: Names under which rows of data sets have their image.
IMAGE_KEYS = ("image", "img", "jpg", "jpeg", "png", "webp")


def read_image(item: Any, index: int) -> "Picture":
    """Read one image as 8-bit RGB, the right way up.

    An image file of more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` is not decoded: a
    few kilobytes can ask for gigabytes. That limit may be raised, or set to None.
    Neither is an EPS file, which is a program that Pillow would have Ghostscript run.
    What becomes of other modes than RGB, :func:`~skfewshot.clip._pictures.to_rgb` says.

    Parameters
    ----------
    item : PIL.Image.Image, str, os.PathLike, bytes, file, dict, tuple or ndarray
        A path; the content of an image file as bytes, a 1-D uint8 array, a data URI, in
        base64, or in a file opened for reading bytes, which is read from its start; a
        dict with ``bytes`` or ``path``, or a row that has an ``image``; an image and
        its target; or a uint8 array (H, W), (H, W, 1), (H, W, 3) or, with transparency,
        (H, W, 4). A tensor may have its channels first.
    index : int
        Its position in X, for errors.

    Returns
    -------
    PIL.Image.Image
        Of mode RGB.

    Raises
    ------
    ImageReadError
        If the image is missing, broken, in an unknown format or beyond the limit.
    TypeError
        If `item` is nothing that can hold an image.
    """
    item = _inner(item, index)
    file = file_of(item, index)
    return _pixels_of(item, index) if file is None else _decode(file, index)


def read_content(
    item: Any, index: int
) -> tuple["bytes | Picture", Callable[[], "Picture"]]:
    """Read what tells one image from another, and leave the decoding for later.

    Parameters
    ----------
    item, index
        As for :func:`read_image`.

    Returns
    -------
    content : bytes or PIL.Image.Image
        The bytes of an image file; else the image, of mode RGB.
    decode : callable
        Returns the image, of mode RGB, from those same bytes: a file that changes in
        the meantime cannot be taken for the old one.

    Raises
    ------
    ImageReadError, TypeError
        As :func:`read_image`; what is wrong with a file shows in `decode`.
    """
    item = _inner(item, index)
    file = file_of(item, index)
    if file is None:
        image = _pixels_of(item, index)
        return image, lambda: image
    try:
        with file.open() as stream:
            _check_regular(stream)
            content = stream.read()
    except (OSError, ValueError) as error:  # the latter for a NUL in a path
        raise unreadable(file.name, index, error) from error
    again = Content(file.name, lambda: BytesIO(content))
    return content, lambda: _decode(again, index)


def _check_regular(stream: IO[bytes]) -> None:
    """Refuse devices and pipes, which may have no end."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except OSError:  # it is in memory
        return
    if not stat.S_ISREG(mode):
        raise OSError("it is no regular file")


def _inner(item: Any, index: int) -> Any:
    """Take the image out of a row of a data set, and what an array is out of others."""
    if isinstance(item, Mapping):
        return _inner(_of_row(item, index), index)
    if isinstance(item, tuple):
        return _inner(_of_pair(item, index), index)
    if is_tensor(item):
        return _from_tensor(item)
    if isinstance(item, memoryview) and item.ndim > 1:
        return np.asarray(item)
    if isinstance(item, StandardArray):
        return item.tobytes()
    if hasattr(item, "as_py"):  # a scalar of pyarrow
        return _inner(item.as_py(), index)
    is_foreign = not isinstance(item, np.ndarray | np.generic) and not is_pil(item)
    if is_foreign and (hasattr(item, "__array_interface__") or _is_array(item)):
        return np.asarray(item)
    return item


def _is_array(item: Any) -> bool:
    """Say whether this is an array of a library other than NumPy."""
    return hasattr(item, "__array__") and hasattr(item, "shape")


def _of_row(row: Mapping[Any, Any], index: int) -> Any:
    """Return the image of a dict: of a data set's row, or of its image column."""
    for key in ("bytes", "path"):
        if not _is_missing(row.get(key)):
            return row[key]
    if "bytes" in row or "path" in row:
        return None
    found = [key for key in IMAGE_KEYS if key in row]
    if len(found) == 1:
        return row[found[0]]
    raise TypeError(
        f"The image at index {index} of X is a dict with the keys {list(row)}; wanted "
        f"is one with 'bytes' or 'path', or with one of {list(IMAGE_KEYS)}."
    )


def _of_pair(pair: tuple, index: int) -> Any:
    """Return the image of a pair of it and its target, as data sets of torch have it.

    Two paths are no such pair.
    """
    first = pair[0] if len(pair) > 1 else None
    is_picture = is_pil(first) or is_tensor(first) or isinstance(first, np.ndarray)
    is_path = isinstance(first, str | bytes | os.PathLike)
    if is_picture or (is_path and isinstance(pair[1], int | np.integer)):
        return first
    kinds = ", ".join(type(part).__name__ for part in pair)
    raise TypeError(
        f"The image at index {index} of X is a tuple ({kinds}); wanted is {FORMS}, or "
        "a pair of an image and its target, of which the image is taken. Targets go "
        "into y: y = [target for image, target in X]."
    )


# From a file, or pixels, to a picture


def _decode(file: Content, index: int) -> "Picture":
    from PIL import Image, UnidentifiedImageError

    try:
        with file.open() as stream:
            try:
                opened = Image.open(stream)
            except UnidentifiedImageError as error:  # its own text may name a buffer
                stream.seek(0)
                known = explain_unknown(stream.read(HEADER))
                raise UnidentifiedImageError(known) from error
            with opened as image:
                _check_file(image)
                return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken files
        raise unreadable(file.name, index, error) from error


def _check_file(image: "Picture") -> None:
    """Refuse a file that Pillow has opened, and that must not be decoded."""
    from PIL import Image

    if image.format == "EPS":
        raise ValueError("it is EPS, a program for Ghostscript, which is not run")
    limit = Image.MAX_IMAGE_PIXELS  # beyond which Pillow itself only warns
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels are more than {limit}"
        )


def _pixels_of(item: Any, index: int) -> "Picture":
    """Return the picture of what has pixels: an array or a PIL image."""
    if isinstance(item, np.ndarray) and item.ndim > 0:
        return _from_array(item, index)
    if is_pil(item):
        return _from_pil(item, index)
    if _is_missing(item):
        raise ImageReadError(f"The image at index {index} of X is missing.", index)
    hint = " Of nested lists make an array: np.array(image, dtype='uint8')."
    raise TypeError(
        f"The image at index {index} of X is {show(item)} of type "
        f"{type(item).__name__}; wanted is {FORMS}."
        f"{hint if isinstance(item, list) else ''}"
    )


def _from_pil(image: "Picture", index: int) -> "Picture":
    from PIL import ImageFile

    unread = False
    try:
        if isinstance(image, ImageFile.ImageFile):
            unread = is_unread(image)
            _check_file(image)
            with contents.load_lock():
                image.load()
        return to_rgb(image)
    except Exception as error:
        file = getattr(image, "fp", None)
        name = f"a PIL image{from_of(image)}"
        if unread and (file is None or getattr(file, "closed", False)):
            raise ImageReadError(
                f"The image at index {index} of X, {name}, could not be read: its file "
                "is closed. Call image.load() before the file is closed, or pass the "
                "path.",
                index,
            ) from error
        raise unreadable(name, index, error) from error


def _from_tensor(tensor: Any) -> NDArray:
    """Return an array, the channels last: torch has them first."""
    tensor = tensor.detach().cpu()
    array = to_numpy(tensor.float() if tensor.is_floating_point() else tensor)
    return array.transpose(1, 2, 0) if channels_first(array.shape) else array


def channels_first(shape: tuple[int, ...]) -> bool:
    """Say whether the tensor of an image has its channels first.

    Some pixels wide, it may be both ways; then three channels are channels.
    """
    if len(shape) != 3 or shape[0] not in (1, 3, 4):
        return False
    return shape[-1] not in (1, 3, 4) or shape[0] == 3


def _from_array(array: NDArray, index: int) -> "Picture":
    from PIL import Image

    array = whole_bytes(array)
    if array.dtype != np.uint8:
        raise TypeError(
            f"The image at index {index} of X is an array of {array.dtype}; wanted is "
            f"uint8, in [0, 255].{how_to_bytes(array, 'image')}"
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = " The channels come last: pass image.transpose(1, 2, 0)."
        raise ValueError(
            f"The image at index {index} of X is an array of shape {array.shape}; "
            f"wanted is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).{hint}"
        )
    if array.size == 0:
        raise ImageReadError(
            f"The image at index {index} of X has no pixels: its shape is "
            f"{array.shape}.",
            index,
        )
    array = np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)
    return to_rgb(Image.fromarray(array))


def whole_bytes(array: NDArray) -> NDArray:
    """Return an array of objects that are whole numbers in [0, 255] as uint8.

    NumPy makes such arrays of pictures that are all of one size.
    """
    if array.dtype != object or array.ndim < 2:
        return array
    try:
        small = array.astype(np.uint8)
        return small if (small == array).all() else array
    except (OverflowError, TypeError, ValueError):
        return array


def how_to_bytes(array: NDArray, name: str) -> str:
    """Return the line that makes an array of another dtype one of uint8."""
    kind = array.dtype.kind
    if kind == "f":
        return f" For floats in [0, 1] pass (255 * {name}).round().astype('uint8')."
    if kind in "ui":
        return (
            f" Pass ({name} * (255 / white)).clip(0, 255).astype('uint8'), where white "
            "is the largest value there can be: 65535 in 16 bits, 4095 in 12."
        )
    return f" For masks pass 255 * {name}.astype('uint8')." if kind == "b" else ""


def _is_missing(item: Any) -> bool:
    """Say whether `item` is None, NaN or pandas' NA."""
    if item is None or type(item).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(item, float | np.floating) and bool(np.isnan(item))
