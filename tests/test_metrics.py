"""Mean average precision and calibration: definitions, searches, and bad input."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.metadata_routing import get_routing_for_object

from skfewshot.metrics import (
    MeanAveragePrecisionScorer,
    expected_calibration_error,
    mean_average_precision,
    mean_average_precision_scorer,
)

CLASSIFIERS = [
    OneVsRestClassifier(LogisticRegression()),
    OneVsRestClassifier(LinearSVC()),
    OneVsRestClassifier(RandomForestClassifier(3, random_state=0)),
    make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression())),
    MLPClassifier(solver="lbfgs", max_iter=20, max_fun=500, tol=1.0, random_state=0),
    KNeighborsClassifier(3),
    RandomForestClassifier(3, random_state=0),
    MultiOutputClassifier(LogisticRegression()),
    ClassifierChain(LogisticRegression()),
]


def multilabel_data(n_samples=30, n_labels=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 4))
    Y = (X[:, :n_labels] + rng.normal(size=(n_samples, n_labels)) > 0.4).astype(int)
    return X, Y


def average_precision_by_hand(positive, scores, weights):
    """The precision at each threshold, weighted by the recall it adds."""
    total = weights[positive].sum()
    precision_of_all = 0.0
    for threshold in np.unique(scores[weights > 0]):
        found = scores >= threshold
        precision = weights[found & positive].sum() / weights[found].sum()
        recall_added = weights[(scores == threshold) & positive].sum() / total
        precision_of_all += precision * recall_added
    return precision_of_all


def mean_by_hand(Y, scores, weights):
    return np.mean(
        [
            average_precision_by_hand(Y[:, label] == 1, scores[:, label], weights)
            for label in range(Y.shape[1])
            if weights[Y[:, label] == 1].sum() > 0
        ]
    )


@st.composite
def labelled_scores(draw):
    """Labels, scores with ties, and weights, some of them zero."""
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    Y = (rng.random(shape) < draw(st.floats(0.1, 0.9))).astype(int)
    return Y, rng.integers(0, 5, shape) / 4, rng.integers(0, 3, shape[0]) / 2


@given(labelled_scores())
@settings(max_examples=60)
def test_parity_with_the_definition(data):
    Y, scores, weights = data
    defined = (weights[:, None] * Y).sum(axis=0) > 0
    found, left_out = mean_average_precision(
        Y, scores, sample_weight=weights, return_left_out=True
    )
    assert_array_equal(left_out, np.flatnonzero(~defined))
    if defined.any():
        assert_allclose(found, mean_by_hand(Y, scores, weights))
    else:
        assert np.isnan(found)


@given(labelled_scores(), st.integers(0, 1000))
@settings(max_examples=40)
def test_order_of_images_and_labels_does_not_count(data, seed):
    Y, scores, weights = data
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(Y)), rng.permutation(Y.shape[1])
    found, left_out = mean_average_precision(
        Y, scores, sample_weight=weights, return_left_out=True
    )
    permuted, permuted_left_out = mean_average_precision(
        Y[rows][:, columns],
        scores[rows][:, columns],
        sample_weight=weights[rows],
        return_left_out=True,
    )
    assert_allclose(permuted, found)
    assert_array_equal(np.sort(columns[permuted_left_out]), left_out)


@given(labelled_scores())
@settings(max_examples=40)
def test_a_weight_of_two_is_an_image_twice(data):
    Y, scores, weights = data
    repeats = (2 * weights).astype(int)
    assume(repeats.any())
    weighted = mean_average_precision(
        Y, scores, sample_weight=repeats, return_left_out=True
    )
    repeated = mean_average_precision(
        np.repeat(Y, repeats, axis=0),
        np.repeat(scores, repeats, axis=0),
        return_left_out=True,
    )
    assert_allclose(weighted[0], repeated[0])
    assert_array_equal(weighted[1], repeated[1])


def test_equals_scikit_learn_where_every_label_has_a_positive():
    X, Y = multilabel_data()
    assert mean_average_precision(Y, X[:, :3]) == average_precision_score(Y, X[:, :3])


def test_labels_without_positives_are_named_and_left_out():
    X, Y = multilabel_data()
    Y[:, [0, 2]] = 0
    alone = average_precision_score(Y[:, 1], X[:, 1])
    with pytest.warns(UndefinedMetricWarning, match=r"columns \[0, 2\]") as caught:
        assert mean_average_precision(Y, X[:, :3]) == alone
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score, left_out = mean_average_precision(Y, X[:, :3], return_left_out=True)
    assert score == alone
    assert_array_equal(left_out, [0, 2])


def test_no_label_with_a_positive_is_nan_with_a_warning():
    scores, nothing = np.ones((4, 2)), np.zeros((4, 2))
    with pytest.warns(UndefinedMetricWarning, match="No label .* is NaN"):
        assert np.isnan(mean_average_precision(nothing, scores))
    with pytest.warns(UndefinedMetricWarning, match="No label"):
        assert np.isnan(
            mean_average_precision(scores, scores, sample_weight=np.zeros(4))
        )
    score, left_out = mean_average_precision(nothing, scores, return_left_out=True)
    assert np.isnan(score)
    assert_array_equal(left_out, [0, 1])


@pytest.mark.parametrize(
    "convert",
    [
        csr_matrix,
        csr_array,
        pd.DataFrame,
        np.ndarray.tolist,
        lambda Y: Y.astype(bool),
        lambda Y: Y.astype(object),
        lambda Y: Y.astype(np.float32),
    ],
)
def test_containers_of_labels(convert):
    X, Y = multilabel_data()
    expected = mean_average_precision(Y, X[:, :3])
    assert mean_average_precision(convert(Y), X[:, :3].tolist()) == expected
    assert mean_average_precision(convert(Y), pd.DataFrame(X[:, :3])) == expected


def test_one_class_per_image_is_its_one_hot_indicator():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(12, 3)), np.array(["emu", "cat", "dog"])
    y = labels[np.arange(12) % 3]
    expected = mean_average_precision(y[:, None] == labels, scores)
    assert mean_average_precision(y, scores, labels=labels) == expected
    assert mean_average_precision(pd.Series(y), scores, labels=list(labels)) == expected
    # The order of the columns is taken from labels, not from sorting.
    assert mean_average_precision(y, scores, labels=np.sort(labels)) != expected


def test_a_class_that_no_image_has_is_left_out():
    scores = [[0.9, 0.0, 0.1], [0.2, 0.0, 0.8]]
    found = mean_average_precision(
        ["a", "c"], scores, labels=["a", "b", "c"], return_left_out=True
    )
    assert found[0] == 1.0
    assert_array_equal(found[1], [1])


def test_one_label_in_one_dimension():
    y, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    assert mean_average_precision(y, scores) == average_precision_score(y, scores)
    assert mean_average_precision(y == 1, scores) == average_precision_score(y, scores)


GOOD_Y, GOOD_SCORES = np.eye(3, 2), np.ones((3, 2))


@pytest.mark.parametrize(
    ("y_true", "y_score", "message"),
    [
        (GOOD_Y, np.ones((3, 3)), r"y_score must .* \(3, 2\); got shape \(3, 3\)"),
        (GOOD_Y, np.ones((2, 2)), r"y_score must .* \(3, 2\); got shape \(2, 2\)"),
        (GOOD_Y, np.ones((3, 2, 1)), r"got shape \(3, 2, 1\)"),
        (GOOD_Y, np.ones(3), r"y_score must .* \(3, 2\); got shape \(3,\)"),
        (GOOD_Y, np.full((3, 2), np.nan), "y_score contains NaN"),
        (GOOD_Y, np.full((3, 2), np.inf), "y_score contains infinity"),
        (GOOD_Y * 2, GOOD_SCORES, r"y_true of .* only 0 and 1.* values .*'2.0'"),
        (-GOOD_Y, GOOD_SCORES, r"y_true of .* only 0 and 1.* values .*'-1.0'"),
        (GOOD_Y * np.nan, GOOD_SCORES, "y_true contains NaN"),
        ([["a", "b"]], np.ones((1, 2)), r"y_true of .* only 0 and 1.*\['a', 'b'\]"),
        ([["a", "b"], ["a"]], np.ones((2, 2)), "y_true holds .*MultiLabelBinarizer"),
        (np.zeros((0, 2)), np.zeros((0, 2)), r"y_true .* shape \(0, 2\); wanted"),
        (np.zeros((2, 0)), np.zeros((2, 0)), r"y_true .* shape \(2, 0\); wanted"),
        (np.zeros((2, 2, 2)), np.ones((2, 2)), r"y_true .* \(2, 2, 2\); wanted"),
        (1, [0.5], r"y_true .* shape \(\); wanted"),
        ([0, 1, 2], np.ones((3, 3)), r"needs labels.* values \[0, 1, 2\]"),
        ([0, 1, 1], np.ones((3, 2)), r"needs labels.* y_score of shape \(3, 2\)"),
        ([-1, 1, 1], np.ones(3), r"needs labels.* values \[-1, 1\]"),
        (["a", "b"], np.ones(2), r"needs labels.* values \['a', 'b'\]"),
    ],
)
def test_bad_targets(y_true, y_score, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(y_true, y_score)


def test_sparse_scores_are_refused():
    with pytest.raises(TypeError, match="y_score"):
        mean_average_precision(GOOD_Y, csr_matrix(GOOD_SCORES))


@pytest.mark.parametrize(
    ("y_true", "labels", "message"),
    [
        (["a", "b", "c"], ["a", "b"], r"y_true holds \['c'\], which labels .*'a', 'b'"),
        (["0", "1", "1"], [0, 1], r"y_true holds \['0', '1'\], which labels .*\[0, 1"),
        (["a", None, "b"], ["a", "b"], r"y_true contains NaN or None.*\[1\]"),
        (["a", "a", "b"], ["a", None], "labels contains NaN or None"),
        (["a", "b", "a"], ["a", "b", "c"], r"\(3, 3\); got shape \(3, 2\)"),
        (["a", "a", "a"], ["a", "a"], "labels must name each column of y_score once"),
        (["a", "a", "a"], "ab", "labels must name each column of y_score once"),
        (GOOD_Y, ["a", "b"], r"labels names .* y_true of shape \(3, 2\)"),
    ],
)
def test_bad_labels(y_true, labels, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(y_true, GOOD_SCORES, labels=labels)


@pytest.mark.parametrize("weight", [[1, 1], [1, 1, -1], [1, 1, np.nan]])
def test_bad_weights(weight):
    with pytest.raises(ValueError, match="sample_weight"):
        mean_average_precision(GOOD_Y, GOOD_SCORES, sample_weight=weight)


def scores_by_hand(model, X):
    """One column per label, by what each kind of classifier is documented to give."""
    if hasattr(model, "decision_function"):
        return model.decision_function(X)
    answer = model.predict_proba(X)
    if not isinstance(answer, list):
        return answer
    columns = []
    for probabilities, classes in zip(answer, model.classes_, strict=True):
        is_one = list(classes).index(1) if 1 in classes else None
        columns.append(np.zeros(len(X)) if is_one is None else probabilities[:, is_one])
    return np.stack(columns, axis=1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda model: type(model).__name__)
def test_scorer_takes_every_multilabel_classifier(model, n_labels):
    X, Y = multilabel_data(40, n_labels)
    model = clone(model).fit(X[:20], Y[:20])
    expected = mean_average_precision(Y[20:], scores_by_hand(model, X[20:]))
    assert mean_average_precision_scorer(model, X[20:], Y[20:]) == expected
    assert mean_average_precision_scorer(model, X[20:], Y[20:].tolist()) == expected
    assert mean_average_precision_scorer(model, X[20:], csr_matrix(Y[20:])) == expected


@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize(
    "model", [KNeighborsClassifier(3), RandomForestClassifier(3, random_state=0)]
)
def test_a_label_constant_in_training_scores_as_a_guess(model, constant):
    X, Y = multilabel_data(40)
    shown = Y[:20].copy()
    shown[:, 1] = constant
    model = clone(model).fit(X[:20], shown)
    assert model.predict_proba(X)[1].shape == (40, 1)
    others = [
        average_precision_score(Y[20:, j], model.predict_proba(X[20:])[j][:, 1])
        for j in (0, 2)
    ]
    expected = np.mean([others[0], Y[20:, 1].mean(), others[1]])
    assert_allclose(mean_average_precision_scorer(model, X[20:], Y[20:]), expected)


@pytest.mark.parametrize(
    "model", [OneVsRestClassifier(LogisticRegression()), KNeighborsClassifier(3)]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_a_lone_label(model):
    X, Y = multilabel_data(40, 1)
    model = clone(model).fit(X, Y)
    expected = average_precision_score(Y[:, 0], model.predict_proba(X)[:, 1])
    assert_allclose(mean_average_precision_scorer(model, X, Y), expected)


def test_scorer_of_one_class_per_image():
    X, Y = multilabel_data(60)
    for y in (Y.sum(axis=1), np.array(["cat", "dog", "emu", "fox"])[Y.sum(axis=1)]):
        model = LogisticRegression().fit(X, y)
        expected = mean_average_precision(
            y[:, None] == model.classes_, model.decision_function(X)
        )
        assert mean_average_precision_scorer(model, X, y) == expected
        neighbors = KNeighborsClassifier(3).fit(X, y)
        assert mean_average_precision_scorer(neighbors, X, y) == mean_average_precision(
            y[:, None] == model.classes_, neighbors.predict_proba(X)
        )


def test_scorer_of_a_choice_of_two_averages_both_classes():
    X, Y = multilabel_data(60)
    y = np.array(["cat", "dog"])[Y[:, 0]]
    model = LogisticRegression().fit(X, y)
    probabilities = model.predict_proba(X)
    expected = mean_average_precision(y, probabilities, labels=["cat", "dog"])
    assert_allclose(mean_average_precision_scorer(model, X, y), expected)


def test_a_class_never_seen_scores_as_a_guess():
    X, _ = multilabel_data(60)
    y = np.array(["cat", "dog", "ant"])[np.arange(60) % 3]
    model = LogisticRegression().fit(X[y != "ant"], y[y != "ant"])
    scores = np.column_stack([np.zeros(60), model.predict_proba(X)])
    expected = mean_average_precision(y, scores, labels=["ant", "cat", "dog"])
    assert_allclose(mean_average_precision_scorer(model, X, y), expected)
    assert average_precision_score(y == "ant", scores[:, 0]) == (y == "ant").mean()


def test_scorer_in_a_search_with_folds_that_lack_a_label():
    X, Y = multilabel_data(24)
    Y[:, 2] = 0
    Y[0, 2] = 1
    search = GridSearchCV(
        OneVsRestClassifier(LogisticRegression()),
        {"estimator__C": [0.01, 1.0]},
        scoring=mean_average_precision_scorer,
        cv=3,
        error_score="raise",
    )
    with (
        pytest.warns(UndefinedMetricWarning, match=r"columns \[2\]"),
        pytest.warns(UserWarning, match="present in all training examples"),
    ):
        search.fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert search.score(X, Y) == average_precision_score(
            Y, search.best_estimator_.decision_function(X)
        )


def test_scorer_weighs_images():
    X, Y = multilabel_data(30)
    weights = np.random.default_rng(0).random(30)
    model = OneVsRestClassifier(LogisticRegression()).fit(X, Y)
    found = mean_average_precision_scorer(model, X, Y, sample_weight=weights)
    expected = average_precision_score(
        Y, model.decision_function(X), sample_weight=weights
    )
    assert_allclose(found, expected)
    assert found != mean_average_precision_scorer(model, X, Y)


@pytest.mark.parametrize("several", [False, True])
def test_a_search_passes_its_weights_to_the_scorer(several):
    X, Y = multilabel_data(30)
    y, weights = Y[:, 0], np.random.default_rng(0).random(30)
    scorer = mean_average_precision_scorer
    search = GridSearchCV(
        LogisticRegression(),
        {"C": [1.0]},
        scoring={"map": scorer, "accuracy": "accuracy"} if several else scorer,
        refit="map" if several else True,
        cv=[(np.arange(15), np.arange(15, 30))],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.fit(X, y, sample_weight=weights)
    model = LogisticRegression().fit(X[:15], y[:15], sample_weight=weights[:15])
    expected = scorer(model, X[15:], y[15:], sample_weight=weights[15:])
    assert_allclose(search.best_score_, expected)
    assert search.best_score_ != scorer(model, X[15:], y[15:])


def test_metadata_routing():
    X, Y = multilabel_data(30)
    y, weights = Y[:, 0], np.random.default_rng(0).random(30)
    folds = [(np.arange(15), np.arange(15, 30))]
    with sklearn.config_context(enable_metadata_routing=True):
        requests = get_routing_for_object(mean_average_precision_scorer).score.requests
        assert requests == {"sample_weight": None}
        scorer = clone(mean_average_precision_scorer).set_score_request(
            sample_weight=True
        )
        found = cross_val_score(
            LogisticRegression().set_fit_request(sample_weight=False),
            X,
            y,
            scoring=scorer,
            cv=folds,
            params={"sample_weight": weights},
        )
    model = LogisticRegression().fit(X[:15], y[:15])
    assert_allclose(found, scorer(model, X[15:], y[15:], sample_weight=weights[15:]))
    assert found != scorer(model, X[15:], y[15:])


@pytest.mark.parametrize(
    "duplicate", [clone, lambda scorer: pickle.loads(pickle.dumps(scorer))]
)
def test_scorer_can_be_cloned_and_pickled(duplicate):
    X, Y = multilabel_data()
    model = OneVsRestClassifier(LogisticRegression()).fit(X, Y)
    scorer = duplicate(mean_average_precision_scorer)
    assert isinstance(scorer, MeanAveragePrecisionScorer)
    assert repr(scorer) == "MeanAveragePrecisionScorer()"
    assert scorer(model, X, Y) == mean_average_precision_scorer(model, X, Y)


def test_scorer_says_what_it_cannot_score():
    class Silent(ClassifierMixin, BaseEstimator):
        pass

    X, Y = multilabel_data()
    with pytest.raises(AttributeError, match=r"got Silent\(\), which has neither"):
        mean_average_precision_scorer(Silent(), X, Y)
    model = OneVsRestClassifier(LogisticRegression()).fit(X, Y)
    with pytest.raises(ValueError, match=r"y_score must .* \(30, 2\); got .* 3\)"):
        mean_average_precision_scorer(model, X, Y[:, :2])


def calibration_error_by_hand(y, probabilities, labels, n_bins, weights):
    """One bin at a time: its share of the rows times accuracy less confidence."""
    error = 0.0
    for m in range(n_bins):
        share = right = sure = 0.0
        for label, row, weight in zip(y, probabilities, weights, strict=True):
            if m / n_bins < row.max() <= (m + 1) / n_bins:
                share += weight
                right += weight * (labels[row.argmax()] == label)
                sure += weight * row.max()
        if share:
            error += share / sum(weights) * abs(right / share - sure / share)
    return error


def drawn_probabilities(n_samples=60, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.array(["emu", "cat", "dog", "ant", "fox", "bee"])[:n_classes]
    return rng.choice(labels, n_samples), rng.dirichlet([0.3] * n_classes, n_samples)


@pytest.mark.parametrize("n_bins", [1, 2, 15, 100])
@pytest.mark.parametrize("n_classes", [1, 2, 6])
def test_calibration_error_is_its_definition(n_classes, n_bins):
    y, probabilities = drawn_probabilities(n_classes=n_classes)
    labels = np.array(["emu", "cat", "dog", "ant", "fox", "bee"])[:n_classes]
    weights = np.random.default_rng(1).random(len(y))
    for weight in (None, weights):
        by_hand = calibration_error_by_hand(
            y,
            probabilities,
            labels,
            n_bins,
            np.ones(len(y)) if weight is None else weight,
        )
        found = expected_calibration_error(
            y, probabilities, labels=labels, n_bins=n_bins, sample_weight=weight
        )
        assert_allclose(found, by_hand, atol=1e-12)


def test_calibrated_probabilities_have_no_error():
    probabilities = np.repeat([[0.75, 0.25], [0.5, 0.5]], 4, axis=0)
    y = np.array([0, 0, 0, 1, 0, 0, 1, 1])
    assert expected_calibration_error(y, probabilities) == 0.0


@pytest.mark.parametrize("wrong", [0, 1])
def test_certainty_has_the_error_rate(wrong):
    y = np.array(["cat", "dog"] * 5)
    probabilities = np.eye(2)[(y == "dog").astype(int) ^ wrong]
    assert expected_calibration_error(y, probabilities) == wrong


def test_calibration_weights_are_copies():
    y, probabilities = drawn_probabilities()
    weights = np.arange(len(y)) % 3
    found = expected_calibration_error(y, probabilities, sample_weight=weights)
    copied = expected_calibration_error(
        np.repeat(y, weights), np.repeat(probabilities, weights, axis=0)
    )
    assert_allclose(found, copied, atol=1e-12)


@pytest.mark.parametrize(
    "convert",
    [
        pd.Series,
        list,
        lambda y: pd.Categorical(y),
        lambda y: np.array(y, dtype=object),
        lambda y: np.unique(y, return_inverse=True)[1],
        lambda y: np.unique(y, return_inverse=True)[1] * 1.5,
    ],
)
def test_calibration_takes_labels_of_any_kind(convert):
    y, probabilities = drawn_probabilities()
    expected = expected_calibration_error(y, probabilities)
    assert expected_calibration_error(convert(y), pd.DataFrame(probabilities)) == (
        expected
    )


def test_calibration_columns_follow_labels():
    y, probabilities = drawn_probabilities()
    labels = np.unique(y)
    expected = expected_calibration_error(y, probabilities)
    found = expected_calibration_error(y, probabilities[:, ::-1], labels=labels[::-1])
    assert_allclose(found, expected)


def test_calibration_of_float32_probabilities():
    y, probabilities = drawn_probabilities(1000, 4)
    found = expected_calibration_error(y, probabilities.astype(np.float32), n_bins=1)
    assert_allclose(found, expected_calibration_error(y, probabilities, n_bins=1))


GOOD_PROBA = np.full((4, 2), 0.5)


@pytest.mark.parametrize(
    ("y_true", "y_proba", "settings", "message"),
    [
        ([0, 1], GOOD_PROBA, {}, r"y_true must .* shape \(4,\); got shape \(2,\)"),
        (np.eye(4, 2), GOOD_PROBA, {}, r"y_true must .* got shape \(4, 2\)"),
        ([[0], [1, 0]], GOOD_PROBA, {}, "y_true holds lists or sets"),
        ([0, 1, 0, 1], np.ones(4), {}, "Expected 2D array"),
        (np.empty(0), np.empty((0, 2)), {}, "0 sample"),
        ([0, 1, 0, 1], GOOD_PROBA * np.nan, {}, "y_proba contains NaN"),
        ([0, 1, 0, 1], GOOD_PROBA * 2, {}, "y_proba must .* add up to 2 to 2"),
        ([0, 1, 0, 1], np.tile([1.5, -0.5], (4, 1)), {}, "y_proba must .* is -0.5"),
        ([0, 0, 0, 0], GOOD_PROBA, {}, "labels must .* 1 classes in y_true for 2 col"),
        ([0, 1, 0, 1], GOOD_PROBA, {"labels": [0, 2]}, r"y_true holds \[1\]"),
        ([0, 1, 0, 1], GOOD_PROBA, {"labels": [0, 0]}, "labels .* of y_proba once"),
        ([0, 1, 0, 1], GOOD_PROBA, {"labels": [0, 1, 2]}, "3 labels for 2 columns"),
        ([0, None, 0, 1], GOOD_PROBA, {}, r"y_true contains NaN or None.*\[1\]"),
        ([0, 1, 0, 1], GOOD_PROBA, {"n_bins": 0}, "n_bins must .* got 0"),
        ([0, 1, 0, 1], GOOD_PROBA, {"n_bins": 1.5}, "n_bins must .* got 1.5"),
        ([0, 1, 0, 1], GOOD_PROBA, {"n_bins": True}, "n_bins must .* got True"),
        ([0, 1, 0, 1], GOOD_PROBA, {"sample_weight": [1, 1]}, "sample_weight"),
        ([0, 1, 0, 1], GOOD_PROBA, {"sample_weight": [1, 1, 1, -1]}, "sample_weight"),
        (
            [0, 1, 0, 1],
            GOOD_PROBA,
            {"sample_weight": [0, 0, 0, 0]},
            "sample_weight must",
        ),
    ],
)
def test_bad_calibration_input(y_true, y_proba, settings, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(y_true, y_proba, **settings)


def test_names_and_numbers_are_not_mixed():
    with pytest.raises(TypeError, match="y_true mixes strings with 0"):
        expected_calibration_error([0, "a", 0, 1], GOOD_PROBA, labels=[0, 1])


def test_tensors_are_read_as_arrays():
    X, Y = multilabel_data()
    found = mean_average_precision(torch.tensor(Y), torch.tensor(X[:, :3]))
    assert found == mean_average_precision(Y, X[:, :3])
    y, probabilities = drawn_probabilities()
    codes = np.unique(y, return_inverse=True)[1]
    assert_allclose(
        expected_calibration_error(
            torch.tensor(codes),
            torch.tensor(probabilities, requires_grad=True),
            sample_weight=torch.arange(len(y)),
        ),
        expected_calibration_error(y, probabilities, sample_weight=np.arange(len(y))),
    )
