"""The trained peers: parity with slow transcriptions, invariants, and what fit says."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor

from skfewshot import (
    CLAPClassifier,
    LPPlusPlusClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
)

WEIGHT = np.tile([1.0, 2.0, 0.5], 6)
TIP_F = {"train_keys": True, "random_state": 0}


def cosine_steps(first, n_steps):
    return [first * (1 + np.cos(np.pi * t / n_steps)) / 2 for t in range(n_steps)]


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def adam(value, gradient_of, steps, *, eps, decay=0.0):
    """Adam with decoupled weight decay, written out."""
    m, v = np.zeros_like(value), np.zeros_like(value)
    for t, step in enumerate(steps, 1):
        gradient = gradient_of(value)
        value = value * (1 - step * decay)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        corrected = m / (1 - 0.9**t)
        value = value - step * corrected / (np.sqrt(v / (1 - 0.999**t)) + eps)
    return value


def by_differences(loss, value, h=1e-6):
    """The gradient of a loss, one number at a time."""
    gradient = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (loss(up) - loss(down)) / (2 * h)
    return gradient


def mean_entropy(logits, y, weight):
    p = softmax(logits)[np.arange(len(y)), y]
    return -(weight * np.log(p)).sum() / weight.sum()


def cosine_logits(X, prototypes, scale):
    return scale * X @ (prototypes / np.linalg.norm(prototypes, axis=1)[:, None]).T


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_tip_adapter_f_by_its_equations(task, weight):
    X, y, text, queries = task
    settings = {"alpha": 0.7, "beta": 3.0, "logit_scale": 8.0, "max_iter": 4}
    model = TipAdapterClassifier(text, **TIP_F, **settings, learning_rate=0.01)
    model.fit(X, y, sample_weight=weight)

    def logits(rows, keys):
        cache = np.exp(-3 * (1 - rows @ keys.T)) @ (np.eye(4)[y] * weight[:, None])
        return 8 * rows @ text.T + 0.7 * cache

    keys = adam(
        X,
        lambda k: by_differences(
            lambda value: mean_entropy(logits(X, value), y, weight), k
        ),
        cosine_steps(0.01, 4),
        eps=1e-4,
        decay=0.01,
    )
    assert_allclose(model.decision_function(queries), logits(queries, keys), rtol=1e-5)
    assert len(model.loss_curve_) == model.n_iter_ == 4
    assert model.loss_curve_[0] == pytest.approx(mean_entropy(logits(X, X), y, weight))


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_taskres_by_its_equations(task, weight):
    X, y, text, queries = task
    model = TaskResClassifier(text, logit_scale=8.0, max_iter=5, learning_rate=0.05)
    model.fit(X, y, sample_weight=weight)

    def loss(residual):
        return mean_entropy(cosine_logits(X, text + 0.5 * residual, 8), y, weight)

    residual = adam(
        np.zeros_like(text),
        lambda r: by_differences(loss, r),
        cosine_steps(0.05, 5),
        eps=1e-8,
    )
    expected = cosine_logits(queries, text + 0.5 * residual, 8)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-4)
    assert_array_equal(model.intercept_, 0)


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_clap_by_its_equations(task, weight):
    X, y, text, queries = task
    model = CLAPClassifier(text, logit_scale=8.0, max_iter=30, learning_rate=0.05)
    model.fit(X, y, sample_weight=weight)
    probability = softmax(8 * X @ text.T)[np.arange(18), y]
    trust = [np.average(probability[y == c], weights=weight[y == c]) for c in range(4)]

    def loss(prototypes):
        change = ((prototypes - text) ** 2).sum(axis=1)
        entropy = mean_entropy(cosine_logits(X, prototypes, 8), y, weight)
        return entropy + (trust * change).mean()

    prototypes, velocity = text.copy(), np.zeros_like(text)
    for step in cosine_steps(0.05, 30):
        velocity = 0.9 * velocity + by_differences(loss, prototypes)
        prototypes = prototypes - step * velocity
    expected = cosine_logits(queries, prototypes, 8)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-5)


@pytest.mark.parametrize("weight", [np.ones(18), WEIGHT])
def test_lp_plus_plus_by_its_equations(task, weight):
    X, y, text, queries = task
    model = LPPlusPlusClassifier(text, max_iter=20).fit(X, y, sample_weight=weight)
    n, Y = weight.sum(), np.eye(4)[y]
    w = np.stack(
        [np.average(X[y == c], axis=0, weights=weight[y == c]) for c in range(4)]
    )
    b, alpha = np.zeros(4), np.full(4, 250 * np.mean((w * text).sum(axis=1)))
    largest = np.linalg.eigvalsh((X * weight[:, None]).T @ X)[-1]
    text_step = n / (4 * max(weight @ (X @ t) ** 2 for t in text))
    steps = [4 * n / largest, 4.0, text_step]
    velocities = [0.0, 0.0, 0.0]
    for _ in range(20):
        error = softmax(X @ w.T + b + alpha * (X @ text.T)) - Y
        error *= weight[:, None] / n
        gradients = error.T @ X, error.sum(axis=0), (error * (X @ text.T)).sum(axis=0)
        velocities = [0.9 * v + g for v, g in zip(velocities, gradients, strict=True)]
        w, b, alpha = (
            value - step * v
            for value, step, v in zip((w, b, alpha), steps, velocities, strict=True)
        )
    expected = queries @ w.T + b + alpha * (queries @ text.T)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)
    assert_allclose(model.text_weights_, alpha)


def test_mini_batches_follow_the_random_state_alone(task):
    X, y, text, _ = task
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def keys(batch_size, seed):
        model = TaskResClassifier(
            text, batch_size=batch_size, random_state=seed, max_iter=3
        )
        return model.fit(X, y).text_features_

    assert_array_equal(keys(5, 0), keys(5, 0))
    assert_array_equal(
        keys(5, np.random.RandomState(0)), keys(5, np.random.RandomState(0))
    )
    assert np.abs(keys(5, 0) - keys(5, 1)).max() > 0
    assert np.abs(keys(5, None) - keys(5, None)).max() > 0
    assert_array_equal(keys(None, 0), keys(18, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


MODELS = [
    TipAdapterClassifier(**TIP_F),
    TaskResClassifier(random_state=0),
    CLAPClassifier(),
    LPPlusPlusClassifier(),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_callbacks_see_every_epoch_and_change_nothing(model, task):
    X, y, text, queries = task
    model = model.set_params(text_features=text)
    quiet = model.fit(X, y).predict_proba(queries)
    monitor = ScoringMonitor(scoring="accuracy")
    watched = clone(model).set_callbacks(monitor).fit(X, y)
    assert len(monitor.get_logs().data_as_pandas) >= watched.n_iter_ == model.max_iter
    assert_array_equal(watched.predict_proba(queries), quiet)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_fit_inside_a_callers_inference_mode(model, mode, task):
    X, y, text, queries = task
    model = model.set_params(text_features=text)
    outside = model.fit(X, y).predict_proba(queries)
    with mode():
        assert_array_equal(model.fit(X, y).predict_proba(queries), outside)


def test_intercepts_are_learned_only_without_text(task):
    X, y, text, _ = task
    for model in (TaskResClassifier(), CLAPClassifier()):
        assert np.abs(model.fit(X, y).intercept_).max() > 0
        model.set_params(text_features=text).fit(X, y)
        assert_array_equal(model.intercept_, 0)


def test_a_diverged_loss_is_named(task):
    X, y, text, _ = task
    with pytest.raises(ValueError, match="a parameter is too large"):
        TipAdapterClassifier(text, beta=1e10, **TIP_F).fit(X, y)
