"""The text of ncnn's `.param`: the layers of a network and the blobs between them.

7767517, the numbers of layers and blobs, then a line a layer: type, name, how many inputs and
outputs, their names, and attributes as key=value, numbers both.
"""

import dataclasses

from squeezenext.errors import InputError

MAGIC = "7767517"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A line: its blobs by name, and its attributes by number."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[int, int | float]


def parse(param: bytes, source: str) -> list[Layer]:
    """Returns the layers in order; each reads only blobs that were made before it.

    Raises:
      InputError: the bytes are no such text; `source` is named.
    """
    try:
        magic, counts, *lines = param.decode("ascii").split("\n")
        layers = [_layer(line.split()) for line in lines if line.strip()]
        told = [int(number) for number in counts.split()]
    except (ValueError, IndexError) as error:
        raise InputError(f"{source}: the .param is not ncnn's text ({error}).") from error
    blobs: set[str] = set()
    for layer in layers:
        if not blobs.issuperset(layer.inputs) or not blobs.isdisjoint(layer.outputs):
            raise InputError(f"{source}: the .param's layer {layer.name} reads or makes no blob.")
        blobs.update(layer.outputs)
    unique = {layer.name for layer in layers}
    if magic.strip() != MAGIC or told != [len(layers), len(blobs)] or len(unique) != len(layers):
        raise InputError(f"{source}: the .param is not ncnn's: its first two lines do not fit.")
    return layers


def _layer(words: list[str]) -> Layer:
    kind, name, inputs, outputs, *rest = words
    first, second = int(inputs), int(inputs) + int(outputs)
    if not 0 <= first <= second <= len(rest):
        raise ValueError(f"layer {name} has other blobs than it says")
    attributes = {}
    for pair in rest[second:]:
        key, value = pair.split("=")
        attributes[int(key)] = float(value) if "." in value else int(value)
    return Layer(kind, name, tuple(rest[:first]), tuple(rest[first:second]), attributes)
