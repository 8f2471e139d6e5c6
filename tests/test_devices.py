"""Fits and predictions on a stand-in for a GPU, which no test machine needs to have.

Its tensors say that they are on another device, while their numbers are in memory. Like
those of a GPU they cannot be computed with together with tensors of the CPU, and what
is copied from them to the CPU is noted.
"""

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    CMMClassifierCV,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)

# A name that torch has on every machine, and of which nothing else is known here: a
# tensor on "meta" is refused, as it has no numbers.
ELSEWHERE = torch.device("lazy")
N_ROWS, N_CLASSES, WIDTH = 300, 5, 24
#: Model, and whether its fit takes the rows to the CPU.
MODELS = [
    (CMMClassifier(), False),
    (CMMClassifier(solver="gradient", max_iter=5), False),
    (CMMClassifierCV(map_penalties=(1.0,), text_penalties=(10.0, 3.0), cv=3), False),
    (ZeroShotClassifier(), False),
    (CLAPClassifier(max_iter=5), False),
    (TaskResClassifier(max_iter=3, random_state=0), False),
    (LPPlusPlusClassifier(max_iter=5), False),
    (TipAdapterClassifier(), True),
    (TipAdapterClassifier(train_keys=True, max_iter=3, random_state=0), True),
    (GaussianDiscriminantClassifier(), True),
    (ProKeRClassifier(), True),
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
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True), Elsewhere() as mode:
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
@pytest.mark.parametrize(
    ("model", "by_cpu"),
    MODELS,
    ids=lambda value: str(value).partition("(")[0],
)
def test_everything_is_computed_where_the_rows_are(elsewhere, model, by_cpu, with_text):
    X, y, text = make_task()
    model = clone(model).set_params(text_features=text if with_text else None)
    rows, queries = torch.from_numpy(X), torch.from_numpy(make_task(seed=1)[0])
    here = clone(model).fit(rows, y)
    assert elsewhere.to_cpu == []

    far_rows, far_queries = rows.to(ELSEWHERE), queries.to(ELSEWHERE)
    there = clone(model).fit(far_rows, y)
    copied = [shape for shape in elsewhere.to_cpu if np.prod(shape) > 100 * WIDTH]
    assert copied == ([(N_ROWS, WIDTH)] if by_cpu else [])
    for name, value in vars(there).items():
        assert not isinstance(value, torch.Tensor), name

    elsewhere.to_cpu.clear()
    for method in ("predict_proba", "predict_log_proba", "decision_function"):
        found = getattr(there, method)(far_queries)
        assert isinstance(found, FarTensor)
        # The same operations as on the CPU.
        assert torch.equal(found.near, getattr(here, method)(queries))
    assert elsewhere.to_cpu == []
    predicted = there.predict(far_queries)
    assert isinstance(predicted, FarTensor)
    assert elsewhere.to_cpu == [(N_ROWS,)]
    assert predicted.tolist() == here.predict(queries).tolist()


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
