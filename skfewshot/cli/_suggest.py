"""``skfewshot suggest``: which images of a folder to label next."""

import argparse
from typing import Any

import skfewshot.cli._shared as shared

HELP = "name the images of a folder that are worth labelling next"
DESCRIPTION = """Name the images of a folder that are worth labelling next, the best
first, a path a line: those that the model doubts, of all that the folder shows."""
EXAMPLES = """examples:
  skfewshot suggest model.skops new -n 10
  skfewshot suggest model.skops new -n 10 | xargs -d '\\n' cp -t to_label"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="as 'skfewshot fit' saved it")
    parser.add_argument("folder", metavar="FOLDER", help="images without labels")
    parser.add_argument(
        "-n",
        type=shared.at_least_one,
        default=10,
        help="how many; %(default)s by default",
    )
    shared.add_embedding_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print paths."""
    import numpy as np

    from skfewshot.clip._progress import is_watched
    from skfewshot.inspection import suggest
    from skfewshot.inspection._model import resolve

    parts = shared.load_parts(arguments)
    resolve(parts.classifier)  # what has several labels is refused before the work
    out = shared.stdout()
    show = not arguments.quiet and is_watched()
    parts.before[0].set_params(progress=show)
    paths: Any = np.array(
        shared.images_of_folder(arguments.folder, "FOLDER"), dtype=object
    )
    shared.say(arguments, f"Embedding {len(paths)} images ...")
    X = shared.embed(parts.before.transform, paths)
    lost = shared.unread(X)
    shared.complain(paths[lost])
    if lost.all():
        raise ValueError(f"None of the images of {arguments.folder} could be read.")
    n = min(arguments.n, int((~lost).sum()))
    for path in paths[~lost][suggest(parts.classifier, X[~lost], n)]:
        print(path, file=out)
    return 0
