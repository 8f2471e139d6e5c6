"""What classes are called: names and descriptions by label, and what says nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import show, warn_user
from skfewshot.clip._prompts import Name, check_name, has_words, show_text


class Wording(NamedTuple):
    """What an estimator calls its parameters, for messages that name them."""

    features: str = "text_features"
    names: str = "class_names"
    one: str = "class"
    many: str = "classes"
    order: str = "sorted class"
    renamed: str = (
        "some wrappers of scikit-learn, such as VotingClassifier, turn string labels "
        "into integers 0, 1, ... in sorted order before they fit."
    )


CLASSES = Wording()


def has_default_prompts(text_encoder: Any, encoder: Any, prompt_templates: Any) -> bool:
    """Say whether names go into the default templates, which want nouns."""
    if prompt_templates is None:
        source = encoder if text_encoder is None else text_encoder
        prompt_templates = getattr(source, "prompt_templates", None)
    return isinstance(prompt_templates, str) and prompt_templates == "default"


def names_to_encode(
    classes: NDArray,
    class_names: Any,
    wording: Wording,
    *,
    by_default: bool,
    needed: bool,
) -> tuple[list[Name] | None, NDArray]:
    """Return the names, and which of them are codes that say nothing.

    None, with a warning, where there are no names, or fewer than two that say anything.
    `by_default` says whether they go into the default prompts, and `needed` that there
    are no images to stand in for texts.
    """
    none = np.zeros(len(classes), dtype=bool)
    names = class_names_of(classes, class_names, wording)
    if names is None:
        warn_of_class_means(
            f"The {wording.many} are not strings and {wording.names} was not "
            f"given, so no text can be encoded. Pass {wording.names}; "
            f"{wording.renamed}",
            wording,
        )
        return None, none
    is_code = np.array([by_default and not has_words(name) for name in names])
    if not is_code.any():
        return names, none
    empty = [name for name, code in zip(names, is_code, strict=True) if code]
    shown = ", ".join(show_text(str(name)) for name in empty[:5])
    more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
    reason = (
        f"Names that are numbers or codes, {shown}{more}, say nothing to a text "
        f"encoder. Pass {wording.names} that say what is to be seen, or "
        "prompt_templates in which they do."
    )
    if needed:
        warn_user(reason)
        return names, none
    if len(names) - len(empty) < 2:
        warn_of_class_means(reason, wording)
        return None, none
    warn_user(f"{reason} The mean text of the others stands in for theirs.")
    return names, is_code


def class_names_of(
    classes: NDArray, class_names: Any, wording: Wording = CLASSES
) -> list[Name] | None:
    """Return the name of each class, or None where there is none to be had.

    String labels are their own names. `class_names` overrides them: a dict maps label
    to name, a sequence follows the sorted classes, a function is asked for each. A dict
    from numbers to these very labels, for wrappers that turn them into numbers, leaves
    them as they are. In place of a name may be a sequence of descriptions.
    """
    if class_names is None:
        are_names = all(isinstance(label, str) for label in classes)
        return list(map(str, classes)) if are_names else None
    if isinstance(class_names, str):
        raise TypeError(
            f"{wording.names}={show(class_names)} is one string; pass a sequence with "
            f"a name for each {wording.one}, or a dict from {wording.one} to name."
        )
    if callable(class_names):
        names = [class_names(label) for label in _plain_keys(classes)]
    elif _numbers(class_names, classes):
        names = list(classes)
    elif isinstance(class_names, Mapping):
        names = from_mapping(class_names, classes, wording.names, wording)
    else:
        names = list(class_names)
        check_length(len(names), classes, wording.names, wording)
    return [check_name(name, wording.names) for name in names]


def _numbers(class_names: Any, classes: NDArray) -> bool:
    """Say whether a dict numbers the labels, as ``dict(enumerate(classes))`` does."""
    if not isinstance(class_names, Mapping):
        return False
    names = {name for name in class_names.values() if isinstance(name, str)}
    return not any(isinstance(key, str) for key in class_names) and all(
        isinstance(label, str) and label in names for label in classes
    )


def check_length(
    length: int, classes: NDArray, parameter: str, wording: Wording
) -> None:
    """Refuse to guess which row belongs to which class."""
    if length != len(classes):
        raise ValueError(
            f"{parameter} has {length} rows, but y has {len(classes)} "
            f"{wording.many}; give one row per {wording.order}, or a dict keyed "
            f"by {wording.one}, which also serves the cross-validation folds that "
            f"lack a {wording.one}."
        )


def from_mapping(
    mapping: Mapping, classes: NDArray, parameter: str, wording: Wording
) -> list[Any]:
    """Look every class up in `mapping`."""
    keys = _plain_keys(classes)
    missing = [key for key in keys if key not in mapping]
    if missing:
        encoded = any(isinstance(key, str) for key in mapping) and not any(
            isinstance(key, str) for key in keys
        )
        hint = (
            f" Key the dict by those: {wording.renamed} So does cross_val_predict with "
            "method='predict_proba'."
        )
        raise ValueError(
            f"{parameter} lacks the {wording.many} {show(missing[:10])} that y has; "
            f"its keys start with {show(list(mapping)[:10])}.{hint if encoded else ''}"
        )
    return [mapping[key] for key in keys]


def warn_of_class_means(reason: str, wording: Wording) -> None:
    warn_user(
        f"{reason} The {wording.one} means of the support stand in for the text "
        "prototypes."
    )


def _plain_keys(classes: NDArray) -> list[Any]:
    """Return labels as Python has them, as keys of a dict."""
    return [
        label.item() if isinstance(label, np.generic) else label for label in classes
    ]
