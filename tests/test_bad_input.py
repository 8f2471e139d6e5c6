"""Bad input gets an error that names the argument, what came and what is wanted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skfewshot import CMMClassifier
from skfewshot.clip import EmbeddingArray, EncoderIdentity

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4))
Y = np.array(["a", "a", "b", "b", "c", "c"])
NAN = np.where(np.arange(24).reshape(6, 4) == 5, np.nan, X)


@pytest.mark.parametrize(
    ("features", "labels", "weight", "message"),
    [
        (NAN, Y, None, "contains NaN"),
        (X[:0], Y[:0], None, "0 sample"),
        (X, np.full(6, "a"), None, "at least 2 classes .* got 1 class: \\['a'\\]"),
        (X, Y, -np.ones(6), "Negative values in data"),
        (X, Y, np.zeros(6), "non-zero"),
        (X, Y, [1, 1, 0, 0, 0, 0], "got 1 class"),
        (X, Y[:5], None, "inconsistent numbers of samples"),
        (X[0], Y, None, "Expected 2D array"),
        (X, X[:, 0], None, "Unknown label type"),
        (X, Y, np.ones(5), "sample_weight.shape"),
    ],
)
def test_support(features, labels, weight, message):
    with pytest.raises(ValueError, match=message):
        CMMClassifier().fit(features, labels, sample_weight=weight)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text_features", "clip"),
        ("text_features", 3),
        ("class_names", 5),
        ("text_encoder", "ViT-B-32"),
        ("prompt_templates", 1.5),
        ("alpha", -0.1),
        ("triplet_weight", -1),
        ("margin", -1e-3),
        ("store_left_out", "yes"),
        ("logit_scale", 0),
        ("logit_scale", "big"),
        ("learning_rate", 0),
        ("max_iter", -1),
        ("class_weight", "uneven"),
        ("chunk_size", 0),
        ("random_state", "seed"),
    ],
)
def test_parameters(name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        CMMClassifier(**{name: value}).fit(X, Y)


def test_query():
    model = CMMClassifier().fit(X, Y)
    with pytest.raises(ValueError, match="3 features, but .* expecting 4"):
        model.predict(X[:, :3])
    with pytest.raises(ValueError, match="contains NaN"):
        model.predict_proba(NAN)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["a.jpg", "b.jpg"] * 3, "X is a list of str; .* Images are embedded first"),
        ((Path("a.jpg"),) * 6, "X is a tuple of .*Path; wanted embeddings"),
        ([Image.new("RGB", (8, 8))] * 6, "X is a list of Image; .*CLIPFeaturizer"),
        (np.zeros((6, 8, 8, 3), np.uint8), "dim 4 as X; .* Images are embedded first"),
        ([np.zeros((8, 8, 3), np.uint8)] * 6, "dim 4 as X; .*CLIPFeaturizer"),
        (np.zeros((6, 5, 4)), "dim 3 as X; .* Tokens are for MultiLabelPrototype"),
    ],
)
def test_images_and_tokens_are_no_embeddings(images, message):
    with pytest.raises(ValueError, match=message):
        CMMClassifier().fit(images, Y)
    with pytest.raises(ValueError, match=message):
        CMMClassifier().fit(X, Y).predict(images)


def test_images_that_could_not_be_read_are_named():
    encoder = EncoderIdentity("test-model", None, "aaaa", 4, 100.0)
    embedded = EmbeddingArray(NAN, encoder)
    message = r"Input X contains NaN: .* at the indexes \[1\]"
    with pytest.raises(ValueError, match=message):
        CMMClassifier(None).fit(embedded, Y)
    model = CMMClassifier(None).fit(EmbeddingArray(X, encoder), Y)
    with pytest.raises(ValueError, match=message):
        model.predict(embedded)


def test_absurd_parameters_do_not_pass_for_convergence():
    text = np.eye(3, 4)
    with pytest.raises(ValueError, match="logit_scale is out of all proportion"):
        CMMClassifier(text, logit_scale=1e200).fit(X.astype(np.float32), Y)
    tiny = CMMClassifier(text, alpha=1e-310).fit(X, Y)
    assert np.isfinite(tiny.map_).all()


def test_class_weights():
    with pytest.raises(ValueError, match="class_weight .*negative"):
        CMMClassifier(class_weight={"a": -1, "b": 1, "c": 1}).fit(X, Y)
    with pytest.raises(ValueError, match="every row of the support weight 0"):
        CMMClassifier(class_weight={"a": 0, "b": 0, "c": 0}).fit(X, Y)
    with pytest.raises(ValueError, match="not in class_weight"):
        CMMClassifier(class_weight={"a": 1, "zebra": 2}).fit(X, Y)


def test_wrong_width_of_the_texts_names_both_shapes():
    with pytest.raises(ValueError, match=r"shape \(3, 7\); wanted \(3, 4\)"):
        CMMClassifier(np.ones((3, 7))).fit(X, Y)
