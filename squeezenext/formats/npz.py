"""Weights as numpy's `.npz`: the variables' own names and layouts, float32, nothing pickled.

The array `images`, bytes of JSON, says which pixels the weights know.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.formats import variables

IMAGES = "images"
_PIXELS = ("channels", "mean", "std")
_MAX_IMAGES = 4096


def encode(arrays: Mapping[str, np.ndarray], config: Config) -> bytes:
    """Returns the file of a network's variables; counters are left out."""
    named = {name: np.float32(arrays[name]) for name in variables.shapes(config)}
    named[IMAGES] = np.frombuffer(json.dumps(_pixels(config)).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def _pixels(config: Config) -> dict:
    """What JSON gives back of the pixels that a network is shown."""
    return json.loads(json.dumps({field: getattr(config.images, field) for field in _PIXELS}))


def decode(data: bytes, config: Config, source: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads what `encode` wrote.

    Returns:
      The variables, and sentences on what the file leaves open.

    Raises:
      InputError: the file is damaged, of another network, or of other pixels.
    """
    found, notes = {}, []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name, shape in variables.shapes(config).items():
                if name in members:
                    with archive.open(members[name]) as file:
                        found[name] = _array(file, shape, f"{source}: {name}")
            if IMAGES in members:
                with archive.open(members[IMAGES]) as file:
                    _check_pixels(file.read(_MAX_IMAGES), config, source)
            else:
                notes.append(f"{source} says nothing of pixels: the configuration's are taken.")
    except InputError:
        raise
    except (
        ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile,
        zlib.error,
    ) as error:  # fmt: skip
        raise InputError(f"{source} is damaged: {error}.") from error
    return found, notes


def _array(file, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Reads an array of this shape; its header has to be the very one, so that none is parsed."""
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    if file.read(len(header.getvalue())) != header.getvalue():
        raise InputError(f"{source} is not float32 of shape {shape}.")
    size = 4 * int(np.prod(shape))
    content = file.read(size)
    if len(content) != size or file.read(1):
        raise InputError(f"{source} is damaged: it has another length than it says.")
    return np.frombuffer(content, "<f4").reshape(shape)


def _check_pixels(content: bytes, config: Config, source: str) -> None:
    text = content[content.find(b"{", content.find(b"\n")) :]  # behind numpy's header
    told, shown = json.loads(text), _pixels(config)
    if told != shown:
        raise InputError(
            f"{source}: its weights know pixels of {told}, the configuration shows {shown}; take "
            "one that shows the same, or change it with --set images.FIELD=VALUE."
        )
