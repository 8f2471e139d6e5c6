"""Whatever people hold images in, to a sequence of them, or something to go through."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._torch import is_tensor, to_numpy
from skfewshot.clip._contents import is_pil
from skfewshot.clip._images import (
    FORMS,
    IMAGE_KEYS,
    channels_first,
    how_to_bytes,
    whole_bytes,
)
from skfewshot.clip._unreadable import show


class Lazily:
    """A sequence that makes its items when they are asked for."""

    def __init__(self, n_items: int, get: Callable[[int], Any]) -> None:
        self._n_items, self._get = n_items, get

    def __len__(self) -> int:
        return self._n_items

    def __getitem__(self, index: int) -> Any:
        return self._get(index)


def as_images(X: Any) -> Any:
    """Check that X holds images and return what gives them by position, or in turn.

    Parameters
    ----------
    X : sequence or iterable
        Images as :func:`~skfewshot.clip._images.read_image` takes them, in a list,
        tuple, 1-D array, pandas, polars or pyarrow column; the column named ``image``,
        or the only one, of a data frame or table; a data set of torch or of Hugging
        Face, of whose rows the image is taken; a uint8 array (n, H, W, C), or a tensor
        with its channels first or last; or a generator or other iterable of images.

    Returns
    -------
    sequence or iterator
        With ``len`` and integer indexing, or else to be iterated once; the images
        themselves are not read.

    Raises
    ------
    TypeError
        If X holds no images, or is one image.
    ValueError
        If X is empty or an array of another shape or dtype.
    """
    X = _column_of(X)
    if is_tensor(X):
        X = _array_of(X)
    if isinstance(X, np.ndarray):
        X = _checked(X)
    else:
        _refuse(X)
        X = _from_data_set(X)
    if not (isinstance(X, Sized) and hasattr(X, "__getitem__")):
        return iter(X)
    if len(X) == 0:
        raise no_images()
    return X


def no_images() -> ValueError:
    """Return the error for an X without images, in scikit-learn's words."""
    return ValueError(
        "Found array with 0 sample(s): X is empty, while a minimum of 1 image is "
        "required."
    )


def _refuse(X: Any) -> None:
    """Refuse one image, and what is no sequence of them."""
    is_row = isinstance(X, Mapping) and bool({"bytes", "path"} & set(X))
    is_content = isinstance(X, str | bytes | bytearray | memoryview | os.PathLike)
    is_file = callable(getattr(X, "read", None))
    if is_content or is_row or is_file or is_pil(X):
        hint = ""
        if isinstance(X, str | os.PathLike) and os.path.isdir(X):
            hint = " For the images of a folder see skfewshot.datasets.load_folder."
        raise TypeError(
            f"X is a single image, {show(X)}; wanted is a sequence of images. "
            f"For one image pass [image].{hint}"
        )
    is_unordered = isinstance(X, Mapping | set | frozenset)
    if is_unordered or not (isinstance(X, Iterable | Sized) or _is_rows(X)):
        hint = " Pass what stands under one of its keys, X[key]."
        raise TypeError(
            f"X is {show(X)} of type {type(X).__name__}; wanted is a sequence (list, "
            "tuple, array, column or data set) or a generator, of which each item is "
            f"{FORMS}.{hint if isinstance(X, Mapping) else ''}"
        )


def _is_rows(X: Any) -> bool:
    """Say whether X is gone through by position alone, as some data sets are."""
    return hasattr(X, "__getitem__") and not isinstance(X, type)


# Columns


def _column_of(X: Any) -> Any:
    """Return the column of a data frame or table, or the values of a column."""
    if type(X).__module__.partition(".")[0] == "pyarrow":
        return _arrow_column(X)
    if type(X).__name__ == "LazyFrame":
        raise TypeError("X is a LazyFrame; pass its column: X.collect()['image'].")
    if hasattr(X, "columns") and hasattr(X, "shape"):
        X = X[_image_column(list(X.columns), "data frame")]
    if hasattr(X, "to_list") and hasattr(X, "dtype") and not isinstance(X, np.ndarray):
        return X.to_list()
    return X


def _image_column(names: list[Any], what: str) -> Any:
    """Return the only name, or the only one that says that images are there."""
    found = [name for name in names if name in IMAGE_KEYS]
    if len(names) == 1 or len(found) == 1:
        return found[0] if found else names[0]
    raise ValueError(
        f"X is a {what} of {len(names)} columns; wanted is one column, or one that is "
        "named 'image'. Pass X['path'], or put the featurizer in a ColumnTransformer."
    )


def _arrow_column(X: Any) -> Any:
    """Return the items of a column, which need not all be in Python at a time."""
    if hasattr(X, "column_names"):
        X = X.column(X.column_names.index(_image_column(X.column_names, "table")))
    if hasattr(X.type, "shape") and hasattr(X.type, "value_type"):
        chunks = X.chunks if hasattr(X, "chunks") else [X]
        arrays = [chunk.to_numpy_ndarray() for chunk in chunks]
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return Lazily(len(X), lambda index: _of_scalar(X[index].as_py()))


def _of_scalar(value: Any) -> Any:
    """Return pixels, which Arrow has as lists of lists, as an array."""
    return np.array(value, dtype=np.uint8) if isinstance(value, list) else value


# Data sets


def _from_data_set(X: Any) -> Any:
    """Return the images of a data set of Hugging Face or of torch, or X itself."""
    if hasattr(X, "column_names") and hasattr(X, "features"):
        return _hugging_face(X)
    modules = [kind.__module__ for kind in type(X).__mro__]
    if "torch.utils.data.dataloader" in modules:
        raise TypeError(
            "X is a DataLoader, which gives batches; wanted are images one by one. "
            "Pass its data set, X.dataset, and the targets in that order as y."
        )
    if not any(name.startswith("torch.utils.data") for name in modules):
        return X
    if not hasattr(X, "__len__"):
        return map(_first, X)
    return Lazily(len(X), lambda index: _first(X[index]))


def line_for_targets(X: Any) -> str:
    """Return the line that makes `y` of a data set's targets; nothing for others."""
    if hasattr(X, "column_names") and hasattr(X, "features"):
        features = X.features or {}
        images = [n for n in features if type(features[n]).__name__ == "Image"]
        others = [n for n in X.column_names if n not in (*IMAGE_KEYS, *images)]
        return f"y = X[{others[-1]!r}]" if others else ""
    if not any(
        kind.__module__.startswith("torch.utils.data") for kind in type(X).__mro__
    ):
        return ""
    if hasattr(X, "targets"):
        named = hasattr(X, "classes")
        return f"y = [{'X.classes[i]' if named else 'i'} for i in X.targets]"
    inner = getattr(X, "dataset", None)
    if hasattr(X, "indices") and hasattr(inner, "targets"):
        target = "X.dataset.targets[i]"
        target = f"X.dataset.classes[{target}]" if hasattr(inner, "classes") else target
        return f"y = [{target} for i in X.indices]"
    return "y = [target for image, target in X]"


def _first(row: Any) -> Any:
    """Return the image of a data set's row, of which the rest are targets."""
    return row[0] if isinstance(row, list | tuple) and row else row


def _hugging_face(X: Any) -> Any:
    """Return the images of a data set of Hugging Face, which are decoded one by one."""
    features = X.features or {}
    found = [name for name in features if type(features[name]).__name__ == "Image"]
    names = found or list(X.column_names or features)
    name = names[0] if len(names) == 1 else _image_column(names, "data set")
    if not hasattr(X, "__len__"):
        return (row[name] for row in X)
    return Lazily(len(X), lambda index: X[index][name])


# Arrays


def _array_of(X: Any) -> NDArray:
    """Return a tensor as an array, its channels last where they are first."""
    X = X.detach().cpu()
    array = to_numpy(X.float() if X.is_floating_point() else X)
    first = array.ndim == 4 and channels_first(array.shape[1:])
    return array.transpose(0, 2, 3, 1) if first else array


def _checked(X: NDArray) -> NDArray:
    """Check an array of images or of paths, and return it as a sequence."""
    is_objects = X.dtype == object or X.dtype.kind in "UT"
    if is_objects and (X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1)):
        return X.reshape(-1)
    X = whole_bytes(X) if X.ndim > 2 else X
    if X.dtype.kind in "OUT":
        raise ValueError(
            f"X is an array of {X.dtype} of shape {X.shape}; wanted is a 1-D array of "
            "images or paths."
        )
    if X.dtype != np.uint8:
        hint = how_to_bytes(X, "X")
        if X.dtype.kind == "S":
            hint = " Bytes go into a list or an object array, for this cuts zeros off."
        raise TypeError(
            f"X is an array of {X.dtype}; wanted is a uint8 array (n, H, W, 3) with "
            f"values in [0, 255].{hint}"
        )
    if X.ndim == 3:
        raise ValueError(
            f"X is one array of shape {X.shape}; wanted is (n, H, W, 3). For a single "
            "image pass X[None], for n grey images X[..., None]."
        )
    if X.ndim != 4 or X.shape[-1] not in (1, 3, 4):
        hint = ""
        if X.ndim == 4 and X.shape[1] in (1, 3, 4):
            hint = " The channels come last: pass X.transpose(0, 2, 3, 1)."
        raise ValueError(
            f"X is an array of shape {X.shape}; wanted is (n, H, W, 3).{hint}"
        )
    return X


def items_of(images: Any) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Give each image's position, and what gets it: a sequence may do work for it."""
    if hasattr(images, "__len__"):
        for index in range(len(images)):
            yield index, partial(images.__getitem__, index)
    else:
        for index, item in enumerate(images):
            yield index, partial(_same, item)


def _same(item: Any) -> Any:
    return item
