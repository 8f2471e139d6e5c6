"""Class names to embeddings: tokens, passes, and the embeddings that are kept."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user
from skfewshot._torch import fork_safe_lock, fork_safe_threads, resolve_device
from skfewshot.clip._cache import FILE_NAME, EmbeddingCache
from skfewshot.clip._embedding import EmbeddingArray, EncoderIdentity
from skfewshot.clip._models import CLIPModel, load_clip
from skfewshot.clip._prompts import (
    Name,
    Template,
    check_names,
    check_templates,
    fill_templates,
    show_text,
)

if TYPE_CHECKING:
    import torch

#: A folder of embeddings and its bound in bytes, or None.
Cache = tuple[str | os.PathLike, int] | None

_BATCH_SIZE = 64
# Bytes of encoded names that are kept of a model, and what one takes beside its row.
_MOST_KEPT, _KEPT_BESIDE = 64 * 2**20, 512
# Far more characters than a token has on average, for each token that a model reads:
# what lies beyond would be cut off, but the time that tokenizers take for a long word
# grows with the square of its length.
_CHARACTERS_PER_TOKEN = 16
_SHOWN = 5

# Held while names are encoded: who waits finds them encoded.
_lock = fork_safe_lock()


def encode_names(
    identity: EncoderIdentity, names: Any, prompt_templates: Any = None
) -> EmbeddingArray:
    """Embed class names by the encoder that made an embedding.

    Parameters
    ----------
    identity : EncoderIdentity
        Its model is loaded, or found in the cache of models.
    names, prompt_templates
        See :meth:`~skfewshot.CLIPFeaturizer.encode_classes`; None takes the templates
        of the identity.

    Returns
    -------
    EmbeddingArray of float32 of shape (C, d)

    Raises
    ------
    ValueError
        If the weights that load now are not those that made the embedding.
    """
    if prompt_templates is None:
        prompt_templates = identity.prompt_templates
    templates, names = check_templates(prompt_templates), check_names(names)
    device = resolve_device(None)
    clip = load_clip(
        identity.model_name,
        identity.pretrained,
        device=device,
        resize_mode=identity.resize_mode,
    )
    if clip.identity != identity:
        raise ValueError(
            f"The embedding was made by {identity}, but that model and those weights "
            f"now load as {clip.identity}: the weights have changed since. Embed the "
            "images again with the weights that are there now."
        )
    cache = identity.cache
    # The identity may have come from another machine: no folder is made for it.
    if cache is not None and not (Path(cache[0]) / FILE_NAME).is_file():
        cache = None
    return encode_classes(clip, names, templates, cache=cache)


def encode_classes(
    clip: CLIPModel,
    names: list[Name],
    templates: list[Template],
    batch_size: int = _BATCH_SIZE,
    cache: Cache = None,
) -> EmbeddingArray:
    """Embed class names, each as the mean over its texts, once.

    Parameters
    ----------
    clip : CLIPModel
        It keeps what was encoded.
    names : list of str or tuple of str
        From :func:`check_names`.
    templates : list of callable
        From :func:`check_templates`.
    batch_size : int
        Texts that the model has in work at a time.
    cache : tuple of (str, int) or None
        A folder where embeddings are kept, and its bound in bytes.
    """
    groups = fill_templates(templates, names)
    with _lock():
        encoded = _encode_once(clip, groups, batch_size, cache)
    _warn_of_cut([text for one in encoded for text in one.cut], clip, "names")
    _warn_of_same(names, [one.digest for one in encoded])
    return EmbeddingArray(np.stack([one.row for one in encoded]), clip.identity)


def encode_texts(
    clip: CLIPModel, texts: list[str], batch_size: int = _BATCH_SIZE
) -> EmbeddingArray:
    """Embed texts as they are."""
    tokenizing = Tokenizing(clip)
    rows = [
        _embed(clip, tokenizing.tokens(texts[start : start + batch_size]))
        for start in range(0, len(texts), batch_size)
    ]
    _warn_of_cut([show_text(text) for text in tokenizing.cut], clip, "texts")
    return EmbeddingArray(np.concatenate(rows), clip.identity)


# Encoding once


@dataclass
class _Encoded:
    """What is kept of the texts of one name.

    Attributes
    ----------
    digest : bytes
        Of their tokens.
    cut : list of str
        Those of them that are longer than the model's context, shortened.
    row : ndarray of shape (d,)
        The mean of their embeddings, of length one.
    folders : set of str
        The caches on disk that have the row.
    """

    digest: bytes
    cut: list[str]
    row: NDArray = field(default_factory=lambda: np.empty(0, np.float32))
    folders: set[str] = field(default_factory=set)


def _encode_once(
    clip: CLIPModel, groups: list[tuple[str, ...]], batch_size: int, cache: Cache
) -> list[_Encoded]:
    """Return the embeddings of groups of texts, of which the model keeps the last."""
    kept = clip.encoded_names
    keys = [_key(group) for group in groups]
    found = {key: kept[key] for key in keys if key in kept}
    new = {
        key: group for key, group in zip(keys, groups, strict=True) if key not in found
    }
    folder = None if cache is None else str(cache[0])
    stored = all(folder in one.folders for one in found.values())
    if new or (cache is not None and not stored):
        tokenizing, tokens = Tokenizing(clip), {}
        for key, group in new.items():
            tokens[key] = tokenizing.tokens(list(group))
            digest = hashlib.blake2b(tokens[key].numpy().tobytes(), digest_size=32)
            cut = [show_text(text) for text in tokenizing.cut]
            tokenizing.cut.clear()
            found[key] = _Encoded(digest.digest(), cut)
        with _open(clip, cache) as disk:
            missing = [key for key in new if not _read(found[key], disk)]
            rows = _passes(clip, [tokens[key] for key in missing], batch_size)
            for key, row in zip(missing, rows, strict=True):
                found[key].row = row
            for one in found.values():
                _write(one, disk, folder)
    for key in dict.fromkeys(keys):
        kept[key] = found[key]
        kept.move_to_end(key)
    row_bytes = 4 * clip.identity.embedding_dim + _KEPT_BESIDE
    while len(kept) * row_bytes > _MOST_KEPT:
        kept.popitem(last=False)
    return [found[key] for key in keys]


def _key(texts: tuple[str, ...]) -> bytes:
    return hashlib.blake2b(ascii(texts).encode(), digest_size=32).digest()


def _open(clip: CLIPModel, cache: Cache) -> Any:
    return (
        nullcontext()
        if cache is None
        else EmbeddingCache(cache[0], clip, "text", cache[1])
    )


def _read(encoded: _Encoded, disk: EmbeddingCache | None) -> bool:
    """Take a row from the disk, if it is there."""
    row = None if disk is None else disk.get(disk.key(encoded.digest))
    if row is not None:
        encoded.row = row[0].astype(np.float32)
    return row is not None


def _write(encoded: _Encoded, disk: EmbeddingCache | None, folder: str | None) -> None:
    """Put a row on the disk, unless it is there."""
    if disk is None or folder is None or folder in encoded.folders:
        return
    key = disk.key(encoded.digest)
    if disk.get(key) is None:
        disk.put(key, encoded.row)
    encoded.folders.add(folder)


# Passes of the model


def _passes(
    clip: CLIPModel, tokens: list["torch.Tensor"], batch_size: int
) -> Iterator[NDArray]:
    """Yield the mean embedding of each group of tokens, of length one.

    On a CPU, where it costs no more, each group has a pass of its own. So the last bits
    of a name do not depend on those that it was encoded with.
    """
    import torch

    start = 0
    while start < len(tokens):
        end, size = start + 1, len(tokens[start])
        while (
            clip.device.type != "cpu"
            and end < len(tokens)
            and size + len(tokens[end]) <= batch_size
        ):
            end, size = end + 1, size + len(tokens[end])
        together = torch.cat(tokens[start:end])
        rows = np.concatenate(
            [_embed(clip, part) for part in together.split(batch_size)]
        )
        for group in np.split(
            rows, np.cumsum([len(t) for t in tokens[start:end]])[:-1]
        ):
            mean = group.mean(axis=0)
            yield mean / np.linalg.norm(mean)
        start = end


def _embed(clip: CLIPModel, tokens: "torch.Tensor") -> NDArray:
    """Embed texts; rows of float32 have length one."""
    import torch

    with fork_safe_threads(), torch.inference_mode():
        encoded = _run_tower(clip.model, tokens.to(clip.device)).float()
        rows = torch.nn.functional.normalize(encoded, dim=-1).cpu().numpy()
    return clip.check_finite(rows)


def _run_tower(model: Any, tokens: "torch.Tensor") -> "torch.Tensor":
    """Encode tokens; what stands behind the end of all of them is left out.

    No token sees those behind it, and prompts are a fifth as long as they may be. It is
    open_clip's ``CLIP.encode_text`` but for that; other kinds of text tower read all.
    """
    import open_clip

    if (
        type(model) is not open_clip.CLIP
        or model.attn_mask is None
        or model.text_pool_type != "argmax"
    ):
        return model.encode_text(tokens)
    ends = tokens.argmax(dim=-1)
    n = int(ends.max()) + 1
    dtype = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens[:, :n]).to(dtype)
    x = x + model.positional_embedding[:n].to(dtype)
    x = model.transformer(x, attn_mask=model.attn_mask[:n, :n])
    x = model.ln_final(x).take_along_dim(ends[:, None, None], dim=1)[:, 0]
    projection = model.text_projection
    if projection is None:
        return x
    return x @ projection if projection.ndim == 2 else projection(x)


# Tokens


class Tokenizing:
    """Turns texts into tokens, and notes what is lost.

    Parameters
    ----------
    clip : CLIPModel

    Attributes
    ----------
    cut : list of str
        The texts so far that are longer than the model's context.
    """

    def __init__(self, clip: CLIPModel) -> None:
        self._tokenizer = clip.tokenizer
        self._length = getattr(clip.tokenizer, "context_length", None)
        self._blank: Any = None
        self.cut: list[str] = []

    def tokens(self, texts: list[str]) -> "torch.Tensor":
        """Return the tokens of some texts, as a tensor."""
        if self._length is None:
            shorter = texts
        else:
            most = _CHARACTERS_PER_TOKEN * self._length
            shorter = [_first_characters(text, most) for text in texts]
        tokens = self._tokenizer(shorter)
        self._note_cut(texts, shorter, tokens)
        return tokens

    def _note_cut(
        self, texts: list[str], shorter: list[str], tokens: "torch.Tensor"
    ) -> None:
        """Note the texts of which one more token could have been read."""
        if self._length is None:
            return
        if self._blank is None:
            self._blank = self._tokenizer([""])[0]
        blank = self._blank
        # Where a row ends as that of no text does, there was room for another token.
        # Two, for some tokenizers put the same at the end of all rows.
        is_full = (tokens[:, -2:] != blank[-2:]).any(dim=1)
        doubtful = is_full.nonzero()[:, 0].tolist()
        if not doubtful:
            return
        longer = self._tokenizer(
            [shorter[index] for index in doubtful], context_length=self._length + 1
        )
        # Where all was read, there is one more token of padding, and else one of text.
        padding = blank.mode().values
        before, after = ((t == padding).sum(dim=1) for t in (tokens[doubtful], longer))
        for index, is_cut in zip(doubtful, (before == after).tolist(), strict=True):
            if is_cut or len(shorter[index]) < len(texts[index]):
                self.cut.append(texts[index])


def _warn_of_cut(shown: list[str], clip: CLIPModel, parameter: str) -> None:
    """Warn of texts of which the model reads the first part alone."""
    if shown:
        warn_user(
            f"Texts are cut off, for the model reads {clip.tokenizer.context_length} "
            f"tokens: {len(shown)} of those of {parameter}, such as {shown[0]}. Say "
            "what matters first, or in fewer words."
        )


def _warn_of_same(names: list[Name], digests: list[bytes]) -> None:
    """Warn of different names that have the same tokens in every prompt."""
    names_of: dict[bytes, dict[Name, None]] = {}
    for name, digest in zip(names, digests, strict=True):
        names_of.setdefault(digest, {})[name] = None
    warn_of_same([list(group) for group in names_of.values() if len(group) > 1])


def warn_of_same(groups: list[list[Name]]) -> None:
    """Warn of names that are the same to a model, in groups of such, if there are."""
    if groups:
        shown = "; ".join(
            " and ".join(map(_show, group[:_SHOWN])) for group in groups[:_SHOWN]
        )
        warn_user(
            "Some names are different, but the same to the model, and so are their "
            f"embeddings: {shown}. Models may ignore case and spaces, and what "
            "lies beyond their last token; choose names that differ in other ways."
        )


def _show(name: Name) -> str:
    return show_text(name if isinstance(name, str) else name[0])


def _first_characters(text: str, most: int) -> str:
    """Return a text up to so many characters, spaces not counted."""
    if len(text) <= most:
        return text
    for word in re.finditer(r"\S+", text):
        most -= len(word[0])
        if most < 0:
            return text[: word.end() + most]
    return text
