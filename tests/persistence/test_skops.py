"""skops, which runs no code from a file, loads every fitted estimator."""

import numpy as np
import pytest
import skops.io
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from skops.io.exceptions import UntrustedTypesFoundException

import skfewshot
from skfewshot import (
    CLIPFeaturizer,
    CMMClassifier,
    MultiLabelPrototypeClassifier,
    TaskResClassifier,
    ZeroShotClassifier,
)
from skfewshot.clip import EmbeddingArray, EncoderIdentity
from skfewshot.datasets import make_object_images
from skfewshot.inspection import RejectingClassifier
from skfewshot.persistence import TRUSTED_TYPES

KINDS = ["striped star", "plain heart"]


def untrusted(estimator):
    return set(skops.io.get_untrusted_types(data=skops.io.dumps(estimator)))


def round_trip(estimator):
    return skops.io.loads(skops.io.dumps(estimator), trusted=TRUSTED_TYPES)


def test_round_trip(model, queries, predict_all):
    loaded, expected = round_trip(model), predict_all(model, queries)
    found = predict_all(loaded, queries)
    assert found.keys() == expected.keys()
    for method, values in expected.items():
        assert_array_equal(found[method], values, err_msg=method)
    assert {name: type(value) for name, value in vars(loaded).items()} == {
        name: type(value) for name, value in vars(model).items()
    }


def test_each_trusted_type_is_needed(fitted_models):
    found = set()
    for model, _ in fitted_models.values():
        types = untrusted(model)
        assert types <= set(TRUSTED_TYPES)
        found |= types
    texts = CLIPFeaturizer("tiny").encode_classes(KINDS)
    found |= untrusted(ZeroShotClassifier(texts))
    found |= untrusted(RejectingClassifier(CMMClassifier()))
    assert found == set(TRUSTED_TYPES)
    assert len(set(TRUSTED_TYPES)) == len(TRUSTED_TYPES)


def test_nothing_is_trusted_unasked(model):
    with pytest.raises(UntrustedTypesFoundException, match="skfewshot"):
        skops.io.loads(skops.io.dumps(model))


def test_a_pipeline(tmp_path):
    images, names = make_object_images(3, kinds=KINDS, random_state=0, return_X_y=True)
    pipeline = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier())
    pipeline.fit(images, names)
    skops.io.dump(pipeline, tmp_path / "model.skops")
    assert set(skops.io.get_untrusted_types(file=tmp_path / "model.skops")) <= set(
        TRUSTED_TYPES
    )
    loaded = skops.io.load(tmp_path / "model.skops", trusted=TRUSTED_TYPES)
    assert_array_equal(loaded.predict_proba(images), pipeline.predict_proba(images))
    assert loaded[-1].encoder_ == pipeline[-1].encoder_
    # The class can still be added, and others learned: the encoder is known.
    assert "plain ring" in loaded[-1].add_class("plain ring").classes_


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(18, 4)), np.arange(18) % 3
TOKENS = RNG.normal(size=(18, 5, 4))


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (CMMClassifier({0: [1, 0, 0, 0], 1: [0, 1, 0, 0], 2: [0, 0, 1, 0]}), X),
        (
            TaskResClassifier(
                random_state=np.random.RandomState(0),
                class_weight={0: 1.0, 1: 2.0, 2: 3.0},
                max_iter=3,
            ),
            X,
        ),
        (
            ZeroShotClassifier(
                text_encoder=CLIPFeaturizer("tiny", prompt_templates=("a {}", "{}")),
                class_names={0: "star", 1: "ring", 2: "ball"},
            ),
            np.tile(X, (1, 32)),
        ),
        (MultiLabelPrototypeClassifier(threshold=[0.3, 0.4, 0.5]), TOKENS),
    ],
    ids=["dict", "random state", "encoder", "thresholds"],
)
def test_parameters_of_all_kinds(estimator, rows):
    y = np.eye(3, dtype=int)[Y] if rows is TOKENS else Y
    model = estimator.fit(rows, y)
    assert untrusted(model) <= set(TRUSTED_TYPES)
    loaded = round_trip(model)
    assert_array_equal(loaded.predict_proba(rows), model.predict_proba(rows))
    again = loaded.fit(rows, y)
    assert_array_equal(again.predict_proba(rows), model.predict_proba(rows))


def test_what_is_not_of_this_package_is_for_the_user_to_trust():
    model = GridSearchCV(CMMClassifier(), {"alpha": [1.0]}, cv=StratifiedKFold(2))
    model.fit(X, Y)
    own = untrusted(model) - set(TRUSTED_TYPES)
    assert own and not any(name.startswith("skfewshot") for name in own)
    loaded = skops.io.loads(skops.io.dumps(model), trusted=[*TRUSTED_TYPES, *own])
    assert loaded.score(X, Y) == model.score(X, Y)


def test_trusted_types_are_the_classes_of_this_package():
    public = {getattr(skfewshot, name) for name in skfewshot.__all__}
    public = {kind for kind in public if isinstance(kind, type)}
    public |= {EmbeddingArray, EncoderIdentity, RejectingClassifier}
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in public]
    assert sorted(TRUSTED_TYPES) == sorted(names)


def test_embeddings_come_back_without_their_encoder():
    """skops keeps the numbers; what was fitted on them knows the encoder itself."""
    encoder = EncoderIdentity("tiny", None, "5f0c", 4, 100.0)
    texts = EmbeddingArray(RNG.normal(size=(3, 4)), encoder)
    loaded = round_trip(ZeroShotClassifier(texts).fit(X, Y))
    assert loaded.encoder_ == encoder
    assert isinstance(loaded.text_features, EmbeddingArray)
    assert loaded.text_features.encoder is None
    assert_array_equal(loaded.text_features, texts)
