"""The card of a saved model: what it tells apart, how well, and by whose weights."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

import skfewshot
from skfewshot._sklearn import show_estimator
from skfewshot.clip._embedding import EncoderIdentity
from skfewshot.clip._featurizer import takes_images
from skfewshot.clip._sources import TINY, hub_repository
from skfewshot.metrics import expected_calibration_error

#: Rows of the table of classes; names beyond that are counted.
_MOST_CLASSES = 1000
# What the front matter of every card says.
_LIBRARY = ("library_name", "skfewshot")
#: The licence of the weights of OpenAI's tag, and of all of LAION's on the hub.
_OPENAI, _LAION, _MIT = "openai", "laion/", "MIT"


def model_card(model: BaseEstimator, name: str, weights_license: str | None) -> str:
    """Return the card of a fitted model, Markdown with the hub's front matter.

    Parameters
    ----------
    model : estimator
        Fitted.
    name : str
        What the model is called.
    weights_license : str or None
        See :func:`~skfewshot.save`.

    Returns
    -------
    str
    """
    last = _innermost(model)
    encoder = getattr(last, "encoder_", None)
    classes = getattr(last, "classes_", None)
    parts = [
        _front_matter(encoder, classes),
        f"# {_escaped(name)}",
        _what_it_is(model, last, classes),
        f"## Use\n\n```python\nimport skfewshot\n\nmodel = skfewshot.load({name!r})\n"
        f"{_use(model, last)}\n```\n\nThe path is that of the folder, or "
        '`"hf-hub:ORG/NAME"`. Loading runs no code of the file. Needs skfewshot '
        f"{skfewshot.__version__}.",
    ]
    if classes is not None:
        parts += [_classes_table(classes, getattr(last, "class_count_", None))]
    parts += [_how_well(last), _encoder_text(encoder, weights_license)]
    settings = (
        show_estimator(model).encode("utf-8", "replace").decode().replace("```", "'''")
    )
    parts += [f"## Settings\n\n```text\n{settings}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def is_card(path: Path) -> bool:
    """Return whether a file is the card of a model, as it was made or edited."""
    begins = path.read_bytes()[:1000].decode("utf-8", "replace")
    return begins.startswith("---") and _line(*_LIBRARY) in begins


def _line(key: str, value: Any) -> str:
    return f"{key}: {json.dumps(value)}"


def _innermost(model: Any) -> Any:
    """Return the classifier in a pipeline, a search or another estimator."""
    inner = model[-1] if isinstance(model, Pipeline) else model
    for name in ("best_estimator_", "estimator_"):
        if hasattr(inner, name):
            return _innermost(getattr(inner, name))
    return inner


def _front_matter(encoder: EncoderIdentity | None, classes: Any) -> str:
    """Return what the hub reads: JSON values, which are YAML too."""
    about: dict[str, Any] = dict([_LIBRARY])
    if classes is not None:
        about["pipeline_tag"] = "image-classification"
    about["tags"] = ["skfewshot", "skops", "few-shot", "clip"]
    repository = None if encoder is None else _repository(encoder)
    if repository:
        about["base_model"] = repository
    lines = [_line(key, value) for key, value in about.items()]
    return "\n".join(["---", *lines, "---"])


def _what_it_is(model: Any, last: Any, classes: Any) -> str:
    kind = f"`{type(last).__name__}` of skfewshot {skfewshot.__version__}"
    if classes is None:
        return f"A fitted {kind}."
    what = "images" if takes_images(model) else "embeddings of images"
    counts = getattr(last, "class_count_", np.zeros(0))
    learned = ""
    if np.any(counts):
        fewest, most = _number(counts.min()), _number(counts.max())
        shots = fewest if fewest == most else f"{fewest} to {most}"
        learned = f", learned from {shots} image{'s' * (shots != '1')} of each"
    shares = getattr(last, "unlabeled_shares_", None)
    if shares is not None and getattr(last, "uses_unlabeled_", True):
        learned += " and" if learned else ", learned"
        learned += " from images without labels"
    return (
        f"Classifies {what} into {len(classes)} classes{learned}, by a {kind} on "
        "frozen CLIP embeddings. Probabilities are those of these classes, and add up "
        "to one whatever the image shows, unless it has several labels."
    )


def _use(model: Any, last: Any) -> str:
    if takes_images(model):
        return 'model.predict(["photo.jpg"])'
    if hasattr(last, "predict"):
        return "model.predict(X)  # embeddings of the encoder below, one a row"
    return "model"


def _classes_table(classes: NDArray, counts: NDArray | None) -> str:
    shown = classes[:_MOST_CLASSES].tolist()
    if counts is None or not np.any(counts):
        rows = ["| class |", "|---|", *(f"| {_escaped(name)} |" for name in shown)]
    else:
        rows = ["| class | images |", "|---|---|"]
        rows += [
            f"| {_escaped(name)} | {_number(count)} |"
            for name, count in zip(shown, counts, strict=False)
        ]
    more = len(classes) - len(shown)
    return "\n".join(
        ["## Classes", "", *rows, *([f"\nand {more} more"] if more else [])]
    )


def _number(value: float) -> str:
    return f"{value:.10g}"


def _how_well(last: Any) -> str:
    """Return what rows that were left out say, where the classifier has them."""
    codes = getattr(last, "support_codes_", None)
    if codes is None:
        return ""
    kept = codes >= 0
    proba, codes = last.left_out_proba_[kept].astype(float), codes[kept]
    right = (proba.argmax(axis=1) == codes).mean()
    own = proba[np.arange(len(codes)), codes]
    loss = -np.log(np.maximum(own, np.finfo(float).tiny)).mean()
    labels = np.arange(proba.shape[1])
    error = expected_calibration_error(codes, proba, labels=labels)
    return (
        "## How well\n\nEach image of the support was classified by the classifier "
        "without it:\n\n| | |\n|---|---|\n"
        f"| right | {100 * right:.1f} % of {len(codes)} |\n"
        f"| mean log loss | {loss:.3f} |\n"
        f"| expected calibration error | {error:.3f} |\n\n"
        "New images from elsewhere may be harder."
    )


def _repository(encoder: EncoderIdentity) -> str | None:
    return hub_repository(encoder.model_name, encoder.pretrained)


def _encoder_text(encoder: EncoderIdentity | None, weights_license: str | None) -> str:
    """Say whose weights the embeddings are from, and under which licence these are."""
    if encoder is None:
        return (
            "## Encoder\n\nNot known: the embeddings that the classifier learned from "
            "did not say. It takes embeddings of the same one only."
        )
    rows = [
        ("model", f"`{encoder.model_name}`"),
        ("weights", _weights(encoder.pretrained)),
        ("fingerprint", f"`{encoder.fingerprint}`"),
        ("width", str(encoder.embedding_dim)),
        ("resizing", encoder.resize_mode),
        ("licence of the weights", _license(encoder, weights_license)),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    return (
        "## Encoder\n\nIts weights are not in these files; they load where the model "
        f"is used, and others are refused.\n\n| | |\n|---|---|\n{table}"
    )


def _weights(pretrained: str | None) -> str:
    """Name weights, without the folders of this machine."""
    if not pretrained:
        return "its own"
    name = os.path.basename(pretrained)
    return f"`{pretrained}`" if name == pretrained else f"a file, `{name}`"


def _license(encoder: EncoderIdentity, told: str | None) -> str:
    if told is not None:
        return _escaped(told)
    if encoder.model_name == TINY:
        return "BSD-3-Clause, that of skfewshot"
    repository = _repository(encoder)
    page = f"https://huggingface.co/{repository}" if repository else ""
    if encoder.pretrained == _OPENAI or (repository or "").startswith(_LAION):
        return f"{_MIT}, as their makers gave it; see <{page}>"
    if page:
        return f"see <{page}>"
    return "not known to skfewshot: ask where the weights are from"


def _escaped(value: Any) -> str:
    """Return text that is a cell of a table and no markup, whatever it holds."""
    text = " ".join(str(value).encode("utf-8", "replace").decode().split())
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text
