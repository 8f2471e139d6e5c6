"""What cannot be read as an image: the error, and what can be done about it."""

import os
from typing import Any

#: How many bytes tell one format from another.
HEADER = 512

_IMAGES = (
    *(b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS"),
    *(b"\0\0\1\0", b"\0\0\0\x0cjP", b"\xffO\xffQ", b"qoif", b"DDS "),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# What files begin with, but for space, and what is to be said of them.
_OTHERS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"%PDF",), "it is PDF: draw its pages first, as by pdf2image"),
    (
        (b"<svg", b"<?xml"),
        "it is SVG or other XML, which has no pixels: draw it first, as by cairosvg",
    ),
    (
        (b"<!doctype", b"<html", b"<head"),
        "it is a web page, perhaps that of an error in a download",
    ),
    (
        (b"version https://git-lfs",),
        "it is a pointer of Git LFS: fetch the file by git lfs pull",
    ),
    ((b"PK\3\4",), "it is a zip file: unpack it first"),
    ((b"\x1f\x8b",), "it is compressed by gzip: unpack it first"),
    (
        (b"\x93NUMPY",),
        "it is an array of NumPy: pass what np.load gives, as uint8 (H, W, 3)",
    ),
    (
        (b"SIMPLE  =", b"\x89HDF"),
        "it is FITS or HDF5: read it by its own library, and pass a uint8 array",
    ),
    ((b"\x1aE\xdf\xa3", b"RIFF"), "it is a film or a sound: pass its frames"),
)


_LONGEST_SHOWN = 80
_LONGEST_PATH = 400


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


def unreadable(name: str, index: int, error: Exception) -> ImageReadError:
    """Return the error that says which image could not be read, and why."""
    return ImageReadError(
        f"The image at index {index} of X{name and f', {name},'} could not be read: "
        f"{_explain(error)}",
        index,
    )


def _explain(error: Exception) -> str:
    """Say what was wrong with an image file, and what can be done."""
    from PIL import Image

    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        # Its own text has the path once more, which may be long.
        text = f"{type(error).__name__}: [Errno {error.errno}] {error.strerror}"
    bombs = Image.DecompressionBombError, Image.DecompressionBombWarning
    if isinstance(error, bombs):
        text = text.removesuffix(".") + (
            ". A small file may ask for all the memory there is. If you trust it, set "
            "PIL.Image.MAX_IMAGE_PIXELS to the pixels that you allow, or to None."
        )
    return text


def is_image_file(content: bytes) -> bool:
    """Say whether content begins as image files do."""
    return (
        content.startswith(_IMAGES)
        or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")
        or (content[4:8] == b"ftyp" and content[8:12] in (*_HEIC, b"avif"))
    )


def explain_unknown(header: bytes) -> str:
    """Say what a file is that Pillow does not know, and what to do, if anything.

    Parameters
    ----------
    header : bytes
        The first ones, as many as `HEADER`.
    """
    remedy = _remedy(header)
    return "it is in no image format that Pillow knows" + (remedy and f"; {remedy}")


def _remedy(header: bytes) -> str:
    if not header:
        return "it is empty"
    if header[4:8] == b"ftyp" and header[8:12] in _HEIC:
        return (
            "it is HEIC, as phones take: pip install pillow-heif, and call "
            "pillow_heif.register_heif_opener() before"
        )
    if header[4:8] == b"ftyp" and header[8:12] in (b"avif", b"avis"):
        return "it is AVIF: install Pillow 11.3 or later"
    if header[4:8] == b"ftyp":
        return "it is a film: pass its frames"
    if header[128:132] == b"DICM":
        return (
            "it is DICOM: read it by pydicom, and pass its pixels as a uint8 array, "
            "stretched by its window"
        )
    start = header.lstrip().lower()
    for beginnings, remedy in _OTHERS:
        if start.startswith(tuple(text.lower() for text in beginnings)):
            return remedy
    return ""


def show(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def show_path(path: Any) -> str:
    """Show a name or path, but no page of text."""
    text = os.fspath(path)
    if len(text) <= _LONGEST_PATH:
        return repr(text)
    return f"{text[:_LONGEST_SHOWN]!r}... ({len(text):,} characters)"
