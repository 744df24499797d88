"""Scores every example of a split exactly once.

python -m squeezenext.evaluate --model_dir DIR|NAME|FILE.sqz --data_dir DIR [--json]
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from squeezenext import atomic, config_io, dataset, labels, quiet, sqz, variables, weights
from squeezenext.errors import InputError
from squeezenext.flags import run
from squeezenext.options import PRECISIONS, check_precision

if TYPE_CHECKING:
    from squeezenext.loop import Evaluation


def evaluate(
    *,
    model_dir: str | Path,
    data_dir: str | Path | None = None,
    validation_file_pattern: str | None = None,
    split: str = "validation",
    batch_size: int = 32,
    devices_used: int = 0,
    precision: str = "float32",
) -> "Evaluation":
    """Evaluates a model directory, a published model or a .sqz file.

    Args:
      model_dir: the same; the newest whole checkpoint is taken, moving averages where kept.
      data_dir: records with a manifest; else `validation_file_pattern`.
      split: "train", "validation" or "test".
      batch_size: images a device takes at once; no figure depends on it.

    Raises:
      InputError: no such model or data, or their classes differ.
    """
    check_precision(precision)
    found = dataset.find(data_dir, None, validation_file_pattern)
    dataset.check_split(found, split)
    model, compressed = _find(model_dir)
    config = compressed.config if compressed else config_io.read_model(model)
    dataset.check_classes(found, _classes(model, compressed), model)
    quiet.import_tensorflow()
    from squeezenext import data, devices, model_directory  # no error above waits for TensorFlow
    from squeezenext.loop import Scorer

    reader = data.Reader(found.splits[split])
    strategy = devices.strategy(devices_used)
    scorer = Scorer(config, strategy, devices.precision(precision))
    if compressed:
        arrays = variables.unfold(config, compressed.weights)
    else:
        arrays = model_directory.read_weights(model)
    model_directory.assign(scorer.model, arrays, str(model))
    with data.faults_named(reader):
        return scorer.evaluate(reader, batch_size)


def _find(model: str | Path) -> tuple[Path, sqz.Compressed | None]:
    """Returns where a model is, and what is in it if it is a .sqz file."""
    path = Path(model)
    if path.suffix == sqz.SUFFIX and path.is_file():
        return path, sqz.read(path)
    return weights.resolve(model), None


def _classes(model: Path, compressed: sqz.Compressed | None) -> tuple[labels.Label, ...]:
    return compressed.classes if compressed else labels.read(model / "labels.json")


def write_predictions(path: Path, reader_labels, result: "Evaluation") -> None:
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
                names = [reader_labels[int(i)].synset for i in (label, predicted)]
                writer.writerow([number, *names, f"{probability:.6f}", int(top5), f"{loss:.6f}"])

    atomic.write_file(path, write)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory or published model's name.", **at)
    flags.DEFINE_string("data_dir", None, "Folder with the shards and manifest.json.", **at)
    flags.DEFINE_string("validation_file_pattern", None, "TF-slim shards made elsewhere.", **at)
    flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "Which part.", **at)
    flags.DEFINE_integer("batch_size", 32, "Images a device takes at once.", 1, **at)
    flags.DEFINE_integer("devices", 0, "GPUs, or logical CPU devices; 0: all GPUs.", 0, **at)
    flags.DEFINE_string("precision", "float32", f"auto, {', '.join(PRECISIONS)}.", **at)
    flags.DEFINE_bool("json", False, "One JSON document on standard output.", **at)
    flags.DEFINE_string("predictions", None, "Also write a CSV row an example.", **at)

    def command(values, positional):
        if positional:
            raise InputError(f"Unexpected argument {positional[0]!r}; flags begin with --.")
        if not values["model_dir"].value:
            raise InputError("--model_dir is missing: a model directory or a published model.")
        result = evaluate(
            model_dir=values["model_dir"].value,
            data_dir=values["data_dir"].value,
            validation_file_pattern=values["validation_file_pattern"].value,
            split=values["split"].value,
            batch_size=values["batch_size"].value,
            devices_used=values["devices"].value,
            precision=values["precision"].value,
        )
        _print(result, values["json"].value)
        if values["predictions"].value:
            known = _classes(*_find(values["model_dir"].value))
            write_predictions(Path(values["predictions"].value), known, result)

    return run(command, values, __doc__, argv)


def _print(result: "Evaluation", as_json: bool) -> None:
    summary = result.summary()
    if as_json:
        print(json.dumps(summary))
    else:
        print(
            f"top-1 {summary['top1']:.4f}, top-5 {summary['top5']:.4f}, "
            f"loss {summary['loss']:.4f} on {summary['examples']:,} images"
        )


if __name__ == "__main__":
    sys.exit(main())
