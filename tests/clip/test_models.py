"""Finding and loading models: names, weights, errors, the cache and the identity."""

import json
import logging
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from skfewshot.clip import (
    CLIPFeaturizer,
    WeightsDownloadError,
    clear_model_cache,
    tiny_model_path,
)
from skfewshot.clip import _models as models
from skfewshot.clip import _sources as sources
from skfewshot.clip._models import load_clip
from skfewshot.clip._texts import encode_names

CPU = torch.device("cpu")


def load(name, pretrained=None, **kwargs):
    return load_clip(name, pretrained, device=CPU, **kwargs)


def folder_of(name):
    return Path(name.removeprefix("local-dir:"))


@pytest.fixture(autouse=True)
def empty_cache():
    clear_model_cache()
    yield
    clear_model_cache()


@pytest.fixture
def built_in(small, monkeypatch):
    """A built-in architecture of open_clip, as small as `small`."""
    config = json.loads((folder_of(small) / "open_clip_config.json").read_text())
    configs = {**open_clip.factory._MODEL_CONFIGS, "ViT-small": config["model_cfg"]}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    return "ViT-small"


@pytest.fixture
def weights(small):
    return folder_of(small) / "open_clip_model.safetensors"


class OfflineClient:
    def head(self, url, timeout):
        raise OSError("Name or service not known")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and nothing in its cache."""
    monkeypatch.setattr(huggingface_hub.utils, "get_session", OfflineClient)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


def test_cache_is_shared(small):
    assert load(small) is load(small)
    assert CLIPFeaturizer(small).load() is CLIPFeaturizer(small).load()
    first = load(small)
    clear_model_cache()
    assert load(small) is not first


def test_cache_is_bounded(make_model, monkeypatch):
    monkeypatch.setattr(models, "MAX_CACHED_MODELS", 2)
    names = [make_model(f"m{seed}", seed=seed) for seed in range(3)]
    first, second = load(names[0]), load(names[1])
    assert load(names[0]) is first
    load(names[2])
    assert load(names[0]) is first, "the one used last stays"
    assert load(names[1]) is not second


def test_changed_weights_are_loaded_again(make_model):
    name = make_model("changing")
    first = load(name)
    path = folder_of(name) / "open_clip_model.safetensors"
    tensors = {key: value + 0.01 for key, value in load_file(path).items()}
    time.sleep(0.01)
    save_file(tensors, path)
    second = load(name)
    assert second is not first
    assert second.identity != first.identity


def test_local_file(built_in, weights, small):
    clip = load(built_in, str(weights))
    assert clip.identity == load(small).identity
    assert clip.identity.pretrained == str(weights)
    assert load(built_in, weights).identity == clip.identity


def test_pytorch_file(built_in, weights, tmp_path, small):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": load_file(weights)}, path)
    assert load(built_in, str(path)).identity == load(small).identity


def test_local_dir_as_pretrained(small):
    clip = load("ViT-B-32", small)
    assert clip.identity == load(small).identity
    assert load(clip.identity.model_name, clip.identity.pretrained) is clip


def test_relative_and_home_paths(small, monkeypatch):
    folder = folder_of(small)
    monkeypatch.chdir(folder.parent)
    clip = load(f"local-dir:{folder.name}")
    assert clip.identity.model_name == small
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load(f"local-dir:~/{folder.name}").identity == clip.identity


def test_identity_is_of_the_weights(small, other, tmp_path):
    first = load(small).identity
    assert load(other).identity != first
    copied = tmp_path / "copied"
    shutil.copytree(folder_of(small), copied)
    assert load(f"local-dir:{copied}").identity == first
    assert load(small, precision="bf16").identity == first
    assert first.embedding_dim == 24
    scale = load_file(folder_of(small) / "open_clip_model.safetensors")["logit_scale"]
    assert first.logit_scale == pytest.approx(float(scale.exp()))


def test_identity_sees_preprocessing_and_activation(make_model, small):
    first = load(small).identity
    mean = make_model("mean", preprocess={"mean": [0.1, 0.2, 0.3]})
    quick = make_model("quick", quick_gelu=True)
    assert len({first, load(mean).identity, load(quick).identity}) == 3


def test_identity_refuses_changed_weights(make_model):
    name = make_model("replaced")
    identity = load(name).identity
    assert encode_names(identity, ["cat"], "a {}").encoder == identity
    path = folder_of(name) / "open_clip_model.safetensors"
    save_file({k: v + 0.01 for k, v in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="the weights have changed since"):
        encode_names(identity, ["cat"])


def test_names_are_encoded_by_the_identity(small):
    clip = load(small)
    identity = replace(clip.identity, prompt_templates=["a {}", "the {}"])
    expected = CLIPFeaturizer(small).encode_classes(["cat", "dog"], ["a {}", "the {}"])
    for found in (
        encode_names(identity, ["cat", "dog"]),
        encode_names(clip.identity, ["cat", "dog"], ["a {}", "the {}"]),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.encoder == clip.identity
    with pytest.raises(TypeError, match="single text 'cat'"):
        encode_names(identity, "cat")


def test_random_weights_are_never_loaded(built_in, small, tmp_path, caplog):
    with pytest.raises(ValueError, match="pretrained=None would give.*'tiny'"):
        load(built_in, None)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder_of(small) / "open_clip_config.json", bare)
    with pytest.raises(FileNotFoundError, match="no weights: the model would be"):
        load(f"local-dir:{bare}")
    with caplog.at_level(logging.WARNING):
        load(small)
    assert "randomly" not in caplog.text


def test_loaded_weights_are_those_of_the_file(small, weights):
    model = load(small).model
    for name, value in load_file(weights).items():
        torch.testing.assert_close(model.state_dict()[name], value)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "pretrained", "error", "message"),
    [
        ("ViT-B-33", "openai", ValueError, "did you mean.*'ViT-B-32'.*'tiny'"),
        ("zzz", "openai", ValueError, "'zzz' is not a model of open_clip"),
        ("ViT-B-32", "openia", ValueError, r"did you mean \['openai'.*Its tags are"),
        ("ViT-B-32", "/nowhere/w.pt", FileNotFoundError, "is no file and no tag"),
        ("ViT-B-32", "weights.bin", FileNotFoundError, "is no file and no tag"),
        ("local-dir:/nowhere", None, FileNotFoundError, "There is no folder"),
        ("ViT-B-32", "local-dir:/nowhere", FileNotFoundError, "There is no folder"),
    ],
)
def test_unknown(name, pretrained, error, message):
    with pytest.raises(error, match=message):
        load(name, pretrained)


def test_folder_without_config(weights, tmp_path):
    shutil.copy(weights, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no open_clip_config\.json"):
        load(f"local-dir:{tmp_path}")


def test_weights_that_do_not_fit(make_model, built_in, tmp_path):
    wide = make_model("wide", vision={"width": 64})
    path = str(folder_of(wide) / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match="could not be loaded into 'ViT-small'.*size"):
        load(built_in, path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="could not be loaded"):
        load(built_in, str(broken))


class Code:
    def __reduce__(self):
        return print, ("code was run",)


def test_pickled_code_is_not_run(built_in, tmp_path, capsys):
    path = tmp_path / "code.pt"
    torch.save({"state_dict": {"weight": Code()}}, path)
    with pytest.raises(ValueError, match="could not be loaded"):
        load(built_in, str(path))
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [("ViT-B-32", "laion2b_s34b_b79k"), ("RN50", "yfcc15m"), ("hf-hub:a/b", None)],
)
def test_hub_out_of_reach(offline, name, pretrained):
    start = time.perf_counter()
    with pytest.raises(WeightsDownloadError) as caught:
        load(name, pretrained)
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert "Name or service not known" in message
    assert "CLIPFeaturizer('tiny')" in message
    assert "CLIPFeaturizer('local-dir:" in message
    assert isinstance(caught.value, ConnectionError)


def test_download_that_fails(monkeypatch):
    class Client:
        def head(self, url, timeout):
            return None

    def fail(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no such file")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Client)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", fail)
    with pytest.raises(WeightsDownloadError, match="no such file"):
        load("ViT-B-32", "openai")


def test_offline_mode_of_the_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(WeightsDownloadError, match="HF_HUB_OFFLINE"):
        load("ViT-B-32", "openai")


@pytest.fixture
def hub_cache(monkeypatch, offline):
    """A hub cache given as a dict, on a machine that cannot reach the hub."""
    files = {}
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repo, name: files.get((repo, name)),
    )
    return files


def test_cached_tag_needs_no_hub(built_in, weights, hub_cache, monkeypatch, small):
    mean = [0.1, 0.2, 0.3]
    config = {"hf_hub": "org/repo/", "mean": mean, "quick_gelu": True, "size": 999}
    tags = {**open_clip.pretrained._PRETRAINED, built_in: {"mytag": config}}
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", tags)
    hub_cache["org/repo", "open_clip_model.safetensors"] = str(weights)
    clip = load(built_in, "mytag")
    assert list(clip.preprocess.transforms[-1].mean) == mean
    assert clip.input_size == (32, 32)
    kinds = {type(module).__name__ for module in clip.model.modules()}
    assert "QuickGELU" in kinds, "the tag was trained with it"
    assert clip.identity != load(small).identity
    assert load(clip.identity.model_name, clip.identity.pretrained) is clip


def test_cached_hub_repository_needs_no_hub(small, weights, hub_cache):
    hub_cache["org/repo", "open_clip_model.safetensors"] = str(weights)
    config = folder_of(small) / "open_clip_config.json"
    hub_cache["org/repo", "open_clip_config.json"] = str(config)
    clip = load("hf-hub:org/repo")
    assert clip.identity == load(small).identity
    assert clip.identity.model_name == "hf-hub:org/repo"
    assert clip.tokenizer(["a"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("file", "first"),
    [
        ("", "open_clip_model.safetensors"),
        ("model.bin", "model.safetensors"),
        ("model.safetensors", "model.safetensors"),
    ],
)
def test_candidates_prefer_safetensors(file, first):
    assert sources._candidates(file)[0] == first


@pytest.mark.parametrize("precision", ["fp16"])
def test_half_precision_is_for_cuda(small, precision):
    with pytest.raises(ValueError, match="precision='fp16' is not available.*cpu"):
        load(small, precision=precision)


def test_precisions(small):
    assert load(small).dtype == torch.float32
    assert load(small, precision="bf16").dtype == torch.bfloat16
    dtype_of = models._dtype_of
    cuda, mps = torch.device("cuda"), torch.device("mps")
    assert dtype_of("auto", cuda) == torch.float16
    assert dtype_of("fp32", cuda) == torch.float32
    assert dtype_of("auto", mps) == torch.float32
    with pytest.raises(ValueError, match="not available"):
        dtype_of("bf16", mps)


def test_loading_leaves_the_random_state_alone(small):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    load(small)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_loading_within_inference_mode(small):
    with torch.inference_mode():
        model = load(small).model
    assert not any(p.is_inference() for p in model.parameters())


def test_tokenizer_that_cannot_be_built(small, monkeypatch):
    def fail(name):
        raise ImportError("transformers is not installed")

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    featurizer = CLIPFeaturizer(small)
    assert featurizer.transform(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 24)
    with pytest.raises(RuntimeError, match=r"transformers.*Images can still"):
        featurizer.encode_text(["a"])


def test_custom_text_tower_and_sigmoid_scale(make_model):
    name = make_model("custom", custom=True, init_logit_bias=-10.0)
    clip = load(name)
    assert type(clip.model).__name__ == "CustomTextCLIP"
    assert clip.model.logit_bias is not None
    assert CLIPFeaturizer(name).encode_text(["a"]).shape == (1, 24)


def test_tiny_lies_in_the_package():
    folder = tiny_model_path()
    assert (folder / "open_clip_config.json").is_file()
    clip = load("tiny", "laion2b_s34b_b79k")
    assert clip.identity.model_name == "tiny"
    assert clip.identity.pretrained is None
    size = (folder / "open_clip_model.safetensors").stat().st_size
    assert size <= 12 * 2**20
    assert pickle.loads(pickle.dumps(clip.identity)) == load("tiny").identity
