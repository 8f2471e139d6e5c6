"""Names are encoded once: in searches, curves and folds, and over a cache on disk."""

import multiprocessing
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier
from skfewshot.clip import DEFAULT_PROMPT_TEMPLATES, clear_model_cache
from skfewshot.clip import _texts as texts_module
from skfewshot.clip._texts import encode_names
from skfewshot.datasets import make_object_images
from skfewshot.model_selection import shot_curve

KINDS = ["striped star", "plain heart", "spotted ring"]
PROMPTS = len(DEFAULT_PROMPT_TEMPLATES)


class Counter:
    """How many texts have gone through the text tower of the tiny model."""

    def __init__(self):
        self.texts = 0
        self.clip = CLIPFeaturizer("tiny").load()
        self.forget()
        embedding = self.clip.model.token_embedding
        self.handle = embedding.register_forward_hook(self._note)

    def _note(self, module, inputs, output):
        self.texts += len(inputs[0])

    def forget(self):
        self.clip.encoded_names.clear()
        self.texts = 0


@pytest.fixture
def counter():
    counter = Counter()
    yield counter
    counter.handle.remove()
    counter.forget()


@pytest.fixture(scope="module")
def rendered():
    return make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)


@pytest.fixture(scope="module")
def embedded(rendered):
    return CLIPFeaturizer("tiny").transform(rendered[0]), rendered[1]


def test_a_search_encodes_once(counter, embedded):
    grid = {"alpha": [0, 0.1, 0.2, 0.5, 1, 2, 5, 10, "auto"]}
    search = GridSearchCV(CMMClassifier(), grid, cv=5).fit(*embedded)
    assert search.best_estimator_.prototype_source_ == "embedding"
    assert counter.texts == PROMPTS * len(KINDS)


def test_a_cross_validation_of_images_encodes_once(counter, rendered):
    model = make_pipeline(CLIPFeaturizer("tiny"), ZeroShotClassifier())
    found = cross_validate(model, *rendered, cv=3)
    assert found["test_score"].min() > 0.5
    assert counter.texts == PROMPTS * len(KINDS)


def test_templates_are_searched_one_encoding_each(counter, embedded):
    grid = {"prompt_templates": ["a {}.", "one {}.", "the {}."]}
    clip = CLIPFeaturizer("tiny")
    GridSearchCV(ZeroShotClassifier(text_encoder=clip), grid, cv=3).fit(*embedded)
    assert counter.texts == 3 * len(KINDS)


def test_a_curve_encodes_once(counter, embedded):
    shot_curve(ZeroShotClassifier(), *embedded, shots=[1, 2], cv=2, random_state=0)
    assert counter.texts == PROMPTS * len(KINDS)


def test_new_names_alone_are_encoded(counter, embedded):
    X, y = embedded
    model = CMMClassifier().fit(X, y)
    counter.texts = 0
    model.add_class("plain moon")
    assert counter.texts == PROMPTS
    CMMClassifier(extra_classes=["plain moon", "striped cross"]).fit(X, y)
    assert counter.texts == 2 * PROMPTS
    CMMClassifier(extra_classes=["plain moon", "striped cross"]).fit(X, y)
    assert counter.texts == 2 * PROMPTS


def test_threads_wait_for_one_another(counter, embedded):
    with parallel_config("threading"):
        cross_validate(ZeroShotClassifier(), *embedded, cv=3, n_jobs=3)
    assert counter.texts == PROMPTS * len(KINDS)


def test_the_same_to_the_last_bit(counter, embedded):
    """Whatever was encoded before, and with which other names."""
    X, y = embedded
    few = y != "plain heart"

    def proba():
        return CMMClassifier().fit(X[few], y[few]).predict_proba(X)

    cold = proba()
    assert_array_equal(proba(), cold)
    counter.forget()
    CMMClassifier(extra_classes=["a thing of very many words indeed"]).fit(X, y)
    assert_array_equal(proba(), cold)
    counter.forget()
    clip = CLIPFeaturizer("tiny")
    together = clip.encode_classes(KINDS)
    counter.forget()
    alone = [clip.encode_classes([name])[0] for name in KINDS]
    assert_array_equal(np.asarray(together), np.stack(alone))


def test_what_is_returned_may_be_written_to(counter):
    clip = CLIPFeaturizer("tiny")
    first = np.asarray(clip.encode_classes(KINDS))
    kept = first.copy()
    first[:] = 0
    assert_array_equal(np.asarray(clip.encode_classes(KINDS)), kept)


def test_pickles_do_not_carry_them(counter, embedded):
    X, y = embedded
    clip = CLIPFeaturizer("tiny")
    model = CMMClassifier(text_encoder=clip)
    sizes = [len(pickle.dumps(it)) for it in (clip, model, X)]
    clone(model).fit(X, y)
    clip.encode_classes(KINDS)
    assert sizes == [len(pickle.dumps(it)) for it in (clip, model, X)]
    assert counter.texts == PROMPTS * len(KINDS)


def test_warnings_come_again(counter):
    clip, names = CLIPFeaturizer("tiny"), ["Star", "star", "word " * 60]
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clip.encode_classes(names)
        told = [str(warning.message) for warning in caught]
        assert len(told) == 2 and "'Star' and 'star'" in told[1]
        assert f"{PROMPTS} of those of names, such as 'a photo of a word" in told[0]


def test_memory_is_bounded(counter, monkeypatch):
    clip = CLIPFeaturizer("tiny")
    row = 4 * 128 + texts_module._KEPT_BESIDE
    monkeypatch.setattr(texts_module, "_MOST_KEPT", 3 * row)
    names = [f"thing {index}" for index in range(8)]
    assert clip.encode_classes(names, "a {}").shape == (8, 128)
    assert len(counter.clip.encoded_names) == 3
    clip.encode_classes(names[-3:], "a {}")
    assert counter.texts == 8
    clip.encode_classes(names[:1], "a {}")
    assert counter.texts == 9


def test_other_weights_and_precisions_have_their_own(counter, small):
    tiny = CLIPFeaturizer("tiny").encode_classes(KINDS)
    half = CLIPFeaturizer("tiny", precision="bf16").encode_classes(KINDS)
    assert CLIPFeaturizer(small).encode_classes(KINDS).shape == (3, 24)
    assert 0 < np.abs(np.asarray(tiny) - np.asarray(half)).max() < 0.1


# On disk


def test_a_cache_keeps_them_for_later_runs(embedded, rendered, tmp_path):
    images, y = rendered
    model = make_pipeline(CLIPFeaturizer("tiny", cache=tmp_path), ZeroShotClassifier())
    clear_model_cache()
    expected = model.fit(images, y).decision_function(images)
    clear_model_cache()  # as a new process would start
    counter = Counter()
    try:
        assert_array_equal(model.fit(images, y).decision_function(images), expected)
        assert counter.texts == 0
        kept = CLIPFeaturizer("tiny", cache=tmp_path).encode_classes([*KINDS, "moon"])
        assert counter.texts == PROMPTS
        counter.forget()
        assert_array_equal(
            np.asarray(CLIPFeaturizer("tiny").encode_classes(KINDS)),
            np.asarray(kept)[:3],
        )
    finally:
        counter.handle.remove()


def test_what_is_in_memory_reaches_a_new_cache(counter, tmp_path):
    CLIPFeaturizer("tiny").encode_classes(KINDS)
    CLIPFeaturizer("tiny", cache=tmp_path).encode_classes(KINDS)
    counter.forget()
    CLIPFeaturizer("tiny", cache=tmp_path).encode_classes(KINDS)
    assert counter.texts == 0


def test_a_damaged_row_is_encoded_again(counter, tmp_path):
    import sqlite3

    clip = CLIPFeaturizer("tiny", cache=tmp_path)
    expected = np.asarray(clip.encode_classes(KINDS))
    with sqlite3.connect(tmp_path / "embeddings.sqlite") as connection:
        connection.execute("UPDATE embeddings SET value = zeroblob(length(value))")
    counter.forget()
    assert_array_equal(np.asarray(clip.encode_classes(KINDS)), expected)
    assert counter.texts == PROMPTS * len(KINDS)


def test_a_folder_of_another_machine_is_not_made(counter, rendered, tmp_path):
    folder = tmp_path / "cache"
    X = CLIPFeaturizer("tiny", cache=folder).transform(rendered[0])
    X = pickle.loads(pickle.dumps(X))
    folder.rename(tmp_path / "moved")
    ZeroShotClassifier().fit(X, rendered[1])
    assert not folder.exists()
    assert encode_names(X.encoder, ["moon"]).shape == (1, 128)


# Forks


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")
def test_a_forked_child_has_what_its_parent_encoded(counter, embedded):
    CLIPFeaturizer("tiny").encode_classes(KINDS)
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with texts_module._lock():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(60)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child():
        before = counter.texts
        CLIPFeaturizer("tiny").encode_classes(KINDS)
        queue.put(counter.texts - before)

    process = context.Process(target=child)
    process.start()
    try:
        assert queue.get(timeout=60) == 0
        process.join(60)
    finally:
        leave.set()
        thread.join()
        process.kill()


def test_a_fold_without_a_class_encodes_nothing_new(counter, embedded):
    X, y = embedded
    for train, _ in StratifiedKFold(3).split(X, y):
        ZeroShotClassifier().fit(X[train], y[train])
        kept = y[train] != KINDS[0]
        ZeroShotClassifier().fit(X[train][kept], y[train][kept])
    assert counter.texts == PROMPTS * len(KINDS)


# The text tower, which reads no further than the longest prompt


@pytest.mark.parametrize(
    "config", [{}, {"quick_gelu": True}, {"custom": True}], ids=str
)
def test_short_texts_are_what_the_whole_tower_makes_of_them(make_model, config):
    clip = CLIPFeaturizer(make_model("tower", **config)).load()
    texts = ["a cat", "a photo of a very long haired dog", "", "word " * 50]
    tokens = clip.tokenizer(texts)
    with torch.inference_mode():
        expected = clip.model.encode_text(tokens)
        for rows in ([0], [0, 1], [0, 1, 2, 3]):
            found = texts_module._run_tower(clip.model, tokens[rows])
            torch.testing.assert_close(found, expected[rows], atol=1e-5, rtol=1e-5)
