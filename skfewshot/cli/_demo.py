"""``skfewshot demo``: a few images and class names in, a table and a picture out."""

import argparse
from pathlib import Path

from skfewshot.cli._shared import at_least_one

HELP = "compare methods on rendered images, or on yours"
DESCRIPTION = """Compare zero-shot CLIP, a linear probe and Cross-Modal Mapping on a few
images of each class, rendered ones or your own; or, with --multilabel, with
prototypes of local features on rendered scenes of several objects."""
EXAMPLES = """examples:
  skfewshot demo
  skfewshot demo --multilabel
  skfewshot demo --images photos --model ViT-B-32 --pretrained laion2b_s34b_b79k"""

#: What ``--shots`` and ``--out`` are by default, for one label an image and several.
_DEFAULTS = {
    False: ([1, 2, 4, 8, 16], "skfewshot_demo.png"),
    True: ([1, 5], "skfewshot_multilabel.png"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        "--multilabel",
        action="store_true",
        help="scenes with several labels, and where the evidence for them lies",
    )
    several.add_argument(
        "--images",
        help="folder with one sub-folder of images per class, which cannot say that an "
        "image has several labels: for these see skfewshot fit --tags",
    )
    parser.add_argument("--model", default="tiny", help="model of open_clip, or 'tiny'")
    parser.add_argument(
        "--pretrained",
        default="laion2b_s34b_b79k",
        help="tag, local file or local-dir: path; 'tiny' needs none",
    )
    parser.add_argument(
        "--shots",
        type=at_least_one,
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


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    if arguments.seed < 0:
        raise ValueError(f"--seed {arguments.seed} is below 0.")
    shots, out = _DEFAULTS[arguments.multilabel]
    arguments.shots = arguments.shots or shots
    arguments.out = arguments.out or Path(out)
    if arguments.multilabel:
        from skfewshot._demo import multi as demo
    else:
        from skfewshot._demo import single as demo  # type: ignore[no-redef]
    from skfewshot.display._shared import check_matplotlib

    # Before the work, so that it is not for nothing.
    check_matplotlib("The picture of the demo")
    arguments.out = _picture(arguments.out)
    import matplotlib

    matplotlib.use("Agg")
    demo.run(arguments).savefig(arguments.out, dpi=120)
    print(f"\nPicture saved as {arguments.out}")
    return 0


def _picture(out: Path) -> Path:
    """Return the file of the picture, and make its folder."""
    from matplotlib.backend_bases import FigureCanvasBase

    if not out.suffix:
        out = out.with_name(f"{out.name}.png")
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if out.suffix[1:].lower() not in formats:
        raise ValueError(f"--out {out} is of no format of {', '.join(formats)}.")
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out
