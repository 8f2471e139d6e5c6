"""Measure how many images a second are embedded, from memory and from files.

Run ``python benchmarks/throughput.py``. ``--threads`` sets the threads of torch.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from skfewshot.clip import CLIPFeaturizer


def rate(featurizer, X, repeats):
    """Return the images a second of the best of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        featurizer.transform(X)
        seconds.append(time.perf_counter() - start)
    return len(X) / min(seconds)


def write_files(folder, images, side, ending):
    """Write the images, enlarged to `side` pixels, and return their paths."""
    paths = [Path(folder) / f"{number}{ending}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).resize((side, side)).save(path)
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--pretrained", default=None)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    featurizer = CLIPFeaturizer(options.model, options.pretrained)
    start = time.perf_counter()
    clip = featurizer.load()
    seconds = time.perf_counter() - start
    print(
        f"{options.model} on {clip.device}, {clip.dtype}, "
        f"{torch.get_num_threads()} threads; loaded in {seconds:.1f} s"
    )
    shape = (options.images, *clip.input_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for output in ("embedding", "tokens"):
        featurizer.set_params(output=output)
        found = rate(featurizer, images, options.repeats)
        print(f"uint8 array, {output:19s} {found:6.0f} images/s")
    featurizer.set_params(output="embedding")
    found = rate(featurizer, [Image.fromarray(i) for i in images], options.repeats)
    print(f"PIL images                       {found:6.0f} images/s")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(folder, images, 256, ".jpg")
        for num_workers in (0, 1, 2, 4):
            featurizer.set_params(num_workers=num_workers)
            found = rate(featurizer, paths, options.repeats)
            print(f"256 px JPEG files, num_workers={num_workers} {found:6.0f} images/s")
    texts = [f"a photo of number {number}." for number in range(options.images)]
    start = time.perf_counter()
    featurizer.encode_text(texts)
    print(f"texts {len(texts) / (time.perf_counter() - start):.0f} texts/s")


if __name__ == "__main__":
    main()
