"""Adds the classifier's input and the class-activation maps to the outputs of a LiteRT file.

The networks end in a convolution and a mean over all positions (SqueezeNet), or in that mean and
one dense layer (SqueezeNext). Either way a class's logit is exactly the mean of a map, its
class-activation map (arXiv:1512.04150), which needs no gradient. The tensors are found by their
operators, since names differ from one converter to the next.
"""

import dataclasses

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from squeezenext.errors import InputError
from squeezenext.litert.container import TYPES, Buffer

_CODES = schema.BuiltinOperator
_MEANS = {_CODES.MEAN, _CODES.AVERAGE_POOL_2D}
_ACTIVATIONS = {_CODES.RELU, _CODES.ELU}
# Operators after which a position still means the same.
_TRANSPARENT = _ACTIVATIONS | {
    *(_CODES.RESHAPE, _CODES.SQUEEZE, _CODES.PAD, _CODES.PADV2),
    *(_CODES.QUANTIZE, _CODES.DEQUANTIZE, _CODES.SOFTMAX),
}


@dataclasses.dataclass(frozen=True)
class Tapped:
    """A LiteRT file with more outputs.

    Attributes:
      content: the file; its outputs are the logits, the classifier's input and, for a
        convolutional classifier, the class maps.
      kernel: [classes, channels] float32 of a dense classifier, else None.
      bias: [classes] float32 of a dense classifier, else None.
    """

    content: bytes
    kernel: np.ndarray | None
    bias: np.ndarray | None

    def features(self, outputs: list[np.ndarray]) -> np.ndarray:
        """Returns the mean of the classifier's input over all positions, [channels] float32."""
        return outputs[1].mean((0, 1))

    def class_map(self, outputs: list[np.ndarray], index: int) -> np.ndarray:
        """Returns a class's map, [height, width] float32, whose mean is its logit."""
        if index >= len(outputs[0]):
            raise InputError(f"There is no class {index}: the last is {len(outputs[0]) - 1}.")
        if self.kernel is None:
            return outputs[2][..., index]
        return outputs[1] @ self.kernel[index] + self.bias[index]


def tap(content: bytes, name: str) -> Tapped:
    """Adds the outputs to a file, which messages call `name`.

    The interpreter must have accepted the file, since its offsets are not checked here.

    Raises:
      InputError: the file does not end as these networks do.
    """
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        graph = _Graph(model)
        logits = graph.outputs[0]
        end = graph.producer(logits, _MEANS | {_CODES.FULLY_CONNECTED})
        if graph.code(end) == _CODES.FULLY_CONNECTED:
            kernel, bias = graph.constant(end.inputs[1]), graph.bias(end)
            mean = graph.producer(end.inputs[0], _MEANS)
            wanted = [mean.inputs[0]]
        else:
            kernel = bias = None
            conv = graph.producer(end.inputs[0], {_CODES.CONV_2D})
            # What an activation gives belongs to the classifier's input.
            features = graph.before(conv.inputs[0], _TRANSPARENT - _ACTIVATIONS)
            wanted = [features, end.inputs[0]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{name} does not end in a pooled convolution or dense layer; features and maps need "
            "that."
        ) from error
    graph.outputs[:] = [logits, *wanted, *graph.outputs[1:]]  # `known` is the last, if it is there
    model.buffers = [
        Buffer(None if buffer.data is None else np.asarray(buffer.data, np.uint8).tobytes())
        for buffer in model.buffers
    ]
    # A signature would list the old outputs; without one the subgraph's outputs count.
    model.signatureDefs = []
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return Tapped(bytes(builder.Output()), kernel, bias)


class _Graph:
    """The operators of a file's only subgraph, by the tensors that they write."""

    def __init__(self, model):
        self._model = model
        (self._subgraph,) = model.subgraphs
        self.outputs = list(self._subgraph.outputs)
        self._subgraph.outputs = self.outputs
        self._makers = {
            int(output): operator
            for operator in self._subgraph.operators
            for output in operator.outputs
        }

    def code(self, operator) -> int:
        entry = self._model.operatorCodes[operator.opcodeIndex]
        return max(entry.builtinCode, entry.deprecatedBuiltinCode)  # schema.fbs: the larger counts

    def producer(self, tensor: int, wanted: set[int]):
        """Returns the operator before `tensor`; raises LookupError if it is of no wanted kind."""
        operator = self._makers[self.before(tensor, _TRANSPARENT)]
        if self.code(operator) not in wanted:
            raise LookupError(self.code(operator))
        return operator

    def before(self, tensor: int, skipped: set[int]) -> int:
        """Returns the nearest tensor that no operator of the skipped kinds writes."""
        while self.code(self._makers[int(tensor)]) in skipped:
            tensor = self._makers[int(tensor)].inputs[0]
        return int(tensor)

    def bias(self, dense) -> np.ndarray:
        """Returns the bias of a dense layer, zeros if it has none."""
        if len(dense.inputs) > 2 and dense.inputs[2] >= 0:
            return self.constant(dense.inputs[2])
        classes = self._subgraph.tensors[int(dense.inputs[1])].shape[0]
        return np.zeros(classes, np.float32)

    def constant(self, index: int) -> np.ndarray:
        """Returns a constant as float32, whatever its number format."""
        while int(index) in self._makers:  # half-precision weights pass through DEQUANTIZE
            index = self._makers[int(index)].inputs[0]
        tensor = self._subgraph.tensors[int(index)]
        kind = {number: kind for kind, number in TYPES.items()}[tensor.type]
        data = np.asarray(self._model.buffers[tensor.buffer].data, np.uint8)
        values = data.view(kind).reshape(tensor.shape).astype(np.float32)
        if kind.kind == "f":
            return values
        numbers = (tensor.quantization.scale, tensor.quantization.zeroPoint)
        each = (-1,) + (1,) * (values.ndim - 1)
        scale, zero = (np.asarray(x, np.float32).reshape(each) for x in numbers)
        return (values - zero) * scale
