"""Prompt templates and class names that are attacks, or that a model takes for one."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skfewshot import CMMClassifier
from skfewshot.clip._prompts import check_names, check_templates, fill_templates
from skfewshot.clip._texts import Tokenizing


def rows(featurizer, names, templates="a {}."):
    found = np.asarray(featurizer.encode_classes(names, templates))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    return found


def silent(featurizer, names, templates="a {}."):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return rows(featurizer, names, templates)


# Templates


@pytest.mark.parametrize(
    "template",
    [
        "{} {0.__class__.__mro__}",
        "{} {0!r:>1000000000}",
        "{} {:>1000000000}",
        "{} {a[0].b} %s %(x)s ${x}",
        "{} {",
        "{} }",
        "{{}} {{",
    ],
)
def test_nothing_is_formatted(template):
    ((text,),) = fill_templates(check_templates(template), ["{0.__class__}"])
    assert text == template.replace("{}", "{0.  class  }")


@pytest.mark.parametrize(
    "template", ["{0}", "{name}", "{:>1000000000}", "{ }", "%s", "", "{" * 10**6]
)
def test_templates_without_a_place_are_refused(template):
    with pytest.raises(ValueError, match="has no {} in the place") as caught:
        check_templates(template)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("names", ["x" * 10**6, b"x" * 10**6, [b"x" * 10**6]])
def test_errors_are_no_longer_than_they_need_be(names):
    with pytest.raises(TypeError) as caught:
        check_names(names)
    assert len(str(caught.value)) < 400


# Texts


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "\U0001f600" * 3,
        "\udcff\ud800",
        "\x01\x1b[31m",
        "\u202e\u200b",
        "<start_of_text>",
        "<end_of_text>",
        "&amp;&#0;&lt;",
        "a\n\tb",
        "e\u0301" * 20,
    ],
)
def test_odd_texts(featurizer, text):
    for found in (rows(featurizer, [text]), featurizer.encode_text([text])):
        assert np.isfinite(np.asarray(found)).all()


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, np.random.default_rng(0).integers(97, 123, 10**6))),
        "word " * 200_000,
        "a" + "\u0301" * 10**6,
        "\u4e00\u4e8c\u4e09" * 10**5,
    ],
    ids=["a word", "words", "accents", "Chinese"],
)
def test_megabytes(featurizer, text):
    """The time for a word grows with its square; a minute would be an hour."""
    with pytest.warns(UserWarning, match="are cut off.*1 of those of names") as caught:
        found = rows(featurizer, [text])
    assert len(str(caught[0].message)) < 1000
    with pytest.warns(UserWarning, match="are cut off.*1 of those of texts"):
        short = featurizer.encode_text([f"a {text[:300]}"])
    np.testing.assert_allclose(found, np.asarray(short), atol=1e-5)


@pytest.mark.parametrize(("n_words", "is_cut"), [(38, False), (39, True), (100, True)])
def test_texts_that_are_cut_off(featurizer, n_words, is_cut):
    """The embedded model reads 40 tokens, of which two mark the ends."""
    texts = ["a star", "cat " * n_words]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        featurizer.encode_text(texts)
    assert len(caught) == is_cut
    assert all("1 of those of texts, such as 'cat" in str(w.message) for w in caught)
    assert all(w.filename == __file__ for w in caught)


@pytest.mark.parametrize("pads_left", [False, True])
@pytest.mark.parametrize("last", [0, 7, None], ids=["as padding", "a sign", "none"])
def test_tokenizers_of_all_kinds_tell_what_is_cut_off(pads_left, last):
    """What ends a text may be a sign of its own, none, or look like padding."""

    def tokenizer(texts, context_length=8):
        rows = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ends = [] if last is None else [last]
            words = [9] * min(len(text.split()), context_length - 1 - len(ends))
            tokens = torch.tensor([5, *words, *ends])
            row[slice(-len(tokens), None) if pads_left else slice(len(tokens))] = tokens
        return rows

    tokenizer.context_length = 8
    tokenizing = Tokenizing(SimpleNamespace(tokenizer=tokenizer))
    tokenizing.tokens(["cat", "cat " * 5, ""])
    assert tokenizing.cut == []
    tokenizing.tokens(["cat", "cat " * 8, "dog " * 20])
    assert tokenizing.cut == ["cat " * 8, "dog " * 20]


def test_spaces_are_not_counted(featurizer):
    found = silent(featurizer, ["cat" + " " * 10**6 + "dog", "bird"])
    np.testing.assert_allclose(
        found, silent(featurizer, ["cat dog", "bird"]), atol=1e-6
    )


# Names that are one


@pytest.mark.parametrize(
    "names",
    [
        ["Cat", "dog", "cat"],
        ["cat", " cat ", "dog"],
        ["polar bear", "polar  bear"],
        ["word " * 40 + "cat", "word " * 40 + "dog"],
    ],
    ids=["case", "spaces", "spaces within", "beyond the last token"],
)
@pytest.mark.filterwarnings("ignore:Texts are cut off")
def test_names_that_are_the_same_to_the_model(featurizer, names):
    with pytest.warns(UserWarning, match="different, but the same to the model"):
        found = rows(featurizer, names, ["a {}.", "the {}"])
    assert np.max(found @ found.T - np.eye(len(names))) > 0.99999


def test_names_that_are_given_twice_are_no_mistake(featurizer):
    silent(featurizer, ["cat", "cat", "dog"])


def test_templates_may_tell_names_apart(featurizer):
    """Prompts are compared, not names: one difference will do."""
    templates = ["a {}", lambda name: "small" if name.islower() else "large"]
    silent(featurizer, ["Cat", "cat"], templates)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_warning_reaches_a_classifier(featurizer, images):
    X = featurizer.transform(images)
    y = ["Star", "star", "ring"] * 2
    with pytest.warns(UserWarning, match="'Star' and 'star'") as caught:
        CMMClassifier(text_encoder=featurizer).fit(X, y)
    assert {w.filename for w in caught} == {__file__}


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=()), max_size=60),
        min_size=1,
        max_size=4,
    )
)
def test_any_text(featurizer, names):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Texts are cut off|Some names are different")
        assert rows(featurizer, names).shape == (len(names), 128)
