"""The closed form of CMM against a Gaussian process over rows, written out slowly."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skfewshot.cmm._gaussian import (
    fit_gaussian,
    left_out_cosines,
    newcomer_cosines,
    summarise,
)

seeds = st.integers(0, 2**16)
penalties = st.sampled_from([0.1, 1.0, 3.0, 10.0, 1e3])
PARTS = ("centre", "map", "means", "text_map", "text_intercept")


def trust_of(seed, n_classes, kind="some"):
    """Trust in texts: of all kinds, with a text that is not trusted and one that is."""
    if kind != "some":
        return torch.full((n_classes,), float(kind), dtype=torch.float64)
    trust = np.random.default_rng([seed, 5]).uniform(size=n_classes)
    trust[:2] = 0, 1
    return torch.tensor(trust)


def fit(support, trust, text_penalty=3.0):
    trust = trust.to(support.text.dtype)
    return fit_gaussian(summarise(support), trust, text_penalty=text_penalty)


def parts_of(support):
    parts = (support.features, support.y, support.weight, support.text)
    return [part.numpy() for part in parts]


class Reference:
    """The model of the module's docstring, by dense matrices over rows."""

    def __init__(self, support, trust, text_penalty=3.0):
        self.F, self.y, self.weight, text = parts_of(support)
        n_classes, self.d = text.shape
        trust, total = trust.numpy(), self.weight.sum()
        self.centre = self.centre_of(np.arange(len(self.y)))
        texts = trust[:, None] * (text - text.mean(axis=0))
        above = sum(texts[c] @ (self.mean(c) - self.centre) for c in range(n_classes))
        below = (texts**2).sum()
        slope = max(above / below, 0.05) if below else 1.0
        own = (30 - 29 * trust) / text_penalty
        self.K = 10 + 3 / text_penalty * texts @ texts.T + np.diag(own)
        self.prior = slope * texts
        # Shrunk to the sphere of the same trace.
        self.share = max(self.d / (self.d + total), 1e-4)
        rows = np.arange(len(self.y))
        self.scale = (1 - self.share) * self.d / np.trace(self.scatter(rows))

    def mean(self, c, rows=slice(None)):
        F, y, weight = self.F[rows], self.y[rows], self.weight[rows]
        return np.average(F[y == c], axis=0, weights=weight[y == c])

    def centre_of(self, rows):
        """As if a row at zero were there too."""
        total = self.weight.sum()
        means = [self.mean(c, rows) for c in np.unique(self.y[rows])]
        return total / (total + 1) * np.mean(means, axis=0)

    def over_rows(self, rows):
        y = self.y[rows]
        return self.K[y][:, y] + np.diag(1 / self.weight[rows])

    def residuals(self, rows, centre):
        return self.F[rows] - centre - self.prior[self.y[rows]]

    def scatter(self, rows):
        R = self.residuals(rows, self.centre)
        return R.T @ np.linalg.solve(self.over_rows(rows), R)

    def covariance(self, rows):
        return self.scale * self.scatter(rows) + self.share * np.eye(self.d)

    def posterior(self, rows, centre):
        """Return the means of all classes, had there been these rows alone."""
        R = self.residuals(rows, centre)
        gain = np.linalg.solve(self.over_rows(rows), R)
        return self.prior + self.K[:, self.y[rows]] @ gain

    def left_out(self):
        """Cosines of each row, by the other rows alone."""
        cosines = []
        for i, f in enumerate(self.F):
            rows = np.delete(np.arange(len(self.y)), i)
            centre = self.centre_of(rows)
            means = self.posterior(rows, centre)
            metric = np.linalg.inv(self.covariance(rows))
            cosines.append([cosine_in(metric, f - centre, m) for m in means])
        return np.array(cosines)


def cosine_in(metric, x, m):
    return x @ metric @ m / math.sqrt((x @ metric @ x) * (m @ metric @ m))


def every_row(model, support):
    return left_out_cosines(model, support, torch.arange(len(support.y))).numpy()


@given(
    seed=seeds,
    n_classes=st.integers(2, 6),
    n_spare=st.integers(1, 9),
    d=st.integers(2, 15),
    kind=st.sampled_from(["some", 0, 1]),
    text_penalty=penalties,
)
def test_means_and_map_are_those_of_the_written_out_model(
    make_support, seed, n_classes, n_spare, d, kind, text_penalty
):
    support = make_support(seed, n_classes, n_classes + n_spare, d)
    trust = trust_of(seed, n_classes, kind)
    model = fit(support, trust, text_penalty)
    expected = Reference(support, trust, text_penalty)
    rows = np.arange(len(support.y))
    assert_allclose(model.centre, expected.centre, atol=1e-12)
    means = expected.posterior(rows, expected.centre)
    assert_allclose(model.means, means, atol=1e-9)
    map_ = model.map.numpy()
    inverse = np.linalg.inv(expected.covariance(rows))
    assert_allclose(map_ @ map_.T, inverse, rtol=1e-6, atol=1e-6 * inverse.max())
    mapped = (support.features - model.centre) @ model.map
    assert_allclose(model.mapped, mapped, atol=1e-9)
    assert_allclose(model.prototypes, model.means @ model.map, atol=1e-9)


@pytest.mark.parametrize("text_penalty", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("kind", ["some", 0, 1])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 2, 4), (3, 30, 4), (4, 9, 20)])
def test_rows_left_out_are_as_by_brute_force(make_support, shape, kind, text_penalty):
    """Centre, means and covariance are those of the others, also of a row alone.

    How the centre of the covariance moves is all that is kept beside the scalars, and
    that is next to nothing, as the classes may share an offset.
    """
    support = make_support(shape[1], *shape)
    trust = trust_of(1, shape[0], kind)
    model = fit(support, trust, text_penalty)
    found = every_row(model, support)
    expected = Reference(support, trust, text_penalty).left_out()
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    some = torch.tensor([1, 0, 1])
    assert_allclose(left_out_cosines(model, support, some), found[some])


@given(seed=seeds, text_penalty=penalties)
def test_rows_left_out_are_as_by_brute_force_whatever_the_weights(
    make_support, seed, text_penalty
):
    support = make_support(seed, 5, 14, 7)
    trust = trust_of(seed, 5)
    found = every_row(fit(support, trust, text_penalty), support)
    expected = Reference(support, trust, text_penalty).left_out()
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-9


@pytest.mark.parametrize("kind", ["some", 0, 1])
@pytest.mark.parametrize("text_penalty", [0.1, 10.0])
def test_classes_without_their_rows_are_as_by_brute_force(
    make_support, text_penalty, kind
):
    support, F = make_support(0, 5, 14, 7), make_support(1, 5, 9, 7).features
    trust = trust_of(0, 5, kind)
    reference = Reference(support, trust, text_penalty)
    metric = np.linalg.inv(reference.covariance(np.arange(14)))
    expected = np.empty((len(F), 5))
    for c in range(5):
        rows = np.flatnonzero(reference.y != c)
        mean = reference.posterior(rows, reference.centre)[c]
        for i, x in enumerate(F.numpy() - reference.centre):
            expected[i, c] = cosine_in(metric, x, mean)
    found = newcomer_cosines(fit(support, trust, text_penalty), F)
    assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("text_penalty", [0.5, 10.0])
def test_the_mean_of_a_class_without_rows_follows_from_its_text(
    make_support, text_penalty
):
    """As it would be had it been in the process, its text trusted."""
    support = make_support(3, 6, 20, 5)
    trust = trust_of(3, 6)
    model = fit(support, trust, text_penalty)
    reference = Reference(support, trust, text_penalty)
    text = support.text.numpy()
    new = np.array([0.3, -0.2, 0.5, 0.1, 0.7])
    u = trust.numpy()[:, None] * (text - text.mean(axis=0))
    u_new = new - text.mean(axis=0)
    slope = (reference.prior[1] / u[1])[0]
    kernel = 10 + 3 / text_penalty * u @ u_new
    R = reference.residuals(slice(None), reference.centre)
    gain = np.linalg.solve(reference.over_rows(slice(None)), R)
    expected = slope * u_new + kernel[reference.y] @ gain
    found = torch.tensor(new) @ model.text_map + model.text_intercept
    assert_allclose(found, expected, atol=1e-9)


def test_a_class_of_no_trust_is_where_its_rows_are(make_support):
    support = make_support(2, 4, 20)
    F, y, weight, _ = parts_of(support)
    gaps = []
    for kind in (0, 1):
        trust = torch.ones(4, dtype=torch.float64)
        trust[2] = kind
        model = fit(support, trust, 10.0)
        own = np.average(F[y == 2], axis=0, weights=weight[y == 2])
        gaps.append(np.linalg.norm((model.means[2] + model.centre).numpy() - own))
    assert gaps[0] < gaps[1] / 3


def test_a_text_of_no_trust_is_not_read(make_support):
    support = make_support(2, 4, 20)
    trust = trust_of(2, 4)
    text = support.text.clone()
    # The centre of the texts stays where it is.
    text[0] += 1
    text[1:] -= 1 / 3
    trust[1:] = 0
    one, other = fit(support, trust), fit(replace(support, text=text), trust)
    assert_allclose(one.means, other.means, atol=1e-12)


@given(seed=seeds, text_penalty=penalties)
def test_a_weight_of_two_is_two_rows(make_support, seed, text_penalty):
    support = make_support(seed)
    trust = trust_of(seed, 4)
    times = torch.tensor(np.random.default_rng(seed).integers(1, 4, len(support.y)))
    one = fit(replace(support, weight=times.double()), trust, text_penalty)
    repeated = replace(
        support,
        features=support.features.repeat_interleave(times, 0),
        y=support.y.repeat_interleave(times),
        weight=torch.ones(int(times.sum()), dtype=torch.float64),
    )
    other = fit(repeated, trust, text_penalty)
    for name in PARTS:
        assert_allclose(getattr(one, name), getattr(other, name), atol=1e-8)


@given(seed=seeds)
def test_turning_the_sphere_turns_nothing_that_is_seen(make_support, seed):
    support, trust = make_support(seed), trust_of(seed, 4)
    rng = np.random.default_rng(seed)
    turn = torch.tensor(np.linalg.qr(rng.normal(size=(6, 6)))[0])
    turned = replace(
        support, features=support.features @ turn, text=support.text @ turn
    )
    one, other = fit(support, trust), fit(turned, trust)
    assert_allclose(other.means, one.means @ turn, atol=1e-9)
    assert_allclose(every_row(other, turned), every_row(one, support), atol=1e-9)


@given(seed=seeds)
def test_more_rows_shrink_less_and_draw_the_means_to_themselves(make_support, seed):
    support, trust = make_support(seed), trust_of(seed, 4)
    models = [
        fit(replace(support, weight=k * support.weight), trust, 10.0)
        for k in (1e-6, 1.0, 1e6)
    ]
    shapes = [np.linalg.cond(model.map.numpy()) for model in models]
    assert shapes == sorted(shapes)
    assert shapes[0] < 1 + 1e-3
    F, y, weight, _ = parts_of(support)
    own = np.stack([np.average(F[y == c], 0, weight[y == c]) for c in range(4)])
    assert_allclose(models[-1].means + models[-1].centre, own, atol=1e-3)
    assert np.abs((models[0].means + models[0].centre).numpy() - own).max() > 0.05


def test_the_map_makes_classes_round(make_support):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 2000)
    spread = np.array([3.0, 1.0, 0.3])
    F = 0.01 * (spread * rng.normal(size=(8000, 3)) + 3 * rng.normal(size=(4, 3))[y])
    support = replace(
        make_support(d=3),
        features=torch.tensor(F),
        y=torch.tensor(y),
        weight=torch.ones(8000, dtype=torch.float64),
    )
    mapped = fit(support, trust_of(0, 4, 1), 0.1).mapped.numpy()
    within = sum(np.cov(mapped[y == c].T) for c in range(4)) / 4
    assert np.linalg.cond(within) < 1.05


def test_texts_are_never_believed_to_point_away(make_support):
    support = make_support()
    F, y, _, _ = parts_of(support)
    centred = F - F.mean(axis=0)
    opposite = -np.stack([centred[y == c].mean(axis=0) for c in range(4)])
    support = replace(support, text=torch.tensor(opposite))
    model = fit(support, trust_of(0, 4, 1), 1e12)
    moved = model.means.numpy() - 0.05 * (opposite - opposite.mean(axis=0))
    # All that is left to the classes is an offset that they share.
    assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)


WEIGHTS = {
    "one": lambda n: np.ones(n),
    "least": lambda n: np.full(n, 1e-9),
    "most": lambda n: np.full(n, 1e9),
    "mixed": lambda n: np.resize([1.0, 1e6, 1e-6], n),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", ["some", 0, 1])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_single_precision_is_finite_and_near_double(
    make_support, kind, weights, n_classes
):
    for n_rows in (n_classes, 12):
        found = []
        for dtype in (torch.float32, torch.float64):
            support = make_support(1, n_classes, n_rows, 8, dtype=np.float32)
            support = replace(
                support,
                features=support.features.to(dtype),
                weight=torch.tensor(WEIGHTS[weights](n_rows), dtype=dtype),
                text=support.text.to(dtype),
            )
            model = fit(support, trust_of(1, n_classes, kind))
            for name in PARTS:
                assert getattr(model, name).dtype == dtype
                assert torch.isfinite(getattr(model, name)).all()
            cosines = every_row(model, support)
            assert cosines.dtype == np.dtype(str(dtype).removeprefix("torch."))
            assert np.abs(cosines).max() < 1.01  # and not NaN
            newcomers = newcomer_cosines(model, support.features)
            assert newcomers.abs().max() < 1.01
            found.append(cosines)
        if weights == "one":
            assert_allclose(*found, atol=5e-3)


def test_copies_of_two_rows_are_finite(make_support):
    support = make_support(2, 2, 2, 5)
    copies = replace(
        support,
        features=support.features.repeat(5, 1),
        y=support.y.repeat(5),
        weight=torch.ones(10, dtype=torch.float64),
    )
    for each in (support, copies):
        for kind in (0, 1):
            model = fit(each, trust_of(0, 2, kind))
            assert np.abs(every_row(model, each)).max() < 1.001
