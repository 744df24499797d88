"""A folder with a web page that runs a trained network in the browser; any web host serves it.

index.html and its scripts are copied from `web/`, the runtime (LiteRT.js, Apache licence) is
fetched from npm. model.json lists the networks, their preprocessing and the labels.
"""

import dataclasses
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.cli import log
from squeezenext.config.zoo import File
from squeezenext.errors import InputError, NotKept
from squeezenext.export import checking
from squeezenext.export.format import FolderKind, Format, Request, Run
from squeezenext.litert import int8, writer
from squeezenext.litert.runner import Runner
from squeezenext.model import card, loading, published
from squeezenext.model import directory as model_directory
from squeezenext.network import rgb
from squeezenext.network.graph import Graph, Node
from squeezenext.network.known import append
from squeezenext.network.model import Model
from squeezenext.predict.answers import softmax

PAGE = Path(__file__).with_name("web")
# The SHA-256 of the very files whose SHA-512 is `integrity` in npm's registry.
CORE = File(
    "https://registry.npmjs.org/@litertjs/core/-/core-2.5.3.tgz",
    "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd",
    11_817_097,
)
UTILS = File(
    "https://registry.npmjs.org/@litertjs/wasm-utils/-/wasm-utils-2.5.3.tgz",
    "ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7",
    4_698,
)
_BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")  # with relaxed SIMD and without
MANIFEST = "model.json"
_KEYS = {"files", "images", "labels", "model", "temperature"}  # keys that every manifest has
_COMPRESSED = "compressed.tflite.gz"
_FILES = (  # patterns of all files in a page's folder
    *("app.js", "heat.js", "network.js", "picture.js", "preprocessing.js", "style.css"),
    *("index.html", "runtime-licence.txt", "squeeze-classifier.js"),
    *("runtime/*.js", "runtime/wasm/*.js", "runtime/wasm/*.wasm"),
    *("float32.tflite", "int8.tflite", _COMPRESSED, MANIFEST, card.FILE),
)


def is_page(folder: Path) -> bool:
    """True if the folder's model.json was written here; TensorFlow.js uses the same file name."""
    return model_directory.read_json(folder / MANIFEST).keys() >= _KEYS


def make_page(
    model: Model, model_dir: str | Path, folder: Path, calibration: Sequence[np.ndarray]
) -> list[tuple[str, Run]]:
    """Writes the page of a model and returns its networks as `runners` does, not yet compared.

    Args:
      model: the network, as loaded from `model_dir`.
      model_dir: a model directory, which may also hold a compressed network, or a name or file.
      folder: an empty folder.
      calibration: [size, size, 3] uint8, RGB images for int8; without any there is no int8 network.

    Raises:
      InputError: the runtime cannot be fetched, or the folder cannot be written.
    """
    probes = checking.probes(model, calibration)
    write(model, folder, calibration, compressed_beside(model, model_dir, probes))
    return runners(folder)


def write(
    model: Model,
    folder: Path,
    calibration: Sequence[np.ndarray] = (),
    compressed: Model | None = None,
) -> None:
    """Writes the page, its runtime and the networks; see `make_page`.

    `compressed` is the same network from a `.sqz` file. It has so few different weights that gzip,
    which browsers decode, makes it nearly as small as the `.sqz` file.
    """
    for path in PAGE.iterdir():
        shutil.copyfile(path, folder / path.name)
    for name, content in _runtime().items():
        path = folder / "runtime" / name
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
    document = {
        "files": rows,
        "head_padding": model.config.model.head_padding,
        "images": _images(model),
        "labels": [label.text for label in model.labels],
        "model": model.name,
        "temperature": model.temperature,
    }
    text = json.dumps(document, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_bytes(text.encode())


def _images(model: Model) -> dict[str, object]:
    """Returns the part of the preprocessing that the page needs to know."""
    images = model.config.images
    return {field: getattr(images, field) for field in ("size", "resize", "resize_mode")}


def _runtime() -> dict[str, bytes]:
    names = {"dist/index.js": "index.js"}
    for build in _BUILDS:
        names |= {f"wasm/{build}{end}": f"wasm/{build}{end}" for end in (".js", ".wasm")}
    found = package_files(CORE, names) | package_files(UTILS, {"dist/index.js": "wasm-utils.js"})
    # A bare module name would need an import map, which is an inline script; the page allows none.
    found["index.js"] = found["index.js"].replace(b'"@litertjs/wasm-utils"', b'"./wasm-utils.js"')
    return found


def package_files(package: File, names: dict[str, str]) -> dict[str, bytes]:
    """Returns contents of an npm package by new name; `names` are new names by path.

    The folder in SQUEEZENEXT_NPM is searched for the package first.

    Raises:
      InputError: the package cannot be downloaded.
    """
    cache = published.cache().parent / "npm"
    [content] = published.download([package], "SQUEEZENEXT_NPM", cache).values()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        return {name: archive.extractfile(f"package/{path}").read() for path, name in names.items()}


def _networks(model: Model, calibration: Sequence[np.ndarray]) -> dict[str, bytes]:
    graph, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    graph, weights = with_class_maps(graph, weights)
    # No float16: LiteRT.js 2.5 converts such weights in every run and took 3 times as long.
    kinds = {"float32": writer.Float32()}
    if len(calibration):
        kinds["int8"] = int8.calibrated(graph, weights, calibration)
    outputs = [graph.features]
    graph, weights = append(graph, weights, model.known)
    return {
        name: writer.write(graph, weights, numbers=kind, outputs=outputs)
        for name, kind in kinds.items()
    }


def with_class_maps(graph: Graph, weights) -> tuple[Graph, dict[str, np.ndarray]]:
    """Returns the network with its classifier moved before the mean over all positions.

    Mean and classifier may be swapped because both are linear: the last map then has one channel
    per class, whose mean is that class's logit. SqueezeNet is built in this order already,
    SqueezeNext takes the mean first.
    """
    last = graph.logits
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


def runners(folder: Path) -> list[tuple[str, Run]]:
    """Returns (name, run in LiteRT's Python runtime) of a page's networks, int8 first."""
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    known = {row["name"]: folder / row["file"] for row in document["files"]}
    temperature, order = np.float32(document["temperature"]), ("int8", "float32", "compressed")
    return [(name, _run(known[name], temperature)) for name in order if name in known]


def _run(path: Path, temperature: np.float32) -> Run:
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    network = Runner(content, 1, path.name)
    return lambda image: softmax(network.run(image.astype(np.float32))[0] / temperature)


def compressed_beside(
    model: Model, model_dir: str | Path, images: Sequence[np.ndarray]
) -> Model | None:
    """Returns the network of a model directory's `model.sqz`, or `exported/model.sqz`.

    A file that is damaged, made of other weights or too far from the model on `images` is logged
    and skipped. If `model_dir` is a published name or a file, there is none.
    """
    for folder in (Path(model_dir), Path(model_dir) / model_directory.EXPORTED):
        path = folder / model_directory.COMPRESSED
        if path.is_file():
            try:
                return _same(path, model, Path(model_dir), images)
            except InputError as error:
                log(f"The page goes without {path}: {error}")
    return None


def _same(path: Path, model: Model, model_dir: Path, images: Sequence[np.ndarray]) -> Model:
    """Reads a model's `.sqz` file; raises InputError if it is damaged or of another network."""
    note = files.origin_note(path)
    made_of, now = (
        model_directory.read_json(file).get("weights_sha256")
        for file in (note, model_dir / model_directory.FINAL)
    )
    if note.exists() and (made_of is None or made_of != now):
        raise InputError("it was made of other weights than the model's of now; compress it again.")
    found = loading.load(path)
    if found.labels != model.labels or _images(found) != _images(model):
        raise InputError("it has other classes or images than the model; compress it again.")
    # The page uses the model's temperature.
    tempered = dataclasses.replace(found, temperature=model.temperature)
    try:
        runs = checking.reference(tempered), checking.reference(model)
        checking.compare(*runs, images, "compressed")
    except NotKept as error:
        raise InputError(
            "its answers are too far from the model's; compress it again, into more bytes."
        ) from error
    return found


def _write(request: Request, path: Path) -> list[tuple[str, Run]]:
    path.mkdir()
    return make_page(request.model, request.source, path, request.images)


FORMAT = Format(
    name="web",
    precisions=("float32",),
    write=_write,
    calibrated=("float32",),  # the page also holds int8
    folder=FolderKind(_FILES, is_page),
)
