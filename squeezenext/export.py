"""Writes a trained model in the form that another runtime loads.

    python -m squeezenext.export --model_dir DIR|NAME --format litert --output model.tflite
    python -m squeezenext.export --model_dir DIR|NAME --format litert --precision int8 \\
        --data_dir RECORDS --output model-int8.tflite

Formats: litert (phones, MediaPipe), onnx, saved_model (TensorFlow Serving), keras, and web, a
folder for any web host. Each file takes RGB and gives probabilities, is run in its own runtime and
compared with the model before it is put in place; docs/export.md says what each holds. With
--data_dir its accuracy on the validation split is measured, printed and stored in OUTPUT.json.
"""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from squeezenext import checkpoint, photographs, trained
from squeezenext.errors import InputError
from squeezenext.exporting import export_litert, export_web
from squeezenext.flags import run
from squeezenext.trained import Trained

PRECISIONS = {
    "litert": export_litert.PRECISIONS,
    "onnx": ("float32", "int8"),
    "saved_model": ("float32",),
    "keras": ("float32",),
    "web": ("float32",),
}
CALIBRATION_IMAGES = 200
# Of probabilities, against float32: rounding of the kernels; of the weights to half precision. What
# eight bits change depends on the images, so there only a broken file is refused.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "dynamic": 0.5, "int8": 0.5}
Run = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an exported file does on images of the validation split."""

    images: int
    top1: float
    float32_top1: float
    agreement: float  # how often its first class is float32's

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.4f} on {self.images:,} images; float32 {self.float32_top1:.4f}, "
            f"the same first class on {self.agreement:.2%}"
        )


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
      images: how many of the validation split accuracy is measured on, at most.

    Raises:
      InputError: there is no such model or data, or the format lacks the precision.
    """
    if precision not in PRECISIONS[kind]:
        raise InputError(
            f"--precision {precision}: --format {kind} has {', '.join(PRECISIONS[kind])}."
        )
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}.")
    model = trained.load(model_dir)
    if kind == "web":
        compressed = export_web.compressed_beside(model_dir)
        return _web(model, output, data_dir, compressed)
    shown = list(_images(data_dir, ("train", "validation"), CALIBRATION_IMAGES, model))
    calibration = [pixels for pixels, _ in shown] if precision == "int8" else []
    run = _write(model, kind, precision, calibration, output, shown)
    report = {"format": kind, "precision": precision, "bytes": _bytes(output)}
    if data_dir:
        tests = _images(data_dir, ("validation", "test", "train"), images, model)
        report |= dataclasses.asdict(measure(run, reference(model), tests))
    text = json.dumps(report, indent=1) + "\n"
    beside = output.with_name(f"{output.name}.json")
    checkpoint.write_file(beside, lambda file: file.write_text(text, "utf-8"))
    return report


def _images(data_dir, splits: tuple[str, ...], limit: int, model: Trained):
    if not data_dir:
        return ()
    return photographs.read(data_dir, splits, limit, model.config.images, model.labels)


def reference(model: Trained) -> Run:
    """Returns the model itself: from [size, size, 3] uint8, RGB, to probabilities."""
    return export_litert.runner(export_litert.convert(model, "float32"), "float32")


def measure(run: Run, reference: Run, images) -> Measured:
    """Counts how often two runners are right, and agree."""
    rows = []
    for pixels, label in images:
        first, other = int(run(pixels).argmax()), int(reference(pixels).argmax())
        rows.append((first == label, other == label, first == other))
    top1, float32_top1, agreement = np.mean(rows, 0)
    return Measured(len(rows), float(top1), float(float32_top1), float(agreement))


def _write(model: Trained, kind: str, precision: str, calibration, output: Path, shown) -> Run:
    """Writes beside the place, checks, renames; returns what runs the result."""
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}{output.suffix}")
    try:
        make = {"litert": _litert, "onnx": _onnx, "keras": _keras, "saved_model": _saved_model}
        run = make[kind](model, precision, calibration, temporary)
        compare(run, reference(model), _probes(model, shown), TOLERANCES[precision])
        if temporary.is_dir():
            replace_folder(temporary, output)
        else:
            checkpoint.write_file(output, lambda file: os.replace(temporary, file))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
    return run


def _web(
    model: Trained, output: Path, data_dir: str | Path | None, compressed: Trained | None
) -> dict:
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        calibration = export_web.images(model, data_dir)
        export_web.write(model, temporary, calibration, compressed)
        probes = calibration[:8] or _probes(model, ())
        export_web.check(temporary, reference(model), probes)
        export_web.replace_folder(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"format": "web", "precision": "float32", "bytes": _bytes(output)}


def replace_folder(made: Path, place: Path) -> None:
    """Puts a folder where another may be."""
    before = place.with_name(f".{place.name}.before-{os.getpid()}")
    if place.exists():
        os.replace(place, before)
    os.replace(made, place)
    shutil.rmtree(before, ignore_errors=True)


def _litert(model: Trained, precision: str, calibration, path: Path) -> Run:
    path.write_bytes(export_litert.convert(model, precision, calibration))
    return export_litert.runner(path.read_bytes(), precision)


def _onnx(model: Trained, precision: str, calibration, path: Path) -> Run:
    from squeezenext.exporting import export_onnx

    path.write_bytes(export_onnx.convert(model, precision, calibration))
    return export_onnx.runner(path.read_bytes())


def _keras(model: Trained, precision: str, calibration, path: Path) -> Run:
    from squeezenext.exporting import export_keras

    if path.suffix != ".keras":
        raise InputError("--output must end in .keras, by which Keras knows its format.")
    export_keras.write_keras(model, path)
    return export_keras.run_keras(path)


def _saved_model(model: Trained, precision: str, calibration, path: Path) -> Run:
    from squeezenext.exporting import export_keras

    export_keras.write_saved_model(model, path)
    return export_keras.run_saved_model(path)


def _probes(model: Trained, shown) -> list[np.ndarray]:
    """Some images to compare on: real ones where there are, else smooth random ones."""
    if shown:
        return [pixels for pixels, _ in shown[:8]]
    size, random = model.config.images.size, np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 8, 8, 3), np.uint8)
    places = np.arange(size) * 8 // size
    return [image[places][:, places] for image in coarse]


def compare(run: Run, reference: Run, images: Sequence[np.ndarray], tolerance: float) -> None:
    """Checks that two runners give nearly the same probabilities.

    Raises:
      RuntimeError: they do not.
    """
    worst = max(np.abs(run(image) - reference(image)).max() for image in images)
    if not worst <= tolerance:
        raise RuntimeError(
            f"The exported file's probabilities differ from the model's by {worst:.3g}; it was not "
            "kept."
        )


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

    def command(values, positional):
        if positional:
            raise InputError(f"Unexpected argument {positional[0]!r}; flags begin with --.")
        for name in ("model_dir", "output"):
            if not values[name].value:
                raise InputError(f"--{name} is missing.")
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

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
