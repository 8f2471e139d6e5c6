"""Caches that may not be written to, and caches that somebody has tampered with."""

import os
import shutil
import sqlite3
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skfewshot import CLIPFeaturizer
from skfewshot.clip import cache as cache_module
from skfewshot.clip import cache_file, cache_rows, passes, tiny_model_path
from skfewshot.clip.cache import FILE_NAME

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture
def embedded(monkeypatch):
    """A list that grows by the number of images in each pass of the model."""
    counts = []
    real = passes.encode_images

    def counting(clip, preprocessor, pixels, **kwargs):
        counts.append(len(pixels))
        return real(clip, preprocessor, pixels, **kwargs)

    monkeypatch.setattr(passes, "encode_images", counting)
    return counts


@pytest.fixture(scope="module")
def model_of_all():
    """The embedded model where every user may read it, wherever the package is."""
    folder = Path(tempfile.mkdtemp()).resolve()
    shutil.copytree(tiny_model_path(), folder / "model")
    folder.chmod(0o755)
    yield f"local-dir:{folder / 'model'}"
    shutil.rmtree(folder)


@pytest.fixture
def featurizer(model_of_all):
    return CLIPFeaturizer(model_of_all, num_workers=0, batch_size=4)


@pytest.fixture
def folder(open_folder):
    return open_folder / "cache"


@pytest.fixture
def filled(featurizer, images, folder):
    """The path of a cache with all but the last image, closed."""
    featurizer.set_params(cache=folder).transform(images[:-1])
    return forget(folder)


def forget(folder):
    """Forget the open file, as a new process would have."""
    path = folder.resolve() / FILE_NAME
    cache = cache_module._open.pop(path, None)
    if cache is not None:
        cache.close()
    return path


def no_warnings(featurizer, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return featurizer.transform(images)


# Read only


@pytest.mark.parametrize("what", ["folder", "file", "both"])
def test_a_cache_that_may_be_read_alone(
    featurizer, images, expected, filled, folder, embedded, without_rights, what
):
    filled.chmod(0o444 if what != "folder" else 0o666)
    folder.chmod(0o555 if what != "file" else 0o777)
    content = filled.read_bytes()
    without_rights()
    with pytest.warns(UserWarning, match="may not be written to; it is read") as caught:
        found = featurizer.transform(images)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert sum(embedded) == 1
    again = no_warnings(featurizer, images)
    np.testing.assert_allclose(again, expected, **CLOSE)
    assert sum(embedded) == 2  # the new one was not kept
    assert filled.read_bytes() == content
    assert os.listdir(folder) == [FILE_NAME]


def test_a_cache_that_another_user_is_writing(
    featurizer, images, expected, folder, embedded, without_rights
):
    """What is in the log and not yet in the file is there too."""
    featurizer.set_params(cache=folder).transform(images)
    other = cache_module._open.pop(folder / FILE_NAME)
    assert (folder / f"{FILE_NAME}-wal").stat().st_size > 0
    del embedded[:]
    folder.chmod(0o555)
    without_rights()
    with pytest.warns(UserWarning, match="may not be written to; it is read"):
        found = featurizer.transform(images)
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert sum(embedded) == 0
    other.close()


def test_nothing_to_be_read(featurizer, images, folder, without_rights):
    folder.mkdir()
    folder.chmod(0o555)
    without_rights()
    with pytest.raises(OSError, match="The cache '.*' could not be opened"):
        featurizer.set_params(cache=folder).transform(images)


def test_a_cache_that_may_not_be_read(featurizer, images, filled, without_rights):
    filled.chmod(0)
    without_rights()
    with pytest.raises(OSError, match="The cache '.*' could not be opened"):
        featurizer.transform(images)


def test_foreign_files_that_may_be_read_alone(
    featurizer, images, folder, without_rights
):
    folder.mkdir()
    path = folder / FILE_NAME
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE thesis (text)")
    connection.commit()
    connection.close()
    folder.chmod(0o555)
    without_rights()
    featurizer.set_params(cache=folder)
    with pytest.raises(ValueError, match="is not a cache of skfewshot"):
        featurizer.transform(images)


# Tampered with


def rewrite(path, change):
    """Give every row `change` of it, with a check sum that fits."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT key, value FROM embeddings").fetchall()
    for number, (key, value) in enumerate(rows):
        made_up = change(cache_rows.unpack_row(key, value), number)
        connection.execute(
            "UPDATE embeddings SET value = ? WHERE key = ?",
            (cache_rows.pack_row(key, made_up), key),
        )
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda row, number: row[:7],
        lambda row, number: row[None],
        lambda row, number: row[:0],
        lambda row, number: row[0],
        lambda row, number: np.tile(row, 2),
    ],
    ids=["short", "an axis more", "empty", "a number", "long"],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_made_up_rows_of_another_shape(
    featurizer, images, expected, filled, embedded, change, num_workers
):
    del embedded[:]
    rewrite(filled, change)
    featurizer.set_params(num_workers=num_workers)
    with pytest.warns(UserWarning, match="has rows of another shape") as caught:
        found = featurizer.transform(images)
    assert len(caught) == 1
    assert str(filled) in str(caught[0].message)
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert sum(embedded) == 6
    np.testing.assert_allclose(no_warnings(featurizer, images), expected, **CLOSE)
    assert sum(embedded) == 6  # they were replaced


def test_made_up_tokens(featurizer, images, folder):
    featurizer.set_params(cache=folder, output="tokens")
    expected = featurizer.transform(images)
    rewrite(forget(folder), lambda row, number: row[0])
    with pytest.warns(UserWarning, match="has rows of another shape"):
        found = featurizer.transform(images)
    np.testing.assert_allclose(found, expected, **CLOSE)
    path = forget(folder)
    rewrite(path, lambda row, number: row[: -1 if number % 2 else None])
    with pytest.raises(ValueError, match="changed the cache") as caught:
        featurizer.transform(images)
    assert str(path) in str(caught.value)


def test_rows_of_other_kinds(featurizer, images, expected, filled):
    connection = sqlite3.connect(filled)
    for number, value in enumerate(["text", 3, 2.5, b"", b"\0" * 9]):
        connection.execute(
            "UPDATE embeddings SET value = ? WHERE id = ?", (value, number + 1)
        )
    connection.commit()
    connection.close()
    np.testing.assert_allclose(featurizer.transform(images), expected, **CLOSE)


def test_enormous_rows(featurizer, images, expected, filled, monkeypatch):
    connection = sqlite3.connect(filled)
    connection.execute("UPDATE embeddings SET value = zeroblob(9000000) WHERE id = 2")
    connection.commit()
    connection.close()
    monkeypatch.setattr(cache_file, "MOST_ROW_BYTES", 2**20)
    with pytest.warns(UserWarning, match="could not be read: string or blob too big"):
        found = featurizer.transform(images)
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.fixture(scope="module")
def few_images():
    return np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=8,
    ),
    kept=st.floats(0.01, 1),
    early=st.booleans(),
)
def test_any_bytes(featurizer, few_images, tmp_path, changes, kept, early):
    """The right embeddings or an error that names the cache."""
    folder = tmp_path / "cache"
    path = folder / FILE_NAME
    wanted = featurizer.set_params(cache=None).transform(few_images)
    whole = tmp_path / "whole"
    featurizer.set_params(cache=folder)
    if not whole.exists():
        featurizer.transform(few_images)
        forget(folder)
        whole.write_bytes(path.read_bytes())
    content = bytearray(whole.read_bytes())
    for place, written in changes:
        start = int(place * (120 if early else len(content)))
        content[start : start + len(written)] = written
    for file in folder.iterdir():
        file.unlink()
    path.write_bytes(content[: int(kept * len(content)) + 1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The cache .* could not be")
        try:
            found = featurizer.transform(few_images)
        except (ValueError, OSError) as error:
            assert str(path) in str(error)
        else:
            np.testing.assert_allclose(found, wanted, **CLOSE)
    forget(folder)
