"""What networks cost: parameters and multiply-adds, layer by layer or of all configurations.

    python -m squeezenext.stats --configuration NAME [--json] [--csv FILE]
    python -m squeezenext.stats --all

Parameters are those of convolutions, dense layers and batch norm's scales and offsets; moving
statistics are not counted. Multiply-adds are those of convolutions and dense layers at the
network's own input size. No TensorFlow here: the figures follow from the description of the
network. --all also prints the published models that other commands take by name: their accuracies,
and the sizes of their files in each format.
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

from squeezenext import files
from squeezenext.cli import check_file, run, say
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.config.reported import MEASURED, REPORTED, Reported
from squeezenext.config.zoo import PUBLISHED
from squeezenext.network import graph

_COLUMNS = ("layer", "kind", "output", "parameters", "macs")
_LEGEND = (
    "Top-1 and top-5 are published figures, in percent; *(at least)*: the source promises no less.",
    "*Of 100* is our measurement: 64, 83 means that of 100 ImageNet images the first answer is",
    "right for 64 (top-1), and one of the first five for 83 (top-5).",
)


@dataclasses.dataclass(frozen=True)
class LayerStats:
    """What one layer costs.

    Attributes:
      name: the layer's name.
      kind: the operation, see `graph.Node`.
      output: (height, width, channels), or (channels,).
      parameters: count; those of its batch norm included.
      macs: multiply-adds for one image.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


def layers(config: Config) -> list[LayerStats]:
    """Returns the statistics of every layer of a network, in the order of computation."""
    network = graph.of(config)
    return [_statistics(network, node) for node in network.nodes]


def _statistics(network: graph.Graph, node: graph.Node) -> LayerStats:
    parameters = macs = 0
    if node in network.weighted:
        weights, filters = math.prod(network.kernel_shape(node.name)), node.shape[-1]
        parameters = weights + filters * (node.bias + 2 * bool(node.norm))
        macs = weights * math.prod(node.shape[:-1])
    return LayerStats(node.name, node.op, node.shape, parameters, macs)


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
    writer.writerow(_COLUMNS)
    for row in rows:
        output = "x".join(map(str, row.output))
        writer.writerow([row.name, row.kind, output, row.parameters, row.macs])
    total = totals(rows)
    writer.writerow(["total", "", "", total["parameters"], total["macs"]])
    return text.getvalue()


def to_text(rows: Sequence[LayerStats]) -> str:
    """Returns the table aligned for a terminal, without the layers that have no parameters."""
    lines = [f"{'layer':32} {'kind':8} {'output':>14} {'parameters':>12} {'multiply-adds':>14}"]
    for row in rows:
        if row.parameters:
            output = "x".join(map(str, row.output))
            lines.append(
                f"{row.name:32} {row.kind:8} {output:>14} {row.parameters:>12,} {row.macs:>14,}"
            )
    total = totals(rows)
    lines.append(f"{'total':56} {total['parameters']:>12,} {total['macs']:>14,}")
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


def models() -> str:
    """Returns a table in Markdown of the published models that commands take by name."""
    formats = ("float32", "int8", ".sqz")
    heads = ["model", "configuration", "top-1", "top-5"]
    heads += [head for kind in formats for head in (f"{kind} bytes", "of 100")] + ["source"]
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 3)}---|"]
    for name, model in PUBLISHED.items():
        known = REPORTED[name]
        cells = [f"`{name}`", f"`{model.configuration}`"]
        cells += [f"{figure:.2f}" if figure else "" for figure in (known.top_1, known.top_5)]
        for kind in formats:
            found = MEASURED.get(name, {}).get(kind)
            cells += [f"{found.bytes:,}", f"{found.top_1}, {found.top_5}"] if found else ["", ""]
        lines.append(f"| {' | '.join([*cells, known.source])} |")
    return "\n".join(lines)


def stats(configuration: str, as_json: bool, csv_file: str | None) -> None:
    """Prints the table of a configuration, and writes it as CSV if `csv_file` is given."""
    rows = layers(config_io.load(configuration))
    if csv_file:
        check_file("csv", Path(csv_file))
        files.check_ours(Path(csv_file), ",".join(_COLUMNS))
        files.write_text(Path(csv_file), to_csv(rows))
    if as_json:
        document = totals(rows) | {"layers": [dataclasses.asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
    else:
        say(*to_text(rows).splitlines())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("configuration", "v_1_0_SqNxt_23", "Network to describe.", **at)
    every = "Print a line for each configuration and each published model, in Markdown."
    flags.DEFINE_bool("all", False, every, **at)
    flags.DEFINE_bool("json", False, "Print one JSON document.", **at)
    flags.DEFINE_string("csv", None, "File to which the table is also written.", **at)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        if values["all"].value:
            say(*summary().splitlines(), "", *models().splitlines(), "", *_LEGEND)
        else:
            stats(values["configuration"].value, values["json"].value, values["csv"].value)

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
