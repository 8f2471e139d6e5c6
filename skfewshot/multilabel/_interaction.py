"""What a prior learns, as a network: maps, cross-interaction, and how it is scored."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skfewshot.multilabel._calibration import ONE_SHOT_SHARE
from skfewshot.multilabel._scoring import Scorer, distance_logits

#: Mapped features: whole, parts, present.
Mapped: TypeAlias = tuple[Tensor, Tensor, Tensor]
# Width between the two dynamic convolutions.
_HIDDEN = 64
# Width through which the kernels of a residual network are generated; straight from the
# label's vector they need d * d * 64 weights each, more than there are data for.
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
    label_width : int or None
        Width of :math:`w`; None is that of the features.
    mlp_width : int or None
        Width of the hidden layer of the MLP; None is that of the features.
    kernel_rank : int or None
        Numbers of a label that its kernels are made from; None makes them straight
        from its vector.
    """

    def __init__(
        self,
        width: int,
        steps: Sequence[str],
        n_heads: int,
        *,
        label_width: int | None = None,
        mlp_width: int | None = None,
        kernel_rank: int | None = _KERNEL_RANK,
    ) -> None:
        super().__init__()
        label_width, mlp_width = label_width or width, mlp_width or width
        self.steps = tuple(steps)
        self.query_norm = nn.LayerNorm(width)
        if "gate" in steps:
            self.gate = nn.Sequential(
                nn.Linear(width, width // 2, bias=False),
                nn.Linear(width // 2, width, bias=False),
            )
        if "convolution" in steps:
            self.kernel_code: nn.Module = nn.Identity()
            if kernel_rank is not None:
                self.kernel_code = nn.Linear(label_width, min(kernel_rank, width))
                label_width = min(kernel_rank, width)
            bias = kernel_rank is None
            self.kernel_in = nn.Linear(label_width, width * _HIDDEN, bias=bias)
            self.kernel_out = nn.Linear(label_width, _HIDDEN * width, bias=bias)
            self.norm_in = nn.LayerNorm(_HIDDEN)
            self.norm_out = nn.LayerNorm(width)
        if "attention" in steps:
            self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width)
        )
        self.out_norm = nn.LayerNorm(width)

    def forward(
        self,
        features: Tensor,
        valid: Tensor,
        mapped_labels: Tensor,
        label_vectors: Tensor,
        labels: Tensor,
        known_labels: Tensor | None = None,
    ) -> Tensor:
        """Return z, shape (n_pairs, d).

        Parameters
        ----------
        features : tensor of shape (n_pairs, m, d)
            The selected features of each pair of image and label.
        valid : bool tensor of shape (n_pairs, m)
            False where there is padding.
        mapped_labels : tensor of shape (L, d)
        label_vectors : tensor of shape (L, label_width)
        labels : int tensor of shape (n_pairs,)
        known_labels : tensor of shape (L, d) or None
            What the gate knows of the mapped labels, in training.
        """
        query = self.query_norm(mapped_labels)[labels]
        if "gate" in self.steps:
            known = query
            if known_labels is not None:
                known = self.query_norm(known_labels)[labels]
            gate = torch.sigmoid(self.gate(features + known[:, None]))
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

    A residual network starts as the classifier without a prior, and learns what to
    change. Its features are centred by their means; the maps :math:`x W + b` start at
    the identity, or at another given one, and that of the global feature is the one of
    local features plus a change of its own. What the interaction says is added to the
    mean of the selected features with a weight that starts at 0, and the text has a
    share in prototypes.

    One that is not is that of the paper: three linear maps of their own, what the
    interaction says in place of the mean, images weighted by their agreement with the
    label, no text where there are images, and logits as they are.

    Parameters
    ----------
    width : int
        :math:`d`, which all features are mapped to.
    token_width, label_width : int or None
        Width of image and of label features; None is `width`.
    steps : sequence of str
        Steps of the interaction; with none there is no interaction.
    n_heads : int
    residual : bool
    mlp_width : int or None
        See :class:`CrossInteraction`.
    share : float
        Where the share of the text starts, at one shot.
    calibration : sequence of 4 float
        Where slope, bias, background and logarithm of the sharpness start.
    """

    def __init__(
        self,
        width: int,
        *,
        token_width: int | None = None,
        label_width: int | None = None,
        steps: Sequence[str],
        n_heads: int,
        residual: bool,
        mlp_width: int | None = None,
        share: float = ONE_SHOT_SHARE,
        calibration: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    ) -> None:
        super().__init__()
        token_width, label_width = token_width or width, label_width or width
        self.part_map, self.part_bias = _affine(token_width, width, residual)
        self.whole_map, self.whole_bias = _affine(token_width, width, residual)
        self.label_map, self.label_bias = _affine(label_width, width, residual)
        if residual:
            nn.init.zeros_(self.whole_map)
            # The text's share is sigmoid(share[0] - exp(share[1]) * log(shots)).
            start = [math.log(share / (1 - share)), math.log(0.3)]
            self.share = nn.Parameter(torch.tensor(start))
        # Slope and bias from scores to logits; the background's logit and the
        # logarithm of the sharpness of the competition.
        self.calibration = nn.Parameter(torch.tensor(calibration))
        self.residual, self.interaction = residual, None
        if steps:
            self.interaction = CrossInteraction(
                width,
                steps,
                n_heads,
                label_width=label_width,
                mlp_width=mlp_width,
                kernel_rank=_KERNEL_RANK if residual else None,
            )
        if steps and residual:
            self.interaction_weight = nn.Parameter(torch.zeros(()))

    def map_parts(self, features: Tensor) -> Tensor:
        """Map local features, shape (..., token_width), to unit ones."""
        return F.normalize(features @ self.part_map + self.part_bias, dim=-1)

    def map_whole(self, features: Tensor) -> Tensor:
        """Map global features, shape (n, token_width), to unit ones."""
        mapped = features @ self.whole_map + self.whole_bias
        if self.residual:
            mapped = mapped + features @ self.part_map + self.part_bias
        return F.normalize(mapped, dim=-1)

    def map_labels(self, vectors: Tensor) -> Tensor:
        """Map label vectors to unit rows."""
        return F.normalize(vectors @ self.label_map + self.label_bias, dim=-1)

    def text_share(self, shots: Tensor) -> Tensor:
        """Return the text's share of a prototype made from so many images."""
        if not self.residual:
            return torch.zeros_like(shots)
        return torch.sigmoid(self.share[0] - self.share[1].exp() * torch.log(shots))

    def pooled(
        self, features: Tensor, valid: Tensor, of_label: Tensor, scale: float
    ) -> Tensor:
        """Return the mean of the selected features of each pair, shape (n_pairs, d).

        Unless the network is residual, by their agreement with the mapped label of the
        pair, `of_label`. The features of padding are zero.
        """
        if self.residual:
            return features.sum(1) / valid.sum(1, keepdim=True)
        logits = distance_logits((features @ of_label[:, :, None])[:, :, 0], scale)
        shares = logits.masked_fill(~valid, -torch.inf).softmax(1)
        return torch.einsum("pm,pmd->pd", shares, features)

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


def _affine(
    n_inputs: int, n_outputs: int, residual: bool
) -> tuple[nn.Parameter, nn.Parameter]:
    """Return matrix and bias of a map: the identity, or random as torch's are."""
    matrix, bias = torch.eye(n_inputs, n_outputs), torch.zeros(n_outputs)
    if not residual:
        for tensor in (matrix, bias):
            nn.init.uniform_(tensor, -(n_inputs**-0.5), n_inputs**-0.5)
    return nn.Parameter(matrix), nn.Parameter(bias)


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
