"""What every public estimator shares: links to its documentation, and its state."""

import warnings
from inspect import signature

from sklearn.base import BaseEstimator

from skfewshot import __version__
from skfewshot._arrays import as_numpy
from skfewshot._torch import is_device, is_tensor
from skfewshot.persistence import VersionWarning

#: Where the pages of the public classes are.
DOCUMENTATION = "https://skfewshot.readthedocs.io/en/stable/generated/skfewshot"
# The key of the state that is no attribute.
_VERSION = "_skfewshot_version"
# The most features of a row of zeros that is tried: a file that was tampered with must
# not fill the memory.
_MOST_FEATURES = 2**24


class Estimator(BaseEstimator):
    """Base of the public estimators: links to their documentation, and their state.

    A saved estimator knows the version of this package and holds nothing of torch. One
    that another version saved is tried as it is loaded: it raises what is wrong with it
    there, not when it is to predict. A subclass of a user is not tried, as it may take
    other data, and restore its state later.
    """

    _doc_link_module = "skfewshot"
    _doc_link_template = f"{DOCUMENTATION}.{{name}}.html"

    def _doc_link_url_param_generator(self):
        return {"name": type(self).__name__}

    def __getstate__(self):
        state = super().__getstate__()
        state = {name: _plain(value) for name, value in state.items()}
        return {**state, _VERSION: __version__}

    def __setstate__(self, state):
        state = dict(state)
        version = state.pop(_VERSION, None)
        super().__setstate__(state)
        if version == __version__:
            return
        origin = (
            f"This {type(self).__name__} was saved by skfewshot "
            f"{version or '0.1.0 or a development version'}, and this is skfewshot "
            f"{__version__}"
        )
        self._add_new_parameters()
        is_own = type(self).__module__.startswith("skfewshot.")
        try:
            if is_own and any(name.endswith("_") for name in state):
                # Of zeros: what is warned of them, such as missing names, is no news.
                with warnings.catch_warnings(action="ignore"):
                    _check_width(state)
                    self._try_predicting()
        except Exception as error:
            raise ValueError(
                f"{origin}, which cannot predict from what it holds: "
                f"{type(error).__name__}: {error}. Load it with the version that saved "
                "it, or fit it again."
            ) from error
        warnings.warn(
            f"{origin}. It can be used, but need not predict the same to the last "
            "digit. Save it again by this version, once you have compared predictions.",
            VersionWarning,
            stacklevel=2,
        )

    def _add_new_parameters(self):
        """Give parameters that the other version did not have their defaults."""
        for name, parameter in signature(type(self)).parameters.items():
            if parameter.default is not parameter.empty:
                vars(self).setdefault(name, parameter.default)

    def _try_predicting(self):
        """Predict anything, to see whether this version can read the fitted state."""


def _check_width(state):
    for name in ("n_features_in_", "width_"):
        if state.get(name, 0) > _MOST_FEATURES:
            raise ValueError(f"{name}={state[name]} is more than {_MOST_FEATURES}")


def _plain(value):
    """Return tensors as arrays, and devices as their names, wherever a user put one."""
    if is_tensor(value):
        return as_numpy(value.detach())
    if is_device(value):
        return str(value)
    if isinstance(value, dict) and any(is_tensor(item) for item in value.values()):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and any(is_tensor(item) for item in value):
        return [_plain(item) for item in value]
    return value
