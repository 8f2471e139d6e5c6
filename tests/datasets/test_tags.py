"""Columns of tags: split, and noticed where they are taken for classes."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skfewshot import CMMClassifier, MultiLabelPrototypeClassifier
from skfewshot.datasets import split_tags

ENTRIES = ["cat; dog", "dog", "", "bird ;cat;", " ; "]
EXPECTED = [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "column",
    [
        ENTRIES,
        tuple(ENTRIES),
        np.array(ENTRIES),
        np.array(ENTRIES, dtype=object),
        pd.Series(ENTRIES, index=[5, 3, 1, 2, 4]),
        pd.Series(["cat; dog", "dog", None, "bird ;cat;", pd.NA], dtype="string"),
        pd.Series(["cat; dog", "dog", np.nan, "bird ;cat;", None]),
        pl.Series(["cat; dog", "dog", None, "bird ;cat;", None]),
        [["cat", "dog"], ("dog",), [], {"bird", "cat "}, None],
        iter(ENTRIES),
    ],
)
def test_columns(column):
    Y, names = split_tags(column)
    assert names.tolist() == ["bird", "cat", "dog"]
    assert Y.dtype == np.int64
    assert Y.tolist() == EXPECTED


def test_separators():
    found = split_tags(["a|b", "b|a|a", "c; d"], "|")
    assert found.names.tolist() == ["a", "b", "c; d"]
    assert found.indicator.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert split_tags(["a, b"], ", ").names.tolist() == ["a", "b"]


def test_a_classifier_learns_from_them():
    X = np.random.default_rng(0).normal(size=(6, 3, 4))
    Y, names = split_tags(["cat; dog", "dog", "cat", "cat; dog", "dog", "cat"])
    model = MultiLabelPrototypeClassifier(label_names=names, label_features=None)
    assert model.fit(X, Y).predict(X).shape == (6, 2)


@pytest.mark.parametrize(
    ("column", "sep", "error", "message"),
    [
        ("cat; dog", ";", TypeError, "single text"),
        ([1, 2], ";", TypeError, "index 0 of column is 1"),
        ([["a", 1]], ";", TypeError, "index 0 of column"),
        (["", None], ";", ValueError, "no tag in its 2 entries"),
        ([], ";", ValueError, "no tag"),
        (["a"], "", ValueError, "sep must be"),
    ],
)
def test_refused(column, sep, error, message):
    with pytest.raises(error, match=message):
        split_tags(column, sep)


def test_tags_that_differ_in_case_are_told_of():
    with pytest.warns(UserWarning, match=r"same but for case.*\['Cat', 'cat'\]"):
        _, names = split_tags(["cat; Dog", "Cat"])
    assert names.tolist() == ["Cat", "Dog", "cat"]


def fit(classes):
    rng = np.random.default_rng(0)
    y = np.repeat(classes, 2)
    return CMMClassifier(text_features=None).fit(rng.normal(size=(len(y), 4)), y)


@pytest.mark.parametrize(
    "classes",
    [
        ["cat; dog", "dog"],
        ["cat;dog", "dog;bird", "fox"],
        ["cat|dog", "bird|dog"],
        ["cat, dog", "dog", "cat"],
        [f"{color}, {size}" for color in ("red", "blue", "tan") for size in "SL"],
    ],
)
def test_tags_as_classes_are_told_of(classes):
    with pytest.warns(UserWarning, match="look like lists of tags.*split_tags") as seen:
        fit(classes)
    assert seen[0].filename.endswith("test_tags.py")


@pytest.mark.parametrize(
    "classes",
    [
        ["cat", "dog"],
        ["cat; tame", "dog"],
        ["Labrador, black", "Labrador, yellow", "Labrador, brown"],
        ["crane, bird", "crane, machine", "mouse, animal", "mouse, computer"],
        [1, 2],
        ["a;b", "c;d"],
    ],
)
def test_names_are_not_taken_for_tags(classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(classes)


def test_lists_with_something_else_between_are_told():
    with pytest.warns(UserWarning, match=r"such as \['cat, dog'.*';' was expected"):
        split_tags(["cat, dog", "dog", "cat", "dog, cat", "cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_tags(["Labrador, black; dog", "Poodle, white; dog"])
