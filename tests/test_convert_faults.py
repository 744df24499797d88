"""Whatever happens to a conversion, the next run ends with the undisturbed bytes.

The long form is scripts/faults/convert.py without flags: every call, 50 kills, 20 pairs.
"""

import hashlib
import shutil
import subprocess
import sys

import pytest

from scripts.faults import convert_bench
from scripts.faults import disk as fault_disk
from tests.test_convert import ROOT


def test_disturbed_conversions():
    """Every 17th file call in four ways, limits, a full disk, five kills, two pairs."""
    line = [sys.executable, "scripts/faults/convert.py", "--every=17", "--kills=5", "--pairs=2"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [row.split()[1:2] for row in done.stdout.splitlines()] == [
        ["faults"],
        ["faults"],
        ["limits"],
        ["full"],
        ["kills,"],
        ["pairs"],
    ]
    if done.stdout.splitlines()[3].startswith("0"):
        pytest.skip("all but the full disk: no file system may be mounted here")


def test_the_comparison_can_fail(tmp_path):
    """A partial shard, a missing one and a manifest that came too early are told apart."""
    whole = {"a": hashlib.sha256(b"whole").hexdigest(), "manifest.json": "x"}
    (tmp_path / "a").write_bytes(b"whole")
    convert_bench.check("so far", tmp_path, whole, finished=False)
    with pytest.raises(convert_bench.Different, match="lacks manifest.json"):
        convert_bench.check("at the end", tmp_path, whole, finished=True)
    (tmp_path / "a").write_bytes(b"who")
    with pytest.raises(convert_bench.Different, match="a is not the undisturbed one"):
        convert_bench.check("so far", tmp_path, whole, finished=False)
    whole = convert_bench.hashes(tmp_path)
    convert_bench.check("at the end", tmp_path, whole, finished=True)
    (tmp_path / ".convert").mkdir()
    with pytest.raises(convert_bench.Different, match="convert stays for ever"):
        convert_bench.check("at the end", tmp_path, whole, finished=True)


def test_a_fault_that_is_not_noticed_fails(tmp_path, monkeypatch):
    """A writer that swallowed errors would be caught."""
    source = convert_bench.photos(tmp_path / "photos", 6)
    whole = convert_bench.undisturbed(source, tmp_path / "whole")
    monkeypatch.setattr(fault_disk, "_with_fault", lambda *_: 0)
    monkeypatch.setattr(convert_bench, "forked", lambda work: work())
    monkeypatch.setattr(fault_disk, "_calls", lambda *_: ["fsync a folder"])
    with pytest.raises(convert_bench.Different, match="fsync a folder: the exit code is 0, not 75"):
        fault_disk.at_every_call(source, tmp_path / "out", whole, 1)


def test_the_calls_are_the_same_each_time(tmp_path):
    """Also that of a shard's flush behind the writer's back: each kind is there to fail."""
    source = convert_bench.photos(tmp_path / "photos", 24)
    calls = []
    for _ in range(3):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        calls.append(fault_disk._calls(source, tmp_path / "out", {}))
    assert calls[0] == calls[1] == calls[2]
    shard = "train-00000-of-00003"
    for kind in ("open", "writev", "fdatasync", "close", "fsync", "replace"):
        assert f"{kind} {shard}" in calls[0]
    assert "replace manifest.json" == calls[0][-2] and "fsync a folder" == calls[0][-1]
