"""Prompt templates."""

import pytest

from skfewshot.clip import DEFAULT_PROMPT_TEMPLATES
from skfewshot.clip._prompts import (
    check_names,
    check_templates,
    fill_templates,
    has_words,
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


def test_underscores_become_spaces():
    assert texts("a {}", ["polar_bear", "cat"]) == ["a polar bear", "a cat"]
    assert texts("the_{}", ["polar_bear"]) == ["the_polar bear"]
    # A function may look a name up, and is asked for it as it is.
    assert texts({"polar_bear": "white"}.get, ["polar_bear"]) == ["white"]
    assert texts(["a {}", str.upper], ["polar_bear"]) == ["a polar bear", "POLAR BEAR"]


def test_descriptions():
    names = ["cat", ["a cat_like thing", "it purrs"], ("a dog",)]
    assert check_names(names) == ["cat", ("a cat_like thing", "it purrs"), ("a dog",)]
    assert check_names({"n01": "tench", "n02": ["a", "b"]}) == ["tench", ("a", "b")]
    groups = fill_templates(check_templates(["a {}", "the {}"]), check_names(names))
    assert groups == [
        ("a cat", "the cat"),
        ("a cat_like thing", "it purrs"),
        ("a dog",),
    ]


def test_templates_that_give_several_texts():
    several = check_templates(lambda name: [f"a {name}", f"the {name}"])
    assert fill_templates(several, ["polar_bear"]) == [
        ("a polar bear", "the polar bear")
    ]
    for bad in ([], ["a", 3], None, {"a": 1}):
        with pytest.raises(TypeError, match="A prompt template returned"):
            texts(lambda name, bad=bad: bad)


@pytest.mark.parametrize(
    "name",
    [
        *("cat", "polar bear", "polar_bear", "TV", "T-shirt", "Boeing 747", "type II"),
        *("target", "object", "3D printer", "猫", "кот", "écran", "cat_1", "IMG cat 3"),
        *("boeing747", "class clown", "O'Neill", "737-200", "A320", "A300B4", "C-130"),
        *("F-16A/B", "F/A-18", "MD-80", "Il-76", "E-170", "BAE 146-200", "Cessna 172"),
    ],
)
def test_names_with_words(name):
    assert has_words(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "0", "12", "1.5", "-3", "n02099601", "class_7", "class 7", "class7"),
        *("Class-A", "c1", "C_01", "A", "x", "label 12", "id_00017", "cls3", "__", "?"),
        *("a3f9c2e1", "IMG_0001", "category_5", "3-4", "٣", "№ 5", "Classes 3"),
    ],
)
def test_names_without_words(name):
    assert not has_words(name)
