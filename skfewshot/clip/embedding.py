"""Embeddings that know which encoder made them while they stay in its space."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skfewshot._torch import is_tensor
from skfewshot.clip.array_functions import KEEPERS, WRITERS, forget, plain

# Numbers of an array that its representation shows.
_MOST_SHOWN = 50


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder made an embedding; two are equal if their weights are.

    Plain data: it is hashable, pickles in a few hundred bytes and holds no model.

    Parameters
    ----------
    model_name : str
        The name that :class:`~skfewshot.CLIPFeaturizer` was given.
    pretrained : str or None
        The weights it was given.
    fingerprint : str
        A hash of the weights and of what else decides an embedding. Only this field
        takes part in ``==`` and ``hash``: the same weights under another name are the
        same encoder, on any device and at any precision.
    embedding_dim : int
        d, the width of the joint space.
    logit_scale : float
        The trained inverse temperature s of ``softmax(s * cosine)``; 100 for CLIP.
    prompt_templates : str, callable or sequence, default="default"
        Those of the featurizer that made the embedding: what it would encode class
        names with.

    Examples
    --------
    >>> from skfewshot.clip import EncoderIdentity
    >>> a = EncoderIdentity("ViT-B-32", "openai", "5f0c", 512, 100.0)
    >>> b = EncoderIdentity("ViT-B-32", "/models/b32.pt", "5f0c", 512, 100.0)
    >>> a == b
    True
    """

    model_name: str = field(compare=False)
    pretrained: str | None = field(compare=False)
    fingerprint: str
    embedding_dim: int = field(compare=False)
    logit_scale: float = field(compare=False)
    prompt_templates: Any = field(default="default", compare=False, repr=False)

    def featurizer(self, **params):
        """Rebuild the encoder, to encode class names or more images.

        Parameters
        ----------
        **params
            Further parameters of :class:`~skfewshot.CLIPFeaturizer`.

        Returns
        -------
        CLIPFeaturizer
            Its model is loaded (or found in the cache) and checked.

        Raises
        ------
        ValueError
            If the weights that load now are not those that made the embedding.
        """
        from skfewshot.clip.featurizer import CLIPFeaturizer

        params = {"prompt_templates": self.prompt_templates, **params}
        featurizer = CLIPFeaturizer(self.model_name, self.pretrained, **params)
        found = featurizer.load().identity
        if found != self:
            raise ValueError(
                f"The embedding was made by {self}, but that model and those weights "
                f"now load as {found}: the weights have changed since. Embed the "
                "images again with the weights that are there now."
            )
        return featurizer

    def __str__(self):
        weights = "" if self.pretrained is None else f", {self.pretrained}"
        return f"{self.model_name}{weights} (fingerprint {self.fingerprint[:12]})"


class _Memory:
    """What is known of a piece of memory; all the views of it share one."""

    __slots__ = ("encoder",)

    def __init__(self, encoder=None):
        self.encoder = encoder


class EmbeddingArray(np.ndarray):
    """An array of embeddings that knows its encoder while it stays in its space.

    The last axis is the joint space of images and texts. Whatever only picks, copies
    or joins embeddings of one encoder keeps the identity: row slicing, fancy and
    boolean indexing, iteration, ``take``, ``copy``, ``astype`` to a float type,
    ``concatenate`` and ``vstack`` of like with like, pickling and joblib. Whatever
    could change the space loses it: arithmetic and every other ufunc, also in place
    and through a view, column slicing, transposing, reshaping, assignment of foreign
    values, and joining with arrays of another or no encoder. NumPy functions that are
    not listed return plain arrays.

    Parameters
    ----------
    array : array-like of shape (..., d)
        The embeddings. Memory is shared where `array` is an array.
    encoder : EncoderIdentity or None
        The encoder that made them.

    Attributes
    ----------
    encoder : EncoderIdentity or None
        None once the space may have changed.

    Raises
    ------
    ValueError
        If the last axis is not as wide as the encoder's embeddings.

    Notes
    -----
    ``np.asarray(X)`` gives a plain array on the same memory, as scikit-learn's
    ``check_array`` does; a change made through that one (``copy=False`` in
    scikit-learn), by ``np.nditer`` or by the ``out`` of a random generator goes unseen.
    ``np.save`` keeps the numbers only, and so do ``np.array`` and a generator's
    ``permutation`` and ``choice``: pick by index,
    ``X[rng.permutation(len(X))]``. ``joblib.dump`` and pickle keep the identity.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot.clip import EmbeddingArray, EncoderIdentity, encoder_of
    >>> encoder = EncoderIdentity("tiny", None, "5f0c", 2, 100.0)
    >>> X = EmbeddingArray(np.eye(2, dtype=np.float32), encoder)
    >>> encoder_of(X[:1]) == encoder, encoder_of(np.concatenate([X, X])) == encoder
    (True, True)
    >>> print(encoder_of(2 * X), encoder_of(X[:, :1]), encoder_of(X.T))
    None None None
    """

    def __new__(cls, array, encoder=None):
        if not isinstance(encoder, EncoderIdentity | None):
            raise TypeError(
                f"encoder must be an EncoderIdentity or None; got {encoder!r} of type "
                f"{type(encoder).__name__}."
            )
        embeddings = np.asarray(array).view(cls)
        if encoder is not None and (
            embeddings.ndim == 0 or embeddings.shape[-1] != encoder.embedding_dim
        ):
            raise ValueError(
                f"array has the shape {embeddings.shape}, but the encoder {encoder} "
                f"makes embeddings of width {encoder.embedding_dim}."
            )
        known = encoder_of(array)
        shares = known is not None and known == encoder
        embeddings._memory = array._memory if shares else _Memory(encoder)
        embeddings._in_space = True
        return embeddings

    def __array_finalize__(self, obj):
        # A view keeps watch over its memory, so that a change through it is seen; that
        # it is still in the space is only for those to say that know how it was made.
        shares = isinstance(obj, EmbeddingArray) and self.base is not None
        self._memory = obj._memory if shares else _Memory()
        self._in_space = False

    @property
    def encoder(self):
        """EncoderIdentity or None: the encoder that made these embeddings."""
        return self._memory.encoder if self._in_space else None

    def _keep(self, result):
        """Mark `result`, which holds embeddings out of `self`, as such."""
        kept = np.asarray(result).view(EmbeddingArray)
        shares = np.may_share_memory(kept, self)
        kept._memory = self._memory if shares else _Memory(self._memory.encoder)
        kept._in_space = self._in_space
        return kept

    def _watch(self, result):
        """Mark `result`, a view that has left the space, so that writes are seen."""
        watching = np.asarray(result).view(EmbeddingArray)
        watching._memory = self._memory
        return watching

    def _forget(self):
        """Note that the memory was, or is about to be, written to."""
        self._memory.encoder = None

    # Picking and copying embeddings

    def __getitem__(self, key):
        result = super().__getitem__(key)
        if not isinstance(result, EmbeddingArray):
            return result
        if _leaves_last_axis(key, self.shape):
            return self._keep(result)
        return result

    def copy(self, order="C"):
        """Return a copy, by the same encoder."""
        return self._keep(super().copy(order))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def astype(self, dtype, *args, **kwargs):
        """Cast; float types keep the identity."""
        result = super().astype(dtype, *args, **kwargs)
        if result is self or not isinstance(result, EmbeddingArray):
            return result
        is_float = np.issubdtype(result.dtype, np.floating)
        return self._keep(result) if is_float else np.asarray(result)

    def view(self, *args, **kwargs):
        """Return a view; one of the same dtype and type keeps the identity."""
        result = super().view(*args, **kwargs)
        return result if args or kwargs else self._keep(result)

    def take(self, indices, axis=None, out=None, mode="raise"):
        """Take elements; rows keep the identity."""
        return np.take(self, indices, axis=axis, out=out, mode=mode)

    def repeat(self, repeats, axis=None):
        """Repeat elements; rows keep the identity."""
        return np.repeat(self, repeats, axis=axis)

    def compress(self, condition, axis=None, out=None):
        """Select slices; rows keep the identity."""
        return np.compress(condition, self, axis=axis, out=out)

    def __reduce__(self):
        # A plain array inside, so that joblib maps large ones to shared memory.
        return _rebuild, (np.asarray(self), self.encoder)

    def __reduce_ex__(self, protocol):
        return self.__reduce__()

    def __repr__(self):
        # A dict of a thousand of them is a parameter that is displayed.
        if self.size <= _MOST_SHOWN:
            return super().__repr__()
        encoder = "None" if self.encoder is None else self.encoder.model_name
        return f"EmbeddingArray(shape={self.shape}, {self.dtype}, encoder={encoder})"

    # Writing

    def __setitem__(self, key, value):
        same = (
            self.encoder is not None
            and encoder_of(value) == self.encoder
            and _leaves_last_axis(key, self.shape)
        )
        if not same:
            self._forget()
        super().__setitem__(key, value)

    def __setattr__(self, name, value):
        if name in ("dtype", "shape", "strides"):
            self._in_space = False
        elif name in ("real", "imag"):
            self._forget()
        super().__setattr__(name, value)

    @property
    def flat(self):
        """A 1-D iterator; it can write unseen, so the identity is lost."""
        self._forget()
        return np.asarray(self).flat

    @flat.setter
    def flat(self, value):
        self._forget()
        np.asarray(self).flat = value

    # Everything else leaves the space

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        for written in (*out, *(inputs[:1] if method == "at" else ())):
            forget(written)
        if out:
            kwargs["out"] = plain(out)
        result = getattr(ufunc, method)(*plain(inputs), **plain(kwargs))
        if not out or result is NotImplemented:
            return result
        if len(out) == 1:
            return out[0]
        return tuple(
            given if given is not None else made
            for given, made in zip(out, result, strict=True)
        )

    def __array_function__(self, func, types, args, kwargs):
        if func in KEEPERS:
            return KEEPERS[func](*args, **kwargs)
        out = kwargs.get("out")
        if func in WRITERS:
            out = args[0] if args else next(iter(kwargs.values()))
        forget(out)
        plain_args = plain(args)
        result = func(*plain_args, **plain(kwargs))
        if out is not None and func not in WRITERS:
            return out
        # The first argument is read, and given back as it is by such as atleast_2d.
        written = _given_back(result, args[1:], plain_args[1:])
        if written is not None:
            return written
        if kwargs.get("copy") is False:
            forget(args[0] if args else None)
        return self._watch_views(result)

    def _watch_views(self, result):
        """Watch a view on this memory, or all of them in a list or tuple."""
        if type(result) in (list, tuple):
            return type(result)(self._watch_views(item) for item in result)
        is_view = isinstance(result, np.ndarray) and np.may_share_memory(result, self)
        return self._watch(result) if is_view else result


def encoder_of(X):
    """Return the identity of the encoder that made `X`.

    Parameters
    ----------
    X : object
        Anything; only an :class:`EmbeddingArray` knows its encoder, and a tensor
        straight from a featurizer.

    Returns
    -------
    EncoderIdentity or None

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot.clip import CLIPFeaturizer, encoder_of
    >>> X = CLIPFeaturizer("tiny").encode_text(["a red star"])
    >>> encoder_of(X).embedding_dim
    128
    >>> print(encoder_of(np.asarray(X)))
    None
    """
    if isinstance(X, EmbeddingArray):
        return X.encoder
    # A tensor is marked by an attribute, which no tensor made from it inherits.
    encoder = getattr(X, "encoder", None) if is_tensor(X) else None
    return encoder if isinstance(encoder, EncoderIdentity) else None


def mark_tensor(tensor, encoder):
    """Mark a tensor of embeddings with the encoder that made it, and return it."""
    tensor.encoder = encoder
    return tensor


def _rebuild(array, encoder):
    """Undo ``EmbeddingArray.__reduce__``; what knows no encoder comes back plain."""
    return array if encoder is None else EmbeddingArray(array, encoder)


def _leaves_last_axis(key, shape):
    """Say whether ``array[key]``, of `shape`, has the last axis whole and last."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if not any(item is Ellipsis for item in keys):
        keys.append(Ellipsis)
    used = 0
    for item in keys:
        if isinstance(item, bool | np.bool_):
            return False
        if item is None or item is Ellipsis:
            continue
        if isinstance(item, slice) or np.ndim(item) == 0:
            used += 1
        else:
            array = np.asarray(item)
            used += array.ndim if array.dtype == bool else 1
    rest = [slice(None)] * (len(shape) - used)
    where = next(i for i, item in enumerate(keys) if item is Ellipsis)
    last = (keys[:where] + rest + keys[where + 1 :])[-1:]
    if not last or not isinstance(last[0], slice):
        return False
    return last[0].indices(shape[-1]) == (0, shape[-1], 1)


def _given_back(result, args, plain_args):
    """Return the argument that a function wrote to, as an `out` without its name."""
    for given, seen in zip(args, plain_args, strict=True):
        if isinstance(given, EmbeddingArray) and result is seen:
            forget(given)
            return given
    return None


def _writing(name):
    def method(self, *args, **kwargs):
        self._forget()
        return getattr(np.ndarray, name)(self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"As ``numpy.ndarray.{name}``; the array loses its identity."
    return method


def _leaving(name):
    def method(self, *args, **kwargs):
        out = kwargs.get("out")
        forget(out)
        plain_args = plain(args)
        result = getattr(np.asarray(self), name)(*plain_args, **plain(kwargs))
        if out is None:
            out = _given_back(result, args, plain_args)
        return result if out is None else out

    method.__name__ = name
    method.__doc__ = f"As ``numpy.ndarray.{name}``, of a plain array."
    return method


for _name in ("byteswap", "fill", "partition", "put", "resize", "setfield", "sort"):
    setattr(EmbeddingArray, _name, _writing(_name))
# Those that make new memory return plain arrays; those that return a view stay on
# watch over the memory, with no identity.
for _name in (
    *("argmax", "argmin", "argpartition", "argsort", "choose", "clip", "conj"),
    *("conjugate", "cumprod", "cumsum", "dot", "flatten", "nonzero", "round"),
    *("searchsorted", "trace"),
):
    setattr(EmbeddingArray, _name, _leaving(_name))
