"""Support and queries from different sources: what is learned must carry over.

    python benchmarks/shift.py --data ../shared/data/features --json shift.json

*ImageNet to Pets* and *Pets to ImageNet*: the 24 breeds that both have, one as the
support, the other as the queries, with the texts of the support's set. ImageNet's rows
are means of ten views, rows of one photograph merged: seven a breed. Pets' supports are
single crops (``val``) or means of ten views (``views``).

*clean to noisy*, *to blurred*, *to recoloured*: rendered images of the kinds that the
embedded model has not seen; only the queries are changed.

Every method has one setting for all (``methods.py``). Runs are stored and repeated as
``accuracy.py`` does; ``--report`` makes no new runs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from accuracy import add_run_options, run_missing, warm_up
from accuracy_summary import collect, means
from feature_data import NEAR_DUPLICATE, draw_rows, load, view_support
from methods import OURS, PEERS
from PIL import Image, ImageFilter
from report import describe, make_and_report, markdown_table
from scipy.sparse.csgraph import connected_components
from texts import MEASURES, METHODS, current_runs
from trouble import N_TEST, RENDER_SEED, SHOTS, embed, render, rendered
from trouble_summary import excess_rows, gaps, group_rows, peer_rows

NAMES = ("data", "support", "shots")
TO_PETS, TO_IMAGENET = "ImageNet to Pets", "Pets to ImageNet"
#: Parts of ImageNet's file, all of them.
IMAGENET_PARTS = ("train1", "train1b", "train2", "train4")
#: How much is done to rendered queries: the standard deviation of the noise (1 is the
#: range of a pixel), the radius of the blur in pixels, the range of the gain of each
#: colour channel. Chosen on other images, so that a probe of clean ones loses a tenth.
NOISE, RADIUS, GAIN = 0.15, 1.25, (0.3, 1.7)
#: How far below zero-shot a cell may be, in points.
ALLOWED = 0.5


def add_noise(images, rng):
    noisy = images + rng.normal(scale=255 * NOISE, size=images.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def blur(images, rng):
    kernel = ImageFilter.GaussianBlur(RADIUS)
    return np.stack([Image.fromarray(image).filter(kernel) for image in images])


def recolour(images, rng):
    """Let the colour channels change places, and weaken or strengthen each."""
    order = np.stack([rng.permutation(3) for _ in images])[:, None, None, :]
    gain = rng.uniform(*GAIN, size=(len(images), 1, 1, 3))
    changed = np.take_along_axis(images, order, axis=-1) * gain
    return np.clip(changed, 0, 255).astype(np.uint8)


CHANGES = {
    "clean to noisy": add_noise,
    "clean to blurred": blur,
    "clean to recoloured": recolour,
}
#: Direction: support: its shots.
DIRECTIONS = {
    TO_PETS: {"views": (1, 2, 4, 7)},
    TO_IMAGENET: {"val": SHOTS, "views": SHOTS},
    **{name: {"val": SHOTS} for name in CHANGES},
}


def main():
    arguments = _parse()
    make_and_report(arguments, asked, run_all, report)


def run_all(arguments, results):
    """Make the runs that the file does not have yet."""
    warm_up(arguments.methods)
    for seed in range(arguments.seeds):
        for key, *task in tasks(
            arguments.data,
            arguments.datasets,
            arguments.shots,
            seed,
            cache=arguments.json.parent / "novel12.npz",
        ):
            run_missing(key, arguments.methods, results, lambda task=task: task)


def tasks(data_folder, directions=None, shots=None, seed=0, *, cache):
    """Yield (key, X, y, query, target, text) as ``trouble.tasks`` does."""
    breeds = Breeds(Path(data_folder))
    for name in DIRECTIONS if directions is None else directions:
        for support, counts in DIRECTIONS[name].items():
            for n in (n for n in counts if not shots or n in shots):
                if name in CHANGES:
                    task = rendered_task(name, n, seed, Path(cache))
                else:
                    task = breeds.task(name, support, n, seed)
                if task is not None:
                    key = {"data": name, "support": support, "shots": n, "seed": seed}
                    yield key, *task


class Breeds:
    """The breeds that ImageNet and Pets share, numbered alike.

    Parameters
    ----------
    folder : Path
        The folder of the features.
    """

    def __init__(self, folder):
        pairs = json.loads((folder / "shift_breeds.json").read_text())
        self.imagenet = load(folder / "imagenet1000.npz")
        self.pets = load(folder / "pets25.npz")
        self.numbers = {
            name: np.array([pair[name] for pair in pairs])
            for name in ("imagenet", "pets")
        }
        self.merged = self._merge()

    def task(self, direction, support, shots, seed):
        """Return (X, y, query, target, text), or None where there are no more seeds."""
        pets, (X, y) = self.pets, self.merged
        if direction == TO_PETS:
            rows = draw_rows(y, shots, seed)
            text = self.imagenet["text"][self.numbers["imagenet"]]
            query = self._shared(pets["test_X"], pets["test_y"], "pets")
            return X[rows], y[rows], *query, text
        if support == "val":
            rows = draw_rows(pets["val_y"], shots, seed)
            found = pets["val_X"][rows], pets["val_y"][rows]
        else:
            found = view_support(pets, max(SHOTS), shots, seed)
        if found is None:
            return None
        text = pets["text"][self.numbers["pets"]]
        return *self._shared(*found, "pets"), X, y, text

    def _shared(self, X, y, name):
        """Return the rows of shared breeds, with the numbers of those."""
        numbers = self.numbers[name]
        rows = np.isin(y, numbers)
        order = np.argsort(numbers)
        return X[rows], order[np.searchsorted(numbers[order], y[rows])]

    def _merge(self):
        """Return ImageNet's rows (X, y), those of one photograph as their mean."""
        parts = [
            np.concatenate([self.imagenet[f"{part}_{key}"] for part in IMAGENET_PARTS])
            for key in "Xy"
        ]
        X, y = self._shared(*parts, "imagenet")
        near = (X @ X.T > NEAR_DUPLICATE) & (y[:, None] == y)
        n_groups, groups = connected_components(near)
        X = np.stack([X[groups == group].mean(axis=0) for group in range(n_groups)])
        y = np.array([y[groups == group][0] for group in range(n_groups)])
        return X / np.linalg.norm(X, axis=1, keepdims=True), y


def rendered_task(name, shots, seed, cache):
    """Return a task with clean rendered supports and changed queries."""
    data = rendered(cache)
    path = cache.with_name(f"{cache.stem}-{name.split()[-1]}.npz")
    if not path.exists():
        images, target = render(N_TEST, RENDER_SEED + 2)
        changed = CHANGES[name](images, np.random.default_rng(0))
        np.savez(path, X=embed(changed), y=target)
    with np.load(path) as file:
        query, target = file["X"], file["y"]
    rows = draw_rows(data["val_y"], shots, seed)
    return data["val_X"][rows], data["val_y"][rows], query, target, data["text"]


def asked(run, arguments):
    """Say whether a run is of what was asked for."""
    return (
        run["data"] in arguments.datasets
        and run["method"] in arguments.methods
        and run["seed"] < arguments.seeds
        and (not arguments.shots or run["shots"] in arguments.shots)
    )


def report(arguments, results):
    """Print the tables."""
    runs, methods = current_runs(arguments, results, asked)
    print("\n" + describe(results))
    for title, key, digits in MEASURES:
        cells = ordered(means(collect(runs, key, NAMES)))
        if key == "accuracy":
            print(f"\n{title}\n")
            rows = group_rows(cells, methods, digits, depth=len(NAMES))
            print(markdown_table([*NAMES, *methods], rows))
        print(f"\n{title}, mean over supports and shots (in brackets: of how many)\n")
        rows = group_rows(cells, methods, digits, depth=1)
        print(markdown_table(["direction", *methods], rows))
        if OURS in methods and key == "accuracy":
            _report_ours(cells, [m for m in methods if m in PEERS])
        if OURS in methods and key == "ece":
            rows = excess_rows(cells, 0.02)
            print(f"\nCells where the ECE is above zero-shot + 0.02: {len(rows)}\n")
            print(markdown_table([*NAMES, OURS, "zero-shot", "excess"], rows))


def ordered(cells):
    """Return the cells in the order of `DIRECTIONS`."""
    order = list(DIRECTIONS)
    return dict(sorted(cells.items(), key=lambda c: (order.index(c[0][0]), *c[0][1:])))


def _report_ours(cells, peers):
    """Print how CMM stands to its peers in each direction, and to zero-shot."""
    rows = []
    for name in DIRECTIONS:
        inside = {cell: scores for cell, scores in cells.items() if cell[0] == name}
        rivals = peer_rows(inside, peers)
        behind = gaps(inside, ["zero-shot"]) if "zero-shot" in peers else {}
        if not rivals or not behind:
            continue
        # A peer that ran in fewer cells is compared in those.
        peer, theirs, own, gain, n = min(rivals, key=lambda row: float(row[3]))
        worst = min(behind, key=lambda cell: behind[cell][1])
        low = sum(gap < -ALLOWED for _, gap in behind.values())
        place = f"{behind[worst][1]:+.1f} ({worst[1]}, {worst[2]} shots)"
        rows.append([name, f"{peer} {theirs} ({n})", own, gain, place, low])
    header = ["direction", "best peer (cells)", OURS, "gain"]
    header += ["CMM less zero-shot, worst", f"cells below -{ALLOWED}"]
    print("\nCMM against the best peer of each direction, and zero-shot\n")
    print(markdown_table(header, rows))


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--json", type=Path, required=True, help="file of the runs")
    for name, choices in (("datasets", DIRECTIONS), ("methods", METHODS)):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=list(choices),
            default=list(choices),
            metavar=name[:-1].upper(),
            help="default: all; of " + ", ".join(map(repr, choices)),
        )
    add_run_options(parser, METHODS, seeds=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
