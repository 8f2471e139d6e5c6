"""Reading what users pass: arrays of tokens in their three forms, and label texts."""

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skfewshot._rows import float_types, plain, reading
from skfewshot._text import Wording, resolve_prototypes

#: What the multi-label estimators call their parameters.
LABELS = Wording(
    "label_features",
    "label_names",
    "label",
    "labels",
    "column of y (sorted class of 1-D y)",
    "some tools of scikit-learn drop the names of the columns of a data frame, which "
    "leaves 0, 1, ... in their order.",
)


class TokenInputMixin:
    """Reads X as tokens, for estimators with the parameter `n_tokens`."""

    def _read_tokens(self, X, *, reset):
        """Return X as an array of tokens, shape (n, 1 + K, d).

        Parameters
        ----------
        X : array-like of shape (n, 1 + K, d), (n, d) or (n, n_tokens * d)
            NaN is left in tokens that may be padding.
        reset : bool
            Whether to set, or to compare with, what `fit` learned of the shape.
        """
        X = plain(X, "X")
        n_dims = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if n_dims > 3:
            raise ValueError(
                f"X has the shape {np.shape(X)}; wanted (n_samples, 1 + K, d), "
                "(n_samples, d) or (n_samples, n_tokens * d)."
            )
        with reading("X"):
            array = self._read_3d(X, reset) if n_dims == 3 else self._read_2d(X, reset)
        if reset:
            self._token_dims = n_dims
        elif n_dims != self._token_dims:
            raise ValueError(
                f"X has {n_dims} dimensions, but {type(self).__name__} was fitted on X "
                f"of {self._token_dims} dimensions."
            )
        return array

    def _read_3d(self, X, reset):
        if self.n_tokens is not None:
            raise ValueError(
                f"n_tokens={self.n_tokens} says that X is flattened, but X has the "
                f"shape {np.shape(X)}; leave n_tokens at None."
            )
        array = check_array(
            X,
            allow_nd=True,
            dtype=float_types(X),
            ensure_all_finite=False,
            input_name="X",
        )
        width = array.shape[2]
        if not array.shape[1] or not width:
            raise ValueError(
                f"X has the shape {array.shape}; wanted (n_samples, 1 + K, d) with at "
                "least one token, of at least one feature."
            )
        if reset:
            self.__dict__.pop("feature_names_in_", None)
            self.n_features_in_ = width
        elif width != self.n_features_in_ and self._token_dims == 3:
            raise ValueError(
                f"X has {width} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input, for each token."
            )
        return array

    def _read_2d(self, X, reset):
        n_tokens = 1 if self.n_tokens is None else self.n_tokens
        array = validate_data(
            self,
            X,
            reset=reset,
            dtype=float_types(X),
            ensure_all_finite=True if self.n_tokens is None else "allow-nan",
        )
        if array.shape[1] % n_tokens:
            raise ValueError(
                f"X has {array.shape[1]} columns, which n_tokens={n_tokens} does not "
                "divide; wanted n_tokens times the width of a token."
            )
        return array.reshape(len(array), int(n_tokens), -1)


def resolve_label_features(label_features, **options):
    """Find the label vectors; see :func:`skfewshot.text.resolve_prototypes`."""
    return resolve_prototypes(label_features, wording=LABELS, **options)
