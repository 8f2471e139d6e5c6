"""The losses against slow, obvious references, and their gradients against autograd."""

import math

import pytest
import torch

from skfewshot.losses import (
    cmm_logits,
    cross_entropy,
    normalize_rows,
    normalize_rows_backward,
    triplet,
)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(draw(*shape, seed=seed), dim=1)


@pytest.fixture
def rows():
    """Cosines of 12 rows to 4 prototypes, labels and weights."""
    cosines = unit(12, 6, seed=1) @ unit(4, 6, seed=2).T
    return cosines, torch.arange(12) % 4, draw(12, seed=3).abs() / 12


def reference_triplet(cosines, y, weight, margin):
    """The sharp loss, by loops."""
    total = 0.0
    for row, label, w in zip(
        cosines.tolist(), y.tolist(), weight.tolist(), strict=True
    ):
        distances = [math.sqrt(2 - 2 * c) for c in row]
        wrong = min(d for j, d in enumerate(distances) if j != label)
        total += w * max(0.0, distances[label] - wrong + margin)
    return total


def test_normalize_rows_keeps_a_zero_row():
    x, norms = normalize_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert x.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    assert norms[0].item() == 5


def test_normalize_rows_backward():
    x = draw(5, 3).requires_grad_()
    gradient = draw(5, 3, seed=1)
    value, norms = normalize_rows(x)
    value.backward(gradient)
    found = normalize_rows_backward(gradient, value.detach(), norms.detach())
    torch.testing.assert_close(found, x.grad)


def test_cross_entropy(rows):
    cosines, y, weight = rows
    logits = (9 * cosines).requires_grad_()
    expected = torch.nn.functional.cross_entropy(logits, y, reduction="none") @ weight
    expected.backward()
    loss, gradient = cross_entropy(logits.detach(), y, weight)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, logits.grad)


def test_cross_entropy_of_certain_rows_is_finite():
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]])
    loss, gradient = cross_entropy(logits, torch.tensor([0, 1]), torch.ones(2))
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_triplet_follows_the_sharp_loss(rows, margin):
    loss, _ = triplet(*rows, margin)
    # The rounding of the two kinks moves the loss of a row by less than this.
    assert abs(loss.item() - reference_triplet(*rows, margin)) < 0.02 * rows[2].sum()


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_triplet_gradient(rows, margin):
    cosines, y, weight = rows
    _, gradient = triplet(cosines, y, weight, margin)
    step = 1e-6
    for i in range(3):
        for j in range(4):
            shift = torch.zeros_like(cosines)
            shift[i, j] = step
            up, _ = triplet(cosines + shift, y, weight, margin)
            down, _ = triplet(cosines - shift, y, weight, margin)
            expected = (up - down).item() / (2 * step)
            assert gradient[i, j].item() == pytest.approx(expected, abs=1e-6)


def test_triplet_with_two_classes_compares_with_the_other_one():
    cosines = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    loss, gradient = triplet(cosines, torch.tensor([1]), torch.ones(1), 0.1)
    assert loss.item() == pytest.approx(math.sqrt(1.6) - 1 + 0.1, abs=1e-5)
    assert gradient[0, 0] > 0 > gradient[0, 1]


def test_triplet_on_the_prototype_is_finite():
    cosines = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    loss, gradient = triplet(cosines, torch.tensor([0, 0]), torch.ones(2), 0.1)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_triplet_far_from_the_margin_is_zero():
    cosines = torch.tensor([[0.9, -0.9]])
    loss, gradient = triplet(cosines, torch.tensor([0]), torch.ones(1), 0.1)
    assert loss.item() == 0
    assert not gradient.any()


def test_cmm_logits_by_loops():
    F, T0, T = unit(3, 4), unit(2, 4, seed=1), draw(2, 4, seed=2)
    W = torch.eye(4, dtype=torch.float64) + 0.3 * draw(4, 4, seed=3)
    found = cmm_logits(F, W, T, T0, alpha=0.7, logit_scale=20.0)
    for i, f in enumerate(F):
        v = f @ W / (f @ W).norm()
        for c in range(2):
            cmm = 20 * v @ T[c] / T[c].norm()
            expected = (20 * f @ T0[c] + 0.7 * cmm) / 1.7
            torch.testing.assert_close(found[i, c], expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_cmm_logits_at_the_start_are_zero_shot(alpha):
    F, T0 = unit(5, 4), unit(3, 4, seed=1)
    identity = torch.eye(4, dtype=torch.float64)
    found = cmm_logits(F, identity, T0, T0, alpha=alpha, logit_scale=100.0)
    torch.testing.assert_close(found, 100 * F @ T0.T)


def test_alpha_zero_is_zero_shot_whatever_was_learned():
    F, T0 = unit(5, 4), unit(3, 4, seed=1)
    found = cmm_logits(
        F, draw(4, 4), draw(3, 4, seed=2), T0, alpha=0.0, logit_scale=50.0
    )
    torch.testing.assert_close(found, 50 * F @ T0.T)
