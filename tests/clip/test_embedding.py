"""The embedding array: what keeps the identity of the encoder, and what loses it."""

import copy
import json
import pickle
from dataclasses import asdict

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    train_test_split,
)
from sklearn.preprocessing import normalize
from sklearn.utils import _safe_indexing, check_array, resample, shuffle

from skfewshot.clip import EmbeddingArray, EncoderIdentity, encoder_of
from skfewshot.clip._embedding import read_identity

ENCODER = EncoderIdentity("tiny", None, "0123456789abcdef", 4, 100.0)
OTHER = EncoderIdentity("tiny", None, "fedcba9876543210", 4, 100.0)


def embeddings(n=6, encoder=ENCODER, dtype=np.float32):
    values = np.random.default_rng(0).normal(size=(n, 4)).astype(dtype)
    return EmbeddingArray(values, encoder)


def tokens(n=6):
    values = np.random.default_rng(0).normal(size=(n, 3, 4)).astype(np.float32)
    return EmbeddingArray(values, ENCODER)


KEEPING = {
    "slice": lambda X: X[1:4],
    "negative step": lambda X: X[::-1],
    "ellipsis": lambda X: X[...],
    "full slices": lambda X: X[:, :],
    "rows and ellipsis": lambda X: X[[0, 2], ...],
    "integers": lambda X: X[[3, 1, 1]],
    "integer array": lambda X: X[np.array([3, 1])],
    "integer matrix": lambda X: X[np.array([[3, 1], [0, 2]])],
    "mask": lambda X: X[np.arange(len(X)) % 2 == 0],
    "mask as a list": lambda X: X[[True, False] * 3],
    "row": lambda X: X[2],
    "row of numpy integer": lambda X: X[np.int64(2)],
    "new first axis": lambda X: X[None],
    "new middle axis": lambda X: X[:, None],
    "iteration": lambda X: next(iter(X)),
    "copy": lambda X: X.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "float64": lambda X: X.astype(np.float64),
    "float16": lambda X: X.astype("float16"),
    "same dtype": lambda X: X.astype(np.float32, copy=False),
    "concatenate": lambda X: np.concatenate([X[:2], X[4:], X]),
    "concatenate tuple": lambda X: np.concatenate((X, X), axis=0),
    "vstack": lambda X: np.vstack([X, X]),
    "vstack of rows": lambda X: np.vstack([X[0], X[1]]),
    "stack": lambda X: np.stack([X[0], X[1]]),
    "pickle": lambda X: pickle.loads(pickle.dumps(X)),
    "pickle of rows": lambda X: pickle.loads(pickle.dumps(X[::2])),
    "pickle protocol 2": lambda X: pickle.loads(pickle.dumps(X, protocol=2)),
    "safe indexing": lambda X: _safe_indexing(X, [0, 1]),
    "safe mask": lambda X: _safe_indexing(X, np.arange(len(X)) > 2),
    "train_test_split": lambda X: train_test_split(X, random_state=0)[1],
    "shuffle": lambda X: shuffle(X, random_state=0),
    "resample": lambda X: resample(X, random_state=0),
}

LOSING = {
    "column": lambda X: X[:, 0],
    "columns": lambda X: X[:, :2],
    "permuted columns": lambda X: X[:, [3, 2, 1, 0]],
    "reversed columns": lambda X: X[:, ::-1],
    "all columns by index": lambda X: X[:, [0, 1, 2, 3]],
    "last axis": lambda X: X[..., 0],
    "last axis as a slice": lambda X: X[..., 1:],
    "new last axis": lambda X: X[..., None],
    "elements": lambda X: X[[0, 1], [2, 3]],
    "2-D mask": lambda X: X[np.asarray(X) > 0],
    "sum": lambda X: X + X,
    "product": lambda X: 2 * X,
    "quotient": lambda X: X / 2,
    "negative": lambda X: -X,
    "comparison": lambda X: X == X,
    "absolute": np.abs,
    "matmul": lambda X: X @ np.eye(4, dtype=np.float32),
    "dot": lambda X: X.dot(np.eye(4, dtype=np.float32)),
    "np.dot": lambda X: np.dot(X, np.eye(4)),
    "einsum": lambda X: np.einsum("nd,de->ne", X, np.eye(4)),
    "transpose": lambda X: X.T,
    "np.transpose": np.transpose,
    "swapaxes": lambda X: X.swapaxes(0, 1),
    "reshape": lambda X: X.reshape(-1, 4),
    "np.reshape": lambda X: np.reshape(X, (4, -1)),
    "ravel": lambda X: X.ravel(),
    "flatten": lambda X: X.flatten(),
    "mean": lambda X: X.mean(axis=0),
    "np.mean": lambda X: np.mean(X, axis=0),
    "max": lambda X: X.max(axis=0),
    "std": lambda X: np.std(X, axis=0),
    "cumsum": lambda X: X.cumsum(axis=0),
    "argsort": lambda X: X.argsort(axis=1),
    "argmax": lambda X: X.argmax(axis=1),
    "clip": lambda X: X.clip(0, 1),
    "round": lambda X: X.round(2),
    "integers": lambda X: X.astype(int),
    "hstack": lambda X: np.hstack([X, X]),
    "concatenate columns": lambda X: np.concatenate([X, X], axis=1),
    "concatenate flat": lambda X: np.concatenate([X, X], axis=None),
    "concatenate rows as vectors": lambda X: np.concatenate([X[0], X[1]]),
    "concatenate integers": lambda X: np.concatenate(
        [X, X], dtype=int, casting="unsafe"
    ),
    "concatenate plain": lambda X: np.concatenate([X, np.asarray(X)]),
    "concatenate plain first": lambda X: np.concatenate([np.asarray(X), X]),
    "concatenate other": lambda X: np.concatenate([X, embeddings(encoder=OTHER)]),
    "vstack other": lambda X: np.vstack([X, embeddings(encoder=OTHER)]),
    "stack last": lambda X: np.stack([X, X], axis=-1),
    "take columns": lambda X: X.take([0, 1], axis=1),
    "take flat": lambda X: X.take([0, 1]),
    "repeat columns": lambda X: np.repeat(X, 2, axis=1),
    "delete columns": lambda X: np.delete(X, 0, axis=1),
    "split columns": lambda X: np.split(X, 2, axis=1)[0],
    "where": lambda X: np.where(X > 0, X, 0),
    "roll": lambda X: np.roll(X, 1),
    "sort": lambda X: np.sort(X),
    "zeros_like": np.zeros_like,
    "pad": lambda X: np.pad(X, 1),
    "norm": lambda X: np.linalg.norm(X, axis=1),
    "svd": lambda X: np.linalg.svd(X)[2],
    "normalize": normalize,
    "check_array": check_array,
    "asarray": np.asarray,
    "array": np.array,
}


def _fill(X):
    X.fill(0)


def _out(X):
    np.add(X, 1, out=X)


def _iadd(X):
    X += 1


def _imul_row(X):
    for row in X:
        row *= 2


def _through_transpose(X):
    X.T[0] = 0


def _flat(X):
    X.flat[0] = 1


WRITING = {
    "iadd": _iadd,
    "rows": _imul_row,
    "out": _out,
    "fill": _fill,
    "transpose": _through_transpose,
    "flat": _flat,
    "flat as a whole": lambda X: setattr(X, "flat", 0),
    "sort": lambda X: X.sort(axis=1),
    "put": lambda X: X.put([0], [1]),
    "element": lambda X: X.__setitem__((0, 0), 1),
    "row": lambda X: X.__setitem__(0, np.ones(4)),
    "everything": lambda X: X.__setitem__(Ellipsis, 0),
    "through a slice": lambda X: X[:3].__imul__(2),
    "through a view of a view": lambda X: X[:3][1:].__imul__(2),
    "through columns": lambda X: X[:, :2].__imul__(2),
    "through reshape": lambda X: X.reshape(-1).__setitem__(0, 1),
    "mean out": lambda X: X.copy().mean(axis=0, out=X[0]),
    "method out": lambda X: X.copy().clip(0, 1, out=X),
    "real": lambda X: setattr(X, "real", 0),
    "shape": lambda X: setattr(X, "shape", (3, 8)),
}

# What is not let write, as it could not be seen to.
REFUSED = {
    "at": lambda X: np.add.at(X, [0], 1),
    "put": lambda X: np.put(X, [0], [1]),
    "copyto": lambda X: np.copyto(X, 0),
    "putmask": lambda X: np.putmask(X, np.asarray(X) > 0, 0),
    "fill_diagonal": lambda X: np.fill_diagonal(X, 0),
    "nan_to_num": lambda X: np.nan_to_num(X, copy=False),
    "dot": lambda X: np.dot(np.asarray(X), np.eye(4, dtype="f4"), out=X),
    "take": lambda X: np.take(np.ones((9, 4), "f4"), range(6), axis=0, out=X),
    "concatenate": lambda X: np.concatenate([X[:3].copy()] * 2, out=X),
    "positional clip": lambda X: np.clip(X, 0, 1, X),
    "positional cumsum": lambda X: np.cumsum(X, 1, None, X),
    "shuffled columns": lambda X: np.random.default_rng(0).shuffle(X, axis=1),
    "split": lambda X: np.split(X, 2, axis=1)[0].fill(1),
    "transpose": lambda X: np.transpose(X).__setitem__(0, 1),
}


@pytest.mark.parametrize("name", KEEPING)
def test_keeps(name):
    result = KEEPING[name](embeddings())
    assert type(result) is EmbeddingArray
    assert encoder_of(result) == ENCODER
    plain = KEEPING[name](np.asarray(embeddings()))
    np.testing.assert_array_equal(np.asarray(result), plain)
    assert result.dtype == plain.dtype


@pytest.mark.parametrize("name", LOSING)
def test_loses(name):
    X = embeddings()
    result = LOSING[name](X)
    assert encoder_of(result) is None
    plain = LOSING[name](np.asarray(embeddings()))
    np.testing.assert_allclose(np.asarray(result), plain, rtol=1e-6)
    assert encoder_of(X) == ENCODER, "reading must not lose the identity"


@pytest.mark.parametrize("name", WRITING)
def test_writing_loses(name):
    X = embeddings()
    view, duplicate = X[:2], X.copy()
    WRITING[name](X)
    assert encoder_of(X) is None
    assert encoder_of(view) is None, "a view shares the memory"
    assert encoder_of(duplicate) == ENCODER, "a copy does not"


@pytest.mark.parametrize("name", REFUSED)
def test_functions_may_only_read(name):
    X, before = embeddings(), np.array(embeddings())
    with pytest.raises(ValueError):
        REFUSED[name](X)
    np.testing.assert_array_equal(np.asarray(X), before)
    assert encoder_of(X) == ENCODER


def test_writing_writes():
    X, plain = embeddings(), np.array(embeddings())
    X *= 2
    X -= X.mean(axis=0)
    plain *= 2
    plain -= plain.mean(axis=0)
    assert type(X) is EmbeddingArray
    np.testing.assert_array_equal(np.asarray(X), plain)


def test_writing_a_copy_leaves_the_original():
    X = embeddings()
    for duplicate in (X.copy(), X[[0, 1]], X.take([0], axis=0), X.astype("f8")):
        duplicate *= 2
        assert encoder_of(duplicate) is None
    assert encoder_of(X) == ENCODER


def test_ufunc_with_out_writes_there():
    X, Y = embeddings(), embeddings()
    assert np.add(X, 1, out=Y) is Y
    np.testing.assert_array_equal(np.asarray(Y), np.asarray(X) + 1)
    first, second = np.empty(X.shape, "f4"), embeddings()
    np.modf(X, out=(first, second))
    np.testing.assert_array_equal(np.asarray(second), np.modf(np.asarray(X))[1])
    assert encoder_of(second) is None and encoder_of(X) == ENCODER


def test_reductions_give_plain_values():
    X = embeddings()
    for value in (X.mean(axis=0), X.sum(axis=1), X @ X.T, X + 1, np.argmax(X, axis=1)):
        assert type(value) is np.ndarray
    assert isinstance(X.sum(), np.floating)
    assert isinstance(X[0, 0], np.floating)
    assert isinstance(float(X.max()), float)


def test_tokens():
    X = tokens()
    for kept in (X[:2], X[:, 0], X[:, 1:], X[0, 1], X[:, [2, 0]], X[:, ::-1, :]):
        assert encoder_of(kept) == ENCODER
    for lost in (X[:, :, 0], X[..., :2], X.mean(axis=1), X.reshape(18, 4)):
        assert encoder_of(lost) is None
    assert encoder_of(np.concatenate([X, X], axis=2)) is None
    assert encoder_of(np.concatenate([X, X], axis=-1)) is None


@given(
    index=hnp.basic_indices((5, 3, 4), allow_newaxis=True, allow_ellipsis=True),
)
@settings(max_examples=60, deadline=None)
def test_basic_indexing_keeps_exactly_when_the_last_axis_is_whole(index):
    values = np.broadcast_to(np.arange(4, dtype=np.float32), (5, 3, 4)).copy()
    X = EmbeddingArray(values, ENCODER)
    result, plain = X[index], values[index]
    np.testing.assert_array_equal(np.asarray(result), plain)
    if encoder_of(result) is not None:
        assert plain.shape[-1] == 4
        assert (plain == np.arange(4)).all()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_fancy_indexing_keeps_exactly_when_the_last_axis_is_whole(data):
    values = np.broadcast_to(np.arange(4, dtype=np.float32), (5, 3, 4)).copy()
    X = EmbeddingArray(values, ENCODER)
    parts = [
        data.draw(
            st.one_of(
                st.just(slice(None)),
                st.integers(0, size - 1),
                st.lists(st.integers(0, size - 1), min_size=2, max_size=2),
                st.just(np.arange(size) % 2 == 0),
            )
        )
        for size in (5, 3, 4)
    ]
    index = tuple(parts[: data.draw(st.integers(1, 3))])
    try:
        plain = values[index]
    except IndexError:
        return
    result = X[index]
    np.testing.assert_array_equal(np.asarray(result), plain)
    whole = len(index) < 3 or isinstance(index[2], slice)
    assert (encoder_of(result) == ENCODER) == whole


@given(
    values=hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), fill=None),
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
def test_rows_keep_values_and_identity(values, rows):
    X = EmbeddingArray(values, ENCODER)
    rows = [row % len(values) for row in rows]
    restored = pickle.loads(pickle.dumps(np.concatenate([X, X])[rows]))
    np.testing.assert_array_equal(np.asarray(restored), np.tile(values, (2, 1))[rows])
    assert encoder_of(restored) == ENCODER
    assert encoder_of(restored * 1) is None


def test_joblib_dump_and_load(tmp_path):
    path = tmp_path / "X.joblib"
    joblib.dump({"X": embeddings()}, path)
    assert encoder_of(joblib.load(path)["X"]) == ENCODER
    mapped = joblib.load(path, mmap_mode="r")["X"]
    assert encoder_of(mapped) == ENCODER
    assert encoder_of(mapped[1:]) == ENCODER
    np.testing.assert_array_equal(np.asarray(mapped), np.asarray(embeddings()))


def test_integers_forget_for_good():
    X = embeddings().astype(int)
    assert encoder_of(X.astype(float)) is None
    assert encoder_of(X.copy()) is None


@pytest.mark.parametrize(
    "described",
    [
        None,
        {},
        {"model_name": "tiny"},
        {**asdict(ENCODER), "other": 1},
        {**asdict(ENCODER), "model_name": 3},
        {**asdict(ENCODER), "pretrained": []},
        {**asdict(ENCODER), "fingerprint": None},
        {**asdict(ENCODER), "embedding_dim": True},
        {**asdict(ENCODER), "embedding_dim": 0},
        {**asdict(ENCODER), "logit_scale": float("nan")},
        {**asdict(ENCODER), "prompt_templates": [3]},
    ],
    ids=str,
)
def test_what_describes_no_encoder(described):
    with pytest.raises(ValueError, match="describes no encoder|of the wrong kind"):
        read_identity(described)


def test_an_identity_is_read_from_its_description():
    described = {**asdict(ENCODER), "prompt_templates": ["a {}", "{}"]}
    encoder = read_identity(json.loads(json.dumps(described)))
    assert encoder == ENCODER
    assert encoder.prompt_templates == ["a {}", "{}"]


def test_numpy_save_keeps_the_numbers_only(tmp_path):
    np.save(tmp_path / "X.npy", embeddings())
    loaded = np.load(tmp_path / "X.npy")
    assert encoder_of(loaded) is None
    np.testing.assert_array_equal(loaded, np.asarray(embeddings()))


def _identity_and_sharing(X):
    base = X
    while getattr(base, "base", None) is not None and not isinstance(base, np.memmap):
        base = base.base
    return encoder_of(X), isinstance(base, np.memmap)


@pytest.mark.slow
def test_joblib_workers_map_large_arrays():
    X = embeddings(1000)
    parallel = joblib.Parallel(n_jobs=2, max_nbytes=1000)
    results = parallel(joblib.delayed(_identity_and_sharing)(X) for _ in range(2))
    assert results == [(ENCODER, True)] * 2


class Seeing(LogisticRegression):
    """Notes in `fit` and `predict` whether X knows its encoder."""

    def fit(self, X, y):
        self.saw_ = encoder_of(X)
        return super().fit(X, y)

    def predict(self, X):
        assert encoder_of(X) == self.saw_
        return super().predict(X)


def test_cross_validation_passes_the_identity():
    X, y = embeddings(12), np.arange(12) % 2
    search = GridSearchCV(Seeing(), {"C": [1, 2]}, cv=2).fit(X, y)
    assert search.best_estimator_.saw_ == ENCODER
    assert cross_val_predict(Seeing(), X, y, cv=2).shape == (12,)


def test_no_encoder_is_an_ordinary_array():
    X = EmbeddingArray(np.eye(3))
    assert encoder_of(X) is None
    assert type(pickle.loads(pickle.dumps(X))) is np.ndarray
    assert encoder_of(np.eye(3)) is None
    assert encoder_of([[1.0]]) is None
    assert encoder_of(None) is None


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*width 4"):
        EmbeddingArray(np.ones((2, 3)), ENCODER)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        EmbeddingArray(np.float32(1), ENCODER)


def test_read_only_and_non_contiguous_memory():
    values = np.random.default_rng(0).normal(size=(6, 4))
    values.flags.writeable = False
    X = EmbeddingArray(values[::-2], ENCODER)
    assert encoder_of(X[1:]) == ENCODER
    assert encoder_of(pickle.loads(pickle.dumps(X))) == ENCODER
    with pytest.raises(ValueError, match="read-only"):
        X *= 2


def test_repr():
    assert repr(embeddings(1)).startswith("EmbeddingArray([[")
    assert str(embeddings(1)).startswith("[[")


def test_identity_compares_by_fingerprint():
    renamed = EncoderIdentity("a", "b", ENCODER.fingerprint, 4, 50.0)
    assert renamed == ENCODER and hash(renamed) == hash(ENCODER)
    assert OTHER != ENCODER
    assert pickle.loads(pickle.dumps(ENCODER)) == ENCODER
    assert str(ENCODER) == "tiny (fingerprint 0123456789ab)"
    with pytest.raises(AttributeError):
        ENCODER.fingerprint = "x"


def test_an_encoder_is_an_identity():
    with pytest.raises(TypeError, match="encoder must be .*'tiny'"):
        EmbeddingArray(np.eye(2), "tiny")


def test_a_view_of_another_dtype_leaves_the_array_its_encoder():
    encoded = embeddings()
    # As joblib does that hashes it.
    view = encoded.view(np.uint8)
    assert encoder_of(view) is None and encoder_of(encoded) is not None
    before = joblib.hash(encoded)
    assert joblib.hash(encoded) == before and encoder_of(encoded) is not None
    view[0, 0] ^= 1
    assert encoder_of(encoded) is None
