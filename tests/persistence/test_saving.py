"""``skfewshot.save``, ``load``, the hub: files whole or not there, and their card."""

import base64
import json
import os
import threading
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skfewshot
from skfewshot import (
    CLIPFeaturizer,
    CMMClassifier,
    MultiLabelPrototypeClassifier,
    ZeroShotClassifier,
)
from skfewshot.clip import _sources
from skfewshot.datasets import make_object_images, make_scenes
from skfewshot.inspection import RejectingClassifier
from skfewshot.persistence import VersionWarning, push_to_hub

KINDS = ["striped star", "plain heart", "checked ring"]


@pytest.fixture(scope="module")
def images_and_names():
    return make_object_images(4, kinds=KINDS, random_state=0, return_X_y=True)


@pytest.fixture(scope="module")
def pipeline(images_and_names):
    model = Pipeline([("clip", CLIPFeaturizer("tiny")), ("cmm", CMMClassifier())])
    return model.fit(*images_and_names)


def front_matter(folder):
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1]), text


def test_every_model_comes_back(model, queries, predict_all, tmp_path):
    folder = skfewshot.save(model, tmp_path / "new" / "folder")
    loaded, expected = skfewshot.load(folder), predict_all(model, queries)
    found = predict_all(loaded, queries)
    assert found.keys() == expected.keys()
    for method, values in expected.items():
        assert_array_equal(found[method], values, err_msg=method)
    assert sorted(os.listdir(folder)) == ["README.md", "model.skops"]
    about, text = front_matter(folder)
    assert about["library_name"] == "skfewshot"
    assert type(model).__name__ in text


def test_a_pipeline_comes_back_and_its_card_says_what_it_is(
    pipeline, images_and_names, tmp_path
):
    images, _ = images_and_names
    folder = skfewshot.save(pipeline, tmp_path / "kinds")
    loaded = skfewshot.load(str(folder))
    assert_array_equal(loaded.predict_proba(images), pipeline.predict_proba(images))
    about, text = front_matter(folder)
    assert about["pipeline_tag"] == "image-classification"
    assert "# kinds\n" in text
    assert "into 3 classes, learned from 4 images of each" in text
    for kind in KINDS:
        assert f"| {kind} | 4 |" in text
    assert pipeline[0].encoder_.fingerprint in text
    assert "BSD-3-Clause" in text


def test_a_card_says_that_images_had_no_label(images_and_names, tmp_path):
    images, names = images_and_names
    X = CLIPFeaturizer("tiny").fit_transform(images)
    labels = np.asarray(names, dtype=object)
    labels[[names.tolist().index(kind) for kind in KINDS]] = None
    zero_shot = ZeroShotClassifier(extra_classes=KINDS).fit(X, [None] * len(X))
    models = [CMMClassifier().fit(X, labels), zero_shot, CMMClassifier().fit(X, names)]
    texts = []
    for number, model in enumerate(models):
        skfewshot.save(model, tmp_path / str(number))
        texts.append(front_matter(tmp_path / str(number))[1])
    assert "of each and from images without labels" in texts[0]
    assert "3 classes, learned from images without labels" in texts[1]
    assert "without labels" not in texts[2]


def test_what_is_round_a_classifier(images_and_names, tmp_path):
    images, names = images_and_names
    inner = Pipeline([("clip", CLIPFeaturizer("tiny")), ("cmm", CMMClassifier())])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few images
        model = RejectingClassifier(inner).fit(images, names)
    loaded = skfewshot.load(skfewshot.save(model, tmp_path / "m"))
    assert_array_equal(loaded.predict(images), model.predict(images))
    _, text = front_matter(tmp_path / "m")
    assert "Classifies images into 3 classes, learned from 4 images of each" in text
    codes = model.estimator_[-1].support_codes_
    right = (model.estimator_[-1].left_out_proba_.argmax(axis=1) == codes).mean()
    assert (
        f"| right | {100 * right:.1f} % of 12 |" in text
        and "RejectingClassifier(" in text
    )


@pytest.mark.parametrize("scoring", [None, "accuracy"])
def test_a_search_comes_back(scoring, make_task, tmp_path):
    X, y, text = make_task()
    search = GridSearchCV(
        CMMClassifier(text), {"logit_scale": [20.0, 50.0]}, cv=2, scoring=scoring
    )
    loaded = skfewshot.load(skfewshot.save(search.fit(X, y), tmp_path / "m"))
    assert_array_equal(loaded.predict_proba(X), search.predict_proba(X))
    assert loaded.best_params_ == search.best_params_
    search.set_params(scoring="neg_log_loss").fit(X, y)
    with pytest.raises(ValueError, match=r"log_loss.*best_estimator_ alone"):
        skfewshot.save(search, tmp_path / "m")


def test_one_file(pipeline, images_and_names, tmp_path):
    file = skfewshot.save(pipeline, tmp_path / "folder" / "model.skops")
    assert os.listdir(tmp_path / "folder") == ["model.skops"]
    images, _ = images_and_names
    for path in (file, file.parent):
        loaded = skfewshot.load(path)
        assert_array_equal(loaded.predict(images), pipeline.predict(images))


def test_several_labels(tmp_path):
    scenes = make_scenes(12, kinds=KINDS, random_state=0)
    model = make_pipeline(
        CLIPFeaturizer("tiny", output="tokens"),
        MultiLabelPrototypeClassifier(label_names=KINDS),
    ).fit(scenes.images, scenes.labels)
    loaded = skfewshot.load(skfewshot.save(model, tmp_path / "scenes"))
    expected = model.predict_proba(scenes.images)
    assert_array_equal(loaded.predict_proba(scenes.images), expected)
    counts = scenes.labels.sum(axis=0)
    assert_array_equal(model[-1].class_count_, counts)
    _, text = front_matter(tmp_path / "scenes")
    for label, count in enumerate(counts):
        assert f"| {label} | {count} |" in text


@pytest.mark.parametrize("interrupted", [KeyboardInterrupt, OSError])
def test_a_save_that_stops_leaves_the_old_model(
    interrupted, pipeline, images_and_names, tmp_path, monkeypatch
):
    folder = skfewshot.save(pipeline, tmp_path / "model")
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stop(*_):
        raise interrupted

    other = make_pipeline(CLIPFeaturizer("tiny"), skfewshot.ProKeRClassifier())
    other.fit(*images_and_names)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", stop)
        with pytest.raises(interrupted):
            skfewshot.save(other, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    skfewshot.save(other, folder)
    assert "ProKeR" in (folder / "README.md").read_text("utf-8")
    assert (folder / "notes.txt").read_text() == "mine"
    assert isinstance(skfewshot.load(folder)[-1], skfewshot.ProKeRClassifier)


def test_counts_of_the_support(make_task):
    X, y, text = make_task(shots=[3, 1, 2, 2])
    weight = np.ones(len(y))
    weight[y == 2] = [0.0, 2.5]
    model = CMMClassifier(text).fit(X, y, weight)
    assert_array_equal(model.class_count_, [3, 1, 2.5, 2])
    model = CMMClassifier(np.vstack([text, text[:1]]), extra_classes=[9])
    model.fit(np.vstack([X, X]), np.tile(y, 2))
    assert_array_equal(model.class_count_, [6, 2, 4, 4, 0])
    groups = [0, 0, 1, 2, 3, 4, 5, 6]
    assert_array_equal(
        CMMClassifier(text).fit(X, y, groups=groups).class_count_, [2, 1, 2, 2]
    )
    model = CMMClassifier(dict(enumerate(text))).fit(X, y)
    model.add_class(-1, text[0] + text[1])
    assert_array_equal(model.class_count_, [0, 3, 1, 2, 2])


def test_settings_of_many_classes_are_short(make_task, tmp_path):
    X, y, text = make_task(n_classes=300, shots=2, d=64)
    texts = {f"class of {code}": row for code, row in enumerate(text)}
    model = CMMClassifier(texts, alpha=0.5).fit(X, np.array(list(texts))[y])
    _, card = front_matter(skfewshot.save(model, tmp_path / "m"))
    settings = card.split("```text")[1]
    assert "alpha=0.5,\n" in settings and "text_features={" in settings
    assert "margin" not in settings and len(settings) < 2000


def test_names_are_no_markup(make_task, tmp_path):
    X, y, text = make_task(n_classes=3)
    names = np.array(["a|b", "<img src=x onerror=alert(1)>", "c\n# d\ud800"])
    model = CMMClassifier(dict(zip(names, text, strict=True))).fit(X, names[y])
    _, text = front_matter(skfewshot.save(model, tmp_path / "*new*"))
    assert "| a\\|b | 4 |" in text
    assert "| \\<img src=x onerror=alert(1)\\> | 4 |" in text
    assert "| c \\# d? | 4 |" in text
    assert "# \\*new\\*\n" in text


@pytest.mark.parametrize(
    ("encoder", "told", "wanted"),
    [
        (("ViT-B-32", "laion2b_s34b_b79k"), None, "MIT, as their makers gave it"),
        (("ViT-B-32", "openai"), None, "MIT, as their makers gave it"),
        (("ViT-B-16-SigLIP", "webli"), None, "see <https://huggingface.co/timm/ViT"),
        (("hf-hub:someone/clip", None), None, "<https://huggingface.co/someone/clip>"),
        (("ViT-B-32", "/home/me/own.safetensors"), None, "not known to skfewshot"),
        (("ViT-B-32", "/home/me/own.safetensors"), "CC0-1.0", "| CC0-1.0 |"),
    ],
)
def test_licence_of_the_weights(encoder, told, wanted, make_task, tmp_path):
    X, y, text = make_task(d=12)
    identity = skfewshot.clip.EncoderIdentity(*encoder, "5f0c", 12, 100.0)
    model = CMMClassifier(text).fit(skfewshot.clip.EmbeddingArray(X, identity), y)
    folder = skfewshot.save(model, tmp_path / "m", weights_license=told)
    about, text = front_matter(folder)
    assert wanted in text
    assert "/home/me" not in text.split("## Settings")[0]
    if encoder[1] == "laion2b_s34b_b79k":
        assert about["base_model"] == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


# What is refused


def test_what_is_no_fitted_model(tmp_path, pipeline):
    with pytest.raises(TypeError, match="model must be a fitted estimator"):
        skfewshot.save("model", tmp_path / "x")
    with pytest.raises(NotFittedError):
        skfewshot.save(CMMClassifier(), tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; wanted is a folder"):
        skfewshot.save(pipeline, tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "x.skops").mkdir()
    with pytest.raises(ValueError, match=r"is a folder.*not end in '\.skops'"):
        skfewshot.save(pipeline, tmp_path / "x.skops")


def test_a_text_of_somebody_is_not_lost(tmp_path, pipeline):
    card = tmp_path / "README.md"
    card.write_text("# My project", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md that is no card"):
        skfewshot.save(pipeline, tmp_path)
    assert os.listdir(tmp_path) == ["README.md"]
    assert card.read_text("utf-8") == "# My project"
    card.unlink()
    skfewshot.save(pipeline, tmp_path)
    card.write_text(f"{card.read_text('utf-8')}\nMore.", encoding="utf-8")
    skfewshot.save(pipeline, tmp_path)
    assert not card.read_text("utf-8").endswith("More.")


def test_types_that_nobody_trusts(make_task, tmp_path):
    X, y, text = make_task()
    other = FunctionTransformer(inv_kw_args={"who": threading.Event})
    model = make_pipeline(other, CMMClassifier(text)).fit(X, y)
    with pytest.raises(ValueError, match="threading.Event.*trusted="):
        skfewshot.save(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    folder = skfewshot.save(model, tmp_path / "x", trusted=["threading.Event"])
    with pytest.raises(ValueError, match="threading.Event.*trusted="):
        skfewshot.load(folder)
    loaded = skfewshot.load(folder, trusted="threading.Event")
    assert_array_equal(loaded.predict(X), model.predict(X))
    with pytest.raises(TypeError, match="trusted must hold the names"):
        skfewshot.load(folder, trusted=[threading.Event])
    with pytest.raises(TypeError, match="trusted must hold the names"):
        skfewshot.load(folder, trusted=3)


def test_what_cannot_be_loaded(tmp_path, pipeline):
    with pytest.raises(FileNotFoundError, match="There is no model"):
        skfewshot.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        skfewshot.load(tmp_path / "missing.skops")
    file = skfewshot.save(pipeline, tmp_path / "model.skops")
    whole = file.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="no model that skops saved, or damaged"):
            skfewshot.load(file)


@pytest.mark.parametrize("wrong", [3, "x", [], None])
@pytest.mark.parametrize("steps", [("content",), ("content", "content")])
def test_a_file_that_somebody_changed(tmp_path, pipeline, wrong, steps):
    file = skfewshot.save(pipeline, tmp_path / "model.skops")
    with zipfile.ZipFile(file) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    schema = json.loads(parts["schema.json"])
    inner = schema
    for step in steps[:-1]:
        inner = inner[step]
    inner[steps[-1]] = wrong
    parts["schema.json"] = json.dumps(schema).encode()
    with zipfile.ZipFile(file, "w") as changed:
        for name, content in parts.items():
            changed.writestr(name, content)
    with pytest.raises(ValueError, match=r"model\.skops' is no model that skops saved"):
        skfewshot.load(file)


def test_another_version_is_told(pipeline, tmp_path, monkeypatch):
    from skfewshot import _sklearn

    with monkeypatch.context() as patched:
        patched.setattr(_sklearn, "__version__", "0.0.1")
        skfewshot.save(pipeline, tmp_path / "model.skops")
    with pytest.warns(VersionWarning, match="0.0.1"):
        skfewshot.load(tmp_path / "model.skops")


# The hub


class HubDouble(BaseHTTPRequestHandler):
    """As much of the hub as a model of two files needs; files are in `server.files`."""

    def _answer(self, status=200, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        lines = [json.loads(line) for line in sent.splitlines()]
        where = f"http://{self.headers['Host']}"
        self.server.calls.append(self.path)
        if self.path == "/api/repos/create":
            answer = {"url": f"{where}/{lines[0].get('organization')}/kinds"}
        elif "/preupload/" in self.path:
            answer = {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in lines[0]["files"]
                ]
            }
        elif "/commit/" in self.path:
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            answer = {"commitUrl": f"{where}/org/kinds/commit/1", "commitOid": "1" * 40}
        else:
            answer = {}
        self._answer(body=json.dumps(answer).encode(), Content_Type="application/json")

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        if "/resolve/" not in self.path:
            self._answer(body=b"{}", Content_Type="application/json")
        elif name in self.server.files:
            body = self.server.files[name]
            about = {"X_Repo_Commit": "1" * 40, "ETag": f'"{hash(body)}"'}
            self._answer(body=body, **about)
        else:
            self._answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serve a double of the hub, with a cache of its own."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), HubDouble)
    server.files, server.calls = {}, []
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_to_the_hub_and_back(hub, pipeline, images_and_names, tmp_path):
    folder = skfewshot.save(pipeline, tmp_path / "kinds")
    (folder / "secret.txt").write_text("not for the hub")
    address = push_to_hub(folder, "org/kinds", token="hf_double")
    assert address.endswith("/org/kinds/commit/1")
    assert sorted(hub.files) == ["README.md", "model.skops"]
    images, _ = images_and_names
    loaded = skfewshot.load("hf-hub:org/kinds")
    assert_array_equal(loaded.predict(images), pipeline.predict(images))
    # Later on the copy on this machine serves without the hub.
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True  # put back by the fixture
    again = skfewshot.load("hf-hub:org/kinds")
    assert_array_equal(again.predict(images), pipeline.predict(images))
    with pytest.raises(ConnectionError, match="'org/other'.*HF_HUB_OFFLINE"):
        skfewshot.load("hf-hub:org/other")


def test_what_the_hub_does_not_have(hub):
    with pytest.raises(ConnectionError, match="'org/kinds' could not be downloaded"):
        skfewshot.load("hf-hub:org/kinds")


def test_what_is_not_uploaded(hub, pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model"):
        push_to_hub(tmp_path, "org/kinds")
    skfewshot.save(pipeline, tmp_path / "model.skops")
    with pytest.raises(FileNotFoundError, match=r"README\.md"):
        push_to_hub(tmp_path, "org/kinds")
    folder = skfewshot.save(pipeline, tmp_path / "m")
    with pytest.raises(ValueError, match="a//b"):
        push_to_hub(folder, "a//b")
    (folder / "model.skops").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged"):
        push_to_hub(folder, "org/kinds")
    assert not hub.files


def test_without_a_network(pipeline, tmp_path, monkeypatch):
    def reach():
        raise OSError("no network")

    folder = skfewshot.save(pipeline, tmp_path / "m")
    monkeypatch.setattr("skfewshot.persistence._hub.reach_hub", reach)
    with pytest.raises(ConnectionError, match="'org/kinds': no network"):
        push_to_hub(folder, "org/kinds")
    assert _sources.HF_HUB == "hf-hub:"
