"""Compresses a model into one small file that predict.py and evaluate read: Deep Compression.

    python -m squeezenext.compress --model_dir DIR|NAME --output FILE.sqz [--max_bytes N]
    python -m squeezenext.compress --model_dir DIR --output FILE.sqz --max_bytes 250000 \
        --data_dir RECORDS --num_epochs 8 --density 0.35

Without --data_dir no image is needed: bits are shared out by what errors do to the answers on drawn
images. With it, photographs of the training split take their place and accuracy is told before and
after. With --num_epochs, too, the network is first pruned while it is retrained (half of the
epochs) and its shared values are trained (the other half), both with the dense network as teacher.
docs/compression.md has the method and the format.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext.cli import Say, run, tell
from squeezenext.compress import making, report
from squeezenext.compress.allocation import BudgetTooSmall
from squeezenext.compress.method import Method
from squeezenext.compress.report import Examination
from squeezenext.errors import InputError
from squeezenext.model import loading as trained_models
from squeezenext.model.loading import Trained
from squeezenext.records import dataset, samples
from squeezenext.sqz import file as sqz


def compress(
    model_dir: str | Path,
    output: Path,
    method: Method,
    data_dir: str | Path | None = None,
    images: int = 2000,
    say: Say = lambda text: None,
) -> dict:
    """Compresses a model directory or a published model to a file.

    Args:
      output: the file to make.
      data_dir: records, for accuracy, for the probes and for retraining.
      images: how many of the validation (else test) split accuracy is told on, at most.
      say: is told of each step.

    Returns:
      The report: "bytes", "dense_bytes", "retrained" and "values_trained" (see `Made`), "accuracy"
      or None, "layers" (a `report.Row` each).

    Raises:
      BudgetTooSmall: no file so small gives the model's answers.
      InputError: there is no such model or data.
      NotFinite: the retraining's recipe leads nowhere.
    """
    if method.epochs and not data_dir:
        raise InputError("--num_epochs needs --data_dir: there is nothing to train on.")
    if method.epochs and Path(model_dir).is_file():
        raise InputError(
            f"--num_epochs trains what a model directory holds; {model_dir} is a file, give the "
            "directory that it was made of."
        )
    if method.epochs:
        dataset.check_split(dataset.find(data_dir, None, None), "train")
    _check_place(output)
    model = trained_models.load(model_dir)
    if method.epochs:  # what --set cannot change is found out now
        method.recipe(model.config, str(model_dir))
    examination = _examination(model, data_dir, images, say)
    made = making.make(model, model_dir, data_dir, method, say)
    making.check(made, output)
    # In place before it is examined: no fault of the data is to cost the work.
    sqz.write(output, made.encoded.data)
    return {
        "file": str(output),
        "bytes": len(made.encoded.data),
        "dense_bytes": sum(array.nbytes for array in model.weights.values()),
        "retrained": made.retrained,
        "values_trained": made.values_trained,
        "layers": [dataclasses.asdict(x) for x in report.rows(model, made.weights, made.encoded)],
        "accuracy": examination.told(made.weights) if examination else None,
    }


def _check_place(output: Path) -> None:
    """Refuses a place that nothing can be written to, before any work is done."""
    if output.suffix != sqz.SUFFIX:
        raise InputError(f"--output {output}: its name must end in {sqz.SUFFIX}.")
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--output {output} cannot be written there.")


def _examination(model: Trained, data_dir, images: int, say: Say) -> Examination | None:
    if not data_dir:
        return None
    split = samples.first_split(data_dir, samples.TESTED)
    if split is None:
        say(f"{data_dir} has no split that was not trained on: accuracy is not told.")
        return None
    return Examination(model, data_dir, split, images)


def _define(values: flags.FlagValues) -> None:
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory or published model's name.", **at)
    flags.DEFINE_string("output", None, "The .sqz file to make.", **at)
    flags.DEFINE_string("data_dir", None, "Folder with the shards and manifest.json.", **at)
    flags.DEFINE_bool("lossless", False, "Keep every weight to the last bit.", **at)
    flags.DEFINE_integer("max_bytes", None, "Of the whole file.", **at)
    flags.DEFINE_float("num_epochs", 0.0, "Of retraining: half pruning, half values.", 0.0, **at)
    flags.DEFINE_float("density", 0.35, "Of the weights that retraining keeps.", **at)
    flags.DEFINE_multi_string("set", [], "training.FIELD=VALUE of the retraining.", **at)
    flags.DEFINE_integer("images", 2000, "Of the validation split, for accuracy.", 1, **at)
    flags.DEFINE_bool("json", False, "The report as one JSON document.", **at)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    _define(values)

    def command(values, _):
        method = Method(
            lossless=values["lossless"].value,
            max_bytes=values["max_bytes"].value,
            epochs=values["num_epochs"].value,
            density=values["density"].value,
            changes=tuple(values["set"].value),
        )
        try:
            found = compress(
                values["model_dir"].value,
                Path(values["output"].value),
                method,
                values["data_dir"].value,
                values["images"].value,
                tell,
            )
        except BudgetTooSmall as error:
            how = "with more --num_epochs" if method.epochs else "(--num_epochs with --data_dir)"
            raise InputError(f"{error} Retrain it {how}, or allow more.") from error
        print(json.dumps(found)) if values["json"].value else report.show(found)

    return run(command, values, __doc__, argv, required=("model_dir", "output"))
