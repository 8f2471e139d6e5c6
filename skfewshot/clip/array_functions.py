"""What NumPy's functions do to embeddings: those that keep them, those that write."""

import numpy as np


def plain(value):
    """Replace the embedding arrays in an argument, however nested, by plain views."""
    if is_embedding(value):
        return np.asarray(value)
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) is dict:
        return {name: plain(item) for name, item in value.items()}
    return value


def is_embedding(value):
    """Say whether `value` is an EmbeddingArray, which this module cannot import."""
    return isinstance(value, np.ndarray) and hasattr(value, "_in_space")


def forget(value):
    """Note that `value` is about to be written to, if it is an embedding array."""
    if is_embedding(value):
        value._forget()


def _is_inner(axis, ndim):
    """Say whether `axis` is given and is not the last one."""
    return axis is not None and axis % ndim != ndim - 1


def _join(func, arrays, keeps, *args, **kwargs):
    """Join arrays; keep the identity if all of them agree on it and `keeps`."""
    arrays = list(arrays)
    result = func([plain(array) for array in arrays], *args, **plain(kwargs))
    out = kwargs.get("out")
    if out is not None:
        forget(out)
        return out
    encoders = [array.encoder if is_embedding(array) else None for array in arrays]
    alike = encoders[0] is not None and encoders.count(encoders[0]) == len(encoders)
    # A `dtype` can turn embeddings into whole numbers.
    if keeps and alike and np.issubdtype(result.dtype, np.floating):
        return arrays[0]._keep(result)
    return result


def _concatenate(arrays, axis=0, out=None, **kwargs):
    ndims = {np.ndim(array) for array in arrays}
    keeps = len(ndims) == 1 and min(ndims) > 0 and _is_inner(axis, min(ndims))
    return _join(np.concatenate, arrays, keeps, axis, out=out, **kwargs)


def _stack(arrays, axis=0, out=None, **kwargs):
    keeps = _is_inner(axis, np.ndim(arrays[0]) + 1)
    return _join(np.stack, arrays, keeps, axis, out=out, **kwargs)


def _vstack(tup, **kwargs):
    return _join(np.vstack, tup, True, **kwargs)


def _pick(func, array, arguments, axis, out=None):
    """Call a function that picks slices along `axis` out of `array`."""
    if out is not None:
        forget(out)
        func(*plain(arguments), axis=axis, out=plain(out))
        return out
    result = func(*plain(arguments), axis=axis)
    if not is_embedding(array) or not _is_inner(axis, array.ndim):
        return result
    return array._keep(result)


def _take(a, indices, axis=None, out=None, mode="raise"):
    def take(a, indices, **kwargs):
        return np.take(a, indices, mode=mode, **kwargs)

    return _pick(take, a, (a, indices), axis, out)


def _repeat(a, repeats, axis=None):
    return _pick(np.repeat, a, (a, repeats), axis)


def _delete(arr, obj, axis=None):
    return _pick(np.delete, arr, (arr, obj), axis)


def _compress(condition, a, axis=None, out=None):
    return _pick(np.compress, a, (condition, a), axis, out)


def _array_split(ary, indices_or_sections, axis=0):
    return _part(np.array_split, ary, indices_or_sections, axis)


def _split(ary, indices_or_sections, axis=0):
    return _part(np.split, ary, indices_or_sections, axis)


def _part(func, array, indices_or_sections, axis):
    """Call a function that cuts `array` into parts along `axis`."""
    parts = func(plain(array), plain(indices_or_sections), axis=axis)
    if not is_embedding(array):
        return parts
    if not _is_inner(axis, array.ndim):
        return array._watch_views(parts)
    return [array._keep(part) for part in parts]


def _copy(a, order="K", subok=False):
    return a._keep(np.array(a, order=order, copy=True, subok=True))


#: NumPy functions that pick, copy or join embeddings.
KEEPERS = {
    np.array_split: _array_split,
    np.compress: _compress,
    np.concatenate: _concatenate,
    np.copy: _copy,
    np.delete: _delete,
    np.repeat: _repeat,
    np.split: _split,
    np.stack: _stack,
    np.take: _take,
    np.vstack: _vstack,
}

#: NumPy functions that write into their first argument.
WRITERS = {
    np.copyto,
    np.fill_diagonal,
    np.place,
    np.put,
    np.put_along_axis,
    np.putmask,
}
