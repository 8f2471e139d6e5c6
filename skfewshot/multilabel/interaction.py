"""The learned part of the prototypes: maps, and the multi-modal cross-interaction."""

import math

import torch
from torch import nn

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

    def __init__(self, width, steps, n_heads):
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

    def forward(self, features, valid, mapped_labels, label_vectors, labels):
        """Return z.

        Parameters
        ----------
        features : tensor of shape (n_pairs, m, d)
            The selected features of each pair of image and label.
        valid : bool tensor of shape (n_pairs, m)
            False where there is padding.
        mapped_labels, label_vectors : tensor of shape (L, d)
        labels : int tensor of shape (n_pairs,)
            The label of each pair.

        Returns
        -------
        tensor of shape (n_pairs, d)
        """
        query = self.query_norm(mapped_labels)[labels]
        if "gate" in self.steps:
            gate = torch.sigmoid(self.gate(features + query[:, None]))
            features = features + features * gate
        if "convolution" in self.steps:
            features = self._convolve(features, label_vectors, labels)
        if "attention" in self.steps:
            z, _ = self.attention(
                query[:, None],
                features,
                features,
                key_padding_mask=~valid,
                need_weights=False,
            )
            z = z[:, 0]
        else:
            share = valid.to(features) / valid.sum(1, keepdim=True)
            z = torch.einsum("pm,pmd->pd", share, features)
        return self.out_norm(z + self.mlp(self.mlp_norm(z)))

    def _convolve(self, features, label_vectors, labels):
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
        width,
        *,
        steps,
        n_heads,
        residual,
        share,
        calibration=(1.0, 0.0, 0.0, 0.0),
    ):
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

    def map_images(self, features):
        """Map centred image features; the last axis is the width."""
        return features + features @ self.image_map + self.image_bias

    def map_labels(self, vectors):
        """Map centred label vectors to unit rows."""
        mapped = vectors + vectors @ self.label_map + self.label_bias
        return nn.functional.normalize(mapped, dim=-1)

    def text_share(self, shots):
        """Return the text's share of a prototype made from so many images."""
        return torch.sigmoid(self.share[0] - self.share[1].exp() * torch.log(shots))

    def pair_vectors(self, mean, features, valid, mapped_labels, label_vectors, labels):
        """Return what each image says of a label, shape (n_pairs, d).

        Parameters
        ----------
        mean : tensor of shape (n_pairs, d)
            The mean of the selected features.
        features, valid, mapped_labels, label_vectors, labels
            See :meth:`CrossInteraction.forward`.
        """
        if self.interaction is None:
            return mean
        z = self.interaction(features, valid, mapped_labels, label_vectors, labels)
        z = z / math.sqrt(z.shape[1])
        return mean + self.interaction_weight * z if self.residual else z
