"""Tables and pictures of the cells of ``papers.py``, and what was missing."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
from accuracy_summary import (
    STYLES,
    collect,
    means,
    plot,
    summarize,
    summary_lines,
    table_rows,
)
from methods import OURS, PEERS
from papers_labels import METHODS as LABEL_METHODS
from papers_labels import NOVEL, WITH_PRIOR
from papers_labels import OURS as OUR_LABELS
from papers_labels import PEERS as LABEL_PEERS
from papers_labels import PUBLISHED as PUBLISHED_LABELS
from papers_run import METHODS, PUBLISHED, SETS, SHIFTS
from report import describe, markdown_table

MEASURES = (
    ("Top-1 accuracy, %", "accuracy", 1),
    ("Expected calibration error, 15 bins", "ece", 3),
)
RED = {"color": "#D00000", "marker": "o"}
CMM_STYLES = {**STYLES, PUBLISHED: {**RED, "linestyle": "--"}}
LABEL_STYLES = {
    "text, global feature": {"color": "0.55", "linestyle": "--"},
    "text, local features": {"color": "0.55", "linestyle": ":"},
    "mean of tokens": {"color": "#56B4E9", "marker": "s"},
    "logistic regression": {"color": "#0072B2", "marker": "s"},
    "k-nearest neighbours": {"color": "#009E73", "marker": "D"},
    "Tip-Adapter": {"color": "#E69F00", "marker": "^"},
    PUBLISHED_LABELS: {**RED, "linestyle": "--", "marker": "P"},
    OUR_LABELS: {**RED, "linestyle": ":", "marker": "v"},
    WITH_PRIOR: {**RED, "linewidth": 3, "markersize": 7},
}


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
    parts = [
        "# CMM and its peers on the papers' data sets",
        describe(_only(runs, results)),
    ]
    parts.append(_protocol(runs))
    for title, sets in (("The eleven data sets", SETS), ("The four shifts", SHIFTS)):
        chosen = in_order([run for run in runs if run["data"] in sets], sets)
        if chosen:
            parts += _group(title, chosen, methods)
    parts += missing_part(missing)
    stem.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    cells = collect(in_order(runs, (*SETS, *SHIFTS)), "accuracy")
    plot(
        {**means_over_sets(cells, SETS), **cells},
        stem.with_suffix(".png"),
        OURS,
        CMM_STYLES,
    )


def write_mlfsic(runs, results, missing, stem):
    """Write the Markdown tables and the plot of several labels; see `write_cmm`."""
    methods = [m for m in LABEL_METHODS if m in {run["method"] for run in runs}]
    runs = in_order(runs, list(NOVEL))
    cells = collect(runs, "map")
    mean = means_over_sets(cells, NOVEL)
    parts = [
        "# Several labels an image, on the papers' data sets",
        describe(_only(runs, results)),
    ]
    parts.append(
        f"Model: {_models(runs)}. Macro mean average precision of the novel labels, in "
        "%, on test images that show one; mean and standard deviation over supports."
    )
    parts.append("### Mean average precision (bold: the best peer)")
    peers = [method for method in methods if method in LABEL_PEERS]
    rows = [
        row
        for part in (cells, mean)
        for row in table_rows(part, methods, peers, digits=1)
    ]
    parts.append(markdown_table(["data", "shots", *methods], rows))
    for ours in (OUR_LABELS, WITH_PRIOR, PUBLISHED_LABELS):
        if ours in methods:
            found = summarize(means(cells), {}, peers, ours)
            parts.append(f"### {ours[0].upper()}{ours[1:]}, beside the peers")
            parts.append(_beside(found, methods, means(cells), ours))
    left_out = {run["data"]: run["left_out"] for run in runs if run["left_out"]}
    parts += [
        f"Of {name} these novel labels have no positive among the queries and are left "
        f"out: {', '.join(labels)}."
        for name, labels in left_out.items()
    ]
    parts += missing_part(missing)
    stem.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    ours = WITH_PRIOR if WITH_PRIOR in methods else OUR_LABELS
    measure, picture = "mean average precision (%)", stem.with_suffix(".png")
    plot({**mean, **cells}, picture, ours, LABEL_STYLES, measure, "label")


def _protocol(runs):
    return (
        f"Model: {_models(runs)}. Supports are drawn from the training images by "
        "the seed and scored on the test images; mean and standard deviation over "
        "seeds. One setting of each method for all; nothing is chosen on test images. "
        "The shifts are scored by what was fitted on ImageNet, among their own classes."
    )


def _models(runs):
    found = {(run["model"], run["pretrained"]) for run in runs}
    return ", ".join(" ".join(filter(None, pair)) for pair in sorted(found, key=str))


def _only(runs, results):
    return SimpleNamespace(runs=runs, sessions=results.sessions)


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
            parts.append(_beside(found, methods, accuracy, ours))
    return parts


def _beside(found, methods, cells, ours):
    """Return how one method stands to its peers; the means stand in the table."""
    lines = summary_lines(found, methods, cells, ours)
    return "\n".join(
        line for line in lines if not line.startswith(("    ", "- Mean over"))
    )


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
