"""Rendered images in files, their embeddings, and a local Ray."""

import numpy as np
import pytest
from PIL import Image

from skfewshot import CLIPFeaturizer
from skfewshot.clip import encoder_of
from skfewshot.datasets import make_object_images

N_IMAGES = 40


@pytest.fixture(scope="session")
def data():
    kinds = ["plain ball", "striped star", "plain heart", "checked arrow"]
    return make_object_images(N_IMAGES // 4, kinds=kinds, random_state=0)


@pytest.fixture(scope="session")
def files(data, tmp_path_factory):
    """Paths of the images, in order."""
    folder = tmp_path_factory.mktemp("images")
    paths = [f"{folder}/{number:02}.png" for number in range(N_IMAGES)]
    for path, image in zip(paths, data.images, strict=True):
        Image.fromarray(np.asarray(image)).save(path)
    return paths


@pytest.fixture(scope="session")
def rows(files, data):
    return [
        {"path": path, "name": str(name), "number": number}
        for number, (path, name) in enumerate(zip(files, data.labels, strict=True))
    ]


@pytest.fixture(scope="session")
def expected(files):
    """What the featurizer gives in one process."""
    return CLIPFeaturizer("tiny").fit_transform(files)


@pytest.fixture(scope="session")
def cluster():
    """A local Ray of two processors."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    with pytest.MonkeyPatch.context() as patch:
        # Ray itself is to see to it that actors do not crowd the processors.
        patch.delenv("OMP_NUM_THREADS", raising=False)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=200 * 2**20,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def run_here():
    """A function that does what the driver and one actor do, without a cluster."""
    pa = pytest.importorskip("pyarrow")

    from skfewshot.distributed.reading import describe_encoder
    from skfewshot.distributed.running import Actor, claim, make_manifest

    def run(rows, job, folder, names, encoder, batch_size=16):
        found = {"encoder": describe_encoder(encoder)}
        manifest = make_manifest(job, names, found)
        claim(folder, manifest)
        actor = Actor(job, folder, names, folder.recover(job.id_column))
        receipts = []
        for start in range(0, len(rows), batch_size):
            table = pa.Table.from_pylist(rows[start : start + batch_size])
            receipts.extend(actor(table).to_pylist())
        folder.write_manifest({**manifest, "complete": True})
        return receipts

    return run


@pytest.fixture(scope="session")
def embedded(rows, expected, run_here, tmp_path_factory):
    """A folder as embed_dataset writes it, but made here."""
    from skfewshot.distributed.folder import open_folder
    from skfewshot.distributed.jobs import EmbedJob

    path = tmp_path_factory.mktemp("embedded") / "out"
    folder = open_folder(path, None, "output")
    job = EmbedJob(CLIPFeaturizer("tiny"), "path", "path")
    run_here(rows, job, folder, ["path", "name"], encoder_of(expected))
    return path
