"""Tables and pictures of the cells of ``papers.py``, and what was missing."""

from collections import defaultdict

import numpy as np
from accuracy_summary import (
    collect,
    means,
    plot,
    summarize,
    summary_lines,
    table_rows,
)
from methods import OURS, PEERS
from papers_run import METHODS, PUBLISHED, SETS, SHIFTS
from report import describe, markdown_table

MEASURES = (
    ("Top-1 accuracy, %", "accuracy", 1),
    ("Expected calibration error, 15 bins", "ece", 3),
)


def write_cmm(runs, results, missing, stem):
    """Write the Markdown tables and the plot of CMM's experiments.

    Parameters
    ----------
    runs : list of dict
        The cells of what was asked for.
    results : Results
        Of which machines and versions are told.
    missing : dict of str to str
        {set: what to download, and where to put it}.
    stem : Path
        ``stem.md`` and ``stem.png`` are written.
    """
    methods = [m for m in METHODS if m in {run["method"] for run in runs}]
    parts = ["# CMM and its peers on the papers' data sets", describe(results)]
    parts.append(_protocol(runs))
    for title, sets in (("The eleven data sets", SETS), ("The four shifts", SHIFTS)):
        chosen = in_order([run for run in runs if run["data"] in sets], sets)
        if chosen:
            parts += _group(title, chosen, methods)
    parts += missing_part(missing)
    stem.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    cells = collect(in_order(runs, (*SETS, *SHIFTS)), "accuracy")
    plot({**means_over_sets(cells, SETS), **cells}, stem.with_suffix(".png"), OURS)


def _protocol(runs):
    models = sorted({f"{run['model']} ({run['pretrained'] or '-'})" for run in runs})
    return (
        f"Model: {', '.join(models)}. Supports are drawn from the training images by "
        "the seed and scored on the test images; mean and standard deviation over "
        "seeds. One setting of each method for all; nothing is chosen on test images. "
        "The shifts are scored by what was fitted on ImageNet, among their own classes."
    )


def in_order(runs, sets):
    """Return the runs set by set, then by shots and seed."""
    return sorted(
        (run for run in runs if run["data"] in sets),
        key=lambda run: (sets.index(run["data"]), run["shots"], run["seed"]),
    )


def _group(title, runs, methods):
    """Return the parts of the report on some sets."""
    names = list(dict.fromkeys(run["data"] for run in runs))
    parts = [f"## {title}", f"{len(names)} found: {', '.join(names)}."]
    peers = [method for method in methods if method in PEERS]
    for measure, key, digits in MEASURES:
        cells = collect(runs, key)
        rows = table_rows(cells, methods, peers, digits=digits, lowest=key == "ece")
        mean = means_over_sets(cells, names)
        rows += table_rows(mean, methods, peers, digits=digits, lowest=key == "ece")
        parts.append(f"### {measure} (bold: the best peer)")
        parts.append(markdown_table(["data", "shots", *methods], rows))
    accuracy, ece = means(collect(runs, "accuracy")), means(collect(runs, "ece"))
    for ours in (OURS, PUBLISHED):
        if ours in methods:
            found = summarize(accuracy, ece, peers, ours)
            parts.append(f"### {ours} beside its peers")
            parts.append("\n".join(summary_lines(found, methods, accuracy, ours)))
    return parts


def means_over_sets(cells, names):
    """Return {("mean of n sets", shots): {method: [mean over sets, one a seed]}}.

    A method stands there if it has as many seeds in every set that is there with so
    many shots.
    """
    found = defaultdict(dict)
    for shots in sorted({count for _, count in cells}):
        inside = [of for (name, n), of in cells.items() if n == shots and name in names]
        if not inside:
            continue
        title = f"mean of {len(inside)} sets", shots
        for method in {method for of in inside for method in of}:
            values = [of.get(method, []) for of in inside]
            if len({len(value) for value in values}) == 1:
                found[title][method] = list(np.mean(values, axis=0))
    return dict(found)


def missing_part(missing):
    """Return the part of the report on sets that are not there."""
    if not missing:
        return []
    rows = [[name, message.replace("|", "\\|")] for name, message in missing.items()]
    table = markdown_table(["set", "what is not there, and where to get it"], rows)
    return ["## Missing", table]
