"""What each family of classifiers computes, as nodes of an ONNX graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.export._graph import Graph
from skfewshot.multilabel._scoring import SQUARED_DISTANCE_FLOOR
from skfewshot.peers._closed_form import STEEP


def add_rows(graph: Graph, classifier: Any) -> tuple[str, str]:
    """Add what a classifier computes; return the types of inputs and outputs."""
    graph.add_unit("X", "rows")
    LOGITS[type(classifier)](graph, classifier)
    outputs = graph.add_softmax(classifier.classes_)
    return f"float[N, {classifier.n_features_in_}] X", outputs


def _add_linear(
    graph: Graph,
    coef: NDArray[Any],
    intercept: ArrayLike = 0.0,
    *,
    logits: str = "logits",
) -> None:
    """Add ``logits = rows @ coef.T + intercept``."""
    node = f"{logits} = Gemm<transB = 1>(rows, coef, intercept)"
    graph.add(node, coef=coef, intercept=intercept)


def _add_kernel(graph: Graph, keys: NDArray[Any], beta: float, values: str) -> None:
    """Add ``logits = fixed + exp(-beta (1 - rows @ keys.T)) @ values``."""
    # What `exponential_kernel` does.
    cut = "Min(exponents, one)" if beta > STEEP else "Identity(exponents)"
    graph.add(
        "key_cosines = Gemm<transB = 1>(rows, keys)",
        "distances = Sub(key_cosines, one)",
        "exponents = Mul(distances, beta)",
        f"cut_exponents = {cut}",
        "kernel = Exp(cut_exponents)",
        f"learned = MatMul(kernel, {values})",
        "logits = Add(fixed, learned)",
        keys=keys,
        beta=np.float32(beta),
    )


def _zero_shot_coef(classifier: Any) -> NDArray[Any]:
    return classifier.logit_scale_ * classifier.text_features_


def _add_zero_shot(graph: Graph, classifier: Any) -> None:
    coef, intercept = _zero_shot_coef(classifier), np.float32(0)
    if classifier.coef_ is not None:
        coef, intercept = coef + classifier.coef_, classifier.intercept_
    _add_linear(graph, coef, intercept)


def _add_prototypes(graph: Graph, classifier: Any) -> None:
    scale = classifier.logit_scale_
    _add_linear(graph, scale * classifier.prototypes_, scale * classifier.intercept_)


def _add_linear_probe(graph: Graph, classifier: Any) -> None:
    _add_linear(graph, classifier.coef_, classifier.intercept_)


def _add_discriminant(graph: Graph, classifier: Any) -> None:
    coef = classifier.coef_ + classifier.text_weight_ * _zero_shot_coef(classifier)
    _add_linear(graph, coef, classifier.intercept_)


def _add_cmm(graph: Graph, classifier: Any) -> None:
    alpha = classifier.alpha_
    scale = classifier.logit_scale_ / classifier.temperature_ / (1 + alpha)
    coef = scale * classifier.frozen_prototypes_
    _add_linear(graph, coef, classifier.intercept_, logits="fixed")
    graph.add(
        "moved = Gemm(rows, map, map_intercept)",
        map=classifier.map_,
        map_intercept=classifier.map_intercept_,
    )
    graph.add_unit("moved", "mapped")
    graph.add(
        "learned = Gemm<transB = 1>(mapped, prototypes)",
        "logits = Add(fixed, learned)",
        prototypes=scale * alpha * classifier.prototypes_,
    )


def _add_tip_adapter(graph: Graph, classifier: Any) -> None:
    _add_linear(graph, _zero_shot_coef(classifier), logits="fixed")
    weights = classifier.alpha * classifier.key_weights_
    # In the file one label a key, not a row of zeros and a one for each.
    graph.add(
        "key_classes = OneHot<axis = -1>(key_labels, n_classes, off_on)",
        "key_values = Mul(key_classes, key_weights)",
        key_labels=classifier.key_labels_,
        n_classes=np.array(len(classifier.classes_)),
        off_on=np.array([0.0, 1.0]),
        key_weights=weights[:, None],
    )
    _add_kernel(graph, classifier.keys_, classifier.beta, "key_values")


def _add_proker(graph: Graph, classifier: Any) -> None:
    weight, coef = classifier.text_weight_, _zero_shot_coef(classifier)
    prior: ArrayLike = 0.0
    if classifier.prototype_source_ == "image":
        coef, prior = np.zeros_like(coef), weight * classifier.prior_
    _add_linear(graph, weight * coef, prior, logits="fixed")
    graph.add(dual_coef=classifier.dual_coef_)
    _add_kernel(graph, classifier.support_, classifier.beta_, "dual_coef")


#: What adds the `logits` of unit `rows`. Not of subclasses, which may compute others.
LOGITS: dict[type, Callable[[Graph, Any], None]] = {
    CLAPClassifier: _add_prototypes,
    CMMClassifier: _add_cmm,
    GaussianDiscriminantClassifier: _add_discriminant,
    LPPlusPlusClassifier: _add_linear_probe,
    ProKeRClassifier: _add_proker,
    TaskResClassifier: _add_prototypes,
    TipAdapterClassifier: _add_tip_adapter,
    ZeroShotClassifier: _add_zero_shot,
}


def add_tokens(graph: Graph, classifier: Any) -> tuple[str, str]:
    """Add what the classifier computes; return the types of inputs and outputs."""
    scoring = classifier._query_scoring
    shape = _add_reading(graph, classifier)
    _add_feature_map(graph, classifier)
    graph.add(
        scale=np.float32(classifier.scale_),
        two=np.float32(2),
        floor=np.float32(SQUARED_DISTANCE_FLOOR),
        twice_prototypes=2 * classifier.prototypes_.T,
    )
    if scoring in ("global", "both"):
        _add_distance_logits(graph, "whole")
        graph.add("whole_score = Squeeze(whole_logits, second)")
    if scoring != "global":
        _add_distance_logits(graph, "parts")
        evidence = "parts_logits"
        if scoring == "competitive":
            _add_competition(graph, classifier)
            evidence = "evidence"
        _add_pooling(graph, evidence, classifier._n_pooled)
    whole = "whole_score" if scoring in ("global", "both") else "local_score"
    local = "whole_score" if scoring == "global" else "local_score"
    graph.add(f"nearness = Mean({whole}, {local})")
    score = "nearness" if classifier.coef_ is None else _add_blend(graph, classifier)
    graph.add(
        # What is not a number in X is not one in the outputs: sorting might hide it.
        "total = ReduceSum<keepdims = 0>(units, token_axes)",
        "nothing = Mul(total, zero)",
        "nothings = Unsqueeze(nothing, last)",
        f"checked = Add({score}, nothings)",
        "steep = Mul(checked, slope)",
        "logits = Add(steep, biases)",
        token_axes=np.array([1, 2]),
        slope=np.float32(classifier.slope_),
        biases=classifier.biases_,
    )
    if classifier._is_multilabel:
        outputs = _add_thresholds(graph, classifier)
    else:
        outputs = graph.add_softmax(classifier.classes_)
    return f"float{shape} X", outputs


def _add_blend(graph: Graph, classifier: Any) -> str:
    """Add the mean of the local score and the discriminants; return its name."""
    share = classifier.global_share_
    graph.add(
        "whole_linear_score = MatMul(whole_mapped, coef)",
        "whole_scores = Add(whole_linear_score, intercept)",
        "whole_discriminant = Squeeze(whole_scores, second)",
        "of_whole = Mul(whole_discriminant, global_share)",
        "of_parts = Mul(nearness, local_share)",
        "score = Add(of_whole, of_parts)",
        coef=classifier.coef_.T,
        intercept=classifier.intercept_,
        global_share=np.float32(share),
        local_share=np.float32(1 - share),
    )
    return "score"


def _add_reading(graph: Graph, classifier: Any) -> str:
    """Add unit tokens and which are absent; return the shape of X."""
    width = len(classifier.part_mean_)
    shape, tokens = f"[N, T, {width}]", "X"
    if classifier._token_dims == 2:
        shape, tokens = f"[N, {classifier.n_features_in_}]", "tokens"
        n_tokens = classifier.n_features_in_ // width
        graph.add(
            "tokens = Reshape(X, token_shape)",
            token_shape=np.array([-1, n_tokens, width]),
        )
    graph.add(
        f"missing = IsNaN({tokens})",
        "missing_numbers = Cast<to = 1>(missing)",
        "absent_numbers = ReduceMin<keepdims = 1>(missing_numbers, last)",
        "absent = Greater(absent_numbers, zero)",
        f"filled = Where(absent, zero, {tokens})",
    )
    graph.add_unit("filled", "units")
    graph.add(
        # The local tokens come after the global one, unless that is the only one.
        f"n_tokens = Shape<start = 1, end = 2>({tokens})",
        "n_after = Sub(n_tokens, second)",
        "start = Min(n_after, second)",
        "parts = Slice(units, start, n_tokens, second)",
        "parts_absent_numbers = Slice(absent_numbers, start, n_tokens, second)",
        "present_numbers = Sub(one, parts_absent_numbers)",
        "present = Greater(present_numbers, zero)",
        "n_present = ReduceSum<keepdims = 1>(present_numbers, second)",
        "parts_sum = ReduceSum<keepdims = 1>(parts, second)",
        "parts_mean = Div(parts_sum, n_present)",
    )
    graph.add_unit("parts_mean", "mean_unit")
    graph.add(
        "whole_given = Slice(units, first, second, second)",
        "whole_absent = Slice(absent_numbers, first, second, second)",
        "whole_is_absent = Greater(whole_absent, zero)",
        "whole = Where(whole_is_absent, mean_unit, whole_given)",
    )
    return shape


def _add_feature_map(graph: Graph, classifier: Any) -> None:
    """Add the mapped tokens, ``norm((x - mean) W + b)``."""
    feature_map = classifier._feature_map()
    for kind, mapped in (
        ("whole", feature_map.of_whole),
        ("parts", feature_map.of_parts),
    ):
        linear = kind
        if mapped.matrix is not None:
            linear = f"{kind}_linear"
            matrix = {f"{kind}_matrix": mapped.matrix}
            graph.add(f"{linear} = MatMul({kind}, {kind}_matrix)", **matrix)
        shift = {f"{kind}_shift": mapped.shift}
        graph.add(f"{kind}_shifted = Add({linear}, {kind}_shift)", **shift)
        graph.add_unit(f"{kind}_shifted", f"{kind}_mapped")


def _add_distance_logits(graph: Graph, kind: str) -> None:
    """Add ``s (1 - distance)`` of tokens and prototypes."""
    graph.add(
        f"{kind}_double = MatMul({kind}_mapped, twice_prototypes)",
        f"{kind}_square = Sub(two, {kind}_double)",
        f"{kind}_floored = Max({kind}_square, floor)",
        f"{kind}_distance = Sqrt({kind}_floored)",
        f"{kind}_nearness = Sub(one, {kind}_distance)",
        f"{kind}_logits = Mul({kind}_nearness, scale)",
    )


def _add_competition(graph: Graph, classifier: Any) -> None:
    """Add the log odds of each label against the others and the background."""
    graph.add(
        "sharp = Mul(parts_logits, sharpness)",
        "top = ReduceMax<keepdims = 1>(sharp, last)",
        "leader = ArgMax<axis = -1, keepdims = 0>(sharp)",
        "leads = OneHot<axis = -1>(leader, n_labels, off_on)",
        "is_leader = Greater(leads, zero)",
        # The others of a label that is not the best, by a difference; of the best, by
        # a sum without it: a difference may leave nothing of it.
        "below = Sub(sharp, top)",
        "odds = Exp(below)",
        "all_odds = ReduceSum<keepdims = 1>(odds, last)",
        "other_odds = Sub(all_odds, odds)",
        "some_odds = Max(other_odds, tiny)",
        "log_odds = Log(some_odds)",
        "of_others = Add(log_odds, top)",
        "without = Where(is_leader, lowest, sharp)",
        "of_leader = ReduceLogSumExp<keepdims = 1>(without, last)",
        "rivals = Where(is_leader, of_leader, of_others)",
        "rivals_above = Sub(rivals, level)",
        "soft = Softplus(rivals_above)",
        "against = Add(soft, level)",
        "evidence = Sub(sharp, against)",
        sharpness=np.float32(classifier.sharpness_),
        level=np.float32(classifier.sharpness_ * classifier.background_),
        n_labels=np.array(len(classifier.classes_)),
        off_on=np.array([0.0, 1.0]),
    )


def _add_pooling(graph: Graph, evidence: str, n_pooled: int) -> None:
    """Add the mean over the best patches of each label."""
    graph.add(
        f"shown = Where(present, {evidence}, lowest)",
        "n_parts = Shape<start = 1, end = 2>(shown)",
        "n_top = Min(n_parts, n_pooled)",
        "largest, largest_index = TopK<axis = 1>(shown, n_top)",
        "is_found = Greater(largest, lowest)",
        "found_numbers = Cast<to = 1>(is_found)",
        "found = Where(is_found, largest, zero)",
        "found_sum = ReduceSum<keepdims = 0>(found, second)",
        "n_found = ReduceSum<keepdims = 0>(found_numbers, second)",
        "local_score = Div(found_sum, n_found)",
        n_pooled=np.array([n_pooled]),
    )


def _add_thresholds(graph: Graph, classifier: Any) -> str:
    """Add probabilities, and labels that reach their threshold; return the outputs."""
    thresholds = classifier.thresholds_.astype(np.float32)
    # The least single-precision number that reaches it.
    below = thresholds < classifier.thresholds_
    thresholds[below] = np.nextafter(thresholds[below], np.float32(np.inf))
    graph.add(
        "likely = Sigmoid(logits)",
        "above = Max(likely, tiny)",
        "probabilities = Min(above, highest)",
        "reached = GreaterOrEqual(probabilities, thresholds)",
        "label = Cast<to = 7>(reached)",
        highest=1 - np.finfo(np.float32).epsneg,
        thresholds=thresholds,
    )
    n_labels = len(thresholds)
    return f"int64[N, {n_labels}] label, float[N, {n_labels}] probabilities"
