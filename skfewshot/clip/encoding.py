"""Running a loaded CLIP model over many images or texts, a batch at a time."""

import warnings
from contextlib import closing, nullcontext

import numpy as np

from skfewshot._torch import fork_safe_threads
from skfewshot.clip.dense import embed_tokens
from skfewshot.clip.images import no_images
from skfewshot.clip.streaming import fill_batches, stream_batches

_INDEXES_SHOWN = 20


def embed_images(
    clip,
    images,
    rows,
    reader,
    *,
    dense_mode=None,
    batch_size,
    num_workers=0,
    task=nullcontext,
):
    """Embed images into `rows`.

    Parameters
    ----------
    clip : CLIPModel
    images : sequence or iterator
        From :func:`~skfewshot.clip.images.as_images`.
    rows : ArrayRows or TensorRows
    reader : Reader
    dense_mode : str or None
        How to make patch tokens, or None for global embeddings alone.
    batch_size, num_workers
        See :class:`~skfewshot.clip.CLIPFeaturizer`.
    task : callable
        Makes the context manager that each pass of the model runs in.

    Returns
    -------
    ndarray or tensor of float32 of shape (n, d) or (n, 1 + K, d)
        The last axis has length one, or NaN where an image could not be read.

    Raises
    ------
    FloatingPointError
        If the model overflows, which some do in half precision.
    """
    unread, started = [], None
    batches = stream_batches(
        images, reader, batch_size=batch_size, num_workers=num_workers
    )

    def encode(pixels):
        with task():
            return _encode(clip, reader.preprocessor, pixels, dense_mode)

    try:
        with closing(batches):  # or its threads would outlive an error
            for batch in fill_batches(batches, batch_size):
                unread.extend(batch.errors)
                for index, row in batch.found:
                    rows.put([index], row[None])
                if reader.cache is not None and batch.keys:
                    embedded = _embed_new(batch, reader.cache, encode, clip.dtype)
                    rows.put(batch.indexes, embedded)
                elif len(batch.indexes):
                    # A GPU computes these while those before are fetched.
                    previous, started = started, (batch.indexes, encode(batch.pixels))
                    _fetch(rows, previous, clip.dtype)
            _fetch(rows, started, clip.dtype)
    finally:
        if reader.cache is not None:
            reader.cache.flush()
    if not rows.n_seen and not unread:
        raise no_images()
    if not rows.n_seen:  # not one image to take the shape of a row from
        blank = np.zeros((1, *reader.size, 3), dtype=np.uint8)
        rows.put([0], _encode(clip, reader.preprocessor, blank, dense_mode))
    embeddings = rows.finish([error.index for error in unread])
    _warn_of(unread)
    return embeddings


def _fetch(rows, started, dtype):
    """Put the rows of a pass of the model where they belong."""
    if started is not None:
        indexes, tensor = started
        rows.put(indexes, _finite(rows.own(tensor), dtype))


def _encode(clip, preprocessor, pixels, dense_mode):
    """Run the model; return a tensor of unit rows in float32, on its device."""
    import torch

    with fork_safe_threads(), torch.inference_mode():
        inputs = preprocessor.to_input(pixels, clip.device, clip.dtype)
        if dense_mode is None:
            encoded = clip.model.encode_image(inputs)
        else:
            encoded = embed_tokens(clip.model, inputs, dense_mode)
        return _unit_rows(encoded)


def _embed_new(batch, cache, encode, dtype):
    """Embed what the cache still has not, each image once, and store it."""
    # It may have come in since it was looked for: it stands in X twice, or another
    # process was faster.
    rows = {key: cache.get(key) for key in batch.keys}
    position = {key: position for position, key in enumerate(batch.keys)}
    new = [key for key, row in rows.items() if row is None]
    if new:
        embedded = encode(batch.pixels[[position[key] for key in new]])
        embedded = _finite(embedded.cpu().numpy(), dtype)
        for key, row in zip(new, embedded, strict=True):
            cache.put(key, row)
            rows[key] = row
    return np.stack([rows[key] for key in batch.keys])


def embed_texts(clip, texts, *, batch_size):
    """Embed texts.

    Parameters
    ----------
    clip : CLIPModel
    texts : list of str
    batch_size : int

    Returns
    -------
    ndarray of float32 of shape (n, d)
        Rows have length one.
    """
    import torch

    embeddings = []
    for start in range(0, len(texts), batch_size):
        tokens = clip.tokenizer(texts[start : start + batch_size])
        with fork_safe_threads(), torch.inference_mode():
            encoded = clip.model.encode_text(tokens.to(clip.device))
            rows = _unit_rows(encoded).cpu().numpy()
        embeddings.append(_finite(rows, clip.dtype))
    return np.concatenate(embeddings)


def _unit_rows(rows):
    """Scale the last axis to length one, in float32."""
    import torch

    return torch.nn.functional.normalize(rows.float(), dim=-1)


def _finite(rows, dtype):
    """Return an array or tensor of embeddings if they are finite."""
    if not bool((abs(rows) <= 1.5).all()):  # NaN is not, and nothing is copied twice
        raise FloatingPointError(
            f"The model gave embeddings that are not finite, in {dtype}. Some "
            "models overflow in half precision: use precision='bf16' or 'fp32'. If "
            "they do so in float32, the weights are broken."
        )
    return rows


def _warn_of(unread):
    """Warn of the images that became NaN."""
    if not unread:
        return
    indexes = [error.index for error in unread]
    hidden = len(indexes) - _INDEXES_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    warnings.warn(
        f"{len(indexes)} of the images could not be read and are NaN, at the indexes "
        f"{indexes[:_INDEXES_SHOWN]}{more} of X. The first: {unread[0]}",
        UserWarning,
        stacklevel=5,
    )
