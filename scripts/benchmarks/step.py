"""Counts the kernels of a training step, and times its graph and its bookkeeping on the CPU.

    python scripts/benchmarks/step.py [--configuration v_1_0_SqNxt_23] [--devices 1,2,4,8]

The images are small (64 pixels, two of them a device), so that what remains of a step is mostly
bookkeeping. Times are CPU seconds of the process, which other programs hardly change. Each number
of logical devices has a process of its own.
"""

import collections
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli, tf_import
from squeezenext.config import Config, recipes
from squeezenext.config import io as config_io
from squeezenext.errors import InputError

SIZE, IMAGES, STEPS = 64, 2, 10
# Operations that compute nothing: a device launches no kernel for them.
FREE = {
    *("Const", "Identity", "IdentityN", "NoOp", "Reshape", "ExpandDims", "Squeeze", "StopGradient"),
    *("ReadVariableOp", "IteratorGetNext", "Shape", "ShapeN", "Size", "Rank", "PreventGradient"),
    *("BroadcastGradientArgs", "ConcatOffset", "Assert", "EnsureShape"),
}
KNOWN = {"Const", "Shape", "ShapeN", "Size", "Rank"}  # known when the graph is built
CALLS = ("f", "then_branch", "body")  # attributes that name the function an operation calls


def kernels(graph_def) -> collections.Counter:
    """Returns how often a graph's one loop runs each operation in a turn.

    Operations on constants and those whose result nobody needs are not counted: TensorFlow removes
    them. An inner loop is counted as one turn.
    """
    library = {function.signature.name: function for function in graph_def.library.function}
    (loop,) = (node for node in graph_def.node if node.op.endswith("While"))
    body = library[loop.attr["body"].func.name]
    counts: collections.Counter = collections.Counter()
    _count(body, [False] * len(body.signature.input_arg), library, counts)
    return counts


def _count(function, known: Sequence[bool], library, counts: collections.Counter) -> None:
    """Adds a function's operations; `known` says which arguments are constants."""
    inputs = zip((argument.name for argument in function.signature.input_arg), known, strict=True)
    constant = dict(inputs)
    nodes = {node.name: node for node in function.node_def}
    for node in _needed(function, nodes):
        sources = [constant.get(name, False) for name in _sources(node)]
        called = [node.attr[name].func.name for name in CALLS if node.attr[name].func.name]
        for name in called:
            arguments = sources[1:] if node.op.endswith("If") else sources
            arguments = [False] * len(sources) if node.op.endswith("While") else arguments
            _count(library[name], arguments, library, counts)
        constant[node.name] = node.op in KNOWN or (bool(sources) and all(sources) and not called)
        if not called and not constant[node.name] and node.op not in FREE:
            counts[node.op] += 1


def _needed(function, nodes: dict) -> Iterable:
    """Yields the nodes that a result or a variable depends on, each after those it reads."""
    ends = [result.split(":")[0] for result in function.ret.values()]
    ends += function.control_ret.values()
    ends += [name for name, node in nodes.items() if node.op.startswith(("Assign", "Resource"))]
    done: set[str] = set()
    waiting = [(name, False) for name in ends]
    while waiting:
        name, read = waiting.pop()
        if read:
            yield nodes[name]
        elif name in nodes and name not in done:
            done.add(name)
            waiting.append((name, True))
            waiting += [(source.lstrip("^").split(":")[0], False) for source in nodes[name].input]


def _sources(node) -> list[str]:
    return [name.split(":")[0] for name in node.input if not name.startswith("^")]


def small(config: Config, replicas: int) -> Config:
    """Returns the configuration with small images and two of them for each replica."""
    training = dataclasses.replace(config.training, batch_size=IMAGES * replicas)
    images = dataclasses.replace(config.images, size=SIZE, resize=SIZE + 8, progressive=())
    return dataclasses.replace(config, training=training, images=images)


def measure(config: Config, replicas: int, precision: str) -> list[str]:
    """Returns a row of the table: devices, kernels, seconds to build, milliseconds a step."""
    tf_import.import_tensorflow()
    import tensorflow as tf

    from squeezenext.train import devices
    from squeezenext.train.loop import Loop
    from squeezenext.train.measure import random_batch

    strategy = devices.strategy(replicas if replicas > 1 else 0)
    config = small(config, replicas)
    how = {"precision": precision, "examples": 1000, "micro_batch": IMAGES, "seed": 0}
    loop = Loop(config, strategy=strategy, **how)
    data = tf.data.Dataset.from_tensors(random_batch(config, IMAGES)).repeat()
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: data))

    def seconds(steps: int) -> float:
        started = time.process_time()
        loop.train(iterator, steps)
        return time.process_time() - started

    built = seconds(1)
    seconds(2)
    once, many = seconds(1), seconds(1 + STEPS)
    count = kernels(loop.graph_def(iterator)).total()
    return [f"{replicas}", f"{count:,}", f"{built:.1f}", f"{1e3 * (many - once) / STEPS:.0f}"]


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text = {"flag_values": values}
    flags.DEFINE_string("configuration", "v_1_0_SqNxt_23", "Name of the network.", **text)
    flags.DEFINE_string("recipe", "modern", "Recipe of the training.", **text)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE, as of training.", **text)
    flags.DEFINE_string("precision", "float32", "Keras dtype policy.", **text)
    flags.DEFINE_list("devices", ["1", "2", "4"], "Numbers of logical CPU devices.", **text)
    return values


def _command(values: flags.FlagValues, positional: list[str]) -> None:
    del positional
    counts = values["devices"].value
    if not all(count.isdigit() and int(count) for count in counts):
        raise InputError(f"--devices {','.join(counts)}: give numbers such as 1,2,4.")
    config = config_io.load(values["configuration"].value)
    config = recipes.apply(values["recipe"].value, config, *values["set"].value)
    if len(counts) == 1:
        cli.say(" | ".join(measure(config, int(counts[0]), values["precision"].value)))
        return
    cli.say("devices | kernels a step | CPU seconds to build it | CPU milliseconds a step")
    own = [f"--{name}={values[name].value}" for name in ("configuration", "recipe", "precision")]
    own += [f"--set={change}" for change in values["set"].value]
    for count in counts:
        command = [sys.executable, __file__, *own, f"--devices={count}"]
        cli.say(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns its exit code."""
    return cli.run(_command, _flags(), __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
