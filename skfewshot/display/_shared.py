"""What the displays share: axes, colours, and reading what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skfewshot._labels import plain_labels
from skfewshot._rows import as_numpy
from skfewshot._sklearn import check_number

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap
    from PIL.Image import Image

#: Colours that the colour-blind can tell apart (Okabe and Ito), legible on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Grey values that a picture spans at least: below it, stretching would show noise.
_LEAST_CONTRAST = 90
#: How much of a picture shows through the strongest evidence.
_OPACITY = 0.7


# Axes and pipelines


def check_matplotlib(caller: str) -> None:
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


def check_axes(ax: Any, shape: tuple[int, ...], wanted: str) -> NDArray[np.object_]:
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


def split_pipeline(estimator: Any, X: Any) -> tuple[Any, Any]:
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


def places_of(labels: NDArray, classes: NDArray) -> list[int]:
    """Return where each of some labels is among the classes."""
    place = {label: index for index, label in enumerate(classes.tolist())}
    unknown = {repr(label) for label in labels.tolist() if label not in place}
    if unknown:
        raise ValueError(
            f"labels must be among the classes, such as {list(place)[:10]}; got "
            f"{', '.join(sorted(unknown)[:10])}."
        )
    return [place[label] for label in labels.tolist()]


# The modality gap


def read_classes(
    labels: Any, classes: ArrayLike | None, n_images: int, n_texts: int
) -> tuple[NDArray[np.intp], NDArray]:
    """Return the index of the class of each image, and the classes."""
    labels = np.asarray(plain_labels(labels, "labels"))
    if labels.shape != (n_images,):
        raise ValueError(
            f"labels must hold one class per image, shape ({n_images},); got shape "
            f"{labels.shape}."
        )
    classes = np.unique(labels) if classes is None else np.asarray(classes)
    if classes.shape != (n_texts,) or len(set(classes.tolist())) < n_texts:
        raise ValueError(
            f"classes must name each of the {n_texts} texts, each once; got "
            f"{classes.tolist()}. Without classes, there must be images of each."
        )
    return np.array(places_of(labels, classes)), classes


# Maps of evidence


def read_maps(maps: Any, y_proba: Any, n_images: int) -> tuple[NDArray, NDArray]:
    """Return maps and probabilities as arrays whose shapes match."""
    maps, y_proba = np.asarray(as_numpy(maps)), np.asarray(as_numpy(y_proba))
    if maps.ndim != 4 or maps.shape[2] != maps.shape[3]:
        raise ValueError(
            "maps must be of shape (n_samples, n_labels, side, side); got "
            f"{maps.shape}."
        )
    if n_images != len(maps):
        raise ValueError(
            f"images holds {n_images} images; wanted {len(maps)}, one for each row."
        )
    if y_proba.shape != maps.shape[:2]:
        raise ValueError(f"y_proba has shape {y_proba.shape}; wanted {maps.shape[:2]}.")
    return maps, y_proba


# A picture is shown no larger than this between its bars.
_LONGEST_SIDE = 1024


def seen_square(image: Image, resize_mode: str = "crop") -> NDArray[np.uint8]:
    """Return what of a PIL image a model sees, a square, as an array.

    `resize_mode` is that of a CLIPFeaturizer; ``"auto"`` is taken for ``"crop"``.
    """
    size = min(image.size)
    if resize_mode == "squash":
        return np.asarray(image.resize((size, size)))
    if resize_mode == "pad":
        image = image.copy()
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        size = max(image.size)  # what is cut out beyond a picture is black
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def pale_grey(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return a grey copy, full of contrast and pale, as heat shows best on it."""
    grey = np.asarray(picture, dtype=np.float64).mean(axis=2)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(high - low, _LEAST_CONTRAST), 0, 1)
    return np.repeat(0.4 + 0.6 * grey[:, :, None], 3, axis=2)


def against_the_others(evidence: NDArray) -> NDArray:
    """Turn logits of a softmax over labels, axis 1, into log odds."""
    others = [
        logsumexp(np.delete(evidence, label, axis=1), axis=1)
        for label in range(evidence.shape[1])
    ]
    return evidence - np.stack(others, axis=1)


def choose_labels(
    labels: ArrayLike | None, probabilities: NDArray, n_labels: int
) -> NDArray[np.intp]:
    """Return the numbers of the labels to show, shape (n_samples, n_shown)."""
    if labels is None:
        n_labels = check_number("n_labels", n_labels, 1)
        return np.argsort(-probabilities, axis=1, kind="stable")[:, :n_labels]
    chosen, known = np.asarray(labels), np.arange(probabilities.shape[1])
    if chosen.ndim != 1 or not chosen.size or not np.isin(chosen, known).all():
        raise ValueError(
            f"labels must hold numbers of labels, 0 to {known[-1]}; got {labels!r}."
        )
    return np.tile(chosen.astype(int), (len(probabilities), 1))


def heat_colors() -> ListedColormap:
    """Return a colour map from clear to hot."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    steps = np.linspace(0, 1, 256)
    colors = plt.get_cmap("YlOrRd")(0.15 + 0.85 * steps)
    colors[:, 3] = _OPACITY * np.minimum(1, 2.5 * steps)
    return ListedColormap(colors, name="clear to hot")


# Curves of scores


def read_draws(
    y_true: ArrayLike, y_pred: Mapping[int, Any]
) -> tuple[NDArray, list[NDArray]]:
    """Return the shots, ascending, and for each the predictions of its draws."""
    keys = list(y_pred) if isinstance(y_pred, Mapping) else type(y_pred).__name__
    if not all(isinstance(key, Integral) for key in keys):
        raise TypeError(
            f"y_pred must be a dict with numbers of shots, ints, for keys; got {keys}."
        )
    shape, shots, draws = np.shape(y_true), sorted(y_pred), []
    for n_shots in shots:
        found = np.asarray(plain_labels(y_pred[n_shots], f"y_pred[{n_shots!r}]"))
        found = found[None] if found.ndim == len(shape) else found
        if found.shape[1:] != shape:
            raise ValueError(
                f"y_pred[{n_shots!r}] must be shaped like y_true, {shape}, or hold "
                f"several such predictions; got shape {found.shape}."
            )
        draws.append(found)
    if len({len(found) for found in draws}) > 1:
        counts = dict(zip(shots, map(len, draws), strict=True))
        raise ValueError(
            f"y_pred must hold as many draws for all shots; it holds {counts}."
        )
    return np.array(shots), draws


def check_scores(
    shots: ArrayLike, scores: ArrayLike
) -> tuple[NDArray, NDArray[np.float64]]:
    """Return shots and scores as arrays, in ascending order of the shots."""
    shots, scores = np.asarray(shots), np.asarray(scores, dtype=np.float64)
    is_number = shots.dtype.kind in "iuf"
    if shots.ndim != 1 or not len(shots) or not is_number or not (shots > 0).all():
        raise ValueError(f"shots must be a sequence of positive ints; got {shots!r}.")
    if scores.ndim != 2 or len(scores) != len(shots) or not scores.size:
        raise ValueError(
            "test_scores must have a row of draws for each of the shots, shape "
            f"({len(shots)}, n_draws); got shape {scores.shape}."
        )
    order = np.argsort(shots, kind="stable")
    return shots[order], scores[order]


def name_score(scoring: Any) -> str:
    """Say what a score is called, from what computes it."""
    name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", None)
    if name is None or not name.isidentifier():  # A lambda's is none.
        return "Score"
    name = name.removesuffix("_score").removesuffix("_scorer").replace("_", " ")
    name = f"negative {name[4:]}" if name.startswith("neg ") else name
    return name[:1].upper() + name[1:]
