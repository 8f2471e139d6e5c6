"""Weights at their extremes count rows, or are refused by name."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.base import clone

from skfewshot import GaussianDiscriminantClassifier

WEIGHT = np.random.default_rng(3).uniform(0.5, 2, size=12)


def with_first(value):
    return np.r_[value, WEIGHT[1:]]


EXTREME = {
    "tiny": 1e-300 * WEIGHT,
    "sum to one": WEIGHT / WEIGHT.sum(),
    "large": 4e8 * WEIGHT,
    "one large": with_first(1e9),
    "one tiny": with_first(1e-300),
    "one subnormal": with_first(5e-324),
    "one zero": with_first(0.0),
    "a large class": np.r_[np.full(4, 1e9), WEIGHT[4:]],
    "a tiny class": np.r_[np.full(4, 1e-300), WEIGHT[4:]],
    "all sizes": 10.0 ** np.linspace(-300, 9, 12),
    "negative zero": with_first(-0.0),
    "two rows": np.isin(np.arange(12), [0, 4]).astype(float),
}


@pytest.mark.parametrize("kind", EXTREME)
def test_extremes(estimator, kind, problem, hostile):
    for texts in (None, problem.text):
        if texts is not None and kind == "two rows":
            texts = dict(zip(["ant", "bee", "cat"], texts, strict=True))
        model = hostile.with_texts(estimator, texts)
        hostile.fit_and_check(
            model, problem.X, problem.y, sample_weight=EXTREME[kind].copy()
        )


@pytest.mark.parametrize("scale", [1e-37, 1e-10, 4e8])
def test_extremes_of_singles(estimator, scale, hostile):
    problem = hostile.Problem(np.float32)
    for weight in (scale * WEIGHT, with_first(scale)):
        model, found = hostile.fit_and_check(
            estimator, problem.X, problem.y, sample_weight=weight
        )
        assert found.dtype == np.float32
        assert len(model.classes_) == 3


def test_a_weight_that_vanishes_is_no_row(estimator, problem, hostile):
    rest = slice(1, None)
    _, expected = hostile.fit_and_check(
        estimator, problem.X[rest], problem.y[rest], sample_weight=WEIGHT[rest]
    )
    for nothing in (0.0, 5e-324):
        weight = with_first(nothing)
        _, found = hostile.fit_and_check(
            estimator, problem.X, problem.y, sample_weight=weight
        )
        np.testing.assert_allclose(found[rest], expected, rtol=1e-6, atol=1e-12)


SAME = {
    "list": lambda w: w.tolist(),
    "objects": lambda w: w.astype(object),
    "long double": lambda w: w.astype(np.longdouble),
    "other byte order": lambda w: w.astype(">f8"),
    "read-only": lambda w: np.broadcast_to(w, w.shape),
    "strides": lambda w: np.repeat(w, 2)[::2],
    "series": pd.Series,
    "tensor": torch.tensor,
    "tensor of a graph": lambda w: torch.tensor(w, requires_grad=True),
    "list of tensors": lambda w: [torch.tensor(v, requires_grad=True) for v in w],
    "no mask": lambda w: np.ma.array(w, mask=False),
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_weights_in_another_form(reader, form, problem, hostile):
    _, expected = hostile.fit_and_check(
        reader, problem.X, problem.y, sample_weight=WEIGHT
    )
    model, found = hostile.fit_and_check(
        reader, problem.X, problem.y, sample_weight=SAME[form](WEIGHT)
    )
    np.testing.assert_array_equal(found, expected)
    with hostile.watched():
        score = model.score(problem.X, problem.y, sample_weight=SAME[form](WEIGHT))
    assert 0 <= score <= 1


REFUSED = {
    "negative": (with_first(-1.0), "Negative values"),
    "NaN": (with_first(np.nan), "sample_weight contains NaN"),
    "infinity": (with_first(np.inf), "sample_weight contains infinity"),
    "one NaN for all": (np.nan, "sample_weight makes the weight of a row nan"),
    "one infinity for all": (np.inf, "sample_weight makes the weight of a row inf"),
    "zeros": (np.zeros(12), "at least one non-zero"),
    "huge": (1e300 * WEIGHT, "sample_weight makes .* 1.* at most 1e.09"),
    "one huge": (with_first(1e38), "sample_weight makes .* 1e.38"),
    "beyond doubles": (np.full(12, np.longdouble("1e400")), "sample_weight"),
    "huge integers": ([10**400] * 12, "sample_weight holds a number too large"),
    "complex": (WEIGHT + 1j, "Complex data not supported"),
    "complex tensor": (torch.tensor(WEIGHT + 1j), "sample_weight is torch.complex"),
    "masked": (np.ma.array(WEIGHT, mask=WEIGHT > 1), "sample_weight is a masked"),
    "dates": (np.arange(12).astype("M8[s]"), "sample_weight holds dates"),
    "durations": (np.arange(12).astype("m8[s]"), "sample_weight holds dates"),
    "words": (np.full(12, "heavy"), "could not convert"),
    "a word": ("balanced", "could not convert"),
    "too few": (WEIGHT[:5], "sample_weight.shape"),
    "a column": (WEIGHT[:, None], "Sample weights must be 1D"),
    "sparse": (csr_array(WEIGHT[:, None]), "Sparse data was passed for sample_weight"),
    "by class": ({"ant": 1.0}, "dict"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(reader, kind, problem, hostile):
    weight, message = REFUSED[kind]
    hostile.refuse(reader, problem.X, problem.y, message, sample_weight=weight)


def test_too_large_for_the_rows(reader, hostile):
    problem = hostile.Problem(np.float32)
    message = "sample_weight contains infinity or a value too large"
    weight = 1e300 * WEIGHT
    hostile.refuse(reader, problem.X, problem.y, message, sample_weight=weight)


CLASS_WEIGHTS = [
    ({"ant": np.nan}, "class_weight must hold finite numbers"),
    ({"ant": None}, "class_weight must hold finite numbers"),
    ({"ant": np.inf}, "class_weight must hold finite numbers"),
    ({"ant": -1.0}, "class_weight .*negative"),
    ({"ant": 1e300}, "class_weight, times sample_weight, makes"),
    ({"ant": 10**400}, "class_weight holds a number too large"),
    ({"ant": "x"}, "could not convert"),
    ({"ant": 1j}, "complex"),
    ({"wasp": 1.0}, "not in class_weight"),
    (dict.fromkeys(["ant", "bee", "cat"], 0), "every row of the support weight 0"),
]


@pytest.mark.parametrize("name", ["gaussian", "cmm", "taskres"])
@pytest.mark.parametrize(("weights", "message"), CLASS_WEIGHTS)
def test_class_weights(name, weights, message, estimators, problem, hostile):
    model = clone(estimators[name]).set_params(class_weight=weights)
    hostile.refuse(model, problem.X, problem.y, message)


@pytest.mark.parametrize("name", ["tip_adapter", "gaussian", "proker", "cmm"])
def test_class_weights_at_their_extremes(name, estimators, problem, hostile):
    for value in (0, 1e-300, 1e-9, 1e8, True):
        model = clone(estimators[name]).set_params(class_weight={"ant": value})
        for weight in (None, WEIGHT, 1e-3 * WEIGHT):
            hostile.fit_and_check(model, problem.X, problem.y, sample_weight=weight)


def test_a_gaussian_of_less_than_one_row(problem, hostile):
    # No row can be left out of a class that weighs less than one row.
    weight = WEIGHT / WEIGHT.sum()
    for texts in (None, problem.text):
        model = GaussianDiscriminantClassifier(texts)
        model, _ = hostile.fit_and_check(
            model, problem.X, problem.y, sample_weight=weight
        )
        assert model.score(problem.X, problem.y) > 0.6


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    exponents=st.lists(st.floats(-320, 8.9), min_size=12, max_size=12),
    is_single=st.booleans(),
    has_text=st.booleans(),
)
@pytest.mark.parametrize(
    "name", ["tip_adapter", "gaussian", "lp_plus_plus", "proker", "cmm", "multi_label"]
)
def test_any_weights(name, estimators, hostile, exponents, is_single, has_text):
    problem = hostile.Problem(np.float32 if is_single else np.float64)
    # The first row of each class is sure to count.
    weight = np.where(np.arange(12) % 4, 10.0 ** np.array(exponents), 1.0)
    model = hostile.with_texts(estimators[name], problem.text if has_text else None)
    hostile.fit_and_check(model, problem.X, problem.y, sample_weight=weight)
