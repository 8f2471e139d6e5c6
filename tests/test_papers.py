"""``benchmarks/papers.py`` from end to end, on miniatures of all the papers' sets."""

import importlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier

from skfewshot import CLIPFeaturizer, CMMClassifier, MultiLabelPrototypeClassifier
from skfewshot.datasets import BENCHMARKS, load_benchmark
from skfewshot.model_selection import sample_support

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "papers.py"
LABELLED = ("COCO", "VOC2007", "NUS-WIDE", "iMaterialist")
SHIFTS = ("ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R")
FAST = ("zero-shot", "ProKeR", "CMM")
FAST_LABELS = ("text, global feature", "Tip-Adapter", "ours")
pytestmark = [
    # The miniatures of two sets lack an image each.
    pytest.mark.filterwarnings("ignore:1 of the .* images that:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*the same to:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*label vectors tell:UserWarning"),
]


@pytest.fixture(scope="module")
def root(miniatures, tmp_path_factory):
    """Return the folder with a miniature of each of the nineteen sets."""
    folder = tmp_path_factory.mktemp("sets")
    assert set(miniatures) == set(BENCHMARKS)
    for layouts in miniatures.values():
        next(iter(layouts.values()))(folder, np.random.default_rng(0))
    return folder


@pytest.fixture(scope="module")
def papers():
    """Return the module of the command line."""
    before = set(sys.modules)
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        yield importlib.import_module("papers")
    finally:
        sys.path.remove(str(SCRIPT.parent))
        for name in set(sys.modules) - before:
            found = getattr(sys.modules[name], "__file__", None)
            if found and Path(found).parent == SCRIPT.parent:
                del sys.modules[name]


@pytest.fixture
def run(papers, root, tmp_path):
    """Return the function that runs an experiment and returns its cells."""

    def run_one(experiment, *options, out=tmp_path, root=root, **lists):
        words = [experiment, "--root", str(root), "--out", str(out), "--model", "tiny"]
        for name, values in lists.items():
            words += [f"--{name}", *map(str, values)]
        papers.main([*words, *map(str, options)])
        return cells_in(out / f"{experiment}.json")

    return run_one


def cells_in(path):
    return json.loads(path.read_text())["runs"]


def key_of(cell):
    return cell["data"], cell["method"], cell["shots"], cell["seed"]


def scores_of(cells):
    keys = ("accuracy", "ece", "log_loss")
    return {(*key_of(cell), key): cell[key] for cell in cells for key in keys}


@pytest.mark.slow
def test_cmm_runs_on_all_fifteen_sets(run, tmp_path):
    cells = run("cmm", "--seeds", 2, methods=FAST, shots=(1, 2))
    names = [name for name in BENCHMARKS if name not in LABELLED]
    assert len(names) == 15
    wanted = {
        (name, method, shots, seed)
        for name in names
        for method in FAST
        for shots in (1, 2)
        for seed in (0, 1)
    }
    assert len(cells) == len(wanted)
    assert {key_of(cell) for cell in cells} == wanted
    for cell in cells:
        assert 0 <= cell["accuracy"] <= 100
        assert 0 <= cell["ece"] <= 1
    report = (tmp_path / "cmm.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| ")]
    for name in names:
        # By two numbers of shots, of accuracy and of the calibration error.
        assert sum(row.startswith(f"| {name} |") for row in rows) == 4
    assert "| mean of 11 sets | 1 |" in report
    assert "| mean of 4 sets | 2 |" in report
    assert "Worst cell of CMM" in report
    assert "## Missing" not in report
    assert (tmp_path / "cmm.png").read_bytes().startswith(b"\x89PNG")
    # The images of a class look alike and its name says nothing of them.
    learned = np.mean([c["accuracy"] for c in cells if c["method"] == "CMM"])
    assert learned > 90


def test_a_number_of_the_table_is_the_mean_over_seeds(run, tmp_path):
    cells = run("cmm", "--seeds", 2, methods=["CMM"], shots=[1], sets=["OxfordPets"])
    scores = [cell["accuracy"] for cell in cells]
    report = (tmp_path / "cmm.md").read_text()
    wanted = f"| OxfordPets | 1 | {np.mean(scores):.1f} ± {np.std(scores):.1f} |"
    assert wanted in report


@pytest.mark.slow
def test_every_method_runs(run, papers, tmp_path):
    cells = run("cmm", "--seeds", 1, shots=[2], sets=["DTD"])
    assert {cell["method"] for cell in cells} == set(papers.papers_run.METHODS)
    assert {"CMM", "CMM, as published", "zero-shot", "LP++"} <= {
        cell["method"] for cell in cells
    }
    assert "CMM, as published beside its peers" in (tmp_path / "cmm.md").read_text()


def test_supports_come_from_the_training_images_alone(papers, root):
    sources, _ = papers.papers_run.find_sets(
        ["Food101"], root, lambda name, images: None
    )
    source = sources["Food101"]
    _, labels, _, splits = source.benchmark
    small, large = source.support_rows(2, 0), source.support_rows(4, 0)
    assert set(small) < set(large) <= set(splits["train"])
    assert (np.bincount(labels[small]) == 2).all()
    assert (np.bincount(labels[large]) == 4).all()
    assert set(source.support_rows(2, 1)) != set(small)


def test_a_shift_is_scored_among_its_own_classes(run, miniatures, tmp_path):
    root = tmp_path / "sets"
    for name in ("ImageNet", "ImageNet-A"):
        next(iter(miniatures[name].values()))(root, np.random.default_rng(0))
    folder = root / "imagenet-adversarial" / "imagenet-a"
    for absent in ("n01440764", "n07753592"):
        for path in (folder / absent).iterdir():
            path.unlink()
        (folder / absent).rmdir()
    (cell,) = run(
        *("cmm", "--seeds", 1),
        root=root,
        methods=["CMM"],
        shots=[1],
        sets=["ImageNet-A"],
    )
    source, shift = (load_benchmark(name, root) for name in ("ImageNet", "ImageNet-A"))
    classes = np.unique(source.labels)
    asked = np.unique(shift.labels)
    assert (len(classes), len(asked), cell["n_classes"]) == (4, 2, 2)
    # Slowly: the same support, and the better of the two classes that are asked about.
    rng, rows = np.random.default_rng(0), []
    train = source.splits["train"]
    for label in classes:
        rows.append(rng.permutation(train[source.labels[train] == label])[0])
    clip = CLIPFeaturizer("tiny")
    X = clip.transform([source.images[row] for row in rows])
    text = clip.encode_classes([source.names[label] for label in classes])
    model = CMMClassifier(text).fit(X, source.labels[rows])
    scores = model.decision_function(clip.transform(shift.images))
    columns = np.searchsorted(classes, asked)
    guesses = asked[scores[:, columns].argmax(axis=1)]
    assert cell["accuracy"] == pytest.approx(100 * np.mean(guesses == shift.labels))


def test_classes_that_are_all_improbable_keep_their_order(papers):
    class Told:
        def predict_log_proba(self, X):
            rows = [
                [0, -500, -200, -300],
                [0, -np.inf, -900, -800],
                [0, *[-np.inf] * 3],
            ]
            return np.array(rows, dtype=np.float32)

    found = papers.papers_run.measure(
        Told(), np.zeros((3, 1)), np.array([20, 30, 10]), np.array([1, 2, 3])
    )
    assert found["accuracy"] == 100
    assert np.isfinite(found["ece"])
    assert np.isfinite(found["log_loss"])
    assert found["n_classes"] == 3


class Stopped(BaseException):
    """What stops a run in these tests, as Ctrl-C does."""


def test_an_interrupted_run_makes_only_what_is_missing(
    run, papers, monkeypatch, tmp_path
):
    options = {"methods": FAST, "shots": (1, 2), "sets": ("DTD", "EuroSAT")}
    add = papers.Results.add

    def stop_after(n):
        made = []

        def counted(self, cell):
            if len(made) == n:
                raise Stopped
            made.append(key_of(cell))
            add(self, cell)

        monkeypatch.setattr(papers.Results, "add", counted)
        return made

    stop_after(5)
    with pytest.raises(Stopped):
        run("cmm", "--seeds", 1, **options)
    first = cells_in(tmp_path / "cmm.json")
    assert len(first) == 5
    made = stop_after(None)
    cells = run("cmm", "--seeds", 1, **options)
    assert cells[:5] == first
    assert len(made) == 12 - 5
    assert not {key_of(cell) for cell in first} & set(made)
    # In one go it comes out the same.
    whole = run("cmm", "--seeds", 1, out=tmp_path / "whole", **options)
    assert scores_of(cells) == pytest.approx(scores_of(whole), abs=1e-4)
    # And nothing is left to make or to embed.
    made = stop_after(0)
    monkeypatch.delattr(CLIPFeaturizer, "transform")
    assert run("cmm", "--seeds", 1, **options) == cells


def test_embedding_goes_on_where_it_was_interrupted(run, papers, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["papers_store"], "BLOCK", 4)
    transform, seen = CLIPFeaturizer.transform, []

    def stop_after(n):
        def counted(self, X, out=None):
            if len(seen) == n:
                raise Stopped
            seen.append(list(X))
            return transform(self, X, out)

        monkeypatch.setattr(CLIPFeaturizer, "transform", counted)

    options = {"methods": ["CMM"], "shots": [2], "sets": ["EuroSAT"]}
    stop_after(7)
    with pytest.raises(Stopped):
        run("cmm", "--seeds", 1, **options)
    # As if it had been killed while it wrote.
    (data,) = (tmp_path / "features").glob("*.bin")
    with open(data, "ab") as file:
        file.write(b"half a row")
    stop_after(None)
    cells = run("cmm", "--seeds", 1, **options)
    images = [image for batch in seen for image in batch]
    assert len(images) == len(set(images)) == 10 * 2 + 10 * 3
    whole = run("cmm", "--seeds", 1, out=tmp_path / "whole", **options)
    assert scores_of(cells) == pytest.approx(scores_of(whole), abs=1e-4)


@pytest.mark.slow
def test_a_run_that_is_killed_loses_nothing(root, run, tmp_path):
    words = [sys.executable, SCRIPT, "cmm", "--root", root, "--out", tmp_path]
    words += ["--model", "tiny", "--seeds", "2", "--shots", "1", "2", "--sets", "DTD"]
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL)
    path, killed_at = tmp_path / "cmm.json", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < killed_at:
        if path.exists() and len(cells_in(path)) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = cells_in(path)
    after = run("cmm", "--seeds", 2, shots=(1, 2), sets=["DTD"])
    assert 3 <= len(before) < len(after) == 2 * 2 * 13
    assert after[: len(before)] == before
    assert len({key_of(cell) for cell in after}) == len(after)


def test_what_has_changed_is_another_cell(
    run, papers, monkeypatch, miniatures, tmp_path
):
    root, options = tmp_path / "sets", {"methods": ["CMM"], "shots": [1]}
    miniatures["DTD"]["coop"](root, np.random.default_rng(0))
    monkeypatch.setattr(papers.papers_run.skfewshot, "__version__", "0.0.1")
    run("cmm", "--seeds", 1, root=root, sets=["DTD"], **options)
    monkeypatch.undo()
    assert len(run("cmm", "--seeds", 1, root=root, sets=["DTD"], **options)) == 2
    split = json.loads(
        (root / "dtd" / "split_zhou_DescribableTextures.json").read_text()
    )
    split["test"] = split["test"][1:]
    path = root / "dtd" / "split_zhou_DescribableTextures.json"
    path.write_text(json.dumps(split))
    cells = run("cmm", "--seeds", 1, root=root, sets=["DTD"], **options)
    assert [cell["n_queries"] for cell in cells] == [12, 12, 11]
    # The table has one of them, not their mean.
    assert re.search(r"\| DTD \| 1 \| [\d.]+ \|", (tmp_path / "cmm.md").read_text())


def test_missing_sets_are_told_and_the_others_run(run, miniatures, tmp_path, capsys):
    root = tmp_path / "sets"
    for name in ("DTD", "ImageNet-R"):
        next(iter(miniatures[name].values()))(root, np.random.default_rng(0))
    cells = run("cmm", "--seeds", 1, root=root, methods=FAST, shots=[1])
    assert {cell["data"] for cell in cells} == {"DTD"}
    assert "Caltech101 is left out" in capsys.readouterr().out
    report = (tmp_path / "cmm.md").read_text()
    missing = report.partition("## Missing")[2]
    for name in BENCHMARKS:
        if name not in (*LABELLED, "DTD"):
            assert f"| {name} |" in missing
    assert missing.count("Download") == 15 - 2
    assert "needs ImageNet" in missing


def test_no_set_at_all_is_an_error(run, tmp_path, capsys):
    for experiment in ("cmm", "mlfsic"):
        # With a text, Python prints it and exits with status 1.
        with pytest.raises(SystemExit, match="None of the sets was found") as caught:
            run(experiment, root=tmp_path / "none", out=tmp_path / "out")
        assert "said above" in caught.value.code
        told = capsys.readouterr().out
        for name in BENCHMARKS:
            asked_for = (name in LABELLED) == (experiment == "mlfsic")
            assert told.count(f"{name} is left out: ") == asked_for
        assert "Download" in told
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_labels_run_on_all_four_sets(run, tmp_path):
    cells = run("mlfsic", "--supports", 2, methods=FAST_LABELS, shots=[1])
    wanted = {
        (name, method, 1, seed)
        for name in LABELLED
        for method in FAST_LABELS
        for seed in (0, 1)
    }
    assert len(cells) == len(wanted)
    assert {key_of(cell) for cell in cells} == wanted
    for cell in cells:
        assert 0 <= cell["map"] <= 100
        assert cell["left_out"] == []
    report = (tmp_path / "mlfsic.md").read_text()
    for name in LABELLED:
        assert f"| {name} | 1 |" in report
    assert "| mean of 4 sets | 1 |" in report
    assert (tmp_path / "mlfsic.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_of_several_labels_by_hand_and_in_small_blocks(
    run, papers, root, monkeypatch
):
    monkeypatch.setattr(papers.papers_labels, "BLOCK", 7)
    methods = ["logistic regression", "ours"]
    options = {"sets": ["VOC2007"], "shots": [2], "methods": methods}
    cells = run("mlfsic", "--supports", 1, **options)
    found = {cell["method"]: cell["map"] for cell in cells}
    images, labels, names, splits = load_benchmark("VOC2007", root)
    novel = np.sort(
        [names.index(name) for name in papers.papers_labels.NOVEL["VOC2007"]]
    )
    labels = labels[:, novel]
    train = np.concatenate([splits["train"], splits["val"]])
    train = train[labels[train].any(axis=1)]
    test = splits["test"][labels[splits["test"]].any(axis=1)]
    rows = train[sample_support(labels[train], 2, random_state=0)]
    clip = CLIPFeaturizer("tiny", output="tokens")
    X, Q = (clip.transform([images[row] for row in part]) for part in (rows, test))
    probe = OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000))
    scores = probe.fit(X[:, 0], labels[rows]).decision_function(Q[:, 0])
    wanted = average_precision_score(labels[test], scores, average="macro")
    # The embeddings are kept in half precision.
    assert found["logistic regression"] == pytest.approx(100 * wanted, abs=0.5)
    text = clip.encode_classes([names[column] for column in novel])
    model = MultiLabelPrototypeClassifier(text).fit(X, labels[rows])
    scores = model.decision_function(Q)
    wanted = average_precision_score(labels[test], scores, average="macro")
    assert found["ours"] == pytest.approx(100 * wanted, abs=1)


@pytest.mark.slow
def test_every_method_for_several_labels_runs_and_a_prior_is_trained_once(
    run, papers, monkeypatch
):
    options = {"sets": ["VOC2007"], "shots": [1]}
    quick = ("--episodes", 2, "--base-images", 30)
    cells = run("mlfsic", "--supports", 1, *quick, **options)
    assert {cell["method"] for cell in cells} == set(papers.papers_labels.METHODS)
    monkeypatch.setattr(papers.papers_labels, "_fit_prior", None)
    more = run("mlfsic", "--supports", 2, *quick, **options)
    assert more[: len(cells)] == cells
    assert len(more) == 2 * len(cells)


def test_the_published_recipe_takes_word_vectors(run, root, tmp_path):
    names = load_benchmark("VOC2007", root).names
    words = sorted({word for name in names for word in name.split()})
    rng, path = np.random.default_rng(0), tmp_path / "words.txt"
    numbers = [" ".join(map(str, rng.normal(size=30).round(4))) for _ in words]
    lines = [f"{word} {vector}\n" for word, vector in zip(words, numbers, strict=True)]
    path.write_text("".join(lines))
    options = {"sets": ["VOC2007"], "shots": [1], "methods": ["as published"]}
    quick = ("--supports", 1, "--episodes", 1, "--base-images", 30)
    (by_words,) = run("mlfsic", *quick, "--word-vectors", path, **options)
    assert by_words["params"]["word_vectors"].startswith("words.txt, ")
    # With CLIP's texts it is another cell.
    both = run("mlfsic", *quick, **options)
    assert [cell["params"].get("word_vectors") is None for cell in both] == [
        False,
        True,
    ]
    path = tmp_path / "fewer.txt"
    path.write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=f"VOC2007: .*{words[0]}"):
        run("mlfsic", *quick, "--word-vectors", path, **options)


@pytest.mark.parametrize("name", LABELLED)
def test_base_images_show_no_novel_label(papers, root, name):
    labels = papers.papers_labels
    sources, _ = papers.papers_run.find_sets([name], root, lambda name, images: None)
    task = labels.Task(sources[name], 10_000)
    benchmark = sources[name].benchmark
    n_novel = {"COCO": 16, "VOC2007": 6, "NUS-WIDE": 16, "iMaterialist": 45}[name]
    assert len(task.novel) == n_novel
    assert sorted([*task.novel, *task.base]) == list(range(len(benchmark.names)))
    if labels.NOVEL[name]:
        assert {benchmark.names[c] for c in task.novel} == set(labels.NOVEL[name])
    assert not task.labels[np.ix_(task.base_rows, task.novel)].any()
    assert task.labels[task.base_rows].any(axis=1).all()
    assert not set(task.base_rows) & set(benchmark.splits["test"])
    assert set(task.queries) <= set(benchmark.splits["test"])
    support = task.support(1, 0)
    assert set(support) <= set(task.pool)
    assert not set(support) & (set(task.queries) | set(task.base_rows))
    assert (task.novel_labels(support).sum(axis=0) >= 1).all()
