"""Arrays of every type, layout and size are read right, or refused by name."""

import datetime
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skfewshot.metrics import expected_calibration_error, mean_average_precision

MASK = np.zeros((12, 8), dtype=bool)
MASK[2, 3] = True


def unaligned(X):
    return np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(X.dtype).reshape(12, 8)


def mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


SAME = {
    "Fortran order": np.asfortranarray,
    "strides": lambda X: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
    "negative strides": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "other byte order": lambda X: X.astype(">f8"),
    "unaligned": unaligned,
    "long double": lambda X: X.astype(np.longdouble),
    "lists": lambda X: X.tolist(),
    "list of arrays": list,
    "objects": lambda X: X.astype(object),
    "fractions": lambda X: [[Fraction(float(v)) for v in row] for row in X],
    "buffer": memoryview,
    "no mask": lambda X: np.ma.array(X, mask=np.zeros_like(MASK)),
    "pandas": pd.DataFrame,
    "nullable pandas": lambda X: pd.DataFrame(X).astype("Float64"),
    "polars": pl.DataFrame,
    "tensor": torch.tensor,
    "tensor of a graph": lambda X: torch.tensor(X, requires_grad=True),
    "negative view": lambda X: (
        torch.complex(torch.tensor(X), -torch.tensor(X)).conj().imag
    ),
    "list of tensors": lambda X: [torch.tensor(row, requires_grad=True) for row in X],
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_numbers_in_another_form(reader, form, problem, hostile):
    _, expected = hostile.fit_and_check(reader, problem.X, problem.y)
    X = SAME[form](problem.X)
    model, found = hostile.fit_and_check(reader, X, problem.y)
    # The order in memory decides the order of sums.
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    again = model.predict_proba(problem.X)
    np.testing.assert_allclose(again, expected, rtol=1e-10)


def test_a_read_only_memory_map(estimator, problem, hostile, tmp_path):
    _, expected = hostile.fit_and_check(estimator, problem.X, problem.y)
    X = mapped(problem.X, tmp_path)
    assert not X.flags.writeable
    _, found = hostile.fit_and_check(estimator, X, problem.y)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32"])
def test_narrower_types(reader, dtype, problem, hostile):
    X = problem.X > 2 if dtype == "bool" else np.abs(10 * problem.X).astype(dtype)
    _, found = hostile.fit_and_check(reader, X, problem.y)
    assert found.dtype == (np.float32 if "float" in dtype else np.float64)


REFUSED = {
    "complex": (lambda X: X + 1j, "Complex data not supported"),
    "complex objects": (lambda X: (X + 1j).astype(object), "complex"),
    "complex tensor": (lambda X: torch.tensor(X + 1j), "Complex data .* X is torch"),
    "conjugate": (lambda X: torch.tensor(X + 1j).conj(), "Complex data not supported"),
    "masked": (lambda X: np.ma.array(X, mask=MASK), "X is a masked array, and 1 of"),
    "dates": (lambda X: X.astype("M8[s]"), "X holds dates or times"),
    "durations": (lambda X: X.astype("m8[s]"), "X holds dates or times"),
    "frame of dates": (
        lambda X: pd.DataFrame(X.astype("M8[s]")),
        "X holds dates or times",
    ),
    "polars dates": (
        lambda X: pl.DataFrame({"day": [datetime.date(2026, 1, 1)] * 12}),
        "X holds dates or times",
    ),
    "records": (lambda X: np.zeros((12, 8), dtype="f8,f8"), "Cannot cast"),
    "words": (lambda X: np.full((12, 8), "x"), "could not convert string"),
    "words among objects": (lambda X: np.where(MASK, "x", X.astype(object)), "convert"),
    "None": (lambda X: np.where(MASK, None, X), "X contains NaN"),
    "missing in pandas": (
        lambda X: pd.DataFrame(X).astype("Float64").mask(MASK),
        "X contains NaN",
    ),
    "NaN": (lambda X: np.where(MASK, np.nan, X), "X contains NaN"),
    "infinity": (lambda X: np.where(MASK, -np.inf, X), "X contains infinity"),
    "huge integers": (
        lambda X: np.full(X.shape, 10**400, dtype=object),
        "X.* holds a number too large",
    ),
    "sparse": (scipy.sparse.csr_array, "Sparse data was passed for X"),
    "sparse tensor": (
        lambda X: torch.tensor(X).to_sparse(),
        "X is a tensor of .*spars",
    ),
    "tensor of no device": (lambda X: torch.tensor(X).to("meta"), "X is .* meta"),
    "matrix": (np.matrix, "np.matrix is not supported"),
    "ragged": (lambda X: [[1.0, 2.0], [3.0]] * 6, "sequence"),
    "one row": (lambda X: X[0], "Expected 2D array"),
    "no rows": (lambda X: X[:0], "0 sample"),
    "no columns": (lambda X: X[:, :0], "0 feature"),
    "nothing": (lambda X: None, "Expected 2D array"),
    "four axes": (lambda X: X[None, None], "X has the shape|array with dim 4"),
    "mixed names": (
        lambda X: pd.DataFrame(X, columns=[*"abcdefg", 8]),
        "Feature names are only supported",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused_by_name(reader, form, problem, hostile):
    make, message = REFUSED[form]
    X = make(problem.X)
    hostile.refuse(reader, X, problem.y, message)
    if form in ("no rows", "no columns"):
        return
    model = clone(reader).fit(problem.X, problem.y)
    with hostile.watched(), pytest.raises((ValueError, TypeError), match="."):
        model.predict(X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_lengths_of_rows_do_not_matter(estimator, dtype, hostile):
    problem = hostile.Problem(dtype)
    model, expected = hostile.fit_and_check(estimator, problem.X, problem.y)
    limits = np.finfo(dtype)
    for scale in (limits.tiny, limits.max / 16):
        X = problem.X * dtype(scale)
        assert np.isfinite(X).all()
        _, found = hostile.fit_and_check(estimator, X, problem.y)
        np.testing.assert_allclose(found, expected, atol=1e-2)
        with hostile.watched():
            np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-2)


def degenerate(d):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, d))
    return {
        "zeros": np.zeros((12, d)),
        "a zero row": np.where(np.arange(12)[:, None] == 3, 0, rows),
        "a zero class": np.where(np.arange(12)[:, None] < 4, 0, rows),
        "equal rows": np.ones((12, d)),
        "constant rows": np.repeat(np.arange(1.0, 13)[:, None], d, axis=1),
        "one row under all labels": np.tile(rows[:4], (3, 1)),
        "opposite rows": np.vstack([rows[:6], -rows[:6]]),
        "rows that differ by rounding": 1 + 1e-16 * rows,
        "largest numbers": np.finfo(float).max * np.sign(rows),
        "subnormal": 5e-324 * np.round(10 * rows),
    }


@pytest.mark.parametrize("kind", degenerate(2))
def test_degenerate_rows(estimator, kind, problem, hostile):
    for d in (1, 2):
        X = degenerate(d)[kind]
        hostile.fit_and_check(estimator, X, problem.y)
        given = hostile.with_texts(estimator, np.ones((3, d)))
        hostile.fit_and_check(given, X, problem.y, query=np.zeros((2, d)))


def test_few_and_wide_rows(estimator, problem, hostile):
    for rows in ([0, 4], [0, 4, 8], [0, 0, 4]):
        hostile.fit_and_check(estimator, problem.X[rows], problem.y[rows])
    wide = np.random.default_rng(0).normal(size=(12, 1100))
    hostile.fit_and_check(estimator, wide, problem.y)
    hostile.refuse(estimator, problem.X[:4], problem.y[:4], "at least 2 classes")


def test_queries(estimator, problem, hostile):
    X = problem.X
    model, expected = hostile.fit_and_check(estimator, X, problem.y)
    for query in (X[:1], X[:5, ::-1][:, ::-1], X.tolist(), X.astype(">f8")):
        with hostile.watched(query):
            found = hostile.check_predictions(model, query)
        np.testing.assert_allclose(found, expected[: len(query)], rtol=1e-12)
    with hostile.watched():
        found = hostile.check_predictions(model, X.astype(np.float32))
        hostile.check_predictions(model, np.zeros((1, 8)))
    np.testing.assert_allclose(found, expected, atol=1e-2)
    for query in (X[:0], X[:, :7], np.hstack([X, X]), X + 1j):
        with hostile.watched(), pytest.raises(ValueError, match="sample|feature|Comp"):
            model.predict_proba(query)


SINGLE = ["zero_shot", "tip_adapter", "gaussian"]


@pytest.mark.parametrize("name", SINGLE)
def test_ten_thousand_classes_of_one_row(name, estimators, hostile):
    rows = np.random.default_rng(0).normal(size=(10_000, 16)).astype(np.float32)
    labels = np.arange(10_000)
    with hostile.watched(rows, seconds=60):
        model = clone(estimators[name]).fit(rows, labels)
        found = hostile.check_predictions(model, rows[:3])
    assert found.shape == (3, 10_000)
    assert model.predict(rows[:3]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["gaussian", "tip_adapter", "cmm", "multi_label"])
def test_many_rows_of_two_columns(name, estimators, hostile):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=20_000)
    X = rng.normal(size=(20_000, 2)).astype(np.float32) + 3 * y[:, None]
    with hostile.watched(X, seconds=60):
        model = clone(estimators[name]).fit(X, y)
        hostile.check_predictions(model, X[:100])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    d=st.sampled_from([1, 2, 8, 64]),
    exponent=st.floats(-300, 300),
    spread=st.sampled_from([0.0, 1e-12, 1e-3, 1.0]),
    n_classes=st.sampled_from([2, 3, 9]),
    is_single=st.booleans(),
    has_text=st.booleans(),
)
@pytest.mark.parametrize("name", ["gaussian", "proker", "cmm", "multi_label"])
def test_any_rows(
    name, estimators, hostile, seed, d, exponent, spread, n_classes, is_single, has_text
):
    rng = np.random.default_rng(seed)
    X = (
        rng.normal(size=d) + spread * rng.normal(size=(2 * n_classes, d))
    ) * 10**exponent
    if is_single:
        X = np.clip(X, -3e38, 3e38).astype(np.float32)
    y = rng.permutation(np.arange(2 * n_classes) % n_classes)
    texts = rng.normal(size=(n_classes, d)) if has_text else None
    model = hostile.with_texts(estimators[name], texts)
    hostile.fit_and_check(model, X, y, query=rng.normal(size=(2, d)))


PARAMETERS = [
    ("tip_adapter", "beta", 1e12),
    ("tip_adapter", "alpha", 1e12),
    ("proker", "beta", 1e12),
    ("proker", "regularization", 1e-100),
    ("gaussian", "alpha", 1e12),
    ("cmm", "logit_scale", 1e12),
    ("cmm", "alpha", 1e-12),
    ("cmm", "alpha", 1e12),
    ("zero_shot", "logit_scale", 1e-12),
    ("multi_label", "scale", 1e12),
]


@pytest.mark.parametrize(("name", "parameter", "value"), PARAMETERS)
def test_extreme_parameters(name, parameter, value, estimators, hostile):
    for dtype in (np.float64, np.float32):
        problem = hostile.Problem(dtype)
        model = hostile.with_texts(estimators[name], problem.text)
        model.set_params(**{parameter: value})
        query = problem.X.astype(np.float32)
        hostile.fit_and_check(model, problem.X, problem.y, query=query)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300, 10**400, 1j, "much"])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("zero_shot", "logit_scale"),
        ("tip_adapter", "beta"),
        ("gaussian", "alpha"),
        ("taskres", "learning_rate"),
        ("proker", "regularization"),
        ("cmm", "margin"),
        ("multi_label", "scale"),
    ],
)
def test_absurd_parameters(name, parameter, value, estimators, problem, hostile):
    model = clone(estimators[name]).set_params(**{parameter: value})
    hostile.refuse(model, problem.X, problem.y, parameter)


SCORES = np.random.default_rng(0).random((12, 3))
TRUE = np.eye(3, dtype=int)[np.arange(12) % 3]
PROBA = SCORES / SCORES.sum(axis=1, keepdims=True)


def test_metrics_take_tensors_of_a_graph():
    scores = torch.tensor(SCORES, requires_grad=True)
    found = mean_average_precision(torch.tensor(TRUE), scores)
    assert found == mean_average_precision(TRUE, SCORES)
    y, proba = np.arange(12) % 3, torch.tensor(PROBA, requires_grad=True)
    found = expected_calibration_error(torch.tensor(y), proba)
    assert found == expected_calibration_error(y, PROBA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: np.ma.array(a, mask=a > 0.4), "masked array"),
        (lambda a: a + 1j, "Complex data|holds"),
        (lambda a: np.where(a > 0.4, np.nan, a), "NaN|nan"),
        (lambda a: np.full(a.shape, 10**400, dtype=object), "too large|holds"),
        (lambda a: a.astype("M8[s]"), "dates|holds|0 and 1"),
    ],
)
def test_metrics_refuse(make, message):
    for ask in (
        lambda: mean_average_precision(make(TRUE), SCORES),
        lambda: mean_average_precision(TRUE, make(SCORES)),
        lambda: expected_calibration_error(np.arange(12) % 3, make(PROBA)),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            ask()


@pytest.mark.parametrize("weight", [np.inf, np.full(12, 1e308), np.full(12, 10**400)])
def test_metrics_refuse_endless_weights(weight):
    for ask, true, found in (
        (mean_average_precision, TRUE, SCORES),
        (expected_calibration_error, np.arange(12) % 3, PROBA),
    ):
        with pytest.raises(ValueError, match="sample_weight"):
            ask(true, found, sample_weight=weight)


@pytest.mark.parametrize("n_bins", [0, 10**9, 10**400, np.nan, True, "5"])
def test_bins(n_bins):
    with pytest.raises(ValueError, match="n_bins"):
        expected_calibration_error(np.arange(12) % 3, PROBA, n_bins=n_bins)
