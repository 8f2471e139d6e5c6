"""Cross-Modal Mapping: a residual linear map of images into the space of the texts."""

from numbers import Integral, Real
from typing import ClassVar
from warnings import warn

from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning

from skfewshot._sklearn import Interval
from skfewshot._torch import to_numpy
from skfewshot.classifiers._base import SHARED_CONSTRAINTS
from skfewshot.classifiers._docs import shared_docs
from skfewshot.classifiers._training import TrainedClassifier
from skfewshot.text import unit_rows


@shared_docs
class CMMClassifier(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainedClassifier
):
    r"""Few-shot classifier by Cross-Modal Mapping (CMM).

    CLIP embeds images and texts in two separate cones of one sphere, so the embedding
    of a class name is a poor prototype of its images. CMM [1]_ learns a residual
    linear map :math:`\Delta` of the image features into the text space, and refines
    the text features :math:`T`, which start at the class names' embeddings
    :math:`T_0`. The encoders stay frozen.

    For a unit-norm image embedding :math:`f`, logit scale :math:`s` and
    :math:`v(f) = \mathrm{norm}(f + f \Delta)` the logits are

    .. math::

        \frac{s f T_0^\top + \alpha \, s \, v(f) \, \mathrm{norm}(T)^\top}{1 + \alpha}

    and the loss, over the support with :math:`\bar n` rows a class, is

    .. math::

        \mathrm{CE}
        + \lambda_{\mathrm{trip}} \, \mathrm{mean} \max(0, \|v - \mathrm{norm}(T)_y\|
        - \|v - \mathrm{norm}(T)_{\mathrm{neg}}\| + m)
        + \frac{\lambda_W \|\Delta\|_F^2
        + \lambda_T \, \mathrm{mean}_c \|T_c - T_{0c}\|^2}{\bar n \, L_0}

    with *neg* the nearest wrong class and :math:`L_0` the cross-entropy of zero-shot
    CLIP on the support. Three things are this library's, not the paper's: dividing the
    logits by :math:`1 + \alpha`, which leaves the predicted class as it is and keeps
    the temperature independent of :math:`\alpha`; the two penalties, without which the
    map collapses at one shot; and dividing them by :math:`\bar n L_0`, so that texts
    which already explain the images are kept, and weak ones give way. That is what
    makes one set of defaults do for all.

    Parameters
    ----------
    {{texts}}
    alpha : float, default=1.0
        Weight :math:`\alpha \ge 0` of the mapped logits. At 0 the predictions are
        those of zero-shot CLIP.
    triplet_weight : float, default=1.0
        Weight :math:`\lambda_{\mathrm{trip}} \ge 0` of the triplet loss.
    margin : float, default=0.1
        Margin :math:`m \ge 0` of the triplet loss, a Euclidean distance on the unit
        sphere.
    map_penalty : float, default=0.1
        Penalty :math:`\lambda_W \ge 0` of the map; infinity leaves it the identity.
    text_penalty : float, default=30.0
        Penalty :math:`\lambda_T \ge 0` of the text features' change; infinity leaves
        them as they are.
    {{logit_scale}}
    learning_rate : float, default=1.0
        First step tried along a quasi-Newton direction; a line search corrects it.
    max_iter : int, default=200
        Most L-BFGS iterations.
    tol : float, default=1e-4
        Stop once five iterations lowered the loss by less than `tol` times the loss
        each, on average.
    {{class_weight}}
    chunk_size : int or None, default=None
        Rows of the support handled at a time. The gradient is exact whatever the
        chunks; smaller ones need less memory. None takes as many as keep one block of
        logits below about 256 MB.
    {{device}}
    random_state : int, RandomState instance or None, default=None
        The solver is deterministic and draws nothing; the parameter is there so that
        CMM can stand in for other classifiers. It does not change the result.

    Attributes
    ----------
    map_ : ndarray of shape (n_features, n_features)
        The map :math:`W = I + \Delta`.
    map_intercept_ : ndarray of shape (n_features,)
        A constant added to the mapped features before they are scaled to unit norm,
        penalised like :math:`\Delta`. Learned only where there is no text
        (``prototype_source_ == "image"``); zeros otherwise.
    text_features_ : ndarray of shape (n_classes, n_features)
        The refined text features, unit norm.
    {{fitted, loss_curve_, n_iter_}}

    See Also
    --------
    skfewshot.CLIPFeaturizer : Makes the embeddings and encodes the class names.
    sklearn.linear_model.LogisticRegression : The linear probe, which sees no text.

    Notes
    -----
    Rows of `X` are scaled to unit norm first, and those of weight zero dropped. Fitting
    takes the whole support in each step, with copies merged and in an order of its own:
    duplicating a row is doubling its weight, and neither the order of the rows nor the
    names of the classes matter, to the last bit. The kinks of the triplet loss are
    rounded, so that its minimum can be reached and does not depend on rounding errors.
    The penalties see :math:`T` as it is, ``text_features_`` are its unit rows, and so
    ``loss_curve_`` cannot be computed from the fitted attributes to the last digit.

    Without text, :math:`T_0` has seen the support, and its loss there says nothing:
    :math:`L_0` is then that of chance, :math:`\log C`, and in training each row meets
    the frozen mean of its class without itself.

    References
    ----------
    .. [1] Cross-Modal Mapping: Eliminating the Modality Gap for Few-Shot Image
       Classification, arXiv:2412.20110, 2024.

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
        "alpha": [Interval(Real, 0, None, closed="left")],
        "triplet_weight": [Interval(Real, 0, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="left")],
        "map_penalty": [Interval(Real, 0, None, closed="both")],
        "text_penalty": [Interval(Real, 0, None, closed="both")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "chunk_size": [Interval(Integral, 1, None, closed="left"), None],
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
        alpha=1.0,
        triplet_weight=1.0,
        margin=0.1,
        map_penalty=0.1,
        text_penalty=30.0,
        logit_scale="auto",
        learning_rate=1.0,
        max_iter=200,
        tol=1e-4,
        class_weight=None,
        chunk_size=None,
        device=None,
        random_state=None,
    ):
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
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
        self.chunk_size = chunk_size
        self.device = device
        self.random_state = random_state

    def _learn(self, support, on_iteration):
        solution = super()._learn(support, on_iteration)
        self._n_features_out = self.map_.shape[1]
        if not solution.converged:
            warn(
                f"CMM stopped after max_iter={self.max_iter} iterations before the "
                "loss settled; raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return solution

    def _solve(self, support, on_iteration):
        from skfewshot.solvers import solve_cmm

        # Rows in one block of logits of at most 256 MB.
        rows = max(1, 2**28 // (len(support.text) * support.text.element_size()))
        return solve_cmm(
            support.features,
            support.y,
            support.text,
            support.weight,
            alpha=float(self.alpha),
            triplet_weight=float(self.triplet_weight),
            margin=float(self.margin),
            map_penalty=float(self.map_penalty),
            text_penalty=float(self.text_penalty),
            logit_scale=self.logit_scale_,
            learning_rate=float(self.learning_rate),
            max_iter=self.max_iter,
            tol=self.tol,
            chunk_size=rows if self.chunk_size is None else self.chunk_size,
            # With text, the constant offset between the two cones is within reach of
            # the linear map, since all CLIP images share a large mean. Features of
            # other origin may be centred, and a map through the origin would make the
            # logits odd: f and -f could never get the same class.
            text_from_support=self.prototype_source_ == "image",
            callback=on_iteration,
        )

    def _fitted_arrays(self, solution, rank, dtype):
        return {
            "map_": to_numpy(solution.map, dtype=dtype),
            "map_intercept_": to_numpy(solution.intercept, dtype=dtype),
            "text_features_": unit_rows(to_numpy(solution.text, dtype=dtype)[rank]),
        }

    def transform(self, X):
        """Map image embeddings into the space of the texts.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
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
        return self._mapped(self._read_query(X))

    def _mapped(self, features):
        dtype = features.dtype
        mapped = features @ self.map_.astype(dtype, copy=False)
        return unit_rows(mapped + self.map_intercept_.astype(dtype, copy=False))

    def _logits(self, features):
        dtype = features.dtype
        frozen = features @ self.zero_shot_features_.T.astype(dtype, copy=False)
        tuned = self._mapped(features) @ self.text_features_.T.astype(dtype, copy=False)
        scale = dtype.type(self.logit_scale_ / (1 + self.alpha))
        return scale * (frozen + dtype.type(self.alpha) * tuned)
