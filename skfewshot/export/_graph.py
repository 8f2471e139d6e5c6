"""ONNX graphs written as text: nodes line by line, and the arrays that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import onnx

#: The operators' version, which onnxruntime 1.16 is tested with.
OPSET, IR_VERSION = 18, 8


class Graph:
    """A graph that grows node by node, in float32.

    Nodes are lines of ONNX's textual syntax, ``sum = Add(a, b)``. All graphs know the
    arrays ``zero``, ``one``, ``tiny`` (the smallest normal number), ``lowest`` (minus
    infinity) and, for axes, ``first``, ``second`` and ``last``.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.arrays: dict[str, Any] = {}
        self.add(
            zero=np.float32(0),
            one=np.float32(1),
            tiny=np.finfo(np.float32).tiny,
            lowest=np.float32(-np.inf),
            first=np.array([0]),
            second=np.array([1]),
            last=np.array([-1]),
        )

    def add(self, *lines: str, **arrays: ArrayLike) -> None:
        """Add nodes, and arrays by name: numbers become float32 or int64."""
        self.lines += lines
        self.arrays |= arrays

    def add_unit(self, rows: str, unit: str) -> None:
        """Scale `rows` to length one along the last axis; zeros stay zeros."""
        # First by the largest entry, so that no square overflows or vanishes: then a
        # row has a length of at least one, unless all of it is zero.
        self.add(
            f"{unit}_entries = Abs({rows})",
            f"{unit}_largest = ReduceMax<keepdims = 1>({unit}_entries, last)",
            f"{unit}_some = Greater({unit}_largest, zero)",
            f"{unit}_size = Where({unit}_some, {unit}_largest, one)",
            f"{unit}_scaled = Div({rows}, {unit}_size)",
            f"{unit}_length = ReduceL2<keepdims = 1>({unit}_scaled, last)",
            f"{unit}_divisor = Max({unit}_length, one)",
            f"{unit} = Div({unit}_scaled, {unit}_divisor)",
        )

    def add_softmax(self, classes: NDArray[Any]) -> str:
        """Make the outputs from `logits` (N, C); return the types and names of them."""
        self.add(
            "likely = Softmax<axis = -1>(logits)",
            "probabilities = Max(likely, tiny)",
            "best = ArgMax<axis = -1, keepdims = 0>(logits)",
            "label = Gather(classes, best)",
            classes=label_array(classes),
        )
        kind = "string" if self.arrays["classes"].dtype == object else "int64"
        return f"{kind}[N] label, float[N, {len(classes)}] probabilities"

    def model(self, inputs: str, outputs: str, **about: str) -> onnx.ModelProto:
        """Return the checked model.

        Parameters
        ----------
        inputs, outputs : str
            Their types and names, ``float[N, 4] X``.
        **about : str
            Metadata.

        Returns
        -------
        onnx.ModelProto
        """
        import onnx

        model = onnx.parser.parse_model(
            f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>\n'
            f"skfewshot ({inputs}) => ({outputs}) {{\n" + "\n".join(self.lines) + "}"
        )
        used = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            _tensor(name, array) for name, array in self.arrays.items() if name in used
        )
        onnx.helper.set_model_props(model, about)
        onnx.checker.check_model(model, full_check=True)
        return model


def label_array(classes: NDArray[Any]) -> NDArray[Any]:
    """Return class labels as an array of str or int64.

    Raises
    ------
    ValueError
        If they are neither Unicode texts nor whole numbers.
    """
    try:
        if all(isinstance(label, str) for label in classes.tolist()):
            "".join(classes).encode()  # which lone surrogates refuse
            return classes.astype(object)
        whole = classes.astype(np.int64)
        if (whole == classes).all():
            return whole
    except (OverflowError, TypeError, ValueError):
        pass
    raise ValueError(
        "to_onnx can export labels that are Unicode texts or integers of 64 bits; this "
        f"classifier was fitted on {classes.tolist()[:5]}."
    )


def _tensor(name: str, array: ArrayLike) -> onnx.TensorProto:
    from onnx import TensorProto, helper, numpy_helper

    array = np.asarray(array)
    if array.dtype == object:
        texts = [text.encode() for text in array]
        return helper.make_tensor(name, TensorProto.STRING, array.shape, texts)
    number = np.float32 if array.dtype.kind == "f" else np.int64
    return numpy_helper.from_array(np.asarray(array, number, order="C"), name)
