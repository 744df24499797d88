"""The files of a model directory, each read and written here alone.

config.json labels.json    the configuration as it was trained, and the classes
checkpoints/               what training resumes from, see checkpoint.py
history.csv train.log tensorboard/    the run's figures, see squeezenext/train/history.py
model_stats.csv            parameters and multiply-adds by layer
final.json model.tflite    scores and float32 network of a run that has ended
calibration.json           the temperature that `evaluate --fit_temperature` found
known.json                 of `adapt`: what says whether an image shows one of the classes
adapt.json scores.json     of `adapt`: its plan; scores on images that nothing was trained on
before.json before/        of `adapt`: the photographs of the model that it went on from, and that
                           model, if it was in this directory
MODEL_CARD.md              see card.py
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from squeezenext import files, labels
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.model import checkpoint
from squeezenext.network import graph, known
from squeezenext.network.bounds import check_bounds
from squeezenext.network.model import check_labels, check_temperature

CONFIG, LABELS, CHECKPOINTS = "config.json", "labels.json", "checkpoints"
HISTORY, LOG, STATS = "history.csv", "train.log", "model_stats.csv"
FINAL, LITERT, CARD = "final.json", "model.tflite", "MODEL_CARD.md"
CALIBRATION, SCORES, KNOWN = "calibration.json", "scores.json", "known.json"
ADAPT, COMPRESSED, BEFORE = "adapt.json", "model.sqz", "before.json"
TENSORBOARD, WORKERS = "tensorboard", ".workers"  # the latter of several workers, see watchdog.py
# Of `adapt`. The photographs of no class are records of their own, below those of the classes.
RECORDS, EXPORTED, REPORT, PREVIEW = "records", "exported", "report", "preview"
NONE = "none"
DOCTOR, DOWNLOADED, ASIDE = "doctor", "photographs", "before"
FOLDERS = (
    CHECKPOINTS, TENSORBOARD, WORKERS, RECORDS, EXPORTED, REPORT, PREVIEW, DOCTOR, DOWNLOADED, ASIDE
)  # fmt: skip
_MOVING = ".before"  # what `ASIDE` is called until all is in it
# Names of single files, which no other file in the directory may have.
RESERVED = {CONFIG, LABELS, FINAL, LITERT, CALIBRATION, SCORES, KNOWN, ADAPT, COMPRESSED, BEFORE}
_FILES = RESERVED | {HISTORY, LOG, STATS, CARD}
# What training and `adapt` write after config.json, and so replace only beside one of ours.
_AFTER_CONFIG = (RESERVED - {CONFIG, ADAPT, BEFORE}) | {HISTORY, STATS, CARD}


def refuse_strangers(directory: Path) -> None:
    """Refuses a directory in which training would write into, or replace, what is not a model's.

    Raises:
      InputError: a folder in which commands write is a link, config.json is another program's, or
        there is none, but a file that training would replace.
    """
    for name in FOLDERS:
        if (directory / name).is_symlink():
            raise InputError(f"{directory / name} is a symbolic link; put the folder itself there.")
        if (directory / name).exists() and not (directory / name).is_dir():
            raise InputError(f"{directory / name} is no folder; move it away.")
    if os.path.lexists(directory / CONFIG):
        config_io.read(directory / CONFIG)
        return
    for name in sorted(_AFTER_CONFIG):
        if os.path.lexists(directory / name):
            raise InputError(
                f"{directory / name} would be replaced, but {directory} is not a model directory "
                f"(it has no {CONFIG}); choose another --model_dir, or move that file away."
            )


def read(directory: Path) -> tuple[Config, tuple[labels.Label, ...]]:
    """Returns the configuration and the classes.

    Raises:
      InputError: it is no model directory, or the two do not fit.
    """
    config, known = read_config(directory), labels.read(directory / LABELS)
    check_labels(known, config, f"{directory}/{LABELS}")
    return config, known


def read_config(directory: Path) -> Config:
    """Returns the configuration; raises InputError if it is no model directory."""
    path = directory / CONFIG
    if not path.is_file():
        from squeezenext.formats import kinds  # late, which predict.py mostly does not need

        raise InputError(
            f"{directory} is not a model directory: it has no {CONFIG}. It is "
            f"{kinds.described(directory) if directory.exists() else 'absent'}."
            f"{meanwhile(directory)}"
        )
    config = config_io.read(path)
    check_bounds(config, str(path))
    return config


def meanwhile(directory: Path) -> str:
    """Returns a sentence that names the model that answers while `adapt` is at work, or ""."""
    for name in (ASIDE, PREVIEW):
        if is_one(directory / name):
            return f" Until it is trained, give --model_dir {directory / name}."
    return ""


def is_one(directory: Path) -> bool:
    """Returns whether a directory has a config.json of ours."""
    try:
        config_io.read(directory / CONFIG)
    except InputError:
        return False
    return True


def write(directory: Path, config: Config, classes: Sequence[labels.Label]) -> None:
    """Makes the directory with its configuration and classes.

    Raises:
      InputError: the directory holds a model of another configuration or other classes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, names = directory / CONFIG, directory / LABELS
    check_bounds(config, f"The configuration for {directory}")
    # Another program's files of these names are refused, too.
    before = config_io.read(path).model if os.path.lexists(path) else config.model
    known = labels.read(names) if os.path.lexists(names) else tuple(classes)
    if checkpoint.steps(directory / CHECKPOINTS):
        if before != config.model:
            raise InputError(
                f"{directory} holds a model of another network; choose another --model_dir."
            )
        if known != tuple(classes):
            raise InputError(
                f"{directory} holds a model of other classes; choose another --model_dir."
            )
    files.write_text(path, config_io.to_json(config))
    files.write_file(names, lambda file: labels.write(file, classes))


def read_json(path: Path) -> dict:
    """Returns a JSON document; {} if there is none that can be read."""
    try:
        document = files.read_document(path)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def others(directory: Path) -> list[str]:
    """Returns the names in a directory that no command here gives to a file of a model's."""
    ours = {*FOLDERS, *_FILES}
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(name for name in names if name not in ours and not name.startswith("."))


def remove_results(directory: Path) -> None:
    """Removes the files that belong to the end of a run, which now goes on."""
    for name in (FINAL, LITERT, CALIBRATION, SCORES, KNOWN):
        (directory / name).unlink(missing_ok=True)


def is_moving(directory: Path) -> bool:
    """Returns whether `set_aside` was interrupted."""
    return (directory / _MOVING).is_dir()


def set_aside(directory: Path) -> None:
    """Moves a model to the folder `before` of its directory, instead of the one that is there.

    What was downloaded stays. Wherever it is interrupted, another call goes on: the model that was
    there is removed when the other is complete, and nothing else may be written meanwhile.

    Raises:
      InputError: a file cannot be moved.
    """
    moving, aside = directory / _MOVING, directory / ASIDE
    try:
        moving.mkdir(exist_ok=True)
        files.flush(directory)
        names = {*FOLDERS, *_FILES} - {ASIDE, DOWNLOADED, CONFIG}
        for name in (*sorted(names), CONFIG):  # last, for `refuse_strangers`
            if os.path.lexists(directory / name):
                os.rename(directory / name, moving / name)
        files.flush(moving)
        if aside.exists():
            shutil.rmtree(aside)
        os.rename(moving, aside)
        files.flush(directory)
    except OSError as error:
        raise InputError(
            f"{error.filename or directory} cannot be moved to {aside} ({error.strerror}); mend "
            "that and run the same command again."
        ) from error


def read_temperature(directory: Path) -> float:
    """Returns the temperature that was fitted, else 1.

    Raises:
      InputError: calibration.json is damaged.
    """
    path = directory / CALIBRATION
    if not os.path.lexists(path):
        return 1.0
    try:
        return check_temperature(files.read_document(path)["temperature"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; delete it or fit it again.") from error


def read_fitted_to(directory: Path) -> str:
    """Returns `shards_sha256` of the split that the temperature was fitted to, or "".

    On images that it was fitted to, the calibration error says nothing about other images.
    """
    return str(read_json(directory / CALIBRATION).get("shards_sha256", ""))


def write_temperature(
    directory: Path, temperature: float, source: str, examples: int, shards_sha256: str
) -> None:
    """Writes calibration.json; `source` names the data and the split for people."""
    document = {
        "temperature": temperature,
        "fitted_to": source,
        "examples": examples,
        "shards_sha256": shards_sha256,
    }
    files.write_json(directory / CALIBRATION, document)


def read_known(directory: Path, network: graph.Graph) -> known.Known | None:
    """Returns what says whether an image shows one of the classes, None if none was fitted.

    Raises:
      InputError: known.json is damaged, or of another network.
    """
    path = directory / KNOWN
    if not os.path.lexists(path):
        return None
    try:
        return known.from_document(files.read_document(path)["known"], network)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged: {error}; delete it and model.tflite, or bring them back."
        ) from error


def write_known(
    directory: Path, fitted: known.Known, train: int, held_out: int, none: int = 0
) -> None:
    """Writes known.json and removes model.tflite, whose outputs are to be others from now on.

    Without model.tflite the checkpoint is read. `train` and `held_out` count the images of the fit,
    `none` those of no class.
    """
    (directory / LITERT).unlink(missing_ok=True)
    counts = {"train": train, "held_out": held_out, **({"none": none} if none else {})}
    files.write_json(directory / KNOWN, {"known": fitted.to_json(), "fitted_to": counts})
