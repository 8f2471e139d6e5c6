"""Embeddings that know which encoder made them while they stay in its space."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_ALL = repr(slice(None))
_JOINS = (np.concatenate, np.vstack, np.stack)
# By these NumPy writes without asking Python.
_WRITERS = {"byteswap", "data", "fill", "flat", "partition", "put", "resize", "sort"}


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder made an embedding: plain data, equal if the weights are.

    Parameters
    ----------
    model_name, pretrained : str, str or None
        The model and the weights that :class:`~skfewshot.CLIPFeaturizer` was given.
    fingerprint : str
        A hash of the weights and of what else decides an embedding. It alone takes
        part in ``==``: the same weights are the same encoder under any name, on any
        device and at any precision.
    embedding_dim : int
        d, the width of the joint space.
    logit_scale : float
        The trained inverse temperature s of ``softmax(s * cosine)``; 100 for CLIP.
    prompt_templates : str, callable or sequence, default="default"
        What the featurizer that made the embedding would encode class names with.
    resize_mode : {"auto", "crop", "pad", "squash"}, default="auto"
        How that featurizer resized images, where not as the model was trained. The
        fingerprint has it too, behind a slash.
    cache : tuple of (str, int), default=None
        The folder, and its bound in bytes, where that featurizer keeps embeddings.

    Examples
    --------
    >>> from skfewshot.clip import EncoderIdentity
    >>> a = EncoderIdentity("ViT-B-32", "openai", "5f0c", 512, 100.0)
    >>> a == EncoderIdentity("ViT-B-32", "/models/b32.pt", "5f0c", 512, 100.0)
    True
    """

    model_name: str = field(compare=False)
    pretrained: str | None = field(compare=False)
    fingerprint: str
    embedding_dim: int = field(compare=False)
    logit_scale: float = field(compare=False)
    prompt_templates: Any = field(default="default", compare=False, repr=False)
    resize_mode: str = field(default="auto", compare=False, repr=False)
    cache: tuple[str, int] | None = field(default=None, compare=False, repr=False)

    @property
    def weights(self) -> str:
        """What of the fingerprint decides texts: not how images are resized."""
        return self.fingerprint.partition("/")[0]

    def __str__(self) -> str:
        weights = "" if self.pretrained is None else f", {self.pretrained}"
        mode = (
            "" if self.resize_mode == "auto" else f", resize_mode={self.resize_mode!r}"
        )
        return f"{self.model_name}{weights}{mode} (fingerprint {self.fingerprint[:12]})"


def read_identity(described: Any) -> EncoderIdentity:
    """Return the identity that a dict of its fields describes, or raise ValueError."""
    try:
        encoder = EncoderIdentity(**described)
    except TypeError as error:
        raise ValueError(f"{described!r:.80} describes no encoder: {error}") from error
    templates, scale = encoder.prompt_templates, encoder.logit_scale
    texts = templates if isinstance(templates, list) else [templates]
    texts = [*texts, encoder.model_name, encoder.fingerprint, encoder.resize_mode]
    texts += [] if encoder.pretrained is None else [encoder.pretrained]
    is_wide = type(encoder.embedding_dim) is int and encoder.embedding_dim > 0
    is_scaled = type(scale) in (int, float) and math.isfinite(scale)
    if not (is_wide and is_scaled and all(isinstance(text, str) for text in texts)):
        raise ValueError(f"a field is of the wrong kind in {described!r:.400}")
    return encoder


class EmbeddingArray(np.ndarray):
    """An array of embeddings that knows its encoder while it stays in its space.

    The last axis is the joint space of images and texts. What keeps the identity:
    picking rows (or tokens) by index, slice or mask; copying, also to another float
    type, by pickle and by joblib; and joining like with like by ``concatenate``,
    ``vstack`` and ``stack``. All else gives arrays that know no encoder: arithmetic,
    columns, reshaping. An array that is written to, also through a view, forgets.
    NumPy's functions may only read it, and views of it that they give are read-only;
    ``np.asarray(X)`` is a plain array that writes to the same memory unseen.

    Parameters
    ----------
    array : array-like of shape (..., d)
        The embeddings. Memory is shared where `array` is an array.
    encoder : EncoderIdentity or None
        The encoder that made them; an attribute, too.

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

    _in_space: bool
    # All views of a memory share one list: its encoder, until somebody writes there.
    _memory: list[EncoderIdentity | None]

    def __new__(
        cls, array: ArrayLike, encoder: EncoderIdentity | None = None
    ) -> "EmbeddingArray":
        if not isinstance(encoder, EncoderIdentity | None):
            raise TypeError(f"encoder must be an EncoderIdentity; got {encoder!r}.")
        embeddings = np.asarray(array).view(cls)
        if encoder is not None and embeddings.shape[-1:] != (encoder.embedding_dim,):
            raise ValueError(
                f"array has the shape {embeddings.shape}, but the encoder {encoder} "
                f"makes embeddings of width {encoder.embedding_dim}."
            )
        memory = getattr(array, "_memory", [None])
        embeddings._memory = memory if memory[0] == encoder else [encoder]
        embeddings._in_space = True
        return embeddings

    def __array_finalize__(self, obj: Any) -> None:
        # A view watches over its memory; who knows how it was made may say what it is.
        self._memory, self._in_space = [None], False
        if isinstance(obj, EmbeddingArray):
            if np.may_share_memory(np.asarray(self), np.asarray(obj)):
                self._memory = obj._memory

    @property
    def encoder(self) -> EncoderIdentity | None:
        """The encoder of these embeddings; None once the space may have changed."""
        known = self._memory[0] if self._in_space and self.dtype.kind == "f" else None
        return known if known and self.shape[-1:] == (known.embedding_dim,) else None

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        is_rows = isinstance(part, EmbeddingArray) and _picks_rows(key, self.ndim)
        return EmbeddingArray(part, self.encoder) if is_rows else part

    def copy(self, order: Any = "C") -> "EmbeddingArray":
        """Return a copy, by the same encoder."""
        return EmbeddingArray(np.array(self, order=order), self.encoder)

    def __deepcopy__(self, memo: Any) -> "EmbeddingArray":
        return self.copy()

    __copy__ = copy

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """Cast; float types keep the identity."""
        cast = super().astype(dtype, *args, **kwargs)
        return EmbeddingArray(cast, self.encoder) if cast.dtype.kind == "f" else cast

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A plain array inside, so that joblib maps large ones to shared memory.
        plain, encoder = np.asarray(self), self.encoder
        return (EmbeddingArray, (plain, encoder)) if encoder else plain.__reduce__()

    def __repr__(self) -> str:
        if self.size <= 50:
            return super().__repr__()
        name = self.encoder and self.encoder.model_name
        return f"EmbeddingArray(shape={self.shape}, {self.dtype}, encoder={name})"

    def __setitem__(self, key: Any, value: Any) -> None:
        self._memory[0] = None
        super().__setitem__(key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "dtype":  # of this view alone: NumPy sets it in `view(dtype)`
            self._in_space = False
        elif name not in ("_memory", "_in_space"):  # but shape and the like
            self._memory[0] = None

    def __getattribute__(self, name: str) -> Any:
        if name in _WRITERS:
            self._memory[0] = None
        return super().__getattribute__(name)

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: tuple = (), **kwargs: Any
    ) -> Any:
        for array in out:
            if isinstance(array, EmbeddingArray):
                array._memory[0] = None
        if out:
            kwargs["out"] = tuple(None if x is None else np.asarray(x) for x in out)
        result = getattr(ufunc, method)(*_read_only(inputs), **kwargs)
        return out[0] if len(out) == 1 and result is not NotImplemented else result

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = func(*_read_only(args), **_read_only(kwargs))
        joins_rows = func in _JOINS and len(args) == 1 and kwargs.get("axis", 0) == 0
        encoders = {encoder_of(part) for part in args[0]} if joins_rows else set()
        encoder = encoders.pop() if len(encoders) == 1 else None
        is_known = encoder and result.shape[-1:] == (encoder.embedding_dim,)
        return EmbeddingArray(result, encoder) if is_known else result


def encoder_of(X: Any) -> EncoderIdentity | None:
    """Return the identity of the encoder that made `X`.

    Parameters
    ----------
    X : object

    Returns
    -------
    EncoderIdentity or None
        None if `X` is no :class:`EmbeddingArray`, or one that has lost its encoder.

    Examples
    --------
    >>> from skfewshot.clip import CLIPFeaturizer, encoder_of
    >>> X = CLIPFeaturizer("tiny").encode_text(["a red star"])
    >>> encoder_of(X).embedding_dim, encoder_of(2 * X)
    (128, None)
    """
    return X.encoder if isinstance(X, EmbeddingArray) else None


def _picks_rows(key: Any, ndim: int) -> bool:
    """Say whether an index leaves the last of `ndim` axes whole, and last."""
    keys = list(key) if isinstance(key, tuple) else [key]
    while keys and (keys[-1] is ... or repr(keys[-1]) == _ALL):
        keys.pop()
    if any(item is ... for item in keys):
        return False
    picks = [np.asarray(item) for item in keys if item is not None]
    return sum(pick.ndim if pick.dtype == bool else 1 for pick in picks) < ndim


def _read_only(value: Any) -> Any:
    """Replace embedding arrays, however nested, by plain ones that are read-only."""
    if isinstance(value, EmbeddingArray):
        value = np.asarray(value)
        value.flags.writeable = False
        return value
    if type(value) in (list, tuple):
        return type(value)(_read_only(item) for item in value)
    if type(value) is dict:
        return {name: _read_only(item) for name, item in value.items()}
    return value
