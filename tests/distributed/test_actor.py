"""What an actor and the driver do, without a cluster."""

import pickle
import types

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.clip import EncoderIdentity, ImageReadError, encoder_of

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

import pyarrow as pa

from skfewshot.distributed import read_embeddings
from skfewshot.distributed.columns import digest_ids, to_column
from skfewshot.distributed.folder import open_folder
from skfewshot.distributed.jobs import EmbedJob, PredictJob
from skfewshot.distributed.running import Actor, check_all_there

CLOSE = {"atol": 2e-5, "rtol": 0}


def test_a_resumed_run_may_give_nan_for_a_broken_image(
    rows, expected, tmp_path, run_here
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    bad = [*rows[:6], {**rows[6], "path": str(broken)}]
    folder = open_folder(tmp_path / "out", None, "output")
    arguments = (folder, ["number"], encoder_of(expected), 4)

    def run(on_error):
        job = EmbedJob(CLIPFeaturizer("tiny", on_error=on_error), "path", "number")
        return run_here(bad, job, *arguments)

    failed = [receipt["error"] for receipt in run("raise")]
    assert failed[0] is None
    error, where = pickle.loads(failed[1])
    assert isinstance(error, ImageReadError)
    assert "number=6 could not be read" in str(error)
    assert "Traceback" in where
    receipts = run("nan")
    assert [receipt["unread"] for receipt in receipts] == [[], ["6"]]
    X, table = read_embeddings(tmp_path / "out")
    assert table.column_names == ["number"]
    assert np.isnan(X).any(axis=1).tolist() == [False] * 6 + [True]
    np.testing.assert_allclose(X[:6], expected[:6], **CLOSE)


def test_a_batch_written_twice_is_there_once(rows, expected, tmp_path):
    folder = open_folder(tmp_path, None, "output")
    job = EmbedJob(CLIPFeaturizer("tiny"), "path", "path")
    for _ in range(2):  # as if a worker had died before it told of what it had written
        actor = Actor(job, folder, ["path"], np.empty(0, "S16"))
        folder.create()
        assert actor(pa.Table.from_pylist(rows[:4])).to_pylist()[0]["error"] is None
    assert len(folder.files()) == 1


def test_ids_that_occur_twice_are_refused(rows, expected, tmp_path, run_here):
    folder = open_folder(tmp_path / "out", None, "output")
    job = EmbedJob(CLIPFeaturizer("tiny"), "path", "path")
    twice = [*rows[:3], rows[1]]
    # In one batch the row is refused, and nothing is written ...
    receipt = run_here(twice, job, folder, ["path"], encoder_of(expected))[0]
    error, _ = pickle.loads(receipt["error"])
    assert isinstance(error, ValueError)
    assert (
        f"1 ids occur more than once in the dataset, such as {rows[1]['path']!r}"
        in (str(error))
    )
    assert not folder.files()
    # ... and in two it is seen in the end, also in a run that skipped one of them.
    for _ in range(2):
        receipts = run_here(twice, job, folder, ["path"], encoder_of(expected), 2)
        digests = b"".join(receipt["digests"] for receipt in receipts)
        with pytest.raises(ValueError, match="1 ids occur more than once"):
            check_all_there(np.frombuffer(digests, "S16"), folder, "path")


def test_rows_that_are_not_there_are_missed(embedded):
    folder = open_folder(embedded, None, "output")
    seen = digest_ids(pa.chunked_array([["elsewhere"]]), "path")
    with pytest.raises(RuntimeError, match="1 of 1 rows are not in output=.*own disk"):
        check_all_there(seen, folder, "path")


def test_tokens_are_lists_of_lists(rows, files, tmp_path, run_here):
    featurizer = CLIPFeaturizer("tiny", output="tokens").fit(files[:1])
    expected = featurizer.transform(files[:3])
    folder = open_folder(tmp_path, None, "output")
    job = EmbedJob(featurizer, "path", "number")
    run_here(rows[:3], job, folder, ["number"], featurizer.encoder_, batch_size=2)
    X, table = read_embeddings(tmp_path)
    assert X.shape == expected.shape == (3, 1 + X.shape[1] - 1, 128)
    np.testing.assert_allclose(X, expected, **CLOSE)
    assert table["number"].to_pylist() == [0, 1, 2]


def test_other_weights_on_a_machine_are_refused(expected):
    job = EmbedJob(CLIPFeaturizer("tiny"), "path", "path")
    job.encoder = encoder_of(expected)
    job.load()
    job.encoder = EncoderIdentity("other", None, "5f0c", 128, 100.0)
    with pytest.raises(ValueError, match="weights differ between machines"):
        job.load()


@pytest.mark.parametrize("has_gpu", [False, True])
def test_an_actor_without_a_gpu_of_its_own_leaves_them_alone(
    has_gpu, files, rows, monkeypatch
):
    used = []

    def load(self):
        used.append(str(self.device_))
        return types.SimpleNamespace(identity=None)

    pipeline = make_pipeline(CLIPFeaturizer("tiny", device="cpu"), CMMClassifier())
    pipeline.fit(files, [row["name"] for row in rows]).set_params(
        clipfeaturizer__device=None
    )
    monkeypatch.setattr(CLIPFeaturizer, "load", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    featurizer = CLIPFeaturizer("tiny")
    EmbedJob(featurizer, "x", "id", has_gpu).load()
    PredictJob(pipeline, "predict", "x", "id", has_gpu).load()
    assert used == ["cuda" if has_gpu else "cpu"] * 2
    assert featurizer.device is None


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_log_proba", "decision_function"]
)
def test_predictions_are_the_estimators(method, rows, files, expected):
    names = [row["name"] for row in rows]
    model = CMMClassifier().fit(expected, names)
    pipeline = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier()).fit(files, names)
    for estimator, X, column in (
        (model, expected, to_column(np.asarray(expected))),
        (pipeline, files, pa.array(files)),
    ):
        table = pa.table({"id": np.arange(len(rows)), "x": column})
        job = PredictJob(estimator, method, "x", "id")
        job.load()
        found, unread = job.compute(table)
        result = getattr(estimator, method)(X)
        assert not unread.any()
        if method == "predict":
            assert found.to_pylist() == result.tolist()
        else:
            np.testing.assert_allclose(found.to_pylist(), result, rtol=1e-4, atol=1e-5)


def test_embeddings_of_unread_images_are_predicted_null(rows, expected):
    model = CMMClassifier().fit(expected, [row["name"] for row in rows])
    X = np.asarray(expected)[:4].copy()
    X[1] = np.nan
    table = pa.table({"id": list("abcd"), "x": to_column(X)})
    found, unread = PredictJob(model, "predict", "x", "id").compute(table)
    assert unread.tolist() == [False, True, False, False]
    whole = model.predict(expected[:4]).tolist()
    assert found.to_pylist() == [whole[0], None, *whole[2:]]
    for method in ("predict", "predict_proba"):
        job = PredictJob(model, method, "x", "id")
        none, _ = job.compute(table.slice(1, 1))
        # The column has its type, or files would differ.
        assert none.null_count == 1
        assert none.type == job.compute(table)[0].type


def test_errors_name_the_rows():
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    table = pa.table({"id": list("abc"), "x": to_column(np.ones((3, 2)))})
    with pytest.raises(ValueError, match="features") as caught:
        PredictJob(model, "predict", "x", "id").compute(table)
    assert "Among the rows of id: 'a', 'b', 'c'" in caught.value.__notes__[0]


def test_an_estimator_is_known_again_in_another_process(files, rows):
    names = [row["name"] for row in rows]
    pipeline = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier()).fit(files, names)
    other = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier(alpha=2.0))
    copy = pickle.loads(pickle.dumps(pipeline))
    here, there, changed = (
        PredictJob(estimator, "predict", "path", "path").settings()
        for estimator in (pipeline, copy, other.fit(files, names))
    )
    assert here == there
    assert here != changed
