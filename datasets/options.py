"""What a conversion is told; its flags are these fields."""

import dataclasses

from squeezenext.errors import InputError

LAYOUTS = ("imagenet", "folder")
_OF_THE_MACHINE = ("overwrite", "workers", "show_progress")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to convert. All but the last three decide what the output's bytes are."""

    layout: str
    seed: int = 0
    partial: bool = False
    validation_fraction: float = 0.2
    train_shards: int | None = None
    validation_shards: int | None = None
    test_shards: int | None = None
    verify_images: bool = False
    follow_links: bool = False
    overwrite: bool = False
    workers: int | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"--layout {self.layout!r} is not one of {', '.join(LAYOUTS)}.")
        for name in ("train_shards", "validation_shards", "test_shards", "workers"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 99_999:
                raise InputError(f"--{name} {value} is not between 1 and 99999.")
        if not 0 <= self.seed < 1 << 62:
            raise InputError(f"--seed {self.seed} is negative or too large.")

    def recorded(self) -> dict:
        """What the manifest keeps: the same data from another machine gives the same file."""
        fields = dataclasses.asdict(self)
        return {key: fields[key] for key in fields if key not in _OF_THE_MACHINE}
