"""The second stage: a text tower for a locked image tower, from few captions."""

import json
import math

import numpy as np
import open_clip
import torch
from evaluate_tiny import encode_tokens
from tiny_data import N_FACTS, render_set, state_facts, write_caption
from torch.nn import functional

from skfewshot.datasets import NOVEL_KINDS

TOKEN_SCALE = 0.02
TAIL_SHAPES = {kind.split()[1] for kind in NOVEL_KINDS}
TAIL_WEIGHT = 0.025


def soft_cross_entropy(logits, targets):
    """Cross-entropy against rows of weights that are first scaled to sum to one."""
    targets = targets / targets.sum(dim=-1, keepdim=True)
    return -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def encode_texts(model, tokens):
    """As ``model.encode_text``, without the columns in which every text is padding."""
    length = int(tokens.argmax(dim=1).max()) + 1
    tokens = tokens[:, :length]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    last = model.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(dim=1)]
    return functional.normalize(last @ model.text_projection, dim=-1)


def to_pixels(images, config):
    """Normalise a uint8 array (n, 64, 64, 3) as the preprocessing does."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    mean = torch.tensor(config["preprocess_cfg"]["mean"]).view(3, 1, 1)
    std = torch.tensor(config["preprocess_cfg"]["std"]).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def tune_text(folder, n_captioned, n_steps, seed):
    """Give the locked image tower in `folder` a text tower; return the model.

    The image tower has met every base kind thousands of times, with its name. A text
    tower from the same training names new kinds as well as any few-shot learner can,
    which is not how large models meet a new task. So this one starts afresh and
    learns from `n_captioned` images alone.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 1)
    config = json.loads((folder / "open_clip_config.json").read_text())
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name).eval()
    tokenizer = open_clip.get_tokenizer(name)
    renew_text(model, config)
    features, facts, described = caption_items(model, config, rng, n_captioned, seed)
    text = [p for n, p in model.named_parameters() if not n.startswith("visual.")]
    optimiser = torch.optim.AdamW(text, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(n_steps):
        rows = rng.choice(len(features), min(256, len(features)), replace=False)
        written = [write_caption(rng, *described[row]) for row in rows]
        texts = encode_texts(model, tokenizer([caption for caption, _ in written]))
        stated = torch.zeros(len(rows), N_FACTS)
        for row, (_, positions) in zip(stated, written, strict=True):
            row[positions] = 1
        fits = (facts[rows] @ stated.T >= stated.sum(dim=1)).float()
        logits = model.logit_scale.exp() * features[rows] @ texts.T
        loss = soft_cross_entropy(logits, fits) + soft_cross_entropy(logits.T, fits.T)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 100 == 99:
            print(f"text step {step + 1:5d}  {loss.item():.3f}", flush=True)
    return model


@torch.no_grad()
def renew_text(model, config):
    """Start the text tower afresh."""
    fresh = open_clip.model.CLIP(**config["model_cfg"])
    state = fresh.state_dict()
    state["token_embedding.weight"].sign_().mul_(TOKEN_SCALE)
    model.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith("visual.")}, strict=False
    )


def caption_weight(kind):
    """Captions are long-tailed, as on the web: some shapes are seldom named."""
    return TAIL_WEIGHT if kind.split()[1] in TAIL_SHAPES else 1.0


@torch.no_grad()
def caption_items(model, config, rng, n_captioned, seed):
    """Embed whole images and single objects; return features, facts, contents."""
    data = render_set(1500, 1500, 5000 + 10 * seed)
    weight = np.array([min(map(caption_weight, kinds)) for kinds in data["objects"]])
    rows = rng.choice(len(weight), n_captioned, replace=False, p=weight / weight.sum())
    features, described = [], []
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        pixels = to_pixels(data["images"][part], config)
        pooled, patches = encode_tokens(model, pixels, "value")
        shares = torch.from_numpy(data["coverage"][part].astype(np.float32))
        regions = functional.normalize(shares @ patches, dim=-1)
        for index, row in enumerate(part):
            kinds, colors = data["objects"][row], data["colors"][row]
            ground = data["grounds"][row]
            features += [pooled[index], *regions[index, : len(kinds)]]
            described.append((kinds, colors, ground))
            described += [
                ([kind], [color], ground)
                for kind, color in zip(kinds, colors, strict=True)
            ]
    facts = torch.zeros(len(described), N_FACTS)
    for row, content in zip(facts, described, strict=True):
        row[state_facts(*content)] = 1
    return torch.stack(features), facts, described
