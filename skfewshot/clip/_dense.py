"""Patch tokens in the joint space of images and texts, for every kind of image tower.

A CLIP image tower is trained on its pooled output alone, and its last layer is free to
use the patch tokens as scratch space: their similarity to text can even be inverted.
What the pooling mixes are values. So the last attention is redone here such that a
token keeps to itself or to tokens like it, and then goes the way of the pooled
embedding: norm and projection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Parts = dict[str, Callable[..., Any]]

#: How to make patch tokens, see :class:`~skfewshot.clip.CLIPFeaturizer`.
DENSE_MODES = (
    "value",
    "self-self",
    "value-no-residual",
    "self-self-no-residual",
    "plain",
)


def embed_tokens(model: Any, images: Tensor, dense_mode: str) -> Tensor:
    """Embed images and their patches.

    Parameters
    ----------
    model : torch.nn.Module
        An open_clip model; only its submodules are called, nothing is changed.
    images : tensor of shape (n, 3, H, W)
        Preprocessed.
    dense_mode : str
        One of `DENSE_MODES`.

    Returns
    -------
    tensor of shape (n, 1 + K, d)
        Row 0 the global embedding, then the patches in reading order; not normalised.

    Raises
    ------
    ValueError
        If the kind of image tower is not supported.
    """
    import torch

    visual = model.visual
    kind = type(visual).__name__
    if kind == "VisionTransformer":
        pooled, tokens = _vision_transformer(visual, images, dense_mode)
    elif kind == "ModifiedResNet":
        pooled, tokens = _resnet(visual, images, dense_mode)
    elif kind == "TimmModel" and _is_plain_timm_vit(visual.trunk):
        pooled, tokens = _timm_vit(visual, images, dense_mode)
    else:
        trunk = getattr(visual, "trunk", None)
        if trunk is not None:
            kind = f"{kind} around {type(trunk).__name__}"
        raise ValueError(
            f"output='tokens' is not available for the image tower {kind}; supported "
            "are open_clip's VisionTransformer (also of CoCa) and ModifiedResNet, and "
            "timm's VisionTransformer (SigLIP). output='embedding' works."
        )
    return torch.cat([pooled[:, None], tokens], dim=1)


# open_clip's own vision transformers


def _vision_transformer(
    visual: Any, images: Tensor, dense_mode: str
) -> tuple[Tensor, Tensor]:
    blocks = visual.transformer.resblocks
    if getattr(visual, "attn_pool_type", ""):
        raise ValueError(
            "output='tokens' is not available for an image tower with "
            f"{visual.attn_pool_type!r} attention pooling; output='embedding' works."
        )
    block = blocks[-1]
    is_custom = hasattr(block.attn, "ln_q")
    parts = _custom_parts(block) if is_custom else _standard_parts(block)
    before, pooled = _before_last_block(visual, images, len(blocks))
    tokens = _last_block(block, parts, before, dense_mode)[:, 1:]
    if visual.attn_pool is not None:
        tokens = _pooler_values(visual.attn_pool, tokens)
    tokens = visual.ln_post(tokens)
    if visual.proj is not None:
        tokens = tokens @ visual.proj
    return pooled, tokens


def _before_last_block(
    visual: Any, images: Tensor, n_blocks: int
) -> tuple[Tensor, Tensor]:
    """Return the input of the last block and the global embedding."""
    import torch

    if n_blocks == 1:
        return visual._embeds(images), visual.forward_intermediates(images)[
            "image_features"
        ]
    found = visual.forward_intermediates(
        images, indices=[n_blocks - 2], output_fmt="NLC", output_extra_tokens=True
    )
    prefix = found["image_intermediates_prefix"][0]
    patches = found["image_intermediates"][0]
    return torch.cat([prefix, patches], dim=1), found["image_features"]


def _standard_parts(block: Any) -> Parts:
    """Name the parts of open_clip's standard block."""
    attention = block.attn

    def project(x: Tensor) -> Any:
        from torch.nn.functional import linear

        qkv = linear(x, attention.in_proj_weight, attention.in_proj_bias)
        return [_heads(part, attention.num_heads) for part in qkv.chunk(3, dim=-1)]

    return {
        "norm": block.ln_1,
        "project": project,
        "merge": lambda x: attention.out_proj(_unheads(x)),
        "scale": block.ls_1,
        "mlp": lambda x: block.ls_2(block.mlp(block.ln_2(x))),
    }


def _custom_parts(block: Any) -> Parts:
    """Name the parts of open_clip's custom block, with its optional extra norms."""
    attention = block.attn
    if attention.logit_scale is not None:
        raise ValueError(
            "output='tokens' is not available for an image tower with scaled cosine "
            "attention; output='embedding' works."
        )

    def project(x: Tensor) -> Any:
        from torch.nn.functional import linear

        qkv = linear(x, attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = (_heads(part, attention.num_heads) for part in qkv.chunk(3, dim=-1))
        return attention.ln_q(q), attention.ln_k(k), v

    def merge(x: Tensor) -> Tensor:
        if attention.head_scale is not None:
            x = x * attention.head_scale
        return block.ln_attn(attention.out_proj(attention.ln_inner(_unheads(x))))

    return {
        "norm": block.ln_1,
        "project": project,
        "merge": merge,
        "scale": block.ls_1,
        "mlp": lambda x: block.ls_2(block.mlp(block.ln_2(x))),
    }


def _last_block(block: Any, parts: Parts, x: Tensor, dense_mode: str) -> Tensor:
    """Run the last block with the attention that `dense_mode` asks for."""
    if dense_mode == "plain":
        return block(x)
    q, k, v = parts["project"](parts["norm"](x))
    attended = parts["scale"](parts["merge"](_attend(q, k, v, dense_mode)))
    if dense_mode.endswith("-no-residual"):
        return attended
    x = x + attended
    return x + parts["mlp"](x)


def _attend(q: Tensor, k: Tensor, v: Tensor, dense_mode: str) -> Tensor:
    """Let each token attend to itself, to its likes, or as it was trained to."""
    from torch.nn.functional import scaled_dot_product_attention as attend

    if dense_mode.startswith("value"):
        return v
    if dense_mode.startswith("self-self"):
        return (attend(q, q, v) + attend(k, k, v) + attend(v, v, v)) / 3
    return attend(q, k, v)


def _heads(x: Tensor, n_heads: int) -> Tensor:
    """Split (n, L, width) into (n, heads, L, width / heads)."""
    return x.reshape(*x.shape[:2], n_heads, -1).transpose(1, 2)


def _unheads(x: Tensor) -> Tensor:
    """Undo `_heads`."""
    return x.transpose(1, 2).flatten(2)


def _pooler_values(pooler: Any, tokens: Tensor) -> Tensor:
    """Run each token alone through CoCa's attention pooling: its value path."""
    from torch.nn.functional import linear

    attention = pooler.attn
    weight = attention.v_proj_weight
    if weight is None:
        weight = attention.in_proj_weight.chunk(3)[2]
    bias = attention.in_proj_bias
    bias = None if bias is None else bias.chunk(3)[2]
    return attention.out_proj(linear(pooler.ln_k(tokens), weight, bias))


# CLIP's ResNets


def _resnet(visual: Any, images: Tensor, dense_mode: str) -> tuple[Tensor, Tensor]:
    """Run the attention pooling for every position in place of their mean alone."""
    found = visual.forward_intermediates(images, indices=[4])
    pool = visual.attnpool
    x = found["image_intermediates"][0].flatten(2).transpose(1, 2)
    import torch

    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
    x = x + pool.positional_embedding.to(x.dtype)
    projections = (pool.q_proj, pool.k_proj, pool.v_proj)
    q, k, v = (_heads(project(x), pool.num_heads) for project in projections)
    tokens = pool.c_proj(_unheads(_attend(q, k, v, dense_mode)))
    return found["image_features"], tokens[:, 1:]


# Vision transformers of timm, among them SigLIP's


def _is_plain_timm_vit(trunk: Any) -> bool:
    """Say whether the trunk is timm's VisionTransformer with its standard blocks."""
    if type(trunk).__name__ != "VisionTransformer":
        return False
    block = trunk.blocks[-1]
    is_standard = (type(block).__name__, type(block.attn).__name__) == (
        "Block",
        "Attention",
    )
    return is_standard and len(trunk.blocks) > 1


def _timm_vit(visual: Any, images: Tensor, dense_mode: str) -> tuple[Tensor, Tensor]:
    import torch

    trunk = visual.trunk
    found = visual.forward_intermediates(
        images,
        indices=[len(trunk.blocks) - 2],
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    patches = found["image_intermediates"][0]
    n_prefix = trunk.num_prefix_tokens
    if n_prefix:
        prefix = found["image_intermediates_prefix"][0]
        patches = torch.cat([prefix, patches], dim=1)
    block = trunk.blocks[-1]
    tokens = _last_block(block, _timm_parts(block), patches, dense_mode)
    tokens = trunk.norm(tokens)[:, n_prefix:]
    if trunk.attn_pool is not None:
        tokens = _latent_pool_values(trunk.attn_pool, tokens)
    return found["image_features"], visual.head(trunk.head(trunk.fc_norm(tokens)))


def _timm_parts(block: Any) -> Parts:
    """Name the parts of timm's standard block."""
    attention = block.attn
    if getattr(attention, "gate", None) is not None:
        raise ValueError(
            "output='tokens' is not available for an image tower with gated "
            "attention; output='embedding' works."
        )

    def project(x: Tensor) -> Any:
        qkv = attention.qkv(x).chunk(3, dim=-1)
        q, k, v = (_heads(part, attention.num_heads) for part in qkv)
        return attention.q_norm(q), attention.k_norm(k), v

    def merge(x: Tensor) -> Tensor:
        return attention.proj(getattr(attention, "norm", _same)(_unheads(x)))

    return {
        "norm": block.norm1,
        "project": project,
        "merge": merge,
        "scale": block.ls1,
        "mlp": lambda x: block.ls2(block.mlp(block.norm2(x))),
    }


def _latent_pool_values(pool: Any, tokens: Tensor) -> Tensor:
    """Run each token alone through SigLIP's attention pooling: its value path."""
    if pool.pos_embed is not None:
        tokens = tokens + pool.pos_embed.to(tokens.dtype)
    tokens = pool.proj(pool.kv(tokens).chunk(2, dim=-1)[1])
    return tokens if pool.mlp is None else tokens + pool.mlp(pool.norm(tokens))


def _same(x: Tensor) -> Tensor:
    return x
