"""ImageNet and its shifts, whose labels are indices of the same 1,000 names."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from skfewshot.datasets.benchmarks._files import (
    first_of,
    list_classes,
    read_lines,
    read_matlab,
    read_table,
    reading,
    require,
)
from skfewshot.datasets.benchmarks._source import Benchmark, Source

#: The official archive that has the labels of the validation images.
DEVKIT = "ILSVRC2012_devkit_t12"


def class_names() -> list[str]:
    """Return the 1,000 class names, those of CLIP's own prompts."""
    import open_clip

    return list(open_clip.IMAGENET_CLASSNAMES)


@cache
def wordnet_labels() -> Mapping[str, int]:
    """Return the label of each WordNet ID, such as "n01440764", which are in order."""
    from timm.data import ImageNetInfo

    IDs = sorted(ImageNetInfo().label_names())
    return MappingProxyType({ID: label for label, ID in enumerate(IDs)})


def _read_imagenet(root: Path) -> Benchmark:
    train = first_of(first_of(root, "imagenet"), *_TRAIN)
    labels = wordnet_labels()
    images, y = list_classes(train, labels)
    val = require(train.parent / "val")
    if any((val / ID).is_dir() for ID in labels):
        test_images, test_y = list_classes(val, labels)
    else:
        test_images, test_y = _flat(val, root / "imagenet", labels)
    for folder, there, wanted in ((train, y, test_y), (val, test_y, y)):
        absent = set(wanted.tolist()) - set(there.tolist())
        if absent:
            first = next(ID for ID, label in labels.items() if label in absent)
            raise FileNotFoundError(
                f"{folder} has no images of {len(absent)} of the classes that its "
                f"neighbour has, such as {first}."
            )
    splits = {
        "train": np.arange(len(y), dtype=np.int64),
        "test": np.arange(len(y), len(y) + len(test_y), dtype=np.int64),
    }
    return Benchmark(
        images + test_images, np.concatenate([y, test_y]), class_names(), splits
    )


def _flat(
    folder: Path, base: Path, labels: Mapping[str, int]
) -> tuple[list[str], NDArray[np.int64]]:
    """Return images that lie in one folder, labelled by Kaggle's list or the devkit."""
    images = sorted(folder.glob("ILSVRC2012_val_*.JPEG"))
    if not images:
        require(folder / "ILSVRC2012_val_00000001.JPEG")
    listed, answers = _answers(base)
    with reading(listed):
        y = [labels[answers[image.stem]] for image in images]
    return [str(image) for image in images], np.array(y, dtype=np.int64)


def _answers(base: Path) -> tuple[Path, dict[str, str]]:
    """Return a file, and the WordNet ID it gives each validation image by its stem."""
    found = first_of(base, "LOC_val_solution.csv", DEVKIT)
    if found.is_file():
        rows = read_table(found, "ImageId", "PredictionString")
        with reading(found):
            return found, {
                row["ImageId"]: row["PredictionString"].split()[0] for row in rows
            }
    synsets = read_matlab(found / "data" / "meta.mat", "synsets")
    truth = found / "data" / "ILSVRC2012_validation_ground_truth.txt"
    lines = read_lines(truth)
    with reading(truth):
        known = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return truth, {
            f"ILSVRC2012_val_{number:08d}": known[int(line)]
            for number, line in enumerate(lines, 1)
        }


def _shift(*places: str, numbered: bool = False) -> Callable[[Path], Benchmark]:
    """Return the reader of a set of class folders, all of it test."""

    def read(root: Path) -> Benchmark:
        folders = wordnet_labels()
        if numbered:
            folders = {str(label): label for label in folders.values()}
        images, y = list_classes(first_of(root, *places), folders)
        return Benchmark(images, y, class_names(), {"test": np.arange(len(y))})

    return read


#: Where the training images may lie in ``imagenet``: CoOp, torchvision, Kaggle.
_TRAIN = ("images/train", "train", "ILSVRC/Data/CLS-LOC/train")
_V2 = "imagenetv2-matched-frequency-format-val"

IMAGENET = Source(
    "ImageNet",
    "the training and validation images of ILSVRC 2012 from "
    "https://image-net.org/download.php (or https://www.kaggle.com/c/"
    "imagenet-object-localization-challenge)",
    tuple(f"imagenet/{place}" for place in _TRAIN),
    _read_imagenet,
    "The folder val is to lie beside train.",
)

SHIFTS = (
    Source(
        "ImageNetV2",
        "imagenetv2-matched-frequency.tar.gz from "
        "https://huggingface.co/datasets/vaishaal/ImageNetV2",
        (f"imagenetv2/{_V2}", _V2),
        _shift(f"imagenetv2/{_V2}", _V2, numbered=True),
    ),
    Source(
        "ImageNet-Sketch",
        "ImageNet-Sketch.zip from https://github.com/HaohanWang/ImageNet-Sketch",
        ("imagenet-sketch/images", "imagenet-sketch/sketch", "sketch"),
        _shift("imagenet-sketch/images", "imagenet-sketch/sketch", "sketch"),
    ),
    Source(
        "ImageNet-A",
        "imagenet-a.tar from https://github.com/hendrycks/natural-adv-examples",
        ("imagenet-adversarial/imagenet-a", "imagenet-a"),
        _shift("imagenet-adversarial/imagenet-a", "imagenet-a"),
    ),
    Source(
        "ImageNet-R",
        "imagenet-r.tar from https://github.com/hendrycks/imagenet-r",
        ("imagenet-rendition/imagenet-r", "imagenet-r"),
        _shift("imagenet-rendition/imagenet-r", "imagenet-r"),
    ),
)
