"""The sets whose images show several labels: COCO, VOC2007, NUS-WIDE, iMaterialist."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user
from skfewshot.datasets.benchmarks._source import Benchmark, Source

#: A list of images, and which labels each shows, as columns.
Listed = tuple[list[str], NDArray[np.int64]]

_COCO_YEARS = ("2014", "2017")
#: The class names of VOC in its files, and as prompts want them.
_VOC_NAMES = {
    **{name: name for name in ("aeroplane", "bicycle", "bird", "boat", "bottle")},
    **{name: name for name in ("bus", "car", "cat", "chair", "cow")},
    "diningtable": "dining table",
    **{name: name for name in ("dog", "horse", "motorbike", "person")},
    "pottedplant": "potted plant",
    **{name: name for name in ("sheep", "sofa", "train")},
    "tvmonitor": "tv monitor",
}
_IMATERIALIST_NAMES = "iMat_fashion_2018_label_map_228.csv"


def _read_coco(root: Path) -> Benchmark:
    """Read COCO of 2014, or of 2017 where that alone is there.

    "test" is what COCO calls val, since the labels of its test images are not public.
    An image shows a label if one object of it is marked, be it as a crowd.
    """
    folder = _folder(root, "COCO", "coco")
    years = [year for year in _COCO_YEARS if _instances(folder, "train", year).exists()]
    year = years[0] if years else _COCO_YEARS[0]
    parts, names = [], list[str]()
    for split in ("train", "val"):
        path = _instances(folder, split, year)
        place = folder / f"{split}{year}"
        place = place if place.exists() else folder / "images" / f"{split}{year}"
        with _told(path):
            files, labels, found = _read_instances(_json(path))
        if names and names != found:
            raise ValueError(f"{path} has other categories than its training images.")
        names = found
        parts.append((_all_there(place, files, path), labels))
    return _joined(names, train=parts[0], test=parts[1])


def _instances(folder: Path, split: str, year: str) -> Path:
    return folder / "annotations" / f"instances_{split}{year}.json"


def _read_instances(content: Any) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """Return the file names, labels and label names of COCO's format of instances."""
    categories = sorted(content["categories"], key=lambda entry: int(entry["id"]))
    columns = {int(entry["id"]): at for at, entry in enumerate(categories)}
    rows = {entry["id"]: at for at, entry in enumerate(content["images"])}
    labels = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for entry in content["annotations"]:
        labels[rows[entry["image_id"]], columns[int(entry["category_id"])]] = 1
    files = [str(entry["file_name"]) for entry in content["images"]]
    return files, labels, [str(entry["name"]) for entry in categories]


def _read_voc(root: Path) -> Benchmark:
    """Read the classification task of VOC2007.

    An object that is marked as difficult is shown, as it is for most papers on several
    labels; VOC's own evaluation leaves such images out.
    """
    folder = root / "VOCdevkit" / "VOC2007"
    lists = folder / "ImageSets" / "Main"
    splits = {}
    for split in ("train", "val", "test"):
        columns, images = [], list[str]()
        for name in _VOC_NAMES:
            path = lists / f"{name}_{split}.txt"
            with _told(path):
                entries = [line.split() for line in _lines(path)]
                found, told = (list(part) for part in zip(*entries, strict=True))
                if images and found != images:
                    raise ValueError("its images are not those of the other classes")
                images = found
                columns.append([int(value) >= 0 for value in told])
        files = [f"{image}.jpg" for image in images]
        labels = np.array(columns, dtype=np.int64).T
        splits[split] = (_all_there(folder / "JPEGImages", files, path), labels)
    return _joined(list(_VOC_NAMES.values()), **splits)


def _read_nus_wide(root: Path) -> Benchmark:
    """Read NUS-WIDE with its 81 concepts; images that Flickr has no more are left out.
    """
    folder = _folder(root, "NUS-WIDE", "nuswide", "nus_wide", "NUS_WIDE")
    concepts = folder / "ConceptsList" / "Concepts81.txt"
    concepts = concepts if concepts.exists() else folder / "Concepts81.txt"
    names = _lines(concepts)
    splits = {}
    for split in ("Train", "Test"):
        path = folder / "ImageList" / f"{split}Imagelist.txt"
        # The lists were written on Windows.
        files = [line.replace("\\", "/") for line in _lines(path)]
        columns = [
            _flags(folder / "Groundtruth" / "TrainTestLabels", name, split, len(files))
            for name in names
        ]
        labels = np.stack(columns, axis=1)
        splits[split.lower()] = _those_there(folder / "Flickr", files, path, labels)
    return _joined(names, **splits)


def _flags(folder: Path, concept: str, split: str, n_images: int) -> NDArray[np.int64]:
    """Return which images of a split show a concept."""
    path = folder / f"Labels_{concept}_{split}.txt"
    with _told(path):
        flags = np.array([int(line) for line in _lines(path)], dtype=np.int64)
        if len(flags) != n_images or not np.isin(flags, (0, 1)).all():
            raise ValueError(f"wanted {n_images} lines of 0 or 1")
    return flags


def _read_imaterialist(root: Path) -> Benchmark:
    """Read iMaterialist (Fashion) of 2018; images that could not be had are left out.

    "test" are its validation images, since the labels of its test images are not public.
    """
    folder = _folder(root, "iMaterialist", "imaterialist")
    with _told(folder / _IMATERIALIST_NAMES):
        text = _lines(folder / _IMATERIALIST_NAMES)
        entries = sorted(csv.DictReader(text), key=lambda entry: int(entry["labelId"]))
        columns = {int(entry["labelId"]): at for at, entry in enumerate(entries)}
        names = [entry["labelName"] for entry in entries]
    splits = {}
    for split, called in (("train", "train"), ("validation", "test")):
        path = folder / f"{split}.json"
        with _told(path):
            content = _json(path)
            rows = {str(e["imageId"]): at for at, e in enumerate(content["images"])}
            labels = np.zeros((len(rows), len(columns)), dtype=np.int64)
            for entry in content["annotations"]:
                shown = [columns[int(label)] for label in entry["labelId"]]
                labels[rows[str(entry["imageId"])], shown] = 1
        files = [f"{image}.jpg" for image in rows]
        splits[called] = _those_there(folder / split, files, path, labels)
    return _joined(names, **splits)


def _folder(root: Path, *names: str) -> Path:
    """Return the folder of a set: the first of some names that is there."""
    places = [root / name for name in names]
    return next((place for place in places if place.is_dir()), places[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is not there.") from None


def _lines(path: Path) -> list[str]:
    """Return the lines of a file that hold something."""
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _json(path: Path) -> Any:
    return json.loads(_text(path))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the file that does not say what it should."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not as the set has it: {type(error).__name__}, {error}."
        ) from error


def _located(folder: Path, files: list[str], told: Path) -> tuple[list[str], list[bool]]:
    """Return the paths of listed images, and which of them are there.

    Each folder is listed once: to ask for each file would take minutes on some disks.
    """
    inside: dict[Path, set[str]] = {}
    paths, there = [], []
    for file in files:
        parts = PurePosixPath(file)
        if parts.is_absolute() or ".." in parts.parts or "\\" in file or ":" in file:
            raise ValueError(f"{told} lists {file!r}, which leads out of {folder}.")
        path = folder / parts
        if path.parent not in inside:
            is_folder = path.parent.is_dir()
            inside[path.parent] = set(os.listdir(path.parent)) if is_folder else set()
        paths.append(str(path))
        there.append(path.name in inside[path.parent])
    return paths, there


def _all_there(folder: Path, files: list[str], told: Path) -> list[str]:
    """Return the paths of listed images, all of which must be there."""
    paths, there = _located(folder, files, told)
    if not all(there):
        raise FileNotFoundError(
            f"{there.count(False)} of {len(files)} images that {told} lists are not "
            f"there, first {paths[there.index(False)]}."
        )
    return paths


def _those_there(
    folder: Path, files: list[str], told: Path, labels: NDArray[np.int64]
) -> Listed:
    """Return the listed images that are there, and say how many are not."""
    paths, there = _located(folder, files, told)
    if not any(there):
        raise FileNotFoundError(f"None of the images that {told} lists is in {folder}.")
    if not all(there):
        warn_user(
            f"{there.count(False)} of {len(files)} images that {told} lists are not "
            "there; they are left out."
        )
    kept = np.flatnonzero(there)
    return [paths[row] for row in kept], labels[kept]


def _joined(names: list[str], **parts: Listed) -> Benchmark:
    """Put the splits one after the other."""
    ends = np.cumsum([len(images) for images, _ in parts.values()])
    rows = np.split(np.arange(ends[-1], dtype=np.int64), ends[:-1])
    return Benchmark(
        [image for images, _ in parts.values() for image in images],
        np.concatenate([labels for _, labels in parts.values()]),
        names,
        dict(zip(parts, rows, strict=True)),
    )


SOURCES = (
    Source(
        "COCO",
        "train2014.zip and val2014.zip (http://images.cocodataset.org/zips/) and "
        "http://images.cocodataset.org/annotations/annotations_trainval2014.zip (those "
        "of 2017 serve too)",
        (
            "COCO/annotations/instances_train2014.json, COCO/train2014/*.jpg and "
            "COCO/val2014/*.jpg",
        ),
        _read_coco,
    ),
    Source(
        "VOC2007",
        "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar "
        "(http://host.robots.ox.ac.uk/pascal/VOC/voc2007/)",
        (
            "VOCdevkit/VOC2007/ImageSets/Main/dog_train.txt and "
            "VOCdevkit/VOC2007/JPEGImages/*.jpg",
        ),
        _read_voc,
    ),
    Source(
        "NUS-WIDE",
        "Groundtruth, ImageList, ConceptsList and the images "
        "(https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/"
        "NUS-WIDE.html)",
        (
            "NUS-WIDE/ConceptsList/Concepts81.txt, NUS-WIDE/ImageList/"
            "TrainImagelist.txt, NUS-WIDE/Groundtruth/TrainTestLabels/*.txt and "
            "NUS-WIDE/Flickr/*/*.jpg",
        ),
        _read_nus_wide,
    ),
    Source(
        "iMaterialist",
        "train.json and validation.json of the Kaggle challenge iMaterialist (Fashion) "
        "of 2018 (https://www.kaggle.com/c/imaterialist-challenge-fashion-2018), the "
        f"images that they give the addresses of, and {_IMATERIALIST_NAMES} "
        "(https://github.com/visipedia/imat_fashion_comp)",
        (
            f"iMaterialist/train.json, iMaterialist/{_IMATERIALIST_NAMES} and "
            "iMaterialist/train/<imageId>.jpg, iMaterialist/validation/<imageId>.jpg",
        ),
        _read_imaterialist,
    ),
)
