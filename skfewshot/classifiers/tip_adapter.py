"""Tip-Adapter: the support as a cache of keys and labels beside the texts."""

from numbers import Integral, Real
from typing import ClassVar

from skfewshot._rows import as_numpy, like
from skfewshot._sklearn import Interval
from skfewshot._torch import to_numpy
from skfewshot.classifiers._base import SHARED_CONSTRAINTS
from skfewshot.classifiers._docs import shared_docs
from skfewshot.classifiers._kernels import exponential_kernel, in_blocks, label_product
from skfewshot.classifiers._training import TrainedClassifier


@shared_docs
class TipAdapterClassifier(TrainedClassifier):
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
        text_features="auto",
        *,
        class_names=None,
        text_encoder=None,
        prompt_templates=None,
        train_keys=False,
        alpha=1.0,
        beta=5.5,
        logit_scale="auto",
        learning_rate=1e-3,
        max_iter=20,
        batch_size=256,
        class_weight=None,
        device=None,
        random_state=None,
    ):
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

    def _learn(self, support, on_iteration):
        self.key_labels_, self.key_weights_ = support.y, support.weight
        if self.train_keys:
            return super()._learn(support, on_iteration)
        self.keys_ = as_numpy(support.features)
        self.loss_curve_, self.n_iter_ = [], 1
        return None

    def _solve(self, support, on_iteration):
        import torch

        from skfewshot.classifiers._epochs import train_epochs
        from skfewshot.classifiers._prototype_losses import mean_cross_entropy

        F, y, weight = support.features, support.y, support.weight
        frozen = self.logit_scale_ * F @ support.text.T
        values = (float(self.alpha) * weight)[:, None]
        parameters = {"keys": F.clone()}

        def loss(rows):
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

    def _fitted_arrays(self, solution, rank, dtype):
        return {"keys_": to_numpy(solution.parameters["keys"], dtype=dtype)}

    def _logits(self, features):
        keys = like(self.keys_, features)
        weights = float(self.alpha) * self.key_weights_

        def cached(block):
            kernel = exponential_kernel(block, keys, self.beta)
            return label_product(kernel, self.key_labels_, weights, len(self.classes_))

        cache = in_blocks(cached, features, len(keys))
        return self._zero_shot_logits(features) + cache
