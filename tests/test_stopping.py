"""Tests for `train/stopping.py`, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

from tests import tiny

# Hashing lets other threads run and goes on through any signal, as a long step of TensorFlow does.
PROGRAM = """
import hashlib, sys, time
from squeezenext.train import stopping
stopping.UNWIND_SECONDS = 0.5
saves, rounds = bool(int(sys.argv[1])), int(sys.argv[2])
with stopping.StopSignals() as stop:
    if saves:
        stop.defer()
    stop.on_leaving(lambda: print("leaving", flush=True) or time.sleep(float(sys.argv[4])))
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
    time.sleep(float(sys.argv[3]))
    print("came" if stop.came else "nothing came", flush=True)
"""
SHORT, ENDLESS = 2_000_000, 2_000_000_000


def run(saves, rounds, kinds, rest=0.1, hangs=0.0, reader=True):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, (int(saves), rounds, rest, hangs))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=tiny.environment(),
    )
    assert process.stdout.readline() == "ready\n"
    if not reader:
        process.stderr.close()
    for kind in kinds:
        time.sleep(0.1)
        process.send_signal(kind)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_the_first_is_heeded_after_the_present_call():
    assert run(True, SHORT, [signal.SIGTERM])[:2] == (0, "came\n")
    assert run(True, SHORT, []) == (0, "nothing came\n", "")


@pytest.mark.parametrize("kinds", [[signal.SIGINT] * 2, [signal.SIGTERM, signal.SIGINT]])
def test_the_second_ends_the_process_inside_a_call_that_never_ends(kinds):
    code, output, errors = run(True, ENDLESS, kinds)
    assert (code, output) == (75, "leaving\n")
    assert errors == "error: Interrupted; run the same command again to go on.\n"


def test_before_there_is_anything_to_save_the_first_does():
    assert run(False, ENDLESS, [signal.SIGTERM])[:2] == (75, "leaving\n")


@pytest.mark.parametrize("fault", [{"hangs": 1000.0}, {"reader": False}])
def test_neither_a_file_server_nor_a_terminal_that_is_gone_keeps_it(fault):
    started = time.monotonic()
    assert run(True, ENDLESS, [signal.SIGINT] * 2, **fault)[:2] == (75, "leaving\n")
    assert time.monotonic() - started < 30


def test_where_python_gets_its_turn_all_is_unwound():
    code, output, errors = run(False, 1, [signal.SIGINT], rest=30)
    assert code != 0 and "KeyboardInterrupt" in errors and output == ""
