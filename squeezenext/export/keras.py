"""A trained network as plain Keras layers: a `.keras` file, or a SavedModel for TensorFlow Serving.

Batch norm is folded and no layer is this package's own, so both load without it.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from squeezenext.errors import NotKept
from squeezenext.export import rgb
from squeezenext.export.litert import DESCRIPTION, describe
from squeezenext.images import crops, decoding
from squeezenext.model.loading import Trained
from squeezenext.network.graph import Node

L = keras.layers
_SAME = 1e-2  # of probabilities: TensorFlow's and Pillow's JPEG differ in a last bit


def write_keras(model: Trained, path: Path) -> None:
    """Writes a `.keras` file, from [N, size, size, 3] RGB, pixels in 0..255, to probabilities.

    What `describe` says stands in the zip as squeezenext.json, which Keras passes over.
    """
    build(model).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(DESCRIPTION, describe(model, "float32"))


def build(model: Trained) -> keras.Model:
    """Returns the network of plain layers, from RGB pixels in 0..255 to probabilities."""
    graph, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    images = keras.Input(graph.nodes[0].shape, name=graph.nodes[0].name)
    values = {graph.nodes[0].name: images}
    for node in graph.nodes[1:]:
        values[node.name] = _layer(node, [values[name] for name in node.inputs])
    logits = values[graph.nodes[-1].name]
    if model.temperature != 1:
        logits = L.Rescaling(1 / model.temperature, name="temperature")(logits)
    network = keras.Model(images, L.Softmax(name="probabilities")(logits), name="squeezenext")
    for node in graph.weighted:
        parts = ("kernel", "bias") if node.op == "conv" or node.bias else ("kernel",)
        network.get_layer(node.name).set_weights([weights[f"{node.name}/{x}"] for x in parts])
    return network


def _layer(node: Node, inputs: list):
    if node.op == "conv":
        x = _padded(node, inputs[0])
        return L.Conv2D(
            node.shape[-1],
            node.kernel,
            node.strides,
            groups=node.groups,
            activation=node.activation,
            name=node.name,
        )(x)
    if node.op == "max_pool":
        same = "same" if node.padding != ((0, 0), (0, 0)) else "valid"
        return L.MaxPooling2D(node.kernel, node.strides, same, name=node.name)(inputs[0])
    if node.op == "pad":
        return L.ZeroPadding2D(node.padding, name=node.name)(inputs[0])
    if node.op == "concat":
        return L.Concatenate(name=node.name)(inputs)
    if node.op == "add":
        total = L.Add(name=node.name)(inputs)
        if node.activation == "linear":
            return total
        return L.Activation(node.activation, name=f"{node.name}_{node.activation}")(total)
    if node.op == "global_pool":
        return L.GlobalAveragePooling2D(name=node.name)(inputs[0])
    return L.Dense(node.shape[-1], use_bias=node.bias, name=node.name)(inputs[0])


def _padded(node: Node, x):
    if node.padding == ((0, 0), (0, 0)):
        return x
    return L.ZeroPadding2D(node.padding, name=f"{node.name}_padding")(x)


def write_saved_model(model: Trained, path: Path) -> None:
    """Writes a SavedModel with two signatures for images.

    serving_default: `images` [N, size, size, 3] uint8, RGB, already cropped; `encoded`: `images`
    [N] strings, JPEG files as they are. Both give `probabilities` [N, classes] float32, and of the
    five best `classes` [N, 5], names, and `scores` [N, 5]. `describe` tells what the model is.
    """
    module = tf.Module()
    network = build(model)
    # The module holds what the functions read, not the Keras model: of that the saver restores
    # copies, and each variable is uninitialized but for Python's own loader, which ties the two.
    module.weights = [variable.value for variable in network.variables]
    module.description = tf.constant(describe(model, "float32"))
    names = tf.constant([label.text for label in model.labels])
    size, count = model.config.images.size, min(5, len(model.labels))

    def answer(pixels):
        probabilities = network(tf.cast(pixels, tf.float32), training=False)
        scores, places = tf.math.top_k(probabilities, count)
        classes = tf.gather(names, places)
        return {"probabilities": probabilities, "classes": classes, "scores": scores}

    shaped = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")
    module.serve = tf.function(lambda images: answer(images), input_signature=[shaped])

    def decode(content):
        height, width, _ = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(content), tf.int64))
        return crops.centre(content, height, width, model.config.images)

    def encoded(images):
        kind = tf.TensorSpec((size, size, 3), tf.uint8)
        return answer(tf.map_fn(decode, images, fn_output_signature=kind))

    strings = tf.TensorSpec((None,), tf.string, name="images")
    module.encoded = tf.function(encoded, input_signature=[strings])
    # What a reader of the file is told, as a signature: SavedModels have no place for texts.
    module.describe = tf.function(lambda: {"squeezenext": module.description}, input_signature=[])
    signatures = {
        "serving_default": module.serve,
        "encoded": module.encoded,
        "describe": module.describe,
    }
    tf.saved_model.save(module, str(path), signatures)


class Served:
    """A SavedModel in a session, from the file's graph alone, as TensorFlow Serving loads it.

    Not by `tf.saved_model.load`, which builds the Python objects again and so runs files that no
    other loader does.
    """

    def __init__(self, path: Path):
        graph, log = tf.Graph(), tf.get_logger()
        self._session = tf.compat.v1.Session(graph=graph)
        tags, level = [tf.saved_model.SERVING], log.level
        log.setLevel("ERROR")  # else it says that Python has a newer loader
        try:
            with graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, tags, str(path))
        finally:
            log.setLevel(level)
        self._signatures = loaded.signature_def

    def __call__(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        """Returns a signature's outputs by name."""
        known = self._signatures[signature]
        outputs = {name: tensor.name for name, tensor in known.outputs.items()}
        return self._session.run(outputs, {known.inputs[n].name: x for n, x in inputs.items()})


def run_keras(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a `.keras` file: from [size, size, 3] uint8, RGB, to probabilities."""
    network = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda image: np.asarray(network(image[np.newaxis].astype(np.float32)))[0]


def run_saved_model(served: Served) -> Callable[[np.ndarray], np.ndarray]:
    """The same of a SavedModel, through `serving_default`."""
    return lambda image: served("serving_default", images=image[np.newaxis])["probabilities"][0]


def check_encoded(served: Served, model: Trained, pixels: np.ndarray) -> None:
    """Checks that a SavedModel reads a JPEG file as the rest of this package does.

    Args:
      pixels: [size, size, 3] uint8, RGB; a JPEG is made of them.

    Raises:
      NotKept: it does not.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    shown = decoding.read_image(file.getvalue(), "the probe")
    expected = run_saved_model(served)(decoding.centre_pixels(shown, model.config.images))
    found = served("encoded", images=[file.getvalue()])["probabilities"][0]
    if not np.abs(found - expected).max() <= _SAME:
        raise NotKept("The SavedModel reads JPEG files in another way; it was not kept.")
