"""GDA: linear discriminants of the images beside the texts."""

from numbers import Real
from typing import ClassVar

import numpy as np

from skfewshot._rows import like
from skfewshot._sklearn import Interval, StrOptions
from skfewshot.classifiers._base import SHARED_CONSTRAINTS, FewShotClassifier
from skfewshot.classifiers._blend import FACTORS, fit_blend, judging_rows
from skfewshot.classifiers._discriminant import (
    fit_discriminant,
    left_out_scores,
    linear_form,
    spherical_form,
    wrong_spread,
)
from skfewshot.classifiers._docs import shared_docs

# Rows that are left out to judge by.
_MOST_ROWS = 2048
# Chosen once, on validation rows of DTD-47 and Pets-25, and without text Flowers-102.
_GUESS = {"text": 0.8, "image": 3.0}
_GUESS_ONE_SHOT = 5.0


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
    {{logit_scale, class_weight}}

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
    {{fitted}}

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
    the identity then and :math:`\alpha` 5. Without text :math:`\alpha` is only a
    temperature: the guess has 3 for 0.8, the factor is 30, and one row a class gives
    :math:`\alpha = s`.

    Sample weights count rows: in the means, the shares, the covariance and *n*. Sums
    are in double precision. A class of which `class_weight` leaves no row has the share
    of the smallest other.

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
    }

    def __init__(
        self,
        text_features="auto",
        *,
        class_names=None,
        text_encoder=None,
        prompt_templates=None,
        alpha="auto",
        logit_scale="auto",
        class_weight=None,
    ):
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.alpha = alpha
        self.logit_scale = logit_scale
        self.class_weight = class_weight

    def _learn(self, support, on_iteration):
        dtype = support.text.dtype
        support, rank = support.in_numpy().in_own_order()
        F, weight = support.features.astype(np.float64), support.weight.astype(float)
        model = fit_discriminant(F, support.y, weight, len(rank))
        self.text_weight_ = 0.0 if self.prototype_source_ == "image" else 1.0
        coef, intercept = linear_form(model)
        rows, removed = judging_rows(support, _MOST_ROWS, left=1, classes=1)
        if self.alpha != "auto":
            self.alpha_ = float(self.alpha)
        elif model.scatter.max() > 0 and len(rows):
            self._judge(model, F, support, rows, removed)
        else:
            coef, intercept = spherical_form(model)
            self.alpha_ = _GUESS_ONE_SHOT if self.text_weight_ else self.logit_scale_
        self.coef_ = (self.alpha_ * coef)[rank].astype(dtype)
        self.intercept_ = (self.alpha_ * intercept)[rank].astype(dtype)

    def _judge(self, model, F, support, rows, removed):
        """Set ``alpha_`` and ``text_weight_`` by the rows left out."""
        kind = "text" if self.text_weight_ else "image"
        scores = left_out_scores(model, F[rows], support.y[rows], removed)
        shots = (support.weight / support.copy).sum() / len(model.counts)
        guess = _GUESS[kind] * np.sqrt(shots) / wrong_spread(scores, support.y[rows])
        self.alpha_ = float(guess)
        judges, _ = judging_rows(support, len(F))
        used = np.isin(rows, judges)
        rows, scores = rows[used], scores[used]
        if len(rows):
            zero_shot = self.text_weight_ * self.logit_scale_ * F[rows] @ support.text.T
            weight, self.alpha_, _ = fit_blend(
                zero_shot,
                scores,
                support.y[rows],
                support.weight[rows],
                guess=guess,
                factor=FACTORS[kind],
            )
            self.text_weight_ *= weight

    def _logits(self, features):
        images = features @ like(self.coef_, features).T
        images += like(self.intercept_, features)
        if not self.text_weight_:
            return images
        return float(self.text_weight_) * self._zero_shot_logits(features) + images
