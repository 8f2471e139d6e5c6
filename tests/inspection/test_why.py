"""Parts add up to the logits, and say whose they are."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skfewshot import CLIPFeaturizer, CMMClassifier, TipAdapterClassifier
from skfewshot.datasets import make_object_images
from skfewshot.inspection import explain


def fitted(classifier, task, text):
    model = clone(classifier).set_params(text_features=text)
    if "max_iter" in model.get_params():
        model.set_params(max_iter=5)
    if "random_state" in model.get_params():
        model.set_params(random_state=0)
    return model.fit(task.X, task.y)


@pytest.mark.parametrize("has_text", [True, False])
def test_parts_add_up_to_how_far_the_winner_is_ahead(classifier, has_text, task):
    model = fitted(classifier, task, task.text if has_text else None)
    why = explain(model, task.queries)
    logits = np.sort(model.decision_function(task.queries), axis=1)
    best, next_best = logits[:, -1], logits[:, -2]
    total = why.text + why.image + why.level
    assert_allclose(total, best - logits.mean(axis=1), atol=1e-8)
    leads = why.text_lead + why.image_lead + why.level_lead
    assert_allclose(leads, best - next_best, atol=1e-8)
    ratio = np.log(why.proba / why.runner_up_proba)
    assert_allclose(leads, ratio, rtol=1e-6, atol=1e-8)
    assert_array_equal(why.label, model.predict(task.queries))
    proba = np.sort(model.predict_proba(task.queries), axis=1)
    assert_allclose([why.proba, why.runner_up_proba], proba[:, [-1, -2]].T)
    assert not (why.label == why.runner_up).any()
    told = np.nan_to_num(why.text_share, nan=0.5)
    assert ((told >= 0) & (told <= 1)).all()
    # Zero-shot has nothing of images, and without text nothing is of texts.
    if not has_text:
        assert not why.text.any() and not np.nan_to_num(why.text_share).any()
    elif type(model).__name__ == "ZeroShotClassifier":
        assert_allclose(why.image, 0, atol=1e-8)
    else:
        assert why.text.any() and why.image.any()


def test_the_text_part_is_that_of_the_text(task):
    """Without images CMM is zero-shot CLIP."""
    why = explain(CMMClassifier(task.text, alpha=0.0).fit(task.X, task.y), task.queries)
    assert_allclose(why.text_share, 1)
    assert_allclose(why.image, 0, atol=1e-9)
    cosines = 100 * task.queries @ task.text.T
    above = cosines.max(axis=1) - cosines.mean(axis=1)
    assert_allclose(why.text, above)


def test_neighbors_are_images_of_the_support(task):
    model = CMMClassifier(task.text, store_left_out=True).fit(task.X, task.y)
    why = explain(model, task.queries, n_neighbors=4)
    cosines = model.transform(task.queries) @ model.transform(task.X).T
    order = np.argsort(-cosines, axis=1)[:, :4]
    assert_array_equal(why.neighbors, order)
    assert_allclose(why.similarity, np.take_along_axis(cosines, order, axis=1))
    assert (task.y[why.neighbors[:, 0]] == why.label).mean() > 0.6
    # The same without what is kept, and none at all where nothing is.
    passed = explain(CMMClassifier(task.text).fit(task.X, task.y), task.queries)
    assert passed.neighbors.shape == passed.similarity.shape == (320, 0)
    passed = explain(model, task.queries, n_neighbors=4, support=task.X)
    assert_array_equal(passed.neighbors, order)
    assert explain(model, task.queries, n_neighbors=999).neighbors.shape == (320, 64)
    assert explain(model, task.queries, n_neighbors=0).neighbors.shape == (320, 0)


def test_rows_that_were_not_learned_from_are_no_neighbors(task):
    weight = np.where(np.arange(64) % 2, 1.0, 0.0)
    model = CMMClassifier(task.text, store_left_out=True)
    why = explain(model.fit(task.X, task.y, weight), task.queries)
    assert (why.neighbors % 2 == 1).all()


def test_of_a_pipeline_and_of_images(task, tmp_path):
    steps = make_pipeline(Normalizer(), TipAdapterClassifier(task.text))
    why = explain(steps.fit(task.X, task.y), 2 * task.queries, support=3 * task.X)
    cosines = task.queries @ task.X.T
    assert_array_equal(why.neighbors[:, 0], cosines.argmax(axis=1))
    kinds = ["striped star", "plain heart"]
    images, names = make_object_images(6, kinds=kinds, random_state=0, return_X_y=True)
    (tmp_path / "broken.png").write_bytes(b"none")
    clip = CLIPFeaturizer("tiny", on_error="nan")
    model = make_pipeline(clip, CMMClassifier(store_left_out=True))
    model.fit(images, names)
    with pytest.warns(UserWarning, match="could not be read"):
        why = explain(model, [images[3], str(tmp_path / "broken.png")])
    assert why.label[0] == names[3] and why.neighbors[0, 0] == 3
    assert why.similarity[0, 0] == pytest.approx(1)
    assert np.isnan([why.proba[1], why.text[1], why.similarity[1, 0]]).all()


def test_what_is_no_number_of_neighbors(task):
    model = CMMClassifier(task.text).fit(task.X, task.y)
    for n_neighbors in (-1, 1.5, "all"):
        with pytest.raises((ValueError, TypeError), match="n_neighbors must be"):
            explain(model, task.queries, n_neighbors=n_neighbors)
