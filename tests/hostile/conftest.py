"""One small problem, every estimator on it, and what no input may do to them."""

import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import skfewshot

#: A fast instance of each estimator that fits labelled rows.
ESTIMATORS = {
    "zero_shot": skfewshot.ZeroShotClassifier(),
    "tip_adapter": skfewshot.TipAdapterClassifier(),
    "tip_adapter_f": skfewshot.TipAdapterClassifier(train_keys=True, max_iter=3),
    "gaussian": skfewshot.GaussianDiscriminantClassifier(),
    "lp_plus_plus": skfewshot.LPPlusPlusClassifier(max_iter=20),
    "clap": skfewshot.CLAPClassifier(max_iter=3),
    "taskres": skfewshot.TaskResClassifier(max_iter=3),
    "proker": skfewshot.ProKeRClassifier(),
    "cmm": skfewshot.CMMClassifier(),
    "cmm_paper": skfewshot.CMMClassifier(solver="paper", max_iter=5),
    "multi_label": skfewshot.MultiLabelPrototypeClassifier(),
    "multi_label_paper": skfewshot.MultiLabelPrototypeClassifier(
        selection="lcm_paper",
        pooling="agreement",
        query_scoring="both",
        threshold="cardinality",
    ),
}


class Problem:
    """Twelve rows of three classes, with a text each."""

    def __init__(self, dtype=np.float64):
        rng = np.random.default_rng(1)
        concepts = 1.5 * rng.normal(size=(3, 8)) + 2
        index = np.repeat(np.arange(3), 4)
        self.index = index
        self.X = (concepts[index] + rng.normal(size=(12, 8))).astype(dtype)
        self.y = np.array(["ant", "bee", "cat"])[index]
        self.text = (concepts + rng.normal(size=(3, 8))).astype(dtype)


class Hostile:
    """Fits, predicts, and says what happened."""

    Problem = Problem

    def with_texts(self, estimator, texts):
        """Return the estimator with texts, by the name that it has for them."""
        parameters = estimator.get_params(deep=False)
        name = "text_features" if "text_features" in parameters else "label_features"
        return clone(estimator).set_params(**{name: texts})

    @contextmanager
    def watched(self, *arrays, seconds=30):
        """Allow no overflow to leak, no input to be written to, and no hang."""
        before = [a.tobytes() if isinstance(a, np.ndarray) else None for a in arrays]

        def stop(*_):
            raise AssertionError(f"still at it after {seconds} s")

        previous = signal.signal(signal.SIGALRM, stop)
        signal.alarm(seconds)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", ConvergenceWarning)
                warnings.filterwarnings("ignore", "The label vectors tell")
                warnings.filterwarnings("ignore", "The support has no two classes")
                warnings.filterwarnings("ignore", ".*class means of the support")
                warnings.filterwarnings("ignore", "A column-vector y was passed")
                yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
        after = [a.tobytes() if isinstance(a, np.ndarray) else None for a in arrays]
        assert after == before

    def fit_and_check(self, estimator, X, y, query=None, **weight):
        """Fit, and check all that can be predicted; return model and probabilities."""
        query = X if query is None else query
        with self.watched(X, y, query, *weight.values()):
            model = clone(estimator).fit(X, y, **weight)
            found = self.check_predictions(model, query)
        return model, found

    def check_predictions(self, model, query):
        """Check all predictions of a fitted model; return its probabilities."""
        found = np.asarray(model.predict_proba(query))
        assert np.isfinite(found).all()
        assert (found >= 0).all() and (found <= 1).all()
        if np.asarray(model.predict(query)).ndim == 1:
            np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-4)
        assert np.isfinite(np.asarray(model.decision_function(query))).all()
        for name in ("transform", "predict_log_proba"):
            if hasattr(model, name):
                assert np.isfinite(np.asarray(getattr(model, name)(query))).all()
        if hasattr(model, "explain"):
            assert not np.isinf(model.explain(query)).any()
        return found

    def refuse(self, estimator, X, y, message, error=(ValueError, TypeError), **weight):
        """Check that a fit is refused with a message."""
        with self.watched(), pytest.raises(error, match=message):
            clone(estimator).fit(X, y, **weight)


@pytest.fixture(scope="session")
def hostile():
    """Return the checks."""
    return Hostile()


@pytest.fixture(scope="session")
def problem():
    """Return a small problem of no difficulty."""
    return Problem()


#: What stands for the ways of reading and of solving; the others take their time.
QUICK = ("tip_adapter", "gaussian", "cmm", "multi_label")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in ESTIMATORS
    ]
)
def estimator(request):
    """Return each estimator in turn."""
    return ESTIMATORS[request.param]


@pytest.fixture(params=["gaussian", "multi_label"], ids=str)
def reader(request):
    """Return one estimator for each way in which data are read."""
    return ESTIMATORS[request.param]


@pytest.fixture(scope="session")
def estimators():
    """Return all estimators by name."""
    return ESTIMATORS
