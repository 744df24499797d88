"""Tests for `sqz/memory.py`, and the table of it that `squeezenext.stats --micro` prints."""

import json

import pytest

from squeezenext import stats
from squeezenext.network import graph
from squeezenext.sqz import file as sqz
from squeezenext.sqz import memory
from tests import micro


@pytest.mark.parametrize("name", micro.CONFIGS)
def test_the_arena_has_room_for_the_file_s(name):
    model, network, _ = micro.network(name)
    plan = memory.largest_plan(model.graph)
    assert sqz.arena(sqz.encode_whole(model, network).data) <= plan.arena
    rows = memory.of_layers(plan)
    assert max(row.in_use for row in rows) <= plan.arena
    assert sum(row.macs for row in rows) == stats.totals(stats.layers(model.config))["macs"]
    assert rows[-1].output == (len(model.labels),) or rows[-1].output[-1] == len(model.labels)


def test_what_docs_say_of_squeezenet():
    """The stem's map is kept as three rows; a later layer holds its whole map and a block."""
    plan = memory.largest_plan(graph.of(micro.published("squeezenet_v1_1", 96, 10)))
    rows = {row.layer: row for row in memory.of_layers(plan)}
    stem, late = rows["conv1"], rows["fire9_expand1x1"]
    assert plan.arena == 53_600 and rows["images"].activations == 96 * 96 * 3
    assert (stem.rows, stem.activations, stem.group) == (3, 3 * 47 * 64, 1)
    assert (late.activations, late.weights, late.tables) == (5 * 5 * 256, 12 << 10, 2 * 255)
    assert rows["conv10"].activations == 0  # its sums are the caller's logits


def test_the_command_prints_it_of_a_network_and_of_a_file(tmp_path, capsys):
    model, network, _ = micro.network("fires")
    (tmp_path / "whole.sqz").write_bytes(sqz.encode_whole(model, network).data)
    of_file = ["--model_dir", str(tmp_path / "whole.sqz"), "--micro"]
    assert stats.main(["stats", *of_file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arena"] == memory.largest_plan(model.graph).arena and found["layers"][0]["rows"]
    assert stats.main(["stats", *of_file, "--size", "96"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[0] == "images" and "96x96x3" in table[1]
    assert int(table[-1].split()[1].replace(",", "")) > found["arena"]


def test_a_side_that_the_network_cannot_take_is_refused(capsys):
    for size in ("8", "100000"):
        assert stats.main(["stats", "--micro", "--size", size]) == 2
        assert f"--size {size}: this network cannot take" in capsys.readouterr().err
