"""LP++: a linear probe that weighs the text of each class."""

from numbers import Integral
from typing import ClassVar

from skfewshot._rows import like
from skfewshot._sklearn import Interval
from skfewshot.classifiers._base import SHARED_CONSTRAINTS
from skfewshot.classifiers._docs import shared_docs
from skfewshot.classifiers._training import TrainedClassifier, trained_arrays


@shared_docs
class LPPlusPlusClassifier(TrainedClassifier):
    r"""Few-shot classifier by a linear probe that weighs the texts (LP++).

    The logits of a unit-norm image embedding :math:`f` for a class with text
    :math:`t_c` are

    .. math::

        f w_c^\top + b_c + \alpha_c f t_c^\top

    and :math:`w, b, \alpha` minimise the cross-entropy of the support [1]_, by full
    gradient steps with momentum 0.9. Where they start and how long they are follows
    from the :math:`n` rows :math:`S` of the support: :math:`w_c` starts at the class
    mean :math:`m_c`, each :math:`\alpha_c` at
    :math:`250 \, \mathrm{mean}_c \, m_c t_c^\top`; the step sizes are
    :math:`4 n / \lambda_{\max}(S^\top S)` for :math:`w` and
    :math:`n / (4 \max_c \sum_i (f_i t_c^\top)^2)` for :math:`\alpha`.

    Parameters
    ----------
    {{texts}}
    max_iter : int, default=300
        Steps.
    {{class_weight, device}}

    Attributes
    ----------
    coef_ : ndarray of shape (n_classes, n_features)
        The whole linear map, :math:`w_c + \alpha_c t_c`.
    intercept_ : ndarray of shape (n_classes,)
        :math:`b_c`.
    text_weights_ : ndarray of shape (n_classes,)
        :math:`\alpha_c`.
    {{fitted, epochs}}

    See Also
    --------
    sklearn.linear_model.LogisticRegression : The linear probe, which sees no text.
    CLAPClassifier : Starts at the texts and stays near them.

    Notes
    -----
    There is no `logit_scale` to choose: :math:`\alpha` takes its place, and
    ``logit_scale_`` is that of the encoder, unused. Stopping early is part of the
    method, so reaching `max_iter` warns of nothing. Ours are the step size 4 of
    :math:`b`, by the rule of :math:`w` for a column of ones, and the weights: they
    count rows everywhere above.

    References
    ----------
    .. [1] Huang et al., LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP,
       CVPR 2024, arXiv:2404.02285.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import LPPlusPlusClassifier
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> X = [[1.0, 0.9], [0.6, 1.0]]
    >>> model = LPPlusPlusClassifier(texts).fit(X, ["cat", "dog"])
    >>> model.predict(X).tolist()
    ['cat', 'dog']
    """

    _parameter_constraints: ClassVar[dict] = {
        **{k: v for k, v in SHARED_CONSTRAINTS.items() if k != "logit_scale"},
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",
    }
    #: Read by the base; no parameter.
    logit_scale = "auto"

    def __init__(
        self,
        text_features="auto",
        *,
        class_names=None,
        text_encoder=None,
        prompt_templates=None,
        max_iter=300,
        class_weight=None,
        device=None,
    ):
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.device = device

    def _solve(self, support, on_iteration):
        from skfewshot.classifiers._linear_probe import solve_linear_probe

        return solve_linear_probe(
            support.features,
            support.y,
            support.weight,
            support.text,
            max_iter=self.max_iter,
            callback=on_iteration,
        )

    def _fitted_arrays(self, solution, rank, dtype):
        trained = trained_arrays(solution, rank, dtype)
        by_text = trained["text_weights"][:, None] * self.zero_shot_features_
        return {
            "coef_": trained["weights"] + by_text,
            "intercept_": trained["intercept"],
            "text_weights_": trained["text_weights"],
        }

    def _logits(self, features):
        scores = features @ like(self.coef_, features).T
        return scores + like(self.intercept_, features)
