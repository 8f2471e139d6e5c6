"""Rows without a label: what says so, what is kept of them, and what they leave be."""

from typing import ClassVar

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skfewshot import CMMClassifier, LPPlusPlusClassifier
from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier
from skfewshot.clip import EmbeddingArray, EncoderIdentity

#: The rows of `task` that have no label, where nothing else is said.
BARE = [1, 6, 10]
INDEX = np.repeat(np.arange(4), 4)
NAMES = np.array(["ant", "bee", "cat", "dog"])[INDEX]
DAYS = np.array(["2026-01-01", "2026-02-02", "2026-03-03", "2026-04-04"], "M8[D]")


class Reader(FewShotClassifier):
    """Keeps the support that it reads."""

    _parameter_constraints: ClassVar[dict] = {
        **SHARED_CONSTRAINTS,
        "unlabeled": "no_validation",
    }

    def __init__(
        self,
        text_features=None,
        class_names=None,
        text_encoder=None,
        prompt_templates=None,
        logit_scale="auto",
        class_weight=None,
        unlabeled=None,
    ):
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.logit_scale = logit_scale
        self.class_weight = class_weight
        self.unlabeled = unlabeled

    def _learn(self, support, report):
        return {"support_": support}

    def _logits(self, features):
        return self._scaled_cosines(features, self.text_features_)


@pytest.fixture(scope="module")
def X(make_task):
    return make_task()[0]


def without(labels, missing, dtype=object):
    labels = np.array(labels, dtype=dtype)
    labels[BARE] = missing
    return labels


def cmm(mark=None):
    return CMMClassifier(text_features=None, unlabeled=mark)


def read(X, y, *args, mark=None, **kwargs):
    return Reader(unlabeled=mark).fit(X, y, *args, **kwargs).support_


#: Labels of any kind and what stands for none: (y, mark, kind of the classes).
FORMS = {
    "None": (without(NAMES, None), None, "O"),
    "NaN among names": (without(NAMES, np.nan), None, "O"),
    "pandas.NA": (without(NAMES, pd.NA), None, "O"),
    "a list": (without(NAMES, None).tolist(), None, "U"),
    "a list with NaN": (without(NAMES, np.nan).tolist(), None, "U"),
    "a column": (pd.DataFrame({"y": without(NAMES, None)}), None, "O"),
    "of polars": (pl.Series(without(NAMES, None).tolist()), None, "U"),
    "of arrow": (pa.array(without(NAMES, None).tolist()), None, "O"),
    "a series": (pd.Series(without(NAMES, None)), None, "O"),
    "an index": (pd.Index(without(NAMES, None)), None, "O"),
    "strings of pandas": (
        pd.Series(without(NAMES, None), dtype="string"),
        None,
        "O",
    ),
    "categories": (pd.Series(without(NAMES, None), dtype="category"), None, "O"),
    "categories of polars": (
        pl.Series(without(NAMES, None).tolist(), dtype=pl.Categorical),
        None,
        "O",
    ),
    "a mark among names": (without(NAMES, "", "U3"), "", "U"),
    "another mark in objects": (without(NAMES, -1), -1, "O"),
    "three ways": (
        ["ant", None, *NAMES[2:6], "", *NAMES[7:10], np.nan, *NAMES[11:]],
        "",
        "U",
    ),
    "floats": (without(INDEX, np.nan, float), None, "f"),
    "singles": (without(INDEX, np.nan, np.float32), None, "f"),
    "a tensor": (torch.tensor(without(INDEX, np.nan, float)), None, "f"),
    "-1": (without(INDEX, -1, int), -1, "i"),
    "-1 in floats": (without(INDEX, -1, float), -1, "f"),
    "NaN named": (without(INDEX, np.nan, float), np.nan, "f"),
    "integers": (without(INDEX, None), None, "i"),
    "a list of integers": (without(INDEX, None).tolist(), None, "i"),
    "nullable integers": (pd.Series(without(INDEX, None), dtype="Int64"), None, "i"),
    "integers of arrow": (
        pd.Series(without(INDEX, None), dtype="int64[pyarrow]"),
        None,
        "i",
    ),
    "integers of polars": (pl.Series(without(INDEX, None).tolist()), None, "i"),
    "days": (without(DAYS[INDEX], "NaT", "M8[D]"), None, "M"),
}


@pytest.mark.filterwarnings("ignore:A column-vector")
@pytest.mark.parametrize("form", FORMS)
def test_forms(X, form):
    y, mark, kind = FORMS[form]
    found = Reader(unlabeled=mark).fit(X, y)
    expected = read(X, without(INDEX, None))
    assert len(expected.unlabelled) == 3
    for name in ("features", "y", "weight", "unlabelled", "unlabelled_weight", "rows"):
        assert_array_equal(getattr(found.support_, name), getattr(expected, name))
    assert found.classes_.dtype.kind == kind
    assert len(found.classes_) == 4
    assert cmm(mark).fit(X, y).predict(X).dtype.kind == kind


@pytest.mark.parametrize(
    "y",
    [
        without(INDEX > 1, None),
        without(INDEX > 1, None).tolist(),
        pd.Series(without(INDEX > 1, None), dtype="boolean"),
        pl.Series(without(INDEX > 1, None).tolist()),
    ],
)
def test_booleans(X, y):
    assert Reader().fit(X, y).classes_.dtype == bool
    assert read(X, y, mark=0).y.tolist().count(0) > 0  # False is no 0


def test_what_is_kept(X, unit):
    y, weight = without(INDEX, None), np.linspace(0.5, 2, 16)
    weight[[3, 10]] = 0
    support = read(3 * X, y, weight)
    known = np.setdiff1d(np.arange(16), [*BARE, 3])
    labelled = read(3 * X[known], INDEX[known], weight[known])
    for name in ("features", "y", "weight", "copy", "text"):
        assert_array_equal(getattr(support, name), getattr(labelled, name))
    assert support.logit_scale == labelled.logit_scale
    assert (support.rows < 0).nonzero()[0].tolist() == [1, 3, 6, 10]
    order = np.argsort(support.unlabelled_weight)
    assert_allclose(support.unlabelled[order], unit(X[[1, 6]]))
    assert_array_equal(support.unlabelled_weight[order], weight[[1, 6]])
    single = read(X.astype(np.float32), y)
    assert single.unlabelled.dtype == single.unlabelled_weight.dtype == np.float32
    tensors = support.on_device("cpu")
    assert_array_equal(tensors.unlabelled.numpy(), support.unlabelled)
    assert_array_equal(tensors.unlabelled_weight.numpy(), support.unlabelled_weight)


def test_with_all_labels_there_is_none(X):
    for y, mark in ((INDEX, None), (INDEX, -1), (NAMES, "?"), (NAMES, np.nan)):
        support = read(X.astype(np.float32), y, mark=mark)
        assert support.unlabelled.shape == (0, 12)
        assert support.unlabelled_weight.shape == (0,)
        assert support.unlabelled.dtype == support.unlabelled_weight.dtype == np.float32


@given(st.integers(0, 2**20), st.integers(1, 3))
def test_copies_are_weights_and_order_is_none(X, seed, times):
    y, rng = without(INDEX, None), np.random.default_rng(seed)
    weight = rng.integers(1, 4, 16).astype(float)
    weight[BARE] = times
    expected = read(X, y, weight)
    rows = rng.permutation(np.repeat(np.arange(16), np.where(y == None, times, 1)))  # noqa: E711
    found = read(X[rows], y[rows], np.where(y[rows] == None, 1, weight[rows]))  # noqa: E711
    for name in ("features", "y", "weight", "unlabelled", "unlabelled_weight"):
        assert_array_equal(getattr(found, name), getattr(expected, name))


def test_views_share_a_label(X, unit):
    groups = np.arange(16)
    groups[[1, 2]], groups[[6, 10]] = 90, 91  # a labelled view, and none
    y = without(INDEX, None)
    weight = np.linspace(1, 2, 16)
    support = read(X, y, weight, groups=groups)
    told = y.copy()
    told[1] = y[2]
    kept = np.setdiff1d(np.arange(16), [6, 10])
    labels = told[kept].astype(int)
    expected = read(X[kept], labels, weight[kept], groups=groups[kept])
    assert_array_equal(support.features, expected.features)
    assert_array_equal(support.weight, expected.weight)
    mean = np.average(X[[6, 10]], axis=0, weights=weight[[6, 10]])
    assert_allclose(support.unlabelled, unit(mean)[None])
    assert_allclose(support.unlabelled_weight, [weight[[6, 10]].mean()])
    # The label of a row that does not count is none.
    weight[2] = 0
    assert len(read(X, y, weight, groups=groups).unlabelled) == 2
    y[[1, 2, 3]] = None, 0, 1
    with pytest.raises(ValueError, match="have different labels"):
        read(X, y, groups=np.where(np.arange(16) < 4, 0, groups))


def test_class_weights_are_of_labelled_rows(X):
    y = without(INDEX, None)
    y[8:12] = None
    found = Reader(class_weight="balanced").fit(X, y).support_
    known = y != None  # noqa: E711
    model = Reader(class_weight="balanced").fit(X[known], INDEX[known])
    assert_array_equal(found.weight, model.support_.weight)
    assert_array_equal(found.unlabelled_weight, np.ones(6))
    with pytest.raises(ValueError, match="class_weight"):
        Reader(class_weight={-1: 2}, unlabeled=-1).fit(X, without(INDEX, -1, int))


def test_images_that_could_not_be_read(X):
    X = X.copy()
    X[[0, 1]] = np.nan
    encoder = EncoderIdentity("a", "b", "c", 12, 100.0)
    rows = EmbeddingArray(X, encoder)
    support = read(rows, without(INDEX, None))
    assert len(support.unlabelled) == 2
    assert support.rows[:2].tolist() == [-1, -1]
    y = without(INDEX, None)
    y[2:4] = None
    with pytest.warns(UserWarning, match=r"of the classes \['0'\]: they"):
        read(rows, y)


@pytest.mark.parametrize("y", [[None] * 16, np.full(16, np.nan), [pd.NA] * 16])
def test_no_label_at_all(X, y):
    with pytest.raises(ValueError, match=r"Input y contains NaN.*all 16 labels are"):
        CMMClassifier().fit(X, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", *[None] * 15], r"got 1 class: \['a'\]\. 15 rows have no label"),
        ([0.0, np.inf, np.nan, *INDEX[3:]], "contains infinity"),
        ([0.5, 1.25, np.nan, *INDEX[3:]], "continuous"),
        (["a", 1, None, *NAMES[3:]], "mixes strings"),
        (np.ma.array(INDEX, mask=INDEX == 1), "masked array"),
        (without(INDEX, None)[:9], "inconsistent numbers of samples"),
        (np.where(np.eye(16) > 0, np.nan, 0), "several labels an image"),
    ],
)
def test_refused(X, y, message):
    with pytest.raises((TypeError, ValueError), match=message):
        cmm().fit(X, y)


def test_who_needs_every_label_says_who_does_not(X):
    y = without(INDEX, np.nan, float)
    with pytest.raises(ValueError, match=r"\[1, 6, 10\]\. CMMClassifier learns"):
        LPPlusPlusClassifier().fit(X, y)
    with pytest.raises(ValueError, match="solver='gaussian'"):
        CMMClassifier(solver="paper").fit(X, y)
    with pytest.raises(ValueError, match="'unlabeled' parameter"):
        CMMClassifier(unlabeled=[-1]).fit(X, INDEX)


def test_scores_are_of_labelled_rows(X):
    y = without(INDEX, -1, int)
    model = CMMClassifier(unlabeled=-1, store_left_out=True).fit(X, y)
    assert 0 <= model.score(X, INDEX) <= 1
    with pytest.raises(ValueError, match="cannot be scored"):
        model.score(X, y)
    missing = np.isnan(model.left_out_proba_).all(axis=1)
    assert missing.nonzero()[0].tolist() == BARE
    again = clone(model).fit(X, y)
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_another_fit_keeps_nothing_of_the_one_before(X):
    model = CMMClassifier(None, store_left_out=True, store_support=True)
    model.fit(X, without(NAMES, None))
    model.set_params(store_left_out=False, store_support=False)
    kept = NAMES != "dog"
    model.fit(X[kept], NAMES[kept])
    expected = CMMClassifier(None).fit(X[kept], NAMES[kept])
    assert set(vars(model)) == set(vars(expected))
    with pytest.raises(ValueError, match="store_support=True"):
        model.add_images(X, NAMES)
    model.set_params(solver="paper", max_iter=1).fit(X, NAMES)
    model.set_params(solver="gaussian").fit(X, NAMES)
    assert not hasattr(model, "loss_curve_")
