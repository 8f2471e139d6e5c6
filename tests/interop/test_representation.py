"""What a notebook shows of estimators whose parameters are large."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier, MultiLabelPrototypeClassifier
from skfewshot.clip import EmbeddingArray, EncoderIdentity

NAMES = [f"kind {i}" for i in range(100)]
VECTORS = np.random.default_rng(0).normal(size=(100, 512)).astype(np.float32)
TEXTS = EmbeddingArray(VECTORS, EncoderIdentity("ViT-B-32", "openai", "a", 512, 100.0))


@pytest.mark.parametrize(
    "texts",
    [
        VECTORS,
        TEXTS,
        dict(zip(NAMES, TEXTS, strict=True)),
        pytest.param(pd.DataFrame(VECTORS, index=NAMES), marks=pytest.mark.slow),
    ],
    ids=["array", "embeddings", "dict of embeddings", "frame"],
)
def test_large_parameters_are_shown_in_short(texts):
    model = CMMClassifier(texts, class_names=NAMES)
    labels = MultiLabelPrototypeClassifier(texts, label_names=NAMES)
    for estimator in (model, labels):
        assert "features=" in repr(estimator)
        assert len(repr(estimator)) < 2000
        page = estimator._repr_html_()
        assert "class=" in page and len(page) < 100_000
    pipeline = make_pipeline(CLIPFeaturizer("tiny"), model)
    assert len(repr(pipeline)) < 4000
    assert len(pipeline._repr_html_()) < 200_000


def test_embeddings_show_their_encoder_and_not_each_number():
    assert repr(TEXTS) == "EmbeddingArray(shape=(100, 512), float32, encoder=ViT-B-32)"
    assert repr(TEXTS.T @ TEXTS).startswith("array(")
    assert "encoder=None" in repr(TEXTS[:, :100])
    assert str(TEXTS[0]) == str(VECTORS[0])


def test_a_fitted_one_shows_no_arrays(support):
    model = CMMClassifier(support.X[:3]).fit(support.X, support.codes)
    assert len(repr(model)) < 200
    page = make_pipeline(model)._repr_html_()
    assert len(page) < 200_000
