"""`.sqz`: a whole compressed classifier in one file, read with numpy alone.

The file is a head of fixed size, a header (the network, its images, its labels and temperature, as
compressed JSON), the folded network's coded weights, and a CRC-32 of all that; docs/compression.md
gives it byte for byte. What only training reads is not in the header, so a new option of a recipe
changes no file.

`decode` trusts nothing: no length before it is compared with the file's, nothing at all before
the checksum, and no network that is larger than any that is worth compressing.
"""

import dataclasses
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from squeezenext import files, labels
from squeezenext.cli import FULL
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.network import integer
from squeezenext.network.bounds import check_bounds
from squeezenext.network.integer import IntegerLayer, IntegerNetwork, IntegerSum, MapScale
from squeezenext.network.known import from_document
from squeezenext.network.model import Model, check_labels, check_temperature
from squeezenext.sqz import kernels as sqz_kernels
from squeezenext.sqz import plan as sqz_plan
from squeezenext.sqz import rans
from squeezenext.sqz import streams as sqz_streams
from squeezenext.sqz.kernels import Shared
from squeezenext.sqz.plan import MemoryPlan

SUFFIX = ".sqz"
MAGIC = b"\x89SQZ\r\n\x1a\n"  # like PNG's: a transfer that changes line ends is noticed at once
# From the second on, weights and activations are whole numbers. The second is read, not written.
VERSION, LANES_VERSION, WHOLE_VERSION = 1, 2, 3
# The coders' numbers in the file. The first is no longer read; the last is version 3's.
HUFFMAN, ARITHMETIC, RANS = 0, 1, 2
_HEAD = struct.Struct("<8sHBBII")  # the last two: lengths of header and streams
# Of whole numbers: bytes of the arena; numbers of buffers, stages, lanes (in version 2) and
# classes; the value of a logit of 1, its shift, the border's colour, and the bytes of the plan.
_WHOLE = struct.Struct("<I4Hf4BI")
_CRC = struct.Struct("<I")

# Fields in the header; the last is absent where it is "ignored", as in files of earlier releases.
IMAGES = ("size", "resize", "resize_mode", "channels", "mean", "std", "orientation")
MAX_HEADER = 4 << 20  # bytes of the decompressed JSON


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file and, by layer, about how many bytes of it the kernel takes."""

    data: bytes
    layers: dict[str, int]


def encode(
    model: Model,
    kernels: Mapping[str, Shared | np.ndarray],
    biases: Mapping[str, np.ndarray],
    wide: bool = False,
) -> Encoded:
    """Makes the file of a network.

    Args:
      model: the network, its labels and temperature; its weights are not read.
      kernels: by layer; an array with more than 4,096 different values is stored as it is.
      biases: [out] by layer, for the layers that have one.
      wide: store values as float32; else they are rounded to float16.

    Raises:
      InputError: a value is too large for float16.
    """
    kind = np.dtype("<f4" if wide else "<f2")
    names = [node.name for node in model.graph.weighted]
    with np.errstate(over="ignore"):  # infinities are found next
        parts = [sqz_kernels.take_apart(kernels[name], kind) for name in names]
        offsets = [biases[name].astype(kind) for name in names if name in biases]
    for array in (*offsets, *(part.codebook for part in parts)):
        if not np.isfinite(array).all():
            raise InputError("A weight is too large for float16; compress with --lossless.")
    header = encode_header(model)
    flat = np.concatenate([np.zeros(0, kind), *offsets])
    streams, sizes = sqz_streams.write(parts, flat)
    head = _HEAD.pack(MAGIC, VERSION, ARITHMETIC, kind.itemsize, len(header), len(streams))
    return _sealed(head + header + streams, names, sizes)


def encode_whole(model: Model, network: IntegerNetwork) -> Encoded:
    """Makes the file of a network in whole numbers, with the plan of its memory.

    Args:
      model: the network, its labels and temperature; its weights are not read.
      network: the same in whole numbers.
    """
    names = [node.name for node in network.graph.weighted]
    layers = [network.layers[name] for name in names]
    biases = np.concatenate([layer.bias for layer in layers])
    kernels = [layer.kernel for layer in layers]
    coded, forms, sizes = rans.write(kernels, biases)
    forms = dict(zip(names, forms, strict=True))
    plan = MemoryPlan(
        network.graph, {n: values * tables for n, (values, tables, _) in forms.items()}
    )
    packed = sqz_plan.pack(plan, network, forms)
    start = _WHOLE.pack(
        *(plan.arena, len(plan.buffers), len(plan.stages), 0, len(model.labels)),
        *(network.logit_scale, network.shift, *network.border),
        len(packed),
    )
    header, streams = encode_header(model), start + packed + coded
    head = _HEAD.pack(MAGIC, WHOLE_VERSION, RANS, 1, len(header), len(streams))
    return _sealed(head + header + streams, names, sizes)


def arena(data: bytes) -> int:
    """Returns the bytes of memory that the C runtime needs for a file of whole numbers."""
    header = _HEAD.unpack_from(data)[4]
    return _WHOLE.unpack_from(data, _HEAD.size + header)[0]


def _sealed(body: bytes, names: list[str], sizes: list[int]) -> Encoded:
    data = body + _CRC.pack(zlib.crc32(body))
    return Encoded(data, dict(zip(names, sizes, strict=True)))


def encode_header(model: Model) -> bytes:
    """Returns the header: compressed JSON."""
    plain, classes = json.loads(config_io.to_json(model.config)), model.labels
    named = "imagenet" if classes == labels.imagenet() else [[x.synset, x.text] for x in classes]
    document = {
        "model": plain["model"],
        "images": {name: plain["images"][name] for name in IMAGES if name in plain["images"]},
        "labels": named,
        "temperature": model.temperature,
    }
    document |= {"fitted_to": model.fitted_to} if model.fitted_to else {}
    document |= {"known": model.known.to_json()} if model.known else {}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return zlib.compress(text.encode("utf-8"), 9)


def write(path: Path, data: bytes) -> None:
    """Puts a file in place, whole or not at all.

    Raises:
      InputError: it cannot be written.
      OSError: the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, data)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error


def read(path: Path) -> Model:
    """Reads a file; raises InputError if it cannot be read, is damaged, or of another version."""
    return decode(files.read_bytes(path, files.MAX_BYTES), str(path))


def decode(data: bytes, source: str) -> Model:
    """Reads a file's bytes, as `read`; `source` names it in messages, and the model."""
    version, kind, header, streams = _frame(data, source)
    known = _decode_header(header, source)
    if version != VERSION:
        network = _decode_whole(streams, known, version, source)
        weights = integer.floats(network, known.config.images)
        return dataclasses.replace(known, weights=weights, integer=network)
    nodes = known.graph
    shapes = [nodes.kernel_shape(node.name) for node in nodes.weighted]
    full = [shape if len(shape) == 4 else (1, 1, *shape) for shape in shapes]
    biased = [node for node in nodes.weighted if node.op == "conv" or node.bias]
    count = sum(node.shape[-1] for node in biased)
    kernels, biases = sqz_streams.read(streams, full, count, kind, source)
    if not all(np.isfinite(array).all() for array in (*kernels, biases)):
        raise InputError(f"{source} is damaged: a weight is not finite.")
    weights = {}
    for node, kernel, shape in zip(nodes.weighted, kernels, shapes, strict=True):
        weights[f"{node.name}/kernel"] = kernel.reshape(shape)
    ends = np.cumsum([node.shape[-1] for node in biased])[:-1]
    for node, bias in zip(biased, np.split(biases, ends), strict=True):
        weights[f"{node.name}/bias"] = bias
    return dataclasses.replace(known, weights=weights)


def _decode_whole(data: bytes, model: Model, version: int, source: str) -> IntegerNetwork:
    """Reads the network of a file of whole numbers; `model` is what its header describes."""
    if len(data) < _WHOLE.size:
        raise InputError(f"{source} is cut inside its plan.")
    arena, *counts, scale, shift, red, green, blue, size = _WHOLE.unpack_from(data)
    graph, start = integer.without_pads(model.graph), _WHOLE.size + size
    stages, scales, numbers = sqz_plan.unpack(data[_WHOLE.size : start], graph, arena, source)
    lanes = sqz_streams.WHOLE_LANES if version == LANES_VERSION else 0
    expected = [len(scales), len(stages), lanes, len(model.labels)]
    if counts != expected or not (np.isfinite(scale) and scale > 0 and shift <= 40):
        raise InputError(f"{source} is damaged: its plan has impossible numbers.")
    rows = [(stage, row) for stage, row in zip(stages, numbers, strict=True) if stage.length]
    shapes = [graph.kernel_shape(stage.node.name) for stage, _ in rows]
    shapes = [shape if len(shape) == 4 else (1, 1, *shape) for shape in shapes]
    if version == LANES_VERSION:
        blocks = [stage.blocks for stage, _ in rows]
        sides = [(row.mask, *row.form[:2]) for _, row in rows]
        kernels, biases = sqz_streams.read_whole(data[start:], shapes, blocks, sides, source)
    else:
        kernels, biases = rans.read(data[start:], shapes, [row.form for _, row in rows], source)
    ends = np.cumsum([shape[-1] for shape in shapes])[:-1]
    parts = zip(rows, kernels, np.split(biases, ends), strict=True)
    layers = {
        stage.node.name: IntegerLayer(kernel, bias, row.bias_shift, row.multipliers[0], row.shift)
        for (stage, row), kernel, bias in parts
    }
    sums = {
        stage.node.name: IntegerSum(row.multipliers, row.shift)
        for stage, row in zip(stages, numbers, strict=True)
        if stage.kind == sqz_plan.ADD
    }
    known = {name: MapScale(*pair) for name, pair in scales.items()}
    for node in graph.nodes:
        if node.op == "concat":  # whose parts are written right into it
            known |= dict.fromkeys(node.inputs, known[node.name])
    border = red, green, blue
    network = IntegerNetwork(graph, layers, sums, known, border, shift, np.float32(scale))
    integer.check_numbers(network, source)
    return network


def _frame(data: bytes, source: str) -> tuple[int, np.dtype, bytes, bytes]:
    """Checks everything around the content; returns version, dtype, header and streams."""
    if len(data) > files.MAX_BYTES:
        raise InputError(f"{source} is larger than {files.MAX_BYTES >> 20} MB.")
    if not data.startswith(MAGIC):
        raise InputError(f"{source} is not a .sqz file: it begins otherwise.")
    if len(data) < _HEAD.size + _CRC.size:
        raise InputError(f"{source} is cut: {len(data)} bytes.")
    _, version, coder, itemsize, header, streams = _HEAD.unpack_from(data)
    if version not in (VERSION, LANES_VERSION, WHOLE_VERSION):
        raise InputError(
            f"{source} is of version {version} of the format; this program reads {VERSION} to "
            f"{WHOLE_VERSION}."
        )
    promised = _HEAD.size + header + streams + _CRC.size
    if promised != len(data):
        raise InputError(f"{source} has {len(data)} bytes; its header promises {promised}.")
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise InputError(f"{source} is damaged: its checksum is another.")
    if coder == HUFFMAN:
        raise InputError(
            f"{source} holds Huffman codes, which are no longer read; compress the model again."
        )
    sizes = (2, 4) if version == VERSION else (1,)
    if coder != (RANS if version == WHOLE_VERSION else ARITHMETIC) or itemsize not in sizes:
        raise InputError(f"{source} is damaged: there is no coder {coder} of {itemsize} bytes.")
    start = _HEAD.size + header
    kind = np.dtype(np.int8 if version != VERSION else f"<f{itemsize}")
    return version, kind, data[_HEAD.size : start], data[start : start + streams]


# Exceptions of zlib, json and a configuration's classes for bytes of another kind.
_UNREADABLE = (zlib.error, ValueError, KeyError, TypeError, ArithmeticError, RecursionError)


def _decode_header(data: bytes, source: str) -> Model:
    """Returns the model that a header describes, without its weights."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MAX_HEADER)
        if not inflater.eof or inflater.unused_data:
            raise InputError(f"{source} is damaged: its header is too long.")
        model = _read_document(json.loads(text), source)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{source} is damaged: its header cannot be read ({error}).") from error
    return model


def _read_document(document: dict, source: str) -> Model:
    images = {name: document["images"][name] for name in IMAGES if name in document["images"]}
    plain = {"model": document["model"], "images": images}
    config = config_io.from_json(json.dumps(plain), source)
    named = document["labels"]
    classes = (
        labels.imagenet()
        if named == "imagenet"
        else tuple(labels.Label(str(synset), str(text)) for synset, text in named)
    )
    check_bounds(config, source)
    check_labels(classes, config, source)
    temperature = check_temperature(document["temperature"])
    model = Model(source, config, classes, {}, temperature, str(document.get("fitted_to", "")))
    return dataclasses.replace(model, known=from_document(document.get("known"), model.graph))
