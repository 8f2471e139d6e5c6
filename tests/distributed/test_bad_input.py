"""Arguments that are refused, and what is warned of."""

import subprocess
import sys
import textwrap
import warnings

import pytest
from sklearn.exceptions import NotFittedError

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import encoder_of

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

import ray
import ray.cloudpickle
import ray.data

from skfewshot.distributed import embed_dataset, predict_dataset
from skfewshot.distributed.pool import Pool

# Ray warns of itself.
pytestmark = pytest.mark.filterwarnings(
    r"ignore::DeprecationWarning:ray\..*", r"ignore::FutureWarning:ray\..*"
)


@pytest.fixture(scope="module")
def dataset(cluster, rows):
    return ray.data.from_items(rows[:2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dataset": [1]}, TypeError, "dataset must be a ray.data.Dataset; got a list"),
        ({"featurizer": "tiny"}, TypeError, "featurizer must be a CLIPFeaturizer; got"),
        (
            {"image_column": "x"},
            ValueError,
            "image_column names the column 'x'.*'path'",
        ),
        ({"id_column": "x"}, ValueError, "id_column names the column 'x'"),
        ({"columns": ["x"]}, ValueError, "columns names the column 'x'"),
        ({"columns": "name"}, TypeError, "columns must be a list of str or None"),
        (
            {"batch_size": 0},
            ValueError,
            "batch_size must be an int of 1 or more; got 0",
        ),
        ({"batch_size": 1.5}, ValueError, "batch_size must be .* got 1.5"),
        ({"concurrency": 0}, ValueError, "concurrency must be .* got 0"),
        ({"concurrency": (2, 1)}, ValueError, "concurrency must be .*got \\(2, 1\\)"),
        ({"num_cpus": -1}, ValueError, "num_cpus must be a number of 0 or more"),
        ({"ray_remote_args": 3}, TypeError, "ray_remote_args must be a dict or None"),
        ({"num_gpus": "1"}, ValueError, "num_gpus must be a number of 0 or more"),
        ({"output": 3}, TypeError, "output must be a path or a URI; got 3"),
        ({"output": "no://where"}, ValueError, "output='no://where' is a URI that"),
        ({"filesystem": "s3"}, TypeError, "filesystem must be one of pyarrow.fs or"),
    ],
)
def test_bad_arguments(dataset, tmp_path, change, error, message):
    arguments = {
        "dataset": dataset,
        "output": tmp_path / "out",
        "featurizer": CLIPFeaturizer("tiny"),
        "image_column": "path",
        "id_column": "path",
    }
    with pytest.raises(error, match=message):
        embed_dataset(**{**arguments, **change})
    assert not (tmp_path / "out").exists()


def test_bad_estimators(dataset, tmp_path):
    columns = {"input_column": "path", "id_column": "path"}
    with pytest.raises(NotFittedError):
        predict_dataset(dataset, tmp_path, CMMClassifier(), **columns)
    model = CLIPFeaturizer("tiny")
    with pytest.raises(TypeError, match="has no method 'predict'"):
        predict_dataset(dataset, tmp_path, model, **columns)
    with pytest.raises(ValueError, match="method must be one of .* got 'score'"):
        predict_dataset(dataset, tmp_path, model, method="score", **columns)


def test_functions_as_prompt_templates_are_refused(dataset, tmp_path, expected):
    featurizer = CLIPFeaturizer("tiny", prompt_templates=[str.upper])
    featurizer.encoder_ = encoder_of(expected)
    with pytest.raises(ValueError, match="a function among its prompt_templates"):
        embed_dataset(
            dataset, tmp_path, featurizer, image_column="path", id_column="path"
        )


def test_actors_that_take_every_cpu_are_warned_of(cluster):
    with pytest.warns(UserWarning, match="take 2 of the cluster's 2 CPUs.*hang"):
        Pool(1, 2, 1, 0, None).warn_if_full()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pool(1, (2, 4), 0.5, 0, None).warn_if_full()


def test_without_ray_the_error_says_what_to_install():
    source = """
    import sys
    for name in ("ray", "pyarrow"):
        sys.modules[name] = None
    from skfewshot.distributed import embed_dataset, read_embeddings
    for function, arguments in ((embed_dataset, (0, "out", 0)), (read_embeddings, [0])):
        try:
            function(*arguments, **({} if len(arguments) == 1 else dict(
                image_column="path", id_column="path"
            )))
        except ImportError as error:
            print(error)
    """
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.count('pip install "skfewshot[ray]"') == 2
