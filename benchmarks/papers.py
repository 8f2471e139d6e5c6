"""The experiments of both papers, on the data sets that they used.

    python benchmarks/papers.py cmm --root FOLDER --model ViT-B-16 \\
        --pretrained openai --shots 1 2 4 8 16 --seeds 3 --out FOLDER
    python benchmarks/papers.py mlfsic --root FOLDER --model ViT-B-16 \\
        --pretrained openai --shots 1 5 --supports 10 --out FOLDER

``--root`` is the folder in which the folders of the sets lie, as
``skfewshot.datasets.load_benchmark`` reads them; a set that is not there is left out,
and the report says what to download and where to put it. Nothing is downloaded but the
weights of the model.

Under ``--out`` come ``cmm.json`` or ``mlfsic.json``, one line a cell, the tables as
Markdown and a plot, and the embeddings under ``features/``. All may be interrupted at
any time: the next call embeds and runs what is missing. Cells of another model,
version, setting or list of images stay in the file, and are not shown with these.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import papers_labels
import papers_report
import papers_run
from papers_store import FeatureStore
from report import Results

from skfewshot import CLIPFeaturizer


def main(arguments=None):
    arguments = _parse(arguments)
    # At one shot every row is a class of its own; scikit-learn takes that for a hint.
    warnings.filterwarnings("ignore", "The number of unique classes")
    results = Results(arguments.out / f"{arguments.experiment}.json")
    run = {"cmm": _run_cmm, "mlfsic": _run_mlfsic}[arguments.experiment]
    run(arguments, results)


def _run_cmm(arguments, results):
    featurizer = CLIPFeaturizer(
        arguments.model, arguments.pretrained, batch_size=arguments.batch_size
    )
    names = arguments.sets
    if set(names) & set(papers_run.SHIFTS) and papers_run.SOURCE not in names:
        names = [papers_run.SOURCE, *names]
    make_store = partial(FeatureStore, arguments.out / "features", featurizer)
    sources, missing = papers_run.find_sets(names, arguments.root, make_store)
    if papers_run.SOURCE in missing:
        for name in [name for name in sources if name in papers_run.SHIFTS]:
            del sources[name]
            missing[name] = f"It needs {papers_run.SOURCE}, which is missing."
    _refuse_nothing(sources, arguments.root)
    cells = papers_run.cells_of(arguments, sources)
    papers_run.run_all(cells, sources, results)
    runs = papers_run.chosen(cells, results)
    papers_report.write_cmm(runs, results, missing, arguments.out / "cmm")
    print(f"Wrote cmm.json, cmm.md and cmm.png to {arguments.out}")


def _run_mlfsic(arguments, results):
    featurizer = CLIPFeaturizer(
        arguments.model,
        arguments.pretrained,
        output="tokens",
        batch_size=arguments.batch_size,
    )
    # Half as much disk: rounding moves a cosine by less than 0.001.
    make_store = partial(
        FeatureStore, arguments.out / "features", featurizer, dtype=np.float16
    )
    sources, missing = papers_run.find_sets(
        arguments.sets,
        arguments.root,
        lambda name, images: make_store(f"{name}-tokens", images),
    )
    _refuse_nothing(sources, arguments.root)
    cells = papers_labels.cells_of(arguments, sources)
    papers_labels.run_all(arguments, cells, sources, results)
    runs = papers_run.chosen(cells, results)
    papers_report.write_mlfsic(runs, results, missing, arguments.out / "mlfsic")
    print(f"Wrote mlfsic.json, mlfsic.md and mlfsic.png to {arguments.out}")


def _refuse_nothing(sources, root):
    if not sources:
        raise SystemExit(
            f"None of the sets was found under {root}: what is missing is said above."
        )


def _parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    experiments = parser.add_subparsers(dest="experiment", required=True)
    cmm = experiments.add_parser("cmm", help="one label an image: CMM and its peers")
    sets = (*papers_run.SETS, *papers_run.SHIFTS)
    _add_common(cmm, sets, papers_run.METHODS, shots=(1, 2, 4, 8, 16))
    cmm.add_argument("--seeds", type=_positive, default=3, help="supports: 0, 1, ...")
    labels = experiments.add_parser("mlfsic", help="several labels an image")
    sets, methods = tuple(papers_labels.NOVEL), papers_labels.METHODS
    _add_common(labels, sets, methods, shots=(1, 5))
    labels.add_argument("--supports", type=_positive, default=10, dest="seeds")
    labels.add_argument(
        "--base-images",
        type=_positive,
        default=5000,
        help="most images that a prior learns from, all in memory: with the patches of "
        "ViT-B/16 5,000 take 12 GB in training",
    )
    labels.add_argument(
        "--word-vectors",
        type=Path,
        help="text file of word vectors, as GloVe's, for the labels of the published "
        "recipe; default: CLIP's texts, as for the others",
    )
    labels.add_argument(
        "--episodes",
        type=_positive,
        help="most episodes that a prior is trained for, for a quick try; default: as "
        "many as its own default says",
    )
    return parser.parse_args(arguments)


def _add_common(parser, sets, methods, shots):
    parser.add_argument("--root", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--model", required=True, help="of open_clip, or tiny")
    parser.add_argument("--pretrained", help="tag or file of its weights")
    parser.add_argument("--batch-size", type=_positive, default=64)
    parser.add_argument("--shots", nargs="+", type=_positive, default=list(shots))
    for name, choices in (("sets", sets), ("methods", methods)):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=list(choices),
            metavar=name[:-1].upper(),
            help="default: all; of " + ", ".join(map(repr, choices)),
        )


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"wanted 1 or more; got {text}")
    return number


if __name__ == "__main__":
    main()
