"""Writes a contact sheet (PNG) of training images: one row an image, one column an epoch.

python -m scripts.show_augmentation --configuration NAME --data_dir DIR --output FILE.png
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image, PngImagePlugin

from squeezenext import files
from squeezenext.cli import check_file, run
from squeezenext.config import Config, recipes
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.images import augment
from squeezenext.records import batches, dataset
from squeezenext.records.reader import Reader
from squeezenext.train import phases

_MARK = "SqueezeNext's show_augmentation"  # in the PNG, which tells it from a photograph


def sheet(config: Config, reader: Reader, rows: int, columns: int, seed: int) -> np.ndarray:
    """Returns [rows * size, columns * size, 3] uint8: the first images of an epoch, in several.

    Args:
      config: its classes are those of the data.
      reader: of the training split.
      seed: of the run that would show them.
    """
    import tensorflow as tf  # after squeezenext, which says how it is to compute

    examples = reader.split.examples
    rows = min(rows, examples)
    first = batches.order(seed, 0, examples)[:rows]
    strips = [_epoch(config, reader, first, epoch, seed) for epoch in range(columns)]
    side = max(strip.shape[1] for strip in strips)
    same = [tf.image.resize(strip, [side, side], "nearest").numpy() for strip in strips]
    cells = np.stack(same, 1)  # [rows, columns, side, side, 3]
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)


def _epoch(config: Config, reader: Reader, numbers, epoch: int, seed: int) -> np.ndarray:
    import tensorflow as tf

    images = phases.resized(config.images, phases.phase(config, epoch).size)
    classes = config.model.classes
    batch = batches.examples(reader, images, classes, seed=seed, numbers=numbers, epoch=epoch)
    pixels, _ = augment.augmented(*batch, images, classes)
    return tf.cast(pixels + 0.5, tf.uint8).numpy()


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("configuration", "v_1_0_SqNxt_23", "A module in configs/, or a .py.", **at)
    flags.DEFINE_string("recipe", "published", f"One of {', '.join(recipes.NAMES)}.", **at)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the configuration; repeatable.", **at)
    flags.DEFINE_string("data_dir", None, "Folder with the shards and manifest.json.", **at)
    flags.DEFINE_string("output", None, "The PNG to write.", **at)
    flags.DEFINE_integer("images", 8, "Number of rows.", 1, 64, **at)
    flags.DEFINE_integer("epochs", 8, "Number of columns.", 1, 64, **at)
    flags.DEFINE_integer("seed", 0, "Seed of the run.", 0, **at)

    def command(values, positional):
        if positional:
            raise InputError(f"Unexpected argument {positional[0]!r}; flags begin with --.")
        if not values["output"].value:
            raise InputError("--output is missing: the PNG to write.")
        output = Path(values["output"].value)
        check_file("output", output)
        files.check_ours(output, _MARK)
        config = config_io.load(values["configuration"].value)
        config = recipes.apply(values["recipe"].value, config, *values["set"].value)
        found = dataset.find_dataset(values["data_dir"].value, None, None)
        dataset.check_split(found, "train")
        reader = Reader(found.splits["train"])
        classes = len(dataset.classes_for(found, config))
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, classes=classes)
        )
        pixels = sheet(
            config,
            reader,
            values["images"].value,
            values["epochs"].value,
            values["seed"].value,
        )
        mark = PngImagePlugin.PngInfo()
        mark.add_text("Software", _MARK)
        files.write_file(output, lambda f: Image.fromarray(pixels).save(f, "PNG", pnginfo=mark))
        print(f"{output}: {pixels.shape[1]} x {pixels.shape[0]} pixels.")

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
