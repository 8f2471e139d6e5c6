"""What base labels teach about learning other labels from few images."""

import json
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.callback import CallbackSupportMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from skfewshot._sklearn import Estimator, HasMethods, Interval, StrOptions, _fit_context
from skfewshot._torch import import_torch, resolve_device, training
from skfewshot.clip._embedding import encoder_of
from skfewshot.multilabel._prior_state import (
    STEPS,
    check_options,
    check_state,
    learned_text_shares,
    read_fitted,
    read_prior,
    save_prior,
)
from skfewshot.multilabel._reading import read_labelled, split_tokens
from skfewshot.multilabel._scoring import QUERY_SCORINGS, Scorer
from skfewshot.multilabel._selection import SELECTIONS
from skfewshot.multilabel._tokens import FeatureMap, Support, feature_means
from skfewshot.multilabel._words import find_label_vectors

#: Constraints of the parameters that the classifier has too.
CONSTRAINTS: dict[str, Any] = {
    "selection": [StrOptions(set(SELECTIONS))],
    "n_select": [Interval(Integral, 1, None, closed="left")],
    "query_scoring": [StrOptions(set(QUERY_SCORINGS))],
    "scale": [Interval(Real, 0, None, closed="neither")],
    "label_names": ["array-like", dict, callable, None],
    "text_encoder": [HasMethods("encode_classes"), callable, None],
    "n_tokens": [Interval(Integral, 1, None, closed="left"), None],
    "device": "no_validation",
}
#: Parameters by which a prior is that of the paper.
PUBLISHED: dict[str, Any] = {
    "interaction": STEPS,
    "residual": False,
    "n_heads": 8,
    "mlp_width": 1024,
    "n_components": 512,
    "selection": "lcm_paper",
    "query_scoring": "global",
    "n_episodes": 1000,
    "n_way": None,
    "shots": (1, 1),
    "query_shots": 4,
    "learning_rate": 1e-4,
    "map_penalty": 0.003,
    "alignment_weight": 1.0,
    "label_noise": 10.0,
}


class MultiLabelPrototypePrior(CallbackSupportMixin, Estimator):
    r"""What many images of base labels teach about few images of other labels.

    Trained once, by episodes on base labels [1]_: each draws some labels, a support
    and queries, builds prototypes as :class:`MultiLabelPrototypeClassifier` does, and
    lowers the loss of the queries. What is learned are linear maps, of local features,
    of global ones and of label vectors,

    .. math::

        \varphi(x) = \mathrm{norm}(x W_v + b_v), \qquad
        \psi(w) = \mathrm{norm}(w W_t + b_t)

    so that label vectors may have any width, as word vectors have; the text's share of
    a prototype; and the multi-modal cross-interaction, which turns the selected
    features of an image into what they say of a label. Passed as `prior=` to the
    classifier it is frozen: fitting novel labels never changes it.
    :meth:`published` has the settings of the paper.

    Parameters
    ----------
    interaction : sequence of {"gate", "convolution", "attention"}, default=()
        Steps of the cross-interaction; with none of them only the maps and the text's
        share are learned. Beside the maps each of them, and all three, measured as next
        to nothing, and so they are left out.
    residual : bool, default=True
        Whether to learn what to change of the classifier without a prior: features are
        centred, maps start at the identity where they can (see Notes), what the
        interaction says is added to the mean of the selected features with a weight
        that starts at 0, and the text has a share in a prototype. Otherwise the network
        is the paper's: what the interaction says takes the place of the mean, images
        are weighted by their agreement with the label's vector, and the text stands for
        labels without images alone, in training and in the classifier. It starts as a
        passage for the mean of the selected features.
    n_heads : int, default=8
        Heads of the attention, at most: the largest number up to it that divides the
        common width is taken.
    mlp_width : int or None, default=None
        Width of the hidden layer behind the attention; None takes the common width.
    n_components : int or None, default=None
        The common width, which images and labels are mapped to; None takes the width of
        a token.
    selection : {"lcm", "lcm_paper", "text", "none"}, default="lcm"
        How local features are selected; see the classifier.
    n_select : int, default=5
        How many local features are selected, and pooled in a query.
    query_scoring : {"competitive", "local", "global", "both"}, default="competitive"
        How queries are scored; see the classifier.
    scale : float, default=20.0
        Logit scale :math:`s > 0`; the classifier takes it over.
    n_episodes : int, default=100
        Most episodes.
    n_way : int or None, default=40
        Labels of an episode, at most; None takes all.
    shots : tuple of two int, default=(1, 5)
        Fewest and most images a label in the support of an episode.
    n_query : int, default=48
        Queries of an episode at most, where `query_shots` is None.
    query_shots : int or None, default=None
        Queries of an episode for each label.
    learning_rate : float, default=3e-4
        Of Adam; it falls to 0 along a cosine. Where the network is not residual, its
        maps learn ten times as fast.
    map_penalty : float, default=0.003
        Penalty of the maps' squared change, 10 times that for the labels' map.
    alignment_weight : float, default=0.0
        Weight of the alignment loss between global features and labels. 1 is the
        paper's.
    label_noise : float, default=1.0
        Length of the noise on the label vectors, of length 1, that gate and convolution
        see in training: without it they know the base labels by heart.
    validation_fraction : float, default=0.2
        Share of the labels that are kept aside. Maps and interaction never see them.
        The state with the best mean average precision on them is kept, and the few
        numbers that say how far to trust text, patches and interaction are fitted on
        them.
    eval_every : int, default=10
        Episodes between two judgements.
    patience : int, default=5
        Judgements without a better score after which training stops.
    label_names : sequence, dict or callable, default=None
        What to call the labels; see the classifier.
    text_encoder : CLIPFeaturizer or callable, default=None
        Encodes the label names; see the classifier.
    n_tokens : int or None, default=None
        For flattened `X`; see the classifier.
    device : None, str or torch.device, default=None
        Where to train; None takes a GPU when there is one.
    random_state : int, RandomState instance or None, default=None
        Draws weights, labels kept aside, and episodes. An int gives the same prior
        each time on one machine.

    Attributes
    ----------
    state_ : dict of str to ndarray
        What was learned.
    loss_curve_ : list of float
        The loss of each episode.
    validation_scores_ : list of float
        Mean average precision on the labels kept aside, from 0 to 1: before training,
        and after every `eval_every` episodes.
    best_episode_ : int
        After how many episodes that score was highest; 0 says that training did not
        help, and the prior is the untrained start.
    n_iter_ : int
        Episodes done.
    encoder_ : EncoderIdentity or None
        The model of the features, where it is known.
    n_features_in_ : int
        Width of the tokens, or of the rows of a flattened `X`.
    width_ : int
        The width of a token.
    label_width_ : int
        The width of a label vector.

    See Also
    --------
    MultiLabelPrototypeClassifier : Learns novel labels, with or without a prior.

    Notes
    -----
    The maps of a residual network start at the identity, which for features by CLIP is
    a good one; image features that are to be narrower, at their principal components.
    Label vectors that are not as wide as that, or that agree with the images of their
    labels no better than chance, start at the map fitted to the means of these by least
    squares.

    A fitted prior is frozen: :func:`sklearn.base.clone` returns it itself, and
    :meth:`set_params` refuses. Make a new one to train another; :meth:`fit` alone
    trains this one anew, for all that hold it.

    References
    ----------
    .. [1] Modeling Multi-modal Cross-interaction for Multi-label Few-shot Image
       Classification Based on Local Feature Selection, arXiv:2412.13732v2.

    Examples
    --------
    >>> from skfewshot import CLIPFeaturizer
    >>> from skfewshot.datasets import make_scenes
    >>> from skfewshot.multilabel import MultiLabelPrototypePrior
    >>> scenes = make_scenes(120, random_state=0)
    >>> X = CLIPFeaturizer("tiny", output="tokens").fit_transform(scenes.images)
    >>> prior = MultiLabelPrototypePrior(
    ...     n_episodes=10, label_names=scenes.kinds, random_state=0
    ... )
    >>> prior = prior.fit(X, scenes.labels)
    >>> len(prior.loss_curve_), len(prior.validation_scores_)
    (10, 2)
    """

    _parameter_constraints: ClassVar[dict] = {
        **CONSTRAINTS,
        "interaction": ["array-like"],
        "residual": ["boolean"],
        "n_heads": [Interval(Integral, 1, None, closed="left")],
        "mlp_width": [Interval(Integral, 1, 2**20, closed="both"), None],
        "n_components": [Interval(Integral, 1, 2**20, closed="both"), None],
        "n_episodes": [Interval(Integral, 1, None, closed="left")],
        "n_way": [Interval(Integral, 2, None, closed="left"), None],
        "shots": ["array-like"],
        "n_query": [Interval(Integral, 1, None, closed="left")],
        "query_shots": [Interval(Integral, 1, None, closed="left"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "map_penalty": [Interval(Real, 0, None, closed="left")],
        "alignment_weight": [Interval(Real, 0, None, closed="left")],
        "label_noise": [Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "eval_every": [Interval(Integral, 1, None, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    # The base set is what fit is for, not metadata to be routed.
    __metadata_request__fit: ClassVar[dict] = {"X_base": UNUSED, "Y_base": UNUSED}

    def __init__(
        self,
        *,
        interaction: Sequence[str] = (),
        residual: bool = True,
        n_heads: int = 8,
        mlp_width: int | None = None,
        n_components: int | None = None,
        selection: str = "lcm",
        n_select: int = 5,
        query_scoring: str = "competitive",
        scale: float = 20.0,
        n_episodes: int = 100,
        n_way: int | None = 40,
        shots: tuple[int, int] = (1, 5),
        n_query: int = 48,
        query_shots: int | None = None,
        learning_rate: float = 3e-4,
        map_penalty: float = 0.003,
        alignment_weight: float = 0.0,
        label_noise: float = 1.0,
        validation_fraction: float = 0.2,
        eval_every: int = 10,
        patience: int = 5,
        label_names: Any = None,
        text_encoder: Any = None,
        n_tokens: int | None = None,
        device: Any = None,
        random_state: Any = None,
    ) -> None:
        self.interaction = interaction
        self.residual = residual
        self.n_heads = n_heads
        self.mlp_width = mlp_width
        self.n_components = n_components
        self.selection = selection
        self.n_select = n_select
        self.query_scoring = query_scoring
        self.scale = scale
        self.n_episodes = n_episodes
        self.n_way = n_way
        self.shots = shots
        self.n_query = n_query
        self.query_shots = query_shots
        self.learning_rate = learning_rate
        self.map_penalty = map_penalty
        self.alignment_weight = alignment_weight
        self.label_noise = label_noise
        self.validation_fraction = validation_fraction
        self.eval_every = eval_every
        self.patience = patience
        self.label_names = label_names
        self.text_encoder = text_encoder
        self.n_tokens = n_tokens
        self.device = device
        self.random_state = random_state

    @classmethod
    def published(cls, **changes: Any) -> "MultiLabelPrototypePrior":
        """Return a prior with the settings of the paper, not fitted.

        ``MultiLabelPrototypeClassifier(prior=prior)`` with such a prior, once fitted,
        is the published system but for the calibration of probabilities, which ranks
        the images of a label as before. Not published, and ours, are the number of
        episodes, where the network starts, the penalty of the maps' change, the noise
        on labels, maps that learn faster than the interaction, and labels kept aside by
        which the best state is chosen: without them it learns the base labels by heart.

        Parameters
        ----------
        **changes : dict
            Parameters to set otherwise, by name.

        Returns
        -------
        MultiLabelPrototypePrior

        Examples
        --------
        >>> from skfewshot.multilabel import MultiLabelPrototypePrior
        >>> MultiLabelPrototypePrior.published(n_components=64).query_scoring
        'global'
        """
        return cls(**{**PUBLISHED, **changes})

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X_base: Any, Y_base: Any, label_features: Any = "auto"
    ) -> "MultiLabelPrototypePrior":
        """Train on images of base labels.

        Parameters
        ----------
        X_base : array-like of shape (n_samples, 1 + K, d), (n_samples, d) or \
                (n_samples, n_tokens * d)
            Tokens of the images; see the classifier.
        Y_base : array-like or sparse matrix of shape (n_samples, n_labels)
            Indicators, 0 or 1, or one label an image. At least 4 labels need 2 images
            or more.
        label_features : "auto", array-like of shape (n_labels, label_width), dict, \
                KeyedVectors, str or os.PathLike, default="auto"
            The label vectors, of any width; see the classifier. They are needed here.

        Returns
        -------
        self : MultiLabelPrototypePrior

        Raises
        ------
        ValueError
            If there are too few labels, or no label vectors, a word of a label is
            missing, or X and Y do not match.
        OSError
            If a file of vectors cannot be read.
        """
        before = dict(self.__dict__)
        try:
            return self._fit(X_base, Y_base, label_features)
        except BaseException:
            # What was learned before is not half overwritten.
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit(
        self, X_base: Any, Y_base: Any, label_features: Any
    ) -> "MultiLabelPrototypePrior":
        check_options(self)
        array, labels = read_labelled(self, X_base, Y_base, "X_base", "Y_base")
        # The network's numbers are single precision, whatever the features are.
        tokens = split_tokens(array).astype(np.float32)
        indicator = labels.indicator.astype(np.float32)
        n_usable = int((indicator.sum(axis=0) >= 2).sum())
        if n_usable < 4:
            raise ValueError(
                f"Y_base has {n_usable} labels with two images or more; wanted at "
                "least 4, of which some are kept aside to judge the training by."
            )
        self.width_ = array.shape[2]
        found = find_label_vectors(
            *(self, label_features, labels.classes, encoder_of(X_base), tokens.whole),
            any_width=True,
        )
        if found.features is None:
            raise ValueError(
                "MultiLabelPrototypePrior needs label_features: pass vectors, or "
                "label_names with tokens straight from a CLIPFeaturizer or with "
                "text_encoder."
            )
        self.encoder_, self.label_width_ = found.encoder, found.features.shape[1]
        support = Support(tokens, indicator, np.ones(len(array), dtype=np.float32))
        self._train(support, found.features, X_base)
        return self

    def _train(self, support: Support, vectors: NDArray, X: Any) -> None:
        import_torch()

        from skfewshot.multilabel._episodes import BaseSet
        from skfewshot.multilabel._training import train_prior

        context = self._init_callback_context(max_subtasks=self.n_episodes)
        seen = {"estimator": self, "X": X, "y": support.indicator}
        context.call_on_fit_task_begin(**seen)

        def on_episode(number: int, loss: float, state: Any) -> bool:
            def fitted() -> dict[str, Any]:
                return {"n_iter_": number, "loss_curve_": [loss], "state_": state()}

            task = context.subcontext(task_name="episode")
            task.call_on_fit_task_begin(**seen)
            return task.call_on_fit_task_end(reconstruction_attributes=fitted, **seen)

        means = feature_means(support.tokens, support.weight)
        if not self.residual:
            means = np.zeros_like(means[0]), np.zeros_like(means[1])
        with training():
            base = BaseSet(
                support,
                vectors,
                FeatureMap(*means),
                Scorer(float(self.scale), self.query_scoring, self.n_select),
                self.selection,
                resolve_device(self.device),
            )
            train_prior(self, base, on_episode)
        context.call_on_fit_task_end(**seen)

    def text_shares(self, counts: NDArray) -> NDArray:
        """Return the text's share of prototypes made from so many images each.

        Parameters
        ----------
        counts : ndarray of shape (n_labels,)
            Images of each label. With none, the text has it all.

        Returns
        -------
        ndarray of shape (n_labels,)
        """
        check_is_fitted(self)
        return learned_text_shares(self.state_, counts)

    def __sklearn_clone__(self) -> "MultiLabelPrototypePrior":
        if hasattr(self, "state_"):
            return self
        return super().__sklearn_clone__()

    def set_params(self, **params: Any) -> "MultiLabelPrototypePrior":
        """Set parameters; a fitted prior is frozen and refuses.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        self : MultiLabelPrototypePrior

        Raises
        ------
        ValueError
            If the prior is fitted.
        """
        if params and hasattr(self, "state_"):
            raise ValueError(
                f"This prior is fitted and frozen; {sorted(params)} cannot be set. "
                "Make a new MultiLabelPrototypePrior with other parameters and fit it."
            )
        return super().set_params(**params)

    def save(self, path: str | os.PathLike) -> None:
        """Save the prior as a safetensors file, which holds no code.

        Parameters
        ----------
        path : str or os.PathLike
            A file that is there is replaced once the new one is complete.
        """
        check_is_fitted(self)
        save_prior(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "MultiLabelPrototypePrior":
        """Load a prior that :meth:`save` wrote.

        Parameters
        ----------
        path : str or os.PathLike

        Returns
        -------
        MultiLabelPrototypePrior
            Fitted. Parameters of the training are at their defaults.

        Raises
        ------
        ValueError
            If the file is no saved prior.
        OSError
            If it cannot be read.
        """
        text, state = read_prior(path)
        try:
            about = json.loads(text)
            prior = cls(**about["parameters"])
            prior._validate_params()
            check_options(prior)
            prior.__dict__.update(read_fitted(about), state_=state, _token_dims=3)
            check_state(prior)
            return prior
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as e:
            raise ValueError(f"{path} describes no prior: {e!r}") from e
