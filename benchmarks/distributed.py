"""Images a second that Ray actors embed from JPEG files, against one plain process.

    OMP_NUM_THREADS=1 python benchmarks/distributed.py --images 4000

Each round times ``CLIPFeaturizer.transform`` in this process and then
``embed_dataset`` with each number of actors, all with one thread a model. An actor
starts by importing torch and loading its model; a second run over a few images takes
that time, which "started" leaves out.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import ray.data
import torch
from PIL import Image
from report import markdown_table

from skfewshot.clip import CLIPFeaturizer
from skfewshot.datasets import make_object_images
from skfewshot.distributed import embed_dataset

PLAIN = "transform, 1 process"


def main():
    options = _parse()
    torch.set_num_threads(1)
    featurizer = CLIPFeaturizer(options.model, options.pretrained)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.init(
        num_cpus=max(options.actors) + 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), options.images, options.side)
        featurizer.fit(paths[:1]).transform(paths[:64])
        seconds = measure(featurizer, paths, options, Path(folder) / "out")
    ray.shutdown()
    report(seconds, options)


def write_files(folder, n_images, side):
    """Write rendered scenes as JPEG files of `side` pixels; return their paths."""
    images = make_object_images(4, random_state=0).images
    paths = [str(folder / f"{number:06}.jpg") for number in range(n_images)]
    for number, path in enumerate(paths):
        image = Image.fromarray(np.asarray(images[number % len(images)]))
        image.resize((side, side)).save(path, quality=90)
    return paths


def measure(featurizer, paths, options, output):
    """Return the seconds of all and of a few images, by way of embedding."""
    ways = {PLAIN: lambda files: featurizer.transform(files)}
    for count in options.actors:
        ways[f"embed_dataset, actors: {count}"] = lambda files, count=count: embed(
            featurizer, files, output, count, options.batch_size
        )
    seconds = {name: [] for name in ways}
    for number in range(options.repeats):
        for name, way in ways.items():
            few = paths[: max(options.actors)]
            seconds[name].append([time_of(way, paths), time_of(way, few)])
            print(f"round {number + 1}, {name}: {seconds[name][-1]}", flush=True)
    return seconds


def time_of(way, files):
    start = time.perf_counter()
    way(files)
    return time.perf_counter() - start


def embed(featurizer, files, output, n_actors, batch_size):
    """Embed into an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    n_blocks = min(len(files), 4 * n_actors)
    dataset = ray.data.from_items(
        [{"path": path} for path in files], override_num_blocks=n_blocks
    )
    done = embed_dataset(
        dataset,
        output,
        featurizer,
        image_column="path",
        id_column="path",
        batch_size=batch_size,
        concurrency=n_actors,
    )
    assert done.n_written == len(files)


def report(seconds, options):
    """Print images a second, whole and without what it takes to start."""
    rows = []
    n_few = max(options.actors)
    medians = {}
    for name, pairs in seconds.items():
        whole, few = np.array(pairs).T
        rate = options.images / whole
        started = (options.images - n_few) / (whole - few)
        medians[name] = np.median(rate), np.median(started)
        ratios = [value / medians[PLAIN][i] for i, value in enumerate(medians[name])]
        row = [name, f"{medians[name][0]:.0f}", f"{ratios[0]:.2f}"]
        row += [f"{np.median(few):.1f}", f"{medians[name][1]:.0f}", f"{ratios[1]:.2f}"]
        rows.append(row)
    print(
        f"\n{options.model}, {options.images} JPEG files of {options.side} pixels, "
        f"medians of {options.repeats} rounds\n"
    )
    header = ["", "images/s", "ratio", "s to start", "images/s, started", "ratio"]
    print(markdown_table(header, rows))


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--pretrained", default=None)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=256, help="of the files, pixels")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
