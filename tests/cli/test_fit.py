"""``skfewshot fit``: folders and tables of tags to models."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

import skfewshot
from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.cli import main
from skfewshot.cli._fit import read_tags

TINY = ("--model", "tiny")


def error_of(capsys, *arguments):
    """Return the line that a command says when it fails as the user may mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([*map(str, arguments)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("skfewshot: ") and "Traceback" not in lines
    return lines[-1]


def test_a_folder(photos, model):
    loaded = skfewshot.load(model)
    assert loaded.classes_.tolist() == ["checked_ring", "plain_heart", "striped_star"]
    paths = sorted(photos.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    assert loaded.score(paths, labels) > 0.9
    # As in Python, and with what inspection needs.
    X = CLIPFeaturizer("tiny").fit_transform(paths)
    expected = CMMClassifier().fit(X, labels)
    np.testing.assert_allclose(
        loaded.predict_proba(paths), expected.predict_proba(X), rtol=1e-4, atol=1e-6
    )
    assert loaded[-1].left_out_proba_.shape == (15, 3)
    assert loaded[0].on_error == "raise" and loaded[0].cache is None


def test_to_a_folder_with_a_card(photos, in_folder, capsys):
    assert main(["fit", str(photos), "-o", "made/shared", *TINY]) == 0
    card = (in_folder / "made" / "shared" / "README.md").read_text("utf-8")
    assert "| plain\\_heart | 5 |" in card and "classified by the classifier" in card
    out = capsys.readouterr()
    assert "3 classes of 5 images each; " in out.out
    assert "Embedding 15 images" in out.err
    assert main(["predict", "made/shared", str(next(photos.rglob("*.png"))), "-q"]) == 0


def test_images_that_cannot_be_read_are_told(photos, in_folder, capsys):
    other = in_folder / "photos"
    for path in sorted(photos.rglob("*.png")):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        (other / path.parent.name / path.name).write_bytes(path.read_bytes())
    (other / "plain_heart" / "x.jpg").write_bytes(b"no picture")
    assert main(["fit", "photos", "-o", "m.skops", *TINY, "--cache", "kept"]) == 0
    told = capsys.readouterr().err
    assert "x.jpg: left out: " in told and "no image format" in told
    loaded = skfewshot.load("m.skops")
    assert loaded[-1].class_count_.tolist() == [5, 5, 5]
    # A cache is of the machine that fitted.
    assert loaded[-1].encoder_.cache is None and list((in_folder / "kept").iterdir())


def test_images_without_labels_and_a_report(photos, new, in_folder, capsys):
    fit = ["fit", str(photos), "-o", "m.skops", *TINY, "--report", "out/report.html"]
    assert main([*fit, "--unlabelled", str(new)]) == 0
    text, told = capsys.readouterr()
    assert "Embedding 22 images" in told and "damaged.jpg: left out" in told
    assert "Report saved as out/report.html" in text
    page = (in_folder / "out" / "report.html").read_text("utf-8")
    assert "<bdi>plain_heart</bdi>" in page and "What to label next" in page
    assert page.count("data:image/jpeg") >= 6
    loaded = skfewshot.load("m.skops")
    assert loaded[-1].class_count_.tolist() == [5, 5, 5]
    # As in Python.
    paths = [*sorted(photos.rglob("*.png")), *sorted(new.glob("*.png"))]
    labels = [p.parent.name for p in paths[:15]] + [None] * 6
    X = CLIPFeaturizer("tiny").fit_transform(paths)
    expected = CMMClassifier().fit(X, labels).predict_proba(X)
    found = loaded.predict_proba(paths)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    # Those that have a label already are not taken once more.
    assert main([*fit[:-2], "--unlabelled", str(photos)]) == 0
    assert "Embedding 15 images" in capsys.readouterr().err


def test_tags(scenes, in_folder, capsys):
    tags = scenes / "tags.csv"
    assert main(["fit", "--tags", str(tags), "-o", "m.skops", *TINY, "-q"]) == 0
    assert "3 labels of" in capsys.readouterr().out
    loaded = skfewshot.load("m.skops")
    assert loaded[-1].label_names == ["checked ring", "plain heart", "striped star"]
    assert loaded.predict([scenes / "0.png"]).shape == (1, 3)
    # The same from a long table elsewhere, a row a tag, with a folder for its paths.
    rows = [line.split(",") for line in tags.read_text("utf-8-sig").splitlines()[1:]]
    lines = [
        f"{tag.strip()},{path}"
        for path, found in rows
        for tag in found.strip('"').split(";")
    ]
    (in_folder / "long.csv").write_text("\n".join(["tags,path", *lines]))
    command = ["fit", str(scenes), "--tags", "long.csv", "-o", "l.skops", *TINY, "-q"]
    assert main(command) == 0
    paths = sorted(scenes.glob("*.png"))
    np.testing.assert_allclose(
        skfewshot.load("l.skops").predict_proba(paths), loaded.predict_proba(paths)
    )


def test_mistakes(photos, scenes, in_folder, capsys):
    fit = ("fit", "-o", "m.skops", *TINY)
    assert "There is no folder path='missing'" in error_of(capsys, *fit, "missing")
    assert "Nothing to learn from" in error_of(capsys, *fit)
    one = in_folder / "one"
    (one / "only").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(one / "only" / "a.png")
    assert "class" in error_of(capsys, *fit, one)
    assert "is a file" in error_of(capsys, "fit", photos, "-o", __file__, *TINY)
    text = error_of(capsys, "fit", photos, "-o", "m.skops", "--model", "ViT-Q")
    assert "ViT-Q" in text
    tags = ("--tags", scenes / "tags.csv")
    assert "--report does not go with --tags" in error_of(
        capsys, *fit, *tags, "--report", "r.html"
    )
    assert error_of(capsys, *fit, "--tags", "no.csv").endswith(
        "no.csv: No such file or directory"
    )
    for content, wanted in {
        "": "wanted are path and tags",
        "path;tags\na.png;cat\n": "wanted are path and tags",
        "path,tags\n": "has no row",
        "path,tags\n,cat\n": "line 2, has no path",
        "path,tags\na.png,\n": "no tag",
        b"path,tags\n\xff\xfe,cat\n": "no CSV file in UTF-8",
        "path,tags\na.png,cat\nb.png,cat,dog\n": "line 3, has more cells",
        "path,tags,,\na.png,cat,,\nb.png,cat,,dog\n": "line 3, has more cells",
        "path,tags,Tags\na.png,cat,dog\n": "wanted are path and tags",
        "path,tags\ngone.png,cat\n": "None of the images could be read",
    }.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (in_folder / "t.csv").write_bytes(raw)
        assert wanted in error_of(capsys, *fit, "--tags", "t.csv")
    assert not (in_folder / "m.skops").exists()


def test_a_path_that_is_written_in_two_ways_is_one(in_folder):
    lines = ["path,tags", "a.png,cat", "./a.png,dog", "in/../a.png,", "in//b.png,"]
    (in_folder / "t.csv").write_text("\n".join(lines))
    found = read_tags("t.csv")
    assert found == {"a.png": ["cat", "dog"], os.path.join("in", "b.png"): []}


def test_what_a_spreadsheet_leaves_is_no_tag(in_folder):
    lines = ["Path , who, TAGS,,", "a.png,me,cat ; dog,,", "", "b.png, you, ,,,"]
    (in_folder / "t.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert read_tags("t.csv") == {"a.png": ["cat", "dog"], "b.png": []}


def test_where_nothing_can_be_written(photos, in_folder, capsys):
    (in_folder / "folder.skops").mkdir()
    fit = ("fit", photos, *TINY, "-q")
    assert "-o is empty" in error_of(capsys, *fit, "-o", "")
    assert "is a folder" in error_of(capsys, *fit, "-o", "folder.skops")
    fit += ("-o", "m.skops", "--report")
    assert "--report is empty" in error_of(capsys, *fit, "")
    assert "--report folder.skops is a folder" in error_of(capsys, *fit, "folder.skops")
    assert "name the same file" in error_of(capsys, *fit, "./m.skops")
    (in_folder / "README.md").write_text("# Mine")
    assert "README.md that is no card" in error_of(capsys, "fit", photos, "-o", ".")
    assert sorted(os.listdir()) == ["README.md", "folder.skops"]


def test_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "photos"])
    assert stopped.value.code == 2
    assert "--output" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "skfewshot fit photos -o model.skops" in text and "%(" not in text
