"""What a pipeline refuses before its featurizer reads an image, and what it cannot."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skfewshot import (
    CLIPFeaturizer,
    CMMClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.clip import ImageReadError
from skfewshot.datasets import make_object_images

KINDS = ["striped star", "plain heart", "spotted ring"]
NAMES = KINDS * 2
#: Reading any of them fails.
PATHS = [f"/nowhere/{index}.png" for index in range(len(NAMES))]


def refused(classifier, y, images=PATHS):
    """The message of what a pipeline says before it reads an image."""
    model = make_pipeline(CLIPFeaturizer("tiny"), classifier)
    with pytest.raises((TypeError, ValueError)) as caught:
        model.fit(images, y)
    assert not isinstance(caught.value, ImageReadError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (NAMES[:4], "X has 6 images, but y has 4 labels"),
        (["a"] * 6, "needs at least 2 classes in y"),
        ([None] * 6, "y contains NaN"),
        ([0.5, 1.2, 3.1, 0.1, 0.3, 0.7], "Unknown label type"),
        ([*NAMES[:5], 3], "mixes strings with 3 of type int"),
        (np.eye(6, dtype=int), "MultiLabelPrototypeClassifier learns from such"),
        (None, "y to be passed"),
        ([["a"], ["a", "b"], [], [], [], []], "lists or sets of labels"),
    ],
    ids=str,
)
@pytest.mark.parametrize("classifier", [CMMClassifier(), TipAdapterClassifier()])
def test_labels(classifier, y, message):
    assert message in refused(clone(classifier), y)


def test_missing_labels():
    """They are refused where they cannot be learned from, and then only."""
    y = [*NAMES[:5], None]
    with pytest.raises(ImageReadError):
        make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier()).fit(PATHS, y)
    message = refused(LPPlusPlusClassifier(), y)
    assert "must not be missing, as at the indexes [5]" in message
    assert "CMMClassifier learns from rows without a label" in message
    assert "5 rows have no label" in refused(CMMClassifier(), ["a", *[None] * 5])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": -1}, "'alpha' parameter"),
        ({"solver": "magic"}, "'solver' parameter"),
        ({"class_names": ["a", "b"]}, "class_names has 2 rows, but y has 3"),
        ({"class_names": {"striped star": "star"}}, "lacks the classes"),
        ({"class_names": lambda label: 3}, "class_names must hold strings; got 3"),
        ({"class_names": {name: [] for name in KINDS}}, "class_names is empty"),
        ({"text_features": {"striped star": np.ones(128)}}, "lacks the classes"),
        ({"text_features": np.ones((2, 128))}, "text_features has 2 rows"),
        ({"prompt_templates": "a photo"}, "has no {}"),
        ({"extra_classes": [3]}, "must hold labels of one kind"),
    ],
    ids=str,
)
def test_parameters_and_names(params, message):
    assert message in refused(CMMClassifier(**params), NAMES)


def test_inside_a_search_and_behind_other_steps():
    steps = [
        ("clip", CLIPFeaturizer("tiny")),
        ("same", FunctionTransformer()),
        ("cmm", CMMClassifier()),
    ]
    search = GridSearchCV(
        Pipeline(steps), {"cmm__alpha": [-1]}, cv=2, error_score="raise"
    )
    with pytest.raises(ValueError, match="'alpha' parameter"):
        search.fit(PATHS, NAMES)


def test_what_is_right_reaches_the_images():
    extra = {"extra_classes": ["plain moon"], "class_names": None}
    for classifier in (
        CMMClassifier(**extra),
        CMMClassifier(class_names={name: f"a {name}" for name in KINDS}),
        ZeroShotClassifier(),
        LogisticRegression(),
        MultiLabelPrototypeClassifier(),
        IsolationForest(),
    ):
        with pytest.raises(ImageReadError):
            make_pipeline(CLIPFeaturizer("tiny"), classifier).fit(PATHS, NAMES)


def test_labels_are_of_no_matter_elsewhere():
    """Only the number of labels is wrong whatever they are for."""
    for y in (
        ["a"] * 6,
        np.eye(6),
        csr_matrix(np.eye(6)),
        [None] * 6,
        pd.Series(NAMES),
    ):
        with pytest.raises(ImageReadError):
            CLIPFeaturizer("tiny").fit_transform(PATHS, y)
    outliers = make_pipeline(CLIPFeaturizer("tiny"), IsolationForest())
    with pytest.raises(ImageReadError):
        outliers.fit(PATHS, ["fine"] * 6)
    with pytest.raises(ValueError, match=r"samples: \[6, 4\]"):
        CLIPFeaturizer("tiny").fit_transform(PATHS, csr_matrix(np.eye(4)))
    for fit in (CLIPFeaturizer("tiny").fit, CLIPFeaturizer("tiny").fit_transform):
        with pytest.raises(ValueError, match=r"number.* of samples: \[6, 2\]"):
            fit(PATHS, ["a", "b"])
    assert CLIPFeaturizer("tiny").fit(PATHS, NAMES).embedding_dim_ == 128
    # Nobody knows how many a generator gives.
    with pytest.raises(ImageReadError):
        CLIPFeaturizer("tiny").fit_transform(iter(PATHS), ["a", "b"])


# A label matrix, and long strings


@pytest.mark.parametrize(
    "as_type",
    [np.asarray, csr_matrix, pd.DataFrame, np.ndarray.tolist],
    ids=lambda kind: kind.__name__,
)
def test_a_label_matrix_is_sent_to_who_learns_from_it(classifier, as_type):
    Y = as_type(np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="MultiLabelPrototypeClassifier") as caught:
        classifier.fit(np.eye(4), Y)
    assert type(classifier).__name__ in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "params",
    [
        {"class_names": {"x" * 10**5: "a"}, "text_encoder": len},
        {"class_names": "x" * 10**5},
        {"text_features": {"x" * 10**5: [1.0, 0.0]}},
        {"text_features": "x" * 10**5},
        {"text_encoder": "x" * 10**5},
        {"solver": "x" * 10**5},
        {"extra_classes": [3, "x" * 10**5]},
        {"prompt_templates": "x" * 10**5, "text_encoder": len},
        {"device": "x" * 10**5},
    ],
    ids=lambda params: next(iter(params)),
)
def test_messages_are_no_longer_than_they_need_be(params):
    with pytest.raises((TypeError, ValueError)) as caught:
        CMMClassifier(**params).fit(np.eye(4)[:, :2] + 0.1, ["a", "b"] * 2)
    assert len(str(caught.value)) < 1000


def test_messages_of_long_labels():
    long = "x" * 10**5
    for y in ([long] * 4, [long, "b", "c", 3]):
        with pytest.raises((TypeError, ValueError)) as caught:
            CMMClassifier().fit(np.eye(4), y)
        assert len(str(caught.value)) < 400
    model = CMMClassifier(np.eye(2)).fit(np.eye(2), ["a", long])
    with pytest.raises(ValueError, match="already one of the classes") as caught:
        model.add_class(long, [1.0, 1.0])
    assert len(str(caught.value)) < 400


# Names alone


@pytest.fixture(scope="module")
def rendered():
    return make_object_images(4, kinds=KINDS, random_state=0, return_X_y=True)


@pytest.mark.parametrize("names", [KINDS, NAMES, np.array(KINDS), pd.Series(KINDS)])
def test_zero_shot_from_names_alone(rendered, names):
    images, y = rendered
    clip = CLIPFeaturizer("tiny")
    X = clip.transform(images)
    expected = ZeroShotClassifier(text_encoder=clip).fit(X, y)
    alone = ZeroShotClassifier(text_encoder=clip).fit(None, names)
    np.testing.assert_array_equal(alone.predict_proba(X), expected.predict_proba(X))
    assert alone.classes_.tolist() == sorted(KINDS)
    assert alone.prototype_source_ == "text_encoder"
    assert alone.n_features_in_ == 128
    assert alone.encoder_ == expected.encoder_
    piped = make_pipeline(CLIPFeaturizer("tiny"), ZeroShotClassifier())
    piped.fit(None, names)
    np.testing.assert_array_equal(piped.predict(images), expected.predict(X))
    assert piped.score(images, y) > 0.6
    assert piped[-1].prototype_source_ == "embedding"


def test_names_alone_with_texts_of_other_sources():
    texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "emu": [-1.0, 0.0]}
    model = ZeroShotClassifier(texts).fit(None, ["dog", "cat"])
    assert model.predict([[0.9, 0.1], [0.1, 0.9]]).tolist() == ["cat", "dog"]
    assert (model.n_features_in_, model.logit_scale_) == (2, 100.0)
    assert model.predict_proba(np.eye(2)).dtype == np.float64
    model = ZeroShotClassifier(np.eye(2), logit_scale=3).fit(None, [7, 3])
    assert model.decision_function(np.eye(2)).tolist() == [-3, 3]
    named = ZeroShotClassifier(
        class_names={0: "striped star", 1: "plain heart"},
        text_encoder=CLIPFeaturizer("tiny"),
    )
    assert named.fit(None, [0, 1]).classes_.tolist() == [0, 1]
    weighted = ZeroShotClassifier(texts).fit(None, ["cat", "dog", "emu"], [1, 0, 1])
    assert weighted.classes_.tolist() == ["cat", "emu"]


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (ZeroShotClassifier(), KINDS, "neither images nor texts"),
        (ZeroShotClassifier(None), KINDS, "neither images nor texts"),
        (ZeroShotClassifier(np.eye(2)), KINDS, "has 2 rows, but y has 3"),
        (ZeroShotClassifier(np.eye(2)), ["a", "a"], "at least 2 classes"),
        (ZeroShotClassifier(np.eye(2)), None, "y to be passed"),
        (CMMClassifier(np.eye(3)), KINDS, "got none, and CMMClassifier learns"),
        (
            make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier()),
            KINDS,
            "got none, and CMMClassifier learns",
        ),
        (make_pipeline(CLIPFeaturizer("tiny"), ZeroShotClassifier()), None, "is None"),
    ],
)
def test_bad_names_alone(model, y, message):
    with pytest.raises((TypeError, ValueError), match=message):
        model.fit(None, y)


def test_codes_alone_are_encoded_for_there_is_nothing_else():
    model = make_pipeline(CLIPFeaturizer("tiny"), ZeroShotClassifier())
    with pytest.warns(UserWarning, match="numbers or codes, '0', '1', say nothing"):
        model.fit(None, ["0", "1"])
    assert model[-1].prototype_source_ == "embedding"
