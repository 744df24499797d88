"""Tests for `formats/pytorch.py`, against what PyTorch itself computed.

`pytorch_twins.json` was made with torch 2.14.1, torchvision and pytorchcv 0.0.74,
`layout_twins.json` with chainer 7.8.1 and chainercv2 0.0.62, and with TensorFlow 2.15.1 and tf2cv
0.0.18; what they hold is checked without them. What needs torch is skipped where there is none.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import io
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from squeezenext.config import io as config_io
from squeezenext.config.images import TORCHVISION
from squeezenext.config.network import Fire
from squeezenext.errors import InputError
from squeezenext.formats import pytorch, pytorch_files, variables
from squeezenext.model import importing
from squeezenext.network import graph
from tests import layout_twins, pytorch_twins, torch_files
from tests.pytorch_twins import TWINS
from tests.test_graph import compute

RECORD = json.loads(Path(__file__).with_name("pytorch_twins.json").read_text())
LAYOUTS = json.loads(Path(__file__).with_name("layout_twins.json").read_text())


def twin_state(name):
    """The state dictionary of a twin, as numpy arrays, made without PyTorch."""
    config, layout = config_io.load(name), TWINS[name][0]
    blank = {n: np.zeros(shape, np.float32) for n, shape in variables.shapes(config).items()}
    shapes = {k: a.shape for k, a in pytorch.to_state(blank, config, layout).items()}
    return {key: pytorch_twins.values(key, shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", TWINS)
def test_names_and_shapes_are_the_library_s_own(name):
    shapes = {key: array.shape for key, array in twin_state(name).items()}
    assert pytorch_twins.signature(shapes) == RECORD[name]["signature"]
    assert config_io.load(name).images == TORCHVISION


@pytest.mark.parametrize("name", TWINS)
def test_logits_are_pytorch_s(name):
    config = config_io.load(name)
    arrays = pytorch.from_state(twin_state(name), config, TWINS[name][0], "twin")
    weights = graph.fold(config, variables.complete(config, arrays, "twin"))
    logits = compute(graph.of(config), weights, pytorch_twins.images())
    expected = np.array(RECORD[name]["logits"])
    assert np.abs(expected).max() > 0.5  # else 1e-4 would say nothing
    np.testing.assert_allclose(logits[::50], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["sqnxt23v5_w1", "squeezenet_v1_0_torchvision"])
def test_there_and_back(name):
    config, layout = config_io.load(name), TWINS[name][0]
    state = twin_state(name)
    arrays = pytorch.from_state(state, config, layout, "twin")
    again = pytorch.to_state(arrays, config, layout)
    assert again.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array)


def pytorchcv_state(name):
    """The configuration and the state dictionary of a network of pytorchcv."""
    fitting = name if name in TWINS else f"{name}_torchvision"
    config = config_io.load(fitting)
    blank = {n: np.zeros(shape, np.float32) for n, shape in variables.shapes(config).items()}
    state = pytorch.to_state(blank, config, "pytorchcv")
    return config, {key: pytorch_twins.values(key, a.shape) for key, a in state.items()}


def npz_of(arrays, pack=np.savez):
    file = io.BytesIO()
    pack(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("name", layout_twins.NETWORKS)
def test_chainer_s_files_hold_the_same_under_its_own_names(name):
    config, state = pytorchcv_state(name)
    arrays = {layout_twins.as_chainer(key): array for key, array in state.items()}
    shapes = {key: array.shape for key, array in arrays.items()}
    assert pytorch_twins.signature(shapes) == LAYOUTS["chainer"][name]
    found, notes = pytorch.decode(npz_of(arrays), config, "pytorchcv", "a.npz")
    assert not notes
    for key, array in pytorch.from_state(state, config, "pytorchcv", "a.npz").items():
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("name", layout_twins.NETWORKS)
def test_keras_files_hold_the_same_transposed(name):
    config, state = pytorchcv_state(name)
    network = "squeeze_net" if name.startswith("squeeze") else "squeeze_next"
    arrays = {
        layout_twins.as_keras(key, network): array.transpose(2, 3, 1, 0)
        if array.ndim == 4
        else array.T
        for key, array in state.items()
        if not key.endswith("num_batches_tracked")
    }
    shapes = {key: array.shape for key, array in arrays.items()}
    assert pytorch_twins.signature(shapes) == LAYOUTS["keras"][name]
    found, notes = pytorch.decode(layout_twins.hdf5_of(arrays), config, "pytorchcv", "a.h5")
    assert not notes
    for key, array in pytorch.from_state(state, config, "pytorchcv", "a.h5").items():
        np.testing.assert_array_equal(found[key], array)


def test_keras_names_of_one_variable_are_refused():
    config, state = pytorchcv_state("squeezeresnet_v1_1")
    arrays = {layout_twins.as_keras(x, "squeeze_net"): array.T for x, array in state.items()}
    name, array = next(iter(arrays.items()))
    data = layout_twins.hdf5_of(arrays | {f"other/{name}": array})
    with pytest.raises(InputError, match=r"a\.h5 is damaged: it holds \S+ under two names\."):
        pytorch.decode(data, config, "pytorchcv", "a.h5")


def test_hdf5_whose_numbers_lie_in_other_files_is_refused(tmp_path):
    import h5py

    secret, out = tmp_path / "secret", io.BytesIO()
    secret.write_bytes(bytes(12))
    with h5py.File(out, "w") as file:
        file.create_dataset("a", (3,), np.float32, external=[(str(secret), 0, 12)])
    with pytest.raises(InputError, match="cannot read it, or it names other files"):
        read(out.getvalue())
    os.mkfifo(tmp_path / "fifo")
    layout = h5py.VirtualLayout((3,), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "fifo"), "a", (3,))
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.create_virtual_dataset("a", layout)
    with pytest.raises(InputError, match="cannot read it, or it names other files"):
        read(out.getvalue())


def test_hdf5_s_process_imports_nothing_from_the_current_folder_and_ends(tmp_path, monkeypatch):
    good = layout_twins.hdf5_of({"a": np.zeros(3, np.float32)})
    (tmp_path / "h5py.py").write_text("raise ValueError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    assert pytorch_files.read(good, "a.h5").content.keys() == {"a"}
    monkeypatch.setattr(pytorch_files, "_PATIENCE", 0.001)
    with pytest.raises(InputError, match="has not read it in time"):
        read(good)


def test_hdf5_that_cannot_be_read_and_bombs(monkeypatch):
    good = layout_twins.hdf5_of({"a": np.zeros(3, np.float32)})
    for bad in (good[:600], good[:8], good[:8] + bytes(100)):
        with pytest.raises(InputError, match=r"a\.pth is damaged: HDF5's library cannot read it"):
            read(bad)
    bomb = layout_twins.hdf5_of({"a": np.broadcast_to(np.float32(0), (1 << 28,))}, packed=True)
    assert len(bomb) < 10_000_000
    with pytest.raises(InputError, match="HDF5's library cannot read it"):
        read(bomb)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="read with h5py; type in the repository"):
        read(good)


def test_numpy_s_files_of_any_age_packing_and_order_of_numbers():
    assert_same(npz_of(STATE))
    assert_same(npz_of(STATE, np.savez_compressed))
    assert_same(npz_of({key: np.asfortranarray(array) for key, array in STATE.items()}))
    assert_same(npz_of({f"module.{key}": x.astype(np.float16) for key, x in STATE.items()}),
                tolerance=1e-3)  # fmt: skip
    key = next(iter(STATE))
    big = npz_of(STATE | {key: STATE[key].astype(">f4")})
    with pytest.raises(InputError, match=r"a\.pth holds numbers of the kind >f4"):
        read(big)
    objects = npz_of(STATE | {key: np.full(STATE[key].shape, None)})
    with pytest.raises(InputError, match=r"a\.pth holds numbers of the kind \|O"):
        read(objects)
    with pytest.raises(InputError, match=r"a\.pth is not of this network: .*shape"):
        read(npz_of(STATE | {key: np.zeros((2, 2))}))


def test_pytorchcv_s_squeezenet_is_torchvision_s_under_other_names():
    config = config_io.load("squeezenet_v1_1_torchvision")
    keys = pytorch.keys(config, "pytorchcv")
    assert keys["model/fire4_expand3x3/kernel"] == "features.stage2.unit1.expand3x3.conv.weight"
    assert keys["model/conv10/bias"] == "output.final_conv.bias"


def test_a_state_of_another_network_is_refused():
    state = twin_state("sqnxt23_w1")
    config = config_io.load("sqnxt23v5_w1")
    with pytest.raises(InputError, match=r"it has no features\.stage3\.unit10"):
        pytorch.from_state(state, config, "pytorchcv", "a.pth")
    state = twin_state("sqnxt23v5_w1") | {"extra.weight": np.zeros(1, np.float32)}
    with pytest.raises(InputError, match=r"it has extra\.weight, too"):
        pytorch.from_state(state, config, "pytorchcv", "a.pth")
    for name, layout in (("v_1_0_SqNxt_23", "pytorchcv"), ("sqnxt23_w1", "torchvision"),
                         ("squeezeresnet_v1_0", "torchvision")):  # fmt: skip
        with pytest.raises(InputError, match="has no network like this"):
            pytorch.keys(config_io.load(name), layout)
    shapes = twin_state("sqnxt23_w1")
    wrong = pytorch.from_state(shapes, config_io.load("sqnxt23_w1"), "pytorchcv", "a")
    with pytest.raises(InputError, match="stem/kernel has shape"):
        variables.complete(config_io.load("sqnxt23_w2"), wrong, "a.pth")


def test_a_configuration_that_shows_other_pixels_is_refused():
    config = config_io.load("squeezenet_v1_1")  # BGR
    with pytest.raises(InputError, match=r"other pixels.*RGB.*--set 'images\.channels=RGB'"):
        importing.read("torchvision", [b""], config, "a.pth")


def test_writing_without_pytorch_names_the_requirements(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    config = config_io.load("squeezenet_v1_1_torchvision")
    with pytest.raises(InputError, match=r"setup\.sh requirements-torch\.txt"):
        pytorch.encode({}, config, "torchvision")


def small_network():
    """A SqueezeNet of torchvision's kind with few weights, and its state dictionary."""
    config = config_io.load("squeezenet_v1_1_torchvision")
    fires = tuple(Fire(2, 3, 3) for _ in config.model.fires)
    model = dataclasses.replace(config.model, stem_filters=4, fires=fires, classes=3)
    config = dataclasses.replace(config, model=model)
    blank = {n: np.zeros(shape, np.float32) for n, shape in variables.shapes(config).items()}
    state = pytorch.to_state(blank, config, "torchvision")
    return config, {
        k: pytorch_twins.values(k, a.shape).astype(np.float32) for k, a in state.items()
    }


CONFIG, STATE = small_network()


def read(data):
    """The arrays in a file, of CONFIG's network, and what is said about it."""
    return pytorch.decode(data, CONFIG, "torchvision", "a.pth")


def assert_same(data, state=STATE, tolerance=0.0):
    arrays, notes = read(data)
    wanted = pytorch.from_state(state, CONFIG, "torchvision", "a.pth")
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(arrays[name], array, rtol=tolerance)
    return notes


def prefixed(prefix):
    return {f"{prefix}{key}": array for key, array in STATE.items()}


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


class Net:
    """What `torch.save(model)` holds of a module, without its code."""

    def __init__(self, state):
        self._parameters, self._buffers, self._modules, self.training = {}, {}, {}, True
        for key, array in state.items():
            first, _, rest = key.partition(".")
            if rest:
                inner = {
                    k.partition(".")[2]: x for k, x in state.items() if k.startswith(f"{first}.")
                }
                self._modules[first] = Net(inner)
            else:
                self._parameters[key] = array


NAMESPACE = argparse.Namespace(lr=0.1, output="runs", seen={1, 2}, since=datetime.date(2020, 1, 2))
AS_PEOPLE_HAVE_THEM = {
    "a state dictionary": lambda: torch_files.pth_of(STATE),
    "one in order": lambda: torch_files.pth_of(collections.OrderedDict(STATE)),
    "before PyTorch 1.6": lambda: torch_files.pth_of(STATE, old=True),
    "pickle protocol 4": lambda: torch_files.pth_of(STATE, protocol=4),
    "safetensors": lambda: torch_files.safetensors_of(STATE),
    "torchvision's references": lambda: torch_files.pth_of(
        {"model": STATE, "optimizer": {"state": {0: {"momentum_buffer": np.zeros(3)}}},
         "epoch": 3, "args": NAMESPACE}
    ),
    "the tutorial's": lambda: torch_files.pth_of(
        {"epoch": 5, "model_state_dict": STATE, "loss": np.float64(0.4), "best": np.int64(3)}
    ),
    "net": lambda: torch_files.pth_of({"net": prefixed("module."), "acc": 91.5}, old=True),
    "Lightning": lambda: torch_files.pth_of({"state_dict": prefixed("model."), "hyper": {"a": []}}),
    "a dictionary in one": lambda: torch_files.pth_of({"a": {"network": {"weights": STATE}}}),
    "torch.compile": lambda: torch_files.pth_of(prefixed("_orig_mod.")),
    "both": lambda: torch_files.pth_of(prefixed("module._orig_mod.")),
    "averaged": lambda: torch_files.pth_of(
        {**prefixed("module."), "n_averaged": np.zeros((), np.int64)}
    ),
    "a whole model": lambda: torch_files.pth_of(Net(STATE)),
    "a whole model in a checkpoint": lambda: torch_files.pth_of({"model": Net(STATE), "epoch": 1}),
    "with code beside it": lambda: torch_files.pth_of({"model": STATE, "hook": Evil()}),
}  # fmt: skip


@pytest.mark.parametrize("kind", AS_PEOPLE_HAVE_THEM)
def test_files_as_people_have_them(kind):
    assert not assert_same(AS_PEOPLE_HAVE_THEM[kind]())


def test_numbers_of_other_types_and_orders_in_memory():
    doubles = {key: array.astype(np.float64) for key, array in STATE.items()}
    assert_same(torch_files.pth_of(doubles))
    halves = {key: array.astype(np.float16) for key, array in STATE.items()}
    assert_same(torch_files.pth_of(halves), tolerance=2e-2)
    assert_same(torch_files.safetensors_of(halves), tolerance=2e-2)
    upper = {k: (a.view(np.uint32) >> 16).astype(np.uint16) for k, a in STATE.items()}
    assert_same(torch_files.pth_of(upper), tolerance=2e-2)  # bfloat16
    assert_same(torch_files.pth_of({key: np.asfortranarray(x) for key, x in STATE.items()}))


def test_of_weights_and_their_averages_the_weights_are_read_and_it_is_said():
    averages = {key: array + 1 for key, array in prefixed("module.").items()}
    (note,) = assert_same(torch_files.pth_of({"model_ema": averages, "model": STATE}))
    assert note == (
        'a.pth holds weights of this network as "model" and as "model_ema.module"; those of '
        '"model" are read.'
    )


def test_tensors_of_other_modules_are_skipped_and_counted():
    data = {"state_dict": {**prefixed("model."), "loss.weight": np.zeros(3, np.float32)}}
    (note,) = assert_same(torch_files.pth_of(data))
    assert note == (
        'a.pth also holds 1 tensor of other modules than "state_dict.model", such as loss.weight; '
        "they are skipped."
    )
    teacher = {f"teacher.{key}": array + 1 for key, array in STATE.items()}
    (note,) = assert_same(torch_files.pth_of({**prefixed("student."), **teacher}))
    assert '"student" and as "teacher"; those of "student" are read' in note
    with pytest.raises(InputError, match="it has head.weight, too"):
        read(torch_files.pth_of({**STATE, "head.weight": np.zeros(3, np.float32)}))
    with pytest.raises(InputError, match=r"it has ema\.features\S+, too"):
        read(torch_files.pth_of({**prefixed("ema."), **STATE}))
    with pytest.raises(InputError, match="it has head.weight, too"):
        inside = {**prefixed("model."), "model.head.weight": np.zeros(3, np.float32)}
        read(torch_files.pth_of(inside))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>", "a web page; a page was saved"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
        (b"\xff\xd8\xff\xe0", "an image"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x08\x08\x12\x07pytorch", "an ONNX file"),
        (bytes(1000), "a file of an unknown kind"),
        (torch_files.pth_of([1, 2]), "holds no state dictionary, tensors by name, but one list"),
        (torch_files.pth_of({"a": 3}), "but a dictionary of a"),
        (torch_files.pth_of(np.zeros(3, np.float32)), r"but one tensor of shape \(3,\)"),
        (torch_files.pth_of(Evil()), "but an object of the kind"),
        (torch_files.pth_of(STATE)[:-50], "damaged"),
        (torch_files.pth_of(STATE, old=True)[:-52], "longer than its numbers"),
        (b"PK\x03\x04", "damaged"),
        (b"\x80\x02", "no file of PyTorch"),
    ],
)  # fmt: skip
def test_other_files_are_named(data, message):
    with pytest.raises(InputError, match=message):
        read(data)


def test_a_web_page_is_named_in_the_place_of_any_weights(tmp_path):
    for kind, config in (
        ("caffemodel", "squeezenet_v1_1"),
        ("deep_compression", "squeezenet_v1_0"),
    ):
        with pytest.raises(
            InputError, match="x holds no weights of the format .*: it is a web page"
        ):
            importing.read(kind, [b"<html>"], config_io.load(config), "x")
        with pytest.raises(InputError, match="it is a PyTorch file"):
            importing.read(kind, [torch_files.pth_of(STATE)], config_io.load(config), "x")


def test_a_tensor_is_measured_before_it_is_made():
    """A tensor of any shape may rest on two bytes, and thousands of them on the same ones."""
    huge = np.broadcast_to(np.zeros(1, np.float16), (65536, 65536))
    for changed, message in (
        ({"features.0.bias": huge}, r"features.0.bias has shape \(65536, 65536\)"),
        ({"x.weight": huge}, "it has x.weight, too"),
        ({"a.num_batches_tracked": huge}, None),  # not read
    ):
        data = torch_files.pth_of({**STATE, **changed})
        assert len(data) < 1 << 20
        with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
            read(data)


DEEP = b")q\x000" + b"h\0h\0\x86q\x000" * 5000  # tuples in tuples, 2 ** 5000 in all if followed

# A thousand dictionaries, each made of the same list of a thousand pairs.
COPIED = (
    b"\x80\x02ccollections\nOrderedDict\nq\0](" + b"X\1\0\0\0aK\1\x86" * 1000
    + b"e\x85q\1" + b"h\0h\1R" * 1000 + b"."
)  # fmt: skip
# A dictionary whose numbers all have the hash 0, and a long identity of ten thousand storages.
ALIKE = b"\x80\x02}(" + b"".join(
    b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"N" for n in range(1, 8000)
) + b"u."  # fmt: skip
IDENTITY = (
    b"\x80\x02(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0aNK\1" + b"N" * 10_000
    + b"tq\1" + b"h\1Q0" * 10_000 + b"N."
)  # fmt: skip
# A dictionary of a thousand objects, which is also the modules of each of them.
MODULES = b"\x80\x02c__main__\nA\nq\0}q\1" + b"".join(
    b"X\4\0\0\0%04dh\0)\x81}X\x08\0\0\0_modulesh\1sbs" % n for n in range(1000)
) + b"."  # fmt: skip


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", "an empty dictionary"),  # a memory of 34 GB elsewhere
        (b"\x80\x02" + DEEP + b"}h\0K\1s.", "an empty dictionary"),  # a key whose hash has no end
        (b"\x80\x02" + DEEP + b"h\0.", "one tuple"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "damaged"),  # a text longer than the file
        (b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.", "an object of the kind os.system"),
        (b"\x80\x02]q\0h\0a.", "one list"),  # a list in itself
        (b"\x80\x02}q\0X\1\0\0\0ah\0s.", "a dictionary of a"),
        (b"\x80\x02\x8a\xff" + b"\xff" * 254 + b"\x7f.", "a number that is too long"),
        (b"\x80\x02" + b"(" * 600_000 + b".", "too long"),
        (b"\x80\x02" + b"0.", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02\x81.", "damaged"),
        (b"\x80\x02X\xe8\3\0\0" + b"a" * 1000 + b"q\0h\0\x93.", "a name that is too long"),
        (b"\x80\x02c" + b"a" * 300 + b"\nb\n.", "a name that is too long"),
        (b"\x80\x02ctorch\nSize\n](" + b"K\1" * 9 + b"e\x85R.", "has no shape"),
        (b"\x80\x02ctorch\nSize\n](" + b"K\1" * 8 + b"e\x85R.", "one tuple"),
        (COPIED, "too long"),
        (COPIED.replace(b"e\x85q\1", b"eq\1"), "damaged"),  # its arguments are a list
        (ALIKE, "an empty dictionary"),
        (IDENTITY, "one NoneType"),
        (MODULES, "its modules hold one another too often"),
        (b"\x80\x02c__main__\nA\n)\x81}X\x08\0\0\0_modules]sb.", "an object of the kind"),
        (b"\x80\x02c__main__\nA\n)\x81}q\0X\x08\0\0\0_modulesh\0sb.", "an object of the kind"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("old", [False, True])
def test_hostile_pickles_end(pickled, message, old):
    data = torch_files.zipped(pickled)
    if old:
        whole = torch_files.pth_of({}, old=True)
        data = whole.replace(pickle.dumps({}, 2), pickled)
        message = f"{message}|damaged"
    with pytest.raises(InputError, match=message):
        read(data)


def test_the_names_of_old_storages_are_texts():
    whole = torch_files.pth_of(STATE, old=True)
    keys = pickle.dumps([str(number) for number in range(len(STATE))], 2)
    assert whole.count(keys) == 1
    with pytest.raises(InputError, match="its storages have no names"):
        read(whole.replace(keys, b"\x80\x02" + DEEP + b"h\0."))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: requirements-torch.txt.")


def test_a_file_of_pytorch_there_and_back(torch):
    arrays = pytorch.from_state(STATE, CONFIG, "torchvision", "twin")
    assert_same(pytorch.encode(arrays, CONFIG, "torchvision"))
    file = io.BytesIO()
    torch.save({k: torch.from_numpy(x) for k, x in STATE.items()}, file,
               _use_new_zipfile_serialization=False)  # fmt: skip
    assert_same(file.getvalue())


def test_a_squeezenet_that_pytorch_does_not_have():
    for name in ("squeezenet_v1_0", "squeezenet_v1_1_caltech256"):
        for layout in ("torchvision", "pytorchcv"):
            with pytest.raises(InputError, match="pads no classifier and has ReLU"):
                pytorch.keys(config_io.load(name), layout)
