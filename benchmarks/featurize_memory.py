"""Peak memory of embedding many images, for ``featurize.py --memory``.

Each case runs in a fresh process, on the embedded model: what its memory depends on is
how images stream, not which model they stream to. Counted is anonymous memory (RssAnon
of /proc/self/status, Linux only): what the process itself has taken. Pages of a memory
map belong to its file, the kernel writes them back and drops them when it likes, so
they do not count; the kernel's own peak of all resident pages stands beside it.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from report import markdown_table

WARM_UP = 512
SECONDS_BETWEEN_SAMPLES = 0.01
N_FILES, FILE_SIZE = 256, (160, 120)


def measure_memory(arguments, results):
    """Store the memory of each case and number of images, in place of earlier ones."""
    results.remove(lambda run: run["kind"] == "memory")
    for case in CASES:
        for number in arguments.memory_images:
            command = [sys.executable, __file__, case, str(number)]
            answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode:
                raise SystemExit(answer.stderr)
            found = json.loads(answer.stdout)
            results.add({"kind": "memory", "case": case, "images": number, **found})
            print(f"memory, {case}, {number}: done", flush=True)


def report_memory(runs):
    if not runs:
        return
    rows = []
    for run in runs:
        in_memory = 0 if run["mapped"] else run["output"]
        rows.append(
            [
                run["case"],
                f"{run['images']:,}",
                f"{run['output'] / 1e6:.0f}" + (" (file)" if run["mapped"] else ""),
                f"{run['before'] / 1e6:.0f}",
                f"{(run['peak'] - run['before'] - in_memory) / 1e6:.0f}",
                f"{(run['resident_peak'] - run['resident_before']) / 1e6:.0f}",
                f"{run['images'] / run['seconds']:.0f}",
            ]
        )
    header = ["X", "images", "output", "before", "beyond the output"]
    header += ["all pages, with output", "images/s"]
    print("\nPeak memory in MB, embedded model, over that before\n")
    print(markdown_table(header, rows))


def embed_case(case, number):
    """Embed so many images as `case` says and return what it took."""
    from skfewshot.clip import CLIPFeaturizer

    featurizer = CLIPFeaturizer("tiny")
    make_images, is_mapped = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        files = small_files(folder)
        # Once, so that neither imports nor the weights nor a first pass count.
        featurizer.transform(make_images(files, WARM_UP))
        images = make_images(files, number)
        out = None
        if is_mapped:
            shape = (number, featurizer.load().identity.embedding_dim)
            out = np.lib.format.open_memmap(
                Path(folder) / "out.npy", mode="w+", dtype=np.float32, shape=shape
            )
        with watched_memory() as found:
            embeddings = featurizer.transform(images, out=out)
        if len(embeddings) != number or not np.isfinite(embeddings[-1]).all():
            raise SystemExit(f"{len(embeddings)} rows of {number}")
        return {**found, "output": embeddings.nbytes, "mapped": is_mapped}


@contextmanager
def watched_memory():
    """Give a dict that holds, at the end, the memory before, its peak and the time."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    found = {"before": status("RssAnon"), "resident_before": status("VmRSS")}
    found["peak"] = found["before"]
    is_over = threading.Event()

    def sample():
        while not is_over.wait(SECONDS_BETWEEN_SAMPLES):
            found["peak"] = max(found["peak"], status("RssAnon"))

    sampler = threading.Thread(target=sample)
    start = time.perf_counter()
    sampler.start()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - start
        is_over.set()
        sampler.join()
        found["peak"] = max(found["peak"], status("RssAnon"))
        found["resident_peak"] = status("VmHWM")


def status(key):
    """Return a figure of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("memory is measured on Linux only")


def small_files(folder):
    """Return the paths of small JPEG files, quick to decode."""
    from photos import make_photo

    photo = make_photo(0)
    paths = [str(Path(folder) / f"{index}.jpg") for index in range(N_FILES)]
    for index, path in enumerate(paths):
        photo.crop((index, index, index + FILE_SIZE[0], index + FILE_SIZE[1])).save(
            path
        )
    return paths


def list_of_paths(paths, number):
    return list(islice(cycle(paths), number))


def generator_of_paths(paths, number):
    return (path for path in islice(cycle(paths), number))


def generator_of_arrays(paths, number):
    """Yield images that exist only when they are asked for."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    width, height = FILE_SIZE
    for _ in range(number):
        top, left = rng.integers(0, 512 - height), rng.integers(0, 512 - width)
        yield noise[top : top + height, left : left + width].copy()


#: How the images come, and whether `out` is a memory map.
CASES = {
    "list of paths": (list_of_paths, False),
    "generator of paths": (generator_of_paths, False),
    "generator of arrays": (generator_of_arrays, False),
    "generator of paths, out= a memory map": (generator_of_paths, True),
}


if __name__ == "__main__":
    print(json.dumps(embed_case(sys.argv[1], int(sys.argv[2]))))
