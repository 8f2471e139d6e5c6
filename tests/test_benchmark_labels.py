"""The readers of the papers' sets of several labels, on miniatures of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from skfewshot.datasets import Benchmark, load_benchmark

NAMES = ("COCO", "VOC2007", "NUS-WIDE", "iMaterialist")
CASES = [("COCO", "2014"), ("COCO", "2017"), ("VOC2007", "torchvision")]
CASES += [("NUS-WIDE", "official"), ("iMaterialist", "kaggle")]
#: Sets of which images are left out that are not there.
LOSING = ("NUS-WIDE", "iMaterialist")
left_out = pytest.mark.filterwarnings("ignore:1 of the .* images that:UserWarning")


@pytest.fixture
def fresh(miniatures, tmp_path):
    """Return the function that makes a miniature in a folder of this test alone."""

    def build(name, layout=None):
        layouts = miniatures[name]
        make = layouts[layout or next(iter(layouts))]
        return tmp_path, make(tmp_path, np.random.default_rng(0))

    return build


@left_out
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_images_labels_names_and_splits_are_those_of_the_files(fresh, name, layout):
    root, made = fresh(name, layout)
    found = load_benchmark(name, root)
    assert isinstance(found, Benchmark)
    assert found.labels.dtype == np.int64
    assert found.labels.shape == (len(found.images), len(found.names))
    assert np.isin(found.labels, (0, 1)).all()
    assert set(found.splits) == set(made)
    for split, rows in found.splits.items():
        assert rows.dtype == np.int64
        listed = [
            (
                Path(found.images[row]).relative_to(root).as_posix(),
                [found.names[at] for at in np.flatnonzero(found.labels[row])],
            )
            for row in rows
        ]
        assert listed == made[split]
    rows = np.concatenate(list(found.splits.values()))
    assert sorted(rows) == list(range(len(found.images)))
    assert all(Path(image).is_file() for image in found.images)


def test_the_labels_have_their_official_names(fresh):
    root, _ = fresh("COCO")
    names = load_benchmark("coco", root).names
    assert len(names) == 80
    assert names[:2] == ["person", "bicycle"]
    assert names[-1] == "toothbrush"
    assert "stop sign" in names
    fresh("VOC2007")
    names = load_benchmark("voc 2007", root).names
    assert len(names) == 20
    assert {"dining table", "potted plant", "tv monitor"} < set(names)


@pytest.mark.parametrize("name", LOSING)
def test_images_that_are_lost_are_left_out_with_a_warning(fresh, name):
    root, made = fresh(name)
    lost = [Path(made[split][0][0]) for split in made]
    for path in lost:
        (root / path).unlink()
    with pytest.warns(UserWarning, match="2 of the .* left out"):
        found = load_benchmark(name, root)
    stems = {Path(image).stem for image in found.images}
    assert len(found.images) == sum(map(len, made.values())) - len(lost)
    assert name == "iMaterialist" or not stems & {path.stem for path in lost}


@pytest.mark.parametrize("name", ("COCO", "VOC2007"))
def test_other_sets_want_all_their_images(fresh, name):
    root, made = fresh(name)
    path = root / made["test"][1][0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s){path.name}.*Download"):
        load_benchmark(name, root)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_set_says_what_to_download_and_where_to_put_it(name, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_benchmark(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(name)
    assert "http" in message
    assert str(tmp_path) in message.partition("Download")[2]


@left_out
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("COCO", "COCO/annotations/instances_val2014.json"),
        ("VOC2007", "VOCdevkit/VOC2007/ImageSets/Main/dog_test.txt"),
        ("NUS-WIDE", "NUS-WIDE/Groundtruth/TrainTestLabels/Labels_sky_Test.txt"),
        ("NUS-WIDE", "NUS-WIDE/ConceptsList/Concepts81.txt"),
        ("iMaterialist", "iMaterialist/iMat_fashion_2018_label_map_228.csv"),
        ("iMaterialist", "iMaterialist/validation.json"),
    ],
)
def test_a_missing_file_of_a_set_is_named(fresh, name, path):
    root, _ = fresh(name)
    (root / path).unlink()
    with pytest.raises(FileNotFoundError, match=Path(path).name):
        load_benchmark(name, root)


@left_out
@pytest.mark.parametrize("text", ["", "{}", "[]", "1 2\n", "x\n", '{"images": 3}'])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("COCO", "COCO/annotations/instances_val2014.json"),
        ("VOC2007", "VOCdevkit/VOC2007/ImageSets/Main/dog_test.txt"),
        ("NUS-WIDE", "NUS-WIDE/Groundtruth/TrainTestLabels/Labels_sky_Test.txt"),
        ("iMaterialist", "iMaterialist/iMat_fashion_2018_label_map_228.csv"),
        ("iMaterialist", "iMaterialist/validation.json"),
    ],
)
def test_a_file_that_does_not_say_what_it_should_is_named(fresh, name, path, text):
    root, _ = fresh(name)
    (root / path).write_text(text)
    with pytest.raises(ValueError, match=Path(path).name):
        load_benchmark(name, root)


@pytest.mark.parametrize("file", ["../../secret.jpg", "/etc/passwd"])
def test_an_image_outside_of_the_set_is_refused(fresh, file):
    root, _ = fresh("COCO")
    path = root / "COCO" / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = file
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=file):
        load_benchmark("COCO", root)


def test_splits_of_coco_with_other_categories_are_refused(fresh):
    root, _ = fresh("COCO")
    path = root / "COCO" / "annotations" / "instances_val2014.json"
    path.write_text(path.read_text().replace("toothbrush", "tooth brush"))
    with pytest.raises(ValueError, match="categories"):
        load_benchmark("COCO", root)
