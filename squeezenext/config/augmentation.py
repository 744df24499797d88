"""The words for what training does to an image: one frozen dataclass a step.

They stand in `Images.augmentation` in the order in which they are done: the crop, then
ShiftScaleRotate, then what changes pixels in place, then what mixes images of a batch. Each is a
pure function of (seed, epoch, example); `augmentation.py` and `mixing.py` hold those functions.
"""

import dataclasses


def check(owner: object, condition: bool, field: str, rule: str) -> None:
    """Raises ValueError that names the field, its value and `rule` unless `condition` holds."""
    if not condition:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} is {value!r}; it {rule}.")


def _check_range(owner: object, field: str, low: float, high: float = float("inf")) -> None:
    first, last = getattr(owner, field)
    within = low < first <= last <= high
    check(owner, within, field, f"must be two numbers in order, above {low:g}, up to {high:g}")


def _check_probability(owner: object) -> None:
    check(owner, 0 <= owner.probability <= 1, "probability", "must be in [0, 1]")


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A random `size` x `size` window of the resized image (Caffe's augmentation)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A random window of a share `scale` of the image and aspect `ratio`, resized (Inception's)."""

    scale: tuple[float, float] = (0.08, 1.0)  # arXiv:1409.4842, section 6
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        _check_range(self, "scale", 0.0, 1.0)
        _check_range(self, "ratio", 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Mirrors half of the images.

    `alternating`: which half is drawn once, and changes sides every epoch, so that any two epochs
    in a row show each image both ways (arXiv:2404.00498, section 3.6).
    """

    alternating: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftScaleRotate:
    """Shifts (share of the side), scales (share) and rotates, each uniform in +- its limit."""

    shift: float
    scale: float
    rotate_degrees: float
    probability: float = 0.5

    def __post_init__(self):
        check(self, 0 <= self.scale < 1, "scale", "must be in [0, 1)")
        _check_probability(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Multiplies brightness, contrast and saturation by 1 +- up to so much, then turns the hue.

    `hue` is a share of the full circle. As torchvision's, in this order always.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        for field in ("brightness", "contrast", "saturation"):
            check(self, 0 <= getattr(self, field) <= 1, field, "must be in [0, 1]")
        check(self, 0 <= self.hue <= 0.5, "hue", "must be in [0, 0.5]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Covers a rectangle, a share `scale` of the image of aspect `ratio`, with the mean colour."""

    probability: float = 0.5  # arXiv:1708.04896, section 4.2; the other two as well
    scale: tuple[float, float] = (0.02, 0.4)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self):
        _check_probability(self)
        _check_range(self, "scale", 0.0, 1.0)
        _check_range(self, "ratio", 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixup:
    """Blends an image and its label with another of the batch, by Beta(alpha, alpha)."""

    alpha: float = 0.2  # arXiv:1710.09412, section 3.1: 0.1 to 0.4 for ImageNet
    probability: float = 1.0

    def __post_init__(self):
        check(self, self.alpha > 0, "alpha", "must be positive")
        _check_probability(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutMix:
    """Pastes a rectangle of another image of the batch; the labels' shares are the areas'."""

    alpha: float = 1.0  # arXiv:1905.04899, section 3.1
    probability: float = 1.0

    def __post_init__(self):
        check(self, self.alpha > 0, "alpha", "must be positive")
        _check_probability(self)


# By the place that each may take.
Crop = RandomCrop | RandomResizedCrop
InPlace = HorizontalFlip | ColorJitter | RandomErasing
Mixing = Mixup | CutMix
Augmentation = Crop | ShiftScaleRotate | InPlace | Mixing


def in_order(steps: tuple[Augmentation, ...]) -> bool:
    """Says whether there is one crop, first, and each later kind comes after the earlier ones."""
    kinds = (Crop, ShiftScaleRotate, InPlace, Mixing)
    places = [next(p for p, kind in enumerate(kinds) if isinstance(s, kind)) for s in steps]
    return places.count(0) == 1 and places == sorted(places)
