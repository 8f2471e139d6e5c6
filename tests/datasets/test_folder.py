"""Folders of images: what is found, what is left out and told of, what is refused."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from skfewshot.datasets import check_images, load_folder


def write(folder, name, size=(8, 8)):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, "PNG")
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("cat/b.png", "cat/a.JPG", "dog/1.jpeg", "big_dog/x/y/2.PnG"):
        write(tmp_path / "images", name)
    return tmp_path / "images"


def names_of(data):
    return [os.path.basename(path) for path in data.paths]


def test_paths_and_names_in_order(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_folder(folder)
    assert data.names.tolist() == ["big_dog", "cat", "cat", "dog"]
    assert names_of(data) == ["2.PnG", "a.JPG", "b.png", "1.jpeg"]
    assert data.problems == []
    paths, names = data
    assert paths is data.paths
    assert names is data.names
    assert load_folder(str(folder)).paths.tolist() == data.paths.tolist()
    assert all(isinstance(path, str) for path in data.paths)


def test_what_is_found_can_be_embedded_and_learned(folder):
    from sklearn.pipeline import make_pipeline

    from skfewshot import CLIPFeaturizer, ZeroShotClassifier

    data = load_folder(folder)
    model = make_pipeline(CLIPFeaturizer("tiny"), ZeroShotClassifier())
    assert set(model.fit(data.paths, data.names).classes_) == {"big_dog", "cat", "dog"}


def test_hidden_files_are_passed_over(folder):
    for name in (".hidden/a.png", "cat/.a.png", "cat/._b.png", "__MACOSX/cat/b.png"):
        write(folder, name)
    (folder / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    data = load_folder(folder)
    assert len(data.paths) == 4
    assert data.problems == []


def test_problems_are_listed(folder):
    write(folder, "alone.png")
    (folder / "empty").mkdir()
    (folder / "cat" / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match="Left out of .*alone.png") as seen:
        data = load_folder(folder)
    assert seen[0].filename == __file__
    problems = "; ".join(data.problems)
    for told in ("'alone.png' beside", "'empty' has no images", "'notes.txt' in 'cat'"):
        assert told in problems
    assert len(data.paths) == 4


@pytest.mark.skipif(os.name != "posix", reason="Links.")
def test_links(folder):
    os.symlink(folder / "cat", folder / "tiger")
    os.symlink(folder, folder / "dog" / "loop")
    with pytest.warns(UserWarning, match="circle"):
        data = load_folder(folder)
    assert (data.names == "tiger").sum() == 2
    assert (data.names == "dog").sum() == 1


def test_odd_names(tmp_path):
    for name in ("a [1]/ü ñ.png", "1/2.png", "c.png/x.png"):
        write(tmp_path, name)
    data = load_folder(tmp_path)
    assert data.names.tolist() == ["1", "a [1]", "c.png"]
    assert check_images(data.paths) == {}


def test_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder path="):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file"):
        load_folder(folder / "cat" / "b.png")
    with pytest.raises(ValueError, match="no images in folders.*lie in it"):
        load_folder(folder / "cat")
    (tmp_path / "bare" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="no images in folders"):
        load_folder(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"one folder alone, 'images'.*Then load"):
        load_folder(wrapped(folder))


def wrapped(folder):
    """Put a folder into another one, as zip files do."""
    outer = folder.parent / "unpacked"
    outer.mkdir()
    folder.rename(outer / "images")
    return outer


def test_parts_are_no_classes(tmp_path):
    for part in ("train", "Val"):
        for name in ("cat", "dog"):
            write(tmp_path, f"{part}/{name}/1.png")
    with pytest.raises(ValueError, match=r"'train'.*parts of a data set"):
        load_folder(tmp_path)
    assert load_folder(tmp_path / "train").names.tolist() == ["cat", "dog"]


@pytest.mark.parametrize("num_workers", [None, 1, 3])
def test_broken_images_are_found(folder, num_workers):
    whole = load_folder(folder).paths.tolist()
    content = open(whole[0], "rb").read()
    half = folder / "cat" / "half.png"
    half.write_bytes(content[: len(content) // 2])
    text = folder / "cat" / "text.jpg"
    text.write_text("<html>")
    grey = np.zeros((4, 4), np.uint16)
    X = [*whole, half, text, "missing.png", None, grey, np.zeros((4, 4), np.uint8)]
    found = check_images(X, num_workers)
    n = len(whole)
    assert list(found) == [n, n + 1, n + 2, n + 3, n + 4]
    for index, told in zip(
        found,
        ("half.png", "web page", "missing.png", "is missing", "uint16"),
        strict=True,
    ):
        assert f"index {index} of X" in found[index]
        assert told in found[index]


def test_images_of_all_kinds_are_checked(folder):
    contents = [open(path, "rb").read() for path in load_folder(folder).paths]
    assert check_images(contents) == {}
    assert check_images(iter(contents)) == {}
    with pytest.raises(TypeError, match="single image"):
        check_images("a.png")
    with pytest.raises(ValueError, match="num_workers"):
        check_images(contents, 0)
