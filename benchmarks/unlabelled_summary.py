"""Tables of the runs of ``unlabelled.py``: every cell beside the labelled rows alone.

    python -m doctest benchmarks/unlabelled_summary.py

checks them by hand. A *cell* is the tuple of what `CELL` names, and a method stands
there by its values, one a seed.
"""

import numpy as np
from accuracy_summary import mean_and_spread

CELL = ("data", "names", "pool", "shots")
#: Data set, names, shots: what the accuracy with a plain pool is to be at least.
TARGETS = {
    **{("dtd47", "good", n): t for n, t in ((1, 56.5), (2, 59), (4, 63), (8, 66.5))},
    **{("pets25", "good", n): t for n, t in ((1, 92.8), (2, 93.3), (4, 93.6))},
    ("pets25", "good", 8): 93.9,
    **{("flowers102", "absent", n): t for n, t in ((1, 82), (2, 90.5), (4, 93))},
    ("flowers102", "absent", 8): 95.7,
}
#: How far a cell may be below the labelled rows alone, in points, and how far its
#: calibration error above theirs.
ALLOWED, ALLOWED_ECE = 0.2, 0.01


def differences(cells, reference, method):
    """Return {cell: a method less the reference, one value a seed that both have}.

    Parameters
    ----------
    cells : dict
        {cell: {method: {seed: value}}}.

    Examples
    --------
    >>> cells = {("a",): {"CMM": {0: 50.0, 1: 60.0}, "ours": {0: 51.0}}, ("b",): {}}
    >>> differences(cells, "CMM", "ours")
    {('a',): [1.0]}
    """
    found = {}
    for cell, methods in cells.items():
        own, other = methods.get(method, {}), methods.get(reference, {})
        shared = [own[seed] - other[seed] for seed in own if seed in other]
        if shared:
            found[cell] = shared
    return found


def cell_rows(cells, methods, reference, digits):
    """Return a row a cell: the reference, and of the others mean, spread and gain.

    Examples
    --------
    >>> cells = {("a", 1): {"CMM": {0: 50.0, 1: 60.0}, "ours": {0: 53.0, 1: 62.0}}}
    >>> cell_rows(cells, ["CMM", "ours", "other"], "CMM", 1)
    [['a', '1', '55.0 ± 5.0', '57.5 ± 4.5 (+2.5)', '-']]
    """
    rows = []
    gains = {method: differences(cells, reference, method) for method in methods}
    for cell, values in cells.items():
        row = [*map(str, cell)]
        for method in methods:
            text = mean_and_spread(list(values.get(method, {}).values()), digits)
            if method != reference and cell in gains[method]:
                text += f" ({np.mean(gains[method][cell]):+.{digits}f})"
            row.append(text)
        rows.append(row)
    return rows


def gain_rows(cells, methods, reference, digits, group):
    """Return a row for each group of cells and for all: mean gain and worst cell.

    Parameters
    ----------
    group : int
        The place in a cell of what names its group.

    Examples
    --------
    >>> cells = {
    ...     ("a", 1): {"CMM": {0: 50.0}, "ours": {0: 53.0}},
    ...     ("a", 2): {"CMM": {0: 50.0}, "ours": {0: 49.0}},
    ... }
    >>> gain_rows(cells, ["ours"], "CMM", 1, 0)
    [['a', '2', '+1.0 (-1.0)'], ['all cells', '2', '+1.0 (-1.0)']]
    """
    gains = {
        method: {
            c: np.mean(v) for c, v in differences(cells, reference, method).items()
        }
        for method in methods
    }
    rows = []
    for name in [*dict.fromkeys(cell[group] for cell in cells), None]:
        inside = [c for c in cells if name is None or c[group] == name]
        row = ["all cells" if name is None else name, str(len(inside))]
        for method in methods:
            values = [gains[method][c] for c in inside if c in gains[method]]
            row.append(_mean_and_worst(values, digits, len(inside)))
        rows.append(row)
    return rows


def _mean_and_worst(values, digits, n_cells):
    if not values:
        return "-"
    # Errors, with 3 digits, are worst where they grow most.
    worst = max(values) if digits == 3 else min(values)
    note = "" if len(values) == n_cells else f", of {len(values)}"
    return f"{np.mean(values):+.{digits}f} ({worst:+.{digits}f}{note})"


def shot_rows(cells, method, reference, pool):
    """Return a row for each data set and names: "reference -> method" by shots.

    Examples
    --------
    >>> cells = {("a", "good", "plain", 1): {"CMM": {0: 50.0}, "ours": {0: 53.0}}}
    >>> shot_rows(cells, "ours", "CMM", "plain")
    (['1'], [['a', 'good', '50.0 -> 53.0']])
    """
    found = {
        (data, names, shots): [
            np.mean(list(v[m].values())) for m in (reference, method)
        ]
        for (data, names, at, shots), v in cells.items()
        if at == pool and reference in v and method in v
    }
    shots = sorted({cell[2] for cell in found})
    rows = []
    for group in dict.fromkeys(cell[:2] for cell in found):
        pairs = [found.get((*group, n)) for n in shots]
        texts = ["-" if p is None else f"{p[0]:.1f} -> {p[1]:.1f}" for p in pairs]
        rows.append([*group, *texts])
    return [str(n) for n in shots], rows


def target_rows(cells, method, reference):
    """Return a row for each of `TARGETS` that was run: data, shots and what came."""
    rows = []
    for (data, names, shots), target in TARGETS.items():
        found = cells.get((data, names, "plain", shots), {})
        if method in found:
            values = list(found[method].values())
            own = np.mean(values)
            row = [data, str(shots), mean_and_spread([*found[reference].values()], 1)]
            row += [
                mean_and_spread(values, 1),
                f"{target:.1f}",
                f"{own - target:+.1f}",
            ]
            rows.append(row)
    return rows


def beyond_rows(cells, method, reference, allowed, digits, sign=1):
    """Return how many cells are worse than allowed, and rows of the worst.

    Parameters
    ----------
    sign : {1, -1}
        1 where more is better.
    """
    gains = differences(cells, reference, method)
    means = {cell: sign * np.mean(values) for cell, values in gains.items()}
    worst = sorted((cell for cell in means if means[cell] < -allowed), key=means.get)
    rows = [
        [
            *map(str, cell),
            f"{np.mean(list(cells[cell][reference].values())):.{digits}f}",
            f"{np.mean(list(cells[cell][method].values())):.{digits}f}",
            f"{sign * means[cell]:+.{digits}f}",
            " ".join(f"{gain:+.{digits}f}" for gain in gains[cell]),
        ]
        for cell in worst
    ]
    return f"{len(worst)} of {len(means)}", rows
