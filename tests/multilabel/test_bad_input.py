"""Bad input gets an error that names the argument, what came and what is wanted."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.exceptions import NotFittedError

from skfewshot import MultiLabelPrototypeClassifier, MultiLabelPrototypePrior
from skfewshot.clip import EmbeddingArray, EncoderIdentity

RNG = np.random.default_rng(0)
N, K, D, L = 6, 3, 4, 3
X = RNG.normal(size=(N, 1 + K, D))
Y = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
TEXT = RNG.normal(size=(L, D))


def put(value, *where):
    changed = X.copy()
    changed[where] = value
    return changed


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (put(np.nan, 2, 1, 3), "X contains NaN in part of token 1 of image 2"),
        (put(np.nan, 2, 0, 0), "X contains NaN in part of token 0 of image 2"),
        (put(np.inf, 4, 2, 0), "X contains infinity, first in token 2 of image 4"),
        (put(-np.inf, 4, 2, 0), "X contains infinity, first in token 2 of image 4"),
        (put(np.nan, [1, 3]), r"X contains NaN only.* for the images \[1, 3\]"),
        (
            put(np.nan, 5, slice(1, None)),
            r"X contains NaN only, and no local feature, for the images \[5\]",
        ),
        (X[None], r"X has the shape \(1, 6, 4, 4\); wanted \(n_samples, 1 \+ K, d\)"),
        (X[0, 0], "Expected 2D array, got 1D array"),
        (X[:, :0], r"X has the shape \(6, 0, 4\); wanted \(n_samples, 1 \+ K, d\)"),
        (X[:, :, :0], r"X has the shape \(6, 4, 0\); wanted \(n_samples, 1 \+ K, d\)"),
        (X[:0], "0 sample"),
        (X[:5], "X has 5 images, y has 6 rows"),
        (X.astype(complex), "Complex data not supported"),
        (np.full(X.shape, "cat"), "could not convert string to float"),
        (np.full((N, D), np.nan), "X contains NaN"),
        (np.full((N, D), np.inf), "X contains infinity"),
    ],
)
def test_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelPrototypeClassifier().fit(tokens, Y[: len(Y)])


def test_unread_images_are_named_up_to_twenty():
    many = np.repeat(X, 10, axis=0)
    many[:30] = np.nan
    shown = r"images \[0, 1, .*, 18, 19\] \.\.\.\. Leave"
    with pytest.raises(ValueError, match=shown):
        MultiLabelPrototypeClassifier().fit(many, np.repeat(Y, 10, axis=0))


def test_2d_rows_that_could_not_be_read():
    rows = put(np.nan, 1)[:, 0]
    with pytest.raises(ValueError, match="X contains NaN"):
        MultiLabelPrototypeClassifier(TEXT).fit(rows, Y)
    # Those of a featurizer say so, and are left out.
    encoder = EncoderIdentity("test-model", None, "aaaa", D, 100.0)
    unread = EmbeddingArray(rows, encoder)
    found = MultiLabelPrototypeClassifier(TEXT).fit(unread, Y)
    kept = np.arange(len(rows)) != 1
    expected = MultiLabelPrototypeClassifier(TEXT).fit(rows[kept], Y[kept])
    assert_allclose(
        found.predict_proba(rows[kept]), expected.predict_proba(rows[kept]), rtol=1e-6
    )


def test_a_weight_of_zero_does_not_excuse_bad_tokens():
    weight = np.ones(N)
    weight[2] = 0
    with pytest.raises(ValueError, match="NaN in part of token 1 of image 2"):
        MultiLabelPrototypeClassifier().fit(
            put(np.nan, 2, 1, 3), Y, sample_weight=weight
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (2 * Y, r"y of shape \(6, 3\) must hold only 0 and 1.*got the values.*'2'"),
        (Y - 1, r"y of shape \(6, 3\) must hold only 0 and 1.*'-1'"),
        (Y * 0.5, r"y.*(must hold only 0 and 1|Unknown label type)"),
        (np.where(Y, "yes", "no"), "y of shape .* 0 and 1.*MultiLabelBinarizer"),
        (np.where(Y, np.nan, 0.0), "Input y contains NaN"),
        (Y[:4], "X has 6 images, y has 4 rows"),
        (csr_array(Y[:4]), "X has 6 images, y has 4 rows"),
        (csr_array(2 * Y), "0 and 1"),
        (Y[:, :, None], "y.*shape|Unknown label type"),
        (0 * Y, "y has no image with a label"),
        (pd.DataFrame(0 * Y, columns=list("abc")), "y has no image with a label"),
        (np.zeros(N, dtype=int), r"at least 2 classes in y.*1 class: \[0\]"),
        (np.full(N, "cat"), r"at least 2 classes in y.*1 class: \['cat'\]"),
        (RNG.normal(size=N), "Unknown label type: 'continuous'"),
        ([["a"], ["b", "c"], [], ["a"], ["b"], ["c"]], "y|label"),
        (None, "y"),
    ],
)
def test_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelPrototypeClassifier(TEXT).fit(X, labels)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(N), "Negative values in data"),
        (np.zeros(N), "non-zero|weight"),
        (np.ones(N - 1), "sample_weight.shape"),
        (np.full(N, np.nan), "sample_weight contains NaN"),
    ],
)
def test_weights(weight, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelPrototypeClassifier(TEXT).fit(X, Y, sample_weight=weight)


def test_weights_that_leave_no_label_or_one_class():
    lonely = np.vstack([Y[:5], [0, 0, 0]])
    with pytest.raises(ValueError, match="y has no image .* positive sample weight"):
        MultiLabelPrototypeClassifier(TEXT).fit(
            X, lonely, sample_weight=[0, 0, 0, 0, 0, 1]
        )
    with pytest.raises(ValueError, match=r"1 class: \['b'\]"):
        MultiLabelPrototypeClassifier().fit(
            X, list("aabbbb"), sample_weight=[0, 0, 1, 1, 1, 1]
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_features", "clip"),
        ("label_features", 3),
        ("prior", "coco"),
        ("selection", "best"),
        ("n_select", 0),
        ("n_select", 2.5),
        ("text_weight", -0.1),
        ("text_weight", 1.1),
        ("text_weight", "half"),
        ("query_scoring", "all"),
        ("scale", 0),
        ("threshold", -0.1),
        ("threshold", 1.5),
        ("threshold", "best"),
        ("label_names", 5),
        ("text_encoder", "ViT-B-32"),
        ("n_tokens", 0),
        ("random_state", "seed"),
    ],
)
def test_parameters(name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        MultiLabelPrototypeClassifier(**{name: value}).fit(X, Y)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ([0.5, 0.5], r"threshold has the shape \(2,\); wanted one .* 3 labels"),
        ([[0.5, 0.5, 0.5]], r"threshold has the shape \(1, 3\); wanted"),
        ([0.5, 0.5, 1.2], "threshold must hold probabilities from 0 to 1; got"),
        ([0.5, -0.1, 0.5], "threshold must hold probabilities from 0 to 1; got"),
        ([0.5, np.nan, 0.5], "threshold must hold probabilities from 0 to 1; got"),
        (["a", "b", "c"], "threshold"),
    ],
)
def test_thresholds(threshold, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelPrototypeClassifier(TEXT, threshold=threshold).fit(X, Y)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (TEXT[:, :3], r"label_features.*shape \(3, 3\); wanted \(3, 4\)"),
        (TEXT[:2], r"label_features has 2 rows, but y has 3 labels"),
        (TEXT[0], "label_features"),
        (np.where(TEXT > 0, np.nan, TEXT), "label_features.*(NaN|finite)"),
        ({0: TEXT[0], 1: TEXT[1]}, r"label_features.*\[?2\]?"),
        ({0: TEXT[0], 1: TEXT[1], 2: TEXT[2, :3]}, "label_features|shape|length"),
    ],
)
def test_label_features(features, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelPrototypeClassifier(features).fit(X, Y)


def test_label_names():
    def encode(names):
        return TEXT[: len(names)]

    with pytest.raises(ValueError, match="label_names.*2.*3"):
        MultiLabelPrototypeClassifier(
            label_names=["cup", "fork"], text_encoder=encode
        ).fit(X, Y)
    with pytest.raises(TypeError, match="label_names must hold strings; got 3"):
        MultiLabelPrototypeClassifier(
            label_names=["cup", "fork", 3], text_encoder=encode
        ).fit(X, Y)
    with pytest.warns(UserWarning, match="label_names .*was given, but nothing"):
        MultiLabelPrototypeClassifier(label_names=["cup", "fork", "kite"]).fit(X, Y)
    with pytest.warns(UserWarning, match="label_names was not given"):
        MultiLabelPrototypeClassifier(text_encoder=encode).fit(X, Y)


def test_n_tokens():
    with pytest.raises(ValueError, match="X has 16 columns, which n_tokens=3 "):
        MultiLabelPrototypeClassifier(n_tokens=3).fit(X.reshape(N, -1), Y)
    with pytest.raises(ValueError, match=r"n_tokens=4 says .* \(6, 4, 4\); leave"):
        MultiLabelPrototypeClassifier(n_tokens=4).fit(X, Y)
    flat = put(np.nan, 2, 1, 3).reshape(N, -1)
    with pytest.raises(ValueError, match="NaN in part of token 1 of image 2"):
        MultiLabelPrototypeClassifier(n_tokens=4).fit(flat, Y)


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "decision_function", "explain"]
)
def test_query(method):
    model = MultiLabelPrototypeClassifier(TEXT)
    with pytest.raises(NotFittedError):
        getattr(model, method)(X)
    ask = getattr(model.fit(X, Y), method)
    with pytest.raises(ValueError, match="X has 3 features.* expecting 4 .*token"):
        ask(X[:, :, :3])
    with pytest.raises(ValueError, match="X has 2 dimensions.* fitted on X of 3"):
        ask(X[:, 0])
    with pytest.raises(ValueError, match="NaN in part of token 1 of image 2"):
        ask(put(np.nan, 2, 1, 3))
    with pytest.raises(ValueError, match="X contains infinity"):
        ask(put(np.inf, 2, 1, 3))
    with pytest.raises(ValueError, match=r"for the images \[1\]"):
        ask(put(np.nan, 1))
    with pytest.raises(ValueError, match="0 sample"):
        ask(X[:0])
    ask = getattr(model.fit(X[:, 0], Y), method)
    with pytest.raises(ValueError, match="3 features, but .* expecting 4"):
        ask(X[:, 0, :3])
    with pytest.raises(ValueError, match="X has 3 dimensions.* fitted on X of 2"):
        ask(X)
    flat = X.reshape(N, -1)
    ask = getattr(model.set_params(n_tokens=4).fit(flat, Y), method)
    with pytest.raises(ValueError, match="12 features, but .* expecting 16"):
        ask(flat[:, :12])


def test_priors():
    unfitted = MultiLabelPrototypePrior()
    with pytest.raises(NotFittedError, match="MultiLabelPrototypePrior"):
        MultiLabelPrototypeClassifier(TEXT, prior=unfitted).fit(X, Y)
    rng = np.random.default_rng(0)
    base = np.tile(np.eye(4, dtype=int), (5, 1))
    prior = MultiLabelPrototypePrior(interaction=(), n_episodes=1, random_state=0).fit(
        rng.normal(size=(20, 1 + K, D)), base, label_features=rng.normal(size=(4, D))
    )
    with pytest.raises(ValueError, match="prior needs label vectors.*label_features"):
        MultiLabelPrototypeClassifier(prior=prior).fit(X, Y)
    with pytest.raises(ValueError, match="prior .* width 4, but X .* width 3"):
        MultiLabelPrototypeClassifier(TEXT[:, :3], prior=prior).fit(X[:, :, :3], Y)


def test_what_looks_like_a_regression_target():
    with pytest.raises(ValueError, match="swapped"):
        MultiLabelPrototypeClassifier().fit(np.zeros((6, 4)), np.zeros((6, 3, 4)))
    with pytest.raises(ValueError, match="MultiLabelBinarizer"):
        MultiLabelPrototypeClassifier().fit(np.zeros((2, 4)), [{"a"}, {"a", "b"}])


@pytest.mark.parametrize("threshold", [[0.1, 0.2, 0.3], [0.1, 7.0], ["a", "b"]])
def test_a_threshold_for_one_label_an_image(threshold):
    model = MultiLabelPrototypeClassifier(threshold=threshold)
    with pytest.raises(ValueError, match="threshold"):
        model.fit(np.random.default_rng(0).normal(size=(6, 4)), list("ababab"))


def test_tensors_are_read_on_the_cpu_and_refused_elsewhere():
    texts = {"label_features": TEXT}
    expected = MultiLabelPrototypeClassifier(**texts).fit(X, Y).predict_proba(X)
    rows = torch.from_numpy(X).requires_grad_()
    found = MultiLabelPrototypeClassifier(**texts).fit(rows, Y).predict_proba(rows)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(TypeError, match="meta"):
        MultiLabelPrototypeClassifier(**texts).fit(rows.to("meta"), Y)
