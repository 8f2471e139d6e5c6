"""``skfewshot fit``: a folder of images, or a table of tags, to a model in a file."""

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from skfewshot.cli._shared import (
    add_embedding_options,
    complain,
    embed,
    images_of_folder,
    say,
    unread,
)

if TYPE_CHECKING:
    from skfewshot import CLIPFeaturizer

HELP = "learn from a folder with a folder of images for each class"
DESCRIPTION = """Learn from a folder with a folder of images for each class, named as
the class is called, or from a table of paths and tags, and save the model."""
EXAMPLES = """examples:
  skfewshot fit photos -o model.skops
  skfewshot fit photos -o model.skops --unlabelled more --report report.html
  skfewshot fit --tags tags.csv -o model.skops    columns path and tags: a.jpg, cat; dog
  skfewshot fit photos -o shared --model ViT-L-14 --pretrained laion2b_s32b_b82k

A path that does not end in .skops is a folder, with a card beside the model. Predict
with 'skfewshot predict', or in Python with skfewshot.load."""


class Task(NamedTuple):
    """What to learn from.

    Attributes
    ----------
    paths : list of str
    labels : list of str, or ndarray of shape (n, n_labels)
        The class of each image, of which those without one are None; or indicators.
    names : list of str or None
        What the columns of indicators stand for.
    """

    paths: list[str]
    labels: Any
    names: list[str] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="with a folder for each class; with --tags, where its paths begin",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="MODEL",
        help="model.skops, or a folder for model and card",
    )
    parser.add_argument(
        "--tags",
        metavar="CSV",
        help="several labels an image: columns path and tags, these between semicolons",
    )
    parser.add_argument(
        "--unlabelled",
        metavar="FOLDER",
        help="images of these classes without labels, to learn from too",
    )
    parser.add_argument(
        "--report", metavar="HTML", help="a page on what was learned, in one file"
    )
    parser.add_argument(
        "--model", default="ViT-B-32", help="of open_clip; %(default)s by default"
    )
    parser.add_argument(
        "--pretrained",
        default="laion2b_s34b_b79k",
        help="tag, local file or local-dir: path; %(default)s by default",
    )
    add_embedding_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Learn, and save."""
    _check(arguments)
    task = _with_unlabelled(_read(arguments), arguments.unlabelled)
    several = task.names is not None
    featurizer, classifier = _estimators(arguments, task)
    if not several:
        classifier._check_before_embedding(task.labels)
    say(arguments, f"Embedding {len(task.paths)} images with {arguments.model} ...")
    X = _embed(featurizer, task.paths)
    classifier.fit(X, task.labels)
    from sklearn.pipeline import Pipeline

    from skfewshot import save

    featurizer.set_params(on_error="raise", cache=None, progress="auto")
    model = Pipeline([("clip", featurizer), ("classifier", classifier)])
    saved = save(model, arguments.output)
    print(_summary(task, classifier))
    print(f"Saved as {saved}")
    if arguments.report:
        _report(classifier, X, task, arguments.report)
        print(f"Report saved as {arguments.report}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what could not be done in the end, before the work."""
    if arguments.folder is None and arguments.tags is None:
        raise ValueError("Nothing to learn from: name a FOLDER, or --tags CSV.")
    for name in ("unlabelled", "report"):
        if arguments.tags and getattr(arguments, name):
            raise ValueError(
                f"--{name} does not go with --tags: it is for one label an image."
            )
    from skfewshot.persistence._saving import check_target

    written = {"-o": arguments.output, "--report": arguments.report}
    paths = {}
    for option, name in written.items():
        if name is not None:
            if not name:
                raise ValueError(f"{option} is empty; wanted is the name of a file.")
            paths[option] = os.path.realpath(os.path.expanduser(name))
    check_target(arguments.output)
    if os.path.isdir(paths.get("--report", "")):
        raise IsADirectoryError(f"--report {arguments.report} is a folder.")
    if len(set(paths.values())) < len(paths):
        raise ValueError("-o and --report name the same file; wanted are two.")
    for parent in map(os.path.dirname, paths.values()):
        os.makedirs(parent, exist_ok=True)
        if not os.access(parent, os.W_OK):
            raise PermissionError(f"{parent} may not be written to.")


def _read(arguments: argparse.Namespace) -> Task:
    from skfewshot.datasets import load_folder, split_tags

    if arguments.tags is None:
        paths, names = load_folder(arguments.folder)
        return Task(list(paths), names.tolist(), None)
    start = arguments.folder or os.path.dirname(arguments.tags)
    tags = read_tags(arguments.tags)
    several = split_tags(tags.values())
    found = [os.path.join(start, path) for path in tags]
    return Task(found, several.indicator, several.names.tolist())


def read_tags(path: str) -> dict[str, list[str]]:
    """Read a table with the columns path and tags.

    Parameters
    ----------
    path : str
        A CSV file, in UTF-8. A path in several rows has the tags of all of them.

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    ValueError
        If the columns are not there, a row has no path or more cells than there are
        columns, or there is no row or no tag.
    """
    tags: dict[str, list[str]] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            rows = csv.reader(file)
            columns = [name.strip().lower() for name in next(rows, [])]
            if columns.count("path") != 1 or columns.count("tags") != 1:
                raise ValueError(
                    f"{path} has the columns {columns}; wanted are path and tags, in "
                    "the first line, with commas between."
                )
            for cells in filter(None, rows):
                line = f"{path}, line {rows.line_num},"
                row = list(zip_longest(columns, map(str.strip, cells), fillvalue=""))
                if any(cell for column, cell in row if not column):
                    raise ValueError(
                        f"{line} has more cells than there are columns: between tags "
                        "stand semicolons, and round a path with commas quotes."
                    )
                name = dict(row)["path"]
                if not name:
                    raise ValueError(f"{line} has no path.")
                name = os.path.normpath(name)  # a/b.png and ./a/b.png are one image
                found = (tag.strip() for tag in dict(row)["tags"].split(";"))
                tags.setdefault(name, []).extend(filter(None, found))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not any(tags.values()):
        raise ValueError(f"{path} has no {'tag in its rows' if tags else 'row'}.")
    return tags


def _with_unlabelled(task: Task, folder: str | None) -> Task:
    """Add the images of a folder, without labels."""
    if folder is None:
        return task
    known = set(map(os.path.realpath, task.paths))
    paths = [
        path
        for path in images_of_folder(folder, "--unlabelled")
        if os.path.realpath(path) not in known
    ]
    return Task(task.paths + paths, task.labels + [None] * len(paths), None)


def _estimators(
    arguments: argparse.Namespace, task: Task
) -> tuple["CLIPFeaturizer", Any]:
    from skfewshot import CLIPFeaturizer, CMMClassifier, MultiLabelPrototypeClassifier

    several = task.names is not None
    featurizer = CLIPFeaturizer(
        arguments.model,
        arguments.pretrained,
        output="tokens" if several else "embedding",
        device=arguments.device,
        on_error="nan",
        cache=arguments.cache,
        progress=False if arguments.quiet else "auto",
    )
    if several:
        return featurizer, MultiLabelPrototypeClassifier(label_names=task.names)
    return featurizer, CMMClassifier(store_left_out=True)


def _embed(featurizer: "CLIPFeaturizer", paths: Sequence[str]) -> Any:
    """Embed images, and tell of those that cannot be read."""
    import numpy as np

    from skfewshot.clip import EmbeddingArray, encoder_of

    X = embed(featurizer.fit_transform, paths)
    lost = unread(X)
    complain(list(compress(paths, lost)), "left out: ")
    if lost.all():
        raise ValueError("None of the images could be read.")
    # The cache is this machine's: the model is to know nothing of it.
    encoder = encoder_of(X)
    return EmbeddingArray(np.asarray(X), encoder and replace(encoder, cache=None))


def _summary(task: Task, classifier: Any) -> str:
    counts = classifier.class_count_
    what = "labels" if task.names else "classes"
    shots = " to ".join(dict.fromkeys(f"{n:.0f}" for n in (counts.min(), counts.max())))
    text = f"{len(counts)} {what} of {shots} images each"
    codes = getattr(classifier, "support_codes_", None)
    if codes is None:
        return text
    kept = codes >= 0
    right = classifier.left_out_proba_[kept].argmax(axis=1) == codes[kept]
    return f"{text}; {100 * right.mean():.0f} % of them are right when left out"


def _report(classifier: Any, X: Any, task: Task, path: str) -> None:
    import numpy as np

    from skfewshot.inspection import Report

    images = np.array(task.paths, dtype=object)
    labels = np.array(task.labels, dtype=object)
    has_label = np.array([label is not None for label in task.labels])
    kept, pool = ~unread(X) & has_label, ~unread(X) & ~has_label
    Report(
        classifier,
        X[kept],
        labels[kept],
        images=images[kept],
        X_pool=X[pool] if pool.any() else None,
        pool_images=images[pool],
    ).save(path)
