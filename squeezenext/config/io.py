"""Configurations from and to files: by name, by path, with overrides, as JSON."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from squeezenext import files
from squeezenext.config import Config
from squeezenext.config.images import Augmentation, side
from squeezenext.config.network import Network
from squeezenext.errors import InputError

# Only these may be built from a JSON file: data, never code.
_TYPES = {kind.__name__: kind for kind in typing.get_args(Network) + typing.get_args(Augmentation)}

# Fields that earlier releases do not know, with their defaults, which are not written.
_LATER = {
    "class_weights": "none", "rate_scaling": "linear", "reference_batch": 1024,
    "average_share": 0.0, "orientation": "ignored",
}  # fmt: skip


def folder() -> Path:
    """Returns `configs/`: beside this package in a checkout, inside it when installed."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def configuration_names() -> list[str]:
    """Returns the names of all configurations, sorted."""
    return sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__")


def load(name: str) -> Config:
    """Returns the `CONFIG` of `configs/<name>.py`, or of the file `name` if it ends in ".py".

    Raises:
      InputError: there is no such configuration, or the file has no CONFIG.
    """
    if name.endswith(".py"):
        return _load_file(files.expanded(name))
    if name not in configuration_names():
        import difflib  # only to word an error

        near = difflib.get_close_matches(name, configuration_names(), n=3, cutoff=0.5)
        known = ", ".join(near or configuration_names())
        hint = f"like it: {known}" if near else f"there are {known}"
        if files.expanded(name).is_dir():
            hint = f"a model directory is no configuration; {hint}"
        raise InputError(f"There is no configuration {name!r}; {hint}.")
    return _load_file(folder() / f"{name}.py")


def _load_file(path: Path) -> Config:
    if not path.is_file():
        raise InputError(
            f"There is no configuration file {path}; give the path of one, or a name without .py, "
            "such as v_1_0_SqNxt_23."
        )
    import importlib.util  # prediction reads JSON alone and should not wait for it

    spec: Any = importlib.util.spec_from_file_location(path.stem, path)  # never None for a .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.CONFIG
    except Exception as error:
        raise InputError(f"{path} is not a configuration: {error}") from error
    if not isinstance(config, Config):
        raise InputError(
            f"{path}: CONFIG is {type(config).__name__}, not squeezenext's Config; "
            f"{folder() / 'v_1_0_SqNxt_23.py'} is an example."
        )
    return config


def override(config: Config, *assignments: str) -> Config:
    """Returns the configuration with changed fields, each "training.epochs=2".

    All are replaced before anything is checked, so their order means nothing; of two for the same
    field the last counts. Where `images.size` changes alone, `images.resize` and
    `images.progressive` keep their ratio to it.

    Raises:
      InputError: no such field, or a value of the wrong type or out of bounds.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        try:
            if not equals:
                raise ValueError("there is no = in it; write FIELD=VALUE.")
            _gather(config, path, text, changes)
        except (ValueError, TypeError) as error:
            raise InputError(f"{assignment}: {error}") from error
    try:
        return _replaced(config, _with_sizes(config, changes))
    except (ValueError, TypeError) as error:
        raise InputError(f"{', '.join(assignments)}: {error}") from error


def _gather(config: Any, path: str, text: str, changes: dict[str, Any]) -> None:
    """Adds the field `path` with the value in `text` to `changes`, a tree like the fields'."""
    name, _, rest = path.partition(".")
    known = [field.name for field in dataclasses.fields(config)]
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3) or known
        raise ValueError(
            f"{type(config).__name__} has no field {name!r}; it has {', '.join(near)}."
        )
    old = getattr(config, name)
    if rest and not dataclasses.is_dataclass(old):
        raise ValueError(f"{name} has no fields of its own.")
    if not rest and dataclasses.is_dataclass(old):
        raise ValueError(f"name a field of {name}, as in {name}.FIELD=VALUE.")
    if rest:
        _gather(old, rest, text, changes.setdefault(name, {}))
    else:
        changes[name] = _parse(text, old, name)


def _with_sizes(config: Config, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the changes with the sizes that follow from `images.size`, unless they are given."""
    images, given = config.images, changes.get("images", {})
    size = given.get("size", images.size)
    if size == images.size:
        return changes
    share = size / images.size
    resize = given.get("resize", max(size, round(images.resize * share)))
    growing = [
        size if each == images.size else min(resize, side(each, share))
        for each in images.progressive
    ]
    follow = {"resize": resize, "progressive": tuple(growing)}
    return changes | {"images": follow | given}


def _replaced(config: Any, changes: dict[str, Any]) -> Any:
    """Returns a dataclass with the tree of changes; each part is made, and checked, once."""
    new = {
        name: _replaced(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **new)


def _parse(text: str, old: object, name: str) -> object:
    """Reads `text` as a Python literal of the type of `old`."""
    if isinstance(old, str):
        return text.strip("'\"")
    import ast

    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two of "---...1"
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    same_items = not isinstance(old, tuple) or all(
        isinstance(item, int | float) for item in (*old, *(value if type(value) is tuple else ()))
    )
    if type(value) is not type(old) or not same_items:
        raise ValueError(f"{name} takes {type(old).__name__}, not {text!r}.")
    return value


def to_json(config: Config) -> str:
    """Returns the configuration as JSON; `from_json` gives back an equal one."""
    return json.dumps(_to_plain(config), indent=1) + "\n"


def _to_plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        kind = type(value).__name__
        head = {"type": kind} if kind in _TYPES else {}
        fields = dataclasses.fields(value)
        plain = {field.name: _to_plain(getattr(value, field.name)) for field in fields}
        return head | {n: x for n, x in plain.items() if n not in _LATER or x != _LATER[n]}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value


def from_json(text: str, source: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      InputError: `source` (named in the message) is not such a file.
    """
    try:
        return _from_plain(json.loads(text), Config)
    except (
        RecursionError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise InputError(f"{source} is not a configuration of this version: {error}") from error


def read(path: Path) -> Config:
    """Reads config.json, as `from_json`."""
    try:
        return from_json(files.read_text(path), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a configuration of this version: {error}") from error


def _from_plain(value: Any, kind: Any) -> Any:
    """Rebuilds a value of the annotated type `kind`; unknown fields raise TypeError."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        item_kinds = typing.get_args(kind)
        if item_kinds[-1] is Ellipsis:
            return tuple(_from_plain(item, item_kinds[0]) for item in value)
        return tuple(_from_plain(*pair) for pair in zip(value, item_kinds, strict=True))
    if origin in (typing.Union, types.UnionType):
        kind = _TYPES[value["type"]]
    if not dataclasses.is_dataclass(kind):
        return float(value) if kind is float else value
    hints = typing.get_type_hints(kind)
    fields = {name: item for name, item in value.items() if name != "type"}
    rebuilt = {name: _from_plain(item, hints.get(name)) for name, item in fields.items()}
    return kind(**rebuilt)  # type: ignore[operator]  # `kind` is a class, never an instance
