"""Episodes: small few-shot problems drawn from base labels, and what they cost."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from skfewshot._rows import unit_rows
from skfewshot._torch import to_numpy, to_tensor
from skfewshot.multilabel.calibration import fit_sigmoid
from skfewshot.multilabel.prototypes import Scorer, label_sums, mix, text_shares
from skfewshot.multilabel.scoring import distance_logits
from skfewshot.multilabel.support import (
    FeatureMap,
    Selection,
    centre_labels,
    make_pairs,
    score_left_out,
    select,
)


@dataclass(frozen=True)
class Episode:
    """A few-shot problem: rows of the base set, and columns of its labels.

    Attributes
    ----------
    support, query : ndarray of int
        Disjoint images.
    labels : ndarray of int
    shots : int
        Images a label that the support was to have.
    """

    support: np.ndarray
    query: np.ndarray
    labels: np.ndarray
    shots: int


def draw_episode(rng, indicator, labels, images, *, n_way, shots, n_query):
    """Draw labels, a support with about `shots` images of each, and queries.

    Parameters
    ----------
    rng : numpy.random.Generator
    indicator : ndarray of shape (N, L)
    labels : ndarray of int
        The labels to draw from.
    images : ndarray of int
        The images to draw from.
    n_way : int
        How many labels at most.
    shots : tuple of two int
        Fewest and most images a label, of which one number is drawn.
    n_query : int
        How many query images at most.

    Returns
    -------
    Episode
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


class EpisodeData:
    """A base set on the device, and the scores of episodes by a network.

    Parameters
    ----------
    tokens : Tokens
        Not mapped.
    indicator : ndarray of shape (N, L)
    vectors : ndarray of shape (L, d)
        Label vectors, unit rows.
    part_mean, whole_mean : ndarray of shape (d,)
    scorer : Scorer
    selection : {"lcm", "lcm_paper", "text", "none"}
    device : torch.device
    """

    def __init__(
        self,
        tokens,
        indicator,
        vectors,
        part_mean,
        whole_mean,
        *,
        scorer: Scorer,
        selection,
        device,
    ):
        self.tokens = tokens
        self.indicator = indicator
        self.vectors = vectors
        self.part_mean = part_mean
        self.whole_mean = whole_mean
        self.scorer = scorer
        self.selection = selection
        self.device = device

    def tensor(self, array):
        """Return `array` as a tensor on the device."""
        return to_tensor(array, device=self.device)

    def mapped(self, network, rows):
        """Return the mapped features of images: whole, parts, present."""
        tokens = self.tokens[rows]
        whole = network.map_images(self.tensor(tokens.whole - self.whole_mean))
        parts = network.map_images(self.tensor(tokens.parts - self.part_mean))
        present = self.tensor(tokens.present)
        parts = F.normalize(parts, dim=-1) * present[:, :, None]
        return F.normalize(whole, dim=-1), parts, present

    def untrained_calibration(self, rng, share, n_images=300):
        """Return where the network's calibration starts, from left-out scores.

        Parameters
        ----------
        rng : numpy.random.Generator
            Draws the images.
        share : float
            The text's share.
        n_images : int
            How many images at most.

        Returns
        -------
        tuple of 4 float
        """
        rows = np.sort(rng.permutation(len(self.tokens))[:n_images])
        tokens, truth = self.tokens[rows], self.indicator[rows]
        psi = unit_rows(centre_labels(self.vectors))
        weight = np.ones(len(rows), dtype=psi.dtype)
        feature_map = FeatureMap(self.part_mean, self.whole_mean)
        mapped = feature_map(tokens)
        scale, n_select = self.scorer.scale, self.scorer.n_top
        options = {"method": self.selection, "n_select": n_select, "scale": scale}
        selection = select(tokens, feature_map, psi, truth, **options)
        pairs = make_pairs(mapped, selection, psi, weight, scale=scale)
        _, counts = label_sums(pairs, len(psi))
        mixture = mix(pairs, psi, text_shares(share, counts, True))
        scorer, left_out = score_left_out(
            mapped, pairs, mixture, truth, weight, self.scorer
        )
        fitted = fit_sigmoid(left_out, truth, weight)
        sharpness = float(np.log(scorer.sharpness))
        return fitted.slope, fitted.bias[0], scorer.background, sharpness

    def losses(self, network, episode, label_noise=0.0, generator=None):
        """Return the loss of the queries, and that of the alignment of the support.

        Both are mean binary cross-entropies. Noise of that length on the label vectors
        that the interaction sees keeps it from knowing the base labels by heart.
        """
        psi, whole, truth, sums, counts = self._learn(
            network, episode, label_noise, generator
        )
        prototypes = self.mixed(network, sums, counts, psi)
        queries = self.mapped(network, episode.query)
        scores = self.query_scores(network, queries, prototypes)
        slope, bias = network.calibration[:2]
        asked = self.tensor(self.indicator[episode.query][:, episode.labels])
        logits = slope * scores + bias
        query_loss = F.binary_cross_entropy_with_logits(logits, asked)
        aligned = distance_logits(whole @ psi.T, self.scorer.scale)
        alignment = F.binary_cross_entropy_with_logits(aligned, self.tensor(truth))
        return query_loss, alignment

    def scores(self, network, episode, shares=(None,)):
        """Return the scores of the queries for each of the text's shares to try.

        Parameters
        ----------
        network : PriorNetwork
        episode : Episode
        shares : sequence of float or None
            None is the share of the network.

        Returns
        -------
        scores : list of ndarray of shape (n_query, n_way)
        truth : ndarray of shape (n_query, n_way)
        """
        with torch.no_grad():
            psi, _, _, sums, counts = self._learn(network, episode)
            queries = self.mapped(network, episode.query)
            scores = [
                self.query_scores(
                    network, queries, self.mixed(network, sums, counts, psi, share)
                )
                for share in shares
            ]
        asked = self.indicator[episode.query][:, episode.labels]
        return [to_numpy(found) for found in scores], asked

    def _learn(self, network, episode, label_noise=0.0, generator=None):
        """Return psi, whole, truth, sums and counts of the support of an episode."""
        vectors = self.vectors[episode.labels]
        psi = network.map_labels(self.tensor(centre_labels(vectors)))
        whole, parts, _ = self.mapped(network, episode.support)
        truth = self.indicator[episode.support][:, episode.labels]
        noise = self._noise(psi, label_noise, generator)
        sums, counts = self.label_sums(
            network, episode, psi, parts, truth, vectors, noise
        )
        return psi, whole, truth, sums, counts

    def _noise(self, psi, length, generator):
        if not length:
            return None
        drawn = torch.randn(2, *psi.shape, generator=generator, dtype=psi.dtype)
        return (length / psi.shape[1] ** 0.5) * drawn.to(psi.device)

    def label_sums(self, network, episode, psi, parts, truth, vectors, noise=None):
        """Return the sum of what images say of each label, and how many they are."""
        chosen = self._select(network, episode, psi, truth)
        images = torch.from_numpy(chosen.images).to(self.device)
        labels = torch.from_numpy(chosen.labels).to(self.device)
        indices = torch.from_numpy(chosen.chosen).to(self.device)
        valid = torch.from_numpy(chosen.valid).to(self.device)
        features = parts[images[:, None], indices] * valid[:, :, None]
        mean = features.sum(1) / valid.sum(1, keepdim=True)
        seen = torch.stack([psi, self.tensor(vectors)])
        if noise is not None:
            seen = F.normalize(seen + noise, dim=-1)
        said = network.pair_vectors(mean, features, valid, *seen, labels)
        sums = torch.zeros_like(psi).index_add(0, labels, said)
        counts = torch.bincount(labels, minlength=len(psi)).to(psi)
        return sums, counts

    def mixed(self, network, sums, counts, psi, share=None):
        """Return the prototypes of an episode, shape (n_way, d)."""
        if share is None:
            share = network.text_share(counts.clip(min=1))
        share = torch.where(counts > 0, torch.as_tensor(share).to(psi), 1.0)[:, None]
        mixed = (1 - share) * F.normalize(sums, dim=-1) + share * psi
        return F.normalize(mixed, dim=-1)

    def _select(self, network, episode, psi, truth) -> Selection:
        """Select local features; which ones is not differentiated."""
        width = psi.shape[1]
        matrix = np.eye(width, dtype=self.vectors.dtype) + to_numpy(network.image_map)
        feature_map = FeatureMap(
            self.part_mean, self.whole_mean, matrix, to_numpy(network.image_bias)
        )
        return select(
            self.tokens[episode.support],
            feature_map,
            to_numpy(psi),
            truth,
            method=self.selection,
            n_select=self.scorer.n_top,
            scale=self.scorer.scale,
        )

    def query_scores(self, network, queries, prototypes):
        """Return the scores of mapped query images, shape (n, n_way)."""
        whole, parts, present = queries
        whole = distance_logits(whole @ prototypes.T, self.scorer.scale)
        if self.scorer.scoring == "global":
            return whole
        evidence = distance_logits(parts @ prototypes.T, self.scorer.scale)
        if self.scorer.scoring == "competitive":
            level, sharpness = network.calibration[2], network.calibration[3].exp()
            evidence = _compete(sharpness * evidence, sharpness * level)
        n_top = min(self.scorer.n_top, evidence.shape[1])
        evidence = evidence.masked_fill(~present[:, :, None], -torch.inf)
        top = evidence.topk(n_top, 1).values
        found = torch.isfinite(top)
        local = torch.where(found, top, 0.0).sum(1) / found.sum(1)
        return (whole + local) / 2 if self.scorer.scoring == "both" else local


def _compete(logits, level):
    """As :func:`skfewshot.multilabel.scoring.compete`, to be differentiated."""
    if logits.shape[2] == 1:
        return logits - level
    total = torch.logaddexp(torch.logsumexp(logits, 2, keepdim=True), level)
    share = (logits - total).clip(max=float(np.log(0.5))).exp()
    others = total + torch.log1p(-share)
    best = logits.argmax(2, keepdim=True)
    rest = logits.scatter(2, best, -torch.inf)
    of_best = torch.logaddexp(torch.logsumexp(rest, 2, keepdim=True), level)
    return logits - others.scatter(2, best, of_best)
