"""Fitted classifiers for other runtimes: ONNX."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted

from skfewshot import __version__
from skfewshot.export._families import LOGITS, add_rows, add_tokens
from skfewshot.export._graph import Graph
from skfewshot.multilabel import MultiLabelPrototypeClassifier

if TYPE_CHECKING:
    import onnx

__all__ = ["to_onnx"]


def to_onnx(classifier: Any) -> onnx.ModelProto:
    """Export a fitted classifier to ONNX.

    The model takes the place of ``predict`` and ``predict_proba`` where there is no
    Python, torch or scikit-learn: from embeddings to labels and probabilities. It
    computes in float32, also if the classifier was fitted in float64; then it says what
    the classifier says of ``X.astype(np.float32)``.

    Parameters
    ----------
    classifier : estimator
        A fitted classifier of this package: of one label an image, or
        :class:`~skfewshot.MultiLabelPrototypeClassifier`. Of a pipeline or a search
        pass the classifier itself, ``pipeline[-1]`` or ``search.best_estimator_``. A
        subclass is refused, as it may compute something else.

    Returns
    -------
    onnx.ModelProto
        Of opset 18, for onnxruntime 1.16 or later, checked. Its input is

        - ``X``, float32 of shape (N, n_features), or tokens of shape (N, T, d) for a
          multi-label classifier that was fitted on tokens; of any N from 1 on.

        Its outputs are

        - ``label``, of shape (N,): strings, or int64 where the labels are numbers.
          Indicators of shape (N, n_labels), int64, with several labels an image.
        - ``probabilities``, float32 of shape (N, n_classes), in the order of
          ``classes_``.

        Its metadata are ``classifier``, the name of the class; ``classes``, the labels
        as JSON; ``encoder``, the encoder of the embeddings as JSON, or ``null`` where
        it is not known; and ``skfewshot_version``.

    Raises
    ------
    TypeError
        If `classifier` is something else.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If its labels are neither texts nor whole numbers.
    ImportError
        If onnx is not installed: ``pip install onnx``.

    Notes
    -----
    A graph cannot refuse its input. Of no rows at all onnxruntime makes what it likes,
    old versions a crash. Where X has values that are not finite, in a token
    that is not padding as a whole, the probabilities of the row are NaN and its label
    means nothing; compare the encoder of the metadata with yours beforehand.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import ZeroShotClassifier
    >>> from skfewshot.export import to_onnx
    >>> texts = {"cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    >>> classifier = ZeroShotClassifier(texts).fit(np.eye(2), ["cat", "dog"])
    >>> model = to_onnx(classifier)
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    >>> import onnxruntime
    >>> session = onnxruntime.InferenceSession(model.SerializeToString())
    >>> label, probabilities = session.run(None, {"X": np.float32([[0.9, 0.5]])})
    >>> label.tolist()
    ['cat']
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "to_onnx needs onnx, which is not installed: pip install onnx."
        ) from error
    is_of_tokens = type(classifier) is MultiLabelPrototypeClassifier
    if not is_of_tokens and type(classifier) not in LOGITS:
        raise TypeError(
            "classifier must be a fitted classifier of skfewshot, and no subclass of "
            f"one; got {type(classifier).__name__}. Of a pipeline pass the last step."
        )
    check_is_fitted(classifier)
    graph = Graph()
    add = add_tokens if is_of_tokens else add_rows
    inputs, outputs = add(graph, classifier)
    encoder = classifier.encoder_ and asdict(classifier.encoder_)
    if encoder:
        # Which may be functions, and a folder of this machine.
        del encoder["prompt_templates"], encoder["cache"]
    model = graph.model(
        inputs,
        outputs,
        classifier=type(classifier).__name__,
        classes=json.dumps(classifier.classes_.tolist(), default=str),
        encoder=json.dumps(encoder, default=str),
        skfewshot_version=__version__,
    )
    model.producer_name, model.producer_version = "skfewshot", __version__
    return model
