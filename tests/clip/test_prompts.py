"""Prompt templates."""

import pytest

from skfewshot.clip import DEFAULT_PROMPT_TEMPLATES
from skfewshot.clip._prompts import (
    check_names,
    check_templates,
    fill_templates,
)


def texts(templates, names=("cat", "dog")):
    groups = fill_templates(check_templates(templates), check_names(names))
    return [text for group in groups for text in group]


def test_default():
    assert texts("default", ["cat"]) == [
        template.replace("{}", "cat") for template in DEFAULT_PROMPT_TEMPLATES
    ]
    assert len(DEFAULT_PROMPT_TEMPLATES) >= 5
    assert all(template.count("{}") == 1 for template in DEFAULT_PROMPT_TEMPLATES)


def test_one_and_several():
    assert texts("a {}.") == ["a cat.", "a dog."]
    assert texts(["a {}.", str.upper]) == ["a cat.", "CAT", "a dog.", "DOG"]
    assert texts(lambda name: f"the {name}") == ["the cat", "the dog"]


def test_braces_mean_nothing_else():
    assert texts("{x} {} {0}", ["a{}b"]) == ["{x} a{}b {0}"]


@pytest.mark.parametrize(
    ("templates", "error", "message"),
    [
        ("a photo", ValueError, "'a photo' has no {}"),
        (["a {}", "b"], ValueError, "'b' has no {}"),
        ([], ValueError, "is empty"),
        ([3], TypeError, "is 3 of type int"),
    ],
)
def test_bad_templates(templates, error, message):
    with pytest.raises(error, match=message):
        check_templates(templates)


def test_function_that_gives_no_text():
    with pytest.raises(TypeError, match="returned 3 of type int"):
        texts(len)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("cat", TypeError, r"single text 'cat'.*\['cat'\]"),
        (["cat", 3], TypeError, "got 3 of type int at index 1"),
        ([None], TypeError, "NoneType"),
        ([], ValueError, "empty"),
    ],
)
def test_bad_names(names, error, message):
    with pytest.raises(error, match=message):
        check_names(names)
