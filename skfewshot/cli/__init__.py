"""The command line: fit a folder, predict, suggest what to label, and the demo."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from skfewshot import __version__
from skfewshot.cli import _demo, _fit, _predict, _suggest

__all__ = ["main"]

#: What a process that a pipe or the keyboard ends has as its status, by custom.
_INTERRUPTED, _BROKEN_PIPE = 130, 141
_COMMANDS = {"fit": _fit, "predict": _predict, "suggest": _suggest, "demo": _demo}
_EXAMPLES = """examples:
  skfewshot fit photos -o model.skops             a folder with a folder for each class
  skfewshot predict model.skops new --csv out.csv
  skfewshot suggest model.skops new -n 10         which images to label next
  skfewshot demo                                  rendered images, a table, a picture

exit status: 0; 1 if something that was given is wrong; 2 if the command is"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; without one, the demo.

    Parameters
    ----------
    argv : sequence of str, default=None
        What stands behind ``skfewshot``; None takes it from the process.

    Returns
    -------
    int
        The exit status: 0; 1 for what a user can mend, with a line on the standard
        error; 130 if interrupted. A command that is no command exits with 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    about = ("-h", "--help", "--version", "--debug")
    if not argv or (argv[0].startswith("-") and argv[0] not in about):
        argv = ["demo", *argv]
    arguments = _parser().parse_args(argv)
    if arguments.debug:
        return arguments.run(arguments)
    return _in_few_words(arguments.run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skfewshot",
        description="Few-shot image classification on frozen CLIP models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--debug", action="store_true", help="errors with their traceback"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        inner = commands.add_parser(
            name,
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(inner)
        inner.set_defaults(run=command.run)
    return parser


def _in_few_words(run: Callable[..., int], arguments: argparse.Namespace) -> int:
    """Run a command; errors that a user can mend, and warnings, are a line each."""
    shown: set[str] = set()

    def show_warning(message: Any, *_: Any, **__: Any) -> None:
        if str(message) not in shown:  # once, of all the batches that tell it
            shown.add(str(message))
            _complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            status = run(arguments)
            if sys.stdout is not None:  # a job without one may write files
                sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            _complain("interrupted")
            return _INTERRUPTED
        except BrokenPipeError:
            # Whoever read has what it wanted; Python would complain as it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        except (ValueError, TypeError, OSError, ImportError) as error:
            _complain(_explained(error))
            return 1


def _explained(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _complain(message: str) -> None:
    print(f"skfewshot: {' '.join(message.split())}", file=sys.stderr)
