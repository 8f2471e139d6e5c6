"""Episodic training of a prior, with early stopping on labels that are kept aside."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import starmap
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.utils import check_random_state

from skfewshot._rows import unit_rows
from skfewshot._torch import to_numpy
from skfewshot.multilabel._calibration import (
    ONE_SHOT_SHARE,
    fit_sigmoid,
    score_left_out,
)
from skfewshot.multilabel._interaction import (
    BaseSet,
    Episode,
    PriorNetwork,
    Shares,
    episode_losses,
    episode_scores,
)
from skfewshot.multilabel._prior_state import network_options
from skfewshot.multilabel._prototypes import (
    centre_labels,
    label_sums,
    make_pairs,
    text_shares,
)
from skfewshot.multilabel._selection import select

#: Labels and images to learn from, and those kept aside.
Split: TypeAlias = tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]
#: Images on which the calibration is started, at most.
_MOST_STARTED = 300
#: Episodes on kept-aside labels, by which training is judged, at each end of the shots.
_JUDGED = 3
#: The few numbers that are no matrices, and their learning rate beside the others'.
_FEW = ("calibration", "interaction_weight")
_FEW_RATE = 100.0
#: Shares of the text that are tried on the labels kept aside.
_TRIED_SHARES = np.linspace(0.05, 0.95, 19).tolist()
# Mean average precision that a share has to gain to be far from the usual one: few
# labels are kept aside, and what they want differs by chance.
_SHARE_PULL = 0.1


def train_prior(prior: Any, base: BaseSet, callback: Callable[..., bool]) -> None:
    r"""Train by episodes, and set what was learned; the loss of one is

    .. math::

        \mathrm{BCE}(s(\varphi(g_q), p_l), Y_{ql}) + \lambda_A L_{\mathrm{CM}}
        + \lambda_M (\|\Delta_v\|^2 + 10 \|\Delta_t\|^2)

    Parameters
    ----------
    prior : MultiLabelPrototypePrior
        Of which the parameters say how to train, and what.
    base : BaseSet
    callback : callable
        ``callback(episode, loss, state)`` after each episode; True stops.
    """
    rng = check_random_state(prior.random_state)
    generator = np.random.default_rng(rng.randint(2**31 - 1, size=4))
    options = {**network_options(prior), "calibration": _start(base, generator)}
    # The CPU's generator alone: torch.manual_seed would seed those of GPUs too.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(generator.integers(2**31)))
        network = PriorNetwork(**options).to(base.device)
    indicator, n_episodes = base.support.indicator, prior.n_episodes
    split = split_labels(indicator, prior.validation_fraction, generator)
    judge = _Judge(base, split, generator, prior)
    trainer = _Trainer(network, prior.learning_rate, n_episodes)
    noise = torch.Generator(device="cpu").manual_seed(int(generator.integers(2**31)))
    losses, scores = list[float](), [judge.score(network)]
    best_episode, state = 0, _state(network)

    def draw(labels: NDArray, images: NDArray) -> Episode:
        sizes = prior.n_way, prior.shots, prior.n_query
        return draw_episode(generator, indicator, labels, images, *sizes)

    for number in range(1, n_episodes + 1):
        episode, other = draw(*split[0]), draw(*split[1])
        noisy = prior.label_noise, noise
        query_loss, alignment = episode_losses(network, base, episode, *noisy)
        penalty = (network.image_map**2).sum() + 10 * (network.label_map**2).sum()
        loss = query_loss + prior.alignment_weight * alignment
        loss = loss + prior.map_penalty * penalty
        trainer.step(loss, episode_losses(network, base, other)[0])
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise ValueError(
                f"The loss of episode {number} is {losses[-1]}; lower learning_rate, "
                "which is too large, or scale."
            )
        if number % prior.eval_every == 0 or number == n_episodes:
            scores.append(judge.score(network))
            if scores[-1] > max(scores[:-1]):
                best_episode, state = number, _state(network)
        stop = callback(number, losses[-1], partial(_state, network))
        if stop or len(scores) - 1 - np.argmax(scores) >= prior.patience:
            break
    prior.loss_curve_, prior.validation_scores_ = losses, scores
    prior.best_episode_, prior.n_iter_ = best_episode, len(losses)
    prior.state_ = {**state, "share": judge.best_share(network, state)}


def draw_episode(
    rng: np.random.Generator,
    indicator: NDArray,
    labels: NDArray,
    images: NDArray,
    n_way: int,
    shots: Sequence[int],
    n_query: int,
) -> Episode:
    """Draw labels, a support with about `shots` images of each, and queries.

    Parameters
    ----------
    rng : numpy.random.Generator
    indicator : ndarray of shape (N, L)
    labels, images : ndarray of int
        Those to draw from.
    n_way, n_query : int
        How many labels and query images at most.
    shots : tuple of two int
        Fewest and most images a label, of which one number is drawn.
    """
    chosen = np.sort(rng.permutation(labels)[:n_way])
    of_labels = np.zeros((len(indicator), len(chosen)), dtype=bool)
    of_labels[images] = indicator[np.ix_(images, chosen)] > 0
    wanted = int(rng.integers(shots[0], shots[1], endpoint=True))
    # Half of a label's images at most, so that there are some to ask about.
    goal = np.minimum(wanted, np.maximum(of_labels.sum(axis=0) // 2, 1))
    order = rng.permutation(np.flatnonzero(of_labels.any(axis=1)))
    found = np.zeros(len(chosen), dtype=int)
    support = []
    for image in order:
        if (of_labels[image] & (found < goal)).any():
            support.append(image)
            found += of_labels[image]
    # An episode asks about something, even if all images would serve to learn from.
    rest = order[~np.isin(order, support)]
    if not len(rest):
        support, rest = support[:-1], np.array(support[-1:], dtype=int)
    return Episode(np.sort(support), np.sort(rest[:n_query]), chosen, wanted)


def _start(base: BaseSet, rng: np.random.Generator) -> tuple[float, ...]:
    """Return where the network's calibration starts, from left-out scores."""
    rows = np.sort(rng.permutation(len(base.support.weight))[:_MOST_STARTED])
    support, psi = base.support[rows], unit_rows(centre_labels(base.vectors))
    scale, n_select = base.scorer.scale, base.scorer.n_top
    selection = select(support, base.means, psi, base.selection, n_select, scale)
    mapped = support.mapped(base.means)
    pairs = make_pairs(mapped, selection, psi, scale)
    shares = text_shares(ONE_SHOT_SHARE, label_sums(pairs, len(psi))[1], True)
    scorer, left_out = score_left_out(mapped, pairs, psi, shares, base.scorer)
    fitted = fit_sigmoid(left_out, support.indicator, support.weight)
    sharpness = float(np.log(scorer.sharpness))
    return fitted.slope, float(fitted.bias[0]), scorer.background, sharpness


def split_labels(
    indicator: NDArray, fraction: float, generator: np.random.Generator
) -> Split:
    """Return labels and images to learn from, and those kept aside.

    Images with a label that is kept aside are kept aside too: as background of other
    labels they would tell the maps what those labels look like.
    """
    order = generator.permutation(np.flatnonzero(indicator.sum(axis=0) >= 2))
    n_aside = max(2, round(fraction * len(order)))
    aside, labels = np.sort(order[:n_aside]), np.sort(order[n_aside:])
    shows_one = indicator[:, aside].any(axis=1)
    n_usable = int(indicator[np.ix_(~shows_one, labels)].any(axis=1).sum())
    if n_usable < 2 or shows_one.sum() < 2:
        raise ValueError(
            f"Y_base has {n_usable} images of labels to learn from and "
            f"{shows_one.sum()} of the {n_aside} labels that are kept aside; wanted at "
            "least 2 of each. Pass more images, or lower validation_fraction."
        )
    images, images_aside = np.flatnonzero(~shows_one), np.flatnonzero(shows_one)
    return (labels, images), (aside, images_aside)


class _Trainer:
    """Adam on two losses: of labels to learn from, and of labels kept aside.

    The many numbers of the matrices come to know the labels that they learn from. The
    few that say how far to trust the patches and the interaction have to hold for
    labels that the matrices do not know, and so they see only those kept aside.
    """

    def __init__(
        self, network: PriorNetwork, learning_rate: float, n_episodes: int
    ) -> None:
        named = list(network.named_parameters())
        self.few = [p for name, p in named if name in _FEW]
        self.many = [p for name, p in named if name not in _FEW]
        self.optimizer = torch.optim.Adam(self.many, learning_rate)
        few = {"params": self.few, "lr": _FEW_RATE * learning_rate}
        self.optimizer.add_param_group(few)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, n_episodes
        )

    def step(self, loss: torch.Tensor, kept_aside_loss: torch.Tensor) -> None:
        """Take one step, each loss moving the numbers that it may move."""
        self.optimizer.zero_grad()
        loss.backward(inputs=self.many)
        kept_aside_loss.backward(inputs=self.few)
        self.optimizer.step()
        self.schedule.step()


class _Judge:
    """Judges a network by how well labels kept aside are ranked.

    In its episodes they stand among the labels that were learned from, as hard as
    problems of many labels are.
    """

    def __init__(
        self, base: BaseSet, split: Split, generator: np.random.Generator, prior: Any
    ) -> None:
        (labels, _), (aside, images) = split
        self.base, self.aside = base, aside
        drawn_from = base.support.indicator, np.concatenate([labels, aside]), images
        self.episodes = [
            draw_episode(generator, *drawn_from, 2 * prior.n_way, (n, n), 150)
            for n in sorted(set(prior.shots))
            for _ in range(_JUDGED)
        ]

    def score(self, network: PriorNetwork) -> float:
        """Return the mean average precision over all episodes."""
        return float(np.nanmean([self._precisions(network, e) for e in self.episodes]))

    def best_share(self, network: PriorNetwork, state: dict[str, NDArray]) -> NDArray:
        """Return the text's share, as the network holds it, that fits best.

        What training made of it is not kept: the label map comes to know the base
        labels, and would have the text trusted more than novel labels deserve.
        """
        network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
        by_shots: dict[int, list[list[float]]] = {}
        for episode in self.episodes:
            found = self._precisions(network, episode, _TRIED_SHARES)
            by_shots.setdefault(episode.shots, []).append(found)
        tried = np.array(_TRIED_SHARES[1:-1])
        points = []
        for shots, curves in sorted(by_shots.items()):
            curve = np.convolve(np.nanmean(curves, axis=0), [0.25, 0.5, 0.25], "valid")
            cost = _SHARE_PULL * (tried - ONE_SHOT_SHARE) ** 2 - curve
            points.append((np.log(shots), logit(tried[cost.argmin()])))
        slope = np.exp(state["share"][1])
        if len(points) == 2:
            (less, high), (more, low) = points
            slope = max((high - low) / (more - less), 1e-3)
        level = np.mean([share + slope * log_shots for log_shots, share in points])
        return np.array([level, np.log(slope)], dtype=state["share"].dtype)

    def _precisions(
        self, network: PriorNetwork, episode: Episode, shares: Shares = (None,)
    ) -> list[float]:
        """Return the mean average precision of an episode under each share."""
        scores = episode_scores(network, self.base, episode, shares)
        if not all(np.isfinite(found).all() for found in scores):
            raise ValueError(
                "The scores of labels kept aside are not finite; lower learning_rate, "
                "which is too large, or scale."
            )
        truth = self.base.truth(episode.query, episode.labels)
        judged = np.isin(episode.labels, self.aside) & truth.any(axis=0)
        if not judged.any():
            return [np.nan] * len(scores)
        pairs = [zip(truth.T[judged], found.T[judged], strict=True) for found in scores]
        return [float(np.mean(list(starmap(average_precision, p)))) for p in pairs]


def average_precision(truth: NDArray, scores: NDArray) -> float:
    """Return what scikit-learn's does, which takes as long to check its arguments.

    Thousands are computed in a training, one for each label, share and episode.
    """
    order = np.argsort(-scores)
    # Of equal scores the last: together they pass a threshold.
    last = np.flatnonzero(np.append(np.diff(scores[order]), 1))
    n_found = np.cumsum(truth[order], dtype=np.float64)[last]
    gains = np.diff(n_found, prepend=0) / n_found[-1]
    return float((gains * n_found / (last + 1)).sum())


def _state(network: PriorNetwork) -> dict[str, NDArray]:
    return {name: to_numpy(value) for name, value in network.state_dict().items()}
