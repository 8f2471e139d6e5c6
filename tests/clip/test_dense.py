"""Patch tokens: parity with open_clip's own, over every kind of image tower."""

import numpy as np
import open_clip
import pytest
import torch

from skfewshot.clip._dense import DENSE_MODES, embed_tokens

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 32, "head_width": 16}
DECODER = {
    "context_length": 8,
    "vocab_size": 64,
    "width": 16,
    "heads": 2,
    "layers": 1,
    "attn_pooler_heads": 2,
}

TOWERS = {
    "vit": {},
    "one layer": {"layers": 1},
    "no ln_pre": {"no_ln_pre": True},
    "patch dropout": {"patch_dropout": 0.5},
    "layer scale": {"ls_init_value": 0.5},
    "average": {"pool_type": "avg"},
    "average, norm after": {"pool_type": "avg", "final_ln_after_pool": True},
    "sine": {"pos_embed_type": "sin_cos_2d"},
    "oblong": {"image_size": [32, 48]},
    "query and key norm": {"qk_norm": True},
    "all norms": {
        "scale_heads": True,
        "scale_attn_inner": True,
        "scale_attn": True,
        "scale_fc": True,
        "block_type": "custom",
    },
    "pooled by attention": {
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": False,
    },
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64},
}


def build(vision=None, model_class=open_clip.CLIP, **config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(
            embed_dim=24, vision_cfg={**VIT, **(vision or {})}, text_cfg=TEXT, **config
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def coca():
    vision = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {"embed_cls": True, "output_tokens": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CoCa(
            embed_dim=24,
            vision_cfg={**VIT, **vision},
            text_cfg={**TEXT, **text},
            multimodal_cfg=DECODER,
        )
    return model.eval().requires_grad_(False)


def images_for(model, n=2):
    size = model.visual.image_size
    size = (size, size) if isinstance(size, int) else size
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", DENSE_MODES)
@pytest.mark.parametrize("tower", TOWERS)
def test_shape_and_global_row(tower, mode):
    model = build(TOWERS[tower])
    images = images_for(model)
    with torch.inference_mode():
        tokens = embed_tokens(model, images, mode)
        pooled = model.encode_image(images)
    height, width = images.shape[2:]
    step = 32 if tower == "resnet" else 8
    assert tokens.shape == (2, 1 + (height // step) * (width // step), 24)
    assert torch.isfinite(tokens).all()
    torch.testing.assert_close(tokens[:, 0], pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tower", sorted({*TOWERS} - {"pooled by attention", "resnet"}))
def test_plain_mode_is_open_clips_own_last_layer(tower):
    model = build(TOWERS[tower])
    images = images_for(model)
    visual = model.visual
    with torch.inference_mode():
        tokens = embed_tokens(model, images, "plain")[:, 1:]
        x = visual.transformer(visual._embeds(images))
        expected = visual.ln_post(x[:, 1:]) @ visual.proj
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)


def test_resnet_plain_is_attention_pooling_of_each_position():
    model = build(TOWERS["resnet"])
    pool = model.visual.attnpool
    images = images_for(model)
    with torch.inference_mode():
        tokens = embed_tokens(model, images, "plain")
        x = model.visual.stem(images)
        for i in range(1, 5):
            x = getattr(model.visual, f"layer{i}")(x)
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + pool.positional_embedding[:, None]
        attention = torch.nn.MultiheadAttention(x.shape[-1], pool.num_heads)
        parts = (pool.q_proj, pool.k_proj, pool.v_proj)
        attention.in_proj_weight.data = torch.cat([part.weight for part in parts])
        attention.in_proj_bias.data = torch.cat([part.bias for part in parts])
        attention.out_proj = torch.nn.Identity()
        attention.out_proj.weight = torch.eye(x.shape[-1])
        attention.out_proj.bias = torch.zeros(x.shape[-1])
        expected = pool.c_proj(attention(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(
        tokens[:, 1:], expected[1:].transpose(0, 1), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("mode", ["value", "self-self"])
@pytest.mark.parametrize("tower", ["vit", "layer scale", "all norms"])
def test_residual_modes_differ_from_the_block_in_attention_only(tower, mode):
    model = build(TOWERS[tower])
    block = model.visual.transformer.resblocks[-1]
    weight = block.attn.in_proj_weight
    width = weight.shape[1]
    with torch.no_grad():  # no query and key: every kind of attention is a mean
        weight[: 2 * width] = 0
        block.attn.in_proj_bias[: 2 * width] = 0
    images = images_for(model)
    with torch.inference_mode():
        tokens = embed_tokens(model, images, mode)
        plain = embed_tokens(model, images, "plain")
    if mode == "value":
        assert not torch.allclose(tokens, plain, atol=1e-3)
    with torch.no_grad():  # and the same value everywhere: all modes agree
        weight[2 * width :] = 0
    with torch.inference_mode():
        tokens = embed_tokens(model, images, mode)
        plain = embed_tokens(model, images, "plain")
    torch.testing.assert_close(tokens, plain, atol=1e-5, rtol=1e-4)


def test_value_mode_depends_on_the_patch_alone():
    """The value path of the last block mixes no patches."""
    model = build({"layers": 1})
    images = images_for(model)
    changed = images.clone()
    changed[:, :, :8, :8] += 1
    with torch.inference_mode():
        for mode, local in (("value", True), ("self-self", False), ("plain", False)):
            before = embed_tokens(model, images, mode)[:, 2:]
            after = embed_tokens(model, changed, mode)[:, 2:]
            assert torch.equal(before, after) == local, mode


def test_coca():
    model = coca()
    images = images_for(model)
    with torch.inference_mode():
        pooled = model.encode_image(images, normalize=False)
        for mode in DENSE_MODES:
            tokens = embed_tokens(model, images, mode)
            assert tokens.shape == (2, 17, 24)
            torch.testing.assert_close(tokens[:, 0], pooled, atol=1e-5, rtol=1e-5)


def test_pooler_values_are_what_attention_pooling_averages():
    """Where all tokens are alike, pooling them is the value path of any of them."""
    model = build(TOWERS["pooled by attention"])
    visual = model.visual
    from skfewshot.clip._dense import _pooler_values

    with torch.inference_mode():
        alike = torch.randn(1, 1, 32).expand(1, 5, 32)
        pooled = visual.attn_pool(alike)[:, 0]
        values = _pooler_values(visual.attn_pool, alike)[:, 0]
    torch.testing.assert_close(pooled, values, atol=1e-5, rtol=1e-4)


class FakeTimm(torch.nn.Module):
    """open_clip's adapter around a timm trunk, without its factory."""

    def __init__(self, trunk, head=None):
        super().__init__()
        self.trunk = trunk
        self.head = head or torch.nn.Sequential()
        self.image_size = (32, 32)


def timm_model(**kwargs):
    timm_vit = pytest.importorskip("timm.models.vision_transformer")
    from open_clip.timm_model import TimmModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = timm_vit.VisionTransformer(
            img_size=32,
            patch_size=8,
            embed_dim=24,
            depth=3,
            num_heads=2,
            num_classes=0,
            **kwargs,
        )
        visual = TimmModel.__new__(TimmModel)
        torch.nn.Module.__init__(visual)
        visual.trunk, visual.head = trunk, torch.nn.Sequential()
        visual.image_size = (32, 32)
        model = torch.nn.Module()
        model.visual = visual
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


TRUNKS = {
    "siglip": {"global_pool": "map", "class_token": False},
    "token": {"global_pool": "token"},
    "average": {"global_pool": "avg"},
    "registers": {"global_pool": "token", "reg_tokens": 3},
    "query and key norm": {"global_pool": "map", "class_token": False, "qk_norm": True},
    "layer scale": {"global_pool": "token", "init_values": 0.5},
}


@pytest.mark.parametrize("mode", DENSE_MODES)
@pytest.mark.parametrize("name", TRUNKS)
def test_timm(name, mode):
    model = timm_model(**TRUNKS[name])
    images = images_for(model)
    with torch.inference_mode():
        tokens = embed_tokens(model, images, mode)
        pooled = model.visual(images)
    assert tokens.shape == (2, 17, 24)
    torch.testing.assert_close(tokens[:, 0], pooled, atol=1e-5, rtol=1e-5)


def test_timm_plain_is_timms_own_last_layer():
    model = timm_model(global_pool="token", reg_tokens=2)
    images = images_for(model)
    with torch.inference_mode():
        tokens = embed_tokens(model, images, "plain")[:, 1:]
        expected = model.visual.trunk.forward_features(images)[:, 3:]
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)


def test_latent_pool_values_are_what_siglip_averages():
    from skfewshot.clip._dense import _latent_pool_values

    pool = timm_model(**TRUNKS["siglip"]).visual.trunk.attn_pool
    with torch.inference_mode():
        alike = torch.randn(1, 1, 24).expand(1, 5, 24)
        values = _latent_pool_values(pool, alike)[:, 0]
        torch.testing.assert_close(pool(alike), values, atol=1e-5, rtol=1e-4)


def test_unsupported_towers_are_named():
    model = torch.nn.Module()
    model.visual = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="image tower Linear; supported"):
        embed_tokens(model, None, "value")
    model.visual = FakeTimm(torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="FakeTimm around Conv2d"):
        embed_tokens(model, None, "value")


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"attentional_pool": "cascade", "attn_pooler_heads": 2}, "'cascade'"),
        ({"scaled_cosine_attn": True}, "scaled cosine"),
    ],
)
def test_unsupported_options_are_named(vision, message):
    model = build(vision)
    with pytest.raises(ValueError, match=message):
        embed_tokens(model, images_for(model), "value")


def test_built_in_architectures_are_all_known_or_named():
    """Every config of open_clip is one of the kinds that the tests above cover."""
    for name in open_clip.list_models():
        vision = open_clip.get_model_config(name)["vision_cfg"]
        if "timm_model_name" in vision:
            continue
        assert vision.get("scaled_cosine_attn", False) is False, name
        assert vision.get("attentional_pool", False) in (True, False), name


def test_model_is_left_as_it_was():
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with torch.inference_mode():
        embed_tokens(model, images_for(model), "self-self")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_half_precision_follows_the_weights():
    model = build().to(torch.bfloat16)
    images = images_for(model).to(torch.bfloat16)
    with torch.inference_mode():
        for mode in DENSE_MODES:
            assert embed_tokens(model, images, mode).dtype == torch.bfloat16
    assert np.isfinite(model.logit_scale.float().item())
