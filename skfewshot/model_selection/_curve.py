"""Scores by the number of shots: nested supports, each scored on held-out rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import cross_validate
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_random_state, indexable

from skfewshot._labels import Labels
from skfewshot._sklearn import check_number
from skfewshot._unlabelled import take_labels, unlabelled_rows
from skfewshot.model_selection._semi_supervised import SemiSupervisedSplit
from skfewshot.model_selection._splits import (
    Positives,
    RandomState,
    draw_support,
    read_positives,
    splitter_of,
    warn_of_scarce,
)

Split: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp]]

_FOLDS = 5


def shot_curve(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    *,
    groups: ArrayLike | None = None,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    n_repeats: int = 1,
    cv: Any = None,
    scoring: str | Callable[..., float] | None = None,
    random_state: RandomState = None,
    n_jobs: int | None = None,
    error_score: float | Literal["raise"] = np.nan,
    params: Mapping[str, Any] | None = None,
    unlabeled: Any = None,
    compare_unlabeled: bool = False,
) -> Bunch:
    """Score an estimator by the number of images it learns each class from.

    It is scikit-learn's :func:`~sklearn.model_selection.learning_curve` with shots for
    sizes. From the training side of each split, supports are drawn as by
    :func:`sample_support`; a clone of the estimator is fitted on each and scored on the
    whole test side, none of which is ever drawn. The supports of one draw are nested:
    that of 1 shot lies in that of 2 shots, and so on. Equal `random_state`, `shots`,
    `n_repeats`, `cv`, `groups` and `y` give equal supports, whatever the estimator, so
    that the scores of two estimators can be compared draw by draw.

    Rows without a label are learned from with every support, and never scored.

    Parameters
    ----------
    estimator : estimator with ``fit``
        It is cloned for each fit. Without `scoring` it needs ``score`` as well.
    X : array-like, data frame or sequence of n_samples
        What the estimator takes: features, tokens or, for a pipeline that starts with a
        :class:`~skfewshot.CLIPFeaturizer`, images. With images, give the featurizer a
        ``cache``, or each fit embeds its images anew.
    y : {array-like, sparse matrix} of shape (n_samples,) or (n_samples, n_labels)
        One class per row, or a multi-label indicator of zeros and ones. None, NaN and
        ``pandas.NA`` stand for no label, for estimators that take rows without one; in
        an indicator a row with a missing entry counts as one.
    groups : array-like of shape (n_samples,), default=None
        Passed to ``cv.split``: rows of one group, such as frames of one video, are
        kept on one side of a split by splitters like
        :class:`~sklearn.model_selection.GroupKFold`.
    shots : sequence of int, default=(1, 2, 4, 8, 16)
        How many rows of each class to learn from; for an indicator, how many positives
        of each label at least. A class that has fewer gets all of them.
    n_repeats : int, default=1
        How many draws to make from each split. More even out the luck of the draw.
    cv : int, cross-validation splitter or iterable of splits, default=None
        None stands for 5 folds and an int for their number: of
        :class:`~sklearn.model_selection.StratifiedKFold`, or of
        :class:`MultilabelStratifiedKFold` for an indicator. Where rows have no label, a
        splitter splits the others, as in :class:`SemiSupervisedSplit`.
    scoring : str or callable, default=None
        A name of scikit-learn's scorers, or a callable ``scorer(estimator, X, y)``
        that returns one number; None is the estimator's own ``score``.
    random_state : int, RandomState instance or None, default=None
        Of the draws. An int gives the same supports every time.
    n_jobs : int, default=None
        How many fits to run in parallel; None is one, -1 one per processor.
    error_score : "raise" or float, default=nan
        The score of a fit that fails, which is warned of; "raise" raises its error.
    params : dict, default=None
        Passed to ``fit``, such as ``sample_weight``, by row; with metadata routing, to
        whoever requests it.
    unlabeled : label, default=None
        What else stands in `y` for no label, such as -1. None takes what the estimator,
        or the last step of a pipeline, has as its `unlabeled`.
    compare_unlabeled : bool, default=False
        Whether to fit and score a second time with the same supports, without the rows
        that have no label.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With n_draws = ``n_repeats`` times the number of splits:

        shots : ndarray of int, shape (n_shots,)
            In ascending order, each once.
        test_scores : ndarray of shape (n_shots, n_draws)
            On the test sides.
        fit_times, score_times : ndarray of shape (n_shots, n_draws)
            In seconds.
        support_indices : list of n_shots lists of n_draws ndarrays
            The rows that were learned from.
        test_indices : list of n_draws ndarrays
            The rows that were scored, the same for all shots.
        unlabeled_indices : list of n_draws ndarrays
            The rows without a label that were learned from with each support.
        labeled_test_scores : ndarray of shape (n_shots, n_draws)
            By the supports alone; only with `compare_unlabeled`.

    Raises
    ------
    ValueError
        If `shots` is empty or below 1, `n_repeats` is below 1, `y` is neither classes
        nor an indicator, lengths differ, there is no split, one has rows on both of
        its sides or tests rows without a label, `scoring` returns several scores, or
        `compare_unlabeled` has no rows without a label to leave out.
    TypeError
        If `shots` or `n_repeats` are no ints, or `scoring` names several scores.

    Warns
    -----
    UserWarning
        If classes have fewer rows to draw from than the most shots; it names them.
    FitFailedWarning
        If fits fail and `error_score` is a number.

    See Also
    --------
    skfewshot.display.ShotCurveDisplay : The picture of it.

    Notes
    -----
    The draws of one split share its test side, and the training sides of folds overlap,
    so draws are not independent: their standard deviation shows how much a score owes
    to the luck of the draw, but divided by the root of their number it is no standard
    error.

    Where there are several labels, a smaller support is drawn out of the next larger
    one, so that it can depend on what the most shots are.

    Examples
    --------
    >>> from skfewshot import CLIPFeaturizer, CMMClassifier
    >>> from skfewshot.datasets import make_object_images
    >>> from skfewshot.model_selection import shot_curve
    >>> images, names = make_object_images(
    ...     10,
    ...     kinds=["striped star", "plain heart", "spotted ring"],
    ...     random_state=0,
    ...     return_X_y=True,
    ... )
    >>> X = CLIPFeaturizer("tiny").fit_transform(images)
    >>> result = shot_curve(CMMClassifier(), X, names, shots=(1, 2, 4), random_state=0)
    >>> result.test_scores.shape
    (3, 5)
    >>> [len(result.support_indices[place][0]) for place in range(3)]
    [3, 6, 12]
    """
    shots = _check_shots(shots)
    n_repeats = check_number("n_repeats", n_repeats, 1)
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise TypeError(
            f"scoring must be one name, a callable or None; got {scoring!r}."
        )
    # scikit-learn's cross_validate takes no sparse labels.
    X, y, groups = indexable(X, y.toarray() if issparse(y) else y, groups)
    mark = _mark_of(estimator) if unlabeled is None else unlabeled
    labels, bare = _read_labels(y, mark)
    if compare_unlabeled and not bare.any():
        raise ValueError("compare_unlabeled=True, but all rows of y have a label.")
    splits = _check_splits(cv, X, y, groups, bare, mark)
    positive = labels.indicator
    fewest = np.min([positive[train].sum(axis=0) for train, _ in splits], axis=0)
    then = "they get all that the training side of a split has"
    warn_of_scarce(labels, fewest, shots[-1], "shots", then)
    supports, tests = _draw(positive, splits, shots, n_repeats, random_state)
    pools = [train[bare[train]] for train, _ in splits for _ in range(n_repeats)]
    options: dict[str, Any] = {"scoring": scoring, "n_jobs": n_jobs}
    options |= {"error_score": error_score, "params": params}
    found = _scores(estimator, X, y, supports, tests, pools, options)
    result = Bunch(
        shots=np.array(shots),
        test_scores=found["test_score"],
        fit_times=found["fit_time"],
        score_times=found["score_time"],
        support_indices=supports,
        test_indices=tests,
        unlabeled_indices=pools,
    )
    if compare_unlabeled:
        none = [pool[:0] for pool in pools]
        alone = _scores(estimator, X, y, supports, tests, none, options)
        result.labeled_test_scores = alone["test_score"]
    return result


def _scores(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    supports: list[list[NDArray[np.intp]]],
    tests: list[NDArray[np.intp]],
    pools: list[NDArray[np.intp]],
    options: dict[str, Any],
) -> dict[str, NDArray]:
    """Fit on each support and its pool; return what ``cross_validate`` finds."""
    fits = [
        (np.union1d(support, pool), test)
        for of_shots in supports
        for support, test, pool in zip(of_shots, tests, pools, strict=True)
    ]
    found = cross_validate(estimator, X, y, cv=fits, **options)
    if "test_score" not in found:
        scoring = options["scoring"]
        raise ValueError(f"scoring must return one number; {scoring!r} does not.")
    shape = len(supports), len(tests)
    return {
        name: np.reshape(found[name], shape)
        for name in ("test_score", "fit_time", "score_time")
    }


def _mark_of(estimator: Any) -> Any:
    """Return what an estimator, or the last step of a pipeline, takes for no label."""
    while isinstance(estimator, Pipeline):
        estimator = estimator[-1]
    return getattr(estimator, "unlabeled", None)


def _read_labels(y: Any, mark: Any) -> tuple[Labels, NDArray[np.bool_]]:
    """Return labels, none of which the rows without one have, and which these are."""
    bare = unlabelled_rows(y, mark, several=True)
    if bare is None:
        labels = read_positives(y, "y")
        return labels, np.zeros(len(labels.indicator), dtype=bool)
    if bare.all():
        raise ValueError(f"All {len(bare)} labels of y are missing.")
    rows = np.flatnonzero(~bare)
    labels = read_positives(take_labels(y, rows), "y")
    indicator = np.zeros((len(bare), len(labels.classes)), dtype=bool)
    indicator[rows] = labels.indicator
    return replace(labels, indicator=indicator), bare


def _check_shots(shots: ArrayLike) -> list[int]:
    """Return the shots as a list of int, ascending and each once."""
    array = np.asarray(shots)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"shots must be a sequence of ints; got {shots!r}.")
    if array.dtype.kind not in "iu":
        raise TypeError(f"shots must hold ints; got {shots!r}.")
    if array.min() < 1:
        raise ValueError(f"shots must all be 1 or more; got {shots!r}.")
    return np.unique(array).tolist()


def _check_splits(
    cv: Any, X: Any, y: Any, groups: Any, bare: NDArray[np.bool_], mark: Any
) -> list[Split]:
    """Return the splits, whose two sides must have no row in common.

    Rows without a label must be on no test side.
    """
    cv = _FOLDS if cv is None else cv
    is_splitter = isinstance(cv, Integral) or hasattr(cv, "split")
    if bare.any() and is_splitter and not isinstance(cv, SemiSupervisedSplit):
        cv = SemiSupervisedSplit(cv, unlabeled=mark)
    splitter = splitter_of(cv, y)
    rows = np.arange(len(bare))
    # Whatever selects rows will do, masks too; as in scikit-learn.
    splits = [(rows[train], rows[test]) for train, test in splitter.split(X, y, groups)]
    if not splits:
        raise ValueError("cv must make at least one split; got none.")
    for number, (train, test) in enumerate(splits):
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"cv must keep training and test rows apart; split {number} has "
                f"{len(both)} rows on both sides, such as {both[:5].tolist()}."
            )
        if bare[test].any():
            raise ValueError(
                "cv must keep rows without a label out of tests; split "
                f"{number} tests {int(bare[test].sum())} of them."
            )
    return splits


def _draw(
    positive: Positives,
    splits: list[Split],
    shots: list[int],
    n_repeats: int,
    random_state: RandomState,
) -> tuple[list[list[NDArray[np.intp]]], list[NDArray[np.intp]]]:
    """Return the supports, a list of draws for each of the shots, and the test rows."""
    rng = check_random_state(random_state)
    supports: list[list[NDArray[np.intp]]] = [[] for _ in shots]
    tests: list[NDArray[np.intp]] = []
    for train, test in splits:
        for _ in range(n_repeats):
            rows = np.unique(train)
            # From the most shots to the fewest, each out of the one before.
            for place in reversed(range(len(shots))):
                rows = rows[draw_support(positive[rows], shots[place], rng)]
                supports[place].append(rows)
            tests.append(test)
    return supports, tests
