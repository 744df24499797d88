"""Plots runs side by side: loss, top-1 and learning rate over the epochs.

    python -m scripts.plot_history RUN... --output FILE.png

RUN is a model directory, or its history.csv. FILE's ending is its format: png, svg or pdf.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from absl import flags

from squeezenext import files
from squeezenext.cli import run
from squeezenext.errors import InputError

matplotlib.use("Agg")
from matplotlib import pyplot

PANELS = (
    ("loss", (("loss", "training", ":"), ("validation_loss", "validation", "-"))),
    ("top-1", (("top1", "training", ":"), ("validation_top1", "validation", "-"))),
    ("learning rate", (("learning_rate", "", "-"),)),
)


def read(path: Path) -> dict[str, list[float | None]]:
    """Returns the columns of a run's history.csv; an empty cell is None.

    Raises:
      InputError: there is no such file, or it is none.
    """
    file = path / "history.csv" if path.is_dir() else path
    try:
        with open(file, newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        columns = rows[0].keys()
        return {name: [float(r[name]) if r[name] else None for r in rows] for name in columns}
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; give a run.") from error
    except (IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{file} is not a history.csv with an epoch: {error!r}.") from error


def draw(runs: dict[str, dict[str, list[float | None]]], output: Path) -> None:
    """Writes the figure of the runs' histories, by name."""
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(5 * len(PANELS), 4))
    for axis, (title, curves) in zip(axes, PANELS, strict=True):
        for number, (name, columns) in enumerate(runs.items()):
            for column, what, line in curves:
                points = zip(columns["epoch"], columns.get(column, ()), strict=False)
                points = [(x, y) for x, y in points if y is not None]
                if points:
                    label = f"{name} {what}".strip()
                    axis.plot(*zip(*points, strict=True), line, color=f"C{number}", label=label)
        axis.set(xlabel="epoch", title=title)
        axis.grid(alpha=0.3)
    axes[-1].set_yscale("log")
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    kind = output.suffix.removeprefix(".") or "png"
    try:
        files.write_file(output, lambda file: figure.savefig(file, dpi=120, format=kind))
    except ValueError as error:
        raise InputError(f"--output {output}: {error}") from error
    finally:
        pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "Image file to write.", flag_values=values)

    def command(values, positional):
        if not positional or not values["output"].value:
            raise InputError("Give one or more runs, and --output FILE.png.")
        paths = [Path(text) for text in positional]
        names = [path.parent.name if path.is_file() else path.name for path in paths]
        if len(set(names)) < len(names):
            names = positional
        draw(
            {name: read(path) for name, path in zip(names, paths, strict=True)},
            Path(values["output"].value),
        )

    return run(command, values, __doc__, argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
