"""Views of one photograph count as one row: `groups` in `fit`."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedGroupKFold,
    cross_val_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from skfewshot import (
    CMMClassifier,
    GaussianDiscriminantClassifier,
    ZeroShotClassifier,
)
from skfewshot.model_selection import shot_curve

GROUP = np.random.default_rng(1).permutation(np.repeat(np.arange(16), 3))


@pytest.fixture(scope="module")
def views(make_task, unit):
    """Three views of each of sixteen photographs: rows, classes, texts, weights."""
    X, y, text = make_task()
    rng = np.random.default_rng(0)
    F = unit(X[GROUP] + 0.1 * rng.normal(size=(48, 12)))
    return F, y[GROUP], text, rng.uniform(0.5, 2, 48)


@pytest.fixture
def quick(classifier):
    """Return each classifier in turn, with a few steps where it is trained in steps."""
    if "max_iter" in classifier.get_params():
        classifier.set_params(max_iter=3)
    return classifier


def merged(F, y, weight):
    """One row a group, slowly: (rows, labels, weights)."""
    rows, labels, weights = [], [], []
    for group in range(16):
        own = group == GROUP
        own &= weight > 0
        rows.append(np.average(F[own], axis=0, weights=weight[own]))
        labels.append(y[own][0])
        weights.append(weight[own].mean())
    return np.array(rows), np.array(labels), np.array(weights)


@pytest.mark.filterwarnings("ignore:.*max_iter")
@pytest.mark.parametrize("with_text", [True, False])
def test_groups_are_their_merged_rows(quick, views, with_text):
    F, y, text, weight = views
    weight = np.where(np.arange(48) == np.flatnonzero(GROUP == 3)[0], 0, weight)
    quick.set_params(text_features=text if with_text else None)
    # The lengths of rows say nothing.
    lengths = np.random.default_rng(2).uniform(0.5, 5, (48, 1))
    found = quick.fit(lengths * F, y, weight, groups=GROUP).predict_proba(F)
    rows, labels, weights = merged(F, y, weight)
    expected = quick.fit(rows, labels, weights).predict_proba(F)
    assert_allclose(found, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_groups_of_one_row_change_nothing(quick, make_task):
    X, y, text = make_task(dtype=np.float32)
    quick.set_params(text_features=text)
    groups = np.random.default_rng(0).permutation(len(y))
    expected = quick.fit(X, y).predict_proba(X)
    assert_array_equal(quick.fit(X, y, groups=groups).predict_proba(X), expected)


@given(seed=st.integers(0, 2**16))
def test_neither_order_nor_names_of_groups_matter(views, seed):
    F, y, text, weight = views
    model = GaussianDiscriminantClassifier(text)
    expected = model.fit(F, y, weight, groups=GROUP).decision_function(F)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(48), rng.permutation(16)
    moved = F[order], y[order], weight[order]
    found = model.fit(*moved, groups=names[GROUP][order]).decision_function(F)
    assert_array_equal(found, expected)


def test_the_same_photograph_twice_is_one_of_double_weight(views):
    F, y, text, weight = views
    twice = [np.concatenate([part, part]) for part in (F, y, weight)]
    model = CMMClassifier(text)
    found = model.fit(*twice, groups=np.concatenate([GROUP, GROUP + 16]))
    found = found.predict_proba(F)
    expected = model.fit(F, y, 2 * weight, groups=GROUP).predict_proba(F)
    assert_allclose(found, expected, atol=1e-6)


def test_balanced_classes_count_photographs(views):
    F, y, text, _ = views
    # Two photographs fewer in a class, and seven more views of one of these left.
    kept = ~np.isin(GROUP, np.unique(GROUP[y == 0])[:2])
    extra = np.flatnonzero((y == 0) & kept)[[0] * 7]
    rows = np.concatenate([np.flatnonzero(kept), extra])
    model = GaussianDiscriminantClassifier(text, class_weight="balanced")
    found = model.fit(F[rows], y[rows], groups=GROUP[rows]).predict_proba(F)
    model = GaussianDiscriminantClassifier(
        text, class_weight={0: 14 / 4 / 2, 1: 14 / 16, 2: 14 / 16, 3: 14 / 16}
    )
    expected = model.fit(F[rows], y[rows], groups=GROUP[rows]).predict_proba(F)
    assert_allclose(found, expected, atol=1e-9)


NAMED = {
    "list": GROUP.tolist(),
    "strings": [f"{number}.jpg" for number in GROUP],
    "objects": np.array([f"{number}.jpg" for number in GROUP], dtype=object),
    "floats": GROUP / 2,
    "series": pd.Series(GROUP, index=GROUP),
    "nullable": pd.Series(GROUP, dtype="Int64"),
    "categories": pd.Series(GROUP.astype(str), dtype="category"),
    "tensor": torch.tensor(GROUP),
}


@pytest.mark.parametrize("kind", NAMED)
def test_groups_may_be_named_by_many_kinds(views, kind):
    F, y, text, _ = views
    model = GaussianDiscriminantClassifier(text)
    expected = model.fit(F, y, groups=GROUP).predict_proba(F)
    found = model.fit(F, y, groups=NAMED[kind]).predict_proba(F)
    assert_array_equal(found, expected)


def with_first(value):
    return [value, *GROUP[1:].tolist()]


WRONG = {
    "a column": (GROUP[:, None], ValueError, r"groups .* 48 rows of X.*\(48, 1\)"),
    "too few": (GROUP[1:], ValueError, r"groups .*\(47,\)"),
    "one number": (3, ValueError, "groups"),
    "one string": ("photograph", ValueError, "groups"),
    "NaN": (with_first(np.nan), ValueError, r"groups.*NaN.*\[0\]"),
    "None": (with_first(None), ValueError, r"groups.*None.*\[0\]"),
    "NA": (pd.Series(with_first(pd.NA)), ValueError, r"groups.*\[0\]"),
    "mixed": (with_first("a"), TypeError, "groups mixes"),
    "sets": ([{number} for number in GROUP], ValueError, "groups holds .*sets"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_group_is_refused_by_name(views, kind):
    F, y, text, _ = views
    groups, error, message = WRONG[kind]
    with pytest.raises(error, match=message):
        ZeroShotClassifier(text).fit(F, y, groups=groups)


@pytest.mark.parametrize(
    "names", [np.arange(16), np.array([f"{i}" for i in range(16)])]
)
def test_a_group_of_two_labels_is_refused_by_name(views, names):
    F, y, text, weight = views
    labels = np.array(["ant", "bee", "cat", "dog"])[y]
    row = np.flatnonzero(GROUP == 5)[0]
    labels[row] = "dog" if y[row] < 3 else "ant"
    model = ZeroShotClassifier(dict(zip(np.unique(labels), text, strict=True)))
    with pytest.raises(
        ValueError, match=f"group {names[5].item()!r} .*different label"
    ):
        model.fit(F, labels, groups=names[GROUP])
    # A row of weight zero is none.
    weight = np.where(np.arange(48) == row, 0, weight)
    model.fit(F, labels, weight, groups=names[GROUP])


def test_ten_crops_are_one_photograph_to_cmm(make_task, unit):
    X, y, text = make_task(shots=1, d=40)
    noise = 0.05 * np.random.default_rng(0).normal(size=(10, *X.shape))
    crops = unit(X + noise)
    model, flat = CMMClassifier(text), crops.reshape(-1, 40)
    model.fit(flat, np.tile(y, 10), groups=np.tile(y, 10))
    one = CMMClassifier(text).fit(crops.mean(axis=0), y)
    assert_allclose(model.predict_proba(X), one.predict_proba(X), atol=1e-6)


# On their way


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_every_classifier_can_ask_for_groups(routing, classifier):
    assert classifier.get_metadata_routing().fit.requests["groups"] is None
    requested = classifier.set_fit_request(groups=True).get_metadata_routing()
    assert requested.fit.requests["groups"] is True
    assert "groups" not in requested.score.requests


def test_a_pipeline_and_a_search_pass_them_on(routing, views):
    F, y, text, _ = views
    direct = CMMClassifier(text).fit(F, y, groups=GROUP)
    asking = CMMClassifier(text).set_fit_request(groups=True)
    pipeline = Pipeline([("unit", Normalizer()), ("cmm", asking)])
    fitted = pipeline.fit(F, y, groups=GROUP)
    assert_allclose(fitted["cmm"].map_, direct.map_, atol=1e-9)
    folds = StratifiedGroupKFold(2)
    search = GridSearchCV(pipeline, {"cmm__alpha": ["auto"]}, cv=folds)
    search.fit(F, y, groups=GROUP)
    assert_allclose(search.best_estimator_["cmm"].map_, direct.map_, atol=1e-9)
    splits = list(folds.split(F, y, GROUP))
    scores = [
        CMMClassifier(text)
        .fit(F[train], y[train], groups=GROUP[train])
        .score(F[test], y[test])
        for train, test in splits
    ]
    assert search.best_score_ == pytest.approx(np.mean(scores))
    found = cross_val_score(asking, F, y, cv=folds, params={"groups": GROUP})
    assert_allclose(found, scores)
    for train, test in splits:
        assert not np.isin(GROUP[train], GROUP[test]).any()


def test_a_search_asks_who_wants_them(routing, views):
    F, y, text, _ = views
    model = ZeroShotClassifier(text)
    search = GridSearchCV(model, {"logit_scale": [10.0]}, cv=StratifiedGroupKFold(2))
    with pytest.raises(UnsetMetadataPassedError, match="groups"):
        search.fit(F, y, groups=GROUP)
    model.set_fit_request(groups=False)
    search.fit(F, y, groups=GROUP)


def test_without_routing_a_search_only_splits_by_them(views):
    F, y, text, _ = views
    direct = CMMClassifier(text).fit(F, y)
    folds = StratifiedGroupKFold(2)
    search = GridSearchCV(CMMClassifier(text), {"alpha": ["auto"]}, cv=folds)
    search.fit(F, y, groups=GROUP)
    assert_array_equal(search.best_estimator_.map_, direct.map_)
    pipeline = Pipeline([("cmm", CMMClassifier(text))])
    pipeline.fit(F, y, cmm__groups=GROUP)
    direct.fit(F, y, groups=GROUP)
    assert_array_equal(pipeline["cmm"].map_, direct.map_)


def test_fit_transform_and_a_shot_curve_take_them(views):
    F, y, text, _ = views
    direct = CMMClassifier(text).fit(F, y, groups=GROUP)
    mapped = CMMClassifier(text).fit_transform(F, y, groups=GROUP)
    assert_array_equal(mapped, direct.transform(F))
    curve = shot_curve(
        CMMClassifier(text),
        F,
        y,
        groups=GROUP,
        cv=StratifiedGroupKFold(2),
        shots=(4,),
        random_state=0,
        params={"groups": GROUP},
        error_score="raise",
    )
    drawn, test = curve.support_indices[0][0], curve.test_indices[0]
    expected = CMMClassifier(text).fit(F[drawn], y[drawn], groups=GROUP[drawn])
    assert curve.test_scores[0, 0] == expected.score(F[test], y[test])
