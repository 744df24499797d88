"""Writes a self-contained page about an evaluation: figures, curves, classes, worst mistakes."""

import base64
import dataclasses
import datetime
import io
import math
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from squeezenext import metrics
from squeezenext.cli import plural
from squeezenext.errors import InputError
from squeezenext.files import check_ours, read_rows, write_text
from squeezenext.labels import Label, class_names
from squeezenext.metrics import Evaluation
from squeezenext.model import directory as model_directory
from squeezenext.model import published
from squeezenext.predict import heatmap
from squeezenext.predict.predictor import Predictor
from squeezenext.records import example, samples
from squeezenext.records.dataset import Split
from squeezenext.records.reader import Reader

WORST = 24  # number of mistakes on the page
PAGE = "index.html"
MATRIX = 25  # greatest number of classes for which the page has the whole confusion matrix
_THUMBNAIL = (192, 192)
WIDTH, HEIGHT = 320.0, 180.0  # sides of a chart, in SVG units


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """The model and the split that a report is about."""

    model: str | Path  # as the user named it
    labels: tuple[Label, ...]
    split: Split
    source: str  # name of the records, for the heading
    # The temperature was fitted to this split: the calibration error holds for no other images.
    fitted_here: bool = False
    photographs: Path | None = None  # the folder in which the names of the records are files


def _charts(model: str | Path) -> list[dict]:
    """Returns charts of the run whose model is evaluated, for the template to draw.

    Returns:
      Of each: "title"; "lines", each with its "name" and its "points" as "x,y x,y ..." in SVG
      units; "ticks" of the vertical axis, (SVG height, text) each; "end", the last epoch;
      "summary", for screen readers.
    """
    if Path(model).is_file():
        return []
    history = published.resolve(model) / model_directory.HISTORY
    if not history.is_file():
        return []
    rows = read_rows(history)
    wanted = {
        "Loss": {"training": "loss", "validation": "validation_loss"},
        "Top-1": {"training": "top1", "validation": "validation_top1"},
        "Learning rate": {"learning rate": "learning_rate"},
    }
    charts = [_chart(title, columns, rows) for title, columns in wanted.items()]
    return [chart for chart in charts if chart]


def _chart(title: str, columns: dict[str, str], rows: Sequence[dict]) -> dict | None:
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
        scaled = ((WIDTH * (x - left) / width, HEIGHT * (high - y) / span) for x, y in points)
        lines.append({"name": name, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in scaled)})
    ends = (f"{name} ends at {points[-1][1]:.4g}" for name, points in series.items())
    return {
        "title": title,
        "lines": lines,
        "ticks": [(HEIGHT * i / 2, f"{high - span * i / 2:.3g}") for i in range(3)],
        "end": f"{max(xs):.4g}",
        "summary": f"{title}: {', '.join(ends)}.",
    }


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


def check_place(folder: Path) -> None:
    """Raises InputError if another program's page is where the report would be."""
    check_ours(folder / PAGE, "<title>Evaluation of ")


def write(folder: Path, subject: Subject, result: Evaluation, remarks: Sequence[str] = ()) -> Path:
    """Writes `folder`/index.html and returns its path; the folder is made if absent.

    `remarks` are sentences beside those of `metrics.remarks`.
    """
    labels = subject.labels
    page = template(Path(__file__).parent, "report.html.j2").render(
        model=str(subject.model),
        source=subject.source,
        fitted=subject.fitted_here,
        date=datetime.date.today().isoformat(),
        figures=metrics.document(result, len(labels)),
        labels=labels,
        plural=plural,
        names=class_names(labels),
        remarks=[*metrics.remarks(result, class_names(labels)), *remarks],
        bins=metrics.reliability(result),
        charts=_charts(subject.model),
        matrix=_matrix(result, len(labels)) if len(labels) <= MATRIX else None,
        mistakes=_mistakes(subject, result),
        width=WIDTH,
        height=HEIGHT,
    )
    check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    write_text(path, page)
    return path


def template(folder: Path, name: str) -> jinja2.Template:
    """Returns a page's template, which can include the files of this room, such as style.css.j2."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,  # class names and paths are not trusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _matrix(result: Evaluation, classes: int) -> list[list[tuple[int, float]]]:
    """Returns a row per true class of (count, share of the class)."""
    counts = metrics.confusion_matrix(result, classes)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    rows = zip(counts.tolist(), shares.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]


def _mistakes(subject: Subject, result: Evaluation) -> list[dict]:
    """Returns the mistakes of the greatest loss, with images as data URLs."""
    labels, reader = subject.labels, Reader(subject.split)
    wrong = np.flatnonzero(result.top1 == 0)
    worst = wrong[np.argsort(-result.loss[wrong], kind="stable")][:WORST]
    try:
        predictor = Predictor(subject.model, inside=True) if len(worst) else None
    except InputError:  # a file of an unusual end has no maps
        predictor = None
    rows, names = [], class_names(labels)
    for number in worst.tolist():
        image, _ = samples.read_examples(reader, number, len(labels))
        predicted, heat = int(result.predicted[number]), None
        name = example.file_name(reader.read_one(number))
        if predictor:
            class_map = predictor.view(image).class_map(predicted)
            heat = data_url(heatmap.overlay(image, class_map, predictor.config))
        rows.append(
            {
                "file": name or f"record {number}",
                "link": _link(subject.photographs, name),
                "image": data_url(image),
                "heat": heat,
                "label": names[int(result.labels[number])],
                "predicted": names[predicted],
                "probability": float(result.probability[number]),
            }
        )
    return rows


def _link(folder: Path | None, name: str) -> str | None:
    """Returns the address of a photograph on this machine, None unless its file is there."""
    path = folder / name if folder and name else None
    return path.resolve().as_uri() if path and path.is_file() else None


def data_url(image: Image.Image) -> str:
    """Returns a thumbnail of an RGB image, as a URL that holds it."""
    small = image.copy()
    small.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
