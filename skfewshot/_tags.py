"""Labels that are lists of tags: splitting them, and noticing them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user

_SEPARATORS = (";", "|", ",")
_SHOWN = 3


class Tags(NamedTuple):
    """The labels of images that may have several.

    Parameters
    ----------
    indicator : ndarray of int64, shape (n, n_labels)
        1 where the image has the label, else 0.
    names : ndarray of str, shape (n_labels,)
        What the columns stand for, sorted.
    """

    indicator: NDArray
    names: NDArray


def split_tags(column: Iterable[Any], sep: str = ";") -> Tags:
    """Split a column of tag lists, such as ``"cat; dog"``, into an indicator.

    Parameters
    ----------
    column : iterable of str, of sequences of str, or missing values
        One entry an image, such as the column of a table. An empty or missing one has
        no label.
    sep : str, default=";"
        What stands between two tags. Spaces around tags do not count.

    Returns
    -------
    Tags
        A pair of ``indicator``, an int64 array of shape (n, n_labels) that
        :class:`~skfewshot.MultiLabelPrototypeClassifier` takes as `y`, and ``names``,
        the sorted tags, which it takes as `label_names`.

    Raises
    ------
    TypeError, ValueError
        If an entry is no text, no sequence of texts and not missing, or there is no
        tag at all.

    Warns
    -----
    UserWarning
        If tags are the same but for case, or look like lists with something else
        between.

    Examples
    --------
    >>> from skfewshot.datasets import split_tags
    >>> Y, names = split_tags(["cat; dog", "dog", ""])
    >>> names.tolist()
    ['cat', 'dog']
    >>> Y.tolist()
    [[1, 1], [0, 1], [0, 0]]
    """
    if isinstance(column, str | bytes):
        raise TypeError(
            f"column is a single text, {column!r:.80}; wanted is one entry an image."
        )
    if not isinstance(sep, str) or not sep:
        raise ValueError(f"sep must be a text that is not empty; got {sep!r}.")
    entries = [_tags_of(entry, sep, index) for index, entry in enumerate(column)]
    names = sorted({tag for tags in entries for tag in tags})
    if not names:
        raise ValueError(
            f"column has no tag in its {len(entries)} entries; wanted are texts such "
            f"as 'cat{sep} dog'."
        )
    _warn_of_case(names)
    _warn_of_other_separators(names, sep)
    place = {name: number for number, name in enumerate(names)}
    indicator = np.zeros((len(entries), len(names)), dtype=np.int64)
    for row, tags in zip(indicator, entries, strict=True):
        row[[place[tag] for tag in tags]] = 1
    return Tags(indicator, np.array(names))


def _tags_of(entry: Any, sep: str, index: int) -> list[str]:
    if isinstance(entry, str):
        return [tag.strip() for tag in entry.split(sep) if tag.strip()]
    if isinstance(entry, list | tuple | set | frozenset | np.ndarray):
        if all(isinstance(tag, str) for tag in entry):
            return [tag.strip() for tag in entry if tag.strip()]
    elif _is_missing(entry):
        return []
    raise TypeError(
        f"The entry at index {index} of column is {entry!r:.80}; wanted is a text of "
        "tags, a list of them, or nothing."
    )


def _is_missing(entry: Any) -> bool:
    try:
        return entry is None or bool(entry != entry)
    except TypeError:  # pandas.NA
        return True


def _warn_of_case(names: list[str]) -> None:
    counts = Counter(name.casefold() for name in names)
    alike = [name for name in names if counts[name.casefold()] > 1]
    if alike:
        warn_user(
            f"Tags are the same but for case, and are labels of their own: "
            f"{alike[:10]}. Make them one before: column.str.lower()."
        )


def _warn_of_other_separators(names: list[str], sep: str) -> None:
    lists = _lists_of_tags(names)
    if lists:
        warn_user(
            f"Tags look like lists themselves, such as {lists[:_SHOWN]}, and each is a "
            f"label of its own. Between two tags {sep!r} was expected (sep)."
        )


def warn_of_tags(classes: NDArray) -> None:
    """Warn where the classes of a single-label classifier look like lists of tags."""
    names = classes.tolist()
    if not all(isinstance(name, str) for name in names):
        return
    lists = _lists_of_tags(names)
    if lists:
        warn_user(
            f"{len(lists)} of the {len(names)} classes look like lists of tags, "
            f"such as {lists[:_SHOWN]}, and each is learned as a class of its "
            "own. For several labels an image see "
            "skfewshot.datasets.split_tags and MultiLabelPrototypeClassifier."
        )


def _lists_of_tags(names: list[str]) -> list[str]:
    """Return the names that look like lists of tags.

    That is where parts of them, between the same separators, are parts of others too.
    Commas stand in names as well ("Labrador, black"): of these the parts have to be
    fewer than the names, or names by themselves.
    """
    for sep in _SEPARATORS:
        split = {name: {part.strip() for part in name.split(sep)} for name in names}
        lists = [name for name in names if len(split[name]) > 1]
        if not lists:
            continue
        counts = Counter(part for parts in split.values() for part in parts)
        shared = [name for name in lists if any(counts[p] > 1 for p in split[name])]
        alone = [name for name in lists if split[name] & set(names)]
        if sep == "," and not alone and len(counts) >= len(names):
            continue
        if shared:
            return shared
    return []
