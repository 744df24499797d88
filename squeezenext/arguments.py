"""Checks the arguments of public functions and dataclasses against their annotated types."""

import collections.abc
import functools
import inspect
import numbers
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from squeezenext.errors import InputError

# Arguments and flags that may be an address of the Hub, which what is written never is.
ON_HUB = {"model_dir", "model", "configuration", "fine_tune_from", "teacher", "photos"}
Public = TypeVar("Public", bound=Callable[..., Any])


def checked(*addresses: str, **least: float) -> Callable[[Public], Public]:
    """Returns a decorator that checks the arguments of a public function or dataclass.

    An argument of another type than the annotated one raises an InputError at the door instead of
    an AttributeError from deep inside.

    Args:
      addresses: arguments that may be addresses, which the function checks itself.
      least: the smallest allowed value of numbers, by argument.
    """

    def decorate(target: Public) -> Public:
        if isinstance(target, type):
            target.__init__ = decorate(target.__init__)  # type: ignore[misc]
            return target
        name = target.__qualname__.removesuffix(".__init__")
        signature = inspect.signature(target)

        @functools.wraps(target)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                given = signature.bind(*arguments, **named)
            except TypeError:
                return target(*arguments, **named)  # whose error names the function
            hints = _hints(target)
            for key, value in given.arguments.items():
                if key in hints and not fits(value, hints[key]):
                    kind = _described(hints[key])
                    raise InputError(f"{name}(): {key} is {kind}, not {reprlib.repr(value)}.")
                if isinstance(value, str | Path) and Path in typing.get_args(hints.get(key)):
                    if not str(value):
                        raise InputError(f"{name}(): {key} is empty; it must name a file.")
                    # What takes URLs says itself which ones.
                    url = "allow_url" in hints and is_url(str(value))
                    on_hub = key in ON_HUB and is_hub(value)
                    if not (url or on_hub or key in addresses):
                        refuse_remote(f"{name}(): {key}", value)
                if key in least and value is not None and not value >= least[key]:
                    raise InputError(f"{name}(): {key} is at least {least[key]}, not {value}.")
                if getattr(value, "shape", None) == ():  # numpy's numbers, which JSON does not take
                    given.arguments[key] = value.item()
            return target(*given.args, **given.kwargs)

        return call  # type: ignore[return-value]

    return decorate


def is_url(path: str) -> bool:
    """Returns whether a path is the address of an image on a web server."""
    return path.lower().startswith(("https://", "http://"))


def is_hub(path: str | Path) -> bool:
    """Returns whether a path is an address of the Hugging Face Hub; as a `Path` it is hf:/."""
    return str(path).startswith("hf:/")


def refuse_remote(what: str, path: str | Path) -> None:
    """Raises InputError for a path with a scheme, such as gs://, which would become a local folder.

    Args:
      what: name of the flag or argument, for the message.
      path: its value, in which a `Path` has lost a slash.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(.*)", str(path), re.DOTALL)
    if not found or not (found[2] or isinstance(path, Path)) or Path(f"{found[1]}:").is_dir():
        return
    rest = found[3].lstrip("/")
    shown = str(path) if found[2] else f"{found[1]}://{rest}"
    raise InputError(
        f"{what} {shown} is no path on this machine, and no address that is read or "
        "written here; mount that, or copy it, and give a path such as "
        f"{'/' if found[1].lower() == 'file' else '/mnt/'}{rest or 'data'}."
    )


@functools.cache
def _hints(function: Callable) -> dict[str, Any]:
    """Returns the annotated types by argument; only at a call are all names in them known."""
    return typing.get_type_hints(function)


def fits(value: object, hint: Any) -> bool:
    """Returns whether a value is of an annotated type; where that cannot be said, it is."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if hint is bool:
        return type(value).__name__ in ("bool", "bool_")  # numpy's, too
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, os.PathLike)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()
        )
    if origin in (list, tuple, collections.abc.Sequence):
        items = isinstance(value, collections.abc.Sequence) and not isinstance(value, str | bytes)
        return items and all(fits(item, parts[0]) for item in value)  # type: ignore[attr-defined]
    if origin is collections.abc.Callable:
        return callable(value)
    return not isinstance(hint, type) or isinstance(value, hint)


_NUMBERS = {int: numbers.Integral, float: numbers.Real}
_KINDS = {
    int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path",
    type(None): "None", tuple: "a list", collections.abc.Sequence: "a list",
    collections.abc.Callable: "a function",
}  # fmt: skip


def _described(hint: Any) -> str:
    """Returns words for an annotated type, such as "a path or None"."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [part for part in parts if part is not str or Path not in parts]  # also a path
        return " or ".join(map(_described, kinds))
    if origin in (tuple, collections.abc.Sequence) and parts[0] in _KINDS:
        return f"a list, each item {_described(parts[0])}"
    return _KINDS.get(origin or hint) or f"of the type {getattr(hint, '__name__', hint)}"
