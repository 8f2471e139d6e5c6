"""What is said of a class: names, descriptions and templates, to texts."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

#: The templates of ``prompt_templates="default"``: what a picture is of, and how it
#: may have been taken.
DEFAULT_PROMPT_TEMPLATES = (
    "a photo of a {}.",
    "a picture of the {}.",
    "a close-up photo of a {}.",
    "a photo of one {} among other things.",
    "a blurry photo of a {}.",
    "a drawing of a {}.",
    "an image that shows a {}.",
)

Template = Callable[[str], str | Sequence[str]]
#: A name, which goes into templates, or descriptions, which are encoded as they are.
Name = str | tuple[str, ...]

# What says only that a number or a letter follows, as in "class_7".
_KINDS = re.compile(
    r"(class|cls|category|label|lbl|target|group|cluster|type|kind|item|object|obj|id"
    r"|idx|index|no|nr|num|number|folder|dir|file|img|image|pic|picture|frame|sample"
    r"|synset|wnid|tag|key|code)(es|s)?",
    re.IGNORECASE,
)
# What makers call their models, such as A320, C-130, F-16A/B and 737-200: encoders have
# read of them.
_MODEL = re.compile(
    r"\d{3}-\d{3}|[A-Z](/[A-Z])?(-[1-9]\d+|[1-9]\d{2,3})([A-Z]\d?)?(/[A-Z])?"
)


def check_templates(prompt_templates: Any) -> list[Template]:
    """Return the prompt templates as a list of callables from name to text.

    Parameters
    ----------
    prompt_templates : "default", str, callable or sequence of str or callable
        A str has ``{}`` where the name goes.

    Returns
    -------
    list of callable

    Raises
    ------
    ValueError
        If there is no template, or one lacks the place for the name.
    TypeError
        If a template is neither str nor callable.
    """
    if isinstance(prompt_templates, str) and prompt_templates == "default":
        prompt_templates = DEFAULT_PROMPT_TEMPLATES
    if isinstance(prompt_templates, str) or callable(prompt_templates):
        prompt_templates = [prompt_templates]
    _check_ordered(prompt_templates, "prompt_templates")
    templates = list(prompt_templates)
    if not templates:
        raise ValueError("prompt_templates is empty; wanted is at least one template.")
    return [_as_function(template) for template in templates]


def check_texts(texts: Any, parameter: str = "texts") -> list[str]:
    """Return texts as a list of str.

    Raises
    ------
    TypeError
        If `texts` is one str, or holds anything but str.
    ValueError
        If it is empty.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(
            f"{parameter} is the single text {texts!r:.80}; wanted is a sequence of "
            f"texts. Pass [{texts!r:.80}]."
        )
    _check_ordered(texts, parameter)
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"{parameter} must be texts; got {text!r:.80} of type "
                f"{type(text).__name__} at index {index}."
            )
    if not texts:
        raise ValueError(f"{parameter} is empty; wanted is at least one text.")
    return [str(text) for text in texts]


def check_names(names: Any, parameter: str = "names") -> list[Name]:
    """Return what classes are called, each a name or a tuple of descriptions.

    Parameters
    ----------
    names : sequence of str or of sequences of str, or dict with such values
        The order of a dict is that of its keys.
    parameter : str
        What the user calls them.

    Raises
    ------
    TypeError
        If `names` is one str, or holds anything but texts and sequences of texts.
    ValueError
        If it is empty, or the descriptions of a class are.
    """
    if isinstance(names, Mapping) and names:
        return [
            check_name(name, f"{parameter}[{key!r:.80}]") for key, name in names.items()
        ]
    if isinstance(names, str | bytes):
        check_texts(names, parameter)
    _check_ordered(names, parameter)
    names = list(names)
    if all(isinstance(name, str) or not _is_sequence(name) for name in names):
        return [*check_texts(names, parameter)]
    return [
        check_name(name, f"{parameter}[{index}]") for index, name in enumerate(names)
    ]


def check_name(name: Any, parameter: str) -> Name:
    """Return one name, or descriptions as a tuple; see :func:`check_names`."""
    if isinstance(name, str):
        return str(name)
    if not _is_sequence(name):
        raise TypeError(
            f"{parameter} must hold strings; got {name!r:.80} of type "
            f"{type(name).__name__}."
        )
    return tuple(check_texts(name, parameter))


def fill_templates(
    templates: list[Template], names: Sequence[Name]
) -> list[tuple[str, ...]]:
    """Return the texts of each name.

    Underscores of a name become spaces. Descriptions stay as they are.

    Parameters
    ----------
    templates : list of callable
        From :func:`check_templates`.
    names : sequence of str or tuple of str
        From :func:`check_names`.

    Returns
    -------
    list of tuple of str
        At least one for each name.
    """
    return [
        tuple(text for template in templates for text in _texts_of(template, name))
        if isinstance(name, str)
        else name
        for name in names
    ]


def has_words(name: Name) -> bool:
    """Say whether a name has a word in it, or is a number, a code, or nothing.

    A word is two letters that stand by themselves, three with a number at an end, or a
    letter of a script other than Latin. One that only says that a number or a letter
    follows, as in "class 7", is none. The models of a maker, as "A320", are words.
    """
    if not isinstance(name, str) or _MODEL.fullmatch(name.strip()):
        return True
    parts = re.findall(r"[^\W_]+", name)
    words = [word for part in parts if (word := _word_in(part))]
    are_kinds = all(_KINDS.fullmatch(word) for word in words)
    return bool(words) and not (are_kinds and words != parts)


def _word_in(part: str) -> str:
    """Return the word in a part of a name without signs; none is empty."""
    if not part.isascii():
        return part if any(character.isalpha() for character in part) else ""
    letters = part.strip("0123456789")
    least = 2 if letters == part else 3
    return letters if letters.isalpha() and len(letters) >= least else ""


def show_text(text: str) -> str:
    """Return a text in quotes, the middle of a long one left out."""
    if len(text) <= 80:
        return repr(text)
    return f"{text[:40]!r}...{text[-20:]!r} ({len(text):,} characters)"


def _texts_of(template: Template, name: str) -> list[str]:
    """Return what a template makes of a name: one text, or several."""
    made = template(name)
    texts = [made] if isinstance(made, str) else made
    if not (_is_sequence(texts) and len(texts) and _are_texts(texts)):
        raise TypeError(
            f"A prompt template returned {made!r:.80} of type {type(made).__name__}; "
            "wanted is a str, or a list of them."
        )
    return list(texts)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_sequence(value: Any) -> bool:
    """Say whether a value is what descriptions come in."""
    is_array = hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1
    return isinstance(value, list | tuple) or is_array


def _check_ordered(values: Any, parameter: str) -> None:
    """Refuse what has no order of its own, or whose iteration gives something else."""
    if (
        isinstance(values, Mapping | Set)
        or hasattr(values, "columns")
        or not isinstance(values, Iterable)
    ):
        raise TypeError(
            f"{parameter} is a {type(values).__name__}; wanted is a sequence of texts, "
            "such as a list."
        )


def _as_function(template: Any) -> Template:
    if callable(template):
        return lambda name: _spaced(template(name), name)
    if not isinstance(template, str):
        raise TypeError(
            f"A prompt template is {template!r:.80} of type {type(template).__name__}; "
            "wanted is a str with {} in the place of the class name, or a callable."
        )
    if "{}" not in template:
        raise ValueError(
            f"The prompt template {template!r:.80} has no {{}} in the place of the "
            "class name, as in 'a photo of a {}.'."
        )
    # Not str.format: braces in a name or elsewhere in the template mean nothing.
    return lambda name: template.replace("{}", _spaced(name, name))


def _spaced(made: Any, name: str) -> Any:
    """Put spaces for underscores in what was made of a name that has some.

    Afterwards, as a function may look the name up.
    """
    if "_" not in name:
        return made
    if isinstance(made, str):
        return made.replace("_", " ")
    if not _is_sequence(made):
        return made
    return [_spaced(text, name) if isinstance(text, str) else text for text in made]
