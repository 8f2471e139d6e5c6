"""Image files that are bombs, broken, or not what they say."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from skfewshot.clip import ImageReadError
from skfewshot.clip import _pictures as image_module
from skfewshot.clip._images import read_content, read_image

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO")


def read(path):
    """Read a file in both ways that there are; they agree."""
    first = read_image(path, 3)
    assert first == read_content(path, 3)[1]()
    return first


def refused(path, match):
    for reading in (read_image, lambda path, index: read_content(path, index)[1]()):
        with pytest.raises(ImageReadError, match=match) as caught:
            reading(path, 3)
        assert str(path) in str(caught.value)


def jpeg_of_size(width, height):
    """Return a small JPEG file that says it is large."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    start = content.find(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


# Bombs


@pytest.fixture
def no_decoding(monkeypatch):
    def load(image):
        raise AssertionError("it is decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("png", (10_000, 10_000)),
        ("png", (2**31 - 1, 2**31 - 1)),
        ("jpg", (10_000, 9_000)),
        ("jpg", (65_000, 65_000)),
    ],
)
def test_bombs_are_not_decoded(make_png, tmp_path, no_decoding, name, size):
    path = tmp_path / f"bomb.{name}"
    data = zlib.compress(b"") if name == "png" else None
    content = make_png(*size, data=data) if data else jpeg_of_size(*size)
    path.write_bytes(content)
    assert path.stat().st_size < 1000
    refused(path, "pixel.*If you trust it, set PIL.Image.MAX_IMAGE_PIXELS")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_among_images(featurizer, images, expected, tmp_path):
    path = tmp_path / "bomb.jpg"
    path.write_bytes(jpeg_of_size(12_000, 10_000))
    X = [images[0], path, images[1]]
    with pytest.raises(ImageReadError, match="index 1 of X.*12000 x 10000 pixels"):
        featurizer.transform(X)
    with pytest.warns(UserWarning, match="1 of the images.*bomb.jpg"):
        found = featurizer.set_params(on_error="nan").transform(X)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], expected[:2], atol=2e-6)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_pillows(make_png, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(make_png(11, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 109)
    refused(path, "11 x 10 pixels are more than 109")
    with Image.open(path) as image, pytest.raises(ImageReadError, match="11 x 10"):
        read_image(image, 3)
    for limit in (110, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read(path).size == (11, 10)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_texts_and_profiles(make_png, tmp_path, kind):
    between = b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    path = tmp_path / "a.png"
    chunk = (kind, between + zlib.compress(bytes(50 * 2**20)))
    path.write_bytes(make_png(extra=[chunk]))
    assert path.stat().st_size < 60_000
    refused(path, "Decompressed data too large")


def test_many_texts(make_png, tmp_path):
    path = tmp_path / "a.png"
    chunk = (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20)))
    path.write_bytes(make_png(extra=[chunk] * 80))
    refused(path, "Too much memory used in text chunks")


def test_more_data_than_pixels(make_png, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(make_png(data=zlib.compress(bytes(100 * 2**20))))
    assert read(path).tobytes() == bytes(12)


def test_enormous_exif(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    assert read(path).size == (8, 16)


@pytest.mark.parametrize("name", ["GIF", "TIFF", "WEBP", "PNG"])
def test_many_frames_are_the_first_one(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(0, 250, 5)]
    path = tmp_path / f"a.{name}"
    options = {"lossless": True} if name == "WEBP" else {}
    frames[0].save(path, name, save_all=True, append_images=frames[1:], **options)
    assert read(path).tobytes() == bytes(8 * 8 * 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (65_535, 1), (16_000, 3)])
def test_odd_sizes(featurizer, tmp_path, size):
    path = tmp_path / "a.png"
    Image.new("RGB", size, "red").save(path)
    found = featurizer.transform([path])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_large_transparent_images_are_the_same_in_strips(monkeypatch, mode):
    """Copies of a whole one would take gigabytes."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 30, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    if mode in ("P", "L", "RGB"):
        image.info["transparency"] = (1, 2, 3) if mode == "RGB" else 7
    white = Image.new("RGBA", image.size, "white")
    wanted = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    for n_pixels in (1, 100, 10**6):
        monkeypatch.setattr(image_module, "_STRIP_PIXELS", n_pixels)
        assert read_image(image, 0).tobytes() == wanted.tobytes()


# Not what they say


def test_names_mean_nothing(make_png, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(make_png(5, 4))
    assert read(path).size == (5, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"<!DOCTYPE html><html>Not found</html>",
        b"PK\3\4",
        b"\xff\xd8",
    ],
    ids=["empty", "zeros", "HTML", "zip", "two bytes"],
)
def test_no_images(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    refused(path, "in no image format that Pillow knows")


def test_programs_are_not_run(tmp_path):
    """Pillow would have Ghostscript run an EPS file, which may never end."""
    path = tmp_path / "a.jpg"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        b"{} loop\n%%EOF\n"
    )
    refused(path, "it is EPS, a program")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-12],
        lambda content: content.replace(b"IDAT", b"IDAT\0"),
        lambda content: content[:50] + b"\xff" * 50 + content[100:],
    ],
    ids=["half", "no end", "length", "data"],
)
def test_broken_png(tmp_path, change):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(change(file.getvalue()))
    try:
        assert read(path).tobytes() == noise.tobytes()  # only the end mark is missing
    except ImageReadError as error:
        assert str(path) in str(error)


@pytest.fixture(scope="module")
def encoded():
    """One image in several formats, as bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    files = []
    for name in _FORMATS:
        file = io.BytesIO()
        Image.fromarray(noise).save(file, name)
        files.append(file.getvalue())
    return files


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    which=st.integers(0, len(_FORMATS) - 1),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), max_size=6),
    kept=st.floats(0.02, 1),
    early=st.booleans(),
)
def test_any_bytes(encoded, tmp_path, monkeypatch, which, changes, kept, early):
    """A picture or an ImageReadError, whatever is written into a file."""
    content = bytearray(encoded[which])
    for place, written in changes:
        # Headers are where it hurts.
        start = int(place * (60 if early else len(content)))
        content[start : start + len(written)] = written
    content = content[: int(kept * len(content)) + 1]
    path = tmp_path / "a"
    path.write_bytes(content)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
        try:
            image = read_image(path, 0)
        except ImageReadError as error:
            assert str(path) in str(error)
        else:
            assert image.mode == "RGB"
            assert image.width * image.height <= 10**6


# Arrays


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u2", "i8", "f2", "f8", "c8", "S1", "U1", "M8[s]", "u1,u1"],
)
def test_arrays_of_other_dtypes(featurizer, dtype):
    array = np.zeros((8, 8, 3), dtype=dtype)
    with pytest.raises((TypeError, ValueError), match="index 0 of X|array of"):
        featurizer.transform([array])


def test_arrays_of_objects_that_are_no_pixels(featurizer):
    for value in (None, "a", 256, -1, 0.5):
        array = np.full((8, 8, 3), value, dtype=object)
        with pytest.raises((TypeError, ValueError), match="index 0 of X"):
            featurizer.transform([array])


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: np.ascontiguousarray(a.transpose(2, 0, 1)).transpose(1, 2, 0),
    ],
)
def test_arrays_in_odd_memory(featurizer, images, expected, change):
    array = change(images[0])
    array.flags.writeable = False
    np.testing.assert_allclose(
        featurizer.transform([array]), expected[:1], atol=2e-6, rtol=0
    )


def test_one_row_that_stands_for_many(featurizer):
    row = np.full((1, 1, 3), 7, dtype=np.uint8)
    tall = np.broadcast_to(row, (3000, 2, 3))
    np.testing.assert_allclose(
        featurizer.transform([tall]), featurizer.transform([tall.copy()]), atol=2e-6
    )
