"""Episodic training of a prior, with early stopping on labels that are kept aside."""

from dataclasses import dataclass, field

import numpy as np
import torch

from skfewshot._torch import to_numpy
from skfewshot.metrics import mean_average_precision
from skfewshot.multilabel.episodes import draw_episode
from skfewshot.multilabel.interaction import PriorNetwork

#: Episodes on kept-aside labels, by which training is judged, at each end of the shots.
_JUDGED = 3
#: Learning rate of the few numbers that are not matrices, relative to the maps'.
_SCALAR_RATE = 100.0


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
    network = _seeded_network(network_options, generator, data.device)
    train_labels, held_out = _split_labels(data, validation_fraction, generator)
    judged = [
        draw_episode(
            generator, data.indicator, held_out, n_way=n_way, shots=(n, n), n_query=100
        )
        for n in sorted(set(shots))
        for _ in range(_JUDGED)
    ]
    optimizer = _optimizer(network, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_episodes)
    noise = torch.Generator(device="cpu").manual_seed(int(generator.integers(2**31)))
    history = History(scores=[_judge(data, network, judged)], state=_state(network))
    since_best = 0
    for number in range(1, n_episodes + 1):
        episode = draw_episode(
            generator,
            data.indicator,
            train_labels,
            n_way=n_way,
            shots=shots,
            n_query=n_query,
        )
        query_loss, alignment = data.losses(network, episode, label_noise, noise)
        penalty = (network.image_map**2).sum() + 10 * (network.label_map**2).sum()
        loss = query_loss + alignment_weight * alignment + map_penalty * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
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
    return history


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


def _optimizer(network, learning_rate):
    """Adam; scores' few numbers are learned faster than the many of the matrices."""
    fast, slow = [], []
    for name, parameter in network.named_parameters():
        (fast if name in ("calibration", "share") else slow).append(parameter)
    return torch.optim.Adam(
        [
            {"params": fast, "lr": _SCALAR_RATE * learning_rate},
            {"params": slow, "lr": learning_rate},
        ]
    )


def _judge(data, network, episodes):
    scores = []
    for episode in episodes:
        predicted, truth = data.scores(network, episode)
        score, _ = mean_average_precision(truth, predicted, return_left_out=True)
        scores.append(score)
    return float(np.nanmean(scores))


def _state(network):
    return {name: to_numpy(value) for name, value in network.state_dict().items()}
