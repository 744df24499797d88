"""Plans how `adapt` spends its minutes: image size and epochs, from this machine's speed.

The time of training follows from the measured rate of images. Fixed costs are counted in builds:
TensorFlow takes about as long to build any of their graphs as for the one that was measured.
"""

import dataclasses
import math
from collections.abc import Sequence

from squeezenext import tf_import
from squeezenext.arguments import checked
from squeezenext.config import Config, recipes
from squeezenext.config.images import side
from squeezenext.config.training import ClassWeights
from squeezenext.config.zoo import PUBLISHED
from squeezenext.export.checking import CALIBRATION_IMAGES
from squeezenext.model import directory as model_directory
from squeezenext.model import published
from squeezenext.network import graph
from squeezenext.records.dataset import Dataset
from squeezenext.train import phases

SHARES = (1.0, 0.85, 0.7, 0.56)  # sides of the last images, as shares of the network's own side
# Less time than these epochs, or steps for a small set, means smaller images; more teaches nothing.
# After the first answer, 3 epochs of clothes at 227 pixels gave 0.860, 6 at 160 0.871. 245 ants and
# bees are worse off with smaller images: 0.92 after 15 epochs at 227, 0.87 after 43 at 128.
MIN_EPOCHS, MIN_STEPS = 6.0, 60
MAX_EPOCHS, MAX_STEPS = 40.0, 600
# A set that 40 epochs would not give 600 steps is seen more often, and has half the learning rate.
# Top-1 of 153 ants and bees after 79 epochs of 245, of the network and in 250 kB, three runs each:
# 0.915 to 0.922 and 0.889 to 0.908 at 6e-4, 0.928 to 0.935 and 0.908 to 0.935 at 3e-4. Clothes, 20
# a class, 90 epochs, one run each: loss 0.826 and 0.825. With these two sets, the bound is a guess.
FEW = MAX_STEPS * recipes.FINE_TUNE_BATCH / MAX_EPOCHS
# Minimum training: 40 steps or 100 epochs, whichever is less, even if the time is shorter.
LEAST_STEPS, LEAST_EPOCHS = 40, 100
# Bits a weight above which a file needs no retraining: at 2.7 an adapted SqueezeNet 1.1 lost 0.6
# points on the clothing photographs' validation images (docs/compression.md).
RETRAINED_BELOW = 2.5
COMPRESSION_SHARE = 0.3  # retraining's share of the time for training and retraining
MAX_COMPRESSION_EPOCHS, MAX_COMPRESSION_STEPS = 16.0, 400
MARGIN = 0.9  # share of the remaining time that is planned; the rest covers surprises
# Costs of an image, in training steps of one: training with decoding, evaluation, a single image in
# LiteRT, training with a teacher.
DECODED, FORWARD, ALONE, TAUGHT = 1.1, 0.35, 0.15, 1.5
EPOCH_SECONDS = 0.5  # a checkpoint, and now and then an evaluation
EVALUATIONS = 6  # evaluations during training
# Fixed costs in builds: export, evaluation and report; the search for a file that fits the budget;
# the retraining.
EXPORTING, SEARCHING, RETRAINING = 2, 4, 3
# Runs of an image in LiteRT: a calibration image gives ranges, then int8 and the network are
# compared on it; a held-out image is used by export, evaluation and report. Selection compares
# three weights and three sides on each validation image.
_CALIBRATION_RUNS, _HELD_OUT_RUNS, _SELECTION_RUNS = 3, 5, 6


@dataclasses.dataclass(frozen=True)
class Speed:
    """Speed of this machine in training.

    Attributes:
      images_per_second: rate of training at the network's own image size.
      build_seconds: seconds to build a training step.
    """

    images_per_second: float
    build_seconds: float


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The numbers of images, and of classes, that a plan is made for."""

    train: int
    validation: int
    held_out: int  # validation and test
    classes: int

    @classmethod
    def of(cls, found: Dataset) -> "Photographs":
        """Counts the images of a data set's splits, and its classes."""
        splits = found.splits
        held_out = sum(split.examples for name, split in splits.items() if name != "train")
        return cls(
            splits["train"].examples,
            splits["validation"].examples,
            held_out,
            len(found.classes or ()),
        )


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The choices for a machine, a time and photographs; adapt.json keeps them for a resumed run.

    Attributes:
      configuration: the published model, or the model directory, to start from.
      minutes: minutes that were given.
      images_per_second: measured rate of training, see `Speed`.
      build_seconds: measured seconds to build a training step, see `Speed`.
      size: image side at the end of training, and in prediction, in pixels.
      growing: True if training begins with smaller images.
      epochs: epochs of training.
      frozen_epochs: first epochs, in which the classifier alone learns; 0 where it is fitted
        before, see probe.py.
      compression_epochs: epochs of retraining during compression; 0 for none.
      max_bytes: budget of the `.sqz` file, for which `compression_epochs` were chosen.
      needs_minutes: estimated minutes, if more than were given; else 0.
      batch_size: batch size of training.
      class_weights: "adjusted" where the classes are uneven, see `Training.class_weights`.
      learning_rate: learning rate of training.
      course: the later choices of `epochs`, see `course.Course`: (epochs trained, epochs in all,
        seconds spent until then).
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
    batch_size: int = recipes.FINE_TUNE_BATCH
    class_weights: ClassWeights = "none"
    learning_rate: float = recipes.FINE_TUNE_RATE
    course: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        if any(len(choice) != 3 for choice in self.course):
            raise ValueError("A choice of the course has three numbers.")
        object.__setattr__(self, "course", tuple(map(tuple, self.course)))  # JSON has lists

    def __str__(self) -> str:
        growing = "up to " if self.growing else ""
        minutes = f"{self.minutes:g} minute{'s' * (self.minutes != 1)}"
        retrained = self.compression_epochs
        more = f", {retrained:g} more to compress it" if retrained else ""
        return (
            f"{self.epochs:g} epochs of {self.configuration} at {growing}{self.size} x {self.size} "
            f"pixels{more}: this machine trains {self.images_per_second:.0f} images/s at full "
            f"size, and has {minutes}"
        )

    @property
    def speed(self) -> Speed:
        """The measured speed, rounded."""
        return Speed(self.images_per_second, self.build_seconds)

    def config(self) -> Config:
        """Returns the fine-tuning recipe with the plan's choices."""
        config = recipes.apply("fine_tune", base(self.configuration))
        images = phases.resized(config.images, self.size)
        if self.growing:
            images = dataclasses.replace(images, progressive=_sides(self.size))
        training = dataclasses.replace(
            config.training,
            epochs=self.epochs,
            frozen_epochs=self.frozen_epochs,
            batch_size=self.batch_size,
            class_weights=self.class_weights,
            learning_rate=self.learning_rate,
        )
        return dataclasses.replace(config, images=images, training=training)

    @property
    def evaluate_every_epochs(self) -> int:
        """Epochs between two evaluations."""
        return max(1, round(self.epochs / EVALUATIONS))

    def compression_epochs_within(self, seconds: float, examples: int) -> float:
        """Returns how many of the planned epochs of compression fit into a time, at least 2."""
        if seconds == math.inf or not self.compression_epochs:
            return self.compression_epochs
        fitting = seconds - (SEARCHING + RETRAINING) * self.build_seconds
        epochs = math.floor(fitting / self.taught_seconds(examples))
        return min(self.compression_epochs, max(2.0, float(epochs)))

    def taught_seconds(self, examples: int) -> float:
        """Returns the seconds of an epoch of retraining."""
        side = self.size / base(self.configuration).images.size
        return TAUGHT * examples * side**2 / self.images_per_second


def base(configuration: str) -> Config:
    """Returns the configuration of a published model, or of a model directory."""
    if configuration in PUBLISHED:
        return PUBLISHED[configuration].config()
    return model_directory.read_config(published.resolve(configuration))


def measured(configuration: str) -> Speed:
    """Measures how fast this machine trains a network."""
    tf_import.import_tensorflow()
    from squeezenext.train import measure

    config = recipes.apply("fine_tune", base(configuration))
    return Speed(*measure.measure_speed(config))


def plan(
    configuration: str,
    photographs: Photographs,
    speed: Speed,
    *,
    minutes: float,
    seconds: float,
    max_bytes: int,
    class_weights: ClassWeights = "none",
) -> Plan:
    """Plans the largest images with enough epochs that fit into the time.

    Args:
      configuration: the published model, or the model directory, to start from.
      photographs: numbers of images and classes.
      speed: this machine's, see `measured`.
      minutes: minutes that were given.
      seconds: seconds that remain of them.
      max_bytes: budget of the `.sqz` file; 0 for no file.
      class_weights: see `course.weighting`.
    """
    train = photographs.train
    fixed, share = fixed_seconds(configuration, photographs, speed, max_bytes)
    remaining = MARGIN * seconds - fixed
    full = base(configuration).images.size
    shares = SHARES if configuration in PUBLISHED else (1.0,)  # else each further model shrank it
    size, growing, epochs = _training(full, train, (1 - share) * remaining, speed, shares)
    made = Plan(
        configuration=configuration,
        minutes=minutes,
        images_per_second=round(speed.images_per_second, 1),
        build_seconds=round(speed.build_seconds, 1),
        size=size,
        growing=growing,
        epochs=epochs,
        frozen_epochs=0,
        compression_epochs=0.0,
        max_bytes=max_bytes,
        class_weights=class_weights,
        learning_rate=recipes.FINE_TUNE_RATE / (2 if train < FEW else 1),
    )
    made = _with_compression(made, train, share * remaining if share else None)
    needed = 60 * minutes - seconds + fixed + _seconds(made, train)
    return dataclasses.replace(
        made, needs_minutes=round(needed / 60, 1) if needed > 60 * minutes else 0.0
    )


def for_budget(made: Plan, photographs: Photographs, max_bytes: int) -> Plan:
    """Returns an earlier call's plan with the retraining for another budget of the file."""
    if max_bytes == made.max_bytes:
        return made
    fixed, share = fixed_seconds(made.configuration, photographs, made.speed, max_bytes)
    remaining = MARGIN * 60 * made.minutes - fixed
    made = dataclasses.replace(made, max_bytes=max_bytes)
    seconds = share * remaining if share else None
    return _with_compression(made, photographs.train, seconds)


def fixed_seconds(
    configuration: str,
    photographs: Photographs,
    speed: Speed,
    max_bytes: int,
    trained: float = 0.0,
) -> tuple[float, float]:
    """Returns the seconds of all but training and retraining, and retraining's share of the rest.

    The share is 0 without retraining. Of the evaluations during training those after the share
    `trained` of it count.
    """
    rate, build = speed.images_per_second, speed.build_seconds
    runs = CALIBRATION_IMAGES * _CALIBRATION_RUNS + _HELD_OUT_RUNS * photographs.held_out
    runs += _SELECTION_RUNS * photographs.validation
    evaluated = (1 - trained) * EVALUATIONS * photographs.validation
    fixed = EXPORTING * build + (ALONE * runs + FORWARD * evaluated) / rate
    if max_bytes:
        fixed += SEARCHING * build
        if max_bytes < RETRAINED_BELOW * _weights(configuration, photographs.classes) / 8:
            return fixed + RETRAINING * build, COMPRESSION_SHARE
    return fixed, 0.0


def _with_compression(made: Plan, train: int, seconds: float | None) -> Plan:
    """Returns the plan with the epochs of retraining that fit into a time, none for None."""
    if seconds is None:
        return dataclasses.replace(made, compression_epochs=0.0)
    epochs = seconds / made.taught_seconds(train)
    most = max(MAX_COMPRESSION_EPOCHS, _epochs(MAX_COMPRESSION_STEPS, train))
    return dataclasses.replace(made, compression_epochs=_whole(epochs, 2, most))


def _seconds(made: Plan, train: int) -> float:
    """Returns the seconds of the planned training and retraining."""
    full = base(made.configuration).images.size
    building, epoch = _cost(full, made.size, made.growing, train, made.speed)
    return building + made.epochs * epoch + made.compression_epochs * made.taught_seconds(train)


def _weights(configuration: str, classes: int) -> int:
    """Returns the number of weights of a network with another number of classes."""
    config = base(configuration)
    model = dataclasses.replace(config.model, classes=classes)
    network = graph.of(dataclasses.replace(config, model=model))
    return sum(math.prod(network.kernel_shape(node.name)) for node in network.weighted)


def _training(
    full: int, examples: int, seconds: float, speed: Speed, shares: Sequence[float]
) -> tuple[int, bool, float]:
    """Returns (size, growing, epochs): the largest images with enough epochs, else the smallest."""
    enough = max(MIN_EPOCHS, MIN_STEPS * recipes.FINE_TUNE_BATCH / examples)
    for share in shares:
        size = side(full, share)
        ways = []
        for growing in (False, True):
            building, epoch = _cost(full, size, growing, examples, speed)
            epochs = (seconds - building) / epoch
            ways.append((_whole(epochs, *bounds(examples)), not growing))
        epochs, constant = max(ways)
        if epochs >= enough:
            break
    return size, not constant, epochs


def _cost(full: int, size: int, growing: bool, examples: int, speed: Speed) -> tuple[float, float]:
    """Returns the seconds to build the graphs of a training, and the seconds of an epoch."""
    sides = _sides(size) if growing else (size,)
    graphs = 1 + len(sides)  # a graph of evaluation, and a graph of training for each size
    cost = DECODED * sum((side / full) ** 2 for side in sides) / len(sides)
    epoch = cost * examples / speed.images_per_second + EPOCH_SECONDS
    return graphs * speed.build_seconds, epoch


def _sides(size: int) -> tuple[int, ...]:
    """Returns the image sides of growing images that end at `size`."""
    return tuple(side(size, share) for share in recipes.GROWTH)


def _whole(epochs: float, least: float, most: float) -> float:
    """Rounds epochs down, to at least `least` and at most `most`."""
    return float(min(most, max(least, math.floor(epochs))))


def _epochs(steps: int, examples: int) -> int:
    return math.ceil(steps * recipes.FINE_TUNE_BATCH / examples)


def bounds(examples: int) -> tuple[int, float]:
    """Returns the epochs of the minimum training, and those after which more teach nothing."""
    least = max(2, min(LEAST_EPOCHS, _epochs(LEAST_STEPS, examples)))
    return least, max(MAX_EPOCHS, _epochs(MAX_STEPS, examples))
