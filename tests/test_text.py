"""Where text prototypes come from, and which row belongs to which class."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot import CMMClassifier
from skfewshot._names import class_names_of
from skfewshot._rows import class_means, unit_rows
from skfewshot._text import resolve_prototypes
from skfewshot.clip import EmbeddingArray, EncoderIdentity

CLASSES = np.array(["cat", "dog", "emu"])
TEXT = unit_rows(np.random.default_rng(0).normal(size=(3, 5)))
ENCODER = EncoderIdentity("test-model", "here", "aaaa", 5, 37.0)
OTHER = EncoderIdentity("other-model", "there", "bbbb", 5, 50.0)


def resolve(text_features, classes=CLASSES, encoder=None, **params):
    return resolve_prototypes(
        text_features,
        classes=classes,
        encoder=encoder,
        n_features=5,
        dtype=np.float64,
        **params,
    )


def encode(names):
    """A text encoder whose vectors depend on nothing but the name."""
    seeds = [sum(map(ord, name)) for name in names]
    return np.stack([np.random.default_rng(seed).normal(size=5) for seed in seeds])


def test_array_rows_follow_the_sorted_classes_and_are_normalised():
    found = resolve(3 * TEXT)
    assert_allclose(found.features, TEXT)
    assert (found.source, found.encoder, found.logit_scale) == (
        "text_features",
        None,
        100.0,
    )


def test_dict_survives_a_fold_that_lacks_a_class():
    by_name = dict(zip(CLASSES, TEXT, strict=True))
    found = resolve(by_name, classes=CLASSES[[0, 2]])
    assert_allclose(found.features, TEXT[[0, 2]])
    with pytest.raises(ValueError, match=r"text_features lacks the classes \['yak'\]"):
        resolve(by_name, classes=np.array(["cat", "yak"]))


@pytest.mark.parametrize("classes", [np.array([0, 2]), CLASSES[:2]])
def test_an_array_with_too_many_rows_is_no_guess(classes):
    with pytest.raises(ValueError, match="has 3 rows, but y has 2 .* keyed by class"):
        resolve(TEXT, classes=classes)


def test_data_frame_rows_follow_their_index():
    frame = pd.DataFrame(TEXT[[2, 0, 1]], index=CLASSES[[2, 0, 1]])
    assert_allclose(resolve(frame).features, TEXT)
    assert_allclose(resolve(frame, classes=CLASSES[1:]).features, TEXT[1:])
    assert_allclose(resolve(pd.DataFrame(TEXT)).features, TEXT)


def test_labels_encoded_by_a_wrapper_get_a_hint():
    by_name = dict(zip(CLASSES, TEXT, strict=True))
    with pytest.raises(ValueError, match="turn string labels into integers"):
        resolve(by_name, classes=np.arange(3))


def test_integer_keys_of_a_dict_match_numpy_labels():
    by_label = {7: TEXT[1], 3: TEXT[0]}
    assert_allclose(resolve(by_label, classes=np.array([3, 7])).features, TEXT[:2])


def test_callable_encodes_the_names():
    found = resolve("auto", text_encoder=encode)
    assert_allclose(found.features, unit_rows(encode(list(CLASSES))))
    assert found.source == "text_encoder"


def test_templates_are_averaged_for_a_callable_too():
    found = resolve("auto", text_encoder=encode, prompt_templates=["a {}", "one {}"])
    by_hand = [
        unit_rows(encode([f"a {name}", f"one {name}"])).mean(axis=0) for name in CLASSES
    ]
    assert_allclose(found.features, unit_rows(np.stack(by_hand)))


def test_names_that_nothing_can_encode_warn():
    with pytest.warns(UserWarning, match="nothing that could encode them"):
        assert resolve("auto", class_names=["a", "b", "c"]).source == "image"


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_unit_rows_neither_overflow_nor_vanish(size):
    rows = np.array([[3, 4], [0, 0]], dtype=np.float32)
    assert_allclose(unit_rows(rows * np.float32(size)), [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_given_features_win_over_the_encoder():
    found = resolve(TEXT, text_encoder=encode, encoder=ENCODER)
    assert found.source == "text_features"
    assert found.logit_scale == 37.0


def test_none_means_no_text_even_where_the_encoder_is_known():
    found = resolve(None, encoder=ENCODER, text_encoder=encode)
    assert (found.features, found.source) == (None, "image")
    assert found.logit_scale == 37.0


def test_integer_labels_without_names_warn_and_fall_back():
    with pytest.warns(UserWarning, match="class_names was not given"):
        found = resolve("auto", classes=np.arange(3), text_encoder=encode)
    assert (found.features, found.source) == (None, "image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("auto", classes=np.arange(3)).source == "image"


@pytest.mark.parametrize(
    "class_names",
    [["cat", "emu"], np.array(["cat", "emu"]), {0: "cat", 1: "dog", 2: "emu"}],
)
def test_class_names_of_integer_labels(class_names):
    assert class_names_of(np.array([0, 2]), class_names) == ["cat", "emu"]


def test_class_names_rename_string_labels():
    names = {"n01": "tench", "n02": "goldfish"}
    assert class_names_of(np.array(["n01", "n02"]), names) == ["tench", "goldfish"]
    with pytest.raises(TypeError, match="class_names='tench' is one string"):
        class_names_of(CLASSES, "tench")
    with pytest.raises(TypeError, match="must hold strings; got 3 of type int"):
        class_names_of(CLASSES, ["tench", 3, "eel"])
    with pytest.raises(ValueError, match="class_names has 2 rows, but y has 3"):
        class_names_of(CLASSES, ["tench", "eel"])


def test_texts_of_another_encoder_are_refused():
    other = EmbeddingArray(TEXT, OTHER)
    with pytest.raises(ValueError, match="must come from the same model"):
        resolve(other, encoder=ENCODER)
    with pytest.raises(ValueError, match="must come from the same model"):
        resolve("auto", encoder=ENCODER, text_encoder=lambda names: other)
    assert resolve(other).logit_scale == 50.0
    for vectors in (dict(zip(CLASSES, other, strict=True)), list(other)):
        with pytest.raises(ValueError, match="must come from the same model"):
            resolve(vectors, encoder=ENCODER)
        assert resolve(vectors).encoder == OTHER
    own = EmbeddingArray(TEXT, ENCODER)
    with pytest.raises(ValueError, match="several encoders"):
        resolve([own[0], other[1], own[2]])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (TEXT[:, :4], r"shape \(3, 4\); wanted \(3, 5\)"),
        (TEXT[0], r"an array of shape \(5,\)"),
        (np.where(np.eye(3, 5) > 0, np.nan, TEXT), "contains NaN"),
        (np.zeros((3, 5)), "a row of zeros"),
        ({"cat": TEXT[0], "dog": TEXT[1, :3], "emu": TEXT[2]}, "one common length"),
    ],
)
def test_bad_text_features(bad, message):
    with pytest.raises(ValueError, match=message):
        resolve(bad)


def test_bad_text_encoder_output():
    with pytest.raises(ValueError, match=r"from text_encoder\) have shape \(3, 2\)"):
        resolve("auto", text_encoder=lambda names: np.ones((3, 2)))


def test_class_means_weigh_rows():
    X = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    means = class_means(X, np.array([0, 0, 1]), np.array([3.0, 4.0, 1.0]), 2)
    assert_allclose(means, [[0.6, 0.8], [0.0, 1.0]])


def test_query_of_another_encoder_is_refused():
    rng = np.random.default_rng(0)
    X, y = unit_rows(rng.normal(size=(9, 5))), np.repeat(CLASSES, 3)
    model = CMMClassifier(TEXT).fit(EmbeddingArray(X, ENCODER), y)
    assert model.encoder_ == ENCODER
    assert model.logit_scale_ == 37.0
    with pytest.raises(ValueError, match="X comes from the encoder other-model"):
        model.predict(EmbeddingArray(X, OTHER))
    # A plain array says nothing of its encoder, so it is taken at its word.
    assert_array_equal(model.predict(X), model.predict(EmbeddingArray(X, ENCODER)))
    assert CMMClassifier(TEXT, logit_scale=20.0).fit(X, y).logit_scale_ == 20.0


# Descriptions, and names without words


def encoded_by_hand(texts):
    return unit_rows(unit_rows(encode(texts)).mean(axis=0, keepdims=True))[0]


SAID = {
    "cat": ["a cat with whiskers", "a small animal that purrs"],
    "dog": ("a dog", "an animal that barks", "a wagging tail"),
    "emu": "a tall bird",
}


@pytest.mark.parametrize("kind", ["dict", "sequence", "function"])
def test_descriptions_are_averaged(kind):
    given = {"dict": SAID, "sequence": list(SAID.values()), "function": SAID.get}[kind]
    found = resolve("auto", text_encoder=encode, class_names=given)
    by_hand = [
        encoded_by_hand([said] if isinstance(said, str) else list(said))
        for said in SAID.values()
    ]
    assert_allclose(found.features, by_hand)


def test_templates_are_for_names_and_not_for_descriptions():
    found = resolve(
        "auto",
        text_encoder=encode,
        class_names=SAID,
        prompt_templates=["a {}", lambda name: [f"one {name}", f"the {name}"]],
    )
    emu = ["a a tall bird", "one a tall bird", "the a tall bird"]
    assert_allclose(found.features[2], encoded_by_hand(emu))
    assert_allclose(found.features[0], encoded_by_hand(SAID["cat"]))


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ({**SAID, "emu": []}, ValueError),
        ({**SAID, "emu": ["a", 3]}, TypeError),
        ({**SAID, "emu": {"a": 1}}, TypeError),
        (lambda label: None, TypeError),
    ],
)
def test_bad_descriptions(names, error):
    with pytest.raises(error, match="class_names"):
        resolve("auto", text_encoder=encode, class_names=names)


def test_a_function_that_loses_a_text():
    with pytest.raises(ValueError, match=r"shape \(2, 5\) for 6 texts; wanted one row"):
        resolve("auto", text_encoder=lambda texts: TEXT[:2], class_names=SAID)


class Encoder:
    """As a CLIPFeaturizer with the default templates."""

    prompt_templates = "default"

    def encode_classes(self, names, prompt_templates=None):
        return encode(names)


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2"],
        ["n02099601", "n02100236", "n02100583"],
        ["class_1", "class_2", "class_3"],
        ["", " ", "-"],
        ["A", "B", "C"],
    ],
    ids=lambda names: names[0] or "empty",
)
def test_names_without_words_are_no_texts(names):
    for params in (
        {"classes": np.array(sorted(names)), "text_encoder": Encoder()},
        {"class_names": names, "text_encoder": Encoder()},
    ):
        with pytest.warns(UserWarning, match="numbers or codes.*class means") as caught:
            assert resolve("auto", **params).source == "image"
        assert repr(sorted(names)[0]) in str(caught[0].message)


def test_who_says_how_numbers_are_read_is_believed():
    numbers = np.array(["0", "1", "2"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [
            resolve("auto", classes=numbers, **params).source
            for params in (
                {"text_encoder": encode},  # which may look them up
                {"text_encoder": Encoder(), "prompt_templates": "the digit {}"},
                {"text_encoder": Encoder(), "class_names": ["zero", "one", "two"]},
                {"text_encoder": Encoder(), "class_names": [["0"], ["1"], ["2"]]},
            )
        ]
    assert found == ["text_encoder"] * 4


def test_one_code_among_names_is_told():
    classes = np.array(["cat", "n02100236", "yak"])
    with pytest.warns(UserWarning, match="codes, 'n02100236', say nothing.*mean text"):
        found = resolve("auto", classes=classes, text_encoder=Encoder())
    assert found.source == "text_encoder"
    cat, code, yak = found.features
    assert_allclose(np.stack([cat, yak]), unit_rows(encode(["cat", "yak"])))
    assert_allclose(code, unit_rows((cat + yak)[None])[0])
    with pytest.warns(UserWarning, match="codes, 'n02100236', say nothing.*means"):
        found = resolve("auto", classes=classes[:2], text_encoder=Encoder())
    assert found.source == "image"
