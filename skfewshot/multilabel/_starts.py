"""Where the training of a prior starts: its maps, its calibration, its interaction."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from skfewshot._rows import unit_rows
from skfewshot.multilabel._calibration import (
    ONE_SHOT_SHARE,
    fit_sigmoid,
    score_left_out,
)
from skfewshot.multilabel._episodes import BaseSet
from skfewshot.multilabel._interaction import CrossInteraction, PriorNetwork
from skfewshot.multilabel._prior_state import State, image_maps, map_labels
from skfewshot.multilabel._prototypes import (
    centre_labels,
    label_sums,
    make_pairs,
    text_shares,
)
from skfewshot.multilabel._selection import select
from skfewshot.multilabel._tokens import FeatureMap, Tokens, feature_means

#: Images on which the calibration is started, at most.
_MOST_STARTED = 300
#: Images whose local features decide on which directions they are kept, at most.
_MOST_DECIDING = 2000
# Errors of a mean by which label vectors have to agree with images, as they are.
_LEAST_AGREEMENT = 3.0
#: Penalties of the map of label vectors that are tried with one label left out.
_PENALTIES = np.logspace(-2, 3, 11)
# Where a ReLU of normed numbers starts as good as linear: nearly all are above 0.
_LINEAR_SCALE, _LINEAR_LEVEL = 0.3, 1.0
# Of random starts: how much of torch's is left in what depends on the label.
_DEPENDENCE = 0.1
#: Where the attention starts: how the logit of a feature grows with its cosine to the
#: label's vector.
_ATTENTION_SCALE = 16.0


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


def pass_through(
    network: PriorNetwork, base: BaseSet, labels: NDArray, images: NDArray
) -> None:
    """Start the paper's network as a passage for the mean of the selected features.

    Where it starts is not published. From random numbers the interaction learns which
    prototype belongs to the vector of a base label, and no longer looks at the images,
    before the maps are of use to labels that it has not seen. Here maps start with
    centred features in a basis without a mean, which layer norms leave as they are;
    the kernels as the main directions of these, the same for all labels; the attention
    as a softmax of cosines; and the MLP as nothing.

    Parameters
    ----------
    network : PriorNetwork
        Not residual; changed in place.
    base : BaseSet
    labels, images : ndarray of int
        Those to learn from.
    """
    token_width, width = network.part_map.shape
    maps = start_maps(base, labels, images, min(width, token_width))
    basis = _without_mean(maps["part_map"].shape[1], width)
    part_map, label_map = maps["part_map"] @ basis, maps["label_map"] @ basis
    tokens = base.support.tokens[images[:: 1 + len(images) // _MOST_DECIDING]]
    part_mean, whole_mean = feature_means(tokens, np.ones(len(tokens)))
    mapped = unit_rows((tokens.parts[tokens.present] - part_mean) @ part_map)
    found = {
        "part_map": part_map,
        "part_bias": -part_mean @ part_map,
        "whole_map": part_map,
        "whole_bias": -whole_mean @ part_map,
        "label_map": label_map,
        "label_bias": -base.vectors[labels].mean(axis=0) @ label_map,
    }
    with torch.no_grad():
        for name, value in found.items():
            getattr(network, name).copy_(torch.from_numpy(value))
        if network.interaction is not None:
            _pass_features(network.interaction, mapped)


def _without_mean(n_rows: int, width: int) -> NDArray:
    """Return orthonormal rows whose entries add up to 0, as far as there are so many.

    Of as many rows as columns the mean is left out.
    """
    if n_rows >= width:
        return np.eye(n_rows, width) - 1 / width
    drawn = np.random.default_rng(0).normal(size=(width, n_rows))
    return np.linalg.qr(drawn - drawn.mean(axis=0))[0].T


def _pass_features(interaction: CrossInteraction, features: NDArray) -> None:
    """Start an interaction as the mean of features, of which some are given."""
    width = features.shape[1]
    if "convolution" in interaction.steps:
        n_hidden = len(interaction.norm_in.weight)
        rank = min(n_hidden, width) - 1
        squares = features.T.astype(np.float64) @ features
        main = np.linalg.eigh(squares)[1][:, -rank:]
        hidden = _without_mean(rank, n_hidden)
        kernels = np.sqrt(width) * main @ hidden, (main @ hidden).T
        layers = interaction.kernel_in, interaction.kernel_out
        for layer, kernel in zip(layers, kernels, strict=True):
            layer.weight.mul_(_DEPENDENCE)
            layer.bias.copy_(torch.from_numpy(kernel.ravel()))
        for norm in (interaction.norm_in, interaction.norm_out):
            norm.weight.fill_(_LINEAR_SCALE)
            norm.bias.fill_(_LINEAR_LEVEL)
    if "attention" in interaction.steps:
        attention = interaction.attention
        # The logit of a head is that of its share of the cosine, times the scale.
        length = _LINEAR_SCALE if "convolution" in interaction.steps else width**-0.5
        n_heads = attention.num_heads
        wanted = _ATTENTION_SCALE / (length * (width / n_heads) ** 0.5)
        attention.in_proj_weight.copy_(torch.eye(width).repeat(3, 1))
        attention.in_proj_weight[: 2 * width].mul_(wanted**0.5)
        attention.out_proj.weight.copy_(torch.eye(width))
        attention.in_proj_bias.zero_()
        attention.out_proj.bias.zero_()
    for parameter in interaction.mlp[-1].parameters():
        parameter.zero_()
