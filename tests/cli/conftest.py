"""Folders of rendered images, and a model that was fitted on one by the command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skfewshot.cli import main
from skfewshot.datasets import make_object_images, make_scenes

KINDS = ["striped star", "plain heart", "checked ring"]


def write_images(folder, n, kinds=KINDS, seed=0, flat=False):
    """Write n images of each kind, in folders of their own unless flat."""
    images, names = make_object_images(
        n, kinds=kinds, random_state=seed, return_X_y=True
    )
    paths = []
    for index, (pixels, name) in enumerate(zip(images, names, strict=True)):
        inner = folder if flat else folder / name.replace(" ", "_")
        inner.mkdir(parents=True, exist_ok=True)
        paths.append(inner / f"{index:03}.png")
        Image.fromarray(np.asarray(pixels)).save(paths[-1])
    return paths, names


@pytest.fixture(scope="session")
def write():
    return write_images


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with a folder for each class."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 5)
    return folder


@pytest.fixture(scope="session")
def new(tmp_path_factory):
    """A folder of six new images, one that is damaged, and a note."""
    folder = tmp_path_factory.mktemp("new")
    write_images(folder, 2, seed=1, flat=True)
    (folder / "damaged.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder of scenes, and a table of their tags beside it."""
    folder = tmp_path_factory.mktemp("scenes")
    made = make_scenes(16, kinds=KINDS, random_state=0)
    lines = ["Path,Tags"]
    for index, (pixels, row) in enumerate(zip(made.images, made.labels, strict=True)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
        tags = "; ".join(kind for kind, has in zip(KINDS, row, strict=True) if has)
        lines.append(f'{index}.png,"{tags}"')
    (folder / "tags.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return folder


@pytest.fixture(scope="session")
def model(photos, tmp_path_factory):
    """The path of a model of the photos."""
    path = tmp_path_factory.mktemp("models") / "model.skops"
    assert main(["fit", str(photos), "-o", str(path), "--model", "tiny", "-q"]) == 0
    return path


@pytest.fixture
def in_folder(tmp_path, monkeypatch) -> Path:
    """A new folder, where the command is called."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
