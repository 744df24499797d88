"""Archives made to do harm, and images with the faults that real ones have."""

import gzip
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageOps

from squeezenext.convert import boxes, commit
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError
from squeezenext.records import dataset
from tests import imagenet_archives as archives
from tests.converting import convert
from tests.imagenet_archives import encoded, jpeg, picture, tar_bytes, validation_name
from tests.test_convert import FOLDER, ROOT, examples, sized, without_adobe

TENCH = "n01440764"
PHOTO = picture(1, 96, 64)
JPEG = encoded(PHOTO, quality=95)


def member(name, data=b"", kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(1024)


def hostile_class():
    """One class's archive: four good images among everything else."""
    parts = [member(f"{TENCH}_{n}.JPEG", jpeg(n)) for n in range(4)]
    parts += [
        member("/etc/passwd", b"x"),
        member(f"../{TENCH}_10.JPEG", jpeg(10)),
        member(f"{TENCH}_11.JPEG", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(f"{TENCH}_12.JPEG", kind=tarfile.LNKTYPE, linkname=f"{TENCH}_0.JPEG"),
        member(f"{TENCH}_13.JPEG", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member(f"{TENCH}_14.JPEG", kind=tarfile.FIFOTYPE),
        member(f"{TENCH}_15.tar", tar_bytes({"again.tar": tar_bytes({"x.JPEG": jpeg(1)})})),
        member(f"{TENCH}_16.JPEG", sized(JPEG, 60_000, 60_000)),
        member(f"{TENCH}_0.JPEG", jpeg(99)),
        member(f"{TENCH}_17.JPEG", gzip.compress(bytes(1 << 20))),
    ]
    parts += [member(f"{TENCH}_{n}.JPEG") for n in range(20_000, 30_000)]
    return b"".join(parts) + END


def bomb():
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE b [<!ENTITY a0 "x">{entities}]><annotation>&a9;</annotation>'.encode()


def test_a_hostile_archive(tmp_path):
    """Everything is refused by name or skipped; nothing is written elsewhere; memory is bounded."""
    source = archives.write_imagenet(
        tmp_path / "source",
        {},
        {validation_name(TENCH): jpeg(50), "../../evil.JPEG": jpeg(51)},
        {f"{TENCH}/{TENCH}_1.xml": bomb(), "../../evil.xml": b"x"},
    )
    outer = member(f"{TENCH}.tar", hostile_class()) + member("../n01443537.tar", hostile_class())
    (source / "ILSVRC2012_img_train.tar").write_bytes(outer + END)
    # Not ru_maxrss: that counts what the parent had before it became this process.
    code = (
        "import sys; from datasets.convert import main; code = main();"
        "print(*[row.split()[1] for row in open('/proc/self/status') if 'VmHWM' in row]);"
        "sys.exit(code)"
    )
    flags = [f"--source={source}", f"--output={tmp_path / 'out'}", "--workers=1", "--partial"]
    line = [sys.executable, "-c", code, "--layout=imagenet", *flags]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert int(done.stdout) < 300_000  # KB; Python with numpy and Pillow alone takes 60,000
    assert done.stderr.splitlines()[-1].startswith("error: 10,014 files were rejected")
    manifest = dataset.load_manifest(tmp_path / "out")
    assert set(examples(manifest, "train")) == {f"{TENCH}_{n}.JPEG" for n in range(4)}
    assert manifest.splits["validation"].examples == 1
    assert len(manifest.raw["rejected"]) == 10_000
    assert manifest.raw["omitted"]["rejected"] == 14
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def named(tmp_path, train, boxes=None):
    source = archives.write_imagenet(
        tmp_path / "source", {}, {validation_name(TENCH): jpeg(50)}, boxes
    )
    (source / "ILSVRC2012_img_train.tar").write_bytes(train + END)
    options = {"layout": "imagenet", "partial": True, "workers": 1, "show_progress": False}
    manifest = convert(source, tmp_path / "out", **options)
    return {row["file"]: row["reason"] for row in manifest.raw["rejected"]}


def test_each_is_named(tmp_path):
    inner = hostile_class()
    start = inner.index(f"{TENCH}_20000.JPEG".encode())
    reasons = named(
        tmp_path,
        member(f"{TENCH}.tar", inner[:start] + END),
        {f"{TENCH}/{TENCH}_1.xml": bomb(), "../../evil.xml": b"x"},
    )
    short = {name.removeprefix(f"{TENCH}.tar: "): reason for name, reason in reasons.items()}
    assert short.pop(f"{TENCH}_1.xml").startswith("cannot be read (EntitiesForbidden")
    assert short == {
        "/etc/passwd": "is no image of the data set",
        f"../{TENCH}_10.JPEG": "is no image of the data set",
        f"{TENCH}_11.JPEG": "is a symbolic link",
        f"{TENCH}_12.JPEG": "is a hard link",
        f"{TENCH}_13.JPEG": "is a device or another special entry",
        f"{TENCH}_14.JPEG": "is a device or another special entry",
        f"{TENCH}_15.tar": "is no image of the data set",
        f"{TENCH}_16.JPEG": "declares 60000 x 60000 pixels, more than 268435456",
        f"{TENCH}_0.JPEG": "appears twice",
        f"{TENCH}_17.JPEG": "is an unknown format, "
        "no JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC image",
        "ILSVRC2012_bbox_train_v2.tar.gz: ../../evil.xml": "is no box file",
    }


CMYK = PHOTO.convert("CMYK")
INVERTED = Image.merge("CMYK", [ImageOps.invert(band) for band in CMYK.split()])
EXIF = Image.Exif()
EXIF[0x0112] = 6  # "turn me by 90 degrees"

PROGRESSIVE = encoded(PHOTO, progressive=True)
SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") :][:10]  # of one component


def hidden(first: bytes, second: bytes) -> bytes:
    """Two images in one: libjpeg steps over a restart mark, which has no length, and reads on."""
    return b"\xff\xd8\xff\xd0" + (len(first) + 2).to_bytes(2, "big") + first + second


# The notes' table of JPEG faults: name, bytes, what becomes of it.
TABLE = {
    "grey.jpg": (encoded(PHOTO.convert("L")), "as it is"),
    "progressive.jpg": (PROGRESSIVE, "as it is"),
    "scans.jpg": (PROGRESSIVE[:-2] + 200 * SCAN + PROGRESSIVE[-2:], "has over 100 scans"),
    "hidden.jpg": (hidden(PROGRESSIVE[2:-2] + 200 * SCAN, JPEG[2:]), "is cut short or damaged"),
    "second-scan.jpg": (JPEG[:-2] + 200 * SCAN + JPEG[-2:], "cannot be decoded"),
    "cmyk-adobe.jpg": (encoded(CMYK, quality=98), "CMYK converted to RGB"),
    "cmyk-plain.jpg": (without_adobe(encoded(INVERTED, quality=98)), "CMYK converted to RGB"),
    "png.jpg": (encoded(PHOTO, "PNG"), "PNG encoded as JPEG"),
    "rgba.jpg": (encoded(PHOTO.convert("RGBA"), "PNG"), "PNG encoded as JPEG"),
    "gif.jpg": (encoded(PHOTO, "GIF"), "GIF encoded as JPEG"),
    "bmp.jpg": (encoded(PHOTO, "BMP"), "BMP encoded as JPEG"),
    "webp.jpg": (encoded(PHOTO, "WEBP", quality=98), "WebP encoded as JPEG"),
    "no-end.jpg": (JPEG[:-2], "end mark appended"),
    "garbage.jpg": (JPEG + b"garbage" * 99, "as it is"),
    # Stored as a camera does that is held upright: with its left side on top.
    "turned.jpg": (
        encoded(PHOTO.transpose(Image.Transpose.ROTATE_90), quality=95, exif=EXIF),
        "turned upright (EXIF 6)",
    ),
    "half.jpg": (JPEG[: len(JPEG) // 2], "is cut short"),
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"<html>404 Not Found</html>", "is text"),
}


def test_the_table_of_jpeg_faults(tmp_path):
    tf = pytest.importorskip("tensorflow")
    for split in ("train", "validation"):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            (tmp_path / "photos" / split / name / "good.jpg").write_bytes(JPEG)
    for name, (data, _) in TABLE.items():
        (tmp_path / "photos" / "train" / "a" / name).write_bytes(data)
    manifest = convert(tmp_path / "photos", tmp_path / "out", **FOLDER)
    found = {f"a/{name}": "as it is" for name in TABLE}
    for row in (*manifest.raw["repairs"], *manifest.raw["rejected"]):
        found[row["file"]] = row["reason"]
    for name, (_, wanted) in TABLE.items():
        assert found[f"a/{name}"].startswith(wanted), name
    for name, row in examples(manifest, "train").items():
        data = row["image/encoded"][0]
        pixels = tf.io.decode_and_crop_jpeg(data, [0, 0, 64, 96], channels=3).numpy()
        assert pixels.shape == (64, 96, 3) == (row["image/height"][0], row["image/width"][0], 3)
        if "grey" not in name:
            assert np.abs(pixels.astype(float) - np.asarray(PHOTO)).mean() < 6, name
        original = TABLE.get(name.removeprefix("a/"), (JPEG, "as it is"))
        assert (data == original[0]) == (original[1] == "as it is")


def test_reports_are_bounded_text(tmp_path):
    """A name with line ends or escapes cannot forge lines in what is printed."""
    inner = tar_bytes({f"{TENCH}_1.JPEG": jpeg(1), "a\nerror: \x1b[31mforged": b"x"})
    reasons = named(tmp_path, member(f"{TENCH}.tar", inner))
    assert set(reasons) == {f"{TENCH}.tar: a\\nerror: \\x1b[31mforged"}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())


def test_boxes_that_are_packed_too_tightly_are_refused(tmp_path):
    """4 MB of gzip hold 4 GB of zeros, for which the way to the next member took 40 s."""
    path = tmp_path / "boxes.tar.gz"
    large = tarfile.TarInfo(f"{TENCH}/{TENCH}_1.xml")
    large.size = 4 << 30
    path.write_bytes(gzip.compress(large.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with Pool(1) as pool, pytest.raises(InputError, match="unpacks to over 200 times its size"):
        boxes.read(path, {f"{TENCH}_1"}, pool)


@pytest.mark.parametrize("name", [commit.WORK, commit.SPOOL])
def test_a_link_in_the_output_folder_is_not_followed(tmp_path, name):
    """What lies in the folder that it leads to is not ours to sweep."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tmp").write_text("mine")
    (tmp_path / name).symlink_to(theirs)
    with pytest.raises(InputError, match="is a symbolic link; remove it"), commit.swept(tmp_path):
        pass
    assert (theirs / "thesis.tmp").read_text() == "mine"


FORGED = "\x1b[2Jall as the manifest says\x1b[0m"


def test_no_command_lets_a_name_drive_the_terminal(tmp_path, capsys):
    """Names in folders, lists, records and archives, through conversion, its check, prediction."""
    from datasets import convert as convert_command
    from datasets import verify
    from squeezenext import predict

    photos = tmp_path / "photos"
    for folder in ("train/a", "train/b", "validation/a", "validation/b", FORGED):
        (photos / folder).mkdir(parents=True)
        for number in range(2):
            (photos / folder / f"{number}.jpg").write_bytes(JPEG)
    (photos / "train/a" / f"x.{FORGED}").write_bytes(b"no image")
    (photos / "train/a" / f"{FORGED}.jpg").write_bytes(b"no image")
    output = tmp_path / "out"
    arguments = ["--layout", "folder", "--source", str(photos), "--output", str(output)]
    codes = [convert_command.main(["convert", *arguments])]
    (photos / "train/a" / f"{FORGED}.jpg").unlink()
    codes.append(convert_command.main(["convert", *arguments]))
    shard = next(output.glob("train-*"))
    shard.rename(output / f"train-{FORGED}")
    codes.append(verify.main(["verify", str(output)]))
    codes.append(predict.main(["predict", str(photos / FORGED), "--model_dir", FORGED]))
    printed = capsys.readouterr()
    assert codes[0] == 1 and 0 not in codes[2:]  # the photograph is rejected
    assert "\x1b" not in printed.err and "\\x1b[2J" in printed.err
