"""What all displays share: matplotlib where it is installed, colours, pipelines."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

#: Colours that the colour-blind can tell apart (Okabe and Ito), legible on white.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)


def check_matplotlib(caller):
    """Raise an error that says how to install matplotlib, if it is not there.

    Parameters
    ----------
    caller : str
        What needs it.

    Raises
    ------
    ImportError
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'{caller} needs matplotlib; run: pip install "skfewshot[plot]"'
        ) from error


def check_axes(ax, shape, wanted):
    """Return axes as an array of a given shape.

    Parameters
    ----------
    ax : object
        What the user passed.
    shape : tuple of int
        ``()`` for one axes.
    wanted : str
        What `ax` is to be, for the message.

    Returns
    -------
    ndarray of matplotlib axes

    Raises
    ------
    ValueError
        If there are others than wanted.
    TypeError
        If they are no axes.
    """
    from matplotlib.axes import Axes

    axes = np.asarray(ax, dtype=object)
    if axes.shape != shape:
        raise ValueError(f"ax must be {wanted}; got shape {axes.shape}.")
    for item in axes.flat:
        if not isinstance(item, Axes):
            raise TypeError(f"ax must be {wanted}; got {item!r}.")
    return axes


def split_pipeline(estimator, X):
    """Return the classifier at the end of a fitted pipeline, and what it is given.

    Parameters
    ----------
    estimator : estimator
        A classifier, a pipeline that ends in one, or a fitted search for either.
    X : array-like
        What `estimator` takes.

    Returns
    -------
    classifier : estimator
    X : array-like
        What the classifier takes.
    """
    check_is_fitted(estimator)
    # The winner of a search predicts for it.
    estimator = getattr(estimator, "best_estimator_", estimator)
    if not isinstance(estimator, Pipeline):
        return estimator, X
    return estimator[-1], X if len(estimator) == 1 else estimator[:-1].transform(X)
