"""Tables of the runs of ``texts.py`` and ``shift.py``.

    python -m doctest benchmarks/trouble_summary.py

checks them by hand. A *cell* is a tuple of names that ends in the number of shots, and
a method stands there by its mean over the supports.
"""

import numpy as np


def group_rows(cells, methods, digits, *, depth=-1):
    """Return a row for each group of cells, the names and the means over the cells.

    Parameters
    ----------
    cells : dict
        {cell: {method: mean}}.
    methods : list of str
    digits : int
    depth : int
        The names of a cell before this one are those of its group.

    Returns
    -------
    list of list of str
        A mean over fewer cells than the group has says over how many. The best of the
        full ones is bold: the highest, or with 3 digits, as errors have, the lowest.

    Examples
    --------
    >>> cells = {("a", 1): {"GDA": 50.0, "CMM": 60.0}, ("a", 2): {"CMM": 70.0}}
    >>> group_rows(cells, ["GDA", "CMM"], 1)
    [['a', '50.0 (1)', '**65.0**']]
    """
    rows = []
    for group in dict.fromkeys(cell[:depth] for cell in cells):
        inside = [cells[cell] for cell in cells if cell[:depth] == group]
        found = {m: [cell[m] for cell in inside if m in cell] for m in methods}
        full = [m for m in methods if len(found[m]) == len(inside)]
        means = {m: np.mean(found[m]) for m in methods if found[m]}
        pick = min if digits == 3 else max
        best = pick(full, key=means.get, default=None)
        row = [*map(str, group)]
        for method in methods:
            text = f"{means[method]:.{digits}f}" if method in means else "-"
            if method in means and method not in full:
                text += f" ({len(found[method])})"
            row.append(f"**{text}**" if method == best else text)
        rows.append(row)
    return rows


def gaps(cells, others, ours="CMM"):
    """Compare ours with the best of some methods, in the cells that all of them have.

    Returns
    -------
    dict
        {cell: (the best of `others`, ours less it)}.

    Examples
    --------
    >>> cells = {("a", 1): {"GDA": 50.0, "CLAP": 61.0, "CMM": 60.0}, ("a", 2): {}}
    >>> gaps(cells, ["GDA", "CLAP"])
    {('a', 1): ('CLAP', -1.0)}
    """
    found = {}
    for cell, scores in cells.items():
        if all(method in scores for method in (ours, *others)):
            best = max(others, key=scores.get)
            found[cell] = best, scores[ours] - scores[best]
    return found


def peer_rows(cells, peers, ours="CMM"):
    """Return a row a peer: its mean, ours in the same cells, the gain, how many cells.

    Examples
    --------
    >>> cells = {("a", 1): {"GDA": 50.0, "CMM": 60.0}, ("a", 2): {"CMM": 70.0}}
    >>> peer_rows(cells, ["GDA"])
    [['GDA', '50.00', '60.00', '+10.00', '1']]
    """
    rows = []
    for peer in peers:
        shared = [scores for scores in cells.values() if {peer, ours} <= scores.keys()]
        if shared:
            theirs = np.mean([scores[peer] for scores in shared])
            own = np.mean([scores[ours] for scores in shared])
            row = [peer, f"{theirs:.2f}", f"{own:.2f}", f"{own - theirs:+.2f}"]
            rows.append([*row, str(len(shared))])
    return rows


def worst_rows(found, n_rows):
    """Return rows of the cells of :func:`gaps` where ours is furthest behind."""
    worst = sorted(found, key=lambda cell: found[cell][1])[:n_rows]
    return [[*map(str, c), found[c][0], f"{found[c][1]:+.1f}"] for c in worst]


def excess_rows(ece, allowed, ours="CMM"):
    """Return rows of cells where our calibration error is too far above zero-shot's.

    Parameters
    ----------
    ece : dict
        {cell: {method: mean}}.
    allowed : float
        What it may be above.
    """
    rows = []
    for cell, scores in ece.items():
        if {"zero-shot", ours} <= scores.keys():
            excess = scores[ours] - scores["zero-shot"]
            if excess > allowed:
                values = f"{scores[ours]:.3f}", f"{scores['zero-shot']:.3f}"
                rows.append((-excess, [*map(str, cell), *values, f"{excess:+.3f}"]))
    return [row for _, row in sorted(rows)]
