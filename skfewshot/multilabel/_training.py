"""Episodic training of a prior, with early stopping on labels that are kept aside."""

from collections.abc import Callable
from functools import partial
from itertools import starmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.utils import check_random_state

from skfewshot._torch import to_numpy
from skfewshot.multilabel._calibration import ONE_SHOT_SHARE
from skfewshot.multilabel._episodes import (
    BaseSet,
    Episode,
    Shares,
    Sizes,
    Split,
    draw_episode,
    episode_losses,
    episode_scores,
    split_labels,
)
from skfewshot.multilabel._interaction import PriorNetwork
from skfewshot.multilabel._prior_state import common_width, network_options
from skfewshot.multilabel._starts import pass_through, start_calibration, start_maps

#: Episodes on kept-aside labels, by which training is judged, at each end of the shots.
_JUDGED = 3
#: The few numbers that are no matrices, and their learning rate beside the others'.
_FEW = ("calibration", "interaction_weight")
_FEW_RATE = 100.0
#: The maps of the paper's network, and their learning rate beside the interaction's:
#: as fast as they, it would know the base labels before the maps say anything.
_OF_MAPS = ("_map", "_bias")
_MAP_RATE = 10.0
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

    with :math:`\Delta` the change of the maps of image and of label features.

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
    indicator, n_episodes = base.support.indicator, prior.n_episodes
    split = split_labels(indicator, prior.validation_fraction, generator)
    network = _start(prior, base, split, generator)
    judge = _Judge(base, split, generator, prior)
    trainer = _Trainer(network, prior)
    noise = torch.Generator(device="cpu").manual_seed(int(generator.integers(2**31)))
    losses, scores = list[float](), [judge.score(network)]
    best_episode, state = 0, _state(network)

    def draw(labels: NDArray, images: NDArray) -> Episode:
        sizes = Sizes(prior.n_way, prior.shots, prior.n_query, prior.query_shots)
        return draw_episode(generator, indicator, labels, images, sizes)

    for number in range(1, n_episodes + 1):
        noisy = prior.label_noise, noise
        query_loss, alignment = episode_losses(network, base, draw(*split[0]), *noisy)
        loss = query_loss + prior.alignment_weight * alignment
        loss = loss + prior.map_penalty * trainer.change()
        kept_aside = None
        if trainer.few:
            kept_aside = episode_losses(network, base, draw(*split[1]))[0]
        trainer.step(loss, kept_aside)
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
    if prior.residual:
        state["share"] = judge.best_share(network, state)
    prior.state_ = state


def _start(
    prior: Any, base: BaseSet, split: Split, generator: np.random.Generator
) -> PriorNetwork:
    """Return the network that training starts from."""
    options, maps = network_options(prior), {}
    if prior.residual:
        maps = start_maps(base, *split[0], common_width(prior))
        options["calibration"] = start_calibration(base, maps, generator)
    # The CPU's generator alone: torch.manual_seed would seed those of GPUs too.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(generator.integers(2**31)))
        network = PriorNetwork(**options)
    with torch.no_grad():
        for name, matrix in maps.items():
            getattr(network, name).copy_(torch.from_numpy(matrix))
    if not prior.residual:
        pass_through(network, base, *split[0])
    return network.to(base.device)


class _Trainer:
    """Adam on two losses: of labels to learn from, and of labels kept aside.

    The many numbers of the matrices come to know the labels that they learn from. The
    few that say how far to trust the patches and the interaction have to hold for
    labels that the matrices do not know, and so they see only those kept aside. The
    paper's network has none of these few; its maps learn faster than its interaction.
    """

    def __init__(self, network: PriorNetwork, prior: Any) -> None:
        named = list(network.named_parameters())
        self.few = [p for name, p in named if name in _FEW and prior.residual]
        self.many = [p for name, p in named if name not in _FEW]
        of_maps = [p for name, p in named if name.endswith(_OF_MAPS)]
        self.maps = [network.part_map, network.whole_map, network.label_map]
        self.starts = [p.detach().clone() for p in self.maps]
        rate, n = prior.learning_rate, prior.n_episodes
        self.optimizer = torch.optim.Adam(self.many, rate)
        if prior.residual:
            few = {"params": self.few, "lr": _FEW_RATE * rate}
            self.optimizer.add_param_group(few)
        else:
            known = {id(p) for p in of_maps}
            rest = [p for p in self.many if id(p) not in known]
            groups = [{"params": of_maps, "lr": _MAP_RATE * rate}]
            groups += [{"params": rest, "lr": rate}] if rest else []
            self.optimizer = torch.optim.Adam(groups)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, n)
        self.schedule = falling

    def change(self) -> torch.Tensor:
        """Return the squared change of the maps, that of labels ten times."""
        pairs = zip(self.maps, self.starts, strict=True)
        part, whole, label = ((now - start).square().sum() for now, start in pairs)
        return part + whole + 10 * label

    def step(self, loss: torch.Tensor, kept_aside_loss: torch.Tensor | None) -> None:
        """Take one step, each loss moving the numbers that it may move."""
        self.optimizer.zero_grad()
        loss.backward(inputs=self.many)
        if kept_aside_loss is not None:
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
        n_way = None if prior.n_way is None else 2 * prior.n_way
        # Rare labels want many queries, and global features cost next to nothing.
        n_query = 1000 if prior.query_scoring == "global" else 150
        self.episodes = [
            draw_episode(generator, *drawn_from, Sizes(n_way, (n, n), n_query))
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
