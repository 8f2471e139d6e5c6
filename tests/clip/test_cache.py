"""The cache of embeddings: each image once, whatever happens to processes and files."""

import os
import pickle
import signal
import sqlite3
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import ImageReadError
from skfewshot.clip import _cache as cache_module
from skfewshot.clip import _passes as passes
from skfewshot.clip._cache import FILE_NAME, SMALLEST_SIZE, EmbeddingCache

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def featurizer(small, folder):
    return CLIPFeaturizer(small, cache=folder, batch_size=4)


@pytest.fixture
def paths(tmp_path):
    """Eleven files of different images."""
    return write_images(tmp_path / "images", 11)


@pytest.fixture
def embedded(monkeypatch):
    """A list that grows by the number of images in each pass of the model."""
    counts = []
    real = passes.encode_images

    def counting(clip, transform, pixels, **kwargs):
        counts.append(len(pixels))
        return real(clip, transform, pixels, **kwargs)

    monkeypatch.setattr(passes, "encode_images", counting)
    return counts


def write_images(folder, n, seed=0):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 40, 36, 3), np.uint8)
    names = [folder / f"{number}.png" for number in range(n)]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(name)
    return names


def fresh(featurizer, X):
    """Embed without the cache."""
    return clone(featurizer).set_params(cache=None).transform(X)


def open_cache(folder, size=2**30):
    """Open a cache as for a model of 512 features."""
    identity = SimpleNamespace(fingerprint="5f0c", embedding_dim=512)
    model = SimpleNamespace(identity=identity, dtype="torch.float32")
    return EmbeddingCache(folder, model, size=size)


def write_rows(cache, n):
    """Put rows under new keys, in a transaction; return how many."""
    for _ in range(n):
        cache.put(os.urandom(32), np.ones(512, np.float32))
    cache.flush()
    return n


def count_rows(folder):
    connection = sqlite3.connect(folder / FILE_NAME)
    n_rows = connection.execute("SELECT count(*) FROM embeddings").fetchone()[0]
    connection.close()
    return n_rows


# Hits


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("output", ["embedding", "tokens"])
def test_same_as_without(featurizer, paths, embedded, output, num_workers):
    featurizer.set_params(output=output, num_workers=num_workers)
    expected = fresh(featurizer, paths)
    del embedded[:]
    first = featurizer.transform(paths)
    assert sum(embedded) == 11
    again = featurizer.transform(paths)
    assert sum(embedded) == 11
    np.testing.assert_allclose(first, expected, **CLOSE)
    np.testing.assert_array_equal(first, again)
    assert again.encoder == expected.encoder
    assert again.dtype == np.float32
    again[:] = 0  # memory of its own, to be written to
    np.testing.assert_array_equal(featurizer.transform(paths), first)


def test_any_order_and_container(featurizer, paths, embedded):
    expected = featurizer.transform(paths)
    order = np.random.default_rng(0).permutation(11)
    strings = np.array([str(path) for path in paths])[order]
    np.testing.assert_array_equal(featurizer.transform(strings), expected[order])
    generated = featurizer.transform(path for path in paths)
    np.testing.assert_array_equal(generated, expected)
    assert sum(embedded) == 11


def test_new_images_among_old_ones_fill_whole_batches(featurizer, paths, embedded):
    featurizer.set_params(num_workers=0).transform(paths[::2])
    del embedded[:]
    found = featurizer.transform(paths)
    assert embedded == [4, 1]
    np.testing.assert_allclose(found, fresh(featurizer, paths), **CLOSE)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_copies_in_one_call_are_embedded_once(featurizer, paths, embedded, num_workers):
    featurizer.set_params(num_workers=num_workers)
    found = featurizer.transform([paths[0], *paths[:3], paths[0]] * 5)
    assert sum(embedded) == 3
    expected = fresh(featurizer, paths[:3])
    np.testing.assert_allclose(found, expected[[0, 0, 1, 2, 0] * 5], **CLOSE)


def test_arrays_and_pil_images(featurizer, images, embedded):
    expected = featurizer.transform(images)
    assert sum(embedded) == 7
    for X in (images, list(images), [Image.fromarray(image) for image in images]):
        np.testing.assert_array_equal(featurizer.transform(X), expected)
    assert sum(embedded) == 7
    np.testing.assert_allclose(expected, fresh(featurizer, images), **CLOSE)


def test_pixels_of_another_shape_are_another_image(featurizer, embedded):
    pixels = np.arange(24 * 6, dtype=np.uint8)
    wide, high = pixels.reshape(4, 12, 3), pixels.reshape(12, 4, 3)
    found = featurizer.transform([wide, high])
    np.testing.assert_allclose(found, fresh(featurizer, [wide, high]), **CLOSE)
    assert abs(found[0] - found[1]).max() > 1e-3


def test_changed_file_is_noticed(featurizer, paths, embedded):
    before = featurizer.transform(paths)
    stat = os.stat(paths[2])
    Image.open(paths[3]).save(paths[2])
    # Not even the time of the change, or the size, needs to differ.
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = featurizer.transform(paths)
    np.testing.assert_array_equal(after[2], before[3])
    np.testing.assert_array_equal(np.delete(after, 2, 0), np.delete(before, 2, 0))


def test_a_file_that_changes_between_hash_and_decoding(featurizer, paths, monkeypatch):
    """The pixels are those of the bytes that were hashed."""
    real = cache_module.EmbeddingCache.get
    expected = fresh(featurizer, paths)

    def get(self, key):
        for path in paths:
            path.write_bytes(other)
        return real(self, key)

    other = paths[0].read_bytes()
    contents = [path.read_bytes() for path in paths]
    featurizer.set_params(num_workers=0, batch_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.EmbeddingCache, "get", get)
        featurizer.transform(paths[1:2])
    paths[1].write_bytes(contents[1])
    np.testing.assert_allclose(
        featurizer.transform(paths[1:2])[0], expected[1], **CLOSE
    )


@pytest.mark.parametrize(
    "change",
    [
        {"output": "tokens"},
        {"precision": "bf16"},
        {"model_name": "other"},
        {"output": "tokens", "dense_mode": "plain"},
        {"model_name": "wide mean"},
    ],
    ids=str,
)
def test_other_settings_are_other_embeddings(
    featurizer, paths, other, make_model, embedded, change
):
    names = {
        "other": other,
        "wide mean": make_model("mean", preprocess={"mean": [0.1, 0.2, 0.3]}),
    }
    if "model_name" in change:
        change = {"model_name": names[change["model_name"]]}
    featurizer.transform(paths)
    featurizer.set_params(output="tokens").transform(paths)
    featurizer.set_params(**{"output": "embedding", **change})
    expected = fresh(featurizer, paths)
    found = clone(featurizer).transform(paths)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"num_workers": 2}], ids=str)
def test_settings_that_change_nothing(featurizer, paths, embedded, change):
    expected = featurizer.transform(paths)
    found = featurizer.set_params(**change).transform(paths)
    np.testing.assert_array_equal(found, expected)
    assert sum(embedded) == 11


def test_broken_images_are_not_kept(featurizer, paths, embedded):
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:50])
    missing = paths[0].with_name("none.png")
    X = [paths[0], paths[1], missing, None, paths[2]]
    with pytest.raises(ImageReadError, match="index 1 of X"):
        featurizer.transform(X)
    featurizer.set_params(on_error="nan")
    for _ in range(2):
        with pytest.warns(UserWarning, match="3 of the images"):
            found = featurizer.transform(X)
        assert np.isnan(found).any(axis=1).tolist() == [False, True, True, True, False]
    paths[1].write_bytes(content)
    assert np.isfinite(featurizer.transform(paths)).all()
    assert sum(embedded) == 11


def test_an_error_keeps_what_was_embedded(featurizer, paths, embedded):
    featurizer.set_params(num_workers=0)
    with pytest.raises(ImageReadError):
        featurizer.transform([*paths[:8], None])
    del embedded[:]
    featurizer.transform(paths)
    assert sum(embedded) == 3


def test_overflow_is_not_kept(make_model, folder, images):
    featurizer = CLIPFeaturizer(make_model("inf"), cache=folder)
    model = featurizer.load().model
    saved = model.visual.proj.detach().clone()
    model.visual.proj.fill_(np.inf)
    with pytest.raises(FloatingPointError):
        featurizer.transform(images)
    model.visual.proj.copy_(saved)
    np.testing.assert_allclose(
        featurizer.transform(images), fresh(featurizer, images), **CLOSE
    )


# Searches


def test_a_search_embeds_each_image_once(small, folder, tmp_path, embedded):
    paths = write_images(tmp_path / "images", 24)
    names = np.repeat(["cat", "dog", "owl"], 8)
    pipeline = Pipeline(
        [("clip", CLIPFeaturizer(small, cache=folder)), ("cmm", CMMClassifier())]
    )
    grid = {"cmm__alpha": ["auto", 0.3, 1.0, 3.0]}
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(pipeline, grid, cv=folds)
    search.fit([str(path) for path in paths], names)
    assert len(search.cv_results_["params"]) == 4
    assert sum(embedded) == 24
    plain = clone(search.best_estimator_).set_params(clip__cache=None)
    np.testing.assert_allclose(
        search.predict_proba(paths),
        plain.fit(paths, names).predict_proba(paths),
        rtol=1e-3,
        atol=1e-4,
    )


# Processes


def write_forever(featurizer, paths, seed, begun):
    """Embed, store and delete in a process of its own, until it is killed."""
    rng = np.random.default_rng(seed)
    try:
        while True:
            featurizer.transform(list(rng.permutation(paths)))
            connection = sqlite3.connect(Path(featurizer.cache) / FILE_NAME, timeout=20)
            with connection:
                connection.execute("DELETE FROM embeddings WHERE random() % 2")
            connection.close()
            os.write(begun, b".")
    finally:
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.slow
def test_killed_writers_leave_a_sound_cache(small, folder, tmp_path, monkeypatch):
    paths = sorted(map(str, write_images(tmp_path / "images", 40)))
    featurizer = CLIPFeaturizer(small, cache=folder, batch_size=2, num_workers=0)
    expected = fresh(featurizer, paths)
    # A transaction a row, so that a kill often hits one.
    monkeypatch.setattr(cache_module, "_WAIT_S", 0)
    rng = np.random.default_rng(0)
    n_left = []
    for kill in range(8):
        writers = []
        read, begun = os.pipe()
        for seed in (kill, 100 + kill):
            writers.append(os.fork())
            if not writers[-1]:
                write_forever(featurizer, paths, seed, begun)
        if kill % 2:  # the others may be killed before they have begun
            os.read(read, 1)
        time.sleep(rng.uniform(0.02, 0.3))
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
        for writer in writers:
            assert os.waitpid(writer, 0)[1] == signal.SIGKILL
        os.close(read)
        os.close(begun)
        check = sqlite3.connect(folder / FILE_NAME)
        assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        n_left += check.execute("SELECT count(*) FROM embeddings").fetchone()
        check.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(featurizer.transform(paths), expected, **CLOSE)
    assert count_rows(folder) == 40
    assert len(set(n_left)) > 2  # they were killed at work


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_processes_at_once_see_each_other(small, folder, tmp_path, embedded):
    paths = sorted(map(str, write_images(tmp_path / "images", 30)))
    featurizer = CLIPFeaturizer(small, cache=folder, batch_size=2, num_workers=0)
    expected = fresh(featurizer, paths)
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            try:
                featurizer.transform(paths)
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    del embedded[:]
    np.testing.assert_allclose(featurizer.transform(paths), expected, **CLOSE)
    assert sum(embedded) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child(featurizer, paths, embedded):
    featurizer.transform(paths[:5])  # the parent has it open
    child = os.fork()
    if child == 0:
        try:
            X = featurizer.transform(paths)
            os._exit(0 if np.isfinite(X).all() and sum(embedded) == 11 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    del embedded[:]
    featurizer.transform(paths)
    assert sum(embedded) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_many_processes_write_at_once(folder):
    """Forks of one that has the file open: each has locks of its own."""
    with open_cache(folder) as cache:
        write_rows(cache, 10)
        children = []
        for _ in range(4):
            children.append(os.fork())
            if not children[-1]:
                for _ in range(20):
                    write_rows(cache, 10)
                os._exit(0)
        for _ in range(20):
            write_rows(cache, 10)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert count_rows(folder) == 10 + 5 * 200
    check = sqlite3.connect(folder / FILE_NAME)
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_waits_for_a_transaction(folder):
    begun, forked = threading.Event(), threading.Event()
    with open_cache(folder) as cache:
        write_rows(cache, 1)

        def write_slowly():
            with cache_module._lock, cache._connected() as connection:
                connection.execute("BEGIN IMMEDIATE")
                begun.set()
                forked.wait(0.3)
                connection.execute("DELETE FROM embeddings")

        thread = threading.Thread(target=write_slowly)
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            try:
                write_rows(cache, 2)
                os._exit(count_rows(folder))
            finally:
                os._exit(99)
        forked.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert count_rows(folder) == 2


def test_a_process_that_keeps_the_lock_is_waited_for_once(folder, monkeypatch):
    monkeypatch.setattr(cache_module, "_TIMEOUT_S", 1)
    with open_cache(folder) as cache:
        write_rows(cache, 1)
        other = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with pytest.warns(UserWarning, match="could not be written: database is lock"):
            for _ in range(5):
                write_rows(cache, 1)
        with open_cache(folder) as reading:  # nor is it, to read
            assert reading.get(b"0" * 32) is None
        assert 0.9 < time.monotonic() - start < 5
        other.execute("ROLLBACK")
        other.close()
    with open_cache(folder) as cache:
        write_rows(cache, 1)
    assert count_rows(folder) == 2


def test_ctrl_c_lets_go_of_the_lock(folder, monkeypatch):
    def interrupted(self, connection):
        raise KeyboardInterrupt

    with open_cache(folder) as cache:
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddingCache, "_make_room", interrupted)
            with pytest.raises(KeyboardInterrupt):
                write_rows(cache, 1)
        other = sqlite3.connect(folder / FILE_NAME, isolation_level=None, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.close()
        write_rows(cache, 1)
    assert count_rows(folder) == 2


def test_pickle_and_clone(featurizer, paths, folder, embedded):
    featurizer.fit_transform(paths)
    for copy in (pickle.loads(pickle.dumps(featurizer)), clone(featurizer)):
        assert copy.cache == folder
        copy.transform(paths)
    assert sum(embedded) == 11


# The bound


def test_size_is_bounded_and_the_oldest_go(small, folder, embedded):
    rng = np.random.default_rng(0)
    featurizer = CLIPFeaturizer(
        small, output="tokens", cache=folder, cache_size=SMALLEST_SIZE
    )
    # 1 MiB holds about 500 rows of 17 x 24 numbers.
    rounds = [rng.integers(0, 256, (150, 32, 32, 3), np.uint8) for _ in range(6)]
    for X in rounds:
        featurizer.transform(X)
        assert (folder / FILE_NAME).stat().st_size <= SMALLEST_SIZE
        assert os.listdir(folder) == [FILE_NAME]
    assert 200 < count_rows(folder) < 700
    del embedded[:]
    featurizer.transform(rounds[-1])
    assert sum(embedded) == 0
    found = featurizer.transform(rounds[0])
    assert sum(embedded) == 150
    np.testing.assert_allclose(found, fresh(featurizer, rounds[0]), **CLOSE)


def test_a_lower_bound_shrinks_the_file(folder):
    with open_cache(folder) as cache:
        write_rows(cache, 2000)
    path = folder / FILE_NAME
    assert path.stat().st_size > 3 * SMALLEST_SIZE
    with open_cache(folder, SMALLEST_SIZE) as cache:
        key, row = os.urandom(32), np.full(512, 0.5, np.float32)
        cache.put(key, row)
        cache.flush()
        assert path.stat().st_size <= SMALLEST_SIZE
        np.testing.assert_array_equal(cache.get(key), row)
    assert 100 < count_rows(folder) < 500


def test_rows_too_large_for_the_bound_are_not_kept(folder):
    with open_cache(folder, SMALLEST_SIZE) as cache:
        cache.put(b"k" * 32, np.zeros(2**18, np.float32))
        cache.put(b"s" * 32, np.ones(512, np.float32))
        cache.flush()
        assert cache.get(b"k" * 32) is None
    assert count_rows(folder) == 1


# Damage


def test_flipped_bits_are_noticed(featurizer, paths, folder, embedded):
    expected = featurizer.transform(paths)
    connection = sqlite3.connect(folder / FILE_NAME)
    key, value = connection.execute("SELECT key, value FROM embeddings").fetchone()
    value = bytearray(value)
    for position in (0, 8, len(value) - 1):
        damaged = value.copy()
        damaged[position] ^= 4
        connection.execute(
            "UPDATE embeddings SET value = ? WHERE key = ?", (bytes(damaged), key)
        )
        connection.commit()
        del embedded[:]
        found = featurizer.transform(paths)
        np.testing.assert_allclose(found, expected, **CLOSE)
        assert sum(embedded) == 1
    connection.execute("UPDATE embeddings SET value = 'text' WHERE id > 5")
    connection.commit()
    connection.close()
    np.testing.assert_allclose(featurizer.transform(paths), expected, **CLOSE)


def test_rows_under_the_wrong_key_are_noticed(featurizer, paths, folder):
    expected = featurizer.transform(paths)
    connection = sqlite3.connect(folder / FILE_NAME)
    values = connection.execute("SELECT id, value FROM embeddings").fetchall()
    for (row, _), (_, value) in zip(values, values[1:] + values[:1], strict=True):
        connection.execute("UPDATE embeddings SET value = ? WHERE id = ?", (value, row))
    connection.commit()
    connection.close()
    np.testing.assert_allclose(featurizer.transform(paths), expected, **CLOSE)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_file(featurizer, paths, folder, seed):
    """It is an error, a warning or nothing; never a crash or a wrong embedding."""
    expected = featurizer.transform(paths)
    path = folder / FILE_NAME
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    start = int(rng.integers(len(content)))
    if seed % 2:
        content = content[:start]
    else:
        content[start : start + 5000] = rng.bytes(5000)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The cache .* could not be")
        try:
            found = featurizer.transform(paths)
        except (ValueError, OSError) as error:
            assert "cache" in str(error)
        else:
            np.testing.assert_allclose(found, expected, **CLOSE)


def test_foreign_files_are_left_alone(featurizer, paths, folder):
    folder.mkdir()
    path = folder / FILE_NAME
    path.write_bytes(b"my thesis" * 1000)
    with pytest.raises(ValueError, match="is not a cache of skfewshot"):
        featurizer.transform(paths)
    assert path.read_bytes() == b"my thesis" * 1000
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE thesis (text)")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    with pytest.raises(ValueError, match="it holds other data"):
        featurizer.transform(paths)
    assert path.read_bytes() == content


def test_a_file_in_the_place_of_the_folder(featurizer, paths):
    with pytest.raises(ValueError, match="cache=.* it is a file; wanted is a folder"):
        featurizer.set_params(cache=paths[0]).transform(paths)


def test_a_deleted_cache_is_made_anew(featurizer, paths, folder, embedded):
    import shutil

    expected = featurizer.transform(paths)
    shutil.rmtree(folder)
    found = featurizer.transform(paths)
    assert sum(embedded) == 22
    featurizer.transform(paths)
    assert sum(embedded) == 22
    np.testing.assert_array_equal(found, expected)
    assert (folder / FILE_NAME).exists()


def test_a_full_disk_is_a_warning(featurizer, paths, folder, monkeypatch):
    expected = featurizer.transform(paths[:4])
    real = cache_module._connect

    def connect(path):
        connection = real(path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(cache_module, "_connect", connect)
    images = np.random.default_rng(1).integers(0, 256, (400, 32, 32, 3), np.uint8)
    with pytest.warns(UserWarning, match="could not be written: database or disk is"):
        found = featurizer.transform(images)
    np.testing.assert_allclose(found, fresh(featurizer, images), **CLOSE)
    np.testing.assert_array_equal(featurizer.transform(paths[:4]), expected)


@pytest.mark.parametrize("size", [0, 2**20 - 1, 1.5e9])
def test_bad_size(featurizer, paths, size):
    with pytest.raises(ValueError, match="cache_size"):
        featurizer.set_params(cache_size=size).transform(paths)


def test_nothing_is_unpickled(featurizer, paths, folder, tmp_path):
    """A row that is a pickle of something evil is bytes like any other."""
    expected = featurizer.transform(paths)
    marker = tmp_path / "run"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    connection = sqlite3.connect(folder / FILE_NAME)
    connection.execute("UPDATE embeddings SET value = ?", (pickle.dumps(Evil()),))
    connection.commit()
    connection.close()
    for _ in range(2):
        np.testing.assert_allclose(featurizer.transform(paths), expected, **CLOSE)
    assert not marker.exists()


def test_no_folder_named(featurizer, paths):
    with pytest.raises(ValueError, match="cache='' is no folder: wanted is"):
        featurizer.set_params(cache="").transform(paths)


def test_paths_that_no_file_can_have(featurizer, paths):
    featurizer.set_params(on_error="nan")
    with pytest.warns(UserWarning, match="1 of the images"):
        found = featurizer.transform([paths[0], "a\0b"])
    assert np.isnan(found).any(axis=1).tolist() == [False, True]


def test_a_warning_is_one_and_points_at_the_line_of_the_user(small, images, tmp_path):
    """Also where threads that decode meet what is wrong, in a pipeline."""
    import contextlib

    from sklearn.pipeline import make_pipeline

    from skfewshot.clip import _cache

    class Broken:
        def execute(self, query, *_):
            raise sqlite3.OperationalError("disk I/O error")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def close(self):
            pass

    model = CLIPFeaturizer(small, cache=tmp_path, num_workers=3, batch_size=2)
    pipeline = make_pipeline(model, "passthrough")

    @contextlib.contextmanager
    def somewhere():
        yield

    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        patch.setattr(_cache, "_connect", lambda _: Broken())
        found = somewhere()(lambda: pipeline.fit_transform(list(images)))()
    assert found.shape == (7, 24)
    told = sorted(str(warning.message) for warning in w)
    assert len(told) == 2
    assert "could not be read: disk I/O error" in told[0]
    assert "could not be written: disk I/O error" in told[1]
    assert {warning.filename for warning in w} == {__file__}
