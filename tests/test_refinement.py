"""The refinement of CMM, and all three steps together, for problems side by side."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skfewshot.cross_modal import Shot, solve_cross_modal
from skfewshot.refinement import TextProblems, _TextObjective, refine_texts

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**16)
SEARCH = {"learning_rate": 1.0, "max_iter": 300, "tol": 1e-9, "chunk_size": 1000}
unit = torch.nn.functional.normalize


def make_problems(seed=0, sizes=(9, 14), n_each=3, n_classes=4, d=5, **changes):
    """Groups of unequal numbers of rows, filled up with rows of weight 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(low, high, *shape):
        size = torch.rand(*shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * size

    n_groups, most = len(sizes), max(sizes)
    start = unit(normal(n_groups, n_classes, d), dim=-1)
    y = torch.randint(0, n_classes, (n_groups, most), generator=generator)
    own = start.gather(1, y[..., None].expand(-1, -1, d))
    mapped = unit(own + 0.6 * normal(n_groups, most, d), dim=-1)
    frozen = 0.3 * mapped @ start.mT + 0.1 * normal(n_groups, most, n_classes)
    weight = uniform(0.3, 3.0, n_groups, most)
    for group, size in enumerate(sizes):
        for filled in (mapped, frozen, y, weight):
            filled[group, size:] = 0
    return TextProblems(
        mapped=mapped,
        frozen=frozen,
        y=y,
        weight=weight,
        start=start,
        intercept=0.3 * normal(n_groups, n_each, n_classes),
        text_penalty=uniform(1.0, 20.0, n_groups),
        scale=uniform(5.0, 20.0, n_groups, n_each),
        alpha=uniform(0.2, 2.0, n_groups, n_each),
        margin=uniform(0.0, 0.5, n_groups, n_each),
        triplet_weight=changes.pop("triplet_weight", 1.0),
    )


def alone(problems, group, each):
    """Problem `each` of a group by itself, without the rows that fill it up."""
    kept = problems.weight[group] > 0
    one, its = slice(group, group + 1), (slice(group, group + 1), slice(each, each + 1))
    return TextProblems(
        mapped=problems.mapped[one, kept],
        frozen=problems.frozen[one, kept],
        y=problems.y[one, kept],
        weight=problems.weight[one, kept],
        start=problems.start[one],
        intercept=problems.intercept[its],
        text_penalty=problems.text_penalty[one],
        scale=problems.scale[its],
        alpha=problems.alpha[its],
        margin=problems.margin[its],
        triplet_weight=problems.triplet_weight,
    )


def reference_loss(problems, texts, intercepts):
    """The documented loss of a single problem, by loops over rows and classes."""
    (scale,), (alpha,), (margin,) = (
        part[0].tolist() for part in (problems.scale, problems.alpha, problems.margin)
    )
    prototypes = [t / t.norm() for t in texts]
    weights, loss = problems.weight[0].tolist(), 0.0
    for i, w in enumerate(weights):
        v, label = problems.mapped[0, i], int(problems.y[0, i])
        z = [
            float(
                scale * (problems.frozen[0, i, c] + alpha * (v @ p)) / (1 + alpha)
                + intercepts[c]
            )
            for c, p in enumerate(prototypes)
        ]
        entropy = math.log(sum(math.exp(a - max(z)) for a in z)) + max(z) - z[label]
        distances = [float((v - p).norm()) for p in prototypes]
        wrong = min(d for c, d in enumerate(distances) if c != label)
        hinge = max(0.0, distances[label] - wrong + margin)
        loss += w * (entropy + problems.triplet_weight * hinge)
    moved = ((texts - problems.start[0]) ** 2).sum()
    moved += ((intercepts - problems.intercept[0, 0]) ** 2).sum() / 10
    return (loss + float(problems.text_penalty[0] * moved)) / sum(weights)


def somewhere(objective, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n_problems = objective.shape[0] * objective.shape[1]
    return 0.3 * torch.randn(
        n_problems, objective.size, generator=generator, dtype=torch.float64
    )


@given(seed=seeds, triplet_weight=st.sampled_from([0.0, 0.7]))
@few
def test_objective_is_the_documented_loss(seed, triplet_weight):
    problems = make_problems(seed, triplet_weight=triplet_weight)
    objective = _TextObjective(problems, 1000)
    x = somewhere(objective, seed)
    texts, intercepts = objective._unpack(x)
    losses, _ = objective(x)
    for k, loss in enumerate(losses.tolist()):
        group, each = divmod(k, 3)
        expected = reference_loss(
            alone(problems, group, each), texts[group, each], intercepts[group, each]
        )
        # Only the triplet term has its kinks rounded.
        assert loss == pytest.approx(expected, abs=0.03 * triplet_weight + 1e-10)


@pytest.mark.parametrize("triplet_weight", [0.0, 0.7])
@pytest.mark.parametrize("text_penalty", [0.0, 3.0, 1e12, math.inf])
@pytest.mark.parametrize("chunk_size", [1, 5, 100])
def test_gradient_is_that_of_the_objective(chunk_size, text_penalty, triplet_weight):
    problems = make_problems(triplet_weight=triplet_weight)
    problems = replace(
        problems, text_penalty=torch.full_like(problems.text_penalty, text_penalty)
    )
    objective = _TextObjective(problems, chunk_size)
    x = somewhere(objective)
    _, gradient = objective(x)
    for seed in range(3):
        v = somewhere(objective, seed + 1)
        slope = (objective(x + 1e-6 * v)[0] - objective(x - 1e-6 * v)[0]) / 2e-6
        torch.testing.assert_close(
            slope, (gradient * v).sum(dim=1), rtol=1e-5, atol=1e-7
        )


@given(seed=seeds, chunk_size=st.integers(1, 30))
@few
def test_chunks_add_up(seed, chunk_size):
    problems = make_problems(seed)
    whole, chunked = (_TextObjective(problems, size) for size in (1000, chunk_size))
    x = somewhere(whole, seed)
    torch.testing.assert_close(whole(x), chunked(x))


@given(seed=seeds)
@few
def test_problems_side_by_side_have_the_objectives_they_have_alone(seed):
    problems = make_problems(seed)
    objective = _TextObjective(problems, 4)
    x = somewhere(objective, seed)
    losses, gradients = objective(x)
    for k in range(len(x)):
        single = _TextObjective(alone(problems, *divmod(k, 3)), 1000)
        loss, gradient = single(x[k : k + 1])
        torch.testing.assert_close(losses[k : k + 1], loss)
        torch.testing.assert_close(gradients[k : k + 1], gradient)


def test_problems_side_by_side_are_solved_as_alone():
    problems = make_problems()
    prototypes, intercepts, curves, converged = refine_texts(problems, **SEARCH)
    assert prototypes.shape == (2, 3, 4, 5)
    assert intercepts.shape == (2, 3, 4)
    assert all(converged)
    for k, curve in enumerate(curves):
        group, each = divmod(k, 3)
        one = refine_texts(alone(problems, group, each), **SEARCH)
        assert curve[-1] == pytest.approx(one[2][0][-1], rel=1e-6)
        assert curve[-1] < curve[0]
        torch.testing.assert_close(
            prototypes[group, each], one[0][0, 0], atol=2e-3, rtol=0
        )
        torch.testing.assert_close(
            intercepts[group, each], one[1][0, 0], atol=5e-3, rtol=0
        )
    norms = torch.linalg.vector_norm(prototypes, dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_the_minimum_is_one_of_the_documented_loss():
    problems = alone(make_problems(triplet_weight=0.0), 1, 2)
    (((texts,),), ((intercepts,),), ((*_, last),), _) = refine_texts(problems, **SEARCH)
    # The penalty is on texts of any length, so that of the found ones is lost here.
    found = reference_loss(problems, texts, intercepts)
    assert found < last + 0.05
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        shift = 0.1 * torch.randn(4, 6, generator=generator, dtype=texts.dtype)
        moved = reference_loss(
            problems, unit(texts + shift[:, :5], dim=1), intercepts + 5 * shift[:, 5]
        )
        assert moved > last


def test_an_infinite_penalty_freezes_its_group_alone():
    problems = make_problems()
    problems.text_penalty[0] = math.inf
    prototypes, intercepts, curves, converged = refine_texts(problems, **SEARCH)
    start = problems.start[:, None].expand_as(prototypes)
    torch.testing.assert_close(prototypes[0], start[0])
    torch.testing.assert_close(intercepts[0], problems.intercept[0])
    assert (prototypes[1] - start[1]).abs().max() > 0.01
    assert all(len(curve) == 1 for curve in curves[:3])
    assert all(converged)


def test_alpha_zero_learns_nothing_for_its_problem_alone():
    problems = make_problems(triplet_weight=0.0)
    problems.alpha[1, 0] = 0
    prototypes, intercepts, *_ = refine_texts(problems, **SEARCH)
    torch.testing.assert_close(prototypes[1, 0], problems.start[1])
    assert torch.equal(intercepts[1, 0], problems.intercept[1, 0])
    assert (prototypes[1, 1] - problems.start[1]).abs().max() > 0.01
    assert (intercepts[1, 1] - problems.intercept[1, 1]).abs().max() > 0.01
    # The intercepts stay even where the triplet loss moves the texts.
    problems = replace(problems, triplet_weight=1.0)
    intercepts = refine_texts(problems, **SEARCH)[1]
    assert torch.equal(intercepts[1, 0], problems.intercept[1, 0])


def test_each_problem_has_a_margin_of_its_own():
    problems = make_problems(n_each=2)
    for part in (problems.scale, problems.alpha, problems.intercept):
        part[:, 1] = part[:, 0]
    problems.margin[:] = torch.tensor([0.0, 2.0])
    prototypes, *_ = refine_texts(problems, **SEARCH)
    assert (prototypes[:, 0] - prototypes[:, 1]).abs().amax() > 0.01
    problems.margin[:] = 0.3
    prototypes, *_ = refine_texts(problems, **SEARCH)
    torch.testing.assert_close(prototypes[:, 0], prototypes[:, 1])


def test_no_iteration_gives_the_start():
    problems = make_problems()
    found = refine_texts(problems, **SEARCH | {"max_iter": 0})
    prototypes, intercepts, curves, converged = found
    torch.testing.assert_close(prototypes, problems.start[:, None].expand(-1, 3, 4, 5))
    assert torch.equal(intercepts, problems.intercept)
    assert [len(curve) for curve in curves] == [1] * 6
    assert converged == [False] * 6


def test_callback_gives_the_state_so_far_and_can_stop():
    problems, seen = make_problems(), []

    def callback(curves, state):
        seen.append(state())
        return len(seen) == 2

    prototypes, intercepts, curves, _ = refine_texts(
        problems, **SEARCH, callback=callback
    )
    assert len(seen) == 2
    assert max(len(curve) for curve in curves) == 3
    assert torch.equal(seen[-1][0], prototypes)
    assert torch.equal(seen[-1][1], intercepts)
    assert not torch.equal(seen[0][0], prototypes)


# All three steps.

SETTINGS = {
    "temperature": None,
    "triplet_weight": 1.0,
    "logit_scale": 30.0,
    "learning_rate": 1.0,
    "max_iter": 200,
    "tol": 1e-9,
    "chunk_size": 1000,
    "text_from_support": False,
}
PENALTIES = [(1.0, 10.0), (0.0, 3.0), (math.inf, math.inf)]
ALPHA, MARGIN = [math.nan, 0.0, 0.7], [0.1, 0.2, 0.0]


def make_shots(seed=0, dtype=torch.float64, n_classes=4, d=6, sizes=(9, 17, 12)):
    generator = torch.Generator().manual_seed(seed)
    text = unit(torch.randn(n_classes, d, generator=generator, dtype=dtype), dim=1)
    shots = []
    for n_rows, penalties in zip(sizes, PENALTIES, strict=True):
        y = torch.arange(n_rows) % n_classes
        noise = torch.randn(n_rows, d, generator=generator, dtype=dtype)
        weight = 0.5 + torch.rand(n_rows, generator=generator, dtype=dtype)
        F = unit(text[y] + 0.5 * noise + 0.5, dim=1)
        shots.append(Shot(F, y, weight, text, *penalties))
    return shots


def assert_same(one, other, *, atol):
    names = ("map", "intercept", "text", "class_intercept", "text_map")
    for name in (*names, "text_intercept"):
        torch.testing.assert_close(
            getattr(one, name), getattr(other, name), atol=atol, rtol=0
        )
    assert one.alpha == pytest.approx(other.alpha, rel=1e-9)
    assert one.temperature == pytest.approx(other.temperature, rel=1e-9)
    assert one.newcomer_intercept == pytest.approx(other.newcomer_intercept, abs=1e-9)
    assert one.loss_curve[0] == pytest.approx(other.loss_curve[0], rel=1e-9)
    assert one.loss_curve[-1] == pytest.approx(other.loss_curve[-1], rel=1e-6)
    assert one.converged == other.converged


@pytest.mark.parametrize("text_from_support", [False, True])
@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("newcomers", [False, True])
def test_shots_and_scales_side_by_side_are_solved_as_alone(
    newcomers, temperature, text_from_support
):
    shots = make_shots()
    settings_ = SETTINGS | {
        "temperature": temperature,
        "text_from_support": text_from_support,
        "newcomers": newcomers,
    }
    together = solve_cross_modal(shots, alpha=ALPHA, margin=MARGIN, **settings_)
    assert [len(solutions) for solutions in together] == [3, 3, 3]
    for shot, solutions in zip(shots, together, strict=True):
        for alpha, margin, solution in zip(ALPHA, MARGIN, solutions, strict=True):
            ((one,),) = solve_cross_modal(
                [shot], alpha=[alpha], margin=[margin], **settings_
            )
            assert_same(solution, one, atol=5e-3)
            assert solution.n_iter == len(solution.loss_curve) - 1
            if not math.isnan(alpha):
                assert solution.alpha == pytest.approx(alpha)
            has_intercept = newcomers and not text_from_support and alpha != 0
            # Infinite penalties leave newcomers as good as any class.
            has_intercept &= shot.text_penalty < math.inf
            assert (abs(solution.newcomer_intercept) > 1e-3) == has_intercept
            if temperature is not None:
                assert solution.temperature == temperature


def test_a_shot_that_lacks_a_class_is_solved_as_alone_and_keeps_its_prototype():
    full, other, _ = make_shots()
    kept = other.y != 2
    lacking = replace(
        other, features=other.features[kept], y=other.y[kept], weight=other.weight[kept]
    )
    settings_ = {"alpha": [math.nan], "margin": [0.1], **SETTINGS, "max_iter": 0}
    together = solve_cross_modal([full, lacking], **settings_)
    for shot, (solution,) in zip([full, lacking], together, strict=True):
        ((one,),) = solve_cross_modal([shot], **settings_)
        assert_same(solution, one, atol=1e-9)
        of_texts = shot.text @ solution.text_map + solution.text_intercept
        of_texts = unit(of_texts @ solution.map, dim=1)
        as_text_says = (of_texts - solution.text).abs().amax(dim=1) < 1e-9
        assert as_text_says.tolist() == [False, False, shot is lacking, False]


def test_alpha_zero_leaves_what_the_texts_say():
    shots = make_shots()
    for (solution,) in solve_cross_modal(shots, alpha=[0.0], margin=[0.1], **SETTINGS):
        assert solution.alpha == 0
        assert solution.temperature == 1
        assert not solution.class_intercept.any()


def test_infinite_penalties_leave_images_and_texts_as_they_are():
    shot = make_shots()[2]
    ((solution,),) = solve_cross_modal([shot], alpha=[1.0], margin=[0.1], **SETTINGS)
    torch.testing.assert_close(solution.map, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(solution.text, shot.text)
    assert not solution.intercept.any()
    assert not solution.class_intercept.any()


def test_callback_of_all_steps_sees_every_problem():
    seen = []

    def callback(curves, state):
        seen.append(([len(curve) for curve in curves], state()))
        return len(seen) == 2

    together = solve_cross_modal(
        make_shots()[:2], alpha=ALPHA, margin=MARGIN, **SETTINGS, callback=callback
    )
    assert len(seen) == 2
    lengths, state = seen[-1]
    assert len(lengths) == 6
    assert max(lengths) == 3
    for solutions, so_far in zip(together, state, strict=True):
        for solution, other in zip(solutions, so_far, strict=True):
            assert torch.equal(solution.text, other.text)
            assert torch.equal(solution.map, other.map)
            assert solution.loss_curve[-1] == other.loss_curve[-1]


@pytest.mark.parametrize("weight", [1e-6, 1e6])
@pytest.mark.parametrize("text_from_support", [False, True])
def test_all_steps_are_finite_in_single_precision(text_from_support, weight):
    for shots in (make_shots(dtype=torch.float32), make_shots(1, torch.float32)):
        shots = [replace(shot, weight=weight * shot.weight) for shot in shots]
        settings_ = SETTINGS | {"text_from_support": text_from_support, "tol": 1e-2}
        for solutions in solve_cross_modal(
            shots, alpha=ALPHA, margin=MARGIN, **settings_
        ):
            for solution in solutions:
                assert math.isfinite(solution.loss_curve[-1])
                assert 0 <= solution.alpha < 1e6
                assert 1e-3 < solution.temperature < 100
                for name in ("map", "intercept", "text", "class_intercept", "text_map"):
                    tensor = getattr(solution, name)
                    assert tensor.dtype == torch.float32
                    assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("text_from_support", [False, True])
@pytest.mark.parametrize("penalties", [(1.0, 10.0), (1.0, 0.0), (0.0, 10.0)])
@pytest.mark.parametrize("n_rows", [4, 12])
def test_single_precision_finds_what_double_finds(n_rows, penalties, text_from_support):
    found = []
    for dtype in (torch.float32, torch.float64):
        shot = make_shots(dtype=torch.float32)[1]
        shot = Shot(
            shot.features[:n_rows].to(dtype),
            shot.y[:n_rows],
            shot.weight[:n_rows].to(dtype),
            shot.text.to(dtype),
            *penalties,
        )
        settings_ = SETTINGS | {
            "text_from_support": text_from_support,
            "newcomers": True,
            "max_iter": 0,
        }
        ((solution,),) = solve_cross_modal(
            [shot], alpha=[math.nan], margin=[0.1], **settings_
        )
        found.append(solution)
    single, double = found
    for name in ("alpha", "temperature"):
        assert getattr(single, name) == pytest.approx(getattr(double, name), rel=2e-3)
    for name in ("newcomer_intercept", "loss_curve"):
        assert getattr(single, name) == pytest.approx(getattr(double, name), abs=0.02)
    for name in ("map", "text", "class_intercept"):
        torch.testing.assert_close(
            getattr(single, name).double(), getattr(double, name), atol=0.02, rtol=0.01
        )
