"""Seconds and memory of a fit with many rows without labels.

    python benchmarks/unlabelled_speed.py --rows 1000 10000 100000

The features are made up: unit rows of 512 numbers about a mean a class, with five
labelled rows of each of 100 classes and names near the means. Every fit is a process of
its own, with as many threads as the machine has cores or ``--threads``. Memory is the
kernel's peak of the whole process, and what of it was there before the fit: Python,
torch and the rows. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
from report import machine, markdown_table
from speed_measures import peak_of

#: Length of what rows have of their own beside a class mean of length 1, and of texts.
NOISE, TEXT_NOISE = 1.5, 1.0
SHOTS = 5


def main():
    arguments = _parse()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.classes, arguments.width)))
        return
    rows = []
    for n in arguments.rows:
        command = [sys.executable, __file__, "--one", str(n)]
        command += ["--classes", str(arguments.classes)]
        command += ["--width", str(arguments.width)]
        threads = {"OMP_NUM_THREADS": str(arguments.threads)}
        answer = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | threads
        )
        if answer.returncode:
            raise SystemExit(answer.stderr)
        found = json.loads(answer.stdout)
        rows.append(
            [
                f"{n:,}",
                *(
                    f"{found[key]:.1f}"
                    for key in ("labelled_seconds", "seconds", "busy_seconds")
                ),
                *(f"{found[key] / 1e9:.2f}" for key in ("before", "peak")),
                *(f"{found[key]:.1f}" for key in ("labelled_accuracy", "accuracy")),
            ]
        )
        print(f"{n:,} rows: {found['seconds']:.1f} s", flush=True)
    own = machine()
    print(f"\n{own['cpu']}, {own['cores']} cores, {arguments.threads} threads\n")
    header = ["rows without labels", "s, labelled only", "s", "s of processors"]
    header += ["GB before", "GB at most"]
    header += ["%, labelled only", "%"]
    print(markdown_table(header, rows))


def measure(n, n_classes, width):
    """Fit in this process, and return seconds, bytes and accuracy."""
    from skfewshot import CMMClassifier

    X, y, pool, query, target, text = make_task(n, n_classes, width)
    model = CMMClassifier(text)
    found = {}
    # Once, so that no import counts, neither of seconds nor of bytes.
    model.fit(X, y)
    start = time.perf_counter()
    model.fit(X, y)
    found["labelled_seconds"] = time.perf_counter() - start
    found["labelled_accuracy"] = 100 * float(np.mean(model.predict(query) == target))
    X = np.concatenate([X, pool])
    del pool
    y = np.append(y.astype(object), np.full(n, None))
    start, busy = time.perf_counter(), time.process_time()
    before, more = peak_of(lambda: model.fit(X, y))
    found["seconds"] = time.perf_counter() - start
    found["busy_seconds"] = time.process_time() - busy
    found["accuracy"] = 100 * float(np.mean(model.predict(query) == target))
    return found | {"before": before, "peak": before + more}


def make_task(n, n_classes, width):
    """Return made-up rows (X, y, pool, query, target, text), in float32."""
    rng = np.random.default_rng(0)

    def rows_about(means, noise):
        rows = rng.standard_normal(means.shape, dtype=np.float32)
        rows *= noise / np.sqrt(width)
        rows += means
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    # The cones of images and of texts; the classes of one are close to each other.
    common = rng.standard_normal((1, width), dtype=np.float32)
    means = rows_about(np.repeat(common / np.linalg.norm(common), n_classes, 0), 0.5)
    y = np.repeat(np.arange(n_classes), SHOTS)
    target = np.repeat(np.arange(n_classes), 20)
    X = rows_about(means[y], NOISE)
    query = rows_about(means[target], NOISE)
    pool = rows_about(means[rng.integers(n_classes, size=n)], NOISE)
    return X, y, pool, query, target, rows_about(means, TEXT_NOISE)


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--width", type=int, default=512)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
