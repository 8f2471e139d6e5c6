"""Paths that are no ordinary files or folders, or that no file can have."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skfewshot.clip import ImageReadError
from skfewshot.clip._images import read_content, read_image
from skfewshot.multilabel import MultiLabelPrototypePrior

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX names and files.")


class OwnPath(type(Path())):
    """A path of a class of its own."""


class BytesPath:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fsencode(self.path)


@pytest.fixture
def odd_paths(tmp_path):
    """Paths where no image is, by what they are."""
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nowhere", tmp_path / "dangling")
    (tmp_path / "folder").mkdir()
    return {
        **{name: tmp_path / name for name in os.listdir(tmp_path)},
        "nothing": "/dev/null",
        "NUL": "a\0b",
        "long": "a" * 5000,
        "surrogate": "\udcff\ud800.png",
        "URL": "http://localhost/a.png",
        "empty": "",
        "home": "~/there is no such image.png",
    }


@pytest.mark.parametrize("cached", [False, True])
def test_no_image_there(featurizer, images, odd_paths, tmp_path, cached):
    featurizer.set_params(on_error="nan", cache=tmp_path / "cache" if cached else None)
    X = [images[0], *odd_paths.values()]
    with pytest.warns(UserWarning, match="10 of the images could not be read"):
        found = featurizer.transform(X)
    assert np.isnan(found).any(axis=1).tolist() == [False] + [True] * 10


def test_errors_name_the_path(odd_paths):
    for path in odd_paths.values():
        for read in (read_image, lambda *item: read_content(*item)[1]()):
            with pytest.raises(ImageReadError) as caught:
                read(path, 5)
            shown = repr(os.fspath(path)[:80]).removesuffix("'")
            assert f"index 5 of X, {shown}" in str(caught.value)
            assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", [str, Path, OwnPath, BytesPath, np.str_])
@pytest.mark.parametrize("name", ["a.png", "\udcff.png", "ü ñ\n;.png", "a" * 250])
def test_names_that_a_file_may_have(
    featurizer, images, expected, tmp_path, monkeypatch, kind, name
):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(images[0]).save(tmp_path / name, "PNG")
    for path in (name, tmp_path / name):
        given = kind(os.fspath(path))
        for cache in (None, tmp_path / "cache"):
            found = featurizer.set_params(cache=cache).transform([given])
            np.testing.assert_allclose(found, expected[:1], atol=2e-6, rtol=0)


def test_an_image_that_may_not_be_read(open_folder, without_rights):
    path = open_folder / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    path.chmod(0)
    without_rights()
    for read in (read_image, read_content):
        with pytest.raises(ImageReadError, match="Permission denied"):
            read(path, 0)


# Caches and weights


@pytest.mark.parametrize("name", ["loop", "nothing", "NUL", "long"])
def test_no_cache_there(featurizer, images, odd_paths, name):
    featurizer.set_params(cache=odd_paths[name])
    with pytest.raises((ValueError, OSError), match="cache="):
        featurizer.transform(images)


@pytest.mark.parametrize(
    "name", ["~there_is_no_such_user/a", "s3://bucket/cache", "/proc/cache", "a.png/b"]
)
def test_folders_that_cannot_be(featurizer, images, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises((ValueError, OSError), match=f"cache='{name}"):
        featurizer.set_params(cache=name).transform(images)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_drive_is_no_address(featurizer, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    featurizer.set_params(cache="C://cache").transform(images)
    assert (tmp_path / "C:" / "cache").is_dir()


@pytest.mark.parametrize("name", ["loop", "folder"])
def test_no_file_of_a_cache_there(featurizer, images, odd_paths, tmp_path, name):
    folder = tmp_path / "cache"
    folder.mkdir()
    os.symlink(odd_paths[name], folder / "embeddings.sqlite")
    with pytest.raises(OSError, match="The cache '.*/.*' could not be opened"):
        featurizer.set_params(cache=folder).transform(images)


def test_a_cache_by_other_names_is_one(featurizer, images, expected, tmp_path):
    folder = tmp_path / "cache"
    featurizer.set_params(cache=folder).transform(images)
    os.symlink(folder, tmp_path / "link")
    for name in (f"{tmp_path}/none/../cache", tmp_path / "link", OwnPath(folder)):
        (tmp_path / "none").mkdir(exist_ok=True)
        found = featurizer.set_params(cache=name).transform(images)
        np.testing.assert_array_equal(found, featurizer.transform(images))
        np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)
    assert len(list(tmp_path.rglob("*.sqlite"))) == 1


def test_no_weights_there(featurizer, images, odd_paths):
    for path in odd_paths.values():
        for params in (
            {"model_name": "ViT-B-32", "pretrained": os.fspath(path) or None},
            {"model_name": f"local-dir:{os.fspath(path)}"},
        ):
            if path == "http://localhost/a.png" and "pretrained" in params:
                continue
            featurizer.set_params(**{"pretrained": None, **params})
            with pytest.raises((ValueError, OSError)):
                featurizer.transform(images)
    with pytest.raises(FileNotFoundError, match="no '~there_is_no_such_user"):
        featurizer.set_params(model_name="local-dir:~there_is_no_such_user/a").load()


def test_no_prior_there(odd_paths):
    for path in odd_paths.values():
        with pytest.raises((ValueError, OSError)):
            MultiLabelPrototypePrior.load(path)
