"""Tests for `../scripts/benchmarks/train.py`: the same network as a peer, and honest ratios."""

import ast
import re
import sys

import keras
import pytest

from scripts.benchmarks import input as benchmark_input
from scripts.benchmarks import train as benchmark_train
from scripts.benchmarks.peers import stock_keras
from squeezenext.config import io as config_io
from squeezenext.network import architecture, keras_model
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", ["v_1_0_G_SqNxt_23", "squeezenet_v1_1"])
def test_the_stock_network_is_the_same_network(name):
    config = config_io.load(name)
    stock = keras.Model(*architecture.build_network(stock_keras.StockOps(config.training), config))
    own = keras_model.build_model(config)
    shapes = {layer.name: layer.kernel.shape for layer in own.layers if hasattr(layer, "kernel")}
    for layer in stock.layers:
        if hasattr(layer, "kernel"):
            assert tuple(layer.kernel.shape) == tuple(shapes.pop(layer.name))
        assert not type(layer).__module__.startswith("squeezenext"), layer.name
    assert not shapes


def methods(file, name):
    """A class's methods: names of positional and keyword arguments, and the defaults, as source.

    From the source, since PyTorch need not be here.
    """
    tree = ast.parse((REPOSITORY / file).read_text())
    (found,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    kinds = {}
    for function in found.body:
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
            given = function.args
            parts = given.posonlyargs, given.args, given.kwonlyargs
            names = tuple(tuple(a.arg for a in part) for part in parts)
            defaults = (*given.defaults, *given.kw_defaults)
            kinds[function.name] = names, [d and ast.unparse(d) for d in defaults]
    return kinds


@pytest.mark.parametrize(
    ("file", "name", "inherits"),
    [
        ("squeezenext/network/keras_model.py", "KerasOps", False),
        ("squeezenext/network/graph.py", "Recorder", False),
        ("scripts/benchmarks/peers/stock_keras.py", "StockOps", True),
        ("scripts/benchmarks/peers/torch_train.py", "TorchOps", False),
    ],
)
def test_whatever_builds_networks_is_called_alike(file, name, inherits):
    protocol, own = methods("squeezenext/network/architecture.py", "Ops"), methods(file, name)
    assert "conv" in protocol and own and (inherits or own.keys() == protocol.keys())
    for method in own:
        assert own[method] == protocol[method], method


@pytest.mark.parametrize(
    ("benchmark", "more"), [(benchmark_train, []), (benchmark_input, ["--data_dir=x"])]
)
def test_what_an_interpreter_lacks_is_said_at_once(tmp_path, capsys, monkeypatch, benchmark, more):
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("It measures."))
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys._base_executable} -S "$@"\n')  # no packages
    bare.chmod(0o755)
    assert benchmark.main(["x", f"--torch_python={bare}", *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --torch_python {bare} cannot run") and "No module named" in said
    assert said.count("\n") == 1
    assert benchmark.main(["x", f"--torch_python={tmp_path}/none", *more]) == 2
    assert "does not run (No such file or directory)" in capsys.readouterr().err


def test_ratios_are_of_the_same_round():
    rows = {
        "ours float32": [60.0, 30.0, 60.0],
        "Keras float32": [30.0, 10.0, 30.0],
        "ours bfloat16": [60.0, 60.0, 60.0],
        "matmul float32": [100.0, 100.0, 100.0],
        "matmul bfloat16": [1000.0, 1000.0, 1000.0],
    }
    table = benchmark_train.table("squeezenet_v1_1", rows)
    assert "| Keras float32, images/s | 30.0 |" in table
    assert "| ours float32 / Keras float32 | 2.00 |" in table
    assert "| ours bfloat16 / ours float32 | 1.00 |" in table
    assert "ours float32 / ours bfloat16" not in table
    # 227 px: 388 MMAC x 6, less the stem's 22 x 2 for its inputs' gradient, x 60 a second
    floats, halves = (
        re.search(rf"ours {kind}, of peak \| (\d+)%", table)[1] for kind in ("float32", "bfloat16")
    )
    assert (floats, halves) == ("137", "14")
