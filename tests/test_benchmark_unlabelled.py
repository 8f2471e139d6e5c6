"""The tasks of ``benchmarks/unlabelled.py``, on made-up features."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
N_CLASSES = {"dtd47": 6, "pets25": 4, "flowers102": 5, "caltech69": 4}
SUPPORT, POOL, N_TEST = 4, 20, 40


@pytest.fixture
def data(monkeypatch, tmp_path):
    """Return the module, with a folder of small files in place of the features."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    rng = np.random.default_rng(0)
    for name, n_classes in N_CLASSES.items():
        arrays = {"text": rng.normal(size=(n_classes, 16))}
        for part, n in (("val", SUPPORT + POOL), ("test", N_TEST)):
            arrays[f"{part}_X"] = rng.normal(size=(n * n_classes, 16))
            arrays[f"{part}_y"] = np.repeat(np.arange(n_classes), n)
        if name == "flowers102":
            del arrays["text"]
        np.savez(tmp_path / f"{name}.npz", **arrays)
    module = importlib.import_module("unlabelled_data")

    def tasks(**options):
        options = {"datasets": list(N_CLASSES), "shots": [SUPPORT]} | options
        return list(module.tasks(tmp_path, **options))

    return tasks


def keys_of(rows):
    return {row.tobytes() for row in rows}


@pytest.mark.parametrize("part", ["report", "tuning"])
def test_no_row_is_in_two_of_support_pool_and_queries(data, part):
    found = data(part=part)
    assert {key["data"] for key, _ in found} == set(N_CLASSES)
    for _, task in found:
        support, pool, query = map(keys_of, (task.X, task.pool, task.query))
        assert not support & pool and not support & query and not pool & query
        assert len(task.X) == len(task.y) == SUPPORT * (task.y.max() + 1)
        assert len(task.pool) == len(task.pool_y)
        assert len(task.query) == len(task.target)
        assert set(task.target) == set(task.y)


def test_pools_are_what_their_names_say(data):
    for key, task in data(names=["absent"]):
        counts = np.bincount(task.pool_y[task.pool_y >= 0], minlength=task.y.max() + 1)
        if key["pool"] == "plain":
            assert (counts == POOL).all()
        elif key["pool"] == "half of the classes":
            assert sorted(set(counts)) == [0, POOL]
            assert np.count_nonzero(counts) == len(counts) // 2
        elif key["pool"] == "30 % foreign":
            assert (counts == POOL).all()
            assert np.mean(task.pool_y == -1) == pytest.approx(0.3, abs=0.02)
        elif key["pool"] == "Zipf":
            ranks = np.arange(1, len(counts) + 1)
            assert sorted(counts, reverse=True) == [round(POOL / r) for r in ranks]
        else:
            # Of what is not scored there are so many rows a class.
            wanted = min(int(key["pool"].split()[0]), POOL + N_TEST // 2)
            assert (counts == wanted).all()


def test_a_pool_of_any_size_is_scored_on_the_same_half(data):
    found = data(datasets=["pets25"], pools=["1 a class", "32 a class"])
    assert {key["scored"] for key, _ in found} == {"half of test"}
    queries = [keys_of(task.query) for _, task in found]
    assert all(query == queries[0] for query in queries)


def test_names_are_good_absent_or_permuted(data):
    texts = {key["names"]: task.text for key, task in data(datasets=["dtd47"])}
    assert texts["absent"] is None
    good, permuted = texts["good"], texts["30 % permuted"]
    assert keys_of(good) == keys_of(permuted)
    assert 2 <= (good != permuted).any(axis=1).sum() < len(good)
    assert {key["names"] for key, _ in data(datasets=["flowers102"])} == {"absent"}


def test_the_seed_draws_the_support_and_the_pool(data):
    options = {"datasets": ["dtd47"], "pools": ["Zipf"], "names": ["good"]}
    (_, first), (_, same), (_, other) = (
        data(seed=seed, **options)[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.pool, same.pool)
    assert keys_of(first.X) != keys_of(other.X)
    assert keys_of(first.pool) != keys_of(other.pool)
