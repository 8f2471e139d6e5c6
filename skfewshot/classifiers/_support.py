"""Reading the support: its rows, weights and classes, checked, merged and in order."""

import os
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from skfewshot._labels import plain_labels, with_extra_classes
from skfewshot._rows import (
    MOST_WEIGHT,
    as_numpy,
    check_parameters,
    check_weight,
    check_weight_range,
    class_means,
    merge_rows,
    plain,
    reading,
    row_order,
    unit_rows,
)
from skfewshot._sklearn import warn_user
from skfewshot._text import resolve_prototypes
from skfewshot._torch import is_tensor
from skfewshot.clip.embedding import encoder_of


@dataclass(frozen=True)
class Support:
    """The labelled rows that a method learns from, checked and ready for a solver.

    Attributes
    ----------
    features : ndarray or tensor of shape (n_support, n_features)
        Unit rows, in the dtype of X. A tensor stays where X is; all else is NumPy.
    y : ndarray of shape (n_support,)
        Class indices in ``[0, n_classes)``.
    weight : ndarray of shape (n_support,)
        Sample weight times class weight; all positive.
    copy : ndarray of shape (n_support,)
        The weight that one copy of a row has: that of its class.
    text : ndarray of shape (n_classes, n_features)
        Unit-norm starting prototypes.
    seen : ndarray of int, shape (n_classes,)
        Where the classes are in ``classes_``, which may have more than have rows.
    """

    features: Any
    y: np.ndarray
    weight: np.ndarray
    copy: np.ndarray
    text: np.ndarray
    seen: np.ndarray | None = None

    def in_numpy(self):
        """Return the support with its features copied out of a tensor."""
        return replace(self, features=as_numpy(self.features))

    def in_own_order(self):
        """Put the classes in an order that their names do not change, as rows have one.

        Returns
        -------
        support : Support
            With classes reordered.
        rank : ndarray of shape (n_classes,)
            Where each class went.
        """
        order = row_order(self.text)
        rank = np.argsort(order)
        return replace(self, y=rank[self.y], text=self.text[order]), rank


def check_rows(X):
    """Refuse rows that cannot be read, and say why; return them.

    Tensors come back without a graph, as predictions have no gradients, and as arrays
    unless array API dispatch is on.
    """
    dispatched, encoder = get_config()["array_api_dispatch"], encoder_of(X)
    X = plain(X, "X")
    if is_tensor(X):
        if not dispatched or X.is_meta:
            X = array_of(
                X,
                "To compute there, set the environment variable SCIPY_ARRAY_API=1 "
                "before SciPy is imported and call "
                "sklearn.set_config(array_api_dispatch=True); or pass X.cpu().",
            )
    elif dispatched and hasattr(X, "__array_namespace__"):
        if not isinstance(X, np.ndarray):
            raise TypeError(
                "With array API dispatch X may be a NumPy array or a torch tensor; got "
                f"{type(X).__module__}.{type(X).__qualname__}."
            )
    _refuse_images(X)
    if encoder is not None and X.ndim == 2:
        _check_images(X)
    return X


def array_of(tensor, advice):
    """Return a tensor on the CPU as an array; refuse another one, with advice."""
    if tensor.device.type != "cpu":
        raise TypeError(f"X is a tensor on {tensor.device}. {advice}")
    # NumPy has no bfloat16, nor floats of 8 bits.
    is_short = tensor.is_floating_point() and tensor.itemsize < 4
    return (tensor.float() if is_short else tensor).numpy()


def _refuse_images(X):
    """Refuse images, their paths and tokens, and say what makes embeddings of them."""
    first = X[0] if isinstance(X, list | tuple) and X else None
    n_dimensions = getattr(X, "ndim", 1 + getattr(first, "ndim", 1))
    advice = "Images are embedded first: make_pipeline(CLIPFeaturizer(), classifier)."
    if isinstance(first, str | os.PathLike) or hasattr(first, "convert"):
        found = f"X is a {type(X).__name__} of {type(first).__name__}"
    elif n_dimensions == 3:
        found = "Found array with dim 3 as X"
        advice = (
            "Tokens are for MultiLabelPrototypeClassifier; CLIPFeaturizer() gives one "
            "embedding an image."
        )
    elif n_dimensions == 4:
        found = "Found array with dim 4 as X"
    else:
        return
    wanted = "embeddings, of shape (n_samples, n_features)"
    raise ValueError(f"{found}; wanted {wanted}. {advice}")


def _check_images(X):
    """Name the images that could not be read; scikit-learn would only find a NaN."""
    unread = X.isnan() if is_tensor(X) else np.isnan(np.asarray(X))
    unread = np.flatnonzero(as_numpy(unread.any(axis=1)))
    if len(unread):
        shown = f"{unread[:20].tolist()}{' ...' if len(unread) > 20 else ''}"
        raise ValueError(
            "Input X contains NaN: the featurizer could not read the images at the "
            f"indexes {shown}. Leave their rows out: X[~np.isnan(X).any(axis=1)]."
        )


def float_types(X):
    """Return the dtypes to compute in: half precision becomes single, not double."""
    is_single = _is_half(X) or _has_single_columns(X)
    return np.float32 if is_single else [np.float64, np.float32]


def _has_single_columns(X):
    """Say whether X is a frame of singles that scikit-learn would make doubles of."""
    dtypes = getattr(X, "dtypes", None)  # one where X is a series
    found = set(map(str, dtypes)) if np.iterable(dtypes) else set()
    return bool(found) and found <= {"Float32", "float[pyarrow]"}


def row_types(rows):
    """Return the same for what `check_rows` returned, which may be a tensor."""
    if not is_tensor(rows):
        return float_types(rows)
    import torch

    is_single = _is_half(rows) or rows.device.type == "mps"
    return torch.float32 if is_single else [torch.float64, torch.float32]


def _are_unit_rows(X):
    """Say whether an array starts with rows such as a CLIPFeaturizer gives."""
    if is_tensor(X):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        # Rows that were made up, as by SMOTE, are shorter and come later.
        norms = np.linalg.norm(X[:8], axis=1)
    return bool((np.abs(norms - 1) < 1e-3).all())


def _is_half(X):
    # Also torch's, the names of which are torch.float16 and torch.bfloat16.
    return str(getattr(X, "dtype", None)).endswith("float16")


def check_encoder(X, fitted):
    """Refuse embeddings of another encoder than the `fitted` one, if both are known."""
    encoder = encoder_of(X)
    if encoder is not None and fitted is not None and encoder != fitted:
        raise ValueError(
            f"X comes from the encoder {encoder}, but this classifier was fitted on "
            f"features of {fitted}; embed the images with the model that embedded the "
            "support."
        )


class SupportReader:
    """Reads the support of a classifier with the parameters that all of them have."""

    def _read_support(self, X, y, sample_weight):
        """Check the support, find its prototypes and set what `fit` learns of them.

        Returns
        -------
        Support
        """
        check_parameters(self.get_params(deep=False))
        encoder = encoder_of(X)
        X, y, sample_weight = self._read_rows(X, y, sample_weight)
        kept = sample_weight > 0
        self.classes_, index = np.unique(y[kept], return_inverse=True)
        n_classes = len(self.classes_)
        self.classes_, seen = with_extra_classes(
            self.classes_, getattr(self, "extra_classes", None)
        )
        if n_classes < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes in y with positive "
                f"sample weight; got 1 class: {self.classes_[seen].tolist()}."
            )
        prototypes = resolve_prototypes(
            self.text_features,
            classes=self.classes_,
            encoder=encoder,
            text_encoder=self.text_encoder,
            class_names=self.class_names,
            prompt_templates=self.prompt_templates,
            n_features=X.shape[1],
            dtype=sample_weight.dtype,
        )
        self.prototype_source_ = prototypes.source
        self.encoder_ = prototypes.encoder
        self.logit_scale_ = (
            prototypes.logit_scale
            if self.logit_scale == "auto"
            else float(self.logit_scale)
        )
        features, index, weight = merge_rows(
            unit_rows(X[kept]), index, sample_weight[kept]
        )
        text = prototypes.features
        if text is None and n_classes < len(self.classes_):
            raise ValueError(
                "extra_classes need texts, and there are none; pass text_features or "
                "text_encoder."
            )
        if text is None:
            text = as_numpy(class_means(features, index, weight, n_classes))
        self.zero_shot_features_ = text
        copy = self._class_weights(self.classes_[seen], index, weight)[index]
        with reading("class_weight"):
            weight = weight * copy
        # Copies add up, and rare classes may weigh as much as all rows.
        most = MOST_WEIGHT * len(X)
        check_weight_range(weight, "class_weight, times sample_weight,", most)
        used = weight >= np.finfo(weight.dtype).tiny
        if not used.any():
            raise ValueError("class_weight gives every row of the support weight 0.")
        return Support(
            features[used], index[used], weight[used], copy[used], text[seen], seen
        )

    def _read_rows(self, X, y, sample_weight, reset=True):
        """Return rows, labels and weights, checked; `reset` sets what `fit` learns."""
        given, is_lost = X, reset and encoder_of(X) is None
        X, y = check_rows(X), plain_labels(y)
        with reading("X or y"):
            X, y = validate_data(self, X, y, reset=reset, dtype=row_types(X))
        reason = self._why_no_encoder(given, X, y) if is_lost else None
        if reason is not None:
            warn_user(
                f"{reason}. The class means of the support stand in for the text "
                "prototypes; pass text_encoder, or text_features=None to do without."
            )
        with warnings.catch_warnings(), reading("y"):
            # Half as many classes as rows is no hint of regression: it is one shot.
            warnings.filterwarnings("ignore", "The number of unique classes")
            check_classification_targets(y)
        return X, y, check_weight(sample_weight, X)

    def _why_no_encoder(self, X, rows, y):
        """Say why X may not know its encoder though it comes from a featurizer.

        `rows` are those of X as they were read.
        """
        if not isinstance(self.text_features, str) or self.text_encoder is not None:
            return None
        names = getattr(X, "columns", ())
        if len(names) > 0 and str(names[0]).startswith("clipfeaturizer"):
            return (
                "X is a data frame made by a CLIPFeaturizer, which does not know its "
                "encoder; leave set_output alone to keep it"
            )
        if is_tensor(X) and isinstance(next(iter(np.ravel(y)), None), str):
            return (
                "y holds names, but X is a tensor without an encoder: one straight "
                "from a CLIPFeaturizer has it, a part or a copy of that has not"
            )
        if self.class_names is not None or self.prompt_templates is not None:
            return None  # `resolve_prototypes` warns of them, whatever the rows are.
        if _are_unit_rows(rows) and isinstance(next(iter(np.ravel(y)), None), str):
            return (
                "y holds names, and the rows of X have length one as embeddings have, "
                "but X does not know its encoder: it was resampled, computed with, "
                "saved, or made by other means than a CLIPFeaturizer"
            )
        return None

    def _class_weights(self, classes, index, sample_weight):
        """Return the weight of each class that has rows."""
        with reading("class_weight"):
            weights = compute_class_weight(
                self.class_weight,
                classes=classes,
                y=classes[index],
                sample_weight=sample_weight,
            ).astype(sample_weight.dtype)
        if (weights < 0).any():
            raise ValueError(
                f"class_weight must not be negative; got {self.class_weight!r}."
            )
        if not np.isfinite(weights).all():
            raise ValueError(
                f"class_weight must hold finite numbers; got {self.class_weight!r}."
            )
        return weights
