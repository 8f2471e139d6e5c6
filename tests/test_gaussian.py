"""The closed form of CMM against a row-level Gaussian process written out slowly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skfewshot.gaussian import gaussian_start, left_out_cosines, newcomer_cosines

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**16)
penalties = st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e6, math.inf])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_support(seed=0, n_classes=4, n_rows=11, d=6):
    """Rows of unequal classes, weights from 0.3 to 3, and texts that know something.

    Every class has a row; some have only one.
    """
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(n_classes, d))
    spare = rng.integers(0, n_classes, n_rows - n_classes)
    y = rng.permutation(np.concatenate([np.arange(n_classes), spare]))
    F = unit(rng.normal(size=d) + concepts[y] + 0.7 * rng.normal(size=(n_rows, d)))
    noise = 0.5 * rng.normal(size=(n_classes, d))
    text = unit(2 * rng.normal(size=d) + concepts + noise)
    return F, y, rng.uniform(0.3, 3.0, n_rows), text


def solve(F, y, weight, text, *, text_seen, map_penalty, text_penalty, dtype=None):
    dtype = dtype or torch.float64
    return gaussian_start(
        torch.tensor(F, dtype=dtype),
        torch.tensor(y),
        torch.tensor(weight, dtype=dtype),
        torch.tensor(text, dtype=dtype),
        text_seen=text_seen,
        map_penalty=map_penalty,
        text_penalty=text_penalty,
    )


def left_out(start, F, y, weight, n_classes, rows=None, dtype=None):
    dtype = dtype or torch.float64
    counts = np.bincount(y, weights=weight, minlength=n_classes)
    rows = np.arange(len(y)) if rows is None else rows
    cosines = left_out_cosines(
        start,
        torch.tensor(F, dtype=dtype),
        torch.tensor(y),
        torch.tensor(weight, dtype=dtype),
        torch.tensor(counts, dtype=dtype),
        torch.tensor(rows),
    )
    return cosines.numpy()


class Reference:
    """The model of the module's docstring, by loops and dense matrices over rows."""

    def __init__(self, F, y, weight, text, *, text_seen, map_penalty, text_penalty):
        self.F, self.y, self.weight, self.text = F, y, weight, text
        n_classes, self.d = text.shape
        self.total = weight.sum()
        tp = max(text_penalty, 1e-6)
        trust = (
            0.0 if math.isinf(map_penalty) else self.total / (self.total + map_penalty)
        )
        seen = [c for c in range(n_classes) if (y == c).any()]
        class_means = {
            c: np.average(F[y == c], axis=0, weights=weight[y == c]) for c in seen
        }
        self.centre = trust * np.mean([class_means[c] for c in seen], axis=0)
        own = max(30 / tp, 1e-6) if text_seen else 1 / tp
        text_centre = trust * text.mean(axis=0)
        above = sum(
            (text[c] - text_centre) @ (class_means[c] - self.centre) for c in seen
        )
        below = sum((text[c] - text_centre) @ (text[c] - text_centre) for c in seen)
        slope = max(above / below, 0.05)
        self.K = np.empty((n_classes, n_classes))
        self.prior = np.zeros((n_classes, self.d))
        for a in range(n_classes):
            for b in range(n_classes):
                self.K[a, b] = 10 * trust + own * (a == b)
                if not text_seen:
                    t, u = text[a] - text_centre, text[b] - text_centre
                    self.K[a, b] += 3 / tp * t @ u
            if not text_seen:
                self.prior[a] = slope * (text[a] - text_centre)
        self.means = self.posterior(np.arange(len(y)))
        if text_seen:
            for c in set(range(n_classes)) - set(seen):
                self.means[c] = text[c] - self.centre
        of_rows = self.K[y][:, y]
        smoother = of_rows @ np.linalg.inv(of_rows + np.diag(1 / weight))
        self.leverage = smoother.diagonal()
        self.outer = []
        for i in range(len(y)):
            e = F[i] - self.centre - self.means[y[i]]
            self.outer.append(weight[i] / (1 - self.leverage[i]) * np.outer(e, e))
        scatter = sum(self.outer)
        n_shrunk = map_penalty * self.d
        share = 1.0 if math.isinf(n_shrunk) else n_shrunk / (n_shrunk + self.total)
        share = max(share, 1e-4)
        self.scale = (1 - share) * self.d / np.trace(scatter)
        self.covariance = self.scale * scatter + share * np.eye(self.d)

    def posterior(self, rows):
        """Means of all classes, had there been these rows alone."""
        y = self.y[rows]
        noisy = self.K[y][:, y] + np.diag(1 / self.weight[rows])
        deviations = self.F[rows] - self.centre - self.prior[y]
        return self.prior + self.K[:, y] @ np.linalg.solve(noisy, deviations)

    def left_out(self, i):
        """Cosines of row i, in the metric and with the means of the other rows."""
        others = np.delete(np.arange(len(self.y)), i)
        means, x = self.posterior(others), self.F[i] - self.centre
        metric = np.linalg.inv(self.covariance - self.scale * self.outer[i])
        return [
            x @ metric @ m / math.sqrt((x @ metric @ x) * (m @ metric @ m))
            for m in means
        ]


@given(
    seed=seeds,
    n_classes=st.integers(2, 6),
    n_spare=st.integers(1, 9),
    d=st.integers(2, 15),
    text_seen=st.booleans(),
    map_penalty=penalties,
    text_penalty=penalties,
)
@few
def test_means_and_map_are_those_of_the_written_out_model(
    seed, n_classes, n_spare, d, **parameters
):
    support = make_support(seed, n_classes, n_classes + n_spare, d)
    start, expected = solve(*support, **parameters), Reference(*support, **parameters)
    assert_allclose(start.centre, expected.centre, atol=1e-12)
    assert_allclose(start.means, expected.means, atol=1e-7)
    map_ = start.map.numpy()
    inverse = np.linalg.inv(expected.covariance)
    assert_allclose(map_ @ map_.T, inverse, rtol=1e-5, atol=1e-5 * inverse.max())


@pytest.mark.parametrize("map_penalty", [0.0, 1.0, 40.0])
@pytest.mark.parametrize("text_penalty", [0.1, 10.0, math.inf])
@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 30, 4), (4, 9, 20), (5, 6, 3)])
def test_rows_left_out_are_as_by_brute_force(
    shape, text_seen, text_penalty, map_penalty
):
    n_classes, n_rows, d = shape
    support = make_support(n_rows, n_classes, n_rows, d)
    parameters = {
        "text_seen": text_seen,
        "map_penalty": map_penalty,
        "text_penalty": text_penalty,
    }
    start, reference = solve(*support, **parameters), Reference(*support, **parameters)
    expected = [reference.left_out(i) for i in range(n_rows)]
    found = left_out(start, *support[:3], n_classes)
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-9


@pytest.mark.parametrize("map_penalty", [0.0, 1.0, math.inf])
@pytest.mark.parametrize("text_penalty", [0.1, 10.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_without_their_rows_are_as_by_brute_force(
    dtype, text_penalty, map_penalty
):
    F, y, weight, text = make_support(0, 5, 14, 7)
    kept = y != 3
    support = F[kept], y[kept], weight[kept], text
    parameters = {
        "text_seen": False,
        "map_penalty": map_penalty,
        "text_penalty": text_penalty,
    }
    reference = Reference(*support, **parameters)
    metric = np.linalg.inv(reference.covariance)
    expected = np.empty((14, 5))
    for c in range(5):
        mean = reference.posterior(np.flatnonzero(support[1] != c))[c]
        for i, x in enumerate(F - reference.centre):
            length = math.sqrt((x @ metric @ x) * (mean @ metric @ mean))
            expected[i, c] = x @ metric @ mean / length
    start = solve(*support, **parameters, dtype=dtype)
    found = newcomer_cosines(start, torch.tensor(F, dtype=dtype))
    assert found.dtype == dtype
    tolerance = 1e-3 if dtype == torch.float32 else 1e-7
    assert_allclose(found, expected, atol=tolerance)
    # The class that has none is as it is.
    own = torch.tensor(F, dtype=dtype) - start.centre
    own, mean = unit((own @ start.map).numpy()), unit((start.means @ start.map).numpy())
    assert_allclose(found[:, 3], own @ mean[3], atol=1e-5)


@given(seed=seeds, map_penalty=st.floats(0, 100), text_penalty=st.floats(0.01, 1e3))
@few
def test_rows_left_out_tell_of_classes_without_rows_too(seed, **parameters):
    F, y, weight, text = make_support(seed, 5, 14, 7)
    kept = ~np.isin(y, [1, 2])
    support = F[kept], y[kept], weight[kept], text
    parameters["text_seen"] = False
    start, reference = solve(*support, **parameters), Reference(*support, **parameters)
    expected = [reference.left_out(i) for i in range(kept.sum())]
    assert_allclose(left_out(start, *support[:3], 5), expected, rtol=1e-5, atol=1e-6)


@given(seed=seeds, data=st.data())
@few
def test_some_rows_left_out_are_those_of_all(seed, data):
    F, y, weight, text = make_support(seed)
    start = solve(
        F, y, weight, text, text_seen=False, map_penalty=1.0, text_penalty=5.0
    )
    rows = np.array(data.draw(st.lists(st.integers(0, len(y) - 1), min_size=1)))
    every = left_out(start, F, y, weight, len(text))
    assert_allclose(left_out(start, F, y, weight, len(text), rows), every[rows])


@pytest.mark.parametrize("map_penalty", [0.0, 1.0, math.inf])
@pytest.mark.parametrize("text_penalty", [0.5, 10.0])
def test_the_mean_of_a_class_without_rows_follows_from_its_text(
    text_penalty, map_penalty
):
    F, y, weight, text = make_support(3, 6, 20, 5)
    kept = np.isin(y, [0, 2, 3, 5])
    support = F[kept], y[kept], weight[kept], text
    parameters = {
        "text_seen": False,
        "map_penalty": map_penalty,
        "text_penalty": text_penalty,
    }
    start, expected = solve(*support, **parameters), Reference(*support, **parameters)
    assert_allclose(start.means, expected.means, atol=1e-9)
    of_texts = (text - start.text_centre.numpy()) @ start.text_map.numpy()
    of_texts += start.offset.numpy()
    unseen = [1, 4]
    assert_allclose(of_texts[unseen], expected.means[unseen], atol=1e-9)
    # Classes with rows follow those beyond what their texts say.
    assert np.abs(of_texts[y[kept]] - expected.means[y[kept]]).max() > 1e-3


def test_a_class_without_rows_keeps_a_text_that_is_the_image_mean():
    F, y, weight, text = make_support(3, 5, 14)
    kept = y != 2
    start = solve(
        F[kept],
        y[kept],
        weight[kept],
        text,
        text_seen=True,
        map_penalty=1.0,
        text_penalty=1.0,
    )
    assert_allclose(start.means[2], text[2] - start.centre.numpy(), atol=1e-12)
    assert start.text_map is start.text_centre is start.offset is None


@pytest.mark.parametrize("text_seen", [False, True])
def test_infinite_penalties_leave_images_and_texts_as_they_are(text_seen):
    support = make_support()
    start = solve(
        *support, text_seen=text_seen, map_penalty=math.inf, text_penalty=math.inf
    )
    assert not start.centre.any()
    assert torch.equal(start.map, torch.eye(6, dtype=torch.float64))
    if not text_seen:
        assert_allclose(unit(start.means.numpy()), support[3], atol=1e-12)
        assert not start.offset.any()


@given(seed=seeds, map_penalty=st.floats(0, 1e3), text_penalty=st.floats(1e-3, 1e3))
@few
def test_a_weight_of_two_is_two_rows(seed, map_penalty, text_penalty):
    F, y, _, text = make_support(seed)
    times = np.random.default_rng(seed).integers(1, 4, len(y))
    parameters = {
        "text_seen": False,
        "map_penalty": map_penalty,
        "text_penalty": text_penalty,
    }
    one = solve(F, y, times.astype(float), text, **parameters)
    repeated = np.repeat(np.arange(len(y)), times)
    ones = np.ones(len(repeated))
    other = solve(F[repeated], y[repeated], ones, text, **parameters)
    assert_allclose(one.means, other.means, atol=1e-9)
    assert_allclose(one.text_map, other.text_map, atol=1e-9)


@given(seed=seeds)
@few
def test_more_rows_shrink_less_and_draw_the_means_to_themselves(seed):
    F, y, weight, text = make_support(seed)
    parameters = {"text_seen": False, "map_penalty": 1.0, "text_penalty": 10.0}
    starts = [solve(F, y, k * weight, text, **parameters) for k in (1e-6, 1.0, 1e6)]
    shapes = [np.linalg.cond(start.map.numpy()) for start in starts]
    assert shapes == sorted(shapes)
    assert shapes[0] < 1 + 1e-3
    own = [
        np.average(F[y == c], axis=0, weights=weight[y == c]) for c in range(len(text))
    ]
    centred = own - starts[-1].centre.numpy()
    assert_allclose(starts[-1].means, centred, atol=1e-3)
    assert np.abs(starts[0].means.numpy() + starts[0].centre.numpy() - own).max() > 0.05


def test_the_map_makes_classes_round():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 2000)
    spread = np.array([3.0, 1.0, 0.3])
    # Flat enough to be left nearly as they are by the unit norm.
    F = 0.01 * (spread * rng.normal(size=(8000, 3)) + 3 * rng.normal(size=(4, 3))[y])
    F[:, 0] += 1
    text = unit(rng.normal(size=(4, 3)))
    start = solve(
        F, y, np.ones(8000), text, text_seen=False, map_penalty=0.0, text_penalty=1e-3
    )
    mapped = (F - start.centre.numpy()) @ start.map.numpy()
    within = sum(np.cov(mapped[y == c].T) for c in range(4)) / 4
    assert np.linalg.cond(within) < 1.1


def agree_in_single_and_double(F, y, weight, text, *, atol, **parameters):
    single, double = (
        left_out(
            solve(F, y, weight, text, dtype=dtype, **parameters),
            F,
            y,
            weight,
            len(text),
            dtype=dtype,
        )
        for dtype in (torch.float32, torch.float64)
    )
    for cosines in (single, double):
        assert np.abs(cosines).max() < 1.001  # and not NaN
    assert_allclose(single, double, atol=atol)


WEIGHTS = {
    "one": lambda n: np.ones(n),
    "tiny": lambda n: np.full(n, 1e-6),
    "huge": lambda n: np.full(n, 1e6),
    "mixed": lambda n: np.resize([1.0, 1e6, 1e-6], n),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("text_seen", [False, True])
@pytest.mark.parametrize("text_penalty", [0.0, 1e-3, 1.0, 10.0, 1e6, math.inf])
@pytest.mark.parametrize("map_penalty", [1.0, 1e6, math.inf])
def test_single_precision_is_finite_and_near_double(
    map_penalty, text_penalty, text_seen, weights
):
    for n_rows in (4, 12):
        F, y, _, text = make_support(1, 4, n_rows, 8)
        F, text = F.astype(np.float32), text.astype(np.float32)
        agree_in_single_and_double(
            F,
            y,
            WEIGHTS[weights](n_rows),
            text,
            text_seen=text_seen,
            map_penalty=map_penalty,
            text_penalty=text_penalty,
            # A mean that a heavy row had to itself is all rounding errors without it.
            atol=5e-3 if text_penalty else 2,
        )


@pytest.mark.parametrize("text_seen", [False, True])
def test_two_rows_and_copies_of_rows_are_finite(text_seen):
    F, y, weight, text = make_support(2, 2, 2, 5)
    copies = np.repeat(F, 5, axis=0)
    for map_penalty in (0.0, 1.0):
        parameters = {
            "text_seen": text_seen,
            "map_penalty": map_penalty,
            "text_penalty": 10.0,
            "atol": 0.02 if map_penalty == 0 else 1e-4,
        }
        agree_in_single_and_double(F, y, weight, text, **parameters)
        agree_in_single_and_double(
            copies, np.repeat(y, 5), np.ones(10), text, **parameters
        )


def test_dtype_stays_and_nothing_given_is_changed():
    F, y, weight, text = make_support()
    for dtype in (torch.float32, torch.float64):
        given_ = [torch.tensor(part, dtype=dtype) for part in (F, weight, text)]
        kept = [part.clone() for part in given_]
        start = gaussian_start(
            given_[0],
            torch.tensor(y),
            *given_[1:],
            text_seen=False,
            map_penalty=1.0,
            text_penalty=1.0,
        )
        left_out(start, F, y, weight, len(text), dtype=dtype)
        for before, after in zip(kept, given_, strict=True):
            assert torch.equal(before, after)
        for name in ("centre", "map", "means", "text_map", "text_centre", "offset"):
            assert getattr(start, name).dtype == dtype


def test_texts_are_never_believed_to_point_away():
    F, y, weight, _ = make_support()
    centred = F - F.mean(axis=0)
    opposite = unit(-np.stack([centred[y == c].mean(axis=0) for c in range(4)]))
    start = solve(
        F,
        y,
        weight,
        opposite,
        text_seen=False,
        map_penalty=0.0,
        text_penalty=1e12,
    )
    text_centre = opposite.mean(axis=0)
    prior = 0.05 * (opposite - text_centre)
    moved = start.means.numpy() - prior
    # All that is left to the classes is an offset that they share.
    assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)
