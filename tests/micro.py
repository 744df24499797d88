"""Networks in whole numbers with random weights, and a program around the C runtime."""

import dataclasses
import functools
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np

from squeezenext.compress.integer import Calibration
from squeezenext.config import io as config_io
from squeezenext.config.network import Fire, Stage
from squeezenext.images import geometry
from squeezenext.labels import Label
from squeezenext.network import graph
from squeezenext.network.model import Model
from tests import tiny
from tests.conftest import REPOSITORY

RUNTIME = REPOSITORY / "squeezenext" / "export" / "c"
STRICT = ["gcc", "-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
STRICT += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def _fires(**changes):
    model = dataclasses.replace(tiny.SQUEEZENET.model, **changes)
    return dataclasses.replace(tiny.SQUEEZENET, model=model)


def _units(**changes):
    model = dataclasses.replace(tiny.SQUEEZENEXT.model, **changes)
    images = dataclasses.replace(tiny.IMAGES, mean=(120.3, 110.0, 99.0), std=(64.0, 50.0, 60.0))
    return dataclasses.replace(tiny.SQUEEZENEXT, model=model, images=images)


CONFIGS = {
    "fires": _fires(bypass="none"),
    "bypass": _fires(),
    "convolutions around": _fires(bypass="complex", fires=(Fire(4, 8, 8), Fire(4, 6, 12))),
    "head padding": _fires(bypass="none", head_padding=1),
    "units": tiny.SQUEEZENEXT,
    "linear": _units(relu_before_add=False, stem_padding=1, groups=1),
    "stages": _units(
        stages=(Stage(filters=8, units=2, stride=1), Stage(filters=16, units=2, stride=2)),
        bottleneck_input="shortcut",
    ),
}


def published(name, size, classes):
    """A published network's configuration for another size and number of classes."""
    config = config_io.load(name)
    model = dataclasses.replace(config.model, classes=classes)
    images = dataclasses.replace(config.images, size=size, resize=size)
    return dataclasses.replace(config, model=model, images=images)


def pictures(size, count=4):
    """Smooth pictures and noise, [size, size, 3] uint8."""
    rng = np.random.default_rng(1)
    coarse = (
        rng.integers(0, 256, (count, 4, 4, 3)).repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)
    )
    noise = rng.integers(-40, 41, (count, size, size, 3))
    return list((coarse[:, :size, :size] + noise).clip(0, 255).astype(np.uint8))


def make(config, temperature=1.0, images=None):
    """Returns a model with random weights, the same in whole numbers, and pictures.

    Its scales come from `images`, [size, size, 3] uint8, else from the pictures.
    """
    rng, nodes = np.random.default_rng(0), graph.of(config)
    weights = {}
    for node in nodes.weighted:
        shape = nodes.kernel_shape(node.name)
        kernel = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)
        kernel[rng.random(shape) < 0.3] = 0
        weights[f"{node.name}/kernel"] = (kernel * 40).round() / 40
        if node.op == "conv" or node.bias:
            weights[f"{node.name}/bias"] = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
    classes = tuple(Label(f"n{i + 1}", f"class {i}") for i in range(config.model.classes))
    model = Model("tiny", config, classes, weights, temperature)
    images = images or pictures(config.images.size)
    inputs = [geometry.normalize(x.astype(np.float32), config.images) for x in images]
    return model, Calibration(nodes, weights, config.images, inputs).network(weights), images


@functools.cache
def network(name, temperature=1.0):
    """Returns what `make` does for one of `CONFIGS`."""
    return make(CONFIGS[name], temperature)


def sealed(data):
    """Returns a file with the right checksum."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def build(folder: Path, source: Path, *flags: str) -> Path:
    """Compiles a program with the runtime, strictly, with the sanitizers."""
    program = folder / source.stem
    files = [str(source), str(RUNTIME / "squeezenext.c"), "-I", str(RUNTIME)]
    subprocess.run([*STRICT, *flags, *files, "-o", str(program)], check=True)
    return program
