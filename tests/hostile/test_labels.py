"""Labels of every kind come back as they went in, or are refused by name."""

import datetime
import enum

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array
from sklearn.base import clone

from skfewshot import CMMClassifier, MultiLabelPrototypePrior
from skfewshot.metrics import expected_calibration_error, mean_average_precision

Color = enum.StrEnum("Color", "ant bee cat")


def listed(*labels):
    return lambda index: [labels[i] for i in index]


def objects(*labels):
    def make(index):
        made = np.empty(len(index), dtype=object)
        made[:] = [labels[i] for i in index]
        return made

    return make


def of_type(dtype, *labels):
    return lambda index: np.array(labels, dtype=dtype)[index]


TAKEN = {
    "booleans": (lambda index: index > 0, [False, True]),
    "small integers": (of_type("int8", -5, 0, 7), [-5, 0, 7]),
    "large unsigned": (
        of_type("uint64", 2**63, 2**63 + 1, 2**64 - 1),
        [2**63, 2**63 + 1, 2**64 - 1],
    ),
    "ends of int64": (
        of_type("int64", -(2**63), 0, 2**63 - 1),
        [-(2**63), 0, 2**63 - 1],
    ),
    "integers beyond doubles": (
        of_type("int64", 2**53, 2**53 + 1, 2**53 + 2),
        [2**53, 2**53 + 1, 2**53 + 2],
    ),
    "whole floats": (of_type("float32", 0, 1, 2), [0, 1, 2]),
    "two zeros": (of_type("float64", 0.0, -0.0, 1.0), [0, 1]),
    "other byte order": (of_type(">i8", 0, 1, 2), [0, 1, 2]),
    "strings": (listed("b", "a", "c"), ["a", "b", "c"]),
    "string objects": (objects("b", "a", "c"), ["a", "b", "c"]),
    "variable width": (
        of_type(np.dtypes.StringDType(), "a", "a\0", "long" * 9),
        ["a", "a\0", "long" * 9],
    ),
    "empty and blank": (listed("", " ", "  "), ["", " ", "  "]),
    "null characters": (objects("a", "a\0", "a\0\0"), ["a", "a\0", "a\0\0"]),
    "inner null characters": (listed("a\0b", "a\0c", "a"), ["a", "a\0b", "a\0c"]),
    "very long": (listed("a" * 10**5, "a" * 10**5 + "b", "c"), None),
    "combining": (listed("\u00e9", "e\u0301", "e"), ["e", "e\u0301", "\u00e9"]),
    "emoji": (listed("\U0001f469\u200d\U0001f467", "\U0001f469", "x"), None),
    "lone surrogates": (listed("\ud800", "\udfff", "a"), ["a", "\ud800", "\udfff"]),
    "words for nothing": (listed("nan", "None", "inf"), ["None", "inf", "nan"]),
    "enumeration": (listed(*Color), ["ant", "bee", "cat"]),
    "dates": (of_type("M8[D]", "2026-01-01", "2026-01-02", "1969-01-01"), None),
    "categories": (lambda i: pd.Categorical.from_codes(i, list("cab")), list("abc")),
    "pandas strings": (
        lambda i: pd.Series(list("cab"), dtype="string")[i],
        list("abc"),
    ),
    "nullable integers": (lambda i: pd.Series(i, dtype="Int64"), [0, 1, 2]),
    "polars": (lambda i: pl.Series(np.array(list("cab"))[i].tolist()), list("abc")),
    "a column": (lambda i: np.array(list("cab"))[i][:, None], list("abc")),
    "tensor": (lambda i: torch.tensor(i), [0, 1, 2]),
    "tensor of a graph": (
        lambda i: torch.tensor(i.astype(float), requires_grad=True),
        [0, 1, 2],
    ),
    "list of tensors": (
        lambda i: [torch.tensor(float(v), requires_grad=True) for v in i],
        [0, 1, 2],
    ),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_labels_come_back(reader, kind, problem, hostile):
    make, classes = TAKEN[kind]
    y = make(problem.index)
    model, found = hostile.fit_and_check(reader, problem.X, y)
    if classes is not None:
        assert model.classes_.tolist() == classes
    assert found.shape == (12, len(model.classes_))
    predicted = model.predict(problem.X)
    assert np.isin(predicted, model.classes_).all()
    assert predicted.dtype == model.classes_.dtype
    with hostile.watched():
        assert model.score(problem.X, y) > 0.6


REFUSED = {
    "nothing": (lambda index: None, "y"),
    "bytes": (listed(b"a", b"b", b"c"), "bytes is not supported"),
    "fractions": (lambda index: index + 0.5, "continuous"),
    "huge floats": (of_type(float, 1e300, 2e300, 3e300), "continuous"),
    "infinity": (of_type(float, 0, 1, np.inf), "y contains infinity"),
    "NaN": (of_type(float, 0, 1, np.nan), "y contains NaN"),
    "None among strings": (objects("a", "b", None), r"y contains NaN or None.*8, 9"),
    "None in a list": (listed("a", "b", None), r"y contains NaN or None.*8, 9"),
    "NaN among strings": (objects("a", "b", np.nan), "y contains NaN or None"),
    "NaN in a list": (
        listed("a", "b", np.nan),
        "mixes strings with nan|contains NaN",
    ),
    "pandas.NA": (objects("a", "b", pd.NA), "y contains NaN or None"),
    "missing in pandas": (
        lambda i: pd.Series(["a", "b", None], dtype="string")[i],
        "y contains NaN or None",
    ),
    "missing integers": (
        lambda i: pd.Series([0, 1, None], dtype="Int64")[i],
        "y contains NaN",
    ),
    "missing category": (
        lambda i: pd.Categorical.from_codes(i - 1, ["a", "b"]),
        "y contains NaN or None",
    ),
    "missing in polars": (
        lambda i: pl.Series([["a", "b", None][k] for k in i]),
        "y contains NaN or None",
    ),
    "no date": (of_type("M8[D]", "2026-01-01", "NaT", "2026-01-02"), "y contains NaN"),
    "strings and numbers": (listed("a", 1, 2), "y mixes strings with 1 of type int"),
    "a number and its name": (listed(1, "1", 2), "y mixes strings with 1 of type int"),
    "mixed objects": (objects("a", 1, 2), r"y mixes labels .*\['int', 'str'\]"),
    "integers as objects": (objects(1, 2, 3), "Unknown label type"),
    "huge integers": (listed(2**70, 2**71, 2**72), "Unknown label type"),
    "integers to be rounded": (
        listed(-1, 2**63, 2**63 + 1),
        "y holds 9223",
    ),
    "null at the end": (listed("a", "a\0", "b"), r"y holds 'a\\x00'"),
    "complex": (lambda index: index + 1j, "Complex data not supported"),
    "records": (lambda index: index.astype([("a", int)]), "y holds records"),
    "tuples": (objects((1, 2), (3, 4), (5, 6)), "legacy multi-label|Unknown label"),
    "pairs": (listed((1, 2), (3, 4), (5, 6)), r"shape \(12, 2\)"),
    "sets": (listed({"a"}, {"b"}, {"c"}), "Unknown label type|y holds sets"),
    "masked": (lambda i: np.ma.array(i, mask=i == 2), "y is a masked array, and 4 of"),
    "one string": (lambda index: "abcabcabcabc", "y should be a 1d|array-like"),
    "generator": (lambda index: iter(index), "y should be a 1d|array-like"),
    "too few": (lambda index: index[:5], "inconsistent numbers of samples"),
    "three axes": (lambda index: index[:, None, None], "y has 3|array with dim 3"),
    "matrix": (lambda index: np.matrix(index).T, "np.matrix is not supported"),
    "dates as objects": (
        objects(*(datetime.date(2026, 1, day) for day in (1, 2, 3))),
        "Unknown label type",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(reader, kind, problem, hostile):
    make, message = REFUSED[kind]
    if "contains NaN" in message and hasattr(reader, "unlabeled"):
        # There it says that an image has no label.
        model, _ = hostile.fit_and_check(reader, problem.X, make(problem.index))
        assert len(model.classes_) == 2
        return
    hostile.refuse(reader, problem.X, make(problem.index), message)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    names=st.lists(
        st.text(max_size=6).filter(lambda s: not s.endswith("\0")),
        min_size=2,
        max_size=6,
        unique=True,
    ),
    is_list=st.booleans(),
)
def test_any_names(estimators, problem, hostile, names, is_list):
    picked = [names[i % len(names)] for i in range(12)]
    y = picked if is_list else np.array(picked, dtype=object)
    for name in ("zero_shot", "multi_label"):
        model, _ = hostile.fit_and_check(estimators[name], problem.X, y)
        assert model.classes_.tolist() == sorted(names)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=6, unique=True))
def test_any_integers(estimators, problem, hostile, numbers):
    y = [numbers[i % len(numbers)] for i in range(12)]
    for name in ("zero_shot", "multi_label"):
        model, _ = hostile.fit_and_check(estimators[name], problem.X, y)
        assert model.classes_.tolist() == sorted(numbers)


INDICATOR = np.eye(3, dtype=int)[np.arange(12) % 3] | (
    np.arange(36).reshape(12, 3) % 5 == 0
)

SAME = {
    "booleans": lambda Y: Y > 0,
    "half precision": lambda Y: Y.astype(np.float16),
    "objects": lambda Y: Y.astype(object),
    "lists": lambda Y: Y.tolist(),
    "sparse": csr_array,
    "coordinates": lambda Y: coo_array(Y.astype(bool)),
    "frame": pd.DataFrame,
    "nullable frame": lambda Y: pd.DataFrame(Y > 0).astype("boolean"),
    "categories": lambda Y: pd.DataFrame(Y).astype("category"),
    "tensor": torch.tensor,
    "tensor of a graph": lambda Y: torch.tensor(Y.astype(float), requires_grad=True),
    "read-only": lambda Y: np.broadcast_to(Y, Y.shape),
}


@pytest.mark.parametrize("form", SAME)
def test_indicators_in_another_form(form, estimators, problem, hostile):
    _, expected = hostile.fit_and_check(estimators["multi_label"], problem.X, INDICATOR)
    Y = SAME[form](INDICATOR)
    model, found = hostile.fit_and_check(estimators["multi_label"], problem.X, Y)
    np.testing.assert_array_equal(found, expected)
    assert 0 <= model.score(problem.X, Y) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda Y: np.ma.array(Y, mask=Y > 0), "y is a masked array"),
        (lambda Y: Y + 1j, "Complex data not supported"),
        (lambda Y: csr_array(Y + 0j), "Complex data not supported"),
        (lambda Y: np.where(Y, np.nan, 0), "y contains NaN"),
        (lambda Y: pd.DataFrame(Y).astype("Int64").mask(Y > 0), "y contains NaN"),
        (lambda Y: Y * 5e-324, "y of shape"),
        (lambda Y: Y.astype(object) * 10**400, "y holds a number too large"),
        (lambda Y: Y.astype(str), "y of shape"),
        (lambda Y: Y.astype("M8[s]"), "y of shape"),
        (lambda Y: Y[:, :0], "Unknown label type"),
    ],
)
def test_refused_indicators(make, message, estimators, problem, hostile):
    hostile.refuse(estimators["multi_label"], problem.X, make(INDICATOR), message)


@pytest.mark.parametrize(
    ("y", "extra", "classes"),
    [
        ([0, 1, 2], [5, 5, 1], [0, 1, 2, 5]),
        ([0, 1, 2], np.array([5], dtype=np.uint64), [0, 1, 2, 5]),
        (np.array([2**63, 2**63 + 1, 7], np.uint64), [5], [5, 7, 2**63, 2**63 + 1]),
        (["a", "b", "c"], ["b", "much longer"], ["a", "b", "c", "much longer"]),
        (["a", "b", "c"], [], ["a", "b", "c"]),
    ],
)
def test_extra_classes(y, extra, classes, problem, hostile):
    texts = {label: np.cos(i + np.arange(8.0)) for i, label in enumerate(classes)}
    labels = np.asarray(y)[problem.index]
    model = CMMClassifier(texts, extra_classes=extra)
    model, _ = hostile.fit_and_check(model, problem.X, labels)
    assert model.classes_.tolist() == classes


@pytest.mark.parametrize(
    ("y", "odd"),
    [
        ("abc", "a\0"),
        ("abc", None),
        ("abc", np.nan),
        ("abc", 1),
        ("abc", b"d"),
        ("abc", {"d"}),
        ([0, 1, 2], 3.5),
        ([0, 1, 2], 3.0),
        ([0, 1, 2], True),
        ([0, 1, 2], 10**400),
        ([0, 1, 2], 2**63),
        ([False, True, True], 2),
        (np.array([2**63, 1, 2], np.uint64), -1),
    ],
)
def test_odd_extra_classes(y, odd, problem, hostile):
    labels = np.asarray(list(y))[problem.index]
    classes = np.unique(labels)
    texts = np.random.default_rng(0).normal(size=(len(classes), 8))
    wanted = "extra_classes"
    hostile.refuse(CMMClassifier(texts, extra_classes=[odd]), problem.X, labels, wanted)
    model = CMMClassifier(texts).fit(problem.X, labels)
    before = model.classes_.copy()
    with hostile.watched(), pytest.raises((ValueError, TypeError), match="name"):
        model.add_class(odd, texts[0])
    np.testing.assert_array_equal(model.classes_, before)


def test_extra_classes_keep_their_mask_and_kind(problem, hostile):
    for extra in (
        np.ma.array(["d"], mask=[True]),
        ["d", 1],
        ["d", np.nan],
        [["d"]],
        {"d": 1},
    ):
        model = CMMClassifier(problem.text, extra_classes=extra)
        hostile.refuse(model, problem.X, problem.y, "extra_classes")


@pytest.mark.parametrize(
    "labels", [["a", "b", np.nan], [1.0, np.nan], np.array(["NaT"] * 3, "M8[D]")]
)
def test_metrics_never_score_missing_labels(labels):
    rows = np.array(labels * 2 if isinstance(labels, list) else labels, dtype=object)
    scores = np.full((len(rows), 2), 0.5)
    for ask in (mean_average_precision, expected_calibration_error):
        with pytest.raises((ValueError, TypeError)):
            ask(rows, scores, labels=["a", "b"])


def test_the_prior_reads_as_the_classifier_does(hostile):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(24, 3, 4)), rng.random((24, 6)) < 0.5
    texts = rng.normal(size=(6, 4))
    prior = MultiLabelPrototypePrior(n_episodes=1, n_way=3, n_query=4, random_state=0)
    with hostile.watched(X, Y):
        fitted = clone(prior).fit(X, Y, texts)
        huge = clone(prior).fit(1e300 * X, Y, texts)
    for name, array in fitted.state_.items():
        np.testing.assert_allclose(huge.state_[name], array, rtol=1e-3, atol=1e-4)
    for bad, labels, message in (
        (X + 1j, Y, "Complex"),
        (np.ma.array(X, mask=X > 1), Y, "masked"),
        (X, np.ma.array(Y, mask=Y), "masked"),
    ):
        with hostile.watched(), pytest.raises(ValueError, match=message):
            clone(prior).fit(bad, labels, texts)
    for options, message in (
        ({"learning_rate": 1e6, "random_state": 1}, "lower learning_rate"),
        ({"scale": 1e300}, "scale"),
        ({"shots": (1, 10**30)}, "shots"),
        ({"interaction": np.array(0.5)}, "interaction"),
    ):
        with hostile.watched(), pytest.raises(ValueError, match=message):
            clone(prior).set_params(**options).fit(X, Y, texts)
