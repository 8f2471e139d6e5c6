"""Episodic training of a prior, with early stopping on labels that are kept aside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit

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
    episode_losses,
    episode_scores,
)
from skfewshot.multilabel._prototypes import (
    centre_labels,
    label_sums,
    make_pairs,
    text_shares,
)
from skfewshot.multilabel._selection import select

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


@dataclass
class History:
    """What happened in training.

    Attributes
    ----------
    losses : list of float
        The loss of each episode.
    scores : list of float
        Mean average precision on kept-aside labels, before training and after every
        `eval_every` episodes.
    best_episode : int
        After how many episodes the score was highest.
    state : dict of str to ndarray
        The parameters then.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_episode: int = 0
    state: dict[str, NDArray] = field(default_factory=dict)


def train_prior(
    base: BaseSet,
    *,
    network_options: dict[str, Any],
    rng: np.random.RandomState,
    n_episodes: int,
    n_way: int,
    shots: tuple[int, ...],
    n_query: int,
    learning_rate: float,
    map_penalty: float,
    alignment_weight: float,
    label_noise: float,
    validation_fraction: float,
    eval_every: int,
    patience: int,
    callback: Callable[..., bool] | None = None,
) -> History:
    r"""Train by episodes; the loss of one is

    .. math::

        \mathrm{BCE}(s(\varphi(g_q), p_l), Y_{ql}) + \lambda_A L_{\mathrm{CM}}
        + \lambda_M (\|\Delta_v\|^2 + 10 \|\Delta_t\|^2)

    Parameters
    ----------
    base : BaseSet
    network_options : dict
        Parameters of :class:`PriorNetwork`.
    rng : numpy.random.RandomState
    n_episodes, n_way, shots, n_query, learning_rate, map_penalty, alignment_weight, \
            label_noise, validation_fraction, eval_every, patience
        See :class:`skfewshot.multilabel.MultiLabelPrototypePrior`.
    callback : callable, default=None
        ``callback(episode, loss, state)`` after each episode; True stops.
    """
    generator = np.random.default_rng(rng.randint(2**31 - 1, size=4))
    start = _start_calibration(base, generator, network_options["share"])
    options = {**network_options, "calibration": start}
    network = _seeded_network(options, generator, base.device)
    indicator = base.support.indicator
    split = split_labels(indicator, validation_fraction, generator)
    judge = _Judge(base, split, generator, n_way=n_way, shots=shots)
    trainer = _Trainer(network, learning_rate, n_episodes)
    noise = torch.Generator(device="cpu").manual_seed(int(generator.integers(2**31)))
    history = History(scores=[judge.score(network)], state=_state(network))
    since_best = 0

    def draw(labels: NDArray, images: NDArray) -> Episode:
        sizes: dict[str, Any] = {"n_way": n_way, "shots": shots, "n_query": n_query}
        return draw_episode(generator, indicator, labels, images, **sizes)

    for number in range(1, n_episodes + 1):
        episode = draw(split.labels, split.images)
        query_loss, alignment = episode_losses(
            network, base, episode, label_noise, noise
        )
        penalty = (network.image_map**2).sum() + 10 * (network.label_map**2).sum()
        loss = query_loss + alignment_weight * alignment + map_penalty * penalty
        aside = draw(split.labels_aside, split.images_aside)
        trainer.step(loss, episode_losses(network, base, aside)[0])
        history.losses.append(_finite(loss, number))
        if number % eval_every == 0 or number == n_episodes:
            history.scores.append(judge.score(network))
            since_best += 1
            if history.scores[-1] > max(history.scores[:-1]):
                history.best_episode, history.state = number, _state(network)
                since_best = 0
        stop = callback is not None and callback(
            number, history.losses[-1], partial(_state, network)
        )
        if stop or since_best >= patience:
            break
    history.state["share"] = judge.best_share(network, history.state)
    return history


def _finite(loss: torch.Tensor, number: int) -> float:
    """Return the loss of an episode as a number, and refuse one that is none."""
    found = float(loss.detach())
    if not np.isfinite(found):
        raise ValueError(
            f"The loss of episode {number} is {found}; lower learning_rate, which is "
            "too large, or scale."
        )
    return found


def draw_episode(
    rng: np.random.Generator,
    indicator: NDArray,
    labels: NDArray,
    images: NDArray,
    *,
    n_way: int,
    shots: tuple[int, ...],
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


def _start_calibration(
    base: BaseSet, rng: np.random.Generator, share: float
) -> tuple[float, float, float, float]:
    """Return where the network's calibration starts, from left-out scores."""
    rows = np.sort(rng.permutation(len(base.support.weight))[:_MOST_STARTED])
    support, psi = base.support[rows], unit_rows(centre_labels(base.vectors))
    scale, n_select = base.scorer.scale, base.scorer.n_top
    options: dict[str, Any] = {"method": base.selection, "n_select": n_select}
    selection = select(support, base.means, psi, scale=scale, **options)
    mapped = support.mapped(base.means)
    pairs = make_pairs(mapped, selection, psi, scale=scale)
    shares = text_shares(share, label_sums(pairs, len(psi))[1], True)
    scorer, left_out = score_left_out(mapped, pairs, psi, shares, base.scorer)
    fitted = fit_sigmoid(left_out, support.indicator, support.weight)
    sharpness = float(np.log(scorer.sharpness))
    return fitted.slope, float(fitted.bias[0]), scorer.background, sharpness


@dataclass(frozen=True)
class Split:
    """Labels and images to learn from, and those kept aside.

    Images with a label that is kept aside are kept aside too: as background of other
    labels they would tell the maps what those labels look like.
    """

    labels: NDArray
    images: NDArray
    labels_aside: NDArray
    images_aside: NDArray


def split_labels(
    indicator: NDArray, fraction: float, generator: np.random.Generator
) -> Split:
    """Keep a share of the labels aside, and all images that have one of them."""
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
    images = np.flatnonzero(~shows_one)
    return Split(labels, images, aside, np.flatnonzero(shows_one))


class _Trainer:
    """Adam on two losses: of labels to learn from, and of labels kept aside.

    The many numbers of the matrices come to know the labels that they learn from. The
    few that say how far to trust the patches and the interaction have to hold for
    labels that the matrices do not know, and so they see only those kept aside.
    """

    def __init__(
        self, network: PriorNetwork, learning_rate: float, n_episodes: int
    ) -> None:
        named = dict(network.named_parameters())
        self.few = [p for name, p in named.items() if name in _FEW]
        self.many = [p for name, p in named.items() if name not in _FEW]
        self.optimizer = torch.optim.Adam(
            [
                {"params": self.few, "lr": _FEW_RATE * learning_rate},
                {"params": self.many, "lr": learning_rate},
            ]
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, n_episodes
        )

    def step(self, loss: torch.Tensor, kept_aside_loss: torch.Tensor) -> None:
        """Take one step, each loss moving the numbers that it may move."""
        for parameters, of_them in ((self.many, loss), (self.few, kept_aside_loss)):
            gradients = torch.autograd.grad(of_them, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        self.schedule.step()


def _seeded_network(
    options: dict[str, Any], generator: np.random.Generator, device: torch.device
) -> PriorNetwork:
    """Make the network, its random weights drawn apart from torch's generators."""
    # The CPU's alone: torch.manual_seed would seed the generators of GPUs too.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(generator.integers(2**31)))
        return PriorNetwork(**options).to(device)


class _Judge:
    """Judges a network by how well labels kept aside are ranked.

    In its episodes they stand among the labels that were learned from, as hard as
    problems of many labels are.
    """

    def __init__(
        self,
        base: BaseSet,
        split: Split,
        generator: np.random.Generator,
        *,
        n_way: int,
        shots: tuple[int, ...],
    ) -> None:
        self.base = base
        self.aside = split.labels_aside
        everything = np.concatenate([split.labels, split.labels_aside])
        self.episodes = [
            draw_episode(
                generator,
                base.support.indicator,
                everything,
                split.images_aside,
                n_way=2 * n_way,
                shots=(n, n),
                n_query=150,
            )
            for n in sorted(set(shots))
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
        self,
        network: PriorNetwork,
        episode: Episode,
        shares: Sequence[float | None] = (None,),
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
        columns = np.flatnonzero(judged)
        if not len(columns):
            return [np.nan] * len(scores)
        return [
            sum(average_precision(truth[:, i], found[:, i]) for i in columns)
            / len(columns)
            for found in scores
        ]


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
