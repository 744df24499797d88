"""What lies in archives and folders: found in every official form, refused in every other."""

import gzip
import io
import os
import tarfile
import tracemalloc

import numpy as np
import pytest
from defusedxml import DefusedXmlException

from squeezenext.convert import (
    boxes,
    folder,
    imagenet,
    imagenet_archives,
    listing,
    review,
    sources,
    tar,
)
from squeezenext.convert.listing import random_order
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.convert.shards import even_runs
from squeezenext.errors import InputError
from squeezenext.labels import is_text
from tests import imagenet_archives as archives
from tests.imagenet_archives import box_xml, jpeg, tar_bytes, validation_name

TENCH, GOLDFISH = "n01440764", "n01443537"
TRAIN = {TENCH: {f"{TENCH}_1.JPEG": jpeg(1)}, GOLDFISH: {f"{GOLDFISH}_2.JPEG": jpeg(2)}}
VALIDATION = {validation_name(TENCH): jpeg(3)}


def collect(source, partial=True, workers=1):
    options = ConvertOptions("imagenet", partial=partial, show_progress=False)
    with Pool(workers) as pool:
        return imagenet.collect(source, options, pool, source / "spool")


def refused(collection):
    return {fault.file: fault.reason for fault in collection.rejected}


def test_imagenet_listing(tmp_path):
    validation = {validation_name(GOLDFISH, n): jpeg(n) for n in (4, 1, 3)}
    collection = collect(archives.write_imagenet(tmp_path, TRAIN, validation))
    train = collection.splits["train"]
    assert train.names == [f"{TENCH}_1.JPEG", f"{GOLDFISH}_2.JPEG"]
    assert train.table["label"].tolist() == [1, 2]
    data = train.files[0].read_bytes()
    for row, image in zip(train.table, (jpeg(1), jpeg(2)), strict=True):
        assert data[row["offset"] : row["offset"] + row["size"]] == image
    assert collection.splits["validation"].table["label"].tolist() == [2, 2, 2]
    assert collection.rejected == () and len(collection.classes) == 1000


def test_workers_list_the_same(tmp_path):
    source = archives.write_imagenet(tmp_path, TRAIN, VALIDATION, {"a/n01440764_1.xml": b"<"})
    two = collect(source, workers=2)
    assert two.splits["train"].names == collect(source).splits["train"].names


def test_validation_labels_are_the_official_ones():
    """The first three in the order of names: tensorflow-datasets' validation_labels.txt."""
    truth = imagenet_archives.validation_labels()
    synsets = [collection_class(label) for label in truth[:3]]
    assert synsets == ["n01751748", "n09193705", "n02105855"]
    assert len(truth) == 50_000 and set(np.bincount(truth)[1:]) == {50}


def collection_class(label):
    return imagenet.labels.imagenet()[label - 1].synset


def test_missing_archives(tmp_path):
    (tmp_path / TENCH).mkdir()  # extracted, but not into train/
    with pytest.raises(InputError, match="img_train.tar is missing.* give the folder of extracted"):
        collect(tmp_path)
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    (tmp_path / imagenet.VALIDATION).unlink()
    with pytest.raises(InputError, match="img_val.tar is missing"):
        collect(tmp_path)


def test_a_part_is_accepted_on_purpose_only(tmp_path):
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    with pytest.raises(InputError, match="147897477120.*--partial"):
        collect(tmp_path, partial=False)


def test_the_counts_are_checked_too(tmp_path, monkeypatch):
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    sizes = {name: (tmp_path / name).stat().st_size for name in imagenet_archives.OFFICIAL_BYTES}
    monkeypatch.setattr(imagenet_archives, "OFFICIAL_BYTES", sizes)
    with pytest.raises(InputError, match="holds 2 images of 2 classes.*1281167 of 1000"):
        collect(tmp_path, partial=False)


def test_a_class_may_not_be_too_small(tmp_path, monkeypatch):
    """Right in all, wrong in one class: an archive mended with another's images."""
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    labels = np.repeat(np.arange(1, 1001), 1281)
    labels = np.append(labels, np.arange(1, 168))
    labels[:700] = 2  # leaves 582 of class 1
    rows = [(0, 0, 1, label) for label in labels.tolist()]
    full = listing.Listing.of_rows([tmp_path], rows, ["x"] * len(rows))
    with pytest.raises(InputError, match="holds 582 images of n01440764, the official archive 732"):
        imagenet_archives.check_counts({"train": full}, {"train": tmp_path})


def test_wrong_archives(tmp_path):
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    train, validation = tmp_path / imagenet.TRAIN, tmp_path / imagenet.VALIDATION
    right, right_too = train.read_bytes(), validation.read_bytes()
    train.write_bytes(right_too)
    with pytest.raises(InputError, match="img_train.tar is the wrong.*img_val.tar; rename"):
        collect(tmp_path)
    train.write_bytes(right)
    validation.write_bytes(right)
    with pytest.raises(InputError, match="img_val.tar is the wrong.*img_train.tar; rename"):
        collect(tmp_path)
    validation.write_bytes(right_too)
    train.write_bytes(tar_bytes({"photos/a.txt": b"x"}))
    with pytest.raises(InputError, match="first member is photos/a.txt, not one like"):
        collect(tmp_path)
    train.write_bytes(gzip.compress(right))
    with pytest.raises(InputError, match="is compressed"):
        collect(tmp_path)
    train.write_bytes(b"no tar" * 1000)
    with pytest.raises(InputError, match="is no tar archive"):
        collect(tmp_path)
    train.write_bytes(b"")
    with pytest.raises(InputError, match="is cut after its start"):
        collect(tmp_path)


def cut_at(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_cut_archives_name_the_member(tmp_path):
    """At every block: inside a member, and between two, where other readers see a clean end."""
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    train = tmp_path / imagenet.TRAIN
    data = train.read_bytes()
    inner = len(tar_bytes(TRAIN[TENCH]))
    end = 2 * (512 + inner)
    for size in range(0, end + 1, 512):
        train.write_bytes(data[:size])
        with pytest.raises(InputError, match="is cut") as caught:
            collect(tmp_path)
        last = ("its start", f"{TENCH}.tar", f"{TENCH}.tar", f"{GOLDFISH}.tar", f"{GOLDFISH}.tar")
        assert last[(size > 0) + (size >= 512 + inner) + (size > 512 + inner) + (size >= end)] in (
            str(caught.value)
        )
    train.write_bytes(data[: end + 512])
    assert len(collect(tmp_path).splits["train"].names) == 2


def test_a_cut_inner_archive_names_the_image(tmp_path):
    inner = tar_bytes(TRAIN[TENCH])
    whole = {f"{GOLDFISH}.tar": tar_bytes(TRAIN[GOLDFISH]), f"{TENCH}.tar": inner[:600]}
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    (tmp_path / imagenet.TRAIN).write_bytes(tar_bytes(whole))
    with pytest.raises(InputError, match=f"{TENCH}.tar is cut inside its member {TENCH}_1.JPEG"):
        collect(tmp_path)


def test_a_flipped_byte_in_a_header_is_found(tmp_path):
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    path = tmp_path / imagenet.TRAIN
    data = bytearray(path.read_bytes())
    second = data.index(f"{GOLDFISH}.tar".encode())
    data[second + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"is damaged after {TENCH}.tar"):
        collect(tmp_path)


def test_strangers_are_refused_by_name(tmp_path):
    train = {
        TENCH: {
            f"{TENCH}_1.JPEG": jpeg(1),
            "../../etc/passwd": b"x",
            "/etc/n01440764_9.JPEG": b"x",
            "nested.tar": tar_bytes({"n01440764_3.JPEG": jpeg(1)}),
        },
        "n99999999": {"n99999999_1.JPEG": jpeg(1)},
    }
    validation = VALIDATION | {"ILSVRC2012_val_00050001.JPEG": jpeg(1), "README": b"x"}
    faults = refused(collect(archives.write_imagenet(tmp_path, train, validation)))
    assert faults == {
        f"{TENCH}.tar: ../../etc/passwd": "is no image of the data set",
        f"{TENCH}.tar: /etc/n01440764_9.JPEG": "is no image of the data set",
        f"{TENCH}.tar: nested.tar": "is no image of the data set",
        f"{imagenet.TRAIN}: n99999999.tar": "is none of the 1000 classes",
        f"{imagenet.VALIDATION}: ILSVRC2012_val_00050001.JPEG": "has a number outside 1..50000",
        f"{imagenet.VALIDATION}: README": "is no image of the data set",
    }


def test_a_name_that_appears_twice_counts_once(tmp_path):
    train = {TENCH: TRAIN[TENCH], GOLDFISH: TRAIN[GOLDFISH] | {f"{TENCH}_1.JPEG": jpeg(9)}}
    collection = collect(archives.write_imagenet(tmp_path, train, VALIDATION))
    assert collection.splits["train"].names == [f"{TENCH}_1.JPEG", f"{GOLDFISH}_2.JPEG"]
    assert collection.splits["train"].table["label"].tolist() == [1, 2]
    assert refused(collection) == {f"{TENCH}_1.JPEG": "appears twice"}


def test_what_macos_adds_is_no_fault(tmp_path):
    """An archive packed again there has PAX headers, ._ files and folders' notes."""
    archives.write_imagenet(tmp_path, TRAIN, VALIDATION)
    plain = collect(tmp_path)
    for name, example in ((imagenet.TRAIN, "./._n01440764.tar"), (imagenet.VALIDATION, "._a")):
        with tarfile.open(tmp_path / name) as archive:
            inside = {m.name: archive.extractfile(m).read() for m in archive}
        if name == imagenet.TRAIN:
            inside[f"{TENCH}.tar"] = packed({"._n01440764_1.JPEG": b"x"} | TRAIN[TENCH])
        junk = {example: b"\0\5\x16\7", ".DS_Store": b"x", "__MACOSX/a": b"x"}
        (tmp_path / name).write_bytes(packed(junk | {f"./{n}": d for n, d in inside.items()}))
    repacked = collect(tmp_path)
    assert repacked.rejected == ()
    for split in ("train", "validation"):
        assert repacked.splits[split].names == plain.splits[split].names


def packed(members):
    """Returns a PAX archive with what bsdtar writes into its headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = {
                "LIBARCHIVE.creationtime": "1",
                "SCHILY.fflags": "x",
                "mtime": "1.5",
            }
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_too_many_strangers(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_MAX_FAULTS", 50)
    train = {TENCH: TRAIN[TENCH] | {f"{n}.txt": b"" for n in range(60)}}
    with pytest.raises(InputError, match="50.txt is no image of the data set, like 50 files befo"):
        collect(archives.write_imagenet(tmp_path, train, VALIDATION))


def special(name, kind, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "is a symbolic link"),
        (tarfile.LNKTYPE, "is a hard link"),
        (tarfile.CHRTYPE, "is a device or another special entry"),
        (tarfile.FIFOTYPE, "is a device or another special entry"),
        (tarfile.GNUTYPE_SPARSE, "is a device or another special entry"),
    ],
)
def test_links_and_devices(tmp_path, kind, reason):
    data = special("n01440764_1.JPEG", kind, linkname="/etc/passwd") + tar_bytes({"b": b"x"})
    found = members(data)
    assert [(member.name, member.fault) for member in found] == [
        ("n01440764_1.JPEG", reason),
        ("b", ""),
    ]


def members(data):
    def read_at(position, size):
        return data[position : position + size]

    return list(tar.members(read_at, "archive", 0, len(data)))


def test_every_way_to_write_a_tar_is_read():
    names = ["n01440764.tar", "a" * 90 + "/" + "b" * 90, "folder/é.JPEG"]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            archive.addfile(special_info("folder", tarfile.DIRTYPE))
            for name in names:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = 600, 1.5  # a fraction: PAX states it in a header
                archive.addfile(info, io.BytesIO(name.encode()[:9] + bytes(591)))
        found = members(out.getvalue())
        assert [member.name for member in found] == names
        for member in found:
            start = out.getvalue()[member.offset : member.offset + 9]
            assert start == member.name.encode()[:9] and member.size == 600


def special_info(name, kind):
    info = tarfile.TarInfo(name)
    info.type = kind
    return info


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (b"20 size=99999999999\n", "sets 'size'"),
        (b"22 GNU.sparse.major=1\n", "sets 'GNU.sparse.major'"),
        (b"99999 path=a\n", "damaged PAX"),
        (b"0 path=a\n", "damaged PAX"),
        (b"no record", "damaged PAX"),
    ],
)
def test_misleading_pax_headers(records, reason):
    header = special("pax", tarfile.XHDTYPE, size=len(records))
    data = header + records.ljust(512, b"\0") + tar_bytes({"a": b"x"})
    with pytest.raises(InputError, match=reason):
        members(data)


def test_huge_declarations_cost_no_memory():
    tracemalloc.start()
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        for size in (1 << 32, 1 << 62):
            with pytest.raises(InputError):
                members(special("a", kind, size=size) + tar_bytes({"b": b"x"}))
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("digits", [b"-0000000001\0", b"-0000000512\0", b"+0000000512\0", b"1_0\0"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_size_is_digits_alone(digits, kind):
    """A stream that is asked for -1 bytes would give all that it has."""
    header = bytearray(special("a", kind))
    header[124 : 124 + len(digits)] = digits
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    with pytest.raises(InputError, match="declares no proper size for a"):
        members(bytes(header) + tar_bytes({"b": b"x"}))


def test_ten_thousand_empty_members():
    many = {f"n01440764_{number}.JPEG": b"" for number in range(10_000)}
    assert len(members(tar_bytes(many))) == 10_000


def test_damaged_bytes_never_crash_the_walk():
    data = bytearray(tar_bytes({"a": b"x" * 600, "b": b"y"}))
    random = np.random.default_rng(0)
    for _ in range(500):
        spoilt = bytearray(data)
        for place in random.integers(0, 3000, 3):
            spoilt[place] = random.integers(256)
        try:
            members(bytes(spoilt))
        except InputError:
            pass


def test_boxes_are_cleaned():
    """The notes' faults: outside, swapped, empty, decimals, another synset, a dog's name."""
    assert boxes.parse_boxes(box_xml(TENCH, (10, 5, 90, 45)), TENCH) == pytest.approx(
        np.array([[0.1, 0.1, 0.9, 0.9]])
    )
    swapped = boxes.parse_boxes(box_xml(TENCH, (90.5, -3, 10, 60)), TENCH)
    assert swapped == pytest.approx(np.array([[0.1, 0, 0.905, 1]]))
    for empty in ((10, 5, 10, 45), (110, 5, 190, 45), (-20, 5, -1, 45)):
        assert boxes.parse_boxes(box_xml(TENCH, empty, (0, 0, 50, 25)), TENCH).shape == (1, 4)
    assert len(boxes.parse_boxes(box_xml(GOLDFISH, (10, 5, 90, 45)), TENCH)) == 0
    assert len(boxes.parse_boxes(box_xml("Scottish_deerhound", (10, 5, 90, 45)), "n02092002")) == 1
    assert len(boxes.parse_boxes(box_xml(TENCH), TENCH)) == 0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<annotation>",
        box_xml(TENCH, (1, 2, 3, 4), size=(0, 0)),
        box_xml(TENCH, ("x", 2, 3, 4)),
        box_xml(TENCH, ("inf", 2, 3, 4)),
        b"<annotation/>",
    ],
)
def test_damaged_boxes(text):
    with pytest.raises((ValueError, SyntaxError)):
        boxes.parse_boxes(text, TENCH)


def test_an_xml_bomb_is_not_expanded():
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE b [<!ENTITY a0 "x">{entities}]><annotation>&a9;</annotation>'
    with pytest.raises(DefusedXmlException):
        boxes.parse_boxes(bomb.encode(), TENCH)


def read_boxes(directory, archive, wanted=(f"{TENCH}_1", f"{TENCH}_2")):
    path = directory / "boxes.tar.gz"
    path.write_bytes(archive)
    with Pool(1) as pool:
        return boxes.read(path, set(wanted), pool)


def test_the_archive_of_boxes(tmp_path):
    good = box_xml(TENCH, (10, 5, 90, 45))
    found, faults = read_boxes(
        tmp_path,
        tar_bytes(
            {
                f"{TENCH}/{TENCH}_1.xml": good,
                f"Annotation/{TENCH}/{TENCH}_2.xml": b"<broken",
                f"{TENCH}/{TENCH}_3.xml": good,
                f"again/{TENCH}_1.xml": good,
                "../evil.xml": good,
                "large/n01440764_4.xml": b" " * ((1 << 20) + 1),
            },
            "w:gz",
        ),
    )
    assert list(found) == [f"{TENCH}_1"]
    assert np.frombuffer(found[f"{TENCH}_1"], np.float32) == pytest.approx([0.1, 0.1, 0.9, 0.9])
    reasons = {fault.file.split("/")[-1]: fault.reason for fault in faults}
    assert "cannot be read" in reasons.pop(f"{TENCH}_2.xml")
    assert reasons == {
        f"{TENCH}_1.xml": "appears twice",
        "evil.xml": "is no box file",
        "n01440764_4.xml": "is larger than 1 MB",
    }


def test_boxes_and_their_faults_are_bounded(tmp_path, monkeypatch):
    """Large files go to a worker in small batches; an archive of nothing but faults is refused."""
    large = {f"{TENCH}_{n}.xml": b"<a>" + b" " * 900_000 + b"</a>" for n in range(40)}
    path = tmp_path / "boxes.tar.gz"
    path.write_bytes(tar_bytes(large, "w:gz"))
    batches = list(boxes._batches(path, {name.removesuffix(".xml") for name in large}, []))
    assert max(sum(len(text) for _, text in batch) for batch in batches) < 10 << 20
    assert sum(len(batch) for batch in batches) == 40
    monkeypatch.setattr(listing, "_MAX_FAULTS", 50)
    with pytest.raises(InputError, match="is no box file, like 50 files before it"):
        read_boxes(tmp_path, tar_bytes({f"{n}.txt": b"" for n in range(60)}, "w:gz"))


def test_a_damaged_archive_of_boxes(tmp_path):
    whole = tar_bytes({f"{TENCH}/{TENCH}_{n}.xml": os.urandom(3000) for n in range(9)}, "w:gz")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for data in (b"", b"no gzip", whole[: len(whole) // 2], whole[:-4], bytes(flipped)):
        with pytest.raises(InputError, match="boxes.tar.gz"):
            read_boxes(tmp_path, data)


def tree(root, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(number))
    return root


def listed(source, follow_links=False, fraction=0.5):
    options = ConvertOptions("folder", validation_fraction=fraction, follow_links=follow_links)
    return review.split(folder.collect(source, options, folder.ClassNames()), options)


def test_one_level(tmp_path):
    tree(tmp_path, "cat/1.JPG", "cat/2.jpeg", "dog/1.PNG", "dog/2.WebP", "dog/notes.txt")
    tree(tmp_path, ".git/x.jpg", "cat/.hidden.jpg", "README.md")
    collection = listed(tmp_path)
    assert [label.synset for label in collection.classes] == ["cat", "dog"]
    names = [name for split in collection.splits.values() for name in split.names]
    assert sorted(names) == ["cat/1.JPG", "cat/2.jpeg", "dog/1.PNG", "dog/2.WebP"]
    assert collection.rejected == ()
    (warning,) = collection.warnings
    assert warning.startswith("1 file in class folders skipped by ending (1 .txt); ")


def test_a_class_may_bear_a_split_s_name(tmp_path):
    """Buses, planes and trains: what holds images itself is a class."""
    tree(tmp_path, *(f"{name}/{n}.jpg" for name in ("bus", "plane", "train") for n in (1, 2)))
    assert [label.synset for label in listed(tmp_path).classes] == ["bus", "plane", "train"]


def test_a_validation_split_without_classes_is_refused(tmp_path):
    tree(tmp_path, *(f"train/{name}/{n}.jpg" for name in "ab" for n in (1, 2)))
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="val has no image in a class folder"):
        listed(tmp_path)
    tree(tmp_path, "val/1.jpg")
    with pytest.raises(InputError, match="val has images only outside class folders"):
        listed(tmp_path)


def test_a_test_split_without_classes_is_skipped_and_counted(tmp_path):
    """As Kaggle's competitions have it."""
    tree(tmp_path, *(f"train/{name}/{n}.jpg" for name in "ab" for n in (1, 2)))
    tree(tmp_path, "test/1.jpg", "test/2.jpg")
    collection = listed(tmp_path)
    assert set(collection.splits) == {"train", "validation"}
    assert collection.warnings == (
        f"{tmp_path / 'test'} has no class folders: its 2 images are skipped.",
    )


def test_what_lies_beside_the_splits_is_counted(tmp_path):
    tree(tmp_path, *(f"Training/{name}/{n}.jpg" for name in "ab" for n in (1, 2)))
    tree(tmp_path, "Testing/a/3.jpg", "extra/a/4.jpg", "extra/b/c/5.heic", "__MACOSX/a/6.jpg")
    tree(tmp_path, "7.jpg", "8.DNG", "labels.csv", "Training/9.nef", "Training/a/old/10.dng")
    collection = listed(tmp_path)
    assert collection.splits["test"].names == ["a/3.jpg"]
    made = "photographs among them must be made JPEG first."
    assert collection.warnings == (
        "2 images beside Testing, Training skipped.",
        f"{tmp_path / 'extra'} lies beside Testing, Training: its 2 images are skipped.",
        f"1 file beside class folders skipped by ending (1 .nef); {made}",
        f"1 file in class folders skipped by ending (1 .dng); {made}",
    )


def test_what_systems_leave_stops_nothing(tmp_path):
    tree(tmp_path, *(f"{name}/{n}.jpg" for name in "ab" for n in (1, 2)))
    tree(
        tmp_path, "__MACOSX/a/._1.jpg", "a/._1.jpg", "a/.DS_Store", "b/Thumbs.db", "b/@eaDir/1.jpg"
    )
    for name in ("lost+found", "c"):
        (tmp_path / name).mkdir()
    collection = listed(tmp_path)
    names = [name for split in collection.splits.values() for name in split.names]
    assert sorted(names) == ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]
    assert collection.warnings == ("c is an empty folder: skipped.",) and not collection.rejected


@pytest.mark.parametrize("validation", ["validation", "val", "Valid"])
def test_split_folders(tmp_path, validation):
    tree(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", f"{validation}/dog/2.jpg")
    collection = listed(tree(tmp_path, "test/cat/3.jpg"))
    assert {name: split.names for name, split in collection.splits.items()} == {
        "train": ["cat/1.jpg", "dog/1.jpg"],
        "validation": ["dog/2.jpg"],
        "test": ["cat/3.jpg"],
    }
    assert collection.splits["validation"].table["label"].tolist() == [2]


def test_a_train_folder_alone_is_split(tmp_path):
    tree(tmp_path, "train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "test/dog/1.jpg")
    collection = listed(tmp_path)
    assert list(collection.splits) == ["train", "validation", "test"]
    assert collection.splits["validation"].names[0].startswith("cat/")
    assert "dog/1.jpg" in collection.splits["train"].names


def test_imagenet_folders_get_their_words(tmp_path):
    collection = listed(tree(tmp_path, f"{TENCH}/1.jpg", f"{TENCH}/2.jpg", "mine/1.jpg"))
    assert [label.text for label in collection.classes] == ["mine", "tench, Tinca tinca"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "has no image in a class folder; make one folder"),
        (["a.jpg", "b.jpg"], "only outside class folders; make one folder per class"),
        (["cat/notes.txt"], "no image in its class folders but 1 .txt; photographs"),
        (["a.tar", "b.tar", "c"], "has no class folder but 2 .tar, 1 no ending; make one"),
        (
            ["manifest.json", "train-0-of-1"],
            "holds records, .*; give the folder of the photographs",
        ),
        (["cat/1.jpg"], "has 1 class folder with images, cat, but a classifier needs two at least"),
        (["cat/1.jpg", "dog/notes.txt"], "dog has no image"),
        (["a/1.jpg", "pets/cat/1.jpg", "pets/dog/1.jpg"], "pets/cat holds 1 image one folder too"),
        (["a/1.jpg", "b/2021/jan/1.jpg", "b/2021/2.jpg"], "b/2021 holds 2 images one folder too"),
        (["a/1.dng", "b/2.dng"], "no image in its class folders but 2 .dng; photographs"),
        (["a/1.jpg", "b/1.dng", "b/2"], "b has no image but 1 .dng, 1 no ending; photographs"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "val/cow/1.jpg"], "val/cow is a class that"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], "both are the val"),
        (["cat/1.jpg", "dog/1.jpg"], "single image"),
    ],
)
def test_folders_that_are_none_of_a_data_set(tmp_path, paths, message):
    with pytest.raises(InputError, match=message) as caught:
        listed(tree(tmp_path, *paths))
    assert "\n" not in str(caught.value)


def test_one_file_that_may_not_be_read_stops_nothing(tmp_path, monkeypatch):
    tree(tmp_path, *(f"{name}/{n}.jpg" for name in "ab" for n in (1, 2, 3)))
    access = os.access
    forbidden = lambda path, mode: path != tmp_path / "a/2.jpg" and access(path, mode)  # noqa: E731
    monkeypatch.setattr(os, "access", forbidden)
    (fault,) = listed(tmp_path).rejected
    assert (fault.file, fault.reason) == ("a/2.jpg", "cannot be read: permission denied")


def test_links_are_taken_on_request(tmp_path):
    source = tree(tmp_path / "photos", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    tree(tmp_path, "away/1.jpg")
    (source / "cat" / "linked.jpg").symlink_to(tmp_path / "away" / "1.jpg")
    (source / "cat" / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (source / "owl").symlink_to(tmp_path / "away")
    without = listed(source)
    assert len(without.classes) == 2
    assert {file for file in refused(without)} == {"cat/linked.jpg", "cat/dangling.jpg", "owl"}
    with_links = listed(source, follow_links=True)
    assert [label.synset for label in with_links.classes] == ["cat", "dog", "owl"]
    assert refused(with_links) == {"cat/dangling.jpg": "is no file, or a link to nothing"}


def test_photographs_whose_names_are_no_text_are_rejected(tmp_path):
    source = tree(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "dog/\x1b[31m.jpg")
    for name in (b"/\xff.jpg", b"/a\nb.jpg", b"/\xe2\x80\xa8.jpg"):
        with open(os.fsencode(source / "cat") + name, "wb") as file:
            file.write(jpeg(1))
    assert {fault.file: fault.reason for fault in listed(source).rejected} == {
        "cat/\\udcff.jpg": "has a name that is not UTF-8 (the byte \\xff); rename it",
        "cat/a\\nb.jpg": "has the control character \\n in its name; rename it",
        "cat/\\u2028.jpg": "has the control character \\u2028 in its name; rename it",
        "dog/\\x1b[31m.jpg": "has the control character \\x1b in its name; rename it",
    }
    (source / "bird").mkdir()
    (source / "bird" / "\t.jpg").write_bytes(jpeg(1))
    with pytest.raises(
        InputError, match=r"bird can be used: bird/\\t.jpg has the control character"
    ):
        listed(source)


@pytest.mark.parametrize(("name", "what"), [(b"a\nb", r"character \\n"), (b"\xe9", r"byte \\xe9")])
def test_a_class_folder_whose_name_is_no_text_is_named(tmp_path, name, what):
    source = tree(tmp_path, "cat/1.jpg", "dog/1.jpg")
    os.rename(source / "cat", os.fsencode(source) + b"/" + name)
    with pytest.raises(InputError, match=f"^The class folder .*{what}.*; rename it"):
        listed(source)


def test_names_as_macos_gives_them(tmp_path):
    """A screenshot's has a narrow space before PM; others have accents in two parts."""
    names = ["cat/Screenshot 2024-05-01 at 1.00.00\u202fPM.png", "cat/Cafe\u0301\u00a01.jpg"]
    source = tree(tmp_path, *names, "dog/1.jpg", "dog/2.jpg")
    found = listed(source)
    assert {name for split in found.splits.values() for name in split.names} >= set(names)
    for bad in ("\n", "\x1b", "\x7f", "\x85", "\u2028", "\ud800"):
        assert not is_text(f"a{bad}b")


def test_a_file_that_vanishes_is_named(tmp_path, monkeypatch):
    """Between the look at its folder and the look at itself."""
    source = tree(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")

    monkeypatch.setattr(folder.os, "access", lambda path, _: path.unlink() or True)
    with Pool(1) as pool:
        with pytest.raises(InputError, match="1.jpg cannot be read .No such file or directory"):
            sources.collect(source, ConvertOptions("folder"), pool, tmp_path / "spool")


def test_the_order_is_a_function_of_names_and_seed():
    names = [f"{number}.jpg" for number in range(1000)]
    order = random_order(names, 7)
    assert sorted(order) == list(range(1000)) and list(order[:5]) != list(range(5))
    back = random_order(names[::-1], 7)
    assert [names[place] for place in order] == [names[::-1][place] for place in back]
    assert list(order) != list(random_order(names, 8))


def test_parts():
    assert [part.stop - part.start for part in even_runs(10, 4)] == [2, 3, 2, 3]
    assert even_runs(1_281_167, 1024)[-1].stop == 1_281_167
