"""Packs tensors, buffers and operators into a LiteRT file (.tflite), without TensorFlow.

It uses the schema's own classes, which ai-edge-litert ships. writer.py chooses the operators of a
network.
"""

from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}


class Buffer(schema.BufferT):
    """A buffer aligned to 16 bytes, as schema.fbs demands; the generated class does not align."""

    def Pack(self, builder):
        """Writes the bytes; flatbuffers calls this."""
        data = self.data
        if data is not None:
            builder.StartVector(1, len(data), 16)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class LitertFile:
    """A file of one subgraph, filled operator by operator."""

    def __init__(self, description: str):
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = description
        self._model.buffers = [Buffer()]  # buffer 0 is empty by convention
        self._model.operatorCodes = []
        self._graph = schema.SubGraphT()
        self._graph.name = "main"
        self._graph.tensors, self._graph.operators = [], []
        self._codes: dict[tuple[int, int], int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: type,
        data: np.ndarray | None = None,
        scale: np.ndarray | float | None = None,
        zero_point: int = 0,
        axis: int = 0,
    ) -> int:
        """Adds a tensor and returns its index.

        Args:
          name: the tensor's name.
          shape: its shape.
          dtype: its NumPy type.
          data: the values of a constant.
          scale: scale of an integer tensor, one or one per entry of `axis`: the value of an integer
            q is scale x (q - zero_point).
          zero_point: the integer that stands for 0.
          axis: the axis of several scales.
        """
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank = name, list(map(int, shape)), True
        tensor.type = _TYPES[np.dtype(dtype)]
        if data is not None:
            buffer = Buffer()
            buffer.data = np.ascontiguousarray(data, np.dtype(dtype).newbyteorder("<")).tobytes()
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.float32(scale))
            quantization.zeroPoint = np.full(len(quantization.scale), zero_point, np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, values: Sequence) -> int:
        """Adds an int32 constant, such as the axes of a mean, and returns its index."""
        array = np.asarray(values, np.int32)
        return self.tensor(name, array.shape, np.int32, array)

    def operator(
        self,
        name: str,
        version: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Mapping[str, int | float | bool] | None = None,
        kind: str = "",
    ) -> None:
        """Adds a built-in operator.

        Args:
          name: name of the operator in schema.fbs, such as "CONV_2D".
          version: lowest version of the operator that has the features used (op_version.cc), so
            that old runtimes can read the file.
          inputs: indices of the tensors that it reads.
          outputs: indices of the tensors that it writes.
          options: fields of `kind`.
          kind: name of the options' table in schema.fbs, such as "Conv2DOptions".
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(schema.BuiltinOperator, name), version)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if kind:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for field, value in (options or {}).items():
                setattr(operator.builtinOptions, field, value)
        self._graph.operators.append(operator)

    def _code(self, builtin: int, version: int) -> int:
        if (builtin, version) not in self._codes:
            code = schema.OperatorCodeT()
            # Readers from before 2020 only know the first field, which holds 127 codes.
            code.deprecatedBuiltinCode = min(builtin, 127)
            code.builtinCode, code.version = builtin, version
            self._codes[builtin, version] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return self._codes[builtin, version]

    def finish(
        self,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        metadata: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """Returns the content of the file.

        Args:
          inputs: indices of the input tensors by their names in the signature `serving_default`.
          outputs: indices of the output tensors, likewise.
          metadata: named buffers, such as "TFLITE_METADATA".
        """
        self._graph.inputs, self._graph.outputs = list(inputs.values()), list(outputs.values())
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = map(_tensor_map, (inputs, outputs))
        self._model.signatureDefs = [signature]
        self._model.subgraphs = [self._graph]
        self._model.metadata = [self._entry(*item) for item in (metadata or {}).items()]
        size = sum(len(buffer.data or b"") for buffer in self._model.buffers)
        builder = flatbuffers.Builder(size + (1 << 16))
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _entry(self, name: str, data: bytes):
        entry, buffer = schema.MetadataT(), Buffer()
        buffer.data = data
        entry.name, entry.buffer = name, len(self._model.buffers)
        self._model.buffers.append(buffer)
        return entry


def _tensor_map(tensors: Mapping[str, int]) -> list:
    found = []
    for name, number in tensors.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, number
        found.append(entry)
    return found
