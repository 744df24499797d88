"""The model card, MODEL_CARD.md: what a model is, how it was trained, and what its limits are.

Every model directory and every exported folder has one, with the front matter that Hugging Face
reads.
"""

import json
import shlex
from pathlib import Path

import jinja2
from markupsafe import Markup

from squeezenext import labels
from squeezenext.cli import printable
from squeezenext.config import Config
from squeezenext.config.network import SqueezeNet
from squeezenext.errors import InputError
from squeezenext.files import read_rows, write_text
from squeezenext.model import checkpoint
from squeezenext.model import directory as model_directory

FILE = model_directory.CARD
_SHOWN = 20  # class names in the card


def write(directory: Path) -> Path:
    """Writes the card of a model directory into it and returns its path; see `render`."""
    path, text = directory / FILE, render(directory)
    write_text(path, text)
    return path


def render(directory: Path) -> str:
    """Returns the text of the card, made from the files of a model directory.

    Raises:
      InputError: it is no model directory.
    """
    config, classes = model_directory.read(directory)
    try:
        return _template().render(_fields(directory, config, classes))
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError, jinja2.UndefinedError) as error:
        raise InputError(f"{directory} holds figures that are no numbers: {error}.") from error


def _fields(directory: Path, config: Config, classes: tuple[labels.Label, ...]) -> dict:
    parameters, macs = _size(directory / model_directory.STATS)
    source = imported(directory)
    # A file that is not there yet is {}; the commands that need it report damage.
    final, scores, calibration = (
        model_directory.read_json(directory / name)
        for name in (model_directory.FINAL, model_directory.SCORES, model_directory.CALIBRATION)
    )
    return dict(
        name=" ".join(directory.resolve().name.split()),
        config=config,
        family="SqueezeNet" if isinstance(config.model, SqueezeNet) else "SqueezeNext",
        paper="1602.07360" if isinstance(config.model, SqueezeNet) else "1803.10615",
        classes=len(classes),
        names=[label.name for label in classes[:_SHOWN]],
        imagenet=classes == labels.imagenet(),
        final=final | scores.get("network", {}),
        scores=scores,
        base=final.get("fine_tuned_from"),
        imported=source,
        sources=source.get("files", ()),
        parameters=parameters,
        macs=macs,
        files=_files(directory, scores.get("files", {})),
        preprocessing=_preprocessing(config),
        calibration=calibration,
        known=(directory / model_directory.KNOWN).is_file(),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # that is for HTML
        finalize=_plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A JSON string is a YAML string, whatever is in it.
    environment.filters["quoted"] = lambda text: Markup(json.dumps(str(text), ensure_ascii=False))
    environment.filters["shell"] = lambda text: Markup(shlex.quote(_code(text)))
    environment.filters["code"] = lambda text: Markup(f"`{_code(str(text))}`")
    return environment.get_template("card.md.j2")


def _plain(value: object) -> object:
    """Returns what a template shows, which strangers may have named, without its Markdown."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    kept = " ".join(value.split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in printable(kept))


def _code(text: str) -> str:
    """Returns a text for a code span: one line, without the mark that would end it."""
    return printable(" ".join(text.split())).replace("`", "'")


def imported(directory: Path) -> dict:
    """Returns the source of imported weights from their checkpoint; {} for own training."""
    checkpoints = directory / model_directory.CHECKPOINTS
    steps = checkpoint.steps(checkpoints)
    try:
        meta = checkpoint.read_meta(checkpoints, steps[-1]) if steps else {}
    except InputError:
        return {}
    return meta.get("imported") or {}


def _size(path: Path) -> tuple[int | None, int | None]:
    """Returns (parameters, multiply-adds) of model_stats.csv's last row."""
    try:
        last = read_rows(path)[-1]
        return int(last["parameters"]), int(last["macs"])
    except (IndexError, KeyError, ValueError, TypeError):
        return None, None


def _files(directory: Path, scores: dict) -> list[tuple[str, int, float | None]]:
    """Returns (path, bytes, top-1 if it was measured) of each file for another runtime.

    Such are the directory's `.tflite` and `.sqz` files, and what `squeezenext.export` wrote with a
    report beside it.
    """
    found = []
    for path in sorted([*directory.iterdir(), *directory.glob(f"{model_directory.EXPORTED}/*")]):
        hidden = path.name.startswith(".")  # a killed process leaves temporary files
        exported = path.suffix in (".tflite", ".sqz") or Path(f"{path}.json").is_file()
        if exported and path.is_file() and not hidden:
            name = path.relative_to(directory).as_posix()
            found.append((name, path.stat().st_size, scores.get(name, {}).get("top1")))
    return found


def _preprocessing(config: Config) -> str:
    images = config.images
    how = {
        "squash": f"resized to {images.resize} x {images.resize}",
        "short_side": f"resized so that its shorter side has {images.resize} pixels",
    }[images.resize_mode]
    exif = images.orientation == "exif"
    upright = "turned upright as its EXIF orientation says, " if exif else ""
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (images.mean, images.std))
    return (
        f"An image is {upright}{how} (bilinear, antialiased), its centre of {images.size} x "
        f"{images.size} cut out, and given as {images.channels}, (pixel - mean) / deviation, "
        f"pixels in 0..255, mean ({mean}), deviation ({std}). Transparency shows white."
    )
