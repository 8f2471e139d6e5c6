"""Few-shot prototypes of labels that show in different places of an image."""

import os
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skfewshot._labels import read_labels
from skfewshot._rows import as_numpy, check_encoder, check_parameters, plain, unit_rows
from skfewshot._sklearn import (
    Estimator,
    HasMethods,
    Interval,
    MissingValues,
    StrOptions,
    _fit_context,
)
from skfewshot._unlabelled import unlabelled_rows
from skfewshot._unread import (
    only_read,
    unread_rows,
    with_filled_rows,
    with_missing,
    without_unread,
)
from skfewshot.clip._embedding import encoder_of
from skfewshot.multilabel._calibration import Calibration, read_thresholds
from skfewshot.multilabel._discriminant import Discriminant
from skfewshot.multilabel._prior import CONSTRAINTS, MultiLabelPrototypePrior
from skfewshot.multilabel._prior_state import (
    check_prior,
    image_maps,
    map_labels,
    pair_encoder,
    settings,
)
from skfewshot.multilabel._prototypes import centre_labels, image_label_vectors
from skfewshot.multilabel._reading import (
    read_array,
    read_partial_labels,
    read_support,
    split_tokens,
)
from skfewshot.multilabel._scoring import QUERY_SCORINGS, Scorer, blend, explain, score
from skfewshot.multilabel._selection import SELECTIONS
from skfewshot.multilabel._solver import Solution, solve
from skfewshot.multilabel._tokens import FeatureMap, Support, Tokens, feature_means
from skfewshot.multilabel._words import find_label_vectors

#: What gensim's word vectors have, whatever their version.
_WORDS = HasMethods(["__getitem__", "__contains__"])


class MultiLabelPrototypeClassifier(ClassifierMixin, Estimator):
    r"""Multi-label few-shot classifier by prototypes and what tells them apart.

    An image shows several labels, each in a region of its own, and an average over the
    image drowns them. Here an image is a set of local features :math:`x_k`, such as
    the patch tokens of a CLIP model, and a label is a prototype near which the features
    of its regions lie [1]_. What shows in the whole image, and in images that have no
    local features, is told by a discriminant of the global one. The encoders stay
    frozen, and all that is learned of the support has a closed form but a handful of
    numbers.

    1. *Label vectors.* Features and texts are centred by their means,
       :math:`\varphi(x) = \mathrm{norm}(x - \mu_x)` and
       :math:`\psi(w) = \mathrm{norm}(w - (1 - 1/L) \mu_w)` for L labels, which closes
       the gap between the two. Logits are :math:`s(a, b) = s \, (1 - \|a - b\|)`.
    2. *Selection.* Of each support image and each of its labels the `n_select` local
       features are kept from which the label's loss gains most: Loss Change
       Measurement, in closed form (:func:`~skfewshot.multilabel.loss_change`).
    3. *Prototypes.* The mean :math:`m_l` of what was selected, mixed with the text:
       :math:`p_l = \mathrm{norm}((1 - a_l) \, \mathrm{norm}(m_l) + a_l \psi(w_l))`,
       of which the text's share :math:`a_l` falls with the images of the label.
    4. *Scoring.* Labels, and a background, compete for every patch of a query
       (:func:`~skfewshot.multilabel.compete`); a label scores the mean over its
       `n_select` best patches.
    5. *Discriminants.* Of the global feature :math:`x` a label has a linear score
       :math:`w_l \cdot x + b_l` that minimises :math:`\sum_j (Y_{jl} - b_l -
       w_l \cdot x_j)^2 + \lambda \|w_l - \gamma \psi_l\|^2`: what tells its images
       from the others, seen through the scatter that all labels share, as far as the
       text does not foretell it. :math:`\lambda` is 1, with text
       :math:`1 + 1 / \bar n`. The text's scale :math:`\gamma`, and the share of this
       score beside that of step 4, are found on images left out, here in closed form.
       Where images have one feature only, this score is all there is.
    6. *Calibration.* A slope and a bias for all labels turn scores into log odds; each
       label with two images or more has a bias of its own, pulled toward the shared
       one. They are fitted on scores of support images by prototypes and discriminants
       without these.

    Of an image some labels, or all, may be unknown. Known entries teach as they are; an
    unknown one has the probability :math:`p_{jl}` that its score gives, and

    .. math::

        m_l = \sum_{j: Y_{jl} = 1} \omega_j v_{jl}
        + \sum_{j: Y_{jl} = ?} \omega_j \, u_{jl} \, p_{jl} \, v_{jl},
        \qquad
        \sum_j \omega_j u_{jl} = \min\Big(50, \sum_j \omega_j \, p_{jl}\Big)

    where :math:`v_{jl}` is the mean of an image's best features for the label and
    :math:`u_{jl}` is 1 for the surest images: twice, the second time by the prototypes
    that the first gave. With so many images a prototype needs less of its text, unless
    they show the same few things: the text's share is found anew on known images, each
    left out with the half of the surest that is most like it. This is where labels
    compete for patches, and only if it does not raise the loss of known entries left
    out. Discriminants learn from known entries
    alone: what images without labels added to them measured as nothing beside patches,
    and as a loss without.

    Steps 4 to 6, the mixture, unknown entries and the signed, per-label selection are
    this library's. With a `prior` the maps of step 1 are learned, and what each image
    says of a label goes through the paper's multi-modal cross-interaction.

    Parameters
    ----------
    label_features : array-like, dict, KeyedVectors, path, str or None, default="auto"
        The label vectors :math:`w_l`, unit rows once read, as wide as the tokens or,
        with a `prior`, as those that it was trained with.

        - A dict from label to vector; labels are the columns' names where `y` is a data
          frame, else their numbers 0, 1, ..., or the class labels of 1-D `y`.
        - Word vectors: a dict from word to vector, gensim's ``KeyedVectors``, or the
          path of a text file as GloVe and word2vec have, of which only the vectors that
          are needed are kept. The name of a label (its own, or that of `label_names`)
          is looked up as a whole, "stop_sign" and "stop sign", then by its words, of
          which the mean is taken.
        - An array of shape (n_labels, width), its rows in the order of the columns of
          `y` (of the sorted classes of 1-D `y`), or a data frame with labels as its
          index.
        - ``"auto"``: label names encoded by `text_encoder` or, without one, by the
          model that made the tokens, where `X` comes straight from a
          :class:`~skfewshot.CLIPFeaturizer`.
        - ``None``, or ``"auto"`` where no encoder is known: no text; the mean of the
          tokens of a label's images takes the place of its vector.
    prior : MultiLabelPrototypePrior, default=None
        A fitted prior, which stays as it is. It needs label vectors.
    selection : {"auto", "lcm", "lcm_paper", "text", "none"}, default="auto"
        How local features are selected: by the signed loss change of the label; as
        published, by the importance of masks that are trained on the loss of all
        labels, one for each local feature, of which as many are kept as pass a
        threshold; by agreement with the label vector; or not at all, which takes the
        mean of all. ``"auto"`` is what the prior was trained with, or ``"lcm"``.
    n_select : "auto" or int, default="auto"
        How many local features speak for a label, in a support image and in a query.
        ``"auto"`` is the prior's number, or 5.
    pooling : {"auto", "mean", "agreement"}, default="auto"
        Weights of the selected features and of the images of a label: equal, or a
        softmax over their logits with the label vector, as in the paper. The latter
        repeats what the text knows already, and measured worse. ``"auto"`` is
        ``"mean"`` but for priors with the paper's network.
    text_weight : "auto" or float, default="auto"
        Share of the text, from 0 to 1, in the prototype of a label with the mean number
        of images; it is :math:`\kappa / (\kappa + n_l)` for one with :math:`n_l`.
        ``"auto"`` starts from 0.6, or from what a prior learned, and moves to the share
        by which left-out images are told apart best as far as they are enough to say,
        anew where unknown entries have a part in prototypes; with a prior that has the
        paper's network it is 0. A discriminant takes a number as the share of
        :math:`\gamma \psi_l` in a mixture with what the images alone would give.
    query_scoring : str, default="auto"
        ``"local"`` is the mean logit of a label's best patches; ``"competitive"`` that
        of the log odds that a patch shows the label and not another, or background;
        ``"global"`` the logit of the global feature, as in the paper; ``"both"`` the
        mean of local and global. Where images have one local feature, competition is
        left out, since all labels of an image would have to share it. ``"combined"`` is
        the mean of competitive scores and discriminants in shares that left-out images
        choose. ``"auto"`` is ``"combined"``, or what a prior was trained with if that
        is another than ``"competitive"`` or if it has the paper's network.
    scale : float, default=20.0
        Logit scale :math:`s > 0`. A prior brings its own.
    threshold : float, array-like of shape (n_labels,) or "cardinality", default=0.5
        The probability from which on a label is predicted: for all labels, for each, or
        that at which left-out support images get as many labels as they have, on
        average. With one label an image the most probable is predicted instead.
    label_names : sequence, dict or callable, default=None
        What to call the labels in a prompt: a dict from label to name, a function from
        label to name, or a sequence that follows the columns of `y` (the sorted classes
        of 1-D `y`). In place of a name may stand a sequence of descriptions, which are
        encoded as they are and averaged. By default the columns' names of a data frame,
        and string labels, are their own names.
    text_encoder : CLIPFeaturizer or callable, default=None
        Encodes the names: an object with ``encode_classes(names)``, or a callable from
        a list of names to an array of shape (n_names, d).
    n_tokens : int or None, default=None
        Tokens of an image where `X` is flattened, the global one included: for 3-D
        tokens `T` this is ``T.shape[1]``, and `X` is ``T.reshape(len(T), -1)``.
    unlabeled : label, default=None
        What stands in `y` for what is not known, such as -1; None, NaN and
        ``pandas.NA`` always do. That `y` has none of it is no error.
    device : None, str or torch.device, default=None
        Where the interaction of a prior is computed; None takes a GPU when there is
        one. All else is a few products of NumPy matrices.

    Attributes
    ----------
    classes_ : ndarray of shape (n_labels,)
        The labels: the names of the columns of `y`, or their numbers; the sorted class
        labels of 1-D `y`.
    class_count_ : ndarray of shape (n_labels,)
        Images of each label in the support, by their weights.
    prototypes_ : ndarray of shape (n_labels, d)
        The prototypes :math:`p_l`, unit norm, as wide as a token or the prior's common
        width.
    label_vectors_ : ndarray of shape (n_labels, d)
        The mapped label vectors :math:`\psi(w_l)`, unit norm.
    selected_ : list of n_labels ndarrays of shape (m_l, 2)
        The selected local features of the images known to have each label: the row of
        `X`, and the index from 0 to K - 1 of the local feature in it, best first. Of
        equal images only the first is listed.
    scale_ : float
        The logit scale used: the prior's, where there is one.
    text_weight_ : float
        The text's mean share in the prototypes of labels with images; 0 without text.
    thresholds_ : ndarray of shape (n_labels,)
        Probabilities from which on labels are predicted; NaN for 1-D `y`.
    slope_, biases_ : float and ndarray of shape (n_labels,)
        The calibration: log odds are ``slope_ * score + biases_``.
    sharpened_ : bool
        Whether unknown entries have a part in the prototypes.
    background_, sharpness_ : float
        The logit of the background and the sharpness of the competition.
    coef_, intercept_ : ndarray of shape (n_labels, d) and (n_labels,), or None
        The discriminants :math:`w_l` of mapped global features, and :math:`b_l`, in the
        units of the competitive score where there is one; None but for combined
        scoring.
    text_scale_ : float
        :math:`\gamma` of the known entries; 0 without text.
    global_share_ : float
        The share of the discriminants in the score, from 0 to 1.
    part_mean_, whole_mean_ : ndarray of shape (token_width,)
        Means of local and of global features; 0 where the prior does not centre them.
    prototype_source_ : {"label_features", "text_encoder", "embedding", "image"}
        Where the label vectors came from; ``"image"`` is the support itself.
    encoder_ : EncoderIdentity or None
        The model of the features, where it is known.
    n_features_in_ : int
        Width d of the tokens, or of the rows of 2-D `X`.
    feature_names_in_ : ndarray of shape (n_columns,)
        Names of the columns of `X`, where all are strings.

    See Also
    --------
    MultiLabelPrototypePrior : Learns from base labels what to do with novel ones.
    skfewshot.CMMClassifier : One label an image, from global embeddings.
    skfewshot.metrics.mean_average_precision_scorer : For GridSearchCV.
    skfewshot.model_selection.MultilabelStratifiedKFold : Folds that keep the labels.

    Notes
    -----
    Equal images are merged and their weights added: duplicating an image is doubling
    its weight. Left-out scores of patches for a label with one image are by its text
    alone; without text they are by the image itself, so that its probabilities are far
    too high there: trust the order alone at one shot without text.

    Weights that add up to one mean next to no data: a weight of 1 is an image.

    ``cross_val_predict`` with ``method="predict_proba"`` drops the names of columns:
    pass `label_names` there. With exactly two labels, scikit-learn takes ``classes_``
    for those of a binary problem: scorers that ask for ``predict_proba``, such as
    ``"roc_auc_ovr"``, fail. ``"average_precision"``, ``"roc_auc"``, ``"f1_macro"`` and
    :data:`skfewshot.metrics.mean_average_precision_scorer` work.

    References
    ----------
    .. [1] Modeling Multi-modal Cross-interaction for Multi-label Few-shot Image
       Classification Based on Local Feature Selection, arXiv:2412.13732v2.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
    >>> from skfewshot.datasets import make_scenes
    >>> kinds = ["striped star", "plain heart", "spotted ring", "checked square"]
    >>> scenes = make_scenes(12, kinds=kinds, random_state=0)
    >>> model = make_pipeline(
    ...     CLIPFeaturizer("tiny", output="tokens"),
    ...     MultiLabelPrototypeClassifier(label_names=kinds),
    ... )
    >>> model = model.fit(scenes.images, scenes.labels)
    >>> model.predict(scenes.images).shape
    (12, 4)
    >>> tokens = model[0].transform(scenes.images)
    >>> model[-1].explain(tokens).shape
    (12, 4, 64)
    """

    _parameter_constraints: ClassVar[dict] = {
        **CONSTRAINTS,
        "label_features": [str, os.PathLike, "array-like", dict, _WORDS, None],
        "prior": [MultiLabelPrototypePrior, None],
        "selection": [StrOptions({"auto", *SELECTIONS})],
        "n_select": [StrOptions({"auto"}), *CONSTRAINTS["n_select"]],
        "pooling": [StrOptions({"auto", "mean", "agreement"})],
        "query_scoring": [StrOptions({"auto", "combined", *QUERY_SCORINGS})],
        "text_weight": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="both")],
        "threshold": [
            StrOptions({"cardinality"}),
            Interval(Real, 0, 1, closed="both"),
            "array-like",
        ],
        "unlabeled": [MissingValues()],
    }

    def __init__(
        self,
        label_features: Any = "auto",
        *,
        prior: MultiLabelPrototypePrior | None = None,
        selection: str = "auto",
        n_select: int | str = "auto",
        pooling: str = "auto",
        text_weight: float | str = "auto",
        query_scoring: str = "auto",
        scale: float = 20.0,
        threshold: ArrayLike = 0.5,
        label_names: Any = None,
        text_encoder: Any = None,
        n_tokens: int | None = None,
        unlabeled: Any = None,
        device: Any = None,
    ) -> None:
        self.label_features = label_features
        self.prior = prior
        self.selection = selection
        self.n_select = n_select
        self.pooling = pooling
        self.text_weight = text_weight
        self.query_scoring = query_scoring
        self.scale = scale
        self.threshold = threshold
        self.label_names = label_names
        self.text_encoder = text_encoder
        self.n_tokens = n_tokens
        self.unlabeled = unlabeled
        self.device = device

    # The text encoder and the prior are estimators, with constraints of their own, so
    # nested validation stays on.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None
    ) -> "MultiLabelPrototypeClassifier":
        """Build the prototypes from the support.

        Parameters
        ----------
        X : array-like of shape (n_samples, 1 + K, d), (n_samples, d) or \
                (n_samples, n_tokens * d)
            Tokens, row 0 of an image its global feature and the others local ones, as
            ``CLIPFeaturizer(output="tokens")`` gives them; or one feature an image,
            which is its only local one too; or flattened tokens, see `n_tokens`.
            Tokens of NaN are padding, for images of fewer regions than others; where
            the global one is NaN, the mean of the local ones takes its place. All are
            scaled to unit norm.
        y : array-like or sparse matrix of shape (n_samples, n_labels), or array-like \
                of shape (n_samples,)
            Indicators, 0 or 1; or one class label an image. A lone column of zeros and
            ones is the indicator of one label. NaN, None, ``pandas.NA`` and the mark
            `unlabeled` stand for what is not known: one entry, or a whole image. In a
            sparse matrix they have to be stored; what is not stored is 0.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, from 0 to 1e9. They count images: one of weight 2 is two images.

        Returns
        -------
        self : MultiLabelPrototypeClassifier

        Raises
        ------
        ValueError
            If no image has a label, nothing is known, `unlabeled` is an indicator, a
            1-D `y` has one class only, a value is not finite, a token is NaN in part,
            an image has no local feature, or the label vectors do not fit `X` and `y`.
        TypeError
            If a label name is not a str, or `text_encoder` cannot encode.

        Warns
        -----
        UserWarning
            If the images have to stand in for texts that were to be expected, or if
            the label vectors tell them apart no better than chance.
        """
        check_parameters(self.get_params(deep=False))
        missing = unlabelled_rows(y, self.unlabeled)
        known = None if missing is None else ~missing
        X, sample_weight = without_unread(X, y, sample_weight, known)
        images, labels, rows = read_support(self, X, y, sample_weight)
        support, rows = images.with_known(rows)
        self.classes_, self._is_multilabel = labels.classes, labels.is_multilabel
        self.class_count_ = support.weight.astype(float) @ support.indicator
        thresholds = read_thresholds(self.threshold, len(self.classes_))
        tokens = support.tokens
        found = find_label_vectors(
            *(self, self.label_features, self.classes_, encoder_of(X), tokens.whole),
            any_width=self.prior is not None,
        )
        self.prototype_source_, self.encoder_ = found.source, found.encoder
        prior, encode = self.prior, None
        if prior is not None:
            check_prior(prior, found, tokens.whole.shape[1])
        self.label_vectors_ = self._learn_maps(found.features, support)
        if prior is not None:
            given = prior, self.label_vectors_, found.features, self.device
            encode = pair_encoder(*given)
        solution = solve(
            images,
            self._feature_map(),
            self.label_vectors_,
            settings(self),
            has_text=found.source != "image",
            is_multilabel=self._is_multilabel,
            thresholds=thresholds,
            encode=encode,
            expected_shares=None if prior is None else prior.text_shares,
        )
        self._keep(solution, rows)
        return self

    def _check_before_embedding(self, y: Any) -> None:
        """Refuse what `fit` would refuse, before a featurizer embeds its images."""
        self._validate_params()
        check_parameters(self.get_params(deep=False))
        labels = read_partial_labels(self, y, np.float64)
        labels.check_usable(type(self).__name__)
        read_thresholds(self.threshold, len(labels.classes))

    def _learn_maps(self, vectors: NDArray | None, support: Support) -> NDArray:
        """Set the map of features; return the mapped label vectors."""
        means = feature_means(support.tokens, support.weight)
        self.part_mean_, self.whole_mean_ = means
        self._map: dict[str, NDArray] = {}
        if vectors is None:
            return image_label_vectors(support.mapped(self._feature_map()))
        if self.prior is None:
            return unit_rows(centre_labels(vectors))
        state, residual = self.prior.state_, self.prior.residual
        self._map = image_maps(state, residual, support.weight.dtype)
        if not residual:
            self.part_mean_, self.whole_mean_ = map(np.zeros_like, means)
            return map_labels(state, vectors)
        return map_labels(state, centre_labels(vectors))

    def _keep(self, solution: Solution, rows: NDArray) -> None:
        """Set what predictions need; `rows` of X are the images."""
        n_labels = len(self.classes_)
        self.selected_ = [solution.selection.of_label(i, rows) for i in range(n_labels)]
        self.prototypes_, self.sharpened_ = solution.prototypes, solution.is_sharpened
        self.text_weight_ = solution.text_weight
        scorer, (found, text_scale, share) = solution.scorer, solution.of_whole
        self.scale_, self._query_scoring = scorer.scale, scorer.scoring
        self._n_pooled = scorer.n_top
        self.background_, self.sharpness_ = scorer.background, scorer.sharpness
        self.coef_: Any = None if found is None else found.coef
        self.intercept_: Any = None if found is None else found.intercept
        self.text_scale_, self.global_share_ = text_scale, share
        fitted, self.thresholds_ = solution.calibration, solution.thresholds
        self.slope_, self.biases_ = fitted.slope, fitted.bias

    def _feature_map(self) -> FeatureMap:
        return FeatureMap(self.part_mean_, self.whole_mean_, **self._map)

    def _read_query(
        self, X: Any
    ) -> tuple[Any, tuple[Tokens, FeatureMap, NDArray, Scorer]]:
        """Return which images were not read, and what a prediction is made from."""
        check_is_fitted(self)
        check_encoder(X, self.encoder_)
        unread = unread_rows(X)
        X = with_filled_rows(X, unread)
        tokens = split_tokens(read_array(self, X, reset=False))
        given = self.scale_, self._query_scoring, self._n_pooled
        scorer = Scorer(*given, self.background_, self.sharpness_)
        return unread, (tokens, self._feature_map(), self.prototypes_, scorer)

    def _query_logits(self, X: Any) -> NDArray:
        unread, known = self._read_query(X)
        tokens, feature_map, prototypes, scorer = known
        scores: Any = 0.0
        if self.global_share_ < 1:
            scores = score(tokens, feature_map, prototypes, scorer)
        if self.coef_ is not None:
            scores = self._with_global(scores, tokens, feature_map)
        logits = Calibration(self.slope_, self.biases_).logits(scores)
        return with_missing(logits, unread)

    def _with_global(
        self, scores: Any, tokens: Tokens, feature_map: FeatureMap
    ) -> NDArray:
        """Return local scores (n, ..., L) and those of the global feature as one."""
        found = Discriminant(self.coef_, self.intercept_)
        of_whole = found(unit_rows(feature_map.of_whole(tokens.whole)))
        if np.ndim(scores) == 3:
            of_whole = of_whole[:, None]
        return blend(scores, of_whole, self.global_share_)

    def decision_function(self, X: Any) -> NDArray:
        """Return the calibrated log odds of each label.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`; the number of local features
            may differ.

        Returns
        -------
        ndarray of shape (n_samples, n_labels) or (n_samples,)
            For 1-D `y` the logits of the softmax, and with two classes the logit of
            the second less that of the first, as scikit-learn has it.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted, here as in all predictions.
        ValueError
            If X does not have the form of the support, or comes from another encoder.
        """
        logits = self._query_logits(X)
        if not self._is_multilabel and logits.shape[1] == 2:
            return logits[:, 1] - logits[:, 0]
        return logits

    def predict_proba(self, X: Any) -> NDArray:
        """Return the probability of each label.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_labels)
            Strictly between 0 and 1. Columns follow ``classes_``; for 1-D `y` rows add
            up to 1.
        """
        logits = self._query_logits(X)
        limits = np.finfo(logits.dtype)
        likely = expit(logits) if self._is_multilabel else softmax(logits, axis=1)
        return np.clip(likely, limits.tiny, 1 - limits.epsneg)

    def predict(self, X: Any) -> NDArray:
        """Return the labels of each image.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.

        Returns
        -------
        ndarray of int, shape (n_samples, n_labels), or of shape (n_samples,)
            Indicators of the labels whose probability reaches ``thresholds_``; for 1-D
            `y` the most probable class. Of an image that a featurizer with
            ``on_error="nan"`` could not read all predictions are NaN, or None where
            labels are no numbers; indicators are floats then.
        """
        probabilities, unread = self.predict_proba(X), unread_rows(X)
        if not self._is_multilabel:
            found = self.classes_[probabilities.argmax(axis=1)]
            return with_missing(found, unread)
        found = (probabilities >= self.thresholds_).astype(np.int64)
        return with_missing(found, unread)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Return the share of images whose labels are all right, of those read.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.
        y : array-like or sparse matrix of shape (n_samples, n_labels), or array-like \
                of shape (n_samples,)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        X, y, sample_weight = only_read(X, y, sample_weight)
        weight = as_numpy(plain(sample_weight, "sample_weight"))
        # As fit reads them: scikit-learn takes fewer forms.
        is_column_of_classes = not self._is_multilabel
        labels = read_labels(y, np.float64, is_column_of_classes=is_column_of_classes)
        truth = labels.indicator.astype(np.int64)
        if not labels.is_multilabel:
            truth = labels.classes[truth.argmax(axis=1)]
        return accuracy_score(truth, self.predict(X), sample_weight=weight)

    def explain(self, X: Any) -> NDArray:
        """Return how much each local feature speaks for each label.

        Parameters
        ----------
        X : array-like
            Images, in the form of those of :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_labels, K)
            Under combined, local and competitive scoring log odds of the label: the
            mean of the `n_select` largest values of a label is its
            :meth:`decision_function` (the logit of the softmax for 1-D `y`); what the
            discriminants say of the image is the same for all of its patches. The other
            scorings are calibrated for global features, and values tell patches apart
            but are no log odds. NaN where there is padding. For patch tokens of a
            square image
            ``evidence.reshape(n, n_labels, side, side)`` is a map over the picture.
        """
        unread, known = self._read_query(X)
        tokens, feature_map, prototypes, scorer = known
        evidence = explain(tokens, feature_map, prototypes, scorer)
        if self.coef_ is not None:
            evidence = self._with_global(evidence, tokens, feature_map)
        found = Calibration(self.slope_, self.biases_).logits(evidence)
        return with_missing(found.transpose(0, 2, 1), unread)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.three_d_array = True
        return tags
