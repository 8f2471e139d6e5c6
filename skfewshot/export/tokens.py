"""The classifier of several labels an image as ONNX: from tokens to log odds."""

import numpy as np

from skfewshot.multilabel._scoring import SQUARED_DISTANCE_FLOOR


def add_tokens(graph, classifier):
    """Add what the classifier computes; return the types of inputs and outputs."""
    scoring = classifier._query_scoring
    is_many, n_labels = classifier._is_multilabel, len(classifier.classes_)
    shape = _add_reading(graph, classifier)
    _add_feature_map(graph, classifier)
    graph.add(
        scale=np.float32(classifier.scale_),
        two=np.float32(2),
        floor=np.float32(SQUARED_DISTANCE_FLOOR),
        prototypes=classifier.prototypes_.T,
    )
    if scoring in ("global", "both"):
        _add_distance_logits(graph, "whole")
        graph.add("whole_score = Squeeze(whole_logits, second)")
    if scoring != "global":
        _add_distance_logits(graph, "parts")
        evidence = "parts_logits"
        if scoring == "competitive":
            _add_competition(graph, classifier, n_labels)
            evidence = "evidence"
        _add_pooling(graph, evidence, classifier._n_pooled)
    score = {
        "global": "score = Identity(whole_score)",
        "both": "both = Add(whole_score, local_score)\nscore = Div(both, two)",
    }
    graph.add(
        score.get(scoring, "score = Identity(local_score)"),
        # What is not a number in X is not one in the outputs: sorting might hide it.
        "total = ReduceSum<keepdims = 0>(units, token_axes)",
        "nothing = Mul(total, zero)",
        "nothings = Unsqueeze(nothing, last)",
        "checked = Add(score, nothings)",
        "steep = Mul(checked, slope)",
        "logits = Add(steep, biases)",
        token_axes=np.array([1, 2]),
        slope=np.float32(classifier.slope_),
        biases=classifier.biases_,
    )
    kind = "int64"
    if is_many:
        _add_thresholds(graph, classifier)
    else:
        graph.add_softmax(classifier.classes_)
        if graph.arrays["classes"].dtype == object:
            kind = "string"
    labels = f"{kind}[N, {n_labels}]" if is_many else f"{kind}[N]"
    return f"float{shape} X", f"{labels} label, float[N, {n_labels}] probabilities"


def _add_reading(graph, classifier):
    """Add unit tokens and which are absent; return the shape of X."""
    width = classifier.prototypes_.shape[1]
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


def _add_feature_map(graph, classifier):
    """Add the mapped tokens, ``norm((x - mean) W + b)``."""
    feature_map = classifier._feature_map()
    for kind in ("whole", "parts"):
        linear = kind
        if feature_map.matrix is not None:
            linear = f"{kind}_linear"
            graph.add(f"{linear} = MatMul({kind}, matrix)", matrix=feature_map.matrix)
        mean = feature_map.whole_mean if kind == "whole" else feature_map.part_mean
        graph.add(
            f"{kind}_shifted = Add({linear}, {kind}_shift)",
            **{f"{kind}_shift": feature_map.intercept(mean)},
        )
        graph.add_unit(f"{kind}_shifted", f"{kind}_mapped")


def _add_distance_logits(graph, kind):
    """Add ``s (1 - distance)`` of tokens and prototypes."""
    graph.add(
        f"{kind}_cosine = MatMul({kind}_mapped, prototypes)",
        f"{kind}_double = Mul({kind}_cosine, two)",
        f"{kind}_square = Sub(two, {kind}_double)",
        f"{kind}_floored = Max({kind}_square, floor)",
        f"{kind}_distance = Sqrt({kind}_floored)",
        f"{kind}_nearness = Sub(one, {kind}_distance)",
        f"{kind}_logits = Mul({kind}_nearness, scale)",
    )


def _add_competition(graph, classifier, n_labels):
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
        "higher = Max(rivals, level)",
        "rivals_below = Sub(rivals, higher)",
        "rivals_odds = Exp(rivals_below)",
        "level_below = Sub(level, higher)",
        "level_odds = Exp(level_below)",
        "against_odds = Add(rivals_odds, level_odds)",
        "against_log = Log(against_odds)",
        "against = Add(against_log, higher)",
        "evidence = Sub(sharp, against)",
        sharpness=np.float32(classifier.sharpness_),
        level=np.float32(classifier.sharpness_ * classifier.background_),
        n_labels=np.array(n_labels),
        off_on=np.array([0.0, 1.0]),
        lowest=np.float32(-np.inf),
    )


def _add_pooling(graph, evidence, n_pooled):
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
        lowest=np.float32(-np.inf),
    )


def _add_thresholds(graph, classifier):
    """Add probabilities, and the labels whose probability reaches its threshold."""
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
