"""Rendered images in files, a featurizer without a model, folders, and a local Ray."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skfewshot import CLIPFeaturizer
from skfewshot.clip import EncoderIdentity
from skfewshot.datasets import make_object_images

N_IMAGES = 40
ENCODER = EncoderIdentity("colours", None, "5f0c", 3, 100.0)


class Colours(CLIPFeaturizer):
    """Gives mean colours, so that no worker has to import torch, and keeps a log.

    Once in all, before it embeds an image at `path` or beyond, it kills its process;
    or it waits there for ever.
    """

    def __init__(self, model_name="tiny", *, log=None, path=None, wait=False):
        super().__init__(model_name)
        self.log = log
        self.path = path
        self.wait = wait

    @classmethod
    def _get_param_names(cls):
        return ["model_name", "log", "path", "wait"]

    def transform(self, X):
        if self.path is not None and max(X) >= self.path:
            marker = Path(self.log).with_suffix(".killed")
            if self.wait:
                time.sleep(600)
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if self.log is not None:
            with open(
                self.log, "a"
            ) as file:  # short lines that are appended do not mix
                file.writelines(f"{json.dumps(item)}\n" for item in X)
        rows = [np.asarray(Image.open(item)).mean(axis=(0, 1)) for item in X]
        return np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture(scope="session")
def colours():
    """A function that makes a featurizer which counts as fitted."""

    def make(**params):
        featurizer = Colours(**params)
        featurizer.encoder_ = ENCODER
        return featurizer

    return make


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Paths of images, in order."""
    kinds = ["plain ball", "striped star", "plain heart", "checked arrow"]
    images = make_object_images(N_IMAGES // 4, kinds=kinds, random_state=0).images
    folder = tmp_path_factory.mktemp("images")
    paths = [f"{folder}/{number:02}.png" for number in range(N_IMAGES)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(np.asarray(image)).save(path)
    return paths


@pytest.fixture(scope="session")
def rows(files):
    # Of the column `note` some files have nothing but null.
    return [
        {"path": path, "number": number, "note": f"n{number}" if number > 30 else None}
        for number, path in enumerate(files)
    ]


@pytest.fixture(scope="session")
def expected(files, colours):
    return colours().transform(files)


@pytest.fixture(scope="session")
def cluster():
    """A local Ray of two processors."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture
def write(tmp_path):
    """A function that writes rows as actors do, but here, and the manifest."""
    pa = pytest.importorskip("pyarrow")

    from skfewshot.distributed._folder import Folder
    from skfewshot.distributed._runs import _Job

    def run(rows, featurizer, path=None, filesystem=None, batch_size=16, **manifest):
        folder = Folder(tmp_path / "out" if path is None else path, filesystem)
        about = {"id_column": "path", "columns": [*rows[0], "embedding"]}
        about |= {"encoder": ENCODER, "complete": True, **manifest}
        folder.write_manifest(about)
        job = _Job(featurizer, "transform", "path", "path", "embedding", folder)
        for start in range(0, len(rows), batch_size):
            job.work(pa.Table.from_pylist(rows[start : start + batch_size]), set())
        return folder

    return run
