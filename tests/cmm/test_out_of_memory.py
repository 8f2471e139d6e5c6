"""A fit that runs out of memory starts again, with smaller chunks."""

import gc
import warnings
import weakref

import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning

from skfewshot import CMMClassifier
from skfewshot._torch import LEAST_ROWS, in_chunks
from skfewshot.cmm._objective import Loss

N_ROWS = 300


@pytest.fixture(autouse=True)
def quick_collection():
    """Spare the objects of other tests the search for garbage between attempts."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def task(make_task):
    return make_task(5, 60, 16, noise=1.5)


@pytest.fixture
def shortage(monkeypatch):
    """Return a function that makes memory run out for chunks of more rows than some."""

    def start(most, after=0):
        chunks = []
        original = Loss.of_rows

        def of_rows(self, rows, values):
            chunks.append(len(self.y[rows]))
            if chunks[-1] > most and chunks.count(chunks[-1]) > after:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return original(self, rows, values)

        monkeypatch.setattr(Loss, "of_rows", of_rows)
        return chunks

    return start


def test_chunks_are_halved_until_they_fit():
    tried = []

    def solve(chunk_size):
        tried.append(chunk_size)
        if chunk_size > 100:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return chunk_size

    assert in_chunks(solve, 1000) == LEAST_ROWS == 64
    assert tried == [1000, 500, 250, 125, 64]


def test_other_errors_are_none_of_its_business():
    def solve(chunk_size):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="^something else$"):
        in_chunks(solve, 1000)


@pytest.mark.parametrize("chunk_size", [64, 1])
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
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


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
        if chunk_size > 64:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return chunk_size

    assert in_chunks(solve, 300) == 64
    assert emptied == [None, None, None]


@pytest.mark.parametrize("with_text", [True, False])
def test_a_fit_in_smaller_chunks_is_the_same(task, shortage, with_text):
    X, y, text = task
    model = CMMClassifier(text if with_text else None, tol=100.0)
    expected = model.fit(X, y).predict_proba(X)
    chunks = shortage(most=80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.fit(X, y).predict_proba(X)
    assert chunks[:3] == [300, 150, 75]
    assert max(chunks[2:]) == 75
    assert_allclose(found, expected, atol=1e-5)


def test_iterations_are_reported_once(task, shortage):
    X, y, text = task
    monitor = ScoringMonitor(scoring="accuracy")
    model = CMMClassifier(text, max_iter=4, tol=0.0)
    # Some iterations are done before memory runs out.
    chunks = shortage(most=80, after=3)
    with pytest.warns(ConvergenceWarning):
        model.set_callbacks(monitor).fit(X, y)
    assert chunks.count(N_ROWS) == 4
    assert max(chunks[-4:]) <= 80
    assert len(monitor.get_logs().data_as_pandas) == model.n_iter_ == 4


def test_nothing_left_to_halve(task, shortage):
    X, y, text = task
    shortage(most=0)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"device='cpu'"):
        CMMClassifier(text).fit(X, y)
