"""A folder that runs a trained network in the browser: any web host serves it, none computes.

index.html and its own files come from `web/`, the runtime (LiteRT.js, Apache licence) from npm.
model.json says what to show the network and which sizes of it there are.
"""

import dataclasses
import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.cli import Say
from squeezenext.errors import InputError, NotKept
from squeezenext.export import checking, npm, rgb
from squeezenext.litert import int8, writer
from squeezenext.litert.runner import Runner
from squeezenext.model import loading
from squeezenext.model.loading import Trained
from squeezenext.network.graph import Graph, Node
from squeezenext.predict.predictor import softmax

PAGE = Path(__file__).with_name("web")
CORE = npm.Package(
    "@litertjs/core",
    "2.5.3",
    "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
)
UTILS = npm.Package(
    "@litertjs/wasm-utils",
    "2.5.3",
    "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
)
_BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")  # with relaxed SIMD and without
MANIFEST = "model.json"
_WORDS = ("files", "images", "labels", "model", "temperature")  # of the manifest
_COMPRESSED = "compressed.tflite.gz"
FILES = (  # all that a page's folder holds
    *("app.js", "heat.js", "network.js", "picture.js", "preprocessing.js", "style.css"),
    *("index.html", "runtime-licence.txt"),
    *("runtime/*.js", "runtime/wasm/*.js", "runtime/wasm/*.wasm"),
    *("float32.tflite", "int8.tflite", _COMPRESSED, MANIFEST),
)


def is_page(folder: Path) -> bool:
    """Says whether a folder holds a manifest of this module; TensorFlow.js has one of its name."""
    try:
        document = _manifest(folder)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.keys() >= set(_WORDS)


def make(
    model: Trained, model_dir: str | Path, folder: Path, calibration: Sequence[np.ndarray], say: Say
) -> None:
    """Writes the page of a model into an empty folder and checks it.

    Args:
      model_dir: of which `model` was loaded; it may hold a compressed network, too.
      calibration: images, as `photographs.read` yields them; without them there is no int8.
      say: is told of what is left out.

    Raises:
      InputError: the runtime cannot be had, or the folder cannot be written.
      NotKept: a network of the page answers otherwise than the model.
    """
    shown = checking.probes(model, calibration)
    write(model, folder, calibration, beside(model, model_dir, shown, say))
    check(folder, checking.reference(model), checking.probes(model, calibration, "int8"))


def write(
    model: Trained,
    folder: Path,
    calibration: Sequence[np.ndarray] = (),
    compressed: Trained | None = None,
) -> None:
    """Writes the page, its runtime and the networks into an empty folder.

    Args:
      calibration: images, as `photographs.read` yields them; without them there is no int8.
      compressed: the same network from a `.sqz` file. Its few different weights let gzip do in the
        browser, nearly, what the file's own coder does.

    Raises:
      InputError: the runtime cannot be had, or the folder cannot be written.
    """
    for path in PAGE.iterdir():
        shutil.copyfile(path, folder / path.name)
    for place, content in _runtime().items():
        path = folder / "runtime" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rows = []
    networks = {f"{n}.tflite": data for n, data in _networks(model, calibration).items()}
    if compressed:
        content = _networks(compressed, ())["float32"]
        networks[_COMPRESSED] = gzip.compress(content, 9, mtime=0)
    for name, content in networks.items():
        (folder / name).write_bytes(content)
        rows.append({"name": name.split(".")[0], "file": name, "bytes": len(content)})
    images = model.config.images
    document = {
        "files": rows,
        "head_padding": model.config.model.head_padding,
        "images": {x: getattr(images, x) for x in IMAGES},
        "labels": [label.text for label in model.labels],
        "model": model.name,
        "temperature": model.temperature,
    }
    (folder / MANIFEST).write_text(json.dumps(document, ensure_ascii=False) + "\n", "utf-8")


def _runtime() -> dict[str, bytes]:
    names = {"dist/index.js": "index.js"}
    for build in _BUILDS:
        names |= {f"wasm/{build}{end}": f"wasm/{build}{end}" for end in (".js", ".wasm")}
    found = npm.package_files(CORE, names) | npm.package_files(
        UTILS, {"dist/index.js": "wasm-utils.js"}
    )
    # A bare name needs an import map, which a page that allows no inline script cannot have.
    found["index.js"] = found["index.js"].replace(b'"@litertjs/wasm-utils"', b'"./wasm-utils.js"')
    return found


def _networks(model: Trained, calibration: Sequence[np.ndarray]) -> dict[str, bytes]:
    graph, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    graph, weights = with_class_maps(graph, weights)
    # No float16: LiteRT.js 2.5 widens such weights at every run, and took 3 times float32's time.
    kinds = {"float32": writer.Float32()}
    if len(calibration):
        kinds["int8"] = int8.calibrated(graph, weights, calibration)
    outputs = [graph.features]
    return {
        name: writer.write(graph, weights, numbers=kind, outputs=outputs)
        for name, kind in kinds.items()
    }


def with_class_maps(graph: Graph, weights) -> tuple[Graph, dict[str, np.ndarray]]:
    """Returns the network with a classifier that works on every place before the mean.

    Mean and matrix may change places, for both are linear: the last map then has a channel a
    class, whose mean is its logit. SqueezeNet is built so, SqueezeNext ends in mean and matrix.
    """
    last = graph.nodes[-1]
    if last.op != "dense":
        return graph, dict(weights)
    mean = graph[last.inputs[0]]
    height, width, _ = graph[mean.inputs[0]].shape
    conv = Node(op="conv", name=last.name, inputs=mean.inputs, shape=(height, width, *last.shape))
    pool = dataclasses.replace(mean, inputs=(conv.name,), shape=last.shape)
    kernel = weights[f"{last.name}/kernel"][np.newaxis, np.newaxis]
    bias = weights.get(f"{last.name}/bias", np.zeros(last.shape, np.float32))
    changed = {f"{last.name}/kernel": kernel, f"{last.name}/bias": bias}
    return Graph((*graph.nodes[:-2], conv, pool)), dict(weights) | changed


def check(folder: Path, reference: checking.Run, images: Sequence[np.ndarray]) -> None:
    """Runs each network of a folder in LiteRT's Python runtime and compares its probabilities.

    Args:
      images: on all of which int8 is compared, the others on some.

    Raises:
      NotKept: they differ from the model's.
    """
    for row in _manifest(folder)["files"]:
        run, name = _run(folder, row["file"]), row["name"]
        shown = images if name == "int8" else images[: checking.PROBES]
        checking.compare(run, reference, shown, "float32" if name == "float32" else "int8")


def runner(folder: Path) -> checking.Run:
    """Returns what runs the smallest uncompressed network of a folder, int8 where there is one."""
    names = [row["name"] for row in _manifest(folder)["files"]]
    return _run(folder, "int8.tflite" if "int8" in names else "float32.tflite")


def _manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text("utf-8"))


def _run(folder: Path, file: str) -> checking.Run:
    content = (folder / file).read_bytes()
    content = gzip.decompress(content) if file.endswith(".gz") else content
    network, temperature = Runner(content, 1, file), np.float32(_manifest(folder)["temperature"])
    return lambda image: softmax(network.run(image.astype(np.float32))[0] / temperature)


# The compressed network that a page offers: found beside its model, and compared with it.


IMAGES = ("size", "resize", "resize_mode")  # what the page is told of a network's images


def beside(
    model: Trained, model_dir: str | Path, images: Sequence[np.ndarray], say: Say
) -> Trained | None:
    """Returns what `model.sqz` of a model directory holds, its own or `adapt`'s; None without.

    A file that is damaged, made of other weights or too far from the model is left out, and `say`
    is told; `images` are those on which the two are compared.
    """
    for folder in (Path(model_dir), Path(model_dir) / "exported"):
        path = folder / "model.sqz"
        if path.is_file():
            try:
                return _same(path, model, Path(model_dir), images)
            except InputError as error:
                say(f"The page goes without {path}: {error}")
    return None


def _same(path: Path, model: Trained, model_dir: Path, images: Sequence[np.ndarray]) -> Trained:
    """Reads a `.sqz` file of a model; InputError: it is damaged or of another network."""
    note = files.note(path)
    if note.exists() and _weights(note) != _weights(model_dir / "final.json"):
        raise InputError("it was made of other weights than the model's of now; compress it again.")
    found = loading.load(path)
    shown = [
        (x.labels, [getattr(x.config.images, word) for word in IMAGES]) for x in (found, model)
    ]
    if shown[0] != shown[1]:
        raise InputError("it has other classes or images than the model; compress it again.")
    tempered = dataclasses.replace(found, temperature=model.temperature)  # as the page does it
    try:
        checking.compare(checking.reference(tempered), checking.reference(model), images, "int8")
    except NotKept as error:
        raise InputError(
            "its answers are too far from the model's; compress it again, into more bytes."
        ) from error
    return found


def _weights(path: Path) -> object:
    """Returns the hash of the weights that a file speaks of, or what equals no other."""
    try:
        return json.loads(path.read_text("utf-8"))["weights_sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        return object()
