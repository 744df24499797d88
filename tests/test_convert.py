"""From archives to a data directory: the same bytes however it went, and every fault named."""

import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from squeezenext.convert import command, estimate, imagenet_archives, images, listing
from squeezenext.errors import InputError, RunAgain
from squeezenext.images import jpeg as segments
from squeezenext.records import dataset, example, reader, tfrecord
from tests import imagenet_archives as archives
from tests.converting import convert
from tests.imagenet_archives import class_folders, encoded, jpeg, picture

ROOT = Path(__file__).parents[1]
TENCH, GOLDFISH = "n01440764", "n01443537"
IMAGENET = {"layout": "imagenet", "partial": True, "workers": 1, "show_progress": False}
FOLDER = {"layout": "folder", "workers": 1, "show_progress": False}


@pytest.fixture
def source(tmp_path):
    train = {
        synset: {f"{synset}_{n}.JPEG": jpeg(base + n) for n in range(5)}
        for base, synset in ((0, TENCH), (100, GOLDFISH))
    }
    validation = {archives.validation_name(GOLDFISH, n): jpeg(200 + n) for n in range(3)}
    boxes = {f"{TENCH}/{TENCH}_0.xml": archives.box_xml(TENCH, (10, 10, 60, 40))}
    return archives.write_imagenet(tmp_path / "source", train, validation, boxes)


@pytest.fixture
def photos(tmp_path):
    return class_folders(tmp_path / "photos", 10, ("cat", "dog", "owl"))


def examples(manifest, split):
    """Returns image/filename -> features of a split, in the records' order."""
    part = manifest.splits[split]
    found = {}
    for shard, offset, length in reader.index(part):
        with part.shards[shard].path.open("rb") as file:
            payload = tfrecord.read(file.fileno(), offset, length, part.shards[shard].path.name, 0)
        features = example.decode_example(payload)
        found[features["image/filename"][0].decode()] = features
    return found


def hashes(directory):
    """Returns the SHA-256 of every file that readers see."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if not path.name.startswith(".")
    }


def test_imagenet(source, tmp_path):
    manifest = convert(source, tmp_path / "out", **IMAGENET)
    train, validation = examples(manifest, "train"), examples(manifest, "validation")
    assert len(manifest.classes) == 1000 and manifest.raw["partial"] is True
    assert {row["image/class/label"][0] for row in train.values()} == {1, 2}
    assert {row["image/class/synset"][0] for row in validation.values()} == {GOLDFISH.encode()}
    row = train[f"{TENCH}_0.JPEG"]
    assert row["image/encoded"] == [jpeg(0)]
    assert (row["image/height"], row["image/width"]) == ([16], [24])
    assert row["image/class/text"] == [b"tench, Tinca tinca"]
    assert row["image/object/bbox/xmin"] == pytest.approx([0.1])
    assert row["image/object/bbox/ymax"] == pytest.approx([0.8])
    assert row["image/object/bbox/label"] == [1]
    assert train[f"{TENCH}_1.JPEG"]["image/object/bbox/xmin"] == []
    assert manifest.raw["rejected"] == manifest.raw["repairs"] == []
    assert (tmp_path / "out" / "labels.txt").read_text().startswith("1:tench, Tinca tinca\n2:gold")
    dataset.check_shards(manifest)
    for shard in manifest.splits["train"].shards:
        assert hashlib.sha256(shard.path.read_bytes()).hexdigest() == shard.sha256
        assert len(tfrecord.offsets(shard.path)) - 1 == shard.examples


def test_tensorflow_reads_the_records(source, tmp_path):
    tf = pytest.importorskip("tensorflow")
    manifest = convert(source, tmp_path / "out", **IMAGENET)
    paths = [str(shard.path) for shard in manifest.splits["train"].shards]
    rows = list(tf.data.TFRecordDataset(paths))
    assert len(rows) == 10
    spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    image = tf.io.decode_jpeg(tf.io.parse_single_example(rows[0], spec)["image/encoded"])
    assert image.shape == (16, 24, 3)


def test_bytes_do_not_depend_on_the_workers_or_the_source_order(source, tmp_path):
    shards = {"train_shards": 4, "validation_shards": 2}
    for workers in (1, 2):
        convert(source, tmp_path / str(workers), **IMAGENET | shards | {"workers": workers})
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    others = "train.index validation.index labels.txt manifest.json categories.csv rgb_val.json"
    names = {*others.split(), "train.csv", "val.csv"}
    assert {name for name in hashes(tmp_path / "1") if "-of-" not in name} == names
    assert len(hashes(tmp_path / "1")) == 4 + 2 + len(names)
    other = convert(source, tmp_path / "seed", **IMAGENET | shards | {"seed": 1})
    assert list(examples(other, "train")) != list(
        examples(dataset.load_manifest(tmp_path / "1"), "train")
    )


def test_shards_are_no_more_than_examples(source, tmp_path):
    manifest = convert(source, tmp_path / "out", **IMAGENET, train_shards=1024)
    assert [shard.examples for shard in manifest.splits["train"].shards] == [1] * 10


def test_folder_split_is_stratified_and_stable(photos, tmp_path):
    first = convert(photos, tmp_path / "a", **FOLDER)
    assert first.splits["train"].examples == 24 and first.splits["validation"].examples == 6
    names = set(examples(first, "validation"))
    assert sorted(name.split("/")[0] for name in names) == ["cat"] * 2 + ["dog"] * 2 + ["owl"] * 2
    assert not names & set(examples(first, "train"))
    (photos / "cat" / "new.jpg").write_bytes(jpeg(999))
    second = convert(photos, tmp_path / "b", **FOLDER, seed=0)
    dogs = {name for name in names if not name.startswith("cat")}
    assert dogs <= set(examples(second, "validation"))
    other = convert(photos, tmp_path / "c", **FOLDER, seed=5)
    assert set(examples(other, "validation")) != names


def test_done_already_and_other_data(photos, tmp_path):
    out = tmp_path / "out"
    convert(photos, out, **FOLDER)
    before = hashes(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    convert(photos, out, **FOLDER)
    assert hashes(out) == before
    assert all(path.stat().st_mtime_ns == times[path] for path in out.glob("train*"))
    with pytest.raises(InputError, match="another data set.*--overwrite"):
        convert(photos, out, **FOLDER, seed=3)
    convert(photos, out, **FOLDER, seed=3, train_shards=3, overwrite=True)
    assert sorted(path.name for path in out.glob("train-*"))[-1] == "train-00002-of-00003"
    assert len(list(out.glob("train-*"))) == 3


def test_resumes_at_the_next_shard(photos, tmp_path, monkeypatch):
    shards = FOLDER | {"train_shards": 6}
    convert(photos, tmp_path / "whole", **shards)
    draft, done = command.shards.draft, []

    def dies(job):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(job.path)
        return draft(job)

    out = tmp_path / "out"
    monkeypatch.setattr(command.shards, "draft", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, out, **shards)
    assert not (out / "manifest.json").exists()
    times = {path: path.stat().st_mtime_ns for path in done}
    monkeypatch.undo()
    convert(photos, out, **shards)
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert hashes(out) == hashes(tmp_path / "whole")
    assert not (out / ".convert").exists()


def test_an_unfinished_conversion_of_other_data_is_not_gone_on_with(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(command.outputs, "finish", lambda *_: None)
    convert(photos, out, **FOLDER, train_shards=5)
    monkeypatch.undo()
    picture_file = photos / "cat" / "0.jpg"
    size = picture_file.stat().st_size
    picture_file.write_bytes(jpeg(1)[:size].ljust(size, b"\0"))  # edited, of the same length
    os.utime(picture_file, ns=(1, 1))
    manifest = convert(photos, out, **FOLDER, train_shards=2)
    assert len(list(out.glob("train-*"))) == 2
    everything = examples(manifest, "train") | examples(manifest, "validation")
    assert everything["cat/0.jpg"]["image/encoded"] != [jpeg(0)]


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.15, 0.3])
def test_killed_it_goes_on(photos, tmp_path, moment):
    """SIGKILL while shards are written; the same command then ends with the same bytes."""
    for n in range(10, 150):
        (photos / "cat" / f"{n}.jpg").write_bytes(jpeg(n))
    shards = FOLDER | {"train_shards": 100, "workers": 2}
    convert(photos, tmp_path / "whole", **shards | {"workers": 1})
    out = tmp_path / "out"
    arguments = ["--train_shards=100", "--workers=2"]
    with started(photos, out, *arguments) as process:
        wait_for(lambda: list(out.glob("train-*")))
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
    convert(photos, out, **shards)
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.parametrize("moment", [0.0, 0.3])
@pytest.mark.parametrize(
    ("kind", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)], ids=["^C", "TERM"]
)
def test_interrupted_it_says_so(photos, tmp_path, moment, kind, send):
    """Ctrl-C reaches the whole group of processes, workers that are starting among them."""
    out = tmp_path / "out"
    for n in range(10, 400):
        (photos / "cat" / f"{n}.jpg").write_bytes(jpeg(n))
    arguments = ["--train_shards=300", "--workers=2"]
    with started(photos, out, *arguments, start_new_session=True) as process:
        wait_for((out / ".convert" / "plan.json").exists)
        time.sleep(moment)
        send(process.pid, kind)
        assert process.wait() == 75
        assert process.stderr.read() == "error: Interrupted; run the same command again to go on.\n"
    convert(photos, out, **FOLDER | {"train_shards": 300})


def started(source, out, *arguments, **options):
    line = [sys.executable, "-m", "datasets.convert", "--layout=folder", f"--source={source}"]
    return subprocess.Popen(
        [*line, f"--output={out}", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_second_converter_is_told_who_is_first(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with command.plan.lock_directory(out):
        with pytest.raises(RunAgain, match=f"process {os.getpid()} on"):
            convert(photos, out, **FOLDER)
        with started(photos, out) as process:
            assert process.wait() == 75
            assert f"written by process {os.getpid()}" in process.stderr.read()
    convert(photos, out, **FOLDER)


def test_a_full_disk_is_no_loss(photos, tmp_path):
    """RLIMIT_FSIZE stands for the disk: the write fails as it does there."""
    out = tmp_path / "out"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000));"
        "from datasets.convert import main; sys.exit(main())"
    )
    flags = ["--layout=folder", f"--source={photos}", f"--output={out}", "--workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 75 and "free some space" in done.stderr, done.stderr
    assert not list(out.glob("train-*")) and not list(out.glob(".convert/*.tmp"))
    convert(photos, out, **FOLDER)
    convert(photos, tmp_path / "whole", **FOLDER)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_source_that_changes_is_noticed(photos, tmp_path, monkeypatch):
    draft = command.shards.draft

    def edits(job):
        (photos / "cat" / "0.jpg").write_bytes(jpeg(5) + b"longer")
        return draft(job)

    monkeypatch.setattr(command.shards, "draft", edits)
    with pytest.raises(RunAgain, match="changed while it was read"):
        convert(photos, tmp_path / "out", **FOLDER)
    monkeypatch.undo()
    convert(photos, tmp_path / "out", **FOLDER)


def run(*arguments):
    return command.main(["convert", "--workers=1", *map(str, arguments)])


def test_command(photos, tmp_path, capsys):
    (photos / "cat" / "notes.jpg").write_text("this is no picture\n" * 3)
    (photos / "dog" / "empty.JPG").write_bytes(b"")
    out = tmp_path / "out"
    assert run("--layout=folder", "--source", photos, "--output", out) == 1
    message = capsys.readouterr().err
    assert "rejected: cat/notes.jpg is text" in message
    assert "rejected: dog/empty.JPG is empty" in message
    assert "2 files were rejected, all others are converted" in message
    manifest = dataset.load_manifest(out)
    assert sum(split.examples for split in manifest.splits.values()) == 30
    assert [row["file"] for row in manifest.raw["rejected"]] == ["cat/notes.jpg", "dog/empty.JPG"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--layout"),
        (["--layout=tree", "--source=x", "--output=y"], "layout"),
        (["--layout=folder", "--source={here}/absent", "--output={here}/y"], "is no folder"),
        (["--layout=folder", "--source={here}", "--output={here}/y"], "images"),
        (["--layout=folder", "--source={photos}", "--output={here}/y", "extra"], "'extra'"),
        (["--layout=folder", "--source={photos}", "--output={file}/y"], "lies among"),
        (["--layout=folder", "--source={photos}", "--output={other}/y"], "cannot be written"),
        (["--layout=folder", "--source={photos}", "--output={here}/y", "--seed=-1"], "--seed"),
        (
            ["--layout=folder", "--source={photos}", "--output={here}/y", "--train_shards=0"],
            "--train_shards",
        ),
        (
            ["--layout=folder", "--source={photos}", "--output={here}/y"]
            + ["--validation_fraction=1"],
            "--validation_fraction",
        ),
    ],
)
def test_usage(photos, tmp_path, capsys, arguments, message):
    here = tmp_path / "here"
    here.mkdir()
    other = tmp_path / "other"
    other.write_text("a file")
    file = photos / "cat" / "0.jpg"
    places = {"here": here, "photos": photos, "file": file, "other": other}
    assert run(*(argument.format(**places) for argument in arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not (here / "y" / "manifest.json").exists()


def test_help(capsys):
    assert run("--help") == 0
    assert "--validation_fraction" in capsys.readouterr().out


def test_nothing_usable(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(3):
            (tmp_path / "photos" / name / f"{n}.jpg").write_text("text")
    with pytest.raises(InputError, match="No image of the train split"):
        convert(tmp_path / "photos", tmp_path / "out", **FOLDER)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_script_from_another_folder(source, tmp_path):
    script = ["bash", str(ROOT / "datasets" / "process_downloaded_imagenet.sh")]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "env": environment}
    done = subprocess.run([*script, "source", "--partial", "--train_shards=3"], **options)
    assert done.returncode == 0, done.stderr
    manifest = dataset.load_manifest(source / "tf-records")
    assert manifest.splits["train"].examples == 10 and len(manifest.splits["train"].shards) == 3
    assert subprocess.run(script, **options).returncode == 2
    absent = subprocess.run([*script, "absent"], **options)
    assert absent.returncode == 2 and "absent is no folder" in absent.stderr
    whole = subprocess.run([*script, "source"], **options)
    assert whole.returncode == 2 and "--partial" in whole.stderr


def without_adobe(data):
    """Returns a JPEG without its Adobe segment: its inks are then taken as they are."""
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + data[start + 2 + length :]


def sized(data, height, width):
    """Returns a JPEG that declares another size."""
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[start + 4 :]


PHOTO = picture(1, 96, 64)
CMYK = PHOTO.convert("CMYK")
INVERTED = Image.merge("CMYK", [ImageOps.invert(band) for band in CMYK.split()])
GREY_16 = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257)
JPEG = encoded(PHOTO, quality=95)
PROGRESSIVE = encoded(PHOTO, quality=95, progressive=True)


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        PROGRESSIVE,
        encoded(PHOTO.convert("L")),
        JPEG + b"\0" * 100,
        JPEG + b"garbage" * 20,
        encoded(PHOTO, exif=b"Exif\0\0broken"),
    ],
)
def test_good_images_keep_their_bytes(data):
    for verify in (False, True):
        assert images.normalise(data, verify) == (data, 64, 96, "")


@pytest.mark.parametrize(
    ("data", "repair"),
    [
        (encoded(CMYK, quality=98), "CMYK"),
        (without_adobe(encoded(INVERTED, quality=98)), "CMYK"),
        (encoded(PHOTO, "PNG"), "PNG"),
        (encoded(PHOTO.convert("RGBA"), "PNG"), "PNG"),
        (encoded(PHOTO, "BMP"), "BMP"),
        (encoded(PHOTO, "GIF"), "GIF"),
        (encoded(PHOTO, "WEBP", quality=98), "WebP"),
        (encoded(PHOTO, "AVIF", quality=98), "AVIF"),
        (encoded(PHOTO, "TIFF", compression="tiff_lzw"), "TIFF"),
        (JPEG[:-2], "end mark"),
        (JPEG[:-1], "end mark"),
        (JPEG[:-2] + bytes(500), "end mark"),
        (PROGRESSIVE[:-2], "end mark"),
    ],
)
def test_repairs_look_like_the_original(data, repair):
    result = images.normalise(data)
    assert repair in result.repair
    header = segments.header(result.data)
    assert (header.height, header.width, header.components) == (64, 96, 3)
    assert result.data.endswith(b"\xff\xd9")
    assert difference(result.data) < 4


def difference(data):
    """Returns the mean difference to PHOTO in grey levels, as TensorFlow decodes it."""
    tf = pytest.importorskip("tensorflow")
    pixels = tf.io.decode_and_crop_jpeg(data, [0, 0, 64, 96], channels=3).numpy()
    return np.abs(pixels.astype(float) - np.asarray(PHOTO)).mean()


def test_cmyk_is_decoded_as_tensorflow_does():
    tf = pytest.importorskip("tensorflow")
    for data in (encoded(CMYK), without_adobe(encoded(CMYK)), encoded(INVERTED)):
        theirs = tf.io.decode_jpeg(data, channels=3).numpy().astype(float)
        ours = tf.io.decode_jpeg(images.normalise(data).data).numpy()
        assert np.abs(ours - theirs).mean() < 2


def test_sixteen_bits_and_transparency():
    grey = Image.open(io.BytesIO(images.normalise(encoded(GREY_16, "PNG")).data))
    assert np.abs(np.asarray(grey)[..., 0] - np.asarray(PHOTO.convert("L"), float)).mean() < 2
    clear = PHOTO.convert("RGBA")
    clear.putalpha(0)
    white = Image.open(io.BytesIO(images.normalise(encoded(clear, "PNG")).data))
    assert np.asarray(white).min() > 250


def test_a_progressive_jpeg_cut_between_scans_is_cut():
    """It decodes without an error, but blurred."""
    cuts = [m.start() for m in re.finditer(rb"\xff[\xc4\xda]", PROGRESSIVE)][4:]
    assert len(cuts) > 8
    for cut in cuts:
        with pytest.raises(images.ImageError, match="is cut short"):
            images.normalise(PROGRESSIVE[:cut])
    assert segments.whole(PROGRESSIVE) and segments.whole(JPEG)


def test_scans_are_counted_where_there_may_be_several():
    start = JPEG.rindex(b"\xff\xda") + 4
    single = JPEG[:start] + b"\x01" + JPEG[start + 1 :]  # its first scan holds one component
    assert segments.header(JPEG).one_scan
    assert not segments.header(single).one_scan and not segments.header(PROGRESSIVE).one_scan
    scan = JPEG[start - 4 : start + 20]
    with pytest.raises(images.ImageError, match="has over 100 scans"):
        images.normalise(single[:-2] + 100 * scan + JPEG[-2:])


def test_a_repaired_image_is_not_too_large_to_read(monkeypatch):
    monkeypatch.setattr(images.decoding, "MAX_BYTES", len(PROGRESSIVE) + 4096)
    assert images.normalise(PROGRESSIVE[:-2]).repair
    monkeypatch.setattr(images.decoding, "MAX_BYTES", len(PROGRESSIVE) + 4095)
    with pytest.raises(images.ImageError, match="is cut short, and too large for a repair"):
        images.normalise(PROGRESSIVE[:-2])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"a text\n" * 10, "is text"),
        (bytes(range(256)), "an unknown format"),
        (bytes(4) + b"ftypheic" + bytes(20), "holds no still picture"),
        (JPEG[: len(JPEG) // 2], "is cut short"),
        (JPEG[:-4], "is cut short"),
        (JPEG[: len(JPEG) // 2] + bytes(5000), "is cut short"),
        (PROGRESSIVE[: len(PROGRESSIVE) // 2], "is cut short"),
        (JPEG[:60], "in its header"),
        (b"\xff\xd8\xff\xd9", "in its header"),
        (sized(JPEG, 60_000, 60_000), "declares 60000 x 60000"),
        (sized(JPEG, 0, 96), "declares 96 x 0"),
        (encoded(PHOTO, "PNG")[:200], "cannot be decoded"),
        (encoded(Image.new("L", (13_000, 13_000)), "PNG"), "declares 13000 x 13000"),
        (b"GIF89a" + bytes(3), "is cut short or damaged in its header"),
        (b"\xff\xd8\xff" + b"\xe0\0\x02" + b"\xff\xda\0\x02", "no JPEG frame"),
    ],
)
def test_bad_images_are_refused(data, reason):
    with pytest.raises(images.ImageError, match=reason):
        images.normalise(data)


def test_verify_images_decodes(photos, tmp_path, monkeypatch):
    """A JPEG whose header and end are right but whose middle is not; only decoding finds it."""
    monkeypatch.setattr(command.shards, "mean_sample", lambda *_: 0)
    data = jpeg(3)
    scan = segments.header(data).scan
    (photos / "cat" / "0.jpg").write_bytes(data[: scan + 5] + b"\xff\xc4\0\3\0" + data[-2:])
    assert not convert(photos, tmp_path / "a", **FOLDER).raw["rejected"]
    rejected = convert(photos, tmp_path / "b", **FOLDER, verify_images=True).raw["rejected"]
    assert [row["file"] for row in rejected] == ["cat/0.jpg"]


def test_the_lists_of_the_predecessor(photos, tmp_path):
    """The mean colour against Pillow's own over every pixel; ids count from 0."""
    out = tmp_path / "out"
    manifest = convert(photos, out, **FOLDER)
    train = examples(manifest, "train")
    means = [
        np.asarray(Image.open(photos / name).convert("RGB")).mean((0, 1)) for name in sorted(train)
    ]
    assert manifest.rgb_mean == pytest.approx(np.mean(means, 0), abs=1)
    assert manifest.raw["rgb_mean_examples"] == len(train) == 24
    assert json.loads((out / "rgb_val.json").read_text()) == dict(
        zip("RGB", manifest.rgb_mean, strict=True)
    )
    assert (out / "categories.csv").read_text() == "id,label\n0,cat\n1,dog\n2,owl\n"
    for split, name in (("train", "train.csv"), ("validation", "val.csv")):
        rows = list(csv.reader((out / name).open()))
        labels = [row["image/class/label"][0] - 1 for row in examples(manifest, split).values()]
        assert rows[0] == ["image", "class"]
        assert [row[0] for row in rows[1:]] == list(examples(manifest, split))
        assert [int(row[1]) for row in rows[1:]] == labels


def test_lists_hold_names_as_they_are(tmp_path):
    """Programs read them, by these names: no quote stands before = or -."""
    for name in ("=1+1", "-dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(jpeg(number))
    convert(tmp_path / "photos", tmp_path / "out", **FOLDER)
    names = (tmp_path / "out" / "categories.csv").read_text()
    assert names == "id,label\n0,-dog\n1,=1+1\n"
    lists = [(tmp_path / "out" / f"{split}.csv").read_text() for split in ("train", "val")]
    rows = sorted(row for text in lists for row in text.splitlines()[1:])
    assert rows == [
        f"{name}/{n}.jpg,{k}" for k, name in enumerate(("-dog", "=1+1")) for n in range(3)
    ]


def test_a_large_set_has_a_sampled_mean(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(command.shards, "mean_sample", lambda examples, size: 7)
    for workers, shards in ((1, 3), (2, 3)):
        out = tmp_path / f"{workers}"
        manifest = convert(photos, out, **FOLDER | {"workers": workers}, train_shards=shards)
        assert manifest.raw["rgb_mean_examples"] == 7
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    assert command.shards.mean_sample is not None


def test_duplicates_across_splits_are_told(photos, tmp_path, capsys):
    for split in ("train", "validation", "test"):
        for n, name in enumerate(("cat", "dog")):
            folder = tmp_path / "split" / split / name
            folder.mkdir(parents=True)
            (folder / f"{split}.jpg").write_bytes(jpeg(n))
    (tmp_path / "split" / "test" / "dog" / "own.jpg").write_bytes(jpeg(77))
    manifest = convert(tmp_path / "split", tmp_path / "out", **FOLDER)
    rows = {row["file"]: row["same_as"] for row in manifest.raw["duplicates"]}
    assert rows["validation/cat/validation.jpg"] == "train/cat/train.jpg"
    assert rows["validation/dog/validation.jpg"] == "train/dog/train.jpg"
    assert set(rows) == {f"{s}/{n}/{s}.jpg" for s in ("validation", "test") for n in ("cat", "dog")}
    command.log_outcome(manifest)
    assert "4 images lie in two splits" in capsys.readouterr().err
    assert not convert(photos, tmp_path / "none", **FOLDER).raw["duplicates"]


def test_an_image_of_two_classes_is_told(photos, tmp_path, capsys):
    for name in ("ant", "bee"):
        for n in range(3):
            folder = tmp_path / "both" / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{n}.jpg").write_bytes(jpeg(n + 10 * (name == "bee" and n != 1)))
    manifest = convert(tmp_path / "both", tmp_path / "out", **FOLDER)
    command.log_outcome(manifest)
    told = capsys.readouterr().err
    assert "warning: 1 image lies in two classes, " in told
    assert "ant/1.jpg (ant)" in told and "bee/1.jpg (bee)" in told
    assert not convert(photos, tmp_path / "none", **FOLDER).raw["warnings"]


@pytest.mark.parametrize("names", [("cat", "dog"), ("cat", "Cat"), ("cat", "cat ")])
def test_classes_of_nearly_one_name_are_told(tmp_path, names):
    class_folders(tmp_path / "photos", 4, names)
    warnings = convert(tmp_path / "photos", tmp_path / "out", **FOLDER).raw["warnings"]
    one, other = sorted(names)
    alike = f"the classes {one!r} and {other!r} differ in case or spaces alone"
    assert any(alike in warning for warning in warnings) == (names[1] != "dog")


def test_equal_checksums_are_no_duplicates(tmp_path, monkeypatch):
    """Two images that agree in length and CRC are compared by their bytes."""
    monkeypatch.setattr(command.shards, "content_crc", lambda _: 7)
    for n, split in enumerate(("train", "validation")):
        for name in ("cat", "dog"):
            folder = tmp_path / "split" / split / name
            folder.mkdir(parents=True)
            data = jpeg(1)
            (folder / "1.jpg").write_bytes(data + bytes([n]))
    manifest = convert(tmp_path / "split", tmp_path / "out", **FOLDER)
    assert manifest.raw["duplicates"] == []


def test_a_finished_shard_that_was_damaged_is_written_again(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    convert(photos, tmp_path / "whole", **FOLDER, train_shards=3)
    monkeypatch.setattr(command.outputs, "finish", lambda *_: None)
    convert(photos, out, **FOLDER, train_shards=3)
    monkeypatch.undo()
    shard = out / "train-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    convert(photos, out, **FOLDER, train_shards=3)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_smaller_records(tmp_path):
    """Re-encoded to baseline 4:2:0 with the longer side at most --max_side."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n, size in enumerate(((400, 300), (300, 1200), (60, 40))):
            data = encoded(picture(n, *size), quality=95, progressive=True, subsampling=0)
            (tmp_path / "photos" / name / f"{n}.jpg").write_bytes(data)
    manifest = convert(tmp_path / "photos", tmp_path / "out", **FOLDER, max_side=100, quality=80)
    assert manifest.raw["arguments"]["max_side"] == 100
    rows = examples(manifest, "train") | examples(manifest, "validation")
    for name, size in (("0", (75, 100)), ("1", (100, 25)), ("2", (40, 60))):
        row = rows[f"cat/{name}.jpg"]
        image = Image.open(io.BytesIO(row["image/encoded"][0]))
        assert image.size[::-1] == size == (row["image/height"][0], row["image/width"][0])
        assert ("progressive" in image.info) == (name == "2")  # small enough: the very bytes
        wanted = picture(int(name), *image.size)
        assert np.abs(np.asarray(image, float) - np.asarray(wanted)).mean() < 6


@pytest.mark.parametrize("form", ["sequential", "standard input", "pipe"])
def test_one_sequential_pass_gives_the_same_bytes(source, tmp_path, form):
    """A pipe cannot seek; the last of its members must be read, too, or its writer fails."""
    options = IMAGENET | {"train_shards": 3, "checksum": True}
    convert(source, tmp_path / "whole", **options)
    out, tarball = tmp_path / "out", source / "ILSVRC2012_img_train.tar"
    if form == "sequential":
        convert(source, out, **options, sequential=True)
    else:
        moved = tarball.rename(tmp_path / "moved.tar")
        line = "--layout=imagenet --partial --train_shards=3 --checksum"
        line = [sys.executable, "-m", "datasets.convert", *line.split()]
        line += [f"--source={source}", f"--output={out}"]
        if form == "standard input":
            script = 'file=$1; shift; cat "$file" | "$@" --train_tar=-'
        else:
            os.mkfifo(tarball)
            script = f'(cat "$1" > {tarball}) & shift; "$@" && wait $!'
        shell = ["bash", "-o", "pipefail", "-c", script, "bash", str(moved), *line]
        done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert hashes(out) == hashes(tmp_path / "whole")
    assert not (out / ".convert.spool").exists()


def test_a_cut_pipe_names_the_member(source, tmp_path):
    tarball = source / "ILSVRC2012_img_train.tar"
    data = tarball.read_bytes()
    place = data.index(f"{GOLDFISH}_3.JPEG".encode()) + 700
    line = [sys.executable, "-m", "datasets.convert", "--layout=imagenet", "--partial"]
    line += [f"--source={source}", f"--output={tmp_path / 'out'}", "--train_tar=-"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, input=data[:place])
    assert done.returncode == 2
    assert f"{GOLDFISH}.tar is cut inside its member {GOLDFISH}_3.JPEG" in done.stderr.decode()
    assert not (tmp_path / "out" / ".convert.spool").exists()  # it may be 150 GB


def test_checksums(source, tmp_path, monkeypatch):
    manifest = convert(source, tmp_path / "out", **IMAGENET, checksum=True)
    for row in manifest.raw["source"]:
        digest = hashlib.sha256((source / row["file"]).read_bytes()).hexdigest()
        assert row["sha256"] == digest
    for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_bbox_train_v2.tar.gz"):
        files = {name: source / name}
        with command.Pool(1) as pool, pytest.raises(InputError, match=f"{name} has the (MD5|SHA)"):
            imagenet_archives.check_digests(files, True, pool, False)
        kind = (
            "md5"
            if "md5" in imagenet_archives.OFFICIAL_DIGESTS[name] and "bbox" in name
            else "sha256"
        )
        right = hashlib.new(kind, files[name].read_bytes()).hexdigest()
        monkeypatch.setitem(imagenet_archives.OFFICIAL_DIGESTS, name, {kind: right})
        with command.Pool(1) as pool:
            assert imagenet_archives.check_digests(files, True, pool, False)[0][kind] == right
    moved = (source / "ILSVRC2012_img_train.tar").rename(tmp_path / "other name.tar")
    again = convert(source, tmp_path / "out", **IMAGENET, checksum=True, train_tar=str(moved))
    assert again.raw == manifest.raw
    with pytest.raises(InputError, match="--checksum is for ImageNet's archives"):
        convert(source, tmp_path / "x", **FOLDER, checksum=True)


def test_the_official_archives_are_known_to_hold_repairs(photos, tmp_path):
    options = command.ConvertOptions("imagenet")
    faults = [listing.Fault(f"{n}", "CMYK converted to RGB") for n in range(22)]
    png = listing.Fault("x", "PNG encoded as JPEG")
    assert command.outputs._unexpected(options, [*faults, png]) == []
    assert "21 CMYK images and 1 PNG" in command.outputs._unexpected(options, [*faults[1:], png])[0]
    assert command.outputs._unexpected(command.ConvertOptions("folder"), faults) == []


def test_space_is_checked_before_any_work(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.commit, "free_bytes", lambda _: 1000)
    out = tmp_path / "out"
    with pytest.raises(RunAgain, match=r"needs \d+ kB, its disk has 1 kB free; free some space"):
        convert(photos, out, **FOLDER)
    assert not (out / ".convert").exists() and not list(out.glob("train*"))
    assert run("--layout=folder", "--source", photos, "--output", out) == 75


def test_a_sequential_pass_counts_what_it_lays_by_once(source, tmp_path, monkeypatch):
    """It asks for the room of both before the first; what is laid by is not asked for again."""
    size = (source / "ILSVRC2012_img_train.tar").stat().st_size
    estimate, asked = command.estimate, []
    monkeypatch.setattr(command.commit, "check_room", lambda folder, size: asked.append(size))
    convert(source, tmp_path / "out", **IMAGENET, sequential=True)
    convert(source, tmp_path / "plain", **IMAGENET)
    assert asked == [2 * size, asked[2], asked[2]]
    plans = [
        estimate.estimate_conversion(
            source, tmp_path / "new", command.ConvertOptions(**IMAGENET, sequential=sequential)
        )
        for sequential in (False, True)
    ]
    rows = examples(dataset.load_manifest(tmp_path / "out"), "train").values()
    laid_by = sum(len(row["image/encoded"][0]) for row in rows)
    assert plans[1].bytes - plans[0].bytes == laid_by


def test_a_sequential_pass_asks_for_what_is_still_to_come(source, tmp_path, monkeypatch):
    """Not for the shards of a killed run once more; with --max_side for smaller ones, too."""
    size = (source / "ILSVRC2012_img_train.tar").stat().st_size
    out, options = tmp_path / "out", IMAGENET | {"sequential": True, "train_shards": 3}
    put, asked = command.shards.publish, []

    def interrupted(folder, drafted):
        if list(folder.glob("*-of-*")):
            raise KeyboardInterrupt
        return put(folder, drafted)

    with monkeypatch.context() as patch:
        patch.setattr(command.shards, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(source, out, **options)
    done = sum(path.stat().st_size for path in out.glob("*-of-*"))
    monkeypatch.setattr(command.commit, "check_room", lambda folder, size: asked.append(size))
    convert(source, out, **options)
    assert 0 < done and asked[0] == 2 * size - done
    convert(source, tmp_path / "small", **options, max_side=16)
    assert size < asked[2] < 2 * size


def test_a_dry_run_writes_nothing(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "new" / "out"
    line = ("--layout=folder", "--source", photos, "--output", out, "--train_shards=4")
    tried, write = [], estimate.shards.write
    with monkeypatch.context() as patch:
        patch.setattr(estimate.shards, "write", lambda job: tried.append(job) or write(job))
        assert run(*line, "--dry_run") == 0
    assert tried[0].mean_of == len(tried[0].listing.names) == 6  # the mean's time is counted in
    said = capsys.readouterr().out
    assert "24 train images in 4 shards" in said and "kB to write" in said and " s with" in said
    assert os.listdir(tmp_path) == ["photos"]
    assert run(*line) == 0 and run(*line) == 0
    assert f"{out} was finished already; `python -m datasets.verify`" in capsys.readouterr().err
    assert run("--layout=folder", "--source", tmp_path, "--output", out, "--dry_run") == 2
    pipe = ("--layout=imagenet", "--train_tar=-", "--source", photos, "--output", out)
    assert run(*pipe, "--dry_run") == 2
    assert "cannot look into a pipe" in capsys.readouterr().err


def test_workers_import_no_tensorflow():
    code = "import sys, datasets.convert; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_worker_imports_neither_the_command_nor_rich():
    """Each worker process imports the module of its job when it starts."""
    code = "import sys, squeezenext.convert.shards;"
    code += "sys.exit(bool({'squeezenext.convert.command', 'rich'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.skipif(not archives.SHARED.is_dir(), reason="../shared is absent")
def test_real_images(tmp_path):
    source = archives.real_imagenet(tmp_path / "source")
    manifest = convert(source, tmp_path / "out", **IMAGENET | {"workers": 2})
    train = examples(manifest, "train")
    assert len(train) == manifest.splits["validation"].examples == 100
    assert manifest.raw["rejected"] == manifest.raw["repairs"] == []
    labels = {row["image/class/label"][0] for row in examples(manifest, "validation").values()}
    assert labels == set(range(1, 1001, 10))
    for name, row in train.items():
        assert row["image/class/synset"] == [name.split("_")[0].encode()]
        assert row["image/object/bbox/xmax"] == pytest.approx([0.9])


@pytest.mark.skipif(not archives.SHARED.is_dir(), reason="../shared is absent")
def test_real_photographs(tmp_path):
    wanted = ("train/hat/", "train/shoes/", "validation/shoes/", "test/hat/")
    with tarfile.open(archives.SHARED / "data" / "clothing.tar") as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(wanted):
                path = tmp_path / "photos" / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    manifest = convert(tmp_path / "photos", tmp_path / "out", **FOLDER)
    assert manifest.raw["rejected"] == manifest.raw["repairs"] == []
    assert set(manifest.splits) == {"train", "validation", "test"}
    for name, split in manifest.splits.items():
        files = [path for path in (tmp_path / "photos" / name).rglob("*") if path.is_file()]
        assert len(examples(manifest, name)) == split.examples == len(files)
