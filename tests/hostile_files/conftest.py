"""Files as strangers make them, a featurizer to read them, a user without rights."""

import os
import shutil
import signal
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from skfewshot import CLIPFeaturizer

_NOBODY = 65534
_MOST_SECONDS = 120


def _chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def _make_png(width=2, height=2, *, colour=2, depth=8, extra=(), data=None):
    """Return the bytes of a PNG file; white unless `data` is given."""
    if data is None:
        bits = width * depth * {0: 1, 2: 3}[colour]
        row = b"\0" + b"\xff" * -(-bits // 8)
        packer = zlib.compressobj()
        data = b"".join([packer.compress(row) for _ in range(height)])
        data += packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


@pytest.fixture(autouse=True)
def no_waiting_for_ever():
    """Have a test that hangs fail."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_MOST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def make_png():
    return _make_png


@pytest.fixture
def featurizer():
    return CLIPFeaturizer("tiny", num_workers=0, batch_size=4)


@pytest.fixture(scope="session")
def images():
    """Six images of the size that the model takes."""
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def expected(images):
    return np.asarray(CLIPFeaturizer("tiny", num_workers=0).transform(images))


@pytest.fixture
def open_folder():
    """A folder that every user of the machine may enter."""
    folder = Path(tempfile.mkdtemp()).resolve()
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def without_rights():
    """A function that takes the rights of root from a test, to which it may end."""
    if not hasattr(os, "seteuid"):
        pytest.skip("This system has other rights.")
    before = os.geteuid()

    def drop():
        if before == 0:
            os.seteuid(_NOBODY)

    yield drop
    os.seteuid(before)
