"""GDA: linear discriminants of the images beside the texts."""

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier, as_rows
from skfewshot._docs import shared_docs
from skfewshot._left_out import left_out_attributes
from skfewshot._sklearn import Interval, StrOptions
from skfewshot._spread import likely_scale, margin_of
from skfewshot._support import Report, Support
from skfewshot.peers._closed_form import (
    ALONE_SHARE,
    FACTOR,
    fit_blend,
    judging_rows,
    least_of_others,
)

# Rows that are left out to judge by.
_MOST_ROWS = 2048
# Chosen once, on validation rows of DTD-47 and Pets-25.
_GUESS, _GUESS_ONE_SHOT = 0.8, 5.0
# Share of the scatter below which what is left of it is a rounding error.
_LEAST_SCATTER = 1e-9


@dataclass(frozen=True)
class Discriminant:
    """Gaussian classes with one covariance, as sums that a row can be taken out of.

    Attributes
    ----------
    counts : ndarray of shape (C,)
        Weight of each class.
    means : ndarray of shape (C, d)
    scatter : ndarray of shape (d,)
        Eigenvalues of the scatter matrix about the class means.
    axes : ndarray of shape (d, d)
        Its eigenvectors, as columns.
    """

    counts: NDArray
    means: NDArray
    scatter: NDArray
    axes: NDArray


@shared_docs
class GaussianDiscriminantClassifier(FewShotClassifier):
    r"""Few-shot classifier by Gaussian discriminant analysis (GDA).

    Class means :math:`\mu_c`, shares :math:`\pi_c` and one covariance :math:`\Sigma`
    about the means give linear discriminants of the images, which are added to
    zero-shot CLIP [1]_. The logits of a unit-norm image embedding :math:`f` are

    .. math::

        a s f T_0^\top + \alpha (f P \mu^\top + b), \qquad
        P = d \, ((n - 1) \Sigma + \mathrm{tr}(\Sigma) I)^{+}, \qquad
        b_c = \log \pi_c - \tfrac12 \mu_c P \mu_c^\top

    for *n* rows of *d* features, with :math:`a = 1` in the paper. Everything is closed
    form.

    Parameters
    ----------
    {{texts}}
    alpha : "auto" or float, default="auto"
        Weight :math:`\alpha \ge 0` of the discriminants. A float is the paper's
        equation. ``"auto"`` finds :math:`\alpha` and :math:`a` from the support, see
        Notes.
    {{store_left_out, logit_scale, class_weight}}

    Attributes
    ----------
    coef_ : ndarray of shape (n_classes, n_features)
        :math:`\alpha \mu P`.
    intercept_ : ndarray of shape (n_classes,)
        :math:`\alpha b`.
    alpha_ : float
        The weight used.
    text_weight_ : float
        The weight :math:`a`: 1 for an `alpha` that was given, and 0 where there is no
        text, as class means have no more to say than the discriminants.
    {{fitted, left_out}}

    See Also
    --------
    sklearn.discriminant_analysis.LinearDiscriminantAnalysis : Without texts.
    ProKeRClassifier : The other closed form.

    Notes
    -----
    The paper tunes :math:`\alpha` on validation data. What follows is ours.
    ``alpha="auto"`` scores each row of a class that has others by the model without
    that row, which is exact and costs some matrix products. A guess
    :math:`0.8 \sqrt{K} / \sigma` for *K* rows a class makes the scores of the wrong
    classes, of standard deviation :math:`\sigma`, spread as logits should: the scale of
    :math:`P` follows *n*, *d* and the classes, and this undoes it. Then :math:`a` in
    [0.2, 2] and :math:`\alpha` within a factor of 1.5 of the guess minimise the
    cross-entropy of the scores of the classes of three rows or more. Without those the
    guess is taken as it is. With one row a class :math:`\Sigma` is zero; :math:`P` is
    the identity then and :math:`\alpha` 5.

    Without text :math:`\alpha` is only a temperature. The guess sets the scores of the
    support's own rows as far above those of the wrong classes as :math:`s` sets the
    cosines of a class mean; the likelihood of the scores of left-out rows of the
    classes of three rows or more, times a log-normal prior of width 0.5 about the
    guess, has its maximum at :math:`\alpha`. One row a class gives :math:`\alpha = s`.

    Sample weights count rows: in the means, the shares, the covariance and *n*. For
    ``alpha="auto"`` near copies, rows of a class whose squared distance is below a
    sixth of what is usual in a class, are one row of all their weight. Sums are in
    double precision. A class of which `class_weight` leaves no row has the share of the
    smallest other.

    References
    ----------
    .. [1] Wang et al., A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation,
       ICLR 2024, arXiv:2402.04087.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import GaussianDiscriminantClassifier
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> X = [[1.0, 0.9], [1.0, 0.8], [0.6, 1.0], [0.7, 1.0]]
    >>> model = GaussianDiscriminantClassifier(texts, alpha=1.0)
    >>> model.fit(X, ["cat", "cat", "dog", "dog"]).predict([[1.0, 0.7]]).tolist()
    ['cat']
    """

    _parameter_constraints: ClassVar[dict] = {
        **SHARED_CONSTRAINTS,
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "store_left_out": ["boolean"],
    }

    def __init__(
        self,
        text_features: Any = "auto",
        *,
        class_names: Any = None,
        text_encoder: Any = None,
        prompt_templates: Any = None,
        alpha: float | str = "auto",
        store_left_out: bool = False,
        logit_scale: float | str = "auto",
        class_weight: dict | str | None = None,
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.alpha = alpha
        self.store_left_out = store_left_out
        self.logit_scale = logit_scale
        self.class_weight = class_weight

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        dtype = support.text.dtype
        if self.alpha == "auto":
            support = support.without_near_copies()
        support, rank = support.in_own_order()
        F, weight = support.features.astype(float), support.weight.astype(float)
        model = fit_discriminant(F, support.y, weight, len(rank))
        coef, intercept = linear_form(model)
        found = None
        if self.alpha != "auto":
            found = float(not support.text_seen), float(self.alpha)
        elif model.scatter.max() > 0:
            judge = _judge_images if support.text_seen else _judge
            found = judge(model, F, support)
        if found is None:
            coef, intercept = spherical_form(model)
            found = 1.0, _GUESS_ONE_SHOT
            if support.text_seen:
                found = 0.0, support.logit_scale
        text_weight, alpha = found
        fitted = {
            "alpha_": alpha,
            "text_weight_": text_weight,
            "coef_": (alpha * coef)[rank].astype(dtype),
            "intercept_": (alpha * intercept)[rank].astype(dtype),
        }
        if self.store_left_out:
            logits = alpha * all_left_out_scores(model, F, support.y, weight)
            logits += text_weight * support.logit_scale * F @ support.text.T
            fitted |= left_out_attributes(support, logits[:, rank].astype(dtype))
        return fitted

    def _logits(self, features: NDArray) -> NDArray:
        images = features @ as_rows(self.coef_, features).T
        images += as_rows(self.intercept_, features)
        if not self.text_weight_:
            return images
        texts = self._scaled_cosines(features, self.text_features_)
        return float(self.text_weight_) * texts + images


def _judge(
    model: Discriminant, F: NDArray, support: Support
) -> tuple[float, float] | None:
    """Return the weights of texts and discriminants, by the rows left out.

    None where no class can spare one, or nothing would be left of the covariance.
    """
    rows, removed = judging_rows(support, _MOST_ROWS, left=1, classes=1)
    rest = left_out_scatter(model, F[rows], support.y[rows], removed)
    sound = rest > _LEAST_SCATTER * model.scatter.sum()
    rows, removed = rows[sound], removed[sound]
    if not len(rows):
        return None
    scores = left_out_scores(model, F[rows], support.y[rows], removed)
    shots = (support.weight / support.copy).sum() / len(model.counts)
    guess = _GUESS * np.sqrt(shots) / wrong_spread(scores, support.y[rows])
    judges, _ = judging_rows(support, len(F))
    used = np.isin(rows, judges)
    rows, scores = rows[used], scores[used]
    if not len(rows):
        return 1.0, float(guess)
    text_weight, alpha, _ = fit_blend(
        support.logit_scale * F[rows] @ support.text.T,
        scores,
        support.y[rows],
        support.weight[rows],
        guess=guess,
        factor=FACTOR,
    )
    return text_weight, alpha


def _judge_images(
    model: Discriminant, F: NDArray, support: Support
) -> tuple[float, float]:
    """Return no weight of texts, and the temperature of discriminants alone."""
    coef, intercept = linear_form(model)
    rows, removed = judging_rows(support, _MOST_ROWS)
    scores = left_out_scores(model, F[rows], support.y[rows], removed)
    known = F @ coef.T + intercept
    guess = support.image_margin() / margin_of(known, support.y, support.weight)
    y, weight = support.y[rows], support.weight[rows]
    return 0.0, likely_scale(scores, y, weight, guess=guess)[0]


def fit_discriminant(
    F: NDArray, y: NDArray, weight: NDArray, n_classes: int
) -> Discriminant:
    """Return the `Discriminant` of weighted rows.

    Parameters
    ----------
    F : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    weight : ndarray of shape (n,)
    n_classes : int

    Returns
    -------
    Discriminant
    """
    counts = np.bincount(y, weights=weight, minlength=n_classes)
    sums = np.zeros((n_classes, F.shape[1]))
    np.add.at(sums, y, F * weight[:, None])
    means = sums / np.maximum(counts, np.finfo(float).tiny)[:, None]
    centred = F - means[y]
    # A row alone in its class is its mean: no rounding error is to be inverted.
    centred[np.bincount(y, minlength=n_classes)[y] == 1] = 0
    eigenvalues, axes = np.linalg.eigh((centred * weight[:, None]).T @ centred)
    return Discriminant(counts, means, eigenvalues.clip(0), axes)


def precision(eigenvalues: NDArray, total: float) -> NDArray:
    """Eigenvalues of ``d pinv((n - 1) Sigma + tr(Sigma) I)`` from the scatter's.

    Parameters
    ----------
    eigenvalues : ndarray of shape (d,)
    total : float
        The weight n of all rows.
    """
    ridged = eigenvalues + eigenvalues.sum() / degrees(total)
    if not ridged.max() > 0:
        return np.zeros_like(ridged)
    return len(ridged) / ridged


def degrees(total: Any) -> Any:
    """``n - 1``, but positive for weights that add up to less than two rows."""
    return np.maximum(total - 1, total / 2)


def log_priors(counts: NDArray) -> NDArray:
    """Logarithms of the class shares; an empty class counts as the smallest other."""
    counts = np.where(counts > 0, counts, counts[counts > 0].min())
    return np.log(counts / counts.sum())


def linear_form(model: Discriminant) -> tuple[NDArray, NDArray]:
    """Coefficients and intercepts of ``f P mu' + log pi - mu P mu' / 2``."""
    values = precision(model.scatter, model.counts.sum())
    coef = (model.means @ model.axes * values) @ model.axes.T
    return coef, log_priors(model.counts) - (coef * model.means).sum(axis=1) / 2


def left_out_scores(
    model: Discriminant, F: NDArray, y: NDArray, removed: NDArray
) -> NDArray:
    """Discriminant scores of rows of the support, by the model without that row.

    Exact: the scatter without a row is that with it less a rank-one matrix, and
    everything happens in the axes of the whole scatter, where the ridge may change.

    Parameters
    ----------
    model : Discriminant
    F : ndarray of shape (m, d)
        Some rows of the support.
    y : ndarray of shape (m,)
        Their classes; each must keep some weight.
    removed : ndarray of shape (m,)
        The weight to take out.

    Returns
    -------
    ndarray of shape (m, C)
    """
    d, rows = F.shape[1], np.arange(len(F))
    left = model.counts[y] - removed
    total = model.counts.sum() - removed
    x, means = F @ model.axes, model.means @ model.axes
    r = x - means[y]
    # The scatter loses `lost` r r', and the mean of the row's class moves by -`step` r.
    lost, step = removed * model.counts[y] / left, removed / left
    ridge = model.scatter.sum() - lost * (r**2).sum(axis=1)
    ridge = ridge.clip(0) / degrees(total)
    ridge = np.maximum(ridge, 1e-9 * max(model.scatter.max(), 1e-300))
    inverse = 1 / (model.scatter + ridge[:, None])
    scaled_r = r * inverse
    # Sherman-Morrison: (A - lost r r')^-1 = A^-1 + gain A^-1 r r' A^-1.
    r_r = (r * scaled_r).sum(axis=1)
    gain = lost / np.maximum(1 - lost * r_r, 1e-9)
    x_r = (x * scaled_r).sum(axis=1)
    mean_r = scaled_r @ means.T
    x_mean = (x * inverse) @ means.T + (gain * x_r)[:, None] * mean_r
    mean_mean = inverse @ (means**2).T + gain[:, None] * mean_r**2
    # The own class, the mean of which is mu - step r.
    own_x_r = x_r + gain * x_r * r_r
    own_mean_r = mean_r[rows, y] * (1 + gain * r_r)
    own_r_r = r_r * (1 + gain * r_r)
    mean_mean[rows, y] += step**2 * own_r_r - 2 * step * own_mean_r
    x_mean[rows, y] -= step * own_x_r
    priors = np.tile(log_priors(model.counts), (len(F), 1))
    priors += np.log(model.counts.sum() / total)[:, None]
    priors[rows, y] += np.log(left / model.counts[y])
    return d * (x_mean - mean_mean / 2) + priors


def all_left_out_scores(
    model: Discriminant, F: NDArray, y: NDArray, weight: NDArray
) -> NDArray:
    """Scores of all rows that `model` was fitted on, each by the model without it.

    A class that loses its only row has what classes without rows have: a mean of zero,
    and the share of the smallest other. So has, as there is no telling, one whose row
    is all there is of the scatter.

    Parameters
    ----------
    model : Discriminant
    F : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    weight : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (n, C)
    """
    is_left = model.counts[y] - weight > ALONE_SHARE * weight
    coef, intercept = spherical_form(model)
    if model.scatter.max() > 0:
        coef, intercept = linear_form(model)
        rest = left_out_scatter(model, F, y, np.where(is_left, weight, 0.0))
        is_left &= rest > _LEAST_SCATTER * model.scatter.sum()
    total = model.counts.sum()
    scores = F @ coef.T + intercept + np.log(total / (total - weight))[:, None]
    others = least_of_others(np.where(model.counts > 0, model.counts, np.inf), y)
    scores[np.arange(len(y)), y] = np.log(others / (total - weight))
    if is_left.any():
        some = F[is_left], y[is_left], weight[is_left]
        scores[is_left] = left_out_scores(model, *some)
    return scores


def left_out_scatter(
    model: Discriminant, F: NDArray, y: NDArray, removed: NDArray
) -> NDArray:
    """Trace of the scatter without a row, shape (m,), as `left_out_scores` takes it."""
    counts = model.counts[y]
    lost = removed * counts / (counts - removed)
    return model.scatter.sum() - lost * ((F - model.means[y]) ** 2).sum(axis=1)


def spherical_form(model: Discriminant) -> tuple[NDArray, NDArray]:
    """The linear form with the identity in place of P, for rows without scatter."""
    means = model.means
    return means, log_priors(model.counts) - (means**2).sum(axis=1) / 2


def wrong_spread(scores: NDArray, y: NDArray) -> float:
    """Mean standard deviation of the scores of the wrong classes of each row."""
    wrong = np.ones(scores.shape, dtype=bool)
    wrong[np.arange(len(y)), y] = False
    spread = scores[wrong].reshape(len(y), -1).std(axis=1).mean()
    # Of two classes one is wrong, and has no spread: that from the right one then.
    if spread > 0:
        return spread
    return max(scores.std(axis=1).mean(), np.finfo(float).tiny ** 0.25)
