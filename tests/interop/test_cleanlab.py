"""cleanlab finds label errors that were planted, by our out-of-sample probabilities."""

import numpy as np
import pandas as pd
import pytest
from cleanlab.classification import CleanLearning
from cleanlab.filter import find_label_issues
from cleanlab.multilabel_classification import get_label_quality_scores
from cleanlab.rank import get_label_quality_scores as get_quality
from PIL import Image
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from skfewshot import (
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    MultiLabelPrototypeClassifier,
    ProKeRClassifier,
)
from skfewshot.datasets import make_scenes
from skfewshot.model_selection import MultilabelStratifiedKFold

pytestmark = pytest.mark.slow
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def plant(codes, share=0.08, random_state=0):
    """Give a share of the rows another label; return the labels and where they are."""
    rng = np.random.default_rng(random_state)
    n_classes = codes.max() + 1
    rows = rng.choice(len(codes), round(share * len(codes)), replace=False)
    planted = codes.copy()
    planted[rows] = (codes[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
    return planted, rows


@pytest.fixture(scope="module")
def objects(make):
    """Forty classes of ten images, of which a classifier is right on some 80 %."""
    return make(10, kinds=None)


@pytest.mark.parametrize(
    "model",
    [CMMClassifier(), GaussianDiscriminantClassifier(), ProKeRClassifier()],
    ids=lambda model: type(model).__name__,
)
def test_planted_errors_are_found_in_integer_labels(objects, model):
    codes, planted = plant(objects.codes)
    model.set_params(class_names=objects.classes)
    probabilities = cross_val_predict(
        model, objects.X, codes, cv=FOLDS, method="predict_proba"
    )
    found = find_label_issues(codes, probabilities, n_jobs=1)
    # By chance both were 0.08, and the first of the ranking hit as seldom.
    assert found[planted].mean() > 0.6
    assert found[planted].sum() / found.sum() > 0.25
    first = np.argsort(get_quality(codes, probabilities))[: len(planted)]
    assert np.isin(first, planted).mean() > 0.75


def test_names_are_numbered_in_the_order_of_the_columns(support):
    """cleanlab wants 0, 1, ... in the order of the columns, which is the sorted one."""
    codes, _ = plant(support.codes)
    by_number = dict(enumerate(support.classes))
    from_codes, from_names = (
        cross_val_predict(
            CMMClassifier(class_names=by_number),
            support.X,
            labels,
            cv=4,
            method="predict_proba",
        )
        for labels in (codes, np.array(support.classes)[codes])
    )
    np.testing.assert_allclose(from_codes, from_names, atol=1e-6)


def test_clean_learning_drops_the_errors_and_fits_with_texts(make):
    objects = make(20)
    codes, planted = plant(objects.codes)
    learner = CleanLearning(CMMClassifier(class_names=objects.classes), seed=0)
    learner.fit(objects.X, codes)
    found = learner.get_label_issues()["is_label_issue"].to_numpy()
    assert found[planted].mean() > 0.6
    assert found[planted].sum() / found.sum() > 0.6
    assert learner.clf.prototype_source_ == "embedding"
    assert (learner.predict(objects.X) == objects.codes).mean() > 0.9
    with pytest.raises(ValueError, match="Labels cannot be strings"):
        learner.fit(objects.X, objects.names)


def test_clean_learning_from_images(make, tmp_path):
    """Of an array or a column: cleanlab has no use for a list of images or paths."""
    objects = make(16)
    codes, planted = plant(objects.codes)
    model = make_pipeline(
        CLIPFeaturizer("tiny"), CMMClassifier(class_names=objects.classes)
    )
    with pytest.raises(TypeError, match="must support list-based indexing"):
        CleanLearning(model).fit(objects.images, codes)
    paths = [str(tmp_path / f"{i}.png") for i in range(len(codes))]
    for path, image in zip(paths, objects.images, strict=True):
        Image.fromarray(image).save(path)
    for X in (np.stack(objects.images), np.array(paths), pd.Series(paths)):
        learner = CleanLearning(model, seed=0, cv_n_folds=3).fit(X, codes)
        assert learner.clf[-1].prototype_source_ == "embedding"
        assert learner.get_label_issues()["is_label_issue"][planted].mean() > 0.4


def test_a_wrong_label_among_several(clip):
    kinds = ["striped star", "plain heart", "spotted ring", "checked square"]
    scenes = make_scenes(80, kinds=kinds, random_state=0)
    X = CLIPFeaturizer("tiny", output="tokens").transform(scenes.images)
    rng = np.random.default_rng(0)
    planted = rng.choice(80, 8, replace=False)
    Y = scenes.labels.copy()
    Y[planted, rng.integers(0, 4, 8)] ^= 1
    probabilities = cross_val_predict(
        MultiLabelPrototypeClassifier(label_names=kinds),
        X,
        Y,
        cv=MultilabelStratifiedKFold(4),
        method="predict_proba",
    )
    labels = [np.flatnonzero(row).tolist() for row in Y]
    quality = get_label_quality_scores(labels, probabilities)
    assert np.isin(np.argsort(quality)[:8], planted).mean() > 0.6
