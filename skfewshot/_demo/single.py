"""One label an image: zero-shot CLIP, a linear probe and Cross-Modal Mapping."""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier
from skfewshot._demo import embed
from skfewshot.datasets import NOVEL_KINDS, load_folder, make_object_images
from skfewshot.display import ModalityGapDisplay, ShotCurveDisplay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Supports drawn for each number of shots; the table has their mean.
DRAWS = 5
#: More classes than this have no room in the legend.
_MOST_IN_LEGEND = 24
#: The regularisation of the linear probe in CLIP's own instructions.
PROBE_C = 0.316
METHODS: dict[str, Any] = {
    "zero-shot": ZeroShotClassifier(),
    "linear probe": LogisticRegression(C=PROBE_C, max_iter=1000),
    "CMM": CMMClassifier(),
}


@dataclass
class Task:
    """Embedded images to draw supports from, and others to score on."""

    pool: np.ndarray
    pool_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray


#: Accuracies and seconds of the fits, by method and number of shots.
Results = dict[str, dict[int, list[tuple[float, float]]]]


def run(arguments: argparse.Namespace) -> "Figure":
    """Embed images, compare the classifiers, print the table and draw the picture.

    Parameters
    ----------
    arguments : argparse.Namespace
        The options of ``python -m skfewshot``.

    Returns
    -------
    matplotlib figure
    """
    task = _embed(arguments, *_read_images(arguments))
    results = _compare(task, arguments.shots, arguments.seed)
    print(_table(results))
    return _draw(results, task, arguments)


def _read_images(
    arguments: argparse.Namespace,
) -> tuple[np.ndarray, np.ndarray, NDArray[np.bool_]]:
    """Return images, their labels and which of them are kept for scoring."""
    if arguments.images is None:
        print(f"Rendering images of {len(NOVEL_KINDS)} kinds of object ...")
        n_pool, n_query = max(arguments.shots), 25
        images, labels = make_object_images(
            n_pool + n_query,
            kinds=NOVEL_KINDS,
            shuffle=False,
            return_X_y=True,
            random_state=arguments.seed,
        )
        is_query = np.arange(n_pool + n_query) >= n_pool
        return images, labels, np.tile(is_query, len(NOVEL_KINDS))

    if arguments.model == "tiny":
        print(
            "The model 'tiny' knows rendered objects only. For photographs name a real "
            "one: --model ViT-B-32 --pretrained TAG_OR_FILE"
        )
    paths, labels = _read_folder(arguments.images)
    rng = np.random.default_rng(arguments.seed)
    is_query = np.zeros(len(labels), dtype=bool)
    for name in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == name))
        is_query[rows[: len(rows) // 2]] = True
    return paths, labels, is_query


def _read_folder(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the paths of the images of a folder, and the names of their classes."""
    folder = load_folder(path)
    paths, folders = folder.paths, folder.names
    found, counts = np.unique(folders, return_counts=True)
    if len(found) < 2:
        raise ValueError(
            f"--images {path} has images of {len(found)} class(es), {found.tolist()}; "
            "wanted one sub-folder for each of at least 2 classes."
        )
    if counts.min() < 2:
        raise ValueError(
            f"--images {path}: the classes {found[counts < 2].tolist()} have 1 image; "
            "wanted at least 2, one to learn from and one to score on."
        )
    return paths, np.char.replace(folders, "_", " ")


def _embed(
    arguments: argparse.Namespace,
    images: np.ndarray,
    labels: np.ndarray,
    is_query: NDArray[np.bool_],
) -> Task:
    """Embed the images, and leave out those that cannot be read."""
    featurizer = CLIPFeaturizer(
        arguments.model,
        arguments.pretrained,
        num_workers=2 if arguments.images else 0,
        on_error="nan",
    )
    X = embed(featurizer, images, "images")
    read = ~np.isnan(X).any(axis=1)
    pool, query = read & ~is_query, read & is_query
    return Task(X[pool], labels[pool], X[query], labels[query])


def _compare(task: Task, shots: Sequence[int], seed: int) -> Results:
    """Return {method: {shots: [(accuracy, seconds of the fit), ...]}}."""
    results: Results = defaultdict(lambda: defaultdict(list))
    counts = np.unique(task.pool_labels, return_counts=True)[1]
    largest = counts.max()
    if max(shots) > counts.min():
        print(
            f"The classes have {counts.min()} to {largest} images to learn from; where "
            "there are fewer than the shots, all are taken."
        )
    for n_shots in sorted({min(n, largest) for n in shots}):
        for draw in range(DRAWS):
            X, y = _draw_support(task, n_shots, [seed, draw])
            for method, model in METHODS.items():
                start = time.perf_counter()
                model.fit(X, y)
                seconds = time.perf_counter() - start
                accuracy = 100 * model.score(task.query, task.query_labels)
                results[method][n_shots].append((accuracy, seconds))
    return results


def _draw_support(
    task: Task, n_shots: int, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw up to `n_shots` images of each class."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [
            rng.permutation(np.flatnonzero(task.pool_labels == name))[:n_shots]
            for name in np.unique(task.pool_labels)
        ]
    )
    return task.pool[rows], task.pool_labels[rows]


def _table(results: Results) -> str:
    """Return the table of accuracies and median times."""
    lines = [
        "",
        f"Accuracy in % on images kept aside, mean of {DRAWS} supports (time of a fit)",
        "",
        "shots  " + "".join(f"{method:>20}" for method in METHODS),
    ]
    for n_shots in results["CMM"]:
        line = f"{n_shots:>5}  "
        for method in METHODS:
            accuracies, seconds = zip(*results[method][n_shots], strict=True)
            cell = f"{np.mean(accuracies):.1f} ({1000 * median(seconds):.0f} ms)"
            line += f"{cell:>20}"
        lines.append(line)
    return "\n".join(lines)


def _draw(results: Results, task: Task, arguments: argparse.Namespace) -> "Figure":
    """Draw accuracy by shots, and the modality gap before and after the mapping."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 5.5), layout="constrained")
    shots = list(results["CMM"])
    for method, style in zip(METHODS, ("--", "-.", "-"), strict=True):
        ShotCurveDisplay(
            shots=shots,
            test_scores=[[score for score, _ in results[method][n]] for n in shots],
            score_name="Accuracy (%)",
            name=method,
        ).plot(axes[0], line_kw={"linestyle": style})
    axes[0].set_title("Accuracy on images kept aside")
    X, y = _draw_support(task, shots[-1], [arguments.seed, 0])
    model = CMMClassifier().fit(X, y)
    ModalityGapDisplay.from_estimator(model, task.query, task.query_labels, ax=axes[1:])
    if len(model.classes_) <= _MOST_IN_LEGEND:
        figure.legend(
            *axes[2].get_legend_handles_labels(),
            loc="outside lower right",
            ncols=6,
            fontsize="small",
            markerscale=1.8,
        )
    figure.suptitle(
        f"skfewshot: {arguments.model}, {len(model.classes_)} classes; the mapping was "
        f"learned from {shots[-1]} shots; images shown were kept aside, and texts are "
        "centred after it, as images are"
    )
    return figure
