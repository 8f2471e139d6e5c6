"""Tables, a summary and a plot of the runs of ``accuracy.py``.

    python -m doctest benchmarks/accuracy_summary.py

checks the summary by hand. A *cell* is a data set with a number of shots, and a method
stands there by its mean over the supports.
"""

from collections import defaultdict

import numpy as np


def collect(runs, key, names=("data", "shots")):
    """Return {cell: {method: values over the supports}} of one measure of the runs.

    A cell is the tuple of what the runs say under `names`.
    """
    cells = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[tuple(run[name] for name in names)][run["method"]].append(run[key])
    return {cell: dict(methods) for cell, methods in cells.items()}


def means(cells):
    """Return {cell: {method: mean over the supports}}."""
    return {
        cell: {method: float(np.mean(values)) for method, values in methods.items()}
        for cell, methods in cells.items()
    }


def summarize(accuracy, ece, peers, ours="CMM"):
    """Compare one method with its peers over all cells that it was run in.

    Parameters
    ----------
    accuracy, ece : dict
        {cell: {method: mean}}.
    peers : sequence of str
        The methods to compare with. One that lacks a cell is never the single best.
    ours : str
        The method that is compared.

    Returns
    -------
    dict
        Of the accuracy: ``mean``, {method: mean over cells}; ``n_cells`` of each;
        ``best_peer``, the peer with the best mean over all cells; ``best_of_cells``,
        the mean over cells of each cell's best peer; ``over_best_peer`` and
        ``over_best_of_cells``, ours less those; ``worst``, (cell, its best peer, ours
        less that peer) where that is least. Of the calibration: ``ece_excess``, {data
        set: (cell, ours less zero-shot)} where that is largest.

    Examples
    --------
    >>> accuracy = {
    ...     ("a", 1): {"zero-shot": 50.0, "GDA": 40.0, "CMM": 55.0},
    ...     ("a", 4): {"zero-shot": 50.0, "GDA": 70.0, "CMM": 69.0},
    ... }
    >>> ece = {
    ...     ("a", 1): {"zero-shot": 0.02, "CMM": 0.01},
    ...     ("a", 4): {"zero-shot": 0.02, "CMM": 0.05},
    ... }
    >>> found = summarize(accuracy, ece, ["zero-shot", "GDA"])
    >>> found["mean"]
    {'zero-shot': 50.0, 'GDA': 55.0, 'CMM': 62.0}
    >>> found["best_peer"], found["best_of_cells"]
    ('GDA', 60.0)
    >>> found["over_best_peer"], found["over_best_of_cells"]
    (7.0, 2.0)
    >>> found["worst"]
    (('a', 4), 'GDA', -1.0)
    >>> cell, excess = found["ece_excess"]["a"]
    >>> cell, round(excess, 3)
    (('a', 4), 0.03)
    """
    cells = [cell for cell, methods in accuracy.items() if ours in methods]
    scores = defaultdict(list)
    for cell in cells:
        for method, score in accuracy[cell].items():
            scores[method].append(score)
    mean = {method: float(np.mean(values)) for method, values in scores.items()}
    best = {cell: best_method(accuracy[cell], peers) for cell in cells}
    found = {
        "mean": mean,
        "n_cells": {method: len(values) for method, values in scores.items()},
        "ece_excess": _ece_excess(ece, ours),
    }
    complete = [peer for peer in peers if len(scores[peer]) == len(cells)]
    if complete:
        found["best_peer"] = max(complete, key=mean.get)
        found["over_best_peer"] = mean[ours] - mean[found["best_peer"]]
    if cells and all(best.values()):
        gains = {c: accuracy[c][ours] - accuracy[c][best[c]] for c in cells}
        worst = min(gains, key=gains.get)
        found["best_of_cells"] = float(np.mean([accuracy[c][best[c]] for c in cells]))
        found["over_best_of_cells"] = mean[ours] - found["best_of_cells"]
        found["worst"] = worst, best[worst], gains[worst]
    return found


def best_method(scores, methods):
    """Return which of some methods has the highest score, or None if none has any."""
    return max((m for m in methods if m in scores), key=scores.get, default=None)


def _ece_excess(ece, ours):
    worst = {}
    for cell, methods in ece.items():
        if ours in methods and "zero-shot" in methods:
            excess = methods[ours] - methods["zero-shot"]
            if excess > worst.get(cell[0], (None, -np.inf))[1]:
                worst[cell[0]] = cell, excess
    return worst


def table_rows(cells, methods, peers, *, digits, lowest=False):
    """Return one row a cell, mean ± deviation, with the best peer in bold."""
    sign = -1 if lowest else 1
    rows = []
    for cell, values in cells.items():
        scores = {method: sign * np.mean(found) for method, found in values.items()}
        best = best_method(scores, peers)
        row = [*cell]
        for method in methods:
            text = mean_and_spread(values.get(method, []), digits)
            row.append(f"**{text}**" if method == best else text)
        rows.append(row)
    return rows


def ablation_rows(accuracy, ece, variants):
    """Return the names of the data sets, and for each variant a row of means.

    Parameters
    ----------
    accuracy, ece : dict
        {(data, shots): {method: mean}}, in % and in [0, 1].
    variants : list of str

    Examples
    --------
    >>> accuracy = {("a", 1): {"CMM": 50.0}, ("a", 2): {"CMM": 60.0}}
    >>> ece = {("a", 1): {"CMM": 0.1}, ("a", 2): {"CMM": 0.2}}
    >>> ablation_rows(accuracy, ece, ["CMM"])
    (['a'], [['CMM', '55.0', '55.00', '0.150']])
    """
    names = list(dict.fromkeys(data for data, _ in accuracy))

    def mean(scores, variant, chosen):
        return np.mean([scores[cell][variant] for cell in scores if cell[0] in chosen])

    rows = [
        [
            variant,
            *(f"{mean(accuracy, variant, [name]):.1f}" for name in names),
            f"{mean(accuracy, variant, names):.2f}",
            f"{mean(ece, variant, names):.3f}",
        ]
        for variant in variants
    ]
    return names, rows


def mean_and_spread(values, digits):
    if not values:
        return "-"
    spread = f" ± {np.std(values):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def summary_lines(found, methods, accuracy, ours="CMM"):
    """Return what :func:`summarize` found, as Markdown list items."""
    n_cells = found["n_cells"].get(ours, 0)
    lines = [f"- Mean over {n_cells} cells (data set and shots):"]
    for method in (method for method in methods if method in found["mean"]):
        own = found["n_cells"][method]
        note = "" if own == n_cells else f" (of {own} cells only)"
        lines.append(f"    - {method}: {found['mean'][method]:.2f}{note}")
    if "best_peer" in found:
        best = found["best_peer"]
        lines.append(
            f"- Best single peer: {best}, {found['mean'][best]:.2f}; {ours} is "
            f"{found['over_best_peer']:+.2f} from it."
        )
    if "worst" in found:
        (data, shots), peer, gain = found["worst"]
        lines += [
            f"- Mean of each cell's best peer: {found['best_of_cells']:.2f}; {ours} is "
            f"{found['over_best_of_cells']:+.2f} from it.",
            f"- Worst cell of {ours}: {data}, {shots} shots, {gain:+.2f} from {peer}.",
        ]
    dtd = accuracy.get(("dtd47", 16), {})
    if ours in dtd and "GDA" in dtd:
        gain = dtd[ours] - dtd["GDA"]
        lines.append(
            f"- dtd47, 16 shots: {ours} {dtd[ours]:.2f}, GDA {dtd['GDA']:.2f} "
            f"({gain:+.2f})."
        )
    for data, ((_, shots), excess) in found["ece_excess"].items():
        lines.append(
            f"- ECE of {ours}, worst over zero-shot, {data}: {100 * excess:+.1f} "
            f"points at {shots} shots."
        )
    return lines


#: Colours that the colour-blind can tell apart (Okabe and Ito), with markers.
STYLES = {
    "zero-shot": {"color": "0.55", "linestyle": "--"},
    "linear probe": {"color": "0.55", "linestyle": ":"},
    "Tip-Adapter": {"color": "#56B4E9", "marker": "s"},
    "Tip-Adapter-F": {"color": "#0072B2", "marker": "s"},
    "GDA": {"color": "#009E73", "marker": "D"},
    "LP++": {"color": "#E69F00", "marker": "^"},
    "CLAP": {"color": "#CC79A7", "marker": "v"},
    "TaskRes": {"color": "#8C564B", "marker": "P"},
    "ProKeR": {"color": "#B8A800", "marker": "X"},
    "CMM": {"color": "#D00000", "marker": "o", "linewidth": 3, "markersize": 7},
}


#: Panels of a figure that stand side by side.
ACROSS = 4


def plot(
    cells,
    path,
    ours="CMM",
    styles=STYLES,
    measure="top-1 accuracy (%)",
    unit="class",
):
    """Draw a measure by shots, a panel for each data set, to a file."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(data for data, _ in cells))
    across, down = min(len(names), ACROSS), -(-len(names) // ACROSS)
    figure = Figure(figsize=(3.4 * across, 4.6 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    panels = grid.ravel()[: len(names)]
    for panel in grid.ravel()[len(names) :]:
        panel.remove()
    scores, handles = means(cells), {}
    for panel, name in zip(panels, names, strict=True):
        shots = sorted(count for data, count in cells if data == name)
        for method, style in styles.items():
            known = [n for n in shots if method in scores[name, n]]
            style = {"linewidth": 1.4, "markersize": 5} | style
            if known:
                values = [scores[name, n][method] for n in known]
                zorder = 4 if method == ours else 2
                (line,) = panel.plot(known, values, zorder=zorder, **style)
                handles.setdefault(method, line)
        _finish_panel(panel, name, shots, unit)
        _crop(panel, [scores[name, n] for n in shots], ours, styles)
    for panel in grid[:, 0]:
        panel.set_ylabel(measure)
    handles = {method: handles[method] for method in styles if method in handles}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), 5),
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _finish_panel(panel, name, shots, unit):
    from matplotlib.ticker import NullLocator

    panel.set_xscale("log", base=2)
    panel.set_xticks(shots, labels=[str(count) for count in shots])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel(f"images a {unit}")
    panel.set_title(name)
    panel.grid(color="0.9", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)


def _crop(panel, scores, ours, styles):
    """Spend the height on the methods that are near ours, and say so."""
    shown = [cell[m] for cell in scores for m in (ours, "zero-shot") if m in cell]
    values = [cell[method] for cell in scores for method in styles if method in cell]
    if not shown:
        return
    margin = max(2.0, 0.15 * (max(values) - min(shown)))
    bottom = min(shown) - margin
    if min(values) >= bottom:
        return
    panel.set_ylim(bottom, max(values) + margin / 3)
    panel.text(
        0.98,
        0.02,
        "what is lower is cut off",
        transform=panel.transAxes,
        ha="right",
        fontsize="small",
        color="0.4",
    )
