"""Cross-Modal Mapping with parameters chosen by cross-validation on the support."""

from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import ParameterGrid, check_cv

from skfewshot._rows import as_numpy, check_parameters, unit_rows
from skfewshot._sklearn import StrOptions, warn_user
from skfewshot.classifiers._cmm_fit import NEAR_COPY, SEARCHED
from skfewshot.classifiers._docs import shared_docs
from skfewshot.classifiers._folds import stratified_folds
from skfewshot.classifiers._search import (
    Fold,
    cv_results,
    score_candidates,
    takes_weight,
)
from skfewshot.classifiers._training import support_tensors, training
from skfewshot.classifiers.cmm import CMMClassifier


class _FoldModel(CMMClassifier):
    """CMM that predicts arrays, of tensors too: not all metrics take tensors."""

    def _query_logits(self, X, finish=None):
        return as_numpy(super()._query_logits(X, finish))


@shared_docs
class CMMClassifierCV(CMMClassifier):
    r"""CMM with its parameters chosen by cross-validation on the support.

    The result is that of a :class:`~sklearn.model_selection.GridSearchCV` over
    :class:`CMMClassifier`, but for rounding errors. All candidates are trained on all
    folds side by side, which takes a fraction of the time.

    Parameters
    ----------
    {{texts, extra_classes}}
    alphas : sequence of float or "auto", default=("auto",)
        Candidates for `alpha` of :class:`CMMClassifier`. Each is tried with each of the
        other three's. Of candidates with equal scores the first one wins, so begin each
        sequence with its favourite.
    temperature : "auto" or float, default="auto"
        See :class:`CMMClassifier`.
    triplet_weight : float, default=1.0
        See :class:`CMMClassifier`.
    margins : sequence of float, default=(0.1,)
        Candidates for `margin`.
    map_penalties : sequence of float, default=(1.0, 0.3, 3.0)
        Candidates for `map_penalty`.
    text_penalties : sequence of float, default=(10.0, 3.0, 30.0)
        Candidates for `text_penalty`.
    cv : int, cross-validation generator or iterable, default=None
        How to split the support. None is 5.

        - An int, of at least 2, makes that many stratified folds, or as many as the
          smallest class has photographs, if those are fewer. Notes says more.
        - A splitter of scikit-learn or an iterable of (train, test) indices is used
          as it is.
    scoring : str, callable or None, default=None
        What makes a candidate good: a name or a scorer of scikit-learn, or
        ``scoring(estimator, X, y)``. None is the accuracy. It gets the
        `sample_weight` of the rows where it takes one or, with metadata routing
        enabled, where it asks for it.
    refit : bool, default=True
        Whether to fit the best candidate on the whole support, to predict with it.
    {{logit_scale}}
    learning_rate : float, default=1.0
        See :class:`CMMClassifier`, also for the next two.
    max_iter : int, default=200
    tol : float, default=1e-2
    {{class_weight}}
    chunk_size : int or None, default=None
        Most rows of a support handled at a time; see :class:`CMMClassifier`.
    {{device}}
    random_state : int, RandomState instance or None, default=None
        Nothing is drawn; it does not change the result.

    Attributes
    ----------
    cv_results_ : dict of str to ndarray
        ``params``, ``param_<name>``, ``split<k>_test_score``, ``mean_test_score``,
        ``std_test_score`` and ``rank_test_score`` of each candidate, as `GridSearchCV`
        has them.
    best_params_ : dict
        The chosen `alpha`, `map_penalty`, `margin` and `text_penalty`.
    best_index_ : int
        Their place in `cv_results_`.
    best_score_ : float
        Their mean score; NaN if nothing was searched.
    n_splits_ : int
        Folds; 0 if nothing was searched.
    alpha_, temperature_ : float
        The weight :math:`\alpha` and the temperature :math:`\tau` used. These and the
        following are there after a refit, and are those of :class:`CMMClassifier`.
    map_ : ndarray of shape (n_features, n_features)
    map_intercept_ : ndarray of shape (n_features,)
    text_features_ : ndarray of shape (n_classes, n_features)
    intercept_ : ndarray of shape (n_classes,)
    text_map_ : ndarray of shape (n_features, n_features)
    text_map_intercept_ : ndarray of shape (n_features,)
    {{fitted, loss_curve_, n_iter_}}

    See Also
    --------
    CMMClassifier : The same with given parameters.
    sklearn.linear_model.LogisticRegressionCV : The same for the linear probe.

    Notes
    -----
    The library's own folds are made of photographs: copies of a row are in the same
    fold, and so are rows of a class with a cosine above 0.97. A row of weight 2 is the
    same as two rows, where `scoring` takes weights, and one of weight 0 is as good as
    absent. Neither the order of the rows matters nor do the names of the classes.

    A class of one photograph cannot be tested on: it is trained on in each fold. Where
    there is one, ``scoring="neg_log_loss"`` fails, which needs rows of all classes; a
    scorer of :func:`~sklearn.metrics.log_loss` with `labels` does not.

    If fewer than two classes have two photographs there is no cross-validation. Then a
    warning says so, scores are NaN and all ranks 1, and the parameters are the defaults
    of :class:`CMMClassifier` where the candidates have them, else the ones in the
    middle of the sequences.

    The defaults of :class:`CMMClassifier` are hard to beat at a few shots, where the
    scores of the candidates differ by chance.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skfewshot import CLIPFeaturizer, CMMClassifierCV
    >>> from skfewshot.datasets import make_object_images
    >>> images, names = make_object_images(
    ...     6, kinds=["striped star", "plain heart"], random_state=0, return_X_y=True
    ... )
    >>> model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifierCV(cv=3))
    >>> search = model.fit(images, names)[-1]
    >>> len(search.cv_results_["params"]), search.n_splits_
    (9, 3)
    >>> sorted(search.best_params_)
    ['alpha', 'map_penalty', 'margin', 'text_penalty']
    """

    # No parameter: the other one is too slow, and has one map for each candidate.
    solver = "gaussian"

    _parameter_constraints: ClassVar[dict] = {
        **{
            name: constraint
            for name, constraint in CMMClassifier._parameter_constraints.items()
            if name not in {*SEARCHED, "solver"}
        },
        "alphas": ["array-like"],
        "margins": ["array-like"],
        "map_penalties": ["array-like"],
        "text_penalties": ["array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "refit": ["boolean"],
    }

    def __init__(
        self,
        text_features="auto",
        *,
        class_names=None,
        text_encoder=None,
        prompt_templates=None,
        extra_classes=None,
        alphas=("auto",),
        temperature="auto",
        triplet_weight=1.0,
        margins=(0.1,),
        map_penalties=(1.0, 0.3, 3.0),
        text_penalties=(10.0, 3.0, 30.0),
        cv=None,
        scoring=None,
        refit=True,
        logit_scale="auto",
        learning_rate=1.0,
        max_iter=200,
        tol=1e-2,
        class_weight=None,
        chunk_size=None,
        device=None,
        random_state=None,
    ):
        self.text_features = text_features
        self.class_names = class_names
        self.text_encoder = text_encoder
        self.prompt_templates = prompt_templates
        self.extra_classes = extra_classes
        self.alphas = alphas
        self.temperature = temperature
        self.triplet_weight = triplet_weight
        self.margins = margins
        self.map_penalties = map_penalties
        self.text_penalties = text_penalties
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.logit_scale = logit_scale
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.chunk_size = chunk_size
        self.device = device
        self.random_state = random_state

    def _read_support(self, X, y, sample_weight):
        """Read the support, and search with it while its rows are as they came."""
        grid = self._grid()
        support = super()._read_support(X, y, sample_weight)
        X, y, sample_weight = self._read_rows(X, y, sample_weight, reset=False)
        splits = self._splits(X, y, sample_weight)
        candidates = list(ParameterGrid(grid))
        scores = np.empty((len(candidates), 0))
        if splits:
            scores = self._scores(X, y, sample_weight, splits, grid)
        self.n_splits_ = len(splits)
        self.cv_results_ = cv_results(candidates, scores)
        if splits:
            self.best_index_ = int(self.cv_results_["rank_test_score"].argmin())
        else:
            defaults = CMMClassifier().get_params(deep=False)
            nearest = {
                name: default if default in values else values[len(values) // 2]
                for name, values in grid.items()
                for default in [defaults[name]]
            }
            self.best_index_ = candidates.index(nearest)
            warn_user(
                "The support has no two classes with two photographs each, so it "
                "cannot be split for cross-validation. Nothing was searched; the "
                f"parameters are {candidates[self.best_index_]}."
            )
        self.best_params_ = candidates[self.best_index_]
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        return support

    def _learn(self, support, on_iteration):
        return super()._learn(support, on_iteration) if self.refit else None

    def _choice(self):
        return self.best_params_

    def _grid(self):
        """Return the candidates by the names that `CMMClassifier` has for them."""
        grid = {}
        for parameter, name in (
            ("alphas", "alpha"),
            ("map_penalties", "map_penalty"),
            ("margins", "margin"),
            ("text_penalties", "text_penalty"),
        ):
            values = getattr(self, parameter)
            if getattr(values, "ndim", 1) == 0:
                raise ValueError(
                    f"{parameter} must be a sequence of candidates; got {values!r}."
                )
            grid[name] = list(values)
            if not grid[name]:
                raise ValueError(f"{parameter} is empty; give at least one {name}.")
            for value in grid[name]:
                try:
                    CMMClassifier(**{name: value})._validate_params()
                    check_parameters({name: value})
                except ValueError as error:
                    raise ValueError(f"{parameter} holds {value!r}. {error}") from None
        return grid

    def _splits(self, X, y, sample_weight):
        if self.cv is None or isinstance(self.cv, Integral):
            return stratified_folds(
                unit_rows(X),
                np.unique(y, return_inverse=True)[1],
                sample_weight,
                n_folds=5 if self.cv is None else self.cv,
                cosine=NEAR_COPY,
            )
        splits = list(check_cv(self.cv, y, classifier=True).split(X, y))
        if not splits:
            raise ValueError(f"cv={self.cv!r} gives no splits.")
        return splits

    def _scores(self, X, y, sample_weight, splits, grid):
        """Return the score of each candidate on each fold."""
        scorer = check_scoring(self, self.scoring)
        is_weighted = takes_weight(scorer)
        with training():
            device = self._device(X)
            folds = [
                self._fold(X, y, sample_weight, *split, is_weighted, device)
                for split in splits
            ]
            scores, n_unsettled = score_candidates(
                self._solve_together, folds, grid, scorer
            )
        if n_unsettled and self.max_iter:
            warn_user(
                f"{n_unsettled} of the {scores.size} fits of the search stopped after "
                f"max_iter={self.max_iter} iterations before the loss settled; raise "
                "max_iter or tol.",
                ConvergenceWarning,
            )
        return scores

    def _fold(self, X, y, sample_weight, train, test, is_weighted, device):
        """Read the rows to train on as `CMMClassifier` does, and keep those to test."""
        texts = None
        if self.prototype_source_ != "image":
            labels = self.classes_.tolist()
            texts = dict(zip(labels, self.zero_shot_features_, strict=True))
        resolved = {
            "text_features": texts,
            "logit_scale": self.logit_scale_,
            **dict.fromkeys(("class_names", "text_encoder", "prompt_templates")),
        }
        shared = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name in CMMClassifier._parameter_constraints
        }
        model = _FoldModel(**shared | resolved)
        support = model._read_support(X[train], y[train], sample_weight[train])
        support, rank = support_tensors(model._ready(support), device)
        weight = {"sample_weight": sample_weight[test]} if is_weighted else {}
        return Fold(model, support, rank, X[test], y[test], weight)

    def score(self, X, y, sample_weight=None):
        """Return the score by `scoring` on some rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Image embeddings.
        y : array-like of shape (n_samples,)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        if self.scoring is None:
            return super().score(X, y, sample_weight)
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        return check_scoring(self, self.scoring)(self, X, y, **weight)

    def _try_predicting(self):
        if self.refit:
            super()._try_predicting()

    def __sklearn_is_fitted__(self):
        return hasattr(self, "map_")
