"""The options of a conversion; each field is a flag."""

import dataclasses
import re
from typing import Literal

from squeezenext.arguments import checked
from squeezenext.errors import InputError

LAYOUTS = ("imagenet", "folder", "csv", "caltech256", "tfrecord")
RUNNERS = ("local", "beam")
# Fields that decide how the work is done, not the output's bytes: no part of the manifest.
EXECUTION_OPTIONS = (
    "checksum", "sequential", "train_tar", "runner", "beam_options", "overwrite", "workers",
    "show_progress",
    "labels_of",  # the classes that it names are in the manifest
    "before",
    "apply",
    "none",  # what these decide, which image has which class in which split, is in the identity
)  # fmt: skip


@checked()
@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """The options of a conversion.

    All fields but those in `EXECUTION_OPTIONS` decide the bytes of the output.

    Attributes:
      layout: one of `LAYOUTS`.
      validation_fraction: share of each class for validation, if the source has no such split.
      train_shards: number of shards; None: 1024 for ImageNet, else one for each 100 MB.
      max_side: re-encode images with a longer side in pixels, at JPEG `quality` 1 to 100.
      runner: "local", in `workers` processes (None: one for each core), or "beam".

    The others are the flags of `python -m datasets.convert --help`.
    """

    layout: str
    seed: int = 0
    partial: bool = False
    validation_fraction: float = 0.2
    train_shards: int | None = None
    validation_shards: int | None = None
    test_shards: int | None = None
    verify_images: bool = False
    max_side: int | None = None
    quality: int = 90
    follow_links: bool = False
    class_pattern: str | None = None
    clutter: bool = False
    labels_of: str | None = None
    apply: str | None = None
    before: str | None = None  # file of `review.remember`: what a model was trained on
    # What becomes of a class named none, other or background, see `listing.parted`.
    none: Literal["a class", "left out", "alone"] = "a class"
    checksum: bool = False
    sequential: bool = False
    train_tar: str | None = None
    runner: str = "local"
    beam_options: tuple[str, ...] = ()
    overwrite: bool = False
    workers: int | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"--layout {self.layout!r} is not one of {', '.join(LAYOUTS)}.")
        if self.runner not in RUNNERS:
            raise InputError(f"--runner {self.runner!r} is not one of {', '.join(RUNNERS)}.")
        for name in ("train_shards", "validation_shards", "test_shards", "workers"):
            _check_range(name, getattr(self, name), 1, 99_999)
        _check_range("max_side", self.max_side, 16, 65_500)
        _check_range("quality", self.quality, 1, 100)
        _check_range("seed", self.seed, 0, (1 << 62) - 1)
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"--validation_fraction {self.validation_fraction} is not between 0 and 1."
            )
        if self.class_pattern is not None:
            _check_pattern(self.class_pattern)

    @property
    def upright(self) -> bool:
        """True if the layout is one of photographs, which are turned as EXIF's orientation says.

        Never those of a published data set, whose figures were measured without.
        """
        return self.layout in ("folder", "csv")

    def recorded(self) -> dict:
        """Returns the manifest's "arguments"."""
        fields = dataclasses.asdict(self)
        return {key: fields[key] for key in fields if key not in EXECUTION_OPTIONS}


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InputError(f"--{name} {value} is not between {low} and {high}.")


def _check_pattern(text: str) -> None:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise InputError(f"--class_pattern {text!r} is no regular expression: {error}.") from error
    if groups != 1:
        raise InputError(
            f"--class_pattern {text!r} has {groups} groups; one is needed, the class's name: "
            r"'\d+\.(.+)' for folders such as 001.ak47."
        )
