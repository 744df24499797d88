"""Loads any model that a user names: a directory, a published name, a `.sqz`, a `.tflite` file."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.cli import Log, log
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.labels import Label
from squeezenext.litert import structure, writer
from squeezenext.model import checkpoint, published
from squeezenext.model import directory as model_directory
from squeezenext.network import graph, rgb
from squeezenext.network.bounds import check_bounds
from squeezenext.network.known import append, from_document, with_node
from squeezenext.network.model import Model, check_labels

# What is imported inside functions here would delay prediction, which mostly needs none of it.

DESCRIPTION = "squeezenext.json"  # in the zip behind an exported LiteRT file
_MAX_DESCRIPTION = 16 << 20
_ZIP_END = 22  # bytes of a zip's last record
# Exceptions of zipfile (RuntimeError: an encrypted entry) and json for bytes of another kind.
_NO_DESCRIPTION = (
    KeyError, ValueError, TypeError, NotImplementedError, RuntimeError, RecursionError,
)  # fmt: skip
_WITHOUT = "Move it elsewhere: without one the checkpoint is read."
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
PHONES = (127.5, 127.5)  # mean and deviation of an exported float file: MobileNet's, -1..1
PIXELS = (0.0, 1.0)  # mean and deviation of an exported int8 file


def load(name: str | Path) -> Model:
    """Loads a model with its weights: a model directory, a published model or a `.sqz` file.

    Raises:
      InputError: there is no such model, or it holds no checkpoint.
    """
    path = published.local(name)
    if path.suffix == ".sqz" and path.is_file():
        from squeezenext.sqz import file as sqz

        return dataclasses.replace(sqz.read(path), name=path.stem)
    directory = published.resolve(path)
    model = _described(directory, path.name)
    return dataclasses.replace(model, weights=graph.fold(model.config, variables(directory)))


def _described(directory: Path, name: str) -> Model:
    """Returns the model in a directory without its weights."""
    config, known = model_directory.read(directory)
    temperature = model_directory.read_temperature(directory)
    fitted_to = model_directory.read_fitted_to(directory)
    model = Model(name, config, known, {}, temperature, fitted_to)
    return dataclasses.replace(model, known=model_directory.read_known(directory, model.graph))


def load_runnable(name: str | Path) -> Model:
    """Loads a model to run it: whatever `load` takes, or an exported `.tflite` file.

    If a model directory has a `model.tflite`, its checkpoints are not read; that file's own path
    stands for the directory. The model's name is the file's path.

    Raises:
      InputError: there is no such model, or it is damaged.
    """
    path = published.local(name, run=True)
    if path.suffix == ".tflite" and path.is_file():
        return _exported(path)
    if path.suffix == ".sqz" and path.is_file():
        return dataclasses.replace(load(path), name=str(path))
    directory = published.resolve(path)
    litert = directory / model_directory.LITERT
    model = _described(directory, str(litert))
    if _is_own(litert):
        content = files.read_bytes(litert, structure.MAX_BYTES)
        expected = with_node(model.graph) if model.known else model.graph
        structure.check_own(content, expected, str(litert), remedy=_WITHOUT)
        return dataclasses.replace(model, file=content)
    return dataclasses.replace(model, weights=graph.fold(model.config, variables(directory)))


def litert(model: Model) -> bytes:
    """Returns the LiteRT file that runs a model: its own, or one made from its weights."""
    if model.file:
        return model.file
    return writer.write(*append(model.graph, model.weights, model.known))


def _exported(path: Path) -> Model:
    """Reads a file of `squeezenext.export`, behind which its description lies as a zip."""
    import zlib

    content = files.read_bytes(path, structure.MAX_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entry = archive.getinfo(DESCRIPTION)
            if entry.file_size > _MAX_DESCRIPTION or entry.compress_type not in _PACKINGS:
                raise InputError(f"{path} is damaged: {DESCRIPTION} in it is too large or packed.")
            document = json.loads(archive.read(DESCRIPTION))
        config = config_io.from_json(json.dumps(document["configuration"]), str(path))
        pairs = zip(document["synsets"], document["labels"], strict=True)
        known = tuple(Label(str(synset), str(text)) for synset, text in pairs)
        precision, fitted_to = str(document["precision"]), str(document.get("fitted_to", ""))
        check_labels(known, config, str(path))
        check_bounds(config, str(path))
        score = from_document(document.get("known"), graph.of(config))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except _NO_DESCRIPTION + (zipfile.BadZipFile, zlib.error) as error:
        if path.name == model_directory.LITERT and (path.parent / model_directory.CONFIG).is_file():
            return load_runnable(path.parent)
        from squeezenext.formats import kinds

        what = kinds.described(path)
        if what.startswith("a .sqz file"):
            raise InputError(f"{path} is no LiteRT file, but {what}.") from error
        if what.startswith("a LiteRT file"):
            what = (
                f"a LiteRT file: another program's, or the {model_directory.LITERT} of a model "
                "directory, which takes normalised pixels and gives logits"
            )
        raise InputError(
            f"{path} was not exported by this program: no {DESCRIPTION} lies behind it. It is "
            f"{what}; if it was made of a model directory, give that."
        ) from error
    pixels = PIXELS if precision in ("int8", "full_integer") else PHONES
    network = rgb.graph_of_rgb(graph.of(config))
    network = with_node(network) if score else network
    structure.check_own(content, network, str(path), precision, softmax=True)
    model = Model(str(path), config, known, {}, fitted_to=fitted_to, known=score)
    return dataclasses.replace(model, file=content, rgb=pixels)


def _is_own(path: Path) -> bool:
    """Says whether a model directory has its LiteRT file.

    Raises:
      InputError: the file was exported and put there, or cannot be read.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _ZIP_END))
            end = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    # The zip with the description has no comment. The module zipfile would delay prediction.
    if end.startswith(b"PK\x05\x06"):
        raise InputError(
            f"{path} is an exported file, not the model directory's own; move it elsewhere: "
            "without one the checkpoint is read."
        )
    return True


def variables(directory: Path, report: Log = log) -> dict[str, np.ndarray]:
    """Returns a model directory's variables by "model/layer/variable", averaged if averages exist.

    A damaged checkpoint is reported, and the one before it taken.

    Raises:
      InputError: there is no whole checkpoint, or it is older than the scores and files in the
        directory.
    """
    found = checkpoint.newest(directory / model_directory.CHECKPOINTS, report)
    if found is None:
        advice = model_directory.meanwhile(directory)
        raise InputError(
            f"{directory} holds no checkpoint yet{'.' if advice else '; train it first.'}{advice}"
        )
    state, meta = found
    final = model_directory.read_json(directory / model_directory.FINAL)
    ended = final.get("step", meta["step"])  # imported weights have no final.json
    if ended != meta["step"]:
        raise InputError(
            f"{directory} holds a run that ended at step {ended}, whose checkpoint is missing or "
            f"damaged (the newest whole one is of step {meta['step']}); bring it back from a copy, "
            "or train again, which goes on from there."
        )
    return checkpoint.evaluated(state)
