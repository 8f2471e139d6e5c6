"""Few-shot problems drawn from base labels: what is learned in one, and its losses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from skfewshot._torch import to_numpy, to_tensor
from skfewshot.multilabel._interaction import Mapped, PriorNetwork
from skfewshot.multilabel._prior_state import image_maps
from skfewshot.multilabel._prototypes import centre_labels
from skfewshot.multilabel._scoring import Scorer, distance_logits
from skfewshot.multilabel._selection import Selection, select
from skfewshot.multilabel._tokens import FeatureMap, Support

#: Shares of the text; None is that of the network.
Shares: TypeAlias = Sequence[float | None]
#: Labels and images to learn from, and those kept aside.
Split: TypeAlias = tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]


@dataclass(frozen=True)
class Episode:
    """A few-shot problem: disjoint rows of the base set, and columns of its labels."""

    support: NDArray
    query: NDArray
    labels: NDArray
    #: Images a label that the support was to have.
    shots: int


@dataclass(frozen=True)
class Sizes:
    """How large episodes are.

    Attributes
    ----------
    n_way : int or None
        Labels, at most; None takes all.
    shots : sequence of two int
        Fewest and most images a label, of which one number is drawn.
    n_query : int
        Query images at most, where `query_shots` is None.
    query_shots : int or None
        Query images of each label.
    """

    n_way: int | None
    shots: Sequence[int]
    n_query: int
    query_shots: int | None = None


@dataclass(frozen=True)
class BaseSet:
    """Images of base labels, and how they are selected from and scored.

    Attributes
    ----------
    support : Support
        All images, not mapped.
    vectors : ndarray of shape (L, label_width)
        Label vectors, unit rows.
    means : FeatureMap
        Without matrices.
    scorer : Scorer
    selection : {"lcm", "lcm_paper", "text", "none"}
    device : torch.device
    """

    support: Support
    vectors: NDArray
    means: FeatureMap
    scorer: Scorer
    selection: str
    device: torch.device

    def tensor(self, array: NDArray) -> Tensor:
        """Return `array` as a tensor on the device."""
        return to_tensor(array, device=self.device)

    def truth(self, rows: NDArray, labels: NDArray) -> NDArray:
        """Return which of the labels images have."""
        return self.support.indicator[rows][:, labels]


def split_labels(
    indicator: NDArray, fraction: float, generator: np.random.Generator
) -> Split:
    """Return labels and images to learn from, and those kept aside.

    Images with a label that is kept aside are kept aside too: as background of other
    labels they would tell the maps what those labels look like. Where images have many
    labels, those that would take more than half of the images away are passed over.
    """
    order = generator.permutation(np.flatnonzero(indicator.sum(axis=0) >= 2))
    n_aside = max(2, round(fraction * len(order)))
    chosen = _affordable(indicator[:, order] > 0, n_aside)
    aside, labels = np.sort(order[chosen]), np.sort(np.delete(order, chosen))
    shows_one = indicator[:, aside].any(axis=1)
    n_usable = int(indicator[np.ix_(~shows_one, labels)].any(axis=1).sum())
    if n_usable < 2 or shows_one.sum() < 2:
        raise ValueError(
            f"Y_base has {n_usable} images of labels to learn from and "
            f"{shows_one.sum()} of the {len(aside)} labels that are kept aside; wanted "
            "at least 2 of each. Pass more images, or lower validation_fraction."
        )
    images, images_aside = np.flatnonzero(~shows_one), np.flatnonzero(shows_one)
    return (labels, images), (aside, images_aside)


def _affordable(shown: NDArray, n_wanted: int) -> list[int]:
    """Return the first labels that leave half of the images, or the first two of all.

    Parameters
    ----------
    shown : ndarray of bool, shape (n_images, n_labels)
    n_wanted : int
    """
    taken, gone = list[int](), np.zeros(len(shown), dtype=bool)
    for label in range(shown.shape[1]):
        now_gone = gone | shown[:, label]
        if len(taken) < n_wanted and 2 * now_gone.sum() <= len(shown):
            taken.append(label)
            gone = now_gone
    return taken if len(taken) > 1 else [0, 1]


def draw_episode(
    rng: np.random.Generator,
    indicator: NDArray,
    labels: NDArray,
    images: NDArray,
    sizes: Sizes,
) -> Episode:
    """Draw labels, a support with about `shots` images of each, and queries.

    Parameters
    ----------
    rng : numpy.random.Generator
    indicator : ndarray of shape (N, L)
    labels, images : ndarray of int
        Those to draw from.
    sizes : Sizes
    """
    chosen = np.sort(rng.permutation(labels)[: sizes.n_way])
    shown = indicator[np.ix_(images, chosen)] > 0
    wanted = int(rng.integers(sizes.shots[0], sizes.shots[1], endpoint=True))
    # Half of a label's images at most, so that there are some to ask about.
    goal = np.minimum(wanted, np.maximum(shown.sum(axis=0) // 2, 1))
    order = rng.permutation(np.flatnonzero(shown.any(axis=1)))
    support = _cover(shown, order, goal)
    rest = order[~np.isin(order, support)]
    # An episode asks about something, even if all images would serve to learn from.
    if not len(rest):
        support, rest = support[:-1], support[-1:]
    if sizes.query_shots is None:
        query = rest[: sizes.n_query]
    else:
        goal = np.minimum(sizes.query_shots, shown[rest].sum(axis=0))
        query = _cover(shown, rest, goal)
    return Episode(np.sort(images[support]), np.sort(images[query]), chosen, wanted)


def _cover(shown: NDArray, order: NDArray, goal: NDArray) -> NDArray:
    """Take images in order, those that a label wants, until each has its number."""
    found, taken = np.zeros_like(goal), list[int]()
    for image in order:
        wanting = found < goal
        if not wanting.any():
            break
        if (shown[image] & wanting).any():
            taken.append(image)
            found += shown[image]
    return np.array(taken, dtype=np.intp)


def map_features(
    network: PriorNetwork, base: BaseSet, rows: NDArray, with_parts: bool = True
) -> Mapped:
    """Return the mapped features of images; of local ones none, if not asked for."""
    tokens = base.support.tokens[rows] if with_parts else base.support.tokens[:0]
    whole = base.support.tokens.whole[rows]
    whole = network.map_whole(base.tensor(whole - base.means.whole_mean))
    parts = network.map_parts(base.tensor(tokens.parts - base.means.part_mean))
    present = base.tensor(tokens.present)
    return whole, parts * present[:, :, None], present


def _query_scores(
    network: PriorNetwork, base: BaseSet, episode: Episode, prototypes: list[Tensor]
) -> list[Tensor]:
    """Return the scores of the queries by each of some prototypes."""
    with_parts = base.scorer.scoring != "global"
    queries = map_features(network, base, episode.query, with_parts)
    return [network.query_scores(queries, p, base.scorer) for p in prototypes]


def episode_losses(
    network: PriorNetwork,
    base: BaseSet,
    episode: Episode,
    label_noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of the queries, and that of the alignment of the support.

    Both are mean binary cross-entropies. Noise of that length on the label vectors
    that the interaction sees keeps it from knowing the base labels by heart.
    """
    psi, whole, sums, counts = _learn(network, base, episode, label_noise, generator)
    prototypes = network.prototypes(sums, counts, psi)
    [scores] = _query_scores(network, base, episode, [prototypes])
    slope, bias = network.calibration[:2]
    logits = slope * scores + bias
    asked = base.tensor(base.truth(episode.query, episode.labels))
    query_loss = F.binary_cross_entropy_with_logits(logits, asked)
    aligned = distance_logits(whole @ psi.T, base.scorer.scale)
    shown = base.tensor(base.truth(episode.support, episode.labels))
    alignment = F.binary_cross_entropy_with_logits(aligned, shown)
    return query_loss, alignment


def episode_scores(
    network: PriorNetwork, base: BaseSet, episode: Episode, shares: Shares = (None,)
) -> list[NDArray]:
    """Return the scores of the queries, shape (n_query, n_way), under each share.

    Of the text's shares None is that of the network.
    """
    with torch.no_grad():
        psi, _, sums, counts = _learn(network, base, episode)
        prototypes = [network.prototypes(sums, counts, psi, share) for share in shares]
        return list(map(to_numpy, _query_scores(network, base, episode, prototypes)))


def _learn(
    network: PriorNetwork,
    base: BaseSet,
    episode: Episode,
    label_noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return psi, whole, and what the support says of labels: sums and counts."""
    vectors = base.vectors[episode.labels]
    centred = centre_labels(vectors) if network.residual else vectors
    psi = network.map_labels(base.tensor(centred))
    whole, parts, _ = map_features(network, base, episode.support)
    selection = _select(network, base, episode, psi)
    if not network.residual:
        selection = _first(selection, episode.shots)
    images, labels, chosen, valid = map(base.tensor, vars(selection).values())
    features = parts[images[:, None], chosen] * valid[:, :, None]
    scale = base.scorer.scale
    mean = network.pooled(features, valid, psi[labels], scale)
    seen = [psi, base.tensor(vectors)]
    # The attention sees labels as they are: it can do no more than choose features.
    if label_noise:
        seen = [_noisy(rows, label_noise, generator) for rows in seen]
    pairs = features, valid, psi, seen[1], labels, seen[0]
    said = network.pair_vectors(mean, *pairs)
    if not network.residual:
        agreement = distance_logits((whole[images] * psi[labels]).sum(1), scale)
        # A softmax within each label, up to a factor that the norm takes away.
        peak = torch.full_like(psi[:, 0], -torch.inf).detach()
        peak = peak.scatter_reduce(0, labels, agreement.detach(), "amax")
        said = (agreement - peak[labels]).exp()[:, None] * said
    sums = torch.zeros_like(psi).index_add(0, labels, said)
    counts = torch.bincount(labels, minlength=len(psi)).to(psi)
    return psi, whole, sums, counts


def _first(selection: Selection, n_images: int) -> Selection:
    """Keep so many images of each label, as an episode of the paper has them."""
    order = np.argsort(selection.labels, kind="stable")
    in_order = selection.labels[order]
    first = np.searchsorted(in_order, in_order)
    kept = np.sort(order[np.arange(len(order)) - first < n_images])
    found = Selection(*(value[kept] for value in vars(selection).values()))
    # Features are in the order of their scores, and so padding comes last.
    most = int(found.valid.sum(axis=1).max())
    return replace(found, chosen=found.chosen[:, :most], valid=found.valid[:, :most])


def _noisy(vectors: Tensor, length: float, generator: torch.Generator | None) -> Tensor:
    """Return unit rows turned by noise of that length."""
    drawn = torch.randn(vectors.shape, generator=generator, dtype=vectors.dtype)
    noise = (length / vectors.shape[1] ** 0.5) * drawn.to(vectors.device)
    return F.normalize(vectors + noise, dim=-1)


def _select(
    network: PriorNetwork, base: BaseSet, episode: Episode, psi: Tensor
) -> Selection:
    """Select local features; which ones is not differentiated."""
    named = network.named_parameters(recurse=False)
    state = {name: to_numpy(value) for name, value in named}
    support = base.support[episode.support]
    return select(
        replace(support, indicator=support.indicator[:, episode.labels]),
        replace(base.means, **image_maps(state, network.residual, base.vectors.dtype)),
        to_numpy(psi),
        base.selection,
        base.scorer.n_top,
        base.scorer.scale,
    )
