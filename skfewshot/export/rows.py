"""Classifiers of one embedding an image as ONNX: from unit rows to logits."""

import numpy as np

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
from skfewshot.peers._closed_form import STEEP


def add_rows(graph, classifier):
    """Add what a classifier computes; return the types of inputs and outputs."""
    graph.add_unit("X", "rows")
    LOGITS[type(classifier)](graph, classifier)
    graph.add_softmax(classifier.classes_)
    kind = "string" if graph.arrays["classes"].dtype == object else "int64"
    width, n_classes = classifier.n_features_in_, len(classifier.classes_)
    return (
        f"float[N, {width}] X",
        f"{kind}[N] label, float[N, {n_classes}] probabilities",
    )


def _add_linear(graph, coef, intercept=None, *, logits="logits"):
    """Add ``logits = rows @ coef.T + intercept``."""
    if intercept is None:
        intercept = np.zeros(len(coef))
    graph.add(
        f"{logits} = Gemm<transB = 1>(rows, coef, intercept)",
        coef=coef,
        intercept=intercept,
    )


def _add_kernel(graph, keys, beta, values):
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


def _zero_shot_coef(classifier):
    return classifier.logit_scale_ * classifier.zero_shot_features_


def _add_zero_shot(graph, classifier):
    _add_linear(graph, _zero_shot_coef(classifier))


def _add_prototypes(graph, classifier):
    scale = classifier.logit_scale_
    _add_linear(graph, scale * classifier.text_features_, scale * classifier.intercept_)


def _add_linear_probe(graph, classifier):
    _add_linear(graph, classifier.coef_, classifier.intercept_)


def _add_discriminant(graph, classifier):
    coef = classifier.coef_ + classifier.text_weight_ * _zero_shot_coef(classifier)
    _add_linear(graph, coef, classifier.intercept_)


def _add_cmm(graph, classifier):
    alpha = classifier.alpha_
    scale = classifier.logit_scale_ / classifier.temperature_ / (1 + alpha)
    coef = scale * classifier.zero_shot_features_
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
        prototypes=scale * alpha * classifier.text_features_,
    )


def _add_tip_adapter(graph, classifier):
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


def _add_proker(graph, classifier):
    weight, coef = classifier.text_weight_, _zero_shot_coef(classifier)
    prior = None
    if classifier.prototype_source_ == "image":
        coef, prior = np.zeros_like(coef), weight * classifier.prior_
    _add_linear(graph, weight * coef, prior, logits="fixed")
    graph.add(dual_coef=classifier.dual_coef_)
    _add_kernel(graph, classifier.support_, classifier.beta_, "dual_coef")


#: What adds the `logits` of unit `rows`. Not of subclasses, which may compute others.
LOGITS = {
    CLAPClassifier: _add_prototypes,
    CMMClassifier: _add_cmm,
    GaussianDiscriminantClassifier: _add_discriminant,
    LPPlusPlusClassifier: _add_linear_probe,
    ProKeRClassifier: _add_proker,
    TaskResClassifier: _add_prototypes,
    TipAdapterClassifier: _add_tip_adapter,
    ZeroShotClassifier: _add_zero_shot,
}
