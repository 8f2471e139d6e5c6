"""Encoders as files describe them, checked before anybody relies on them."""

import math
from collections.abc import Mapping

from skfewshot.clip.embedding import EncoderIdentity


def read_identity(described):
    """Return the `EncoderIdentity` that a file describes.

    Parameters
    ----------
    described : dict
        As JSON has it: the fields by name.

    Returns
    -------
    EncoderIdentity

    Raises
    ------
    ValueError
        If it is not what describes an encoder.
    """
    if not isinstance(described, Mapping):
        raise ValueError(f"an encoder is a dict of its fields; got {described!r:.80}")
    try:
        encoder = EncoderIdentity(**described)
    except TypeError as error:
        raise ValueError(f"this describes no encoder: {error}") from error
    templates = encoder.prompt_templates
    texts = [templates] if isinstance(templates, str) else templates
    sound = (
        isinstance(encoder.model_name, str)
        and isinstance(encoder.pretrained, str | None)
        and isinstance(encoder.fingerprint, str)
        and is_number(encoder.embedding_dim, int)
        and encoder.embedding_dim > 0
        and is_number(encoder.logit_scale, int | float)
        and math.isfinite(encoder.logit_scale)
        and isinstance(texts, list)
        and all(isinstance(text, str) for text in texts)
    )
    if not sound:
        raise ValueError(f"a field is of the wrong kind in {dict(described)!r:.400}")
    return encoder


def is_number(value, kind):
    """Say whether a value is a number of some kind, which True is not."""
    return isinstance(value, kind) and not isinstance(value, bool)
