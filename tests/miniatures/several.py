"""Miniatures of the sets of several labels in their real layouts and file formats.

``MINIATURES[name][layout](root, rng)`` writes one and returns what it has: for each
split a list of (path relative to the root, names of its labels), in the lists' order.
"""

import csv
import json

import numpy as np
from PIL import Image

#: How many images of a split have a label as their first, and as their second.
N_IMAGES = 3

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


def draw_labels(rng, n_labels, n_images=N_IMAGES):
    """Return an indicator: each label in that many images, two labels an image."""
    first = np.repeat(np.arange(n_labels), n_images)
    labels = np.zeros((len(first), n_labels), dtype=int)
    for column in (first, rng.permutation(first)):
        labels[np.arange(len(first)), column] = 1
    return labels


def save_image(path, rng):
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def expected(folder, files, labels, names):
    """Return [(path relative to the root, names of its labels)]."""
    return [
        (f"{folder}/{file}", [names[column] for column in np.flatnonzero(shown)])
        for file, shown in zip(files, labels, strict=True)
    ]


def coco(root, rng, year="2014", images="", base="COCO"):
    """Write COCO; a training image shows nothing, and one a crowd."""
    ids, names = list(COCO_IDS), list(COCO_IDS.values())
    folder, made = root / base, {}
    for split, called in (("train", "train"), ("val", "test")):
        labels = draw_labels(rng, len(ids))
        labels[0] = 0
        numbers = 1000 - np.arange(len(labels))
        files = [f"COCO_{split}{year}_{number:012d}.jpg" for number in numbers]
        entries = [
            {"file_name": file, "id": int(number), "width": 16, "height": 16}
            for file, number in zip(files, numbers, strict=True)
        ]
        objects = [
            {
                "id": at,
                "image_id": int(numbers[row]),
                "category_id": ids[column],
                "iscrowd": int(row == 1),
                "bbox": [0, 0, 8, 8],
            }
            for at, (row, column) in enumerate(np.argwhere(labels))
        ]
        content = {
            "images": entries,
            # An object more of a label that the image shows is nothing new.
            "annotations": [*objects, {**objects[-1], "id": len(objects)}],
            # Not in the order of the ids.
            "categories": [
                {"supercategory": "thing", "id": number, "name": COCO_IDS[number]}
                for number in reversed(ids)
            ],
        }
        path = folder / "annotations" / f"instances_{split}{year}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        for file in files:
            save_image(folder / f"{images}{split}{year}" / file, rng)
        place = f"{base}/{images}{split}{year}"
        made[called] = expected(place, files, labels, names)
    return made


def voc(root, rng):
    """Write VOC2007; a label's last image of a split shows it as difficult."""
    folder = root / "VOCdevkit" / "VOC2007"
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    spoken = {"diningtable": "dining table", "pottedplant": "potted plant"}
    spoken["tvmonitor"] = "tv monitor"
    names = [spoken.get(name, name) for name in VOC_NAMES]
    number, made = 0, {}
    for split in ("train", "val", "test"):
        labels = draw_labels(rng, len(VOC_NAMES))
        images = [f"{number + row:06d}" for row in range(len(labels))]
        number += len(labels)
        for column, label in enumerate(VOC_NAMES):
            told = 2 * labels[:, column] - 1
            told[np.flatnonzero(labels[:, column])[-1]] = 0
            path = folder / "ImageSets" / "Main" / f"{label}_{split}.txt"
            lines = zip(images, told, strict=True)
            path.write_text("".join(f"{image} {value:2d}\n" for image, value in lines))
        files = [f"JPEGImages/{image}.jpg" for image in images]
        for file in files:
            save_image(folder / file, rng)
        made[split] = expected("VOCdevkit/VOC2007", files, labels, names)
    return made


def nus_wide(root, rng):
    """Write NUS-WIDE; of each split the first image is not there."""
    folder, made = root / "NUS-WIDE", {}
    for part in ("ConceptsList", "ImageList", "Groundtruth/TrainTestLabels"):
        (folder / part).mkdir(parents=True)
    (folder / "ConceptsList" / "Concepts81.txt").write_text("\n".join(NUS_NAMES))
    for split in ("Train", "Test"):
        labels = draw_labels(rng, len(NUS_NAMES))
        listed = [
            f"{NUS_NAMES[n % 9]}\\{n:04d}_{split}.jpg" for n in range(len(labels))
        ]
        # The lists end their lines with spaces.
        text = "".join(f"{file} \n" for file in listed)
        (folder / "ImageList" / f"{split}Imagelist.txt").write_text(text)
        for column, name in enumerate(NUS_NAMES):
            path = folder / "Groundtruth/TrainTestLabels" / f"Labels_{name}_{split}.txt"
            path.write_text("".join(f"{value}\n" for value in labels[:, column]))
        files = ["Flickr/" + file.replace("\\", "/") for file in listed[1:]]
        for file in files:
            save_image(folder / file, rng)
        made[split.lower()] = expected("NUS-WIDE", files, labels[1:], NUS_NAMES)
    return made


def imaterialist(root, rng):
    """Write iMaterialist; of each split the first image is not there."""
    folder, made = root / "iMaterialist", {}
    folder.mkdir(parents=True)
    names = [f"Wear {number}" for number in range(1, 229)]
    names[88] = "Hosiery, Stockings, Tights"
    path = folder / "iMat_fashion_2018_label_map_228.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["labelId", "taskId", "labelName", "taskName"])
        writer.writerows([at, 1, name, "category"] for at, name in enumerate(names, 1))
    for split, called in (("train", "train"), ("validation", "test")):
        labels = draw_labels(rng, len(names), 2)
        content = {"images": [], "annotations": [], "info": {"year": 2018}}
        for number, shown in enumerate(labels, 1):
            url = f"https://contestimg.wish.com/api/webimage/{number}-large"
            content["images"].append({"url": url, "imageId": str(number)})
            ids = [str(column + 1) for column in np.flatnonzero(shown)]
            content["annotations"].append({"labelId": ids, "imageId": str(number)})
        (folder / f"{split}.json").write_text(json.dumps(content))
        files = [f"{split}/{number}.jpg" for number in range(2, len(labels) + 1)]
        for file in files:
            save_image(folder / file, rng)
        made[called] = expected("iMaterialist", files, labels[1:], names)
    return made


MINIATURES = {
    "COCO": {
        "2014": coco,
        "2017": lambda root, rng: coco(root, rng, "2017", "images/", "coco"),
    },
    "VOC2007": {"torchvision": voc},
    "NUS-WIDE": {"official": nus_wide},
    "iMaterialist": {"kaggle": imaterialist},
}
