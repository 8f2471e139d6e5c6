"""``skfewshot predict``, ``suggest``: rows that stream, and go on where they ended."""

import csv
import io
import os
import subprocess
import sys

import numpy as np
import pytest

import skfewshot
from skfewshot.cli import _shared, main
from skfewshot.cli._predict import COLUMNS
from skfewshot.inspection import novelty_score, novelty_threshold, predict_set


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
    for wrong in (["--coverage", "1.5"], ["--false-alarms", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", str(model), str(new), *wrong])
        assert stopped.value.code == 2


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
