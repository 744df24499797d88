"""A SavedModel of plain Keras layers, which TensorFlow Serving loads."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from squeezenext import tf_import
from squeezenext.errors import NotKept
from squeezenext.export import checking, keras
from squeezenext.export.format import FolderKind, Format, Request, Run
from squeezenext.export.litert import describe
from squeezenext.images import decoding, geometry
from squeezenext.model import card
from squeezenext.network.model import Model

_FILES = ("saved_model.pb", "fingerprint.pb", "variables/variables.*", card.FILE)
_SAME = 1e-2  # greatest difference of a probability: JPEG decoders differ in a last bit
Serve = Callable[[str, object], np.ndarray]  # (signature, images) to [N, classes] probabilities


def write(model: Model, path: Path) -> None:
    """Writes a SavedModel with two signatures for images, and one that describes the model.

    serving_default: `images` [N, size, size, 3] uint8, RGB, already cropped. encoded: `images` [N]
    strings, whole files of JPEG, PNG, GIF, BMP or WebP. Both give `probabilities` [N, classes]
    float32 and, for the five best classes, `classes` [N, 5], their names, and `scores` [N, 5];
    and `known` [N], if the model has that.
    describe: `squeezenext`, the text of `litert.describe`.
    """
    tf_import.import_tensorflow()
    import tensorflow as tf

    from squeezenext.images import crops

    module = tf.Module()
    network = keras.build_plain(model, with_known=True)
    # The module holds the variables that the functions read, not the Keras model: the saver would
    # restore copies of that model's variables, and only Python's own loader ties those to the ones
    # that are read; in any other loader they stay uninitialized.
    module.weights = [variable.value for variable in network.variables]
    module.description = tf.constant(describe(model, "float32"))
    names = tf.constant([label.text for label in model.labels])
    size, count = model.config.images.size, min(5, len(model.labels))

    def answer(pixels):
        outputs = network(tf.cast(pixels, tf.float32), training=False)
        probabilities, *known = outputs if model.known else [outputs]
        scores, best = tf.math.top_k(probabilities, count)
        found = {"classes": tf.gather(names, best), "scores": scores}
        found |= {"known": known[0][:, 0]} if known else {}
        return found | {"probabilities": probabilities}

    def crop(number, content):
        # Else TensorFlow's message does not say which of the files it was.
        kinds = (
            "is no JPEG, PNG, WebP, GIF without transparency, or BMP of 24 or 32 bits without masks"
        )
        message = ["images", number, kinds]
        with tf.control_dependencies([tf.debugging.Assert(crops.is_supported(content), message)]):
            return crops.centre(content, model.config.images)

    def encoded(images):
        kind = tf.TensorSpec((size, size, 3), tf.uint8)
        numbered = tf.range(tf.size(images)), images
        return answer(tf.map_fn(lambda x: crop(*x), numbered, fn_output_signature=kind))

    pixels = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")
    strings = tf.TensorSpec((None,), tf.string, name="images")
    module.serve = tf.function(lambda images: answer(images), input_signature=[pixels])
    module.encoded = tf.function(encoded, input_signature=[strings])
    # A signature, because a SavedModel has no field for texts.
    module.describe = tf.function(lambda: {"squeezenext": module.description}, input_signature=[])
    signatures = {
        "serving_default": module.serve,
        "encoded": module.encoded,
        "describe": module.describe,
    }
    tf.saved_model.save(module, str(path), signatures)


def serve(path: Path) -> Serve:
    """Loads a SavedModel from the file's graph alone, as TensorFlow Serving does.

    `tf.saved_model.load` would rebuild the Python objects, and so run files that no other loader
    can run.
    """
    import tensorflow as tf

    session, log = tf.compat.v1.Session(graph=tf.Graph()), tf.get_logger()
    tags, level = [tf.saved_model.SERVING], log.level
    log.setLevel("ERROR")  # hides the advice to use Python's newer loader
    try:
        with session.graph.as_default():
            signatures = tf.compat.v1.saved_model.load(session, tags, str(path)).signature_def
    finally:
        log.setLevel(level)

    def run(signature: str, images) -> np.ndarray:
        known = signatures[signature]
        output, source = known.outputs["probabilities"].name, known.inputs["images"].name
        return session.run(output, {source: images})

    return run


def check_encoded(served: Serve, model: Model, pixels: np.ndarray) -> None:
    """Checks that a SavedModel decodes and crops files of `pixels` as we do elsewhere.

    Raises:
      NotKept: the probabilities differ.
    """
    exif, upright = Image.Exif(), model.config.images.orientation == "exif"
    for kind in ("JPEG", "PNG"):
        exif[0x0112] = 6 if kind == "JPEG" else 1  # TensorFlow's signature reads that of JPEGs
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, quality=95, exif=exif)
        image = decoding.decode(decoding.open_image(file.getvalue(), upright=upright))
        cropped = geometry.centre_pixels(image, model.config.images)[np.newaxis]
        found = served("encoded", [file.getvalue()]) - served("serving_default", cropped)
        if not np.abs(found).max() <= _SAME:
            raise NotKept(f"The SavedModel reads {kind} files in another way; it was not kept.")


def _write(request: Request, path: Path) -> list[tuple[str, Run]]:
    write(request.model, path)
    served = serve(path)
    check_encoded(served, request.model, checking.probes(request.model, request.images)[0])
    return [(request.precision, lambda image: served("serving_default", image[np.newaxis])[0])]


FORMAT = Format(
    name="saved_model",
    precisions=("float32",),
    write=_write,
    folder=FolderKind(_FILES, lambda folder: (folder / _FILES[0]).is_file()),
)
