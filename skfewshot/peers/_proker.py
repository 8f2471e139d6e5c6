"""ProKeR: kernel ridge regression of what zero-shot CLIP leaves unexplained."""

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import softmax

from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier, as_rows
from skfewshot._docs import shared_docs
from skfewshot._left_out import left_out_attributes
from skfewshot._sklearn import Interval, StrOptions
from skfewshot._spread import likely_scale, margin_of
from skfewshot._support import Report, Support
from skfewshot.peers._closed_form import (
    ALONE_SHARE,
    FACTOR,
    exponential_kernel,
    fit_blend,
    judging_rows,
    kernel_product,
    least_of_others,
    some_classes,
)

# Above this, a kernel matrix in double precision would take more than 512 MB.
_MOST_DOUBLE = 8192
# Rows among which settings are chosen: so many can be decomposed in a second.
_MOST_ROWS = 1500
# Chosen once, on validation rows of DTD-47 and Pets-25, and without text AID-30 too:
# the grids, the settings without rows to judge by, the guess of amplitude * lambda.
_BETAS, _BETA = (1.0, 2.0, 4.0), 2.0
_LAMBDAS, _LAMBDA = (0.1, 0.3, 1.0), 0.3
_GUESS = 10.0
# Without text, how far the rows' own logits are above the others, over what scaled
# cosines to class means would make it.
_GUESS_MARGIN = 1.7
# Before it is weighed. Rows of small weight are fitted less, and are to count less.
_LEAST_MARGIN = 0.25


@shared_docs
class ProKeRClassifier(FewShotClassifier):
    r"""Few-shot classifier by proximal kernel ridge regression (ProKeR).

    What zero-shot CLIP gets wrong on the support :math:`S` with one-hot labels
    :math:`Y` is learned by kernel ridge regression, and corrected [1]_. The logits of a
    unit-norm image embedding :math:`f` are

    .. math::

        a s f T_0^\top + \gamma \, k(f, S) (K_{SS} / \lambda + W^{-1})^{-1} (Y - R_0),
        \qquad k(x, y) = \exp(-\beta (1 - x y^\top))

    with the diagonal matrix :math:`W` of the sample weights, and :math:`R_0` the
    zero-shot prediction for the support. Everything is closed form.

    Parameters
    ----------
    {{texts}}
    beta : "auto" or float, default="auto"
        Sharpness :math:`\beta > 0` of the kernel.
    regularization : "auto" or float, default="auto"
        :math:`\lambda > 0`.
    amplitude : "auto" or float, default="auto"
        Weight :math:`\gamma > 0` of the correction. With ``"auto"``, :math:`a` is found
        too; else it is 1.
    residual : {"probability", "cosine"}, default="probability"
        What :math:`R_0` is: the zero-shot probabilities
        :math:`\mathrm{softmax}(s S T_0^\top)`, or the cosines :math:`S T_0^\top`.
    {{store_left_out, logit_scale, class_weight}}

    Attributes
    ----------
    support_ : ndarray of shape (n_support, n_features)
        The different rows of the support.
    dual_coef_ : ndarray of shape (n_support, n_classes)
        :math:`\gamma (K_{SS} / \lambda + W^{-1})^{-1} (Y - R_0)`.
    beta_, regularization_, amplitude_ : float
        The settings used.
    text_weight_ : float
        The weight :math:`a`.
    prior_ : ndarray of shape (n_classes,)
        Without text the logarithms of the class shares, which take the place of
        :math:`s f T_0^\top`; else zeros.
    {{fitted, left_out}}

    See Also
    --------
    TipAdapterClassifier : The same kernel, without the inverse.
    GaussianDiscriminantClassifier : The other closed form.

    Notes
    -----
    The paper's equation, :math:`f T_0^\top + k(f, S) (\ldots)^{-1} (Y - S T_0^\top)`,
    is that above, divided by :math:`s`, for ``residual="cosine"`` and
    ``amplitude=s``; it searches :math:`\beta` and :math:`\lambda` on validation data
    for each data set. What follows is ours. Probabilities are on the scale of one-hot
    labels, cosines are not, so :math:`R_0` is the former by default: the residual is
    then the gradient of the cross-entropy, and the correction one step of boosting in
    the space of the logits.

    ``"auto"`` takes each row out of the support in turn, which a closed form makes
    exact and cheap, and minimises the cross-entropy of the predictions for the rows of
    classes of three or more: over :math:`\beta` in {1, 2, 4}, :math:`\lambda` in
    {0.1, 0.3, 1}, :math:`a` in [0.2, 2] and :math:`\gamma \lambda` within a factor of
    1.5 of 10. Of supports above 1500 rows, some of the classes are used. With fewer
    rows a class the settings are :math:`\beta = 2`, :math:`\lambda = 0.3`,
    :math:`\gamma \lambda = 10` and :math:`a = 1`.

    Without text the class shares are without the row, too, :math:`a = 1`, and
    :math:`\gamma` is a temperature. Its guess sets the correction of the support's own
    rows 1.7 times as far above the wrong classes as :math:`s` sets the cosines of a
    class mean; the cross-entropy is summed, and a log-normal prior of width 0.5 about
    the guess added. With
    ``"auto"`` near copies, rows of a class whose squared distance is below a sixth of
    what is usual in a class, are one row of all their weight.

    The kernel matrix takes memory quadratic in the rows: 1 GB in single precision for
    16000.

    References
    ----------
    .. [1] ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language
       Models, CVPR 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import ProKeRClassifier
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> X = [[1.0, 0.9], [0.7, 1.0], [0.2, 1.0]]
    >>> model = ProKeRClassifier(texts).fit(X, ["cat", "dog", "dog"])
    >>> model.beta_, model.dual_coef_.shape
    (2.0, (3, 2))
    """

    _positive: ClassVar[list] = [
        StrOptions({"auto"}),
        Interval(Real, 1e-100, None, closed="left"),
    ]
    _parameter_constraints: ClassVar[dict] = {
        **SHARED_CONSTRAINTS,
        "beta": _positive,
        "regularization": _positive,
        "amplitude": _positive,
        "residual": [StrOptions({"probability", "cosine"})],
        "store_left_out": ["boolean"],
    }

    def __init__(
        self,
        text_features: Any = "auto",
        *,
        class_names: Any = None,
        text_encoder: Any = None,
        prompt_templates: Any = None,
        beta: float | str = "auto",
        regularization: float | str = "auto",
        amplitude: float | str = "auto",
        residual: str = "probability",
        store_left_out: bool = False,
        logit_scale: float | str = "auto",
        class_weight: dict | str | None = None,
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.beta = beta
        self.regularization = regularization
        self.amplitude = amplitude
        self.residual = residual
        self.store_left_out = store_left_out
        self.logit_scale = logit_scale
        self.class_weight = class_weight

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        dtype = support.text.dtype
        if "auto" in (self.beta, self.regularization, self.amplitude):
            support = support.without_near_copies()
        support, rank = support.in_own_order()
        counts = np.bincount(support.y, support.weight, minlength=len(rank))
        counts = np.maximum(counts, counts[counts > 0].min())
        prior = np.log(counts / counts.sum()) * support.text_seen
        settings = self._choose(support, counts)
        F, ridge = support.features, settings["regularization_"]
        K = exponential_kernel(F, F, settings["beta_"])
        residuals = self._base(support, np.arange(len(rank)), counts)[1]
        dual = solve_ridge(K, residuals, support.weight, ridge)
        if settings["amplitude_"] is None:
            known = residuals - ridge * dual / support.weight[:, None]
            settings["amplitude_"] = _guess(support, known, support.y) / ridge
        # (K / lambda + W^-1)^-1 = lambda (K + lambda W^-1)^-1.
        dual *= settings["amplitude_"] * ridge
        fitted = settings | {
            "support_": F,
            "dual_coef_": dual[:, rank].astype(dtype),
            "prior_": prior[rank].astype(dtype),
        }
        if self.store_left_out:
            logits = self._left_out_logits(support, counts, settings)[:, rank]
            fitted |= left_out_attributes(support, logits.astype(dtype))
        return fitted

    def _left_out_logits(
        self, support: Support, counts: NDArray, settings: dict[str, Any]
    ) -> NDArray:
        """Return the logits of each row by the fit without it, settings kept."""
        classes, rows = np.arange(len(counts)), np.arange(len(support.y))
        base, targets = self._base(support, classes, counts)
        if support.text_seen:
            # The class shares, too, are those without the row.
            left = np.tile(counts, (len(rows), 1))
            own = counts[support.y] - support.weight
            is_left = own > ALONE_SHARE * support.weight
            others = least_of_others(counts, support.y)
            left[rows, support.y] = np.where(is_left, own, others)
            shares = left / left.sum(axis=1, keepdims=True)
            base, targets = np.log(shares), 1.0 * (support.y[:, None] == classes)
        ridge = settings["regularization_"]
        K = exponential_kernel(support.features, support.features, settings["beta_"])
        # Without a row, its target is missed by the dual over the inverse's diagonal.
        targets = np.column_stack([targets, np.ones(len(rows))])
        n = targets.shape[1]
        system = np.column_stack([targets, np.eye(len(rows))])
        solved = solve_ridge(K, system, support.weight, ridge)
        found = targets - solved[:, :n] / np.diag(solved[:, n:])[:, None]
        learned = found[:, :-1]
        if support.text_seen:
            learned = learned - found[:, -1:] * shares
        amplitude = settings["amplitude_"] * ridge
        return settings["text_weight_"] * base + amplitude * learned

    def _base(
        self, support: Support, classes: NDArray, counts: NDArray
    ) -> tuple[NDArray, NDArray]:
        """Zero-shot logits of the rows for some classes, and what is left of Y."""
        if support.text_seen:
            shares = counts[classes] / counts[classes].sum()
            predicted = np.tile(shares, (len(support.y), 1))
            logits = np.log(predicted)
        else:
            cosines = support.features @ support.text[classes].T
            logits = cosines * cosines.dtype.type(support.logit_scale)
            probable = self.residual == "probability"
            predicted = softmax(logits, axis=1) if probable else cosines
        return logits, (support.y[:, None] == classes) - predicted

    def _choose(self, support: Support, counts: NDArray) -> dict[str, Any]:
        """Return the settings: those given, or the best by the rows left out.

        Without rows to judge by and without text the amplitude is None, to be guessed
        from the fit.
        """
        betas = _BETAS if self.beta == "auto" else (float(self.beta),)
        is_fixed = self.regularization != "auto"
        ridges = (float(self.regularization),) if is_fixed else _LAMBDAS
        auto = "auto" in (self.beta, self.regularization, self.amplitude)
        if auto and len(judging_rows(support, len(support.y))[0]):
            part, classes = some_classes(support, _MOST_ROWS)
            judge = _Judge(self, part, classes, counts)
            _, text_weight, scaled, beta, ridge = min(judge.found(betas, ridges))
            amplitude: float | None = scaled / ridge
        else:
            beta = _BETA if len(betas) > 1 else betas[0]
            ridge = _LAMBDA if len(ridges) > 1 else ridges[0]
            text_weight = 1.0
            amplitude = None if support.text_seen else _GUESS / ridge
        is_auto = self.amplitude == "auto"
        return {
            "text_weight_": text_weight if is_auto else 1.0,
            "beta_": beta,
            "regularization_": ridge,
            "amplitude_": amplitude if is_auto else float(self.amplitude),
        }

    def _logits(self, features: NDArray) -> NDArray:
        keys, dual = (
            as_rows(self.support_, features),
            as_rows(self.dual_coef_, features),
        )
        base = as_rows(self.prior_, features)
        if self.prototype_source_ != "image":
            base = self._scaled_cosines(features, self.text_features_)
        correction = kernel_product(features, keys, self.beta_, dual)
        return float(self.text_weight_) * base + correction


class _Judge:
    """Says how well settings explain rows of a support that they do not know."""

    def __init__(
        self,
        classifier: ProKeRClassifier,
        support: Support,
        classes: NDArray,
        counts: NDArray,
    ) -> None:
        self.support = support
        self.amplitude = classifier.amplitude
        self.rows, removed = judging_rows(support, len(support.y))
        self.all_y = np.searchsorted(classes, support.y)
        self.y = self.all_y[self.rows]
        logits, self.targets = classifier._base(support, classes, counts)
        self.fixed = logits[self.rows]
        if support.text_seen:
            # The class shares, too, are those without the row. They are what is left
            # of both the labels and a constant, and the fit is linear in these.
            shares = np.tile(counts[classes], (len(self.rows), 1))
            self.known_shares = shares[0] / shares[0].sum()
            shares[np.arange(len(self.rows)), self.y] -= removed
            self.shares = shares / shares.sum(axis=1, keepdims=True)
            self.fixed = np.log(self.shares)
            own = support.y[:, None] == classes
            self.targets = np.column_stack([own, np.ones(len(own))])

    def found(
        self, betas: Sequence[float], ridges: Sequence[float]
    ) -> Iterator[tuple[float, float, float, float, float]]:
        """Yield loss, text weight, amplitude * lambda, beta and lambda."""
        support = self.support
        F, weight = support.features.astype(float), support.weight.astype(float)
        removed = np.minimum(weight, support.copy)
        for beta in betas:
            K = exponential_kernel(F, F, beta)
            fit = LeftOutRidge(K, self.targets, weight, removed)
            for ridge in ridges:
                yield *self._weigh(fit, ridge), beta, ridge

    def _weigh(self, fit: "LeftOutRidge", ridge: float) -> tuple[float, float, float]:
        """Return the loss of the best text weight and amplitude * lambda, and these."""
        y, weight = self.y, self.support.weight[self.rows]
        learned = fit.predictions(ridge)[self.rows]
        if self.support.text_seen:
            learned = learned[:, :-1] - learned[:, -1:] * self.shares
        given = {"guess": _GUESS, "factor": FACTOR}
        if self.amplitude != "auto":
            given = {"guess": float(self.amplitude) * ridge, "factor": 1.0}
        elif self.support.text_seen:
            known = fit.fitted(ridge)
            known = known[:, :-1] - known[:, -1:] * self.known_shares
            guess = _guess(self.support, known, self.all_y)
            b, loss = likely_scale(learned, y, weight, guess=guess, fixed=self.fixed)
            return loss, 1.0, b
        a, b, loss = fit_blend(self.fixed, learned, y, weight, **given)
        return loss, a, b


def _guess(support: Support, known: NDArray, y: NDArray) -> float:
    """Guess the amplitude times lambda without text, from predictions for the rows."""
    margin = max(margin_of(known, y, support.weight), _LEAST_MARGIN)
    return _GUESS_MARGIN * support.image_margin() / margin


def solve_ridge(K: NDArray, R: NDArray, weight: NDArray, ridge: float) -> NDArray:
    """Return ``(K + ridge W^-1)^-1 R``.

    Parameters
    ----------
    K : ndarray of shape (n, n)
        Kernel matrix; may be overwritten.
    R : ndarray of shape (n, C)
    weight : ndarray of shape (n,)
        The diagonal of W, positive.
    ridge : float

    Returns
    -------
    ndarray of shape (n, C)
    """
    dtype = np.dtype(float) if len(K) <= _MOST_DOUBLE else K.dtype
    root = np.sqrt(weight.astype(dtype))[:, None]
    A = K.astype(dtype, copy=False)
    # Symmetric, so that weights of any size leave it as well conditioned as can be.
    A *= root
    A *= root.T
    A[np.diag_indices(len(A))] += ridge
    # LAPACK works in place on columns, and A is its own transpose.
    factor = cho_factor(A.T, lower=True, overwrite_a=True, check_finite=False)
    return root * cho_solve(factor, root * R, overwrite_b=True, check_finite=False)


class LeftOutRidge:
    """Predictions for the rows of the support, by the ridge fit without that row.

    One eigendecomposition serves every strength of the ridge.

    Parameters
    ----------
    K : ndarray of shape (n, n)
    R : ndarray of shape (n, C)
    weight : ndarray of shape (n,)
    removed : ndarray of shape (n,)
        The weight that is taken from a row, at most all it has.
    """

    def __init__(
        self, K: NDArray, R: NDArray, weight: NDArray, removed: NDArray
    ) -> None:
        self.R, self.weight, self.removed = R, weight, removed
        self.root = np.sqrt(weight)[:, None]
        self.values, self.vectors = eigh(self.root * K * self.root.T)
        self.values = self.values.clip(0)
        self.projected = self.vectors.T @ (self.root * R)

    def fitted(self, ridge: float) -> NDArray:
        """Return ``K (K + ridge W^-1)^-1 R``, the predictions by all rows."""
        return self.R - ridge * self._dual(ridge) / self.weight[:, None]

    def predictions(self, ridge: float) -> NDArray:
        """Return ``k_i (K + ridge W_i^-1)^-1 R`` for each i, shape (n, C)."""
        a = self._dual(ridge)
        h = self.weight * (self.vectors**2 @ (1 / (self.values + ridge)))
        # The entry of the ridge's diagonal grows from ridge / w to ridge / (w - m), by
        # the inverse of this; by infinity where the row goes.
        u = self.weight * (self.weight - self.removed) / (ridge * self.removed)
        return self.R - a * (self.weight / self.removed / (u + h))[:, None]

    def _dual(self, ridge: float) -> NDArray:
        inverse = 1 / (self.values + ridge)
        return self.root * ((self.vectors * inverse) @ self.projected)
