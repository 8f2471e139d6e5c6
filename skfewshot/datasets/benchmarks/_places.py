"""Sets of places, textures, land and actions, one label an image."""

import re
from pathlib import Path

from skfewshot.datasets.benchmarks._files import (
    PARTS,
    deal,
    first_of,
    list_classes,
    make_benchmark,
    photos,
    read_lines,
    reading,
    require,
    spoken,
)
from skfewshot.datasets.benchmarks._source import Benchmark

#: EuroSAT's folders, and what papers call them.
LAND = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "herbaceous vegetation land",
    "Highway": "highway or road",
    "Industrial": "industrial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "River": "river",
    "SeaLake": "sea or lake",
}


def _sun(folder: Path, images: Path) -> Benchmark:
    index = first_of(folder, "ClassName.txt", "SUN397/ClassName.txt")
    classes = [name.strip("/") for name in read_lines(index)]
    number = {name: label for label, name in enumerate(classes)}
    listed: dict[str, list[str]] = {}
    labels: list[int] = []
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        # "/a/apse/indoor/sun_aalkwctzumlmmmvb.jpg"
        listed[split] = [line.lstrip("/") for line in read_lines(folder / file)]
        with reading(folder / file):
            labels += [number[path.rpartition("/")[0]] for path in listed[split]]
    # "a/apse/indoor" is an indoor apse.
    words = [spoken(" ".join(reversed(name.split("/")[1:]))) for name in classes]
    return make_benchmark(images, listed, labels, words)


def _textures(folder: Path, images: Path) -> Benchmark:
    lists = images.parent / "labels"
    listed = {part: read_lines(lists / f"{part}1.txt") for part in PARTS}
    owners = [path.rpartition("/")[0] for paths in listed.values() for path in paths]
    classes = sorted(set(owners))
    number = {name: label for label, name in enumerate(classes)}
    labels = [number[name] for name in owners]
    return make_benchmark(images, listed, labels, map(spoken, classes))


def _land(folder: Path, images: Path) -> Benchmark:
    for name in LAND:
        require(images / name)
    paths, y = list_classes(images, {name: label for label, name in enumerate(LAND)})
    return Benchmark(paths, y, list(LAND.values()), deal(images, paths, y))


def _actions(folder: Path, images: Path) -> Benchmark:
    lists = first_of(folder, "ucfTrainTestlist")
    lines = read_lines(lists / "classInd.txt")
    with reading(lists / "classInd.txt"):
        number = {line.split()[1]: int(line.split()[0]) - 1 for line in lines}
        if sorted(number.values()) != list(range(len(number))):
            raise ValueError("the labels must be 1, 2, ...")
    listed: dict[str, list[str]] = {}
    labels: list[int] = []
    for split, file in (("train", "trainlist01.txt"), ("test", "testlist01.txt")):
        with reading(lists / file):
            # "YoYo/v_YoYo_g08_c01.avi 101", whose frame is "Yo_Yo/v_YoYo_g08_c01.jpg".
            videos = [line.split()[0].split("/") for line in read_lines(lists / file)]
            labels += [number[action] for action, _ in videos]
            listed[split] = [
                f"{_words(action)}/{Path(video).stem}.jpg" for action, video in videos
            ]
    names = sorted(number, key=number.__getitem__)
    return make_benchmark(images, listed, labels, (spoken(_words(n)) for n in names))


def _words(action: str) -> str:
    """Return "Apply_Eye_Makeup" for "ApplyEyeMakeup"."""
    return "_".join(re.findall("[A-Z][^A-Z]*", action))


SUN = photos(
    "SUN397",
    "SUN397.tar.gz and, for Training_01.txt and Testing_01.txt in the same folder, "
    "Partitions.zip from https://vision.princeton.edu/projects/2010/SUN/",
    ("sun397", "SUN397"),
    ("SUN397", "."),
    _sun,
    zhou="split_zhou_SUN397.json",
)
TEXTURES = photos(
    "DTD",
    "dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    ("dtd",),
    ("images", "dtd/images"),
    _textures,
    zhou="split_zhou_DescribableTextures.json",
)
LAND_USE = photos(
    "EuroSAT",
    "EuroSAT_RGB.zip from https://zenodo.org/records/7711810 (once EuroSAT.zip)",
    ("eurosat",),
    ("2750", "EuroSAT_RGB"),
    _land,
    zhou="split_zhou_EuroSAT.json",
)
ACTIONS = photos(
    "UCF101",
    "the middle frames of its videos, UCF-101-midframes.zip (the videos themselves, "
    "UCF-101/*.avi, are not read: the papers' set is one frame of each)",
    ("ucf101",),
    ("UCF-101-midframes",),
    _actions,
    zhou="split_zhou_UCF101.json",
)
