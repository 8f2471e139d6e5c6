"""From a support to what scores images: prototypes, discriminants, calibration."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfewshot.multilabel._calibration import (
    ONE_SHOT_SHARE,
    Calibration,
    calibrate,
    choose_global_share,
    choose_share,
    score_left_out,
    spread_ratio,
)
from skfewshot.multilabel._discriminant import Discriminant, fit_discriminant
from skfewshot.multilabel._prototypes import (
    Pairs,
    label_sums,
    make_pairs,
    mix,
    text_shares,
)
from skfewshot.multilabel._scoring import Scorer, blend
from skfewshot.multilabel._selection import Selection, select
from skfewshot.multilabel._sharpening import Sharpened, Taught, sharpen
from skfewshot.multilabel._tokens import FeatureMap, Support


class Global(NamedTuple):
    """What the global feature says of the labels, and how far that counts.

    Attributes
    ----------
    discriminant : Discriminant or None
    text_scale : float
        Of the texts in it; 0 without text.
    share : float
        Of its score beside that of local features, from 0 to 1.
    """

    discriminant: Discriminant | None = None
    text_scale: float = 0.0
    share: float = 0.0


class Solution(NamedTuple):
    """What predictions need.

    Attributes
    ----------
    selection : Selection
        Of the images of which something is known.
    prototypes : ndarray of shape (L, d)
    text_weight : float
        The text's mean share in the prototypes of labels with images.
    scorer : Scorer
        How images fit prototypes.
    of_whole : Global
    calibration : Calibration
    thresholds : ndarray of shape (L,)
        NaN with one label an image.
    is_sharpened : bool
        Whether unknown entries have a part in the prototypes.
    """

    selection: Selection
    prototypes: NDArray
    text_weight: float
    scorer: Scorer
    of_whole: Global
    calibration: Calibration
    thresholds: NDArray
    is_sharpened: bool


def solve(
    images: Support,
    feature_map: FeatureMap,
    text: NDArray,
    settings: dict[str, Any],
    *,
    has_text: bool,
    is_multilabel: bool,
    thresholds: NDArray | None,
    encode: Callable[..., NDArray] | None = None,
    expected_shares: Callable[[NDArray], NDArray] | None = None,
) -> Solution:
    """Find what scores images.

    Parameters
    ----------
    images : Support
        Not mapped.
    feature_map : FeatureMap
    text : ndarray of shape (L, d)
        The mapped label vectors, unit rows.
    settings : dict
        As :func:`~skfewshot.multilabel._prior_state.settings` gives them.
    has_text : bool
        False where means of images stand in for texts.
    is_multilabel : bool
        False with one label an image.
    thresholds : ndarray of shape (L,) or None
        None finds them.
    encode : callable, default=None
        See :func:`~skfewshot.multilabel._prototypes.make_pairs`.
    expected_shares : callable, default=None
        What a prior knows of the text's shares, by the numbers of images.

    Returns
    -------
    Solution
    """
    known, _ = images.with_known(np.arange(len(images.weight)))
    options = settings["selection"], settings["n_select"], settings["scale"]
    selection = select(known, feature_map, text, *options)

    def pairs_of(support: Support, selection: Selection) -> Pairs:
        given = text, settings["scale"], settings["pooling"], encode
        return make_pairs(support, selection, *given)

    support = known.mapped(feature_map)
    taught = _teach(
        *(support, pairs_of(support, selection), text, settings, expected_shares),
        has_text=has_text,
        is_multilabel=is_multilabel,
        pairs_of=pairs_of,
    )
    of_whole, left_out = Global(), taught.left_out
    if settings["query_scoring"] == "combined":
        of_whole, left_out = _learn_global(taught, settings["text_weight"])
    sharpened = None
    if images.known is not None and taught.scorer.scoring == "competitive":
        sharpened = sharpen(taught, images.mapped(feature_map))
    _, counts = label_sums(taught.pairs, len(text))
    share = taught.share if sharpened is None else sharpened.share
    shares = text_shares(share, counts, has_text)
    if sharpened is None:
        prototypes = mix(taught.pairs, text, shares)
    else:
        prototypes = sharpened.prototypes
        support, left_out = _left_out_with(sharpened, taught, left_out, of_whole.share)
    calibration, thresholds = calibrate(left_out, support, is_multilabel, thresholds)
    return Solution(
        selection=selection,
        prototypes=prototypes,
        text_weight=float(shares[counts > 0].mean()),
        scorer=taught.scorer,
        of_whole=of_whole,
        calibration=calibration,
        thresholds=thresholds,
        is_sharpened=sharpened is not None,
    )


def _teach(
    support: Support,
    pairs: Pairs,
    text: NDArray,
    settings: dict[str, Any],
    expected_shares: Callable[[NDArray], NDArray] | None,
    *,
    has_text: bool,
    is_multilabel: bool,
    pairs_of: Callable[[Support, Selection], Pairs],
) -> Taught:
    """Learn from known entries how local features are scored."""
    scorer, share = _first_scorer(settings, support), 0.0
    if has_text:
        given = support, pairs, text, scorer, expected_shares
        share = _text_share(settings["text_weight"], *given)
    local: Any = None
    # An only local feature is the global one, which the discriminants know better.
    is_combined = settings["query_scoring"] == "combined"
    if not is_combined or support.tokens.parts.shape[1] > 1:
        _, counts = label_sums(pairs, len(text))
        shares = text_shares(share, counts, has_text)
        scorer, local = score_left_out(support, pairs, text, shares, scorer)
    return Taught(
        support=support,
        pairs=pairs,
        text=text,
        has_text=has_text,
        share=share,
        has_choice=isinstance(settings["text_weight"], str),
        scorer=scorer,
        left_out=local,
        is_multilabel=is_multilabel,
        make_pairs=pairs_of,
    )


def _first_scorer(settings: dict[str, Any], support: Support) -> Scorer:
    """Return what scores images before the background is known."""
    scoring = settings["query_scoring"]
    if scoring in ("competitive", "combined"):
        # All labels of an image would have to share its only local feature.
        is_alone = support.tokens.parts.shape[1] == 1
        scoring = "local" if is_alone else "competitive"
    return Scorer(settings["scale"], scoring, settings["n_select"])


def _text_share(
    given: float | str,
    support: Support,
    pairs: Pairs,
    text: NDArray,
    scorer: Scorer,
    expected_shares: Callable[[NDArray], NDArray] | None,
) -> float:
    """Return the text's share in the prototype of a label with the mean count."""
    if not isinstance(given, str):
        return float(given)
    expected = ONE_SHOT_SHARE
    if expected_shares is not None:
        _, counts = label_sums(pairs, len(text))
        mean_count = counts[counts > 0].mean(keepdims=True)
        expected = float(expected_shares(mean_count)[0])
    return choose_share(support, pairs, text, scorer, expected)


def _learn_global(taught: Taught, share: float | str) -> tuple[Global, NDArray]:
    """Find what the global feature says, and how far it counts beside local ones.

    Returns
    -------
    of_whole : Global
    scores : ndarray of shape (N, L)
        Of left-out images, by both.
    """
    support, local = taught.support, taught.left_out
    found, scores, text_scale = fit_discriminant(
        support.tokens.whole,
        support.expected,
        support.weight,
        taught.text if taught.has_text else None,
        None if isinstance(share, str) else float(share),
    )
    if local is None:
        return Global(found, text_scale, 1.0), scores
    factor = spread_ratio(local, scores, support.entry_weight)
    found, scores = found.times(factor), scores.dtype.type(factor) * scores
    of_whole = choose_global_share(
        local, scores, support, taught.is_multilabel, taught.has_text
    )
    return Global(found, text_scale, of_whole), blend(local, scores, of_whole)


def _left_out_with(
    sharpened: Sharpened, taught: Taught, left_out: NDArray, share: float
) -> tuple[Support, NDArray]:
    """Return the images that are judged, and their scores, of unknown entries too."""
    if sharpened.left_out is None:
        return taught.support, left_out
    of_local = left_out.dtype.type(1 - share)
    scores = left_out + of_local * (sharpened.left_out - taught.left_out)
    return sharpened.judged, scores
