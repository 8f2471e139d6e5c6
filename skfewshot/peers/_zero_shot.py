"""Zero-shot CLIP: cosines to the texts, and nothing learned."""

from typing import Any, ClassVar

from numpy.typing import NDArray

from skfewshot._base import SHARED_CONSTRAINTS, FewShotClassifier, Report, Support
from skfewshot._docs import shared_docs


@shared_docs
class ZeroShotClassifier(FewShotClassifier):
    r"""Zero-shot classifier of CLIP.

    The logits of a unit-norm image embedding :math:`f` are its scaled cosines to the
    text prototypes, :math:`s f T_0^\top` [1]_. `fit` only reads the classes. It is what
    every few-shot method has to beat.

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

    def _learn(self, support: Support, report: Report | None) -> dict[str, Any]:
        return {}  # the prototypes are read already

    def _logits(self, features: NDArray) -> NDArray:
        return self._scaled_cosines(features, self.text_features_)
