"""Trained priors on disk: safetensors files, which hold no code."""

import json
import os
from pathlib import Path

import numpy as np

from skfewshot.clip.files import open_file
from skfewshot.clip.identity import is_number, read_identity

# Changed whenever saved priors could not be read any more.
_FORMAT = "1"
#: Parameters that decide what a trained prior is.
_PARAMETERS = (
    *("interaction", "residual", "n_heads", "selection", "n_select"),
    *("query_scoring", "scale"),
)
#: What was learned of the training, beside the arrays.
_FITTED = (
    *("width_", "n_features_in_", "n_iter_", "best_episode_"),
    *("loss_curve_", "validation_scores_"),
)


def save_prior(prior, path):
    """Write a fitted prior; a file at `path` is replaced when the new one is whole."""
    from safetensors.numpy import save

    about = {
        "parameters": {name: _plain(getattr(prior, name)) for name in _PARAMETERS},
        "fitted": {name: _plain(getattr(prior, name)) for name in _FITTED},
        "encoder": None if prior.encoder_ is None else describe_encoder(prior.encoder_),
    }
    metadata = {"skfewshot_prior": _FORMAT, "about": json.dumps(about)}
    # Not ascontiguousarray, which gives numbers an axis.
    arrays = {name: np.asarray(v, order="C") for name, v in prior.state_.items()}
    _write_atomically(Path(path), save(arrays, metadata))


def read_prior(path):
    """Read what :func:`save_prior` wrote.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    parameters, fitted : dict
    state : dict of str to ndarray

    Raises
    ------
    ValueError
        If the file is no saved prior.
    OSError
        If it cannot be read.
    """
    state, metadata = _read_arrays(path)
    if metadata.get("skfewshot_prior") != _FORMAT:
        raise ValueError(
            f"{path} is no prior that this version of skfewshot saved; its metadata is "
            f"{str(metadata)[:200]}."
        )
    try:
        about = json.loads(metadata["about"])
        fitted = {name: about["fitted"][name] for name in _FITTED}
        _check_fitted(fitted, state)
        encoder = about["encoder"]
        fitted["encoder_"] = None if encoder is None else read_identity(encoder)
        return dict(about["parameters"]), fitted, state
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} describes no prior: {error!r}") from error


def _read_arrays(path):
    """Return the arrays of a safetensors file, and its metadata."""
    from safetensors import SafetensorError, safe_open

    # Opened by ourselves first, for an error that says what is wrong with the path.
    with open_file(path):
        pass
    try:
        with safe_open(path, "numpy") as file:
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    except (AttributeError, TypeError) as error:  # numbers that NumPy does not have
        raise ValueError(f"{path} holds other numbers than a prior: {error}") from error
    kinds = {str(value.dtype) for value in state.values()}
    if not kinds <= {"float32", "float64"}:
        raise ValueError(f"{path} holds arrays of {sorted(kinds)}; wanted are floats.")
    return state, metadata


def _check_fitted(fitted, state):
    """Refuse numbers that no training gives; a width is that of some array."""
    widest = max((max(value.shape, default=1) for value in state.values()), default=0)
    for name, value in fitted.items():
        if name in ("loss_curve_", "validation_scores_"):
            sound = isinstance(value, list) and all(
                is_number(item, int | float) for item in value
            )
        else:
            sound = is_number(value, int) and 0 <= value
        if not sound:
            raise ValueError(f"{name} is {value!r:.80}")
    if not 1 <= fitted["width_"] <= widest:
        raise ValueError(f"width_ is {fitted['width_']}, the arrays' is {widest}")


def describe_encoder(encoder):
    """Return what makes an encoder the same one, as JSON has it."""
    names = ("model_name", "pretrained", "fingerprint", "embedding_dim", "logit_scale")
    found = {name: _plain(getattr(encoder, name)) for name in names}
    if found["pretrained"] is not None:
        found["pretrained"] = str(found["pretrained"])
    return found


def _plain(value):
    """Return numbers, texts and lists as JSON has them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    return value


def _write_atomically(path, content):
    """Write a file beside `path`, then put it in its place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
