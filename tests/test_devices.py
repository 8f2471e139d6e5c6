"""Tensors as input, and fits on a stand-in for a GPU, which no machine needs to have.

Tensors of the stand-in say that they are on another device, while their numbers are in
memory. Like those of a GPU they cannot be computed with together with tensors of the
CPU.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    LPPlusPlusClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)

# A name that torch has on every machine, and of which nothing else is known here: a
# tensor on "meta" is refused, as it has no numbers.
ELSEWHERE = torch.device("lazy")
N_ROWS, N_CLASSES, WIDTH = 300, 5, 24
#: Those that compute with torch.
MODELS = [
    CMMClassifier(store_left_out=True),
    CMMClassifier(solver="paper", max_iter=5),
    CLAPClassifier(max_iter=5),
    TaskResClassifier(max_iter=3, random_state=0),
    LPPlusPlusClassifier(max_iter=5),
    TipAdapterClassifier(train_keys=True, max_iter=3, random_state=0),
]


class FarTensor(torch.Tensor):
    """A tensor that is elsewhere by its own account."""

    @staticmethod
    def __new__(cls, near):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=ELSEWHERE,
        )
        tensor.near = near
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {}, [])

    # Torch refuses these to a tensor on the device whose name is borrowed.

    def item(self):
        return self.near.item()

    def __float__(self):
        return float(self.near)

    def __bool__(self):
        return bool(self.near)

    def tolist(self):
        return self.near.tolist()

    def new_tensor(self, data, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=ELSEWHERE)


class Elsewhere(TorchDispatchMode):
    """Computes with far tensors; `to_cpu` are the shapes of those copied from there."""

    def __init__(self):
        super().__init__()
        self.to_cpu = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {}, self.to_cpu)


def compute(function, args, kwargs, to_cpu):
    tensors = [t for t in tree_flatten((args, kwargs))[0] if torch.is_tensor(t)]
    far = [t for t in tensors if isinstance(t, FarTensor)]
    operator = function.overloadpacket
    # As on a GPU: scalars may be on the CPU, and so may the indices of a selection.
    free = (torch.ops.aten.index, torch.ops.aten._to_copy, torch.ops.aten.copy_)
    if far and operator not in free:
        near = [t for t in tensors if t.ndim and not isinstance(t, FarTensor)]
        assert not near, f"{function} of tensors on two devices"
    device = kwargs.get("device")
    if device is not None:
        is_far = torch.device(device) == ELSEWHERE
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
        if "pin_memory" not in {a.name for a in function._schema.arguments}:
            del kwargs["pin_memory"]
        if far and not is_far:
            to_cpu += [tuple(t.shape) for t in far]
    else:
        is_far = bool(far)
    args, kwargs = tree_map(
        lambda a: a.near if isinstance(a, FarTensor) else a, (args, kwargs)
    )
    result = function(*args, **kwargs)

    def mark(value):
        if not torch.is_tensor(value) or not is_far:
            return value
        # What is computed in place is the same tensor.
        return next((t for t in far if t.near is value), FarTensor(value))

    return tree_map(mark, result)


@pytest.fixture
def elsewhere(monkeypatch):
    original = torch.tensor

    def tensor(data, *, dtype=None, device=None, **options):
        made = original(data, dtype=dtype, **options)
        return made if device is None else made.to(device)

    # It would ask for memory on the device without telling the mode.
    monkeypatch.setattr(torch, "tensor", tensor)
    with Elsewhere() as mode:
        yield mode


def make_task(seed=0):
    rng = np.random.default_rng(seed)
    concepts = np.random.default_rng(7).normal(size=(N_CLASSES, WIDTH))
    y = np.arange(N_ROWS) % N_CLASSES
    X = 1 + concepts[y] + 1.5 * rng.normal(size=(N_ROWS, WIDTH))
    return X.astype(np.float32), y, (concepts - 1).astype(np.float32)


def test_the_stand_in_is_as_strict_as_a_gpu(elsewhere):
    near = torch.ones(3)
    far = near.to(ELSEWHERE)
    assert isinstance(far + 1, FarTensor) and not isinstance(near + 1, FarTensor)
    with pytest.raises(AssertionError, match="two devices"):
        far + near
    with pytest.raises(AssertionError, match="two devices"):
        far.index_add_(0, torch.tensor([1]), far[:1])
    far += 1
    assert isinstance(far, FarTensor) and elsewhere.to_cpu == []
    assert far.cpu().tolist() == [2, 2, 2] and elsewhere.to_cpu == [(3,)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: str(m).partition("(")[0])
def test_everything_is_computed_on_the_device(elsewhere, model, with_text):
    X, y, text = make_task()
    model = clone(model).set_params(text_features=text if with_text else None)
    here = clone(model).set_params(device="cpu").fit(X, y)
    assert elsewhere.to_cpu == []
    there = clone(model).set_params(device=ELSEWHERE).fit(X, y)
    assert elsewhere.to_cpu != []
    for value in vars(there).values():
        assert not isinstance(value, torch.Tensor)
    queries = make_task(seed=1)[0]
    assert_allclose(
        there.predict_proba(queries), here.predict_proba(queries), atol=1e-5
    )


@pytest.mark.parametrize(
    ("with_text", "extra"), [(True, None), (False, None), (True, [N_CLASSES - 1])]
)
def test_rows_without_labels_are_learned_from_on_the_device(
    elsewhere, with_text, extra
):
    X, y, text = make_task()
    known = np.arange(N_ROWS) < 40
    if extra:
        known &= y != N_CLASSES - 1
    told = np.where(known, y.astype(object), None)
    text = text if with_text else None
    model = CMMClassifier(text, extra_classes=extra, store_left_out=True)
    here = clone(model).set_params(device="cpu").fit(X, told)
    there = clone(model).set_params(device=ELSEWHERE).fit(X, told)
    assert there.uses_unlabeled_ == here.uses_unlabeled_
    queries = make_task(seed=1)[0]
    assert_allclose(
        there.predict_proba(queries), here.predict_proba(queries), atol=1e-5
    )


def tensors_of(array):
    """The same numbers in all ways in which torch may hold them."""
    tensor = torch.from_numpy(array)
    return {
        "tensor": tensor,
        "gradient": tensor.clone().requires_grad_(),
        "double": tensor.double(),
        "negative": torch._neg_view(-tensor),
        "transposed": tensor.T.contiguous().T,
        "list": list(tensor),
        "elsewhere": tensor.to(ELSEWHERE),
    }


def test_tensors_are_read_as_arrays(elsewhere):
    X, y, text = make_task()
    weight = np.linspace(1, 2, len(y), dtype=np.float32)
    expected = ZeroShotClassifier(text).fit(X, y, sample_weight=weight)
    wanted = expected.predict_proba(X)
    for name, rows in tensors_of(X).items():
        labels, weights = torch.from_numpy(y), torch.from_numpy(weight)
        if name == "elsewhere":
            labels, weights = labels.to(ELSEWHERE), weights.to(ELSEWHERE)
        found = ZeroShotClassifier(text).fit(rows, labels, sample_weight=weights)
        for output in (found.predict_proba(rows), found.predict(rows)):
            assert type(output) is np.ndarray
        assert_allclose(found.predict_proba(rows), wanted, atol=1e-5, err_msg=name)
        assert found.score(rows, labels) == expected.score(X, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(dtype):
    X, y, text = make_task()
    model = CMMClassifier(text).fit(torch.from_numpy(X).to(dtype), y)
    found = model.predict_proba(torch.from_numpy(X).to(dtype))
    assert found.dtype == model.map_.dtype == np.float32
    rounded = torch.from_numpy(X).to(dtype).float().numpy()
    assert_allclose(found, model.predict_proba(rounded), atol=1e-6)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda x: x.to_sparse(), TypeError, "X is a tensor of .*dense"),
        (lambda x: x.to(torch.complex64), ValueError, "Complex data.*X"),
        (lambda x: x.to("meta"), TypeError, "X is .* meta"),
        (
            lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
            TypeError,
            "X is a tensor of .*dequantize",
        ),
    ],
    ids=["sparse", "complex", "meta", "quantized"],
)
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_tensors_without_plain_numbers_are_refused(bad, error, message):
    X, y, text = make_task()
    rows = bad(torch.from_numpy(X))
    with pytest.raises(error, match=message):
        CMMClassifier(text).fit(rows, y)
    with pytest.raises(error, match=message):
        ZeroShotClassifier(text).fit(X, y).predict(rows)


@pytest.mark.parametrize("device", ["gpu of mine", "cuda:99", 3.5])
def test_a_device_that_is_not_there_is_refused(device):
    X, y, text = make_task()
    with pytest.raises((ValueError, TypeError), match="device="):
        CMMClassifier(text, device=device).fit(X, y)


@pytest.mark.parametrize(
    "model",
    [
        TaskResClassifier(max_iter=3, batch_size=64, random_state=0),
        TipAdapterClassifier(
            train_keys=True, max_iter=3, batch_size=64, random_state=0
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_batches_do_not_follow_the_default_device(model):
    X, y, text = make_task()
    model = clone(model).set_params(text_features=text, device="cpu")
    expected = clone(model).fit(X, y).predict_proba(X)
    with torch.device(ELSEWHERE):
        found = clone(model).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(found, expected)
