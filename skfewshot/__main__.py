"""The demo: a handful of images and class names in, a table and a picture out."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

#: What ``--shots`` and ``--out`` are by default, for one label an image and several.
_DEFAULTS = {
    False: ([1, 2, 4, 8, 16], "skfewshot_demo.png"),
    True: ([1, 5], "skfewshot_multilabel.png"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    arguments = _read_arguments(argv)
    # Not at the top, so that --help need not wait for scikit-learn.
    if arguments.multilabel:
        from skfewshot._demo.multi import run
    else:
        from skfewshot._demo.single import run
    from skfewshot.display._shared import check_matplotlib

    try:
        # Before the work, so that it is not for nothing.
        check_matplotlib("The picture of the demo")
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        import matplotlib

        matplotlib.use("Agg")
        run(arguments).savefig(arguments.out, dpi=120)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"skfewshot: {error}", file=sys.stderr)
        return 1
    print(f"\nPicture saved as {arguments.out}")
    return 0


def _read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m skfewshot",
        description="Compare zero-shot CLIP, a linear probe and Cross-Modal Mapping on "
        "a few images of each class, rendered ones or your own; or, with --multilabel, "
        "with prototypes of local features on rendered scenes of several objects.",
    )
    parser.add_argument(
        "--multilabel",
        action="store_true",
        help="scenes with several labels, and where the evidence for them lies",
    )
    parser.add_argument(
        "--images", help="folder with one sub-folder of images per class"
    )
    parser.add_argument("--model", default="tiny", help="model of open_clip, or 'tiny'")
    parser.add_argument(
        "--pretrained",
        default="laion2b_s34b_b79k",
        help="tag, local file or local-dir: path; 'tiny' needs none",
    )
    parser.add_argument(
        "--shots",
        type=_positive,
        nargs="+",
        metavar="K",
        help="images of each label; 1 2 4 8 16 by default, 1 5 with --multilabel",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        help="the picture; skfewshot_demo.png by default, skfewshot_multilabel.png "
        "with --multilabel",
    )
    arguments = parser.parse_args(argv)
    if arguments.multilabel and arguments.images is not None:
        parser.error(
            "--images does not go with --multilabel: one sub-folder per class cannot "
            "say that an image has several labels. Leave --images out to see rendered "
            "scenes; for your own images see skfewshot.MultiLabelPrototypeClassifier."
        )
    shots, out = _DEFAULTS[arguments.multilabel]
    arguments.shots = arguments.shots or shots
    arguments.out = arguments.out or Path(out)
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
