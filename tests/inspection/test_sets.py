"""Sets hold their class as often as asked, by rows left out as by refits."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skfewshot import (
    CLAPClassifier,
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
)
from skfewshot.datasets import make_object_images
from skfewshot.inspection import predict_set


def held(sets, y):
    return sets[np.arange(len(y)), y].mean()


@pytest.mark.parametrize("coverage", [0.6, 0.8, 0.9])
def test_sets_hold_their_class_as_often_as_asked(kind, coverage, make_inspected):
    found = []
    for seed in range(3):
        task = make_inspected(30, 8, seed, noise=1.2)
        model = kind(task.text, store_left_out=True).fit(task.X, task.y)
        found.append(
            held(predict_set(model, task.queries, coverage=coverage), task.truth)
        )
    # Of 720 rows left out the share is good for some hundredths.
    assert np.mean(found) == pytest.approx(coverage, abs=0.07)


def smallest_by_refits(task, coverage, model):
    """The classes of each query by full refits without each row: slow and obvious."""
    own = []
    for i in range(len(task.y)):
        kept = np.arange(len(task.y)) != i
        refit = model.fit(task.X[kept], task.y[kept])
        own.append(refit.predict_proba(task.X[i : i + 1])[0, task.y[i]])
    rank = int(np.ceil(coverage * (len(own) + 1)))
    model.fit(task.X, task.y)
    return model.predict_proba(task.queries) >= np.sort(own)[::-1][rank - 1]


@pytest.mark.parametrize(
    ("keeping", "plain", "most"),
    [
        (
            GaussianDiscriminantClassifier(alpha=0.4, store_left_out=True),
            GaussianDiscriminantClassifier(alpha=0.4),
            0.0,
        ),
        # The weights and the trust are kept, not found anew without each row.
        pytest.param(
            *(CMMClassifier(store_left_out=True), CMMClassifier(), 0.06),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["gda", "cmm"],
)
def test_sets_are_those_of_refits_without_each_row(
    keeping, plain, most, make_inspected
):
    others = []
    for seed in range(8):
        task = make_inspected(4, 6, seed, noise=1.2)
        for model in (keeping, plain):
            model.set_params(text_features=task.text)
        sets = predict_set(keeping.fit(task.X, task.y), task.queries)
        expected = smallest_by_refits(task, 0.9, plain)
        others.append((sets != expected).mean())
    assert np.mean(others) <= most
    assert 1 < expected.sum(axis=1).mean() < 5


def test_more_coverage_is_larger_sets(kind, task):
    model = kind(task.text, store_left_out=True).fit(task.X, task.y)
    sets = [predict_set(model, task.queries, coverage=c) for c in (0.5, 0.8, 0.95)]
    assert (sets[0] <= sets[1]).all() and (sets[1] <= sets[2]).all()
    # Where the classifier is right more often than asked some sets are empty.
    assert (sets[0].sum(axis=1) == 0).any()
    never = predict_set(model, task.queries, coverage=0.5, allow_empty=False)
    assert_array_equal(never.sum(axis=1) == 1, sets[0].sum(axis=1) <= 1)
    best = model.predict(task.queries)
    assert never[np.arange(len(best)), best].all()


def test_each_class_has_its_coverage(make_inspected):
    """Of classes that are harder than others, which share one bound otherwise."""
    task = make_inspected(20, 8, seed=3, noise=1.2)
    weight = np.ones(len(task.y))
    model = CMMClassifier(task.text, store_left_out=True).fit(task.X, task.y, weight)
    for per_class, most in ((True, 0.16), (False, 0.4)):
        sets = predict_set(model, task.queries, coverage=0.8, per_class=per_class)
        of_class = [
            held(sets[task.truth == c], task.truth[task.truth == c]) for c in range(8)
        ]
        assert np.mean(of_class) == pytest.approx(0.8, abs=0.07)
        assert min(of_class) > 0.8 - most
    rare = (task.y > 0) | (np.arange(len(task.y)) < 8)
    model.fit(task.X[rare], task.y[rare])
    with pytest.warns(UserWarning, match=r"takes 9 images, and .* classes \[0\] has"):
        sets = predict_set(model, task.queries, per_class=True)
    assert sets[:, 0].all() and not sets[:, 1].all()


def test_too_few_rows_are_said_to_be_too_few(make_inspected):
    task = make_inspected(3, 2)
    model = CMMClassifier(task.text, store_left_out=True).fit(task.X, task.y)
    with pytest.warns(UserWarning, match="coverage=0.9 takes 9 images, and the sup"):
        assert predict_set(model, task.queries).all()


def test_copies_count_once_and_weights_count_rows(kind, task):
    model = kind(task.text, store_left_out=True)
    expected = predict_set(model.fit(task.X, task.y), task.queries)
    twice = np.vstack([task.X, task.X[:5]]), np.append(task.y, task.y[:5])
    model.fit(*twice, np.where(np.isin(np.arange(69), [0, 1, 2, 3, 4]), 0.0, 1.0))
    assert_array_equal(predict_set(model, task.queries), expected)
    doubled = np.where(np.arange(64) < 5, 2.0, 1.0)
    by_weight = predict_set(model.fit(task.X, task.y, doubled), task.queries)
    by_copies = predict_set(model.fit(*twice), task.queries)
    # Copies leave together, so they are one row to judge by, of twice the weight.
    assert_array_equal(by_weight, by_copies)


def test_of_a_pipeline_and_of_names(task):
    names = np.array(list("hgfedcba"))
    texts = dict(zip(names, task.text, strict=True))
    model = CMMClassifier(texts, store_left_out=True).fit(task.X, names[task.y])
    steps = make_pipeline(Normalizer(), CMMClassifier(texts, store_left_out=True))
    sets = predict_set(steps.fit(task.X, names[task.y]), 3 * task.queries)
    assert_array_equal(sets, predict_set(model, task.queries))
    assert held(sets, np.searchsorted(model.classes_, names[task.truth])) > 0.8


def test_an_image_that_could_not_be_read_may_be_anything(tmp_path):
    kinds = ["striped star", "plain heart"]
    images, names = make_object_images(8, kinds=kinds, random_state=0, return_X_y=True)
    (tmp_path / "broken.png").write_bytes(b"none")
    clip = CLIPFeaturizer("tiny", on_error="nan")
    model = make_pipeline(clip, CMMClassifier(store_left_out=True)).fit(images, names)
    for allow_empty in (True, False):
        with pytest.warns(UserWarning, match="could not be read"):
            sets = predict_set(
                model,
                [images[0], str(tmp_path / "broken.png")],
                allow_empty=allow_empty,
            )
        assert sets.sum(axis=1).tolist() == [1, 2]


def test_rows_without_a_label_are_not_judged_by(task):
    y = task.y.astype(object)
    y[::3] = None
    model = CMMClassifier(task.text, store_left_out=True).fit(task.X, y)
    assert (model.support_codes_ == np.where(np.arange(64) % 3, task.y, -1)).all()
    assert held(predict_set(model, task.queries), task.truth) > 0.8


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 1.5, "most", None])
def test_a_coverage_that_is_none(coverage, task):
    model = CMMClassifier(task.text, store_left_out=True).fit(task.X, task.y)
    with pytest.raises((ValueError, TypeError), match="coverage must be"):
        predict_set(model, task.queries, coverage=coverage)


def test_who_knows_no_rows_left_out_says_so(task):
    model = CMMClassifier(task.text).fit(task.X, task.y)
    with pytest.raises(ValueError, match="fit it with store_left_out=True"):
        predict_set(model, task.queries)
    clap = CLAPClassifier(task.text, max_iter=2).fit(task.X, task.y)
    with pytest.raises(ValueError, match="CLAPClassifier does not know. CMMClassif"):
        predict_set(clap, task.queries)


def test_a_class_that_was_added_is_not_known(task):
    texts = dict(enumerate(task.text))
    model = CMMClassifier(texts, store_left_out=True).fit(task.X, task.y)
    model.add_class(9, task.others[0])
    with pytest.raises(ValueError, match="and with all classes"):
        predict_set(model, task.queries)


def test_mapie_has_sets_of_the_other_classifiers(task):
    """From images that are kept aside, as CLAP can leave none out."""
    classification = pytest.importorskip("mapie.classification")
    model = CLAPClassifier(task.text, max_iter=30)
    aside = np.arange(64) % 2 == 0
    mapie = classification.SplitConformalClassifier(
        model.fit(task.X[~aside], task.y[~aside]), confidence_level=0.8, prefit=True
    )
    mapie.conformalize(task.X[aside], task.y[aside])
    _, sets = mapie.predict_set(task.queries)
    assert sets.shape == (320, 8, 1)
    assert held(sets[..., 0], task.truth) > 0.7
