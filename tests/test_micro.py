"""Tests for `export/micro.py`, its runtime in C, and `sqz/plan.py`, the plan that it follows."""

import dataclasses
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from scripts.faults import fuzz_micro
from scripts.micro import photographs
from squeezenext.errors import InputError, NotKept
from squeezenext.export import command as export_command
from squeezenext.labels import Label
from squeezenext.network import graph, integer
from squeezenext.sqz import file as sqz
from squeezenext.sqz import plan as sqz_plan
from squeezenext.sqz.plan import MemoryPlan
from tests import micro
from tests.conftest import REPOSITORY

PUBLISHED = {
    "squeezenet_v1_1": 64,
    "squeezenet_v1_0": 48,
    "v_1_0_SqNxt_23": 64,
    "v_1_0_SqNxt_23_v5": 64,
    "v_1_0_G_SqNxt_23": 48,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    return micro.build(folder, REPOSITORY / "tests" / "c" / "logits.c")


def logits(program, folder, data, images):
    (folder / "network.sqz").write_bytes(data)
    (folder / "pixels").write_bytes(np.stack(images).tobytes())
    done = subprocess.run(
        [str(program), str(folder / "network.sqz"), str(folder / "pixels")], capture_output=True
    )
    assert not done.stderr, done.stderr.decode()[:2000]
    return done.returncode, np.frombuffer(done.stdout, np.int32).reshape(len(images), -1)


def same(program, folder, model, network, images):
    code, found = logits(program, folder, sqz.encode_whole(model, network).data, images)
    assert code == 0
    assert (found == np.stack([network.run(pixels) for pixels in images])).all()


@pytest.mark.parametrize("name", micro.CONFIGS)
def test_c_gives_the_logits_of_numpy_to_the_last_bit(program, tmp_path, name):
    same(program, tmp_path, *micro.network(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_so_it_does_for_published_networks(program, tmp_path, name):
    model, network, images = micro.make(micro.published(name, PUBLISHED[name], 10))
    same(program, tmp_path, model, network, images[:2])


@pytest.mark.parametrize("name", photographs.NETWORKS)
def test_so_it_does_on_photographs(program, tmp_path, name):
    """`scripts/check_micro.sh --photographs` does the same with a folder, at three sizes."""
    paths = []
    for number, pixels in enumerate(micro.pictures(90, 2)):
        paths.append(tmp_path / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1])
    (tmp_path / "logits").symlink_to(program)
    assert photographs.different(paths, name, 48, tmp_path) == 0


def test_c_refuses_what_it_cannot_read(program, tmp_path):
    model, network, images = micro.network("fires")
    data = sqz.encode_whole(model, network).data
    kernels = {n.name: model.weights[f"{n.name}/kernel"] for n in model.graph.weighted}
    floats = sqz.encode(model, kernels, {}).data
    cases = {b"": 1, b"\x89SQZ" * 9: 1, floats: 2, data[:-1]: 3, data + b"\0": 3}
    cases[data[:300] + b"\xff" + data[301:]] = 4
    for content, wanted in cases.items():
        assert logits(program, tmp_path, content, images)[0] == wanted


def test_logits_beyond_32_bits_stop_at_the_last(program, tmp_path):
    model, network, images = micro.network("fires")
    name = network.graph.weighted[-1].name
    bias = np.full_like(network.layers[name].bias, 2**15 - 1)
    layer = dataclasses.replace(network.layers[name], bias=bias, bias_shift=13)
    network = dataclasses.replace(network, layers={**network.layers, name: layer}, shift=0)
    assert (network.run(images[0]) == 2**31 - 1).all()
    same(program, tmp_path, model, network, images)


def forged(arena, buffers, stages, biases):
    """Returns a file of any plan, all of whose weights are 0; `biases` is the number of bytes."""
    plan = b"".join(sqz_plan._BUFFER.pack(*one) for one in buffers) + b"".join(stages)
    counts = len(buffers), len(stages), 0, 1
    start = sqz._WHOLE.pack(arena, *counts, 1.0, 0, 0, 0, 0, len(plan))
    streams = start + plan + bytes(len(stages) + biases) + b"\0\0\1\0"  # each has one value, 0
    head = sqz._HEAD.pack(sqz.MAGIC, 3, sqz.RANS, 1, 0, len(streams))
    return micro.sealed(head + streams + bytes(4))


def test_biases_of_many_stages_lie_inside_the_file(program, tmp_path):
    """Their bytes, 131,070 of each stage, are more than 2^32; the file has 2^32 fewer."""
    count, places = 32_770, (1, 1 << 18, 1 << 19, 64)
    buffers = [(24, 1, 1, 3, 1, 1, 0), (32, 1, 1, 1, 1, 1, 0), (1 << 17, 1, 1, 65535, 1, 1, 0)]
    shape = 1, 1, 1, 0, 0, 6, 1, 1, 1
    conv = sqz_plan._STAGE.pack(0, *shape, 2, 0, 65535, 1, 65535, 0, 1, 1, 0, *places)
    last = sqz_plan._STAGE.pack(3, *shape, 1, 0, 1, 1, 1, 0, 1, 1, 0, *places)
    data = forged(1 << 20, buffers, [conv] * count + [last], (131_070 * count + 2) % 2**32)
    assert logits(program, tmp_path, data, [np.zeros(3, np.uint8)])[0] == 5


def test_a_map_whose_sum_would_pass_31_bits_is_refused(program, tmp_path):
    buffers = [(24, 1, 1, 3, 1, 1, 0), (1 << 16, 4096, 4096, 1, 4096, 1, 0)]
    shape = 1, 1, 1, 0, 0, 6, 1, 1, 1
    last = sqz_plan._STAGE.pack(4, *shape, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 32, 64, 56)
    data = forged(1 << 25, buffers, [last], 2)
    assert logits(program, tmp_path, data, [np.zeros(3, np.uint8)])[0] == 5


@pytest.mark.parametrize("place, kind", [(0, "<I"), (4, "<H"), (6, "<H"), (8, "<H"), (10, "<H")])
@pytest.mark.parametrize("change", [-64, -1, 1, 256])
def test_forged_counts_are_refused(program, tmp_path, place, kind, change):
    model, network, images = micro.network("units")
    data = bytearray(sqz.encode_whole(model, network).data)
    at = sqz._HEAD.size + struct.unpack_from("<I", data, 12)[0] + place
    struct.pack_into(kind, data, at, abs(struct.unpack_from(kind, data, at)[0] + change))
    data = micro.sealed(bytes(data))
    if place and place != 8:  # C does not read the number of lanes, and may have more memory
        assert logits(program, tmp_path, data, images)[0] == 5
    if place or change == -64:
        with pytest.raises(InputError, match="damaged"):
            sqz.decode(data, "forged.sqz")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_logits_cannot_have_is_refused(program, tmp_path, scale):
    model, network, images = micro.network("units")
    data = bytearray(sqz.encode_whole(model, network).data)
    struct.pack_into("<f", data, sqz._HEAD.size + struct.unpack_from("<I", data, 12)[0] + 12, scale)
    data = micro.sealed(bytes(data))
    assert logits(program, tmp_path, data, images)[0] == 5
    with pytest.raises(InputError, match="damaged"):
        sqz.decode(data, "forged.sqz")


def whole(network, **changes):
    """A network whose first layer has other numbers."""
    name, layer = next(iter(network.layers.items()))
    layer = dataclasses.replace(layer, **changes)
    return dataclasses.replace(network, layers={**network.layers, name: layer})


def test_numbers_that_are_never_written_are_refused():
    model, network, _ = micro.network("fires")
    kernel = next(iter(network.layers.values())).kernel.copy()
    kernel.flat[0] = -128
    with pytest.raises(InputError, match="impossible numbers"):
        sqz.decode(sqz.encode_whole(model, whole(network, kernel=kernel)).data, "forged.sqz")
    config = dataclasses.replace(
        model.config, model=dataclasses.replace(model.config.model, activation="elu")
    )
    forged = sqz.encode_whole(dataclasses.replace(model, config=config), network).data
    with pytest.raises(InputError, match="another network|impossible numbers"):
        sqz.decode(forged, "forged.sqz")


@pytest.mark.parametrize("field, value", [(0, 1 << 30), (4, 0), (4, 999)])
def test_places_outside_the_arena_are_refused(field, value):
    model, network, _ = micro.network("fires")
    data = bytearray(sqz.encode_whole(model, network).data)
    at = sqz._HEAD.size + struct.unpack_from("<I", data, 12)[0] + sqz._WHOLE.size
    row = list(sqz_plan._BUFFER.unpack_from(data, at))
    row[field] = value
    sqz_plan._BUFFER.pack_into(data, at, *row)
    with pytest.raises(InputError, match="plan is of another network"):
        sqz.decode(micro.sealed(bytes(data)), "forged.sqz")


def test_a_sum_replaces_nothing_that_its_group_still_reads():
    """The stages of a group take turns, so the other reader would find rows of the sum."""
    image = graph.Node(op="input", name="image", inputs=(), shape=(8, 8, 3))
    first = graph.Node(op="conv", name="first", inputs=("image",), shape=(8, 8, 4))
    second = dataclasses.replace(first, name="second", inputs=("first",))
    window = {"kernel": (3, 1), "padding": ((1, 1), (0, 0))}
    other = dataclasses.replace(first, name="other", inputs=("first",), **window)
    total = dataclasses.replace(first, op="add", name="sum", inputs=("first", "second"))
    both = dataclasses.replace(total, name="both", inputs=("sum", "other"))
    last = dataclasses.replace(first, name="last", inputs=("both",))
    mean = graph.Node(op="global_pool", name="mean", inputs=("last",), shape=(4,))
    nodes = graph.Graph((image, first, second, other, total, both, last, mean))
    found = MemoryPlan(nodes, {node.name: 1 for node in nodes.weighted})
    for ends, same in (((0, 1, 2, 3, 4, 5), True), ((0, 1, 3, 4, 5), False)):
        items, _ = found._items(ends, range(6))
        assert (items["first"] is items["sum"]) == same


def plan(name, size):
    config = micro.published(name, size, 10)
    nodes = integer.without_pads(graph.of(config))
    return MemoryPlan(nodes, {node.name: 64 for node in nodes.weighted})


def test_the_plan_keeps_the_promised_memory():
    assert plan("squeezenet_v1_1", 128).arena <= 80 << 10
    assert plan("squeezenet_v1_1", 96).arena <= 53 << 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_that_is_needed_at_once_overlaps(name):
    found = plan(name, 64)
    items, _ = found._items(found.ends, range(len(found.stages)))
    unique = list({id(x): (key, x) for key, x in items.items()}.values())
    for number, (key, one) in enumerate(unique):
        one_place = found.places[key]
        assert one_place % 8 == 0 and one_place + one.size <= found.arena
        for other_key, other in unique[:number]:
            if one.first <= other.last and other.first <= one.last:
                place = found.places[other_key]
                assert one_place + one.size <= place or place + other.size <= one_place


def test_damaged_files_end_in_an_error_code(tmp_path):
    """`scripts/faults/fuzz_micro.py` does the same with 100,000."""
    counted = fuzz_micro.fuzz(700, 7, tmp_path)
    assert counted.count("cases") == len(micro.CONFIGS)


@pytest.fixture
def exported(tmp_path):
    model, network, _ = micro.network("fires")
    labels = [Label("n1", 'a "cat"\\'), Label("n2", "\u00e9t\u00e9 3"), Label("n3", "??/ dog")]
    model = dataclasses.replace(model, labels=tuple(labels))
    (tmp_path / "whole.sqz").write_bytes(sqz.encode_whole(model, network).data)
    export_command.export(tmp_path / "whole.sqz", "micro", tmp_path / "micro")
    return tmp_path / "micro"


def test_the_exported_folder_builds_and_gives_the_logits_of_predict(exported):
    made = ["make", "-C", str(exported), f"CFLAGS={' '.join(micro.STRICT[1:])}", "check"]
    done = subprocess.run(made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 of 2 images differ" in done.stdout
    assert all(word not in done.stdout for word in ("failed", "cannot"))


def test_the_folder_says_what_it_needs(exported):
    readme = (exported / "README.md").read_text()
    content = (exported.parent / "whole.sqz").read_bytes()
    assert "@" not in readme
    assert f"{len(content):,}" in readme and f"{sqz.arena(content):,}" in readme
    header = (exported / "src" / "model.h").read_text()
    assert f"#define MODEL_ARENA {sqz.arena(content)}\n" in header
    program = '#include "model.h"\nfloat temperature = MODEL_TEMPERATURE;\n'
    call = ["gcc", "-std=c99", "-fsyntax-only", f"-I{exported / 'src'}", "-xc", "-"]
    subprocess.run(call, input=program, text=True, check=True)
    labels = (exported / "src" / "model.c").read_text().rpartition("model_labels")[2]
    assert r'"a \042cat\042\134"' in labels and r'"\303\251t\303\251 3"' in labels


def test_a_newer_folder_replaces_an_older_one_alone(exported):
    source = exported.parent / "whole.sqz"
    export_command.export(source, "micro", exported)
    (exported / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="mine.txt"):
        export_command.export(source, "micro", exported)


def test_the_c_of_a_folder_is_run_before_it_is_kept(exported, monkeypatch, capfd):
    source, before = exported.parent / "whole.sqz", (exported / "README.md").stat().st_mtime_ns
    run = integer.IntegerNetwork.run
    monkeypatch.setattr(integer.IntegerNetwork, "run", lambda self, image: run(self, image) + 1)
    with pytest.raises(NotKept, match="2 of 2 images differ"):
        export_command.export(source, "micro", exported)
    assert (exported / "README.md").stat().st_mtime_ns == before
    monkeypatch.undo()
    monkeypatch.setenv("CC", "no-such-compiler")
    export_command.export(source, "micro", exported)
    assert "no C compiler" in capfd.readouterr().out


@pytest.mark.parametrize("kind", ["micro", "litert"])
def test_a_name_that_is_not_utf8_can_be_exported(tmp_path, kind):
    model, network, _ = micro.network("fires")
    source = tmp_path / "caf\udce9.sqz"
    source.write_bytes(sqz.encode_whole(model, network).data)
    export_command.export(source, kind, tmp_path / "made")
    text = (tmp_path / "made" / "README.md" if kind == "micro" else tmp_path / "made").read_bytes()
    assert b"caf?" in text


def test_a_float_file_is_refused(tmp_path):
    model, _, _ = micro.network("fires")
    kernels = {n.name: model.weights[f"{n.name}/kernel"] for n in model.graph.weighted}
    biases = {n.name: model.weights[f"{n.name}/bias"] for n in model.graph.weighted}
    (tmp_path / "float.sqz").write_bytes(sqz.encode(model, kernels, biases).data)
    with pytest.raises(InputError, match="--integer"):
        export_command.export(tmp_path / "float.sqz", "micro", tmp_path / "micro")
    assert not (tmp_path / "micro").exists()


@pytest.mark.parametrize("camera", [0, 1, 2])
@pytest.mark.parametrize("height, width, size", [(48, 64, 8), (64, 48, 8), (20, 20, 8), (7, 5, 16)])
def test_a_frame_becomes_the_mean_of_its_centre(tmp_path, camera, height, width, size):
    program = micro.build(tmp_path, REPOSITORY / "tests" / "c" / "pixels.c")
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (height, width, 3 - camera), np.uint8)
    rgb = frame.repeat(3, -1) if camera == 2 else frame
    if camera == 1:
        value = frame[..., 0].astype(int) << 8 | frame[..., 1]
        red, green, blue = value >> 11, value >> 5 & 63, value & 31
        rgb = np.stack([red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2], -1)
    resize = size * 5 // 4
    call = [str(program), *map(str, (camera, width, height, size, resize))]
    done = subprocess.run(call, input=frame.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = np.frombuffer(done.stdout, np.uint8).reshape(size, size, 3)
    side = min(height, width) * size // resize
    top, left = (height - side) // 2, (width - side) // 2
    starts = np.arange(size) * side // size
    ends = np.maximum(np.arange(1, size + 1) * side // size, starts + 1)  # enlarged: one pixel
    for y in range(size):
        for x in range(size):
            part = rgb[top + starts[y] : top + ends[y], left + starts[x] : left + ends[x]]
            assert (found[y, x] == np.floor(part.mean((0, 1)) + 0.5)).all()
