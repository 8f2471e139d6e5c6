"""What a fit costs with the encoding of its class names, and without.

    OMP_NUM_THREADS=1 python benchmarks/encoding.py

The text tower is that of ViT-B-32 with random weights, written to a temporary folder:
time does not depend on them, and nothing is downloaded. Names are of three words, each
in the seven default templates. They are encoded by open_clip's own ``encode_text``,
which reads all 77 tokens, in batches of 64; by this package, which reads no further
than the longest prompt; from the cache on disk, as a new process would; and from
memory, as every later fit does. The rest of a fit is that of CMM on random embeddings.
Seconds are those of the processor, so that other processes do not count.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from report import machine, markdown_table
from safetensors.torch import save_file

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import DEFAULT_PROMPT_TEMPLATES, EmbeddingArray, clear_model_cache

MODEL = "ViT-B-32"
WORDS = ("small", "large", "old", "new", "red", "green", "wooden", "plain", "striped")
THINGS = ("lamp", "chair", "bridge", "violin", "kettle", "finch", "orchid", "truck")


def main():
    arguments = _parse()
    logging.disable()  # open_clip's, of random weights
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file(open_clip.create_model(MODEL).state_dict(), weights)
        clip = CLIPFeaturizer(MODEL, weights, cache=Path(folder) / "cache")
        rows = [measure(clip, n, arguments) for n in arguments.classes]
    print(machine())
    header = ["classes", "encoded by open_clip", "encoded by us", "ratio", "from disk"]
    header += ["from memory", "rest of a fit of CMM"]
    print(markdown_table(header, rows))


def measure(clip, n_classes, arguments):
    """Return a row of the table: seconds at some number of classes."""
    names = names_of(n_classes)
    X = random_rows(clip, n_classes * arguments.shots)
    y = np.repeat(names, arguments.shots)
    slow = "-"
    if n_classes <= arguments.most_slow:
        slow = seconds(lambda: by_open_clip(clip, names))
    without = seconds(lambda: CMMClassifier().fit(np.asarray(X), y))
    first = seconds(lambda: clip.encode_classes(names))
    clear_model_cache()
    clip.load()
    disk = seconds(lambda: clip.encode_classes(names))
    memory = seconds(lambda: clip.encode_classes(names))
    ratio = "-" if slow == "-" else f"{first / slow:.2f}"
    times = (first, ratio, disk, memory, without)
    return [n_classes, *(_shown(value) for value in (slow, *times))]


def by_open_clip(clip, names):
    """Encode the prompts as open_clip does, 64 at a time."""
    loaded = clip.load()
    texts = [t.replace("{}", name) for name in names for t in DEFAULT_PROMPT_TEMPLATES]
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            loaded.model.encode_text(loaded.tokenizer(texts[start : start + 64]))


def names_of(n):
    """Return different names of three words."""
    pairs = [f"{a} {b} {c}" for c in THINGS for a in WORDS for b in WORDS if a != b]
    return [f"{pairs[i % len(pairs)]}{' again' * (i // len(pairs))}" for i in range(n)]


def random_rows(clip, n):
    rows = np.random.default_rng(0).normal(size=(n, 512)).astype(np.float32)
    return EmbeddingArray(rows, clip.load().identity)


def seconds(action):
    start = time.process_time()
    action()
    return time.process_time() - start


def _shown(value):
    return value if isinstance(value, str) else f"{value:.3g}"


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument(
        "--most-slow", type=int, default=100, help="classes to encode by open_clip too"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
