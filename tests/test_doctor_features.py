"""Tests for `squeezenext/doctor/features.py`."""

import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from squeezenext.convert.listing import Listing
from squeezenext.doctor import features
from squeezenext.predict.predictor import Predictor
from tests import tiny


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    tiny.model_directory(folder, tiny.SQUEEZENET)
    return folder


def listing(folder, contents):
    """A listing of files with these contents, each of class 1."""
    paths = [folder / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    rows = [(number, 0, path.stat().st_size, 1) for number, path in enumerate(paths)]
    return Listing.of_rows(paths, rows, list(contents))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_features_are_those_of_prediction(network, tmp_path):
    photos = listing(tmp_path, {f"{n}.jpg": tiny.jpeg(n, n % 3 + 1) for n in range(5)})
    found = features.extract(photos, network, show_progress=False)
    predictor = Predictor(network, inside=True)
    expected = [predictor.view(path).features for path in photos.files]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    assert found.values.dtype == np.float32 and found.rows.tolist() == [0, 1, 2, 3, 4]


def test_a_damaged_photograph_is_named_and_left_out(network, tmp_path):
    contents = {"a.jpg": tiny.jpeg(0, 1), "b\n.jpg": b"no image", "c.jpg": tiny.jpeg(1, 1)}
    found = features.extract(listing(tmp_path, contents), network, show_progress=False)
    assert found.rows.tolist() == [0, 2] and len(found.values) == len(found.pixels) == 2
    assert [fault.file for fault in found.faults] == [r"b\n.jpg"]


def test_no_photograph_can_be_read(network, tmp_path):
    found = features.extract(listing(tmp_path, {"a.jpg": b"text"}), network, show_progress=False)
    assert len(found.values) == len(found.pixels) == 0 and len(found.faults) == 1


def test_pixels_say_size_light_blur_and_border(network, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    framed = Image.new("RGB", (80, 60), (255, 0, 0))
    framed.paste((0, 0, 0), (5, 5, 75, 55))
    contents = {
        "sharp.png": encoded(noise, "PNG"),
        "blurred.png": encoded(noise.filter(ImageFilter.GaussianBlur(3)), "PNG"),
        "framed.png": encoded(framed, "PNG"),
        "dark.png": encoded(Image.new("RGB", (64, 64), (4, 4, 4)), "PNG"),
    }
    sharp, blurred, frame, dark = features.extract(
        listing(tmp_path, contents), network, show_progress=False
    ).pixels
    assert blurred["sharpness"] < 0.01 * sharp["sharpness"]
    assert (frame["width"], frame["height"]) == (80, 60)
    assert frame["border"][0] > 200 > frame["colour"][0]
    assert dark["brightness"] == pytest.approx(4)


def test_a_turned_photograph_has_the_features_of_the_upright_one(network, tmp_path):
    upright = Image.open(io.BytesIO(tiny.jpeg(0, 1))).crop((0, 0, 48, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    contents = {
        "upright.png": encoded(upright, "PNG"),
        "turned.jpg": encoded(turned, quality=100, subsampling=0, exif=exif),
    }
    found = features.extract(listing(tmp_path, contents), network, show_progress=False)
    assert {(row["width"], row["height"]) for row in found.pixels} == {(48, 30)}
    np.testing.assert_allclose(found.values[0], found.values[1], atol=0.05)


def test_kept_features_are_computed_once(network, tmp_path, monkeypatch):
    kept = tmp_path / "report" / "features.npz"
    photos = listing(tmp_path, {f"{n}.jpg": tiny.jpeg(n, 1) for n in range(3)})
    first = features.extract(photos, network, kept=kept, show_progress=False)
    photos.files[1].write_bytes(tiny.jpeg(9, 2))  # another photograph of the same name
    rows = [(number, 0, path.stat().st_size, 1) for number, path in enumerate(photos.files)]
    photos = Listing.of_rows(photos.files, rows, photos.names)
    seen = []
    grey = features._grey
    monkeypatch.setattr(features, "_grey", lambda crop: seen.append(crop) or grey(crop))
    second = features.extract(photos, network, kept=kept, show_progress=False)
    assert len(seen) == 1
    np.testing.assert_array_equal(first.values[[0, 2]], second.values[[0, 2]])
    assert (first.pixels == second.pixels).tolist() == [True, False, True]


def test_features_of_another_network_are_not_taken(tmp_path):
    """Nor where the networks differ in the last channel alone."""
    photos = listing(tmp_path, {"a.jpg": tiny.jpeg(0, 1)})
    values = np.arange(17, dtype=np.float32)
    other = np.append(values[:-1], np.float32(99))
    first, second = (
        features._keys(photos, SimpleNamespace(view=lambda _, v=v: SimpleNamespace(features=v)))
        for v in (values, other)
    )
    assert first != second


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04cut"])
def test_a_damaged_file_of_features_is_made_anew(network, tmp_path, content):
    kept = tmp_path / "features.npz"
    kept.write_bytes(content)
    photos = listing(tmp_path, {"a.jpg": tiny.jpeg(0, 1)})
    found = features.extract(photos, network, kept=kept, show_progress=False)
    assert len(found.values) == 1
    assert zipfile.is_zipfile(kept)
