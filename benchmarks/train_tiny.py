"""Train, measure and write the embedded model "tiny", a small CLIP of rendered scenes.

``python benchmarks/train_tiny.py`` trains on one core and writes the weights;
``--evaluate-only`` measures the weights that are there, as evaluate_tiny.py does.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from evaluate_tiny import DEFAULT_FOLDER, evaluate
from safetensors.torch import save_file
from tiny_data import (
    GRID,
    KIND_ID,
    add_article,
    apply_template,
    render_set,
    write_caption,
)
from tiny_text import (
    TOKEN_SCALE,
    encode_texts,
    soft_cross_entropy,
    to_pixels,
    tune_text,
)
from torch.nn import functional

from skfewshot.datasets import BASE_KINDS, SHAPES, SURFACES

# Which words make up each base kind.
IS_SHAPE, IS_SURFACE = (
    torch.tensor([[word in kind.split() for word in words] for kind in BASE_KINDS])
    for words in (SHAPES, SURFACES)
)
IS_SHAPE, IS_SURFACE = IS_SHAPE.float(), IS_SURFACE.float()


# --- model ------------------------------------------------------------------------


def build_model(config, seed):
    """Initialise the CLIP of `config`, with token rows that compress well."""
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(**config["model_cfg"])
    # Most of the 49408 token rows are never trained. Random signs of one magnitude
    # keep unknown words apart from each other, and pack to an eighth in the wheel.
    with torch.no_grad():
        model.token_embedding.weight.sign_().mul_(TOKEN_SCALE)
        start_local(model.visual)
    return model


def start_local(visual):
    """Start the image tower so that patches look at near and similar patches.

    Places are waves instead of noise, and keys start equal to queries. Without this
    a small transformer spends most of a short training on learning what is near.
    """
    width = visual.positional_embedding.shape[1]
    rate = 0.5 * math.pi / GRID * 8 ** (torch.arange(width // 4) / (width // 4 - 1))
    phase = torch.arange(GRID)[:, None] * rate
    wave = 0.5 * torch.cat([phase.sin(), phase.cos()], dim=1)
    rows = wave[:, None].expand(GRID, GRID, -1)
    places = torch.cat([rows, rows.transpose(0, 1)], dim=2).flatten(0, 1)
    visual.positional_embedding[1:] = places
    for block in visual.transformer.resblocks:
        weight = block.attn.in_proj_weight
        weight[width : 2 * width] = weight[:width]


def encode_images(visual, pixels, mode):
    """Return global embeddings and patch tokens, unit rows, in one pass.

    In the last block the class token attends as usual, while the patches take their
    own values (mode "value") or attend value to value ("vv"): the dense modes that
    the library reads patches with.
    """
    hidden = visual._embeds(pixels)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        hidden = finish_block(block, hidden, attend(*project_heads(block, hidden)))
    query, key, value = project_heads(last, hidden)
    mixed = attend(value, value, value) if mode == "vv" else value
    mixed = torch.cat([attend(query[:, :, :1], key, value), mixed[:, :, 1:]], dim=2)
    hidden = visual.ln_post(finish_block(last, hidden, mixed)) @ visual.proj
    hidden = functional.normalize(hidden.float(), dim=-1)
    return hidden[:, 0], hidden[:, 1:]


def project_heads(block, hidden):
    """Return queries, keys and values, float32 (n, heads, tokens, head width)."""
    attention = block.attn
    joint = functional.linear(
        block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias
    )
    shape = *hidden.shape[:2], 3, attention.num_heads, -1
    return joint.float().view(shape).permute(2, 0, 3, 1, 4)


def attend(query, key, value):
    # The backward pass of torch's bfloat16 attention on CPU is several times slower.
    with torch.autocast("cpu", enabled=False):
        return functional.scaled_dot_product_attention(query, key, value)


def finish_block(block, hidden, mixed):
    hidden = hidden + block.attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + block.mlp(block.ln_2(hidden))


# --- training ---------------------------------------------------------------------


def batch_loss(model, heads, tokenizer, data, rows, rng, config):
    """Contrastive loss on captions, names and patches of one batch."""
    images, coverage = data["images"][rows], data["coverage"][rows]
    if rng.random() < 0.5:
        images = images[:, :, ::-1]
        shape = coverage.shape
        coverage = coverage.reshape(*shape[:2], GRID, GRID)[..., ::-1].reshape(shape)
    written = [
        write_caption(
            rng, *(data[key][row] for key in ("objects", "colors", "grounds"))
        )
        for row in rows
    ]
    names = [apply_template(rng, add_article(rng, kind)) for kind in BASE_KINDS]
    texts = encode_texts(model, tokenizer([text for text, _ in written] + names))
    captions, classes = texts[: len(rows)], texts[len(rows) :]
    mode = "vv" if rng.random() < 0.5 else "value"
    # bfloat16 more than doubles the speed on recent processors.
    with torch.autocast("cpu", torch.bfloat16):
        pooled, patches = encode_images(model.visual, to_pixels(images, config), mode)
    scale = model.logit_scale.exp()
    facts = torch.from_numpy(data["facts"][rows])
    stated = torch.zeros_like(facts)
    for row, (_, positions) in zip(stated, written, strict=True):
        row[positions] = 1
    # A caption that holds for another image of the batch is no negative of it.
    fits = (facts @ stated.T >= stated.sum(dim=1)).float()
    logits = scale * pooled @ captions.T
    contrast = soft_cross_entropy(logits, fits) + soft_cross_entropy(logits.T, fits.T)
    present = facts[:, : len(BASE_KINDS)]
    naming = soft_cross_entropy(scale * pooled @ classes.T, present)
    parts = soft_cross_entropy(heads(10 * pooled)[:, : len(SHAPES)], present @ IS_SHAPE)
    parts += soft_cross_entropy(
        heads(10 * pooled)[:, len(SHAPES) :], present @ IS_SURFACE
    )
    local = patch_loss(patches, classes, heads, coverage, data["objects"], rows, scale)
    loss = 0.5 * contrast + naming + 0.5 * parts + 0.5 * local
    return loss, (contrast, naming, parts, local)


def patch_loss(patches, classes, heads, coverage, objects, rows, scale):
    """Patches of an object should match its name, best among names and patches."""
    where = [
        (index, slot, KIND_ID[kind])
        for index, row in enumerate(rows)
        for slot, kind in enumerate(objects[row])
    ]
    image, slot, kind = torch.tensor(where).T
    shares = torch.from_numpy(coverage.astype(np.float32))[image, slot]
    similarity = scale * patches @ classes.T
    per_object = similarity[image, :, kind]
    pointing = soft_cross_entropy(per_object, shares)
    inside = shares > 0.4
    log_names = functional.log_softmax(similarity, dim=-1)[image, :, kind]
    parts = heads(10 * patches)[image][inside]
    owner = kind[:, None].expand_as(inside)[inside]
    return (
        pointing
        - log_names[inside].mean()
        + soft_cross_entropy(parts[:, : len(SHAPES)], IS_SHAPE[owner])
        + soft_cross_entropy(parts[:, len(SHAPES) :], IS_SURFACE[owner])
    )


def train(config, options):
    """Train from scratch and return the model."""
    rng = np.random.default_rng(options.seed)
    start = time.perf_counter()
    data = render_set(options.n_images, options.n_images, 1000 + 10 * options.seed)
    n_images = len(data["images"])
    print(f"rendered {n_images} images in {time.perf_counter() - start:.0f} s")
    model = build_model(config, options.seed)
    # Heads for the words of a kind help the image tower alone, and are thrown away.
    heads = torch.nn.Linear(model.visual.output_dim, len(SHAPES) + len(SURFACES))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{options.out}")
    optimisers = build_optimisers(model, heads)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate(step, options)
        )
        for optimiser in optimisers
    ]
    model.train()
    start, order = time.perf_counter(), np.empty(0, dtype=int)
    for step in range(1, options.steps + 1):
        if len(order) < options.batch_size:
            order = rng.permutation(n_images)
        rows, order = order[: options.batch_size], order[options.batch_size :]
        loss, parts = batch_loss(model, heads, tokenizer, data, rows, rng, config)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 100 == 0:
            values = " ".join(f"{part.item():.3f}" for part in parts)
            seconds = time.perf_counter() - start
            print(f"step {step:5d}  {values}  {seconds:.0f} s", flush=True)
        if step % 500 == 0:
            save(model, options.out)
    return model


def build_optimisers(model, heads):
    """Muon for the matrices of the two transformers, AdamW for everything else."""
    towers = [model.visual.transformer, model.transformer]
    matrices = [p for tower in towers for p in tower.parameters() if p.ndim == 2]
    in_muon = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in in_muon]
    # Weight decay on token rows would erase the words that training never meets.
    return [
        torch.optim.Muon(
            matrices, lr=1.0, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [*others, *heads.parameters()], lr=1.0, betas=(0.9, 0.98), weight_decay=0.0
        ),
    ]


def learning_rate(step, options):
    """Linear warm-up over 100 steps, then half a cosine down to a hundredth."""
    progress = min(1.0, step / options.steps)
    decay = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
    return options.learning_rate * min(1.0, (step + 1) / 100) * decay


def save(model, folder):
    """Write half-precision weights beside the configuration, all or nothing."""
    state = {
        name: value.detach().half().contiguous()
        for name, value in model.state_dict().items()
        if name != "attn_mask"
    }
    target = folder / "open_clip_model.safetensors"
    draft = target.with_suffix(".tmp")
    save_file(state, draft, metadata={"format": "pt"})
    draft.chmod(0o644)
    os.replace(draft, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--n-images", type=int, default=20_000, help="of each sort")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n-captioned", type=int, default=250)
    parser.add_argument("--text-steps", type=int, default=200)
    parser.add_argument(
        "--text-only", action="store_true", help="keep the image tower that is there"
    )
    parser.add_argument("--evaluate-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    text = (DEFAULT_FOLDER / "open_clip_config.json").read_text()
    if options.out.resolve() != DEFAULT_FOLDER:
        (options.out / "open_clip_config.json").write_text(text)
    if not (options.text_only or options.evaluate_only):
        save(train(json.loads(text), options), options.out)
    if not options.evaluate_only:
        model = tune_text(
            options.out, options.n_captioned, options.text_steps, options.seed
        )
        save(model, options.out)
    evaluate(options.out)


if __name__ == "__main__":
    main()
