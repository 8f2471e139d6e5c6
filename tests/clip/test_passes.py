"""Passes of the model: how many at a time, on how many images, in which threads."""

import threading
from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import pytest
import torch

from skfewshot import CLIPFeaturizer
from skfewshot.clip import _passes as passes

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.mark.parametrize(
    ("device", "cores", "n_images", "batch_size", "num_workers", "expected"),
    [
        (CPU, 2, 1000, 64, 2, (2, 32)),
        (CPU, 2, None, 64, 2, (2, 32)),
        (CPU, 2, 10, 64, 2, (2, 5)),
        (CPU, 2, 1, 64, 2, (0, 64)),
        (CPU, 2, 1000, 64, 0, (0, 64)),
        (CPU, 2, 1000, 64, 1, (0, 64)),
        (CPU, 1, 1000, 64, 4, (0, 64)),
        (CPU, 64, 1000, 64, 64, (8, 8)),
        (CPU, 64, 1000, 16, 64, (8, 4)),
        (CPU, 64, 1000, 2, 64, (8, 2)),
        (CPU, 64, 1000, 1, 64, (0, 1)),
        (CPU, 64, 5, 64, 64, (8, 1)),
        (GPU, 64, 1000, 64, 64, (0, 64)),
    ],
)
def test_plan(monkeypatch, device, cores, n_images, batch_size, num_workers, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    found = passes.plan_passes(
        device, n_images=n_images, batch_size=batch_size, num_workers=num_workers
    )
    assert found == expected


@pytest.fixture
def four_threads(monkeypatch):
    """Have the model run in four threads, whatever the machine has."""

    def plan(device, *, n_images, batch_size, num_workers):
        return 4, 3

    monkeypatch.setattr(passes, "plan_passes", plan)


@pytest.mark.parametrize("output", ["embedding", "tokens"])
def test_threads_change_nothing(small, images, four_threads, output):
    X = np.concatenate([images] * 9)
    featurizer = CLIPFeaturizer(small, output=output, device="cpu")
    found = featurizer.transform(X)
    expected = CLIPFeaturizer(small, output=output, num_workers=0).transform(images)
    np.testing.assert_allclose(found, np.concatenate([expected] * 9), **CLOSE)


def test_each_thread_has_its_share_of_torchs(small, images, four_threads, monkeypatch):
    seen = {}
    real = passes.encode_images

    def encode(*args, **kwargs):
        seen[threading.get_ident()] = torch.get_num_threads()
        return real(*args, **kwargs)

    monkeypatch.setattr(passes, "encode_images", encode)
    before = torch.get_num_threads()
    CLIPFeaturizer(small, device="cpu").transform(np.concatenate([images] * 9))
    assert torch.get_num_threads() == before
    assert threading.get_ident() not in seen
    assert set(seen.values()) == {max(1, before // 4)}


def test_an_error_ends_the_threads(make_model, images, four_threads):
    featurizer = CLIPFeaturizer(make_model("infinite"), device="cpu")
    model = featurizer.load().model
    before = threading.active_count()
    saved = model.visual.proj.detach().clone()
    model.visual.proj.fill_(np.inf)
    with pytest.raises(FloatingPointError, match="not finite"):
        featurizer.transform(np.concatenate([images] * 9))
    assert threading.active_count() == before
    model.visual.proj.copy_(saved)


def test_few_passes_at_a_time(small, four_threads, monkeypatch):
    """Batches are not made much faster than the model takes them."""
    made, done, ahead = [0], [0], []
    real = passes.encode_images

    def encode(*args, **kwargs):
        rows = real(*args, **kwargs)
        done[0] += len(rows)
        ahead.append(made[0] - done[0])
        return rows

    def generate():
        for _ in range(300):
            made[0] += 1
            yield np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(passes, "encode_images", encode)
    featurizer = CLIPFeaturizer(small, device="cpu", batch_size=12, num_workers=2)
    assert featurizer.transform(generate()).shape == (300, 24)
    # Five passes of three images, and what is decoded ahead.
    assert max(ahead) <= 5 * 3 + (2 * 12 // 3 + 2) * 3


class FakeEvent:
    """Stands for a mark in the queue of a GPU; notes when it is waited for."""

    log: ClassVar[list] = []

    def record(self):
        self.log.append("copy")

    def synchronize(self):
        self.log.append("wait")


def test_a_gpu_copies_before_the_next_pass_and_is_waited_for_after(
    small, images, monkeypatch
):
    """What a GPU is told, on the CPU: the calls are real but for the queue's marks."""
    real, empty = passes.encode_images, torch.empty

    def encode(*args, **kwargs):
        FakeEvent.log.append("pass")
        return real(*args, **kwargs)

    def pageable(*args, pin_memory, **kwargs):
        assert pin_memory
        return empty(*args, **kwargs)

    monkeypatch.setattr(passes, "encode_images", encode)
    featurizer = CLIPFeaturizer(small, device="cpu", num_workers=0, batch_size=3)
    expected = featurizer.transform(images)
    monkeypatch.setattr(passes, "_start_fetching", passes._start_copy)
    monkeypatch.setattr(passes, "_most_running", lambda *_: 1)
    monkeypatch.setattr(torch, "empty", pageable)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    FakeEvent.log.clear()
    np.testing.assert_array_equal(featurizer.transform(images), expected)
    assert FakeEvent.log == [
        *("pass", "copy"),
        *("pass", "copy", "wait"),
        *("pass", "copy", "wait"),
        "wait",
    ]
