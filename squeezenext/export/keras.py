"""A trained network as a `.keras` file of plain Keras layers.

Batch norm is folded and no layer is this package's own, so that Keras loads the file without it,
from release 3.5 on.
"""

import json
import zipfile
from pathlib import Path

import numpy as np

from squeezenext import tf_import
from squeezenext.errors import InputError
from squeezenext.export.format import Format, Request, Run
from squeezenext.export.litert import DESCRIPTION, describe
from squeezenext.network import known, rgb
from squeezenext.network.graph import Graph, Node
from squeezenext.network.model import Model

# What Keras 3.15 writes and 3.5 does not know; none of it is needed to compute.
_NEWER = {"input_axes", "output_axes", "optional", "quantization_config", "ragged"}


def write(model: Model, path: Path) -> None:
    """Writes a `.keras` file that maps [N, size, size, 3] RGB, 0..255, to probabilities.

    The text of `describe` is added to the zip as squeezenext.json, which Keras ignores.
    """
    build_plain(model).save(path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    layers = _without_newer(json.loads(contents["config.json"]))
    contents["config.json"] = json.dumps(layers).encode()
    contents[DESCRIPTION] = describe(model, "float32").encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def _without_newer(document):
    """Returns a JSON document without the keys that older releases of Keras refuse."""
    if isinstance(document, list):
        return [_without_newer(item) for item in document]
    if isinstance(document, dict):
        return {k: _without_newer(x) for k, x in document.items() if k not in _NEWER}
    return document


def build_plain(model: Model, with_known: bool = False):
    """Returns a `keras.Model` of plain layers, from RGB pixels in 0..255 to probabilities.

    With `with_known` it gives a list of these and `known` [N, 1], if the model has that.
    """
    tf_import.import_tensorflow()
    import keras

    graph, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    images = keras.Input(graph.nodes[0].shape, name=graph.nodes[0].name)
    values = {graph.nodes[0].name: images}
    for node in graph.nodes[1:]:
        values[node.name] = _layer(keras.layers, node, [values[name] for name in node.inputs])
    logits = values[graph.logits.name]
    if model.temperature != 1:
        logits = keras.layers.Rescaling(1 / model.temperature, name="temperature")(logits)
    probabilities = keras.layers.Softmax(name="probabilities")(logits)
    outputs = probabilities
    if with_known and model.known:
        outputs = [probabilities, _known(keras.layers, graph, values)]
    network = keras.Model(images, outputs, name="squeezenext")
    if with_known and model.known:
        kernel, bias = model.known.kernel[:, np.newaxis], np.float32([model.known.bias])
        network.get_layer(known.NAME).set_weights([kernel, bias])
    for node in graph.weighted:
        parts = ("kernel", "bias") if node.op == "conv" or node.bias else ("kernel",)
        network.get_layer(node.name).set_weights([weights[f"{node.name}/{x}"] for x in parts])
    return network


def _known(layers, graph: Graph, values: dict):
    """Applies the layers of what network/known.py says."""
    features, logits = known.with_node(graph).nodes[-1].inputs
    unit = layers.UnitNormalization()(layers.GlobalAveragePooling2D()(values[features]))
    greatest = layers.GlobalMaxPooling1D()(layers.Reshape((-1, 1))(values[logits]))
    inputs = layers.Concatenate()([unit, layers.Multiply()([unit, unit]), greatest])
    return layers.Dense(1, "sigmoid", name=known.NAME)(inputs)


def _layer(layers, node: Node, inputs: list):
    """Applies the Keras layer of a node to its inputs; `layers` is `keras.layers`."""
    if node.op == "conv":
        x = inputs[0]
        if node.padding != ((0, 0), (0, 0)):
            x = layers.ZeroPadding2D(node.padding, name=f"{node.name}_padding")(x)
        return layers.Conv2D(
            node.shape[-1],
            node.kernel,
            node.strides,
            groups=node.groups,
            activation=node.activation,
            name=node.name,
        )(x)
    if node.op == "max_pool":
        same = "same" if node.padding != ((0, 0), (0, 0)) else "valid"
        return layers.MaxPooling2D(node.kernel, node.strides, same, name=node.name)(inputs[0])
    if node.op == "pad":
        return layers.ZeroPadding2D(node.padding, name=node.name)(inputs[0])
    if node.op == "concat":
        return layers.Concatenate(name=node.name)(inputs)
    if node.op == "add":
        total = layers.Add(name=node.name)(inputs)
        if node.activation == "linear":
            return total
        return layers.Activation(node.activation, name=f"{node.name}_{node.activation}")(total)
    if node.op == "global_pool":
        return layers.GlobalAveragePooling2D(name=node.name)(inputs[0])
    return layers.Dense(node.shape[-1], use_bias=node.bias, name=node.name)(inputs[0])


def runner(path: Path) -> Run:
    """Returns a function that runs a `.keras` file."""
    import keras
    import tensorflow as tf

    network = keras.models.load_model(path, compile=False, safe_mode=True)
    compute = tf.function(network)  # else Keras traces grouped convolutions at each call, and warns
    return lambda image: np.asarray(compute(image[np.newaxis].astype(np.float32)))[0]


def _write(request: Request, path: Path) -> list[tuple[str, Run]]:
    if path.suffix != ".keras":
        raise InputError(
            "--output must end in .keras, such as mine.keras, by which Keras knows its format."
        )
    write(request.model, path)
    return [(request.precision, runner(path))]


FORMAT = Format(
    name="keras", precisions=("float32",), write=_write, ending=".keras", mark="metadata.json"
)
