"""On a local Ray of two workers: kills, errors, predictions, a search."""

import contextlib
import inspect
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
from sklearn.model_selection import GridSearchCV

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
from skfewshot.distributed.reading import describe_encoder

# Ray warns of itself.
pytestmark = pytest.mark.filterwarnings(
    r"ignore::DeprecationWarning:ray\..*", r"ignore::FutureWarning:ray\..*"
)
# The workers cannot import this module, but its classes travel with their code.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


CLOSE = {"atol": 2e-5, "rtol": 0}


POOL = {"batch_size": 4, "concurrency": 2, "num_cpus": 0.5}


class LoggingFeaturizer(CLIPFeaturizer):
    """Writes down what was embedded by whom.

    Once in all, before it embeds an image at `path` or beyond, it kills its process;
    or it waits there for ever.
    """

    def __init__(
        self,
        model_name="tiny",
        pretrained=None,
        *,
        log,
        path=None,
        wait=False,
        **params,
    ):
        super().__init__(model_name, pretrained, **params)
        self.log = log
        self.path = path
        self.wait = wait

    @classmethod
    def _get_param_names(cls):
        return [*CLIPFeaturizer._get_param_names(), "log", "path", "wait"]

    def load(self):
        clip = super().load()
        if not hasattr(self, "_loaded"):
            self._loaded = True
            self._write(["load"])
        return clip

    def transform(self, X):
        marker = Path(self.log).with_suffix(".killed")
        if self.path is not None and max(X) >= self.path and not marker.exists():
            if self.wait:
                time.sleep(600)
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        embeddings = super().transform(X)
        self._write(X)
        return embeddings

    def _write(self, items):
        import torch

        with open(self.log, "a") as file:  # short lines that are appended do not mix
            for item in items:
                line = {"item": item, "pid": os.getpid()}
                line["threads"] = torch.get_num_threads()
                file.write(json.dumps(line) + "\n")


def logged(log):
    """Return what was loaded, and what was embedded."""
    lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    loads = [line for line in lines if line["item"] == "load"]
    return loads, [line for line in lines if line["item"] != "load"]


def check_equal(path, expected, rows):
    """Check that a folder has each row once, as it should be."""
    X, table = read_embeddings(path)
    np.testing.assert_allclose(X, expected, **CLOSE)
    assert table.to_pylist() == rows
    assert encoder_of(X) == encoder_of(expected)


def test_a_killed_worker_costs_nothing(cluster, rows, expected, tmp_path):
    log = tmp_path / "log"
    featurizer = LoggingFeaturizer(log=str(log), path=rows[20]["path"])
    dataset = ray.data.from_items(rows, override_num_blocks=5)
    done = embed_dataset(
        dataset,
        tmp_path / "out",
        featurizer,
        image_column="path",
        id_column="path",
        **POOL,
    )
    assert done == RunSummary(len(rows), 0, 0)
    check_equal(tmp_path / "out", expected, rows)
    assert log.with_suffix(".killed").exists()
    loads, embedded = logged(log)
    # Two actors, another for each that was killed, and a task to tell the encoder.
    pids = {line["pid"] for line in embedded}
    assert len(pids) >= 2
    assert len(loads) == len({line["pid"] for line in loads}) <= 5
    assert {line["threads"] for line in embedded} == {1}
    assert {line["item"] for line in embedded} == {row["path"] for row in rows}


DRIVER = """
import json, os, signal, sys, time
from pathlib import Path
import ray, ray.data
from skfewshot import CLIPFeaturizer
from skfewshot.clip import EncoderIdentity
from skfewshot.distributed import embed_dataset

{featurizer}

rows, log, output, path, encoder = json.loads(sys.argv[1])
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20)
featurizer = LoggingFeaturizer(log=log, path=path, wait=True)
featurizer.encoder_ = EncoderIdentity(**encoder)
embed_dataset(
    ray.data.from_items(rows, override_num_blocks=5),
    output,
    featurizer,
    image_column="path",
    id_column="path",
    batch_size=4,
    concurrency=2,
    num_cpus=0.5,
)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_killed_run_goes_on(cluster, rows, expected, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    source = DRIVER.format(featurizer=inspect.getsource(LoggingFeaturizer))
    encoder = describe_encoder(encoder_of(expected))
    arguments = json.dumps(
        [rows, str(tmp_path / "first"), str(output), rows[20]["path"], encoder]
    )
    with killed_with_all_it_started(source, arguments) as process:
        wait_for(lambda: len(list(output.glob("part-*.parquet"))) >= 3, process)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    with pytest.warns(UserWarning, match="has not come to its end"):
        written = read_embeddings(output)[1]["path"].to_pylist()
    assert 12 <= len(written) < len(rows)
    # As if it had been killed in the middle of a write, too.
    part = next(iter(before)).read_bytes()
    (output / "_temporary-1").write_bytes(part[: len(part) // 2])

    done = embed_dataset(
        ray.data.from_items(rows, override_num_blocks=3),
        output,
        logging_featurizer(encoder_of(expected), log=str(log)),
        image_column="path",
        id_column="path",
        batch_size=4,
    )
    assert done == RunSummary(len(rows) - len(written), len(written), 0)
    check_equal(output, expected, rows)
    embedded = [line["item"] for line in logged(log)[1]]
    missing = {row["path"] for row in rows} - set(written)
    assert sorted(embedded) == sorted(missing)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(output.glob("_temporary*"))


def logging_featurizer(encoder, **params):
    """Return one that counts as fitted, so that no task has to load its model."""
    featurizer = LoggingFeaturizer(**params)
    featurizer.encoder_ = encoder
    return featurizer


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


def test_an_unreadable_image_is_named(cluster, rows, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    bad = [*rows[:6], {**rows[6], "path": str(broken)}]
    arguments = {"image_column": "path", "id_column": "number", "columns": ["name"]}
    arguments |= {"batch_size": 4}
    dataset, output = ray.data.from_items(bad, override_num_blocks=1), tmp_path / "out"
    featurizer = CLIPFeaturizer("tiny").fit([rows[0]["path"]])
    with pytest.raises(
        ImageReadError, match=r"number=6 could not be read.*broken\.png"
    ):
        embed_dataset(dataset, output, featurizer, **arguments)


def test_predicts_from_embeddings(cluster, rows, expected, embedded, tmp_path):
    names = [row["name"] for row in rows]
    model = CMMClassifier().fit(expected, names)
    dataset = ray.data.read_parquet(str(embedded))
    done = predict_dataset(
        dataset,
        tmp_path / "out",
        model,
        input_column="embedding",
        id_column="path",
        method="predict_proba",
    )
    assert done == RunSummary(len(rows), 0, 0)
    frame = pd.read_parquet(tmp_path / "out").sort_values("path")
    assert frame.columns.tolist() == ["path", "name", "probability"]
    found = np.stack(frame["probability"])
    np.testing.assert_allclose(found, model.predict_proba(expected), **CLOSE)
    manifest = json.loads((tmp_path / "out" / "_skfewshot.json").read_text())
    assert manifest["classes"] == model.classes_.tolist()


def test_grid_search_on_rays_joblib_backend(cluster, rows, expected):
    import joblib
    from ray.util.joblib import register_ray

    names = [row["name"] for row in rows]
    search = GridSearchCV(CMMClassifier(), {"map_penalty": [0.3, 3.0]}, cv=2)
    here = search.fit(expected, names).cv_results_
    register_ray()
    with joblib.parallel_config("ray", n_jobs=2):
        there = search.set_params(n_jobs=2).fit(expected, names)
    np.testing.assert_allclose(
        there.cv_results_["mean_test_score"], here["mean_test_score"]
    )
    # The encoder travels with the embeddings.
    assert there.best_estimator_.prototype_source_ == "embedding"
