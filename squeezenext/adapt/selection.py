"""Selects what `adapt` keeps when training has ended, by the validation images.

First the weights: the trained ones, those of the first answer, or the mean of both
(arXiv:2109.01903). Then the images that the network is given: evaluation's centre leaves the border
out, and shows objects larger than the random crops of training do (arXiv:1906.06423).
"""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from squeezenext import files, stats
from squeezenext.adapt import probe
from squeezenext.config import Config
from squeezenext.config.images import Images, side
from squeezenext.errors import InputError
from squeezenext.model import card, checkpoint, loading
from squeezenext.model import directory as model_directory
from squeezenext.records.dataset import Split

SHARES = (0.0, 0.5, 1.0)  # shares that the first answer's weights may have in the mean
# Sides of the largest square of a photograph, as shares of the side of training. Clothes after 18
# epochs that ended at 227 pixels, top-1 of 341 validation and 372 test images: the centre 227 of
# 256 pixels 0.880 and 0.876; the square at 227 pixels 0.894 and 0.892, at 208 0.897 and 0.906, at
# 192 0.894 and 0.903.
SIDES = (1.0, 0.92, 0.85)
LEAST_SIDE = 96  # pixels


@dataclasses.dataclass(frozen=True)
class Selection:
    """The weights and the image side that `select` keeps of a finished run.

    Attributes:
      share: the share of the first answer's weights: 0, 0.5 or 1.
      side: the pixels to which the largest square in the middle of a photograph is reduced; None if
        the images stay as in training.
      top1: top-1 of the validation images.
      top1_before: top-1 of the validation images, as they were in training.
    """

    share: float
    side: int | None
    top1: float
    top1_before: float

    def sentences(self) -> list[str]:
        """Returns what to tell the user: nothing if all stays as it was trained."""
        found = []
        if self.share:
            mean, first = "The mean of the first answer and fine-tuning", "The first answer"
            what = first if self.share == 1 else mean
            found.append(f"{what} is better on the validation images, and is kept.")
        if self.side:
            better = (
                f"top-1 of the validation images {self.top1:.4f} instead of {self.top1_before:.4f}"
                if self.top1 != self.top1_before
                else "the loss of the validation images is lower"
            )
            found.append(
                "The network is given the largest square in the middle of each photograph, reduced "
                f"to {self.side} pixels: {better}."
            )
        return found


def done(model_dir: Path) -> str | None:
    """Returns the hash of the weights that `select` has left in a model directory, else None."""
    final = model_directory.read_json(model_dir / model_directory.FINAL)
    if "start_share" not in final:
        return None
    try:
        state, _ = checkpoint.load(model_dir / model_directory.CHECKPOINTS, final["step"])
    except InputError:
        return None
    sha256 = checkpoint.weights_sha256(state)
    return sha256 if sha256 == final["weights_sha256"] else None


def select(model_dir: Path, preview: Path, validation: Split, *, resizable: bool) -> Selection:
    """Leaves the best weights and images in a model directory.

    The cross-entropy of the validation images decides, at the best temperature of each choice; its
    mean over the classes, where the network was trained as if they were even.

    Args:
      model_dir: a finished run that began with `preview` and is not `done`.
      preview: the model directory that `probe.make` made.
      validation: the split.
      resizable: whether the network may be given smaller images than in training.
    """
    config, classes = model_directory.read(model_dir)
    final = model_directory.read_json(model_dir / model_directory.FINAL)
    state, meta = checkpoint.load(model_dir / model_directory.CHECKPOINTS, final["step"])
    trained, start = checkpoint.evaluated(state), loading.variables(preview)
    draft, uneven = model_dir / ".selection", config.training.class_weights == "adjusted"

    def scores(config: Config, arrays: dict[str, np.ndarray]) -> dict[str, float]:
        shutil.rmtree(draft, ignore_errors=True)
        probe.write(draft, config, classes, arrays, {})
        return probe.scores(draft, validation, validation.examples, balanced=uneven)

    mixed = {x: {n: x * start[n] + (1 - x) * trained[n] for n in trained} for x in SHARES}
    of_shares = {x: scores(config, arrays) for x, arrays in mixed.items()}
    share = min(SHARES, key=lambda x: of_shares[x]["fitted_loss"])
    arrays, before = mixed[share], of_shares[share]
    configs = [dataclasses.replace(config, images=images) for images in _squares(config, resizable)]
    found = [(before, config), *((scores(other, arrays), other) for other in configs)]
    best, config = min(found, key=lambda pair: pair[0]["fitted_loss"])
    if share or best is not before:
        final |= {name: best[name] for name in ("top1", "top5", "loss")}
    if share:
        names = {n: checkpoint.average_of(n) for n in trained}
        state |= {names[n] if names[n] in state else n: arrays[n] for n in trained}
    final |= {"start_share": share, "weights_sha256": checkpoint.weights_sha256(state)}
    probe.write_network(model_dir, config, classes, arrays)
    costs = stats.to_csv(stats.layers(config))
    files.write_text(model_dir / model_directory.STATS, costs)
    shutil.rmtree(draft)
    files.write_json(model_dir / model_directory.FINAL, final)
    card.write(model_dir)
    if share:
        # Last: until its hash is final.json's, the same command ends the run anew and comes back.
        checkpoint.save(model_dir / model_directory.CHECKPOINTS, final["step"], state, meta)
    square = None if best is before else config.images.size
    return Selection(share, square, best["top1"], before["top1"])


def _squares(config: Config, resizable: bool) -> list[Images]:
    """Returns the largest squares of photographs, at some sides."""
    sides = {side(config.images.size, share) for share in (SIDES if resizable else SIDES[:1])}
    least = min(LEAST_SIDE, config.images.size)
    return [
        dataclasses.replace(config.images, size=size, resize=size, progressive=())
        for size in sorted(sides, reverse=True)
        if size >= least and size != config.images.resize
    ]
