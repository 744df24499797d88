"""Some six hundred hostile or odd images: each is predicted as Pillow sees it, or named."""

import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageChops

from squeezenext.predict.predictor import Predictor
from tests import hostile_images, tiny
from tests.conftest import REPOSITORY

# The kernel's own measure of this program: ru_maxrss would count the test's process before it.
RUN = """
import pathlib, sys
from squeezenext import predict
code = predict.main(sys.argv)
status = pathlib.Path("/proc/self/status")
peaks = status.read_text().splitlines() if status.exists() else []
print([line.split()[1] for line in peaks if line.startswith("VmHWM")], file=sys.stderr)
sys.exit(code)
"""
FORMATS = {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "MPO"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model_directory(folder, tiny.SQUEEZENEXT)
    return folder


@pytest.fixture(scope="module")
def result(model, tmp_path_factory):
    """One run of the command over all: (paths, lines, standard error)."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = hostile_images.write(folder)
    command = [sys.executable, "-c", RUN, *paths, "--model_dir", model, "--format", "json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=200)
    assert done.returncode == 1, done.stderr[-2000:]
    return paths, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_each_is_answered_once_and_in_order(result):
    paths, lines, errors = result
    assert len(paths) >= 400
    assert [os.fsencode(line["path"]) for line in lines] == paths
    assert "Traceback" not in errors and "Warning" not in errors
    # libtiff's LZW says by itself what it dislikes, several threads at once.
    said = re.sub(r"tempfile\.tif: |LZWDecode: .*|Using code not yet in table\.?", "", errors)
    summary, peak = [line for line in said.splitlines() if line.strip(" .")]
    assert "could not be read" in summary
    assert all(int(kilobytes) < 700_000 for kilobytes in json.loads(peak.replace("'", '"')))
    for line in lines:
        assert (line["error"] is None) == bool(line["predictions"])
        assert line["error"] is None or line["error"].endswith("."), line


def seen_by_pillow(path: bytes) -> Image.Image | None:
    """What Pillow's own calls make of a file: RGB, transparency shown white; None if refused."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            if image.format not in FORMATS:
                return None
            limit = {"WEBP": 35_951_177, "GIF": 55_924_053}.get(image.format, 89_478_485)
            if image.width * image.height > limit:
                return None
            image.load()
            if image.mode.startswith("I"):
                return Image.fromarray((np.asarray(image, int) // 256).astype(np.uint8)).convert(
                    "RGB"
                )
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                shown = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, shown).convert("RGB")
            if image.mode == "CMYK" and "adobe" not in image.info:
                image = ImageChops.invert(image)  # its inks are plain, and Pillow inverted them
            return image.convert("RGB")
    except Exception:
        return None


def test_each_is_predicted_as_pillow_sees_it_or_named(result, model):
    paths, lines, _ = result
    predictor = Predictor(model)
    wrong = []
    for path, line in zip(paths, lines, strict=True):
        if b"pipe.jpg" in path or path.startswith(b"/dev") or b"sparse" in path:
            assert line["error"]
            continue
        # Pillow's own way would take seconds, gigabytes, or metadata that no pixel needs.
        if any(part in path for part in hostile_images.SPARED):
            refused = any(part in path for part in hostile_images.REFUSED)
            if bool(line["error"]) != refused:
                wrong.append((path, line["error"]))
            continue
        if b"unreadable" in path and os.geteuid():
            assert "Permission denied" in line["error"]
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = seen_by_pillow(path)
        if image is None or line["error"]:
            # A frame may be whole where its file is not, of which Pillow asks more; a TIFF and a
            # HEIF file must be whole here in more than what Pillow needs.
            more = image is None and path.endswith((b".webp", b".avif", b".heic", b".tif"))
            less = path.endswith((b".avif", b".heic", b".tif"))
            if (image is None) != bool(line["error"]) and not more and not less:
                wrong.append((path, line["error"]))
            continue
        expected = predictor.probabilities(image)
        for row in line["predictions"]:
            if abs(row["probability"] - expected[row["index"]]) > 0.02:
                wrong.append((path, row, expected))
    assert not wrong


def test_errors_name_the_file_and_the_reason(result):
    _, lines, _ = result
    errors = {os.path.basename(line["path"]): line["error"] for line in lines if line["error"]}
    for name, reason in {
        "scans_5000.jpg": "has over 100 scans",
        "scans_hidden.jpg": "has over 100 scans",
        "metadata_empty_segments.jpg": "has over 10000 segments",
        "metadata_empty_chunks.png": "has over 100000 chunks",
        "bombs_run_lengths.bmp": "is a compressed BMP; save it uncompressed",
        "bombs_sides66000x10.png": "66000 x 10 pixels; a side may have 65500",
        "bombs_zeros_8_6.png": "9400 x 9400 pixels, more than 62914560",
        "declared_declared60000.png": "pixel",
        "declared_declared60000.jpg": "pixel",
        "declared_declared32767.jpg": "32767 x 32767 pixels, more than 268435456",
        "dangling.jpg": "No such file",
        "circle.jpg": "symbolic links",
        "a folder.jpg": "is a folder; name an image",
        "pipe.jpg": "no regular file",
        "sparse.jpg": "larger than 64 MB",
        "phones_tags.tif": "is cut short or damaged in its header",
        "phones_boxes_plain.avif": "has over 30000 parts",
        "phones_endless_plain.avif": "is cut short or damaged in its header",
        "phones_lies60_plain.avif": "is damaged: it declares two sizes",
        "phones_lies60000_plain.avif": "60000 x 60000 pixels, more than",
        "phones_too_large.avif": "6100 x 6100 pixels, more than 35951177",
        "strangers_really_EPS.jpg": "no JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC image",
        "strangers_empty.jpg": "is empty",
        "truncated_cut5_baseline.jpg": "truncated",
    }.items():
        assert name in errors[name] and reason in errors[name]
