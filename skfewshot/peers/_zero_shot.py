"""Zero-shot CLIP: cosines to the texts, and nothing learned."""

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfewshot._base import (
    SHARED_CONSTRAINTS,
    FewShotClassifier,
    as_rows,
    has_no_images,
)
from skfewshot._copies import read_groups
from skfewshot._docs import shared_docs
from skfewshot._labels import check_several, missing_error, with_extra_classes
from skfewshot._rows import check_parameters, check_weight
from skfewshot._sklearn import MissingValues
from skfewshot._support import (
    Report,
    Support,
)
from skfewshot._unlabelled import merge_unlabelled, split_rows
from skfewshot.peers._pool import correct_texts


@shared_docs
class ZeroShotClassifier(FewShotClassifier):
    r"""Zero-shot classifier of CLIP.

    The logits of a unit-norm image embedding :math:`f` are its scaled cosines to the
    text prototypes, :math:`s f T_0^\top` [1]_. `fit` only reads the classes, and takes
    names without images: ``fit(None, names)``. It is what every few-shot method has to
    beat.

    Parameters
    ----------
    {{texts, extra_classes, logit_scale, unlabeled}}

    Attributes
    ----------
    coef_ : ndarray of shape (n_classes, n_features) or None
        What rows without a label add to the logits of a unit row, see Notes; None if
        there were none.
    intercept_ : ndarray of shape (n_classes,) or None
        Added with `coef_`.
    unlabeled_shares_ : ndarray of shape (n_classes,) or None
        How many of the rows without a label are of each class, by estimate and half way
        to equal shares. They are used in the fit, and in no prediction.
    {{fitted}}

    See Also
    --------
    skfewshot.CMMClassifier : Learns from the support too.
    sklearn.neighbors.NearestCentroid : Class means without a sphere.

    Notes
    -----
    Without text the prototypes are the unit-norm class means of the support, and this
    is a nearest-class-mean classifier by cosine. There is no `class_weight`, because it
    could change nothing.

    **Rows without a label**, of which `y` may have nothing else if `extra_classes` says
    what the classes are, are learned from; those with a label only name theirs. To the
    logits :math:`\sigma \, (f P \mu_c^\top - \tfrac12 \mu_c P \mu_c^\top + e_c)` are
    added. Means :math:`\mu_c` and the covariance, of which *P* is the inverse, come
    from three rounds of expectation-maximisation that start at the zero-shot
    probabilities:

    .. math::

        \mu_c = \frac{\sum_i r_{ic} f_i + 4 (m + g (t_c - \bar t))}{n_c + 4}, \qquad
        n_c = \sum_i r_{ic}, \qquad e_c = \frac{d \, n_c}{2 (n_c + 4)^2}

    where :math:`r_{ic}` is the probability of class *c* times the weight of the row
    times :math:`\min(1, q_i / (0.7 \bar q))^2`. The certainty :math:`q_i`, the largest
    zero-shot probability, is low for images of no class. The line through *m* of slope
    *g* is that on which class means follow texts; a class without rows stays on it. The
    covariance is shrunk to the sphere of its trace by :math:`1 / (1 + n / d)`, classes
    have shares half way from their estimates to equal ones, and :math:`\sigma` makes
    the scores of wrong classes as wide as zero-shot CLIP's, times
    :math:`\bar n^2 / (\bar n^2 + 36)`. There :math:`\bar n + 2` is the harmonic mean of
    :math:`n_c + 2`: below three rows a class, or where many classes have none, it
    hardly matters what they say. The sum is surer than it should be: if the mean
    certainty is
    *q* for zero-shot CLIP and :math:`q'` for the sum, all logits are scaled until it is
    :math:`q + q (q' - q)`, which `coef_` has in it. Nothing of this can be validated,
    as there are no labels.

    References
    ----------
    .. [1] Radford et al., Learning Transferable Visual Models From Natural Language
       Supervision, ICML 2021, arXiv:2103.00020.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import ZeroShotClassifier
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> model = ZeroShotClassifier(texts).fit(np.eye(2), ["cat", "dog"])
    >>> model.predict([[0.9, 0.5]]).tolist()
    ['cat']

    From names alone, before there is an image to learn from:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skfewshot import CLIPFeaturizer
    >>> from skfewshot.datasets import make_object_images
    >>> kinds = ["plain heart", "striped star"]
    >>> model = make_pipeline(CLIPFeaturizer("tiny"), ZeroShotClassifier())
    >>> model = model.fit(None, kinds)
    >>> images = make_object_images(1, kinds=kinds, random_state=0, shuffle=False)
    >>> model.predict(images.images).tolist()
    ['plain heart', 'striped star']

    From names, and images that nobody has labelled:

    >>> pool = make_object_images(20, kinds=kinds, random_state=1).images
    >>> model = make_pipeline(
    ...     CLIPFeaturizer("tiny"), ZeroShotClassifier(extra_classes=kinds)
    ... )
    >>> model = model.fit(pool, [None] * len(pool))
    >>> model.predict(images.images).tolist()
    ['plain heart', 'striped star']
    """

    _parameter_constraints: ClassVar[dict] = {
        name: constraint
        for name, constraint in SHARED_CONSTRAINTS.items()
        if name != "class_weight"
    } | {"extra_classes": ["array-like", None], "unlabeled": [MissingValues()]}
    #: Read by the base; no parameter.
    class_weight = None
    _needs_labels = False

    def __init__(
        self,
        text_features: Any = "auto",
        *,
        class_names: Any = None,
        text_encoder: Any = None,
        prompt_templates: Any = None,
        extra_classes: ArrayLike | None = None,
        logit_scale: float | str = "auto",
        unlabeled: Any = None,
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.extra_classes = extra_classes
        self.logit_scale = logit_scale
        self.unlabeled = unlabeled

    def fit(
        self,
        X: ArrayLike | None,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Read the classes, and find their texts.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features), or None
            Image embeddings, from which nothing is learned where there are texts and
            all rows have a label.
            None, or the empty embeddings that a :class:`~skfewshot.CLIPFeaturizer`
            makes of None, where there are no images.
        y : array-like or tensor of shape (n_samples,)
            Class labels, None, NaN or ``pandas.NA`` where there is none; without images
            the names of the classes, once or several times each.
        sample_weight : array-like or tensor of shape (n_samples,), default=None
            Weights, from 0 to 1e9. Rows of weight zero are left out.
        groups : array-like or tensor of shape (n_samples,), default=None
            Which photograph a row is a view of; see :class:`~skfewshot.CMMClassifier`.

        Returns
        -------
        self : ZeroShotClassifier

        Raises
        ------
        ValueError
            If there are fewer than two classes, the text features do not fit `y` and
            `X`, there are neither images nor texts, or rows without a label and no
            texts.
        TypeError
            If a class name is not a str, or `text_encoder` cannot encode.

        Warns
        -----
        UserWarning
            If class means stand in for texts that were to be expected.
        """
        return super().fit(X, y, sample_weight, groups=groups)

    def _read_support(
        self,
        X: Any,
        y: Any,
        known: NDArray[np.bool_] | None,
        sample_weight: Any,
        groups: Any,
    ) -> Support:
        if has_no_images(X):
            if known is not None:
                advice = "Without images it holds the classes alone."
                raise missing_error("y", np.flatnonzero(~known), advice)
            return self._read_names(X, y, sample_weight)
        if known is not None:
            return self._read_pool(X, y, known, sample_weight, groups)
        return super()._read_support(X, y, known, sample_weight, groups)

    def _read_pool(
        self,
        X: Any,
        y: Any,
        known: NDArray[np.bool_],
        sample_weight: Any,
        groups: Any,
    ) -> Support:
        """Read the classes, their texts, and the rows without a label."""
        check_parameters(self.get_params(deep=False))
        rows, y, weight = self._read_rows(X, y, sample_weight)
        groups = read_groups(groups, len(rows))
        y, kept, bare = split_rows(y, known, weight > 0, groups)
        pool = merge_unlabelled(rows, weight, groups, bare)
        support = self._texts_alone(X, y[kept], rows.shape[1], rows.dtype, len(y))
        if support is None:
            raise ValueError(
                f"{int(bare.sum())} rows of y have no label, and there are no texts to "
                "tell their classes by; pass text_features or text_encoder."
            )
        where = np.searchsorted(self.classes_, y[kept])
        self.class_count_ = np.zeros(len(self.classes_))
        np.add.at(self.class_count_, where, weight[kept])
        return replace(support, unlabelled=pool[0], unlabelled_weight=pool[1])

    def _read_names(self, X: Any, y: Any, sample_weight: Any) -> Support:
        """Read the classes alone, and their texts, where there are no images."""
        check_parameters(self.get_params(deep=False))
        y = self._read_labels(y)
        weight = check_weight(sample_weight, np.empty((len(y), 1)))
        types = [np.float64, np.float32]
        support = self._texts_alone(X, y[weight > 0], None, types, len(y))
        if support is None:
            raise ValueError(
                "There are neither images nor texts to classify by: pass text_encoder, "
                "such as a CLIPFeaturizer, or text_features, or put a CLIPFeaturizer "
                "before this step of a pipeline."
            )
        self.class_count_ = np.zeros(len(self.classes_))
        self.n_features_in_ = support.text.shape[1]
        self.__dict__.pop("feature_names_in_", None)
        return support

    def _texts_alone(
        self, X: Any, labels: NDArray, n_features: int | None, dtype: Any, n_rows: int
    ) -> Support | None:
        """Return a support of texts and no rows, or None if there are no texts."""
        classes = np.unique(labels)
        self.classes_, _ = with_extra_classes(classes, self.extra_classes)
        check_several(self.classes_, type(self).__name__)
        prototypes = self._read_texts(X, n_features, dtype)
        if prototypes.features is None:
            return None
        text = self.text_features_ = prototypes.features
        is_auto = self.logit_scale == "auto"
        scale = prototypes.logit_scale if is_auto else self.logit_scale
        self.logit_scale_ = float(scale)
        none, index = np.empty(0, text.dtype), np.empty(0, np.intp)
        return Support(
            *(text[:0], index, none, none, text, text[:0], none),
            rows=np.full(n_rows, -1),
            seen=np.arange(len(text)),
            text_seen=False,
            logit_scale=self.logit_scale_,
        )

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        # The prototypes are read already.
        names = "coef_", "intercept_", "unlabeled_shares_"
        if not len(support.unlabelled):
            return dict.fromkeys(names)
        support, rank = support.in_own_order()
        found = correct_texts(
            support.unlabelled,
            support.unlabelled_weight,
            support.text,
            support.logit_scale,
        )
        dtype = support.text.dtype
        return {
            name: array[rank].astype(dtype)
            for name, array in zip(names, found, strict=True)
        }

    def _logits(self, features: NDArray) -> NDArray:
        logits = self._scaled_cosines(features, self.text_features_)
        if self.coef_ is not None and self.intercept_ is not None:
            logits += features @ as_rows(self.coef_, features).T
            logits += as_rows(self.intercept_, features)
        return logits
