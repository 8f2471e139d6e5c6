"""A fit that runs out of memory starts again, with smaller chunks."""

import warnings
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning

from skfewshot import CMMClassifier, CMMClassifierCV
from skfewshot._memory import LEAST_ROWS, in_chunks
from skfewshot.refinement import _TextObjective
from skfewshot.solvers import _CMMObjective

N_CLASSES, WIDTH, N_ROWS = 5, 16, 300
MODELS = [
    CMMClassifier(),
    CMMClassifier(solver="gradient", tol=100.0),
    CMMClassifierCV(map_penalties=(1.0,), text_penalties=(10.0, 3.0), cv=2),
]
each_model = pytest.mark.parametrize(
    "model", MODELS, ids=lambda m: f"{type(m).__name__}-{m.solver}"
)


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    concepts = rng.normal(size=(N_CLASSES, WIDTH))
    y = np.arange(N_ROWS) % N_CLASSES
    X = 1 + concepts[y] + 1.5 * rng.normal(size=(N_ROWS, WIDTH))
    text = concepts + 0.5 * rng.normal(size=concepts.shape) - 1
    return X, y, text


@pytest.fixture
def shortage(monkeypatch):
    """Return a function that makes memory run out for chunks of more rows than some."""

    def start(most, after=0):
        chunks = []

        def short(cls, name):
            original = getattr(cls, name)

            def method(self, rows, *args):
                chunks.append(rows.stop - rows.start)
                if chunks[-1] > most and chunks.count(chunks[-1]) > after:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
                return original(self, rows, *args)

            monkeypatch.setattr(cls, name, method)

        short(_TextObjective, "_of_rows")
        short(_CMMObjective, "_of_cosines")
        return chunks

    return start


def test_chunks_are_halved_until_they_fit():
    tried = []

    def solve(chunk_size):
        tried.append(chunk_size)
        if chunk_size > 100:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return chunk_size

    assert in_chunks(solve, 1000) == LEAST_ROWS
    assert tried == [1000, 500, 250, 125, LEAST_ROWS]


def test_other_errors_are_none_of_its_business():
    def solve(chunk_size):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="^something else$"):
        in_chunks(solve, 1000)


@pytest.mark.parametrize("chunk_size", [LEAST_ROWS, 10, 1])
def test_what_does_not_fit_at_all_is_an_error_that_helps(chunk_size):
    tried = []

    def solve(chunk_size):
        tried.append(chunk_size)
        raise torch.cuda.OutOfMemoryError("Tried to allocate 2 GiB.")

    message = rf"chunks of {chunk_size} rows.*device='cpu'.*Tried to allocate 2 GiB"
    with pytest.raises(torch.cuda.OutOfMemoryError, match=message) as caught:
        in_chunks(solve, chunk_size)
    assert tried == [chunk_size]
    # Nor does it hold on to the tensors of the attempt.
    assert caught.value.__context__ is None and caught.value.__cause__ is None


def test_memory_of_an_attempt_is_free_before_the_next(monkeypatch):
    held, emptied = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(held[-1]()))

    def solve(chunk_size):
        tensor = torch.zeros(chunk_size)
        # A cycle, as closures of a solver may make one.
        cycle = [tensor]
        cycle.append(cycle)
        held.append(weakref.ref(tensor))
        assert all(old() is None for old in held[:-1])
        if chunk_size > LEAST_ROWS:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return chunk_size

    assert in_chunks(solve, 300) == LEAST_ROWS
    assert emptied == [None, None, None]


@each_model
@pytest.mark.parametrize("chunk_size", [None, 250])
@pytest.mark.parametrize("with_text", [True, False])
def test_a_fit_in_smaller_chunks_is_the_same(
    task, shortage, model, chunk_size, with_text
):
    X, y, text = task
    model = clone(model).set_params(text_features=text if with_text else None)
    expected = clone(model).fit(X, y)
    chunks = shortage(most=80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clone(model).set_params(chunk_size=chunk_size).fit(X, y)
    assert max(chunks) > 80 and chunks[-1] <= 80
    assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-6)
    assert found.get_params()["chunk_size"] == chunk_size
    if isinstance(model, CMMClassifierCV):
        assert_allclose(
            found.cv_results_["mean_test_score"],
            expected.cv_results_["mean_test_score"],
        )


@each_model
def test_iterations_are_reported_once(task, shortage, model):
    X, y, text = task
    monitor = ScoringMonitor(scoring="accuracy")
    model = clone(model).set_params(text_features=text).set_callbacks(monitor)
    # As many as callbacks are told to expect.
    model.set_params(max_iter=4)
    # Some iterations are done before memory runs out.
    chunks = shortage(most=80, after=3)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    assert chunks.count(N_ROWS) == 4 and chunks[-1] <= 80
    assert len(monitor.get_logs().data_as_pandas) == model.n_iter_ == 4


@each_model
def test_nothing_left_to_halve(task, shortage, model):
    X, y, text = task
    shortage(most=0)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"device='cpu'"):
        clone(model).set_params(text_features=text).fit(X, y)
