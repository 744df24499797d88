"""Writes a trained model in the form that another runtime loads.

    python -m squeezenext.export --model_dir DIR|NAME --format litert --output model.tflite
    python -m squeezenext.export --model_dir DIR|NAME --format litert --precision int8 \
        --data_dir RECORDS --output model-int8.tflite

Formats: litert (phones, MediaPipe), onnx, saved_model (TensorFlow Serving), keras, and web, a
folder for any web host. Each file takes RGB and gives probabilities, is run in its own runtime and
compared with the model before it is put in place; docs/export.md says what each holds. With
--data_dir its accuracy on the validation (else the test) split is measured, printed and stored in
OUTPUT.json. A folder also holds the model card, where there is a model directory to make it of.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext import files
from squeezenext.cli import run, tell
from squeezenext.errors import InputError
from squeezenext.export import checking
from squeezenext.export import litert as export_litert
from squeezenext.export import onnx as export_onnx
from squeezenext.export import page as export_web
from squeezenext.export.checking import Measured, Run
from squeezenext.model import card, loading, published
from squeezenext.model.loading import Trained
from squeezenext.records import samples

PRECISIONS = {
    "litert": export_litert.PRECISIONS,
    "onnx": export_onnx.PRECISIONS,
    "saved_model": ("float32",),
    "keras": ("float32",),
    "web": ("float32",),
}
# What a model directory's other files are read by name as; `output` and `output`.json are none.
OF_A_MODEL = frozenset(
    f"{name}.json" for name in ("adapt", "calibration", "config", "final", "labels", "scores")
) | {"model.sqz", "model.tflite"}
_SAVED_MODEL = ("saved_model.pb", "fingerprint.pb", "variables/variables.*", card.FILE)
FOLDERS = {
    "saved_model": files.Kind(_SAVED_MODEL, lambda at: (at / _SAVED_MODEL[0]).is_file()),
    "web": files.Kind((*export_web.FILES, card.FILE), export_web.is_page),
}


def export(
    model_dir: str | Path,
    kind: str,
    output: Path,
    precision: str = "float32",
    data_dir: str | Path | None = None,
    images: int = 2000,
) -> dict:
    """Exports a model; returns what OUTPUT.json holds.

    Args:
      model_dir: a model directory, a published model or a `.sqz` file.
      kind: one of `PRECISIONS`' formats.
      output: the file, or folder (saved_model, web), to make.
      data_dir: records for calibration (training split, where there is one) and for accuracy.
      images: how many of the validation (else test) split accuracy is measured on, at most.

    Raises:
      InputError: there is no such model or data, or the format lacks the precision.
    """
    if precision not in PRECISIONS[kind]:
        raise InputError(
            f"--precision {precision}: --format {kind} has {', '.join(PRECISIONS[kind])}."
        )
    _check_place(output, kind)
    model = loading.load(model_dir)
    integers = precision == "int8" or kind == "web"  # which needs many images to be calibrated on
    limit = checking.CALIBRATION_IMAGES if integers else checking.PROBES
    shown = checking.images(model, data_dir, limit) if data_dir else []
    run = _write(model, model_dir, kind, precision, shown, output)
    report = {"format": kind, "precision": precision, "bytes": _bytes(output)}
    _note(output, report)  # before data that may be damaged: an older note is of another file
    split = samples.first_split(data_dir, samples.TESTED) if data_dir else None
    if split:
        tests = samples.read(data_dir, (split,), images, model.config.images, model.labels)
        smallest = "int8" if kind == "web" else precision  # see export_web.runner
        measured = checking.measure(run, checking.reference(model), tests, split, smallest)
        report |= dataclasses.asdict(measured)
        if integers:
            calibrated_on = samples.first_split(data_dir, checking.CALIBRATED_ON)
            report["calibrated_on_these"] = calibrated_on == split
        _note(output, report)
    return report


def _note(output: Path, report: dict) -> None:
    text = json.dumps(report, indent=1) + "\n"
    beside = output.with_name(f"{output.name}.json")
    files.write_text(beside, text)


def _check_place(output: Path, kind: str) -> None:
    if not output.name:
        raise InputError(f"--output {output}: name the file or folder to make.")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}.")
    if kind in FOLDERS:
        files.check_replaceable(output, FOLDERS[kind])
    elif output.is_dir():
        raise InputError(f"--output {output} is a folder; name the file to make.")
    written = {output.name, f"{output.name}.json"} & OF_A_MODEL
    if written and (output.parent / "config.json").is_file():
        raise InputError(
            f"--output {output}: {output.parent} is a model directory, whose own "
            f"{min(written)} that would replace; choose another name or folder."
        )


def _write(model: Trained, model_dir, kind: str, precision: str, shown, output: Path) -> Run:
    """Writes beside the place, checks, renames; returns what runs the result."""
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}{output.suffix}")
    try:
        if kind == "web":
            run = _web(model, model_dir, shown, temporary)
        else:
            make = {"litert": _litert, "onnx": _onnx, "keras": _keras, "saved_model": _saved_model}
            run = make[kind](model, precision, shown, temporary)
            probes = checking.probes(model, shown, precision)
            checking.compare(run, checking.reference(model), probes, precision)
        if kind in FOLDERS:
            if not Path(model_dir).is_file():
                text = card.render(published.resolve(model_dir))
                (temporary / card.FILE).write_text(text, "utf-8")
            files.replace_folder(temporary, output, FOLDERS[kind])
        else:
            files.put(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
    return run


def _web(model: Trained, model_dir: str | Path, shown, folder: Path) -> Run:
    folder.mkdir()
    export_web.make(model, model_dir, folder, shown, tell)
    return export_web.runner(folder)


def _litert(model: Trained, precision: str, shown, path: Path) -> Run:
    path.write_bytes(export_litert.convert(model, precision, shown))
    return export_litert.runner(path.read_bytes(), precision)


def _onnx(model: Trained, precision: str, shown, path: Path) -> Run:
    path.write_bytes(export_onnx.convert(model, precision, shown))
    return export_onnx.runner(path.read_bytes())


def _keras(model: Trained, precision: str, shown, path: Path) -> Run:
    from squeezenext.export import keras as export_keras

    if path.suffix != ".keras":
        raise InputError("--output must end in .keras, by which Keras knows its format.")
    export_keras.write_keras(model, path)
    return export_keras.run_keras(path)


def _saved_model(model: Trained, precision: str, shown, path: Path) -> Run:
    from squeezenext.export import keras as export_keras

    export_keras.write_saved_model(model, path)
    served = export_keras.Served(path)
    export_keras.check_encoded(served, model, checking.probes(model, shown)[0])
    return export_keras.run_saved_model(served)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory, published model or .sqz file.", **at)
    flags.DEFINE_enum("format", "litert", list(PRECISIONS), "What to write.", **at)
    flags.DEFINE_string("output", None, "The file or folder to make.", **at)
    flags.DEFINE_string("precision", "float32", ", ".join(PRECISIONS["litert"]), **at)
    flags.DEFINE_string("data_dir", None, "Records, for int8 ranges and for accuracy.", **at)
    flags.DEFINE_integer("images", 2000, "Accuracy is measured on at most these.", 1, **at)
    flags.DEFINE_bool("json", False, "One JSON document on standard output.", **at)

    def command(values, _):
        output = Path(values["output"].value)
        report = export(
            values["model_dir"].value,
            values["format"].value,
            output,
            values["precision"].value,
            values["data_dir"].value,
            values["images"].value,
        )
        if values["json"].value:
            print(json.dumps(report))
            return
        print(f"{output}: {report['bytes']:,} bytes")
        if "top1" in report:
            fields = {field.name: report[field.name] for field in dataclasses.fields(Measured)}
            print(Measured(**fields))
        if report.get("calibrated_on_these"):
            print("The ranges of its eight bits were found on some of these very images.")

    return run(command, values, __doc__, argv, required=("model_dir", "output"))
