"""Reading images: every mode, container and way to be broken."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from skfewshot.clip import ImageReadError
from skfewshot.clip._holders import as_images
from skfewshot.clip._images import read_image
from skfewshot.clip._pictures import to_rgb

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
RGB = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)


def rgb_of(item):
    image = read_image(item, 0)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey_rgb(grey):
    return np.repeat(np.asarray(grey, dtype=np.uint8)[..., None], 3, axis=-1)


def test_rgb_and_grey_arrays():
    np.testing.assert_array_equal(rgb_of(RGB), RGB)
    np.testing.assert_array_equal(rgb_of(GREY), grey_rgb(GREY))
    np.testing.assert_array_equal(rgb_of(GREY[..., None]), grey_rgb(GREY))


def test_awkward_memory(tmp_path):
    np.testing.assert_array_equal(rgb_of(RGB[::-1, ::-1]), RGB[::-1, ::-1])
    np.testing.assert_array_equal(rgb_of(np.asfortranarray(RGB)), RGB)
    np.save(tmp_path / "rgb.npy", RGB)
    mapped = np.load(tmp_path / "rgb.npy", mmap_mode="r")
    np.testing.assert_array_equal(rgb_of(mapped), RGB)


def test_transparency_is_laid_on_white():
    opacity = np.full(GREY.shape, 255, dtype=np.uint8)
    opacity[0] = 0
    expected = RGB.copy()
    expected[0] = 255
    rgba = np.dstack([RGB, opacity])
    np.testing.assert_array_equal(rgb_of(rgba), expected)
    np.testing.assert_array_equal(rgb_of(Image.fromarray(rgba)), expected)
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(opacity)])
    expected = grey_rgb(GREY)
    expected[0] = 255
    np.testing.assert_array_equal(rgb_of(grey_alpha), expected)


def test_palette(tmp_path):
    palette = Image.fromarray(RGB).quantize(64)
    np.testing.assert_array_equal(rgb_of(palette), np.asarray(palette.convert("RGB")))
    path = tmp_path / "palette.png"
    palette.save(path, transparency=int(np.asarray(palette)[0, 0]))
    shown = rgb_of(path)
    assert (shown[0, 0] == 255).all()
    np.testing.assert_array_equal(shown[1:], np.asarray(palette.convert("RGB"))[1:])


def test_colour_key_of_rgb(tmp_path):
    path = tmp_path / "key.png"
    Image.fromarray(RGB).save(path, transparency=tuple(map(int, RGB[2, 1])))
    assert (rgb_of(path)[2, 1] == 255).all()


def test_cmyk_and_others(tmp_path):
    red = Image.new("RGB", (8, 8), (220, 30, 40))
    for mode in ("CMYK", "YCbCr", "RGBX"):
        shown = rgb_of(red.convert(mode)).astype(int)
        assert np.abs(shown - [220, 30, 40]).max() <= 3, mode
    path = tmp_path / "cmyk.jpg"
    red.convert("CMYK").save(path, quality=95)
    assert np.abs(rgb_of(path).astype(int) - [220, 30, 40]).max() <= 8
    assert np.asarray(read_image(Image.new("1", (4, 4), 1), 0)).min() == 255


def test_16_bits_are_scaled_not_clipped(tmp_path):
    values = (GREY.astype(np.uint16) * 257).astype(np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    with Image.open(path) as opened:
        assert opened.mode.startswith("I;16")
    np.testing.assert_array_equal(rgb_of(path), grey_rgb(GREY))
    np.testing.assert_array_equal(rgb_of(Image.fromarray(values)), grey_rgb(GREY))
    dark = Image.fromarray(np.full((4, 4), 200, dtype=np.uint16))
    assert rgb_of(dark).max() == 1


@pytest.mark.parametrize("factor", [1, 257])
def test_32_bits(factor):
    deep = Image.fromarray(GREY.astype(np.int32) * factor)
    assert deep.mode == "I"
    np.testing.assert_array_equal(rgb_of(deep), grey_rgb(GREY))


@pytest.mark.parametrize("factor", [1 / 255, 1, 257])
def test_float_grey(factor):
    image = Image.fromarray(GREY.astype(np.float32) * factor)
    assert image.mode == "F"
    np.testing.assert_array_equal(rgb_of(image), grey_rgb(GREY))


def test_unknown_range_is_stretched():
    values = np.array([[-1e6, 0], [1e6, 1e6]], dtype=np.float32)
    shown = rgb_of(Image.fromarray(values))[..., 0]
    np.testing.assert_array_equal(shown, [[0, 128], [255, 255]])
    values[0, 0] = np.nan
    with pytest.raises(ImageReadError, match="not finite"):
        rgb_of(Image.fromarray(values))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((6, 4, 3), dtype=np.uint8)
    upright[:3, :2] = [250, 250, 250]
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif)
    np.testing.assert_array_equal(rgb_of(path), upright)
    with Image.open(path) as image:
        np.testing.assert_array_equal(rgb_of(image), upright)


def test_input_image_is_left_alone():
    image = Image.fromarray(np.dstack([RGB, GREY]))
    before = image.tobytes(), image.mode
    to_rgb(image)
    assert (image.tobytes(), image.mode) == before


def test_paths_are_opened_and_closed(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for given in (path, str(path), np.str_(path)):
            np.testing.assert_array_equal(rgb_of(given), RGB)
    path.unlink()


def broken_files(folder):
    rng = np.random.default_rng(0)
    whole = folder / "whole.jpg"
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    files = {
        "truncated": whole.read_bytes()[:900],
        "text": b"this is no image",
        "empty": b"",
        "header": b"\x89PNG\r\n\x1a\n" + b"\x00" * 30,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in (*files, "absent")] + [folder]


def test_broken_files_name_index_and_path(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(ImageReadError) as caught:
            read_image(path, 17)
        assert "index 17" in str(caught.value)
        assert str(path) in str(caught.value)
        assert caught.value.index == 17
        assert isinstance(caught.value, ValueError)


def test_truncated_pil_image_names_its_file(tmp_path):
    path = broken_files(tmp_path)[0]
    with Image.open(path) as image, pytest.raises(ImageReadError, match="truncated"):
        read_image(image, 3)


def test_error_pickles():
    error = pickle.loads(pickle.dumps(ImageReadError("broken", 3)))
    assert (str(error), error.index) == ("broken", 3)


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA])
def test_missing_image(missing):
    with pytest.raises(ImageReadError, match="index 4 of X is missing"):
        read_image(missing, 4)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (7, TypeError, "index 2 of X is 7 of type int"),
        (["a.png"], TypeError, "of type list"),
        (RGB.astype(np.float32), TypeError, r"array of float32.*astype\('uint8'\)"),
        (RGB.astype(np.uint16), TypeError, "array of uint16"),
        (RGB.transpose(2, 0, 1), ValueError, "channels come last"),
        (RGB[..., :2], ValueError, r"shape \(8, 8, 2\)"),
        (RGB[None], ValueError, r"shape \(1, 8, 8, 3\)"),
        (RGB[:0], ValueError, "no pixels"),
        (Image.new("RGB", (0, 5)), ValueError, "no pixels"),
        (b"a.png", ValueError, "5 bytes, could not be read.*no image format"),
    ],
)
def test_bad_item(item, error, message):
    with pytest.raises(error, match=message):
        read_image(item, 2)


@pytest.mark.parametrize(
    "X",
    [
        ["a.png", "b.png"],
        ("a.png", "b.png"),
        np.array(["a.png", "b.png"]),
        np.array(["a.png", "b.png"], dtype=object),
        np.array([["a.png"], ["b.png"]], dtype=object),
        pd.Series(["a.png", "b.png"], index=[5, 3]),
        pd.Series(["a.png", "b.png"], dtype="string"),
        pd.DataFrame({"path": ["a.png", "b.png"]}),
        pl.Series(["a.png", "b.png"]),
        pl.DataFrame({"path": ["a.png", "b.png"]}),
    ],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_containers(X):
    images = as_images(X)
    assert len(images) == 2
    assert [str(images[0]), str(images[1])] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("a.png", TypeError, r"X is a single image, 'a.png'.*\[image\]"),
        (Image.new("RGB", (4, 4)), TypeError, "X is a single image"),
        (RGB, ValueError, r"shape \(8, 8, 3\).*X\[None\]"),
        (RGB[None].astype(np.float64), TypeError, "array of float64"),
        (RGB[None].transpose(0, 3, 1, 2), ValueError, "channels come last"),
        (np.eye(3), TypeError, "array of float64"),
        (np.array([["a", "b"]]), ValueError, r"shape \(1, 2\)"),
        (None, TypeError, "X is None"),
        (7, TypeError, "X is 7 of type int"),
        ({"a": 1}, TypeError, "of type dict"),
        ({"a.png"}, TypeError, "of type set"),
        ([], ValueError, r"0 sample\(s\).*minimum of 1"),
        (np.empty((0, 4, 4, 3), np.uint8), ValueError, r"0 sample\(s\)"),
        (pd.Series([], dtype=object), ValueError, r"0 sample\(s\)"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), ValueError, "2 columns"),
    ],
)
def test_bad_container(X, error, message):
    with pytest.raises(error, match=message):
        as_images(X)


def test_tensors():
    import torch

    np.testing.assert_array_equal(rgb_of(torch.from_numpy(RGB)), RGB)
    assert as_images(torch.zeros(2, 4, 4, 3, dtype=torch.uint8)).shape == (2, 4, 4, 3)
    with pytest.raises(TypeError, match="array of float32"):
        as_images(torch.zeros(1, 3, 4, 4))
    assert as_images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape == (1, 8, 8, 3)


def test_float_images_may_overshoot_their_range():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    expected = np.asarray(to_rgb(Image.fromarray(values)))
    values[-1, -1], values[0, 0] = 1.02, -1e-3
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(values))), expected)


# Pictures of many bits


def xray(top, low=0):
    """A picture that uses the values from `low` to `top`."""
    return low + np.linspace(0, top - low, 64).reshape(8, 8)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (xray(4095), np.uint16, (0, 4095)),
        (xray(3000), np.uint16, (0, 4095)),
        (xray(900), np.uint16, (0, 1023)),
        (xray(16383), np.uint16, (0, 16383)),
        (xray(33000, 31000), np.uint16, (31000, 33000)),
        (xray(4095), np.int32, (0, 4095)),
        (xray(50), np.int32, (0, 255)),
        (xray(4095), np.float32, (0, 4095)),
        (xray(0.125), np.float32, (0, 0.125)),
        (xray(0.75, 0.625), np.float32, (0.625, 0.75)),
    ],
)
def test_a_small_part_of_a_range_is_refused_with_the_line_that_helps(
    tmp_path, values, dtype, expected
):
    image = Image.fromarray(values.astype(dtype))
    path = tmp_path / "a.tiff"
    image.save(path)
    for item in (image, path, path.read_bytes()):
        with pytest.raises(
            ImageReadError, match="index 5 of X.*Pass it stretched"
        ) as e:
            read_image(item, 5)
    line = str(e.value).split("such as ")[1].split(", and all")[0]
    stretched = eval(line, {"Image": Image, "np": np, "image": image})
    black, white = expected
    wanted = (values.astype(dtype).astype(float) - black) * 255 / (white - black)
    assert np.abs(rgb_of(stretched)[..., 0] - wanted).max() <= 1


def test_what_uses_its_range_is_not_refused():
    for values in (xray(17000), xray(65535), np.full((8, 8), 4000), xray(65535, 40000)):
        rgb_of(Image.fromarray(values.astype(np.uint16)))


def test_transparent_value_of_16_bit_grey(tmp_path):
    values = GREY.astype(np.uint16) * 257
    path = tmp_path / "clear.png"
    Image.fromarray(values).save(path, transparency=int(values[3, 2]))
    expected = grey_rgb(GREY)
    expected[3, 2] = 255
    np.testing.assert_array_equal(rgb_of(path), expected)
    # The transparent value is no part of the range that the others use.
    values[values > 4000] = 65535
    Image.fromarray(values).save(path, transparency=65535)
    with pytest.raises(ImageReadError, match="Pass it stretched"):
        rgb_of(path)
