"""Tests for the room `export`: every format, loaded by its own runtime."""

import dataclasses
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from squeezenext import export, labels
from squeezenext.config import io as config_io
from squeezenext.config.network import Stage
from squeezenext.errors import InputError
from squeezenext.export import checking
from squeezenext.export import keras as export_keras
from squeezenext.export import litert as export_litert
from squeezenext.export import onnx as export_onnx
from squeezenext.export import page as export_web
from squeezenext.images import decoding, geometry
from squeezenext.litert import metadata
from squeezenext.model import checkpoint, loading
from squeezenext.network import graph
from squeezenext.network.model import Model
from squeezenext.predict import predictor
from squeezenext.predict.predictor import Predictor
from squeezenext.records import samples
from tests import hostile_images, tiny
from tests.conftest import REPOSITORY

PRECISIONS = ("float32", "float16", "dynamic", "int8")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory of a grouped network with random weights, made without TensorFlow."""
    return made(tmp_path_factory.mktemp("model"), tiny.SQUEEZENEXT)


def made(folder, config, coarse=False):
    folder.joinpath("config.json").write_text(config_io.to_json(config))
    labels.write(folder / "labels.json", [labels.Label(f"n{i}", f"n{i}") for i in (1, 2, 3)])
    random, variables = np.random.default_rng(0), {}
    network = graph.of(config)
    for node in network.weighted:
        shape = network.kernel_shape(node.name)
        kernel = random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        if coarse:  # each weight as large as a kernel of eight bits can say
            kernel = np.sign(kernel) * np.std(kernel)
        variables[f"model/{node.name}/kernel"] = kernel.astype(np.float32)
        if node.bias:
            variables[f"model/{node.name}/bias"] = random.normal(0, 1, shape[-1]).astype(np.float32)
        for part in ("gamma", "beta", "moving_mean", "moving_variance") if node.norm else ():
            values = random.uniform(0.5, 1.5, shape[-1])
            if part in ("beta", "moving_mean"):  # so that no ReLU is silent for every image
                values = random.normal(0, 0.3, shape[-1])
            variables[f"model/{node.norm}/{part}"] = values.astype(np.float32)
    checkpoint.save(folder / "checkpoints", 1, variables, {})
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Ten records of the tiny classes, with a manifest."""
    from squeezenext.convert import command as convert

    photos, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("data") / "records"
    for number in range(12):
        folder = photos / f"n{number % 3 + 1}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(tiny.jpeg(number, number % 3 + 1))
    arguments = ["--layout=folder", f"--source={photos}", f"--output={out}", "--workers=1"]
    assert convert.main(["convert", *arguments]) == 0
    return out


def command(model, out, kind, *more) -> int:
    arguments = [f"--model_dir={model}", f"--format={kind}", f"--output={out}", *more]
    return export.main(["export", *arguments])


def int8_onnx(known, records) -> bytes:
    return export_onnx.onnx_file(known, "int8", checking.images(known, records, 8))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_litert_files_carry_labels_and_metadata(model, records, tmp_path, precision):
    out = tmp_path / "model.tflite"
    assert command(model, out, "litert", f"--precision={precision}", f"--data_dir={records}") == 0
    with zipfile.ZipFile(out) as archive:
        assert archive.read("labels.txt").decode().splitlines() == ["n1", "n2", "n3"]
        document = json.loads(archive.read("squeezenext.json"))
    assert document["precision"] == precision and document["synsets"] == ["n1", "n2", "n3"]
    report = json.loads(tmp_path.joinpath("model.tflite.json").read_text())
    assert report["bytes"] == out.stat().st_size and report["images"] > 0
    assert report["agreement"] == 1 or precision in ("int8", "dynamic")
    assert report["split"] == "validation"
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, f"{out.name}.json"]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_onnx(model, records, tmp_path, precision):
    onnx = pytest.importorskip("onnx", reason="requirements-onnx.txt is not installed")
    pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    out = tmp_path / "model.onnx"
    assert command(model, out, "onnx", f"--precision={precision}", f"--data_dir={records}") == 0
    made = onnx.load(out, load_external_data=False)
    assert {item.domain for item in made.opset_import} <= {"", "ai.onnx"}
    properties = {item.key: item.value for item in made.metadata_props}
    assert json.loads(properties["squeezenext"])["labels"] == ["n1", "n2", "n3"]
    quantized = "QuantizeLinear" in {node.op_type for node in made.graph.node}
    assert quantized == (precision == "int8")


def test_onnx_kernels_are_unsigned_as_the_activations_are(model, records, tmp_path):
    """Of int8 kernels, processors without VNNI add the products in 16 bits, which saturate."""
    onnx = pytest.importorskip("onnx", reason="requirements-onnx.txt is not installed")
    known = loading.load(model)
    made = onnx.load_model_from_string(int8_onnx(known, records))
    stored = {x.name: onnx.numpy_helper.to_array(x) for x in made.graph.initializer}
    reads = [node.input for node in made.graph.node if node.op_type == "DequantizeLinear"]
    kernels = {names[0]: stored[names[2]] for names in reads if "/kernel_" in names[0]}
    assert len(kernels) == len(known.graph.weighted)  # the dense classifier's, too
    for name, zero in kernels.items():
        assert stored[name].dtype == zero.dtype == np.uint8 and (zero == 128).all()
    assert {x.dtype for x in stored.values()} <= {np.dtype(t) for t in ("u1", "i4", "f4", "i8")}


ELSEWHERE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(["probabilities"], {"images": numpy.load(sys.argv[2])})[0])
"""


def test_onnx_int8_answers_the_same_without_vnni(records, tmp_path):
    """On Haswell, as QEMU computes it; ONNX Runtime has no switch for its weaker kernels."""
    pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    if not shutil.which("qemu-x86_64"):
        pytest.skip("There is no qemu-x86_64: apt-get install qemu-user")
    (tmp_path / "model").mkdir()
    known = loading.load(made(tmp_path / "model", tiny.SQUEEZENEXT, coarse=True))
    file, images, found = (tmp_path / name for name in ("a.onnx", "images.npy", "found.npy"))
    file.write_bytes(int8_onnx(known, records))
    shown = checking.images(known, records, 8)
    np.save(images, np.stack(shown).transpose(0, 3, 1, 2).astype(np.float32))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    haswell = ["qemu-x86_64", "-cpu", "Haswell", os.path.realpath(sys.executable)]
    subprocess.run(
        [*haswell, "-c", ELSEWHERE, file, images, found],
        check=True, env=environment, capture_output=True, timeout=300,
    )  # fmt: skip
    here = [export_onnx.runner(file.read_bytes())(image) for image in shown]
    np.testing.assert_allclose(np.load(found), here, atol=0.01)


def test_keras_files_hold_plain_layers_and_refuse_another_ending(model, tmp_path, capsys):
    import keras

    out = tmp_path / "model.keras"
    assert command(model, out, "keras") == 0
    layers = keras.models.load_model(out).layers
    assert all(type(layer).__module__.startswith("keras.") for layer in layers)
    assert zipfile.ZipFile(out).testzip() is None
    assert command(model, tmp_path / "model.h5", "keras") == 2
    assert "must end in .keras" in capsys.readouterr().err


def changed(config, **fields):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))


PADDED = {
    "a padded stem": changed(tiny.SQUEEZENEXT, stem_padding=1),
    "a padded classifier": changed(tiny.SQUEEZENET, head_padding=1),
}
KINDS = PADDED | {  # all that a network can be made of
    "grouped convolutions": tiny.SQUEEZENEXT,
    "a chain of additions": changed(
        tiny.SQUEEZENEXT, stages=(Stage(filters=8, units=4, stride=1),)
    ),
    "a simple bypass": tiny.SQUEEZENET,
    "a complex bypass": changed(tiny.SQUEEZENET, bypass="complex"),
    "ELU": changed(tiny.SQUEEZENET, activation="elu", bypass="none", head_padding=1),
    "biases": changed(tiny.SQUEEZENEXT, groups=1, biases=True, pair_order="1x3_first"),
}


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "litert",
            "a.onnx",
            ".onnx is the ending of --format onnx, not of --format litert; name it",
        ),
        ("litert", "a.SQZ", ".sqz is the ending of squeezenext.compress, not"),
        ("keras", "a.tflite", "name it a.keras."),
        (
            "web",
            "a.keras",
            ".keras is the ending of --format keras, not of --format web; name it a.",
        ),
    ],
)
def test_an_ending_of_another_format_is_refused(model, tmp_path, capsys, kind, name, message):
    assert command(model, tmp_path / name, kind) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_unknown_ending_is_taken(model, tmp_path):
    assert command(model, tmp_path / "a.lite", "litert") == 0


def test_the_command_shows_no_log_line_of_tensorflow(model, tmp_path):
    environment = tiny.environment()
    del environment["TF_CPP_MIN_LOG_LEVEL"]
    names = ["--format=keras", f"--model_dir={model}", f"--output={tmp_path / 'a.keras'}"]
    done = subprocess.run(
        [sys.executable, "-m", "squeezenext.export", *names], env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert not done.stderr and done.stdout.startswith(f"{tmp_path / 'a.keras'}: ")


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", PADDED)
def test_onnx_pads_in_the_convolution(records, tmp_path, name, precision):
    """Pnnx and ncnn know no Pad; the command itself compares the answers in ONNX Runtime."""
    onnx = pytest.importorskip("onnx", reason="requirements-onnx.txt is not installed")
    pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    padded = made(tmp_path, PADDED[name])
    assert any(node.op == "pad" for node in loading.load(padded).graph.nodes)
    out = tmp_path / "model.onnx"
    assert command(padded, out, "onnx", f"--precision={precision}", f"--data_dir={records}") == 0
    nodes = onnx.load(out, load_external_data=False).graph.node
    assert "Pad" not in {node.op_type for node in nodes}
    pads = [tuple(x.ints) for node in nodes for x in node.attribute if x.name == "pads"]
    assert (1, 1, 1, 1) in pads


# What the classes of Keras 3.5 take, as `get_config` of that release lists it.
_COMMON = {"name", "dtype", "trainable"}
_KERNEL = {
    *("activation", "activity_regularizer", "bias_constraint", "bias_initializer"),
    *("bias_regularizer", "kernel_constraint", "kernel_initializer", "kernel_regularizer"),
    "use_bias",
}
KERAS_3_5 = {
    "InputLayer": {"batch_shape", "dtype", "name", "sparse"},
    "Conv2D": _COMMON | _KERNEL | {"data_format", "dilation_rate", "filters", "groups",
                                   "kernel_size", "padding", "strides"},
    "Dense": _COMMON | _KERNEL | {"units"},
    "MaxPooling2D": _COMMON | {"data_format", "padding", "pool_size", "strides"},
    "ZeroPadding2D": _COMMON | {"data_format", "padding"},
    "Concatenate": _COMMON | {"axis"},
    "Add": _COMMON,
    "Activation": _COMMON | {"activation"},
    "GlobalAveragePooling2D": _COMMON | {"data_format", "keepdims"},
    "Rescaling": _COMMON | {"offset", "scale"},
    "Softmax": _COMMON | {"axis"},
    "GlorotUniform": {"seed"},
    "Zeros": set(),
    "DTypePolicy": {"name"},
    "Functional": {"name", "trainable", "layers", "input_layers", "output_layers"},
}  # fmt: skip


def objects(document):
    """All (class name, configuration) in the JSON of a `.keras` file."""
    if isinstance(document, dict):
        if "class_name" in document and document["class_name"] != "__keras_tensor__":
            yield document["class_name"], document["config"]
        for value in document.values():
            yield from objects(value)
    elif isinstance(document, list):
        for value in document:
            yield from objects(value)


@pytest.mark.parametrize("config", [tiny.SQUEEZENEXT, tiny.SQUEEZENET, *PADDED.values()])
def test_keras_files_name_only_what_keras_3_5_knows(tmp_path, config):
    """Keras refuses a configuration with a name that it does not know."""
    classes = tuple(labels.Label(f"n{i}", f"n{i}") for i in range(config.model.classes))
    weights = loading.load(made(tmp_path, config)).weights
    known = Model("a", config, classes, weights, temperature=2.0)
    export_keras.write(known, tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        found = list(objects(json.loads(archive.read("config.json"))))
    assert {"Conv2D", "Rescaling", "GlorotUniform"} <= {name for name, _ in found}
    for name, fields in found:
        assert set(fields) <= KERAS_3_5[name], name


@pytest.mark.parametrize("kind", ["litert", "onnx", "keras", "web"])
def test_a_classifier_s_bias_is_in_every_file(kind, tmp_path, monkeypatch):
    """Pytorchcv's layout; the export itself compares the file with the network."""
    monkeypatch.setattr(export_web, "_runtime", dict)  # which would have to be downloaded
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    change = {"groups": 1, "biases": True, "stem_padding": 1, "pair_order": "1x3_first"}
    network = dataclasses.replace(tiny.SQUEEZENEXT.model, **change)
    folder = tmp_path / "model"
    folder.mkdir()
    made(folder, dataclasses.replace(tiny.SQUEEZENEXT, model=network))
    ending = {"litert": "tflite"}.get(kind, kind)
    assert command(folder, tmp_path / f"model.{ending}", kind) == 0


def served(folder, signature, images):
    """What TensorFlow Serving, Java and Go would get: only the file's graph, in a session."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        known = v1.saved_model.load(session, ["serve"], str(folder)).signature_def[signature]
        outputs = {name: tensor.name for name, tensor in known.outputs.items()}
        return session.run(outputs, {known.inputs["images"].name: images})


def test_saved_models_serve_pixels_and_files(model, tmp_path):
    import tensorflow as tf

    out = tmp_path / "1"
    assert command(model, out, "saved_model") == 0
    assert command(model, out, "saved_model") == 0  # replaces what is there
    photos = [tiny.jpeg(number, 1) for number in range(2)]
    known = loading.load(model)
    read = [decoding.read_image(photo, "photo") for photo in photos]
    pixels = np.stack([geometry.centre_pixels(x, known.config.images) for x in read])
    expected = [checking.reference(known)(image) for image in pixels]
    loaded = tf.saved_model.load(str(out))
    for name, images in (("serving_default", pixels), ("encoded", np.array(photos))):
        inside = loaded.signatures[name](images=tf.constant(images))
        for found in (served(out, name, images), {k: v.numpy() for k, v in inside.items()}):
            np.testing.assert_allclose(found["probabilities"], expected, atol=1e-3)
            assert found["classes"].shape == (2, 3) and found["classes"][0, 0][:1] == b"n"
    assert (out / "MODEL_CARD.md").read_text().startswith("---\npipeline_tag")
    document = loaded.signatures["describe"]()["squeezenext"].numpy()
    assert json.loads(document)["synsets"] == ["n1", "n2", "n3"]


def test_saved_models_serve_the_files_that_tensorflow_decodes(model, tmp_path):
    import tensorflow as tf

    out = tmp_path / "1"
    assert command(model, out, "saved_model") == 0
    cells = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    photo = Image.fromarray(cells.repeat(9, 0).repeat(9, 1))
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    several = {"save_all": True, "append_images": [photo.rotate(180)], "optimize": False}
    files, kinds = [], []
    for kind, image, options in (
        ("JPEG", photo, {"quality": 95}),
        ("PNG", photo, {}),
        ("PNG", photo.convert("L"), {}),
        *(("PNG", photo.quantize(colours), {}) for colours in (2, 4, 16, 64)),
        ("PNG", photo.convert("1"), {}),
        ("PNG", photo.quantize(16), {"transparency": 3}),
        ("PNG", photo.quantize(16), {"transparency": bytes([15] * 16)}),
        ("PNG", clear, {}),
        ("GIF", photo.quantize(64), {}),
        ("GIF", photo.quantize(64), several),
        ("BMP", photo, {}),
        ("WEBP", photo, {"lossless": True}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append(file.getvalue())
        kinds.append(kind)
    known = loading.load(model)
    read = [decoding.read_image(data, "photo") for data in files]
    pixels = np.stack([geometry.centre_pixels(image, known.config.images) for image in read])
    expected = [checking.reference(known)(image) for image in pixels]
    found = served(out, "encoded", np.array(files, object))["probabilities"]
    np.testing.assert_allclose(found, expected, atol=2e-2)
    palette, transparent = io.BytesIO(), io.BytesIO()
    photo.quantize(64).save(palette, "BMP")
    photo.quantize(64).save(transparent, "GIF", transparency=3)
    masks = files[kinds.index("BMP")].replace(b"\x18\0\0\0\0\0", b"\x20\0\3\0\0\0", 1)
    for bad in (b"", b"II*\0", b"<html>", palette.getvalue(), transparent.getvalue(), masks):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"images[^a-z]*1[^a-z]*is no JPEG"
        ):
            served(out, "encoded", np.array([files[0], bad, files[1]], object))


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--format=litert", "--precision=int8"], "needs real images"),
        (["--format=keras", "--precision=int8"], "--format keras has float32"),
        (["--format=litert", "--full_integer"], "--full_integer needs"),
        (["--format=litert", "--output=absent/model.tflite"], "there is no folder absent"),
        (["--format=litert", "--model_dir=absent"], "no model directory absent"),
        (["--format=litert", "more"], "Unexpected argument"),
        (["--format=saved_model", "--output=."], "name the file or folder to make"),
    ],
)
def test_what_cannot_be_done_is_said(model, tmp_path, capsys, arguments, told):
    assert command(model, tmp_path / "model", "litert", *arguments) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says so with these words")
def test_a_full_disk_is_said_in_the_same_words_where_tensorflow_writes(
    model, tmp_path, capsys, monkeypatch
):
    import tensorflow as tf

    def full(_, path, *__):
        tf.io.gfile.makedirs(path)
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}/a; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    assert command(model, tmp_path / "1", "saved_model") == 75
    told = "error: No space left on device; make room and run the same command again.\n"
    assert capsys.readouterr().err.endswith(told)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.tflite", "model.sqz", "config", "calibration", "adapt"])
def test_no_file_of_a_model_directory_is_replaced(model, tmp_path, capsys, monkeypatch, name):
    folder = shutil.copytree(model, tmp_path / "mine")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.chdir(folder)
    for place in (name, folder / name):
        assert command(".", place, "litert") == 2
        assert "is a model directory, whose own" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before
    assert command(".", "phone.tflite", "litert") == 0


def test_an_older_network_than_the_finished_one_is_not_taken_for_it(model, tmp_path, capsys):
    """The last checkpoint is damaged, or gone: final.json, card and scores are of that one."""
    folder, out = shutil.copytree(model, tmp_path / "mine"), tmp_path / "a.tflite"
    state, _ = checkpoint.load(folder / "checkpoints", 1)
    last = checkpoint.save(folder / "checkpoints", 2, state, {}) / "state.npz"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "final.json").write_text('{"step": 2}')
    assert command(folder, out, "litert") == 0 and not capsys.readouterr().err
    last.write_bytes(content)
    out.unlink()
    assert command(folder, out, "litert") == 2 and not out.exists()
    told = capsys.readouterr().err
    assert f"{last} is damaged" in told and "holds a run that ended at step 2" in told
    (folder / "final.json").unlink()  # a run that goes on
    assert command(folder, out, "litert") == 0
    assert "Passing over this checkpoint" in capsys.readouterr().err
    (folder / "final.json").write_text('{"step": 2}')
    shutil.rmtree(last.parent)
    assert command(folder, out, "litert") == 2


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("litert", ("README.md", "a.tflite")),
        ("onnx", ("README.md", "a.onnx")),
        ("keras", ("a.keras",)),
    ],
)
def test_a_file_of_another_kind_is_not_replaced(model, tmp_path, capsys, kind, names):
    for name in names:
        (tmp_path / name).write_text("mine")
        assert command(model, tmp_path / name, kind) == 2
        assert "is another program's; move it away" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    assert command(model, tmp_path / name, kind) == command(model, tmp_path / name, kind) == 0


def test_a_folder_that_cannot_be_written_is_said_in_the_flag_s_words(model, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="--output .*a.tflite cannot be written: .* not yours"):
        export.export(model, "litert", tmp_path / "a.tflite")


def test_a_note_is_never_of_another_file(model, records, tmp_path, monkeypatch, capsys):
    """Measuring may fail when the file is in place already."""
    out, note = tmp_path / "a.tflite", tmp_path / "a.tflite.json"
    assert command(model, out, "litert", f"--data_dir={records}") == 0
    assert "top1" in json.loads(note.read_text())

    def damaged(*_):
        raise InputError("record 3 is damaged")

    monkeypatch.setattr(checking, "measure", damaged)
    assert command(model, out, "litert", "--precision=float16", f"--data_dir={records}") == 2
    found = json.loads(note.read_text())
    assert found["precision"] == "float16" and found["bytes"] == out.stat().st_size
    assert "top1" not in found


def test_ranges_of_the_very_images_that_are_measured_are_told(model, records, tmp_path, capsys):
    tested = tiny.data_set(tmp_path / "r", "validation", [tiny.payload(n, 1) for n in range(3)])
    told = "int8 ranges were found on some of these very images"
    for data, same in ((records, False), (tested, True)):
        more = ["--precision=int8", f"--data_dir={data}"]
        assert command(model, tmp_path / "a.tflite", "litert", *more) == 0
        assert (told in capsys.readouterr().out) == same
        note = json.loads((tmp_path / "a.tflite.json").read_text())
        assert note["calibrated_on_these"] == same


def test_an_exported_file_in_a_model_directory_s_place_is_refused(model, tmp_path):
    """It reads other pixels and gives probabilities: every answer would be wrong."""
    folder = shutil.copytree(model, tmp_path / "mine")
    export.export(model, "litert", tmp_path / "a.tflite")
    shutil.copyfile(tmp_path / "a.tflite", folder / "model.tflite")
    with pytest.raises(InputError, match="is an exported file, not the model directory's own"):
        Predictor(folder)


@pytest.mark.parametrize("kind", ["saved_model", "web"])
def test_a_folder_of_something_else_is_left_alone(model, tmp_path, capsys, kind):
    """Such as `serving`, which holds the versions, for `serving/4`."""
    place = tmp_path / "serving"
    (place / "3").mkdir(parents=True)
    (place / "3" / "saved_model.pb").touch()
    assert command(model, place, kind) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (place / "3" / "saved_model.pb").is_file()
    assert command(model, place, "litert") == 2  # a folder where a file is to be
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind, precision", [
    ("litert", "float32"), ("litert", "int8"), ("onnx", "float32"), ("keras", "float32"),
    ("saved_model", "float32"), ("web", "float32"),
])  # fmt: skip
def test_the_fitted_temperature_is_in_every_file(
    model, records, tmp_path, monkeypatch, capsys, kind, precision
):
    """The export itself compares with what predict.py tells, which the next lines make sure of."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    monkeypatch.setattr(export_web, "_runtime", dict)
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "calibration.json").write_text('{"temperature": 5.0}')
    out = tmp_path / f"out.{'keras' if kind == 'keras' else kind}"
    assert command(folder, out, kind, f"--precision={precision}", f"--data_dir={records}") == 0
    measured = json.loads(out.with_name(f"{out.name}.json").read_text())["measured"]
    assert measured == ("int8" if kind == "web" else precision)
    assert f"{measured}: top-1 " in capsys.readouterr().out
    if kind == "litert" and precision == "float32":
        (photo,) = [tiny.jpeg(3, 1)]
        image = decoding.read_image(photo, "photo")
        told = [Predictor(x).probabilities(image) for x in (out.rename(out.with_suffix(".tflite")),
                                                            folder, model)]  # fmt: skip
        np.testing.assert_allclose(told[0], told[1], atol=1e-4)
        assert np.abs(told[1] - told[2]).max() > 0.01


def test_eight_bits_make_no_ties_of_a_dense_classifier_s_logits(tmp_path):
    """SqueezeNext's 1000 logits: more different ones than eight bits could hold."""
    network = dataclasses.replace(tiny.SQUEEZENEXT.model, classes=1000, head_filters=256)
    config = dataclasses.replace(tiny.SQUEEZENEXT, model=network)
    folder = tmp_path / "model"
    folder.mkdir()
    made(folder, config)
    labels.write(folder / "labels.json", list(labels.imagenet()))
    known = loading.load(folder)
    shown = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    content = export_litert.litert_file(known, "int8", shown)
    probabilities = export_litert.runner(content, "int8")(shown[0])
    assert len(np.unique(probabilities)) > 900
    with_floats = export_litert.litert_file(known, "float32")
    assert len(content) < 0.4 * len(with_floats)


def test_a_file_of_whole_numbers_has_no_float(model, records, tmp_path, capsys):
    out = tmp_path / "whole.tflite"
    flags = ["--precision=int8", "--full_integer", f"--data_dir={records}"]
    assert command(model, out, "litert", *flags) == 0, capsys.readouterr().err
    interpreter = Interpreter(model_path=str(out))
    # Of the runtime's own delegate, tensors have no name.
    kinds = {np.dtype(x["dtype"]).name for x in interpreter.get_tensor_details() if x["name"]}
    assert kinds == {"int8", "int32"}
    (pixels,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert pixels["quantization"] == (1.0, -128)
    assert probabilities["quantization"] == (1 / 256, -128)
    known, image = loading.load(model), np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    found = export_litert.runner(out.read_bytes(), "full_integer")(image.astype(np.uint8))
    assert np.abs(found - checking.reference(known)(image.astype(np.uint8))).max() < 0.1
    assert Predictor(out).probabilities(image.astype(np.uint8)).shape == (3,)


def test_a_file_that_computes_something_else_is_not_kept(model):
    right = checking.reference(loading.load(model))
    images = [np.zeros((32, 32, 3), np.uint8)]
    with pytest.raises(RuntimeError, match="was not kept"):
        checking.compare(lambda image: right(image) + 0.01, right, images, "float32")
    rows = iter([np.full(3, 1 / 3), np.full(3, np.nan)])
    with pytest.raises(RuntimeError, match="are no numbers"):
        checking.compare(lambda image: next(rows), right, images * 2, "int8")


def test_a_file_of_equal_chances_or_of_another_class_is_not_kept():
    """A thousand classes, none above one half: no probability is off by much."""
    rng = np.random.default_rng(0)
    powers = np.exp(rng.normal(0, 2, (3, 1000)))
    wanted = powers / powers.sum(1, keepdims=True)
    images = [np.full(1, place) for place in range(3)]

    def right(image):
        return wanted[image[0]]

    for wrong in (np.full((3, 1000), 1e-3), wanted[:, ::-1]):
        with pytest.raises(RuntimeError, match="was not kept"):
            checking.compare(lambda image, wrong=wrong: wrong[image[0]], right, images, "int8")
    close = wanted ** (1 + 0.03 * rng.normal(size=wanted.shape))
    close /= close.sum(1, keepdims=True)
    checking.compare(lambda image: close[image[0]], right, images, "int8")


@pytest.mark.parametrize(
    "images, others, doubtful, kept",
    [(100, 27, False, False), (200, 54, False, False), (100, 5, False, True),
     (100, 27, True, True), (8, 2, False, True)],
)  # fmt: skip
def test_another_first_class_on_a_quarter_of_the_images_is_refused(images, others, doubtful, kept):
    """As saturated sums named, whose probabilities were near enough to the model's on average."""
    wanted = np.tile(np.linspace(0, 0.002, 1000), (images, 1))
    wanted[:, 0], wanted[:, 1] = 0.3, 0.29 if doubtful else 0.15
    wanted /= wanted.sum(1, keepdims=True)
    found = wanted.copy()
    found[:others, :2] = wanted[:others, 1::-1]
    shown = [np.full(1, place) for place in range(images)]

    def check():
        checking.compare(lambda x: found[x[0]], lambda x: wanted[x[0]], shown, "int8")

    if kept:
        check()
    else:
        with pytest.raises(RuntimeError, match=f"On {others} of {images} images"):
            check()


# First probabilities, in thousandths, that a network of ants and bees gives for 38 photographs, its
# right ONNX int8 file, and one with int8 kernels on Haswell, where their sums saturate (QEMU 7.2).
ANTS = """
827 812 185 749 64 660 722 551 262 216 744 710 496 758 321 387 652 375 90 479 361 624 788 288
585 813 209 895 26 243 309 889 179 112 504 138 76 651
""".split()
RIGHT = """
815 826 208 758 68 675 715 543 265 206 741 730 499 751 314 378 665 366 90 478 388 645 787 285
605 820 203 891 29 248 317 881 177 116 505 142 78 651
""".split()
SATURATED = """
804 858 191 838 94 690 797 501 228 272 739 803 569 706 459 451 680 433 60 464 438 486 831 265
629 822 434 910 50 289 363 890 196 311 269 138 189 619
""".split()


@pytest.mark.parametrize("found, kept", [(RIGHT, True), (SATURATED, False)])
def test_saturated_sums_of_two_classes_are_refused_by_their_logits(found, kept):
    """Their first classes are nearly all right, and the probabilities near on average."""
    firsts = [np.array(x, float) / 1000 for x in (found, ANTS)]
    pairs = [np.stack([x, 1 - x], 1) for x in firsts]

    def check(precision):
        given = [iter(rows) for rows in pairs]
        runs = [lambda _, rows=rows: next(rows) for rows in given]
        checking.compare(*runs, range(len(ANTS)), precision)

    check("dynamic")  # as int8, but for the logits
    if kept:
        check("int8")
    else:
        with pytest.raises(RuntimeError, match="logits are off by 0.172"):
            check("int8")


def test_the_float_file_is_compared_with_another_network(model, tmp_path, monkeypatch):
    """A fault of what only exported files pass through is seen in LiteRT's, too."""

    def upside_down(network, weights, *arguments):
        return network, {n: a[::-1] if a.ndim == 4 else a for n, a in weights.items()}

    monkeypatch.setattr(export_litert.rgb, "take_rgb", upside_down)
    with pytest.raises(RuntimeError, match="was not kept"):
        export.export(model, "litert", tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_images_come_evenly_from_the_first_split_there_is(model, records):
    known = loading.load(model)
    read = [*samples.read(records, ("none", "train"), 4, known.config.images, known.labels)]
    assert len(read) == 4 and read[0][0].shape == (32, 32, 3)
    assert {label for _, label in read} <= {0, 1, 2}
    with pytest.raises(InputError, match="no test split"):
        list(samples.read(records, ("test",), 4, known.config.images, known.labels))


def test_accuracy_is_never_of_training_images(model, tmp_path, capsys):
    payloads = [tiny.payload(number, number % 3 + 1) for number in range(4)]
    trained_on = tiny.data_set(tmp_path / "records", "train", payloads)
    out = tmp_path / "a.tflite"
    more = ["--precision=int8", f"--data_dir={trained_on}", "--json"]
    assert command(model, out, "litert", *more) == 0
    assert "top1" not in json.loads(capsys.readouterr().out)
    assert "top1" not in json.loads((tmp_path / "a.tflite.json").read_text())


@pytest.mark.parametrize(
    "payload, told",
    [
        (tiny.payload(0, 1, leave_out="image/encoded"), "has no image or no label"),
        (tiny.payload(0, 1, leave_out="image/class/label"), "has no image or no label"),
        (tiny.payload(0, 0), "not in 1..3"),
        (tiny.payload(0, 4), "not in 1..3"),
    ],
)
def test_a_record_without_image_or_class_is_named(model, tmp_path, capsys, payload, told):
    payloads = [tiny.payload(1, 1), payload]
    damaged = tiny.data_set(tmp_path / "records", "validation", payloads)
    assert command(model, tmp_path / "a.tflite", "litert", f"--data_dir={damaged}") == 2
    assert f"record 1 of {damaged}" in (err := capsys.readouterr().err) and told in err


CLIENT = """
import sys, numpy, mediapipe
from mediapipe.tasks.python import BaseOptions, vision
images = numpy.load(sys.argv[1])
for path in sys.argv[2:]:
    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=path), max_results=1)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in images:
            shown = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
            first = classifier.classify(shown).classifications[0].categories[0]
            print(first.index, first.score, first.category_name, sep="\\t")
"""


@pytest.fixture(scope="session")
def mediapipe() -> str:
    """The Python of an environment with mediapipe, named by SQUEEZENEXT_MEDIAPIPE_PYTHON."""
    python = os.environ.get("SQUEEZENEXT_MEDIAPIPE_PYTHON", "")
    if not Path(python).is_file():
        pytest.skip("SQUEEZENEXT_MEDIAPIPE_PYTHON names no Python that has mediapipe.")
    return python


def test_mediapipe_loads_the_files_as_they_are(shared, mediapipe, tmp_path, monkeypatch):
    from tests import imagenet_archives

    monkeypatch.setenv("SQUEEZENEXT_WEIGHTS", str(shared / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = loading.load("squeezenet_v1_0")
    from squeezenext.convert import command as convert

    source = imagenet_archives.real_imagenet(tmp_path / "source")
    arguments = ["--layout=imagenet", "--partial", f"--source={source}", "--workers=1"]
    assert convert.main(["convert", *arguments, f"--output={tmp_path / 'data'}"]) == 0
    read = samples.read(tmp_path / "data", ("validation",), 100, known.config.images, known.labels)
    images = np.stack([pixels for pixels, _ in read])
    np.save(tmp_path / "images.npy", images)
    files = [tmp_path / f"{precision}.tflite" for precision in ("float32", "int8")]
    for file in files:
        more = [f"--precision={file.stem}", f"--data_dir={tmp_path / 'data'}"]
        assert command("squeezenet_v1_0", file, "litert", *more) == 0
    told = subprocess.run(
        [mediapipe, "-c", CLIENT, tmp_path / "images.npy", *files],
        check=True, capture_output=True, text=True, timeout=300,
    ).stdout.splitlines()  # fmt: skip
    # What predict.py answers with the same file, and with the network, for the very pixels: a crop
    # of that size is shown as it is. Eight bits alone move one or another first class.
    network = checking.reference(known)
    dense = [int(network(image).argmax()) for image in images]
    for file, lines, least in zip(files, (told[:100], told[100:]), (99, 94), strict=True):
        rows = [line.split("\t") for line in lines]
        run = export_litert.runner(file.read_bytes(), file.stem)
        same = [int(run(image).argmax()) for image in images]
        assert sum(int(row[0]) == e for row, e in zip(rows, same, strict=True)) >= 97
        assert sum(int(row[0]) == e for row, e in zip(rows, dense, strict=True)) >= least
        assert all(row[2] == known.labels[int(row[0])].text for row in rows)
        assert all(0 < float(row[1]) <= 1 for row in rows)


def test_mediapipe_answers_alike_for_each_orientation_and_format(shared, mediapipe, tmp_path):
    """On the crop that predict.py gives the network: of MediaPipe's own nothing is known here."""
    from tests.test_predictor import TURNED_BACK, stored_as

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUEEZENEXT_WEIGHTS", str(shared / "weights"))
        images = loading.load("squeezenet_v1_1").config.images
        assert command("squeezenet_v1_1", tmp_path / "model.tflite", "litert") == 0
    picture = Image.open(REPOSITORY / "docs/images/espresso.jpg").convert("RGB").resize((330, 250))
    kinds = ["JPEG", "PNG", "WebP", "TIFF", "AVIF", *["HEIC"] * hostile_images.HAS_HEIC]
    crops = [geometry.centre_pixels(picture, images)]
    for kind, (orientation, back) in itertools.product(kinds, enumerate(TURNED_BACK, 1)):
        path = tmp_path / f"held.{kind.lower()}"
        stored = picture if back is None else picture.transpose(back)
        path.write_bytes(stored_as(kind, stored, orientation))
        crops.append(geometry.centre_pixels(predictor.read(path, upright=True), images))
    np.save(tmp_path / "images.npy", np.stack(crops))
    told = subprocess.run(
        [mediapipe, "-c", CLIENT, tmp_path / "images.npy", tmp_path / "model.tflite"],
        check=True, capture_output=True, text=True, timeout=300,
    ).stdout.splitlines()  # fmt: skip
    rows = [line.split("\t") for line in told]
    assert len(rows) == 1 + 8 * len(kinds) and {row[2] for row in rows} == {"espresso"}
    scores = np.array([float(row[1]) for row in rows])
    assert scores[0] > 0.5 and np.abs(scores - scores[0]).max() < 0.02


def test_files_behind_a_model_have_the_same_bytes_each_time():
    made = [metadata.with_files(b"model", {"labels.txt": b"a\n"}) for _ in range(2)]
    assert made[0] == made[1] and made[0].startswith(b"model")


def _opencv(path):
    import cv2

    network = cv2.dnn.readNetFromONNX(str(path))

    def run(images):
        network.setInput(images)
        return network.forward()

    return run


def _openvino(path):
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where the processor has it
    compiled = openvino.Core().compile_model(str(path), "CPU", exact)
    return lambda images: next(x for x in compiled(images).values() if x.dtype == np.float32)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("loader", [_opencv, _openvino])
def test_onnx_files_answer_the_same_in_other_runtimes(records, tmp_path, loader, name, precision):
    """In those that people have beside ONNX Runtime, which each read a graph in their own way."""
    pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    pytest.importorskip({_opencv: "cv2", _openvino: "openvino"}[loader])
    known = loading.load(made(tmp_path, KINDS[name]))
    shown = checking.images(known, records, 8)
    path = tmp_path / "model.onnx"
    path.write_bytes(export_onnx.onnx_file(known, precision, shown))
    ours = export_onnx.runner(path.read_bytes())
    run = loader(path)
    for image in shown:
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1)[np.newaxis], np.float32)
        close = 1e-4 if precision == "float32" else 0.05
        np.testing.assert_allclose(np.ravel(run(pixels)), ours(image), atol=close)


def test_a_saved_model_runs_where_there_is_no_tensorflow(model, tmp_path):
    """OpenVINO reads the graph and its variables from the files, as the C API and Java do."""
    pytest.importorskip("openvino")
    out = tmp_path / "served"
    assert command(model, out, "saved_model") == 0
    run = _openvino(out)
    known = loading.load(model)
    expected = checking.reference(known)
    for image in checking.probes(known, []):
        np.testing.assert_allclose(run(image[np.newaxis])[0], expected(image), atol=1e-4)
