"""TaskRes: a residual added to each text prototype."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier, as_rows
from skfewshot._docs import shared_docs
from skfewshot._rows import unit_rows
from skfewshot._sklearn import Interval
from skfewshot._support import Report, Support, train

if TYPE_CHECKING:
    from torch import Tensor

    from skfewshot._epochs import Solution


@shared_docs
class TaskResClassifier(FewShotClassifier):
    r"""Few-shot classifier by task residuals of the texts (TaskRes).

    The text prototypes :math:`t_c` stay, and a residual :math:`r_c` is added to each
    [1]_. The logits of a unit-norm image embedding :math:`f` are

    .. math::

        s \cos(f, t_c + \alpha r_c)

    where :math:`r` starts at zero and is trained on the cross-entropy of the support by
    Adam, with a step size that falls as a cosine.

    Parameters
    ----------
    {{texts}}
    alpha : float, default=0.5
        Scale :math:`\alpha \ge 0` of the residuals.
    {{logit_scale}}
    learning_rate : float, default=0.002
        The first step size.
    max_iter : int, default=100
        Epochs.
    batch_size : int or None, default=256
        Rows of the support a step; None takes them all.
    {{class_weight, device, random_state}}

    Attributes
    ----------
    prototypes_ : ndarray of shape (n_classes, n_features)
        The trained prototypes :math:`t_c + \alpha r_c`, unit norm.
    intercept_ : ndarray of shape (n_classes,)
        Added to the cosines. Learned only where there is no text
        (``prototype_source_ == "image"``); zeros otherwise.
    {{fitted, epochs}}

    See Also
    --------
    CLAPClassifier : Trains the prototypes with a penalty for leaving the texts.
    CMMClassifier : Trains a map of the images as well.

    Notes
    -----
    The intercept is ours: features without text need not have the large common mean of
    CLIP's, and without a constant :math:`f` and :math:`-f` could never get the same
    class. A batch's loss is its weighted mean; equal rows are merged first, so that a
    row of weight 2 is two rows.

    References
    ----------
    .. [1] Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023,
       arXiv:2211.10277.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import TaskResClassifier
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> model = TaskResClassifier(texts).fit([[1.0, 0.9], [0.6, 1.0]], ["cat", "dog"])
    >>> model.prototypes_.shape
    (2, 2)
    """

    _parameter_constraints: ClassVar[dict] = {
        **SHARED_CONSTRAINTS,
        "alpha": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": "no_validation",
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        text_features: Any = "auto",
        *,
        class_names: Any = None,
        text_encoder: Any = None,
        prompt_templates: Any = None,
        alpha: float = 0.5,
        logit_scale: float | str = "auto",
        learning_rate: float = 2e-3,
        max_iter: int = 100,
        batch_size: int | None = 256,
        class_weight: dict | str | None = None,
        device: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.alpha = alpha
        self.logit_scale = logit_scale
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        return train(support, self.device, self._solve, self._fitted, report)

    def _solve(
        self, support: Support, on_iteration: Callable[..., bool] | None
    ) -> "Solution":
        import torch

        from skfewshot._epochs import train_epochs
        from skfewshot.peers._losses import first_intercept, prototype_loss

        text, alpha = support.text, float(self.alpha)
        parameters = {"residual": torch.zeros_like(text)} | first_intercept(support)

        def loss(rows: Any) -> "Tensor":
            prototypes = text + alpha * parameters["residual"]
            intercept = parameters.get("intercept")
            return prototype_loss(support, rows, prototypes, intercept)

        return train_epochs(
            loss,
            parameters,
            len(support.features),
            optimizer=lambda tensors: torch.optim.Adam(tensors, lr=self.learning_rate),
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            random_state=self.random_state,
            callback=on_iteration,
        )

    def _fitted(self, solution: "Solution", rank: NDArray) -> dict[str, Any]:
        texts = self.text_features_
        trained = solution.arrays(rank, texts.dtype)
        return {
            "prototypes_": unit_rows(texts + float(self.alpha) * trained["residual"]),
            "intercept_": trained.get("intercept", np.zeros_like(texts[:, 0])),
        }

    def _logits(self, features: NDArray) -> NDArray:
        shift = float(self.logit_scale_) * as_rows(self.intercept_, features)
        return self._scaled_cosines(features, self.prototypes_) + shift
