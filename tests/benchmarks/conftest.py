"""Miniatures of the papers' data sets, in their own folders and file formats."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

#: COCO's categories in the order of their ids, which have gaps.
COCO_NAMES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light "
    "fire_hydrant - stop_sign parking_meter bench bird cat dog horse sheep cow "
    "elephant bear zebra giraffe - backpack umbrella - - handbag tie suitcase frisbee "
    "skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard "
    "tennis_racket bottle - wine_glass cup fork knife spoon bowl banana apple sandwich "
    "orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed - "
    "dining_table - - toilet - tv laptop mouse remote keyboard cell_phone microwave "
    "oven toaster sink refrigerator - book clock vase scissors teddy_bear hair_drier "
    "toothbrush"
).split()
COCO_IDS = {
    number: name.replace("_", " ")
    for number, name in enumerate(COCO_NAMES, 1)
    if name != "-"
}
VOC_NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()
NUS_NAMES = (
    "airport animal beach bear birds boats book bridge buildings cars castle cat "
    "cityscape clouds computer coral cow dancing dog earthquake elk fire fish flags "
    "flowers food fox frost garden glacier grass harbor horses house lake leaf map "
    "military moon mountain nighttime ocean person plane plants police protest "
    "railroad rainbow reflection road rocks running sand sign sky snow soccer sports "
    "statue street sun sunset surf swimmers tattoo temple tiger tower town toy train "
    "tree valley vehicle water waterfall wedding whales window zebra"
).split()


def draw_labels(rng: np.random.Generator, n_labels: int, images: int) -> np.ndarray:
    """Return an indicator: each label in that many images, two labels an image."""
    first = np.repeat(np.arange(n_labels), images)
    labels = np.zeros((len(first), n_labels), dtype=int)
    for column in (first, rng.permutation(first)):
        labels[np.arange(len(first)), column] = 1
    return labels


def save_image(path: Path, rng: np.random.Generator) -> None:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def make_coco(root: Path, images: int = 3, year: str = "2014") -> None:
    """Write COCO, whose first training image shows nothing, the second a crowd."""
    rng = np.random.default_rng(0)
    folder, ids = root / "COCO", list(COCO_IDS)
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        labels = draw_labels(rng, len(ids), images)
        labels[0] = 0
        entries, objects = [], []
        for row, shown in enumerate(labels):
            number = 1000 - row
            name = f"COCO_{split}{year}_{number:012d}.jpg"
            save_image(folder / f"{split}{year}" / name, rng)
            entries.append({"file_name": name, "id": number, "width": 16, "height": 16})
            for column in np.flatnonzero(shown):
                objects.append(
                    {
                        "id": len(objects),
                        "image_id": number,
                        "category_id": ids[column],
                        "iscrowd": int(row == 1),
                        "bbox": [0, 0, 8, 8],
                    }
                )
        # An object more of a label that the image shows is nothing new.
        content = {
            "images": entries,
            "annotations": [*objects, {**objects[-1], "id": len(objects)}],
            # Not in the order of the ids.
            "categories": [
                {"supercategory": "thing", "id": number, "name": COCO_IDS[number]}
                for number in reversed(ids)
            ],
        }
        path = folder / "annotations" / f"instances_{split}{year}.json"
        path.write_text(json.dumps(content))


def make_voc2007(root: Path, images: int = 3) -> None:
    """Write VOC2007; a label's last image of a split shows it as difficult."""
    rng = np.random.default_rng(0)
    folder = root / "VOCdevkit" / "VOC2007"
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    number = 0
    for split in ("train", "val", "test"):
        labels = draw_labels(rng, len(VOC_NAMES), images)
        names = [f"{number + row:06d}" for row in range(len(labels))]
        number += len(labels)
        for name in names:
            save_image(folder / "JPEGImages" / f"{name}.jpg", rng)
        for column, label in enumerate(VOC_NAMES):
            told = 2 * labels[:, column] - 1
            told[np.flatnonzero(labels[:, column])[-1]] = 0
            lines = [f"{name} {value:2d}\n" for name, value in zip(names, told)]
            path = folder / "ImageSets" / "Main" / f"{label}_{split}.txt"
            path.write_text("".join(lines))


def make_nus_wide(root: Path, images: int = 3) -> None:
    """Write NUS-WIDE; of each split the first image is not there."""
    rng = np.random.default_rng(0)
    folder = root / "NUS-WIDE"
    for part in ("ConceptsList", "ImageList", "Groundtruth/TrainTestLabels"):
        (folder / part).mkdir(parents=True)
    (folder / "ConceptsList" / "Concepts81.txt").write_text("\n".join(NUS_NAMES))
    for split in ("Train", "Test"):
        labels = draw_labels(rng, len(NUS_NAMES), images)
        files = [f"{NUS_NAMES[r % 9]}\\{r:04d}_{split}.jpg" for r in range(len(labels))]
        for file in files[1:]:
            save_image(folder / "Flickr" / file.replace("\\", "/"), rng)
        # The lists end their lines with spaces.
        text = "".join(f"{file} \n" for file in files)
        (folder / "ImageList" / f"{split}Imagelist.txt").write_text(text)
        for column, name in enumerate(NUS_NAMES):
            path = folder / "Groundtruth/TrainTestLabels" / f"Labels_{name}_{split}.txt"
            path.write_text("".join(f"{value}\n" for value in labels[:, column]))


def make_imaterialist(root: Path, images: int = 2) -> None:
    """Write iMaterialist; of each split the first image is not there."""
    rng = np.random.default_rng(0)
    folder = root / "iMaterialist"
    folder.mkdir(parents=True)
    with open(folder / "iMat_fashion_2018_label_map_228.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["labelId", "taskId", "labelName", "taskName"])
        for number in range(1, 229):
            name = "Hosiery, Stockings, Tights" if number == 89 else f"Wear {number}"
            writer.writerow([number, 1, name, "category"])
    for split in ("train", "validation"):
        labels = draw_labels(rng, 228, images)
        content = {"images": [], "annotations": [], "info": {"year": 2018}}
        for row, shown in enumerate(labels):
            number = str(row + 1)
            url = f"https://contestimg.wish.com/api/webimage/{number}-large"
            content["images"].append({"url": url, "imageId": number})
            ids = [str(column + 1) for column in np.flatnonzero(shown)]
            content["annotations"].append({"labelId": ids, "imageId": number})
            if row:
                save_image(folder / split / f"{number}.jpg", rng)
        (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def label_sets() -> dict[str, Callable]:
    """Return {name: function of a folder that writes a miniature of the set there}."""
    return {
        "COCO": make_coco,
        "VOC2007": make_voc2007,
        "NUS-WIDE": make_nus_wide,
        "iMaterialist": make_imaterialist,
    }
