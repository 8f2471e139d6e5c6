"""Measure an embedded model on rendered images that it was not trained on.

``python benchmarks/evaluate_tiny.py`` measures the weights that the package ships.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from skfewshot.datasets import (
    BASE_KINDS,
    KINDS,
    NOVEL_KINDS,
    make_object_images,
    make_scenes,
)

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "skfewshot" / "clip" / "tiny"
PROMPTS = ("a photo of a {}.", "a picture of a {}.", "a {}.")
DENSE_MODES = ("last", "value", "value, no residual", "qk-self", "vv", "kk", "qq")
# Training draws its images from seeds below 100000.
SEED = 900_000


def encode_tokens(model, pixels, mode=None):
    """Return global embeddings, and the patch tokens of a dense `mode`, unit rows."""
    visual = model.visual
    hidden = visual._embeds(pixels)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        hidden = block(hidden)
    project = visual.proj
    pooled = functional.normalize(visual.ln_post(last(hidden)[:, 0]) @ project, dim=-1)
    if mode is None:
        return pooled, None
    tokens = visual.ln_post(dense_block(last, hidden, mode)[:, 1:]) @ project
    return pooled, functional.normalize(tokens, dim=-1)


def dense_block(block, hidden, mode):
    """Run the last block with another attention, so that patches stay local."""
    if mode == "last":
        return block(hidden)
    attention = block.attn
    n, length, width = hidden.shape
    joint = functional.linear(
        block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias
    )
    heads = joint.view(n, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = heads
    pairs = {"vv": [value], "kk": [key], "qq": [query], "qk-self": [query, key]}
    if mode in pairs:
        mixed = [
            functional.scaled_dot_product_attention(source, source, value)
            for source in pairs[mode]
        ]
        value = sum(mixed) / len(mixed)
    out = attention.out_proj(value.transpose(1, 2).reshape(n, length, width))
    if mode.endswith("no residual"):
        return out
    hidden = hidden + out
    return hidden + block.mlp(block.ln_2(hidden))


class Encoder:
    """A model, its preprocessing and its tokenizer, from images to arrays."""

    def __init__(self, folder):
        name = f"local-dir:{folder}"
        self.model, self.preprocess = open_clip.create_model_from_pretrained(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def images(self, images, mode=None):
        """Embed uint8 images (n, 64, 64, 3); with a `mode`, their patches."""
        parts = []
        for start in range(0, len(images), 256):
            batch = [Image.fromarray(x) for x in images[start : start + 256]]
            pixels = torch.stack([self.preprocess(image) for image in batch])
            pooled, tokens = encode_tokens(self.model, pixels, mode)
            parts.append((pooled if mode is None else tokens).numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def names(self, names):
        """Embed class names as the mean over `PROMPTS`, unit rows."""
        texts = [prompt.format(name) for name in names for prompt in PROMPTS]
        features = self.model.encode_text(self.tokenizer(texts), normalize=True)
        mean = features.view(len(names), len(PROMPTS), -1).mean(dim=1)
        return functional.normalize(mean, dim=-1).numpy()


def evaluate(folder):
    """Print every figure of docs/tiny.md."""
    encoder = Encoder(folder)
    size = sum(path.stat().st_size for path in folder.glob("open_clip*")) / 1e6
    scale = encoder.model.logit_scale.exp().item()
    print(f"weights {size:.2f} MB, logit scale {scale:.1f}")
    data = make_object_images(100, random_state=SEED)
    features = encoder.images(data.images)
    print_zero_shot(encoder, features, data.labels)
    for name, kinds in (("base", BASE_KINDS), ("novel", NOVEL_KINDS)):
        print_few_shot(encoder, features, data.labels, name, kinds)
    print_gap(encoder, features, data.labels)
    print_pointing(encoder)
    print_speed(encoder)


def print_zero_shot(encoder, features, labels):
    for title, truth, among in (
        ("base among base", BASE_KINDS, BASE_KINDS),
        ("base among all", BASE_KINDS, KINDS),
        ("novel among novel", NOVEL_KINDS, NOVEL_KINDS),
        ("novel among all", NOVEL_KINDS, KINDS),
        ("all among all", KINDS, KINDS),
    ):
        rows = np.isin(labels, truth)
        texts = encoder.names(among)
        found = np.array(among)[(features[rows] @ texts.T).argmax(axis=1)]
        accuracy = 100 * (found == labels[rows]).mean()
        chance = 100 / len(among)
        print(f"zero-shot {title:18s} {accuracy:5.1f} %  (chance {chance:.1f} %)")


def print_few_shot(encoder, features, labels, name, kinds, n_seeds=5):
    """Compare class means and logistic regression with zero-shot on the same test."""
    test = np.isin(labels, kinds)
    test_x, test_y = features[test], labels[test]
    found = np.array(kinds)[(test_x @ encoder.names(kinds).T).argmax(axis=1)]
    print(f"few-shot {name}: zero-shot {100 * (found == test_y).mean():.1f} %")
    for shots in (1, 2, 4, 8, 16):
        scores = []
        for seed in range(n_seeds):
            support, names = make_object_images(
                shots, kinds=kinds, return_X_y=True, random_state=SEED + 1 + seed
            )
            x = encoder.images(support)
            means = np.array([x[names == kind].mean(axis=0) for kind in kinds])
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            prototype = np.array(kinds)[(test_x @ means.T).argmax(axis=1)] == test_y
            with warnings.catch_warnings():
                # With one shot scikit-learn takes the names for a regression target.
                warnings.simplefilter("ignore", UserWarning)
                probe = LogisticRegression(C=10.0, max_iter=1000).fit(x, names)
            scores.append((prototype.mean(), probe.score(test_x, test_y)))
        (mean_p, mean_l), (std_p, std_l) = (
            100 * f(scores, axis=0) for f in (np.mean, np.std)
        )
        print(
            f"  {shots:2d} shots  class means {mean_p:.1f} ± {std_p:.1f} %"
            f"  logistic regression {mean_l:.1f} ± {std_l:.1f} %"
        )


def print_gap(encoder, features, labels):
    texts = encoder.names(KINDS)
    gap = np.linalg.norm(features.mean(axis=0) - texts.mean(axis=0))
    own = texts[[KINDS.index(label) for label in labels]]
    cosine = (features * own).sum(axis=1).mean()
    print(f"modality gap |mean image - mean text| {gap:.3f}")
    print(f"mean cosine of an image with its own name {cosine:.3f}")
    words = encoder.names(["zebra", "giraffe", "xylophone", "quokka"])
    unknown = (words @ words.T)[np.triu_indices(4, 1)].max()
    print(f"largest cosine between unknown words {unknown:.4f}")


def print_pointing(encoder, n_scenes=500):
    """Say how often the best patch for a name lies in the box of its object."""
    for name, kinds in (("base", BASE_KINDS), ("novel", NOVEL_KINDS)):
        scenes = make_scenes(
            n_scenes, kinds=kinds, min_objects=2, random_state=SEED + 100
        )
        texts = encoder.names(kinds)
        for mode in DENSE_MODES:
            tokens = encoder.images(scenes.images, mode)
            hits = point(tokens @ texts.T, scenes)
            print(f"pointing {name:5s} {mode:18s} {100 * hits.mean():5.1f} %")
        sides = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in scenes.boxes]
        share = np.concatenate(sides).mean() / 64**2
        print(f"pointing {name:5s} by chance about {100 * share:.1f} %")


def point(similarity, scenes):
    """Return for each object whether its best patch's centre lies in its box."""
    grid = int(similarity.shape[1] ** 0.5)
    patch = scenes.images.shape[1] / grid
    hits = []
    for row, names, boxes in zip(similarity, scenes.objects, scenes.boxes, strict=True):
        for name, (left, top, right, bottom) in zip(names, boxes, strict=True):
            best = row[:, scenes.kinds.index(name)].argmax()
            y, x = (np.array(divmod(best, grid)) + 0.5) * patch
            hits.append(left <= x < right and top <= y < bottom)
    return np.array(hits)


def print_speed(encoder, n_images=1024):
    images, _ = make_object_images(
        -(-n_images // len(KINDS)), return_X_y=True, random_state=SEED + 200
    )
    encoder.images(images[:256])
    start = time.perf_counter()
    encoder.images(images)
    rate = len(images) / (time.perf_counter() - start)
    threads = torch.get_num_threads()
    print(f"speed, pixels to embeddings, {threads} thread(s): {rate:.0f} images/s")
    with torch.inference_mode():
        pixels = torch.stack([encoder.preprocess(Image.fromarray(images[0]))] * 256)
        start = time.perf_counter()
        for _ in range(4):
            encode_tokens(encoder.model, pixels)
    rate = 1024 / (time.perf_counter() - start)
    print(f"speed, model alone, {threads} thread(s): {rate:.0f} images/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    evaluate(options.folder)


if __name__ == "__main__":
    main()
