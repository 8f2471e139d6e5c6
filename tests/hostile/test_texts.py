"""Texts of every form are read right, or refused by name."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone

from skfewshot import CMMClassifier

NAMES = ["ant", "bee", "cat"]
MASK = np.zeros((3, 8), dtype=bool)
MASK[0, 0] = True


def keyed(rows):
    return dict(zip(NAMES, rows, strict=True))


SAME = {
    "list": lambda T: T.tolist(),
    "objects": lambda T: T.astype(object),
    "other byte order": lambda T: T.astype(">f8"),
    "Fortran order": np.asfortranarray,
    "read-only": lambda T: np.broadcast_to(T, T.shape),
    "long": lambda T: 2.0**900 * T,
    "short": lambda T: 2.0**-1000 * T,
    "no mask": lambda T: np.ma.array(T, mask=False),
    "dict": keyed,
    "dict and more": lambda T: {"wasp": np.full(8, np.nan), **keyed(T)},
    "dict of lists": lambda T: keyed(T.tolist()),
    "tensor": torch.tensor,
    "tensor of a graph": lambda T: torch.tensor(T, requires_grad=True),
    "list of tensors": lambda T: [torch.tensor(t, requires_grad=True) for t in T],
    "dict of tensors": lambda T: keyed(
        [torch.tensor(t, requires_grad=True) for t in T]
    ),
    "frame": lambda T: pd.DataFrame(T[::-1], index=NAMES[::-1]),
    "frame of numbers": pd.DataFrame,
    "polars": pl.DataFrame,
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_texts_in_another_form(reader, form, problem, hostile):
    given = hostile.with_texts(reader, problem.text)
    _, expected = hostile.fit_and_check(given, problem.X, problem.y)
    given = hostile.with_texts(reader, SAME[form](problem.text))
    _, found = hostile.fit_and_check(given, problem.X, problem.y)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("form", ["list", "tensor of a graph", "list of tensors"])
def test_what_a_callable_encodes(reader, form, problem, hostile):
    expected = hostile.with_texts(reader, problem.text)
    _, expected = hostile.fit_and_check(expected, problem.X, problem.y)
    given = clone(reader).set_params(
        text_encoder=lambda names: SAME[form](problem.text)
    )
    _, found = hostile.fit_and_check(given, problem.X, problem.y)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


ODD = {
    "equal": lambda T: np.ones_like(T),
    "two equal": lambda T: T[[0, 0, 1]],
    "opposite": lambda T: np.vstack([T[0], -T[0], T[1]]),
    "nearly equal": lambda T: 1 + 1e-15 * T,
    "booleans": lambda T: T > T.min(axis=1, keepdims=True),
    "half precision": lambda T: T.astype(np.float16),
    "orthogonal to the rows": lambda T: np.eye(3, 8) * 1e-300,
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_texts(estimator, kind, problem, hostile):
    given = hostile.with_texts(estimator, ODD[kind](problem.text))
    hostile.fit_and_check(given, problem.X, problem.y)


REFUSED = {
    "complex": (lambda T: T + 1j, "Complex data not supported"),
    "complex tensor": (lambda T: torch.tensor(T + 1j), "features is torch.complex"),
    "conjugates": (lambda T: keyed(torch.tensor(T + 1j).conj()), "features is torch"),
    "masked": (lambda T: np.ma.array(T, mask=MASK), "features is a masked array"),
    "masked in a dict": (
        lambda T: keyed(np.ma.array(T, mask=MASK)),
        "features is a masked array",
    ),
    "dates": (lambda T: T.astype("M8[s]"), "features holds dates"),
    "sparse": (csr_array, "_features' parameter"),
    "sparse tensor": (lambda T: torch.tensor(T).to_sparse(), "features is a tensor of"),
    "tensor of no device": (lambda T: torch.tensor(T).to("meta"), "meta"),
    "NaN": (lambda T: np.where(MASK, np.nan, T), "features contains NaN"),
    "infinity": (lambda T: np.where(MASK, np.inf, T), "features contains infinity"),
    "huge integers": (lambda T: [[10**400] * 8] * 3, "features holds a number too"),
    "zeros": (lambda T: 0 * T, "row of zeros"),
    "words": (lambda T: [["x"] * 8] * 3, "could not convert"),
    "too wide": (lambda T: np.hstack([T, T]), r"shape \(3, 16\); wanted \(3, 8\)"),
    "too narrow": (lambda T: T[:, :3], r"shape \(3, 3\); wanted \(3, 8\)"),
    "too many": (lambda T: np.vstack([T, T]), "features has 6 rows, but y has 3"),
    "too few": (lambda T: T[:2], "features has 2 rows, but y has 3"),
    "none": (lambda T: [], "features must be an array of shape"),
    "one vector": (lambda T: T[0], "features must be an array of shape"),
    "three axes": (lambda T: T[None], "features must be an array of shape"),
    "a number": (lambda T: 3.0, "_features"),
    "a missing class": (lambda T: {"ant": T[0]}, "lacks the .*'bee', 'cat'"),
    "no vector": (lambda T: {**keyed(T), "cat": None}, "one common length"),
    "several lengths": (lambda T: {**keyed(T), "cat": T[0, :3]}, "one common length"),
    "names twice": (
        lambda T: pd.DataFrame(np.vstack([T, -T]), index=NAMES * 2),
        "several rows of one name",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(reader, kind, problem, hostile):
    make, message = REFUSED[kind]
    given = hostile.with_texts(reader, make(problem.text))
    hostile.refuse(given, problem.X, problem.y, message)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda names: None, "Expected 2D array"),
        (lambda names: np.full((3, 8), np.nan), "text_encoder contains NaN"),
        (lambda names: np.ones((2, 8)), r"from text_encoder\) have shape \(2, 8\)"),
        (lambda names: np.ones((3, 8)) + 1j, "Complex data"),
        (
            lambda names: np.ma.array(np.ones((3, 8)), mask=MASK),
            "text_encoder is a mask",
        ),
        (lambda names: "abc", "could not convert"),
        (lambda names: iter(names), "float"),
    ],
)
def test_what_a_callable_must_not_encode(reader, encode, message, problem, hostile):
    given = clone(reader).set_params(text_encoder=encode)
    hostile.refuse(given, problem.X, problem.y, message)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros(8), "row of zeros"),
        (np.full(8, np.nan), "contains NaN"),
        (np.full(8, np.inf), "contains infinity"),
        (np.ones(3), r"shape \(1, 3\); wanted \(1, 8\)"),
        (np.ones((1, 8)), "one common length"),
        (np.ones(8) + 1j, "Complex data"),
        (np.ma.array(np.ones(8), mask=MASK[0]), "masked array"),
        ("wasp", "one common length"),
        ([None] * 8, "contains NaN"),
    ],
)
def test_classes_are_not_added_by_odd_texts(features, message, problem, hostile):
    model = CMMClassifier(problem.text).fit(problem.X, problem.y)
    before = model.predict_proba(problem.X)
    with hostile.watched(), pytest.raises(ValueError, match=message):
        model.add_class("wasp", features)
    np.testing.assert_array_equal(model.predict_proba(problem.X), before)


def test_classes_are_added_by_texts_of_any_length(problem, hostile):
    text = problem.text[0] + problem.text[1]
    found = []
    for given in (text, 2.0**900 * text, 2.0**-1000 * text, torch.tensor(text)):
        model = CMMClassifier(problem.text).fit(problem.X, problem.y)
        with hostile.watched():
            model.add_class("wasp", given)
            found.append(hostile.check_predictions(model, problem.X))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9)
