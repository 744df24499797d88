"""Keeps to the minutes of `adapt`: after each epoch of training it chooses how many there will be.

The plan measures this machine once, before training; what other programs do is seen later. So the
epochs follow the rate at which training goes. Every choice is written to adapt.json before it is
used: a resumed run repeats it, and so does another run with that adapt.json.
"""

import bisect
import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.adapt import plan as planning
from squeezenext.adapt.plan import Photographs, Plan, Speed
from squeezenext.cli import log
from squeezenext.config.training import ClassWeights
from squeezenext.errors import InputError
from squeezenext.model import directory as model_directory
from squeezenext.records.dataset import Dataset, Split
from squeezenext.records.reader import Reader
from squeezenext.train import phases

USED = 0.95  # share of the minutes; what comes after training is only estimated
TENTHS = 10  # epochs are chosen in tenths
TOLD = 1.5  # The log says so if the epochs have changed by this factor.
# Ratio of the largest class to the smallest above which the classes' log frequencies are taken out
# of the logits. Balanced accuracy of a linear classifier on the features of 3 classes of clothes,
# mean of six draws: with 70, 20 and 20 photographs 0.835 as they are, 0.853 with balanced weights,
# 0.866 adjusted; 100, 20, 20: 0.819, 0.855, 0.868; 200, 20, 20: 0.808, 0.847, 0.874. Top-1 rose.
UNEVEN = 3
LATEST = 0.3  # weight of the latest epoch in the moving average of the rates


class Course:
    """Chooses the epochs of training: a `train.options.Course`.

    Args:
      plan: the plan, with the choices of an earlier start.
      photographs: numbers of images and classes.
      started: `time.monotonic()` when the command began, or of the plan's choice if that is later.
      path: adapt.json.
    """

    def __init__(self, plan: Plan, photographs: Photographs, started: float, path: Path):
        self.plan = plan
        self._photographs, self._path = photographs, path
        self._config = plan.config()
        self._full = planning.base(plan.configuration).images.size
        self._said, self._rate = plan.epochs, 0.0
        self._epochs = plan.course[-1][1] if plan.course else plan.epochs
        spent = plan.course[-1][2] if plan.course else 0.0
        self._started = started - spent
        self._before_training = plan.course[0][2] if plan.course else time.monotonic() - started

    def __call__(self, epoch: int, rate: float | None) -> float:
        """Returns the epochs in all, after `epoch` of them and at `rate` images a second."""
        made = [choice for choice in self.plan.course if choice[0] <= epoch]
        if rate is None or (made and made[-1][0] == epoch):
            return made[-1][1] if made else self.plan.epochs
        rate *= self._cost(epoch - 1, self._epochs)
        self._rate += (rate - self._rate) * (LATEST if self._rate else 1.0)
        spent = time.monotonic() - self._started
        epochs = self.fitting(epoch, self._rate, spent)
        if not self._said / TOLD < epochs < self._said * TOLD:
            log(f"{epochs:g} epochs instead of {self._said:g} fit into the time.")
            self._said = epochs
        choice = (epoch, epochs, round(spent, 1))
        self.plan = dataclasses.replace(self.plan, course=(*self.plan.course, choice))
        keep(self._path, self.plan)
        self._epochs = epochs
        return epochs

    def compression_epochs(self, deterministic: bool) -> float:
        """Returns the epochs of retraining: as many of the planned ones as fit into the time.

        Args:
          deterministic: True trains all planned epochs, however long they take.
        """
        left = 60 * self.plan.minutes - (time.monotonic() - self._started)
        seconds = math.inf if deterministic else left
        return self.plan.compression_epochs_within(seconds, self._photographs.train)

    def _cost(self, epoch: int, epochs: float) -> float:
        """Returns the cost of an image in one of `epochs`, in images of the network's own size."""
        training = dataclasses.replace(self._config.training, epochs=epochs)
        config = dataclasses.replace(self._config, training=training)
        return (phases.phase(config, epoch).size / self._full) ** 2

    def fitting(self, epoch: int, rate: float, spent: float) -> float:
        """Returns the number of epochs, in tenths, whose training ends in time for all the rest.

        Args:
          epoch: epochs trained.
          rate: images a second, of the network's own size.
          spent: seconds since the command began.
        """
        plan, photographs = self.plan, self._photographs
        speed = Speed(planning.DECODED * rate, plan.build_seconds)
        trained = min(1.0, epoch / plan.epochs)
        fixed, share = planning.fixed_seconds(
            plan.configuration, photographs, speed, plan.max_bytes, trained
        )
        whole = USED * 60 * plan.minutes - self._before_training - fixed
        left = (1 - share) * whole - (spent - self._before_training)

        def seconds(tenths: int) -> float:
            epochs = tenths / TENTHS
            costs = [self._cost(number, epochs) for number in range(epoch, math.ceil(epochs))]
            images = sum(costs) - (costs[-1] * (math.ceil(epochs) - epochs) if costs else 0)
            seconds = planning.EPOCH_SECONDS * (epochs - epoch)
            return photographs.train * images / rate + seconds

        least, most = planning.bounds(photographs.train)
        possible = range(TENTHS * epoch, TENTHS * math.ceil(most) + 1)
        number = bisect.bisect_right(possible, left, key=seconds) - 1
        return max(float(least), possible[max(number, 0)] / TENTHS)


def kept(path: Path, networks: Sequence[str], minutes: float) -> Plan | None:
    """Returns the plan of an earlier call, None if there is none.

    Raises:
      InputError: it is for another model or time, of another release, or damaged.
    """
    if not path.is_file():
        return None
    try:
        plan = Plan(**files.read_document(path))
    except (InputError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged, or of another release; bring it back from a copy, go on with that "
            "release, or give another --model_dir."
        ) from error
    if plan.configuration == model_directory.ASIDE:
        plan = dataclasses.replace(plan, configuration=_aside(path))
    if plan.configuration not in networks or plan.minutes != minutes:
        raise InputError(
            f"{path.parent} was begun with --configuration {plan.configuration} --minutes "
            f"{plan.minutes:g}; give these again, or another --model_dir."
        )
    return plan


def keep(path: Path, plan: Plan) -> None:
    """Writes a plan to adapt.json, without the place of its folder, which may be moved."""
    if plan.configuration == _aside(path):
        plan = dataclasses.replace(plan, configuration=model_directory.ASIDE)
    files.write_json(path, dataclasses.asdict(plan))


def _aside(path: Path) -> str:
    """Returns the path of the model `before` beside adapt.json, as `photographs.start` does."""
    return os.path.realpath(path.parent / model_directory.ASIDE)


def begun(
    model_dir: Path,
    found: Dataset,
    configuration: str,
    minutes: float,
    max_bytes: int,
    started: float,
) -> Course:
    """Returns the course of an earlier call's plan, or of a new one, and logs the plan.

    Args:
      model_dir: the model directory.
      found: the records.
      configuration: the model to start from.
      minutes: minutes for everything.
      max_bytes: budget of the `.sqz` file.
      started: `time.monotonic()` when the command began.
    """
    photographs, path = Photographs.of(found), model_dir / model_directory.ADAPT
    before = kept(path, (configuration,), minutes)
    if before is not None:
        plan = planning.for_budget(before, photographs, max_bytes)
    else:
        speed = planning.measured(configuration)
        plan = planning.plan(
            configuration,
            photographs,
            speed,
            minutes=minutes,
            seconds=started + 60 * minutes - time.monotonic(),
            max_bytes=max_bytes,
            class_weights=weighting(found.splits["train"], photographs.classes),
        )
        # The first choice is the plan's own, so that a resumed run counts the seconds until here.
        now = time.monotonic()
        spent, started = round(now - started, 1), now
        plan = dataclasses.replace(plan, course=((0, plan.epochs, spent),))
    if plan != before:
        keep(path, plan)
    log(f"{plan}.")
    if plan.needs_minutes:
        log(
            f"warning: --minutes {minutes:g} is too short: the shortest useful training takes "
            f"about {math.ceil(plan.needs_minutes)} minutes, and will take them."
        )
    return Course(plan, photographs, started, path)


def weighting(split: Split, classes: int) -> ClassWeights:
    """Returns "adjusted" if the largest class has over `UNEVEN` times the smallest's images."""
    counts = np.bincount(Reader(split).labels(classes), minlength=classes)
    return "adjusted" if counts.max() > UNEVEN * max(1, counts.min()) else "none"
