"""Photographs to a shipped classifier, in one command.

    python -m squeezenext.adapt PHOTOS --model_dir DIR [--minutes 15]

PHOTOS holds a folder a class, or the folders train and validation (and test) of such. DIR will
hold the records, the network fine-tuned from published weights, model.tflite and exported/. How
long to train, and on images of what size, follows from the machine's speed and the time given; it
is said, and kept in adapt.json. Interrupted, the same command goes on. In Python:

    from squeezenext import adapt
    adapted = adapt.adapt("photos", "model", minutes=15)
    print(adapted.scores)
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext import atomic, compress, config_io, export, quiet, train
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.flags import run
from squeezenext.foreign import named
from squeezenext.foreign.published import PUBLISHED
from squeezenext.records import dataset
from squeezenext.training import phases, recipes
from squeezenext.training.options import Options

PLAN = "adapt.json"
RECORDS = "records"
EXPORTED = "exported"
MAX_SIDE = 400  # of a record's image; larger ones only take longer to read
# Of the time given; conversion, evaluation and export take the rest.
TRAINING_SHARE, COMPRESSION_SHARE = 0.5, 0.2
MIN_EPOCHS, MAX_EPOCHS = 8, 40  # rather smaller images than fewer; more teaches nothing new
SIZES = (1.0, 0.85, 0.7, 0.56)  # of the images' side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was chosen for this machine and time."""

    configuration: str
    minutes: float
    images_per_second: float  # of training at the network's own size, measured
    size: int
    epochs: float
    compression_epochs: float  # of retraining while the network is compressed

    def __str__(self) -> str:
        return (
            f"{self.epochs:g} epochs of {self.configuration} at {self.size} x {self.size} pixels, "
            f"{self.compression_epochs:g} more to compress it: this machine trains "
            f"{self.images_per_second:.0f} images/s at full size, and has {self.minutes:g} minutes"
        )

    def config(self) -> Config:
        """The fine-tuning recipe with what was chosen."""
        config = recipes.apply("fine_tune", config_io.load(self.configuration))
        return dataclasses.replace(
            config,
            images=phases.resized(config.images, self.size),
            training=dataclasses.replace(config.training, epochs=self.epochs),
        )


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What came out: the files, and each one's top-1 on images that were not trained on."""

    model_dir: Path
    plan: Plan
    scores: dict[str, float]
    files: dict[str, Path]


def adapt(
    photos: str | Path,
    model_dir: str | Path,
    *,
    configuration: str = "squeezenet_v1_1",
    minutes: float = 15.0,
    max_bytes: int = 250_000,
    seed: int = 0,
) -> Adapted:
    """Makes a classifier of a folder of photographs.

    Args:
      photos: a folder a class, or train and validation folders of such.
      model_dir: made if absent; a run in it that was interrupted goes on.
      configuration: a published model, from whose weights training starts.
      minutes: for all of it, roughly.
      max_bytes: of the .sqz file; 0 makes none.
      seed: of the split, the new classifier's weights, the order and the augmentation.

    Raises:
      InputError: a fault in the arguments or the photographs.
      RunAgain: interrupted and saved, or another process works in `model_dir`.
    """
    photos, model_dir = Path(photos), Path(model_dir)
    if configuration not in PUBLISHED:
        raise InputError(
            f"--configuration {configuration}: there are no published weights to start from; "
            f"there are for {', '.join(PUBLISHED)}."
        )
    if not minutes > 0:
        raise InputError(f"--minutes {minutes:g}: must be positive.")
    named.resolve(configuration)  # what has to be fetched is fetched before any work
    records = _convert(photos, model_dir / RECORDS, seed)
    plan = _planned(model_dir / PLAN, records, configuration, minutes)
    _say(f"{plan}.")
    options = Options(
        model_dir=model_dir, data_dir=records, fine_tune_from=configuration, seed=seed
    )
    trained = train.train(plan.config(), options)
    files, scores = _export(model_dir, records)
    if max_bytes:
        path, top1 = _compress(model_dir, records, plan, max_bytes)
        files["sqz"], scores["sqz"] = path, top1
    return Adapted(model_dir, plan, {"validation": trained["top1"], **scores}, files)


def _convert(photos: Path, records: Path, seed: int) -> Path:
    """Makes records of the photographs; at once where they are made already."""
    if not photos.is_dir():
        raise InputError(f"{photos} is no folder; give the one that holds a folder a class.")
    try:
        from squeezenext.datasets import convert
    except ImportError:  # a checkout, where the converter lies beside this package
        from datasets import convert

    manifest = convert.convert(photos, records, layout="folder", max_side=MAX_SIDE, seed=seed)
    for row in manifest.raw["rejected"]:
        print(f"left out: {row['file']} {row['reason']}", file=sys.stderr)
    return records


def _planned(path: Path, records: Path, configuration: str, minutes: float) -> Plan:
    """Returns the plan that was made before, or makes one and keeps it.

    Raises:
      InputError: the one made before is for another model or time, or damaged.
    """
    if not path.is_file():
        plan = _plan(records, configuration, minutes)
        text = json.dumps(dataclasses.asdict(plan), indent=1) + "\n"
        atomic.write_file(path, lambda file: file.write_text(text, "utf-8"))
        return plan
    try:
        plan = Plan(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged; remove {path.parent} and start again.") from error
    if (plan.configuration, plan.minutes) != (configuration, minutes):
        raise InputError(
            f"{path.parent} was begun with --configuration {plan.configuration} --minutes "
            f"{plan.minutes:g}; give these again, or another --model_dir."
        )
    return plan


def _plan(records: Path, configuration: str, minutes: float) -> Plan:
    """Measures the machine and chooses as many epochs, on as large images, as there is time."""
    found = dataset.find(records, None, None)
    dataset.check_split(found, "train")
    quiet.import_tensorflow()
    from squeezenext.training import speed

    config = recipes.apply("fine_tune", config_io.load(configuration))
    rate = speed.training_rate(config)
    held_out = found.splits["validation"].examples if "validation" in found.splits else 0
    # An image of validation costs a third of one of training: nothing goes backward.
    images = found.splits["train"].examples + held_out / 3
    epochs_at_full_size = 60 * minutes * TRAINING_SHARE * rate / images
    for share in SIZES:
        size = 8 * round(config.images.size * share / 8) if share < 1 else config.images.size
        epochs = epochs_at_full_size * (config.images.size / size) ** 2
        if epochs >= MIN_EPOCHS:
            break
    compression = epochs * COMPRESSION_SHARE / TRAINING_SHARE
    return Plan(
        configuration=configuration,
        minutes=minutes,
        images_per_second=round(rate, 1),
        size=size,
        epochs=float(max(2, min(MAX_EPOCHS, int(epochs)))),
        compression_epochs=float(min(MAX_EPOCHS // 2, int(compression))),
    )


def _export(model_dir: Path, records: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """Writes the model for phones, in float32 and in eight bits; returns files and top-1."""
    folder = model_dir / EXPORTED
    folder.mkdir(exist_ok=True)
    files, scores = {}, {}
    for precision in ("float32", "int8"):
        path = folder / f"model-{precision}.tflite"
        told = export.export(model_dir, "litert", path, precision, records)
        files[precision], scores[precision] = path, told["top1"]
    return files, scores


def _compress(model_dir: Path, records: Path, plan: Plan, max_bytes: int) -> tuple[Path, float]:
    """Writes the .sqz file, retrained for as long as the plan says; returns it and its top-1."""
    path = model_dir / EXPORTED / "model.sqz"
    method = compress.Method(max_bytes=max_bytes, epochs=plan.compression_epochs)
    report = compress.compress(model_dir, path, method, records, say=_say)
    return path, report["accuracy"]["after"]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _told(adapted: Adapted) -> str:
    """The result for people: each file with its size and score, and what to type next."""
    lines = [
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, top-1 {adapted.scores[name]:.4f}"
        for name, path in adapted.files.items()
    ]
    return "\n".join([*lines, f"Try it: python predict.py PHOTO --model_dir {adapted.model_dir}"])


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Where everything is kept; resumes what is there.", **at)
    names = f"Published model to start from: {', '.join(PUBLISHED)}."
    flags.DEFINE_string("configuration", "squeezenet_v1_1", names, **at)
    flags.DEFINE_float("minutes", 15.0, "How long it may take, roughly.", **at)
    flags.DEFINE_integer("max_bytes", 250_000, "Of the .sqz file; 0 makes none.", 0, **at)
    flags.DEFINE_integer("seed", 0, "Of the split, the order and the augmentation.", 0, **at)

    def command(values, positional):
        if len(positional) != 1:
            raise InputError("Give one folder of photographs: squeezenext.adapt PHOTOS ...")
        if not values["model_dir"].value:
            raise InputError("--model_dir is missing: where everything shall be kept.")
        adapted = adapt(
            positional[0],
            values["model_dir"].value,
            configuration=values["configuration"].value,
            minutes=values["minutes"].value,
            max_bytes=values["max_bytes"].value,
            seed=values["seed"].value,
        )
        print(_told(adapted))

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
