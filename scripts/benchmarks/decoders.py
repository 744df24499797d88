"""Measures JPEG decoders on the crops of training: the limit of every input pipeline.

    python scripts/benchmarks/decoders.py FOLDER [--rounds 5] [--scale 0.08]

Each decoder reads one random crop of each JPEG below FOLDER, the same for all, in one thread, in
turns. Milliseconds are CPU time of an image, medians over the rounds. "Crop" decodes as little
outside the crop as the decoder can; the others decode the whole image. "Scaled" decodes at 1/2, 1/4
or 1/8 of the size where the crop is at least that many times as large as 227 x 227, as training
does. The last column is the mean difference from Pillow's pixels, of 255; scaled pixels have none.
Pillow is needed. A decoder that is not installed is left out, and named: TensorFlow, simplejpeg,
PyTurboJPEG with its library, opencv-python-headless, imagecodecs, torchvision, pyvips with
pyvips-binary. torchvision needs an environment without TensorFlow: PyTorch 2.14 and TensorFlow 2.21
crash in one process.
"""

import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext.errors import InputError

SIZE = 227  # pixels a side of the squares to which crops are resized
Box = tuple[int, int, int, int]  # top, left, height, width
# Takes a JPEG, a crop of it and the divisor of its sides; returns pixels, [rows, columns, 3] uint8.
Decoder = Callable[[bytes, Box, int], object]


def tensorflow() -> dict[str, Decoder]:
    import tensorflow as tf

    def crop(scaled: bool, method: str = "INTEGER_ACCURATE", fancy: bool = True) -> Decoder:
        return lambda jpeg, box, scale: tf.io.decode_and_crop_jpeg(
            jpeg,
            _outer(box, scale if scaled else 1),
            channels=3,
            ratio=scale if scaled else 1,
            dct_method=method,
            fancy_upscaling=fancy,
        )

    def whole(jpeg, box, scale):
        return _cut(tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE"), box)

    return {
        "TensorFlow": whole,
        "TensorFlow, crop": crop(False),
        "TensorFlow, crop, INTEGER_FAST": crop(False, "INTEGER_FAST"),
        "TensorFlow, crop, fancy_upscaling=False": crop(False, fancy=False),
        "TensorFlow, crop, scaled (our training)": crop(True),
    }


def pillow() -> dict[str, Decoder]:
    def whole(jpeg, box, scale):
        return _cut(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")), box)

    def scaled(jpeg, box, scale):
        image = Image.open(io.BytesIO(jpeg))
        image.draft("RGB", (-(-image.width // scale), -(-image.height // scale)))
        return _cut(np.asarray(image.convert("RGB")), _outer(box, scale))

    return {"Pillow": whole, "Pillow, scaled": scaled}


def simplejpeg() -> dict[str, Decoder]:
    import simplejpeg

    def scaled(jpeg, box, scale):
        return _cut(simplejpeg.decode_jpeg(jpeg, "RGB", min_factor=scale), _outer(box, scale))

    def whole(fast: bool) -> Decoder:
        return lambda jpeg, box, scale: _cut(
            simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=fast, fastupsample=fast, strict=False), box
        )

    return {
        "simplejpeg": whole(False),
        "simplejpeg, fast DCT and upsampling": whole(True),
        "simplejpeg, scaled": scaled,
    }


def opencv() -> dict[str, Decoder]:
    import cv2

    cv2.setNumThreads(1)
    ways = {
        1: cv2.IMREAD_COLOR_RGB,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }

    def read(jpeg, box, scale):
        way = ways[scale] | cv2.IMREAD_IGNORE_ORIENTATION
        return _cut(cv2.imdecode(np.frombuffer(jpeg, np.uint8), way), _outer(box, scale))

    return {"OpenCV": lambda jpeg, box, _: read(jpeg, box, 1), "OpenCV, scaled": read}


def imagecodecs() -> dict[str, Decoder]:
    import imagecodecs

    return {
        "imagecodecs": lambda jpeg, box, _: _cut(
            imagecodecs.jpeg8_decode(jpeg, outcolorspace="RGB"), box
        )
    }


def torchvision() -> dict[str, Decoder]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)

    def whole(jpeg, box, scale):
        data = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        return _cut(decode_jpeg(data, ImageReadMode.RGB).permute(1, 2, 0), box)

    return {"torchvision.io": whole}


def pyvips() -> dict[str, Decoder]:
    os.environ["VIPS_CONCURRENCY"] = "1"
    import pyvips

    def scaled(jpeg, box, scale):
        image = pyvips.Image.jpegload_buffer(jpeg, shrink=scale)
        top, left, height, width = _outer(box, scale)
        return image.crop(left, top, width, height).numpy()

    return {
        "pyvips, crop": lambda jpeg, box, _: scaled(jpeg, box, 1),
        "pyvips, crop, scaled": scaled,
    }


def turbojpeg() -> dict[str, Decoder]:
    from turbojpeg import TJPF_RGB, TurboJPEG

    library = TurboJPEG()

    def scaled(jpeg, box, scale):
        return _cut(library.decode(jpeg, TJPF_RGB, (1, scale)), _outer(box, scale))

    return {
        "PyTurboJPEG": lambda jpeg, box, _: scaled(jpeg, box, 1),
        "PyTurboJPEG, scaled": scaled,
    }


# Each returns its decoders by name.
LIBRARIES = (
    tensorflow, pillow, simplejpeg, turbojpeg, opencv, imagecodecs, torchvision, pyvips,
)  # fmt: skip


def _outer(box: Box, scale: int) -> Box:
    """Returns the crop in an image decoded at 1 / scale of its sides."""
    low = [side // scale for side in box[:2]]
    high = [-(-(start + side) // scale) for start, side in zip(box[:2], box[2:], strict=True)]
    return (*low, high[0] - low[0], high[1] - low[1])


def _cut(pixels, box: Box):
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def crops(jpegs: list[bytes], least: float) -> list[tuple[Box, int]]:
    """Returns a random crop of each image, of `least` to all of its area, and its scale."""
    random, found = np.random.default_rng(0), []
    for jpeg in jpegs:
        width, height = Image.open(io.BytesIO(jpeg)).size
        area = random.uniform(least, 1) * width * height
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        rows = min(height, max(1, round((area / ratio) ** 0.5)))
        columns = min(width, max(1, round((area * ratio) ** 0.5)))
        top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
        scales = [scale for scale in (2, 4, 8) if min(rows, columns) >= scale * SIZE]
        found.append(((int(top), int(left), rows, columns), max(scales, default=1)))
    return found


def measure(jpegs: list[bytes], least: float, rounds: int) -> dict[str, tuple[float, float]]:
    """Returns each decoder's CPU milliseconds an image, and its mean difference from Pillow."""
    work = [(jpeg, *where) for jpeg, where in zip(jpegs, crops(jpegs, least), strict=True)]
    decoders = available()
    truth = [np.asarray(decoders["Pillow"](*item), int) for item in work]
    apart = {name: difference(decode, work, truth) for name, decode in decoders.items()}
    times: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decode in decoders.items():
            started = time.process_time()
            for item in work:
                decode(*item)
            times[name].append(1e3 * (time.process_time() - started) / len(work))
    return {name: (statistics.median(times[name]), apart[name]) for name in decoders}


def available() -> dict[str, Decoder]:
    """Returns the decoders that can be imported; says which cannot."""
    found: dict[str, Decoder] = {}
    for library in LIBRARIES:
        try:
            found |= library()
        except Exception as error:  # a missing package, or one without its library
            command_line.log(f"{library.__name__} is left out: {error}")
    return found


def difference(decode: Decoder, work: list, truth: list[np.ndarray]) -> float:
    """Returns the mean difference from `truth`; not a number for a decoder that scales."""
    pixels = [np.asarray(decode(*item), int) for item in work]
    if any(a.shape != b.shape for a, b in zip(pixels, truth, strict=True)):
        return float("nan")
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(pixels, truth, strict=True)]))


def main(argv=None) -> int:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_integer("rounds", 5, "Number of rounds.", 1, **own)
    flags.DEFINE_float("scale", 0.08, "Least share of an image's area in a crop.", 0, 1, **own)

    def command(values, arguments):
        files = sorted(path for at in arguments for path in Path(at).rglob("*.[jJ][pP]*[gG]"))
        if not files:
            raise InputError("A folder of JPEGs is missing: decoders.py FOLDER.")
        jpegs = [path.read_bytes() for path in files]
        rows = measure(jpegs, values["scale"].value, values["rounds"].value)
        lines = [f"| {len(jpegs)} images | CPU ms an image | difference |", "|---|---|---|"]
        lines += [
            f"| {name} | {cost:.2f} | {'' if apart != apart else f'{apart:.2f}'} |"
            for name, (cost, apart) in rows.items()
        ]
        print("\n".join(lines))

    return command_line.run(command, values, __doc__, argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
