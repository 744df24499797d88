"""The course of a training: how its epochs follow the time that is left."""

import dataclasses
import types

import pytest

from squeezenext.adapt import course as courses
from squeezenext.adapt import plan as planning
from squeezenext.adapt.course import Course
from squeezenext.train import phases

PHOTOGRAPHS = planning.Photographs(train=3000, validation=300, held_out=600, classes=10)
MINUTES = 15


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless `time` is changed."""
    now = type("Clock", (), {"time": 1000.0})()
    monkeypatch.setattr(courses.time, "monotonic", lambda: now.time)
    return now


def planned(rate: float, **more) -> planning.Plan:
    speed = planning.Speed(images_per_second=rate, build_seconds=10.0)
    return planning.plan(
        "squeezenet_v1_1", PHOTOGRAPHS, speed, minutes=MINUTES, seconds=60 * MINUTES - 40,
        max_bytes=0, **more,
    )  # fmt: skip


def size_in(plan: planning.Plan, epoch: int, epochs: float) -> int:
    """The size of the images that training takes in one of so many epochs."""
    config = plan.config()
    training = dataclasses.replace(config.training, epochs=epochs)
    return phases.phase(dataclasses.replace(config, training=training), epoch).size


@pytest.fixture
def begin(clock, tmp_path):
    """Begins a course whose training starts 40 seconds after the command did."""
    return lambda plan: Course(plan, PHOTOGRAPHS, clock.time - 40, tmp_path / "adapt.json")


@pytest.fixture
def train(begin, clock):
    """Trains as planned at `rate(epoch)` images of the full size a second."""

    def train(plan: planning.Plan, rate) -> tuple[Course, float]:
        course, epoch = begin(plan), 0
        full = planning.base(plan.configuration).images.size
        epochs = course(0, None)
        while epoch < epochs:
            part = min(1.0, epochs - epoch)
            size = size_in(plan, epoch, epochs)
            seconds = PHOTOGRAPHS.train * (size / full) ** 2 / rate(epoch)
            clock.time += part * seconds + planning.EPOCH_SECONDS
            epoch += 1
            if epoch < epochs:
                epochs = course(epoch, PHOTOGRAPHS.train / seconds)
        return course, epochs

    return train


@pytest.mark.parametrize(
    "rate",
    [lambda epoch: 20, lambda epoch: 80, lambda epoch: 40 if epoch < 3 else 20],
    ids=["twice as slow", "twice as fast", "slower from the fourth epoch on"],
)
def test_the_minutes_are_kept_whatever_was_measured_before(train, clock, rate):
    plan, start = planned(40), clock.time - 40
    _, epochs = train(plan, rate)
    speed = planning.Speed(rate(epochs), plan.build_seconds)
    rest, _ = planning.fixed_seconds(plan.configuration, PHOTOGRAPHS, speed, 0, trained=1.0)
    assert 0.85 * 60 * MINUTES < clock.time - start + rest < 60 * MINUTES
    assert epochs != plan.epochs


def test_training_ends_when_more_teaches_nothing(train):
    _, epochs = train(planned(10_000), lambda epoch: 10_000)
    assert epochs == planning.MAX_EPOCHS


def test_even_without_time_the_minimum_is_trained(train):
    _, epochs = train(planned(80), lambda epoch: 1)
    assert epochs == planning.bounds(PHOTOGRAPHS.train)[0]


def test_choices_are_kept_before_they_are_used_and_repeated(train, begin, tmp_path, capsys):
    plan = planned(80)
    course, epochs = train(plan, lambda epoch: 30)
    assert courses.kept(tmp_path / "adapt.json", (plan.configuration,), MINUTES) == course.plan
    assert len(course.plan.course) > 1 and "epochs instead of 22 fit" in capsys.readouterr().err
    again, same = train(course.plan, lambda epoch: 1000)
    assert same == epochs and again.plan == course.plan  # another speed changes nothing
    first = dataclasses.replace(course.plan, course=course.plan.course[:1])
    resumed = begin(first)
    assert resumed(2, None) == first.course[0][1]  # the epoch was interrupted
    assert resumed(2, 500.0) > resumed.plan.course[0][1]
    assert resumed.plan.course[1][2] >= first.course[0][2] + 40  # what was spent before counts


def test_what_was_spent_before_the_first_epoch_counts_after_an_interruption(
    clock, tmp_path, monkeypatch, capsys
):
    speed = planning.Speed(images_per_second=80.0, build_seconds=10.0)
    monkeypatch.setattr(planning, "measured", lambda configuration: speed)
    monkeypatch.setattr(courses, "weighting", lambda split, classes: "none")
    part = types.SimpleNamespace(examples=PHOTOGRAPHS.validation)
    train = types.SimpleNamespace(examples=PHOTOGRAPHS.train)
    splits = {"train": train, "validation": part, "test": part}
    found = types.SimpleNamespace(splits=splits, classes=range(PHOTOGRAPHS.classes))

    def begin(spent):
        at = (tmp_path, found, "squeezenet_v1_1", MINUTES, 0, clock.time - spent)
        return courses.begun(*at)

    first = begin(100.0)
    assert "too short" not in capsys.readouterr().err
    (tmp_path / "adapt.json").unlink()
    begin(60.0 * MINUTES)
    assert "warning: --minutes 15 is too short" in capsys.readouterr().err
    courses.keep(tmp_path / "adapt.json", first.plan)
    resumed = begin(5.0)
    assert first.plan == resumed.plan and first(0, None) == resumed(0, None) == first.plan.epochs
    clock.time += 60
    first(1, 50.0)
    courses.keep(tmp_path / "adapt.json", resumed.plan)
    resumed(1, 50.0)
    assert (first.plan.course[-1][2], resumed.plan.course[-1][2]) == (160.0, 165.0)
