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

from squeezenext import augmentation, preprocessing
from squeezenext.errors import NotKept
from squeezenext.exporting import pixels
from squeezenext.exporting.export_litert import DESCRIPTION, describe
from squeezenext.graph import Node
from squeezenext.trained import Trained

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
    graph, weights = pixels.take_rgb(model.graph, model.weights, model.config.images)
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


def write_saved_model(model: Trained, path: Path):
    """Writes a SavedModel with two signatures, and returns it as it is loaded again.

    serving_default: `images` [N, size, size, 3] uint8, RGB, already cropped; `encoded`: `images`
    [N] strings, JPEG files as they are. Both give `probabilities` [N, classes] float32, and of the
    five best `classes` [N, 5], names, and `scores` [N, 5]. `describe` tells what the model is.
    """
    module = tf.Module()
    module.network = build(model)
    module.description = tf.constant(describe(model, "float32"))
    names = tf.constant([label.text for label in model.labels])
    size, count = model.config.images.size, min(5, len(model.labels))

    def answer(pixels):
        probabilities = module.network(tf.cast(pixels, tf.float32), training=False)
        scores, places = tf.math.top_k(probabilities, count)
        classes = tf.gather(names, places)
        return {"probabilities": probabilities, "classes": classes, "scores": scores}

    shaped = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")
    module.serve = tf.function(lambda images: answer(images), input_signature=[shaped])

    def decode(content):
        height, width, _ = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(content), tf.int64))
        return augmentation.centre(content, height, width, model.config.images)

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
    return tf.saved_model.load(str(path))


def run_keras(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a `.keras` file: from [size, size, 3] uint8, RGB, to probabilities."""
    network = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda image: np.asarray(network(image[np.newaxis].astype(np.float32)))[0]


def run_saved_model(loaded) -> Callable[[np.ndarray], np.ndarray]:
    """The same of a SavedModel, as `tf.saved_model.load` returns it, through `serving_default`."""

    def run(image: np.ndarray) -> np.ndarray:
        serve = loaded.signatures["serving_default"]  # which does not keep `loaded` alive
        return serve(images=tf.constant(image[np.newaxis]))["probabilities"].numpy()[0]

    return run


def check_encoded(loaded, model: Trained, pixels: np.ndarray) -> None:
    """Checks that a SavedModel reads a JPEG file as the rest of this package does.

    Args:
      pixels: [size, size, 3] uint8, RGB; a JPEG is made of them.

    Raises:
      NotKept: it does not.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    shown = preprocessing.read_image(file.getvalue(), "the probe")
    expected = run_saved_model(loaded)(preprocessing.centre_pixels(shown, model.config.images))
    found = loaded.signatures["encoded"](images=tf.constant([file.getvalue()]))["probabilities"]
    if not np.abs(found.numpy()[0] - expected).max() <= _SAME:
        raise NotKept("The SavedModel reads JPEG files in another way; it was not kept.")
