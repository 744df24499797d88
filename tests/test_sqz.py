"""Tests for `sqz/file.py`, `streams.py` and `kernels.py`."""

import dataclasses
import errno
import json
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from squeezenext import cli, labels
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.labels import Label
from squeezenext.model import importing
from squeezenext.network import graph
from squeezenext.network.model import Model
from squeezenext.predict.predictor import Predictor
from squeezenext.sqz import file as sqz
from squeezenext.sqz.kernels import Form, Shared
from tests import tiny
from tests.conftest import REPOSITORY

CLASSES = tuple(Label(f"n{i}", f"class {i}, \u00e9") for i in range(tiny.CLASSES))
KINDS = ["dense", "empty", "sparse", "one value", "one bit", "raw", "positive", "large"]


def named(config, classes=CLASSES, temperature=1.0):
    """A model whose weights are given beside it."""
    return Model("tiny", config, classes, {}, temperature)


def kernel_of(kind, shape, rng):
    kernel = rng.normal(size=shape).astype(np.float32)
    if kind == "empty":
        kernel[:] = 0
    elif kind == "sparse":
        kernel[rng.random(shape) < 0.9] = 0
    elif kind == "one value":
        kernel[:] = 0.25
    elif kind == "one bit":
        kernel = np.where(kernel > 0, 0.5, -0.5).astype(np.float32)
    elif kind == "positive":
        kernel = np.abs(kernel.round(1))
    elif kind == "large":
        kernel *= 1e4
    if kind in ("dense", "sparse"):
        return tiny.shared(kernel, 15)
    return kernel


def network(config, kind):
    rng = np.random.default_rng(0)
    nodes = graph.of(config)
    kernels = {n.name: kernel_of(kind, nodes.kernel_shape(n.name), rng) for n in nodes.weighted}
    biases = {
        n.name: rng.normal(size=n.shape[-1]).astype(np.float32)
        for n in nodes.weighted
        if n.op == "conv" or n.bias
    }
    return kernels, biases


def shown(config):
    return {field: getattr(config.images, field) for field in sqz.IMAGES}


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_come_back(wide, kind, monkeypatch):
    if kind == "raw":
        monkeypatch.setattr("squeezenext.sqz.kernels.MAX_VALUES", 8)
    config = tiny.SQUEEZENET if kind == "dense" else tiny.SQUEEZENEXT
    kernels, biases = network(config, kind)
    data = sqz.encode(named(config, temperature=1.5), kernels, biases, wide).data
    found = sqz.decode(data, "file")
    assert found.config.model == config.model and shown(found.config) == shown(config)
    assert found.labels == CLASSES and found.temperature == 1.5
    kept = np.float32 if wide else np.float16
    for name, kernel in kernels.items():
        values = kernel.values if isinstance(kernel, Shared) else kernel
        np.testing.assert_array_equal(found.weights[f"{name}/kernel"], values.astype(kept))
    for name, bias in biases.items():
        np.testing.assert_array_equal(found.weights[f"{name}/bias"], bias.astype(kept))
    assert {name for name in found.weights if name.endswith("bias")} == {
        f"{n}/bias" for n in biases
    }
    assert all(array.dtype == np.float32 for array in found.weights.values())


def test_names_that_forge_lines_of_output_are_refused():
    forged = [Label("n1", "hat\n   99.99%  cat\x1b[32m"), *CLASSES[1:]]
    data = sqz.encode(named(tiny.SQUEEZENEXT, forged), *network(tiny.SQUEEZENEXT, "dense")).data
    with pytest.raises(InputError, match="The classes in file cannot be used: the name .* has a"):
        sqz.decode(data, "file")


def test_what_float16_cannot_hold_is_refused():
    kernels, biases = network(tiny.SQUEEZENEXT, "dense")
    biases["stem"][0] = 1e6
    with pytest.raises(InputError, match="too large for float16"):
        sqz.encode(named(tiny.SQUEEZENEXT), kernels, biases)


def test_imagenet_is_named_not_carried():
    model = dataclasses.replace(tiny.SQUEEZENET.model, classes=1000)
    config = dataclasses.replace(tiny.SQUEEZENET, model=model)
    kernels, biases = network(config, "empty")
    data = sqz.encode(named(config, labels.imagenet()), kernels, biases).data
    assert len(data) < 8000 and sqz.decode(data, "file").labels == labels.imagenet()


@pytest.fixture(scope="module")
def data():
    kernels, biases = network(tiny.SQUEEZENEXT, "sparse")
    return sqz.encode(named(tiny.SQUEEZENEXT), kernels, biases).data


def test_a_kernel_taken_as_it_is():
    kernel = np.array([[0.5, 0, -1], [0.5, -0.0, 2]], np.float32)
    shared = Shared.of(kernel)
    np.testing.assert_array_equal(shared.values, kernel)
    np.testing.assert_array_equal(shared.codebook, np.float32([-1, 0.5, 2]))
    assert shared.codes.tolist() == [[2, 0, 1], [2, 0, 3]]
    empty = Shared.of(np.zeros((2, 3), np.float32))
    assert not len(empty.codebook) and not empty.values.any()


def test_a_file_of_huffman_codes_is_refused(data):
    """The header's byte 10 is the coder, and 0 was Huffman codes."""
    assert data[10] == 1
    with pytest.raises(InputError, match="^file holds Huffman codes.*compress the model again"):
        sqz.decode(resealed(data[:10] + b"\0" + data[11:]), "file")


def test_a_file_is_read_without_tensorflow(data, tmp_path):
    path = tmp_path / "model.sqz"
    sqz.write(path, data)
    code = (
        "import sys, pathlib; from squeezenext.sqz import file as sqz\n"
        f"assert sqz.read(pathlib.Path({str(path)!r})).temperature == 1\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)
    with pytest.raises(InputError, match="cannot be read"):
        sqz.read(tmp_path / "none.sqz")
    with pytest.raises(InputError, match="cannot be written"):
        sqz.write(path / "model.sqz", data)


def test_no_damaged_file_is_read(data):
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data)
        way = rng.integers(0, 4)
        if way == 0:
            damaged = damaged[: rng.integers(0, len(data))]
        elif way == 1:
            damaged[rng.integers(0, len(data))] ^= 1 << rng.integers(0, 8)
        elif way == 2:
            damaged += rng.bytes(rng.integers(1, 50))
        else:
            damaged = bytearray(rng.bytes(rng.integers(0, 300)))
        with pytest.raises(InputError, match="file"):
            sqz.decode(bytes(damaged), "file")


def resealed(data):
    """The same with a checksum that holds, as one who means harm would make it."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def test_behind_a_good_checksum_only_a_possible_network_is_read(data):
    rng = np.random.default_rng(0)
    shapes = {name: array.shape for name, array in sqz.decode(data, "file").weights.items()}
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(8, len(data) - 4)] ^= 1 << rng.integers(0, 8)
        try:
            found = sqz.decode(resealed(bytes(damaged)), "file")
        except InputError as error:
            refused += "file" in str(error)
        else:
            assert {name: array.shape for name, array in found.weights.items()} == shapes
            assert all(np.isfinite(array).all() for array in found.weights.values())
    assert refused > 100


def with_header(data, change):
    """The file with another JSON document."""
    size, streams = struct.unpack_from("<II", data, 12)
    document = json.loads(zlib.decompress(data[20 : 20 + size]))
    text = change(document)
    header = zlib.compress(text if isinstance(text, bytes) else json.dumps(document).encode())
    head = data[:12] + struct.pack("<II", len(header), streams)
    return resealed(head + header + data[20 + size :])


def set_in(document, path, value):
    for name in path[:-1]:
        document = document[name]
    document[path[-1]] = value


@pytest.mark.parametrize(
    "change",
    [
        lambda d: set_in(d, ["model", "stages", 0, "units"], 10**9),
        lambda d: set_in(d, ["model", "stages", 0, "filters"], 10**9 * 8),
        lambda d: set_in(d, ["model", "stages", 0, "filters"], 1 << 16),
        lambda d: set_in(d, ["model", "stages", 0, "filters"], 0),
        lambda d: set_in(d, ["model", "head_filters"], -1),
        lambda d: set_in(d, ["model", "head_filters"], "8"),
        lambda d: set_in(d, ["model", "stem_kernel"], 500),
        lambda d: set_in(d, ["model", "stem_kernel"], 17),
        lambda d: set_in(d, ["model", "stem_padding"], 65536),
        lambda d: set_in(d, ["images", "size"], 31.5),
        lambda d: set_in(d, ["images", "resize"], 10**9),
        lambda d: set_in(d, ["images", "mean"], [float("nan"), 0, 0]),
        lambda d: set_in(d, ["images", "std"], [1, float("nan"), 1]),
        lambda d: set_in(d, ["images", "std"], [1, 1e-300, 1]),
        lambda d: set_in(d, ["temperature"], 0),
        lambda d: set_in(d, ["temperature"], 1e-300),
        lambda d: set_in(d, ["temperature"], float("inf")),
        lambda d: set_in(d, ["temperature"], "warm"),
        lambda d: set_in(d, ["temperature"], 10**400),
        lambda d: set_in(d, ["images", "mean"], [10**400, 0, 0]),
        lambda d: set_in(d, ["model", "stages"], []),
        lambda d: set_in(d, ["images", "size"], 10**9),
        lambda d: set_in(d, ["model", "type"], "Config"),
        lambda d: set_in(d, ["labels"], "other"),
        lambda d: set_in(d, ["labels"], [["a", "b"]]),
        lambda d: set_in(d, ["labels"], 5),
        lambda d: d.pop("labels"),
        lambda d: b"[" * 100_000,
        lambda d: b"\xff\xfe",
        lambda d: b" " * (sqz.MAX_HEADER + 1),
        lambda d: b"null",
    ],
)
def test_headers_that_mean_harm(data, change):
    with pytest.raises(InputError, match="file"):
        sqz.decode(with_header(data, change), "file")


@pytest.mark.parametrize("lanes", [1, 512])
@pytest.mark.parametrize("places", ["dense", "mask"])
def test_a_small_file_of_a_large_network_is_refused_soon(places, lanes):
    """16 million weights in a kilobyte, behind a checksum that holds: the largest there may be."""
    changes = {"stem_kernel": 15, "stem_filters": 20_000, "fires": (), "pool_after": ()}
    model = dataclasses.replace(tiny.SQUEEZENET.model, bypass="none", **changes)
    config = dataclasses.replace(tiny.SQUEEZENET, model=model)
    header = sqz.encode_header(named(config))
    form = Form(places, places == "dense", 0, 0, 0)
    if places == "mask":
        form = dataclasses.replace(form, positive=1)
    streams = 2 * form.pack() + struct.pack("<H", lanes) + bytes(lanes)
    head = struct.pack("<8sHBBII", sqz.MAGIC, 1, 1, 4, len(header), len(streams))
    began = time.process_time()
    with pytest.raises(InputError, match="file is damaged"):
        sqz.decode(resealed(head + header + streams + bytes(4)), "file")
    assert time.process_time() - began < 30  # hours, before; a loaded machine's seconds now


def test_the_published_network(shared):
    """Losslessly in at most 527,000 bytes, ImageNet's labels named."""
    config = config_io.load("squeezenet_v1_0")
    data = (shared / "weights" / "squeezenet_v1.0.deep-compression-8bit.net").read_bytes()
    arrays, _ = importing.read("deep_compression", [data], config, "file")
    folded = graph.fold(config, arrays)
    kernels = {n.split("/")[0]: w for n, w in folded.items() if n.endswith("kernel")}
    biases = {n.split("/")[0]: b for n, b in folded.items() if n.endswith("bias")}
    made = sqz.encode(named(config, labels.imagenet()), kernels, biases, wide=True)
    assert len(made.data) <= 527_000
    found = sqz.decode(made.data, "file").weights
    assert found.keys() == folded.keys()
    for name, array in folded.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_full_disk_asks_for_another_run(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sqz.files, "write_bytes", full)
    with pytest.raises(OSError) as fault:
        sqz.write(tmp_path / "a.sqz", data)
    assert cli.sentence(fault.value)[1] == 75


def test_prediction_reads_a_file(data, tmp_path):
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    sqz.write(tmp_path / "cold.sqz", data)
    predictor = Predictor(tmp_path / "cold.sqz")
    assert predictor.labels == CLASSES
    found = predictor.probabilities(pixels)
    assert found.sum() == pytest.approx(1)
    kernels, biases = network(tiny.SQUEEZENEXT, "sparse")
    warm = sqz.encode(named(tiny.SQUEEZENEXT, temperature=2.0), kernels, biases).data
    sqz.write(tmp_path / "warm.sqz", warm)
    expected = np.sqrt(found) / np.sqrt(found).sum()
    actual = Predictor(tmp_path / "warm.sqz").probabilities(pixels)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    (tmp_path / "cut.sqz").write_bytes(data[:-1])
    with pytest.raises(InputError, match="cut.sqz has"):
        Predictor(tmp_path / "cut.sqz")
