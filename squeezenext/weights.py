"""Imports weights of other programs, and exports a model's weights for them.

    python -m squeezenext.weights import --format FORMAT --input FILE \
        --configuration NAME --model_dir DIR
    python -m squeezenext.weights export --format FORMAT --model_dir DIR|NAME|FILE.sqz --output FILE

Formats, see docs/weights.md: deep_compression, torchvision, pytorchcv; import alone also reads
ncnn, caffemodel, onnx and numpy_pickle.

NAME is a published model, which is downloaded once. The folder that the environment variable
SQUEEZENEXT_WEIGHTS names is searched first, so that no network is needed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from squeezenext import files, labels
from squeezenext.arguments import refuse_remote
from squeezenext.cli import check_file, log, require_flags, run
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.formats import deep_compression, pytorch, variables
from squeezenext.model import directory as model_directory
from squeezenext.model import importing, loading
from squeezenext.model.published import local, resolve
from squeezenext.sqz import file as sqz

FORMATS = ("deep_compression", "torchvision", "pytorchcv")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("format", None, "Format of the file.", **at)
    flags.DEFINE_string("model_dir", None, "import: directory to make; export: the model.", **at)
    flags.DEFINE_string("input", None, "import: file with the weights.", **at)
    flags.DEFINE_string("configuration", None, "import: configuration of the network.", **at)
    flags.DEFINE_multi_string("set", [], "import: change a field: model.classes=10.", **at)
    flags.DEFINE_string("labels", None, "import: list of the classes; default: ImageNet's.", **at)
    flags.DEFINE_string("output", None, "export: file to write.", **at)

    def command(values: flags.FlagValues, positional: list[str]) -> None:
        work = {"import": _import, "export": _export}
        if len(positional) != 1 or positional[0] not in work:
            raise InputError("Say what to do: python -m squeezenext.weights import|export ...")
        work[positional[0]](values)

    return run(command, values, __doc__, argv, positional=True)


def _import(values: flags.FlagValues) -> None:
    require_flags(values, ("format", "input", "configuration", "model_dir"))
    config = config_io.load(values["configuration"].value)
    config = config_io.override(config, *values["set"].value)
    directory, kind = Path(values["model_dir"].value), values["format"].value
    refuse_remote("--model_dir", directory)
    contents = importing.read_files(kind, Path(values["input"].value))
    importing.import_weights(kind, contents, config, directory, _classes(values, config))
    log(f"{directory} holds the model.")


def _export(values: flags.FlagValues) -> None:
    require_flags(values, ("format", "model_dir", "output"))
    kind, model, path = values["format"].value, values["model_dir"].value, values["output"].value
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: must be one of {', '.join(FORMATS)}.")
    check_file("output", Path(path))
    if kind != "deep_compression" or not path.endswith(".net"):
        files.check_ours(Path(path), "data.pkl")  # PyTorch's; only its ending marks a .net file
    if model.endswith(sqz.SUFFIX):
        held = sqz.read(Path(local(model)))
        config, arrays = held.config, variables.unfold(held.config, held.weights)
    else:
        directory = resolve(model)
        config, arrays = model_directory.read_config(directory), loading.variables(directory)
    importing.check_images(kind, config, "the model")
    if kind == "deep_compression":
        content = _net_file(arrays, config)
    else:
        content = pytorch.encode(arrays, config, kind)
    files.write_bytes(Path(path), content)
    log(f"{path} holds the weights of {model}.")


def _net_file(arrays: dict[str, np.ndarray], config: Config) -> bytes:
    """Returns the .net file of weights that share values, with codes of 4 bits if these suffice."""
    shared = [
        (arrays[f"model/{name}/kernel"].transpose(3, 2, 0, 1), arrays[f"model/{name}/bias"])
        for name in deep_compression.weighted_layers(config)[0]
    ]
    try:
        return deep_compression.encode(shared, bits=4)
    except InputError:
        return deep_compression.encode(shared)


def _classes(values: flags.FlagValues, config: Config) -> tuple[labels.Label, ...]:
    if values["labels"].value:
        return labels.read_list(Path(values["labels"].value))
    if config.model.classes != len(labels.imagenet()):
        raise InputError(
            f"--labels is missing: the network's {config.model.classes} classes are not "
            "ImageNet's; name a file with their names, one a line."
        )
    return labels.imagenet()


if __name__ == "__main__":
    sys.exit(main())
