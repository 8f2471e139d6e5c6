"""The sets whose images show several labels: COCO, VOC2007, NUS-WIDE, iMaterialist."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user
from skfewshot.datasets.benchmarks._files import (
    first_of,
    make_benchmark,
    read_json,
    read_lines,
    read_table,
    reading,
)
from skfewshot.datasets.benchmarks._source import Benchmark, Source

_COCO_YEARS = ("2014", "2017")
#: The class names of VOC in its files; where prompts want others, those.
_VOC_NAMES = {
    **dict.fromkeys(("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car")),
    **dict.fromkeys(("cat", "chair", "cow")),
    "diningtable": "dining table",
    **dict.fromkeys(("dog", "horse", "motorbike", "person")),
    "pottedplant": "potted plant",
    **dict.fromkeys(("sheep", "sofa", "train")),
    "tvmonitor": "tv monitor",
}
_IMATERIALIST_NAMES = "iMat_fashion_2018_label_map_228.csv"


def _read_coco(root: Path) -> Benchmark:
    """Read COCO of 2014, or of 2017 where that alone is there.

    "test" is what COCO calls val, since the labels of its test images are not public.
    An image shows a label if one object of it is marked, be it as a crowd.
    """
    folder = first_of(root, "COCO", "coco")
    places = [f"annotations/instances_train{year}.json" for year in _COCO_YEARS]
    year = first_of(folder, *places).stem[-4:]
    listed, labels, names = {}, [], list[list[str]]()
    for split, called in (("train", "train"), ("val", "test")):
        path = folder / "annotations" / f"instances_{split}{year}.json"
        images = first_of(folder, f"{split}{year}", f"images/{split}{year}")
        content = read_json(path)
        with reading(path):
            files, shown, categories = _read_instances(content)
        listed[called] = [str(images / file) for file in files]
        labels.append(shown)
        names.append(categories)
    if names[0] != names[1]:
        raise ValueError(f"{path} has other categories than the training images have.")
    return make_benchmark(folder, listed, np.concatenate(labels), names[0])


def _read_instances(content: Any) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """Return the file names, labels and label names of COCO's format of instances."""
    categories = sorted(content["categories"], key=lambda entry: entry["id"])
    columns = {entry["id"]: at for at, entry in enumerate(categories)}
    rows = {entry["id"]: at for at, entry in enumerate(content["images"])}
    labels = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for entry in content["annotations"]:
        labels[rows[entry["image_id"]], columns[entry["category_id"]]] = 1
    files = [entry["file_name"] for entry in content["images"]]
    return files, labels, [entry["name"] for entry in categories]


def _read_voc(root: Path) -> Benchmark:
    """Read the classification task of VOC2007.

    An object that is marked as difficult is shown, as it is in most papers on several
    labels; VOC's own evaluation leaves out the images where all of a class are.
    """
    folder = first_of(root, "VOCdevkit/VOC2007")
    listed, labels = {}, []
    for split in ("train", "val", "test"):
        images, columns = list[str](), []
        for name in _VOC_NAMES:
            path = folder / "ImageSets" / "Main" / f"{name}_{split}.txt"
            lines = read_lines(path)
            with reading(path):
                entries = [line.split() for line in lines]
                found = [image for image, _ in entries]
                columns.append([int(value) >= 0 for _, value in entries])
                if images and found != images:
                    raise ValueError("it lists other images than another class does")
            images = found
        listed[split] = [f"JPEGImages/{image}.jpg" for image in images]
        labels.append(np.array(columns, dtype=np.int64).T)
    names = [spoken or name for name, spoken in _VOC_NAMES.items()]
    return make_benchmark(folder, listed, np.concatenate(labels), names)


def _read_nus_wide(root: Path) -> Benchmark:
    """Read NUS-WIDE with its 81 concepts; images that are not there are left out."""
    folder = first_of(root, "NUS-WIDE", "nus-wide", "NUS_WIDE", "nus_wide")
    names = read_lines(
        first_of(folder, "ConceptsList/Concepts81.txt", "Concepts81.txt")
    )
    listed, labels = {}, []
    for split in ("Train", "Test"):
        path = folder / "ImageList" / f"{split}Imagelist.txt"
        # The lists were written on Windows.
        files = [f"Flickr/{line}".replace("\\", "/") for line in read_lines(path)]
        columns = []
        for name in names:
            place = f"Groundtruth/TrainTestLabels/Labels_{name}_{split}.txt"
            lines = read_lines(folder / place)
            with reading(folder / place):
                columns.append([int(line) for line in lines])
                if len(columns[-1]) != len(files) or not {0, 1}.issuperset(columns[-1]):
                    raise ValueError(f"wanted {len(files)} lines of 0 or 1")
        found = _those_there(folder, files, path)
        listed[split.lower()] = [files[row] for row in found]
        labels.append(np.array(columns, dtype=np.int64).T[found])
    return make_benchmark(folder, listed, np.concatenate(labels), names)


def _read_imaterialist(root: Path) -> Benchmark:
    """Read iMaterialist (Fashion) of 2018; images that are not there are left out.

    "test" are its validation images, as the labels of its test images are not public.
    """
    folder = first_of(root, "iMaterialist", "imaterialist")
    path = first_of(folder, _IMATERIALIST_NAMES)
    entries = read_table(path, "labelId", "labelName")
    with reading(path):
        entries.sort(key=lambda entry: int(entry["labelId"]))
        columns = {int(entry["labelId"]): at for at, entry in enumerate(entries)}
    listed, labels = {}, []
    for split, called in (("train", "train"), ("validation", "test")):
        path = folder / f"{split}.json"
        content = read_json(path)
        with reading(path):
            rows = {str(e["imageId"]): at for at, e in enumerate(content["images"])}
            shown = np.zeros((len(rows), len(columns)), dtype=np.int64)
            for entry in content["annotations"]:
                of_image = [columns[int(label)] for label in entry["labelId"]]
                shown[rows[str(entry["imageId"])], of_image] = 1
        files = [f"{split}/{image}.jpg" for image in rows]
        found = _those_there(folder, files, path)
        listed[called] = [files[row] for row in found]
        labels.append(shown[found])
    names = [entry["labelName"] for entry in entries]
    return make_benchmark(folder, listed, np.concatenate(labels), names)


def _those_there(folder: Path, files: list[str], path: Path) -> list[int]:
    """Return which listed images are there, and say how many are not.

    They lie on servers of others, which lose some of them every year.
    """
    inside = {name: set[str]() for name in map(os.path.dirname, files)}
    for name in inside:
        if (folder / name).is_dir():
            inside[name] = set(os.listdir(folder / name))
    there = [os.path.basename(file) in inside[os.path.dirname(file)] for file in files]
    if not any(there):
        raise FileNotFoundError(
            f"none of the {len(files)} images that {path} lists is there, such as "
            f"{folder / files[0]}."
        )
    if not all(there):
        warn_user(
            f"{there.count(False)} of the {len(files)} images that {path} lists are "
            "not there and are left out."
        )
    return np.flatnonzero(there).tolist()


SOURCES = (
    Source(
        "COCO",
        "train2014.zip and val2014.zip (http://images.cocodataset.org/zips/) and "
        "http://images.cocodataset.org/annotations/annotations_trainval2014.zip, or "
        "those of 2017,",
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
            "VOCdevkit/VOC2007/ImageSets/Main/*.txt and "
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
            "NUS-WIDE/ConceptsList/Concepts81.txt, NUS-WIDE/ImageList/*.txt, "
            "NUS-WIDE/Groundtruth/TrainTestLabels/*.txt and NUS-WIDE/Flickr/*/*.jpg",
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
            f"iMaterialist/train.json, iMaterialist/validation.json, "
            f"iMaterialist/{_IMATERIALIST_NAMES}, iMaterialist/train/<imageId>.jpg and "
            "iMaterialist/validation/<imageId>.jpg",
        ),
        _read_imaterialist,
    ),
)
