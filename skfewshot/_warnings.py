"""Warnings that name the line of the user, however deep they arise."""

import os
import sys
from pathlib import Path
from warnings import warn

import joblib
import sklearn

# What stands between a user's line and a warning: this package, and the wrappers,
# pipelines and searches of scikit-learn.
_BETWEEN = tuple(
    f"{Path(file).parent}{os.sep}"
    for file in (__file__, sklearn.__file__, joblib.__file__)
)


def warn_user(message, category=UserWarning):
    """Raise a warning at the line that called this package or scikit-learn."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        level, frame = level + 1, frame.f_back
    warn(message, category, stacklevel=level)
