"""One self-contained page about an evaluation: figures, curves, classes, and the worst mistakes."""

import base64
import datetime
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from squeezenext import metrics
from squeezenext.errors import InputError
from squeezenext.files import write_file
from squeezenext.labels import Label
from squeezenext.labels import names as class_names
from squeezenext.metrics import Evaluation
from squeezenext.model import published
from squeezenext.predict import heatmap
from squeezenext.predict.predictor import Predictor
from squeezenext.records import samples
from squeezenext.reporting import charts

WORST = 24  # mistakes shown
MATRIX = 25  # classes up to which the whole confusion matrix is shown
_THUMBNAIL = (192, 192)


def write(
    folder: Path,
    model: str | Path,
    labels: tuple[Label, ...],
    result: Evaluation,
    reader,
    source: str,
    fitted: bool = False,
) -> Path:
    """Writes `folder`/index.html and returns its path.

    Args:
      folder: made if absent.
      model: as the user named it.
      labels: the classes.
      result: the scores of every example of `reader`.
      reader: a `reader.Reader`, for the mistakes' images.
      source: what was evaluated, for the heading.
      fitted: the model's temperature was fitted to these very images.
    """
    page = _template().render(
        model=str(model),
        source=source,
        fitted=fitted,
        date=datetime.date.today().isoformat(),
        figures=metrics.document(result, len(labels)),
        labels=labels,
        names=class_names(labels),
        bins=metrics.reliability(result),
        charts=_charts(model),
        matrix=_matrix(result, len(labels)) if len(labels) <= MATRIX else None,
        mistakes=_mistakes(model, labels, result, reader),
        width=charts.WIDTH,
        height=charts.HEIGHT,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_file(path, lambda file: file.write_text(page, "utf-8"))
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,  # class names and paths are a stranger's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _charts(model: str | Path) -> list[charts.Chart]:
    if Path(model).is_file():
        return []
    return charts.training_charts(published.resolve(model) / "history.csv")


def _matrix(result: Evaluation, classes: int) -> list[list[tuple[int, float]]]:
    """Returns a row a class of (count, share of the class)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (result.labels, result.predicted), 1)
    totals = counts.sum(1, keepdims=True).clip(1)
    return [
        [(int(count), float(share)) for count, share in zip(row, shares, strict=True)]
        for row, shares in zip(counts, counts / totals, strict=True)
    ]


def _mistakes(model, labels, result: Evaluation, reader) -> list[dict]:
    """Returns the mistakes of the greatest loss, with images as data URLs."""
    wrong = np.flatnonzero(result.top1 == 0)
    worst = wrong[np.argsort(-result.loss[wrong], kind="stable")][:WORST]
    try:
        predictor = Predictor(model, inside=True) if len(worst) else None
    except InputError:  # a file whose end is not the usual one: shown without maps
        predictor = None
    shown, names = [], class_names(labels)
    for number in worst:
        image, _ = samples.read_examples(reader, int(number), len(labels))
        predicted = int(result.predicted[number])
        heat = None
        if predictor:
            class_map = predictor.view(image).class_map(predicted)
            heat = _data_url(heatmap.overlay(image, class_map, predictor.config))
        shown.append(
            {
                "number": int(number),
                "image": _data_url(image),
                "heat": heat,
                "label": names[int(result.labels[number])],
                "predicted": names[predicted],
                "probability": float(result.probability[number]),
            }
        )
    return shown


def _data_url(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
