"""Tip-Adapter: the support as a cache of keys and labels beside the texts."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier, as_rows
from skfewshot._docs import shared_docs
from skfewshot._sklearn import Interval
from skfewshot._support import Report, Support, train
from skfewshot._torch import to_numpy
from skfewshot.peers._closed_form import kernel_product

if TYPE_CHECKING:
    from torch import Tensor

    from skfewshot._epochs import Solution


@shared_docs
class TipAdapterClassifier(FewShotClassifier):
    r"""Few-shot classifier by a cache of the support (Tip-Adapter).

    The support's features :math:`S` are keys and its one-hot labels :math:`Y` values of
    a cache [1]_. The logits of a unit-norm image embedding :math:`f` are

    .. math::

        s f T_0^\top + \alpha \exp(-\beta (1 - f S^\top)) \, Y

    Nothing is trained, or with ``train_keys=True`` (Tip-Adapter-F) the keys, on the
    cross-entropy of the support by AdamW with a step size that falls as a cosine.

    Parameters
    ----------
    {{texts}}
    train_keys : bool, default=False
        Whether to train the keys: Tip-Adapter-F.
    alpha : float, default=1.0
        Weight :math:`\alpha \ge 0` of the cache.
    beta : float, default=5.5
        Sharpness :math:`\beta \ge 0` of the similarity.
    {{logit_scale}}
    learning_rate : float, default=0.001
        The first step size. Used by ``train_keys=True`` only, as the next two.
    max_iter : int, default=20
        Epochs.
    batch_size : int or None, default=256
        Rows of the support a step; None takes them all.
    {{class_weight, device, random_state}}

    Attributes
    ----------
    keys_ : ndarray of shape (n_keys, n_features)
        The keys: the different rows of the support, trained or not.
    key_labels_ : ndarray of int, shape (n_keys,)
        Their classes, as indices of ``classes_``.
    key_weights_ : ndarray of shape (n_keys,)
        Their weights, by which their values are multiplied.
    {{fitted, epochs}}

    See Also
    --------
    ProKeRClassifier : Takes into account that keys resemble each other.
    CMMClassifier : Learns a map, with no need to keep the support.

    Notes
    -----
    The paper searches :math:`\alpha` and :math:`\beta` on validation data; the defaults
    are its fixed ones. Rows weigh in the cache as in the loss, so that a row of weight
    2 is two rows. Where nothing is trained, ``loss_curve_`` is empty and ``n_iter_`` 1:
    the one pass that fills the cache.

    References
    ----------
    .. [1] Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot
       Classification, ECCV 2022, arXiv:2207.09519.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import TipAdapterClassifier
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> X = [[1.0, 0.9], [0.6, 1.0], [0.5, 1.0]]
    >>> model = TipAdapterClassifier(texts).fit(X, ["cat", "dog", "dog"])
    >>> model.keys_.shape
    (3, 2)
    """

    _parameter_constraints: ClassVar[dict] = {
        **SHARED_CONSTRAINTS,
        "train_keys": ["boolean"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "beta": [Interval(Real, 0, None, closed="left")],
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
        train_keys: bool = False,
        alpha: float = 1.0,
        beta: float = 5.5,
        logit_scale: float | str = "auto",
        learning_rate: float = 1e-3,
        max_iter: int = 20,
        batch_size: int | None = 256,
        class_weight: dict | str | None = None,
        device: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.train_keys = train_keys
        self.alpha = alpha
        self.beta = beta
        self.logit_scale = logit_scale
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        keys = {
            "keys_": support.features,
            "key_labels_": support.y,
            "key_weights_": support.weight,
        }
        if not self.train_keys:
            return keys | {"loss_curve_": [], "n_iter_": 1}

        def fitted(solution: "Solution", rank: NDArray) -> dict[str, Any]:
            trained = solution.parameters["keys"]
            return keys | {"keys_": to_numpy(trained, dtype=support.features.dtype)}

        return train(support, self.device, self._solve, fitted, report)

    def _solve(
        self, support: Support, on_iteration: Callable[..., bool] | None
    ) -> "Solution":
        import torch

        from skfewshot._epochs import train_epochs
        from skfewshot.peers._losses import mean_cross_entropy

        F, y, weight = support.features, support.y, support.weight
        frozen = support.logit_scale * F @ support.text.T
        values = (float(self.alpha) * weight)[:, None]
        parameters = {"keys": F.clone()}

        def loss(rows: Any) -> "Tensor":
            cosines = parameters["keys"] @ F[rows].T
            similar = torch.exp(float(self.beta) * (cosines - 1)) * values
            # The product with the labels, without a one-hot matrix of them.
            cache = torch.zeros_like(frozen[rows].T).index_add(0, y, similar).T
            return mean_cross_entropy(frozen[rows] + cache, y[rows], weight[rows])

        return train_epochs(
            loss,
            parameters,
            len(F),
            # The weight decay is torch's default, as the paper names none.
            optimizer=lambda tensors: torch.optim.AdamW(
                tensors, lr=self.learning_rate, eps=1e-4
            ),
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            random_state=self.random_state,
            callback=on_iteration,
        )

    def _logits(self, features: NDArray) -> NDArray:
        keys, n_classes = as_rows(self.keys_, features), len(self.classes_)
        weights = as_rows(float(self.alpha) * self.key_weights_, features)
        # A product with the dense labels would cost as much as all the rest where
        # there are many classes.
        ends = np.arange(len(keys) + 1)
        values = csr_array((weights, self.key_labels_, ends), (len(keys), n_classes))
        cache = kernel_product(features, keys, self.beta, values)
        return self._scaled_cosines(features, self.text_features_) + cache
