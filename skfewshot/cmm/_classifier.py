"""Cross-Modal Mapping: a residual linear map of images into the space of the texts."""

from collections.abc import Mapping
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skfewshot._base import (
    SHARED_CONSTRAINTS,
    FewShotClassifier,
    Report,
    Support,
    as_rows,
    train,
)
from skfewshot._docs import shared_docs
from skfewshot._labels import with_class
from skfewshot._rows import unit_rows
from skfewshot._sklearn import Interval, StrOptions, warn_user
from skfewshot._text import resolve_prototypes
from skfewshot._torch import LEAST_ROWS, in_chunks, to_numpy

if TYPE_CHECKING:
    from skfewshot.cmm._objective import OnIteration, Solution

# Iterations of L-BFGS, and epochs.
_MAX_ITER = {"gaussian": 200, "paper": 50}


@shared_docs
class CMMClassifier(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, FewShotClassifier
):
    r"""Few-shot classifier by Cross-Modal Mapping (CMM).

    CLIP embeds images and texts in two separate cones of one sphere, so the embedding
    of a class name is a poor prototype of its images. CMM [1]_ learns a linear map
    :math:`W = I + \Delta` that brings image features nearer to prototypes :math:`T`,
    which start at the class names' embeddings :math:`T_0`. The encoders stay frozen.

    For a unit-norm image embedding :math:`f`, logit scale :math:`s` and
    :math:`v(f) = \mathrm{norm}(f W + b)` the logits are

    .. math::

        \frac{s}{\tau} \cdot
        \frac{f T_0^\top + \alpha \, v(f) \, \mathrm{norm}(T)^\top}{1 + \alpha} + a

    and the loss over the support is

    .. math::

        \mathrm{CE} + \mathrm{penalty}
        + \lambda_{\mathrm{trip}} \, \mathrm{mean} \max(0,\,
        & \|v - \mathrm{norm}(T)_y\| \\
        & - \|v - \mathrm{norm}(T)_{\mathrm{neg}}\| + m)

    with *neg* the nearest wrong class. Dividing by :math:`1 + \alpha` is this
    library's; it keeps the temperature :math:`\tau` independent of :math:`\alpha`. How
    the unknowns are found is this library's too; ``solver="paper"`` is the method as
    published. Notes has the equations.

    1. :math:`W`, :math:`b` and a first :math:`T` come in closed form from a Gaussian
       model: a class's mean follows its text and its rows, the more the rows the more
       there are, and :math:`W` makes classes round.
    2. :math:`\alpha`, :math:`\tau` and the classes' intercepts :math:`a` are those for
       which rows of the support that are left out, again in closed form, are most
       likely.
    3. The loss refines :math:`T` and :math:`a`.

    Parameters
    ----------
    {{texts, extra_classes}}
    solver : {"gaussian", "paper"}, default="gaussian"
        How :math:`W` and :math:`T` are found. ``"paper"`` is the method as published:
        both are trained by AdamW, from :math:`W = I` and :math:`T = T_0`, without
        penalties.
    alpha : "auto" or float, default="auto"
        Weight :math:`\alpha \ge 0` of the mapped logits. At 0 the predictions are those
        of zero-shot CLIP. ``"auto"`` finds it, or is 1 with ``solver="paper"``.
    triplet_weight : float, default=1.0
        Weight :math:`\lambda_{\mathrm{trip}} \ge 0` of the triplet loss.
    margin : float, default=0.1
        Margin :math:`m \ge 0` of the triplet loss, a Euclidean distance on the unit
        sphere.
    map_penalty : float, default=1.0
        Penalty :math:`\lambda_W \ge 0` of the map; infinity leaves it the identity.
        ``solver="paper"`` has no penalties and reads neither this nor the next.
    text_penalty : float, default=10.0
        Penalty :math:`\lambda_T \ge 0` of the prototypes' distance from the texts;
        infinity makes them the texts, which the Gaussian solver maps by :math:`W`.
    {{logit_scale}}
    learning_rate : float, default=0.001
        Step size of ``solver="paper"``; the Gaussian solver has none.
    max_iter : int or None, default=None
        Most L-BFGS iterations of the Gaussian solver, for which None is 200 and 0
        leaves step 3 out. With ``solver="paper"`` the number of epochs, all of which
        are done; None is 50.
    tol : float, default=1e-2
        Stop once five iterations lowered the loss by less than `tol` times the loss
        each, on average. Not read by ``solver="paper"``.
    {{class_weight}}
    {{device}}

    Attributes
    ----------
    alpha_, temperature_ : float
        The weight :math:`\alpha` and the temperature :math:`\tau` used; the latter is
        :math:`1 / (1 + \alpha)` with ``solver="paper"``.
    map_ : ndarray of shape (n_features, n_features)
        The map :math:`W = I + \Delta`.
    map_intercept_ : ndarray of shape (n_features,)
        The constant :math:`b`. With ``solver="paper"`` it is learned only where
        there is no text, and zero otherwise.
    prototypes_ : ndarray of shape (n_classes, n_features)
        The prototypes :math:`\mathrm{norm}(T)`.
    intercept_ : ndarray of shape (n_classes,)
        The intercepts :math:`a`; zeros with ``solver="paper"``.
    text_map_ : ndarray of shape (n_features, n_features)
        How the prototype of a class without rows follows from its text *t*:
        ``norm((t @ text_map_ + text_map_intercept_) @ map_)``. With
        ``solver="paper"`` it is the inverse of `map_`, as texts stay.
    text_map_intercept_ : ndarray of shape (n_features,)
    newcomer_intercept_ : float
        The intercept of classes without rows.
    {{fitted, loss_curve_, n_iter_}}

    See Also
    --------
    skfewshot.CLIPFeaturizer : Makes the embeddings and encodes the class names.
    sklearn.linear_model.LogisticRegression : The linear probe, which sees no text.

    Notes
    -----
    Rows of `X` are scaled to unit norm first, and those of weight zero dropped. Fitting
    takes the whole support, with copies merged and in an order of its own: duplicating
    a row is doubling its weight, and neither the order of the rows nor the names of
    the classes matter, to the last bit. ``solver="gaussian"`` also merges near copies,
    rows of a class whose squared distance is below a sixth of what is usual in a class:
    they would deceive step 2. That solver draws nothing at random, and handles rows in
    chunks of a million logits, or 64 million on a GPU, with the exact gradient; if a
    GPU runs out of memory, the fit starts again with half as many, down to 64 rows.

    **The Gaussian model.** Let :math:`m` and :math:`m_T` be the means of the class
    means and of the texts. In units of the covariance :math:`\Sigma` of the rows of a
    class, class means are a Gaussian process over the texts and rows scatter about
    them,

    .. math::

        \mu_c - m &\sim \mathcal N\left(\beta (t_c - m_T),\; K\right), \\
        K_{c c'} &= \tfrac{1}{\lambda_T}
        \left(3 (t_c - m_T)(t_{c'} - m_T)^\top + [c = c']\right), \\
        f_i &\sim \mathcal N(\mu_{y_i}, \Sigma).

    The posterior means have a closed form: kernel ridge regression of the class means
    on the texts. With their residuals :math:`e_i` and leverages :math:`h_i`,
    :math:`\hat\Sigma = \sum_i w_i e_i e_i^\top / (1 - h_i) / n` is shrunk to the
    sphere of the same trace with weight :math:`\lambda_W / (\lambda_W + n / d)`, and
    :math:`W W^\top` is the inverse of that over its mean variance; :math:`b = -m W`,
    :math:`T_c = (\mu_c - m) W`. Without text the prior mean is zero, and its
    variance :math:`30 / \lambda_T`.

    **The scales.** For a row that is left out, means and :math:`W` are downdated in
    closed form. :math:`\alpha` and :math:`\tau` maximise the likelihood of the left-out
    rows, :math:`\alpha` of those only whose class has other rows, times log-normal
    priors. The prior of :math:`\alpha` has its median at
    :math:`(20 / s) L_0 \tau_0 / 1.5` for texts of the loss :math:`L_0` at their best
    temperature :math:`\tau_0` on the support: texts that explain the support keep their
    say. At most 1024 rows are left out for the scales, and 4096 for the intercepts.

    **The intercepts.** They maximise the likelihood of the left-out rows times a
    normal prior of variance :math:`2.5 / \lambda_T`, with classes weighted equally.

    **The refinement.** The penalty is
    :math:`\lambda_T (\|T - T_0'\|_F^2 + \|a - a_0'\|^2 / 10) / n`, for what step 2
    left as :math:`T_0'` and :math:`a_0'`. The kinks of the triplet loss are rounded, so
    that its minimum can be reached and does not depend on rounding errors.

    **Classes without rows.** Their prototypes follow from their texts by the Gaussian
    model. They would lose against prototypes that follow images, so they share an
    intercept: the one that makes the labels of rows of classes with several most likely
    when each class in turn is taken for one without rows.

    **As published.** With ``solver="paper"`` the temperature is
    :math:`1 / (1 + \alpha)`, so that the logits are the undivided sum
    :math:`s f T_0^\top + \alpha s \, v(f) \, \mathrm{norm}(T)^\top`; there are no
    penalties, no intercepts, and the triplet loss is not rounded. :math:`\Delta` and
    :math:`T` are trained by AdamW with torch's defaults, among them a weight decay of
    0.01, and a step size that stays. A step takes the whole support or, if that has
    more than 256 rows, 256 of them, shuffled by a generator of its own that always
    starts the same; its loss is their weighted mean. No code of the paper is public,
    and :math:`\alpha`, the margin, the weight of the triplet loss, the step size and
    256 are guesses. Nothing holds the map: with few images a class it can be worse
    than no training, and a smaller step size helps. Ours is only :math:`b` where there
    is no text, without which :math:`f` and :math:`-f` could never get the same class.

    References
    ----------
    .. [1] Cross-Modal Mapping: Mitigating the Modality Gap for Few-Shot Image
       Classification, arXiv:2412.20110v3.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skfewshot import CLIPFeaturizer, CMMClassifier
    >>> from skfewshot.datasets import make_object_images
    >>> images, names = make_object_images(
    ...     5, kinds=["striped star", "plain heart"], random_state=0, return_X_y=True
    ... )
    >>> model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier())
    >>> model = model.fit(images, names)
    >>> model[-1].prototype_source_
    'embedding'
    >>> model.predict_proba(images).shape
    (10, 2)
    """

    _parameter_constraints: ClassVar[dict] = {
        **SHARED_CONSTRAINTS,
        "extra_classes": ["array-like", None],
        "solver": [StrOptions({"gaussian", "paper"})],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "triplet_weight": [Interval(Real, 0, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="left")],
        "map_penalty": [Interval(Real, 0, None, closed="both")],
        "text_penalty": [Interval(Real, 0, None, closed="both")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 0, None, closed="left"), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "device": "no_validation",
    }

    def __init__(
        self,
        text_features: Any = "auto",
        *,
        class_names: Any = None,
        text_encoder: Any = None,
        prompt_templates: Any = None,
        extra_classes: ArrayLike | None = None,
        solver: str = "gaussian",
        alpha: float | str = "auto",
        triplet_weight: float = 1.0,
        margin: float = 0.1,
        map_penalty: float = 1.0,
        text_penalty: float = 10.0,
        logit_scale: float | str = "auto",
        learning_rate: float = 1e-3,
        max_iter: int | None = None,
        tol: float = 1e-2,
        class_weight: dict | str | None = None,
        device: Any = None,
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.extra_classes = extra_classes
        self.solver = solver
        self.alpha = alpha
        self.triplet_weight = triplet_weight
        self.margin = margin
        self.map_penalty = map_penalty
        self.text_penalty = text_penalty
        self.logit_scale = logit_scale
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.device = device

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        if self.solver == "gaussian":
            support = support.without_near_copies()
        fitted = train(
            support,
            self.device,
            self._solve,
            lambda solution, rank: self._fitted(solution, rank, support.seen),
            report,
        )
        self._n_features_out = fitted["map_"].shape[1]
        most = self._most_iterations()
        if not fitted.pop("_converged") and most:
            warn_user(
                f"CMM stopped after max_iter={most} iterations before the "
                "loss settled; raise max_iter or tol.",
                ConvergenceWarning,
            )
        return fitted

    def _most_iterations(self) -> int:
        return _MAX_ITER[self.solver] if self.max_iter is None else self.max_iter

    def _solve(
        self, support: Support, on_iteration: "OnIteration | None"
    ) -> "Solution":
        from skfewshot.cmm._gaussian import solve_gaussian
        from skfewshot.cmm._objective import Settings
        from skfewshot.cmm._paper import solve_paper

        settings = Settings(
            alpha=None if self.alpha == "auto" else float(self.alpha),
            triplet_weight=float(self.triplet_weight),
            margin=float(self.margin),
            map_penalty=float(self.map_penalty),
            text_penalty=float(self.text_penalty),
            max_iter=self._most_iterations(),
            tol=float(self.tol),
            learning_rate=float(self.learning_rate),
        )
        if self.solver == "paper":
            return solve_paper(support, settings, on_iteration)
        # A block of logits of 4 MB stays in a processor's cache; a GPU wants more.
        block = 2**26 if support.text.is_cuda else 2**20
        return in_chunks(
            lambda size: solve_gaussian(support, settings, size, on_iteration),
            min(max(LEAST_ROWS, block // len(support.text)), len(support.y)),
        )

    def _fitted(
        self, solution: "Solution", rank: NDArray, seen: NDArray
    ) -> dict[str, Any]:
        """Return what predictions need of a solution, by attribute."""
        scales, texts = solution.scales, self.text_features_
        array = partial(to_numpy, dtype=texts.dtype)
        fitted: dict[str, Any] = {
            "map_": array(solution.map),
            "map_intercept_": array(solution.map_intercept),
            "text_map_": array(solution.text_map),
            "text_map_intercept_": array(solution.text_map_intercept),
            "alpha_": scales.alpha,
            "temperature_": scales.temperature,
            "newcomer_intercept_": scales.newcomer,
            "_converged": solution.converged,
        }
        # Classes without rows have the prototypes that their texts make them.
        unseen = np.setdiff1d(np.arange(len(texts)), seen)
        prototypes = np.empty_like(texts)
        prototypes[unseen] = _prototypes_of(texts[unseen], fitted)
        prototypes[seen] = unit_rows(array(solution.text)[rank])
        intercept = np.full(len(texts), scales.newcomer, texts.dtype)
        intercept[seen] = array(scales.intercept)[rank]
        return fitted | {"prototypes_": prototypes, "intercept_": intercept}

    def add_class(self, name: Any, features: ArrayLike | None = None) -> Self:
        """Add a class that has no images to the fitted classifier, without a new fit.

        Parameters
        ----------
        name : label
            The label that is predicted for it, of the kind of those in ``classes_``.
        features : array-like of shape (n_features,), default=None
            Its text feature; scaled to unit norm. None has the text encoder of the
            fitted classifier encode `name`.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If `name` is there already or of another kind than the classes, if
            `features` does not fit, or if the classifier was fitted without texts.
        """
        check_is_fitted(self)
        classes, order = with_class(self.classes_, name)
        if self.prototype_source_ == "image":
            raise ValueError(
                "This classifier was fitted without texts, so it cannot place a class "
                "that has none but a text; fit it with text_features or text_encoder."
            )
        # Named as a fit would name it.
        names = self.class_names
        text = resolve_prototypes(
            "auto" if features is None else {name: features},
            classes=classes[-1:],
            encoder=self.encoder_,
            text_encoder=self.text_encoder,
            class_names=names if isinstance(names, Mapping) and name in names else None,
            prompt_templates=self.prompt_templates,
            n_features=self.n_features_in_,
            dtype=self.text_features_.dtype,
        ).features
        if text is None:
            raise ValueError(
                f"features=None, but nothing is known that could encode {name!r}; pass "
                "its text feature."
            )
        level = np.full(1, self.newcomer_intercept_, self.intercept_.dtype)
        added = {
            "classes_": classes[-1:],
            "text_features_": text,
            "prototypes_": _prototypes_of(text, vars(self)),
            "intercept_": level,
        }
        self.classes_ = classes[:-1]
        for attribute, row in added.items():
            rows = np.concatenate([getattr(self, attribute), row])
            setattr(self, attribute, rows[order])
        return self

    def transform(self, X: ArrayLike) -> NDArray:
        """Map image embeddings into the space of the texts.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            The mapped features :math:`v(f)`, unit norm.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        return self._mapped(unit_rows(self._check_query(X)))

    def _mapped(self, features: NDArray) -> NDArray:
        mapped = features @ as_rows(self.map_, features)
        mapped += as_rows(self.map_intercept_, features)
        return unit_rows(mapped)

    def _logits(self, features: NDArray) -> NDArray:
        scale = self.logit_scale_ / self.temperature_ / (1 + self.alpha_)
        mapped = self._mapped(features)
        mapped *= float(scale * self.alpha_)
        texts = as_rows(self.text_features_, features)
        logits = (features * float(scale)) @ texts.T
        logits += mapped @ as_rows(self.prototypes_, features).T
        logits += as_rows(self.intercept_, features)
        return logits


def _prototypes_of(texts: NDArray, fitted: Mapping[str, Any]) -> NDArray:
    """Return the prototypes of classes without rows, from their texts."""
    means = texts @ fitted["text_map_"] + fitted["text_map_intercept_"]
    return unit_rows(means @ fitted["map_"])
