"""Small charts as plain numbers, which a report's template draws as SVG."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT = 320.0, 180.0  # of the drawing area, in SVG units


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve: its name and "x,y x,y ..." in SVG units."""

    name: str
    points: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over epochs.

    Attributes:
      ticks: (SVG height, text) of the vertical axis.
      end: the last epoch, as text.
      summary: the same for those who do not see it.
    """

    title: str
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    end: str
    summary: str


def training_charts(history: Path) -> list[Chart]:
    """Returns the curves of a run's history.csv, those it has points for."""
    if not history.is_file():
        return []
    with open(history, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {
        "Loss": {"training": "loss", "validation": "validation_loss"},
        "Top-1": {"training": "top1", "validation": "validation_top1"},
        "Learning rate": {"learning rate": "learning_rate"},
    }
    charts = [_chart(title, columns, rows) for title, columns in wanted.items()]
    return [chart for chart in charts if chart]


def _chart(title: str, columns: dict[str, str], rows: Sequence[dict]) -> Chart | None:
    series = {name: _points(rows, column) for name, column in columns.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    low, high = min(ys), max(ys)
    span = (high - low) or 1.0
    left, width = min(xs), (max(xs) - min(xs)) or 1.0
    lines = []
    for name, points in series.items():
        placed = ((WIDTH * (x - left) / width, HEIGHT * (high - y) / span) for x, y in points)
        lines.append(Line(name, " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)))
    ticks = tuple((HEIGHT * i / 2, f"{high - span * i / 2:.3g}") for i in range(3))
    told = (f"{name} ends at {points[-1][1]:.4g}" for name, points in series.items())
    return Chart(title, tuple(lines), ticks, f"{max(xs):.4g}", f"{title}: {', '.join(told)}.")


def _points(rows: Sequence[dict], column: str) -> list[tuple[float, float]]:
    found = []
    for row in rows:
        try:
            x, y = float(row["epoch"]), float(row[column])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(x) and math.isfinite(y):
            found.append((x, y))
    return found
