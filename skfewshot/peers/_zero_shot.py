"""Zero-shot CLIP: cosines to the texts, and nothing learned."""

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfewshot._base import (
    SHARED_CONSTRAINTS,
    FewShotClassifier,
    Report,
    Support,
    has_no_images,
)
from skfewshot._docs import shared_docs
from skfewshot._labels import check_several
from skfewshot._rows import check_parameters, check_weight


@shared_docs
class ZeroShotClassifier(FewShotClassifier):
    r"""Zero-shot classifier of CLIP.

    The logits of a unit-norm image embedding :math:`f` are its scaled cosines to the
    text prototypes, :math:`s f T_0^\top` [1]_. `fit` only reads the classes, and takes
    names without images: ``fit(None, names)``. It is what every few-shot method has to
    beat.

    Parameters
    ----------
    {{texts, logit_scale}}

    Attributes
    ----------
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
    """

    _parameter_constraints: ClassVar[dict] = {
        name: constraint
        for name, constraint in SHARED_CONSTRAINTS.items()
        if name != "class_weight"
    }
    #: Read by the base; no parameter.
    class_weight = None

    def __init__(
        self,
        text_features: Any = "auto",
        *,
        class_names: Any = None,
        text_encoder: Any = None,
        prompt_templates: Any = None,
        logit_scale: float | str = "auto",
    ) -> None:
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.logit_scale = logit_scale

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
            Image embeddings, from which nothing is learned where there are texts.
            None, or the empty embeddings that a :class:`~skfewshot.CLIPFeaturizer`
            makes of None, where there are no images.
        y : array-like or tensor of shape (n_samples,)
            Class labels; without images the names of the classes, once or several
            times each.
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
            `X`, or there are neither images nor texts.
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
            return self._read_names(X, y, sample_weight)
        return super()._read_support(X, y, known, sample_weight, groups)

    def _read_names(self, X: Any, y: Any, sample_weight: Any) -> Support:
        """Read the classes alone, and their texts, where there are no images."""
        check_parameters(self.get_params(deep=False))
        y = self._read_labels(y)
        weight = check_weight(sample_weight, np.empty((len(y), 1)))
        self.classes_ = np.unique(y[weight > 0])
        check_several(self.classes_, type(self).__name__)
        self.class_count_ = np.zeros(len(self.classes_))
        prototypes = self._read_texts(X, None, [np.float64, np.float32])
        if prototypes.features is None:
            raise ValueError(
                "There are neither images nor texts to classify by: pass text_encoder, "
                "such as a CLIPFeaturizer, or text_features, or put a CLIPFeaturizer "
                "before this step of a pipeline."
            )
        text = self.text_features_ = prototypes.features
        is_auto = self.logit_scale == "auto"
        scale = prototypes.logit_scale if is_auto else self.logit_scale
        self.logit_scale_ = float(scale)
        self.n_features_in_ = text.shape[1]
        self.__dict__.pop("feature_names_in_", None)
        none, index = np.empty(0, text.dtype), np.empty(0, np.intp)
        return Support(
            *(text[:0], index, none, none, text, text[:0], none),
            rows=np.full(len(y), -1),
            seen=np.arange(len(text)),
            text_seen=False,
            logit_scale=self.logit_scale_,
        )

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        return {}  # the prototypes are read already

    def _logits(self, features: NDArray) -> NDArray:
        return self._scaled_cosines(features, self.text_features_)
