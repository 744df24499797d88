"""Compresses a model into one small file that predict.py and evaluate read: Deep Compression.

    python -m squeezenext.compress --model_dir DIR|NAME --output FILE.sqz [--max_bytes N]
    python -m squeezenext.compress --model_dir DIR --output FILE.sqz --max_bytes 250000 \
        --data_dir RECORDS --num_epochs 8 --density 0.35

Without --data_dir no image is needed: each layer's sensitivity is measured on synthetic images, and
gets its share of the bits accordingly. With --data_dir photographs of the training split replace
these, and accuracy is reported before and after. With --num_epochs the network is also pruned and
retrained (half of the epochs), and then its codebooks are trained (the other half), both with the
dense network as teacher. With --integer the file holds whole numbers alone, which a microcontroller
computes as predict.py does, bit for bit (docs/micro.md). docs/compression.md describes the method
and the format.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext import cli, files
from squeezenext.arguments import checked
from squeezenext.cli import Log, run
from squeezenext.compress import integer, making, report
from squeezenext.compress.allocation import BudgetTooSmall
from squeezenext.compress.method import Method
from squeezenext.errors import InputError
from squeezenext.model import loading, published
from squeezenext.network.model import Model
from squeezenext.records import dataset, samples
from squeezenext.sqz import file as sqz

_NEEDED = {"set": "num_epochs", "density": "num_epochs", "images": "data_dir"}


@checked("data_dir", images=1)
def compress(
    model_dir: str | Path,
    output: str | Path,
    method: Method,
    data_dir: str | Path | None = None,
    images: int = 2000,
    log: Log = lambda text: None,
) -> dict:
    """Compresses a model to a `.sqz` file.

    Args:
      model_dir: a model directory, a published model's name or a `.sqz` file.
      output: the file to write.
      method: the choices.
      data_dir: records, for accuracy, for the probe images and for retraining.
      images: number of images of the validation (else test) split for accuracy, at most.
      log: receives a line about each step.

    Returns:
      The report: "file", "bytes", "dense_bytes", "retrained", "values_trained" (see
      `allocation.Compressed`), "layers" (see `report.rows`), "accuracy" (see `report.accuracy`).

    Raises:
      BudgetTooSmall: no file within the budget gives the model's answers.
      InputError: the model or the data cannot be read.
      NotFinite: the retraining's gradient is not finite.
    """
    output, model_dir = files.expanded(output), published.local(model_dir)
    if method.epochs and not data_dir:
        raise InputError("--num_epochs needs --data_dir: there is nothing to train on.")
    if method.epochs and Path(model_dir).is_file():
        raise InputError(
            f"--num_epochs trains what a model directory holds; {model_dir} is a file, give the "
            "directory that it was made of."
        )
    if method.epochs:
        dataset.check_split(dataset.find_dataset(data_dir, None, None), "train")
    _check_place(output)
    model = loading.load(model_dir)
    if method.integer:
        _check_integer(model, data_dir, log)
    if method.epochs:  # refuses a wrong --set before any work is done
        method.recipe(model.config, str(model_dir))
    split = _tested_split(data_dir, log)
    accuracy = report.accuracy(model, data_dir, split, images) if data_dir and split else None
    made = making.make_sqz(model, model_dir, data_dir, method, log)
    making.verify_sqz(made, output)
    sqz.write(output, made.encoded.data)  # now, so that damaged data cannot cost the work
    return {
        "file": str(output),
        "bytes": len(made.encoded.data),
        "dense_bytes": sum(array.nbytes for array in model.weights.values()),
        "retrained": made.retrained,
        "values_trained": made.values_trained,
        "layers": report.rows(model, made.weights, made.encoded),
        "accuracy": accuracy(made) if accuracy else None,
    }


def _check_integer(model: Model, data_dir: str | Path | None, log: Log) -> None:
    """Refuses a network that whole numbers cannot compute; warns if it gets no photographs."""
    integer.check_possible(model.graph)
    if not data_dir:
        log(
            "warning: Without --data_dir the scales of activations come from synthetic images; "
            "photographs give better answers, such as --data_dir mine/records."
        )


def _check_place(output: Path) -> None:
    """Refuses an output that cannot be written, before any work is done."""
    if output.suffix != sqz.SUFFIX:
        raise InputError(
            f"--output {output}: its name must end in {sqz.SUFFIX}, such as a{sqz.SUFFIX}."
        )
    cli.check_length("output", output)
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = (
            "is a folder; name the file to make"
            if output.is_dir()
            else (f"cannot be written there: {folder} must be a folder of yours")
        )
        raise InputError(f"--output {output} {what}.")


def _tested_split(data_dir: str | Path | None, log: Log) -> str | None:
    """Returns the split to measure accuracy on, if there is one."""
    split = samples.first_split(data_dir, samples.TESTED) if data_dir else None
    if data_dir and split is None:
        log(f"{data_dir} has no split that was not trained on: accuracy is not measured.")
    return split


def _define(values: flags.FlagValues) -> None:
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory or published model's name.", **at)
    flags.DEFINE_string("output", None, ".sqz file to write.", **at)
    flags.DEFINE_string("data_dir", None, "Folder with the shards and manifest.json.", **at)
    flags.DEFINE_bool("lossless", False, "Keep every weight to the last bit.", **at)
    whole = "Whole numbers, for microcontrollers: 8-bit weights and activations."
    flags.DEFINE_bool("integer", False, whole, **at)
    flags.DEFINE_integer("max_bytes", None, "Upper bound on the file size, in bytes.", **at)
    epochs = "Epochs of retraining: half pruning, half training of codebooks."
    flags.DEFINE_float("num_epochs", 0.0, epochs, 0.0, **at)
    flags.DEFINE_float("density", 0.35, "Share of the weights that retraining keeps.", **at)
    flags.DEFINE_multi_string("set", [], "training.FIELD=VALUE, for the retraining.", **at)
    flags.DEFINE_integer("images", 2000, "Most images to measure accuracy on.", 1, **at)
    flags.DEFINE_bool("json", False, "Print the report as one JSON document.", **at)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    values = flags.FlagValues()
    _define(values)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        method = Method(
            lossless=values["lossless"].value,
            integer=values["integer"].value,
            max_bytes=values["max_bytes"].value,
            epochs=values["num_epochs"].value,
            density=values["density"].value,
            changes=tuple(values["set"].value),
        )
        cli.check_needed(values, _NEEDED)
        try:
            found = compress(
                values["model_dir"].value,
                Path(values["output"].value),
                method,
                values["data_dir"].value,
                values["images"].value,
                cli.log,
            )
        except BudgetTooSmall as error:
            how = "with more --num_epochs" if method.epochs else "(--num_epochs with --data_dir)"
            raise InputError(f"{error} Retrain it {how}, or allow more.") from error
        if values["json"].value:
            print(json.dumps(found))
        else:
            report.print_table(found)

    needed = ("model_dir", "output")
    return run(command, values, __doc__, argv, required=needed, addresses=("data_dir",))
