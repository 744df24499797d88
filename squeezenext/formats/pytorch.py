"""Reads and writes PyTorch's state dictionaries in the layouts of torchvision and pytorchcv.

The files of pytorchcv's networks for Chainer (.npz) and Keras (.h5) hold the same under other
names. PyTorch and Chainer store kernels as out x in x height x width, Keras as height x width x in
x out. `keys` maps our variables to their names, and serves reading and writing. Writing needs
PyTorch (requirements-torch.txt), reading does not.
"""

import dataclasses
import io
from collections.abc import Mapping

import numpy as np

from squeezenext.cli import plural
from squeezenext.config import Config
from squeezenext.config.network import SqueezeNet, SqueezeNext
from squeezenext.errors import InputError, needs
from squeezenext.formats import pytorch_files, variables
from squeezenext.formats.pytorch_files import Tensor

_PARTS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
          "moving_mean": "running_mean", "moving_variance": "running_var"}  # fmt: skip
_COUNTER = "num_batches_tracked"
_CHAINER = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias",
            "avg_mean": "running_mean", "avg_var": "running_var", "N": _COUNTER}  # fmt: skip
_KERAS = {"kernel": "weight", "gamma": "weight", "beta": "bias",
          "moving_mean": "running_mean", "moving_variance": "running_var"}  # fmt: skip
_COUNTERS = (_COUNTER, "n_averaged")  # of batch norm, and of torch.optim.swa_utils


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
    given = {key for key in state if key.rpartition(".")[2] not in _COUNTERS}
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


def decode(
    data: bytes, config: Config, layout: str, source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the variables in a file of one of these kinds, and sentences about it.

    The state dictionary may be the file itself, or lie in a training checkpoint under any name;
    all its names may begin with one prefix, as "module." of DataParallel.

    Raises:
      InputError: the file holds no state dictionary of this network.
    """
    file = pytorch_files.read(data, source)
    shapes = variables.shapes(config)
    wanted = {
        key: _theirs(np.broadcast_to(0, shapes[name])).shape
        for name, key in keys(config, layout).items()
    }
    found = {}
    for place, state in pytorch_files.states(file.content, source):
        state = _renamed(state, wanted, source)
        found |= _networks(place, state, wanted)
    if not found:
        raise InputError(
            f"{source} holds no state dictionary, tensors by name, but "
            f"{pytorch_files.described(file.content)}. Save model.state_dict() for it."
        )
    fitting = [x for x, (state, _) in found.items() if wanted.keys() <= state.keys()]
    # Averages are beside the weights in training checkpoints, which hold the weights first.
    place = min(fitting or found, key=lambda x: "ema" in x.lower())
    state, others = found[place]
    # Before any array is made: a tensor of any shape can rest on two bytes of storage.
    _check_shapes(state, wanted, source)
    arrays = {key: file.array(state[key], source) for key in wanted if key in state}
    return from_state(arrays, config, layout, source), _notes(source, place, fitting, others)


def _renamed(
    state: Mapping[str, Tensor], wanted: Mapping[str, object], source: str
) -> dict[str, Tensor]:
    """Returns a state dictionary with PyTorch's names, given those or Chainer's or Keras'."""
    names = {_place(key.split(".")): key for key in wanted}
    found = {}
    for key, tensor in state.items():
        if key.endswith(":0"):
            key = names.get(_place(key.removesuffix(":0").split("/")), key)
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(tensor.shape), range(len(tensor.shape)))
            shape, strides = ([x[axis] for axis in axes] for x in (tensor.shape, tensor.strides))
            tensor = dataclasses.replace(tensor, shape=tuple(shape), strides=tuple(strides))
        elif "/" in key:
            module, _, part = key.replace("output/fc/", "output/").rpartition("/")
            key = f"{module.replace('/', '.')}.{_CHAINER.get(part, part)}"
        if found.setdefault(key, tensor) is not tensor:
            raise InputError(f"{source} is damaged: it holds {key[:99]} under two names.")
    return found


def _place(parts: list[str]) -> tuple[str, ...]:
    """Returns a tensor's path without what Keras and PyTorch nest in different ways.

    Keras repeats a layer's name for each layer around it, from the whole network's on.
    """
    *layers, part = ["output" if part == "output1" else part for part in parts]
    roots = [place for place, name in enumerate(layers) if name in ("features", "output")]
    layers = layers[roots[-1] if roots else 0 :]
    kept = [name for name, before in zip(layers, ["", *layers], strict=False) if name != before]
    return (*(name for name in kept if name != "conv"), _KERAS.get(part, part))


def _notes(source: str, place: str, fitting: list[str], others: list[str]) -> list[str]:
    notes, also = [], [f'"{x}"' for x in fitting if x != place]
    if also:
        notes.append(
            f'{source} holds weights of this network as "{place}" and as {", ".join(also)}; those '
            f'of "{place}" are read.'
        )
    elif others:
        notes.append(
            f"{source} also holds {plural(len(others), 'tensor')} of other modules than "
            f'"{place}", such as {others[0][:99]}; they are skipped.'
        )
    return notes


def _networks(
    place: str, state: Mapping[str, Tensor], wanted: Mapping[str, object]
) -> dict[str, tuple[dict[str, Tensor], list[str]]]:
    """Finds this network's tensors in a state dictionary, whose names may have a prefix.

    Returns:
      By place, as "state_dict.student": the tensors by their names without the prefix and without
      counters, and the names of tensors that do not have the prefix. Where no prefix fits, the
      whole dictionary at `place`.
    """
    state = {key: x for key, x in state.items() if key.rpartition(".")[2] not in _COUNTERS}
    if wanted.keys() <= state.keys():
        return {place: (state, [])}
    last, found = max(wanted, key=len), {}
    for prefix in [key.removesuffix(last) for key in state if key.endswith(f".{last}")]:
        if all(f"{prefix}{key}" in state for key in wanted):
            inside = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
            others = [key for key in state if not key.startswith(prefix)]
            found[f"{place}.{prefix}".strip(".")] = inside, others
    return found or {place: (state, [])}


def _check_shapes(state: Mapping[str, Tensor], wanted: Mapping[str, tuple], source: str) -> None:
    for key, tensor in state.items():
        if key not in wanted:
            raise InputError(f"{source} is not of this network: it has {key[:99]}, too.")
        if tensor.shape != wanted[key]:
            raise InputError(f"{source} is not of this network: {key} has shape {tensor.shape}.")


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
    with needs("torch"):
        import torch
    return torch
