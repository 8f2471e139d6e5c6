"""What is learned after a fit: classes and images added, classes forgotten."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_consistent_length, column_or_1d

from skfewshot._labels import (
    check_several,
    more_labels,
    plain_labels,
    single_labels,
    with_class,
)
from skfewshot._left_out import LEFT_OUT
from skfewshot._rows import as_numpy, plain
from skfewshot._sklearn import show
from skfewshot._text import resolve_prototypes
from skfewshot._unlabelled import split_unlabelled, unlabelled_rows, with_gaps
from skfewshot._unread import without_unread
from skfewshot.clip._texts import warn_of_same
from skfewshot.cmm._solution import prototypes_of

if TYPE_CHECKING:
    from skfewshot.cmm._classifier import CMMClassifier

# The cosine of texts that are the same to a model.
_SAME_TEXT = 1 - 1e-6
# What shares are divided by at least.
_LEAST_SHARE = 1e-9
# What is fitted a row a class.
_OF_CLASSES = (
    *("classes_", "class_count_", "text_features_", "prototypes_"),
    *("frozen_prototypes_", "text_trust_", "intercept_"),
)
# What is known of a fit that images added later do not change.
_OF_THE_FIT = ("prototype_source_", "encoder_", "n_features_in_", "feature_names_in_")


def with_new_class(model: "CMMClassifier", name: Any, features: Any) -> dict[str, Any]:
    """Return the attributes of a fitted classifier with a class that has no rows."""
    joined, order = with_class(model.classes_, name)
    if model.prototype_source_ == "image":
        raise ValueError(
            "This classifier was fitted without texts, so it cannot place a class "
            "that has none but a text; fit it with text_features or text_encoder."
        )
    text = _text_of(model, joined[-1:], name, features)
    level = np.full(1, model.newcomer_intercept_, model.intercept_.dtype)
    added = {
        "classes_": joined[-1:],
        "class_count_": np.zeros(1),
        "text_features_": text,
        "prototypes_": prototypes_of(text, vars(model)),
        "frozen_prototypes_": text,
        "text_trust_": np.ones_like(level),
        "intercept_": level,
    }
    if hasattr(model, "unlabeled_shares_"):
        # Nobody has looked for it among the rows without a label.
        added["unlabeled_shares_"] = np.zeros_like(level)
    old = {key: getattr(model, key) for key in added} | {"classes_": joined[:-1]}
    return {key: np.concatenate([old[key], added[key]])[order] for key in added}


def _text_of(
    model: "CMMClassifier", label: NDArray, name: Any, features: Any
) -> NDArray:
    """Return the text of a new class as a fit would find it, shape (1, d)."""
    if features is None and isinstance(model.text_features, Mapping):
        features = model.text_features.get(name)
    # Named as a fit would name it.
    names = model.class_names
    text = resolve_prototypes(
        "auto" if features is None else {name: features},
        classes=label,
        encoder=model.encoder_,
        text_encoder=model.text_encoder,
        class_names=names if isinstance(names, Mapping) and name in names else None,
        prompt_templates=model.prompt_templates,
        n_features=model.n_features_in_,
        dtype=model.text_features_.dtype,
    ).features
    if text is None:
        raise ValueError(
            f"Nothing is known that could encode {name!r}; pass its text feature: "
            f"add_class({name!r}, features)."
        )
    if features is None:
        same = model.text_features_ @ text[0] > _SAME_TEXT
        if same.any():
            warn_of_same([[str(name), *map(str, model.classes_[same])]])
    return text


def without_class(model: "CMMClassifier", name: Any) -> dict[str, Any]:
    """Return the attributes of a fitted classifier without one of its classes."""
    stays = np.ones(len(model.classes_), dtype=bool)
    labels = model.classes_.tolist()
    if np.ndim(name) or name not in labels:
        raise ValueError(
            f"name={show(name)} is none of the classes, {show(labels)}; nothing to "
            "forget."
        )
    stays[labels.index(name)] = False
    fitted = {key: getattr(model, key)[stays] for key in _OF_CLASSES}
    classes, texts = fitted["classes_"], fitted["text_features_"]
    check_several(classes, type(model).__name__)
    gone = 0.0
    if hasattr(model, "unlabeled_shares_"):
        shares = model.unlabeled_shares_
        gone = float(shares[~stays][0])
        fitted["unlabeled_shares_"] = shares[stays] / max(1 - gone, _LEAST_SHARE)
    support = getattr(model, "support_", None)
    if support is None:
        return fitted
    kept = np.array([label != name for label in support["y"].tolist()])
    # Also a class that has a name only takes rows without a label from others.
    if kept.all() and not gone:
        return fitted
    if support["groups"] is not None:
        # Other views of its photographs had its label, and would be without one.
        bare = np.array([label is None for label in support["y"].tolist()])
        kept &= ~(bare & np.isin(support["groups"], support["groups"][~kept]))
    support = {k: v if v is None else v[kept] for k, v in support.items()}
    return _fitted_again(model, support, classes, texts)


def with_images(
    model: "CMMClassifier", X: Any, y: Any, sample_weight: Any, groups: Any
) -> dict[str, Any]:
    """Return the attributes of a fit on the rows of the support and some more."""
    if not hasattr(model, "support_"):
        raise ValueError(
            "add_images needs the rows that the classifier was fitted on, and it keeps "
            "them only with store_support=True."
        )
    old = model.support_
    check_consistent_length(X, y, groups)
    labels, new, known = _read_labels(model, y)
    X, sample_weight = without_unread(X, labels, sample_weight, known)
    rows = model._check_query(X)
    if (groups is None) != (old["groups"] is None):
        raise ValueError(
            "groups must be given for all images or for none: `fit` was called "
            f"{'without' if groups is not None else 'with'} them."
        )
    if groups is not None:
        groups = np.concatenate([old["groups"], np.asarray(plain_labels(groups))])
    if sample_weight is not None or old["sample_weight"] is not None:
        weights = (old["sample_weight"], len(old["X"])), (sample_weight, len(rows))
        parts = [_weight_of(weight, size) for weight, size in weights]
        sample_weight = np.concatenate(parts)
    support = {
        "X": np.concatenate([old["X"], rows]),
        "y": np.concatenate([old["y"], labels]),
        "sample_weight": sample_weight,
        "groups": groups,
    }
    texts = model.text_features_
    if model.prototype_source_ != "image":
        found = [
            _text_of(model, new[i : i + 1], name, None)
            for i, name in enumerate(new.tolist())
        ]
        texts = np.concatenate([texts, *found])
    classes = np.concatenate([model.classes_, new])
    return _fitted_again(model, support, classes, texts)


def _read_labels(
    model: "CMMClassifier", y: Any
) -> tuple[NDArray, NDArray, NDArray[np.bool_] | None]:
    """Return labels, None where there is none; the new ones; and where there is one."""
    y = as_numpy(y)
    missing = unlabelled_rows(y, model.unlabeled)
    if missing is not None and missing.all():
        return np.full(len(missing), None), model.classes_[:0], ~missing
    filled, known = split_unlabelled(y, model)
    labels = column_or_1d(single_labels(filled, type(model).__name__))
    labels, new = more_labels(model.classes_, labels)
    return with_gaps(labels, known), new, known


def _weight_of(weight: Any, n_rows: int) -> NDArray:
    """Return the weight of each of some rows, as `fit` takes it."""
    weight = np.asarray(1.0 if weight is None else plain(weight, "sample_weight"))
    if weight.ndim and len(weight) != n_rows:
        raise ValueError(
            f"sample_weight has {len(weight)} entries; wanted are {n_rows}, one for "
            "each image."
        )
    return np.full(n_rows, weight) if weight.ndim == 0 else weight


def _fitted_again(
    model: "CMMClassifier", support: dict[str, Any], classes: NDArray, texts: NDArray
) -> dict[str, Any]:
    """Return the attributes of a fit on a support, with texts that are known."""
    other = clone(model).set_params(
        text_features=None,
        **dict.fromkeys(("class_names", "text_encoder", "prompt_templates")),
    )
    if model.prototype_source_ != "image":
        by_class = dict(zip(classes.tolist(), texts, strict=True))
        other.set_params(
            text_features=by_class,
            extra_classes=classes,
            logit_scale=model.logit_scale_,
        )
    other.fit(**support)
    fitted = {k: v for k, v in vars(other).items() if k.endswith("_")}
    # Beside rows without a label names are objects.
    fitted["classes_"] = fitted["classes_"].astype(classes.dtype)
    return {k: v for k, v in fitted.items() if k not in _OF_THE_FIT}


def replace_fitted(model: "CMMClassifier", fitted: Mapping[str, Any]) -> None:
    """Set attributes, and drop those that rows left out of the old classes gave."""
    for name in LEFT_OUT:
        if hasattr(model, name) and name not in fitted:
            delattr(model, name)
    for name, value in fitted.items():
        setattr(model, name, value)
