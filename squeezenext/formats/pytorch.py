"""Reads and writes PyTorch's state dictionaries in the layouts of torchvision and pytorchcv.

Both store kernels as out x in x height x width. `keys` maps our variables to their names, and
serves reading and writing. Both need PyTorch (requirements-torch.txt); files are read with
`torch.load(weights_only=True)`, which runs no code.
"""

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNet, SqueezeNext
from squeezenext.errors import InputError
from squeezenext.formats import variables

MAX_UNPACKED = 512 << 20  # bytes of all tensors of a file
_PARTS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
          "moving_mean": "running_mean", "moving_variance": "running_var"}  # fmt: skip
_COUNTER = "num_batches_tracked"


def keys(config: Config, layout: str) -> dict[str, str]:
    """Returns the state dictionary's key of each variable, by "model/layer/variable".

    Raises:
      InputError: the library has no such network.
    """
    model = config.model
    if isinstance(model, SqueezeNet) and (model.head_padding or model.activation != "relu"):
        raise InputError(f"{layout}'s SqueezeNet pads no classifier and has ReLU alone.")
    if isinstance(model, SqueezeNet) and layout == "torchvision" and model.bypass == "none":
        layers = _torchvision(model)
    elif isinstance(model, SqueezeNet) and layout == "pytorchcv" and model.bypass != "complex":
        layers = _pytorchcv_squeezenet(model)
    elif isinstance(model, SqueezeNext) and layout == "pytorchcv" and model.biases:
        layers = _pytorchcv_squeezenext(model)
    else:
        raise InputError(f"{layout} has no network like this configuration's.")
    found = {}
    for name in variables.shapes(config):
        _, layer, part = name.split("/")
        module = layers[layer.removesuffix("_norm")]
        if layout == "pytorchcv" and module != "output" and not module.endswith("final_conv"):
            module += ".bn" if layer.endswith("_norm") else ".conv"
        found[name] = f"{module}.{_PARTS[part]}"
    return found


def _torchvision(model: SqueezeNet) -> dict[str, str]:
    """Returns torchvision's modules by our layers; convolutions, ReLUs and pools are numbered."""
    layers, place = {"conv1": "features.0"}, 3
    for number, _ in enumerate(model.fires, start=2):
        for part in ("squeeze", "expand1x1", "expand3x3"):
            layers[f"fire{number}_{part}"] = f"features.{place}.{part}"
        place += 2 if number in model.pool_after else 1
    return layers | {"conv10": "classifier.1"}


def _pytorchcv_squeezenet(model: SqueezeNet) -> dict[str, str]:
    layers, stage, unit = {"conv1": "features.init_block"}, 1, 1
    for number, _ in enumerate(model.fires, start=2):
        for part in ("squeeze", "expand1x1", "expand3x3"):
            layers[f"fire{number}_{part}"] = f"features.stage{stage}.unit{unit}.{part}"
        stage, unit = (stage + 1, 1) if number in model.pool_after else (stage, unit + 1)
    return layers | {"conv10": "output.final_conv"}


def _pytorchcv_squeezenext(model: SqueezeNext) -> dict[str, str]:
    layers = {"stem": "features.init_block.conv", "head": "features.final_block"}
    parts = {"reduce1": "conv1", "reduce2": "conv2", "conv1x3": "conv3", "conv3x1": "conv4",
             "expand": "conv5", "shortcut": "identity_conv"}  # fmt: skip
    for number, stage in enumerate(model.stages, start=1):
        for unit in range(1, stage.units + 1):
            for ours, theirs in parts.items():
                place = f"features.stage{number}.unit{unit}.{theirs}"
                layers[f"stage{number}_unit{unit}_{ours}"] = place
    return layers | {"classifier": "output"}


def from_state(
    state: Mapping[str, np.ndarray], config: Config, layout: str, source: str
) -> dict[str, np.ndarray]:
    """Returns our variables from a state dictionary, arrays by PyTorch's keys.

    Raises:
      InputError: a key is missing, or does not belong to this network.
    """
    table = keys(config, layout)
    given = {key for key in state if not key.endswith(f".{_COUNTER}")}
    if missing := set(table.values()) - given:
        raise InputError(f"{source} is not of this network: it has no {min(missing)}.")
    if unknown := given - set(table.values()):
        raise InputError(f"{source} is not of this network: it has {min(unknown)}, too.")
    return {name: _ours(state[key]) for name, key in table.items()}


def to_state(
    arrays: Mapping[str, np.ndarray], config: Config, layout: str
) -> dict[str, np.ndarray]:
    """Returns our variables as a state dictionary in network order; the inverse of `from_state`."""
    state = {}
    for name, key in keys(config, layout).items():
        state[key] = np.ascontiguousarray(_theirs(arrays[name]))
        if name.endswith("/moving_variance"):
            state[key.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    return state


def _ours(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _theirs(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def decode(data: bytes, config: Config, layout: str, source: str) -> dict[str, np.ndarray]:
    """Returns the variables in a state dictionary that `torch.save` wrote.

    Raises:
      InputError: PyTorch is not installed, or the file is no state dictionary of this network.
    """
    torch = _torch()
    _check_size(data, source)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and tensor faults of many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source} is no state dictionary of PyTorch: {reason}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # in a training checkpoint
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise InputError(f"{source} is no state dictionary: tensors by name.")
    # nn.DataParallel puts this before every name.
    state = {key.removeprefix("module."): value for key, value in state.items()}
    # Before any array is made: a tensor of any shape can rest on two bytes of storage.
    _check_shapes(state, config, layout, source)
    arrays = {key: _array(tensor, torch, source) for key, tensor in state.items()}
    return from_state(arrays, config, layout, source)


def _check_shapes(state: Mapping, config: Config, layout: str, source: str) -> None:
    shapes, table = variables.shapes(config), keys(config, layout)
    wanted = {key: _theirs(np.broadcast_to(0, shapes[x])).shape for x, key in table.items()}
    for key, tensor in state.items():
        counter = key.endswith(f".{_COUNTER}")
        if not counter and key not in wanted:
            raise InputError(f"{source} is not of this network: it has {key}, too.")
        if tuple(tensor.shape) not in ([(), (1,)] if counter else [wanted[key]]):
            raise InputError(
                f"{source} is not of this network: {key} has shape {tuple(tensor.shape)}."
            )


def _array(tensor, torch, source: str) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"{source}: sparse and quantised tensors are not read; save dense ones.")
    return tensor.detach().to(torch.float32).numpy()


def _check_size(data: bytes, source: str) -> None:
    """Refuses an archive that would unpack to more than the weights of a network."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{source} is damaged: {error}.") from error
    if total > MAX_UNPACKED:
        raise InputError(f"{source} unpacks to {total:,} bytes: no weights of this family.")


def encode(arrays: Mapping[str, np.ndarray], config: Config, layout: str) -> bytes:
    """Returns a file with the dictionary of `to_state`, as `torch.save` writes it.

    Raises:
      InputError: PyTorch is not installed, or the library has no such network.
    """
    torch, file = _torch(), io.BytesIO()
    state = to_state(arrays, config, layout)
    torch.save({key: torch.from_numpy(array) for key, array in state.items()}, file)
    return file.getvalue()


def _torch():
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "PyTorch's files need PyTorch: pip install -r requirements-torch.txt."
        ) from error
    return torch
