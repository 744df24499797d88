"""Weights as files of other programs."""

from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.foreign import deep_compression, importing, npz, pytorch_weights

FORMATS = ("deep_compression", "npz", "torchvision", "pytorchcv")


def write(kind: str, config: Config, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Writes a network's variables as a file of a format.

    Args:
      kind: one of `FORMATS`.
      arrays: by name, as `trained.variables` returns them.

    Raises:
      InputError: the format cannot hold this network, or its weights know other pixels.
    """
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: must be one of {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}.")
    importing.check_images(kind, config, "the model")
    if kind == "npz":
        content = npz.encode(arrays, config)
    elif kind == "deep_compression":
        content = _net_file(arrays, config)
    else:
        content = pytorch_weights.encode(arrays, config, kind)
    files.write_file(path, lambda file: file.write_bytes(content))


def _net_file(arrays: dict[str, np.ndarray], config: Config) -> bytes:
    """Returns the .net of weights that are shared already, with codes of 4 bits if they do."""
    shared = [
        (arrays[f"model/{name}/kernel"].transpose(3, 2, 0, 1), arrays[f"model/{name}/bias"])
        for name in deep_compression.layers(config)[0]
    ]
    try:
        return deep_compression.encode(shared, bits=4)
    except InputError:
        return deep_compression.encode(shared)
