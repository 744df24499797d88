"""What networks cost: parameters and multiply-adds, layer by layer or of all configurations.

    python -m squeezenext.stats --configuration NAME [--size 227] [--json] [--csv FILE]
    python -m squeezenext.stats --model_dir DIR --micro [--size 96]
    python -m squeezenext.stats --all

Parameters are those of convolutions, dense layers and batch norm's scales and offsets; moving
statistics are not counted. Multiply-adds are those of convolutions and dense layers, for images of
--size, else of the network's own. --micro prints the memory of each layer in the C runtime of
export --format micro. No TensorFlow here: the figures follow from the network's description. --all
also prints the published models that other commands take by name: their accuracies, and the sizes
of their files in each format.
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
from squeezenext.errors import InputError
from squeezenext.network import graph
from squeezenext.network.bounds import check_bounds
from squeezenext.sqz import file as sqz
from squeezenext.sqz import memory

_COLUMNS = ("layer", "kind", "output", "parameters", "macs")
_PARTS = "activations", "weights", "tables", "patch"
_MICRO = "{:32} {:>5} {:>12} {:>4} {:>11} {:>7} {:>6} {:>6} {:>8} {:>13}"
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


def micro(config: Config, as_json: bool) -> None:
    """Prints the memory of each layer in the C runtime, and the arena that holds all."""
    plan = memory.largest_plan(graph.of(config))
    rows = memory.of_layers(plan)
    macs = sum(row.macs for row in rows)
    if as_json:
        layers = [dataclasses.asdict(row) for row in rows]
        print(json.dumps({"arena": plan.arena, "macs": macs, "layers": layers}, indent=1))
        return
    say(_MICRO.format("layer", "group", "output", "rows", *_PARTS, "in use", "multiply-adds"))
    for row in rows:
        output = "x".join(map(str, row.output))
        parts = (f"{getattr(row, part):,}" for part in (*_PARTS, "in_use", "macs"))
        say(_MICRO.format(row.layer, row.group, output, row.rows, *parts))
    say(f"arena: {plan.arena:,} bytes; multiply-adds: {macs:,}")


def _read(path: Path) -> Config:
    """Returns the network of a model directory or a `.sqz` file."""
    if path.suffix == sqz.SUFFIX:
        return sqz.read(path).config
    config = config_io.read(path / "config.json")
    check_bounds(config, str(path))
    return config


def _config(configuration: str, model_dir: str | None, size: int | None) -> Config:
    """Returns the network that was named, for images of side `size`.

    Raises:
      InputError: there is none, or it cannot take such images.
    """
    config = _read(files.expanded(model_dir)) if model_dir else config_io.load(configuration)
    if size:
        config = config_io.override(config, f"images.size={size}")
        try:
            check_bounds(config, "--size")
        except InputError as error:
            raise InputError(
                f"--size {size}: this network cannot take images of that side; give another, such "
                "as 96."
            ) from error
    return config


def stats(config: Config, as_json: bool, csv_file: str | None) -> None:
    """Prints the table of a network, and writes it as CSV if `csv_file` is given."""
    rows = layers(config)
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
    own = "Model directory or .sqz file to describe."
    flags.DEFINE_string("model_dir", None, own, **at)
    flags.DEFINE_integer("size", None, "Side of the images, in pixels.", 8, **at)
    flags.DEFINE_bool("micro", False, "Print the memory of each layer in the C runtime.", **at)
    every = "Print a line for each configuration and each published model, in Markdown."
    flags.DEFINE_bool("all", False, every, **at)
    flags.DEFINE_bool("json", False, "Print one JSON document.", **at)
    flags.DEFINE_string("csv", None, "File to which the table is also written.", **at)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        if values["all"].value:
            say(*summary().splitlines(), "", *models().splitlines(), "", *_LEGEND)
            return
        names = ("configuration", "model_dir", "size")
        config = _config(*(values[name].value for name in names))
        if values["micro"].value:
            micro(config, values["json"].value)
        else:
            stats(config, values["json"].value, values["csv"].value)

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
