"""``skfewshot predict``: a row an image, as they are read."""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import skfewshot.cli._shared as shared
from skfewshot.cli._table import Table, open_table

HELP = "classify images, a row of CSV each"
DESCRIPTION = """Classify images: a row each, with the label, its probability, the set
of labels that it may well be, how novel it looks, and whether it is unknown: of none of
the classes, by a bound that --false-alarms of the images of the classes pass. Files
that cannot be read have a row with the reason."""
EXAMPLES = """examples:
  skfewshot predict model.skops a.jpg b.jpg
  skfewshot predict model.skops new --csv out.csv
  find new -name '*.jpg' | skfewshot predict model.skops - --csv out.csv

Rows are written as they are found. Started again with the same --csv, the command goes
on with the images that have no row yet. Labels between semicolons are several."""

COLUMNS = (
    *("path", "label", "probability", "set", "novelty", "unknown", "error", "model"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="as 'skfewshot fit' saved it")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders of them, or - for paths on the standard input",
    )
    parser.add_argument(
        "--csv",
        nargs="?",
        metavar="FILE",
        help="where to; without a file, or without this, the standard output",
    )
    parser.add_argument(
        "--coverage",
        type=shared.share,
        metavar="SHARE",
        default=0.9,
        help="share of the sets that are to hold the right label; %(default)s by "
        "default",
    )
    parser.add_argument(
        "--false-alarms",
        type=shared.share,
        metavar="SHARE",
        default=0.05,
        help="share of the images of the classes that may be called unknown; "
        "%(default)s by default",
    )
    shared.add_embedding_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict, row by row."""
    from skfewshot.clip._progress import is_watched, progress

    parts = shared.load_parts(arguments)
    by = _by(parts, arguments)
    names = shared.images_in(arguments.images)
    images, total = iter(names), None
    if shared.STDIN not in arguments.images:
        listed = list(dict.fromkeys(names))
        images, total = iter(listed), len(listed)
    rows = _Rows(parts, arguments, by)
    size = parts.before[0].batch_size
    n_read = n_lost = 0
    with open_table(arguments.csv, COLUMNS, by) as table:
        n_done = len(table.done)
        show = not arguments.quiet and is_watched()
        with progress(total, show) as bar:
            for paths in _batches(images, table, size, bar):
                found = rows.of(paths)
                table.write(found)
                lost = sum(bool(row[6]) for row in found)
                n_read, n_lost = n_read + len(found) - lost, n_lost + lost
    shared.say(arguments, _summary(n_read, n_lost, n_done))
    return 1 if n_lost and not n_read and not n_done else 0


def _batches(
    images: Iterator[str], table: Table, size: int, bar: Any
) -> Iterator[list[str]]:
    """Give the images that have no row yet, some at a time."""

    def left() -> Iterator[str]:
        for path in images:
            if path in table.done:
                bar(1)
            else:
                table.done.add(path)
                yield path

    remaining = left()
    while paths := list(islice(remaining, size)):
        yield paths
        bar(len(paths))


class _Rows:
    """Rows of the table, from paths."""

    def __init__(
        self, parts: shared.Parts, arguments: argparse.Namespace, by: str
    ) -> None:
        self._parts, self._arguments, self._by = parts, arguments, by
        self._names = [str(name) for name in _names(parts.classifier)]
        self._bound = self._bound_of(parts.classifier)

    def of(self, paths: Sequence[str]) -> list[list[object]]:
        """Return a row for each path."""
        X = shared.embed(self._parts.before.transform, paths)
        lost = shared.unread(X)
        rows: list[list[object]] = [[path, *[""] * 6, self._by] for path in paths]
        bad = [path for path, is_lost in zip(paths, lost, strict=True) if is_lost]
        reasons = iter(shared.reasons(bad))
        told = iter(self._told(X[~lost]) if not lost.all() else [])
        for row, is_lost in zip(rows, lost, strict=True):
            if is_lost:
                row[6] = next(reasons)
            else:
                row[1:6] = next(told)
        return rows

    def _bound_of(self, classifier: Any) -> float | None:
        """Return the novelty of what is unknown, where left-out rows tell of it."""
        from skfewshot.inspection import novelty_threshold
        from skfewshot.inspection._model import kept_rows, resolve

        try:
            known = kept_rows(resolve(classifier).classifier)
        except TypeError:  # several labels an image, or a classifier of others
            return None
        if known is None:
            return None
        return novelty_threshold(classifier, false_alarms=self._arguments.false_alarms)

    def _told(self, X: Any) -> Iterator[list[object]]:
        """Give label, probability, set, novelty and unknown of each row."""
        classifier = self._parts.classifier
        proba = classifier.predict_proba(X)
        predicted = classifier.predict(X)
        if predicted.ndim == 2:  # several labels an image
            for row, chosen in zip(proba, predicted, strict=True):
                order = [c for c in (-row).argsort() if chosen[c]]
                yield [self._joined(order), _joined(row[order]), "", "", ""]
            return
        sets, novelty = self._doubts(X)
        for i, row in enumerate(proba):
            # Not always the most probable: a classifier may say that it is none.
            label = str(predicted[i])
            is_label = label in self._names
            best = self._names.index(label) if is_label else row.argmax()
            cells: list[object] = [label, _number(row[best]), "", "", ""]
            if self._bound is not None:
                cells[2] = self._joined([c for c in (-row).argsort() if sets[i, c]])
                cells[3] = _number(novelty[i])
                cells[4] = "yes" if novelty[i] > self._bound else "no"
            yield cells

    def _doubts(self, X: Any) -> tuple[Any, Any]:
        """Return sets and novelty, where left-out rows of the support tell of them."""
        if self._bound is None:
            return None, None
        from skfewshot.inspection import novelty_score, predict_set

        classifier = self._parts.classifier
        sets = predict_set(classifier, X, coverage=self._arguments.coverage)
        return sets, novelty_score(classifier, X)

    def _joined(self, columns: Sequence[int]) -> str:
        return "; ".join(self._names[column] for column in columns)


def _names(classifier: Any) -> Any:
    """Return what the columns of probabilities are called."""
    names = getattr(classifier, "label_names", None)
    return names if isinstance(names, list | tuple) else classifier.classes_


def _joined(numbers: Any) -> str:
    return "; ".join(map(_number, numbers))


def _number(value: Any) -> str:
    return f"{float(value):.4g}"


def _by(parts: shared.Parts, arguments: argparse.Namespace) -> str:
    """Return what decides the rows, in few letters: the model, and the options."""
    found = hashlib.sha256(parts.file.read_bytes())
    found.update(f"{arguments.coverage} {arguments.false_alarms}".encode())
    return found.hexdigest()[:12]


def _summary(n_read: int, n_lost: int, n_done: int) -> str:
    text = f"{n_read} image{'s' * (n_read != 1)} classified"
    if n_lost:
        text += f", {n_lost} could not be read"
    if n_done:
        text += f"; {n_done} had a row already"
    return text
