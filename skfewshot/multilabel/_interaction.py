"""What a prior learns, as a network: maps, cross-interaction, and how it is scored."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skfewshot._torch import to_numpy, to_tensor
from skfewshot.multilabel._calibration import ONE_SHOT_SHARE
from skfewshot.multilabel._prototypes import centre_labels
from skfewshot.multilabel._scoring import Scorer, distance_logits
from skfewshot.multilabel._selection import Selection, select
from skfewshot.multilabel._tokens import FeatureMap, Support, image_map

#: Shares of the text; None is that of the network.
Shares: TypeAlias = Sequence[float | None]
#: What the map of image features is called.
_IMAGE_MAP = ("image_map", "image_bias")
#: Mapped features: whole, parts, present.
Mapped: TypeAlias = tuple[Tensor, Tensor, Tensor]
# Width between the two dynamic convolutions.
_HIDDEN = 64
# Width through which their kernels are generated; straight from the label's vector they
# would need d * d * 64 weights each, more than there are data for.
_KERNEL_RANK = 32


class CrossInteraction(nn.Module):
    r"""Turn the selected features of an image into what they say of one label.

    With :math:`x` the features, :math:`w` the label's vector, :math:`\psi` the mapped
    one and :math:`q = \mathrm{LN}(\psi)`:

    .. math::

        x &\leftarrow x + x \odot \sigma(W_2 W_1 (x + q))      &\text{(gate)} \\
        x &\leftarrow r(\mathrm{LN}(r(\mathrm{LN}(x K_1(w))) K_2(w)))
                                                        &\text{(convolution)} \\
        z &= \mathrm{MultiHead}(q, x, x)                     &\text{(attention)} \\
        z &\leftarrow \mathrm{LN}(z + \mathrm{MLP}(\mathrm{LN}(z)))

    where :math:`r` is the ReLU. Steps can be left out; without attention :math:`z` is
    the mean of the features.

    Parameters
    ----------
    width : int
        :math:`d`.
    steps : sequence of {"gate", "convolution", "attention"}
    n_heads : int
        Heads of the attention; they divide the width.
    """

    def __init__(self, width: int, steps: Sequence[str], n_heads: int) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.query_norm = nn.LayerNorm(width)
        if "gate" in steps:
            self.gate = nn.Sequential(
                nn.Linear(width, width // 2, bias=False),
                nn.Linear(width // 2, width, bias=False),
            )
        if "convolution" in steps:
            rank = min(_KERNEL_RANK, width)
            self.kernel_code = nn.Linear(width, rank)
            self.kernel_in = nn.Linear(rank, width * _HIDDEN, bias=False)
            self.kernel_out = nn.Linear(rank, _HIDDEN * width, bias=False)
            self.norm_in = nn.LayerNorm(_HIDDEN)
            self.norm_out = nn.LayerNorm(width)
        if "attention" in steps:
            self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.out_norm = nn.LayerNorm(width)

    def forward(
        self,
        features: Tensor,
        valid: Tensor,
        mapped_labels: Tensor,
        label_vectors: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Return z, shape (n_pairs, d).

        Parameters
        ----------
        features : tensor of shape (n_pairs, m, d)
            The selected features of each pair of image and label.
        valid : bool tensor of shape (n_pairs, m)
            False where there is padding.
        mapped_labels, label_vectors : tensor of shape (L, d)
        labels : int tensor of shape (n_pairs,)
        """
        query = self.query_norm(mapped_labels)[labels]
        if "gate" in self.steps:
            gate = torch.sigmoid(self.gate(features + query[:, None]))
            features = features + features * gate
        if "convolution" in self.steps:
            features = self._convolve(features, label_vectors, labels)
        if "attention" in self.steps:
            z, _ = self.attention(
                query[:, None], features, features, ~valid, need_weights=False
            )
            z = z[:, 0]
        else:
            share = valid.to(features) / valid.sum(1, keepdim=True)
            z = torch.einsum("pm,pmd->pd", share, features)
        return self.out_norm(z + self.mlp(self.mlp_norm(z)))

    def _convolve(
        self, features: Tensor, label_vectors: Tensor, labels: Tensor
    ) -> Tensor:
        """Two 1 x 1 convolutions with kernels that each label makes for itself."""
        width = features.shape[2]
        code = self.kernel_code(label_vectors)
        scale = 1 / math.sqrt(width)
        first = (scale * self.kernel_in(code)).reshape(-1, width, _HIDDEN)[labels]
        second = self.kernel_out(code).reshape(-1, _HIDDEN, width)[labels]
        hidden = torch.relu(self.norm_in(features @ first))
        return torch.relu(self.norm_out(hidden @ second))


class PriorNetwork(nn.Module):
    r"""All that is learned from base labels.

    The maps are residual, :math:`x \mapsto x + x \Delta + b` for features centred by
    their means, and start at the identity. What the interaction says is added to the
    mean of the selected features with a weight that starts at 0, or takes its place.

    Parameters
    ----------
    width : int
        :math:`d`.
    steps : sequence of str
        Steps of the interaction; with none there is no interaction.
    n_heads : int
    residual : bool
        Whether the interaction is added to the mean of the features.
    share : float
        Where the share of the text starts, at one shot.
    calibration : sequence of 4 float
        Where slope, bias, background and logarithm of the sharpness start.
    """

    def __init__(
        self,
        width: int,
        *,
        steps: Sequence[str],
        n_heads: int,
        residual: bool,
        share: float = ONE_SHOT_SHARE,
        calibration: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    ) -> None:
        super().__init__()
        self.image_map = nn.Parameter(torch.zeros(width, width))
        self.image_bias = nn.Parameter(torch.zeros(width))
        self.label_map = nn.Parameter(torch.zeros(width, width))
        self.label_bias = nn.Parameter(torch.zeros(width))
        # The text's share is sigmoid(share[0] - exp(share[1]) * log(shots)).
        start = [math.log(share / (1 - share)), math.log(0.3)]
        self.share = nn.Parameter(torch.tensor(start))
        # Slope and bias from scores to logits; the background's logit and the
        # logarithm of the sharpness of the competition.
        self.calibration = nn.Parameter(torch.tensor(calibration))
        self.residual = residual
        self.interaction = CrossInteraction(width, steps, n_heads) if steps else None
        if steps and residual:
            self.interaction_weight = nn.Parameter(torch.zeros(()))

    def map_images(self, features: Tensor) -> Tensor:
        """Map centred image features; the last axis is the width."""
        return features + features @ self.image_map + self.image_bias

    def map_labels(self, vectors: Tensor) -> Tensor:
        """Map centred label vectors to unit rows."""
        mapped = vectors + vectors @ self.label_map + self.label_bias
        return F.normalize(mapped, dim=-1)

    def text_share(self, shots: Tensor) -> Tensor:
        """Return the text's share of a prototype made from so many images."""
        return torch.sigmoid(self.share[0] - self.share[1].exp() * torch.log(shots))

    def pair_vectors(self, mean: Tensor, *pairs: Tensor) -> Tensor:
        """Return what each image says of a label, shape (n_pairs, d).

        Besides the mean of the selected features it takes what
        :meth:`CrossInteraction.forward` does.
        """
        if self.interaction is None:
            return mean
        z = self.interaction(*pairs)
        z = z / math.sqrt(z.shape[1])
        return mean + self.interaction_weight * z if self.residual else z

    def prototypes(
        self, sums: Tensor, counts: Tensor, psi: Tensor, share: float | None = None
    ) -> Tensor:
        """Return the prototypes, shape (L, d).

        They are made from the sums of what images say of the labels, the number of
        images of each, the mapped label vectors, and the text's share; None takes the
        network's.
        """
        found = self.text_share(counts.clip(min=1)) if share is None else share
        of_text = torch.where(counts > 0, torch.as_tensor(found).to(psi), 1.0)[:, None]
        mixed = (1 - of_text) * F.normalize(sums, dim=-1) + of_text * psi
        return F.normalize(mixed, dim=-1)

    def query_scores(
        self, queries: Mapped, prototypes: Tensor, scorer: Scorer
    ) -> Tensor:
        """Return the scores of mapped images, shape (n, L); to be differentiated."""
        whole, parts, present = queries
        whole = distance_logits(whole @ prototypes.T, scorer.scale)
        if scorer.scoring == "global":
            return whole
        evidence = distance_logits(parts @ prototypes.T, scorer.scale)
        if scorer.scoring == "competitive":
            level, sharpness = self.calibration[2], self.calibration[3].exp()
            evidence = _compete(sharpness * evidence, sharpness * level)
        n_top = min(scorer.n_top, evidence.shape[1])
        evidence = evidence.masked_fill(~present[:, :, None], -torch.inf)
        top = evidence.topk(n_top, 1).values
        found = torch.isfinite(top)
        local = torch.where(found, top, 0.0).sum(1) / found.sum(1)
        return (whole + local) / 2 if scorer.scoring == "both" else local


def _compete(logits: Tensor, level: Tensor) -> Tensor:
    """As :func:`skfewshot.multilabel.compete`, to be differentiated."""
    if logits.shape[2] == 1:
        return logits - level
    total = torch.logaddexp(torch.logsumexp(logits, 2, keepdim=True), level)
    share = (logits - total).clip(max=math.log(0.5)).exp()
    others = total + torch.log1p(-share)
    best = logits.argmax(2, keepdim=True)
    rest = logits.scatter(2, best, -torch.inf)
    of_best = torch.logaddexp(torch.logsumexp(rest, 2, keepdim=True), level)
    return logits - others.scatter(2, best, of_best)


@dataclass(frozen=True)
class Episode:
    """A few-shot problem: disjoint rows of the base set, and columns of its labels."""

    support: NDArray
    query: NDArray
    labels: NDArray
    #: Images a label that the support was to have.
    shots: int


@dataclass(frozen=True)
class BaseSet:
    """Images of base labels, and how they are selected from and scored.

    Attributes
    ----------
    support : Support
        All images, not mapped.
    vectors : ndarray of shape (L, d)
        Label vectors, unit rows.
    means : FeatureMap
        Without a matrix.
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


def map_features(network: PriorNetwork, base: BaseSet, rows: NDArray) -> Mapped:
    """Return the mapped features of images of a base set."""
    tokens = base.support.tokens[rows]
    whole = network.map_images(base.tensor(tokens.whole - base.means.whole_mean))
    parts = network.map_images(base.tensor(tokens.parts - base.means.part_mean))
    present = base.tensor(tokens.present)
    parts = F.normalize(parts, dim=-1) * present[:, :, None]
    return F.normalize(whole, dim=-1), parts, present


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
    queries = map_features(network, base, episode.query)
    scores = network.query_scores(queries, prototypes, base.scorer)
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
        queries = map_features(network, base, episode.query)
        prototypes = [network.prototypes(sums, counts, psi, share) for share in shares]
        return [
            to_numpy(network.query_scores(queries, p, base.scorer)) for p in prototypes
        ]


def _learn(
    network: PriorNetwork,
    base: BaseSet,
    episode: Episode,
    label_noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return psi, whole, and what the support says of labels: sums and counts."""
    vectors = base.vectors[episode.labels]
    psi = network.map_labels(base.tensor(centre_labels(vectors)))
    whole, parts, _ = map_features(network, base, episode.support)
    selection = _select(network, base, episode, psi)
    images, labels, chosen, valid = map(base.tensor, vars(selection).values())
    features = parts[images[:, None], chosen] * valid[:, :, None]
    mean = features.sum(1) / valid.sum(1, keepdim=True)
    seen = torch.stack([psi, base.tensor(vectors)])
    if label_noise:
        drawn = torch.randn(2, *psi.shape, generator=generator, dtype=psi.dtype)
        noise = (label_noise / psi.shape[1] ** 0.5) * drawn.to(psi.device)
        seen = F.normalize(seen + noise, dim=-1)
    said = network.pair_vectors(mean, features, valid, seen[0], seen[1], labels)
    sums = torch.zeros_like(psi).index_add(0, labels, said)
    counts = torch.bincount(labels, minlength=len(psi)).to(psi)
    return psi, whole, sums, counts


def _select(
    network: PriorNetwork, base: BaseSet, episode: Episode, psi: Tensor
) -> Selection:
    """Select local features; which ones is not differentiated."""
    state = {name: to_numpy(getattr(network, name)) for name in _IMAGE_MAP}
    matrix, bias = image_map(state, base.vectors.dtype)
    support = base.support[episode.support]
    return select(
        replace(support, indicator=support.indicator[:, episode.labels]),
        replace(base.means, matrix=matrix, bias=bias),
        to_numpy(psi),
        base.selection,
        base.scorer.n_top,
        base.scorer.scale,
    )
