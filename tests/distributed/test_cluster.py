"""On a local Ray of two workers: kills, errors, resumed runs, predictions, a search."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import ImageReadError, encoder_of

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

import ray
import ray.cloudpickle
import ray.data

from skfewshot.distributed import (
    RunSummary,
    embed_dataset,
    predict_dataset,
    read_embeddings,
)

pytestmark = [
    pytest.mark.slow,
    # Ray warns of itself.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
    pytest.mark.filterwarnings(r"ignore::FutureWarning:ray\..*"),
]
COLUMNS = {"image_column": "path", "id_column": "path"}
POOL = {"batch_size": 4, "concurrency": 2, "num_cpus": 0.5}


@pytest.fixture(scope="module")
def by_value(colours):
    """Have the class of the featurizer travel with its code, as workers lack it."""
    module = sys.modules[type(colours()).__module__]
    ray.cloudpickle.register_pickle_by_value(module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def embed(cluster, by_value, colours, tmp_path):
    """A function that embeds rows into one folder."""

    def run(rows, featurizer=None, n_blocks=5, **options):
        dataset = ray.data.from_items(rows, override_num_blocks=n_blocks)
        featurizer = featurizer or colours()
        options = {**COLUMNS, **POOL, **options}
        return embed_dataset(dataset, tmp_path / "out", featurizer, **options)

    return run


def test_a_killed_worker_costs_nothing(embed, colours, rows, expected, tmp_path):
    log = tmp_path / "log"
    done = embed(rows, colours(log=str(log), path=rows[20]["path"]))
    assert done == RunSummary(len(rows), 0, 0)
    X, table = read_embeddings(tmp_path / "out")
    assert_allclose(X, expected, rtol=1e-6)
    assert table.to_pylist() == rows
    assert log.with_suffix(".killed").exists()
    embedded = {json.loads(line) for line in log.read_text().splitlines()}
    assert embedded == {row["path"] for row in rows}


DRIVER = """
import pickle, sys
import ray, ray.data
from skfewshot.distributed import embed_dataset

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20)
rows, output, featurizer, columns, pool = pickle.load(open(sys.argv[1], "rb"))
dataset = ray.data.from_items(rows, override_num_blocks=5)
embed_dataset(dataset, output, featurizer, **columns, **pool)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_killed_run_goes_on(embed, colours, rows, expected, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    waits = colours(log=str(tmp_path / "first"), path=rows[20]["path"], wait=True)
    arguments = ray.cloudpickle.dumps([rows, str(output), waits, COLUMNS, POOL])
    (tmp_path / "arguments").write_bytes(arguments)
    with killed_with_all_it_started(DRIVER, tmp_path / "arguments") as process:
        wait_for(lambda: len(list(output.glob("part-*.parquet"))) >= 3, process)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    with pytest.warns(UserWarning, match="has not come to its end"):
        written = read_embeddings(output)[1]["path"].to_pylist()
    assert 12 <= len(written) < len(rows)
    # As if it had been killed in the middle of a write, too.
    part = next(iter(before)).read_bytes()
    (output / "_temporary-1").write_bytes(part[: len(part) // 2])

    done = embed(rows, colours(log=str(log)), n_blocks=3, concurrency=1)
    assert done == RunSummary(len(rows) - len(written), len(written), 0)
    X, table = read_embeddings(output)
    assert_allclose(X, expected, rtol=1e-6)
    assert table.to_pylist() == rows
    embedded = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(embedded) == sorted({row["path"] for row in rows} - set(written))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(output.glob("_temporary*"))


@contextlib.contextmanager
def killed_with_all_it_started(source, *arguments):
    """Run a Python program; in the end kill it and its descendants, orphans too."""
    mark = f"SKFEWSHOT_TEST={uuid.uuid4().hex}"
    environment = {**os.environ, **dict([mark.split("=")])}
    # A cluster of its own, not the one of this process.
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        while pids := list(marked_processes(mark)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if process.poll() is None:
                process.wait(timeout=10)
        process.stdout.close()


def marked_processes(mark):
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                yield int(path.parent.name)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"The driver: {process.stdout.read().decode()[-3000:]}")
        time.sleep(0.05)


def test_an_unreadable_image_stops_the_run_or_is_recorded(embed, rows, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    bad = [*rows[:6], {**rows[6], "path": str(broken)}]
    options = {"n_blocks": 1, "id_column": "number", "concurrency": 1}
    featurizer = CLIPFeaturizer("tiny")  # not fitted
    with pytest.raises(ImageReadError, match=r"^number=6: .*broken\.png") as caught:
        embed(bad, featurizer, **options)
    assert "In an actor:\nTraceback" in str(caught.value.__cause__)
    with pytest.warns(UserWarning, match="1 of the images .* number: 6") as warned:
        done = embed(bad, featurizer.set_params(on_error="nan"), **options)
    assert done == RunSummary(3, 4, 1)
    assert __file__ in [item.filename for item in warned]
    X, table = read_embeddings(tmp_path / "out")
    assert table.column_names == ["number", "note"]
    assert np.isnan(X).any(axis=1).tolist() == [False] * 6 + [True]
    expected = featurizer.fit_transform([row["path"] for row in rows[:6]])
    assert_allclose(X[:6], expected, atol=2e-5)
    assert encoder_of(X) == encoder_of(expected)
    with pytest.raises(ValueError, match="other arguments.*output: 'embedding' there"):
        embed(bad, featurizer.set_params(output="tokens"), **options)


def test_other_rows_are_refused(embed, write, colours, rows, tmp_path):
    dataset = rows[:2]
    with pytest.raises(ValueError, match="1 ids occur more than once.*01.png"):
        embed([*rows[:3], rows[1]], n_blocks=2, concurrency=1)
    # What was written twice is put right by the next run.
    assert embed(rows[:3], n_blocks=1).n_written > 0
    assert len(read_embeddings(tmp_path / "out")[0]) == 3
    for change in (
        {"id_column": "number"},
        {"image_column": "note"},
        {"num_gpus": 0.5},
    ):
        with pytest.raises(ValueError, match="other arguments.*there, .* now"):
            embed(dataset, **change)
    other = colours()
    other.encoder_ = encoder_of(CLIPFeaturizer("tiny").encode_text(["a"]))
    with pytest.raises(ValueError, match="encoder: .*colours.* there"):
        embed(dataset, other)
    for change in ({"id_column": "x"}, {"image_column": "x"}):
        with pytest.raises(ValueError, match="wanted are .*'x'"):
            embed(dataset, **change)
    with pytest.raises(ValueError, match="none that is named 'embedding'"):
        embed([{**row, "embedding": 1} for row in dataset])
    for change in ({"batch_size": 0}, {"concurrency": 0}, {"num_cpus": -1}):
        with pytest.raises(ValueError):
            embed(dataset, **change)
    (tmp_path / "out" / "_skfewshot.json").unlink()
    with pytest.raises(ValueError, match="other arguments"):
        embed(dataset)


def test_rows_that_do_not_arrive_are_missed(embed, rows, monkeypatch):
    monkeypatch.setattr("skfewshot.distributed._folder.Folder.recover", lambda *_: {1})
    with pytest.raises(RuntimeError, match="2 of 2 rows did not arrive.*all nodes"):
        embed(rows[:2], n_blocks=1, concurrency=1)


def test_actors_that_take_every_cpu_are_warned_of(embed, rows):
    with pytest.warns(UserWarning, match="2 times num_cpus=1 of the cluster's 2 CPUs"):
        with pytest.raises(ValueError, match="Batch size"):
            embed(rows[:2], num_cpus=1, batch_size=-1)


def test_predicts_from_embeddings_and_from_images(embed, rows, files, tmp_path):
    featurizer = CLIPFeaturizer("tiny").fit(files[:1])
    X = featurizer.transform(files)
    names = np.repeat(["ball", "star", "heart", "arrow"], len(files) // 4)
    model = CMMClassifier().fit(X, names)
    embedded = ray.data.from_pandas(
        pd.DataFrame({"path": files, "embedding": list(np.asarray(X))})
    )
    images = ray.data.from_items([{"path": path, "x": path} for path in files])
    for dataset, column, estimator in (
        (embedded, "embedding", model),
        (images, "x", make_pipeline(featurizer, model)),
    ):
        output, options = tmp_path / column, {"num_cpus": 0.5, "id_column": "path"}
        options |= {"input_column": column, "method": "predict_proba"}
        done = predict_dataset(dataset, output, estimator, **options)
        assert done == RunSummary(len(files), 0, 0)
        frame = pd.read_parquet(output).sort_values("path")
        assert frame.columns.tolist() == ["path", "probability"]
        found = np.stack(frame["probability"])
        assert_allclose(found, model.predict_proba(X), rtol=1e-3, atol=1e-5)
        manifest = json.loads((output / "_skfewshot.json").read_text())
        assert manifest["classes"] == model.classes_.tolist()
        other = CMMClassifier(alpha=2.0).fit(X, names)
        with pytest.raises(ValueError, match="other arguments.*estimator"):
            predict_dataset(dataset, output, other, **options)


def test_grid_search_on_rays_joblib_backend(cluster, files):
    import joblib
    from ray.util.joblib import register_ray

    X = CLIPFeaturizer("tiny").fit_transform(files)
    names = np.repeat(["plain ball", "striped star"], len(files) // 2)
    search = GridSearchCV(CMMClassifier(), {"alpha": [0.3, 3.0]}, cv=2)
    here = search.fit(X, names).cv_results_
    register_ray()
    with joblib.parallel_config("ray", n_jobs=2):
        there = search.set_params(n_jobs=2).fit(X, names)
    assert_allclose(there.cv_results_["mean_test_score"], here["mean_test_score"])
    # The encoder travels with the embeddings.
    assert there.best_estimator_.prototype_source_ == "embedding"


def test_without_ray_the_error_says_what_to_install():
    source = """if True:
    import sys
    for name in ("ray", "pyarrow"):
        sys.modules[name] = None
    from skfewshot.distributed import embed_dataset, read_embeddings
    columns = dict(image_column="path", id_column="path")
    for function, arguments in ((embed_dataset, (0, 0, 0)), (read_embeddings, (0,))):
        try:
            function(*arguments, **(columns if len(arguments) == 3 else {}))
        except ImportError as error:
            print(error)
    """
    answer = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert answer.stdout.count('pip install "skfewshot[ray]"') == 2
