"""Planted errors come first, in the order that cleanlab has."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot import CMMClassifier
from skfewshot.inspection import label_issues

PLANTED = [3, 17, 40, 61]


@pytest.fixture
def noisy(make_inspected):
    """A task of which four labels are wrong."""
    task = make_inspected(12, 6)
    y = task.y.copy()
    y[PLANTED] = (y[PLANTED] + 1) % 6
    return task._replace(y=y)


def test_planted_errors_come_first(kind, noisy):
    model = kind(noisy.text, store_left_out=True).fit(noisy.X, noisy.y)
    issues = label_issues(model)
    assert sorted(issues.rows) == list(range(72))
    assert set(issues.rows[:4]) == set(PLANTED)
    # What is doubtful is an issue where another class is as sure as usual.
    assert set(issues.rows[issues.is_issue]) <= set(issues.rows[:8])
    assert issues.is_issue[:4].sum() >= 2
    assert (np.diff(issues.proba) >= 0).all()
    assert_array_equal(issues.given, noisy.y[issues.rows])
    assert (issues.suggested[:4] == (issues.given[:4] - 1) % 6).mean() >= 0.75
    own = model.left_out_proba_[issues.rows, issues.given]
    assert_allclose(issues.proba, own)


def test_images_that_were_fitted_on_are_judged_without_them(kind, noisy):
    model = kind(noisy.text, store_left_out=True).fit(noisy.X, noisy.y)
    expected = label_issues(model)
    again = label_issues(model, 2 * noisy.X, noisy.y)
    for found, wanted in zip(again, expected, strict=True):
        assert_array_equal(found, wanted)
    # Others by the whole classifier.
    others = label_issues(model, noisy.queries, noisy.truth)
    own = model.predict_proba(noisy.queries)[others.rows, others.given]
    assert_allclose(others.proba, own)
    assert len(others.rows) == 240
    both = label_issues(
        model, np.vstack([noisy.queries, noisy.X]), np.append(noisy.truth, noisy.y)
    )
    place = np.argsort(both.rows)
    assert_allclose(both.proba[place][240:], expected.proba[np.argsort(expected.rows)])


def test_rows_that_were_not_learned_from_are_not_judged(noisy):
    weight = np.where(np.arange(72) == 5, 0.0, 1.0)
    model = CMMClassifier(noisy.text, store_left_out=True)
    issues = label_issues(model.fit(noisy.X, noisy.y, weight))
    assert 5 not in issues.rows and len(issues.rows) == 71


def test_names(noisy):
    names = np.array(list("fedcba"))
    texts = dict(zip(names, noisy.text, strict=True))
    model = CMMClassifier(texts, store_left_out=True).fit(noisy.X, names[noisy.y])
    for issues in (label_issues(model), label_issues(model, noisy.X, names[noisy.y])):
        assert set(issues.rows[:4]) == set(PLANTED)
        assert_array_equal(issues.given, names[noisy.y][issues.rows])


def test_what_cannot_be_judged(noisy):
    model = CMMClassifier(noisy.text, store_left_out=True).fit(noisy.X, noisy.y)
    with pytest.raises(ValueError, match="together, or neither; y is None"):
        label_issues(model, noisy.X)
    with pytest.raises(ValueError, match="X has 72 images, but y has 71 labels"):
        label_issues(model, noisy.X, noisy.y[1:])
    with pytest.raises(ValueError, match=r"y holds labels that are none .* \['9'\]"):
        label_issues(model, noisy.X, np.where(noisy.y == 2, 9, noisy.y))
    with pytest.raises(ValueError, match="fit it with store_left_out=True"):
        label_issues(CMMClassifier(noisy.text).fit(noisy.X, noisy.y), noisy.X, noisy.y)


@pytest.mark.parametrize("noise", [0.8, 1.2])
def test_cleanlab_has_the_same_order_and_issues(kind, noise, make_inspected):
    cleanlab = pytest.importorskip("cleanlab.filter")
    task = make_inspected(12, 6, seed=1, noise=noise)
    y = task.y.copy()
    y[::9] = (y[::9] + 2) % 6
    model = kind(task.text, store_left_out=True).fit(task.X, y)
    found = label_issues(model)
    ranked = cleanlab.find_label_issues(
        y,
        model.left_out_proba_,
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    assert_array_equal(found.rows[found.is_issue], ranked)
    assert len(ranked) > 3
