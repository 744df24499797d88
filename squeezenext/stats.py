"""What a network costs, layer by layer: parameters and multiply-adds.

    python -m squeezenext.stats --configuration NAME [--json] [--csv FILE]

Parameters are those of convolutions and dense layers and batch norm's scales and offsets; moving
statistics are not counted. Multiply-adds are those of convolutions and dense layers at the
network's own input size.
"""

import csv
import dataclasses
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from squeezenext import tf_import
from squeezenext.cli import run
from squeezenext.config import io as config_io

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class LayerStats:
    """One layer. `output`: height x width x channels, or channels; `macs`: for one image."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


def layers(model: "keras.Model") -> list[LayerStats]:
    """Returns the statistics of every layer with parameters or that changes the shape."""
    rows = []
    for layer in model.layers:
        output = tuple(layer.output.shape[1:])
        parameters = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        rows.append(
            LayerStats(layer.name, type(layer).__name__, output, parameters, _macs(layer, output))
        )
    return rows


def _macs(layer: "keras.Layer", output: tuple[int, ...]) -> int:
    """Multiply-adds: each output position applies the whole kernel once."""
    kernel = getattr(layer, "kernel", None)
    return math.prod(kernel.shape) * math.prod(output[:-1]) if kernel is not None else 0


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
    """Returns the table aligned for a terminal; layers without parameters are left out."""
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


def stats(configuration: str, as_json: bool, csv_file: str | None) -> None:
    """Prints the table of a configuration and writes the CSV where asked."""
    config = config_io.load(configuration)
    tf_import.import_tensorflow()
    from squeezenext.network import keras_model  # only now: no error above waits for TensorFlow

    rows = layers(keras_model.build(config))
    if csv_file:
        Path(csv_file).write_text(to_csv(rows), "utf-8")
    if as_json:
        document = totals(rows) | {"layers": [dataclasses.asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
    else:
        print(to_text(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("configuration", "v_1_0_SqNxt_23", "Which network.", flag_values=values)
    flags.DEFINE_bool("json", False, "One JSON document on standard output.", flag_values=values)
    flags.DEFINE_string("csv", None, "Also write the table to this file.", flag_values=values)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        stats(values["configuration"].value, values["json"].value, values["csv"].value)

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
