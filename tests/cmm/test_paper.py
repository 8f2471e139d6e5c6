"""The published form of CMM against a loop, part by part, and what it does not read."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn.functional import normalize

from skfewshot import CMMClassifier
from skfewshot.cmm._paper import Loss, Settings, solve_paper, triplet

ALL = slice(None)
SETTINGS = Settings(
    alpha=0.7,
    triplet_weight=1.5,
    margin=0.2,
    max_iter=4,
    learning_rate=0.01,
)


def published(X, y, text, weight, batches, *, constant=False, **kwargs):
    """Train row by row, with AdamW written out: the losses, Delta, b and T.

    `batches` has the rows of each step; losses are those before each, of all rows.
    """
    settings_ = SETTINGS._replace(**kwargs)
    X, T0, scale = torch.tensor(X), torch.tensor(text), 30.0
    width = X.shape[1]
    ones = torch.full((len(X), 1), float(constant), dtype=X.dtype)
    inputs = torch.cat([X, ones], dim=1)
    unknowns = [torch.zeros(width + 1, width, dtype=X.dtype), T0.clone()]
    moments, losses = [[0 * u, 0 * u] for u in unknowns], []

    def loss_of(i):
        T, v = normalize(unknowns[1]), normalize(X[i] + inputs[i] @ unknowns[0], dim=0)
        logits = scale * T0 @ X[i] + settings_.alpha * scale * T @ v
        distances = (T - v).norm(dim=1)
        wrong = min(d for c, d in enumerate(distances) if c != y[i])
        hinge = max(0 * wrong, distances[y[i]] - wrong + settings_.margin)
        entropy = logits.logsumexp(0) - logits[y[i]]
        return weight[i] * (entropy + settings_.triplet_weight * hinge)

    for step, rows in enumerate([*batches, None], 1):
        with torch.no_grad():
            losses.append(float(sum(map(loss_of, range(len(y)))) / weight.sum()))
        if rows is None:
            delta, T = unknowns[0].numpy(), normalize(unknowns[1]).numpy()
            return losses, delta[:-1], delta[-1], T
        rows = range(len(y))[rows] if isinstance(rows, slice) else rows
        unknowns = [u.requires_grad_() for u in unknowns]
        loss = sum(map(loss_of, rows)) / sum(weight[i] for i in rows)
        for k, g in enumerate(torch.autograd.grad(loss, unknowns)):
            m, v = moments[k]
            m, v = moments[k] = [0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2]
            move = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            decayed = unknowns[k].detach() * (1 - 0.01 * settings_.learning_rate)
            unknowns[k] = decayed - settings_.learning_rate * move


@pytest.fixture
def model(make_task):
    """Return a classifier with the settings of the loop."""
    names = ("alpha", "triplet_weight", "margin", "max_iter", "learning_rate")
    settings_ = {name: getattr(SETTINGS, name) for name in names}
    return CMMClassifier(None, solver="paper", logit_scale=30.0, **settings_)


@pytest.mark.parametrize(
    "changed",
    [{}, {"triplet_weight": 0.0}, {"margin": 0.0}, {"alpha": 0.0}, {"alpha": 2.0}],
    ids=str,
)
@pytest.mark.parametrize("with_text", [True, False])
def test_it_is_the_method_by_a_loop(make_task, unit, model, with_text, changed):
    X, y, text = make_task()
    weight = np.linspace(0.5, 2.0, len(y))
    if with_text:
        model.set_params(text_features=text)
    else:
        text = np.stack(
            [np.average(X[y == c], axis=0, weights=weight[y == c]) for c in range(4)]
        )
        text = unit(text)
    model.set_params(**changed).fit(X, y, sample_weight=weight)
    constant = not with_text
    steps = 4 * [ALL]
    losses, delta, b, T = published(
        X, y, text, weight, steps, constant=constant, **changed
    )
    assert_allclose(model.loss_curve_, losses, rtol=1e-8)
    assert_allclose(model.map_, np.eye(12) + delta, atol=1e-8)
    assert_allclose(model.map_intercept_, b, atol=1e-8)
    assert b.any() == constant
    assert_allclose(model.prototypes_, T, atol=1e-8)
    queries = make_task(rows=1)[0]
    alpha = changed.get("alpha", 0.7)
    # The undivided sum.
    mapped = unit(queries + queries @ delta + b)
    logits = 30 * queries @ text.T + alpha * 30 * mapped @ T.T
    assert_allclose(model.decision_function(queries), logits, atol=1e-5)
    assert (model.alpha_, model.n_iter_) == (alpha, 4)
    assert model.temperature_ == pytest.approx(1 / (1 + alpha))
    assert not model.intercept_.any()


def test_batches_by_a_loop(make_support):
    """More rows than a step takes are shuffled, each epoch, by seed 0."""
    support = make_support(n_rows=300, d=4)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(2):
        order = torch.randperm(300, generator=generator).tolist()
        batches += [order[:256], order[256:]]
    found = solve_paper(support, SETTINGS._replace(max_iter=2))
    parts = support.features, support.y, support.text, support.weight
    losses, delta, _, T = published(*(part.numpy() for part in parts), batches)
    assert_allclose(found.loss_curve, losses[::2], rtol=1e-7)
    assert_allclose(found.map, np.eye(4) + delta, atol=1e-7)
    assert_allclose(normalize(found.prototypes), T, atol=1e-7)


def test_the_order_of_rows_and_copies_do_not_matter_in_batches(make_task, model):
    X, y, text = make_task(4, 75)
    model.set_params(text_features=text, max_iter=2)
    weight = np.ones(300)
    weight[7] = 2
    expected = model.fit(X, y, sample_weight=weight).decision_function(X)
    rows = np.random.default_rng(0).permutation(np.append(np.arange(300), 7))
    before = torch.get_rng_state()
    found = model.fit(X[rows], y[rows]).decision_function(X)
    assert_array_equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_alpha_zero_and_no_epochs_are_zero_shot(make_task, model):
    X, y, text = make_task()
    queries = make_task(shots=50, rows=1)[0]
    zero_shot = 30 * queries @ text.T
    model.set_params(text_features=text)
    still = model.set_params(max_iter=0).fit(X, y)
    assert_array_equal(still.map_, np.eye(12))
    assert_allclose(still.prototypes_, text)
    assert still.n_iter_ == 0
    assert len(still.loss_curve_) == 1
    # Both parts of the sum are the same.
    assert_allclose(still.decision_function(queries), 1.7 * zero_shot)
    assert_array_equal(still.predict(queries), zero_shot.argmax(axis=1))
    none = model.set_params(alpha=0.0, max_iter=4).fit(X, y)
    assert_allclose(none.decision_function(queries), zero_shot)
    # The triplet loss alone still moves them, without the logits.
    assert np.abs(none.map_ - np.eye(12)).max() > 0.01


def test_defaults_are_the_documented_guesses(make_task):
    X, y, text = make_task()
    default = CMMClassifier(text, solver="paper").fit(X, y)
    assert (default.alpha_, default.temperature_, default.n_iter_) == (1.0, 0.5, 50)
    assert default.newcomer_intercept_ == 0
    said = {"alpha": 1.0, "margin": 0.1, "triplet_weight": 1.0, "max_iter": 50}
    named = CMMClassifier(text, solver="paper", learning_rate=1e-3, **said).fit(X, y)
    assert_array_equal(named.prototypes_, default.prototypes_)


def test_the_loss_of_some_rows_adds_up_to_that_of_all(make_support):
    support = make_support(n_rows=300, d=4)
    loss = Loss(support, support.features, SETTINGS)
    values = {"map": 0.1 * torch.eye(4).double(), "text": support.text}
    parts = [loss.of_rows(slice(i, i + 100), values) for i in (0, 100, 200)]
    assert loss.of_all(values) == pytest.approx(float(sum(parts)))
    order = torch.randperm(300)
    assert float(loss.of_rows(order, values)) == pytest.approx(float(sum(parts)))


def test_the_triplet_term_takes_the_nearest_wrong_class(unit):
    rng = np.random.default_rng(0)
    v, p = unit(rng.normal(size=(9, 5))), unit(rng.normal(size=(4, 5)))
    y = rng.integers(0, 4, 9)
    found = triplet(torch.tensor(v @ p.T), torch.tensor(y), 0.3)
    for i, label in enumerate(y):
        distances = np.linalg.norm(v[i] - p, axis=1)
        wrong = np.delete(distances, label).min()
        assert float(found[i]) == pytest.approx(max(0, distances[label] - wrong + 0.3))


def test_a_triplet_term_separates_images_by_their_texts(make_task, model):
    X, y, text = make_task(6, 8, 24, noise=1.2)
    model.set_params(text_features=text, max_iter=30)

    def margins():
        cosines = model.fit(X, y).transform(X) @ model.prototypes_.T
        right = cosines[np.arange(len(y)), y].copy()
        cosines[np.arange(len(y)), y] = -1
        return right - cosines.max(axis=1)

    with_it = margins().mean()
    model.set_params(triplet_weight=0.0)
    assert with_it > margins().mean() + 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_that_is_not_finite_is_refused(make_task, model, dtype):
    X, y, text = make_task(dtype=dtype)
    model.set_params(text_features=text, alpha=1e9, logit_scale=1e9)
    model.set_params(triplet_weight=1e9, learning_rate=1e9)
    try:
        model.fit(X, y)
    except ValueError as error:
        assert "a parameter is too large" in str(error)
    else:
        assert np.isfinite(model.predict_proba(X)).all()
