"""Exports a trained model to the file or folder that another runtime loads.

    python -m squeezenext.export --model_dir DIR|NAME --format litert --output model.tflite
    python -m squeezenext.export --model_dir DIR|NAME --format litert --precision int8 \
        --data_dir RECORDS --output model-int8.tflite

Formats: litert (phones, MediaPipe), onnx, ncnn, keras, saved_model (TensorFlow Serving), web, a
folder for any web host, and micro, a folder in C for microcontrollers. Each takes RGB pixels and
gives probabilities. Before it is put in place, it is run in its own runtime and compared with the
model; docs/export.md describes each format. With --data_dir its accuracy on the validation (else
the test) split is measured, printed and written to OUTPUT.json. A folder also gets the model card,
if --model_dir is a model directory.
"""

import dataclasses
import json
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext import files
from squeezenext.arguments import checked
from squeezenext.cli import check_length, check_needed, check_writable, plural, run, say
from squeezenext.errors import InputError
from squeezenext.export import checking, keras, litert, micro, ncnn, onnx, page, saved_model
from squeezenext.export.format import Format, Request, Run, check_replaceable, replace_folder
from squeezenext.model import card, loading, published
from squeezenext.model import directory as model_directory
from squeezenext.records import samples
from squeezenext.sqz import file as sqz

FORMATS = {
    form.name: form
    for form in (
        *(litert.FORMAT, onnx.FORMAT, saved_model.FORMAT),
        *(keras.FORMAT, ncnn.FORMAT, page.FORMAT, micro.FORMAT),
    )
}
_SCORES = (
    "{measured}: top-1 {top1:.4f} on {count}; "
    "the model {float32_top1:.4f}, the same first class on {agreement:.2%}"
)


@checked("data_dir", images=1)
def export(
    model_dir: str | Path,
    kind: str,
    output: str | Path,
    precision: str | None = None,
    data_dir: str | Path | None = None,
    images: int = 2000,
) -> dict:
    """Exports a model and returns the content of OUTPUT.json.

    Args:
      model_dir: a model directory, a published model's name or a `.sqz` file.
      kind: a name in `FORMATS`.
      output: the file to write, or the folder (ncnn, saved_model, web, micro).
      precision: one of the format's; None takes its first.
      data_dir: records, for int8 ranges (training split, else validation) and for accuracy.
      images: number of images of the validation (else test) split for accuracy, at most.

    Raises:
      InputError: the model or the data cannot be read, or the format lacks the precision.
      NotKept: the file's answers differ from the model's.
    """
    if kind not in FORMATS:
        raise InputError(f"There is no format {kind!r}; there are {', '.join(FORMATS)}.")
    form, output, model_dir = (
        FORMATS[kind],
        files.expanded(output),
        published.local(model_dir),
    )
    precision = precision or form.precisions[0]
    if precision not in form.precisions:
        raise InputError(
            f"--precision {precision}: --format {kind} has {', '.join(form.precisions)}."
        )
    _check_output(output, form)
    model = loading.load(model_dir)
    # The name of a folder need not be UTF-8, as exported files are.
    model = dataclasses.replace(model, name=model.name.encode("utf-8", "replace").decode())
    calibrated = precision in form.calibrated
    limit = checking.CALIBRATION_IMAGES if calibrated else checking.PROBES
    probes = checking.images(model, data_dir, limit) if data_dir else []
    measured, run = _write(form, Request(model, model_dir, precision, probes), output)
    report = {"format": kind, "precision": precision, "bytes": _bytes(output)}
    # Written now, because the data may turn out damaged: an older report is about another file.
    files.write_json(_report_path(output), report)
    if data_dir and (split := samples.first_split(data_dir, samples.TESTED)):
        tests = samples.read(data_dir, (split,), images, model.config.images, model.labels)
        report |= {"measured": measured, "split": split}
        report |= checking.measure(run, checking.reference(model), tests)
        if calibrated:
            calibrated_on = samples.first_split(data_dir, checking.CALIBRATED_ON)
            report["calibrated_on_these"] = calibrated_on == split
        files.write_json(_report_path(output), report)
    return report


def _report_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.json")


def _check_output(output: Path, form: Format) -> None:
    """Checks that the output may be written, before any work is done."""
    if not output.name:
        raise InputError(f"--output {output}: name the file or folder to make.")
    check_length("output", output)
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first.")
    check_writable("output", output)
    if form.folder:
        check_replaceable(output, form.folder)
    elif output.is_dir():
        raise InputError(f"--output {output} is a folder; name the file to make.")
    written = {output.name, _report_path(output).name} & model_directory.RESERVED
    if written and (output.parent / model_directory.CONFIG).is_file():
        raise InputError(
            f"--output {output}: {output.parent} is a model directory, whose own "
            f"{min(written)} that would replace; choose another name or folder."
        )
    endings = {known.ending: f"--format {known.name}" for known in FORMATS.values() if known.ending}
    endings[sqz.SUFFIX] = "squeezenext.compress"
    ending = output.suffix.lower()
    if ending in endings and ending != form.ending:
        raise InputError(
            f"--output {output}: {ending} is the ending of {endings[ending]}, not of --format "
            f"{form.name}; name it {output.stem}{form.ending}."
        )
    if form.mark:
        files.check_ours(output, form.mark)
    files.check_ours(_report_path(output), '"precision"')


def _write(form: Format, request: Request, output: Path) -> tuple[str, Run]:
    """Writes to a temporary path, compares, renames.

    Returns:
      The precision of the network to measure, and a function that runs it.
    """
    temporary = output.with_name(f".{output.name}.tmp-{secrets.token_hex(8)}{output.suffix}")
    try:
        networks = form.write(request, temporary)
        checking.compare_all(networks, request.model, request.images)
        if form.folder:
            if not Path(request.source).is_file():
                text = card.render(published.resolve(request.source))
                (temporary / card.FILE).write_text(text, "utf-8", newline="\n")
            replace_folder(temporary, output, form.folder)
        else:
            files.put(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
    return networks[0]


def _bytes(path: Path) -> int:
    contents = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in contents if file.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory, published model or .sqz file.", **at)
    flags.DEFINE_enum("format", "litert", list(FORMATS), "Format to write.", **at)
    flags.DEFINE_string("output", None, "File or folder to write.", **at)
    precisions = (
        f"Number format: {', '.join(litert.FORMAT.precisions)}; default float32, of micro int8."
    )
    flags.DEFINE_string("precision", None, precisions, **at)
    whole = "Of --format litert --precision int8: pixels, mean and probabilities are int8, too."
    flags.DEFINE_bool("full_integer", False, whole, **at)
    flags.DEFINE_string("data_dir", None, "Records, for int8 ranges and for accuracy.", **at)
    flags.DEFINE_integer("images", 2000, "Most images to measure accuracy on.", 1, **at)
    flags.DEFINE_bool("json", False, "Print one JSON document.", **at)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        check_needed(values, {"images": "data_dir"})
        output, precision = Path(values["output"].value), values["precision"].value
        if values["full_integer"].value:
            if (values["format"].value, precision) != ("litert", "int8"):
                raise InputError("--full_integer needs --format litert --precision int8.")
            precision = litert.FULL
        report = export(
            values["model_dir"].value,
            values["format"].value,
            output,
            precision,
            values["data_dir"].value,
            values["images"].value,
        )
        if values["json"].value:
            print(json.dumps(report))
            return
        say(f"{output}: {report['bytes']:,} bytes")
        if "top1" in report:
            count = plural(report["images"], f"{report['split']} image")
            say(_SCORES.format(count=count, **report))
        if report.get("calibrated_on_these"):
            say("Its int8 ranges were found on some of these very images.")

    needed = ("model_dir", "output")
    return run(command, values, __doc__, argv, required=needed, addresses=("data_dir",))
