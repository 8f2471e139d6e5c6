"""Images in every form that people have them: the embedding is that of the pixels."""

import array
import base64
import io
import os
import zipfile
from collections import UserDict, deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image

from skfewshot import CLIPFeaturizer
from skfewshot.clip import ImageReadError

CLOSE = {"rtol": 0, "atol": 2e-6}


def png_of(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def uri_of(content, mark="data:image/png;base64,"):
    return mark + base64.b64encode(content).decode()


class Upload:
    """As an upload of Starlette: to be awaited, with an ordinary file within."""

    def __init__(self, content):
        self.file = io.BytesIO(content)

    async def read(self):
        return self.file.read()


class Foreign:
    """An array of a library that is not NumPy."""

    def __init__(self, array):
        self._array, self.shape = array, array.shape

    def __array__(self, dtype=None, copy=None):
        return self._array


def written(content):
    """A file in memory as it is right after it was written to."""
    file = io.BytesIO()
    file.write(content)
    return file


def in_zip(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", content)
    return zipfile.Path(zipfile.ZipFile(file), "a.png")


#: One image, from the bytes of its file.
FROM_FILE = {
    "bytes": bytes,
    "bytearray": bytearray,
    "array of the standard library": lambda c: array.array("B", c),
    "scalar of pyarrow": lambda c: pa.scalar(c),
    "data URI after a space": lambda c: uri_of(c, " data:image/png;base64,"),
    "memoryview": memoryview,
    "numpy bytes": np.bytes_,
    "uint8 of a file": lambda c: np.frombuffer(c, np.uint8),
    "tensor of a file": lambda c: torch.frombuffer(bytearray(c), dtype=torch.uint8),
    "BytesIO": io.BytesIO,
    "BytesIO at its end": written,
    "upload": Upload,
    "path in a zip": in_zip,
    "bytes in a dict": lambda c: {"bytes": c, "path": None},
    "bytes before a path": lambda c: {"bytes": c, "path": "nowhere.png"},
    "a mapping": lambda c: UserDict(bytes=c),
    "row of a data set": lambda c: {"image": {"bytes": c}, "label": 3},
    "row of a web data set": lambda c: {"__key__": "1", "png": c, "cls": 3},
    "data URI": uri_of,
    "data URI, no type": lambda c: uri_of(c, "data:;base64,"),
    "data URI, upper case": lambda c: uri_of(c, "DATA:image/png;BASE64,"),
    "data URI, per cent": lambda c: "data:image/png," + "".join(f"%{b:02x}" for b in c),
    "base64": lambda c: base64.b64encode(c).decode(),
    "base64 in bytes": base64.b64encode,
    "base64 in lines": lambda c: base64.encodebytes(c).decode(),
    "base64 of URLs": lambda c: base64.urlsafe_b64encode(c).decode().rstrip("="),
    "lazy PIL": lambda c: Image.open(io.BytesIO(c)),
}
#: One image, from its pixels.
FROM_PIXELS = {
    "PIL": Image.fromarray,
    "array": np.array,
    "objects": lambda a: a.astype(object),
    "memoryview of pixels": memoryview,
    "foreign": Foreign,
    "tensor": torch.from_numpy,
    "tensor, channels first": lambda a: torch.from_numpy(a).permute(2, 0, 1),
    "with its target": lambda a: (Image.fromarray(a), 3),
    "tensor with its target": lambda a: (torch.from_numpy(a).permute(2, 0, 1), "x"),
}


@pytest.fixture(scope="module")
def featurizer(small):
    return CLIPFeaturizer(small, num_workers=2, batch_size=3)


@pytest.fixture(scope="module")
def expected(featurizer, images):
    return np.asarray(featurizer.transform(images))


@pytest.fixture(scope="module")
def contents(images):
    return [png_of(image) for image in images]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", FROM_FILE)
def test_content_of_a_file(featurizer, contents, expected, kind, cached, tmp_path):
    X = [FROM_FILE[kind](content) for content in contents]
    cache = tmp_path if cached else None
    reader = CLIPFeaturizer(featurizer.model_name, cache=cache)
    for _ in range(2):  # what was read can be read again
        np.testing.assert_allclose(reader.transform(X), expected, **CLOSE)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", FROM_PIXELS)
def test_pixels(featurizer, images, expected, kind, cached, tmp_path):
    X = [FROM_PIXELS[kind](image) for image in images]
    cache = tmp_path if cached else None
    found = CLIPFeaturizer(featurizer.model_name, cache=cache).transform(X)
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.fixture(scope="module")
def paths(contents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, content in enumerate(contents):
        (folder / f"{number}.png").write_bytes(content)
    return [folder / f"{number}.png" for number in range(len(contents))]


def test_opened_files(featurizer, paths, expected):
    for mode in ("rb", "r+b"):
        files = [open(path, mode) for path in paths]
        np.testing.assert_allclose(featurizer.transform(files), expected, **CLOSE)
        for file in files:
            file.close()
    X = [{"bytes": None, "path": str(path)} for path in paths]
    np.testing.assert_allclose(featurizer.transform(X), expected, **CLOSE)
    X = [os.fsencode(path) for path in paths]
    np.testing.assert_allclose(featurizer.transform(X), expected, **CLOSE)
    X = [path.as_uri() for path in paths]
    np.testing.assert_allclose(featurizer.transform(X), expected, **CLOSE)
    X = [(str(path), 3) for path in paths]  # as `samples` of ImageFolder
    np.testing.assert_allclose(featurizer.transform(X), expected, **CLOSE)


def test_closed_and_wrong_files(featurizer, paths):
    with open(paths[0], "rb") as file:
        pass
    with pytest.raises(ImageReadError, match=r"0\.png' that is closed"):
        featurizer.transform([file])
    with Image.open(paths[0]) as image:
        pass
    with pytest.raises(ImageReadError, match="its file is closed"):
        featurizer.transform([image])
    with open(paths[0], encoding="latin-1") as file:
        with pytest.raises(TypeError, match=r"reads str.*'rb'"):
            featurizer.transform([file])


def test_one_file_that_stands_in_X_twice(featurizer, contents, expected):
    file, lazy = io.BytesIO(contents[0]), Image.open(io.BytesIO(contents[1]))
    found = featurizer.transform([file, lazy] * 20)
    np.testing.assert_allclose(found, np.tile(expected[:2], (20, 1)), **CLOSE)


def test_lazily_opened_images_stay_unread(featurizer, paths, expected):
    for suffix in ("PNG", "TIFF", "WEBP", "BMP", "GIF"):
        options = {"lossless": True} if suffix == "WEBP" else {}
        content = io.BytesIO()
        Image.open(paths[0]).save(content, suffix, **options)
        image = Image.open(content)
        before = dict(vars(image))
        found = featurizer.transform([image])
        if suffix != "GIF":
            np.testing.assert_allclose(found, expected[:1], **CLOSE)
        assert vars(image).get("_im") is before.get("_im"), suffix
        assert vars(image)["tile"] == before["tile"], suffix
        image.load()


def test_what_was_drawn_on_an_opened_image_counts(featurizer, paths, expected):
    image = Image.open(paths[0])
    image.paste(Image.open(paths[1]))
    np.testing.assert_allclose(featurizer.transform([image]), expected[1:2], **CLOSE)


#: All images, from the bytes of their files.
COLUMNS = {
    "tuple": tuple,
    "deque": deque,
    "dict values": lambda c: dict(enumerate(c)).values(),
    "map": lambda c: map(io.BytesIO, c),
    "generator of dicts": lambda c: ({"image": x} for x in c),
    "object array": lambda c: np.array(c, dtype=object),
    "pandas": lambda c: pd.Series(c, index=range(5, 5 + len(c))),
    "pandas of dicts": lambda c: pd.Series([{"bytes": x, "path": None} for x in c]),
    "pandas by Arrow": lambda c: pd.Series(c, dtype=pd.ArrowDtype(pa.binary())),
    "pandas frame": lambda c: pd.DataFrame({"image": c, "label": range(len(c))}),
    "polars": lambda c: pl.Series(c, dtype=pl.Binary),
    "polars of structs": lambda c: pl.Series([{"bytes": x, "path": "a"} for x in c]),
    "polars frame": lambda c: pl.DataFrame({"label": range(len(c)), "image": c}),
    "pyarrow": pa.array,
    "pyarrow, large": lambda c: pa.array(c, pa.large_binary()),
    "pyarrow chunks": lambda c: pa.chunked_array([c[:2], c[2:]]),
    "pyarrow strings": lambda c: pa.array([uri_of(x) for x in c]),
    "pyarrow codes": lambda c: pa.array([uri_of(x) for x in c]).dictionary_encode(),
    "pyarrow structs": lambda c: pa.array([{"bytes": x, "path": None} for x in c]),
    "pyarrow table": lambda c: pa.table({"label": range(len(c)), "image": c}),
    "pyarrow batch": lambda c: pa.record_batch({"content": pa.array(c)}),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns(featurizer, contents, expected, kind):
    X = COLUMNS[kind](contents)
    np.testing.assert_allclose(featurizer.transform(X), expected, **CLOSE)


#: All images, from their pixels.
ARRAYS = {
    "objects of equal pictures": lambda a: np.array([*a], dtype=object),
    "objects of PIL": lambda a: np.array([Image.fromarray(x) for x in a], object),
    "tensor": torch.from_numpy,
    "tensor, channels first": lambda a: torch.from_numpy(a).permute(0, 3, 1, 2),
    "list of tensors": lambda a: [torch.from_numpy(x).permute(2, 0, 1) for x in a],
    "pyarrow tensors": lambda a: pa.FixedShapeTensorArray.from_numpy_ndarray(a),
    "pyarrow lists": lambda a: pa.array(a.tolist(), pa.list_(pa.list_(pa.list_(U8)))),
}
U8 = pa.uint8()


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_all(featurizer, images, expected, kind):
    X = ARRAYS[kind](images)
    np.testing.assert_allclose(featurizer.transform(X), expected, **CLOSE)


def test_grey_tensors(featurizer, images):
    grey = images[..., :1]
    first = torch.from_numpy(grey).permute(0, 3, 1, 2)
    wanted = featurizer.transform(grey)
    np.testing.assert_allclose(featurizer.transform(first), wanted, **CLOSE)
    np.testing.assert_allclose(featurizer.transform(list(first)), wanted, **CLOSE)


# Data sets


class Pairs(torch.utils.data.Dataset):
    """A data set as torchvision's are."""

    def __init__(self, images):
        self.images, self.targets = images, list(range(len(images)))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Image.fromarray(self.images[index]), self.targets[index]


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return ((torch.from_numpy(x).permute(2, 0, 1), 0) for x in self.images)


class Image_:
    """The feature of a column of images of Hugging Face."""


Image_.__name__ = "Image"


class HuggingFace:
    """As a data set of Hugging Face gives its rows: decoded, or as bytes and path."""

    def __init__(self, items, name="picture"):
        self.column_names = ["label", name]
        self.features = {"label": SimpleNamespace(), name: Image_()}
        self._items, self._name = items, name

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        return {"label": 0, self._name: self._items[index]}


def test_data_sets(featurizer, images, contents, expected, tmp_path):
    from torchvision.datasets import FakeData, ImageFolder

    pairs = Pairs(images)
    rows = [3, 0, 5]
    subset = torch.utils.data.Subset(pairs, rows)
    lists = [list(pair) for pair in pairs]  # some collate so
    for X, wanted in (
        (pairs, expected),
        (subset, expected[rows]),
        (torch.utils.data.Subset(subset, [1]), expected[:1]),
        (torch.utils.data.ConcatDataset([pairs, pairs]), np.tile(expected, (2, 1))),
        (Stream(images), expected),
        (torch.utils.data.TensorDataset(torch.from_numpy(images)), expected),
        ([tuple(pair) for pair in lists], expected),
        (HuggingFace([Image.fromarray(x) for x in images]), expected),
        (HuggingFace([{"bytes": c, "path": None} for c in contents]), expected),
    ):
        np.testing.assert_allclose(featurizer.transform(X), wanted, **CLOSE)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number, content in enumerate(contents):
            (tmp_path / name / f"{number}.png").write_bytes(content)
    folder = ImageFolder(tmp_path)
    wanted = np.tile(expected, (2, 1))
    for X in (folder, folder.samples):
        np.testing.assert_allclose(featurizer.transform(X), wanted, **CLOSE)
    assert featurizer.transform(FakeData(3, (3, 40, 50))).shape == (3, 24)


def test_a_search_over_a_data_set(small, images):
    """Searches take rows of a data set one by one, as pairs."""
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    from skfewshot import ZeroShotClassifier

    X = Pairs(np.concatenate([images] * 2))
    names = ["cat", "dog"] * 7
    model = make_pipeline(CLIPFeaturizer(small), ZeroShotClassifier())
    scores = cross_val_score(model, X, names, cv=2)
    assert np.isfinite(scores).all()


def test_a_message_names_the_targets(small, images):
    """A pipeline that is fitted on a data set alone."""
    from sklearn.pipeline import make_pipeline

    from skfewshot import ZeroShotClassifier

    pairs, named = Pairs(images), Pairs(images)
    named.classes = ["cat", "dog", "cow", "hen", "fox", "owl", "ape"]
    model = make_pipeline(CLIPFeaturizer(small), ZeroShotClassifier())
    for X in (
        pairs,
        named,
        torch.utils.data.Subset(pairs, [1, 3]),
        torch.utils.data.Subset(named, [1, 3]),
        torch.utils.data.ConcatDataset([pairs, pairs]),
        HuggingFace([Image.fromarray(x) for x in images]),
    ):
        with pytest.raises(ValueError, match="y is None.*goes into y: y = ") as error:
            model.fit(X)
        line = str(error.value).split("into y: ")[1].removesuffix(".")
        if not isinstance(X, HuggingFace):
            scope = {"X": X}
            exec(line, scope)
            assert len(scope["y"]) == len(X)
            wanted = [row[1] for row in X]
            if hasattr(getattr(X, "dataset", X), "classes"):
                wanted = [named.classes[i] for i in wanted]
            assert scope["y"] == wanted
    assert line == "y = X['label']"


def test_a_broken_row_of_a_data_set(featurizer, images, expected):
    class Broken(Pairs):
        def __getitem__(self, index):
            if index == 2:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    with pytest.raises(ImageReadError, match="index 2 of X could.*disk on fire"):
        featurizer.transform(Broken(images))
    model = CLIPFeaturizer(featurizer.model_name, on_error="nan")
    with pytest.warns(UserWarning, match="1 of the images"):
        found = model.transform(Broken(images))
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(found[3:], expected[3:], **CLOSE)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.utils.data.DataLoader([1, 2]), "DataLoader.*X.dataset"),
        ({"image": [1], "label": [2]}, r"type dict.*X\[key\]"),
        ({"bytes": b"", "path": "a"}, r"single image.*\[image\]"),
        (b"\x89PNG", "single image"),
        (io.BytesIO(b"\x89PNG"), "single image"),
        (Path(__file__).parent, "load_folder"),
        ([("a.png", "b.png")], r"tuple \(str, str\).*y = \[target for"),
        ([{"label": 3}], r"keys \['label'\]"),
        ([torch.zeros(3, 4, 4)], "float32"),
        ([np.zeros((4, 4), np.uint16)], r"uint16.*/ white\).*4095 in 12"),
        ([[[1, 2], [3, 4]]], r"np.array\(image, dtype='uint8'\)"),
        (pl.LazyFrame({"image": [b""]}), "collect"),
        (np.array([b"a", b"b"]), "cuts zeros"),
        ([np.zeros((4, 4), bool)], r"bool.*255 \* image"),
    ],
)
def test_refused(featurizer, X, message):
    with pytest.raises(TypeError, match=message):
        featurizer.transform(X)


def test_tables_of_several_columns(featurizer):
    table = pa.table({"a": ["x"], "b": ["y"]})
    with pytest.raises(ValueError, match="table of 2 columns.*'image'"):
        featurizer.transform(table)


# What Pillow cannot read


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC.*pip install pillow-heif.*register"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "film"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM.*pydicom"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"%PDF-1.7", "PDF"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"", "it is empty"),
    ],
)
def test_formats_are_named_with_their_remedy(featurizer, tmp_path, content, remedy):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
    for item in (path, io.BytesIO(content), content, uri):
        with pytest.raises(ImageReadError, match=f"index 0 of X.*{remedy}"):
            featurizer.transform([item])


def test_urls_are_not_fetched(featurizer):
    with pytest.raises(ImageReadError, match="URLs are not fetched.*urlopen"):
        featurizer.transform(["https://localhost/a.png"])


@pytest.mark.parametrize("uri", ["data:image/png;base64,!!!", "data:image/png"])
def test_broken_data_uris(featurizer, uri):
    with pytest.raises(ImageReadError, match="a data URI of"):
        featurizer.transform([uri])


def test_long_strings_are_shortened(featurizer, contents):
    broken = uri_of(contents[0][:200] + bytes(20_000))
    with pytest.raises(ImageReadError, match="a string of 2[0-9],[0-9]{3} char") as e:
        featurizer.transform([broken])
    assert len(str(e.value)) < 400
    with pytest.raises(ImageReadError, match=r"\(9,000 characters\)") as e:
        featurizer.transform(["word " * 1800])
    assert len(str(e.value)) < 400


def test_errors_while_resizing_are_named(featurizer, images, monkeypatch, tmp_path):
    """Whatever goes wrong, it is the image at an index, or NaN."""
    from skfewshot.clip._passes import Preprocessor

    real = Preprocessor.to_pixels

    def fail(self, image):
        if image.size == (7, 7):
            raise ZeroDivisionError("float division by zero")
        return real(self, image)

    monkeypatch.setattr(Preprocessor, "to_pixels", fail)
    path = tmp_path / "seven.png"
    Image.new("RGB", (7, 7)).save(path)
    for cache in (None, tmp_path / "cache"):
        model = CLIPFeaturizer(featurizer.model_name, cache=cache)
        with pytest.raises(ImageReadError, match="index 1 of X, '.*seven.png'.*zero"):
            model.transform([images[0], path])
        with pytest.warns(UserWarning, match="1 of the images"):
            found = model.set_params(on_error="nan").transform([images[0], path])
        assert np.isnan(found).any(axis=1).tolist() == [False, True]


def test_an_empty_picture(featurizer, images):
    for empty in (Image.new("RGB", (0, 5)), images[0][:0]):
        with pytest.raises(ImageReadError, match="index 1 of X.*no pixels"):
            featurizer.transform([images[0], empty])
        model = CLIPFeaturizer(featurizer.model_name, on_error="nan")
        with pytest.warns(UserWarning, match="1 of the images"):
            assert np.isnan(model.transform([images[0], empty])[1]).all()
