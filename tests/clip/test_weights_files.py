"""Files of weights: what they want of their model, and what is said of those that fail.

Also how images come to the size of the model, which the same settings decide.
"""

import io
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import clear_model_cache, encoder_of

CLOSE = {"rtol": 0, "atol": 2e-6}
SIGLIP = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
OPENAI = {"quick_gelu": True}


@pytest.fixture(autouse=True)
def empty_cache():
    clear_model_cache()
    yield
    clear_model_cache()


def folder_of(name):
    return Path(name.removeprefix("local-dir:"))


@pytest.fixture
def built_in(small, monkeypatch):
    """Return a function that makes `small` a built-in architecture with such tags."""
    config = json.loads((folder_of(small) / "open_clip_config.json").read_text())

    def make(tags, **changes):
        model = {**config["model_cfg"], **changes}
        configs = {**open_clip.factory._MODEL_CONFIGS, "ViT-small": model}
        monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
        known = {**open_clip.pretrained._PRETRAINED, "ViT-small": tags}
        monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", known)
        return "ViT-small"

    return make


@pytest.fixture
def weights(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((folder_of(small) / "open_clip_model.safetensors").read_bytes())
    return path


def is_quick(clip):
    return any(type(m).__name__ == "QuickGELU" for m in clip.model.modules())


# What a file gets


def test_a_file_gets_what_all_tags_of_its_model_want(built_in, weights, make_model):
    name = built_in({"webli": {**SIGLIP, "hf_hub": "a/b/"}, "other": dict(SIGLIP)})
    clip = CLIPFeaturizer(name, weights).load()
    assert tuple(clip.preprocess.transforms[-1].mean) == (0.5,) * 3
    assert [type(step).__name__ for step in clip.preprocess.transforms][:1] == [
        "Resize"
    ]
    wide = [np.random.default_rng(0).integers(0, 256, (32, 96, 3), dtype=np.uint8)]
    same = make_model("squashed", preprocess=SIGLIP)  # the weights of `small`
    expected = CLIPFeaturizer(same).transform(wide)
    np.testing.assert_allclose(
        CLIPFeaturizer(name, weights).transform(wide), expected, **CLOSE
    )


@pytest.mark.parametrize("family", ["ViT-B-16-SigLIP", "MobileCLIP-S1", "PE-Core-B-16"])
def test_families_have_their_own_settings(family, tmp_path):
    from skfewshot.clip._weights import settings_of_file

    settings, doubt = settings_of_file(family, tmp_path / "weights.pt")
    tag = open_clip.list_pretrained_tags_by_model(family)[0]
    config = open_clip.get_pretrained_cfg(family, tag)
    for key in ("mean", "std", "interpolation", "resize_mode"):
        assert settings[key] == config[key]
    assert doubt == ""


def test_a_warning_where_tags_disagree(built_in, weights):
    name = built_in({"openai": OPENAI, "laion": {}, "other": {}})
    with pytest.warns(UserWarning, match=r"quick_gelu=False.*openai want True") as seen:
        clip = CLIPFeaturizer(name, weights).load()
    assert "'ViT-small-quickgelu'" in str(seen[0].message)
    assert seen[0].filename == __file__
    assert not is_quick(clip)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    "path",
    [
        "ViT-small-openai.safetensors",
        "models--timm--clip.openai/snapshots/1f/open_clip_model.safetensors",
    ],
)
def test_a_path_that_names_its_tag(built_in, weights, tmp_path, path):
    tags = {"openai": {**OPENAI, "hf_hub": "timm/clip.openai/"}, "laion": {}}
    name = built_in(tags)
    path = tmp_path / path
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.rename(path)
    assert is_quick(CLIPFeaturizer(name, path).load())


@pytest.mark.filterwarnings("error::UserWarning")
def test_an_architecture_with_quick_gelu_is_in_no_doubt(built_in, weights):
    name = built_in({"openai": OPENAI, "laion": {}}, quick_gelu=True)
    assert is_quick(CLIPFeaturizer(name, weights).load())


# How images are resized


@pytest.fixture
def half(small):
    """A picture of two halves, twice as wide as high, and what squares show of it."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
    padded = np.zeros((32, 32, 3), np.uint8)
    bicubic = Image.Resampling.BICUBIC
    padded[8:24] = np.asarray(Image.fromarray(wide).resize((32, 16), bicubic))
    squashed = np.asarray(Image.fromarray(wide).resize((32, 32), bicubic))
    return wide, {"crop": wide[:, 16:48], "pad": padded, "squash": squashed}


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
def test_what_the_model_sees(small, half, mode):
    wide, squares = half
    expected = CLIPFeaturizer(small).transform([squares[mode]])
    found = CLIPFeaturizer(small, resize_mode=mode).transform([wide])
    np.testing.assert_allclose(found, expected, **CLOSE)
    tall = CLIPFeaturizer(small, resize_mode=mode).transform([wide.transpose(1, 0, 2)])
    turned = squares[mode].transpose(1, 0, 2)
    expected = CLIPFeaturizer(small).transform([turned])
    np.testing.assert_allclose(tall, expected, atol=2e-3)  # one axis after the other


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (64, 1), (63, 1), (3000, 2)])
def test_odd_sizes(small, mode, size):
    image = Image.new("RGB", size, "red")
    found = CLIPFeaturizer(small, resize_mode=mode).transform([image])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_auto_is_the_models_own(make_model, small, half):
    squash = make_model("own", preprocess=SIGLIP)
    for name, own in ((small, "crop"), (squash, "squash")):
        auto = CLIPFeaturizer(name).load()
        assert CLIPFeaturizer(name, resize_mode=own).load() is auto
        assert auto.own_resize_mode == own


def test_a_mode_is_another_encoder(small, half, images, tmp_path):
    """Another cache entry, another identity, and texts all the same."""
    wide, _ = half
    models = [
        CLIPFeaturizer(small, resize_mode=mode, cache=tmp_path)
        for mode in ("auto", "pad", "squash")
    ]
    for _ in range(2):
        found = [model.fit_transform([wide]) for model in models]
        assert len({encoder_of(rows) for rows in found}) == 3
        for row, model in zip(found, models, strict=True):
            plain = CLIPFeaturizer(small, resize_mode=model.resize_mode)
            np.testing.assert_allclose(row, plain.transform([wide]), **CLOSE)
    pad = models[1]
    assert pad.load() is models[1].load()
    assert pad.load().model is models[0].load().model, "weights are loaded once"
    assert "resize_mode='pad'" in str(pad.encoder_)
    assert pickle.loads(pickle.dumps(pad.encoder_)) == pad.encoder_
    with pytest.raises(ValueError, match="Fit it again"):
        pad.set_params(resize_mode="crop").transform([wide])


def test_classifiers_find_texts_and_refuse_another_mode(small, images):
    names = ["cat", "dog", "cat", "dog", "cat", "dog", "dog"]
    pad = CLIPFeaturizer(small, resize_mode="pad")
    X = pad.fit_transform(images)
    model = CMMClassifier().fit(X, names)
    assert model.prototype_source_ == "embedding"
    own = CLIPFeaturizer(small)
    np.testing.assert_allclose(
        model.text_features_, own.encode_classes(["cat", "dog"]), atol=1e-5
    )
    with pytest.raises(ValueError, match="resize_mode='pad'"):
        model.predict(own.transform(images))
    CMMClassifier(text_encoder=own).fit(X, names)  # by the same weights


def test_resize_mode_is_checked(small, images):
    with pytest.raises(ValueError, match="resize_mode"):
        CLIPFeaturizer(small, resize_mode="fit").transform(images)


# The layout of transformers


def in_transformers(weights, path, width=768, patch=32, side=224):
    """Write a file with the names and shapes of transformers."""
    n_patches = (side // patch) ** 2 + 1
    start = "vision_model.embeddings."
    state = {
        f"{start}class_embedding": torch.zeros(width),
        f"{start}patch_embedding.weight": torch.zeros(width, 3, patch, patch),
        f"{start}position_embedding.weight": torch.zeros(n_patches, width),
        "text_model.final_layer_norm.weight": torch.zeros(8),
        "logit_scale": torch.zeros(()),
    }
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("width", "patch", "side", "twin"),
    [
        (768, 32, 224, r"CLIPFeaturizer\('ViT-B-32', pretrained='openai'\)"),
        (1024, 14, 336, r"CLIPFeaturizer\('ViT-L-14-336', pretrained='openai'\)"),
        (8, 2, 4, "open_clip_config.json"),
    ],
)
def test_weights_of_transformers(built_in, tmp_path, suffix, width, patch, side, twin):
    path = tmp_path / f"model.{suffix}"
    in_transformers(None, path, width, patch, side)
    with pytest.raises(ValueError, match=f"layout of transformers.*{twin}") as error:
        CLIPFeaturizer(built_in({}), path).load()
    assert len(str(error.value)) < 800


@pytest.mark.parametrize(
    ("model_name", "meant"),
    [
        ("openai/clip-vit-base-patch32", "'ViT-B-32', pretrained='openai'"),
        ("hf-hub:openai/clip-vit-large-patch14", "'ViT-L-14', pretrained='openai'"),
        ("hf-hub:openai/clip-vit-large-patch14-336", "'ViT-L-14-336', pre"),
        ("google/siglip-base-patch16-224", "'ViT-B-16-SigLIP', pretrained='webli'"),
        ("google/siglip2-so400m-patch14-384", "'ViT-SO400M-14-SigLIP2-378', pre|-384"),
        (
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            "'hf-hub:laion/CLIP-ViT-B-32-laion2B",
        ),
        (
            "https://huggingface.co/timm/ViT-B-16-SigLIP",
            "'hf-hub:timm/ViT-B-16-SigLIP'",
        ),
        ("word " * 1000, r"\(5,000 characters\)"),
    ],
)
def test_names_of_repositories(model_name, meant):
    with pytest.raises(ValueError, match=meant) as error:
        CLIPFeaturizer(model_name).load()
    assert len(str(error.value)) < 700


def test_a_folder_as_model_name(small):
    folder = str(folder_of(small))
    with pytest.raises(ValueError, match=f"'local-dir:{folder}'"):
        CLIPFeaturizer(folder).load()


def test_a_folder_of_transformers(tmp_path):
    config = {"model_type": "clip", "vision_config": {"patch_size": 16}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="transformers.*'ViT-B-16', pretrained"):
        CLIPFeaturizer(f"local-dir:{tmp_path}").load()


# What is wrong


def test_a_checkpoint_with_more_than_tensors(built_in, weights, tmp_path):
    from argparse import Namespace

    path = tmp_path / "epoch_3.pt"
    torch.save({"state_dict": load_file(weights), "args": Namespace(lr=1)}, path)
    with pytest.raises(ValueError, match="more than tensors.*save_file") as error:
        CLIPFeaturizer(built_in({}), path).load()
    assert len(str(error.value)) < 800


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_of_torchscript(built_in, tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(ValueError, match="TorchScript.*save_file"):
        CLIPFeaturizer(built_in({}), path).load()


def test_a_missing_text_tower(small, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(folder_of(small), folder)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    del config["model_cfg"]["text_cfg"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has no 'text_cfg' .of the text tower"):
        CLIPFeaturizer(f"local-dir:{folder}").load()
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda _, name: str(folder / name)
    )
    with pytest.raises(ValueError, match="has no 'text_cfg' .of the text tower"):
        CLIPFeaturizer("hf-hub:org/repo").load()


def test_weights_that_have_moved(built_in, weights, tmp_path, images):
    name = built_in({})
    model = CLIPFeaturizer(name, weights).fit(images)
    saved = pickle.dumps(model)
    moved = weights.rename(tmp_path / "moved.safetensors")
    loaded = pickle.loads(saved)
    with pytest.raises(FileNotFoundError, match=r"set_params\(pretrained=") as error:
        loaded.transform(images)
    assert "clip__pretrained" in str(error.value)
    assert loaded.set_params(pretrained=moved).transform(images).shape == (7, 24)
    with pytest.raises(FileNotFoundError, match=r"set_params\(model_name="):
        CLIPFeaturizer("local-dir:/moved").load()


# Tokenizers


class FakeTokenizer:
    asked: dict = {}  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, name, **options):
        cls.asked = {"name": name, **options}
        return cls()


@pytest.fixture
def transformers(monkeypatch):
    module = ModuleType("transformers")
    module.AutoTokenizer = FakeTokenizer
    monkeypatch.setitem(sys.modules, "transformers", module)
    FakeTokenizer.asked = {}


def with_text_config(small, folder, **text):
    import shutil

    shutil.copytree(folder_of(small), folder)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"].update(text)
    path.write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.mark.parametrize("is_hub", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"trust_remote_code": True},
        {"bpe_path": "/dev/zero"},
        {"tokenizer_file": "/etc/passwd"},
        {"clean": ["lower"]},
        {"clean": "lower", "revision": "x"},
        {"additional_special_tokens": [1]},
        ["trust_remote_code"],
    ],
)
def test_options_of_tokenizers_are_checked(
    small, tmp_path, transformers, monkeypatch, options, is_hub, images
):
    name = {"hf_tokenizer_name": "org/tokenizer"} if is_hub else {}
    model = with_text_config(
        small, tmp_path / "model", tokenizer_kwargs=options, **name
    )
    featurizer = CLIPFeaturizer(model)
    assert featurizer.transform(images).shape == (7, 24)  # needs none
    with pytest.raises(RuntimeError, match=r"could not be built.*open_clip_config"):
        featurizer.encode_text(["a"])
    assert FakeTokenizer.asked == {}


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_tokenizers_of_transformers_run_no_code(
    small, tmp_path, transformers, monkeypatch, place
):
    model = with_text_config(
        small,
        tmp_path / "model",
        hf_tokenizer_name="org/tokenizer",
        tokenizer_kwargs={"strip_sep_token": True, "use_fast": False},
    )
    folder = folder_of(model)
    if place == "hub":
        model = "hf-hub:org/repo"
        monkeypatch.setattr(
            huggingface_hub,
            "try_to_load_from_cache",
            lambda _, name: str(folder / name),
        )
    tokenizer = CLIPFeaturizer(model).load().tokenizer
    assert tokenizer.strip_sep_token
    asked = FakeTokenizer.asked
    assert asked["trust_remote_code"] is False
    assert asked["use_fast"] is False
    assert asked["name"] == ("org/tokenizer" if place == "hub" else str(folder))


def test_harmless_options_are_taken(small, tmp_path):
    model = with_text_config(
        small, tmp_path / "model", tokenizer_kwargs={"clean": "canonicalize"}
    )
    tokens = CLIPFeaturizer(model).load().tokenizer
    assert torch.equal(tokens(["A_CAT!"]), tokens(["a cat"]))


def test_bytes_are_read_as_the_tag_says(built_in, weights):
    """Parity with open_clip's own preprocessing of a tag."""
    name = built_in({"webli": dict(SIGLIP)})
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    clip = CLIPFeaturizer(name, weights).load()
    config = open_clip.transform.PreprocessCfg(size=32, **SIGLIP)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    with torch.inference_mode():
        row = clip.model.encode_image(transform(Image.fromarray(noise))[None])
    row = torch.nn.functional.normalize(row, dim=-1).numpy()
    found = CLIPFeaturizer(name, weights).transform([file])
    np.testing.assert_allclose(found, row, atol=1e-5)
