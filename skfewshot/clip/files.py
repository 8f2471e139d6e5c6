"""Opening files that strangers may have put where an ordinary one is wanted."""

import os
import stat

# Bytes of a file for each pixel that an image may have: as of 16-bit colours with
# opacity that are not compressed.
_BYTES_PER_PIXEL = 8


def open_file(path, most_bytes=None):
    """Open an ordinary file to read bytes, and wait for nothing, such as a FIFO.

    Parameters
    ----------
    path : str, bytes or os.PathLike
    most_bytes : int or None, default=None
        How long it may be.

    Returns
    -------
    file

    Raises
    ------
    OSError
        If there is no file, it may not be read, is too long, or a folder, FIFO, device
        or socket is in its place.
    ValueError
        If no file can have that path, for a NUL in it.
    """
    file = open(path, "rb", opener=_open_at_once)
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{os.fspath(path)!r} is no ordinary file")
        if most_bytes is not None and status.st_size > most_bytes:
            raise OSError(
                f"{os.fspath(path)!r} has {status.st_size:,} bytes; the limit is "
                f"{most_bytes:,}"
            )
    except BaseException:
        file.close()
        raise
    return file


def _open_at_once(path, flags):
    # Opening a FIFO would wait for a writer, for ever. Ordinary files are not changed.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def most_image_bytes():
    """Return how many bytes an image file may have, or None for any number."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else _BYTES_PER_PIXEL * limit


def check_image_file(image):
    """Refuse a file that Pillow has opened, and that must not be decoded.

    Parameters
    ----------
    image : PIL.ImageFile.ImageFile

    Raises
    ------
    PIL.Image.DecompressionBombError
        If it has more pixels than Pillow's limit, where Pillow itself only warns.
    ValueError
        If Pillow would have another program run it.
    """
    from PIL import Image

    if image.format == "EPS":
        raise ValueError("it is EPS, a program for Ghostscript, which is not run")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels are more than {limit}"
        )


def explain(error):
    """Say what was wrong with an image file, and what can be done."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own text may name a buffer
        return "UnidentifiedImageError: it is in no image format that Pillow knows"
    hint = ""
    bombs = Image.DecompressionBombError, Image.DecompressionBombWarning
    if isinstance(error, bombs):
        hint = (
            " A small file may ask for all the memory there is. If you trust it, set "
            "PIL.Image.MAX_IMAGE_PIXELS to the pixels that you allow, or to None."
        )
    text = f"{error}".removesuffix(".") + "." if hint else f"{error}"
    return f"{type(error).__name__}: {text}{hint}"
