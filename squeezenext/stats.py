"""What networks cost: parameters and multiply-adds, layer by layer or of all configurations.

    python -m squeezenext.stats --configuration NAME [--json] [--csv FILE]
    python -m squeezenext.stats --all

Parameters are those of convolutions, dense layers and batch norm's scales and offsets; moving
statistics are not counted. Multiply-adds are those of convolutions and dense layers at the
network's own input size. No TensorFlow here: the figures follow from the description of the
network.
"""

import csv
import dataclasses
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext.cli import run
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.config.network import Activation
from squeezenext.config.reported import REPORTED, Reported
from squeezenext.network import architecture, graph


@dataclasses.dataclass(frozen=True)
class LayerStats:
    """What one layer costs.

    Attributes:
      name: the layer's name.
      kind: the class of the layer in Keras.
      output: (height, width, channels), or (channels,).
      parameters: count.
      macs: multiply-adds for one image.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


def layers(config: Config) -> list[LayerStats]:
    """Returns the statistics of every layer of the trained network, in the order of Keras."""
    recorder = _Layers()
    _, logits = architecture.build_network(recorder, config)
    recorder.layer(logits, "logits", "Activation", [logits])
    return recorder.in_order("logits")


class _Layers(graph.Recorder):
    """Records each layer of the Keras model beside the nodes of the folded network."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, LayerStats] = {}
        self._inputs: dict[str, list[str]] = {}  # names of the layers that a layer reads
        self._latest: dict[str, str] = {}  # the last layer of a node

    def layer(
        self,
        node: str,
        name: str,
        kind: str,
        inputs: Sequence[str],
        parameters: int = 0,
        macs: int = 0,
    ) -> str:
        """Records a layer that computes `node` from the nodes `inputs`; returns `node`."""
        self._inputs[name] = [self._latest[x] for x in inputs]
        self._rows[name] = LayerStats(name, kind, self.nodes[node].shape, parameters, macs)
        self._latest[node] = name
        return node

    def in_order(self, last: str) -> list[LayerStats]:
        """Returns the rows as a Keras model orders its layers.

        By the longest way to the output, the longest first; of equal ones that first which a walk
        back from the output meets first.
        """
        depth = dict.fromkeys(self._rows, 0)
        for name in reversed(self._rows):
            for before in self._inputs[name]:
                depth[before] = max(depth[before], depth[name] + 1)
        met: dict[str, int] = {}
        waiting = [last]
        while waiting:
            name = waiting.pop()
            if name not in met:
                met[name] = len(met)
                waiting += reversed(self._inputs[name])
        return sorted(self._rows.values(), key=lambda row: (-depth[row.name], met[row.name]))

    def input(self, size: int) -> str:
        return self.layer(super().input(size), "images", "InputLayer", [])

    def conv(
        self,
        x: str,
        name: str,
        filters: int,
        kernel: architecture.Kernel,
        *,
        initializer: architecture.Start,
        strides: int = 1,
        groups: int = 1,
        same: bool = False,
        bias: bool = False,
    ) -> str:
        source = x
        if groups > 1 and strides > 1:  # Keras drops the pixels that are not read in a layer before
            source = self._record("max_pool", f"{name}_stride", [x], self._strided(x, strides))
            self.layer(source, source, "MaxPooling2D", [x])
            strides = 1
        node = super().conv(
            source,
            name,
            filters,
            kernel,
            initializer=initializer,
            strides=strides,
            groups=groups,
            same=same,
            bias=bias,
        )
        weights = math.prod(kernel) * self.channels(x) // groups * filters
        macs = weights * math.prod(self.nodes[node].shape[:2])
        kind = "GroupedConv2D" if groups > 1 else "Conv2D"
        return self.layer(node, name, kind, [source], weights + bias * filters, macs)

    def _strided(self, x: str, strides: int) -> tuple[int, ...]:
        height, width, channels = self.nodes[x].shape
        return (height - 1) // strides + 1, (width - 1) // strides + 1, channels

    def batch_norm(self, x: str, name: str) -> str:
        return self.layer(super().batch_norm(x, name), name, "BatchNorm", [x], 2 * self.channels(x))

    def activation(self, x: str, name: str, kind: Activation) -> str:
        layer = "ReLU" if kind == "relu" else "Activation"
        return self.layer(super().activation(x, name, kind), name, layer, [x])

    def max_pool(self, x: str, name: str) -> str:
        return self.layer(super().max_pool(x, name), name, "MaxPooling2D", [x])

    def pad(self, x: str, name: str, amount: int) -> str:
        return self.layer(super().pad(x, name, amount), name, "ZeroPadding2D", [x])

    def concat(self, tensors: Sequence[str], name: str) -> str:
        return self.layer(super().concat(tensors, name), name, "Concatenate", tensors)

    def add(self, tensors: Sequence[str], name: str) -> str:
        return self.layer(super().add(tensors, name), name, "Add", tensors)

    def dropout(self, x: str, name: str, rate: float) -> str:
        return self.layer(super().dropout(x, name, rate), name, "Dropout", [x])

    def global_pool(self, x: str, name: str) -> str:
        return self.layer(super().global_pool(x, name), name, "GlobalAveragePooling2D", [x])

    def dense(
        self, x: str, name: str, units: int, initializer: architecture.Start, bias: bool
    ) -> str:
        weights = self.channels(x) * units
        node = super().dense(x, name, units, initializer, bias)
        return self.layer(node, name, "Dense", [x], weights + bias * units, weights)


def totals(rows: Sequence[LayerStats]) -> dict[str, int]:
    """Returns {"parameters": ..., "macs": ...} of the whole network."""
    return {
        "parameters": sum(row.parameters for row in rows),
        "macs": sum(row.macs for row in rows),
    }


def to_csv(rows: Sequence[LayerStats]) -> str:
    """Returns the table as CSV with a header and a last line of totals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "kind", "output", "parameters", "macs"])
    for row in rows:
        output = "x".join(map(str, row.output))
        writer.writerow([row.name, row.kind, output, row.parameters, row.macs])
    total = totals(rows)
    writer.writerow(["total", "", "", total["parameters"], total["macs"]])
    return text.getvalue()


def to_text(rows: Sequence[LayerStats]) -> str:
    """Returns the table aligned for a terminal, without the layers that have no parameters."""
    lines = [f"{'layer':32} {'kind':16} {'output':>14} {'parameters':>12} {'multiply-adds':>14}"]
    for row in rows:
        if row.parameters:
            output = "x".join(map(str, row.output))
            lines.append(
                f"{row.name:32} {row.kind:16} {output:>14} {row.parameters:>12,} {row.macs:>14,}"
            )
    total = totals(rows)
    lines.append(f"{'total':64} {total['parameters']:>12,} {total['macs']:>14,}")
    return "\n".join(lines)


def summary() -> str:
    """Returns a table in Markdown of all configurations, beside what is published about them."""
    heads = "configuration", "parameters", "multiply-adds", "side", "published", "top-1", "top-5"
    lines = [f"| {' | '.join(heads)} | source |", f"|---|{'---:|' * 6}---|"]
    for name in config_io.configuration_names():
        config = config_io.load(name)
        total = totals(layers(config))
        known = REPORTED.get(name, Reported(None, None, ""))
        cells = [
            f"`{name}`",
            f"{total['parameters']:,}",
            f"{total['macs'] / 1e6:,.1f} M",
            f"{config.images.size}",
            f"{known.parameters} M" if known.parameters else "",
            f"{known.top_1:.2f}" if known.top_1 else "",
            f"{known.top_5:.2f}" if known.top_5 else "",
            known.source,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def stats(configuration: str, as_json: bool, csv_file: str | None) -> None:
    """Prints the table of a configuration, and writes it as CSV if `csv_file` is given."""
    rows = layers(config_io.load(configuration))
    if csv_file:
        Path(csv_file).write_text(to_csv(rows), "utf-8")
    if as_json:
        document = totals(rows) | {"layers": [dataclasses.asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
    else:
        print(to_text(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("configuration", "v_1_0_SqNxt_23", "Network to describe.", **at)
    flags.DEFINE_bool("all", False, "Print one line for each configuration, in Markdown.", **at)
    flags.DEFINE_bool("json", False, "Print one JSON document.", **at)
    flags.DEFINE_string("csv", None, "File to which the table is also written.", **at)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        if values["all"].value:
            print(summary())
        else:
            stats(values["configuration"].value, values["json"].value, values["csv"].value)

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
