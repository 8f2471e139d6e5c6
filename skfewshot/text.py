"""From class names to text prototypes, and which row belongs to which class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from warnings import warn

import numpy as np
from sklearn.utils import check_array

from skfewshot.clip.embedding import encoder_of

#: The logit scale that CLIP was trained to, used where the encoder is not known.
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
    text_features,
    *,
    classes,
    encoder,
    text_encoder=None,
    class_names=None,
    prompt_templates=None,
    n_features,
    dtype,
):
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
    class_names : sequence of str, dict of label to str, or None
        What to call the classes; None takes string labels as they are.
    prompt_templates : str, sequence of str, callable or None
        None leaves the encoder's own.
    n_features : int
        The width of the image features.
    dtype : dtype
        The dtype of the image features.

    Returns
    -------
    Prototypes

    Raises
    ------
    ValueError
        If rows and classes do not match, the width is wrong, a value is not finite, or
        texts and images come from two different encoders.
    """
    if text_features is None:
        return Prototypes(None, "image", encoder, _logit_scale(encoder))
    if not isinstance(text_features, str):
        given = _rows_of_classes(text_features, classes)
        text_identity, source = encoder_of(text_features), "text_features"
    elif text_encoder is None and encoder is None:
        return Prototypes(None, "image", None, DEFAULT_LOGIT_SCALE)
    else:
        names = class_names_of(classes, class_names)
        if names is None:
            warn(
                "The class labels are not strings and class_names was not given, so "
                "no text can be encoded; the class means of the support stand in for "
                "the text prototypes. Pass class_names to use the text encoder.",
                UserWarning,
                stacklevel=4,
            )
            return Prototypes(None, "image", encoder, _logit_scale(encoder))
        if text_encoder is None:
            source, text_encoder = "embedding", encoder.featurizer()
        else:
            source = "text_encoder"
        given, text_identity = _encode(text_encoder, names, prompt_templates)
    if encoder is not None and text_identity is not None and encoder != text_identity:
        raise ValueError(
            f"The image features come from the encoder {encoder}, but the text "
            f"features come from {text_identity}; both must come from the same model."
        )
    features = _checked(given, source, len(classes), n_features, dtype)
    known = text_identity if encoder is None else encoder
    return Prototypes(features, source, known, _logit_scale(known))


def class_names_of(classes, class_names):
    """Return the name of each class, or None where there is none to be had.

    String labels are their own names. `class_names` overrides them: a dict maps label
    to name; a sequence follows the sorted classes, or is indexed by integer labels.
    """
    if class_names is None:
        if all(isinstance(label, str) for label in classes):
            return [str(label) for label in classes]
        return None
    if isinstance(class_names, str):
        raise TypeError(
            f"class_names={class_names!r} is one string; pass a sequence with a name "
            "for each class, or a dict from class label to name."
        )
    if isinstance(class_names, Mapping):
        names = _from_mapping(class_names, classes, "class_names")
    else:
        sequence = list(class_names)
        names = [
            sequence[row] for row in _row_indices(classes, len(sequence), "class_names")
        ]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"class_names must hold strings; got {name!r} of type "
                f"{type(name).__name__}."
            )
    return [str(name) for name in names]


def class_means(features, y, sample_weight, n_classes):
    """Return the unit-norm weighted mean of the rows of each class.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        Class indices in ``[0, n_classes)``.
    sample_weight : ndarray of shape (n_samples,)
    n_classes : int

    Returns
    -------
    ndarray of shape (n_classes, n_features)
    """
    sums = np.zeros((n_classes, features.shape[1]), dtype=features.dtype)
    np.add.at(sums, y, features * sample_weight[:, None])
    return unit_rows(sums)


def unit_rows(rows):
    """Scale each row to length one; a row of zeros stays zero."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, np.ones_like(norms))


def _logit_scale(encoder):
    return DEFAULT_LOGIT_SCALE if encoder is None else float(encoder.logit_scale)


def _encode(text_encoder, names, prompt_templates):
    """Encode `names`; return the array and the identity of its encoder, if any."""
    if hasattr(text_encoder, "encode_classes"):
        if prompt_templates is None:
            encoded = text_encoder.encode_classes(names)
        else:
            encoded = text_encoder.encode_classes(names, prompt_templates)
    elif callable(text_encoder):
        encoded = text_encoder(names)
    else:
        raise TypeError(
            "text_encoder must be a CLIPFeaturizer or a callable from a list of names "
            f"to an array of shape (n_names, n_features); got {text_encoder!r}."
        )
    return encoded, encoder_of(encoded)


def _rows_of_classes(text_features, classes):
    """Pick the row of each class from an array or a dict of class to vector."""
    if isinstance(text_features, Mapping):
        vectors = _from_mapping(text_features, classes, "text_features")
        shapes = sorted({np.shape(vector) for vector in vectors})
        if len(shapes) > 1 or len(shapes[0]) != 1:
            raise ValueError(
                "text_features must map each class to a vector of one common length; "
                f"got values of shapes {shapes}."
            )
        return np.stack([np.asarray(vector) for vector in vectors])
    array = np.asarray(text_features)
    if array.ndim != 2:
        raise ValueError(
            "text_features must be an array of shape (n_classes, n_features) or a "
            f"dict of class to vector; got an array of shape {array.shape}."
        )
    return array[_row_indices(classes, len(array), "text_features")]


def _row_indices(classes, n_rows, parameter):
    """Say which of `n_rows` belongs to each class.

    Rows follow the sorted classes. Where that cannot be because a class is missing (a
    cross-validation fold), integer labels in ``[0, n_rows)`` index the rows; with all
    classes present both readings agree.
    """
    if n_rows == len(classes):
        return np.arange(n_rows)
    if np.issubdtype(np.asarray(classes).dtype, np.integer):
        if classes.min() >= 0 and classes.max() < n_rows:
            return np.asarray(classes, dtype=np.intp)
    raise ValueError(
        f"{parameter} has {n_rows} rows, but y has {len(classes)} classes; give one "
        "row per sorted class, or a dict keyed by class, which also serves the "
        "cross-validation folds that lack a class."
    )


def _from_mapping(mapping, classes, parameter):
    """Look every class up in `mapping`."""
    keys = [
        label.item() if isinstance(label, np.generic) else label for label in classes
    ]
    missing = [key for key in keys if key not in mapping]
    if missing:
        raise ValueError(
            f"{parameter} lacks the classes {missing[:10]} that y has; its keys start "
            f"with {list(mapping)[:10]}."
        )
    return [mapping[key] for key in keys]


def _checked(given, source, n_classes, n_features, dtype):
    """Check shape and values and return unit rows of `dtype`."""
    features = check_array(
        np.asarray(given), dtype=dtype, input_name=source, ensure_min_samples=0
    )
    if features.shape != (n_classes, n_features):
        raise ValueError(
            f"The text features (from {source}) have shape {features.shape}; wanted "
            f"({n_classes}, {n_features}): one row per class, as wide as X. Texts and "
            "images must be embedded by the same model."
        )
    if not np.linalg.norm(features, axis=1).all():
        raise ValueError(
            f"The text features (from {source}) hold a row of zeros, which has no "
            "direction and cannot be a prototype."
        )
    return unit_rows(features)
