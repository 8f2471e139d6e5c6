"""``skfewshot predict``, ``suggest``: rows that stream, and go on where they ended."""

import csv
import io
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

import skfewshot
from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.cli import _shared, main
from skfewshot.cli._predict import COLUMNS
from skfewshot.datasets import load_folder
from skfewshot.inspection import (
    RejectingClassifier,
    novelty_score,
    novelty_threshold,
    predict_set,
)


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows(model, new, in_folder, capsys):
    assert main(["predict", str(model), str(new), "--csv", "out.csv"]) == 0
    assert "6 images classified, 1 could not be read" in capsys.readouterr().err
    rows = rows_of("out.csv")
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 7
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    bad = [row for row in rows if row["error"]]
    assert [os.path.basename(row["path"]) for row in bad] == ["damaged.jpg"]
    assert "no image format" in bad[0]["error"] and bad[0]["label"] == ""
    good = [row for row in rows if not row["error"]]
    loaded = skfewshot.load(model)
    paths = [row["path"] for row in good]
    assert [row["label"] for row in good] == loaded.predict(paths).tolist()
    proba = [float(row["probability"]) for row in good]
    np.testing.assert_allclose(proba, loaded.predict_proba(paths).max(1), rtol=1e-3)
    novelty = novelty_score(loaded, paths)
    np.testing.assert_allclose(
        [float(row["novelty"]) for row in good], novelty, rtol=2e-3
    )
    bound = novelty_threshold(loaded, false_alarms=0.05)
    assert [row["unknown"] == "yes" for row in good] == (novelty > bound).tolist()
    for row, members in zip(good, predict_set(loaded, paths), strict=True):
        assert set(filter(None, row["set"].split("; "))) == set(
            loaded.classes_[members]
        )


def test_without_a_file_rows_are_printed(model, new, in_folder, capsys):
    predict = ["predict", str(model), str(new), "-q"]
    assert main([*predict, "--csv", "out.csv"]) == 0
    for arguments in (predict, [*predict, "--csv"]):
        capsys.readouterr()
        assert main(arguments) == 0
        printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert printed == rows_of("out.csv")


def test_it_goes_on_where_it_ended(model, new, in_folder, capsys):
    predict = ["predict", str(model), str(new), "-q", "--csv"]
    assert main([*predict, "whole.csv"]) == 0
    whole = (in_folder / "whole.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    for there in (b"", lines[0][:9], lines[0], b"".join(lines[:4]) + lines[4][:-9]):
        (in_folder / "part.csv").write_bytes(there)
        assert main([*predict, "part.csv"]) == 0
        assert (in_folder / "part.csv").read_bytes() == whole
    capsys.readouterr()
    assert main([*predict[:-2], "--csv", "whole.csv"]) == 0
    assert "0 images classified; 7 had a row already" in capsys.readouterr().err
    assert (in_folder / "whole.csv").read_bytes() == whole


def test_rows_of_others_are_not_gone_on_with(model, new, in_folder, capsys):
    predict = ["predict", str(model), str(new), "-q", "--csv"]
    assert main([*predict, "out.csv"]) == 0
    before = (in_folder / "out.csv").read_bytes()
    assert main([*predict, "out.csv", "--coverage", ".5"]) == 1
    assert "rows by another model or with other options" in capsys.readouterr().err
    (in_folder / "other.csv").write_text("name,score\na,1\n")
    assert main([*predict, "other.csv"]) == 1
    assert "name another file" in capsys.readouterr().err
    assert (in_folder / "other.csv").read_text() == "name,score\na,1\n"
    assert (in_folder / "out.csv").read_bytes() == before


def test_names_of_all_kinds(model, new, in_folder, monkeypatch, capsys):
    source = sorted(new.glob("*.png"))[0].read_bytes()
    names = ['a "quoted", one.png', "line\nbreak.png", "ümläut.png", "; .png"]
    if os.name == "posix" and sys.getfilesystemencoding() == "utf-8":
        names.append(os.fsdecode(b"\xff.png"))
    for name in names:
        (in_folder / name).write_bytes(source)
    predict = ["predict", str(model), *names, "gone.png", "-q", "--csv"]
    assert main([*predict, "a.csv"]) == 0
    with open("a.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [*names, "gone.png"]
    assert [bool(row["error"]) for row in rows] == [False] * len(names) + [True]
    whole = (in_folder / "a.csv").read_bytes()
    (in_folder / "a.csv").write_bytes(whole[: whole.index(b"break")])
    assert main([*predict, "a.csv"]) == 0
    assert (in_folder / "a.csv").read_bytes() == whole


def test_several_labels(scenes, in_folder):
    fit = ["fit", "--tags", str(scenes / "tags.csv"), "-o", "m.skops", "-q"]
    assert main([*fit, "--model", "tiny"]) == 0
    assert main(["predict", "m.skops", str(scenes), "--csv", "out.csv", "-q"]) == 0
    rows = rows_of("out.csv")
    model = skfewshot.load("m.skops")
    predicted = model.predict([row["path"] for row in rows])
    names = np.array(model[-1].label_names)
    for row, found in zip(rows, predicted, strict=True):
        labels = list(filter(None, row["label"].split("; ")))
        assert set(labels) == set(names[found > 0])
        proba = [float(p) for p in row["probability"].split("; ") if p]
        assert proba == sorted(proba, reverse=True) and len(proba) == len(labels)


def test_paths_on_the_standard_input(model, new, monkeypatch, capsys):
    paths = sorted(map(str, new.glob("*.png")))[:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(paths) + "\n\n"))
    assert main(["predict", str(model), "-"]) == 0
    out, told = capsys.readouterr()
    assert [row["path"] for row in csv.DictReader(out.splitlines())] == paths
    assert "2 images classified" in told


def test_mistakes(model, new, in_folder, capsys, make_task):
    assert main(["predict", "missing.skops", str(new)]) == 1
    assert "There is no model 'missing.skops'" in capsys.readouterr().err
    (in_folder / "empty").mkdir()
    assert main(["predict", str(model), "empty"]) == 1
    assert "empty has no images" in capsys.readouterr().err
    assert main(["predict", str(model), "a.png", "b.png", "-q", "--csv", "o.csv"]) == 1
    assert len(rows_of("o.csv")) == 2
    X, y, text = make_task()
    skfewshot.save(skfewshot.CMMClassifier(text).fit(X, y), "c.skops")
    capsys.readouterr()
    assert main(["predict", "c.skops", str(new)]) == 1
    assert "does not start from images" in capsys.readouterr().err
    for *wrong, message in (
        ("--coverage", "1.5", "1.5 is not between 0 and 1"),
        ("--false-alarms", "x", "'x' is no number"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", str(model), str(new), *wrong])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_a_classifier_of_others(photos, new, in_folder, capsys):
    paths, names = load_folder(photos)
    for classifier in (LogisticRegression(), SVC()):
        model = make_pipeline(CLIPFeaturizer("tiny"), classifier).fit(paths, names)
        skfewshot.save(model, "m.skops")
        has_proba = hasattr(model, "predict_proba")
        assert main(["predict", "m.skops", str(new), "-q"]) == int(not has_proba)
        told = capsys.readouterr().err
        assert has_proba or "has no probabilities" in told
    assert main(["suggest", "m.skops", str(new)]) == 1
    assert "Embedding" not in capsys.readouterr().err


def test_what_is_unknown_to_the_classifier(photos, new, in_folder, capsys):
    Image.new("RGB", (64, 64), (0, 255, 0)).save("green.png")
    model = make_pipeline(
        CLIPFeaturizer("tiny"), RejectingClassifier(CMMClassifier(), unknown="nothing")
    )
    model.fit(*load_folder(photos))
    skfewshot.save(model, "m.skops")
    images = [*map(str, sorted(new.glob("*.png"))), "green.png"]
    assert main(["predict", "m.skops", *images, "-q", "--csv", "out.csv"]) == 0
    rows = rows_of("out.csv")
    assert [row["label"] for row in rows] == model.predict(images).tolist()
    assert (rows[-1]["label"], rows[-1]["unknown"]) == ("nothing", "yes")
    sets = predict_set(model, images)
    joined = [{*row["set"].split("; ")} - {""} for row in rows]
    assert joined == [{*model.classes_[held]} for held in sets]


def test_folders_that_cannot_be_read_are_told(model, in_folder, new, capsys):
    (in_folder / "x").mkdir()
    shutil.copy(sorted(new.glob("*.png"))[0], "x/a.png")
    os.symlink(in_folder / "x", in_folder / "x" / "round")
    assert main(["predict", str(model), "x", "--csv", "out.csv"]) == 0
    assert len(rows_of("out.csv")) == 1
    told = capsys.readouterr().err
    assert "round in a circle" in told and "1 image classified" in told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with a name")
def test_rows_to_a_pipe_with_a_name(model, new, in_folder):
    os.mkfifo("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(open("pipe").read()))
    reader.start()
    assert main(["predict", str(model), str(new), "--csv", "pipe", "-q"]) == 0
    reader.join()
    assert len(read[0].splitlines()) == 8


def test_without_the_standard_files(model, new, in_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", str(model), "-"]) == 1
    assert "standard input, which is closed" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", None)
    for command in ("predict", "suggest"):
        assert main([command, str(model), str(new)]) == 1
        assert "standard output is closed" in capsys.readouterr().err
    assert main(["predict", str(model), str(new), "--csv", "out.csv"]) == 0
    assert len(rows_of("out.csv")) == 7


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="names may be any bytes")
def test_names_that_are_no_utf_8_go_through_pipes(model, new, in_folder):
    (in_folder / "x").mkdir()
    name = os.fsencode("x/") + b"\xff.png"
    shutil.copy(sorted(new.glob("*.png"))[0], name)
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "skfewshot"]
    for arguments in (["predict", model, "-", "-q"], ["suggest", model, "x", "-q"]):
        done = subprocess.run(
            command + list(map(str, arguments)),
            **{"input": name + b"\n", "stdout": subprocess.PIPE, "env": env},
            check=True,
        )
        assert name in done.stdout


def test_interrupted(model, new, in_folder, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_shared, "embed", interrupt)
    assert main(["predict", str(model), str(new), "--csv", "out.csv"]) == 130
    assert capsys.readouterr().err.endswith("skfewshot: interrupted\n")
    assert main(["predict", str(model), str(new)]) == 130


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a pipe that closes")
def test_a_reader_that_has_enough(model, new):
    command = [sys.executable, "-m", "skfewshot", "predict", str(model), str(new)]
    piped = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    piped.stdout.close()
    assert "Traceback" not in piped.stderr.read()
    assert piped.wait() == 141


def test_suggest(model, new, in_folder, capsys):
    assert main(["suggest", str(model), str(new), "-n", "3"]) == 0
    out = capsys.readouterr()
    paths = out.out.splitlines()
    assert len(set(paths)) == 3 and set(paths) <= set(map(str, new.glob("*.png")))
    assert "damaged.jpg: it is in no image format" in out.err
    assert main(["suggest", str(model), str(new), "-q"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    (new / "damaged.jpg").rename(in_folder / "damaged.jpg")
    try:
        assert main(["suggest", str(model), str(new), "-q", "-n", "1"]) == 0
    finally:
        (in_folder / "damaged.jpg").rename(new / "damaged.jpg")
    assert capsys.readouterr().out.splitlines() == paths[:1]
    assert main(["suggest", str(model), "missing"]) == 1
    assert "FOLDER missing is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["suggest", str(model), str(new), "-n", "0"])
