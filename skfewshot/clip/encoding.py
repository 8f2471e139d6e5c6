"""Running a loaded CLIP model over many images or texts, a batch at a time."""

import numpy as np

from skfewshot._torch import fork_safe_threads
from skfewshot.clip.dense import embed_tokens


def encode_images(clip, preprocessor, pixels, dense_mode=None):
    """Run a batch of pixels through the model.

    Parameters
    ----------
    clip : CLIPModel
    preprocessor : Preprocessor
    pixels : ndarray of uint8 of shape (n, H, W, 3)
    dense_mode : str or None
        How to make patch tokens, or None for global embeddings alone.

    Returns
    -------
    tensor of float32 of shape (n, d) or (n, 1 + K, d)
        On the device of the model; the last axis has length one.
    """
    import torch

    with fork_safe_threads(), torch.inference_mode():
        inputs = preprocessor.to_input(pixels, clip.device, clip.dtype)
        if dense_mode is None:
            encoded = clip.model.encode_image(inputs)
        else:
            encoded = embed_tokens(clip.model, inputs, dense_mode)
        return _unit_rows(encoded)


def embed_texts(clip, texts, tokenizing, *, batch_size):
    """Embed texts.

    Parameters
    ----------
    clip : CLIPModel
    texts : list of str
    tokenizing : Tokenizing
        Of that model.
    batch_size : int

    Returns
    -------
    ndarray of float32 of shape (n, d)
        Rows have length one.
    """
    import torch

    embeddings = []
    for start in range(0, len(texts), batch_size):
        tokens = tokenizing.tokens(texts[start : start + batch_size])
        with fork_safe_threads(), torch.inference_mode():
            encoded = clip.model.encode_text(tokens.to(clip.device))
            rows = _unit_rows(encoded).cpu().numpy()
        embeddings.append(check_finite(rows, clip.dtype))
    return np.concatenate(embeddings)


def _unit_rows(rows):
    """Scale the last axis to length one, in float32."""
    import torch

    return torch.nn.functional.normalize(rows.float(), dim=-1)


def check_finite(rows, dtype):
    """Return an array or tensor of embeddings if they are finite, or raise.

    Parameters
    ----------
    rows : ndarray or tensor
    dtype : torch.dtype
        That the model computes in.

    Raises
    ------
    FloatingPointError
    """
    if not bool((abs(rows) <= 1.5).all()):  # NaN is not, and nothing is copied twice
        raise FloatingPointError(
            f"The model gave embeddings that are not finite, in {dtype}. Some "
            "models overflow in half precision: use precision='bf16' or 'fp32'. If "
            "they do so in float32, the weights are broken."
        )
    return rows
