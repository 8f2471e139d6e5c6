"""Running a loaded CLIP model over many images or texts, a batch at a time."""

import warnings
from contextlib import closing, nullcontext

import numpy as np

from skfewshot._torch import fork_safe_threads
from skfewshot.clip.dense import embed_tokens
from skfewshot.clip.streaming import Preprocessor, stream_batches

_INDEXES_SHOWN = 20


def embed_images(
    clip,
    images,
    *,
    dense_mode=None,
    batch_size,
    num_workers=0,
    on_error="raise",
    task=nullcontext,
):
    """Embed images into memory that is taken once.

    Parameters
    ----------
    clip : CLIPModel
    images : sequence
        From :func:`~skfewshot.clip.images.as_image_sequence`.
    dense_mode : str or None
        How to make patch tokens, or None for global embeddings alone.
    batch_size, num_workers, on_error
        See :class:`~skfewshot.clip.CLIPFeaturizer`.
    task : callable
        Makes the context manager that each batch is computed in.

    Returns
    -------
    ndarray of float32 of shape (n, d) or (n, 1 + K, d)
        The last axis has length one, or NaN where an image could not be read.

    Raises
    ------
    FloatingPointError
        If the model overflows, which some do in half precision.
    """
    import torch

    preprocessor = Preprocessor(clip.preprocess)
    batches = stream_batches(
        images,
        preprocessor,
        size=clip.input_size,
        batch_size=batch_size,
        num_workers=num_workers,
        on_error=on_error,
    )
    embeddings, unread = None, []
    with closing(batches):  # or its threads would outlive an error
        for batch in batches:
            with task(), fork_safe_threads(), torch.inference_mode():
                inputs = preprocessor.to_input(batch.pixels, clip.device, clip.dtype)
                if dense_mode is None:
                    encoded = clip.model.encode_image(inputs)
                else:
                    encoded = embed_tokens(clip.model, inputs, dense_mode)
                rows = _to_unit_rows(encoded)
            if embeddings is None:
                shape = (len(images), *rows.shape[1:])
                embeddings = np.empty(shape, dtype=np.float32)
            embeddings[batch.start : batch.start + len(rows)] = rows
            unread.extend(batch.errors)
    for error in unread:
        embeddings[error.index] = np.nan
    _warn_of(unread)
    return embeddings


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
            embeddings.append(_to_unit_rows(encoded))
    return np.concatenate(embeddings)


def _to_unit_rows(rows):
    """Scale the last axis to length one, in float32; return an array."""
    import torch

    unit_rows = torch.nn.functional.normalize(rows.float(), dim=-1).cpu().numpy()
    if not np.isfinite(unit_rows).all():
        raise FloatingPointError(
            f"The model gave embeddings that are not finite, in {rows.dtype}. Some "
            "models overflow in half precision: use precision='bf16' or 'fp32'. If "
            "they do so in float32, the weights are broken."
        )
    return unit_rows


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
