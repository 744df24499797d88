"""Weights as numpy's `.npz`: the variables' own names and layouts, float32, nothing pickled."""

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.foreign import variables


def encode(arrays: Mapping[str, np.ndarray], config: Config) -> bytes:
    """Returns the file of a network's variables; counters are left out."""
    file = io.BytesIO()
    np.savez(file, **{name: np.float32(arrays[name]) for name in variables.shapes(config)})
    return file.getvalue()


def decode(data: bytes, config: Config, source: str) -> dict[str, np.ndarray]:
    """Reads what `encode` wrote; an array's header is believed only where it is the network's.

    Raises:
      InputError: the file is damaged, or of another network.
    """
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name, shape in variables.shapes(config).items():
                if name in members:
                    with archive.open(members[name]) as file:
                        found[name] = _array(file, shape, f"{source}: {name}")
    except (ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(error, source) from error
    except (zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise InputError(f"{source} is damaged: {error}.") from error
    return found


def _damaged(error: Exception, source: str) -> InputError:
    return error if isinstance(error, InputError) else InputError(f"{source} is damaged: {error}.")


def _array(file, shape: tuple[int, ...], source: str) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise InputError(f"{source} is of another version of numpy's format, {version}.")
    told, fortran, kind = np.lib.format.read_array_header_1_0(file)
    if (told, fortran, kind) != (shape, False, np.dtype("<f4")):
        raise InputError(f"{source} is {kind} of shape {told}, not float32 of {shape}.")
    size = 4 * int(np.prod(shape))
    content = file.read(size)
    if len(content) != size or file.read(1):
        raise InputError(f"{source} is damaged: it has another length than it says.")
    return np.frombuffer(content, "<f4").reshape(shape)
