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
# Mean average precision by which two shares are as good as each other.
_SHARE_TOLERANCE = 0.0005


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
    train_labels, held_out = _split_labels(data, validation_fraction, generator)
    judged = [
        draw_episode(
            generator, data.indicator, held_out, n_way=n_way, shots=(n, n), n_query=100
        )
        for n in sorted(set(shots))
        for _ in range(_JUDGED)
    ]
    trainer = _Trainer(data, network, learning_rate, n_episodes)
    noise = torch.Generator(device="cpu").manual_seed(int(generator.integers(2**31)))
    history = History(scores=[_judge(data, network, judged)], state=_state(network))
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
            network, draw(train_labels), label_noise, noise
        )
        penalty = (network.image_map**2).sum() + 10 * (network.label_map**2).sum()
        loss = query_loss + alignment_weight * alignment + map_penalty * penalty
        trainer.step(loss, data.losses(network, draw(held_out))[0])
        history.losses.append(float(loss.detach()))
        if number % eval_every == 0 or number == n_episodes:
            history.scores.append(_judge(data, network, judged))
            since_best += 1
            if history.scores[-1] > max(history.scores[:-1]):
                history.best_episode, history.state = number, _state(network)
                since_best = 0
        stop = callback is not None and callback(
            number, history.losses[-1], lambda: _state(network)
        )
        if stop or since_best >= patience:
            break
    history.state["share"] = _fit_share(data, network, history.state, judged)
    return history


class _Trainer:
    """Adam on two losses: of labels to learn from, and of labels kept aside.

    The many numbers of the matrices come to know the labels that they learn from. The
    few that say how far to trust the text, and the patches, have to hold for labels
    that the matrices do not know, and so they see only those kept aside.
    """

    def __init__(self, data, network, learning_rate, n_episodes):
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**31)))
        return PriorNetwork(**options).to(device)


def _split_labels(data, fraction, generator):
    """Keep labels aside: they give no episode for training."""
    order = generator.permutation(np.flatnonzero(data.indicator.sum(axis=0) >= 2))
    n_held_out = max(2, round(fraction * len(order)))
    return order[n_held_out:], order[:n_held_out]


def _judge(data, network, episodes):
    return float(np.nanmean([_precisions(data, network, e) for e in episodes]))


def _precisions(data, network, episode, shares=(None,)):
    """Return the mean average precision of an episode under each share of the text."""
    scores, truth = data.scores(network, episode, shares)
    return [
        mean_average_precision(truth, found, return_left_out=True)[0]
        for found in scores
    ]


def _fit_share(data, network, state, episodes):
    """Return the text's share, as the network holds it, that labels kept aside want.

    It is not trained with the rest: the label map comes to know the base labels, and
    would have the text trusted more than novel labels deserve.
    """
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in state.items()}
    )
    by_shots = {}
    for episode in episodes:
        found = _precisions(data, network, episode, _TRIED_SHARES)
        by_shots.setdefault(episode.shots, []).append(found)
    points = []
    for shots, found in sorted(by_shots.items()):
        curve = np.convolve(np.nanmean(found, axis=0), [0.25, 0.5, 0.25], "valid")
        good = _TRIED_SHARES[1:-1][curve >= curve.max() - _SHARE_TOLERANCE]
        nearest = good[np.abs(good - ONE_SHOT_SHARE).argmin()]
        points.append((np.log(shots), logit(nearest)))
    slope = np.exp(state["share"][1])
    if len(points) == 2:
        (less, high), (more, low) = points
        slope = max((high - low) / (more - less), 1e-3)
    level = np.mean([share + slope * log_shots for log_shots, share in points])
    return np.array([level, np.log(slope)], dtype=state["share"].dtype)


def _state(network):
    return {name: to_numpy(value) for name, value in network.state_dict().items()}
