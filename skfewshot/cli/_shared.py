"""What the commands share: options, finding images, embedding them, saying so."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: In place of a path: paths on the standard input, one a line.
STDIN = "-"
#: Paths may hold bytes that are no UTF-8: they come out as they went in.
PATH_ERRORS = "surrogateescape"


class Parts(NamedTuple):
    """A loaded model, in two.

    Attributes
    ----------
    file : pathlib.Path
        Where it was loaded from.
    before : Pipeline
        From images to what the classifier takes.
    classifier : estimator
    """

    file: Path
    before: Any
    classifier: Any


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Declare how images are embedded."""
    parser.add_argument("--device", help="where the encoder runs, such as cuda or cpu")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="keep embeddings there, so that no image is embedded twice",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def say(arguments: argparse.Namespace, text: str) -> None:
    """Tell what is done, on the standard error."""
    if not arguments.quiet:
        print(text, file=sys.stderr)


def complain(paths: Sequence[str], about: str = "") -> None:
    """Tell of files that cannot be read, and why."""
    for path, reason in zip(paths, reasons(paths), strict=True):
        print(f"skfewshot: {path}: {about}{reason}", file=sys.stderr)


def load_parts(arguments: argparse.Namespace) -> Parts:
    """Load the model, and set its featurizer to what the options say."""
    from sklearn.pipeline import Pipeline

    from skfewshot import CLIPFeaturizer, load
    from skfewshot.persistence._saving import model_file

    file = model_file(arguments.model)  # of the hub it is asked for once
    model = load(file)
    steps = model.steps if isinstance(model, Pipeline) else []
    if len(steps) < 2 or not isinstance(steps[0][1], CLIPFeaturizer):
        raise ValueError(
            f"{arguments.model} is a {type(model).__name__} that does not start from "
            "images; wanted is a Pipeline of a CLIPFeaturizer and a classifier, as "
            "'skfewshot fit' saves it."
        )
    if not hasattr(model, "predict_proba"):
        raise ValueError(
            f"{arguments.model} ends in {type(steps[-1][1]).__name__}, which has no "
            "probabilities; wanted is a classifier with predict_proba."
        )
    # A file that cannot be read is no reason to stop, and the bar is the command's.
    steps[0][1].set_params(on_error="nan", progress=False, cache=arguments.cache)
    if arguments.device is not None:
        steps[0][1].set_params(device=arguments.device)
    return Parts(file, model[:-1], model[-1])


def images_in(paths: Sequence[str]) -> Iterator[str]:
    """Give files as they are, the images below folders, and those that stdin names."""
    from skfewshot.datasets._folder import images_below, warn_of_problems

    for path in paths:
        if path == STDIN:
            yield from filter(None, (line.rstrip("\r\n") for line in _stdin()))
        elif os.path.isdir(path):
            problems: list[str] = []
            found = list(images_below(Path(path), problems))
            warn_of_problems(path, problems)
            if not found:
                raise ValueError(f"{path} has no images, nor have the folders in it.")
            yield from found
        else:
            yield path


def _stdin() -> TextIO:
    if sys.stdin is None:
        raise ValueError(
            f"{STDIN} takes paths from the standard input, which is closed."
        )
    as_it_is(sys.stdin)
    return sys.stdin


def stdout() -> TextIO:
    """Return the standard output, which takes any path."""
    if sys.stdout is None:
        raise ValueError("The standard output is closed, and there the result goes.")
    as_it_is(sys.stdout)
    return sys.stdout


def as_it_is(file: TextIO) -> None:
    """Let paths that are no UTF-8 come out of a file, or into it, as they are."""
    if isinstance(file, io.TextIOWrapper):  # no double of a test or a notebook
        file.reconfigure(errors=PATH_ERRORS)


def images_of_folder(folder: str, what: str) -> list[str]:
    """Return the images below a folder, or refuse it."""
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"{what} {folder} is no folder.")
    return list(images_in([folder]))


def at_least_one(text: str) -> int:
    """Read a number of things from an option."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def share(text: str) -> float:
    """Read a share from an option."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def embed(method: Callable[..., Any], paths: Sequence[str]) -> Any:
    """Embed images; those that cannot be read are rows of NaN, without a word."""
    import warnings

    import numpy as np

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*could not be read")
        return method(np.array(list(paths), dtype=object))


def unread(X: Any) -> "NDArray[np.bool_]":
    """Return which rows are of images that could not be read."""
    import numpy as np

    from skfewshot._unread import unread_rows

    found = unread_rows(X)
    return np.zeros(len(X), dtype=bool) if found is None else found


def reasons(paths: Sequence[str]) -> list[str]:
    """Return in a line each why images cannot be read."""
    import re

    from skfewshot.datasets import check_images

    found = check_images(list(paths), num_workers=1) if len(paths) else {}
    # The index is that in a list that nobody sees, and types of errors are Python's.
    texts = [found.get(row, "it could not be read") for row in range(len(paths))]
    lines = [" ".join(text.split()) for text in texts]
    begins = r"^.*? could not be read: (\w+(Error|Warning): )?(\[Errno \d+\] )?"
    return [re.sub(begins, "", line) for line in lines]
