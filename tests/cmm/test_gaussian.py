"""The closed form of CMM against a Gaussian process over rows, written out slowly."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skfewshot.cmm._gaussian import gaussian_start, left_out_cosines, newcomer_cosines

seeds = st.integers(0, 2**16)
penalties = st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e6, math.inf])


class Reference:
    """The model of the module's docstring, by loops and dense matrices over rows."""

    def __init__(self, support, *, map_penalty, text_penalty):
        F, y, weight, text = (
            part.numpy()
            for part in (support.features, support.y, support.weight, support.text)
        )
        self.F, self.y, self.weight = F, y, weight
        n_classes, self.d = text.shape
        total = weight.sum()
        tp = max(text_penalty, 1e-6)
        trust = 0.0 if math.isinf(map_penalty) else total / (total + map_penalty)
        seen = [c for c in range(n_classes) if (y == c).any()]
        class_means = {
            c: np.average(F[y == c], axis=0, weights=weight[y == c]) for c in seen
        }
        self.centre = trust * np.mean([class_means[c] for c in seen], axis=0)
        texts = text - trust * text.mean(axis=0)
        above = sum(texts[c] @ (class_means[c] - self.centre) for c in seen)
        slope = max(above / sum(texts[c] @ texts[c] for c in seen), 0.05)
        own = max(30 / tp, 1e-6) if support.text_seen else 1 / tp
        self.prior = np.zeros((n_classes, self.d))
        self.K = np.full((n_classes, n_classes), 10 * trust) + own * np.eye(n_classes)
        if not support.text_seen:
            self.K += 3 / tp * texts @ texts.T
            self.prior = slope * texts
        self.means = self.posterior(np.arange(len(y)))
        if support.text_seen:
            for c in set(range(n_classes)) - set(seen):
                self.means[c] = text[c] - self.centre
        of_rows = self.K[y][:, y]
        smoother = of_rows @ np.linalg.inv(of_rows + np.diag(1 / weight))
        leverage = smoother.diagonal()
        self.outer = []
        for i in range(len(y)):
            e = F[i] - self.centre - self.means[y[i]]
            self.outer.append(weight[i] / (1 - leverage[i]) * np.outer(e, e))
        scatter = sum(self.outer)
        # Lambda / (lambda + n / d).
        n_shrunk = map_penalty * self.d
        share = 1.0 if math.isinf(n_shrunk) else n_shrunk / (n_shrunk + total)
        share = max(share, 1e-4)
        self.scale = (1 - share) * self.d / np.trace(scatter)
        self.covariance = self.scale * scatter + share * np.eye(self.d)

    def posterior(self, rows):
        """Return the means of all classes, had there been these rows alone."""
        y = self.y[rows]
        noisy = self.K[y][:, y] + np.diag(1 / self.weight[rows])
        deviations = self.F[rows] - self.centre - self.prior[y]
        return self.prior + self.K[:, y] @ np.linalg.solve(noisy, deviations)

    def left_out(self):
        """Cosines of each row, in the metric and with the means of the other rows."""
        cosines = []
        for i, x in enumerate(self.F - self.centre):
            means = self.posterior(np.delete(np.arange(len(self.y)), i))
            metric = np.linalg.inv(self.covariance - self.scale * self.outer[i])
            cosines.append([cosine_in(metric, x, m) for m in means])
        return np.array(cosines)


def cosine_in(metric, x, m):
    return x @ metric @ m / math.sqrt((x @ metric @ x) * (m @ metric @ m))


def every_row(start, support):
    return left_out_cosines(start, support, torch.arange(len(support.y))).numpy()


@given(
    seed=seeds,
    n_classes=st.integers(2, 6),
    n_spare=st.integers(1, 9),
    d=st.integers(2, 15),
    text_seen=st.booleans(),
    map_penalty=penalties,
    text_penalty=penalties,
)
def test_means_and_map_are_those_of_the_written_out_model(
    make_support, seed, n_classes, n_spare, d, text_seen, **parameters
):
    support = make_support(seed, n_classes, n_classes + n_spare, d, text_seen=text_seen)
    start = gaussian_start(support, **parameters)
    expected = Reference(support, **parameters)
    assert_allclose(start.centre, expected.centre, atol=1e-12)
    assert_allclose(start.means, expected.means, atol=1e-7)
    map_ = start.map.numpy()
    inverse = np.linalg.inv(expected.covariance)
    assert_allclose(map_ @ map_.T, inverse, rtol=1e-5, atol=1e-5 * inverse.max())
    mapped = (support.features - start.centre) @ start.map
    assert_allclose(start.mapped, mapped, atol=1e-9)
    assert_allclose(start.prototypes, start.means @ start.map, atol=1e-9)


@pytest.mark.parametrize("text_penalty", [0.0, math.inf])
@pytest.mark.parametrize("text_seen", [False, True])
def test_no_penalty_gives_the_means_of_the_rows_and_an_infinite_one_the_prior(
    make_support, text_seen, text_penalty
):
    """The least penalty, and the least variance, are but a millionth."""
    support = make_support(text_seen=text_seen)
    F, y, weight = (x.numpy() for x in (support.features, support.y, support.weight))
    start = gaussian_start(support, map_penalty=math.inf, text_penalty=text_penalty)
    own = np.stack([np.average(F[y == c], 0, weight[y == c]) for c in range(4)])
    if text_penalty == 0:
        expected, most = own, 1e-5
    elif text_seen:
        expected, most = 0 * own, 1e-5
    else:
        text = support.text.numpy()
        slope = (text * own).sum() / (text * text).sum()
        expected, most = max(slope, 0.05) * text, 1e-12
    gap = np.abs(start.means.numpy() - expected).max()
    assert gap < most


@pytest.mark.parametrize("text_penalty, map_penalty", [(0.1, 0.0), (10, 1), (30, 40)])
@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 30, 4), (4, 9, 20), (5, 6, 3)])
def test_rows_left_out_are_as_by_brute_force(
    make_support, shape, text_seen, text_penalty, map_penalty
):
    parameters = {"map_penalty": map_penalty, "text_penalty": text_penalty}
    support = make_support(shape[1], *shape, text_seen=text_seen)
    start = gaussian_start(support, **parameters)
    found = every_row(start, support)
    expected = Reference(support, **parameters).left_out()
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-9
    some = torch.tensor([2, 0, 2])
    assert_allclose(left_out_cosines(start, support, some), found[some])


@pytest.mark.parametrize("text_penalty", [0.3, 10.0])
def test_rows_left_out_are_those_of_a_fit_without_the_row(make_support, text_penalty):
    """Where map, centre and slope are given: all that is left are the means."""
    parameters = {"map_penalty": math.inf, "text_penalty": text_penalty}
    support = make_support(text_seen=True, n_rows=14)
    found = every_row(gaussian_start(support, **parameters), support)
    for i, f in enumerate(support.features):
        kept = torch.arange(len(support.y)) != i
        if not (support.y[kept] == support.y[i]).any():
            continue
        others = replace(
            support,
            features=support.features[kept],
            y=support.y[kept],
            weight=support.weight[kept],
        )
        means = gaussian_start(others, **parameters).means
        cosines = torch.nn.functional.cosine_similarity(f[None], means)
        assert_allclose(found[i], cosines, atol=1e-9)


@given(seed=seeds, map_penalty=st.floats(0, 100), text_penalty=st.floats(0.01, 1e3))
def test_rows_left_out_tell_of_classes_without_rows_too(
    make_support, seed, **parameters
):
    support = make_support(seed, 5, 14, 7, without=(1, 2))
    found = every_row(gaussian_start(support, **parameters), support)
    expected = Reference(support, **parameters).left_out()
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("map_penalty", [0.0, 1.0, math.inf])
@pytest.mark.parametrize("text_penalty", [0.1, 10.0, math.inf])
def test_classes_without_their_rows_are_as_by_brute_force(
    make_support, text_penalty, map_penalty
):
    parameters = {"map_penalty": map_penalty, "text_penalty": text_penalty}
    support = make_support(0, 5, 14, 7, without=(3,))
    F = make_support(1, 5, 9, 7).features
    reference = Reference(support, **parameters)
    metric = np.linalg.inv(reference.covariance)
    expected = np.empty((len(F), 5))
    for c in range(5):
        mean = reference.posterior(np.flatnonzero(reference.y != c))[c]
        for i, x in enumerate(F.numpy() - reference.centre):
            expected[i, c] = cosine_in(metric, x, mean)
    found = newcomer_cosines(gaussian_start(support, **parameters), F)
    assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("map_penalty", [0.0, 1.0, math.inf])
@pytest.mark.parametrize("text_penalty", [0.5, 10.0])
def test_the_mean_of_a_class_without_rows_follows_from_its_text(
    make_support, text_penalty, map_penalty
):
    parameters = {"map_penalty": map_penalty, "text_penalty": text_penalty}
    support = make_support(3, 6, 20, 5, without=(1, 4))
    start = gaussian_start(support, **parameters)
    expected = Reference(support, **parameters).means
    of_texts = (support.text @ start.text_map + start.text_intercept).numpy()
    assert_allclose(of_texts[[1, 4]], expected[[1, 4]], atol=1e-9)
    # Classes with rows follow those beyond what their texts say.
    seen = [0, 2, 3, 5]
    assert np.abs(of_texts[seen] - expected[seen]).max() > 1e-3


def test_a_class_without_rows_keeps_a_text_that_is_the_image_mean(make_support):
    support = make_support(3, 5, 14, text_seen=True, without=(2,))
    start = gaussian_start(support, map_penalty=1.0, text_penalty=1.0)
    assert_allclose(start.means[2], support.text[2] - start.centre, atol=1e-12)
    assert_allclose(start.text_map, np.eye(6))
    assert not start.text_intercept.any()


@pytest.mark.parametrize("text_seen", [False, True])
def test_infinite_penalties_leave_images_and_texts_as_they_are(make_support, text_seen):
    support = make_support(text_seen=text_seen)
    start = gaussian_start(support, map_penalty=math.inf, text_penalty=math.inf)
    assert not start.centre.any()
    assert torch.equal(start.map, torch.eye(6, dtype=torch.float64))
    if not text_seen:
        means = torch.nn.functional.normalize(start.means)
        assert_allclose(means, support.text, atol=1e-12)
        assert not start.text_intercept.any()


@given(seed=seeds, map_penalty=st.floats(0, 1e3), text_penalty=st.floats(1e-3, 1e3))
def test_a_weight_of_two_is_two_rows(make_support, seed, **parameters):
    support = make_support(seed)
    times = torch.tensor(np.random.default_rng(seed).integers(1, 4, len(support.y)))
    one = gaussian_start(replace(support, weight=times.double()), **parameters)
    repeated = replace(
        support,
        features=support.features.repeat_interleave(times, 0),
        y=support.y.repeat_interleave(times),
        weight=torch.ones(int(times.sum()), dtype=torch.float64),
    )
    other = gaussian_start(repeated, **parameters)
    assert_allclose(one.means, other.means, atol=1e-9)
    assert_allclose(one.text_map, other.text_map, atol=1e-9)


@given(seed=seeds, text_seen=st.booleans())
def test_turning_the_sphere_turns_nothing_that_is_seen(make_support, seed, text_seen):
    support = make_support(seed, text_seen=text_seen)
    rng = np.random.default_rng(seed)
    turn = torch.tensor(np.linalg.qr(rng.normal(size=(6, 6)))[0])
    turned = replace(
        support, features=support.features @ turn, text=support.text @ turn
    )
    one, other = (
        gaussian_start(each, map_penalty=1.0, text_penalty=10.0)
        for each in (support, turned)
    )
    assert_allclose(other.means, one.means @ turn, atol=1e-9)
    assert_allclose(every_row(other, turned), every_row(one, support), atol=1e-9)


@given(seed=seeds)
def test_more_rows_shrink_less_and_draw_the_means_to_themselves(make_support, seed):
    support = make_support(seed)
    starts = [
        gaussian_start(
            replace(support, weight=k * support.weight),
            map_penalty=1.0,
            text_penalty=10.0,
        )
        for k in (1e-6, 1.0, 1e6)
    ]
    shapes = [np.linalg.cond(start.map.numpy()) for start in starts]
    assert shapes == sorted(shapes)
    assert shapes[0] < 1 + 1e-3
    F, y, weight = (x.numpy() for x in (support.features, support.y, support.weight))
    own = np.stack([np.average(F[y == c], 0, weight[y == c]) for c in range(4)])
    assert_allclose(starts[-1].means + starts[-1].centre, own, atol=1e-3)
    assert np.abs(starts[0].means.numpy() + starts[0].centre.numpy() - own).max() > 0.05


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
    start = gaussian_start(support, map_penalty=0.0, text_penalty=1e-3)
    mapped = start.mapped.numpy()
    within = sum(np.cov(mapped[y == c].T) for c in range(4)) / 4
    assert np.linalg.cond(within) < 1.01


def test_texts_are_never_believed_to_point_away(make_support):
    support = make_support()
    F, y = support.features.numpy(), support.y.numpy()
    centred = F - F.mean(axis=0)
    opposite = -np.stack([centred[y == c].mean(axis=0) for c in range(4)])
    support = replace(support, text=torch.tensor(opposite))
    start = gaussian_start(support, map_penalty=0.0, text_penalty=1e12)
    moved = start.means.numpy() - 0.05 * (opposite - opposite.mean(axis=0))
    # All that is left to the classes is an offset that they share.
    assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)


WEIGHTS = {
    "one": lambda n: np.ones(n),
    "tiny": lambda n: np.full(n, 1e-6),
    "huge": lambda n: np.full(n, 1e6),
    "mixed": lambda n: np.resize([1.0, 1e6, 1e-6], n),
}


@pytest.mark.slow
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("text_penalty", [0.0, 10.0, math.inf])
def test_single_precision_is_finite_and_near_double(
    make_support, text_penalty, text_seen, weights
):
    for n_rows in (4, 12):
        found = []
        for dtype in (torch.float32, torch.float64):
            support = make_support(
                1, 4, n_rows, 8, text_seen=text_seen, dtype=np.float32
            )
            support = replace(
                support,
                features=support.features.to(dtype),
                weight=torch.tensor(WEIGHTS[weights](n_rows), dtype=dtype),
                text=support.text.to(dtype),
            )
            for map_penalty in (1.0, 1e6, math.inf):
                start = gaussian_start(
                    support, map_penalty=map_penalty, text_penalty=text_penalty
                )
                for name in ("centre", "map", "means", "text_map", "text_intercept"):
                    assert getattr(start, name).dtype == dtype
                cosines = every_row(start, support)
                assert cosines.dtype == np.dtype(str(dtype).removeprefix("torch."))
                assert np.abs(cosines).max() < 1.001  # and not NaN
                found.append(cosines)
        # A mean that a heavy row had to itself is all rounding errors without it.
        atol = 5e-3 if text_penalty else 2
        assert_allclose(found[:3], found[3:], atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_that_was_one_row_has_no_direction_without_it(make_support, dtype):
    """Not the direction of its rounding errors: its cosines are near zero."""
    support = make_support(2, 4, 4, 8, text_seen=True, dtype=dtype)
    support = replace(support, weight=torch.full_like(support.weight, 1e6))
    start = gaussian_start(support, map_penalty=math.inf, text_penalty=1e-3)
    own = every_row(start, support)[np.arange(4), support.y]
    assert np.abs(own).max() < 0.01


@pytest.mark.parametrize("text_seen", [False, True])
def test_copies_of_two_rows_are_finite(make_support, text_seen):
    support = make_support(2, 2, 2, 5, text_seen=text_seen)
    copies = replace(
        support,
        features=support.features.repeat(5, 1),
        y=support.y.repeat(5),
        weight=torch.ones(10, dtype=torch.float64),
    )
    for each in (support, copies):
        for map_penalty in (0.0, 1.0):
            start = gaussian_start(each, map_penalty=map_penalty, text_penalty=10.0)
            assert np.abs(every_row(start, each)).max() < 1.001
