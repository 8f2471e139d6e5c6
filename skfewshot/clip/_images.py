"""Whatever people hold as images, to pictures: 8-bit RGB, the right way up."""

import os
import threading
from collections.abc import Callable, Iterable, Sized
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._torch import is_tensor

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_LONGEST_REPR = 80
_EXIF_ORIENTATION = 0x0112
_STRIP_PIXELS = 2**20

# Loading a lazily opened PIL image twice at once corrupts it, and one image may stand
# in X more than once.
_load_lock = threading.Lock()


def _after_fork() -> None:
    """Give a forked child a lock of its own: none of its threads would free this."""
    global _load_lock
    _load_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ImageReadError(ValueError):
    """An image of X could not be read. A ValueError.

    Parameters
    ----------
    message : str
    index : int, default=None
        Its position in X; an attribute, too.

    Examples
    --------
    >>> from skfewshot import CLIPFeaturizer
    >>> from skfewshot.clip import ImageReadError
    >>> try:
    ...     CLIPFeaturizer("tiny").transform(["missing.jpg"])
    ... except ImageReadError as error:
    ...     print(error.index)
    0
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple:
        return type(self), (self.args[0], self.index)


def as_images(X: Any) -> Any:
    """Check that X holds images and return what gives them by position, or in turn.

    Parameters
    ----------
    X : sequence or iterable
        PIL images, paths or HWC uint8 arrays (or tensors) in a list, tuple, 1-D array,
        pandas or polars column (or data frame of one column); a uint8 array
        (n, H, W, C); or a generator or other iterable of images.

    Returns
    -------
    sequence or iterator
        With ``len`` and integer indexing, or else to be iterated once; the images
        themselves are not read.

    Raises
    ------
    TypeError
        If X holds no images, or is one image.
    ValueError
        If X is empty or an array of another shape or dtype.
    """
    X = _column_of(X)
    if is_tensor(X):
        X = X.detach().cpu().numpy()
    if isinstance(X, np.ndarray):
        _check_array(X)
        X = X[:, 0] if X.ndim == 2 else X
    elif isinstance(X, str | bytes | os.PathLike) or _is_pil(X):
        raise TypeError(
            f"X is a single image, {_show(X)}; wanted is a sequence of images. "
            "For one image pass [image]."
        )
    elif isinstance(X, dict | set | frozenset) or not isinstance(X, Iterable | Sized):
        raise TypeError(
            f"X is {_show(X)} of type {type(X).__name__}; wanted is a sequence (list, "
            "tuple, array or column) or a generator of PIL images, paths or uint8 "
            "arrays (H, W, 3)."
        )
    if not (isinstance(X, Sized) and hasattr(X, "__getitem__")):
        return iter(X)
    if len(X) == 0:
        raise no_images()
    return X


def no_images() -> ValueError:
    """Return the error for an X without images, in scikit-learn's words."""
    return ValueError(
        "Found array with 0 sample(s): X is empty, while a minimum of 1 image is "
        "required."
    )


def read_image(item: Any, index: int) -> "Picture":
    """Read one image as 8-bit RGB, the right way up.

    An image file of more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` is not decoded: a
    few kilobytes can ask for gigabytes. That limit may be raised, or set to None.
    Neither is an EPS file, which is a program that Pillow would have Ghostscript run.
    Transparent parts are laid on white. 16-bit grey is scaled to 8 bits, not clipped.
    32-bit and float grey, whose range is not stored, is taken to span 1 (floats only),
    255 or 65535, whichever is the first to hold its values but for a tenth (resizing
    may overshoot), or else its own range without the outermost half percent.

    Parameters
    ----------
    item : PIL.Image.Image, str, os.PathLike or ndarray of uint8
        Arrays are (H, W), (H, W, 1), (H, W, 3) or, with transparency, (H, W, 4).
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
    if is_tensor(item):
        item = item.detach().cpu().numpy()
    if isinstance(item, np.ndarray) and item.ndim > 0:
        return _from_array(item, index)
    if isinstance(item, str | os.PathLike):
        return _from_path(item, index)
    if _is_pil(item):
        return _from_pil(item, index)
    if _is_missing(item):
        raise ImageReadError(f"The image at index {index} of X is missing.", index)
    raise TypeError(
        f"The image at index {index} of X is {_show(item)} of type "
        f"{type(item).__name__}; wanted is a PIL image, a path or a uint8 array "
        "(H, W, 3)."
    )


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
        The bytes of the file of a path; else the image, of mode RGB.
    decode : callable
        Returns the image, of mode RGB, from those same bytes: a file that changes in
        the meantime cannot be taken for the old one.

    Raises
    ------
    ImageReadError, TypeError
        As :func:`read_image`; what is wrong with a file shows in `decode`.
    """
    if not isinstance(item, str | os.PathLike):
        image = read_image(item, index)
        return image, lambda: image
    try:
        with open(item, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:  # the latter for a NUL in a path
        raise _unreadable(item, index, error) from error
    return content, lambda: _from_path(item, index, BytesIO(content))


def to_rgb(image: "Picture") -> "Picture":
    """Turn a PIL image of any mode into an upright RGB one; the input stays as it is.

    Parameters
    ----------
    image : PIL.Image.Image

    Returns
    -------
    PIL.Image.Image
    """
    from PIL import Image, ImageOps

    image.load()
    if _is_turned(image):
        image = ImageOps.exif_transpose(image)
    if image.mode == "La":  # premultiplied; PIL turns it into nothing else
        image = image.convert("LA")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: "Picture") -> "Picture":
    """Lay a transparent image on white: in strips, for it takes four copies."""
    from PIL import Image

    laid = Image.new("RGB", image.size)
    n_rows = max(1, _STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, n_rows):
        end = min(top + n_rows, image.height)
        strip = image.crop((0, top, image.width, end)).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        laid.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return laid


def _is_turned(image: "Picture") -> bool:
    """Say whether EXIF data ask for the image to be turned or mirrored."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    except Exception:  # broken EXIF data do not make the pixels any worse
        return False


def _to_8_bits(image: "Picture") -> NDArray:
    """Scale the grey values of a 16-bit, 32-bit or float image to [0, 255]."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    low, high = values.min(), values.max()
    if image.mode.startswith("I;16"):
        span: Any = (0, 65535)
    else:
        tops = (1, 255, 65535) if image.mode == "F" else (255, 65535)
        spans = [(0, top) for top in tops if low >= -top / 10 and high <= 1.1 * top]
        span = (
            spans[0] if spans else np.quantile(values, (0.005, 0.995), method="nearest")
        )
    values -= span[0]  # in place: an image may have many pixels
    values *= 255 / max(span[1] - span[0], 1e-12)
    np.clip(values, 0, 255, out=values)
    return np.rint(values, out=values).astype(np.uint8)


def _from_path(path: Any, index: int, content: BytesIO | None = None) -> "Picture":
    """Read the image of a path; from `content`, where that is in memory."""
    from PIL import Image

    try:
        with content or open(path, "rb") as file, Image.open(file) as image:
            _check_file(image)
            return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken files
        raise _unreadable(path, index, error) from error


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


def _unreadable(path: Any, index: int, error: Exception) -> ImageReadError:
    return ImageReadError(
        f"The image at index {index} of X, {os.fspath(path)!r}, could not be "
        f"read: {_explain(error)}",
        index,
    )


def _explain(error: Exception) -> str:
    """Say what was wrong with an image file, and what can be done."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own text may name a buffer
        return "UnidentifiedImageError: it is in no image format that Pillow knows"
    text = f"{type(error).__name__}: {error}"
    bombs = Image.DecompressionBombError, Image.DecompressionBombWarning
    if isinstance(error, bombs):
        text = text.removesuffix(".") + (
            ". A small file may ask for all the memory there is. If you trust it, set "
            "PIL.Image.MAX_IMAGE_PIXELS to the pixels that you allow, or to None."
        )
    return text


def _from_pil(image: "Picture", index: int) -> "Picture":
    from PIL import ImageFile

    try:
        if isinstance(image, ImageFile.ImageFile):
            _check_file(image)
            with _load_lock:
                image.load()
        return to_rgb(image)
    except Exception as error:
        name = getattr(image, "filename", "")
        raise ImageReadError(
            f"The image at index {index} of X, a PIL image"
            f"{f' from {name!r}' if name else ''}, could not be read: "
            f"{_explain(error)}",
            index,
        ) from error


def _from_array(array: NDArray, index: int) -> "Picture":
    from PIL import Image

    if array.dtype != np.uint8:
        raise TypeError(
            f"The image at index {index} of X is an array of {array.dtype}; wanted is "
            "uint8, in [0, 255]. For floats in [0, 1] pass "
            "(255 * image).round().astype('uint8')."
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


def _column_of(X: Any) -> Any:
    """Return the column of a data frame, or the values of a pandas or polars column."""
    if hasattr(X, "columns") and hasattr(X, "shape"):
        if len(X.columns) != 1:
            raise ValueError(
                f"X is a data frame of {len(X.columns)} columns; wanted is one column "
                "of paths. Pass X['path'], or put the featurizer in a "
                "ColumnTransformer."
            )
        X = X[X.columns[0]]
    if hasattr(X, "to_list") and hasattr(X, "dtype") and not isinstance(X, np.ndarray):
        return X.to_list()
    return X


def _check_array(X: NDArray) -> None:
    """Check an array of images or of paths."""
    if X.dtype == object or X.dtype.kind in "UT":
        if X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1):
            return
        raise ValueError(
            f"X is an array of {X.dtype} of shape {X.shape}; wanted is a 1-D array of "
            "images or paths."
        )
    if X.dtype != np.uint8:
        raise TypeError(
            f"X is an array of {X.dtype}; wanted is a uint8 array (n, H, W, 3) with "
            "values in [0, 255]. For floats in [0, 1] pass "
            "(255 * X).round().astype('uint8')."
        )
    if X.ndim == 3:
        raise ValueError(
            f"X is one array of shape {X.shape}; wanted is (n, H, W, 3). For a single "
            "image pass X[None], for n grey images X[..., None]."
        )
    if X.ndim != 4 or X.shape[-1] not in (1, 3, 4):
        hint = ""
        if X.ndim == 4 and X.shape[1] in (1, 3, 4):
            hint = " The channels come last: pass X.transpose(0, 2, 3, 1)."
        raise ValueError(
            f"X is an array of shape {X.shape}; wanted is (n, H, W, 3).{hint}"
        )


def _is_pil(item: Any) -> bool:
    from PIL import Image

    return isinstance(item, Image.Image)


def _is_missing(item: Any) -> bool:
    """Say whether `item` is None, NaN or pandas' NA."""
    if item is None or type(item).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(item, float | np.floating) and bool(np.isnan(item))


def _show(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}..."
