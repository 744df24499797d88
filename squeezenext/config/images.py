"""The words for images: what the network reads, and how training augments it.

An augmentation step is one frozen dataclass. `numbers` is the count of random numbers in [0, 1)
that the step takes of each image; what it does with them stands in `images/augment.py`, or in
`images/crops.py` for the crops and ShiftScaleRotate. A new step is a class here, in one of the
unions below, and a case of the `match` there.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from squeezenext.arguments import checked
from squeezenext.config.checks import check, check_choice

CROP_TRIES = 10  # attempts at a window that fits, as in torchvision's RandomResizedCrop
Triple = tuple[float, float, float]


def _check_range(owner: object, field: str, low: float, high: float = float("inf")) -> None:
    first, last = getattr(owner, field)
    within = low < first <= last <= high
    check(owner, within, field, f"must be two numbers in order, above {low:g}, up to {high:g}")


def _check_probability(owner: Any) -> None:
    check(owner, 0 <= owner.probability <= 1, "probability", "must be in [0, 1]")


@checked()
@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A random `size` x `size` window of the resized image (Caffe's augmentation)."""

    numbers: ClassVar[int] = 2  # row, column


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A random window of the image, resized (Inception's augmentation).

    Attributes:
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest width / height.
    """

    numbers: ClassVar[int] = 4 * CROP_TRIES  # area, aspect, row, column
    scale: tuple[float, float] = (0.08, 1.0)  # arXiv:1409.4842, section 6
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _check_range(self, "scale", 0.0, 1.0)
        _check_range(self, "ratio", 0.0)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Mirrors half of the images.

    Attributes:
      alternating: if True, a random half of the images, chosen once, is mirrored in every second
        epoch, and the other half in the epochs between. Any two epochs in a row then show each
        image both ways (arXiv:2404.00498, section 3.6).
    """

    numbers: ClassVar[int] = 1  # the half that an image belongs to
    alternating: bool = False


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftScaleRotate:
    """Shifts, scales and rotates, each by a uniform random amount in +- its limit.

    Attributes:
      shift: share of the side.
      scale: share of the size.
      rotate_degrees: degrees.
      probability: share of the images that are changed.
    """

    numbers: ClassVar[int] = 5  # shift across, shift down, scale, angle, whether
    shift: float
    scale: float
    rotate_degrees: float
    probability: float = 0.5

    def __post_init__(self) -> None:
        check(self, 0 <= self.scale < 1, "scale", "must be in [0, 1)")
        _check_probability(self)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Multiplies brightness, contrast and saturation by 1 +- a random amount, then turns the hue.

    As torchvision's, but always in this order. `hue` is a share of the full circle.
    """

    numbers: ClassVar[int] = 4  # brightness, contrast, saturation, hue
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for field in ("brightness", "contrast", "saturation"):
            check(self, 0 <= getattr(self, field) <= 1, field, "must be in [0, 1]")
        check(self, 0 <= self.hue <= 0.5, "hue", "must be in [0, 0.5]")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Covers a random rectangle with the mean colour.

    Attributes:
      probability: share of the images that are changed.
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest height / width.
    """

    numbers: ClassVar[int] = 5  # whether, area, aspect, row, column
    probability: float = 0.5  # arXiv:1708.04896, section 4.2; the other two as well
    scale: tuple[float, float] = (0.02, 0.4)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "scale", 0.0, 1.0)
        _check_range(self, "ratio", 0.0)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixup:
    """Blends an image and its label with another of the batch, by Beta(alpha, alpha)."""

    numbers: ClassVar[int] = 2  # whether, share
    alpha: float = 0.2  # arXiv:1710.09412, section 3.1: 0.1 to 0.4 for ImageNet
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, self.alpha > 0, "alpha", "must be positive")
        _check_probability(self)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class CutMix:
    """Pastes a rectangle of another image of the batch; the labels' shares are the areas'."""

    numbers: ClassVar[int] = 4  # whether, share, row, column
    alpha: float = 1.0  # arXiv:1905.04899, section 3.1
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, self.alpha > 0, "alpha", "must be positive")
        _check_probability(self)


# The kinds of steps, in the order in which they may stand.
Crop = RandomCrop | RandomResizedCrop
InPlace = HorizontalFlip | ColorJitter | RandomErasing
Mixing = Mixup | CutMix
Augmentation = Crop | ShiftScaleRotate | InPlace | Mixing


def in_order(steps: tuple[Augmentation, ...]) -> bool:
    """Returns whether the first step is the only crop, and the kinds of steps are in order."""
    kinds: tuple[Any, ...] = (Crop, ShiftScaleRotate, InPlace, Mixing)
    found = [next(i for i, kind in enumerate(kinds) if isinstance(s, kind)) for s in steps]
    return found.count(0) == 1 and found == sorted(found)


ResizeMode = Literal["squash", "short_side"]
Channels = Literal["BGR", "RGB"]
Orientation = Literal["ignored", "exif"]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The images that the network reads.

    Evaluation takes the centre `size` x `size` of the resized image.

    Pixels are 0..255; the network reads (pixel - mean) / std, with `mean` and `std` in the order
    of `channels`.
    """

    size: int = 227  # train_val.prototxt: crop_size
    resize: int = 256
    # Intel Caffe's create_imagenet.sh makes 256 x 256 without keeping the aspect.
    resize_mode: ResizeMode = "squash"
    # "exif": people's photographs are turned upright, as viewers show them. ImageNet's published
    # figures were measured without, and some of its images name a wrong orientation.
    orientation: Orientation = "ignored"
    channels: Channels = "BGR"  # OpenCV's order, in which Caffe stores its LMDB
    mean: Triple = (104.0, 117.0, 123.0)  # train_val.prototxt: mean_value
    std: Triple = (1.0, 1.0, 1.0)
    augmentation: tuple[Augmentation, ...] = (RandomCrop(),)  # no `mirror` in the prototxt
    # Sizes of the images in training, each for an equal share of the epochs; evaluation always uses
    # `size`, and so does training where this is empty.
    progressive: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self, "resize_mode", ResizeMode)
        check_choice(self, "channels", Channels)
        check_choice(self, "orientation", Orientation)
        check(self, 8 <= self.size <= self.resize, "size", f"must be 8..resize ({self.resize})")
        check(self, min(self.std) > 0, "std", "must be positive")
        rule = "must be one crop, then ShiftScaleRotate, changes in place, mixing, in this order"
        check(self, in_order(self.augmentation), "augmentation", rule)
        sizes = all(8 <= size <= self.resize for size in self.progressive)
        check(self, sizes, "progressive", f"must be sizes of 8..resize ({self.resize})")


def side(size: int, share: float) -> int:
    """Returns a share of an image side as a multiple of 8 pixels; a share of 1 is exact."""
    return size if share == 1 else max(8, 8 * round(size * share / 8))


CAFFE_SQUASH = Images()
CAFFE_SHORT_SIDE = Images(resize_mode="short_side")
# torchvision's references/classification/presets.py
TORCHVISION = Images(
    size=224,
    resize_mode="short_side",
    channels="RGB",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    augmentation=(RandomResizedCrop(), HorizontalFlip()),
)
# The random-resized-crop training of TORCHVISION with Caffe's pixels.
CAFFE_RANDOM_RESIZED_CROP = dataclasses.replace(
    CAFFE_SHORT_SIDE, augmentation=(RandomResizedCrop(), HorizontalFlip())
)
