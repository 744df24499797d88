"""Scores every example of a split exactly once.

python -m squeezenext.evaluate --model_dir DIR|NAME|FILE --data_dir DIR [--json] [--report DIR]

FILE is a .sqz or an exported .tflite file, which is run in LiteRT as predict.py runs it.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from squeezenext import metrics, tf_import
from squeezenext.arguments import checked
from squeezenext.cli import (
    check_file,
    check_folder,
    check_writable,
    csv_cell,
    log,
    plural,
    run,
    say,
)
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.evaluate import report
from squeezenext.evaluate.report import Subject
from squeezenext.files import check_ours, write_file
from squeezenext.labels import Label, class_names
from squeezenext.metrics import Evaluation
from squeezenext.model import card, loading, published
from squeezenext.model import directory as model_directory
from squeezenext.predict.answers import softmax
from squeezenext.predict.predictor import Predictor, map_in_threads
from squeezenext.records import dataset, example, samples
from squeezenext.records.dataset import Split
from squeezenext.records.reader import Reader
from squeezenext.train.options import PRECISIONS, check_precision

# Of --predictions. The first ones tell a file of ours from another program's.
_COLUMNS = ("example", "file", "label", "predicted", "probability", "top5", "loss")


def evaluate_file(path: Path, found: dataset.Dataset, split: str) -> Evaluation:
    """Scores every example of a split once with a `.sqz` or exported LiteRT file.

    Raises:
      InputError: the file cannot be read, or its classes differ from the data's.
    """
    predictor = Predictor(path)
    dataset.check_classes(found, predictor.labels, path)
    reader = Reader(found.splits[split])
    classes = len(predictor.labels)

    def scored(number: int) -> tuple:
        image, label = samples.read_examples(reader, number, classes)
        view = predictor.view(image)
        probabilities = view.probabilities
        ranked = np.argsort(-probabilities, kind="stable")[:5]
        loss = -np.log(max(float(probabilities[label]), 1e-30))
        best = int(ranked[0])
        first = best == label, label in ranked, best, probabilities[best]
        return number, label, loss, *first, np.nan if view.known is None else view.known

    *columns, known = zip(*map_in_threads(scored, range(reader.split.examples)), strict=True)
    kinds = (np.int64, np.int64, np.float32, np.float32, np.float32, np.int64, np.float32)
    typed = [np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    result = Evaluation.of_rows(typed, reader.split.examples)
    scores = np.array(known, np.float32)  # in the order of the records already
    return dataclasses.replace(result, known=None if np.isnan(scores).any() else scores)


@checked("data_dir", batch_size=1, devices_used=0)
def evaluate(
    *,
    model_dir: str | Path,
    data_dir: str | Path | None = None,
    validation_file_pattern: str | Path | None = None,
    found: dataset.Dataset | None = None,
    split: str = "validation",
    batch_size: int = 32,
    devices_used: int = 0,
    precision: str = "float32",
    fit_temperature: bool = False,
) -> Evaluation:
    """Evaluates a model directory, a published model or an exported file.

    Args:
      model_dir: the directory, of which the newest whole checkpoint is used, with its moving
        averages if it has any; or a published model's name, or a file.
      data_dir: records with a manifest.
      validation_file_pattern: shards without a manifest, instead.
      found: records that were found before, instead.
      split: "train", "validation" or "test".
      batch_size: images per device; no figure depends on it.
      devices_used: number of GPUs or logical CPU devices; 0 for all GPUs.
      precision: auto, or one of `train.options.PRECISIONS`.
      fit_temperature: fit the temperature to the split and store it in the model directory.

    Returns:
      The scores, with probabilities and losses at the model's temperature, as in predict.py.

    Raises:
      InputError: the model or the data cannot be read, or their classes differ.
    """
    check_precision(precision)
    found = found or dataset.find_dataset(data_dir, None, validation_file_pattern)
    dataset.check_split(found, split)
    if fit_temperature:
        _check_own(os.path.expanduser(model_dir))
    model_dir = published.local(model_dir)
    if Path(model_dir).is_file():  # scored as it is shipped
        return evaluate_file(Path(model_dir), found, split)
    directory = published.resolve(model_dir)
    config, known = model_directory.read(directory)
    _check_data(found, config, known, directory)
    temperature = model_directory.read_temperature(directory)
    keep_logits = fit_temperature or temperature != 1.0
    weights, records = loading.variables(directory), found.splits[split]
    tf_import.import_tensorflow()  # takes seconds, so all errors above come first
    from squeezenext.records.batches import faults_named
    from squeezenext.train import devices, exchange
    from squeezenext.train.evaluation import Evaluator

    reader, strategy = Reader(records), devices.strategy(devices_used)
    evaluator = Evaluator(config, strategy, devices.precision(precision))
    exchange.assign(evaluator.model, weights, str(directory))
    with faults_named(reader):
        result = evaluator.evaluate(reader, batch_size, keep_logits=keep_logits)
    if fit_temperature and result.logits is not None:
        source = f"{found.source} {split}"
        temperature = _fitted(directory, result.logits, result.labels, source, records)
    return _tempered(result, temperature)


def _check_data(
    found: dataset.Dataset, config: Config, known: tuple[Label, ...], directory: Path
) -> None:
    dataset.check_classes(found, known, directory)
    if found.upright and config.images.orientation == "ignored":
        log(
            "warning: these images were turned upright as EXIF says, but prediction with this "
            "model does not turn photographs; those that lie on their side score lower."
        )


def _fitted(
    directory: Path, logits: np.ndarray, known: np.ndarray, source: str, records: Split
) -> float:
    """Fits the temperature to logits and their labels and stores it in the model directory."""
    temperature = metrics.fit_temperature(logits, known)
    model_directory.write_temperature(
        directory, temperature, source, records.examples, records.shards_sha256()
    )
    card.write(directory)
    return temperature


def _tempered(result: Evaluation, temperature: float) -> Evaluation:
    if result.logits is None:
        return result
    logits = result.logits / np.float32(temperature)
    loss = metrics.cross_entropy(logits, result.labels).astype(np.float32)
    probability = softmax(logits).max(-1)
    return dataclasses.replace(result, loss=loss, probability=probability, logits=None)


def _check_own(model_dir: str | Path) -> None:
    """Refuses to calibrate a file or a published model."""
    if Path(model_dir).is_file():
        raise InputError(f"--fit_temperature needs a model directory, not {model_dir}.")
    if not Path(model_dir).is_dir():
        raise InputError(
            f"--fit_temperature: {model_dir} is a published model, which every command shares; "
            "copy its folder, or train your own."
        )
    check_writable("fit_temperature", Path(model_dir) / model_directory.CALIBRATION)


def subject(
    model: str | Path, found: dataset.Dataset, split: str, photographs: Path | None = None
) -> Subject:
    """Returns what a report about a model and a split must know; see `Subject.photographs`."""
    model = str(published.local(model))
    if Path(model).is_file():
        file = loading.load_runnable(model)
        classes, fitted_to = file.labels, file.fitted_to
    else:
        directory = published.resolve(model)
        _, classes = model_directory.read(directory)
        fitted_to = model_directory.read_fitted_to(directory)
    return Subject(
        model=model,
        labels=classes,
        split=found.splits[split],
        source=f"{found.source} ({split})",
        fitted_here=fitted_to == found.splits[split].shards_sha256(),
        photographs=photographs,
    )


def _define(values: flags.FlagValues) -> None:
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory, published model or file.", **at)
    flags.DEFINE_string("data_dir", None, "Folder with the shards and manifest.json.", **at)
    flags.DEFINE_string("validation_file_pattern", None, "TF-slim shards made elsewhere.", **at)
    splits = ["train", "validation", "test"]
    flags.DEFINE_enum("split", "validation", splits, "Split to score.", **at)
    flags.DEFINE_integer("batch_size", 32, "Images per device and step.", 1, **at)
    flags.DEFINE_integer("devices", 0, "GPUs, or logical CPU devices; 0: all GPUs.", 0, **at)
    flags.DEFINE_string("precision", "float32", f"auto, {', '.join(PRECISIONS)}.", **at)
    flags.DEFINE_bool("json", False, "Print one JSON document.", **at)
    flags.DEFINE_string("predictions", None, "CSV file to write, with a row per example.", **at)
    flags.DEFINE_string("report", None, "Folder to write the report to, as index.html.", **at)
    flags.DEFINE_bool("fit_temperature", False, "Calibrate probabilities on this split.", **at)


def _check(values: flags.FlagValues) -> None:
    """Refuses flags that would fail only after the work."""
    for name in ("devices", "precision", "batch_size"):
        if values[name].present and Path(values["model_dir"].value).is_file():
            raise InputError(f"--{name} means nothing for a file, which runs as it is shipped.")
    check_precision(values["precision"].value)
    if values["predictions"].value:
        check_file("predictions", Path(values["predictions"].value))
        check_ours(Path(values["predictions"].value), ",".join(_COLUMNS[:4]))
    if values["report"].value:
        check_folder("report", Path(values["report"].value), report.PAGE)
        report.check_place(Path(values["report"].value))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    _define(values)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        _check(values)
        model, split = values["model_dir"].value, values["split"].value
        pattern = values["validation_file_pattern"].value
        found = dataset.find_dataset(values["data_dir"].value, None, pattern)
        result = evaluate(
            model_dir=model,
            found=found,
            split=split,
            batch_size=values["batch_size"].value,
            devices_used=values["devices"].value,
            precision=values["precision"].value,
            fit_temperature=values["fit_temperature"].value,
        )
        scored = subject(model, found, split)
        document = metrics.document(result, len(scored.labels))
        document["remarks"] = metrics.remarks(result, class_names(scored.labels))
        _print(document | {"fitted_to_these": scored.fitted_here}, values["json"].value)
        if values["predictions"].value:
            write_table(Path(values["predictions"].value), scored, result)
        if values["report"].value:
            path = report.write(Path(values["report"].value), scored, result)
            log(f"The report is {path}.")

    needed, places = ("model_dir",), ("data_dir",)
    return run(command, values, __doc__, argv, required=needed, prints=True, addresses=places)


def _print(document: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document))
        return
    low, high = document["top1_interval"]
    agreement = "" if document["kappa"] is None else f", kappa {document['kappa']:.4f}"
    say(
        f"top-1 {document['top1']:.4f} ({low:.4f} to {high:.4f}), top-5 {document['top5']:.4f}, "
        f"loss {document['loss']:.4f} on {plural(document['examples'], 'image')}{agreement}, "
        f"balanced accuracy {document['balanced_accuracy']:.4f}, "
        f"macro F1 {document['macro_f1']:.4f}, calibration error {document['ece']:.4f}"
    )
    say(*document["remarks"])
    if document["fitted_to_these"]:
        say(
            "The temperature was fitted to these very images, so their calibration error does not "
            "hold for other images."
        )


def write_table(path: Path, scored: Subject, result: Evaluation) -> None:
    """Writes a CSV file with a row per example, in the order of the records.

    Each has the record's number and its image's file name, "" where the record has none.
    """
    records = Reader(scored.split)

    def write(file: Path) -> None:
        with open(file, "w", newline="", encoding="utf-8") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for i in range(len(result.labels)):
                classes = (result.labels[i], result.predicted[i])
                names = [example.file_name(records.read_one(i))]
                names += [scored.labels[number].synset for number in classes]
                probability, loss = f"{result.probability[i]:.6f}", f"{result.loss[i]:.6f}"
                cells = map(csv_cell, names)
                writer.writerow([i, *cells, probability, int(result.top5[i]), loss])

    write_file(path, write)
