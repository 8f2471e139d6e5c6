"""What an actor computes from a table, without a cluster."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import ImageReadError

pytest.importorskip("ray")

import pyarrow as pa
from pyarrow import parquet
from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray

from skfewshot.distributed import embed_dataset, predict_dataset, read_embeddings
from skfewshot.distributed._folder import Folder
from skfewshot.distributed._runs import _Job

# Ray warns of itself.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture
def work(tmp_path):
    """A function that has a job done, and returns the rows written and unread ids."""

    def run(estimator, method, x, done=()):
        folder = Folder(tmp_path, None)
        job = _Job(estimator, method, "x", "id", "y", folder)
        _, _, unread = job.work(pa.table({"id": np.arange(len(x)), "x": x}), set(done))
        [path] = folder.files()
        table = parquet.read_table(path)
        Path(path).unlink()
        return table, unread

    return run


def as_bytes(path):
    return Path(path).read_bytes()


def as_arrays(files):
    return [np.asarray(Image.open(path).convert("RGB")) for path in files]


COLUMNS = {
    "paths": pa.array,
    "large paths": lambda files: pa.array(files, pa.large_string()),
    "bytes": lambda files: pa.array(map(as_bytes, files)),
    "structs": lambda files: pa.array(
        [{"bytes": as_bytes(path), "path": "elsewhere"} for path in files[:2]]
        + [{"bytes": None, "path": path} for path in files[2:]]
    ),
    "tensors": lambda files: ArrowTensorArray.from_numpy(np.stack(as_arrays(files))),
    "ragged": lambda files: ArrowVariableShapedTensorArray.from_numpy(
        [np.pad(x, ((0, i), (0, 0), (0, 0))) for i, x in enumerate(as_arrays(files))]
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_images_of_all_kinds_of_columns(kind, files, work):
    files = files[:4]
    found, unread = work(CLIPFeaturizer("tiny"), "transform", COLUMNS[kind](files))
    images = as_arrays(files)
    if kind == "ragged":
        images = [np.pad(x, ((0, i), (0, 0), (0, 0))) for i, x in enumerate(images)]
    assert not unread
    assert found.column_names == ["id", "y"]
    expected = CLIPFeaturizer("tiny").fit_transform(images)
    assert_allclose(found["y"].to_pylist(), expected, **CLOSE)


def test_tokens_are_lists_of_lists(files, work):
    featurizer = CLIPFeaturizer("tiny", output="tokens")
    found, _ = work(featurizer, "transform", pa.array(files[:2]))
    assert_allclose(found["y"].to_pylist(), featurizer.transform(files[:2]), **CLOSE)


@pytest.mark.parametrize("is_bytes", [False, True])
def test_unreadable_images_follow_on_error(is_bytes, files, tmp_path, work):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    x = [files[0], str(broken), None, files[1]]
    if is_bytes:
        x = [item and as_bytes(item) for item in x]
    with pytest.raises(ImageReadError, match="^id=1: .*index 1") as caught:
        work(CLIPFeaturizer("tiny"), "transform", pa.array(x))
    assert caught.value.index == 1
    with pytest.warns(UserWarning, match="2 of the images could not be read"):
        found, unread = work(
            CLIPFeaturizer("tiny", on_error="nan"), "transform", pa.array(x)
        )
    assert unread == [1, 2]
    y = np.array(found["y"].to_pylist())
    assert np.isnan(y).all(axis=1).tolist() == [False, True, True, False]


def test_what_is_done_is_not_computed(files, colours, expected, work):
    found, _ = work(colours(), "transform", pa.array(files[:6]), done={0, 3, 99})
    assert found["id"].to_pylist() == [1, 2, 4, 5]
    assert_allclose(found["y"].to_pylist(), expected[[1, 2, 4, 5]], rtol=1e-6)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_predictions_are_the_estimators(method, make_task, work):
    X, y, _ = make_task(dtype=np.float32)
    model = CMMClassifier(text_features=None)
    model.fit(X, np.array(["ant", "bee", "cat", "dog"])[y])
    expected = getattr(model, method)(X).tolist()
    table = pa.array(X.tolist(), pa.list_(pa.float32(), X.shape[1]))
    gap = X.copy()
    gap[[1, 5]] = np.nan  # of images that could not be read
    for x, null in ((table, []), (ArrowTensorArray.from_numpy(gap), [1, 5])):
        found, unread = work(model, method, x)
        assert unread == null
        for row, item in enumerate(found["y"].to_pylist()):
            if row in null:
                assert item is None
            elif method == "predict":
                assert item == expected[row]
            else:
                assert_allclose(item, expected[row], rtol=1e-5)
    # Where nothing is left the column has its type, or files would differ.
    none, unread = work(model, method, ArrowTensorArray.from_numpy(gap[[1]]))
    assert none["y"].null_count == len(unread) == 1
    assert none["y"].type == found["y"].type


@pytest.mark.filterwarnings("ignore:.*of the images could not be read")
@pytest.mark.parametrize("labels", [["a", "b"], [3, 5]])
def test_images_that_cannot_be_read_are_predicted_as_null(labels, files, work):
    model = make_pipeline(
        CLIPFeaturizer("tiny", on_error="nan"), CMMClassifier(text_features=None)
    )
    model.fit(files[:8:2], np.array(labels)[[0, 1, 0, 1]])
    X = [files[0], "missing.png", files[6]]
    types = set()
    for x in (X, X[:1], X[1:2]):
        found, unread = work(model, "predict", pa.array(x))
        assert unread == [i for i, path in enumerate(x) if path == "missing.png"]
        values = found["y"].to_pylist()
        assert [value is None for value in values] == [
            i in unread for i in range(len(x))
        ]
        types.add(found["y"].type)
    assert len(types) == 1
    found, unread = work(model, "predict_proba", pa.array(X))
    assert [row is None for row in found["y"].to_pylist()] == [False, True, False]


@pytest.mark.parametrize(
    "rows", [[[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.0, 4.0]], [[1.0], None], [[1], [2]]]
)
def test_columns_that_are_no_embeddings_are_refused(rows, work):
    with pytest.raises(ValueError, match="holds no embeddings"):
        work(CMMClassifier(), "predict", pa.array(rows))


def test_arguments(colours, tmp_path):
    names = {"id_column": "path"}
    with pytest.raises(TypeError, match="featurizer must be a CLIPFeaturizer"):
        embed_dataset(None, tmp_path, "tiny", image_column="path", **names)
    with pytest.raises(TypeError, match="dataset must be a ray.data.Dataset"):
        embed_dataset([1], tmp_path, colours(), image_column="path", **names)
    with pytest.raises(NotFittedError):
        predict_dataset(None, tmp_path, CMMClassifier(), input_column="x", **names)
    model = CMMClassifier().fit(np.eye(2), [0, 1])
    for method in ("score", "transform"):
        with pytest.raises(ValueError, match="method must be one of"):
            predict_dataset(
                None, tmp_path, model, input_column="x", method=method, **names
            )
    assert not list(tmp_path.iterdir())


def test_functions_as_prompt_templates_are_refused(write, colours, rows):
    encoder = replace(colours().encoder_, prompt_templates=(str.upper,))
    with pytest.raises(ValueError, match="prompt_templates"):
        write(rows[:2], colours(), encoder=encoder)
    encoder = replace(encoder, prompt_templates=("a {}", "{}"))
    X, _ = read_embeddings(write(rows[:2], colours(), encoder=encoder).path)
    assert list(X.encoder.prompt_templates) == ["a {}", "{}"]
