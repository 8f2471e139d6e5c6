"""An exported classifier says in onnxruntime what it says here."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

import skfewshot
from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    MultiLabelPrototypePrior,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.clip import EmbeddingArray, EncoderIdentity
from skfewshot.export import to_onnx

pytestmark = pytest.mark.slow

WIDTH, N_CLASSES = 16, 5


def run(classifier, X):
    """Return labels and probabilities by onnxruntime."""
    model = to_onnx(classifier)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert [put.name for put in session.get_inputs()] == ["X"]
    assert [put.name for put in session.get_outputs()] == ["label", "probabilities"]
    return session.run(None, {"X": np.asarray(X, np.float32)})


def assert_parity(classifier, X, atol=2e-5):
    label, found = run(classifier, X)
    expected = classifier.predict_proba(np.asarray(X, np.float32))
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    assert_allclose(found, expected, atol=atol, rtol=1e-3)
    assert (found > 0).all()
    predicted = classifier.predict(np.asarray(X, np.float32))
    # Where two classes are as good as equal, either will do.
    if predicted.ndim == 1:
        best = np.sort(expected, axis=1)
        clear = best[:, -1] - best[:, -2] > 10 * atol
    else:
        clear = np.abs(expected - classifier.thresholds_) > 10 * atol
    assert clear.mean() > 0.5
    assert_array_equal(label[clear], predicted[clear])
    is_text = predicted.dtype.kind in "UO"
    assert label.dtype == (object if is_text else np.int64)


def make_task(n=40, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    concepts = np.random.default_rng(7).normal(size=(N_CLASSES, WIDTH))
    y = np.arange(n) % N_CLASSES
    X = 1 + concepts[y] + 1.5 * rng.normal(size=(n, WIDTH))
    text = concepts + 0.5 * rng.normal(size=concepts.shape) - 1
    return X.astype(dtype), y, text.astype(dtype)


def odd_rows():
    """Draw rows of all sizes that single precision has, among them zero."""
    rows = np.random.default_rng(1).normal(size=(40, WIDTH))
    rows *= np.geomspace(1e-42, 1e37, 40)[:, None]
    rows[::7] = 0
    rows[5] = 3e38
    rows[6] = np.eye(WIDTH)[0] * 1e-45
    return rows.astype(np.float32)


CLASSIFIERS = [
    CLAPClassifier(max_iter=30),
    CMMClassifier(),
    CMMClassifier(solver="paper"),
    CMMClassifier(alpha=0.0),
    GaussianDiscriminantClassifier(),
    GaussianDiscriminantClassifier(alpha=1.0, class_weight="balanced"),
    LPPlusPlusClassifier(max_iter=30),
    ProKeRClassifier(),
    ProKeRClassifier(beta=5.5, regularization=1.0, amplitude=30, residual="cosine"),
    TaskResClassifier(max_iter=30, random_state=0),
    TipAdapterClassifier(),
    TipAdapterClassifier(beta=1e9, alpha=0.5),
    TipAdapterClassifier(train_keys=True, max_iter=5, alpha=2.0, random_state=0),
    ZeroShotClassifier(),
]


#: Of each class one with its own labels, and all of them with names.
KINDS = [(classifier, "names") for classifier in CLASSIFIERS] + [
    (next(item for item in CLASSIFIERS if type(item) is kind_of), kind)
    for kind in ("no text", "float64", "two classes")
    for kind_of in dict.fromkeys(map(type, CLASSIFIERS))
]


@pytest.mark.parametrize(("classifier", "kind"), KINDS, ids=str)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_single_label(classifier, kind):
    X, y, text = make_task(dtype=np.float64 if kind == "float64" else np.float32)
    if kind == "two classes":
        X, y, text = X[y < 2], y[y < 2], text[:2]
    labels = y + 3
    if kind == "names":
        labels = np.array(["ant", "bée", "猫", "dog", "eel with a long name"])[y]
    texts = None if kind == "no text" else text
    classifier = clone(classifier).set_params(text_features=texts)
    classifier.fit(X, labels, sample_weight=1 + y / 4)
    assert_parity(classifier, make_task(seed=1)[0])
    assert_parity(classifier, odd_rows(), atol=1e-4)
    assert_parity(classifier, X[:1])
    # Nothing that is not finite comes out as an answer.
    rows = ([np.full(WIDTH, bad), [bad] + [0] * 15] for bad in (np.nan, np.inf))
    assert np.isnan(run(classifier, np.concatenate(list(rows)))[1]).all()


def test_saved_models(fitted_models):
    n_exported = 0
    for model, X in fitted_models.values():
        if hasattr(model, "predict_proba"):
            assert_parity(model, X)
            n_exported += 1
    assert n_exported == len(fitted_models) - 2


def test_what_images_without_labels_say_is_exported():
    X, y, text = make_task()
    model = ZeroShotClassifier(text, extra_classes=range(N_CLASSES))
    model.fit(X, [None] * len(y))
    assert model.coef_ is not None
    assert_parity(model, make_task(seed=1)[0])


def test_an_added_class_is_exported():
    X, y, text = make_task()
    model = CMMClassifier(text).fit(X, y).add_class(9, text[0] + text[1])
    assert_parity(model, X)
    assert run(model, X)[1].shape == (len(X), N_CLASSES + 1)


def make_tokens(n=30, n_parts=6, seed=0):
    rng = np.random.default_rng(seed)
    concepts = 2 * np.random.default_rng(7).normal(size=(N_CLASSES, WIDTH))
    Y = np.zeros((n, N_CLASSES), int)
    Y[np.arange(n), np.arange(n) % N_CLASSES] = 1
    Y[np.arange(n), (np.arange(n) + 1 + np.arange(n) // 5) % N_CLASSES] = 1
    X = 0.5 + rng.normal(size=(n, n_parts, WIDTH))
    for image, row in enumerate(Y):
        own = concepts[row > 0]
        X[image, 1 : 1 + len(own)] += own
    X[:, 0] = X[:, 1:].mean(axis=1)
    text = concepts + rng.normal(size=concepts.shape)
    return X.astype(np.float32), Y, text.astype(np.float32)


SCORINGS = ["combined", "competitive", "local", "global", "both"]


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("kind", ["labels", "classes", "prior", "words", "no text"])
def test_tokens(scoring, kind, request):
    X, Y, text = make_tokens()
    options = {"query_scoring": scoring, "n_select": 3, "threshold": "cardinality"}
    if kind == "classes":
        Y, options["threshold"] = np.array(list("abcde"))[Y.argmax(axis=1)], 0.5
    if kind == "prior":
        options["prior"] = request.getfixturevalue("fitted_models")["prior"][0]
        X, text = X[:, :, :8], text[:, :8]
    if kind == "words":
        # Maps that are not square.
        text = np.hstack([text, text[:, :3]])
        prior = MultiLabelPrototypePrior(n_components=12, n_episodes=1, random_state=0)
        base, labels, _ = make_tokens(seed=2)
        options["prior"] = prior.fit(base, labels, text)
    if kind == "no text":
        text = None
    classifier = MultiLabelPrototypeClassifier(text, **options).fit(X, Y)
    new = make_tokens(seed=1)[0][:, :, : X.shape[2]]
    assert_parity(classifier, new, atol=1e-4)
    # Of any number of tokens: fewer than are pooled, more, and the global one alone.
    assert_parity(classifier, new[:, :2], atol=1e-4)
    assert_parity(classifier, np.tile(new, (1, 3, 1)), atol=1e-4)
    assert_parity(classifier, new[:, :1], atol=1e-4)
    assert_parity(classifier, new * np.geomspace(1e-40, 1e37, 30)[:, None, None], 1e-3)
    # Padding, and images without a global token.
    padded = new.copy()
    padded[::2, 4:] = np.nan
    padded[::3, 0] = np.nan
    padded[1, 1] = 0
    assert_parity(classifier, padded, atol=1e-4)
    # What predictions refuse is no answer here either.
    broken = new.copy()
    broken[0, 2, 3], broken[1, 1, 0], broken[2] = np.nan, np.inf, np.nan
    found = run(classifier, broken)[1]
    assert np.isnan(found[:3]).all()
    assert not np.isnan(found[3:]).any()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_flattened_tokens_and_rows(scoring):
    X, Y, text = make_tokens()
    flat = X.reshape(len(X), -1)
    classifier = MultiLabelPrototypeClassifier(
        text, n_tokens=X.shape[1], query_scoring=scoring
    )
    assert_parity(classifier.fit(flat, Y), flat, atol=1e-4)
    classifier = MultiLabelPrototypeClassifier(text, query_scoring=scoring)
    assert_parity(classifier.fit(X[:, 1], Y), X[:, 2], atol=1e-4)
    assert_parity(classifier, odd_rows(), atol=1e-3)


def test_a_sharp_competition():
    """One label far ahead of all others, whose odds vanish beside it."""
    X, Y, text = make_tokens()
    classifier = MultiLabelPrototypeClassifier(text, scale=300.0).fit(X, Y)
    classifier.sharpness_ = 20.0
    assert_parity(classifier, X, atol=1e-3)


def test_thresholds_are_reached_alike():
    X, Y, text = make_tokens()
    classifier = MultiLabelPrototypeClassifier(text, threshold=0.3).fit(X, Y)
    found = run(classifier, X)[1]
    # As far as single precision goes: exactly at a probability, and just above.
    for above in (0.0, 1e-9):
        classifier.thresholds_ = found[3].astype(np.float64) + above
        assert run(classifier, X)[0][3].tolist() == [int(above == 0)] * N_CLASSES


def test_metadata():
    X, y, text = make_task()
    encoder = EncoderIdentity("ViT-B-32", "openai", "5f0c", WIDTH, 50.0)
    names = np.array(["é", "b", "c", "d", "f"])[y]
    model = to_onnx(CMMClassifier(text).fit(EmbeddingArray(X, encoder), names))
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about.pop("classes")) == sorted(set(names))
    assert json.loads(about.pop("encoder")) == {
        "model_name": "ViT-B-32",
        "pretrained": "openai",
        "fingerprint": "5f0c",
        "embedding_dim": WIDTH,
        "logit_scale": 50.0,
        "resize_mode": "auto",
    }
    version = skfewshot.__version__
    assert about == {"classifier": "CMMClassifier", "skfewshot_version": version}
    assert (model.producer_name, model.producer_version) == ("skfewshot", version)
    assert [(used.domain, used.version) for used in model.opset_import] == [("", 18)]
    model = to_onnx(CMMClassifier(text[:2]).fit(X, y > 2))
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert (about["encoder"], about["classes"]) == ("null", "[false, true]")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.array([False, True]), [0, 1]),
        (np.array([2.0, 7.0]), [2, 7]),
        (np.array([-3, 2**40]), [-3, 2**40]),
        (np.array(["x", "yy"], dtype=object), ["x", "yy"]),
    ],
)
def test_labels_of_all_kinds(classes, expected):
    X = np.eye(2, dtype=np.float32)
    model = ZeroShotClassifier(X).fit(X, classes)
    assert run(model, X)[0].tolist() == expected


def test_labels_that_onnx_does_not_have():
    X = np.eye(2, dtype=np.float32)
    for labels in (np.array([1, 2**63 + 1], dtype=np.uint64), ["a", "\ud800"]):
        model = ZeroShotClassifier(X).fit(X, labels)
        with pytest.raises(ValueError, match="Unicode texts or integers of 64 bits"):
            to_onnx(model)


def test_what_is_no_fitted_classifier():
    class Own(ZeroShotClassifier):
        pass

    X, y, _ = make_task()
    pipeline = make_pipeline(ZeroShotClassifier()).fit(X, y)
    for other in (Own().fit(X, y), pipeline, "model", CMMClassifier):
        with pytest.raises(TypeError, match="no subclass of one; got"):
            to_onnx(other)
    for unfitted in (
        CMMClassifier(),
        MultiLabelPrototypeClassifier(),
    ):
        with pytest.raises(NotFittedError):
            to_onnx(unfitted)


@pytest.mark.slow
def test_without_onnx():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from skfewshot import ZeroShotClassifier\n"
        "from skfewshot.export import to_onnx\n"
        "model = ZeroShotClassifier().fit([[0., 1.], [1., 0.]], [0, 1])\n"
        "try:\n"
        "    to_onnx(model)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install onnx" in found.stdout
