"""Cross-Modal Mapping: a residual linear map of images into the space of the texts."""

from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier, as_rows
from skfewshot._docs import shared_docs
from skfewshot._left_out import left_out_attributes
from skfewshot._rows import unit_rows
from skfewshot._sklearn import Interval, MissingValues, StrOptions
from skfewshot._support import Report, Support, train
from skfewshot._torch import to_numpy, to_tensor
from skfewshot._unread import unread_rows, with_filled_rows, with_missing
from skfewshot.cmm._batches import answer_together
from skfewshot.cmm._solution import Solution, attributes_of
from skfewshot.cmm._updates import (
    replace_fitted,
    with_images,
    with_new_class,
    without_class,
)

if TYPE_CHECKING:
    from torch import Tensor

    from skfewshot.cmm._paper import OnEpoch


# Of the logits that are trained where there is no text; photographs have 20 to 30.
_LEAST_SCALE = 20.0


@shared_docs
class CMMClassifier(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, FewShotClassifier
):
    r"""Few-shot classifier by Cross-Modal Mapping (CMM).

    CLIP embeds images and texts in two separate cones of one sphere, so the embedding
    of a class name is a poor prototype of its images. CMM [1]_ learns a linear map
    :math:`W = I + \Delta` of image features and one prototype :math:`T_c` a class, and
    adds what they say to zero-shot CLIP. The encoders stay frozen.

    For a unit-norm image embedding :math:`f`, logit scale :math:`s` and
    :math:`v(f) = \mathrm{norm}(f W + b)` the logits are

    .. math::

        \frac{s}{\tau} \cdot
        \frac{f T_0^\top + \alpha \, v(f) \, \mathrm{norm}(T)^\top}{1 + \alpha} + a

    with :math:`T_0` the class names' embeddings. How the unknowns are found is this
    library's, in closed form; ``solver="paper"`` is the method as published. Notes has
    the equations.

    1. Names may be wrong, codes or rare words. A text is trusted as far as the support
       bears it out, and :math:`T_0` is drawn away from texts that are not.
    2. :math:`W`, :math:`b` and :math:`T` come from a Gaussian model: a class's mean
       follows its text and its rows, the more the rows the more there are, and
       :math:`W` makes classes round. :math:`W` is then turned so that prototypes lie
       by their texts as nearly as they can.
    3. How far means follow their texts, :math:`\alpha`, :math:`\tau` and the
       classes' intercepts :math:`a` are those for which rows of the support that are
       left out, exactly, are most likely. Labels that left-out rows contradict lose
       their weight.

    Parameters
    ----------
    {{texts, extra_classes}}
    solver : {"gaussian", "paper"}, default="gaussian"
        How the unknowns are found. ``"paper"`` is the method as published:
        :math:`W` and :math:`T` are trained by AdamW, from :math:`W = I` and
        :math:`T = T_0`.
    alpha : "auto" or float, default="auto"
        Weight :math:`\alpha \ge 0` of the mapped logits. At 0 the predictions are those
        of zero-shot CLIP. ``"auto"`` finds it, or is 1 with ``solver="paper"``.
        Without text the Gaussian solver has mapped logits only, and a positive
        `alpha` changes nothing.
    triplet_weight : float, default=1.0
        Weight :math:`\lambda_{\mathrm{trip}} \ge 0` of the triplet loss of
        ``solver="paper"``.
    margin : float, default=0.1
        Margin :math:`m \ge 0` of the triplet loss, a Euclidean distance on the unit
        sphere; for ``solver="paper"``.
    learning_rate : float, default=0.001
        Step size of ``solver="paper"``.
    max_iter : int, default=50
        Epochs of ``solver="paper"``, all of which are done.
    {{store_left_out}}
    store_support : bool, default=False
        Whether to keep what was passed to `fit`, for `add_images` and `forget_class`:
        files of the classifier then hold all embeddings of the support.
    {{logit_scale, class_weight, unlabeled, device}}

    Attributes
    ----------
    prototypes_ : ndarray of shape (n_classes, n_features)
        The prototypes :math:`\mathrm{norm}(T)`, in the space of :meth:`transform`.
    frozen_prototypes_ : ndarray of shape (n_classes, n_features)
        :math:`T_0`, as far as the texts are trusted; zeros where the Gaussian solver
        has no text.
    text_trust_ : ndarray of shape (n_classes,)
        How far each text is trusted, from 0 to 1; ones with ``solver="paper"`` and for
        classes without rows.
    map_ : ndarray of shape (n_features, n_features)
        The map :math:`W = I + \Delta`.
    map_intercept_ : ndarray of shape (n_features,)
        The constant :math:`b`. With ``solver="paper"`` it is learned only where
        there is no text, and zero otherwise.
    alpha_, temperature_ : float
        The weight :math:`\alpha` and the temperature :math:`\tau` used; the latter is
        :math:`1 / (1 + \alpha)` with ``solver="paper"``.
    intercept_ : ndarray of shape (n_classes,)
        The intercepts :math:`a`; zeros with ``solver="paper"``.
    text_map_ : ndarray of shape (n_features, n_features)
        How the prototype of a class without rows follows from its text *t*:
        ``norm((t @ text_map_ + text_map_intercept_) @ map_)``. With
        ``solver="paper"`` it is the inverse of `map_`, as texts stay.
    text_map_intercept_ : ndarray of shape (n_features,)
    newcomer_intercept_ : float
        The intercept of classes without rows.
    uses_unlabeled_ : bool
        Whether rows without labels were learned from; this and the following only where
        labels were missing, and `alpha` is not 0.
    unlabeled_gain_ : float
        Nats by which they make labelled rows more likely that are held out; NaN where
        none could be.
    unlabeled_shares_ : ndarray of shape (n_classes,)
        Shares of the classes among them, shrunk; sums to one. Classes that `add_class`
        adds have none.
    unlabeled_background_ : float
        The share of those that are of no class.
    {{fitted, left_out}}
    support_ : dict of ndarray
        What was learned from: ``"X"``, ``"y"``, in which None is no label,
        ``"sample_weight"`` and ``"groups"``, None for what was not passed. Only with
        ``store_support=True``.
    n_iter_ : int
        Epochs done. Of the Gaussian solver, how often it solved: more than once where
        labels were in doubt.
    loss_curve_ : list of float
        The loss before the first epoch and after each one; only with
        ``solver="paper"``.

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
    they would deceive what is left out. Nothing is drawn at random by it.

    **The trust in texts.** Zero-shot logits have not seen the support, so what they say
    of it is honest. Let :math:`\ell_c` be the mean log-probability of class c's
    label for its rows. A text is right, or wrong and :math:`\ell_c` as good as
    chance: with :math:`n_c` rows, at most 16, the log odds of being right are

    .. math::

        \sqrt{n_c} \, (\ell_c + 0.95 \log C) - \varepsilon

    and the trust :math:`\pi_c` is the probability. :math:`\varepsilon` and one factor
    of all zero-shot logits are the most likely ones, with a normal prior of
    :math:`-2 \pm 3` and a log-normal one of median 1 and spread 0.5; logits that spread
    by more than 5 over the classes are first made as narrow. In the frozen part and in
    the Gaussian model :math:`t_c - m_T` is multiplied by :math:`\pi_c`. In the frozen
    part a multiple of the class's mean image, less that of all, takes its place.

    **The Gaussian model.** Let :math:`m` and :math:`m_T` be the means of the class
    means and of the texts, and :math:`u_c = \pi_c (t_c - m_T)`. In units of the
    covariance :math:`\Sigma` of the rows of a class, class means are a Gaussian process
    over the texts and rows scatter about them,

    .. math::

        \mu_c - m &\sim \mathcal N\left(\beta u_c,\; K\right), \\
        K_{c c'} &= 10 + \tfrac{1}{\lambda_T}
        \left(3 \, u_c u_{c'}^\top + [c = c'] (30 - 29 \pi_c)\right), \\
        f_i &\sim \mathcal N(\mu_{y_i}, \Sigma).

    The posterior means have a closed form: kernel ridge regression of the class means
    on the texts. With the residuals *R* of the rows from their prior means and *V*
    their covariance over the rows, :math:`\hat\Sigma = R^\top V^{-1} R / n` is
    shrunk to the sphere of the same trace with weight :math:`1 / (1 + n / d)`, and
    :math:`W W^\top` is the inverse of that over its mean variance; :math:`b = -m W`,
    :math:`T_c = (\mu_c - m) W`. Without text :math:`\pi_c = 0`. *W* is turned by the
    orthogonal Procrustes solution of :math:`\mathrm{norm}(T)` onto the centred texts,
    which changes no cosine.

    **Rows left out.** Without a row, its class's mean and :math:`\hat\Sigma` change by
    a multiple of its residual and its square, and *m* by a share of the row: all are
    exact, and cost matrix products. :math:`\beta`, the shrinkage and the trust are
    kept. At most 4096
    rows are left out for the intercepts, and 512 for the weights.

    **The weights.** With the logits as :math:`a z_0 + b v T^\top` for zero-shot logits
    :math:`z_0` by trusted texts, :math:`\lambda_T` in {2, 8}, *a* and *b* maximise
    the likelihood of the left-out rows whose class has others, times log-normal priors
    of median :math:`0.78 / g` and :math:`9 g` and spread 0.5 and 0.4, with
    :math:`g = (\lambda_T \bar n)^{0.2}` for :math:`\bar n` rows a class. Where
    the mean cross-entropy *L* of trusted texts is below 0.8, *g* is
    :math:`(L / 0.8)^{0.35 \bar \pi}` times as much, but *L* is 0.2 at least; where the
    mean trust :math:`\bar \pi` is below one, the median of *b* is
    :math:`1 + 0.45 (1 - \bar \pi)` times as much, and with *C* classes, fewer than 25,
    :math:`\frac{25}{24} (1 - 1 / C)` times, as prototypes of few are further apart (to
    the power :math:`\bar n - 1`, below two rows a class). Where no class has two rows
    the medians are taken, at :math:`\lambda_T = 3`.

    **The intercepts** maximise the likelihood of the left-out rows times a normal prior
    of standard deviation 1, with classes weighted equally. In `left_out_proba_` each
    row's own say in them is taken back, to first order.

    **The labels.** A label is right, or wrong and any other class's, with log odds of
    :math:`-4 \pm 1.5` before. Where left-out rows make 2 % of the labels wrong or
    more, rows are weighted by the probability that theirs is right and the support is
    solved again, until these change by less than 0.1, or 8 times in all. Rows are
    judged by two others of their class, at least.

    **Classes without rows.** Their prototypes follow from their texts by the Gaussian
    model. They would lose against prototypes that follow images, so they share an
    intercept: the one that makes the labels of rows of classes with several most likely
    when each class in turn is taken for one without rows.

    **Rows without labels.** Where labels are missing, three rounds of
    expectation-maximisation follow. With the logits :math:`z` of the labelled fit, an
    unlabelled row *u* is of class *c* with probability

    .. math::

        r_{uc} = g_u \pi_c e^{z_{uc}} / \textstyle\sum_k \pi_k e^{z_{uk}}

    where half of each share :math:`\pi_c` is counted and half is equal, and
    :math:`g_u` is the probability that the row is of any class: by a mixture of two
    normal distributions of the energy :math:`\log \sum_c e^{z_{uc}}`, the one that of
    labelled rows left out, the other the background's, below. Then :math:`\mu`,
    :math:`\hat\Sigma` and the map from texts are found again from all rows, the
    unlabelled ones with weights :math:`w r_{uc}`, :math:`w = 1 / (1 + q / 12)`,
    where *q* rows in the pool, in the mean over its rows, are of a row's class.
    So are the mean images that stand in for texts.

    Labelled rows that have others of their class are held out in four parts, and the
    pool is labelled anew without them. :math:`a`, :math:`b` and the intercepts are
    found again by these rows, as above, with :math:`\bar n` the weight of all rows of a
    class; for the intercepts the classes without labelled rows are left out. If these
    rows' labels become less likely than by a fit to labelled rows alone, by more than a
    standard error, the unlabelled rows are left alone. Where no class has two rows
    :math:`a`, :math:`b` and the intercepts are
    kept, but multiplied by :math:`1 - 0.3 \, \epsilon \, u / (u + \bar n)` for *u*
    weighted unlabelled rows a class and their mean doubt
    :math:`\epsilon = 1 - \max_c r_{uc}` in the first round, as mistakes that are
    learned make sure of themselves, and with *C* classes, fewer than 25, by
    :math:`\frac{25}{24} (1 - 1 / C)`. Classes without labelled rows begin at the means
    that follow from their texts, and the intercept of each is :math:`3 / (3 + w n_c)`
    of theirs, with the rows that it gets.

    **As published.** With ``solver="paper"`` the temperature is
    :math:`1 / (1 + \alpha)`, so that the logits are the undivided sum
    :math:`s f T_0^\top + \alpha s \, v(f) \, \mathrm{norm}(T)^\top`, and the loss is

    .. math::

        \mathrm{CE}
        + \lambda_{\mathrm{trip}} \, \mathrm{mean} \max(0,\,
        & \|v - \mathrm{norm}(T)_y\| \\
        & - \|v - \mathrm{norm}(T)_{\mathrm{neg}}\| + m)

    with *neg* the nearest wrong class. :math:`\Delta` and :math:`T` are trained by
    AdamW with torch's defaults, among them a weight decay of 0.01, and a step size that
    stays. A step takes the whole support or, if that has more than 256 rows, 256 of
    them, shuffled by a generator of its own that always starts the same; its loss is
    their weighted mean. No code of the paper is public, and :math:`\alpha`, the margin,
    the weight of the triplet loss, the step size and 256 are guesses. Nothing holds the
    map: with few images a class it can be worse than no training, and a smaller step
    size helps. Ours is only :math:`b` where there is no text, without which :math:`f`
    and :math:`-f` could never get the same class.

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
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "store_left_out": ["boolean"],
        "store_support": ["boolean"],
        "unlabeled": [MissingValues()],
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
        learning_rate: float = 1e-3,
        max_iter: int = 50,
        store_left_out: bool = False,
        store_support: bool = False,
        logit_scale: float | str = "auto",
        class_weight: dict | str | None = None,
        unlabeled: Any = None,
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
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.store_left_out = store_left_out
        self.store_support = store_support
        self.logit_scale = logit_scale
        self.class_weight = class_weight
        self.unlabeled = unlabeled
        self.device = device

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        is_paper = self.solver == "paper"
        if is_paper and self.store_left_out:
            raise ValueError(
                "store_left_out=True needs solver='gaussian'; solver='paper' leaves no "
                "rows out."
            )
        if is_paper and len(support.unlabelled):
            raise ValueError(
                f"y lacks {len(support.unlabelled)} labels; rows without one need "
                "solver='gaussian'. Leave them out for solver='paper'."
            )
        if not is_paper:
            support = support.without_near_copies().of_classes_with_rows()
        elif support.text_seen and self.logit_scale == "auto":
            # Rows that tell nothing apart leave no scale, and so nothing to train by.
            self.logit_scale_ = max(support.logit_scale, _LEAST_SCALE)
            support = replace(support, logit_scale=self.logit_scale_)
        fitted = train(
            support,
            self.device,
            self._solve,
            partial(self._fitted, support),
            report,
        )
        self._n_features_out = fitted["map_"].shape[1]
        if is_paper:
            return fitted
        del fitted["loss_curve_"]
        left_out = fitted.pop("_left_out", None)
        if left_out is not None:
            for name, value in fitted.items():
                setattr(self, name, value)
            logits = self._logits(support.features)
            logits[:, support.seen] = left_out
            fitted |= left_out_attributes(support, logits)
        return fitted

    def _most_iterations(self) -> int:
        return self.max_iter if self.solver == "paper" else 0

    def _solve(self, support: Support, on_epoch: "OnEpoch | None") -> Solution:
        from skfewshot.cmm._paper import Settings, solve_paper
        from skfewshot.cmm._solver import solve_gaussian

        alpha = None if self.alpha == "auto" else float(self.alpha)
        if self.solver == "gaussian":
            keep = bool(self.store_left_out)
            return solve_gaussian(
                support,
                alpha=alpha,
                keep_left_out=keep,
                newcomers=self._newcomers(support),
            )
        settings = Settings(
            alpha=1.0 if alpha is None else alpha,
            triplet_weight=float(self.triplet_weight),
            margin=float(self.margin),
            learning_rate=float(self.learning_rate),
            max_iter=int(self.max_iter),
        )
        return solve_paper(support, settings, on_epoch)

    def _newcomers(self, support: Support) -> "Tensor | None":
        """Return the texts of classes without rows, if there are texts."""
        if support.text_seen:
            return None
        texts = np.delete(self.text_features_, support.seen, axis=0)
        return to_tensor(texts, device=support.features.device)

    def _fitted(
        self, support: Support, solution: Solution, rank: NDArray
    ) -> dict[str, Any]:
        """Return attributes, and the logits of rows left out if there are any."""
        fitted = attributes_of(
            *(solution, rank, support.seen, self.text_features_),
            has_text=self.prototype_source_ != "image",
        )
        if solution.left_out is not None:
            logits = to_numpy(solution.left_out, dtype=self.text_features_.dtype)
            fitted["_left_out"] = logits[:, rank]
        return fitted

    def add_class(self, name: Any, features: ArrayLike | None = None) -> Self:
        """Add a class that has no images to the fitted classifier, without a new fit.

        Parameters
        ----------
        name : label
            The label that is predicted for it, of the kind of those in ``classes_``.
        features : array-like of shape (n_features,), default=None
            Its text feature; scaled to unit norm. None takes what `text_features` has
            for `name`, or has the text encoder of the fitted classifier encode it.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If `name` is there already or of another kind than the classes, if
            `features` does not fit, or if the classifier was fitted without texts.

        Warns
        -----
        UserWarning
            If `name` is the same to the encoder as that of a class, or has no words.
        """
        check_is_fitted(self)
        replace_fitted(self, with_new_class(self, name, features))
        return self

    def add_images(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Learn more images, as a fit on all of them would.

        The classifier has to keep its support, ``store_support=True``. Texts are not
        encoded again but those of new classes, for which :meth:`add_class` says where
        they come from. Nothing else is saved: a fit takes less
        time than its images took to embed, and weights and intercepts that are found
        again are worth half a point of accuracy.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.
        y : array-like or tensor of shape (n_samples,)
            Their labels, missing ones as for `fit`. New ones become classes.
        sample_weight : array-like or tensor of shape (n_samples,), default=None
            As for `fit`.
        groups : array-like or tensor of shape (n_samples,), default=None
            As for `fit`; to be passed here if it was there, and only then.

        Returns
        -------
        self : estimator

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If the support was not kept, `X` is not such as it was fitted on, `y` is of
            another kind than the classes, or nothing is known that could encode a new
            one; give that its text by `add_class` first.
        """
        check_is_fitted(self)
        replace_fitted(self, with_images(self, X, y, sample_weight, groups))
        return self

    def forget_class(self, name: Any) -> Self:
        """Take a class out of the fitted classifier.

        If the classifier keeps its support, ``store_support=True``, a class with images
        is forgotten as by a fit without them, and so is one without that images without
        labels could be of. Else the rest stays as it is, which was learned with them; a
        class that had no images of either kind leaves no trace.

        Parameters
        ----------
        name : label
            One of ``classes_``.

        Returns
        -------
        self : estimator

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If `name` is none of the classes, or but one of them would be left.
        """
        check_is_fitted(self)
        replace_fitted(self, without_class(self, name))
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
        mapped = self._mapped(features)
        mapped *= self._scales()[1]
        logits = self._frozen_logits(features)
        logits += mapped @ as_rows(self.prototypes_, features).T
        logits += as_rows(self.intercept_, features)
        return logits

    def _frozen_logits(self, features: NDArray) -> NDArray:
        frozen = as_rows(self.frozen_prototypes_, features)
        return (features * self._scales()[0]) @ frozen.T

    def _scales(self) -> tuple[float, float]:
        """Return what the cosines of the texts, and those of the map, are times."""
        scale = self.logit_scale_ / self.temperature_ / (1 + self.alpha_)
        return float(scale), float(scale * self.alpha_)

    def transduce(self, X: ArrayLike) -> NDArray:
        """Predict the labels of a batch of images together.

        `predict` takes each image by itself. Here the others tell which classes the
        batch has, and what their images are like. A batch of few classes gains most.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels; none where an image could not be read, as from `predict`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.

        See Also
        --------
        transduce_proba : The probabilities, with the equations.
        """
        index = self.transduce_proba(X).argmax(axis=1)
        return with_missing(self.classes_[index], unread_rows(X))

    def transduce_proba(self, X: ArrayLike) -> NDArray:
        r"""Predict the probabilities of a batch of images together.

        With :math:`z` the logits of `predict_proba`, :math:`v` the mapped rows and
        :math:`T` the prototypes, five times in turns

        .. math::

            r_{uc} &= \mathrm{softmax}_c(z_{uc} + g \log \pi_c) \\
            \pi_c &= (n_c + 0.3 N / C) / (1.3 N), \quad n_c = \sum_u r_{uc} \\
            T_c &\leftarrow \mathrm{norm}\big((m_c + 3) k T_c^0
            + w \textstyle\sum_u r_{uc} v_u\big)

        for *N* images, *C* classes of :math:`m_c` labelled ones, the mean cosine *k* of
        an image to the prototype of its class, and :math:`w = 1 / (1 + \bar n / 3)`
        for :math:`\bar n` images in the batch of the class of one of them. The gate *g*
        is one less the share of the classes that the batch seems to have,
        :math:`\exp(-\sum_c \pi_c \log \pi_c) / C`. This is the library's own.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Image embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Each row sums to one. They depend on all rows of `X` but those of images
            that could not be read, which are NaN.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.
        ValueError
            If X has another width, is not finite, or comes from another encoder.
        """
        unread = unread_rows(X)
        features = unit_rows(self._check_query(with_filled_rows(X, unread)))
        if unread is not None:
            proba = np.full((len(unread), len(self.classes_)), np.nan, features.dtype)
            if not unread.all():
                proba[~unread] = self._together(features[~unread])
            return proba
        return self._together(features)

    def _together(self, features: NDArray) -> NDArray:
        """Return the probabilities of a batch of unit rows."""
        fixed = self._frozen_logits(features) + as_rows(self.intercept_, features)
        logits = answer_together(
            fixed,
            self._mapped(features),
            as_rows(self.prototypes_, features),
            self.class_count_,
            self._scales()[1],
        )
        return softmax(logits, axis=1)
