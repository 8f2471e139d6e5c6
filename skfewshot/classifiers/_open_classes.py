"""Classes that have a text but no images: named before a fit, or added after one."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skfewshot._labels import plain_labels
from skfewshot._text import resolve_prototypes


def with_extra_classes(classes, extra):
    """Return the sorted union of classes, and where the first ones are in it.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted classes that have rows.
    extra : array-like of shape (n_extra,) or None
        Labels of further ones; those that have rows after all are no error, so that a
        cross-validation may find them in some folds.

    Returns
    -------
    union : ndarray
    positions : ndarray of int, shape (n_classes,)
    """
    if extra is None:
        return classes, np.arange(len(classes))
    extra = np.asarray(plain_labels(extra, "extra_classes"))
    if extra.ndim != 1:
        raise ValueError(
            "extra_classes must be a sequence of class labels; got an array of shape "
            f"{extra.shape}."
        )
    if not len(extra):
        return classes, np.arange(len(classes))
    extra = _of_kind(extra, classes, "extra_classes")
    union = np.unique(_join(classes, extra, "extra_classes"))
    return union, np.searchsorted(union, classes)


def _of_kind(labels, classes, parameter):
    """Return labels as the classes are; refuse to mix names with numbers.

    Integers become floats: so do those of a nullable column of pandas.
    """
    if any(label is None or label != label for label in labels.tolist()):
        raise ValueError(f"{parameter} must not be missing; got {labels.tolist()[:5]}.")
    if (_kind(labels), _kind(classes)) == ("i", "f"):
        whole = labels.astype(classes.dtype)
        labels = whole if whole.tolist() == labels.tolist() else labels
    if _kind(labels) != _kind(classes):
        raise ValueError(
            f"{parameter} and y must hold labels of one kind; got "
            f"{labels.tolist()[:5]} and {classes.tolist()[:5]}."
        )
    return labels


def _kind(labels):
    """Name the kind of labels: NumPy's, with text and integers of one kind each."""
    kind = labels.dtype.kind
    if kind == "O" and all(isinstance(label, str) for label in labels):
        return "U"
    return "i" if kind == "u" else kind


def _join(classes, labels, parameter):
    """Put labels behind classes, without rounding one of them."""
    joined = np.concatenate([classes, labels])
    if _kind(joined) != _kind(classes):  # signed and unsigned
        whole = classes.tolist() + labels.tolist()
        try:
            return np.array(whole, dtype=np.int64 if min(whole) < 0 else np.uint64)
        except OverflowError as error:
            raise ValueError(
                f"{parameter} and y hold integers that no type of NumPy holds "
                f"together; got {labels.tolist()[:5]} and {classes.tolist()[:5]}."
            ) from error
    return joined


class OpenClassesMixin:
    """Adds ``add_class`` to a classifier that can make a prototype from a text.

    The classifier implements ``_prototypes_of_texts(texts)`` and keeps one row a class
    in ``zero_shot_features_`` and ``text_features_``, and a number in ``intercept_``.
    """

    def add_class(self, name, features=None):
        """Add a class that has no images to the fitted classifier, without a new fit.

        Parameters
        ----------
        name : label
            The label that is predicted for it, of the kind of those in ``classes_``.
        features : array-like of shape (n_features,), default=None
            Its text feature; scaled to unit norm. None has the text encoder of the
            fitted classifier encode `name`.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If `name` is there already or of another kind than the classes, if
            `features` does not fit, or if the classifier was fitted without texts.
        """
        check_is_fitted(self)
        if np.ndim(name):
            raise ValueError(f"name must be one class label; got {name!r}.")
        name = name.item() if isinstance(name, np.ndarray) else name
        label = np.asarray(plain_labels([name], "name"))
        label = _of_kind(label, self.classes_, "name")
        if name in self.classes_.tolist():
            raise ValueError(f"name={name!r} is already one of the classes.")
        if self.prototype_source_ == "image":
            raise ValueError(
                "This classifier was fitted without texts, so it cannot place a class "
                "that has none but a text; fit it with text_features or text_encoder."
            )
        # Named as a fit would name it.
        names = self.class_names
        names = names if isinstance(names, Mapping) and name in names else None
        prototypes = resolve_prototypes(
            "auto" if features is None else {name: features},
            classes=label,
            encoder=self.encoder_,
            text_encoder=self.text_encoder,
            class_names=names,
            prompt_templates=self.prompt_templates,
            n_features=self.n_features_in_,
            dtype=self.zero_shot_features_.dtype,
        )
        text = prototypes.features
        if text is None:
            raise ValueError(
                f"features=None, but nothing is known that could encode {name!r}; pass "
                "its text feature."
            )
        classes = _join(self.classes_, label, "name")
        order = np.argsort(classes, kind="stable")
        for attribute, row in (
            ("zero_shot_features_", text),
            ("text_features_", self._prototypes_of_texts(text)),
        ):
            rows = np.concatenate([getattr(self, attribute), row])
            setattr(self, attribute, rows[order])
        level = self.intercept_.dtype.type(self.newcomer_intercept_)
        self.intercept_ = np.append(self.intercept_, level)
        self.intercept_ = self.intercept_[order]
        self.classes_ = classes[order]
        return self
