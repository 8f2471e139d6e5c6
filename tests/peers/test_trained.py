"""The trained peers: parity with slow transcriptions, batches, callbacks, contexts."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skfewshot import (
    CLAPClassifier,
    LPPlusPlusClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
)

TIP_F = {"train_keys": True, "random_state": 0}
ONES = np.ones(18)


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


def test_clap_by_its_equations(task, weight):
    X, y, text, queries = task
    model = CLAPClassifier(text, logit_scale=8.0, max_iter=30, learning_rate=0.05)
    model.fit(X, y, sample_weight=weight)
    probability = softmax(8 * X @ text.T)[np.arange(18), y]
    trust = [np.average(probability[y == c], weights=weight[y == c]) for c in range(4)]
    expected = clap_logits(X, y, text, queries, weight, trust, 30)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-5)


def clap_logits(X, y, text, queries, weight, trust, n_steps):
    def loss(prototypes):
        change = ((prototypes - text) ** 2).sum(axis=1)
        entropy = mean_entropy(cosine_logits(X, prototypes, 8), y, weight)
        return entropy + (trust * change).mean()

    prototypes, velocity = text.copy(), np.zeros_like(text)
    for step in cosine_steps(0.05, n_steps):
        velocity = 0.9 * velocity + by_differences(loss, prototypes)
        prototypes = prototypes - step * velocity
    return cosine_logits(queries, prototypes, 8)


def lp_plus_plus(X, y, text, weight, start, n_steps):
    """The maps, intercepts and text weights after some steps."""
    n, Y = weight.sum(), np.eye(4)[y]
    w = np.stack(
        [np.average(X[y == c], axis=0, weights=weight[y == c]) for c in range(4)]
    )
    b, alpha = np.zeros(4), np.full(4, start(w))
    largest = np.linalg.eigvalsh((X * weight[:, None]).T @ X)[-1]
    text_step = n / (4 * max(weight @ (X @ t) ** 2 for t in text))
    steps = [4 * n / largest, 4.0, text_step]
    velocities = [0.0, 0.0, 0.0]
    for _ in range(n_steps):
        error = softmax(X @ w.T + b + alpha * (X @ text.T)) - Y
        error *= weight[:, None] / n
        gradients = error.T @ X, error.sum(axis=0), (error * (X @ text.T)).sum(axis=0)
        velocities = [0.9 * v + g for v, g in zip(velocities, gradients, strict=True)]
        w, b, alpha = (
            value - step * v
            for value, step, v in zip((w, b, alpha), steps, velocities, strict=True)
        )
    return w, b, alpha


def test_lp_plus_plus_by_its_equations(task, weight):
    X, y, text, queries = task
    model = LPPlusPlusClassifier(text, max_iter=20).fit(X, y, sample_weight=weight)
    w, b, alpha = lp_plus_plus(
        *(X, y, text, weight), lambda w: 250 * np.mean((w * text).sum(axis=1)), 20
    )
    expected = queries @ w.T + b + alpha * (queries @ text.T)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-8)
    assert_allclose(model.text_weights_, alpha)


@pytest.mark.parametrize("kind", ["classes", "noise"])
def test_lp_plus_plus_without_text_is_no_surer_than_class_means(kind, task, weight):
    X, y, _, queries = task
    if kind == "noise":
        y = np.resize(np.arange(4), len(y))
    model = LPPlusPlusClassifier(None, max_iter=20).fit(X, y, sample_weight=weight)
    means, scale = model.text_features_, model.logit_scale_
    w, b, alpha = lp_plus_plus(X, y, means, weight, lambda w: scale, 20)

    def logits(rows):
        return rows @ w.T + b + alpha * (rows @ means.T)

    own = np.average(
        [z[c] - np.delete(z, c).mean() for z, c in zip(logits(X), y, strict=True)],
        weights=weight,
    )
    spread = np.mean([1 - means[a] @ means[c] for a in range(4) for c in range(a)])
    too_far = max(1, own / (1.5 * scale * spread))
    assert (too_far > 1) == (kind == "noise")
    assert_allclose(model.decision_function(queries), logits(queries) / too_far)
    assert_allclose(model.text_weights_, alpha / too_far)


def test_batches_by_the_equations_of_adam(task, weight):
    X, y, text, queries = task
    model = TaskResClassifier(
        text, logit_scale=8.0, max_iter=3, learning_rate=0.05, batch_size=7
    ).set_params(random_state=3)
    model.fit(X, y, sample_weight=weight)
    # A cache keeps the rows of the support in the order in which they are read.
    order = (TipAdapterClassifier(None).fit(X, y).keys_ @ X.T).argmax(axis=1)
    generator = torch.Generator().manual_seed(3)
    batches = []
    for _ in range(3):
        shuffled = torch.randperm(18, generator=generator).numpy()
        batches += [shuffled[:7], shuffled[7:14], shuffled[14:]]
    left = iter(batches)

    def gradient(residual):
        rows = order[next(left)]

        def loss(residual):
            logits = cosine_logits(X[rows], text + 0.5 * residual, 8)
            return mean_entropy(logits, y[rows], weight[rows])

        curve.append(loss(residual) * len(rows) / 18)
        return by_differences(loss, residual)

    curve = []
    residual = adam(np.zeros_like(text), gradient, cosine_steps(0.05, 9), eps=1e-8)
    expected = cosine_logits(queries, text + 0.5 * residual, 8)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-4)
    assert_allclose(model.loss_curve_, np.reshape(curve, (3, 3)).sum(axis=1), rtol=1e-4)


def test_classes_without_rows_are_trusted_and_intercepts_start_at_zero(task):
    X, y, text, queries = task
    weights = {0: 1.0, 1: 0.0, 2: 2.0, 3: 1.0}
    fit = {"logit_scale": 8.0, "max_iter": 10, "learning_rate": 0.05}
    model = CLAPClassifier(text, **fit, class_weight=weights).fit(X, y)
    probability = softmax(8 * X @ text.T)[np.arange(18), y]
    trust = np.array([probability[y == c].mean() for c in range(4)])
    trust[1] = 1
    weight = np.array([1.0, 0.0, 2.0, 1.0])[y]
    expected = clap_logits(X, y, text, queries, weight, trust, 10)
    assert_allclose(model.decision_function(queries), expected, rtol=1e-5)


def test_prototypes_of_images_have_intercepts(task):
    X, y, _, queries = task
    means = np.stack([X[y == c].mean(axis=0) for c in range(4)])
    means /= np.linalg.norm(means, axis=1)[:, None]
    model = TaskResClassifier(logit_scale=8.0, max_iter=4, learning_rate=0.05).fit(X, y)

    def logits(rows, both):
        return cosine_logits(rows, means + 0.5 * both[:, :-1], 8) + 8 * both[:, -1]

    # The last column is the intercepts; Adam sees each number alone.
    both = adam(
        np.zeros((4, 13)),
        lambda b: by_differences(lambda b: mean_entropy(logits(X, b), y, ONES), b),
        cosine_steps(0.05, 4),
        eps=1e-8,
    )
    assert_allclose(model.decision_function(queries), logits(queries, both), rtol=1e-4)
    assert_allclose(model.intercept_, both[:, -1], rtol=1e-4)


def test_the_settings_of_the_papers_are_the_defaults():
    for model, settings in (
        (TipAdapterClassifier(), {"alpha": 1.0, "beta": 5.5, "learning_rate": 1e-3}),
        (TipAdapterClassifier(), {"max_iter": 20, "batch_size": 256}),
        (LPPlusPlusClassifier(), {"max_iter": 300}),
        (CLAPClassifier(), {"max_iter": 300, "learning_rate": 1e-3}),  # ours
        (TaskResClassifier(), {"alpha": 0.5, "learning_rate": 2e-3, "max_iter": 100}),
        (TaskResClassifier(), {"batch_size": 256}),
    ):
        assert settings.items() <= model.get_params().items()


def test_mini_batches_follow_the_random_state_alone(task):
    X, y, text, _ = task
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def keys(batch_size, seed):
        model = TaskResClassifier(
            text, batch_size=batch_size, random_state=seed, max_iter=3
        )
        return model.fit(X, y).prototypes_

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
    TaskResClassifier(random_state=0, max_iter=20),
    CLAPClassifier(max_iter=20),
    LPPlusPlusClassifier(max_iter=20),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)


class Watch:
    """Notes the iterations and losses of a fit, and stops it after some."""

    def __init__(self, last=None):
        self.last, self.seen, self.losses, self.probabilities = last, [], [], []

    def setup(self, estimator, context):
        """Do nothing."""

    teardown = on_fit_task_begin = lambda self, estimator, context, **_: None

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        """Note what a model predicts that had stopped here."""
        if context.task_name != "iteration":
            return False
        self.seen.append(fitted_estimator.n_iter_)
        self.losses += fitted_estimator.loss_curve_
        self.probabilities.append(fitted_estimator.predict_proba(X))
        return len(self.seen) == self.last


@each_model
def test_callbacks_see_every_epoch_and_change_nothing(model, task):
    X, y, text, queries = task
    model = clone(model).set_params(text_features=text)
    quiet = model.fit(X, y)
    watch = Watch()
    watched = clone(model).set_callbacks(watch).fit(X, y)
    assert watch.seen[: model.max_iter] == list(range(1, model.max_iter + 1))
    assert watch.losses[: model.max_iter] == watched.loss_curve_ == quiet.loss_curve_
    assert_array_equal(watched.predict_proba(queries), quiet.predict_proba(queries))
    assert_array_equal(watch.probabilities[-1], quiet.predict_proba(X))
    assert np.abs(watch.probabilities[0] - watch.probabilities[-1]).max() > 0


@each_model
def test_a_callback_may_stop_a_fit(model, task):
    X, y, text, _ = task
    model = clone(model).set_params(text_features=text, max_iter=9)
    watch = Watch(last=3)
    stopped = clone(model).set_callbacks(watch).fit(X, y)
    assert stopped.n_iter_ == len(stopped.loss_curve_) == 3
    assert_array_equal(stopped.predict_proba(X), watch.probabilities[2])


@each_model
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_fit_inside_a_callers_inference_mode(model, mode, task):
    X, y, text, queries = task
    model = clone(model).set_params(text_features=text, max_iter=3)
    outside = model.fit(X, y).predict_proba(queries)
    with mode():
        assert_array_equal(model.fit(X, y).predict_proba(queries), outside)


def test_intercepts_are_learned_only_without_text(task):
    X, y, text, _ = task
    for model in (TaskResClassifier(max_iter=2), CLAPClassifier(max_iter=2)):
        assert np.abs(model.fit(X, y).intercept_).max() > 0
        model.set_params(text_features=text).fit(X, y)
        assert_array_equal(model.intercept_, 0)


def test_a_diverged_loss_is_named(task):
    X, y, text, _ = task
    with pytest.raises(ValueError, match="a parameter is too large"):
        TipAdapterClassifier(text, beta=1e10, **TIP_F).fit(X, y)
