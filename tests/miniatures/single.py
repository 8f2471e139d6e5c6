"""Miniatures of the single-label sets in their real layouts and file formats.

``MINIATURES[name][layout](root, rng)`` writes one and returns what it has: for each
split a list of (path relative to the root, class name), in no order.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

#: How many images of a class a split gets, where the set has splits.
N_IMAGES = {"train": 6, "val": 2, "test": 4}
#: How many images a class has in sets without splits, and what becomes of them.
N_DEALT, DEALT = 10, {"train": 5, "val": 2, "test": 3}
#: Four of ImageNet's classes: folder, label, name.
WORDNET = (
    ("n01440764", 0, "tench"),
    ("n01443537", 1, "goldfish"),
    ("n02007558", 130, "flamingo"),
    ("n07753592", 954, "banana"),
)
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


def draw(path, label, rng):
    """Write a JPEG of 32 x 32 whose colours and stripes tell its label, with noise."""
    look = np.random.default_rng(label)
    low, high = look.integers(0, 256, (2, 3))
    across, down = look.integers(-3, 4, 2)
    rows, columns = np.mgrid[:32, :32] / 32
    phase = 2 * np.pi * (across * columns + down * rows + rng.uniform())
    share = (1 + np.sin(phase))[..., None] / 2
    pixels = low + share * (high - low) + rng.normal(0, 12, (32, 32, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "JPEG")


def write(path, *lines):
    """Write the lines of a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def draw_all(root, folder, classes, path_of, rng, n_images=N_IMAGES):
    """Draw the images of each split, and return them as (path in folder, label, name).

    ``classes`` are (name, label); ``path_of(label's place, split, number)`` is the
    path of an image, with numbers that are never used twice.
    """
    made, number = {}, 0
    for split, n in n_images.items():
        made[split] = []
        for place, (name, label) in enumerate(classes):
            for _ in range(n):
                number += 1
                path = path_of(place, split, number)
                draw(root / folder / path, label, rng)
                made[split].append((path, label, name))
    return made


def expected(folder, made, names=None, rename=str):
    """Return {split: [(path relative to the root, name)]} of what was drawn."""
    return {
        split: [
            ((Path(folder) / path).as_posix(), rename(name)) for path, _, name in rows
        ]
        for split, rows in made.items()
    }


def zhou(path, made):
    """Write CoOp's split file."""
    write(path, json.dumps(made))


def lower(name):
    return name.replace("_", " ").lower()


def merge_val(made):
    """Return what is listed by a set whose own lists have no val."""
    return {"train": made["train"] + made["val"], "test": made["test"]}


# --- ImageNet and its shifts ------------------------------------------------------


def imagenet(root, rng, base="imagenet/images"):
    made = draw_all(
        root,
        base,
        [(name, label) for _, label, name in WORDNET],
        lambda place, split, number: (
            f"{'train' if split == 'train' else 'val'}/{WORDNET[place][0]}/"
            f"ILSVRC2012_{number:08d}.JPEG"
        ),
        rng,
        {"train": 6, "test": 4},
    )
    lines = [f"{folder} {name}" for folder, _, name in WORDNET]
    write(root / "imagenet" / "classnames.txt", *lines)
    return expected(base, made)


def imagenet_flat(root, rng, base, n_test=12):
    """Draw images whose validation images lie in one folder; return them and labels."""
    made = draw_all(
        root,
        base,
        [(name, label) for _, label, name in WORDNET],
        lambda place, split, n: (
            f"train/{WORDNET[place][0]}/{WORDNET[place][0]}_{n}.JPEG"
        ),
        rng,
        {"train": 6},
    )
    owners = rng.permutation(np.arange(n_test) % len(WORDNET))
    made["test"] = []
    for number, place in enumerate(owners, 1):
        path = f"val/ILSVRC2012_val_{number:08d}.JPEG"
        _, label, name = WORDNET[place]
        draw(root / base / path, label, rng)
        made["test"].append((path, label, name))
    return made, [WORDNET[place] for place in owners]


def imagenet_kaggle(root, rng):
    base = "imagenet/ILSVRC/Data/CLS-LOC"
    made, owners = imagenet_flat(root, rng, base)
    lines = [
        f"ILSVRC2012_val_{number:08d},{folder} 85 1 499 272 {folder} 3 1 9 27 "
        for number, (folder, _, _) in enumerate(owners, 1)
    ]
    rng.shuffle(lines)
    solution = root / "imagenet" / "LOC_val_solution.csv"
    write(solution, "ImageId,PredictionString", *lines)
    return expected(base, made)


def imagenet_devkit(root, rng):
    made, owners = imagenet_flat(root, rng, "imagenet")
    # The devkit has numbers of its own, and inner nodes of WordNet after the classes.
    numbers = {folder: place for place, (folder, _, _) in enumerate(WORDNET[::-1], 1)}
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    synsets = np.zeros((len(WORDNET) + 1, 1), [(field, object) for field in fields])
    for place, (folder, _, name) in enumerate(WORDNET[::-1]):
        synsets[place, 0] = (place + 1, folder, name, "a gloss", 0, np.array([]))
    synsets[-1, 0] = (5, "n00001740", "entity", "a gloss", 2, np.array([1, 2]))
    data = root / "imagenet" / "ILSVRC2012_devkit_t12" / "data"
    truth = [numbers[folder] for folder, _, _ in owners]
    write(data / "ILSVRC2012_validation_ground_truth.txt", *truth)
    savemat(data / "meta.mat", {"synsets": synsets})
    return expected("imagenet", made)


def shift(folder, numbered=False, note=None):
    """Return the builder of a set that is one folder of class folders."""

    def make(root, rng):
        made = draw_all(
            root,
            folder,
            [(name, label) for _, label, name in WORDNET],
            lambda place, _, n: f"{WORDNET[place][int(numbered)]}/{n}.jpeg",
            rng,
            {"test": 4},
        )
        if note:
            write(root / folder / note, "About the set.")
        return expected(folder, made)

    return make


# --- objects ----------------------------------------------------------------------


def caltech(root, rng, base="caltech-101", with_zhou=True):
    folders = ("Faces", "accordion", "airplanes", "wild_cat")
    names = ("face", "accordion", "airplane", "wild_cat")
    base += "/101_ObjectCategories"
    made = draw_all(
        root,
        base,
        [(name, label) for label, name in enumerate(names)],
        lambda place, _, n: f"{folders[place]}/image_{n:04d}.jpg",
        rng,
        DEALT,
    )
    for folder in ("BACKGROUND_Google", "Faces_easy"):
        draw(root / base / folder / "image_0001.jpg", 50, rng)
    if with_zhou:
        zhou((root / base).parent / "split_zhou_Caltech101.json", made)
    return expected(base, made, rename=lower)


def pets(root, rng, base="oxford_pets", with_zhou=True):
    breeds = ("Abyssinian", "american_bulldog", "great_pyrenees")
    made = draw_all(
        root,
        f"{base}/images",
        [(breed.lower(), label) for label, breed in enumerate(breeds)],
        lambda place, _, n: f"{breeds[place]}_{n}.jpg",
        rng,
    )
    official = merge_val(made)
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        lines = [
            f"{path.removesuffix('.jpg')} {label + 1} {1 + (label > 0)} {label or 1}"
            for path, label, _ in official[split]
        ]
        write(root / base / "annotations" / file, *lines)
    if with_zhou:
        zhou(root / base / "split_zhou_OxfordPets.json", made)
    return expected(f"{base}/images", made if with_zhou else official, rename=lower)


def cars(root, rng, with_zhou=True):
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "BMW M3 Coupe 2012")
    spoken = [" ".join([n.split()[-1], *n.split()[:-1]]) for n in names]
    made = draw_all(
        root,
        "stanford_cars",
        [(name, label) for label, name in enumerate(spoken)],
        lambda _, split, n: (
            f"cars_{'test' if split == 'test' else 'train'}/{n:05d}.jpg"
        ),
        rng,
    )
    base = root / "stanford_cars"
    (base / "devkit").mkdir()
    official = merge_val(made)
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for split, file in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = np.zeros(
            (1, len(official[split])), [(field, object) for field in fields]
        )
        for column, (path, label, _) in enumerate(official[split]):
            box = (np.uint8(1), np.uint8(2), np.uint16(30), np.uint16(31))
            rows[0, column] = (*box, np.uint8(label + 1), Path(path).name)
        savemat(base / file, {"annotations": rows})
    cell = np.array([names], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": cell})
    if with_zhou:
        zhou(base / "split_zhou_StanfordCars.json", made)
    return expected("stanford_cars", made if with_zhou else official)


def flowers(root, rng):
    """As CoOp has it."""
    names = ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")
    made = draw_all(
        root,
        "oxford_flowers/jpg",
        [(name, label) for label, name in enumerate(names)],
        lambda _, __, n: f"image_{n:05d}.jpg",
        rng,
    )
    zhou(root / "oxford_flowers" / "split_zhou_OxfordFlowers.json", made)
    return expected("oxford_flowers/jpg", made)


def flowers_official(root, rng, base="flowers-102"):
    made = draw_all(
        root,
        f"{base}/jpg",
        [("pink primrose", 0), ("canterbury bells", 2), ("blackberry lily", 101)],
        lambda _, __, n: f"image_{n:05d}.jpg",
        rng,
    )
    labels = np.concatenate([[label for _, label, _ in made[split]] for split in made])
    labels = labels[None].astype(np.uint8) + 1
    savemat(root / base / "imagelabels.mat", {"labels": labels})
    numbers = {
        split: np.array([[int(path[6:11]) for path, _, _ in rows]], np.uint16)
        for split, rows in made.items()
    }
    savemat(
        root / base / "setid.mat",
        {"trnid": numbers["train"], "valid": numbers["val"], "tstid": numbers["test"]},
    )
    return expected(f"{base}/jpg", made)


def food(root, rng, with_zhou=True):
    names = ("apple_pie", "baby_back_ribs", "waffles")
    made = draw_all(
        root,
        "food-101/images",
        [(name, label) for label, name in enumerate(names)],
        lambda place, _, n: f"{names[place]}/{1000000 + n}.jpg",
        rng,
    )
    official = merge_val(made)
    for split, rows in official.items():
        of_class = {
            name: [path.removesuffix(".jpg") for path, _, of in rows if of == name]
            for name in sorted(names, reverse=True)
        }
        write(root / "food-101" / "meta" / f"{split}.json", json.dumps(of_class))
    if with_zhou:
        zhou(root / "food-101" / "split_zhou_Food101.json", made)
    return expected("food-101/images", made if with_zhou else official, rename=lower)


def aircraft(root, rng, base="fgvc_aircraft"):
    names = ("707-320", "Boeing 717", "A300B4", "Yak-42")
    made = draw_all(
        root,
        f"{base}/images",
        [(name, label) for label, name in enumerate(names)],
        lambda _, __, n: f"{n:07d}.jpg",
        rng,
    )
    write(root / base / "variants.txt", *names)
    for split, rows in made.items():
        lines = [f"{path.removesuffix('.jpg')} {name}" for path, _, name in rows]
        rng.shuffle(lines)
        write(root / base / f"images_variant_{split}.txt", *lines)
    return expected(f"{base}/images", made)


# --- places, textures, land, actions ----------------------------------------------


def sun(root, rng, base="sun397/SUN397", lists="sun397", with_zhou=True):
    classes = ("a/abbey", "a/apse/indoor", "w/water_tower")
    names = ("abbey", "indoor apse", "water_tower")
    made = draw_all(
        root,
        base,
        [(name, label) for label, name in enumerate(names)],
        lambda place, _, n: f"{classes[place]}/sun_{n:016d}.jpg",
        rng,
    )
    write(root / base / "ClassName.txt", *(f"/{name}" for name in classes))
    official = merge_val(made)
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        lines = [f"/{path}" for path, _, _ in official[split]]
        write(root / lists / file, *lines)
    if with_zhou:
        zhou(root / lists / "split_zhou_SUN397.json", made)
    return expected(base, made if with_zhou else official, rename=lower)


def textures(root, rng, base="dtd", with_zhou=True):
    names = ("banded", "polka-dotted", "zigzagged")
    made = draw_all(
        root,
        f"{base}/images",
        [(name, label) for label, name in enumerate(names)],
        lambda place, _, n: f"{names[place]}/{names[place]}_{n:04d}.jpg",
        rng,
    )
    for split, rows in made.items():
        for partition in (1, 2):
            lines = [path for path, _, _ in rows][:: 1 if partition == 1 else 2]
            write(root / base / "labels" / f"{split}{partition}.txt", *lines)
    if with_zhou:
        zhou(root / base / "split_zhou_DescribableTextures.json", made)
    return expected(f"{base}/images", made)


def eurosat(root, rng, base="eurosat/2750", with_zhou=True):
    folders = list(LAND)
    made = draw_all(
        root,
        base,
        # CoOp writes "Annual Crop Land".
        [(name.title(), label) for label, name in enumerate(LAND.values())],
        lambda place, _, n: f"{folders[place]}/{folders[place]}_{n}.jpg",
        rng,
        DEALT,
    )
    if with_zhou:
        zhou((root / base).parent / "split_zhou_EuroSAT.json", made)
    return expected(base, made, rename=lower)


def actions(root, rng, with_zhou=True):
    names = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
    folders = ("Apply_Eye_Makeup", "Handstand_Pushups", "Yo_Yo")
    made = draw_all(
        root,
        "ucf101/UCF-101-midframes",
        [(folder, label) for label, folder in enumerate(folders)],
        lambda place, _, n: f"{folders[place]}/v_{names[place]}_g{n:02d}_c01.jpg",
        rng,
    )
    official = merge_val(made)
    if with_zhou:
        zhou(root / "ucf101" / "split_zhou_UCF101.json", made)
    else:
        lists = root / "ucf101" / "ucfTrainTestlist"
        lines = [f"{label} {name}" for label, name in enumerate(names, 1)]
        write(lists / "classInd.txt", *lines)
        for split, file in (("train", "trainlist01.txt"), ("test", "testlist01.txt")):
            lines = [
                f"{names[label]}/{Path(path).stem}.avi"
                + (f" {label + 1}" if split == "train" else "")
                for path, label, _ in official[split]
            ]
            write(lists / file, *lines)
    folder = "ucf101/UCF-101-midframes"
    return expected(folder, made if with_zhou else official, rename=lower)


def of(builder, **options):
    return lambda root, rng: builder(root, rng, **options)


V2 = "imagenetv2-matched-frequency-format-val"
#: For each set its layouts; the first is the one that CoOp has.
MINIATURES = {
    "ImageNet": {
        "coop": imagenet,
        "torchvision": of(imagenet, base="imagenet"),
        "kaggle": imagenet_kaggle,
        "devkit": imagenet_devkit,
    },
    "Caltech101": {
        "coop": caltech,
        "torchvision": of(caltech, base="caltech101", with_zhou=False),
        "official": of(caltech, with_zhou=False),
    },
    "OxfordPets": {
        "coop": pets,
        "torchvision": of(pets, base="oxford-iiit-pet", with_zhou=False),
        "official": of(pets, with_zhou=False),
    },
    "StanfordCars": {"coop": cars, "torchvision": of(cars, with_zhou=False)},
    "Flowers102": {
        "coop": flowers,
        "torchvision": flowers_official,
        "official": of(flowers_official, base="oxford_flowers"),
    },
    "Food101": {"coop": food, "torchvision": of(food, with_zhou=False)},
    "FGVCAircraft": {
        "coop": aircraft,
        "torchvision": of(aircraft, base="fgvc-aircraft-2013b/data"),
    },
    "SUN397": {
        "coop": sun,
        "torchvision": of(sun, base="SUN397", lists="SUN397", with_zhou=False),
        "official": of(sun, with_zhou=False),
    },
    "DTD": {
        "coop": textures,
        "torchvision": of(textures, base="dtd/dtd", with_zhou=False),
        "official": of(textures, with_zhou=False),
    },
    "EuroSAT": {
        "coop": eurosat,
        "torchvision": of(eurosat, with_zhou=False),
        "zenodo": of(eurosat, base="eurosat/EuroSAT_RGB", with_zhou=False),
    },
    "UCF101": {"coop": actions, "official": of(actions, with_zhou=False)},
    "ImageNetV2": {
        "coop": shift(f"imagenetv2/{V2}", numbered=True),
        "official": shift(V2, numbered=True),
    },
    "ImageNet-Sketch": {
        "coop": shift("imagenet-sketch/images"),
        "official": shift("sketch"),
    },
    "ImageNet-A": {
        "coop": shift("imagenet-adversarial/imagenet-a", note="README.txt"),
        "official": shift("imagenet-a", note="README.txt"),
    },
    "ImageNet-R": {
        "coop": shift("imagenet-rendition/imagenet-r", note="README.txt"),
        "official": shift("imagenet-r", note="README.txt"),
    },
}
