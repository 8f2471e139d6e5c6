"""What a cache of embeddings is made of: keys of images, and rows as bytes."""

import hashlib
import struct

import numpy as np

# To be raised when images are read or embeddings are stored in another way.
_FORMAT = 1
_CHECK_BYTES = 8


def content_key(space, content):
    """Return the key of an image.

    Parameters
    ----------
    space : bytes
        From :func:`space_key`.
    content : bytes-like or PIL.Image.Image
        The bytes of a file, or an RGB image.

    Returns
    -------
    bytes
    """
    digest = hashlib.sha256(space)
    if hasattr(content, "tobytes") and hasattr(content, "size"):
        # A file can hold any bytes, so the two kinds of content are told apart.
        digest.update(f"pixels {content.size}".encode())
        content = content.tobytes()
    else:
        digest.update(b"file")
    digest.update(content)
    return digest.digest()


def space_key(clip, dense_mode):
    """Return what besides an image decides its embedding, hashed.

    Parameters
    ----------
    clip : CLIPModel
        The fingerprint of its identity covers weights and preprocessing.
    dense_mode : str or None
        How patch tokens are made, or None for global embeddings alone.

    Returns
    -------
    bytes
    """
    parts = (_FORMAT, clip.identity.fingerprint, str(clip.dtype), dense_mode)
    return hashlib.sha256(repr(parts).encode()).digest()


def pack_row(key, row):
    """Return a row of any shape as bytes: a check sum, the shape, the numbers."""
    row = np.ascontiguousarray(row, dtype="<f4")
    body = struct.pack(f"<B{row.ndim}I", row.ndim, *row.shape) + row.tobytes()
    return _check(key, body) + body


def unpack_row(key, value):
    """Return the row, or None if these are not the bytes that were stored for it."""
    if not isinstance(value, bytes) or len(value) <= _CHECK_BYTES:
        return None
    body = value[_CHECK_BYTES:]
    if _check(key, body) != value[:_CHECK_BYTES]:
        return None
    try:
        shape = struct.unpack_from(f"<{body[0]}I", body, 1)
        row = np.frombuffer(body, dtype="<f4", offset=1 + 4 * body[0])
        return row.reshape(shape) if np.isfinite(row).all() else None
    except (struct.error, ValueError):  # made up, with a check sum that fits
        return None


def _check(key, body):
    return hashlib.blake2b(body, key=key[:64], digest_size=_CHECK_BYTES).digest()
