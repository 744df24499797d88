"""Tests for `export/c`, the C runtime, and for `sqz/plan.py`, the plan that it follows."""

import subprocess

import numpy as np
import pytest

from scripts.faults import fuzz_micro
from squeezenext.network import graph, integer
from squeezenext.sqz import file as sqz
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
    np.stack(images).tofile(folder / "pixels")
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


def test_c_refuses_what_it_cannot_read(program, tmp_path):
    model, network, images = micro.network("fires")
    data = sqz.encode_whole(model, network).data
    kernels = {n.name: model.weights[f"{n.name}/kernel"] for n in model.graph.weighted}
    floats = sqz.encode(model, kernels, {}).data
    cases = {b"": 1, b"\x89SQZ" * 9: 1, floats: 2, data[:-1]: 3, data + b"\0": 3}
    cases[data[:300] + b"\xff" + data[301:]] = 4
    for content, wanted in cases.items():
        assert logits(program, tmp_path, content, images)[0] == wanted


def plan(name, size):
    config = micro.published(name, size, 10)
    nodes = integer.without_pads(graph.of(config))
    return MemoryPlan(nodes, 64, {node.name: 64 for node in nodes.weighted})


def test_the_plan_keeps_the_promised_memory():
    assert plan("squeezenet_v1_1", 128).arena <= 84 << 10
    assert plan("squeezenet_v1_1", 96).arena <= 64 << 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_that_is_needed_at_once_overlaps(name):
    found = plan(name, 64)
    items, _ = found._items(found.ends)
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
