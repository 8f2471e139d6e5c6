"""Caches that may not be written to, and caches that are damaged."""

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
from skfewshot.clip import _passes as passes
from skfewshot.clip import tiny_model_path
from skfewshot.clip._cache import FILE_NAME

CLOSE = {"rtol": 0, "atol": 2e-6}


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
    return folder / FILE_NAME


# Read only


@pytest.mark.parametrize("what", ["folder", "file", "both"])
def test_a_cache_that_may_be_read_alone(
    featurizer, images, expected, filled, folder, embedded, without_rights, what
):
    filled.chmod(0o444 if what != "folder" else 0o666)
    folder.chmod(0o555 if what != "file" else 0o777)
    content = filled.read_bytes()
    without_rights()
    for n_embedded in (1, 2):  # the new one is not kept
        with pytest.warns(UserWarning, match="could not be written: .*") as caught:
            found = featurizer.transform(images)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        np.testing.assert_allclose(found, expected, **CLOSE)
        assert sum(embedded) == n_embedded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        featurizer.transform(images[:-1])  # which needs no writing
    assert filled.read_bytes() == content
    assert os.listdir(folder) == [FILE_NAME]


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


# Damaged


def test_rows_of_other_kinds(featurizer, images, expected, filled):
    connection = sqlite3.connect(filled)
    for number, value in enumerate(["text", 3, 2.5, b"", b"\0" * 9]):
        connection.execute(
            "UPDATE embeddings SET value = ? WHERE id = ?", (value, number + 1)
        )
    connection.commit()
    connection.close()
    np.testing.assert_allclose(featurizer.transform(images), expected, **CLOSE)


@pytest.fixture(scope="module")
def few_images():
    return np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@settings(
    max_examples=40,
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
