"""The server of the guide: bytes of an image in, JSON out."""

import importlib.util
import io
import json
import struct
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import clear_model_cache
from skfewshot.datasets import make_object_images

SERVE = Path(__file__).parents[1] / "docs" / "examples" / "serve.py"
KINDS = ["striped star", "plain heart", "spotted ring"]


@pytest.fixture(scope="module")
def images():
    return make_object_images(5, kinds=KINDS, random_state=0, return_X_y=True)


@pytest.fixture(scope="module")
def model(images):
    return make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier()).fit(*images)


@pytest.fixture(scope="module")
def serve():
    spec = importlib.util.spec_from_file_location("serve", SERVE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client(serve, model, tmp_path_factory):
    file = tmp_path_factory.mktemp("server") / "model.joblib"
    joblib.dump(model, file)
    with TestClient(serve.make_app(file)) as client:
        yield client


def as_bytes(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_an_image_in_and_json_out(client, model, images):
    for pixels in images[0][:3]:
        answer = client.post("/classify", content=as_bytes(pixels))
        assert answer.status_code == 200
        said = json.loads(answer.content)
        (expected,) = model.predict_proba([pixels])
        assert said["label"] == model.predict([pixels])[0]
        assert list(said["probabilities"]) == model.classes_.tolist()
        found = list(said["probabilities"].values())
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert client.get("/classes").json() == sorted(KINDS)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP", "GIF"])
def test_other_formats(client, images, kind):
    answer = client.post("/classify", content=as_bytes(images[0][0], kind))
    assert answer.status_code == 200


def test_what_is_no_image(client, serve, images, monkeypatch):
    png = as_bytes(images[0][0])
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = png[:16] + header + check + png[33:]
    for content in (b"", b"hello", png[: len(png) // 2], b"\x89PNG\r\n\x1a\n", bomb):
        answer = client.post("/classify", content=content)
        assert (answer.status_code, "no image" in answer.text) == (422, True)
    monkeypatch.setattr(serve, "MOST_BYTES", 100)
    assert client.post("/classify", content=png).status_code == 413
    assert client.get("/classify").status_code == 405


def test_the_model_is_loaded_before_a_request(serve, model, images, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    clear_model_cache()
    with TestClient(serve.make_app(tmp_path / "model.joblib")) as client:
        from skfewshot.clip import _models

        assert len(_models._cache) == 1
        assert client.get("/classes").status_code == 200
