"""The experiments with several labels an image: splits, supports, and each cell's run.

``papers.py mlfsic`` reads it. Of each data set some labels are *novel*: few-shot
supports are drawn for them, and they alone are scored. The other labels are *base*: a
prior learns from training images that show some of them and none that is novel. Images
for supports show a novel label, drawn with ``sample_support`` from the training images;
queries are the test images that show a novel label, without regard to the base labels
that they show too.

The novel labels of COCO are those of LaSO and all papers after it, those of VOC2007 of
"Inferring Prototypes for Multi-Label Few-Shot Image Classification with Word Vector
Guided Attention". Which labels of NUS-WIDE and iMaterialist the papers held out is not
known to us: every fifth of the sets' own order is novel here, so that numbers on these
two are not to be compared with the papers'.

"As published" is the published recipe, ``MultiLabelPrototypePrior.published()``, on the
same features of images as the others, CLIP's and not a ResNet-50's; its labels are word
vectors where a file of them is given (GloVe's 300 in the paper), and else CLIP's texts
as for the others. One prior is trained for a data set, by one random state, and serves
all supports.
"""

import re
import time
import warnings
from collections import defaultdict
from functools import lru_cache, partial

import numpy as np
import papers_run
from label_peers import PEERS, fit_peers
from papers_run import run_key
from papers_store import file_name

from skfewshot import MultiLabelPrototypeClassifier, MultiLabelPrototypePrior
from skfewshot.metrics import mean_average_precision
from skfewshot.model_selection import sample_support

# Private: a file of a gigabyte is read once and not in every fit.
from skfewshot.multilabel._words import vectors_of_names

#: Novel labels; None is every fifth label.
NOVEL = {
    "COCO": (
        *("bicycle", "boat", "stop sign", "bird", "backpack", "frisbee", "snowboard"),
        *("surfboard", "cup", "fork", "spoon", "broccoli", "chair", "keyboard"),
        *("microwave", "vase"),
    ),
    "VOC2007": ("dog", "sofa", "cat", "potted plant", "tv monitor", "sheep"),
    "NUS-WIDE": None,
    "iMaterialist": None,
}
STEP = 5
OURS, WITH_PRIOR, PUBLISHED = "ours", "ours, with prior", "as published"
METHODS = (*PEERS, OURS, WITH_PRIOR, PUBLISHED)
#: Queries whose tokens are in memory at a time.
BLOCK = 500


class Task:
    """A data set with its novel and base labels.

    Attributes
    ----------
    novel, base : ndarray of int
        The labels, as columns.
    pool, queries, base_rows : ndarray of int
        The images that supports are drawn from, those that are scored, and those that a
        prior learns from.
    """

    def __init__(self, source, n_base, words=None):
        self.source, self.labels = source, source.benchmark.labels
        self.words = words
        names = source.benchmark.names
        self.novel = novel_labels(source.name, names)
        self.base = np.setdiff1d(np.arange(len(names)), self.novel)
        splits = source.benchmark.splits
        train = np.concatenate([splits[s] for s in ("train", "val") if s in splits])
        is_novel = self.labels[:, self.novel].any(axis=1)
        self.pool = train[is_novel[train]]
        self.queries = splits["test"][is_novel[splits["test"]]]
        rest = train[~is_novel[train] & self.labels[train].any(axis=1)]
        self.base_rows = np.sort(np.random.default_rng(0).permutation(rest)[:n_base])

    def support(self, shots, seed):
        """Return the rows of a support."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*positive")
            rows = sample_support(self.novel_labels(self.pool), shots, seed)
        return self.pool[rows]

    def novel_labels(self, rows):
        """Return the indicator of the novel labels of some images."""
        return self.labels[np.ix_(rows, self.novel)]

    def texts(self, columns, method=None):
        """Return the embedded names of some labels, or their word vectors."""
        if method == PUBLISHED and self.words:
            return word_vectors(self.words, self.source)[columns]
        return self.source.store.texts(self.source.benchmark.names)[columns]


def novel_labels(name, names):
    """Return which labels of a set are novel, as ascending columns."""
    if NOVEL[name] is None:
        return np.arange(STEP - 1, len(names), STEP)
    return np.sort([names.index(label) for label in NOVEL[name]])


@lru_cache
def _read_words(path, names):
    return vectors_of_names(path, names)


def word_vectors(path, source):
    """Return the word vectors of the labels of a set, by a file as GloVe's.

    "Wear & Tear" is looked up as "Wear Tear": what is no word has no vector.
    """
    names = [" ".join(re.findall(r"\w[\w'-]*", n)) for n in source.benchmark.names]
    try:
        return _read_words(path, tuple(names))
    except ValueError as error:
        raise ValueError(f"Word vectors of {source.name}: {error}") from error


def cells_of(arguments, sources):
    """Return what names each cell that was asked for, of the sets that are there."""
    learned = {"base_images": arguments.base_images, "n_episodes": arguments.episodes}
    params = {WITH_PRIOR: learned}
    if arguments.word_vectors and PUBLISHED in arguments.methods:
        # Here already, so that a word that the file lacks is told before hours of work.
        for source in sources.values():
            word_vectors(arguments.word_vectors, source)
        size = arguments.word_vectors.stat().st_size
        told = f"{arguments.word_vectors.name}, {size} bytes"
        learned = {**learned, "word_vectors": told}
    params[PUBLISHED] = learned
    return papers_run.cells_of(arguments, sources, lambda name: params.get(name, {}))


def run_all(arguments, cells, sources, results):
    """Make the cells that are missing, set by set."""
    done = {run_key(run) for run in results.runs}
    left = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        if run_key(cell) not in done:
            support = cell["shots"], cell["seed"]
            left[cell["data"]][support][cell["method"]] = cell
    for name, supports in left.items():
        task = Task(sources[name], arguments.base_images, arguments.word_vectors)
        _run_set(task, supports, arguments.out / "features", results)


def _run_set(task, left, folder, results):
    """Make cells of one set: {(shots, seed): {method: cell}}."""
    store = task.source.store
    supports = {support: task.support(*support) for support in left}
    store.embed(np.concatenate([*supports.values(), task.queries]))
    asked = {method: cell for cells in left.values() for method, cell in cells.items()}
    makers = {
        method: _maker(task, method, asked[method], folder)
        for method in asked.keys() - set(PEERS)
    }
    target = task.novel_labels(task.queries)
    for support, cells in left.items():
        rows = supports[support]
        scorers, seconds = _fit_all(task, makers, cells, rows)
        scores = _score_all(task, scorers)
        for method, cell in cells.items():
            found = _measure(task, target, scores[method])
            found |= {"n_support": len(rows), "fit_seconds": seconds[method]}
            results.add({**cell, **found})
            print(_progress(results.runs[-1]), flush=True)


def _fit_all(task, makers, methods, rows):
    """Fit some methods on a support.

    Returns
    -------
    scorers : list of callable
        From the tokens of queries to {method: scores}, of one method or of all peers.
    seconds : dict of str to float
        What each fit took; of the peers, which are fitted together, all of them.
    """
    X, Y = task.source.store.take(rows), task.novel_labels(rows)
    scorers, seconds = [], {}
    if not set(PEERS).isdisjoint(methods):
        start = time.perf_counter()
        scorers.append(fit_peers(np.asarray(X), Y, np.asarray(task.texts(task.novel))))
        seconds |= dict.fromkeys(PEERS, time.perf_counter() - start)
    for method in set(methods) - set(PEERS):
        start = time.perf_counter()
        model = makers[method]().fit(X, Y)
        seconds[method] = time.perf_counter() - start
        scorers.append(partial(_score_by, method, model))
    return scorers, seconds


def _score_by(method, model, tokens):
    return {method: model.decision_function(tokens)}


def _score_all(task, scorers):
    """Return {method: scores of all queries}, some of which are in memory at a time."""
    scores = defaultdict(list)
    for first in range(0, len(task.queries), BLOCK):
        tokens = task.source.store.take(task.queries[first : first + BLOCK])
        for scorer in scorers:
            # Without their encoder the peers' products are plain arrays.
            for method, found in scorer(tokens).items():
                scores[method].append(np.asarray(found))
    return {method: np.concatenate(parts) for method, parts in scores.items()}


def _maker(task, method, cell, folder):
    """Return a function that makes the unfitted classifier of one of our methods."""
    text = task.texts(task.novel, method)
    if method == OURS:
        return partial(MultiLabelPrototypeClassifier, text)
    make = MultiLabelPrototypePrior
    make = make.published if method == PUBLISHED else make
    prior = make(random_state=0)
    if cell["params"]["n_episodes"]:
        prior.set_params(n_episodes=cell["params"]["n_episodes"])
    names = [cell[key] for key in ("data", "encoder", "images", "version", "method")]
    name = "-".join(map(str, ["prior", *names, *cell["params"].values()]))
    path = folder / f"{file_name(name)}.safetensors"
    if path.exists():
        prior = MultiLabelPrototypePrior.load(path)
    else:
        prior = _fit_prior(task, prior, method)
        prior.save(path)
    return partial(MultiLabelPrototypeClassifier, text, prior=prior)


def _fit_prior(task, prior, method):
    """Train a prior on the base images of a set."""
    task.source.store.embed(task.base_rows)
    labels = task.labels[np.ix_(task.base_rows, task.base)]
    seen = labels.any(axis=0)
    X, texts = task.source.store.take(task.base_rows), task.texts(task.base, method)
    start = time.perf_counter()
    prior.fit(X, labels[:, seen], texts[seen])
    print(
        f"{task.source.name}, prior, {method}: {len(X)} images of {seen.sum()} base "
        f"labels, {time.perf_counter() - start:.0f} s, best after "
        f"{prior.best_episode_} of {prior.n_iter_} episodes",
        flush=True,
    )
    return prior


def _measure(task, target, scores):
    """Return the mean average precision in %, and the labels that it leaves out."""
    score, left_out = mean_average_precision(target, scores, return_left_out=True)
    names = task.source.benchmark.names
    return {
        "map": 100 * float(score),
        "left_out": [names[column] for column in task.novel[left_out]],
        "n_queries": len(target),
    }


def _progress(run):
    return (
        f"{run['data']}, {run['shots']} shots, support {run['seed']}, "
        f"{run['method']}: {run['map']:.2f} mAP, {run['fit_seconds']:.2f} s"
    )
