"""The ways to learn from rows without labels that ``unlabelled.py`` compares.

Nothing runs here. A way is a function from a task and a seed to a fitted classifier.
"""

import importlib
from contextlib import contextmanager

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skfewshot import CMMClassifier

LABELLED = "CMM, labelled rows"
OURS = "CMM, all rows"
SELF_TRAINING = "self-training"
SPREADING = "label spreading"
CRUDE = "pseudo-labels"
#: Of `CRUDE`: the weight of a row that is sure of its class, how often it is fitted
#: again, and the power of a class's share that its probabilities are divided by.
CRUDE_WEIGHT, CRUDE_ROUNDS, CRUDE_BALANCE = 0.3, 3, 0.5
#: Of `SPREADING`, chosen on the rest of ``val``: the factor of squared distances, and
#: how much a row takes from its neighbours.
GAMMA, CLAMPING = 30.0, 0.2
#: Ours with other constants, which ``--constant`` of ``unlabelled.py`` puts here: name,
#: (module, constant, value) each.
ABLATIONS = {}


def fit_labelled(task, seed):
    """CMM that sees no row without a label."""
    return CMMClassifier(task.text).fit(task.X, task.y)


def fit_ours(task, seed):
    """CMM with ``None`` for the labels that are missing."""
    y = np.append(task.y.astype(object), np.full(len(task.pool), None))
    return CMMClassifier(task.text).fit(np.concatenate([task.X, task.pool]), y)


def fit_self_training(task, seed):
    """scikit-learn's self-training round CMM, with its defaults."""
    model = SelfTrainingClassifier(CMMClassifier(task.text))
    return model.fit(*_all_rows(task))


def fit_spreading(task, seed):
    """scikit-learn's label spreading, which sees no text."""
    # The number of iterations is not what is compared.
    model = LabelSpreading(gamma=GAMMA, alpha=CLAMPING, max_iter=200)
    return model.fit(*_all_rows(task))


def fit_crude(task, seed):
    """CMM refitted with its own guesses as labels, of small weight."""
    return PseudoLabels(CMMClassifier(task.text)).fit(*_all_rows(task))


def _all_rows(task):
    """Return all rows, with -1 for the labels that are missing."""
    y = np.append(task.y, np.full(len(task.pool), -1))
    return np.concatenate([task.X, task.pool]), y


class PseudoLabels(ClassifierMixin, BaseEstimator):
    """Refit a classifier with its own guesses, of weight 0.3 times squared surety.

    Before a guess is made, each class's probabilities are divided by the square root of
    its share of them, so that no class takes all.
    """

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        known = y != -1
        model = clone(self.estimator).fit(X[known], y[known])
        for _ in range(CRUDE_ROUNDS if not known.all() else 0):
            guess = model.predict_proba(X[~known])
            guess /= guess.mean(axis=0) ** CRUDE_BALANCE
            guess /= guess.sum(axis=1, keepdims=True)
            said, weight = y.copy(), np.ones(len(y))
            said[~known] = model.classes_[guess.argmax(axis=1)]
            weight[~known] = CRUDE_WEIGHT * guess.max(axis=1) ** 2
            model = clone(self.estimator).fit(X, said, sample_weight=weight)
        self.model_ = model
        self.classes_ = model.classes_
        return self

    def predict(self, X):
        return self.model_.predict(X)

    def predict_proba(self, X):
        return self.model_.predict_proba(X)


METHODS = {
    LABELLED: fit_labelled,
    SELF_TRAINING: fit_self_training,
    SPREADING: fit_spreading,
    CRUDE: fit_crude,
    OURS: fit_ours,
}
#: Methods that are the same for every pool, and for all names.
FREE_OF_POOL, FREE_OF_NAMES = (LABELLED,), (SPREADING,)

#: The most rows of a pool, where a matrix of all pairs must be held.
MOST_ROWS = {SPREADING: 8000}


@contextmanager
def changed(constants):
    """Give constants of the package other values, for as long as this lasts.

    Parameters
    ----------
    constants : sequence of (str, str, object)
        Module below ``skfewshot``, name and value.
    """
    before = []
    try:
        for module, name, value in constants:
            module = importlib.import_module(f"skfewshot.{module}")
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in reversed(before):
            setattr(module, name, value)
