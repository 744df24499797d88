"""An evaluation as a CSV table: a row an example."""

import csv
from collections.abc import Sequence
from pathlib import Path

from squeezenext.files import write_file
from squeezenext.labels import Label
from squeezenext.metrics import Evaluation


def write(path: Path, labels: Sequence[Label], result: Evaluation) -> None:
    """Writes a CSV row an example, in the order of the records."""

    def write(file: Path) -> None:
        with open(file, "w", newline="", encoding="utf-8") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["example", "label", "predicted", "probability", "top5", "loss"])
            columns = (
                result.labels,
                result.predicted,
                result.probability,
                result.top5,
                result.loss,
            )
            for number, row in enumerate(zip(*columns, strict=True)):
                label, predicted, probability, top5, loss = row
                names = [labels[int(i)].synset for i in (label, predicted)]
                writer.writerow([number, *names, f"{probability:.6f}", int(top5), f"{loss:.6f}"])

    write_file(path, write)
