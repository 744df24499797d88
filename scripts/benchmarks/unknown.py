r"""Prints the share of photographs that models accept as one of their classes, folder by folder.

    python scripts/benchmarks/unknown.py FOLDER... --models mine,mine/exported/model.sqz \
        [--leave_out NAME.jpg,NAME.jpg]

A folder is searched through all its folders. --leave_out names files of it to pass over, such as
photographs of ImageNet that show what the classes are. Beside the folders there are 100 drawn
textures: noise, coloured cells, stripes, clouds and gradients, 20 of each.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext.cli import log, say
from squeezenext.errors import InputError
from squeezenext.predict import sources
from squeezenext.predict.predictor import Predictor, map_in_threads

SIDE, EACH = 320, 20  # pixels; textures of a kind


def textures() -> list[np.ndarray]:
    """Returns the drawn textures, [SIDE, SIDE, 3] uint8 each."""
    rng = np.random.default_rng(0)
    drawn = [picture for _ in range(EACH) for picture in _of_each_kind(rng)]
    return [picture.clip(0, 255).astype(np.uint8) for picture in drawn]


def _of_each_kind(rng: np.random.Generator) -> Iterator[np.ndarray]:
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    yield rng.integers(0, 256, (SIDE, SIDE, 3))
    count = rng.integers(4, 24)
    cells = np.arange(SIDE) * count // SIDE
    yield rng.integers(0, 256, (count, count, 3))[cells][:, cells]
    one, other = rng.integers(0, 256, (2, 3))
    turn, waves = rng.uniform(0, np.pi), rng.uniform(3, 40)
    along = columns * np.cos(turn) + rows * np.sin(turn)
    yield one + (other - one) * (0.5 + 0.5 * np.sin(2 * np.pi * waves * along))[..., np.newaxis]
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    radius[0, 0] = 1
    waves = np.fft.fft2(rng.normal(size=(3, SIDE, SIDE))) / radius ** rng.uniform(0.8, 1.6)
    clouds = np.fft.ifft2(waves).real.transpose(1, 2, 0)
    yield 127 + 50 * clouds / clouds.std((0, 1))
    yield one + (other - one) * along[..., np.newaxis]


def accepted(predictor: Predictor, images: Sequence[str | np.ndarray]) -> str:
    """Returns the share of images that are accepted, as text."""

    def known(image: str | np.ndarray) -> float | None:
        try:
            return predictor.view(image).known
        except InputError as error:
            log(f"error: {error}")
            return None

    found = [score for score in map_in_threads(known, images) if score is not None]
    if not found:
        return "no image, or the model does not say"
    count = sum(score >= 0.5 for score in found)
    return f"{count} of {len(found)} accepted, {count / len(found):.1%}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_list("models", None, "Model directories or files, with commas.", **own)
    flags.DEFINE_list("leave_out", [], "Names of files to pass over, with commas.", **own)

    def command(values: flags.FlagValues, folders: list[str]) -> None:
        left_out = set(values["leave_out"].value)
        images: dict[str, Sequence[str | np.ndarray]] = {
            folder: [x for x in sources.expand([folder]) if Path(x).name not in left_out]
            for folder in folders
        }
        images["drawn textures"] = textures()
        for model in values["models"].value:
            predictor = Predictor(model)
            for name, listed in images.items():
                say(f"{model}  {name}: {accepted(predictor, listed)}")

    return command_line.run(command, values, __doc__, argv, required=("models",), positional=True)


if __name__ == "__main__":
    sys.exit(main())
