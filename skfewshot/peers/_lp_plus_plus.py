"""LP++: a linear probe that weighs the text of each class."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier, as_rows
from skfewshot._docs import shared_docs
from skfewshot._sklearn import Interval
from skfewshot._spread import margin_of
from skfewshot._support import Report, Support, train

if TYPE_CHECKING:
    from torch import Tensor

    from skfewshot._epochs import Solution

_MOMENTUM = 0.9
# How far training may set the rows' own logits above the others without texts, over
# what scaled cosines to class means do: the least that moves no real support.
_MOST_MARGIN = 1.5


@shared_docs
class LPPlusPlusClassifier(FewShotClassifier):
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
    There is no `logit_scale` to choose: :math:`\alpha` takes its place, and with texts
    ``logit_scale_`` is that of the encoder, unused. Without texts the start of
    :math:`\alpha`, made for cosines to texts, would be far too sure of class means:
    each starts at ``logit_scale_``, found as for the other methods. And the logits are
    divided by what sets the support's own rows more than 1.5 times as far above the
    wrong classes as that scale sets a class mean. Stopping early is part of the
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
        text_features: Any = "auto",
        *,
        class_names: Any = None,
        text_encoder: Any = None,
        prompt_templates: Any = None,
        max_iter: int = 300,
        class_weight: dict | str | None = None,
        device: Any = None,
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.device = device

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        def fitted(solution: "Solution", rank: NDArray) -> dict[str, Any]:
            found = self._fitted(solution, rank)
            if support.text_seen:
                known = support.features @ found["coef_"].T + found["intercept_"]
                margin = margin_of(known, support.y, support.weight)
                most = _MOST_MARGIN * support.image_margin()
                found = {k: v / max(1.0, margin / most) for k, v in found.items()}
            return found

        return train(support, self.device, self._solve, fitted, report)

    def _solve(
        self, support: Support, on_iteration: Callable[..., bool] | None
    ) -> "Solution":
        import torch
        from torch.nn.functional import cross_entropy

        from skfewshot._epochs import Solution

        F, share = support.features, support.weight / support.weight.sum()
        parameters, steps = starting_point(support)
        velocities = {name: torch.zeros_like(x) for name, x in parameters.items()}
        cosines, curve = F @ support.text.T, []
        for iteration in range(1, self.max_iter + 1):
            leaves = {name: x.requires_grad_() for name, x in parameters.items()}
            logits = F @ leaves["weights"].T + leaves["intercept"]
            logits = logits + cosines * leaves["text_weights"]
            loss = share @ cross_entropy(logits, support.y, reduction="none")
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            for (name, x), gradient in zip(leaves.items(), gradients, strict=True):
                velocities[name] = _MOMENTUM * velocities[name] + gradient
                parameters[name] = x.detach() - steps[name] * velocities[name]
            curve.append(float(loss.detach()))
            if not math.isfinite(curve[-1]):
                raise ValueError(
                    f"The loss is {curve[-1]} in step {iteration}; a parameter or a "
                    "weight is too large."
                )
            if on_iteration is not None and on_iteration(
                iteration, curve[-1], lambda: Solution(parameters, list(curve))
            ):
                break
        return Solution(parameters, curve)

    def _fitted(self, solution: "Solution", rank: NDArray) -> dict[str, Any]:
        texts = self.text_features_
        trained = solution.arrays(rank, texts.dtype)
        by_text = trained["text_weights"][:, None] * texts
        return {
            "coef_": trained["weights"] + by_text,
            "intercept_": trained["intercept"],
            "text_weights_": trained["text_weights"],
        }

    def _logits(self, features: NDArray) -> NDArray:
        scores = features @ as_rows(self.coef_, features).T
        return scores + as_rows(self.intercept_, features)


def starting_point(support: Support) -> tuple[dict[str, "Tensor"], dict[str, float]]:
    """Class means, one weight for all texts, and steps by the curvature of each block.

    Parameters
    ----------
    support : Support
        In tensors.

    Returns
    -------
    parameters : dict from str to tensor
        ``weights`` (C, d), ``intercept`` (C,) and ``text_weights`` (C,).
    steps : dict from str to float
    """
    import torch

    F, y, weight, text = support.features, support.y, support.weight, support.text
    total = weight.sum()
    counts = weight.new_zeros(len(text)).index_add_(0, y, weight)
    means = torch.zeros_like(text).index_add_(0, y, weight[:, None] * F)
    means /= counts.clamp_min(torch.finfo(F.dtype).tiny)[:, None]
    held = counts > 0
    text_weight = 250 * (means[held] * text[held]).sum(dim=1).mean()
    if support.text_seen:
        text_weight = text_weight.new_tensor(support.logit_scale)
    rows = weight.sqrt()[:, None] * F
    gram = rows.T @ rows if len(F) > F.shape[1] else rows @ rows.T
    largest = torch.linalg.eigvalsh(gram)[-1]
    squares = (weight @ (F @ text.T).square()).max()

    def step(size: Any, curvature: Any) -> float:
        # Where nothing curves, nothing slopes: of rows or texts of zeros.
        is_flat = curvature < torch.finfo(F.dtype).tiny
        return 0.0 if is_flat else float(size / curvature)

    parameters = {
        "weights": means,
        "intercept": text.new_zeros(len(text)),
        "text_weights": text_weight.expand(len(text)).clone(),
    }
    return parameters, {
        "weights": step(4 * total, largest),
        # The rule of the weights, for a column of ones.
        "intercept": 4.0,
        "text_weights": step(total, 4 * squares),
    }
