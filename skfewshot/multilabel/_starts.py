"""Where the training of a residual prior starts: its maps, and its calibration."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from skfewshot._rows import unit_rows
from skfewshot.multilabel._calibration import (
    ONE_SHOT_SHARE,
    fit_sigmoid,
    score_left_out,
)
from skfewshot.multilabel._episodes import BaseSet
from skfewshot.multilabel._prior_state import State, image_maps, map_labels
from skfewshot.multilabel._prototypes import (
    centre_labels,
    label_sums,
    make_pairs,
    text_shares,
)
from skfewshot.multilabel._selection import select
from skfewshot.multilabel._tokens import FeatureMap, Tokens

#: Images on which the calibration is started, at most.
_MOST_STARTED = 300
#: Images whose local features decide on which directions they are kept, at most.
_MOST_DECIDING = 2000
# Errors of a mean by which label vectors have to agree with images, as they are.
_LEAST_AGREEMENT = 3.0
#: Penalties of the map of label vectors that are tried with one label left out.
_PENALTIES = np.logspace(-2, 3, 11)


def start_maps(base: BaseSet, labels: NDArray, images: NDArray, width: int) -> State:
    """Return where the maps start, from the labels and images to learn from.

    Image features start at the identity or, if they are to be narrower, at their
    principal components. Label vectors start at the identity if they are as wide as
    that and agree with the images of their labels; otherwise at the map that is fitted
    to the means of these by least squares, with a penalty that is chosen by labels left
    out.

    Parameters
    ----------
    base : BaseSet
    labels, images : ndarray of int
    width : int
        That of the mapped features.

    Returns
    -------
    dict of str to ndarray
        The matrices by their names in a network.
    """
    token_width = base.support.tokens.whole.shape[1]
    part_map = np.eye(token_width, width)
    if width < token_width:
        some = images[:: 1 + len(images) // _MOST_DECIDING]
        part_map = _main_directions(base.support.tokens[some], width)
    centred = centre_labels(base.vectors[labels])
    features = base.support.tokens.mean_parts()[images] @ part_map
    targets = _label_means(features, base.truth(images, labels))
    label_map = np.eye(centred.shape[1], width)
    cosines = (unit_rows(centred @ label_map) * targets).sum(axis=1)
    error = cosines.std() / np.sqrt(len(cosines))
    if len(label_map) != width or cosines.mean() < _LEAST_AGREEMENT * error:
        ridge = RidgeCV(_PENALTIES, fit_intercept=False).fit(centred, targets)
        label_map = ridge.coef_.T
        # As long as the identity leaves them, for what the penalty of change is.
        reached = np.linalg.norm(centred @ label_map, axis=1).mean()
        label_map = label_map * np.linalg.norm(centred, axis=1).mean() / reached
    return {"part_map": part_map, "label_map": label_map}


def _main_directions(tokens: Tokens, width: int) -> NDArray:
    """Return the principal components of local features, shape (token_width, width)."""
    parts = tokens.parts[tokens.present].astype(np.float64)
    _, directions = np.linalg.eigh(np.cov(parts.T))
    return np.ascontiguousarray(directions[:, : -width - 1 : -1])


def _label_means(features: NDArray, shown: NDArray) -> NDArray:
    """Return what each label adds to the features of an image, unit rows.

    Found for all labels at once, as an image shows several.
    """
    shown = shown - shown.mean(axis=0)
    squares = shown.T @ shown + np.eye(shown.shape[1])
    return unit_rows(np.linalg.solve(squares, shown.T @ features))


def start_calibration(
    base: BaseSet, maps: State, rng: np.random.Generator
) -> tuple[float, ...]:
    """Return where slope, bias, background and log sharpness start.

    From scores of images that are left out, of some of the base set.
    """
    rows = np.sort(rng.permutation(len(base.support.weight))[:_MOST_STARTED])
    width = maps["part_map"].shape[1]
    zeros = dict.fromkeys(("part_bias", "whole_bias", "label_bias"), np.zeros(width))
    state = {**maps, **zeros, "whole_map": np.zeros_like(maps["part_map"])}
    feature_map = FeatureMap(
        base.means.part_mean,
        base.means.whole_mean,
        **image_maps(state, True, base.vectors.dtype),
    )
    support, psi = base.support[rows], map_labels(state, centre_labels(base.vectors))
    scale, n_select = base.scorer.scale, base.scorer.n_top
    selection = select(support, feature_map, psi, base.selection, n_select, scale)
    mapped = support.mapped(feature_map)
    pairs = make_pairs(mapped, selection, psi, scale)
    shares = text_shares(ONE_SHOT_SHARE, label_sums(pairs, len(psi))[1], True)
    scorer, left_out = score_left_out(mapped, pairs, psi, shares, base.scorer)
    fitted = fit_sigmoid(left_out, support.indicator, support.weight)
    sharpness = float(np.log(scorer.sharpness))
    return fitted.slope, float(fitted.bias[0]), scorer.background, sharpness
