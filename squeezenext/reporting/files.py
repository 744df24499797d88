"""Scores a file as it is shipped, without TensorFlow's kernels."""

from pathlib import Path

import numpy as np

from squeezenext import tf_import
from squeezenext.metrics import Evaluation
from squeezenext.predict.predictor import Predictor
from squeezenext.records import dataset, samples


def evaluate(path: Path, found: dataset.Dataset, split: str) -> Evaluation:
    """Scores every example of a split once with a `.sqz` or exported LiteRT file.

    Raises:
      InputError: it is no such file, or its classes are others than the data's.
    """
    predictor = Predictor(path)
    dataset.check_classes(found, predictor.labels, path)
    tf_import.import_tensorflow()
    from squeezenext.records.reader import Reader

    reader = Reader(found.splits[split])
    classes = len(predictor.labels)

    def score(number: int, look) -> tuple:
        image, label = samples.read_examples(reader, number, classes)
        probabilities = look(image).probabilities
        ranked = np.argsort(-probabilities, kind="stable")[:5]
        loss = -np.log(max(float(probabilities[label]), 1e-30))
        best = int(ranked[0])
        return number, label, loss, best == label, label in ranked, best, probabilities[best]

    rows = list(predictor.each(range(reader.split.examples), score))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    kinds = (np.int64, np.int64, np.float32, np.float32, np.float32, np.int64, np.float32)
    typed = [column.astype(kind) for column, kind in zip(columns, kinds, strict=True)]
    return Evaluation.of_rows(typed, reader.split.examples)
