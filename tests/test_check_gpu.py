"""Tests for `../scripts/check_gpu.sh` and its `benchmarks/gpu.py`, as far as a CPU can run them."""

import dataclasses
import gzip
import re
import subprocess

import numpy as np
import pytest

from scripts.benchmarks import gpu
from squeezenext.errors import SomeInputsFailed
from tests import tiny
from tests.conftest import REPOSITORY

CONFIG = gpu.sized(tiny.SQUEEZENET, 0, 4)


def test_a_gradient_is_the_same_at_each_call_and_a_wrong_one_is_named(capsys, monkeypatch):
    first, again = (gpu.gradient(CONFIG, "CPU:0", "float32", False) for _ in range(2))
    assert np.array_equal(first, again) and np.linalg.norm(first) > 0
    same = ("CPU:0", "float32", False)
    monkeypatch.setattr(gpu, "ON_CPU", (same, same))
    gpu.correct(CONFIG)
    assert "CPU:0 float32: 0.0e+00 from the CPU's gradient, right" in capsys.readouterr().out
    answers = iter((first, first + np.nan))
    monkeypatch.setattr(gpu, "gradient", lambda *_: next(answers))
    with pytest.raises(SomeInputsFailed, match="further from the CPU's"):
        gpu.correct(CONFIG)
    assert "WRONG" in capsys.readouterr().out


def test_a_speed_is_that_of_whole_steps():
    assert "images/s" in gpu.speed(CONFIG, "float32", xla=False, steps=1)
    resized = gpu.sized(dataclasses.replace(CONFIG), 64, 2)
    assert (resized.images.size, resized.images.resize, resized.training.batch_size) == (64, 72, 2)


def test_a_pass_is_written_for_a_machine_without_tensorflow(tmp_path):
    gpu.export(CONFIG, "mixed_float16", True, tmp_path / "passes" / "tiny")
    with gzip.open(tmp_path / "passes" / "tiny.mlir.gz", "rt") as file:
        text = file.read()
    assert "stablehlo.convolution" in text and "f16" in text
    with np.load(tmp_path / "passes" / "tiny.npz") as archive:
        arguments = [archive[f"arr_{number}"] for number in range(len(archive.files) - 4)]
        assert archive["expected"].shape == arguments[0].shape  # a gradient for each weight
        assert arguments[int(archive["images"])].tolist() == [4, *[CONFIG.images.size] * 2, 3]
    (main,) = re.findall(r"func\.func.* @main\((.*?)\) ->", text)
    assert main.count("%arg") == len(arguments)


def script(folder, *arguments, **more):
    """Runs the script with a Python that only says what it is asked for."""
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(
        '#!/bin/sh\necho "asked $*" >>"$ASKED"\ncase "$*" in *quickstart*) exit 3;; esac\n'
    )
    python.chmod(0o755)
    asked = folder / "asked"
    environment = tiny.environment(VIRTUAL_ENV=str(folder), ASKED=str(asked), **more)
    done = subprocess.run(
        ["bash", "scripts/check_gpu.sh", *arguments], env=environment, cwd=REPOSITORY,
        capture_output=True, text=True,
    )  # fmt: skip
    return done, asked.read_text() if asked.is_file() else ""


def test_the_script_goes_on_after_a_failure_and_names_it(tmp_path):
    done, asked = script(tmp_path, "--short")
    assert done.returncode == 1, done.stderr
    assert "learns: FAILED with exit code 3" in done.stdout and "evaluates: done" in done.stdout
    for part in ("--check correct", "--check speed", "squeezenext.evaluate"):
        assert part in asked


def test_what_does_not_fit_is_skipped_by_name(tmp_path):
    done, asked = script(tmp_path, "--short", SECONDS_LEFT="60")
    assert "correct: skipped, it may take 100 s" in done.stdout
    assert "--check" not in asked and "digits: done" in done.stdout


def test_passes_are_prepared_without_a_gpu(tmp_path):
    done, asked = script(tmp_path, "--prepare", str(tmp_path / "passes"))
    assert done.returncode == 0, done.stderr
    output = f"--output {tmp_path}/passes/squeezenet_v1_1-float32-32 --compare"
    assert output in asked and asked.count("--check export") == 6


@pytest.mark.parametrize("half", ["--prepare", "--without_tensorflow"])
def test_a_half_needs_its_folder(tmp_path, half):
    done, asked = script(tmp_path, half)
    assert done.returncode == 2 and f"e.g. {half} passes" in done.stderr and not asked


def test_other_words_are_refused(tmp_path):
    done, asked = script(tmp_path, "--long")
    assert done.returncode == 2 and "--long is no argument" in done.stderr and not asked
