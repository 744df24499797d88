"""Predicts the classes of images.

    python predict.py PATH... --model_dir DIR|NAME|FILE [--top_k 5] [--format text|json|csv]

PATH is an image, a folder of images, a pattern in quotes, a list of images (.txt, one a line), a
URL (with --allow_url), or - for an image on standard input. NAME is a published model, such as
squeezenet_v1_0. A bad file does not stop the others; the exit code is then 1.

    python predict.py PATH... --model_dir MODEL --output FOLDER [--format jsonl|parquet]

The answers are written to files in FOLDER. After an interruption the same command goes on.

    python predict.py --camera 0 --model_dir MODEL [--every 1] [--smoothing 0.5]
    python predict.py --video FILE|rtsp://... --model_dir MODEL
    python predict.py --watch FOLDER --model_dir MODEL    predicts images added to FOLDER

Cameras, streams and folders go on until Ctrl-C.
"""

import contextlib
import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from squeezenext import cli, files
from squeezenext.arguments import checked
from squeezenext.cli import check_file, check_folder, csv_cell, log, plural, run, say
from squeezenext.errors import InputError, RunAgain, SomeInputsFailed
from squeezenext.predict import live, sources
from squeezenext.predict.answers import Answer, Prediction, View
from squeezenext.predict.parts import FORMATS, RUNNERS, predict_to_folder
from squeezenext.predict.predictor import Predictor

_MAP = "Heat map by squeezenext"  # comment of each JPEG of --explain
THRESHOLD = 0.5  # of `known`, see network/known.py
MANY = 8  # images, from which on progress is shown


def print_text(answers: Iterable[Answer]) -> int:
    """Prints a list for each image, and errors to standard error; returns the number of errors."""
    failed = 0
    for answer in answers:
        if answer.error:
            log(f"error: {answer.error}")
            failed += 1
            continue
        say(answer.path + _place(answer))
        if answer.known is not None and answer.known < THRESHOLD:
            like = f", most like {_class(answer.predictions[0])}" if answer.predictions else ""
            say(f"  unknown{like} (known {answer.known:.2f}, threshold {THRESHOLD:g})")
        for row in answer.predictions:
            say(f"  {row.probability:7.2%}  {_class(row)}")
        if not answer.predictions:
            say("  no class reaches --threshold")
    return failed


def _place(answer: Answer) -> str:
    return "" if answer.frame is None else f"  frame {answer.frame}, {answer.seconds:.2f} s"


def _class(row: Prediction) -> str:
    return row.label if row.label == row.synset else f"{row.label}  ({row.synset})"


def print_json(answers: Iterable[Answer]) -> int:
    """Prints a line with a JSON object for each image; returns the number of errors."""
    failed = 0
    for answer in answers:
        print(json.dumps(answer.document()), flush=True)
        failed += answer.error is not None
    return failed


def print_csv(answers: Iterable[Answer]) -> int:
    """Prints a CSV row for each image and class, errors included; returns the number of errors."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    answers, held = iter(answers), []
    for answer in answers:  # the first without an error shows which columns there are
        held.append(answer)
        if not answer.error:
            break
    last = list(held[-1].more) if held else []
    writer.writerow(["path", "rank", "index", "synset", "label", "probability", "error", *last])
    failed = 0
    for answer in itertools.chain(held, answers):
        path, more = csv_cell(answer.path), [getattr(answer, name) for name in last]
        for rank, row in enumerate(answer.predictions, start=1):
            names = csv_cell(row.synset), csv_cell(row.label)
            writer.writerow([path, rank, row.index, *names, row.probability, "", *more])
        if answer.error or not answer.predictions:  # none is as probable as --threshold
            writer.writerow([path, "", "", "", "", "", csv_cell(answer.error or ""), *more])
        failed += answer.error is not None
    return failed


WRITERS = {"text": print_text, "json": print_json, "csv": print_csv}


@checked(top_k=1)
def predict(
    paths: Sequence[str],
    model: str | Path,
    *,
    top_k: int = 5,
    threshold: float = 0.0,
    allow_url: bool = False,
    features: Path | None = None,
    explain: Path | None = None,
) -> Iterator[Answer]:
    """Yields the answer for each image, in order.

    Args:
      paths: images, folders, patterns, lists (.txt), URLs, "-".
      model: a model directory, a published model's name, or an exported file.
      top_k: number of classes for each image.
      threshold: probability below which classes are skipped.
      allow_url: download images whose path is an https URL of a public host.
      features: .npy file for the features, written at the end with a .json file of the paths.
      explain: folder for the heat maps, one image each.

    Raises:
      InputError: there is no such model, a folder has no images, or a file cannot be written.
    """
    names = sources.expand(paths, allow_url)
    if features and features.suffix != ".npy":
        raise InputError(f"--features {features} must end in .npy.")
    if features:
        check_file("features", features)
        pair = [path for path in (features, features.with_suffix(".json")) if path.exists()]
        if len(pair) == 1:  # they are written together, so one alone is another program's
            raise InputError(f"--features {features}: {pair[0]} is there already; move it away.")
    if explain:
        check_folder("explain", explain, "[0-9][0-9][0-9][0-9][0-9]-*.jpg")
    predictor = Predictor(model, inside=bool(features or explain), allow_url=allow_url)
    draw = _drawer(explain, predictor) if explain else None
    answers = predictor.answers(names, top_k, threshold, draw)
    # On a terminal the lines themselves show how far it is.
    if len(names) >= MANY and sys.stderr.isatty() and not sys.stdout.isatty():
        answers = _with_progress(answers, len(names))
    return _keeping_features(answers, features) if features else answers


def _drawer(folder: Path, predictor: Predictor) -> Callable[..., Path]:
    """Returns a function that writes the heat map of an image's best class into `folder`."""
    from squeezenext.predict import heatmap

    folder.mkdir(parents=True, exist_ok=True)

    def draw(number: int, path: str, image: Image.Image, view: View, best: Prediction) -> Path:
        drawn = heatmap.overlay(image, view.class_map(best.index), predictor.config)
        file = folder / f"{number:05d}-{sources.stem(path)}.jpg"
        files.check_ours(file, _MAP)
        files.write_file(file, lambda target: drawn.save(target, quality=90, comment=_MAP))
        return file

    return draw


def _keeping_features(answers: Iterator[Answer], path: Path) -> Iterator[Answer]:

    rows, names = [], []
    for answer in answers:
        if answer.features is not None:
            rows.append(answer.features)
            names.append(answer.path)
        yield answer
    table = np.stack(rows) if rows else np.zeros((0, 0), np.float32)
    files.write_file(path, lambda file: np.save(file, table))
    files.write_json(path.with_suffix(".json"), names)


def _with_progress(answers: Iterator[Answer], total: int) -> Iterator[Answer]:
    from squeezenext.progress import Bar

    with Bar("Predicting images", total) as bar:
        for number, answer in enumerate(answers, start=1):
            bar.update(number, f"{number} of {total}")
            yield answer


def _define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory, published model or file.", **at)
    flags.DEFINE_integer("top_k", 5, "Number of classes for each image.", 1, **at)
    flags.DEFINE_float("threshold", 0.0, "Skip classes of lower probability.", 0.0, 1.0, **at)
    forms = "Format of the answers; default text, or jsonl with --output."
    flags.DEFINE_enum("format", None, [*WRITERS, *FORMATS], forms, **at)
    flags.DEFINE_bool("allow_url", False, "Download https URLs of public hosts.", **at)
    flags.DEFINE_string("features", None, "Write features to this .npy file.", **at)
    flags.DEFINE_string("explain", None, "Write images with heat maps to this folder.", **at)
    flags.DEFINE_string("output", None, "Write the answers to files in this folder.", **at)
    flags.DEFINE_integer("part_size", 1000, "Images in each file of --output.", 1, **at)
    flags.DEFINE_enum("runner", "local", RUNNERS, "What runs the work of --output.", **at)
    flags.DEFINE_multi_string("beam_options", [], "Beam's options, such as --streaming.", **at)
    flags.DEFINE_integer("camera", None, "Number of a camera; the first is 0.", 0, 2**31 - 1, **at)
    flags.DEFINE_string("video", None, "Video file, or a stream such as rtsp://HOST/...", **at)
    flags.DEFINE_string("watch", None, "Folder whose new images are predicted.", **at)
    flags.DEFINE_float("every", 0.0, "Least seconds between two frames; 0: every frame.", 0.0, **at)
    flags.DEFINE_float("smoothing", 0.5, "Seconds, time constant of averaging; 0: none.", 0.0, **at)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    _define(values)

    def command(values: flags.FlagValues, paths: list[str]) -> None:
        source = _check_sources(values, paths)
        output = values["output"].value
        failed = _write(values, paths) if output else _print(values, paths, source)
        if failed:
            where = f'; the answers in {output} that have an "error" say why' if output else ""
            raise SomeInputsFailed(f"{plural(failed, 'image')} could not be read{where}.")

    return run(
        command,
        values,
        __doc__,
        argv,
        required=("model_dir",),
        positional=True,
        prints=True,
        addresses=("video",),
    )


def _print(values: flags.FlagValues, paths: list[str], source: str) -> int:
    """Prints the answers; returns the number of errors."""
    writer = WRITERS.get(values["format"].value or "text")
    if writer is None:
        given = values["format"].value
        raise InputError(f"--format {given} needs --output, such as --output answers.")
    answers = _live(values, source) if source else _photographs(values, paths)
    try:
        return writer(answers)
    except BrokenPipeError:
        if values["features"].value or values["explain"].value:
            for _ in answers:  # `head` has ended; the files must be complete all the same
                pass
        raise
    except KeyboardInterrupt:
        if source != "watch" and not (source and live.is_stream(values[source].value)):
            raise
        log("Stopped.")
        return 0


def _write(values: flags.FlagValues, paths: list[str]) -> int:
    """Writes the answers to files; returns the number of errors."""
    names = ("part_size", "top_k", "threshold", "allow_url", "runner", "beam_options")
    chosen = {name: values[name].value for name in names}
    chosen["format"] = values["format"].value or FORMATS[0]
    try:
        return predict_to_folder(paths, values["model_dir"].value, values["output"].value, **chosen)
    except KeyboardInterrupt:  # `run` would say that the same command begins anew
        raise RunAgain("Interrupted; run the same command again to go on.") from None


def _check_sources(values: flags.FlagValues, paths: list[str]) -> str:
    """Returns "camera", "video" or "watch", or "" if the pictures are paths.

    Raises:
      InputError: there is no source, there are several, or a flag is of another one.
    """
    given = [name for name in ("camera", "video", "watch") if values[name].value is not None]
    if not given and not paths:
        raise InputError("Name at least one image or folder, or - for standard input.")
    if len(given) + bool(paths) > 1:
        other = "the paths" if paths else f"--{given[1]}"
        raise InputError(f"--{given[0]} cannot be combined with {other}; leave out one of them.")
    source = given[0] if given else ""
    for name in ("features", "explain", "allow_url", "output"):
        if source and values[name].value:
            raise InputError(f"--{name} is for photographs, not for --{source}.")
    for name in ("every", "smoothing"):
        if values[name].present and source not in ("camera", "video"):
            raise InputError(f"--{name} means nothing without --camera or --video.")
    cli.check_needed(values, dict.fromkeys(("part_size", "runner", "beam_options"), "output"))
    for name in ("features", "explain"):
        if values["output"].value and values[name].value:
            raise InputError(f"--{name} does not go with --output; run the command once for each.")
    return source


def _photographs(values: flags.FlagValues, paths: list[str]) -> Iterator[Answer]:
    return predict(
        paths,
        values["model_dir"].value,
        top_k=values["top_k"].value,
        threshold=values["threshold"].value,
        allow_url=values["allow_url"].value,
        features=_path(values["features"].value),
        explain=_path(values["explain"].value),
    )


def _live(values: flags.FlagValues, source: str) -> Iterator[Answer]:
    """Yields the answers for a camera, a video or a watched folder, each as soon as possible."""
    with contextlib.suppress(AttributeError, ValueError):  # not a text file, as under a test
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    predictor, given = Predictor(values["model_dir"].value), values[source].value
    choice = values["top_k"].value, values["threshold"].value
    if source == "watch":
        return live.folder_answers(predictor, Path(given), *choice)
    averaged = values["every"].value, values["smoothing"].value
    return live.frame_answers(predictor, given, *averaged, *choice)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
