"""Tests for `../scripts/faults/train.py` and `soak_train.py`: they can say what failed."""

import json
import random

import pytest

from scripts.faults import soak_train
from scripts.faults import train as fault_train
from scripts.faults import train_disk as fault_train_disk
from scripts.faults.train_bench import Different
from squeezenext.errors import SomeInputsFailed


def test_the_table_tells_what_failed_and_goes_on(capsys):
    table = fault_train.Table()

    def wrong():
        raise Different("weights 1, not 2")

    table.add("first", lambda: 3)
    table.add("second", wrong)
    table.add("third", lambda: (1, "in time"))
    assert table.failed == 1
    lines = str(table).splitlines()
    assert lines[2].startswith("| first | 3 | as undisturbed |")
    assert lines[3].startswith("| second |  | FAILED |")
    assert lines[4].startswith("| third | 1 | as undisturbed, in time |")
    assert "second: Different: weights 1, not 2" in capsys.readouterr().err


def test_a_flip_changes_what_a_file_means(tmp_path):
    path = tmp_path / "META.json"
    document = {"loss": 0.30000000000000004, "step": 1234}
    for seed in range(50):
        path.write_text(json.dumps(document))
        place = fault_train_disk.flip(path, random.Random(seed))
        content = path.read_bytes()
        assert 0 <= place < len(content) and fault_train_disk._meaning(content) != document


@pytest.mark.parametrize(("slope", "traces"), [(0.02, 9), (0.0, 10)])
def test_the_soak_sees_a_leak_and_a_new_trace(slope, traces):
    rows = [(step, 500 + 0.001 * step, 9) for step in range(100, 2001, 100)]
    soak_train.judge(rows, 2000)
    rows = [(step, 500 + slope * step, traces if step > 1500 else 9) for step, _, _ in rows]
    with pytest.raises(SomeInputsFailed, match="Memory grows by"):
        soak_train.judge(rows, 2000)
