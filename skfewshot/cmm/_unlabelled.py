r"""Rows without labels in the Gaussian model, by expectation-maximisation.

Everything here is this library's own. The labelled rows have been solved: logits z of
any row follow from them. A round has two steps.

*Expectation.* An unlabelled row *u* is of class *c* with probability

    r_uc = g_u pi_c exp(z_uc) / sum_k pi_k exp(z_uk),

where pi are the shares of the classes in the pool, half of them as counted and half
equal, and g_u is the probability that the row is of any class at all. That is told by
its energy e_u = log sum_k exp(z_uk): energies of rows of the classes are normal, as
those of labelled rows left out are, and those of the background are normal too, below,
with a mean, spread and share that the pool tells.

*Maximisation.* Class means, the map from texts and the covariance are those of the
labelled rows and of all unlabelled ones with weights w r_uc. The weight

    w = 1 / (1 + n / 12)

is the same for all rows, with n the number of rows in the pool that the class of one of
its rows has, in the mean. Their labels are guesses of one model, so their errors are
not independent: ever more of them are worth no more than twelve labelled rows.

Classes without labelled rows begin where their texts put them, and are as others: they
take their rows from the pool, which would else be taken for those of other classes.

Mean images that stand in for texts without trust are those of all rows, too. Weights
and intercepts are found again by labelled rows that are held out of all this. Where
none can be they stay, but for one number: logits are made flatter by as much as the
pool repeats its own mistakes, and those of fewer than 25 classes more so.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from skfewshot._support import Support
from skfewshot.cmm._gaussian import GaussianModel, Sample, fit_gaussian, summarise

# Labelled rows that a class's unlabelled ones are worth at most.
_MOST_WORTH = 12.0
# Rounds; more of them mistake what they have made for what there is.
_ROUNDS = 3
# Rows that each class has before any is counted, in shares of the mean of all.
_EQUAL_ROWS = 1.0
# Logits lose this share where the pool is all there is and all of it is in doubt.
_REPEATED = 0.3
# The background: its share, mean and spread to begin with, these in spreads of the
# classes' energies; how near and how narrow and wide it may be; rows that say it is not
# there; rounds.
_BACKGROUND, _BELOW, _WIDTH = 0.1, 3.0, 2.0
_NEAREST, _NARROWEST, _WIDEST = 1.0, 0.5, 3.0
_ABSENT_ROWS, _BACKGROUND_ROUNDS = 20.0, 30
# Energies, at most, that tell the background; and rows that are worked on at a time.
_MOST_ENERGIES, _BLOCK = 4096, 4096
# Parts in which labelled rows are held out, and rows of the pool, at most, that are
# labelled without them.
_FOLDS, _MOST_HELD_OUT = 4, 8192
# A spread of energies below this is none.
_LEAST_SPREAD = 1e-3
# Rows that a class without any has where its text puts it; and those of the pool that
# halve what its logits have for having none.
_NO_ROWS, _TEXT_ROWS = 1e-3, 3.0


class Scoring(NamedTuple):
    """What of the logits stays while the Gaussian model changes.

    Attributes
    ----------
    texts : tensor of shape (C, d)
        Rows times these are the logits of the texts, as far as they are trusted.
    stand_ins : tensor of shape (C,)
        How much of its mean image, less that of all, is added to a class's text.
    image : float
        The weight of the mapped cosines.
    intercept : tensor of shape (C,)
    energies : tuple of float
        Mean and spread of the energy of labelled rows left out.
    n_newcomers : int
        How many classes, the last ones, have no labelled rows.
    """

    texts: Tensor
    stand_ins: Tensor
    image: float
    intercept: Tensor
    energies: tuple[float, float]
    n_newcomers: int = 0

    def logits(self, model: GaussianModel, F: Tensor) -> Tensor:
        """Return the logits of rows, shape (m, C)."""
        texts, cosines = self.parts(model, F)
        return texts + self.image * cosines + self.intercept

    def parts(self, model: GaussianModel, F: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the texts, and the mapped cosines, shapes (m, C)."""
        mapped = normalize((F - model.centre) @ model.map)
        return F @ self.frozen(model).T, mapped @ normalize(model.prototypes).T

    def frozen(self, model: GaussianModel) -> Tensor:
        """Return what rows are times for the logits of the texts, shape (C, d)."""
        ways = model.class_means - model.class_means.mean(dim=0)
        return self.texts + self.stand_ins[:, None] * ways

    def with_rows(self, rows: Tensor) -> "Scoring":
        """Return the same for newcomers that have got some rows."""
        share = torch.ones_like(self.intercept)
        start = len(share) - self.n_newcomers
        share[start:] = (_TEXT_ROWS / (_TEXT_ROWS + rows[start:])).to(share)
        return self._replace(intercept=share * self.intercept)


class Pool(NamedTuple):
    """Rows without labels, shape (M, d), and their weights, shape (M,)."""

    features: Tensor
    weight: Tensor

    def some(self, most: int) -> "Pool":
        """Return evenly spread rows, of the weight of all."""
        step = -(-len(self.weight) // most) or 1
        weight = self.weight[::step]
        share = self.weight.sum() / weight.sum() if step > 1 else 1.0
        return Pool(self.features[::step], weight * share)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return a few rows and weights at a time."""
        parts = self.features.split(_BLOCK), self.weight.split(_BLOCK)
        return zip(*parts, strict=True)


class Learned(NamedTuple):
    """What the pool has taught.

    Attributes
    ----------
    model : GaussianModel
    shares : tensor of shape (C,)
        Of the classes in the pool.
    background : float
        The share of rows of no class.
    flattened : float
        What logits are to be multiplied by.
    scoring : Scoring
        With the intercepts of newcomers as they are then.
    """

    model: GaussianModel
    shares: Tensor
    background: float
    flattened: float
    scoring: Scoring


class Background(NamedTuple):
    """Energies of rows of no class: share, mean and spread."""

    share: float
    mean: float
    spread: float


def maximise_expectation(
    sample: Sample,
    model: GaussianModel,
    scoring: Scoring,
    pool: Pool,
    trust: Tensor,
    *,
    text_penalty: float,
) -> Learned:
    """Learn class means, map and covariance from labelled and unlabelled rows.

    Parameters
    ----------
    sample : Sample
        Of the labelled rows. Every class has one, but for newcomers.
    model : GaussianModel
        That of the labelled rows, as `with_newcomers` gives both.
    scoring : Scoring
    pool : Pool
        With at least one row.
    trust : tensor of shape (C,)
        How far each text is trusted.
    text_penalty : float

    Returns
    -------
    Learned
    """
    n_classes, first = len(sample.counts), scoring
    shares = torch.full_like(trust, 1 / n_classes)
    flattened, background = 1.0, Background(0.0, 0.0, 1.0)
    some = pool.some(_MOST_ENERGIES)
    for turn in range(_ROUNDS):
        # As many rows as a block has.
        energies = scoring.logits(model, some.features).logsumexp(dim=1)
        background = find_background(energies, some.weight, scoring.energies)
        sums = _expect(model, scoring, pool, shares, background)
        shares = _shrunk_shares(sums.counts).to(trust.dtype)
        crowd = float(sums.counts.square().sum() / sums.counts.sum().clamp_min(1e-9))
        worth = 1 / (1 + crowd / _MOST_WORTH)
        if turn == 0:
            rows_a_class = worth * float(sums.counts.mean())
            part = rows_a_class / (rows_a_class + float(sample.counts.mean()))
            flattened = 1 - _REPEATED * part * sums.doubt
        both = _with_pool(sample, sums, worth)
        model = fit_gaussian(both, trust, text_penalty=text_penalty)
        scoring = first.with_rows(worth * sums.counts)
    return Learned(model, shares, background.share, flattened, scoring)


def with_newcomers(
    sample: Sample, model: GaussianModel, newcomers: Tensor
) -> tuple[Sample, GaussianModel]:
    """Put classes that have a text only behind the others, where their texts say.

    Parameters
    ----------
    sample : Sample
    model : GaussianModel
        Its fit.
    newcomers : tensor of shape (k, d)
        Their texts.

    Returns
    -------
    sample, model
    """
    if not len(newcomers):
        return sample, model
    support, counts, means, within = sample
    found = newcomers @ model.text_map + model.text_intercept
    placed = Sample(
        replace(support, text=torch.cat([support.text, newcomers])),
        torch.cat([counts, counts.new_full((len(newcomers),), _NO_ROWS)]),
        torch.cat([means, (model.centre + found).to(means)]),
        within,
    )
    prototypes = torch.cat([model.prototypes, found @ model.map])
    class_means = torch.cat([model.class_means, model.centre + found])
    return placed, replace(model, prototypes=prototypes, class_means=class_means)


class _Sums(NamedTuple):
    """Sums over the pool: by class, of squares, and the mean doubt of its labels."""

    counts: Tensor
    rows: Tensor
    squares: Tensor
    doubt: float


def responsibilities(
    logits: Tensor,
    shares: Tensor,
    background: Background,
    energies: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Return how likely each row is of each class, and is of any.

    Parameters
    ----------
    logits : tensor of shape (m, C)
    shares : tensor of shape (C,)
    background : Background
    energies : tuple of float
        Mean and spread of those of rows of the classes.

    Returns
    -------
    classes : tensor of shape (m, C)
        Of rows of a class; each row sums to one.
    inside : tensor of shape (m,)
    """
    inside = 1 - _outside(logits.logsumexp(dim=1), background, energies)
    return torch.softmax(logits + shares.log(), dim=1), inside


def _expect(
    model: GaussianModel,
    scoring: Scoring,
    pool: Pool,
    shares: Tensor,
    background: Background,
) -> _Sums:
    width = pool.features.shape[1]
    wide = model.posterior.counts.dtype
    counts = torch.zeros_like(shares, dtype=wide)
    rows = counts.new_zeros(len(counts), width)
    squares = counts.new_zeros(width, width)
    doubt, total = 0.0, 0.0
    for F, weight in pool.blocks():
        logits = scoring.logits(model, F)
        classes, inside = responsibilities(logits, shares, background, scoring.energies)
        taken = inside * weight
        doubt += float(taken @ (1 - classes.amax(dim=1)))
        total += float(taken.sum())
        R = classes * taken[:, None]
        counts += R.sum(dim=0)
        rows += R.T @ F
        squares += F.T @ (F * taken[:, None])
    return _Sums(counts, rows, squares, doubt / max(total, 1e-9))


def _shrunk_shares(counts: Tensor) -> Tensor:
    equal = _EQUAL_ROWS * counts.mean() + 1e-9
    return (counts + equal) / (counts + equal).sum()


def _with_pool(sample: Sample, sums: _Sums, worth: float) -> Sample:
    """Return the sums of the labelled rows and of the pool's, by their worth."""
    n, means = sample.counts[:, None], sample.means
    counts = sample.counts + worth * sums.counts
    both = (n * means + worth * sums.rows) / counts[:, None]
    squares = sample.within.to(means) + means.T @ (n * means) + worth * sums.squares
    within = squares - both.T @ (counts[:, None] * both)
    return Sample(sample.support, counts, both, within.to(sample.within.dtype))


def find_background(
    energies: Tensor, weight: Tensor, classes: tuple[float, float]
) -> Background:
    """Find the share, mean and spread of energies of rows that are of no class.

    The energies are a mixture of two normal distributions, of which that of the classes
    is known. The background is below: no row with an energy above the classes' mean is
    of it.

    Parameters
    ----------
    energies, weight : tensors of shape (M,)
    classes : tuple of float
        Mean and spread of the energies of rows of the classes.

    Returns
    -------
    Background
    """
    mean, spread = classes
    found = Background(_BACKGROUND, mean - _BELOW * spread, _WIDTH * spread)
    for _ in range(_BACKGROUND_ROUNDS):
        of_it = weight * _outside(energies, found, classes)
        total = float(of_it.sum())
        share = (total + 1) / (float(weight.sum()) + _ABSENT_ROWS)
        if total <= _LEAST_SPREAD:
            return found._replace(share=share)
        middle = min(float(of_it @ energies) / total, mean - _NEAREST * spread)
        width = (float(of_it @ (energies - middle).square()) / total) ** 0.5
        width = min(max(width, _NARROWEST * spread), _WIDEST * spread)
        found = Background(min(share, 1 - 1 / _ABSENT_ROWS), middle, width)
    return found


def _outside(
    energies: Tensor, background: Background, classes: tuple[float, float]
) -> Tensor:
    """Return the probability of being of no class."""
    share, middle, width = background
    mean, spread = classes
    inside = (1 - share) / spread * (-((energies - mean) / spread).square() / 2).exp()
    outside = share / width * (-((energies - middle) / width).square() / 2).exp()
    floor = torch.finfo(energies.dtype).tiny
    probability = outside / (inside + outside).clamp_min(floor)
    # So far from both that neither is left: below, it is of none.
    probability = torch.where(inside + outside <= floor, 1.0, probability)
    return torch.where(energies > mean, 0.0, probability)


def energies_of(logits: Tensor, weight: Tensor) -> tuple[float, float]:
    """Return mean and spread of the energies of labelled rows left out."""
    energies = logits.logsumexp(dim=1)
    mean = float(weight @ energies / weight.sum())
    variance = float(weight @ (energies - mean).square() / weight.sum())
    return mean, max(variance**0.5, _LEAST_SPREAD)


class HeldOut(NamedTuple):
    """What labelled rows get from fits without them, with and without the pool.

    Attributes
    ----------
    rows : int64 tensor of shape (m,)
        Which rows of the support these are.
    without : tensor of shape (m, C)
        Logits without the pool.
    texts, cosines : tensors of shape (m, C)
        Logits of the texts, and mapped cosines, with it.
    """

    rows: Tensor
    without: Tensor
    texts: Tensor
    cosines: Tensor

    def gain(self, support: Support, with_pool: Tensor) -> tuple[float, float]:
        """Return by how many nats other logits are better, and how surely.

        Returns
        -------
        mean, error : float
            NaN and zero where no row could be held out; the standard error of the mean.
        """
        y, weight = support.y[self.rows], support.weight[self.rows]
        if not len(y):
            return float("nan"), 0.0
        share = weight / weight.sum()
        gains = cross_entropy(self.without, y, reduction="none")
        gains = gains - cross_entropy(with_pool, y, reduction="none")
        mean = share @ gains
        variance = (share.square() @ (gains - mean).square()).clamp_min(0)
        return float(mean), float(variance) ** 0.5


def hold_out(
    support: Support,
    spare: Tensor,
    scoring: Scoring,
    pool: Pool,
    trust: Tensor,
    newcomers: Tensor,
    *,
    text_penalty: float,
) -> HeldOut:
    """Hold labelled rows out, a few of each class at a time, and learn without them.

    A row that is left out by algebra would still have told the pool its label: so
    the pool is labelled anew each time, from a few thousand rows of it at most.

    Parameters
    ----------
    support : Support
        In tensors. Every class has a row.
    spare : bool tensor of shape (N,)
        Which rows have others of their class.
    scoring, pool, trust, text_penalty
        As `maximise_expectation` takes them.
    newcomers : tensor of shape (k, d)
        Texts of classes without rows.

    Returns
    -------
    HeldOut
    """
    pool = pool.some(_MOST_HELD_OUT)
    found: list[tuple[Tensor, ...]] = []
    for held in _folds(support, spare):
        alone = summarise(support.of_rows(~held))
        seen = trust[: len(alone.counts)]
        model = fit_gaussian(alone, seen, text_penalty=text_penalty)
        sample, model = with_newcomers(alone, model, newcomers)
        learned = maximise_expectation(
            sample, model, scoring, pool, trust, text_penalty=text_penalty
        )
        F = support.features[held]
        rows = torch.nonzero(held)[:, 0]
        parts = learned.scoring.parts(learned.model, F)
        found.append((rows, scoring.logits(model, F), *parts))
    if not found:
        none = support.features.new_zeros(0, len(trust))
        return HeldOut(support.y[:0], none, none, none)
    return HeldOut(*map(torch.cat, zip(*found, strict=True)))


def _folds(support: Support, spare: Tensor) -> Iterator[Tensor]:
    """Return which rows are held out at a time: some of each class, never all."""
    y = support.y
    # By a coordinate: rows and classes come in an order of their bytes, which precision
    # changes.
    order = torch.argsort(support.features[:, 0], stable=True)
    order = order[torch.argsort(y[order], stable=True)]
    sizes = torch.bincount(y)
    first = sizes.cumsum(0) - sizes
    place = torch.empty_like(y)
    place[order] = torch.arange(len(y), device=y.device) - first[y[order]]
    # Classes with few rows take turns, so that not all of them are in one fold.
    rank = torch.argsort(torch.argsort(support.text[:, 0], stable=True))
    turn = (place + rank[y]) % sizes[y].clamp_max(_FOLDS)
    for fold in range(_FOLDS):
        held = spare & (turn == fold)
        if held.any():
            yield held
