"""Episodic training of a prior, with early stopping on labels that are kept aside."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from scipy.special import logit

from skfewshot._torch import to_numpy
from skfewshot.metrics import mean_average_precision
from skfewshot.multilabel.episodes import draw_episode
from skfewshot.multilabel.interaction import PriorNetwork
from skfewshot.multilabel.support import ONE_SHOT_SHARE

#: Episodes on kept-aside labels, by which training is judged, at each end of the shots.
_JUDGED = 3
#: The few numbers that are no matrices, and their learning rate beside the others'.
_FEW = ("calibration", "interaction_weight")
_FEW_RATE = 100.0
#: Shares of the text that are tried on the labels kept aside.
_TRIED_SHARES = np.linspace(0.05, 0.95, 19)
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

    losses: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    best_episode: int = 0
    state: dict = field(default_factory=dict)


def train_prior(
    data,
    *,
    network_options,
    rng,
    n_episodes,
    n_way,
    shots,
    n_query,
    learning_rate,
    map_penalty,
    alignment_weight,
    label_noise,
    validation_fraction,
    eval_every,
    patience,
    callback=None,
):
    r"""Train by episodes; the loss of one is

    .. math::

        \mathrm{BCE}(s(\varphi(g_q), p_l), Y_{ql}) + \lambda_A L_{\mathrm{CM}}
        + \lambda_M (\|\Delta_v\|^2 + 10 \|\Delta_t\|^2)

    Parameters
    ----------
    data : EpisodeData
    network_options : dict
        Parameters of :class:`PriorNetwork`.
    rng : numpy.random.RandomState
    n_episodes, n_way, shots, n_query, learning_rate, map_penalty, alignment_weight, \
            label_noise, validation_fraction, eval_every, patience
        See :class:`skfewshot.multilabel.MultiLabelPrototypePrior`.
    callback : callable, default=None
        ``callback(episode, loss, state)`` after each episode; True stops.

    Returns
    -------
    History
    """
    generator = np.random.default_rng(rng.randint(2**31 - 1, size=4))
    start = data.untrained_calibration(generator, network_options["share"])
    options = {**network_options, "calibration": start}
    network = _seeded_network(options, generator, data.device)
    split = _split_labels(data.indicator, validation_fraction, generator)
    judge = _Judge(data, split, generator, n_way=n_way, shots=shots)
    trainer = _Trainer(network, learning_rate, n_episodes)
    noise = torch.Generator(device="cpu").manual_seed(int(generator.integers(2**31)))
    history = History(scores=[judge.score(network)], state=_state(network))
    since_best = 0
    draw = partial(
        draw_episode,
        generator,
        data.indicator,
        n_way=n_way,
        shots=shots,
        n_query=n_query,
    )
    for number in range(1, n_episodes + 1):
        query_loss, alignment = data.losses(
            network, draw(split.labels, split.images), label_noise, noise
        )
        penalty = (network.image_map**2).sum() + 10 * (network.label_map**2).sum()
        loss = query_loss + alignment_weight * alignment + map_penalty * penalty
        aside = draw(split.labels_aside, split.images_aside)
        trainer.step(loss, data.losses(network, aside)[0])
        history.losses.append(float(loss.detach()))
        if not np.isfinite(history.losses[-1]):
            raise ValueError(
                f"The loss of episode {number} is {history.losses[-1]}; lower "
                "learning_rate, which is too large, or scale."
            )
        if number % eval_every == 0 or number == n_episodes:
            history.scores.append(judge.score(network))
            since_best += 1
            if history.scores[-1] > max(history.scores[:-1]):
                history.best_episode, history.state = number, _state(network)
                since_best = 0
        stop = callback is not None and callback(
            number, history.losses[-1], lambda: _state(network)
        )
        if stop or since_best >= patience:
            break
    history.state["share"] = judge.best_share(network, history.state)
    return history


@dataclass(frozen=True)
class Split:
    """Labels and images to learn from, and those kept aside.

    Images with a label that is kept aside are kept aside too: as background of other
    labels they would tell the maps what those labels look like.
    """

    labels: np.ndarray
    images: np.ndarray
    labels_aside: np.ndarray
    images_aside: np.ndarray


def _split_labels(indicator, fraction, generator):
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

    def __init__(self, network, learning_rate, n_episodes):
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

    def step(self, loss, kept_aside_loss):
        """Take one step, each loss moving the numbers that it may move."""
        for parameters, of_them in ((self.many, loss), (self.few, kept_aside_loss)):
            gradients = torch.autograd.grad(of_them, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        self.schedule.step()


def _seeded_network(options, generator, device):
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

    def __init__(self, data, split, generator, *, n_way, shots):
        self.data = data
        self.aside = split.labels_aside
        everything = np.concatenate([split.labels, split.labels_aside])
        self.episodes = [
            draw_episode(
                generator,
                data.indicator,
                everything,
                split.images_aside,
                n_way=2 * n_way,
                shots=(n, n),
                n_query=150,
            )
            for n in sorted(set(shots))
            for _ in range(_JUDGED)
        ]

    def score(self, network):
        """Return the mean average precision over all episodes."""
        return float(np.nanmean([self._precisions(network, e) for e in self.episodes]))

    def best_share(self, network, state):
        """Return the text's share, as the network holds it, that fits best.

        What training made of it is not kept: the label map comes to know the base
        labels, and would have the text trusted more than novel labels deserve.
        """
        network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
        by_shots = {}
        for episode in self.episodes:
            found = self._precisions(network, episode, _TRIED_SHARES)
            by_shots.setdefault(episode.shots, []).append(found)
        tried = _TRIED_SHARES[1:-1]
        points = []
        for shots, found in sorted(by_shots.items()):
            curve = np.convolve(np.nanmean(found, axis=0), [0.25, 0.5, 0.25], "valid")
            cost = _SHARE_PULL * (tried - ONE_SHOT_SHARE) ** 2 - curve
            points.append((np.log(shots), logit(tried[cost.argmin()])))
        slope = np.exp(state["share"][1])
        if len(points) == 2:
            (less, high), (more, low) = points
            slope = max((high - low) / (more - less), 1e-3)
        level = np.mean([share + slope * log_shots for log_shots, share in points])
        return np.array([level, np.log(slope)], dtype=state["share"].dtype)

    def _precisions(self, network, episode, shares=(None,)):
        """Return the mean average precision of an episode under each share."""
        scores, truth = self.data.scores(network, episode, shares)
        if not all(np.isfinite(found).all() for found in scores):
            raise ValueError(
                "The scores of labels kept aside are not finite; lower learning_rate, "
                "which is too large, or scale."
            )
        judged = np.isin(episode.labels, self.aside)
        if not judged.any():
            return [np.nan] * len(scores)
        return [
            mean_average_precision(
                truth[:, judged], found[:, judged], return_left_out=True
            )[0]
            for found in scores
        ]


def _state(network):
    return {name: to_numpy(value) for name, value in network.state_dict().items()}
