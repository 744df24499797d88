"""The models that a run learns from: the weights that it starts from, and its teacher.

Equal shapes do not make an equal network: pixels, activation and padding have none, and a class is
what its name says, not its number.
"""

import dataclasses
import shlex
from collections.abc import Sequence

import numpy as np

from squeezenext import labels
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.labels import Label
from squeezenext.model import directory as model_directory
from squeezenext.model import published

KERAS = "keras:"  # prefix of a teacher of keras.applications
# What training may change: the classes, and fields that the trained weights do not depend on.
_FREE = {"classes", "dropout", "initializer"}
_PIXELS = ("channels", "mean", "std")


def check_network(name: str, theirs: Config, ours: Config) -> None:
    """Raises InputError unless the weights of `theirs`, named `name`, mean the same in `ours`."""
    if type(theirs.model) is not type(ours.model):
        kinds = [type(config.model).__name__ for config in (theirs, ours)]
        raise InputError(
            f"--fine_tune_from {name} is a {kinds[0]}, this configuration a {kinds[1]}; give the "
            "--configuration that it was trained with."
        )
    fields = [f"model.{field.name}" for field in dataclasses.fields(ours.model)]
    fields = [field for field in fields if field.removeprefix("model.") not in _FREE]
    fields += [f"images.{field}" for field in _PIXELS]
    pairs = [(field, _value(theirs, field), _value(ours, field)) for field in fields]
    others = [pair for pair in pairs if pair[1] != pair[2]]
    if others:
        said = ", ".join(
            f"{field} is {_short(x)} there and {_short(y)} here" for field, x, y in others
        )
        changes = " ".join(f"--set {shlex.quote(f'{field}={x}')}" for field, x, _ in others)
        settable = all(_is_settable(x) for _, x, _ in others)
        raise InputError(
            f"--fine_tune_from {name} is another network: {said}; give the --configuration that it "
            f"was trained with{f', or {changes}' if settable else ''}."
        )


def _value(config: Config, field: str) -> object:
    group, _, name = field.partition(".")
    return getattr(getattr(config, group), name)


def _is_settable(value: object) -> bool:
    """Says whether `--set` takes such a value."""
    items = value if isinstance(value, tuple) else (value,)
    return all(isinstance(item, (int, float, str)) for item in items)


def _short(value: object) -> str:
    return str(value) if _is_settable(value) else "another list"


def check_teacher(name: str, classes: Sequence[Label]) -> None:
    """Raises InputError if a teacher has as many classes, but others or in another order.

    Another number of them is found when the teacher is loaded.
    """
    if name.startswith(KERAS):
        theirs = labels.imagenet()
    else:
        theirs = model_directory.read(published.resolve(name))[1]
    if len(theirs) != len(classes) or not (_are_named(theirs) and _are_named(classes)):
        return
    for index, (their, our) in enumerate(zip(theirs, classes, strict=True)):
        if their.synset != our.synset:
            raise InputError(
                f"--teacher {name} has other classes, or another order: class {index} is "
                f"{their.synset} there and {our.synset} in the data; choose a teacher that was "
                "trained on this data."
            )


def _are_named(classes: Sequence[Label]) -> bool:
    """Says whether classes have names; those of records without a manifest have numbers alone."""
    return any(each.text != f"class {each.synset}" for each in classes)


def common(theirs: Sequence[Label], ours: Sequence[Label]) -> list[tuple[int, int]]:
    """Returns (index there, index here) of each class that two models share.

    Where one of them knows no names, equal numbers of classes are taken for the same classes.
    """
    if not (_are_named(theirs) and _are_named(ours)):
        return [(i, i) for i in range(len(ours))] if len(theirs) == len(ours) else []
    places = {each.synset: index for index, each in enumerate(theirs)}
    return [(places[x.synset], i) for i, x in enumerate(ours) if x.synset in places]


def head(
    trained: np.ndarray, new: np.ndarray, rows: Sequence[tuple[int, int]]
) -> np.ndarray | None:
    """Returns the classifier's array `new` with the rows of known classes, or None without any.

    Args:
      trained: [..., classes there] float32.
      new: [..., classes here] float32, initial values.
      rows: what `common` returned.
    """
    if not rows or trained.shape[:-1] != new.shape[:-1]:
        return None
    there, here = np.array(rows).T
    made = new.copy()
    made[..., here] = trained[..., there]
    return made
