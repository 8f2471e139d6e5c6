"""The border with scikit-learn: its private names, warnings, and the base estimator."""

import concurrent.futures
import contextlib
import inspect
import math
import os
import reprlib
import sys
import threading
import warnings
from numbers import Integral
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sklearn
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    MissingValues,
    StrOptions,
)
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_sample_weight

from skfewshot import __version__
from skfewshot._torch import is_device, is_tensor, to_numpy

__all__ = [
    "Estimator",
    "HasMethods",
    "Interval",
    "MissingValues",
    "StrOptions",
    "VersionWarning",
    "_check_sample_weight",
    "_fit_context",
    "_get_output_config",
    "check_number",
    "has_callbacks",
    "last_step_of_caller",
    "show",
    "show_estimator",
    "warn_user",
]

#: Where the pages of the public classes are.
DOCUMENTATION = "https://skfewshot.readthedocs.io/en/stable/generated/skfewshot"
# The key of the state that is no attribute.
_VERSION = "_skfewshot_version"
# What stands between a user's line and a warning: this package, the wrappers, pipelines
# and searches of scikit-learn, and the contexts and threads that these run in.
_BETWEEN = tuple(
    f"{Path(file).parent}{os.sep}"
    for file in (
        __file__,
        sklearn.__file__,
        joblib.__file__,
        concurrent.futures.__file__,
    )
)
_BETWEEN += (contextlib.__file__, threading.__file__)


# Frames between a pipeline's fit and that of a step of it.
_MOST_FRAMES = 20
_MOST_CHARACTERS = 1000

_short = reprlib.Repr()  # whose constructor takes no bounds in Python 3.11
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxtuple = 10


def show(value: Any) -> str:
    """Return what ``repr`` does, long strings and long sequences shortened."""
    return _short.repr(value)


def show_estimator(estimator: BaseEstimator, indent: int = 0) -> str:
    """Return an estimator and its parameters that are not the defaults, a line each.

    Its ``repr`` writes all numbers of all arrays before it shortens them, which takes
    a minute for the texts of 500 classes.

    Parameters
    ----------
    estimator : estimator
    indent : int
        Spaces before the lines of its parameters, less four.
    """
    signature = inspect.signature(type(estimator).__init__).parameters
    start = "\n" + " " * (indent + 4)
    lines = []
    for name, value in estimator.get_params(deep=False).items():
        default = signature[name].default if name in signature else inspect._empty
        is_plain = isinstance(value, str | int | float | None)
        if value is default or (is_plain and value == default):
            continue
        lines.append(f"{start}{name}={_show_parameter(value, indent + 4)},")
    inner = "".join(lines)
    end = "\n" + " " * indent if inner else ""
    return f"{type(estimator).__name__}({inner}{end})"


def _show_parameter(value: Any, indent: int) -> str:
    if isinstance(value, BaseEstimator) and not isinstance(value, type):
        return show_estimator(value, indent)
    if isinstance(value, str):
        return repr(value[:_MOST_CHARACTERS])
    is_steps = isinstance(value, list) and all(
        isinstance(step, tuple) and len(step) == 2 for step in value
    )
    if not is_steps or not value:
        return " ".join(show(value).split())
    start = "\n" + " " * (indent + 4)
    steps = [f"{start}({k!r}, {_show_parameter(v, indent + 4)})," for k, v in value]
    return f"[{''.join(steps)}\n{' ' * indent}]"


def last_step_of_caller() -> Any:
    """Return the last step of the pipeline whose fit called the caller, or None.

    A pipeline tells its steps nothing of one another, so its frame is looked for: what
    its classifier would refuse can then be refused before hours of embedding.
    """
    frame, pipeline = sys._getframe(1), sys.modules.get("sklearn.pipeline")
    for _ in range(_MOST_FRAMES):
        if frame is None or pipeline is None:
            return None
        caller = frame.f_locals.get("self")
        if frame.f_code.co_name == "_fit" and isinstance(caller, pipeline.Pipeline):
            return caller.steps[-1][1]
        frame = frame.f_back  # type: ignore[assignment]
    return None


def has_callbacks(estimator: BaseEstimator) -> bool:
    """Say whether callbacks were set on an estimator, or propagated to it."""
    return bool(getattr(estimator, "_skl_callbacks", None))


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Raise a warning at the line that called this package or scikit-learn."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=level)


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, kind: Any = Integral
) -> Any:
    """Return an int, or a float with ``kind=Real``; refuse others out of its range."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
        wanted = "an int" if kind is Integral else "a number"
        raise TypeError(f"{name} must be {wanted}; got {value!r}.")
    if not low <= value <= high:
        wanted = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be {wanted}; got {value!r}.")
    return int(value) if kind is Integral else float(value)


class VersionWarning(InconsistentVersionWarning):
    """Warns that an estimator was saved by another version of this package.

    It is a :class:`sklearn.exceptions.InconsistentVersionWarning`, so that a filter for
    that one finds it too.

    Parameters
    ----------
    message : str
    """

    # For who catches scikit-learn's and asks it: what differs is not scikit-learn.
    estimator_name = current_sklearn_version = original_sklearn_version = None

    def __init__(self, message: str) -> None:
        Warning.__init__(self, message)

    __str__ = Warning.__str__


class Estimator(BaseEstimator):
    """Base of the public estimators: links to their documentation, and their state.

    A saved estimator knows the version of this package and holds nothing of torch. One
    that another version saved is loaded with a warning.
    """

    _doc_link_module = "skfewshot"
    _doc_link_template = f"{DOCUMENTATION}.{{name}}.html"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"name": type(self).__name__}

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            message = str(error)
            if len(message) <= _MOST_CHARACTERS:
                raise
            message = f"{message[:500]} ... {message[-100:]}"
            raise InvalidParameterError(message) from None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state = {name: _plain(value) for name, value in state.items()}
        return {**state, _VERSION: __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop(_VERSION, None)
        super().__setstate__(state)
        if version != __version__:
            warn_user(
                f"This {type(self).__name__} was saved by skfewshot "
                f"{version or 'of an unknown version'}, and this is skfewshot "
                f"{__version__}. It may predict otherwise, or not at all: load it with "
                "the version that saved it, or fit it again.",
                VersionWarning,
            )


def _plain(value: Any) -> Any:
    """Return tensors as arrays, and devices as their names, wherever a user put one."""
    if is_tensor(value):
        return to_numpy(value)
    if is_device(value):
        return str(value)
    if isinstance(value, dict) and any(is_tensor(item) for item in value.values()):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and any(is_tensor(item) for item in value):
        return [_plain(item) for item in value]
    return value
