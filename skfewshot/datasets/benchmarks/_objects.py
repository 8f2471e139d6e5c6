"""Sets of objects, animals, flowers and dishes, one label an image."""

from collections.abc import Sequence
from pathlib import Path

from skfewshot.datasets.benchmarks._files import (
    deal,
    list_classes,
    make_benchmark,
    photos,
    read_json,
    read_lines,
    read_matlab,
    reading,
    spoken,
)
from skfewshot.datasets.benchmarks._source import Benchmark

#: The names of Flowers102's labels 1 to 102; its own files have numbers alone.
FLOWERS = (
    "pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, "
    "english marigold, tiger lily, moon orchid, bird of paradise, monkshood, "
    "globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, "
    "globe-flower, purple coneflower, peruvian lily, balloon flower, "
    "giant white arum lily, fire lily, pincushion flower, fritillary, red ginger, "
    "grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, "
    "artichoke, sweet william, carnation, garden phlox, love in the mist, "
    "mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, "
    "great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, "
    "poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, "
    "common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, "
    "bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia?, "
    "cautleya spicata, japanese anemone, black-eyed susan, silverbush, "
    "californian poppy, osteospermum, spring crocus, bearded iris, windflower, "
    "tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, "
    "passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus, "
    "columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, "
    "hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow, "
    "mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily"
).split(", ")

#: Folders of Caltech101 that are no class: clutter, and faces a second time.
NO_CLASSES = ("BACKGROUND_Google", "Faces_easy")
#: Folders of Caltech101 whose names are plurals.
ONE_OF = {
    "airplanes": "airplane",
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
}


def _caltech(folder: Path, images: Path) -> Benchmark:
    classes = sorted(path.name for path in images.iterdir() if path.is_dir())
    classes = [name for name in classes if name not in NO_CLASSES]
    paths, y = list_classes(images, {name: i for i, name in enumerate(classes)})
    names = [spoken(ONE_OF.get(name, name)) for name in classes]
    return Benchmark(paths, y, names, deal(images, paths, y))


def _pets(folder: Path, images: Path) -> Benchmark:
    names: dict[int, str] = {}
    listed: dict[str, list[str]] = {}
    labels = []
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        path = folder / "annotations" / file
        with reading(path):
            # "great_pyrenees_12 16 2 9": image, breed from 1, cat or dog, breed of it.
            words = [line.split()[:2] for line in read_lines(path)]
            rows = [(image, int(number) - 1) for image, number in words]
        listed[split] = [f"{image}.jpg" for image, _ in rows]
        labels += [label for _, label in rows]
        names |= {label: image.rpartition("_")[0] for image, label in rows}
    with reading(folder / "annotations"):
        breeds = [spoken(names[label]) for label in range(len(names))]
    return make_benchmark(images, listed, labels, breeds)


def _cars(folder: Path, images: Path) -> Benchmark:
    meta = read_matlab(folder / "devkit" / "cars_meta.mat", "class_names")
    # "Acura RL Sedan 2012": papers put the year first.
    words = [str(name).split() for name in meta]
    names = [" ".join([*name[-1:], *name[:-1]]) for name in words]
    listed: dict[str, list[str]] = {}
    labels: list[int] = []
    for split, file in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = read_matlab(folder / file, "annotations")
        with reading(folder / file):
            listed[split] = [f"cars_{split}/{row['fname']}" for row in rows]
            labels += [_label(row["class"], names) for row in rows]
    return make_benchmark(images, listed, labels, names)


def _flowers(folder: Path, images: Path) -> Benchmark:
    labels = read_matlab(folder / "imagelabels.mat", "labels")
    listed: dict[str, list[str]] = {}
    y = []
    parts = (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    for split, variable in parts:
        numbers = read_matlab(folder / "setid.mat", variable)
        with reading(folder / "imagelabels.mat"):
            y += [_label(labels[int(number) - 1], FLOWERS) for number in numbers]
        listed[split] = [f"image_{int(number):05d}.jpg" for number in numbers]
    return make_benchmark(images, listed, y, FLOWERS)


def _food(folder: Path, images: Path) -> Benchmark:
    listed: dict[str, list[str]] = {}
    classes: list[str] = []
    labels: list[int] = []
    for split in ("train", "test"):
        path = folder / "meta" / f"{split}.json"
        found = read_json(path)
        with reading(path):
            classes = classes or sorted(found)
            listed[split] = [f"{image}.jpg" for name in found for image in found[name]]
            for name in found:
                labels += [classes.index(name)] * len(found[name])
    return make_benchmark(images, listed, labels, map(spoken, classes))


def _aircraft(folder: Path, images: Path) -> Benchmark:
    names = read_lines(folder / "variants.txt")
    number = {name: label for label, name in enumerate(names)}
    listed: dict[str, list[str]] = {}
    labels: list[int] = []
    for split in ("train", "val", "test"):
        path = folder / f"images_variant_{split}.txt"
        # "0034309 707-320": image, variant.
        rows = [line.partition(" ") for line in read_lines(path)]
        with reading(path):
            labels += [number[variant] for _, _, variant in rows]
        listed[split] = [f"{image}.jpg" for image, _, _ in rows]
    return make_benchmark(images, listed, labels, names)


def _label(number: int, names: Sequence[str]) -> int:
    """Return a label of a list that counts from 1."""
    if not 1 <= int(number) <= len(names):
        raise ValueError(f"label {number} is not within 1 to {len(names)}")
    return int(number) - 1


CALTECH = photos(
    "Caltech101",
    "caltech-101.zip from https://data.caltech.edu/records/mzrjq-6wc02",
    ("caltech-101", "caltech101"),
    ("101_ObjectCategories",),
    _caltech,
    zhou="split_zhou_Caltech101.json",
)
PETS = photos(
    "OxfordPets",
    "images.tar.gz and annotations.tar.gz from "
    "https://www.robots.ox.ac.uk/~vgg/data/pets/",
    ("oxford_pets", "oxford-iiit-pet"),
    ("images",),
    _pets,
    zhou="split_zhou_OxfordPets.json",
)
CARS = photos(
    "StanfordCars",
    "cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat "
    "of http://ai.stanford.edu/~jkrause/cars/car_dataset.html (gone; mirrored on "
    "https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset)",
    ("stanford_cars",),
    (".",),
    _cars,
    zhou="split_zhou_StanfordCars.json",
    proper=True,
)
FLOWERS102 = photos(
    "Flowers102",
    "102flowers.tgz, imagelabels.mat and setid.mat from "
    "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    ("oxford_flowers", "flowers-102"),
    ("jpg",),
    _flowers,
    zhou="split_zhou_OxfordFlowers.json",
)
FOOD = photos(
    "Food101",
    "food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    ("food-101",),
    ("images",),
    _food,
    zhou="split_zhou_Food101.json",
)
AIRCRAFT = photos(
    "FGVCAircraft",
    "fgvc-aircraft-2013b.tar.gz from "
    "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    ("fgvc_aircraft", "fgvc-aircraft-2013b/data"),
    ("images",),
    _aircraft,
)
