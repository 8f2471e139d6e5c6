"""The readers of the papers' sets, on miniatures in their real layouts and formats."""

import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from skfewshot.datasets import BENCHMARKS, Benchmark, load_benchmark

SINGLE = runpy.run_path(str(Path(__file__).parent / "miniatures" / "single.py"))
MINIATURES = SINGLE["MINIATURES"]
CASES = [(name, layout) for name, layouts in MINIATURES.items() for layout in layouts]
#: Sets without splits of their own, which are dealt.
DEALT = {"Caltech101", "EuroSAT"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the function that makes a miniature once: its root and what it has."""
    made = {}

    def build(name, layout):
        if (name, layout) not in made:
            root = tmp_path_factory.mktemp(f"{name}_{layout}")
            made[name, layout] = (
                root,
                MINIATURES[name][layout](root, np.random.default_rng(0)),
            )
        return made[name, layout]

    return build


@pytest.fixture
def fresh(tmp_path):
    """Return the function that makes a miniature in a folder of this test alone."""

    def build(name, layout="coop"):
        MINIATURES[name][layout](tmp_path, np.random.default_rng(0))
        return tmp_path

    return build


def rows_of(benchmark, root, split):
    """The images of a split as (path relative to the root, class name), sorted."""
    return sorted(
        (
            Path(benchmark.images[row]).relative_to(root).as_posix(),
            benchmark.names[benchmark.labels[row]],
        )
        for row in benchmark.splits[split]
    )


# --- every set --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_set_is_read_as_it_was_written(built, name, layout, monkeypatch):
    root, wanted = built(name, layout)

    def refuse(*args, **kwargs):
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    benchmark = load_benchmark(name, root)
    images, labels, names, splits = benchmark
    assert isinstance(benchmark, Benchmark)
    assert list(splits) == list(wanted)
    if name in DEALT and layout != "coop":
        found = [row for split in splits for row in rows_of(benchmark, root, split)]
        assert sorted(found) == sorted(row for rows in wanted.values() for row in rows)
        for split, rows in wanted.items():
            assert len(splits[split]) == len(rows)
    else:
        for split, rows in wanted.items():
            assert rows_of(benchmark, root, split) == sorted(rows)
    every = np.sort(np.concatenate(list(splits.values())))
    np.testing.assert_array_equal(every, np.arange(len(images)))
    assert labels.shape == (len(images),)
    assert {labels.dtype, *(rows.dtype for rows in splits.values())} == {
        np.dtype(np.int64)
    }
    assert all(type(image) is str and os.path.isabs(image) for image in images)
    assert all(type(name) is str for name in names)


@pytest.mark.parametrize("name", MINIATURES)
def test_an_empty_root_says_what_to_download_and_where_to_put_it(built, name, tmp_path):
    (tmp_path / "holidays").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        load_benchmark(name, tmp_path)
    message = str(caught.value)
    assert name in message and "https://" in message
    assert f"in {tmp_path}, which has holidays." in message
    root, _ = built(name, "coop")
    assert str(tmp_path / next(root.iterdir()).name) in message


# Without CoOp's split file a set is read by its own lists, so only these need theirs.
@pytest.mark.parametrize(
    ("name", "layout"),
    [case for case in CASES if case[1] != "coop" or case[0] == "FGVCAircraft"],
)
def test_each_list_is_missed_by_its_name(fresh, name, layout):
    root = fresh(name, layout)
    before = load_benchmark(name, root)
    files = [path for path in root.rglob("*") if path.is_file()]
    for path in files:
        is_image = path.suffix.lower() in (".jpg", ".jpeg")
        # Of DTD's ten partitions the first is read.
        if is_image or path.stem.endswith("2"):
            continue
        aside = path.rename(path.with_name("aside"))
        if path.name in ("classnames.txt", "README.txt"):
            assert load_benchmark(name, root).images == before.images
        else:
            with pytest.raises(FileNotFoundError, match=path.stem):
                load_benchmark(name, root)
        aside.rename(path)


LISTED = [
    (name, layout)
    for name, layout in CASES
    if not name.startswith("ImageNet") and (layout == "coop" or name not in DEALT)
]


@pytest.mark.parametrize(("name", "layout"), LISTED)
def test_a_listed_image_that_is_not_there_is_named(fresh, name, layout):
    root = fresh(name, layout)
    lost = Path(load_benchmark(name, root).images[-1])
    lost.unlink()
    with pytest.raises(FileNotFoundError, match="1 of .* images") as caught:
        load_benchmark(name, root)
    assert str(lost) in str(caught.value)


def test_coops_split_file_is_used_in_torchvisions_folder_too(tmp_path):
    wanted = SINGLE["pets"](
        tmp_path, np.random.default_rng(0), base="oxford-iiit-pet", with_zhou=True
    )
    (tmp_path / "oxford_pets").mkdir()
    benchmark = load_benchmark("OxfordPets", tmp_path)
    assert list(benchmark.splits) == ["train", "val", "test"]
    for split, rows in wanted.items():
        assert rows_of(benchmark, tmp_path, split) == sorted(rows)


# --- names and roots --------------------------------------------------------------


def test_the_names_are_those_of_the_tables():
    single = [name for name in BENCHMARKS if name in MINIATURES]
    assert single == list(MINIATURES)


@pytest.mark.parametrize(
    "spelled", ["oxford-pets", "OXFORD_PETS", "oxfordpets", " Oxford Pets"]
)
def test_case_and_hyphens_do_not_matter(built, spelled):
    root, _ = built("OxfordPets", "coop")
    assert load_benchmark(spelled, root).names[0] == "abyssinian"


@pytest.mark.parametrize(
    ("name", "nearest"), [("Caltech-100", "Caltech101"), ("imagenet_v3", "ImageNetV2")]
)
def test_an_unknown_name_lists_the_known_and_suggests_one(name, nearest, tmp_path):
    with pytest.raises(ValueError, match=f"OxfordPets.*mean '{nearest}'"):
        load_benchmark(name, tmp_path)


def test_a_name_that_is_near_nothing_suggests_nothing(tmp_path):
    with pytest.raises(ValueError) as caught:
        load_benchmark("xyzzy!", tmp_path)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(("name", "root"), [(3, "."), ("DTD", None), ("DTD", 3)])
def test_wrong_types_are_refused(name, root):
    with pytest.raises(TypeError, match="name must|root must"):
        load_benchmark(name, root)


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_benchmark("DTD", tmp_path / "nowhere")


def test_the_root_may_be_relative_or_of_home(built, monkeypatch):
    root, _ = built("DTD", "coop")
    wanted = load_benchmark("DTD", root).images
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.setenv("USERPROFILE", str(root.parent))
    assert load_benchmark("DTD", ".").images == wanted
    assert load_benchmark("DTD", f"~/{root.name}").images == wanted


# --- bad files --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "images/../../secret.jpg",
        "/etc/secret.jpg",
        "..\\secret.jpg",
        "",
    ],
)
@pytest.mark.parametrize("name", ["OxfordPets", "StanfordCars", "SUN397"])
def test_a_path_that_leads_out_is_refused(fresh, name, path):
    root = fresh(name)
    (file,) = root.rglob("split_zhou_*.json")
    split = json.loads(file.read_text())
    split["val"][0][0] = path
    file.write_text(json.dumps(split))
    (root / "secret.jpg").touch()
    with pytest.raises(ValueError, match="which is not in"):
        load_benchmark(name, root)


@pytest.mark.parametrize(
    ("name", "layout", "list_", "line"),
    [
        ("OxfordPets", "torchvision", "annotations/test.txt", "../../x 1 1 1"),
        ("FGVCAircraft", "coop", "images_variant_val.txt", "../../x 707-320"),
        ("DTD", "official", "labels/val1.txt", "banded/../../x.jpg"),
        ("SUN397", "official", "Testing_01.txt", "/a/abbey/../../../x.jpg"),
        ("UCF101", "official", "ucfTrainTestlist/testlist01.txt", "YoYo/..\\x.avi"),
    ],
)
def test_a_line_that_leads_out_is_refused(fresh, name, layout, list_, line):
    root = fresh(name, layout)
    folder = next(root.iterdir())
    (folder / list_).write_text(f"{line}\n")
    with pytest.raises(ValueError, match="which is not in|does not say"):
        load_benchmark(name, root)


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        "{}",
        '{"train": [], "val": []}',
        '{"train": [["a.jpg", 0]], "val": [], "test": []}',
        '{"train": [["a.jpg", "0", "a"]], "val": [], "test": []}',
        '{"train": [["a.jpg", true, "a"]], "val": [], "test": []}',
        '{"train": [[7, 0, "a"]], "val": [], "test": []}',
        '{"train": [["a.jpg", 1, "a"]], "val": [], "test": []}',
        '{"train": [["a.jpg", 0, "a"]], "val": [["b.jpg", 0, "b"]], "test": []}',
        '{"train": 3, "val": [], "test": []}',
        "\xff",
    ],
)
def test_a_split_file_that_says_something_else_is_named(fresh, text):
    root = fresh("EuroSAT")
    file = root / "eurosat" / "split_zhou_EuroSAT.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="split_zhou_EuroSAT.json does not say"):
        load_benchmark("EuroSAT", root)


def test_a_set_that_lists_nothing_is_refused(fresh):
    root = fresh("DTD")
    file = root / "dtd" / "split_zhou_DescribableTextures.json"
    file.write_text('{"train": [], "val": [], "test": []}')
    with pytest.raises(ValueError, match="no image"):
        load_benchmark("DTD", root)


@pytest.mark.parametrize(
    ("name", "layout", "list_", "text"),
    [
        ("ImageNet", "kaggle", "LOC_val_solution.csv", "a,b\n1,2\n"),
        ("ImageNet", "kaggle", "LOC_val_solution.csv", "ImageId,PredictionString\n"),
        (
            "ImageNet",
            "devkit",
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
            "5000\n",
        ),
        ("ImageNet", "devkit", "ILSVRC2012_devkit_t12/data/meta.mat", "text"),
        ("OxfordPets", "torchvision", "annotations/test.txt", "Abyssinian_1 one 1 1"),
        ("OxfordPets", "torchvision", "annotations/test.txt", "Abyssinian_1"),
        ("OxfordPets", "torchvision", "annotations/trainval.txt", "Abyssinian_1 9 1 1"),
        ("StanfordCars", "torchvision", "devkit/cars_meta.mat", "text"),
        ("Flowers102", "torchvision", "setid.mat", "text"),
        ("Food101", "torchvision", "meta/test.json", '{"cake": ["cake/1"]}'),
        ("FGVCAircraft", "coop", "images_variant_test.txt", "0000001 Concorde"),
        ("SUN397", "official", "Testing_01.txt", "/z/zoo/sun_1.jpg"),
        ("UCF101", "official", "ucfTrainTestlist/testlist01.txt", "Nap/v_Nap_g1.avi"),
        ("UCF101", "official", "ucfTrainTestlist/classInd.txt", "3 YoYo"),
    ],
)
def test_a_list_that_says_something_else_is_named(fresh, name, layout, list_, text):
    root = fresh(name, layout)
    file = next(root.iterdir()) / list_
    file.write_text(text)
    named = "annotations" if "trainval" in list_ else file.name
    with pytest.raises(ValueError, match=f"{named}.* does not say what it should"):
        load_benchmark(name, root)


# --- single sets ------------------------------------------------------------------


def test_imagenet_has_a_thousand_names_and_shifts_the_same(built):
    root, _ = built("ImageNet", "coop")
    benchmark = load_benchmark("ImageNet", root)
    assert len(benchmark.names) == 1000
    assert set(benchmark.labels.tolist()) == {0, 1, 130, 954}
    for name in ("ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R"):
        root, _ = built(name, "coop")
        shift = load_benchmark(name, root)
        assert shift.names == benchmark.names
        assert set(shift.labels.tolist()) == {0, 1, 130, 954}
        assert list(shift.splits) == ["test"]


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("keep_folder", [False, True])
def test_a_class_of_imagenet_without_images_is_missed(fresh, part, keep_folder):
    root = fresh("ImageNet")
    folder = root / "imagenet" / "images" / part / "n02007558"
    folder.rename(root / "aside")
    if keep_folder:
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match=f"{part} has no .* as n02007558"):
        load_benchmark("ImageNet", root)


def test_folders_without_classes_are_missed(fresh):
    root = fresh("ImageNetV2")
    folder = next((root / "imagenetv2").iterdir())
    for name in ("0", "1", "130", "954"):
        (folder / name).rename(folder / f"n{name}")
    with pytest.raises(FileNotFoundError, match="no images in .* has n0, n1"):
        load_benchmark("ImageNetV2", root)


def test_files_that_macos_leaves_are_no_images(fresh):
    root = fresh("ImageNet-A")
    before = load_benchmark("ImageNet-A", root)
    image = Path(before.images[0])
    image.with_name(f"._{image.name}").touch()
    (image.parent / ".DS_Store").touch()
    assert load_benchmark("ImageNet-A", root).images == before.images


def test_a_dealt_split_does_not_depend_on_the_folder_or_on_other_images(fresh, built):
    root = fresh("Caltech101", "official")
    elsewhere, _ = built("Caltech101", "torchvision")
    first = load_benchmark("Caltech101", root)
    other = load_benchmark("Caltech101", elsewhere)
    for split, rows in first.splits.items():
        np.testing.assert_array_equal(rows, other.splits[split])
    # A class that comes or goes changes no other class.
    (root / "caltech-101" / "101_ObjectCategories" / "accordion").rename(root / "aside")
    fewer = load_benchmark("Caltech101", root)
    for split in first.splits:
        kept = [row for row in rows_of(first, root, split) if row[1] != "accordion"]
        assert rows_of(fewer, root, split) == kept


def test_each_class_is_dealt_by_the_same_shares(built):
    root, _ = built("EuroSAT", "torchvision")
    benchmark = load_benchmark("EuroSAT", root)
    for split, n in SINGLE["DEALT"].items():
        counts = np.bincount(benchmark.labels[benchmark.splits[split]])
        assert counts.tolist() == [n] * 10


def test_flowers_have_all_names_by_their_own_lists(built):
    root, _ = built("Flowers102", "torchvision")
    names = load_benchmark("Flowers102", root).names
    assert len(set(names)) == 102
    assert (names[0], names[73], names[101]) == (
        "pink primrose",
        "rose",
        "blackberry lily",
    )
    # Only newer versions of torchvision know them.
    assert names == getattr(torchvision.datasets.Flowers102, "classes", names)


@pytest.mark.parametrize(
    ("name", "reader", "splits"),
    [
        ("OxfordPets", "OxfordIIITPet", {"train": "trainval", "test": "test"}),
        ("StanfordCars", "StanfordCars", {"train": "train", "test": "test"}),
        ("Flowers102", "Flowers102", {"train": "train", "val": "val", "test": "test"}),
        ("Food101", "Food101", {"train": "train", "test": "test"}),
        ("FGVCAircraft", "FGVCAircraft", {"train": "train", "test": "test"}),
        ("DTD", "DTD", {"train": "train", "val": "val", "test": "test"}),
        ("SUN397", "SUN397", None),
        ("EuroSAT", "EuroSAT", None),
    ],
)
def test_torchvision_reads_the_same(built, name, reader, splits, monkeypatch):
    """In its own layout torchvision gives the same pictures the same labels."""
    dataset = getattr(torchvision.datasets, reader)
    if name == "Flowers102":
        unchecked = {key: (file, None) for key, (file, _) in dataset._file_dict.items()}
        monkeypatch.setattr(dataset, "_file_dict", unchecked)
    root, _ = built(name, "torchvision")
    images, labels, _, rows_in = load_benchmark(name, root)
    if splits is None:
        parts = [(dataset(str(root)), range(len(images)))]
    else:
        parts = [
            (dataset(str(root), split=theirs), rows_in[split])
            for split, theirs in splits.items()
        ]
    for theirs, rows in parts:
        ours = {
            Image.open(images[row]).convert("RGB").tobytes(): labels[row]
            for row in rows
        }
        assert len(ours) == len(rows) == len(theirs)
        for image, label in theirs:
            assert ours[image.convert("RGB").tobytes()] == label
