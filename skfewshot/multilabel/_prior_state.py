"""What a prior learned, as plain arrays: what they do to features, and their file."""

import json
import os
from collections.abc import Callable
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import expit
from sklearn.utils.validation import check_is_fitted

from skfewshot._files import replacing
from skfewshot._rows import check_parameters, unit_rows
from skfewshot._text import Prototypes
from skfewshot._torch import (
    fork_safe_threads,
    import_torch,
    resolve_device,
    to_numpy,
    to_tensor,
)
from skfewshot.clip._embedding import read_identity

if TYPE_CHECKING:
    from skfewshot.multilabel._interaction import PriorNetwork

#: Steps of the cross-interaction, in their order.
STEPS = ("gate", "convolution", "attention")
# Changed whenever saved priors could not be read any more.
_FORMAT = "2"
#: Parameters that decide what a trained prior is.
_PARAMETERS = (
    *("interaction", "residual", "n_heads", "mlp_width", "n_components"),
    *("selection", "n_select", "query_scoring", "scale"),
)
#: What was learned of the training, beside the arrays.
_COUNTS = ("width_", "label_width_", "n_features_in_", "n_iter_", "best_episode_")
_CURVES = ("loss_curve_", "validation_scores_")
#: What makes an encoder the same one.
_IDENTITY = ("model_name", "pretrained", "fingerprint", "embedding_dim", "logit_scale")

State = dict[str, NDArray]


#: What a classifier does without a prior where it is left to decide.
_DEFAULTS = {"selection": "lcm", "n_select": 5, "query_scoring": "competitive"}


def settings(classifier: Any) -> dict[str, Any]:
    """Return the parameters of a classifier, each "auto" replaced by what it means.

    That is the prior's where there is one, fitted or not, but competition is combined
    with discriminants. The text's share stays "auto", to be found. A prior whose
    network is the paper's has neither.
    """
    prior = classifier.prior
    names = ("selection", "n_select", "pooling", "query_scoring", "text_weight")
    of_prior = prior is not None and not prior.residual
    found = {
        **_DEFAULTS,
        "pooling": "agreement" if of_prior else "mean",
        "text_weight": 0.0 if of_prior else "auto",
    }
    if prior is not None:
        found.update({name: getattr(prior, name) for name in _DEFAULTS})
    if not of_prior and found["query_scoring"] == "competitive":
        found["query_scoring"] = "combined"
    given = {name: getattr(classifier, name) for name in names}
    found.update(
        {k: v for k, v in given.items() if not isinstance(v, str) or v != "auto"}
    )
    found["scale"] = float(classifier.scale if prior is None else prior.scale)
    return found


def check_options(prior: Any) -> None:
    """Refuse parameters of a prior that are not what they should be."""
    check_parameters(prior.get_params(deep=False))
    if np.ndim(prior.interaction) != 1 or set(prior.interaction) - set(STEPS):
        raise ValueError(
            f"interaction={prior.interaction!r} must be a sequence of some of "
            f"{list(STEPS)}."
        )
    shots = list(prior.shots)
    whole = all(isinstance(n, Integral) for n in shots)
    if len(shots) != 2 or not whole or not 1 <= shots[0] <= shots[1] < 2**31:
        raise ValueError(
            f"shots={prior.shots!r} must be two integers, the fewest and the most "
            "images a label, of which the first is at least 1."
        )


def network_options(prior: Any) -> dict[str, Any]:
    """Return the parameters of the network of a prior."""
    width = common_width(prior)
    heads = range(1, min(prior.n_heads, width) + 1)
    return {
        "width": width,
        "token_width": prior.width_,
        "label_width": prior.label_width_,
        "steps": tuple(step for step in STEPS if step in prior.interaction),
        "n_heads": max(n for n in heads if width % n == 0),
        "residual": bool(prior.residual),
        "mlp_width": prior.mlp_width,
    }


def common_width(prior: Any) -> int:
    """Return the width that a prior maps images and labels to."""
    return int(prior.width_ if prior.n_components is None else prior.n_components)


def _empty_network(prior: Any) -> "PriorNetwork":
    """Return the network of a prior, without memory for its numbers."""
    torch = import_torch()

    from skfewshot.multilabel._interaction import PriorNetwork

    with torch.device("meta"):
        return PriorNetwork(**network_options(prior))


def check_prior(prior: Any, found: Prototypes, width: int) -> None:
    """Refuse a prior that does not go with the label vectors and the tokens."""
    check_is_fitted(prior)
    if found.features is None:
        raise ValueError(
            "prior needs label vectors, but there are none: pass label_features, or "
            "label_names with tokens straight from a CLIPFeaturizer or with "
            "text_encoder."
        )
    if prior.width_ != width:
        raise ValueError(
            f"prior was trained on tokens of width {prior.width_}, but X has tokens of "
            f"width {width}."
        )
    if prior.label_width_ != found.features.shape[1]:
        raise ValueError(
            f"prior was trained with label vectors of width {prior.label_width_}, but "
            f"label_features (from {found.source}) has vectors of width "
            f"{found.features.shape[1]}."
        )
    known = prior.encoder_
    if known is not None and found.encoder is not None and known != found.encoder:
        raise ValueError(
            f"prior was trained on tokens of {known}, but X has those of "
            f"{found.encoder}."
        )


def map_labels(state: State, vectors: NDArray) -> NDArray:
    """Map label vectors, shape (n_labels, label_width), to unit rows."""
    matrix = state["label_map"].astype(vectors.dtype)
    return unit_rows(vectors @ matrix + state["label_bias"].astype(vectors.dtype))


def image_maps(state: State, residual: bool, dtype: DTypeLike) -> dict[str, NDArray]:
    """Return matrices and biases of image features, by their names in a FeatureMap."""
    found = {}
    for name in ("matrix", "bias"):
        learned = "map" if name == "matrix" else "bias"
        part, whole = state[f"part_{learned}"], state[f"whole_{learned}"]
        found[f"part_{name}"] = part.astype(dtype)
        # That of the global feature is the local one's and a change of its own.
        found[f"whole_{name}"] = (part + whole if residual else whole).astype(dtype)
    return found


def learned_text_shares(state: State, counts: NDArray) -> NDArray:
    """Return the text's share of prototypes made from so many images each."""
    if "share" not in state:
        return np.where(counts > 0, 0, 1).astype(counts.dtype)
    level, slope = state["share"].astype(counts.dtype)
    shares = expit(level - np.exp(slope) * np.log(np.maximum(counts, 1)))
    return np.where(counts > 0, shares, 1).astype(counts.dtype)


def pair_encoder(
    prior: Any, mapped_labels: NDArray, label_vectors: Any, device: Any
) -> Callable[..., NDArray] | None:
    """Return the function by which the interaction turns features into vectors.

    Parameters
    ----------
    prior : MultiLabelPrototypePrior
        Fitted.
    mapped_labels, label_vectors : ndarray of shape (n_labels, d)
        The labels after and before the map, unit rows.
    device : None, str or torch.device

    Returns
    -------
    callable or None
        ``encode(mean, features, valid, labels)``, for
        :func:`skfewshot.multilabel._prototypes.make_pairs`. None where there is no
        interaction.
    """
    if not len(prior.interaction):
        return None

    def encode(
        mean: NDArray, features: NDArray, valid: NDArray, labels: NDArray
    ) -> NDArray:
        torch, where = import_torch(), resolve_device(device)
        arrays = (mean, features, valid, mapped_labels, label_vectors, labels)
        network = _empty_network(prior).eval()
        with fork_safe_threads(), torch.inference_mode():
            tensors = [to_tensor(array, device=where) for array in arrays]
            state = {
                name: to_tensor(value, device=where, dtype=tensors[0].dtype)
                for name, value in prior.state_.items()
            }
            network.load_state_dict(state, assign=True)
            vectors = network.pair_vectors(*tensors)
        return to_numpy(vectors, dtype=mean.dtype)

    return encode


def check_state(prior: Any) -> None:
    """Refuse arrays that are not those of the network that was saved."""
    state = prior.state_
    # First of all: a network of a width that somebody made up may fit no memory.
    width = common_width(prior)
    made_up = state["part_map"].shape != (prior.width_, width)
    made_up |= state["label_map"].shape != (prior.label_width_, width)
    if len(prior.interaction):
        hidden = len(state["interaction.mlp.0.bias"])
        made_up |= hidden != (prior.mlp_width or width)
    if made_up:
        raise ValueError(
            "saved holds arrays of other widths than described, "
            f"{prior.width_} of tokens and {width} in common"
        )
    network = _empty_network(prior).state_dict()
    wanted = {name: tuple(value.shape) for name, value in network.items()}
    found = {name: value.shape for name, value in state.items()}
    sound = all(
        value.dtype in (np.float32, np.float64) and np.isfinite(value).all()
        for value in state.values()
    )
    if wanted != found or not sound:
        raise ValueError(
            f"saved holds arrays {found}, all finite floats: {sound}; wanted {wanted}."
        )


def save_prior(prior: Any, path: str | os.PathLike) -> None:
    """Write a fitted prior; a file at `path` is replaced when the new one is whole."""
    from safetensors.numpy import save

    identity = prior.encoder_
    about = {
        "parameters": {name: getattr(prior, name) for name in _PARAMETERS},
        "fitted": {name: getattr(prior, name) for name in _COUNTS + _CURVES},
        "encoder": identity and {name: getattr(identity, name) for name in _IDENTITY},
    }
    text = json.dumps(about, default=_as_json)
    metadata = {"skfewshot_prior": _FORMAT, "about": text}
    # Not ascontiguousarray, which gives numbers an axis.
    arrays = {name: np.asarray(v, order="C") for name, v in prior.state_.items()}
    with replacing(path) as partial:
        partial.write_bytes(save(arrays, metadata))


def read_prior(path: str | os.PathLike) -> tuple[str, State]:
    """Read what :func:`save_prior` wrote.

    Returns
    -------
    about : str
        What it says of parameters and training.
    state : dict of str to ndarray

    Raises
    ------
    ValueError
        If the file is no saved prior.
    OSError
        If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    # Opened by ourselves first, for an error that says what is wrong with the path.
    with open(path, "rb"):
        pass
    try:
        with safe_open(path, "numpy") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, AttributeError, TypeError) as error:  # no NumPy dtype
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if metadata.get("skfewshot_prior") != _FORMAT:
        raise ValueError(
            f"{path} is no prior that this version of skfewshot saved; its metadata is "
            f"{str(metadata)[:200]}."
        )
    return metadata.get("about", ""), state


def read_fitted(about: dict[str, Any]) -> dict[str, Any]:
    """Return what a saved prior says of its training; refuse what no training gives."""
    fitted = {name: about["fitted"][name] for name in _COUNTS + _CURVES}
    counts = [fitted[name] for name in _COUNTS]
    curves = [value for name in _CURVES for value in fitted[name]]
    is_sound = all(type(value) is int and value >= 0 for value in counts)
    if not is_sound or not all(type(value) in (int, float) for value in curves):
        raise ValueError(f"no training gives {fitted!r:.200}")
    encoder = about["encoder"]
    fitted["encoder_"] = None if encoder is None else read_identity(encoder)
    return fitted


def _as_json(value: Any) -> Any:
    """Return numbers and arrays of NumPy, and paths, as JSON has them."""
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)
