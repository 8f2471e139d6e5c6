"""Small models with random weights, in the layout of open_clip's ``local-dir:``."""

import json

import numpy as np
import pytest

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {
    "image_size": 32,
    "patch_size": 8,
    "layers": 2,
    "width": 32,
    "head_width": 16,
}


def write_model(folder, *, vision=None, text=None, seed=0, preprocess=None, **config):
    """Write a model with random weights to `folder`; return its name."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {
        "embed_dim": 24,
        "vision_cfg": {**VISION, **(vision or {})},
        "text_cfg": {**TEXT, **(text or {})},
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = open_clip.CustomTextCLIP if "custom" in config else open_clip.CLIP
        model_config = {k: v for k, v in config.items() if k != "custom"}
        if "multimodal_cfg" in config:
            model_class = open_clip.CoCa
        model = model_class(**model_config)
        with torch.no_grad():
            for parameter in model.parameters():
                # Biases and norms away from their trivial start, so that a path that
                # leaves one out is seen.
                parameter.add_(0.05 * torch.randn_like(parameter))
    if model_class is not open_clip.CLIP:
        model_config["custom_text"] = True
    folder.mkdir(parents=True, exist_ok=True)
    saved = {"model_cfg": model_config, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """Return a function that writes a model and returns its name."""

    def make(name="model", **kwargs):
        return write_model(tmp_path_factory.mktemp("models") / name, **kwargs)

    return make


@pytest.fixture(scope="session")
def small(make_model):
    """The name of a small vision transformer."""
    return make_model("small")


@pytest.fixture(scope="session")
def other(make_model):
    """The name of a model of the same shape with other weights."""
    return make_model("other", seed=1)


@pytest.fixture(scope="session")
def images():
    """Seven images of the size that the models take."""
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
