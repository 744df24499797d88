"""Packs tensors, buffers and operators into a LiteRT file (.tflite), without TensorFlow.

It uses the schema's own classes, which ai-edge-litert ships. writer.py chooses the operators of a
network.
"""

from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}
_OPTIONS = {  # the table in schema.fbs of each operator's options
    "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "PAD": "PadOptions",
    "CONCATENATION": "ConcatenationOptions",
    "ADD": "AddOptions",
    "MEAN": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "MUL": "MulOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "SOFTMAX": "SoftmaxOptions",
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
        # Buffer 0 is empty by convention.
        self._model = schema.ModelT(version=3, description=description, buffers=[Buffer()])
        self._model.operatorCodes, self._model.metadata = [], []
        self._graph = schema.SubGraphT(name="main", tensors=[], operators=[])
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
          name: name in the file.
          shape: shape with the batch.
          dtype: NumPy type.
          data: values of a constant.
          scale: scale of an integer tensor, one or one per entry of `axis`: the value of an integer
            q is scale x (q - zero_point).
          zero_point: the integer that stands for 0.
          axis: the axis of several scales.
        """
        kind = np.dtype(dtype)
        tensor = schema.TensorT(list(map(int, shape)), TYPES[kind], name=name, hasRank=True)
        if data is not None:
            content = np.ascontiguousarray(data, kind.newbyteorder("<"))
            tensor.buffer = self._buffer(content.tobytes())
        if scale is not None:
            scales = np.atleast_1d(np.float32(scale))
            tensor.quantization = schema.QuantizationParametersT(
                scale=scales,
                zeroPoint=np.full(len(scales), zero_point, np.int64),
                quantizedDimension=axis,
            )
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _buffer(self, data: bytes) -> int:
        self._model.buffers.append(Buffer(data))
        return len(self._model.buffers) - 1

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
    ) -> None:
        """Adds a built-in operator.

        Args:
          name: name of the operator in schema.fbs, such as "CONV_2D".
          version: lowest version of the operator that has the features used (op_version.cc), so
            that old runtimes can read the file.
          inputs: indices of the tensors that it reads.
          outputs: indices of the tensors that it writes.
          options: fields of its options' table.
        """
        code = self._code(getattr(schema.BuiltinOperator, name), version)
        operator = schema.OperatorT(code, list(inputs), list(outputs))
        if kind := _OPTIONS.get(name):
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")(**(options or {}))
        self._graph.operators.append(operator)

    def _code(self, builtin: int, version: int) -> int:
        if (builtin, version) not in self._codes:
            self._codes[builtin, version] = len(self._codes)
            # Readers from before 2020 only know the deprecated field, which holds 127 codes.
            code = schema.OperatorCodeT(
                deprecatedBuiltinCode=min(builtin, 127), version=version, builtinCode=builtin
            )
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
        named = [[schema.TensorMapT(*entry) for entry in x.items()] for x in (inputs, outputs)]
        self._model.signatureDefs = [schema.SignatureDefT(*named, "serving_default")]
        self._model.subgraphs = [self._graph]
        for name, data in (metadata or {}).items():
            self._model.metadata.append(schema.MetadataT(name, self._buffer(data)))
        size = sum(len(buffer.data or b"") for buffer in self._model.buffers)
        builder = flatbuffers.Builder(size + (1 << 16))
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
