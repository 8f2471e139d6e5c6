"""Several labels an image: scenes, their labels, and where the evidence lies."""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils import Bunch

from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
from skfewshot._demo import embed
from skfewshot.datasets import NOVEL_KINDS, make_scenes
from skfewshot.display import EvidenceMapDisplay
from skfewshot.metrics import mean_average_precision
from skfewshot.model_selection import sample_support

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Supports drawn for each number of shots; the table has their mean and spread.
DRAWS = 5
#: Scenes to draw supports from, at least, and scenes kept aside for scoring.
POOL, QUERIES = 200, 300
#: Scenes in the picture, and the fewest labels they have.
SHOWN, FEWEST_LABELS = 5, 2
#: Of the linear probe: scikit-learn's 1 does worse on features of length one.
PROBE_C = 10.0
METHODS = ("zero-shot", "linear probe", "prototypes")


@dataclass
class Task:
    """Scenes to draw supports from, and others to score on.

    Tokens are of shape (n, 1 + K, d), labels of shape (n, L), texts of shape (L, d).
    """

    pool: np.ndarray
    pool_labels: np.ndarray
    query: np.ndarray
    scenes: Bunch
    text: np.ndarray


class Fit(NamedTuple):
    """How the prototypes of one support did."""

    n_images: int
    seconds: float
    f1: float
    on_object: float


#: Mean average precisions by method and number of shots, and fits by the latter.
Scores = dict[str, dict[int, list[float]]]
Fits = dict[int, list[Fit]]


def run(arguments: argparse.Namespace) -> "Figure":
    """Render scenes, compare the classifiers, print the table and draw the picture.

    Parameters
    ----------
    arguments : argparse.Namespace
        The options of ``python -m skfewshot``.

    Returns
    -------
    matplotlib figure
    """
    task = _make_task(arguments)
    scores, fits = _compare(task, sorted(set(arguments.shots)), arguments.seed)
    print(_table(scores, fits))
    print(_pointing_line(task, fits))
    return _draw(task, arguments)


def _make_task(arguments: argparse.Namespace) -> Task:
    """Render scenes, embed each once, and say how fast that went."""
    print(f"Rendering scenes of {len(NOVEL_KINDS)} kinds of object ...")
    # Each label is in a fifth of the scenes: twice what the largest supports need.
    n_pool = max(POOL, 10 * max(arguments.shots))
    pool, query = (
        make_scenes(n, kinds=NOVEL_KINDS, random_state=np.random.default_rng(seed))
        for n, seed in ((n_pool, [arguments.seed, 0]), (QUERIES, [arguments.seed, 1]))
    )
    featurizer = CLIPFeaturizer(arguments.model, arguments.pretrained, output="tokens")
    X = embed(featurizer, np.concatenate([pool.images, query.images]), "scenes")
    text = np.asarray(featurizer.encode_classes(NOVEL_KINDS))
    return Task(X[:n_pool], pool.labels, X[n_pool:], query, text)


def _compare(task: Task, shots: Sequence[int], seed: int) -> tuple[Scores, Fits]:
    """Return {method: {shots: [mAP, ...]}} and {shots: [Fit, ...]}."""
    scores: Scores = defaultdict(lambda: defaultdict(list))
    fits: Fits = defaultdict(list)
    query = np.asarray(task.query)[:, 0]
    model = MultiLabelPrototypeClassifier(label_names=NOVEL_KINDS)
    probe = OneVsRestClassifier(LogisticRegression(C=PROBE_C, max_iter=1000))
    for n_shots in shots:
        for draw in range(DRAWS):
            X, Y = _draw_support(task, n_shots, seed, draw)
            start = time.perf_counter()
            model.fit(X, Y)
            seconds = time.perf_counter() - start
            probe.fit(np.asarray(X)[:, 0], Y)
            found = {
                "zero-shot": query @ task.text.T,
                "linear probe": probe.decision_function(query),
                "prototypes": model.decision_function(task.query),
            }
            for method in METHODS:
                score, _ = mean_average_precision(
                    task.scenes.labels, found[method], return_left_out=True
                )
                scores[method][n_shots].append(100 * score)
            predicted = model.predict(task.query)
            f1 = f1_score(
                task.scenes.labels, predicted, average="macro", zero_division=0
            )
            fits[n_shots].append(Fit(len(X), seconds, 100 * f1, _pointing(task, model)))
    return scores, fits


def _draw_support(
    task: Task, n_shots: int, seed: int, draw: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scenes that show each label `n_shots` times at least."""
    rng = np.random.RandomState([seed, n_shots, draw])
    rows = sample_support(task.pool_labels, n_shots, random_state=rng)
    return task.pool[rows], task.pool_labels[rows]


def _pointing(task: Task, model: MultiLabelPrototypeClassifier) -> float:
    """Return the share of objects on which the strongest patch of their label lies."""
    image, label, on_object = _patches_on_objects(task)
    strongest = model.explain(task.query)[image, label].argmax(axis=1)
    return 100 * on_object[np.arange(len(image)), strongest].mean()


def _patches_on_objects(
    task: Task,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Say which patches have their middle in the box of an object.

    Returns
    -------
    image, label : ndarray of int, shape (n_objects,)
    on_object : ndarray of bool, shape (n_objects, K)
    """
    scenes = task.scenes
    side = isqrt(task.query.shape[1] - 1)
    middle = (np.arange(side) + 0.5) * scenes.images.shape[1] / side
    image = np.repeat(np.arange(len(scenes.objects)), list(map(len, scenes.objects)))
    label = [scenes.kinds.index(kind) for kinds in scenes.objects for kind in kinds]
    left, top, right, bottom = np.concatenate(scenes.boxes).T[:, :, None]
    in_column = (left <= middle) & (middle < right)
    in_row = (top <= middle) & (middle < bottom)
    on_object = in_row[:, :, None] & in_column[:, None, :]
    return image, np.array(label), on_object.reshape(len(image), -1)


def _table(scores: Scores, fits: Fits) -> str:
    """Return the table of mean average precisions, and of how the prototypes did."""
    heads = (*METHODS, "F1", "time of a fit", "support")
    lines = [
        "",
        f"Mean average precision in % on {QUERIES} scenes kept aside, mean and spread",
        f"over {DRAWS} supports: text against the global feature (zero-shot), logistic",
        "regressions on it (linear probe), MultiLabelPrototypeClassifier (prototypes),",
        "and of the last the macro F1 in %",
        "",
        "shots  " + "".join(f"{head:>15}" for head in heads),
    ]
    for n_shots, draws in fits.items():
        cells = [_mean_spread(scores[method][n_shots]) for method in METHODS]
        cells.append(_mean_spread([fit.f1 for fit in draws]))
        cells.append(f"{1000 * median(fit.seconds for fit in draws):.0f} ms")
        cells.append(f"{median(fit.n_images for fit in draws):.0f} images")
        lines.append(f"{n_shots:>5}  " + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _mean_spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}"


def _pointing_line(task: Task, fits: Fits) -> str:
    """Say how often the strongest patch lies on the object, and a random one would."""
    n_shots = max(fits)
    image, _, on_object = _patches_on_objects(task)
    share = np.mean([fit.on_object for fit in fits[n_shots]])
    return (
        f"\nAt {n_shots} shot{'s' * (n_shots > 1)} the strongest patch lies in the box "
        f"of the object in {share:.0f} % of\nthe {len(image)} pairs of scene and true "
        f"label; chance {100 * on_object.mean():.0f} %"
    )


def _draw(task: Task, arguments: argparse.Namespace) -> "Figure":
    """Draw scenes that were kept aside, with predictions and maps of the evidence."""
    n_shots = max(arguments.shots)
    model = MultiLabelPrototypeClassifier(label_names=NOVEL_KINDS)
    model.fit(*_draw_support(task, n_shots, arguments.seed, 0))
    scenes = task.scenes
    # The first ones, whatever is predicted of them.
    rows = np.flatnonzero(scenes.labels.sum(axis=1) >= FEWEST_LABELS)[:SHOWN]
    display = EvidenceMapDisplay.from_estimator(
        model, task.query[rows], scenes.labels[rows], images=scenes.images[rows]
    )
    display.figure_.suptitle(
        f"skfewshot: {arguments.model}, {len(NOVEL_KINDS)} labels, {n_shots}-shot "
        f"support; the first scenes kept aside with {FEWEST_LABELS} objects or more\n"
        "✓ predicted and true   ✗ predicted, not true   grey: neither",
        fontsize=10,
    )
    return display.figure_
