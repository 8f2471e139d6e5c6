"""A hash of what decides the predictions of an estimator, the same after a pickle.

``joblib.hash`` is of the bytes that a pickle happens to have: of the times that a
search took, of the order of an array in memory, and of which objects are the same.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Set
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from skfewshot._torch import is_tensor, to_numpy
from skfewshot.clip import CLIPFeaturizer, EncoderIdentity

# Parameters that say how, and not what, is computed.
_HOW = {"n_jobs", "verbose", "memory", "transform_input", "_skl_callbacks"}
# What of a featurizer decides embeddings, beside the encoder.
_EMBEDDING = ("output", "dense_mode", "precision", "on_error", "resize_mode")


def digest_of(estimator: BaseEstimator) -> str:
    """Return a hash of what decides the predictions of a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        Of a search only the best estimator counts, of a featurizer what decides
        embeddings.

    Returns
    -------
    str
        Equal for one that was saved and loaded, in whatever memory its arrays are.
    """
    digest = hashlib.sha256()
    for part in _parts(estimator, ()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _parts(value: Any, above: tuple[int, ...]) -> Iterator[bytes]:
    """Give the bytes of a value, piece by piece; `above` are the ids of its owners."""
    if is_tensor(value):
        value = to_numpy(value.detach().cpu())
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        yield from _parts_of_array(np.asarray(value))
    elif value is None or isinstance(value, bool | int | float | complex | str):
        yield f"{type(value).__name__} {value!r}".encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes | bytearray):
        yield bytes(value)
    elif id(value) in above:  # it has itself in it
        yield f"above {len(above) - above.index(id(value))}".encode()
    else:
        yield from _parts_of_owner(value, (*above, id(value)))


def _parts_of_array(array: NDArray) -> Iterator[bytes]:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    yield f"array {array.shape} {little.dtype.descr}".encode()
    yield little.tobytes()  # in the order of its indexes, whatever that in memory


def _parts_of_owner(value: Any, above: tuple[int, ...]) -> Iterator[bytes]:
    """Give the pieces of what has others in it."""
    if isinstance(value, list | tuple | np.ndarray):
        shape = value.shape if isinstance(value, np.ndarray) else ""
        yield f"list {shape}".encode()
        items: Iterable[Any] = value.ravel() if isinstance(value, np.ndarray) else value
        for item in items:
            yield from _parts(item, above)
        yield b"end"
    elif isinstance(value, Mapping | Set):
        pairs = value.items() if isinstance(value, Mapping) else ((x, 0) for x in value)
        yield b"mapping"
        yield from sorted(b"\0".join(_parts(pair, above)) for pair in pairs)
        yield b"end"
    elif isinstance(value, type | FunctionType | BuiltinFunctionType | MethodType):
        yield f"{value.__module__}.{value.__qualname__}".encode()
        code = getattr(value, "__code__", None)
        if code is not None:  # a lambda has no name to tell it by
            yield code.co_code
            constants = [x for x in code.co_consts if not hasattr(x, "co_code")]
            yield from _parts(constants, above)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
        yield from _parts(_state_of(value), above)


def _state_of(value: Any) -> Any:
    """Return what of an object decides its predictions, or all that a pickle keeps."""
    if isinstance(value, EncoderIdentity):
        return value.fingerprint
    if isinstance(value, CLIPFeaturizer):
        known = getattr(value, "encoder_", None)
        named = (value.model_name, str(value.pretrained)) if known is None else known
        return [named, *(getattr(value, name, None) for name in _EMBEDDING)]
    best = getattr(value, "best_estimator_", None)
    if best is not None:
        return best
    if isinstance(value, BaseEstimator):
        return {key: item for key, item in vars(value).items() if key not in _HOW}
    try:
        reduced = value.__reduce_ex__(4)
    except TypeError:  # a ufunc, which pickle finds by its name
        return getattr(value, "__name__", repr(value))
    if isinstance(reduced, str):  # the name of a global
        return reduced
    return [list(part) if isinstance(part, Iterator) else part for part in reduced]
