"""Progress bars: where somebody watches, and nowhere else."""

import io
import subprocess
import sys
import threading

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.base import clone

from skfewshot.clip import CLIPFeaturizer, _progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that opens one, where bars are shown from the first moment."""
    monkeypatch.setattr(_progress, "_DELAY", 0.0)
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)

    def open_terminal():
        # In the test, as pytest takes the stream back after its fixtures.
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return open_terminal


@pytest.fixture
def featurizer(small):
    return CLIPFeaturizer(small, batch_size=2)


def test_a_terminal_shows_a_bar(terminal, featurizer, images):
    stream = terminal()
    featurizer.transform(images)
    shown = stream.getvalue()
    assert "Embedding" in shown and "0/7" in shown and "images" in shown
    # It is wiped out when all is done.
    assert shown.rstrip(" \r").count("\n") == 0


def test_all_images_count(terminal, featurizer, images, monkeypatch):
    terminal()
    counts = []
    bar_type = _progress._bar_type()

    class Counting(bar_type):
        def update(self, n=1):
            counts.append(n)
            return super().update(n)

    monkeypatch.setattr(_progress, "_bar_type", lambda: Counting)
    featurizer.fit_transform(images)
    assert (sum(counts), max(counts)) == (7, 2)
    counts.clear()
    featurizer.set_params(on_error="nan")
    with pytest.warns(UserWarning, match="could not be read"):
        featurizer.transform([*images, "/nowhere.png"])
    assert sum(counts) == 8
    counts.clear()
    featurizer.transform(iter(list(images)))
    assert sum(counts) == 7


def test_a_cache_counts_too(terminal, featurizer, images, tmp_path, monkeypatch):
    terminal()
    done = []
    monkeypatch.setattr(
        "skfewshot.clip._featurizer.progress",
        lambda n, show: _Recorded(done),
    )
    featurizer.set_params(cache=tmp_path)
    for _ in range(2):
        featurizer.transform([*images, images[0]])
        assert sum(done) == 8
        done.clear()


class _Recorded:
    def __init__(self, done):
        self.done = done

    def __enter__(self):
        return self.done.append

    def __exit__(self, *_):
        pass


def test_off(terminal, featurizer, images):
    stream = terminal()
    featurizer.set_params(progress=False).transform(images)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("variable", ["CI", "TERM"])
def test_nothing_in_logs(terminal, featurizer, images, monkeypatch, variable):
    stream = terminal()
    monkeypatch.setenv(variable, {"CI": "true", "TERM": "dumb"}[variable])
    featurizer.transform(images)
    assert stream.getvalue() == ""


def test_nothing_in_pipes_unless_asked_for(terminal, featurizer, images, monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    featurizer.transform(images)
    assert pipe.getvalue() == ""
    featurizer.set_params(progress=True).transform(images)
    assert "7" in pipe.getvalue()
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    clone(featurizer).set_params(progress="auto").transform(images)


def test_nothing_in_threads(terminal, featurizer, images):
    stream = terminal()
    thread = threading.Thread(target=featurizer.transform, args=[images])
    thread.start()
    thread.join()
    Parallel(2, backend="threading")(
        delayed(featurizer.transform)(part) for part in np.array_split(images, 2)
    )
    assert stream.getvalue() == ""


def test_nothing_beside_callbacks(terminal, featurizer, images):
    stream = terminal()
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    featurizer.set_callbacks(ProgressBar()).fit_transform(images)
    assert "Embedding" not in stream.getvalue()


def test_nothing_before_two_seconds(terminal, featurizer, images, monkeypatch):
    stream = terminal()
    monkeypatch.setattr(_progress, "_DELAY", 1000.0)
    featurizer.transform(images)
    assert stream.getvalue().strip() == ""


def test_bad_progress(featurizer, images):
    with pytest.raises(ValueError, match="'progress' parameter"):
        featurizer.set_params(progress="yes").transform(images)


@pytest.mark.slow
def test_nothing_of_a_program_in_a_pipe(small):
    code = f"""
import numpy as np
from skfewshot.clip import CLIPFeaturizer, _progress
_progress._DELAY = 0.0
CLIPFeaturizer({small!r}).transform(np.zeros((3, 32, 32, 3), np.uint8))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
