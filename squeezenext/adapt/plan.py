"""How `adapt` spends the minutes it is given: sizes and epochs, from this machine's speed.

What an image costs follows from the measured rate of training; the fixed costs are counted in
graphs, each of which TensorFlow takes as long to build as it took for the measurement.
"""

import dataclasses
import json
import math
from pathlib import Path

from squeezenext import files, tf_import
from squeezenext.compress import method
from squeezenext.config import Config, recipes
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.network import graph
from squeezenext.records.manifest import Split
from squeezenext.train import phases

BATCH = 32  # of recipes.fine_tune and compress' retraining
SHARES = (1.0, 0.85, 0.7, 0.56)  # of the network's own side, for training's images
GROWTH = (0.7, 0.85, 1.0)  # of that side, each for a third of the epochs, as in recipes.fine_tune
# Rather than fewer epochs, or fewer steps where a set is small, smaller images; more of them teach
# nothing new.
MIN_EPOCHS, MIN_STEPS = 8.0, 120
MAX_EPOCHS, MAX_STEPS = 40.0, 600
# However few minutes there are: so many steps, unless they are more than so many epochs.
LEAST_STEPS, LEAST_EPOCHS = 40, 10
FROZEN_STEPS = 20  # of the classifier alone, which begins with random weights
# A file of more bits a weight needs no retraining: at 2.7 an adapted SqueezeNet 1.1 lost 0.6 points
# on the clothing photographs' validation images (docs/compression.md).
RETRAINED_BELOW = 2.5
COMPRESSION_SHARE = 0.3  # of what training and retraining have together
MAX_COMPRESSION_EPOCHS, MAX_COMPRESSION_STEPS = 16.0, 400
MARGIN = 0.9  # of the time that is left is planned; the rest is for what was not foreseen
# In images of training: decoding beside it, forward alone, a single one in LiteRT, a teacher's too.
DECODED, FORWARD, ALONE, TAUGHT = 1.1, 0.35, 0.15, 1.5
EPOCH_SECONDS = 0.5  # a checkpoint, and now and then an evaluation
EVALUATIONS = 6  # in the course of training
# What takes as long as building so many training steps: export, evaluation and report; the search
# for a file that fits; its retraining.
EXPORTING, SEARCHING, RETRAINING = 2, 4, 3
# How often export looks at an image of its ranges (for them, then by int8 and by the network), and
# export and evaluation at a held-out one.
_CALIBRATION_IMAGES, _SEEN, _LOOKS = 200, 3, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was chosen for this machine and time; kept in adapt.json, so that a run goes on by it.

    Attributes:
      images_per_second: of training at the network's own size, measured.
      build_seconds: to build a training step, measured.
      size: of training's last images, and of prediction's, in pixels.
      growing: begin with smaller ones.
      frozen_epochs: at the start, in which the classifier alone learns.
      compression_epochs: of retraining while the network is compressed; 0 for none.
      max_bytes: that these are for.
      needs_minutes: about what all of it takes, where that is more than was given; else 0.
      batch_size: of training.
    """

    configuration: str
    minutes: float
    images_per_second: float
    build_seconds: float
    size: int
    growing: bool
    epochs: float
    frozen_epochs: int
    compression_epochs: float
    max_bytes: int
    needs_minutes: float = 0.0
    batch_size: int = BATCH

    def __str__(self) -> str:
        growing = "up to " if self.growing else ""
        retrained = self.compression_epochs
        more = f", {retrained:g} more to compress it" if retrained else ""
        needs = f"; this needs some {math.ceil(self.needs_minutes)}, as less would teach too little"
        return (
            f"{self.epochs:g} epochs of {self.configuration} at {growing}{self.size} x {self.size} "
            f"pixels{more}: this machine trains {self.images_per_second:.0f} images/s at full "
            f"size, and has {self.minutes:g} minutes{needs if self.needs_minutes else ''}"
        )

    def config(self) -> Config:
        """The fine-tuning recipe with what was chosen."""
        config = recipes.apply("fine_tune", config_io.load(self.configuration))
        images = phases.resized(config.images, self.size)
        if self.growing:
            images = dataclasses.replace(images, progressive=_grown(self.size))
        training = dataclasses.replace(
            config.training,
            epochs=self.epochs,
            frozen_epochs=self.frozen_epochs,
            batch_size=self.batch_size,
        )
        return dataclasses.replace(config, images=images, training=training)

    @property
    def evaluate_every_epochs(self) -> int:
        return max(1, round(self.epochs / EVALUATIONS))

    def compression_epochs_within(self, seconds: float, examples: int) -> float:
        """Returns how many of the planned epochs of compression there is time for, 2 at least."""
        if seconds == math.inf or not self.compression_epochs:
            return self.compression_epochs
        fitting = seconds - (SEARCHING + RETRAINING) * self.build_seconds
        epochs = math.floor(fitting / self.taught_seconds(examples))
        return min(self.compression_epochs, max(2.0, float(epochs)))

    def taught_seconds(self, examples: int) -> float:
        """Returns what an epoch of retraining takes."""
        side = self.size / config_io.load(self.configuration).images.size
        return TAUGHT * examples * side**2 / self.images_per_second


def kept(path: Path, configuration: str, minutes: float) -> Plan | None:
    """Returns the plan that an earlier call has made, if any.

    Raises:
      InputError: it is for another model or time, of another release, or damaged.
    """
    if not path.is_file():
        return None
    try:
        plan = Plan(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged, or of another release; bring it back from a copy, go on with that "
            "release, or give another --model_dir."
        ) from error
    if (plan.configuration, plan.minutes) != (configuration, minutes):
        raise InputError(
            f"{path.parent} was begun with --configuration {plan.configuration} --minutes "
            f"{plan.minutes:g}; give these again, or another --model_dir."
        )
    return plan


def keep(path: Path, plan: Plan) -> None:
    """Writes a plan."""
    files.write_json(path, dataclasses.asdict(plan))


def measured(configuration: str) -> tuple[float, float]:
    """Returns (images a second, seconds to build a step) of training this network here."""
    tf_import.import_tensorflow()
    from squeezenext.train import measure

    return measure.measure_speed(recipes.apply("fine_tune", config_io.load(configuration)))


def batch_size() -> int:
    """Returns the batch nearest to the recipe's that divides among this machine's devices."""
    tf_import.import_tensorflow()
    from squeezenext.train import devices

    return method.divisible(BATCH, devices.strategy(0).num_replicas_in_sync)


def plan(
    configuration: str,
    splits: dict[str, Split],
    classes: int,
    *,
    minutes: float,
    seconds: float,
    speed: tuple[float, float],
    max_bytes: int,
    batch_size: int = BATCH,
) -> Plan:
    """Chooses as many epochs, on as large images, as there is time for.

    Args:
      splits: of the photographs, "train" among them.
      minutes: that were given.
      seconds: that are left of them.
      speed: as `measured` returns it.
      max_bytes: of the `.sqz` file; 0 for none.
      batch_size: of training, see `batch_size`.
    """
    train = splits["train"].examples
    fixed, share = _fixed(configuration, splits, classes, speed, max_bytes)
    left = MARGIN * seconds - fixed
    full = config_io.load(configuration).images.size
    size, growing, epochs = _training(full, train, (1 - share) * left, speed)
    made = Plan(
        configuration=configuration,
        minutes=minutes,
        images_per_second=round(speed[0], 1),
        build_seconds=round(speed[1], 1),
        size=size,
        growing=growing,
        epochs=epochs,
        frozen_epochs=min(math.ceil(FROZEN_STEPS * BATCH / train), int(epochs) - 1),
        compression_epochs=0.0,
        max_bytes=max_bytes,
        batch_size=batch_size,
    )
    made = _compressing(made, train, left, share)
    needed = 60 * minutes - seconds + fixed + _seconds(made, train)
    return dataclasses.replace(
        made, needs_minutes=round(needed / 60, 1) if needed > 60 * minutes else 0.0
    )


def for_budget(made: Plan, splits: dict[str, Split], classes: int, max_bytes: int) -> Plan:
    """Returns a plan for a file of another size: with its retraining, training as it was.

    Args:
      made: by an earlier call.
      splits, classes, max_bytes: as `plan` takes them.
    """
    if max_bytes == made.max_bytes:
        return made
    speed = made.images_per_second, made.build_seconds
    fixed, share = _fixed(made.configuration, splits, classes, speed, max_bytes)
    left = MARGIN * 60 * made.minutes - fixed
    made = dataclasses.replace(made, max_bytes=max_bytes)
    return _compressing(made, splits["train"].examples, left, share)


def _fixed(
    configuration: str,
    splits: dict[str, Split],
    classes: int,
    speed: tuple[float, float],
    max_bytes: int,
) -> tuple[float, float]:
    """Returns the seconds of all but training and retraining, and the latter's share of those."""
    rate, build = speed
    held_out = sum(split.examples for name, split in splits.items() if name != "train")
    alone = ALONE * (_CALIBRATION_IMAGES * _SEEN + _LOOKS * held_out)
    fixed = EXPORTING * build
    fixed += (alone + EVALUATIONS * FORWARD * splits["validation"].examples) / rate
    if max_bytes:
        fixed += SEARCHING * build
        if max_bytes < RETRAINED_BELOW * _weights(configuration, classes) / 8:
            return fixed + RETRAINING * build, COMPRESSION_SHARE
    return fixed, 0.0


def _compressing(made: Plan, train: int, left: float, share: float) -> Plan:
    """Returns the plan with as many epochs of retraining as fit into their share, 2 at least."""
    if not share:
        return dataclasses.replace(made, compression_epochs=0.0)
    epochs = share * left / made.taught_seconds(train)
    whole = _whole(epochs, 2, MAX_COMPRESSION_EPOCHS, MAX_COMPRESSION_STEPS, train)
    return dataclasses.replace(made, compression_epochs=whole)


def _seconds(made: Plan, train: int) -> float:
    """Returns what the planned training and retraining take."""
    full = config_io.load(made.configuration).images.size
    speed = made.images_per_second, made.build_seconds
    building, each = _cost(full, made.size, made.growing, train, speed)
    return building + made.epochs * each + made.compression_epochs * made.taught_seconds(train)


def _weights(configuration: str, classes: int) -> int:
    config = config_io.load(configuration)
    model = dataclasses.replace(config.model, classes=classes)
    network = graph.of(dataclasses.replace(config, model=model))
    return sum(math.prod(network.kernel_shape(node.name)) for node in network.weighted)


def _training(
    full: int, examples: int, seconds: float, speed: tuple[float, float]
) -> tuple[int, bool, float]:
    """Returns (size, growing, epochs): the largest images with enough epochs, else the smallest."""
    enough = max(MIN_EPOCHS, MIN_STEPS * BATCH / examples)
    least = _least(examples)
    for share in SHARES:
        size = _side(full, share) if share < 1 else full
        ways = []
        for growing in (False, True):
            building, each = _cost(full, size, growing, examples, speed)
            epochs = (seconds - building) / each
            ways.append((_whole(epochs, least, MAX_EPOCHS, MAX_STEPS, examples), not growing))
        epochs, constant = max(ways)
        if epochs >= enough:
            break
    return size, not constant, epochs


def _cost(
    full: int, size: int, growing: bool, examples: int, speed: tuple[float, float]
) -> tuple[float, float]:
    """Returns the seconds to build what training on such images needs, and those of an epoch."""
    rate, build = speed
    graphs = 2 + (len(GROWTH) if growing else 1)  # frozen, evaluation; one a size
    sides = _grown(size) if growing else (size,)
    cost = DECODED * sum((side / full) ** 2 for side in sides) / len(sides)
    return graphs * build, cost * examples / rate + EPOCH_SECONDS


def _side(full: int, share: float) -> int:
    return max(8, 8 * round(full * share / 8))


def _grown(size: int) -> tuple[int, ...]:
    return (*(_side(size, share) for share in GROWTH[:-1]), size)


def _whole(epochs: float, least: int, most: float, steps: int, examples: int) -> float:
    """Returns whole epochs, `least` at least, at most `most` or as many as are `steps` steps."""
    most = max(most, math.ceil(steps * BATCH / examples))
    return float(min(most, max(least, math.floor(epochs))))


def _least(examples: int) -> int:
    """Returns the epochs below which training is not worth its fixed costs, whatever the time."""
    return max(2, min(LEAST_EPOCHS, math.ceil(LEAST_STEPS * BATCH / examples)))
