"""The vectors of labels as people hold them: arrays, dicts, word vectors, files."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from skfewshot._names import Wording, class_names_of
from skfewshot._sklearn import show
from skfewshot._text import Prototypes, resolve_prototypes

#: Returns the vector of a word, or None where there is none.
Lookup = Callable[[str], Any]


#: What the multi-label estimators call their parameters.
_LABELS = Wording(
    "label_features",
    "label_names",
    "label",
    "labels",
    "column of y (sorted class of 1-D y)",
    "some tools of scikit-learn drop the names of the columns of a data frame, which "
    "leaves 0, 1, ... in their order.",
)


def find_label_vectors(
    estimator: Any,
    label_features: Any,
    classes: NDArray,
    encoder: Any,
    like: NDArray,
    any_width: bool,
) -> Prototypes:
    """Find the label vectors, unit rows, or None where there is no text.

    As :func:`skfewshot._text.resolve_prototypes` does, by the `label_names` and the
    `text_encoder` of the estimator, in the dtype of the features `like`, and as wide as
    they are unless there is a prior to map vectors of `any_width`.
    """
    found = resolve_prototypes(
        _by_label(estimator, label_features, classes),
        classes=classes,
        encoder=encoder,
        text_encoder=estimator.text_encoder,
        class_names=estimator.label_names,
        n_features=None,
        dtype=like.dtype,
        wording=_LABELS,
    )
    width = like.shape[1]
    shape = (len(classes), width) if found.features is None else found.features.shape
    if not any_width and shape[1] != width:
        raise ValueError(
            f"The label vectors (from {found.source}) have shape {shape}; wanted "
            f"{(len(classes), width)}, as wide as the tokens of X. Vectors of another "
            "width, such as word vectors, need prior=, a MultiLabelPrototypePrior "
            f"fitted with vectors of width {shape[1]}, which maps them."
        )
    return found


def _by_label(estimator: Any, label_features: Any, classes: NDArray) -> Any:
    """Return label features, those by word as an array with a row for each label."""
    is_dict = isinstance(label_features, Mapping)
    if is_dict and all(label in label_features for label in classes.tolist()):
        return label_features
    if not (is_dict or is_path(label_features) or knows_words(label_features)):
        return label_features
    names = _plain_names(classes, estimator.label_names)
    if is_dict and not _is_by_word(label_features, classes, names):
        return label_features
    if names is not None:
        return vectors_of_names(label_features, names)
    raise ValueError(
        "label_features holds vectors of words, and the labels are no words: "
        f"{classes.tolist()[:5]}. Pass label_names, or y as a data frame with the "
        "labels' names as its columns."
    )


def _plain_names(classes: NDArray, label_names: Any) -> list[str] | None:
    """Return the labels' names, of which descriptions are no words to look up."""
    names = class_names_of(classes, label_names, _LABELS)
    for name in names or ():
        if not isinstance(name, str):
            raise TypeError(
                "label_names must hold a name for each label where label_features "
                f"holds vectors of words; got the descriptions {show(name)}."
            )
    return None if names is None else [str(name) for name in names]


def _is_by_word(vectors: Mapping, classes: NDArray, names: list[str] | None) -> bool:
    """Say whether the labels that a dict lacks are there by a word of their names."""
    pairs = zip(classes.tolist(), names or [], strict=False)
    forms = [
        form
        for label, name in pairs
        if label not in vectors
        for form in _all_forms(name)
    ]
    return any(form in vectors for form in forms)


def is_path(label_features: Any) -> bool:
    """Say whether label features are given by the name of a file."""
    is_name = isinstance(label_features, str) and label_features != "auto"
    return is_name or isinstance(label_features, os.PathLike)


def knows_words(label_features: Any) -> bool:
    """Say whether label features are an object with vectors by word, as gensim's are.

    Data frames, and whatever else has a shape, are not asked for words.
    """
    if hasattr(label_features, "key_to_index") and hasattr(label_features, "vectors"):
        return True
    return hasattr(label_features, "__getitem__") and hasattr(
        label_features, "vector_size"
    )


def vectors_of_names(label_features: Any, names: Sequence[str]) -> NDArray:
    """Return a vector for each name, shape (n_names, width).

    A name is looked up as a whole, its words joined by ``_`` or by a space, and then by
    its words, of which the mean is taken; each as it is written and in lower case.

    Parameters
    ----------
    label_features : dict, gensim KeyedVectors, str or os.PathLike
        A file is read line by line, and only the vectors that are wanted are kept.
    names : sequence of str

    Raises
    ------
    ValueError
        If a word is not there, naming the label; if the file is not one of vectors,
        naming the line.
    OSError
        If the file cannot be read.
    """
    if is_path(label_features):
        wanted = {form for name in names for form in _all_forms(name)}
        lookup: Lookup = read_word_file(label_features, wanted).get
        source = str(label_features)
    else:
        lookup, source = _lookup(label_features), "label_features"
    return np.stack([_vector(name, lookup, source) for name in names])


def _lookup(words: Any) -> Lookup:
    if isinstance(words, Mapping):
        return words.get
    if hasattr(words, "key_to_index"):
        index, vectors = words.key_to_index, words.vectors
        return lambda word: vectors[index[word]] if word in index else None

    def look_up(word: str) -> Any:
        try:
            return words[word]
        except KeyError:
            return None

    return look_up


def _vector(name: str, lookup: Lookup, source: str) -> NDArray:
    """Return the vector of a name, or the mean of those of its words."""
    for form in _whole_forms(name):
        found = lookup(form)
        if found is not None:
            return _as_vector(found, form, source)
    for words in _splits(name):
        vectors = [_first(map(lookup, (word, word.lower()))) for word in words]
        missing = [w for w, v in zip(words, vectors, strict=True) if v is None]
        if words and not missing:
            pairs = zip(vectors, words, strict=True)
            return np.mean([_as_vector(v, w, source) for v, w in pairs], axis=0)
    raise ValueError(
        f"{source} has no vector for the label {name!r}: it lacks "
        f"{', '.join(map(repr, missing)) or 'words that the name would have'}. Name "
        "the label by other words (label_names), or pass a dict that has it."
    )


def _as_vector(found: Any, word: str, source: str) -> NDArray:
    vector = np.asarray(found, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(
            f"{source} gives {word!r} an array of shape {vector.shape}; wanted a "
            "vector."
        )
    return vector


def _first(found: Iterable[Any]) -> Any:
    return next((vector for vector in found if vector is not None), None)


def _whole_forms(name: str) -> list[str]:
    """Return how a name may be written as one word: stop_sign, "stop sign"."""
    words = name.split()
    forms = ["_".join(words), " ".join(words)]
    return list(dict.fromkeys(forms + [form.lower() for form in forms]))


def _splits(name: str) -> Iterator[list[str]]:
    """Yield the words of a name, "t-shirt" as one and then, without hyphen, as two."""
    yield re.split(r"[\s_]+", name.strip(" _"))
    yield [word for word in re.split(r"[\s_\-]+", name) if word]


def _all_forms(name: str) -> list[str]:
    words = [word for split in _splits(name) for word in split]
    return _whole_forms(name) + words + [word.lower() for word in words]


def read_word_file(path: str | os.PathLike, wanted: set[str]) -> dict[str, NDArray]:
    """Read the vectors of some words from a text file as GloVe and word2vec write them.

    Each line is a word and its numbers, with a space between any two; a first line of
    two integers, as word2vec writes it, is passed over. Words may hold spaces.

    Parameters
    ----------
    path : str or os.PathLike
    wanted : set of str
        The words to read; the others cost no memory.

    Returns
    -------
    dict of str to ndarray of shape (width,)

    Raises
    ------
    ValueError
        If a line has another number of fields than the first, or one that is no number.
    """
    if isinstance(path, str) and not os.path.exists(path):
        raise ValueError(
            f"label_features={path!r} is neither 'auto' nor a file of word vectors."
        )
    keys = {word.encode(): word for word in wanted}
    with open(path, "rb") as file:
        width = _width(file, path)
        found: dict[str, NDArray] = {}
        for number, line in _numbered(file):
            word, *numbers = line.rsplit(b" ", width)
            if len(numbers) < width or not word or _is_number(_after_space(word)):
                raise _malformed(path, number, line, f"{width} numbers after a word")
            if word in keys and keys[word] not in found:
                found[keys[word]] = _parse(numbers, path, number, line)
    return found


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers, but empty ones and a header of two integers."""
    for number, raw in enumerate(file, start=1):
        line = raw.rstrip(b" \t\r\n").replace(b"\t", b" ")
        if line and not (number == 1 and _is_header(line)):
            yield number, line


def _width(file: BinaryIO, path: Any) -> int:
    """Return how many numbers the first line of a file has, or announces."""
    first = file.readline()
    file.seek(0)
    first = first.rstrip()
    if _is_header(first):
        return int(first.split()[1])
    fields = first.replace(b"\t", b" ").split(b" ")
    if len(fields) < 2:
        raise _malformed(path, 1, first, "a word and its numbers")
    return len(fields) - 1


def _is_header(line: bytes) -> bool:
    return re.fullmatch(rb"[0-9]+\s[1-9][0-9]*", line) is not None


def _after_space(word: bytes) -> bytes:
    """Return what of a word may be a number too many: the part behind a space."""
    return word.rpartition(b" ")[2] if b" " in word else b""


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse(numbers: list[bytes], path: Any, number: int, line: bytes) -> NDArray:
    try:
        vector = np.array([float(text) for text in numbers])
    except ValueError as error:
        raise _malformed(path, number, line, "a word and numbers") from error
    if not np.isfinite(vector).all():
        raise _malformed(path, number, line, "finite numbers")
    return vector


def _malformed(path: Any, number: int, line: bytes, wanted: str) -> ValueError:
    shown = line[:60].decode("utf-8", "replace")
    return ValueError(
        f"Line {number} of {Path(path)} is {shown!r}; wanted {wanted}, as text files "
        "of GloVe and word2vec have. Read a binary file with gensim, and pass its "
        "KeyedVectors."
    )
