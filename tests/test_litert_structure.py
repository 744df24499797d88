"""Tests for litert/structure.py: what reaches LiteRT's interpreter is of our own making."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from scripts.faults import fuzz_litert
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.export import litert
from squeezenext.litert import structure, writer
from squeezenext.litert.metadata import with_files
from squeezenext.litert.runner import Runner
from squeezenext.model import loading
from squeezenext.network import graph
from tests import tiny

CONFIGS = {
    "sqnxt": tiny.SQUEEZENEXT,
    "padded": dataclasses.replace(
        tiny.SQUEEZENEXT, model=dataclasses.replace(tiny.SQUEEZENEXT.model, stem_padding=1)
    ),
    "sqnt": tiny.SQUEEZENET,
    "elu and bypass": dataclasses.replace(
        tiny.SQUEEZENET,
        model=dataclasses.replace(
            tiny.SQUEEZENET.model, activation="elu", bypass="complex", head_padding=1
        ),
    ),
}


def exported(folder, config=tiny.SQUEEZENEXT, precision="float32"):
    """An exported file in a folder."""
    size = config.images.size
    images = [np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)]
    path = folder / f"{precision}.tflite"
    path.write_bytes(litert.litert_file(fuzz_litert.model(config), precision, images))
    return path


@pytest.mark.parametrize("precision", litert.FORMAT.precisions)
@pytest.mark.parametrize("name", CONFIGS)
def test_our_own_files_pass(tmp_path, name, precision):
    assert loading.load_runnable(exported(tmp_path, CONFIGS[name], precision)).file


@pytest.mark.parametrize("name", ["squeezenet_v1_0", "v_1_0_SqNxt_23", "sqnxt23v5_w1"])
def test_the_published_networks_files_pass(name):
    known = fuzz_litert.model(config_io.load(name))
    structure.check_own(writer.write(known.graph, known.weights), known.graph, "file")


def test_the_numbers_are_those_of_the_schema():
    """They are written out, because the schema's module would delay prediction."""
    for name, code in structure._CODES.items():
        assert code == getattr(schema.BuiltinOperator, name)
    for name, code in structure._TYPES.items():
        assert code == getattr(schema.TensorType, name.upper())
    assert (writer._SAME, writer._VALID) == (schema.Padding.SAME, schema.Padding.VALID)
    assert writer._FUSED["relu"] == schema.ActivationFunctionType.RELU


def changed(change, config=tiny.SQUEEZENEXT):
    """A model directory's own file, after a change of its content, and the network."""
    known = fuzz_litert.model(config)
    content = writer.write(known.graph, known.weights)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    change(model, model.subgraphs[0])
    for buffer in model.buffers:
        buffer.data = None if buffer.data is None else np.asarray(buffer.data, np.uint8)
    import flatbuffers

    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), known.graph


def at_zero(model, network):
    """Moves the first constant to buffer 0, from which LiteRT reads nothing."""
    number = next(n for n, tensor in enumerate(network.tensors) if tensor.buffer)
    model.buffers[0], model.buffers[network.tensors[number].buffer] = (
        model.buffers[network.tensors[number].buffer], model.buffers[0],
    )  # fmt: skip
    network.tensors[number].buffer = 0


def replaced(target, field, value):
    return lambda *found: setattr(target(*found), field, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(lambda m, g: g.tensors[1], "shape", [1, 9999]), "tensor 1 has another shape"),
        (replaced(lambda m, g: g.tensors[1], "type", 7), "tensor 1 has another shape"),
        (replaced(lambda m, g: g.tensors[1], "buffer", 10**6), "an offset leads out of it"),
        (at_zero, "tensor . has another"),
        (replaced(lambda m, g: m.buffers[1], "data", [1, 2, 3, 4]), "tensor . has another"),
        (replaced(lambda m, g: g.operators[0], "inputs", [0, 1, 10**6]), "operator 0 is not"),
        (replaced(lambda m, g: g.operators[0], "opcodeIndex", 1), "operator 0 is not"),
        (replaced(lambda m, g: g.operators[0], "opcodeIndex", 99), "an offset leads out"),
        (replaced(lambda m, g: g.operators[0].builtinOptions, "strideW", 0), "operator 0 is not"),
        (replaced(lambda m, g: m.operatorCodes[0], "customCode", b"Evil"), "does not write"),
        (replaced(lambda m, g: g, "outputs", [0]), "it has other inputs or outputs"),
        (lambda m, g: m.subgraphs.append(g), "no LiteRT file of one graph"),
        (lambda m, g: g.operators.pop(), "tensors and"),
        (lambda m, g: None, None),
    ],
)  # fmt: skip
def test_another_structure_is_refused_before_it_runs(change, message):
    content, network = changed(change)
    if message is None:
        structure.check_own(content, network, "file")
        return
    with pytest.raises(InputError, match=f"is damaged, or not what .*: .*{message}"):
        structure.check_own(content, network, "file")


@pytest.mark.parametrize(
    "change",
    [at_zero, replaced(lambda m, g: m, "version", 4), replaced(lambda m, g: g, "inputs", [])],
)
def test_what_the_runtime_reports_names_the_model(change):
    """Some faults show when a file is opened, others when it runs."""
    content, network = changed(change)
    with pytest.raises(
        InputError, match=r"^the model is no LiteRT file .*: [^\n]+; export it again.$"
    ):
        Runner(content, 1, "the model").run(np.zeros(network.nodes[0].shape, np.float32))


def test_a_file_of_another_network_is_refused(tmp_path):
    known = fuzz_litert.model(tiny.SQUEEZENEXT)
    content = writer.write(known.graph, known.weights)
    with pytest.raises(InputError, match="tensors and"):
        structure.check_own(content, graph.of(tiny.SQUEEZENET), "file")
    with pytest.raises(InputError, match="file is damaged, or not what"):
        structure.check_own(content[:100], known.graph, "file")


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_description_that_is_packed_otherwise_is_refused(tmp_path, packing):
    path = exported(tmp_path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    content = path.read_bytes()
    content = content[: content.index(b"PK\3\4")]
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    (tmp_path / "a.tflite").write_bytes(out.getvalue())
    with pytest.raises(InputError, match="is too large or packed"):
        loading.load_runnable(tmp_path / "a.tflite")
    (tmp_path / "a.tflite").write_bytes(with_files(content, files))
    assert loading.load_runnable(tmp_path / "a.tflite").file


def test_no_damaged_file_crashes_prediction(tmp_path):
    """The short form of `scripts/faults/fuzz_litert.py`."""
    rows = fuzz_litert.fuzz(25, 1, tmp_path / "failure")
    assert sum(refused for _, refused, _ in rows) > 150
    assert sum(computed for _, _, computed in rows) > 5  # a changed weight is no fault
