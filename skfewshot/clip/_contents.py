"""Whatever has the content of an image file, or names one, to that content."""

import binascii
import inspect
import os
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np

from skfewshot._torch import fork_safe_lock
from skfewshot.clip._unreadable import (
    ImageReadError,
    is_image_file,
    show,
    show_path,
    unreadable,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_SHORTEST_BASE64 = 32
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LONGEST_PATH = 4096

# Loading a lazily opened PIL image twice at once corrupts it, and one image may stand
# in X more than once.
load_lock = fork_safe_lock()


@dataclass(frozen=True)
class Content:
    """The content of an image file, wherever it is.

    Attributes
    ----------
    name : str
        What errors call it.
    open : callable
        Opens it for reading bytes, from the start.
    """

    name: str
    open: Callable[[], IO[bytes]]


def file_of(item: Any, index: int) -> Content | None:
    """Return the file whose content `item` is or names, or None if it has pixels.

    Parameters
    ----------
    item : object
    index : int
        Its position in X, for errors.

    Returns
    -------
    Content or None

    Raises
    ------
    ImageReadError
        If it is a file that is closed, or text that is no valid base64.
    TypeError
        If it is a file of text.
    """
    if isinstance(item, str | os.PathLike):
        content = _embedded(item, index) if isinstance(item, str) else None
        if content is not None:
            name = f"a string of {len(str(item)):,} characters"
            return Content(name, partial(BytesIO, content))
        return Content(show_path(item), partial(_open, item))
    if isinstance(item, np.ndarray) and item.ndim == 1 and item.dtype == np.uint8:
        item = item.tobytes()
    if isinstance(item, bytes | bytearray | memoryview):
        return _of_bytes(bytes(item), index)
    if is_pil(item):
        return _of_unread(item, index)
    if not isinstance(item, np.ndarray) and callable(getattr(item, "read", None)):
        name = f"a {type(item).__name__}"
        content = _read_file(item, index)
        return Content(name, lambda: BytesIO(content))
    if callable(getattr(item, "read_bytes", None)):  # a path into a zip file
        return Content(show(item), lambda: BytesIO(item.read_bytes()))
    return None


def _open(path: Any) -> IO[bytes]:
    """Open a file by its path, or by its URL where it is on this machine."""
    text = os.fspath(path)
    if isinstance(text, str) and (found := _URL.match(text)):
        if found[1].lower() != "file":
            raise ValueError(
                "URLs are not fetched; pass the content, such as "
                "urllib.request.urlopen(url).read()"
            )
        path = url2pathname(urlsplit(text).path)
    return open(path, "rb")


def _of_bytes(content: bytes, index: int) -> Content:
    name = f"{len(content):,} bytes"
    if not is_image_file(content):
        if len(content) < _LONGEST_PATH and b"\0" not in content:
            if os.path.isfile(content):  # as os.fsencode has them
                return Content(show_path(content), lambda: open(content, "rb"))
        try:
            embedded = _embedded(content.decode("ascii"), index)
        except UnicodeDecodeError:
            embedded = None
        content = content if embedded is None else embedded
    return Content(name, lambda: BytesIO(content))


def _embedded(text: str, index: int) -> bytes | None:
    """Return the content of a data URI or of an image in base64, or None for a path."""
    text = text.lstrip() if text[:1].isspace() else text
    if text[:5].lower() == "data:":
        about, comma, data = text.partition(",")
        try:
            if not comma:
                raise ValueError("it has no comma before its data")
            content = unquote_to_bytes(data)
            is_base64 = about.lower().rstrip().endswith(";base64")
            return _from_base64(content.decode("ascii")) if is_base64 else content
        except ValueError as error:
            name = f"a data URI of {len(text):,} characters"
            raise unreadable(name, index, error) from error
    if len(text) < _SHORTEST_BASE64 or "." in text or not _BASE64.fullmatch(text):
        return None
    try:
        content = _from_base64(text)
    except ValueError:
        return None
    return content if is_image_file(content) else None


def _from_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without line ends and padding."""
    text = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not valid base64: {error}") from error


def _read_file(file: Any, index: int) -> bytes:
    """Read a file that somebody has opened, from its start, and leave it where it was.

    What was written to it a moment ago is behind its position.
    """
    name = getattr(file, "name", None)
    called = f"a {type(file).__name__}{f' of {name!r}' if name else ''}"
    if inspect.iscoroutinefunction(file.read):
        if hasattr(file, "file"):  # an upload of Starlette has an ordinary one within
            return _read_file(file.file, index)
        raise TypeError(
            f"The image at index {index} of X is {called}, which can only be awaited; "
            "pass its content: await file.read()."
        )
    if getattr(file, "closed", False):
        raise ImageReadError(
            f"The image at index {index} of X is {called} that is closed. Keep it open "
            "until it is read, or pass its path or its bytes.",
            index,
        )
    try:
        with load_lock():  # it may stand in X more than once
            content = _read_whole(file)
    except Exception as error:
        raise unreadable(called, index, error) from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            f"The image at index {index} of X is {called}, which reads "
            f"{type(content).__name__}; wanted is one that reads bytes: "
            "open(path, 'rb')."
        )
    return bytes(content)


def _read_whole(file: Any) -> Any:
    seekable = getattr(file, "seekable", None)
    if not (seekable() if callable(seekable) else hasattr(file, "seek")):
        return file.read()
    place = file.tell()
    file.seek(0)
    try:
        return file.read()
    finally:
        file.seek(place)


def _of_unread(image: "Picture", index: int) -> Content | None:
    """Return the file of a PIL image that was opened and not read, or None.

    So the image of the caller stays unread: decoded, a folder of them would not fit
    into memory.
    """
    from PIL import ImageFile

    if not isinstance(image, ImageFile.ImageFile) or not is_unread(image):
        return None
    file = getattr(image, "fp", None)
    if file is None or getattr(file, "closed", False) or image.tell():
        return None
    name = f"a PIL image{from_of(image)}"
    try:
        content = _read_file(file, index)
    except (ImageReadError, TypeError):
        return None
    return Content(name, lambda: BytesIO(content))


def is_unread(image: "Picture") -> bool:
    state = vars(image)
    return state.get("_im", state.get("im")) is None or bool(state.get("tile"))


def from_of(image: "Picture") -> str:
    name = getattr(image, "filename", "")
    return f" from {show_path(name)}" if name else ""


def is_pil(item: Any) -> bool:
    from PIL import Image

    return isinstance(item, Image.Image)


def name_of(item: Any) -> str:
    """Return what errors call an image that was read: its path, if it has one."""
    if is_pil(item):
        return f"a PIL image{from_of(item)}"
    if isinstance(item, dict):
        item = item.get("path")
    is_path = isinstance(item, os.PathLike) or (
        isinstance(item, str) and item[:5].lower() != "data:"
    )
    return show_path(item) if is_path else ""
