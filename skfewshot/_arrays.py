"""Functions of rows that are NumPy arrays or torch tensors, wherever those lie."""

import numpy as np

from skfewshot._torch import is_tensor, to_numpy, to_tensor


def as_numpy(array):
    """Return a tensor as a NumPy array, and anything else as it is.

    So are the tensors of a list.
    """
    if isinstance(array, list | tuple) and any(map(is_tensor, array)):
        return [as_numpy(part) for part in array]
    if not is_tensor(array):
        return array
    if array.is_meta:
        raise TypeError("A tensor on the device meta holds no numbers.")
    # Conjugates and negatives are often left for the next computation to take.
    array = array.detach().resolve_conj().resolve_neg()
    # NumPy has no bfloat16.
    is_brain_float = str(array.dtype) == "torch.bfloat16"
    return to_numpy(array.float() if is_brain_float else array)


def like(array, rows):
    """Return a NumPy array as `rows` are: of their dtype, and on their device."""
    if is_tensor(rows):
        return to_tensor(array, device=rows.device, dtype=rows.dtype)
    return array.astype(rows.dtype, copy=False)


def labels_like(labels, rows):
    """Return labels as scikit-learn has it: numbers as `rows` are, names in NumPy."""
    if is_tensor(rows) and labels.dtype.kind in "biuf":
        return to_tensor(labels, device=rows.device)
    return labels


def concatenate(parts):
    """Join arrays, or tensors, along the first axis."""
    if len(parts) == 1:
        return parts[0]
    if is_tensor(parts[0]):
        import torch

        return torch.cat(parts)
    return np.concatenate(parts)


def with_column(rows, column):
    """Append a NumPy array as the last column."""
    if is_tensor(rows):
        import torch

        return torch.column_stack([rows, like(column, rows)])
    return np.column_stack([rows, column.astype(rows.dtype)])


def sum_rows(rows, index, n_sums):
    """Return the sums of the rows of each index, shape (n_sums, n_features)."""
    if is_tensor(rows):
        index = to_tensor(index, device=rows.device)
        return rows.new_zeros(n_sums, rows.shape[1]).index_add_(0, index, rows)
    sums = np.zeros((n_sums, rows.shape[1]), dtype=rows.dtype)
    np.add.at(sums, index, rows)
    return sums


def unit_rows(rows):
    """Scale each row to length one; a row of zeros stays zero."""
    if is_tensor(rows):
        return _unit_tensor_rows(rows)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    limits = np.finfo(norms.dtype)
    if (
        norms.size
        and limits.tiny**0.25 < norms.min()
        and norms.max() < limits.max**0.25
    ):
        return rows / norms
    # First by the largest entry, so that no square overflows or vanishes.
    rows = _divide_rows(rows, np.abs(rows).max(axis=-1, keepdims=True))
    return _divide_rows(rows, np.linalg.norm(rows, axis=-1, keepdims=True))


def _divide_rows(rows, sizes):
    return rows / np.where(sizes > 0, sizes, np.ones_like(sizes))


def _unit_tensor_rows(rows):
    import torch

    # Always in two steps: to look at the norms would wait for a GPU.
    sizes = rows.abs().amax(dim=-1, keepdim=True)
    rows = rows / torch.where(sizes > 0, sizes, 1.0)
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def exponentials(array):
    """Return the exponential of each entry; the array is overwritten."""
    return array.exp_() if is_tensor(array) else np.exp(array, out=array)


def log_softmax(logits):
    """Return the logarithms of probabilities; the logits are overwritten.

    In float32 a wide logit gap would round a probability to 0, and its log to minus
    infinity: the smallest normal number is the floor of both.
    """
    if is_tensor(logits):
        import torch

        floor = float(np.log(torch.finfo(logits.dtype).tiny))
        return torch.log_softmax(logits, dim=1).clamp_min_(floor)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    floor = np.log(np.finfo(logits.dtype).tiny)
    return np.maximum(logits, floor, out=logits)
