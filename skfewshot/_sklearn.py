"""The only importer of scikit-learn's private names, so that a rename hurts once."""

from sklearn.base import _fit_context
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
)
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_sample_weight

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "_check_sample_weight",
    "_fit_context",
    "_get_output_config",
    "has_callbacks",
]


def has_callbacks(estimator):
    """Say whether callbacks were set on an estimator, or propagated to it."""
    return bool(getattr(estimator, "_skl_callbacks", None))
