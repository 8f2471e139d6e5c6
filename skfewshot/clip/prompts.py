"""Prompt templates: from a class name to the texts that describe it."""

from collections.abc import Iterable, Mapping, Set

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


def check_templates(prompt_templates):
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


def check_names(names, parameter="names"):
    """Return texts as a list of str.

    Raises
    ------
    TypeError
        If `names` is one str, or holds anything but str.
    ValueError
        If it is empty.
    """
    if isinstance(names, str | bytes):
        raise TypeError(
            f"{parameter} is the single text {names!r:.80}; wanted is a sequence of "
            f"texts. Pass [{names!r:.80}]."
        )
    _check_ordered(names, parameter)
    names = list(names)
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(
                f"{parameter} must be texts; got {name!r:.80} of type "
                f"{type(name).__name__} at index {index}."
            )
    if not names:
        raise ValueError(f"{parameter} is empty; wanted is at least one text.")
    return [str(name) for name in names]


def _check_ordered(values, parameter):
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


def fill_templates(templates, names):
    """Return the texts of all names, those of one name side by side.

    Parameters
    ----------
    templates : list of callable
        From :func:`check_templates`.
    names : list of str

    Returns
    -------
    list of str of length ``len(names) * len(templates)``
    """
    texts = [template(name) for name in names for template in templates]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"A prompt template returned {text!r:.80} of type "
                f"{type(text).__name__}; wanted is a str."
            )
    return texts


def _as_function(template):
    if callable(template):
        return template
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
    return lambda name: template.replace("{}", name)
