"""From class names to text prototypes, and which row belongs to which class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from skfewshot._names import (
    CLASSES,
    Wording,
    check_length,
    class_names_of,
    from_mapping,
    has_default_prompts,
    names_to_encode,
    warn_of_class_means,
)
from skfewshot._rows import are_unit_rows, plain, reading, unit_rows
from skfewshot._sklearn import show, warn_user
from skfewshot.clip._embedding import encoder_of
from skfewshot.clip._prompts import (
    Name,
    check_templates,
    fill_templates,
)
from skfewshot.clip._texts import encode_names

#: Where the encoder is not known: what CLIP models are trained to, though not all.
DEFAULT_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Prototypes:
    """One unit-norm starting prototype per class and where it came from.

    Attributes
    ----------
    features : ndarray of shape (n_classes, n_features) or None
        The prototypes; None where there is no text and the support must provide them.
    source : {"text_features", "text_encoder", "embedding", "image"}
        Which rule of :func:`resolve_prototypes` gave them.
    encoder : EncoderIdentity or None
        The encoder of the space that the prototypes live in, where it is known.
    logit_scale : float
        The encoder's trained logit scale, or 100 where it is not known.
    """

    features: np.ndarray | None
    source: str
    encoder: Any
    logit_scale: float


def resolve_prototypes(
    text_features: Any,
    *,
    classes: NDArray,
    encoder: Any,
    text_encoder: Any = None,
    class_names: Any = None,
    prompt_templates: Any = None,
    n_features: int | None,
    dtype: Any,
    wording: Wording = CLASSES,
    has_images: bool = True,
) -> Prototypes:
    """Find the text prototypes of `classes`, by the first rule that applies.

    1. `text_features` given: an array or a dict of class to vector.
    2. ``"auto"`` with `text_encoder`: it encodes the class names.
    3. ``"auto"`` with `encoder`, the encoder that made the images' embeddings.
    4. Otherwise, and for ``None``, no text: the support's class means stand in.

    Parameters
    ----------
    text_features : "auto", None, array-like of shape (n_classes, n_features) or dict
        The parameter of the estimator.
    classes : ndarray of shape (n_classes,)
        The sorted class labels of the support.
    encoder : EncoderIdentity or None
        The encoder that made the image features, where they know it.
    text_encoder : CLIPFeaturizer, callable or None
        Turns class names into vectors.
    class_names : sequence, dict from label, callable of a label, or None
        What to call the classes, or descriptions of each; None takes string labels.
    prompt_templates : str, sequence of str, callable or None
        None leaves the encoder's own.
    n_features : int or None
        The width of the image features; None takes texts of any width.
    dtype : dtype or list of dtypes
        The dtype of the image features; of a list the texts keep theirs, or get the
        first.
    wording : Wording
        The names of the parameters in messages.
    has_images : bool
        Whether class means could stand in for texts.

    Returns
    -------
    Prototypes

    Raises
    ------
    ValueError
        If rows and classes do not match, the width is wrong, a value is not finite, or
        texts and images come from two different encoders.
    TypeError
        If a class name is not a str, or `text_encoder` cannot encode.

    Warns
    -----
    UserWarning
        If class means have to stand in although `class_names` or templates were given,
        or the encoder is known but the labels are no names; or if some have no words.
    """
    if text_features is None:
        return Prototypes(None, "image", encoder, _logit_scale(encoder))
    is_code = np.zeros(len(classes), dtype=bool)
    if not isinstance(text_features, str):
        given = _rows_of_classes(text_features, classes, wording)
        text_identity = _common_encoder(text_features, wording)
        source = wording.features
    elif text_encoder is None and encoder is None:
        _warn_of_unused(class_names, prompt_templates, wording)
        return Prototypes(None, "image", None, DEFAULT_LOGIT_SCALE)
    else:
        names, is_code = names_to_encode(
            classes,
            class_names,
            wording,
            by_default=has_default_prompts(text_encoder, encoder, prompt_templates),
            needed=not has_images or len(classes) == 1,
        )
        if names is None:
            return Prototypes(None, "image", encoder, _logit_scale(encoder))
        if text_encoder is None:
            source, text_identity = "embedding", encoder
            given = encode_names(encoder, names, prompt_templates)
        else:
            source = "text_encoder"
            given, text_identity = _encode(text_encoder, names, prompt_templates)
    _check_same_weights(encoder, text_identity)
    features = _checked(given, source, len(classes), n_features, dtype, wording)
    if is_code.any():
        # What sets a class apart from none is better than what says something wrong.
        features[is_code] = unit_rows(features[~is_code].mean(axis=0, keepdims=True))
    known = text_identity if encoder is None else encoder
    return Prototypes(features, source, known, _logit_scale(known))


def _check_same_weights(of_images: Any, of_texts: Any) -> None:
    """Refuse images and texts of two models, where both are known."""
    known = of_images is not None and of_texts is not None
    if known and of_images.weights != of_texts.weights:
        raise ValueError(
            f"The image features come from the encoder {of_images}, but the text "
            f"features come from {of_texts}; both must come from the same model."
        )


def _warn_of_unused(class_names: Any, prompt_templates: Any, wording: Wording) -> None:
    """Warn of names or templates where nothing is known that could encode them."""
    if class_names is not None or prompt_templates is not None:
        unused = "prompt_templates" if class_names is None else wording.names
        warn_of_class_means(
            f"{unused} was given, but nothing that "
            "could encode them: X does not come straight from a CLIPFeaturizer, "
            "and text_encoder is None. Pass text_encoder.",
            wording,
        )


def check_texts_fit(
    text_features: Any, classes: NDArray, class_names: Any, prompt_templates: Any
) -> None:
    """Refuse texts, names and templates that `resolve_prototypes` would refuse.

    The parameters are its own. Nothing is encoded, and nothing warned of.
    """
    if prompt_templates is not None:
        check_templates(prompt_templates)
    if isinstance(text_features, str):
        class_names_of(classes, class_names)
    elif text_features is not None:
        _rows_of_classes(text_features, classes, CLASSES)


def warn_of_lost_encoder(X: Any, rows: NDArray, y: NDArray, *, told: bool) -> None:
    """Warn where X seems to come from a featurizer, but does not know its encoder.

    Parameters
    ----------
    X : array-like
        As the user passed it.
    rows : ndarray of shape (n_samples, n_features)
        What was read of it.
    y : ndarray of shape (n_samples,)
    told : bool
        Whether names or templates were given, of which :func:`resolve_prototypes` warns
        whatever the rows are.
    """
    columns: Any = getattr(X, "columns", ())
    has_names = isinstance(next(iter(np.ravel(y)), None), str)
    if encoder_of(X) is not None:
        return
    if len(columns) > 0 and str(columns[0]).startswith("clipfeaturizer"):
        reason = (
            "X is a data frame made by a CLIPFeaturizer, which does not know its "
            "encoder; leave set_output alone to keep it"
        )
    elif has_names and not told and are_unit_rows(rows):
        reason = (
            "y holds names, and the rows of X have length one as embeddings have, "
            "but X does not know its encoder: it was resampled, computed with, "
            "saved, or made by other means than a CLIPFeaturizer"
        )
    else:
        return
    warn_user(
        f"{reason}. The class means of the support stand in for the text prototypes; "
        "pass text_encoder, or text_features=None to do without."
    )


def _logit_scale(encoder: Any) -> float:
    return DEFAULT_LOGIT_SCALE if encoder is None else float(encoder.logit_scale)


def _encode(
    text_encoder: Any, names: list[Name], prompt_templates: Any
) -> tuple[Any, Any]:
    """Encode `names`; return the array and the identity of its encoder, if any."""
    if hasattr(text_encoder, "encode_classes"):
        given = () if prompt_templates is None else (prompt_templates,)
        encoded = text_encoder.encode_classes(names, *given)
    elif callable(text_encoder):
        encoded = _encode_by_function(text_encoder, names, prompt_templates)
    else:
        raise TypeError(
            "text_encoder must be a CLIPFeaturizer or a callable from a list of names "
            f"to an array of shape (n_names, n_features); got {show(text_encoder)}."
        )
    return encoded, encoder_of(encoded)


def _encode_by_function(
    text_encoder: Any, names: list[Name], prompt_templates: Any
) -> Any:
    """Encode `names` by a function of texts; several texts of a name are averaged."""
    if prompt_templates is None and all(isinstance(name, str) for name in names):
        return text_encoder(names)
    if prompt_templates is None:
        groups = [(name,) if isinstance(name, str) else name for name in names]
    else:
        groups = fill_templates(check_templates(prompt_templates), names)
    texts = [text for group in groups for text in group]
    given = text_encoder(texts)
    rows = unit_rows(np.asarray(plain(given, "text_encoder")))
    if rows.ndim != 2 or len(rows) != len(texts):
        raise ValueError(
            f"text_encoder returned an array of shape {rows.shape} for {len(texts)} "
            "texts; wanted one row per text."
        )
    ends = np.cumsum([len(group) for group in groups])[:-1]
    return np.stack([part.mean(axis=0) for part in np.split(rows, ends)])


def _common_encoder(text_features: Any, wording: Wording) -> Any:
    """Return the encoder of an array, or the one of all vectors of a dict or list."""
    if isinstance(text_features, Mapping):
        text_features = list(text_features.values())
    if not isinstance(text_features, list | tuple):
        return encoder_of(text_features)
    encoders = {encoder_of(vector) for vector in text_features} - {None}
    if len(encoders) > 1:
        raise ValueError(
            f"{wording.features} holds vectors of several encoders, "
            f"{sorted(map(str, encoders))}; all must come from the same model."
        )
    return encoders.pop() if encoders else None


def _rows_of_classes(text_features: Any, classes: NDArray, wording: Wording) -> NDArray:
    """Pick the row of each class from an array, data frame or dict."""
    if hasattr(text_features, "index") and hasattr(text_features, "to_numpy"):
        plain(text_features, wording.features)
        by_label = dict(zip(text_features.index, text_features.to_numpy(), strict=True))
        is_labelled = all(label in by_label for label in classes.tolist())
        if is_labelled and len(by_label) < len(text_features):
            raise ValueError(
                f"{wording.features} has several rows of one name in its index; wanted "
                f"one row per {wording.one}."
            )
        text_features = by_label if is_labelled else text_features.to_numpy()
    if isinstance(text_features, Mapping):
        vectors = from_mapping(text_features, classes, wording.features, wording)
        vectors = [plain(vector, wording.features) for vector in vectors]
        shapes = sorted({np.shape(vector) for vector in vectors})
        if len(shapes) > 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"{wording.features} must map each {wording.one} to a vector of one "
                f"common length; got values of shapes {shapes}."
            )
        return np.stack([np.asarray(vector) for vector in vectors])
    array = np.asarray(plain(text_features, wording.features))
    if array.ndim != 2:
        raise ValueError(
            f"{wording.features} must be an array of shape (n_{wording.many}, "
            f"n_features) or a dict of {wording.one} to vector; got an array of shape "
            f"{array.shape}."
        )
    check_length(len(array), classes, wording.features, wording)
    return array


def _checked(
    given: Any,
    source: str,
    n_classes: int,
    n_features: int | None,
    dtype: Any,
    wording: Wording,
) -> NDArray:
    """Check shape and values and return unit rows of `dtype`."""
    with reading(source):
        features = check_array(
            np.asarray(plain(given, source)),
            dtype=dtype,
            input_name=source,
            ensure_min_samples=0,
        )
    if n_features is None:
        n_features = features.shape[1]
    wanted = n_classes, n_features
    if features.shape != wanted:
        raise ValueError(
            f"The text features (from {source}) have shape {features.shape}; wanted "
            f"{wanted}: one row per {wording.one}, as wide as X. "
            "Texts and images must be embedded by the same model."
        )
    if not features.any(axis=1).all():
        raise ValueError(
            f"The text features (from {source}) hold a row of zeros, which has no "
            "direction and cannot be a prototype."
        )
    return unit_rows(features)
