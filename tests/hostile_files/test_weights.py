"""Weights and priors that somebody has made up, and that no code is read from disk."""

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import skfewshot
from skfewshot import CLIPFeaturizer, MultiLabelPrototypePrior
from skfewshot.clip import clear_model_cache, tiny_model_path

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture
def model(tmp_path):
    """The folder of a model to be changed."""
    yield Path(shutil.copytree(tiny_model_path(), tmp_path / "model"))
    clear_model_cache()


def embed(folder, images):
    return CLIPFeaturizer(f"local-dir:{folder}", num_workers=0).transform(images)


def refused(folder, images, match):
    with pytest.raises(ValueError, match=match) as caught:
        embed(folder, images)
    assert str(folder) in str(caught.value)


def in_pytorch(folder, saved):
    """Put a file of PyTorch in the place of the weights."""
    (folder / WEIGHTS).unlink()
    torch.save(saved, folder / "model.bin")
    return folder / "model.bin"


class Calls:
    """What calls a function when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


# Models


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        (2**40).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little") + bytes(100),
        (10**8 - 1).to_bytes(8, "little") + b" " * 100,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        pickle.dumps({"visual.proj": [1.0]}),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
    ],
)
def test_no_safetensors(model, images, content):
    (model / WEIGHTS).write_bytes(content)
    refused(model, images, "weights .* could not be loaded")


def test_half_of_the_weights(model, images):
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[: len(content) // 2])
    refused(model, images, "weights .* could not be loaded")


def test_weights_of_another_shape(model, images):
    state = load_file(model / WEIGHTS)
    state["text_projection"] = state["text_projection"][:, :-1].copy()
    save_file(state, model / WEIGHTS)
    refused(model, images, "size mismatch")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_a_pickle_is_not_run(model, images, tmp_path, protocol, zipped):
    marker = tmp_path / "run"
    (model / WEIGHTS).unlink()
    evil = {"a": Calls(os.mkdir, str(marker))}
    if zipped:
        torch.save(evil, model / "model.bin")
    else:
        (model / "model.bin").write_bytes(pickle.dumps(evil, protocol))
    refused(model, images, "weights .* could not be loaded")
    assert not marker.exists()


def test_no_second_try_without_asking_for_tensors_alone(model, images, monkeypatch):
    """A TypeError within has open_clip leave out weights_only."""
    in_pytorch(model, {"a": Calls(torch._utils._rebuild_parameter, 1)})
    real, asked = torch.load, []

    def load(*args, **kwargs):
        asked.append(kwargs.get("weights_only"))
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    refused(model, images, "weights .* could not be loaded")
    assert asked == [True]


@pytest.mark.parametrize("saved", [[1.0], torch.zeros(3), {}, {"state_dict": 3}])
def test_pytorch_files_of_other_things(model, images, saved):
    in_pytorch(model, saved)
    refused(model, images, "weights .* could not be loaded")


def test_pytorch_files_still_load(model, images, expected):
    state = {name: torch.tensor(v) for name, v in load_file(model / WEIGHTS).items()}
    path = in_pytorch(model, state)
    np.testing.assert_allclose(embed(model, images), expected, atol=2e-6)
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    np.testing.assert_allclose(embed(model, images), expected, atol=2e-6)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"model_cfg": {}}',
        '{"model_cfg": 3}',
        '{"model_cfg": {"embed_dim": 1, "vision_cfg": 1}}',
        "\0",
    ],
)
def test_configurations(model, images, content):
    (model / CONFIG).write_text(content)
    refused(model, images, "could not be loaded")


@pytest.fixture(scope="module")
def content_of_weights():
    return (tiny_model_path() / WEIGHTS).read_bytes()


CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)
FUZZ = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def changed(content, changes, kept, early):
    content = bytearray(content)
    for place, written in changes:
        start = int(place * (early or len(content)))
        content[start : start + len(written)] = written
    return content[: int(kept * len(content)) + 1]


@settings(FUZZ, max_examples=12)
@given(changes=CHANGES, kept=st.sampled_from([1, 1, 1, 0.5]), early=st.booleans())
def test_any_bytes(content_of_weights, model, images, changes, kept, early):
    """Unit rows of another encoder, or an error that names the file."""
    content = changed(content_of_weights, changes, kept, 4000 if early else 0)
    (model / WEIGHTS).write_bytes(content)
    clear_model_cache()
    try:
        found = embed(model, images)
    except (ValueError, FloatingPointError) as error:
        assert str(model) in str(error) or "weights are broken" in str(error)
    else:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
        if content == content_of_weights:
            assert found.encoder == CLIPFeaturizer("tiny").load().identity


def test_a_weight_that_is_no_number(model, images):
    state = load_file(model / WEIGHTS)
    state["visual.proj"][0, 0] = np.nan
    save_file(state, model / WEIGHTS)
    with pytest.raises(FloatingPointError, match="the weights are broken"):
        embed(model, images)


# Priors


@pytest.fixture(scope="module")
def saved_prior(tmp_path_factory):
    """The path of a prior that was trained a little."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 7, 16)).astype(np.float32)
    Y = np.eye(8, dtype=int)[np.arange(40) % 8]
    prior = MultiLabelPrototypePrior(
        n_heads=4, n_episodes=2, eval_every=2, n_way=4, shots=(1, 1), n_query=8
    )
    prior.fit(X, Y, label_features=rng.normal(size=(8, 16)).astype(np.float32))
    path = tmp_path_factory.mktemp("prior") / "whole"
    prior.save(path)
    return path


@pytest.fixture
def rewrite(saved_prior, tmp_path):
    """A function that saves the prior with changes, and returns the path."""
    with safe_open(saved_prior, "numpy") as file:
        state = {name: file.get_tensor(name) for name in list(file.keys())}
        metadata = file.metadata()

    def write(change_state=lambda state: state, **changes):
        about = json.loads(metadata["about"])
        for name, value in changes.items():
            parts = [about["parameters"], about["fitted"], about]
            next(part for part in parts if name in part)[name] = value
        path = tmp_path / "prior"
        described = {**metadata, "about": json.dumps(about)}
        save_file(change_state(dict(state)), path, described)
        return path

    return write


def refused_prior(path):
    with pytest.raises(ValueError) as caught:
        MultiLabelPrototypePrior.load(path)
    assert str(path) in str(caught.value)


def test_a_prior_as_it_was(rewrite):
    assert MultiLabelPrototypePrior.load(rewrite()).width_ == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"width_": 10**12},
        {"width_": 10**30},
        {"width_": -1},
        {"width_": 0},
        {"width_": True},
        {"width_": 16.0},
        {"n_heads": -1},
        {"n_features_in_": "many"},
        {"n_iter_": None},
        {"n_iter_": 1e400},
        {"best_episode_": -3},
        {"loss_curve_": {"a": 1}},
        {"validation_scores_": ["good"]},
        {"scale": float("nan")},
        {"selection": ["lcm"]},
        {"encoder": 3},
        {"encoder": {}},
        {"encoder": {"model_name": "tiny"}},
    ],
    ids=str,
)
def test_numbers_that_no_training_gives(rewrite, changes):
    refused_prior(rewrite(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_name": 3},
        {"pretrained": []},
        {"fingerprint": {}},
        {"embedding_dim": "16"},
        {"embedding_dim": -16},
        {"logit_scale": float("nan")},
        {"logit_scale": None},
        {"prompt_templates": {"a": 1}},
        {"prompt_templates": [3]},
        {"other": 1},
    ],
    ids=str,
)
def test_encoders_that_there_are_not(rewrite, changes):
    encoder = {
        "model_name": "tiny",
        "pretrained": None,
        "fingerprint": "5f0c",
        "embedding_dim": 16,
        "logit_scale": 100.0,
    }
    path = rewrite(encoder=encoder)
    assert MultiLabelPrototypePrior.load(path).encoder_.fingerprint == "5f0c"
    refused_prior(rewrite(encoder={**encoder, **changes}))


def test_very_many_heads(rewrite):
    """As with the parameter, as many are taken as there is width for."""
    assert MultiLabelPrototypePrior.load(rewrite(n_heads=10**12)).n_heads == 10**12


@pytest.mark.parametrize("dtype", ["f2", "i4", "u1", "?"])
def test_arrays_of_other_numbers(rewrite, dtype):
    refused_prior(
        rewrite(lambda state: {name: v.astype(dtype) for name, v in state.items()})
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_arrays_that_numpy_lacks(rewrite, dtype):
    from safetensors.torch import load_file, save_file

    path = rewrite()
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    state = {name: v.to(dtype) for name, v in load_file(path).items()}
    save_file(state, path, metadata)
    refused_prior(path)


def test_deep_descriptions(rewrite, tmp_path):
    with safe_open(rewrite(), "numpy") as file:
        metadata = file.metadata()
    path = tmp_path / "deep"
    about = "[" * 100_000
    save_file({"a": np.ones(2, np.float32)}, path, {**metadata, "about": about})
    refused_prior(path)


@settings(FUZZ, max_examples=60)
@given(changes=CHANGES, kept=st.sampled_from([1, 1, 1, 0.5]), early=st.booleans())
def test_any_bytes_of_a_prior(saved_prior, tmp_path, changes, kept, early):
    path = tmp_path / "prior"
    content = saved_prior.read_bytes()
    path.write_bytes(changed(content, changes, kept, 4000 if early else 0))
    try:
        prior = MultiLabelPrototypePrior.load(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(np.isfinite(value).all() for value in prior.state_.values())


# No code from disk

SOURCES = sorted(Path(skfewshot.__file__).parent.rglob("*.py"))
#: What runs code that it reads. The errors of Ray's actors are passed on within a run,
#: not on disk.
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
READS_CODE = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
ALLOWED = {("distributed/_runs.py", "pickle.loads")}


def calls_in(text):
    """Yield the name of each call in some code, and its keywords."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield ast.unparse(node.func), keywords


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_code_is_read(path):
    where = path.relative_to(Path(skfewshot.__file__).parent).as_posix()
    for name, keywords in calls_in(path.read_text("utf-8")):
        module, _, function = name.rpartition(".")
        assert name not in RUNS_CODE, (where, name)
        reads = module in READS_CODE and function.startswith(("load", "open"))
        reads |= function in ("Unpickler", "loads") and module != "json"
        assert not reads or (where, name) in ALLOWED, (where, name)
        assert keywords.get("allow_pickle", "False") == "False", (where, name)
        assert keywords.get("weights_only", "True") == "True", (where, name)
        if name == "torch.load" or function == "create_model":
            assert keywords.get("weights_only") == "True", (where, name)
        if function in ("load", "load_url") and module.startswith(("torch.jit",)):
            pytest.fail(f"{where} loads code by {name}")
        assert keywords.get("shell", "False") == "False", (where, name)


def test_the_test_sees_what_it_looks_for():
    found = dict(calls_in("pickle.load(f)\nnp.load(f, allow_pickle=True)"))
    assert found == {"pickle.load": {}, "np.load": {"allow_pickle": "True"}}
    assert len(SOURCES) > 40
