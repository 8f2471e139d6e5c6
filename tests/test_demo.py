"""``skfewshot demo``: the table, the picture, and a folder of one's own images."""

import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from skfewshot._demo import multi, single
from skfewshot.cli import main
from skfewshot.datasets import make_object_images
from skfewshot.display import ModalityGapDisplay

KINDS = ["striped star", "plain heart"]


def table_rows(text):
    lines = text.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("shots"))
    return [line.split() for line in lines[header + 1 :] if line[:5].strip().isdigit()]


@pytest.mark.slow
def test_rendered_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(single, "DRAWS", 2)
    picture = tmp_path / "out.png"
    assert main(["--shots", "2", "1", "--out", str(picture), "--seed", "3"]) == 0
    rows = table_rows(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["1", "2"]
    zero_shot = {row[1] for row in rows}
    assert len(zero_shot) == 1 and 100 / 12 < float(zero_shot.pop()) < 100
    with Image.open(picture) as image:
        assert image.width > 1000
        assert np.asarray(image.convert("L")).std() > 5


def test_folder_of_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(single, "DRAWS", 2)
    images, names = make_object_images(5, kinds=KINDS, random_state=0, return_X_y=True)
    for index, (pixels, name) in enumerate(zip(images, names, strict=True)):
        folder = tmp_path / "images" / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    out = tmp_path / "out.png"
    arguments = ["--images", str(tmp_path / "images"), "--out", str(out)]
    (tmp_path / "images" / ".hidden").mkdir()
    (tmp_path / "images" / "plain_heart" / "broken.png").write_bytes(b"no picture")
    assert main(["demo", *arguments, "--shots", "1", "99"]) == 0
    # Half of each class, rounded down, is kept aside for scoring.
    text, told = capsys.readouterr()
    assert "skfewshot: warning: 1 of the images could not be read" in told
    assert [row[0] for row in table_rows(text)] == ["1", "3"]
    assert "where there are fewer than the shots, all are taken" in text
    assert out.exists()


def test_the_picture_is_where_it_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(single, "DRAWS", 1)
    images, names = make_object_images(2, kinds=KINDS, random_state=0, return_X_y=True)
    for index, (pixels, name) in enumerate(zip(images, names, strict=True)):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    demo = ["demo", "--images", str(tmp_path), "--shots", "1", "--out"]
    assert main([*demo, str(tmp_path / "mine")]) == 0
    assert f"saved as {tmp_path / 'mine.png'}\n" in capsys.readouterr().out
    assert (tmp_path / "mine.png").exists()
    (tmp_path / "x.png").mkdir()
    for out, wanted in ("x.jpx", "of no format of"), ("x.png", "is a folder"):
        assert main([*demo, str(tmp_path / out)]) == 1
        text, told = capsys.readouterr()
        assert wanted in told and "shots" not in text
    assert main(["demo", "--seed", "-1"]) == 1
    assert "--seed -1 is below 0" in capsys.readouterr().err


@pytest.mark.slow
def test_multilabel_scenes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(multi, "DRAWS", 2)
    picture = tmp_path / "new" / "maps.png"
    arguments = ["--multilabel", "--shots", "5", "1", "--out", str(picture)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert main(arguments) == 0
    text = capsys.readouterr().out
    rows = [line.replace(" ± ", "±").split() for line in text.splitlines()]
    rows = [row for row in rows if row and row[0] in ("1", "5") and len(row) > 5]
    assert [row[0] for row in rows] == ["1", "5"]
    means = [[float(cell.split("±")[0]) for cell in row[1:5]] for row in rows]
    for zero_shot, probe, prototypes, f1 in means:
        assert prototypes > max(zero_shot, probe) and 40 < f1 < 100
    assert means[0][0] == means[1][0] and means[1][2] > means[0][2]
    lies, chance = re.findall(r"(\d+) %", text[text.index("strongest patch") :])
    assert int(lies) > 60 and int(chance) < 25
    with Image.open(picture) as image:
        assert image.width > 800
        assert np.asarray(image.convert("L")).std() > 5


def test_multilabel_refuses_folders(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--multilabel", "--images", "somewhere"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "--images: not allowed with argument --multilabel" in error


def test_multilabel_errors_are_one_line_and_a_status(tmp_path, capsys):
    assert main(["--multilabel", "--seed", "-1", "--out", str(tmp_path / "x")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_errors_are_one_line_and_a_status(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(single, "DRAWS", 1)
    (tmp_path / "only_class").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "only_class" / "a.png")
    assert main(["--images", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 1
    assert "1 class(es), ['only_class']" in capsys.readouterr().err
    pixels = make_object_images(2, kinds=KINDS, random_state=0).images
    for index in range(4):
        folder = tmp_path / "two" / f"kind {index // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels[index])).save(folder / f"{index}.png")
    out = str(tmp_path / "x.unknown")
    assert main(["--images", str(tmp_path / "two"), "--shots", "1", "--out", out]) == 1
    assert "unknown" in capsys.readouterr().err
    assert main(["--images", str(tmp_path / "missing")]) == 1
    assert "missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--shots", "0"])


def test_runs_as_a_module():
    command = [sys.executable, "-m", "skfewshot", "demo", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    for option in ("--images", "--model", "--pretrained", "--shots", "--seed", "--out"):
        assert option in result.stdout
    assert "--multilabel" in result.stdout


def test_display_measures_the_gap():
    from skfewshot import CLIPFeaturizer, CMMClassifier

    images, names = make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)
    X = CLIPFeaturizer("tiny").fit_transform(images)
    model = CMMClassifier().fit(X, names)
    display = ModalityGapDisplay.from_estimator(model, X, names)
    gap = np.linalg.norm(np.asarray(X).mean(axis=0) - model.text_features_.mean(axis=0))
    assert display.gap_before == pytest.approx(gap, rel=1e-4)
    assert display.gap_after < display.gap_before
    assert display.images.shape == (12, 2)
    assert len(display.ax_) == 2
